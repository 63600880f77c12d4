//! What goes out: by which path, and in which form.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use halloo_wire::datagram::{Class, RELAY_HEADER, RelayFrame, classify};
use halloo_wire::limits::MAX_DATAGRAM;
use halloo_wire::path::{DirectPath, RelayPath, SocketId};
use quinn::udp::Transmit;

use crate::demux::own_connection_id;
use crate::route_state::{RouteState, segments};
use crate::socket::PathSocket;
use crate::virtual_addr::Place;

thread_local! {
    /// Where relay frames are put together, so that no batch allocates.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl PathSocket {
    /// Sends a batch of QUIC's. The only error is `WouldBlock`, when the main socket is full.
    pub(crate) fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.net.place(transmit.destination) {
            None => self.pass_over(self.main.send(transmit)),
            Some(Place::Route(number)) => match self.routes.by_number(number) {
                Some(route) => self.send_on_route(&route, transmit),
                None => {
                    self.demux.send_dropped.add(segments(transmit).count() as u64);
                    Ok(())
                }
            },
            Some(Place::Tunnel(number)) => {
                let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
                let contents = Bytes::copy_from_slice(transmit.contents);
                self.tunnels.send(number, contents, segment, &self.demux.send_dropped);
                Ok(())
            }
            Some(Place::Nothing) => {
                self.demux.send_dropped.add(1);
                Ok(())
            }
        }
    }

    fn send_on_route(&self, route: &Arc<RouteState>, transmit: &Transmit<'_>) -> io::Result<()> {
        // The other side's packets will be sent to this id, wherever they come from.
        if let Some(id) = own_connection_id(transmit.contents) {
            self.routes.learn(route, id);
        }
        let plan = match route.plan(transmit) {
            Ok(plan) => plan,
            Err(dropped) => {
                self.demux.send_dropped.add(dropped as u64);
                return Ok(());
            }
        };
        let limit = plan.relay_limit;
        let Some(path) = plan.direct else {
            return plan.relay.map_or(Ok(()), |relay| self.relay(route, relay, limit, transmit));
        };
        match self.send_directly(path, transmit) {
            Ok(()) => {
                route.times.sent_direct(transmit);
                if plan.relay.is_none() {
                    route.remember(transmit);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
            Err(e) => {
                self.demux.send_errors.add(1);
                if is_unreachable(&e) {
                    route.times.unreachable();
                    if let Some(relay) = plan.instead {
                        return self.relay(route, relay, limit, transmit);
                    }
                }
            }
        }
        if let Some(relay) = plan.relay {
            // It is on its way already: a second one that finds no room is no loss.
            let _ = self.relay(route, relay, limit, transmit);
        }
        Ok(())
    }

    fn send_directly(&self, path: DirectPath, transmit: &Transmit<'_>) -> io::Result<()> {
        let transmit = Transmit { destination: path.remote, src_ip: None, ..transmit.clone() };
        if path.socket == SocketId::MAIN {
            return self.main.send(&transmit);
        }
        let socket = self.extras.get(path.socket).ok_or(io::ErrorKind::NotConnected)?;
        match socket.send_now(&transmit) {
            // QUIC would wait for the main socket, which has room, and try again at once.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.demux.send_dropped.add(segments(&transmit).count() as u64);
                Ok(())
            }
            other => other,
        }
    }

    /// Sends a batch through the relay: each datagram in a frame, and still one batch, as all but
    /// the last keep one size.
    fn relay(
        &self,
        route: &RouteState,
        relay: RelayPath,
        limit: usize,
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        if segment > limit {
            // QUIC finds out that the path does not carry this size (RFC 8899).
            self.demux.send_dropped.add(segments(transmit).count() as u64);
            return Ok(());
        }
        let header = RelayFrame::header(relay.channel);
        FRAMES.with_borrow_mut(|frames| {
            frames.clear();
            for datagram in segments(transmit) {
                frames.extend_from_slice(&header);
                frames.extend_from_slice(datagram);
            }
            let segment = segment + RELAY_HEADER;
            let sent = match self.net.place(relay.via) {
                None => self.pass_over(self.main.send(&Transmit {
                    destination: relay.via,
                    ecn: transmit.ecn,
                    contents: frames,
                    segment_size: transmit.segment_size.map(|_| segment),
                    src_ip: None,
                })),
                Some(Place::Tunnel(number)) => {
                    let frames = Bytes::copy_from_slice(frames);
                    self.tunnels.send(number, frames, segment, &self.demux.send_dropped);
                    Ok(())
                }
                Some(_) => {
                    self.demux.send_dropped.add(1);
                    Ok(())
                }
            };
            if sent.is_ok() {
                route.times.sent_relayed(transmit.contents.len());
            }
            sent
        })
    }

    /// Sends what a route has kept for want of a path.
    pub(crate) fn flush(&self, route: &Arc<RouteState>) {
        for kept in route.take_kept() {
            let transmit = Transmit {
                destination: route.addr,
                ecn: kept.ecn,
                contents: &kept.datagram,
                segment_size: None,
                src_ip: None,
            };
            if self.send_on_route(route, &transmit).is_err() {
                self.demux.send_dropped.add(1);
            }
        }
    }

    /// Sends by relay what went out on a direct path that has turned out to be in doubt. QUIC would
    /// find out what is missing, a round trip or two later; what arrives twice it drops.
    pub(crate) fn send_again(&self, route: &Arc<RouteState>) {
        let Some(relay) = route.relay() else { return };
        for kept in route.take_recent() {
            let transmit = Transmit {
                destination: route.addr,
                ecn: kept.ecn,
                contents: &kept.datagram,
                segment_size: None,
                src_ip: None,
            };
            if self.relay(route, relay, MAX_DATAGRAM - RELAY_HEADER, &transmit).is_err() {
                self.demux.send_dropped.add(1);
            }
        }
    }

    /// Sends a datagram that is not QUIC, at once or not at all.
    pub(crate) fn send_datagram(
        &self,
        socket: SocketId,
        to: SocketAddr,
        datagram: &[u8],
        ttl: Option<u8>,
    ) -> io::Result<()> {
        let sound = !matches!(classify(datagram), Class::Quic | Class::Unknown)
            && datagram.len() <= MAX_DATAGRAM;
        if !sound || to.port() == 0 || ttl == Some(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match self.net.place(to) {
            None => {}
            Some(Place::Tunnel(number)) => {
                let datagram = Bytes::copy_from_slice(datagram);
                let segment = datagram.len();
                self.tunnels.send(number, datagram, segment, &self.demux.send_dropped);
                return Ok(());
            }
            Some(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let extra;
        let socket = if socket == SocketId::MAIN {
            &self.main
        } else {
            extra = self.extras.get(socket).ok_or(io::ErrorKind::NotConnected)?;
            &*extra
        };
        match ttl {
            Some(ttl) => socket.send_one_with_ttl(to, datagram, ttl),
            None => socket.send_one(to, datagram),
        }
    }

    /// Makes an error a lost datagram, counted; only `WouldBlock` remains.
    fn pass_over(&self, sent: io::Result<()>) -> io::Result<()> {
        match sent {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                self.demux.send_errors.add(1);
                tracing::trace!(kind = ?e.kind(), "send error");
                Ok(())
            }
            other => other,
        }
    }
}

/// Whether an error says that a path is gone, rather than that one datagram was too large for it.
fn is_unreachable(e: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable, NotConnected,
        PermissionDenied,
    };
    matches!(
        e.kind(),
        AddrNotAvailable
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | PermissionDenied
    )
}
