//! What comes in: whose it is, and where it goes.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use halloo_wire::ChannelId;
use halloo_wire::datagram::{Class, RELAY_HEADER, classify};
use halloo_wire::limits::{MAX_PARKED, MAX_PROBE};
use halloo_wire::path::{DirectPath, SocketId};
use halloo_wire::peer_datagram::PeerDatagram;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};

use crate::demux::{Arrived, Batch, channel_of, connection_id, fits, is_initial};
use crate::forward::{Forward, Reply};
use crate::route_state::RouteState;
use crate::routes::Sender;
use crate::socket::PathSocket;
use crate::udp::{canonical, mapped};
use crate::virtual_addr::Place;

/// Most bytes in one batch that is sent on: what UDP can carry at once, with a margin.
const MAX_BATCH: usize = 65_000;

/// Whose QUIC a buffer holds.
enum Whose {
    Route(Arc<RouteState>),
    /// Datagrams of several routes, to be looked at one by one.
    Each,
    /// Somebody's whom QUIC knows by a real address.
    Real,
    Refused,
}

impl PathSocket {
    /// Sorts a buffer that came from `socket`. Afterwards it holds what is for QUIC, from whom QUIC
    /// knows, or nothing.
    ///
    /// What is for others is copied out of a buffer that holds QUIC too, and left where it is:
    /// QUIC drops it unanswered, as its fixed bit is not set.
    pub(crate) fn sort(&self, socket: SocketId, buffer: &mut [u8], meta: &mut RecvMeta) {
        let source = DirectPath { socket, remote: canonical(meta.addr) };
        let len = meta.len.min(buffer.len());
        // QUIC cuts the buffer by the stride: zero would never end.
        meta.stride = if meta.stride == 0 { len.max(1) } else { meta.stride };
        meta.addr = mapped(source.remote);
        self.note_own_addr(source.remote, meta);
        let stride = meta.stride;
        let is_quic = match Batch::of(&buffer[..len], stride) {
            _ if !self.net.is_real(source.remote) => {
                // Nobody in the network has such an address.
                self.demux.unknown.add(1);
                false
            }
            Batch::Quic(n) => {
                self.demux.quic.add(n as u64);
                self.take_quic(source, &buffer[..len], 0, meta)
            }
            Batch::Relay(channel, n) => {
                self.demux.relay.add(n as u64);
                match self.forward.get() {
                    Some(forward) => {
                        let batch = &buffer[..len];
                        self.forward(&**forward, source.remote, channel, batch, stride, meta.ecn);
                        false
                    }
                    None => self.unwrap_in_place(source.remote, channel, buffer, meta),
                }
            }
            Batch::Mixed => self.sort_each(source, &buffer[..len], meta),
        };
        if !is_quic {
            meta.len = 0;
        }
    }

    /// Sorts a buffer of several kinds. Says whether QUIC gets it.
    fn sort_each(&self, source: DirectPath, buffer: &[u8], meta: &mut RecvMeta) -> bool {
        let mut quic = 0;
        let mut first_quic = 0;
        if buffer.is_empty() {
            self.demux.unknown.add(1);
        }
        for (i, datagram) in buffer.chunks(meta.stride).enumerate() {
            if classify(datagram) == Class::Quic {
                if quic == 0 {
                    first_quic = i * meta.stride;
                }
                quic += 1;
            } else {
                self.take_other(source, datagram, meta.ecn);
            }
        }
        self.demux.quic.add(quic);
        quic > 0 && self.take_quic(source, buffer, first_quic, meta)
    }

