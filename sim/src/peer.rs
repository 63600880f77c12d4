//! A model of a rendezvous peer: introductions, echoes and relaying, in the real formats of the
//! wire crate where bytes matter.
//!
//! It is not the program `rendezvous-peer`. It keeps the same rules in far fewer lines, so that a
//! run costs little: addresses count when they are shown by a cookie, frames go only to the ends of
//! a channel, and an end moves only after a challenge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use halloo_wire::datagram::{Class, RelayFrame, classify};
use halloo_wire::ids::Side;
use halloo_wire::peer::{Attested, Callee};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{ChannelId, limits};

use crate::control::{Control, ControlEnd, Message};
use crate::net::{HostId, Net};
use crate::packet::{Body, DEFAULT_TTL, Packet};
use crate::rng::Rng;

/// How long a cookie is good: this and the period before.
const COOKIE_PERIOD: Duration = Duration::from_secs(60);
/// How long a channel lives without a frame.
const LEASE: Duration = Duration::from_secs(120);
/// Shortest time between two challenges of one end.
const CHALLENGE_PAUSE: Duration = Duration::from_millis(200);

/// A rendezvous peer.
#[derive(Debug)]
pub struct Peer {
    host: HostId,
    port: u16,
    key: [u8; 32],
    conns: BTreeMap<u64, Conn>,
    presences: BTreeMap<usize, Presence>,
    channels: BTreeMap<u64, Channel>,
    rng: Rng,
    /// Frames that were forwarded.
    pub relayed: u64,
}

#[derive(Debug)]
struct Conn {
    end: ControlEnd,
    address: SocketAddr,
}

/// A registered node.
#[derive(Debug)]
struct Presence {
    conn: u64,
    card: Vec<u8>,
    attested: Vec<SocketAddr>,
}

/// A relay channel.
#[derive(Debug)]
struct Channel {
    ends: [SocketAddr; 2],
    used: Instant,
    challenged: [Option<(SocketAddr, u64, Instant)>; 2],
}

impl Peer {
    /// A peer on a host of its own.
    pub fn new(host: HostId, port: u16, mut rng: Rng) -> Self {
        Self {
            host,
            port,
            key: rng.bytes(),
            conns: BTreeMap::new(),
            presences: BTreeMap::new(),
            channels: BTreeMap::new(),
            rng,
            relayed: 0,
        }
    }

    /// The host that it runs on.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Its first UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its second UDP port.
    pub fn second_port(&self) -> u16 {
        self.port + 1
    }

    /// Forgets everybody.
    pub fn restart(&mut self) {
        self.key = self.rng.bytes();
        self.conns.clear();
        self.presences.clear();
        self.channels.clear();
    }

    /// Takes a packet in.
    pub fn handle(&mut self, packet: &Packet, net: &mut Net) {
        match &packet.body {
            Body::Control(control) => self.control(control, packet.src, net),
            Body::Datagram(bytes) => match classify(bytes) {
                Class::Relay => self.relay(packet.src, bytes, net),
                Class::Peer => {
                    let second = packet.dst.port() == self.second_port();
                    if let Ok(datagram) = PeerDatagram::decode(bytes) {
                        self.peer_datagram(packet.src, second, datagram, net);
                    }
                }
                _ => {}
            },
        }
        self.set_wake(net);
    }

    /// Sends again what was not acknowledged.
    pub fn handle_timeout(&mut self, net: &mut Net) {
        let now = net.now();
        let due: Vec<(SocketAddr, Control)> = self
            .conns
            .values_mut()
            .flat_map(|c| c.end.handle_timeout(now).into_iter().map(|p| (c.address, p)))
            .collect();
        for (to, control) in due {
            self.send_control(to, control, net);
        }
        self.channels.retain(|_, c| now < c.used + LEASE);
        self.set_wake(net);
    }

    fn set_wake(&self, net: &mut Net) {
        net.wake(self.host, self.conns.values().filter_map(|c| c.end.next_timeout()).min());
    }

    fn control(&mut self, control: &Control, src: SocketAddr, net: &mut Net) {
        let opens =
            matches!(control.message.as_ref().map(|(_, m)| &**m), Some(Message::Register { .. }));
        if !self.conns.contains_key(&control.conn) && !opens {
            let reset = Control { ack: None, message: None, reset: true, ..control.clone() };
            return self.send_control(src, reset, net);
        }
        let conn = self
            .conns
            .entry(control.conn)
            .or_insert_with(|| Conn { end: ControlEnd::new(control.conn), address: src });
        if conn.end.is_newest(control) {
            conn.address = src;
        }
        let to = conn.address;
        let (message, ack) = conn.end.receive(control);
        if let Some(ack) = ack {
            self.send_control(to, ack, net);
        }
        if let Some(message) = message {
            self.message(control.conn, &message, net);
        }
    }

