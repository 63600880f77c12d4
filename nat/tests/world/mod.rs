//! Two agents, each behind a NAT, a relay between them, and time that the test lets pass.
#![allow(dead_code, unreachable_pub)]

pub mod nat;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_nat::{
    Agent, AgentConfig, AgentEvent, Allocation, Budget, Candidate, Card, DirectPath, KnockReason,
    Local, Output, PunchKeys, Role, Searches, SendOn, SocketId, Technique, Traffic, Verdict,
    WATCH_INTERVAL, WhyRelayed,
};
use halloo_wire::RoundId;
use nat::Nat;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The rendezvous peer's address.
pub const PEER: &str = "192.0.2.1:443";
/// One way from node to node.
pub const DELAY: Duration = Duration::from_millis(50);
/// One way through the relay.
pub const RELAY_DELAY: Duration = Duration::from_millis(50);

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub nodes: [Node; 2],
    /// Per mille of direct datagrams that are lost.
    pub loss: u32,
    /// Whether datagrams from this node get to the other directly.
    pub direct_works: [bool; 2],
    pub relay_works: bool,
    flying: BTreeMap<(Instant, u64), Flight>,
    flights: u64,
    rng: ChaCha12Rng,
    round: u8,
}

pub struct Node {
    pub agent: Agent,
    pub nat: Nat,
    pub card: Card,
    pub local: Local,
    pub budget: Budget,
    pub searches: Searches,
    /// Open sockets and the ports to which they are bound.
    pub sockets: BTreeMap<SocketId, u16>,
    pub valid: BTreeMap<DirectPath, Technique>,
    pub knocks: Vec<KnockReason>,
    pub relayed: Vec<WhyRelayed>,
    /// Each change of the route, with its time since the start.
    pub routes: Vec<(Duration, SendOn)>,
    /// Probes sent, by destination.
    pub sent_to: BTreeMap<SocketAddr, usize>,
    /// Data: how often it is sent, and what has arrived.
    pub talks_every: Option<Duration>,
    pub talked: u32,
    pub got: BTreeSet<u32>,
    /// Longest time between two arrivals of data.
    pub last_got: Instant,
    pub longest_silence: Duration,
    /// Whether the network lets new sockets be opened.
    pub opens_sockets: bool,
    watch: bool,
    traffic: Traffic,
    next_talk: Instant,
    next_watch: Instant,
    next_socket: u16,
}

struct Flight {
    to: usize,
    via: Via,
    bytes: Bytes,
}

enum Via {
    Relay,
    Direct { from: SocketAddr, to: SocketAddr },
}

#[derive(Clone)]
enum Bytes {
    Probe(Vec<u8>),
    Data(u32),
    Ack,
}

impl World {
    pub fn new(a: Verdict, b: Verdict, seed: u8) -> Self {
        let start = Instant::now();
        let nodes = [0, 1].map(|i| Node::new(i, [a, b][i], seed, start));
        Self {
            start,
            now: start,
            nodes,
            loss: 0,
            direct_works: [true; 2],
            relay_works: true,
            flying: BTreeMap::new(),
            flights: 0,
            rng: ChaCha12Rng::from_seed([seed; 32]),
            round: 1,
        }
    }

    pub fn since_start(&self) -> Duration {
        self.now - self.start
    }

    /// Both sides learn of each other now.
    pub fn meet(&mut self) {
        self.meet_one(0);
        self.meet_one(1);
    }

    /// This side learns of the other now.
    pub fn meet_one(&mut self, us: usize) {
        let them = &mut self.nodes[1 - us];
        let attested = them.observed();
        let card = them.card.clone();
        self.nodes[us].agent.set_remote(&card, &[attested], self.now);
        self.drain(us);
    }

    /// A knock from `us` reaches the other side: both begin a new round.
    pub fn knock(&mut self, us: usize) {
        self.round += 1;
        let round = RoundId([self.round; 16]);
        for side in [us, 1 - us] {
            let role = if side == us { Role::Caller } else { Role::Callee };
            let keys = PunchKeys::derive(&[9; 32], &round, role);
            self.nodes[side].agent.begin_round(role, keys, self.now);
        }
        self.meet();
    }