    /// Takes one datagram that is not bare QUIC, from a socket or, with a virtual address, from a
    /// tunnel.
    fn take_other(&self, source: DirectPath, datagram: &[u8], ecn: Option<EcnCodepoint>) {
        let arrived = || Arrived {
            socket: source.socket,
            source: source.remote,
            datagram: Bytes::copy_from_slice(datagram),
        };
        let tunnelled = !self.net.is_real(source.remote);
        match classify(datagram) {
            // Probes make paths of UDP.
            Class::Probe if fits(datagram, MAX_PROBE) && !tunnelled => {
                self.demux.probes.hand_on(arrived);
            }
            Class::Peer if fits(datagram, PeerDatagram::MAX) => match self.forward.get() {
                Some(forward) => self.answer(&**forward, source.remote, false, datagram),
                None => self.demux.peers.hand_on(arrived),
            },
            Class::Parked if fits(datagram, MAX_PARKED) && !tunnelled => match self.forward.get() {
                Some(forward) => {
                    self.demux.parked.seen.add(1);
                    for reply in forward.peer_datagram(source.remote, false, datagram) {
                        self.reply(&reply);
                    }
                }
                None => self.demux.parked.hand_on(arrived),
            },
            Class::Relay => match (channel_of(datagram), self.forward.get()) {
                (Some(channel), Some(forward)) => {
                    self.demux.relay.add(1);
                    let stride = datagram.len();
                    self.forward(&**forward, source.remote, channel, datagram, stride, ecn);
                }
                (Some(channel), None) => {
                    self.demux.relay.add(1);
                    let inner = &datagram[RELAY_HEADER..];
                    match self.relayed_to(channel, source.remote, inner) {
                        Some(route) => {
                            route.times.heard_relayed(inner.len());
                            self.deliver(&route, ecn, Bytes::copy_from_slice(inner));
                        }
                        None => self.demux.relay_dropped.add(1),
                    }
                }
                (None, _) => self.demux.unknown.add(1),
            },
            _ => self.demux.unknown.add(1),
        }
    }

    /// Finds out whose QUIC a buffer holds, by its source or by the datagram at `first`. Says
    /// whether QUIC gets it as it is.
    fn take_quic(
        &self,
        source: DirectPath,
        buffer: &[u8],
        first: usize,
        meta: &mut RecvMeta,
    ) -> bool {
        let datagram = buffer.get(first..).unwrap_or_default();
        match self.whose(source, &datagram[..datagram.len().min(meta.stride)]) {
            Whose::Route(route) => {
                route.times.heard_direct(buffer.len());
                meta.addr = route.addr;
                // Or QUIC would send from an interface that the path has left long ago.
                meta.dst_ip = None;
                true
            }
            Whose::Each => {
                for datagram in buffer.chunks(meta.stride) {
                    if classify(datagram) == Class::Quic {
                        self.take_shared(source, datagram, meta.ecn);
                    }
                }
                false
            }
            Whose::Real => true,
            Whose::Refused => {
                self.demux.refused.add(buffer.len().div_ceil(meta.stride) as u64);
                false
            }
        }
    }

    /// Takes a datagram from where several routes are: that of one contact, which has dialled and
    /// was dialled, mostly.
    fn take_shared(&self, source: DirectPath, datagram: &[u8], ecn: Option<EcnCodepoint>) {
        let take = |route: &RouteState| {
            route.times.heard_direct(datagram.len());
            self.push(route.addr, ecn, Bytes::copy_from_slice(datagram));
        };
        if let Some(route) = connection_id(datagram).and_then(|id| self.routes.with_id(id)) {
            return take(&route);
        }
        let routes = self.routes.all_at(source);
        if is_initial(datagram) {
            // It would begin a connection on each route. The newest is the one that is waited for.
            if let Some(newest) = routes.last() {
                take(newest);
            }
        } else {
            // QUIC drops what comes from another address than its connection's.
            routes.iter().for_each(|it| take(it));
        }
    }