    fn message(&mut self, conn: u64, message: &Message, net: &mut Net) {
        match message {
            Message::Register { node, card, attested } => {
                if let Some(card) = card {
                    let attested = self.shown(attested, net);
                    let presence = Presence { conn, card: card.clone(), attested };
                    self.presences.insert(*node, presence);
                }
                let observed = self.conns[&conn].address;
                self.say(conn, Message::Welcome(observed), net);
            }
            Message::Knock { to, card, reveal, attested, datagrams } => {
                let callee = self.knock(conn, *to, card, *reveal, attested, datagrams, net);
                self.say(conn, Message::Knocked(callee), net);
            }
            Message::Ping
            | Message::Welcome(_)
            | Message::Knocked(_)
            | Message::Knocking { .. } => {}
        }
    }

    /// The fork: the callee hears of the caller in the same instant as the caller of the callee.
    #[allow(clippy::too_many_arguments)]
    fn knock(
        &mut self,
        conn: u64,
        to: usize,
        card: &[u8],
        reveal: bool,
        attested: &[Attested],
        datagrams: &[Vec<u8>],
        net: &mut Net,
    ) -> Option<Callee> {
        let presence = self.presences.get(&to)?;
        let callee_conn = presence.conn;
        let (caller_at, callee_at) = (self.conns[&conn].address, self.conns[&callee_conn].address);
        let mut callee =
            Callee { observed: Vec::new(), card: presence.card.clone(), channel: None };
        if !callee.card.is_empty() {
            callee.observed = addresses(callee_at, &presence.attested);
        }
        let mut observed = Vec::new();
        if reveal {
            observed = addresses(caller_at, &self.shown(attested, net));
        }
        let channel = ChannelId(self.rng.u64());
        callee.channel = Some(channel.of(Side::Caller));
        let fresh =
            Channel { ends: [caller_at, callee_at], used: net.now(), challenged: [None, None] };
        self.channels.insert(channel.pair(), fresh);
        let knocking = Message::Knocking {
            observed,
            card: card.to_vec(),
            channel: Some(channel.of(Side::Callee)),
            datagrams: datagrams.to_vec(),
        };
        self.say(callee_conn, knocking, net);
        Some(callee)
    }

    /// The addresses whose cookies are right.
    fn shown(&self, attested: &[Attested], net: &Net) -> Vec<SocketAddr> {
        attested
            .iter()
            .take(limits::MAX_ATTESTED)
            .filter(|a| self.is_cookie(a.cookie, a.addr, net))
            .map(|a| a.addr)
            .collect()
    }

    fn relay(&mut self, src: SocketAddr, bytes: &Rc<[u8]>, net: &mut Net) {
        let Ok(frame) = RelayFrame::decode(bytes) else { return };
        let (id, side) = (frame.channel, frame.channel.side());
        let now = net.now();
        let Some(channel) = self.channels.get_mut(&id.pair()) else { return };
        channel.used = now;
        let to = channel.ends[usize::from(side == Side::Caller)];
        self.relayed += 1;
        self.challenge_stranger(id, src, net);
        self.send(to, self.port, Body::Datagram(bytes.clone()), net);
    }

    /// Asks a source that is not the end of the channel whether it is.
    fn challenge_stranger(&mut self, id: ChannelId, src: SocketAddr, net: &mut Net) {
        let now = net.now();
        let Some(channel) = self.channels.get_mut(&id.pair()) else { return };
        let side = usize::from(id.side() == Side::Callee);
        let just_asked = channel.challenged[side]
            .is_some_and(|(who, _, at)| who == src && now < at + CHALLENGE_PAUSE);
        if channel.ends[side] == src || just_asked {
            return;
        }
        // The same cookie again for the same source: its answer to an earlier challenge may take
        // longer than the pause.
        let earlier = channel.challenged[side].filter(|(who, ..)| *who == src);
        let cookie = earlier.map_or_else(|| self.rng.u64(), |(_, cookie, _)| cookie);
        channel.challenged[side] = Some((src, cookie, now));
        net.log(|| format!("peer challenges {src} for {side} of {:x}", id.pair()));
        let challenge = PeerDatagram::RelayChallenge { channel: id, cookie };
        self.send(src, self.port, datagram(&challenge), net);
    }

