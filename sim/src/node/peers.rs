//! A node's connections to rendezvous peers: its own, and its contact's.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use halloo_nat::ProberConfig;
use halloo_wire::path::{RelayPath, SocketId};
use halloo_wire::peer_datagram::PeerDatagram;

use super::{Node, NodeConfig};
use crate::control::{Control, ControlEnd, Message};
use crate::net::{HostId, Net};
use crate::packet::{Body, DEFAULT_TTL};
use crate::peer::tunnel_of;
use crate::rng::Rng;

/// Where a rendezvous peer is.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddr {
    /// The machine.
    pub host: HostId,
    /// Its first port, over IPv4.
    pub v4: SocketAddr,
    /// Over IPv6.
    pub v6: SocketAddr,
    /// Its second port.
    pub second_port: u16,
}

impl PeerAddr {
    /// The address that a node with these addresses uses.
    fn for_node(&self, ips: &[IpAddr]) -> SocketAddr {
        if ips.iter().any(IpAddr::is_ipv4) { self.v4 } else { self.v6 }
    }
}

/// A connection to a rendezvous peer.
#[derive(Debug)]
pub(super) struct PeerLink {
    pub(super) addr: PeerAddr,
    end: ControlEnd,
    /// Whether it runs over a stream, because nothing answers over UDP.
    tunnel: bool,
    /// When the connection was begun, until the peer has answered.
    waiting_since: Option<Instant>,
    observed: Option<SocketAddr>,
    registered: Option<Vec<u8>>,
    ping_at: Instant,
}

impl PeerLink {
    pub(super) fn new(addr: PeerAddr, conn: u64, now: Instant) -> Self {
        Self {
            addr,
            end: ControlEnd::new(conn),
            tunnel: false,
            waiting_since: None,
            observed: None,
            registered: None,
            ping_at: now + PING,
        }
    }

    /// Where the peer sees the node, over UDP.
    pub(super) fn observed(&self) -> Option<SocketAddr> {
        self.observed.filter(|_| !self.tunnel)
    }

    /// Whether a packet's source is this peer.
    pub(super) fn is_from(&self, src: SocketAddr) -> bool {
        src == self.addr.v4 || src == self.addr.v6
    }
}

impl Node {
    /// Connects to each peer, with the card at one's own.
    pub(super) fn register_everywhere(&mut self, net: &mut Net) {
        for i in 0..self.links.len() {
            self.register(i, net);
        }
    }

    /// Registers again where the card has changed.
    pub(super) fn update_card(&mut self, net: &mut Net) {
        let card = self.registered_card();
        if self.links[0].registered.as_ref().is_some_and(|old| *old != card) {
            self.register(0, net);
        }
    }

    fn register(&mut self, i: usize, net: &mut Net) {
        let now = net.now();
        let card = (i == 0).then(|| self.registered_card());
        let attested = match i {
            0 if !self.config.relay_only => self.prober.attested(now),
            _ => Vec::new(),
        };
        let node = self.config.index;
        let link = &mut self.links[i];
        link.registered.clone_from(&card);
        link.waiting_since.get_or_insert(now);
        let message = Message::Register { node, card, attested };
        self.say(i, message, net);
    }

    /// New connections from a new place.
    pub(super) fn reconnect(&mut self, net: &mut Net) {
        for i in 0..self.links.len() {
            let conn = self.rng.u64();
            self.links[i] = PeerLink::new(self.links[i].addr, conn, net.now());
            self.register(i, net);
        }
        if let Some(relay) = self.route.relay() {
            self.keep(relay, net);
        }
    }

    /// Sends what is due to the peers: repetitions, and what keeps connections alive.
    pub(super) fn tend_links(&mut self, net: &mut Net) {
        let now = net.now();
        for i in 0..self.links.len() {
            for control in self.links[i].end.handle_timeout(now) {
                self.send_control(i, control, net);
            }
            let link = &mut self.links[i];
            if link.waiting_since.is_some_and(|since| now >= since + UDP_PATIENCE) && !link.tunnel {
                link.tunnel = true;
                link.end = ControlEnd::new(self.rng.u64());
                net.log(|| format!("node {} takes to a stream", self.config.index));
                self.register(i, net);
                self.relay_by_stream(i, net);
            } else if link.ping_at <= now {
                link.ping_at = now + PING;
                self.say(i, Message::Ping, net);
            }
        }
        if self.keep_at.is_some_and(|t| t <= now)
            && let Some(relay) = self.route.relay()
        {
            self.keep(relay, net);
        }
        self.knock_if_due(net);
    }

    /// Something is wrong with the network: lets the peers see where we are, and shows whether they
    /// still know us.
    pub(super) fn touch_peers(&mut self, net: &mut Net) {
        let now = net.now();
        if now < self.touched + TOUCH_PAUSE {
            return;
        }
        self.touched = now;
        for i in 0..self.links.len() {
            self.say(i, Message::Ping, net);
        }
        if let Some(relay) = self.route.relay() {
            self.keep(relay, net);
        }
    }

    /// When [`tend_links`](Self::tend_links) has something to do.
    pub(super) fn links_wait(&self) -> Option<Instant> {
        let links = self.links.iter().flat_map(|l| {
            let fallback = l.waiting_since.filter(|_| !l.tunnel).map(|t| t + UDP_PATIENCE);
            [l.end.next_timeout(), Some(l.ping_at), fallback]
        });
        links.chain([self.keep_at, self.knock_due()]).flatten().min()
    }