    fn whose(&self, source: DirectPath, first: &[u8]) -> Whose {
        if !self.routes.is_empty() {
            let id = connection_id(first);
            match self.routes.at(source) {
                Sender::One(route) => {
                    if let Some(id) = id.filter(|id| !route.knows(*id)) {
                        // The contact may have dialled while she was dialled: the other connection
                        // comes from the same address before that is known to be hers too.
                        if let Some(other) = self.routes.with_id(id)
                            && !Arc::ptr_eq(&other, &route)
                        {
                            self.routes.report(&other, source, Instant::now());
                            return Whose::Route(other);
                        }
                        self.routes.learn(&route, id);
                    }
                    return Whose::Route(route);
                }
                Sender::Several => return Whose::Each,
                Sender::Nobody => {
                    if let Some(route) = id.and_then(|id| self.routes.with_id(id)) {
                        self.routes.report(&route, source, Instant::now());
                        return Whose::Route(route);
                    }
                }
            }
        }
        let refuse = self.refuse_strangers.load(Ordering::Relaxed);
        if refuse && !self.dialled.contains(source.remote) { Whose::Refused } else { Whose::Real }
    }

    /// Whose a relayed datagram is: that of the channel's route, unless its connection is known to
    /// be another's. When two contacts have dialled each other, they may have put a new channel
    /// under different connections.
    fn relayed_to(
        &self,
        channel: ChannelId,
        via: SocketAddr,
        inner: &[u8],
    ) -> Option<Arc<RouteState>> {
        let route = self.routes.on_channel(channel, via)?;
        let Some(id) = connection_id(inner).filter(|id| !route.knows(*id)) else {
            return Some(route);
        };
        match self.routes.with_id(id) {
            Some(other) if !Arc::ptr_eq(&other, &route) => Some(other),
            _ => {
                self.routes.learn(&route, id);
                Some(route)
            }
        }
    }

    /// Takes the relay's headers out of a buffer of frames on one channel, so that it holds the
    /// contact's QUIC. Says whether it does.
    fn unwrap_in_place(
        &self,
        via: SocketAddr,
        channel: ChannelId,
        buffer: &mut [u8],
        meta: &mut RecvMeta,
    ) -> bool {
        let len = meta.len;
        let first = buffer.get(RELAY_HEADER..len.min(meta.stride)).unwrap_or_default();
        let Some(route) = self.relayed_to(channel, via, first) else {
            self.demux.relay_dropped.add(len.div_ceil(meta.stride) as u64);
            return false;
        };
        let mut end = 0;
        for frame in (0..len).step_by(meta.stride) {
            let inner = frame + RELAY_HEADER..len.min(frame + meta.stride);
            let size = inner.len();
            buffer.copy_within(inner, end);
            end += size;
        }
        route.times.heard_relayed(end);
        meta.len = end;
        meta.stride -= RELAY_HEADER;
        meta.addr = route.addr;
        meta.dst_ip = None;
        true
    }

    /// Takes a datagram of a route that does not lie in one of QUIC's buffers.
    pub(crate) fn deliver(
        &self,
        route: &Arc<RouteState>,
        ecn: Option<EcnCodepoint>,
        datagram: Bytes,
    ) {
        if let Some(id) = connection_id(&datagram) {
            self.routes.learn(route, id);
        }
        self.push(route.addr, ecn, datagram);
    }

    fn push(&self, source: SocketAddr, ecn: Option<EcnCodepoint>, datagram: Bytes) {
        if !self.queue.push(source, ecn, datagram) {
            self.demux.queue_dropped.add(1);
        }
    }

    /// Takes a datagram that came through the tunnel with the virtual address `tunnel`.
    pub(crate) fn arrived_by_tunnel(&self, tunnel: SocketAddr, datagram: Bytes) {
        if classify(&datagram) == Class::Quic {
            self.demux.quic.add(1);
            self.push(tunnel, None, datagram);
        } else {
            self.take_other(DirectPath { socket: SocketId::MAIN, remote: tunnel }, &datagram, None);
        }
    }