    fn peer_datagram(&mut self, src: SocketAddr, second: bool, it: PeerDatagram, net: &mut Net) {
        match it {
            PeerDatagram::EchoRequest { txid, cookie, answer } => {
                self.echo(src, second, txid, cookie, answer, net);
            }
            PeerDatagram::RelayAnswer { channel: id, cookie } => {
                let side = usize::from(id.side() == Side::Callee);
                if let Some(channel) = self.channels.get_mut(&id.pair())
                    && channel.challenged[side].is_some_and(|(who, c, _)| who == src && c == cookie)
                {
                    net.log(|| format!("peer moves {side} of {:x} to {src}", id.pair()));
                    channel.ends[side] = src;
                    channel.challenged[side] = None;
                    channel.used = net.now();
                }
            }
            PeerDatagram::Keep { channel: id } => {
                if let Some(channel) = self.channels.get_mut(&id.pair()) {
                    channel.used = net.now();
                }
                self.challenge_stranger(id, src, net);
            }
            PeerDatagram::EchoReply { .. } | PeerDatagram::RelayChallenge { .. } => {}
        }
    }

    fn echo(
        &mut self,
        src: SocketAddr,
        second: bool,
        txid: u64,
        cookie: u64,
        answer: EchoAnswer,
        net: &mut Net,
    ) {
        let (here, other) = match second {
            false => (self.port, self.second_port()),
            true => (self.second_port(), self.port),
        };
        if answer != EchoAnswer::Here && !self.is_cookie(cookie, src, net) {
            return;
        }
        let (from, to) = match answer {
            EchoAnswer::Here => (here, src),
            EchoAnswer::FromSecondPort => (other, src),
            EchoAnswer::ToPort(port) => (here, SocketAddr::new(src.ip(), port)),
        };
        let cookie = self.cookie(to, period(net));
        let reply =
            PeerDatagram::EchoReply { txid, cookie, from_second: from != self.port, observed: to };
        self.send(to, from, datagram(&reply), net);
    }

    fn cookie(&self, addr: SocketAddr, period: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(addr.to_string().as_bytes()).update(&period.to_be_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        // 0 stands for none.
        u64::from_be_bytes(bytes).max(1)
    }

    fn is_cookie(&self, cookie: u64, addr: SocketAddr, net: &Net) -> bool {
        let period = period(net);
        [period, period.wrapping_sub(1)].iter().any(|&p| self.cookie(addr, p) == cookie)
    }

    fn say(&mut self, conn: u64, message: Message, net: &mut Net) {
        if let Some(state) = self.conns.get_mut(&conn) {
            let control = state.end.send(message, net.now());
            let to = state.address;
            self.send_control(to, control, net);
        }
    }

    fn send_control(&self, to: SocketAddr, control: Control, net: &mut Net) {
        self.send(to, self.port, Body::Control(Rc::new(control)), net);
    }

    fn send(&self, to: SocketAddr, from: u16, body: Body, net: &mut Net) {
        match host_of_tunnel(to) {
            Some(host) => {
                let ip = net.ips(self.host)[0];
                net.tunnel(self.host, host, SocketAddr::new(ip, self.port), body);
            }
            // Where it cannot be sent, it is lost like anywhere else.
            None => drop(net.send(self.host, from, to, DEFAULT_TTL, body)),
        }
    }
}

/// The address that stands for a host's stream to a peer.
pub fn tunnel_of(host: HostId) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.number()).into(), 1)
}

fn host_of_tunnel(addr: SocketAddr) -> Option<HostId> {
    match addr.ip() {
        IpAddr::V6(ip) if ip.segments()[0] == 0xfd77 => Some(HostId::numbered(ip.segments()[7])),
        _ => None,
    }
}

/// What a peer has made sure of: where it sees a node, unless that is a stream, and what the node
/// has shown.
fn addresses(seen: SocketAddr, attested: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> =
        Some(seen).filter(|&a| host_of_tunnel(a).is_none()).into_iter().collect();
    for &addr in attested {
        if !all.contains(&addr) {
            all.push(addr);
        }
    }
    all
}

fn datagram(it: &PeerDatagram) -> Body {
    Body::Datagram(it.encode().into())
}

fn period(net: &Net) -> u64 {
    net.elapsed().as_secs() / COOKIE_PERIOD.as_secs()
}
