//! A node: the real machines of the `nat` crate, and around them a model of what the program does.
//!
//! There is one loop that asks the machines for what they want, after each input
//! (`Node::settle`).

mod attest;
mod counts;
mod meet;
mod peers;
mod settle;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use halloo_nat::{
    Agent, Budget, DirectPath, Local, Prober, Searches, SocketId, Technique, WhyRelayed,
};
use halloo_wire::datagram::{Class, Probe, RelayFrame, classify};
use halloo_wire::peer_datagram::PeerDatagram;

use self::attest::Shown;
use self::peers::PeerLink;
use crate::bug::Bug;
use crate::conversation::{Conversation, connection_of};
use crate::net::{HostId, Net};
use crate::packet::{Body, Packet};
use crate::rng::Rng;
use crate::route::{Outgoing, Route};

pub use self::counts::{Counts, Sent};
pub use self::peers::PeerAddr;

/// What a node is told when it is made.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its number, 0 or 1.
    pub index: usize,
    /// Where it runs.
    pub host: HostId,
    /// Port of its main socket.
    pub port: u16,
    /// Its own rendezvous peer.
    pub home: PeerAddr,
    /// The contact's rendezvous peer.
    pub contact_home: PeerAddr,
    /// A peer in another network, for the verdict.
    pub other_peer: PeerAddr,
    /// The reach capability that the node has given its contact.
    pub own_secret: [u8; 32],
    /// The one that the contact has given it.
    pub contact_secret: [u8; 32],
    /// Names the conversation.
    pub connection: u64,
    /// Whether it consents to a birthday search.
    pub birthday: bool,
    /// Whether its addresses are never told.
    pub relay_only: bool,
    /// Addresses of others that it claims for its own.
    pub lies: Vec<SocketAddr>,
    /// What is broken in it on purpose.
    pub bug: Bug,
}

/// When things happened that somebody waits for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Milestones {
    /// The node knocked.
    pub knocked: Option<Instant>,
    /// It was told the other side's addresses.
    pub told: Option<Instant>,
    /// A direct path was first used for sending.
    pub direct: Option<Instant>,
    /// Datagrams first went only directly.
    pub settled: Option<Instant>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    rng: Rng,
    sockets: BTreeMap<SocketId, u16>,
    next_socket: u16,
    links: Vec<PeerLink>,
    prober: Prober,
    prober_wait: Option<Instant>,
    refresh_at: Instant,
    shown_there: Shown,
    /// The addresses that the home peer attests.
    shown: Vec<SocketAddr>,
    /// What a router has mapped to the main socket, and whether it was found to work.
    mapped: Option<(SocketAddr, bool)>,
    agent: Option<AgentBox>,
    agent_wait: Option<Instant>,
    watch: Option<Instant>,
    want_knock: bool,
    knocks: usize,
    /// When all knocks may go again that may go at once.
    knock_free: Instant,
    knock_retry: Instant,
    last_knock: Instant,
    touched: Instant,
    keep_at: Option<Instant>,
    route: Route,
    budget: Budget,
    searches: Searches,
    local: Local,
    bulk: bool,
    /// What it says and hears.
    pub conversation: Conversation,
    /// What it has sent.
    pub counts: Counts,
    /// When things happened.
    pub milestones: Milestones,
    /// Techniques by which paths were found, with the paths.
    pub found: Vec<(DirectPath, Technique)>,
    /// Why the contact was last said to be relayed.
    pub relayed: Option<WhyRelayed>,
}

/// An agent; it does not print.
struct AgentBox(Agent);

impl std::fmt::Debug for AgentBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agent")
    }
}

impl Node {
    /// A node that knows its home peer's address and has said nothing.
    pub fn new(config: NodeConfig, mut rng: Rng, net: &mut Net) -> Self {
        let now = net.now();
        let local = Local {
            ips: net.ips(config.host),
            port: config.port,
            birthday: config.birthday,
            ..Local::default()
        };
        let prober = Prober::new(peers::prober_config(&config, &local.ips, &mut rng), now);
        let mut links = vec![PeerLink::new(config.home, rng.u64(), now)];
        if config.contact_home.host != config.home.host {
            links.push(PeerLink::new(config.contact_home, rng.u64(), now));
        }
        Self {
            sockets: BTreeMap::from([(SocketId::MAIN, config.port)]),
            next_socket: 1,
            links,
            prober,
            prober_wait: None,
            refresh_at: now + REFRESH,
            shown_there: Shown::default(),
            shown: Vec::new(),
            mapped: None,
            agent: None,
            agent_wait: None,
            watch: None,
            want_knock: false,
            knocks: 0,
            knock_free: now,
            knock_retry: now,
            last_knock: now,
            touched: now,
            keep_at: None,
            route: Route::default(),
            budget: Budget::new(now),
            searches: Searches::default(),
            local,
            bulk: false,
            conversation: Conversation::new(config.connection),
            counts: Counts::new(now),
            milestones: Milestones::default(),
            found: Vec::new(),
            relayed: None,
            rng,
            config,
        }
    }