    /// Sorts a buffer that came to a rendezvous peer's second port, which answers and does nothing
    /// else.
    pub(crate) fn sort_second(&self, buffer: &[u8], meta: &mut RecvMeta) {
        let source = canonical(meta.addr);
        self.note_own_addr(source, meta);
        for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
            match self.forward.get() {
                Some(forward)
                    if classify(datagram) == Class::Peer
                        && fits(datagram, PeerDatagram::MAX)
                        && self.net.is_real(source) =>
                {
                    self.answer(&**forward, source, true, datagram);
                }
                _ => self.demux.unknown.add(1),
            }
        }
        meta.len = 0;
        meta.stride = meta.stride.max(1);
    }

    /// Lets the forwarder answer a small datagram.
    fn answer(&self, forward: &dyn Forward, source: SocketAddr, from_second: bool, it: &[u8]) {
        self.demux.peers.seen.add(1);
        // An echo would tell an address that means nothing outside of here.
        let echo = !self.net.is_real(source)
            && matches!(PeerDatagram::decode(it), Ok(PeerDatagram::EchoRequest { .. }));
        if echo {
            self.demux.peers.dropped.add(1);
            return;
        }
        for reply in forward.peer_datagram(source, from_second, it) {
            self.reply(&reply);
        }
    }

    fn reply(&self, Reply { via_second, to, datagram }: &Reply) {
        let socket = match (via_second, self.second.get()) {
            (true, Some(second)) => second,
            // Not from another port than was asked for.
            (true, None) => return,
            (false, _) => &self.main,
        };
        let is_udp = self.net.is_real(*to) && to.port() != 0;
        let sent = match self.own_addrs.toward(*to).filter(|_| is_udp) {
            Some(own) => socket.send_one_from(own, *to, datagram).inspect_err(|e| {
                if is_not_ours(e) {
                    self.own_addrs.lost(own);
                }
            }),
            None if *via_second => socket.send_one(*to, datagram),
            None => self.send_datagram(SocketId::MAIN, *to, datagram, None),
        };
        if sent.is_err() {
            self.demux.send_errors.add(1);
        }
    }

    /// Remembers to which of this machine's addresses a remote sends, when it may be answered by
    /// something else than QUIC.
    fn note_own_addr(&self, remote: SocketAddr, meta: &RecvMeta) {
        if let Some(own) = meta.dst_ip.filter(|_| self.forward.get().is_some()) {
            self.own_addrs.heard(remote, own);
        }
    }

    /// Sends relay frames on, unchanged and all at once. When there is no room they are lost: a
    /// relay that waited would hold up everybody else.
    fn forward(
        &self,
        forward: &dyn Forward,
        source: SocketAddr,
        channel: ChannelId,
        frames: &[u8],
        stride: usize,
        ecn: Option<EcnCodepoint>,
    ) {
        let count = frames.len().div_ceil(stride);
        let forwarded = forward.frame(source, channel, frames.len(), count);
        if let Some((to, datagram)) = forwarded.reply {
            self.reply(&Reply { via_second: false, to, datagram });
        }
        let Some(to) = forwarded.to else {
            self.demux.relay_dropped.add(count as u64);
            return;
        };
        if let Some(place) = self.net.place(to) {
            if let Place::Tunnel(number) = place {
                let frames = Bytes::copy_from_slice(frames);
                self.tunnels.send(number, frames, stride, &self.demux.relay_dropped);
            }
            self.demux.forwarded.add(count as u64);
            return;
        }
        let own = self.own_addrs.toward(to);
        let at_once = self.main.state.max_gso_segments().min(MAX_BATCH / stride).max(1);
        for batch in frames.chunks(at_once * stride) {
            let n = batch.len().div_ceil(stride) as u64;
            let transmit = Transmit {
                destination: to,
                ecn,
                contents: batch,
                segment_size: (n > 1).then_some(stride),
                src_ip: own,
            };
            match self.main.send_now(&transmit) {
                Ok(()) => self.demux.forwarded.add(n),
                Err(e) => {
                    if let Some(own) = own.filter(|_| is_not_ours(&e)) {
                        self.own_addrs.lost(own);
                    }
                    self.demux.relay_dropped.add(n);
                }
            }
        }
    }
}

/// Whether an error says that this machine does not have the address from which to send.
fn is_not_ours(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::AddrNotAvailable | ErrorKind::InvalidInput)
}