    /// Lets time pass until the condition holds; panics after `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.step(end),
                "not within {limit:?}: {:?}",
                self.nodes.each_ref().map(|n| &n.agent)
            );
        }
        self.since_start()
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// The next event, unless it is after `end`.
    fn step(&mut self, end: Instant) -> bool {
        let mut next = self.flying.keys().next().map(|&(at, _)| at);
        for us in 0..2 {
            let wake = self.drain(us);
            let node = &self.nodes[us];
            let talk = node.talks_every.map(|_| node.next_talk);
            let watch = node.watch.then_some(node.next_watch);
            next = next.into_iter().chain(wake).chain(talk).chain(watch).min();
        }
        let flying = self.flying.keys().next().map(|&(at, _)| at);
        let Some(next) = next.into_iter().chain(flying).min().filter(|&at| at <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        if flying.is_some_and(|at| at <= self.now) {
            let (_, flight) = self.flying.pop_first().unwrap();
            self.arrive(flight);
        }
        for us in 0..2 {
            self.talk(us);
            let node = &mut self.nodes[us];
            if node.watch && node.next_watch <= self.now {
                node.next_watch = self.now + WATCH_INTERVAL;
                node.agent.traffic(node.traffic, self.now);
            }
            node.agent.handle_timeout(self.now);
            self.drain(us);
        }
        true
    }

    fn talk(&mut self, us: usize) {
        let now = self.now;
        let node = &mut self.nodes[us];
        let Some(every) = node.talks_every.filter(|_| node.next_talk <= now) else { return };
        node.next_talk = now + every;
        node.talked += 1;
        let data = Bytes::Data(node.talked);
        if node.agent.send_on().direct().is_some() {
            node.traffic.sent = Some(now);
        }
        self.send(us, data);
    }

    /// Sends on the contact's route.
    fn send(&mut self, us: usize, bytes: Bytes) {
        let route = self.nodes[us].agent.send_on();
        if !matches!(route, SendOn::Direct(_)) && self.relay_works {
            self.fly(RELAY_DELAY, Flight { to: 1 - us, via: Via::Relay, bytes: bytes.clone() });
        }
        if let Some(path) = route.direct() {
            self.send_direct(us, path, bytes);
        }
    }

    fn send_direct(&mut self, us: usize, path: DirectPath, bytes: Bytes) {
        let node = &mut self.nodes[us];
        let Some(&inside) = node.sockets.get(&path.socket) else { return };
        let from = node.nat.outbound(path.socket, inside, path.remote);
        let lost = self.rng.next_u32() % 1_000 < self.loss || !self.direct_works[us];
        let reaches = self.nodes[1 - us].nat.ip == path.remote.ip();
        if reaches && !lost {
            let via = Via::Direct { from, to: path.remote };
            self.fly(DELAY, Flight { to: 1 - us, via, bytes });
        }
    }

    fn fly(&mut self, delay: Duration, flight: Flight) {
        self.flights += 1;
        self.flying.insert((self.now + delay, self.flights), flight);
    }

    fn arrive(&mut self, flight: Flight) {
        let now = self.now;
        let us = flight.to;
        let node = &mut self.nodes[us];
        match flight.via {
            Via::Relay => node.traffic.heard_relay = Some(now),
            Via::Direct { from, to } => {
                let Some(socket) = node.nat.inbound(to.port(), from) else { return };
                if !node.sockets.contains_key(&socket) {
                    return;
                }
                if let Bytes::Probe(datagram) = &flight.bytes {
                    let _ = node.agent.handle_probe(socket, from, datagram, now);
                    self.drain(us);
                    return;
                }
                node.traffic.heard_direct = Some(now);
                if !node.valid.contains_key(&DirectPath { socket, remote: from }) {
                    node.agent.new_source(socket, from, now);
                    self.drain(us);
                }
            }
        }
        let node = &mut self.nodes[us];
        if let Bytes::Data(number) = flight.bytes {
            if node.got.insert(number) {
                let silence = now - node.last_got;
                node.longest_silence = node.longest_silence.max(silence);
                node.last_got = now;
            }
            self.send(us, Bytes::Ack);
        }
    }

    /// Does what the agent says; returns when it wants to be woken.
    pub fn drain(&mut self, us: usize) -> Option<Instant> {
        let now = self.now;
        loop {
            let node = &mut self.nodes[us];
            match node.agent.poll_output() {
                Output::Wait(at) => return at,
                Output::Transmit(t) => {
                    if !node.budget.take(t.purpose, now) {
                        continue;
                    }
                    *node.sent_to.entry(t.to).or_default() += 1;
                    if t.ttl.is_some() {
                        // It opens our own NAT and goes no further.
                        let inside = node.sockets[&t.socket];
                        node.nat.outbound(t.socket, inside, t.to);
                        continue;
                    }
                    let path = DirectPath { socket: t.socket, remote: t.to };
                    self.send_direct(us, path, Bytes::Probe(t.datagram));
                }
                Output::Event(event) => self.act(us, event),
            }
        }
    }

    fn act(&mut self, us: usize, event: AgentEvent) {
        let now = self.now;
        let since_start = self.since_start();
        let node = &mut self.nodes[us];
        match event {
            AgentEvent::Route(to) => node.routes.push((since_start, to)),
            AgentEvent::Valid { path, technique } => {
                node.valid.insert(path, technique);
            }
            AgentEvent::Invalid { path } => {
                node.valid.remove(&path).expect("only a valid path becomes invalid");
            }
            AgentEvent::OpenSockets(n) => {
                let n = if node.opens_sockets { n } else { 0 };
                let ids: Vec<SocketId> = (0..n).map(|i| SocketId(node.next_socket + i)).collect();
                node.next_socket += n;
                for id in &ids {
                    node.sockets.insert(*id, 10_000 + id.0);
                }
                node.agent.sockets_opened(&ids, now);
            }
            AgentEvent::CloseSockets(ids) => {
                for id in ids {
                    node.sockets.remove(&id).expect("only open sockets are closed");
                }
            }
            AgentEvent::Watch(watch) => {
                node.watch = watch;
                node.next_watch = now;
            }
            AgentEvent::Knock(reason) => node.knocks.push(reason),
            AgentEvent::WantBirthday(pair) => {
                let allowed = node.searches.begin(pair, now);
                node.agent.allow_birthday(allowed, now);
            }
            AgentEvent::BirthdayOver { pair, outcome } => node.searches.over(pair, outcome, now),
            AgentEvent::Relayed(why) => node.relayed.push(why),
        }
    }
}