    /// Begins: registers with its peer, and looks at the NAT in front of it.
    pub fn start(&mut self, net: &mut Net) {
        self.register_everywhere(net);
        self.show_to_contact_peer(net);
        self.settle(net);
    }

    /// Takes a packet in.
    pub fn handle(&mut self, packet: &Packet, net: &mut Net) {
        match &packet.body {
            Body::Control(control) => self.control(control, net),
            Body::Datagram(bytes) => self.datagram(packet, bytes, net),
        }
        self.settle(net);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, net: &mut Net) {
        let now = net.now();
        if self.prober_wait.is_some_and(|t| t <= now) {
            self.prober.handle_timeout(now);
        }
        if self.refresh_at <= now {
            self.refresh_at = now + REFRESH;
            self.prober.refresh(now);
            self.show_to_contact_peer(net);
        }
        if let Some(AgentBox(agent)) = &mut self.agent {
            if self.agent_wait.is_some_and(|t| t <= now) {
                agent.handle_timeout(now);
            }
            if self.watch.is_some_and(|t| t <= now) {
                self.watch = Some(now + halloo_nat::WATCH_INTERVAL);
                agent.traffic(self.route.traffic(), now);
            }
        }
        self.tend_links(net);
        if self.route.silence(now) >= SILENCE {
            self.touch_peers(net);
        }
        // A peer that has forgotten a channel does not say so. The caller knocks first.
        let caller = self.agent().is_some_and(|a| a.role() == halloo_nat::Role::Caller);
        let patience = if caller { DEAF } else { 2 * DEAF };
        if self.route.silence(now) >= patience && self.agent.is_some() && !self.want_knock {
            self.want_knock = true;
            self.knock_retry = self.knock_retry.max(self.last_knock + patience);
        }
        for datagram in self.conversation.handle_timeout(now) {
            self.send_on_route(datagram, net);
        }
        self.settle(net);
    }

    /// Begins or ends to talk. Whoever begins wants a direct path.
    pub fn talk(&mut self, talks: bool, bulk: bool, net: &mut Net) {
        self.conversation.talk(talks, net.now());
        self.bulk = bulk;
        if let Some(AgentBox(agent)) = &mut self.agent
            && talks
        {
            agent.want(bulk, net.now());
        }
        self.settle(net);
    }

    /// The system says that the interfaces have changed.
    pub fn network_changed(&mut self, net: &mut Net) {
        let now = net.now();
        self.mapped = None;
        let ips = net.ips(self.config.host);
        let config = peers::prober_config(&self.config, &ips, &mut self.rng);
        let extra = std::mem::take(&mut self.sockets);
        self.sockets.extend(extra.into_iter().filter(|(id, _)| *id == SocketId::MAIN));
        self.prober = Prober::new(config, now);
        self.shown.clear();
        self.shown_there = Shown::default();
        self.reconnect(net);
        self.show_to_contact_peer(net);
        self.tell_local(net);
        self.settle(net);
    }

    /// A router has mapped a port to the main socket.
    pub fn port_mapped(&mut self, external: SocketAddr, net: &mut Net) {
        self.mapped = Some((external, false));
        self.prober.check_mapping(external.port(), net.now());
        self.show_to_contact_peer(net);
        self.settle(net);
    }

    /// Where datagrams go.
    pub fn send_on(&self) -> halloo_nat::SendOn {
        self.route.send_on()
    }

    /// The port of the main socket.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// The host it runs on.
    pub fn host(&self) -> HostId {
        self.config.host
    }

    /// What it has found out about the NAT in front of it.
    pub fn verdict(&self) -> halloo_nat::Verdict {
        self.prober.verdict()
    }