    /// A packet of a connection to a peer has come.
    pub(super) fn control(&mut self, control: &Control, net: &mut Net) {
        let Some(i) = self.links.iter().position(|l| l.end.conn() == control.conn) else { return };
        if control.reset {
            return self.start_over(i, net);
        }
        let (message, ack) = self.links[i].end.receive(control);
        self.links[i].waiting_since = None;
        if let Some(ack) = ack {
            self.send_control(i, ack, net);
        }
        match message.as_deref() {
            Some(Message::Welcome(observed)) => {
                self.links[i].observed = Some(*observed);
                self.tell_local(net);
            }
            Some(Message::Knocked(callee)) => self.knocked(i, callee.as_ref(), net),
            Some(Message::Knocking { observed, card, channel, datagrams }) => {
                self.knocked_at(i, observed, card, *channel, datagrams, net);
            }
            _ => {}
        }
    }

    /// The peer has restarted: it knows neither us nor our channel.
    fn start_over(&mut self, i: usize, net: &mut Net) {
        let link = &mut self.links[i];
        link.end = ControlEnd::new(self.rng.u64());
        let via = self.via(i);
        self.register(i, net);
        let relayed_here = self.route.relay().is_some_and(|r| r.via == via);
        if relayed_here && self.agent().is_some_and(|a| a.role() == halloo_nat::Role::Caller) {
            self.want_knock = true;
        }
    }

    /// Sends a message to a peer.
    pub(super) fn say(&mut self, i: usize, message: Message, net: &mut Net) {
        let link = &mut self.links[i];
        link.ping_at = net.now() + PING;
        let control = link.end.send(message, net.now());
        self.send_control(i, control, net);
    }

    /// The address by which the path socket knows a peer: its own, or that of the stream to it.
    pub(super) fn via(&self, i: usize) -> SocketAddr {
        match self.links[i].tunnel {
            true => SocketAddr::new(tunnel_of(self.config.host).ip(), i as u16 + 1),
            false => self.links[i].addr.for_node(&self.local.ips),
        }
    }

    /// Takes a channel into use.
    pub(super) fn use_relay(&mut self, i: usize, channel: halloo_wire::ChannelId, net: &mut Net) {
        let relay = RelayPath { via: self.via(i), channel };
        let kept = self.route.set_relay(relay, net.now());
        self.send_all(kept, net);
        self.keep_at = Some(net.now() + KEEP);
    }

    pub(super) fn send_to_peer(&mut self, via: SocketAddr, body: Body, net: &mut Net) {
        let tunnel = tunnel_of(self.config.host);
        if via.ip() == tunnel.ip() {
            let link = &self.links[usize::from(via.port()) - 1];
            net.tunnel(self.config.host, link.addr.host, tunnel, body);
        } else if net.send(self.config.host, self.config.port, via, DEFAULT_TTL, body).is_err() {
            net.log(|| format!("no way to {via}"));
        }
    }

    /// Frames go through the stream from here on, if they go to this peer.
    fn relay_by_stream(&mut self, i: usize, net: &mut Net) {
        let udp = self.links[i].addr;
        if let Some(relay) = self.route.relay()
            && (relay.via == udp.v4 || relay.via == udp.v6)
        {
            let moved = RelayPath { via: self.via(i), ..relay };
            let kept = self.route.set_relay(moved, net.now());
            self.send_all(kept, net);
            self.keep(moved, net);
        }
    }

    fn keep(&mut self, relay: RelayPath, net: &mut Net) {
        self.keep_at = Some(net.now() + KEEP);
        let keep = PeerDatagram::Keep { channel: relay.channel };
        self.send_to_peer(relay.via, Body::Datagram(keep.encode().into()), net);
    }

    fn send_control(&mut self, i: usize, control: Control, net: &mut Net) {
        self.send_to_peer(self.via(i), Body::Control(Rc::new(control)), net);
    }

    /// Answers a challenge on the way by which it came.
    pub(super) fn answer_challenge(
        &mut self,
        socket: SocketId,
        src: SocketAddr,
        answer: &PeerDatagram,
        net: &mut Net,
    ) {
        let Some(i) = self.links.iter().position(|l| l.is_from(src)) else { return };
        match self.links[i].tunnel {
            true => {
                self.send_to_peer(self.via(i), Body::Datagram(answer.encode().into()), net);
            }
            false => self.send_datagram(socket, src, answer.encode(), net),
        }
    }
}

/// What a prober is told.
pub(super) fn prober_config(config: &NodeConfig, ips: &[IpAddr], rng: &mut Rng) -> ProberConfig {
    let home = config.home;
    let first = home.for_node(ips);
    let both = ips.iter().any(IpAddr::is_ipv4) && ips.iter().any(IpAddr::is_ipv6);
    ProberConfig {
        seed: rng.bytes(),
        ips: ips.to_vec(),
        port: config.port,
        home: first,
        second_port: Some(home.second_port),
        home_other_family: both.then_some(home.v6),
        other_peer: Some(config.other_peer.for_node(ips)),
    }
}

/// How long a connection may be silent before something is sent to keep it alive.
const PING: Duration = Duration::from_secs(20);
/// How often an idle channel is kept.
const KEEP: Duration = Duration::from_secs(25);
/// How long a node waits for an answer over UDP before it takes to a stream.
const UDP_PATIENCE: Duration = Duration::from_millis(600);
/// Shortest time between two looks at whether the peers are there.
const TOUCH_PAUSE: Duration = Duration::from_secs(1);