impl Node {
    fn new(i: usize, behaviour: Verdict, seed: u8, now: Instant) -> Self {
        let mut nat = Nat::new(["203.0.113.5", "198.51.100.7"][i], behaviour, seed + i as u8);
        let port = 5_000 + i as u16;
        let peer = PEER.parse().unwrap();
        let observed = nat.outbound(SocketId::MAIN, port, peer);
        // What the prober would have found out of the allocation of a NAT that maps independently.
        let told = match behaviour.mapping {
            halloo_nat::Dependence::EndpointIndependent => {
                Verdict { allocation: Allocation::Unknown, ..behaviour }
            }
            _ => behaviour,
        };
        let local = Local {
            ips: Vec::new(),
            verdict: told,
            port,
            observed: vec![observed],
            birthday: false,
        };
        let card = Card { verdict: told, local_port: port, ..Card::default() };
        let role = [Role::Caller, Role::Callee][i];
        let keys = PunchKeys::derive(&[9; 32], &RoundId([1; 16]), role);
        let relay_rtt = RELAY_DELAY * 2;
        let config =
            AgentConfig { role, keys, seed: [seed + i as u8; 32], local: local.clone(), relay_rtt };
        Self {
            agent: Agent::new(config, now),
            nat,
            card,
            local,
            budget: Budget::new(now),
            searches: Searches::default(),
            sockets: BTreeMap::from([(SocketId::MAIN, port)]),
            valid: BTreeMap::new(),
            knocks: Vec::new(),
            relayed: Vec::new(),
            routes: Vec::new(),
            sent_to: BTreeMap::new(),
            talks_every: None,
            talked: 0,
            got: BTreeSet::new(),
            last_got: now,
            longest_silence: Duration::ZERO,
            opens_sockets: true,
            watch: false,
            traffic: Traffic::default(),
            next_talk: now,
            next_watch: now,
            next_socket: 1,
        }
    }

    /// Where the rendezvous peer sees the main socket.
    pub fn observed(&mut self) -> SocketAddr {
        let port = self.sockets[&SocketId::MAIN];
        self.nat.outbound(SocketId::MAIN, port, PEER.parse().unwrap())
    }

    /// Consents to a birthday search, or not, in its card too.
    pub fn consent(&mut self, yes: bool, now: Instant) {
        self.card.birthday = yes;
        self.local.birthday = yes;
        self.agent.local_changed(self.local.clone(), now);
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.agent.send_on(), SendOn::Direct(_))
    }

    pub fn is_relayed(&self) -> bool {
        self.agent.send_on() == SendOn::Relay
    }

    pub fn talks(&mut self, every: Duration, now: Instant) {
        self.talks_every = Some(every);
        self.next_talk = now;
        self.last_got = now;
    }

    pub fn candidate(&mut self, kind: halloo_nat::CandidateKind, addr: &str) {
        self.card.candidates.push(Candidate { kind, addr: addr.parse().unwrap() });
    }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