    /// Its agent.
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref().map(|a| &a.0)
    }

    /// Extra sockets that are open.
    pub fn extra_sockets(&self) -> usize {
        self.sockets.len() - 1
    }

    /// The technique of the path in use, when there is one.
    pub fn technique(&self) -> Option<Technique> {
        let path = self.route.send_on().direct()?;
        self.found.iter().rev().find(|(p, _)| *p == path).map(|(_, t)| *t)
    }

    /// Knocks sent.
    pub fn knocks(&self) -> usize {
        self.knocks
    }

    fn datagram(&mut self, packet: &Packet, bytes: &Rc<[u8]>, net: &mut Net) {
        let now = net.now();
        let by_port = self.sockets.iter().find(|(_, port)| **port == packet.dst.port());
        let socket = by_port.map_or(SocketId::MAIN, |(id, _)| *id);
        let path = DirectPath { socket, remote: packet.src };
        match classify(bytes) {
            Class::Probe => self.probe(path, bytes, net),
            Class::Relay => {
                let Ok(frame) = RelayFrame::decode(bytes) else { return };
                let from_peer = self.links.iter().any(|l| l.is_from(packet.src));
                if from_peer && self.route.heard_relay(frame.channel, now) {
                    self.hear(frame.datagram, net);
                }
            }
            Class::Peer => self.peer_datagram(path, bytes, net),
            Class::Quic if connection_of(bytes) == Some(self.config.connection) => {
                if !self.route.heard_direct(path, now)
                    && let Some(AgentBox(agent)) = &mut self.agent
                {
                    agent.new_source(path.socket, path.remote, now);
                }
                self.hear(bytes, net);
            }
            Class::Quic | Class::Parked | Class::Unknown => {}
        }
    }

    fn probe(&mut self, path: DirectPath, bytes: &[u8], net: &mut Net) {
        let Some(AgentBox(agent)) = &mut self.agent else { return };
        let Ok(probe) = Probe::decode(bytes) else { return };
        if !agent.receive_ids().contains(&probe.key_id) {
            return net.log(|| format!("a probe of no round from {}", path.remote));
        }
        if self.config.bug.deaf_to(path) {
            return;
        }
        let heard = agent.handle_probe(path.socket, path.remote, bytes, net.now());
        let (name, socket) = (net.name(self.config.host), path.socket.0);
        net.log(|| format!("{name} probe from {} on socket {socket}: {heard:?}", path.remote));
    }

    fn peer_datagram(&mut self, path: DirectPath, bytes: &[u8], net: &mut Net) {
        match PeerDatagram::decode(bytes) {
            Ok(PeerDatagram::RelayChallenge { channel, cookie }) => {
                let ours = self.route.is_ours(channel) && self.config.bug != Bug::IgnoresChallenges;
                if ours && self.links.iter().any(|l| l.is_from(path.remote)) {
                    let answer = PeerDatagram::RelayAnswer { channel, cookie };
                    self.answer_challenge(path.socket, path.remote, &answer, net);
                }
            }
            Ok(it) if self.shown_to_contact_peer(&it, net) => {}
            Ok(it) => self.prober.handle_datagram(path.socket, path.remote, &it, net.now()),
            Err(_) => {}
        }
    }

    /// A datagram of the conversation has come.
    fn hear(&mut self, datagram: &[u8], net: &mut Net) {
        if let Ok(Some(answer)) = self.conversation.receive(datagram, net.now()) {
            self.send_on_route(answer, net);
        }
    }

    fn send_on_route(&mut self, datagram: Vec<u8>, net: &mut Net) {
        let out = self.route.send(datagram, net.now());
        self.send_all(out, net);
    }

    fn send_all(&mut self, all: Vec<Outgoing>, net: &mut Net) {
        for out in all {
            match out {
                Outgoing::Relay(via, frame) => {
                    self.counts.add(Sent::Relayed, net.now());
                    self.send_to_peer(via, Body::Datagram(frame.into()), net);
                }
                Outgoing::Direct(path, datagram) => {
                    self.counts.add(Sent::Direct, net.now());
                    self.send_datagram(path.socket, path.remote, datagram, net);
                }
            }
        }
    }

    fn send_datagram(&mut self, socket: SocketId, to: SocketAddr, bytes: Vec<u8>, net: &mut Net) {
        let Some(&port) = self.sockets.get(&socket) else { return };
        let body = Body::Datagram(bytes.into());
        if net.send(self.config.host, port, to, crate::packet::DEFAULT_TTL, body).is_err()
            && let Some(AgentBox(agent)) = &mut self.agent
        {
            agent.send_failed(DirectPath { socket, remote: to }, net.now());
        }
    }

    fn open_sockets(&mut self, n: u16) -> Vec<(SocketId, u16)> {
        let mut opened = Vec::with_capacity(usize::from(n));
        for _ in 0..n.min(MAX_SOCKETS) {
            let id = SocketId(self.next_socket);
            self.next_socket = self.next_socket.checked_add(1).unwrap_or(1);
            let mut port = self.rng.within(32768..=60999) as u16;
            while self.sockets.values().any(|&p| p == port) {
                port = self.rng.within(32768..=60999) as u16;
            }
            self.sockets.insert(id, port);
            opened.push((id, port));
        }
        opened
    }

    fn close_sockets(&mut self, ids: &[SocketId]) {
        for id in ids.iter().filter(|id| **id != SocketId::MAIN) {
            self.sockets.remove(id);
        }
    }
}

/// How often the addresses that a peer attests are asked for again: a cookie is good for a minute
/// at least.
const REFRESH: Duration = Duration::from_secs(50);
/// Silence of the contact after which the caller takes the relay channel for dead, and knocks.
const DEAF: Duration = Duration::from_secs(2);
/// Silence of the contact after which the connections to the peers are in doubt too.
const SILENCE: Duration = Duration::from_secs(1);
/// Extra sockets that can be opened at once.
const MAX_SOCKETS: u16 = 256;
