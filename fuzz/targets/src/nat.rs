//! Targets for `halloo-nat`: probes from anywhere, and agents to which anything happens.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_nat::limits::{MAX_QUEUE, PROBE_LEN};
use halloo_nat::{
    Agent, AgentConfig, AgentEvent, Allocation, Candidate, CandidateKind, Card, Dependence,
    DirectPath, Local, Output, PunchKeys, Purpose, Role, SendOn, SocketId, Traffic, Verdict,
    is_probe_target,
};
use halloo_wire::{RoundId, Writer};

/// Datagrams that were never sealed, and the plaintext of those that were.
pub fn nat_probe(data: &[u8]) {
    halloo_nat::fuzzing::probe_plaintext(data);
    let mut harness = Harness::new(0);
    // Also as what a probe's key id lets in.
    let mut named = Writer::with_capacity(10 + data.len());
    named.u8(4).u8(1).u64(harness.agent.receive_ids()[0]).put(data);
    for datagram in [data, &named.into_vec()] {
        let source = ([8, 8, 8, 8], 5_000).into();
        let now = harness.now;
        let taken = harness.agent.handle_probe(SocketId::MAIN, source, datagram, now);
        assert!(taken.is_err(), "nothing opens that was not sealed");
    }
    assert!(matches!(harness.agent.poll_output(), Output::Wait(None)), "nothing is answered");
}

/// Operations: a byte chooses each, the following ones are its arguments.
pub fn nat_agent(data: &[u8]) {
    // More than this repeats itself, and a target has to end soon.
    const OPERATIONS: usize = 400;
    let mut bytes = Bytes(data);
    let mut harness = Harness::new(bytes.next());
    for _ in 0..OPERATIONS {
        if bytes.0.is_empty() {
            break;
        }
        harness.operate(&mut bytes);
    }
}

/// The rest of an input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.next(), self.next()])
    }

    fn addr(&mut self) -> SocketAddr {
        let [kind, host, port] = [self.next(), self.next(), self.next()];
        let ip = match kind % 6 {
            0 => IpAddr::from([8, 8, 8, host]),
            1 => IpAddr::from([10, 0, 0, host]),
            2 => IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, u16::from(host)]),
            3 => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0808, 0x0800 + u16::from(host)]),
            4 => IpAddr::from([host, 0, 0, 1]),
            _ => IpAddr::from([127, 0, 0, host]),
        };
        SocketAddr::new(ip, [53, 443, 5_000, 5_001][usize::from(port % 4)])
    }

    fn verdict(&mut self) -> Verdict {
        let [behaviour, allocation] = [self.next(), self.next()];
        let dependence = |n| match n % 4 {
            0 => Dependence::Unknown,
            1 => Dependence::EndpointIndependent,
            2 => Dependence::AddressDependent,
            _ => Dependence::AddressAndPortDependent,
        };
        let allocation = match allocation % 5 {
            0 => Allocation::Unknown,
            1 => Allocation::Preserving,
            2 => Allocation::Sequential { delta: i16::from(allocation) - 127 },
            3 => Allocation::Block { first: u16::from(allocation) * 256, size: 256 },
            _ => Allocation::Random,
        };
        let (mapping, filtering) = (dependence(behaviour), dependence(behaviour >> 2));
        Verdict { mapping, filtering, allocation }
    }

    fn card(&mut self) -> Card {
        let [count, flags] = [self.next() % 9, self.next()];
        let kinds = [CandidateKind::Host, CandidateKind::Mapped, CandidateKind::ServerReflexive];
        let candidates = (0..count)
            .map(|i| Candidate { kind: kinds[usize::from(i % 3)], addr: self.addr() })
            .collect();
        let (verdict, local_port) = (self.verdict(), self.number());
        Card { round: None, again: None, verdict, local_port, birthday: flags & 1 == 1, candidates }
    }

    fn local(&mut self) -> Local {
        let [count, flags] = [self.next(), self.next()];
        Local {
            ips: (0..count % 3).map(|_| self.addr().ip()).collect(),
            verdict: self.verdict(),
            port: self.number(),
            observed: (0..count / 3 % 3).map(|_| self.addr()).collect(),
            birthday: flags & 1 == 1,
        }
    }
}

/// An agent, another with its keys, and what the first has promised.
struct Harness {
    agent: Agent,
    other: Agent,
    now: Instant,
    attested: BTreeSet<IpAddr>,
    /// From where something authentic came, or QUIC.
    sources: BTreeSet<SocketAddr>,
    heard: BTreeSet<DirectPath>,
    open: BTreeSet<SocketId>,
    sent: Vec<(SocketId, SocketAddr, Vec<u8>)>,
    route: SendOn,
}

impl Harness {
    fn new(role: u8) -> Self {
        let now = Instant::now();
        let role = if role & 1 == 0 { Role::Caller } else { Role::Callee };
        let agent = |role| {
            let keys = PunchKeys::derive(&[9; 32], &RoundId([0; 16]), role);
            let (local, relay_rtt) = (Local::default(), Duration::from_millis(100));
            Agent::new(AgentConfig { role, keys, seed: [role as u8; 32], local, relay_rtt }, now)
        };
        Self {
            agent: agent(role),
            other: agent(role.other()),
            now,
            attested: BTreeSet::new(),
            sources: BTreeSet::new(),
            heard: BTreeSet::new(),
            open: BTreeSet::from([SocketId::MAIN]),
            sent: Vec::new(),
            route: SendOn::Relay,
        }
    }

    fn operate(&mut self, bytes: &mut Bytes<'_>) {
        let now = self.now;
        match bytes.next() % 14 {
            0 => {
                let card = bytes.card();
                let attested: Vec<_> = (0..bytes.next() % 6).map(|_| bytes.addr()).collect();
                self.attested.extend(attested.iter().map(|a| a.ip().to_canonical()));
                self.agent.set_remote(&card, &attested, now);
            }
            1 => {
                let (round, role) = (RoundId([bytes.next(); 16]), self.agent.role());
                let keys = |role| PunchKeys::derive(&[9; 32], &round, role);
                self.agent.begin_round(role.other(), keys(role.other()), now);
                self.other.begin_round(role, keys(role), now);
            }
            2 => self.agent.local_changed(bytes.local(), now),
            3 => self.agent.add_lan(bytes.addr(), now),
            4 => {
                let source = bytes.addr();
                self.sources.insert(canonical(source));
                self.agent.new_source(SocketId::MAIN, source, now);
            }
            5 | 6 => self.answer(bytes.next(), None),
            7 => {
                let back = bytes.next();
                self.answer(back, Some(bytes.addr()));
            }
            8 => {
                let mut at = || now.checked_sub(Duration::from_millis(bytes.number().into()));
                let (sent, heard_direct, heard_relay) = (at(), at(), at());
                self.agent.traffic(Traffic { sent, heard_direct, heard_relay }, now);
            }
            9 => {
                let remote = bytes.addr();
                let somewhere = DirectPath { socket: SocketId::MAIN, remote };
                self.agent.send_failed(self.route.direct().unwrap_or(somewhere), now);
            }
            10 => self.agent.want(bytes.next() & 1 == 1, now),
            11 => self.agent.allow_birthday(bytes.next() & 3 != 0, now),
            12 => {
                self.now += Duration::from_millis(bytes.number().into());
                self.agent.handle_timeout(self.now);
            }
            _ => {
                // As the agent wishes, for a while.
                for _ in 0..bytes.next() {
                    let Some(at) = self.drain() else { break };
                    self.now = self.now.max(at);
                    self.agent.handle_timeout(self.now);
                }
            }
        }
        self.drain();
    }

    /// The other side gets one of the last datagrams, and its answers come back.
    fn answer(&mut self, back: u8, source: Option<SocketAddr>) {
        let Some(place) = self.sent.len().checked_sub(1 + usize::from(back % 16)) else { return };
        let (socket, to, datagram) = self.sent[place].clone();
        let us = ([203, 0, 113, 5], 5_000).into();
        let _ = self.other.handle_probe(SocketId::MAIN, us, &datagram, self.now);
        let source = source.unwrap_or(to);
        while let Output::Transmit(t) = self.other.poll_output() {
            let taken = self.agent.handle_probe(socket, source, &t.datagram, self.now);
            if taken.is_ok() {
                self.sources.insert(canonical(source));
                self.heard.insert(DirectPath { socket, remote: canonical(source) });
            }
        }
        while !matches!(self.other.poll_output(), Output::Wait(_)) {}
    }

    fn drain(&mut self) -> Option<Instant> {
        for _ in 0..2 * MAX_QUEUE {
            match self.agent.poll_output() {
                Output::Wait(at) => {
                    assert_eq!(self.agent.send_on(), self.route, "each change is told");
                    return at;
                }
                Output::Transmit(t) => {
                    assert!(self.open.contains(&t.socket), "sends from open sockets");
                    assert_eq!(t.datagram.len(), PROBE_LEN);
                    let known = self.attested.contains(&t.to.ip()) || self.sources.contains(&t.to);
                    assert!(
                        known || t.purpose == Purpose::Answer || !is_probe_target(t.to, &[]),
                        "a probe to somebody whom nobody attests"
                    );
                    self.sent.push((t.socket, t.to, t.datagram));
                    if self.sent.len() > 64 {
                        self.sent.remove(0);
                    }
                }
                Output::Event(event) => self.act(event),
            }
        }
        panic!("one input makes few outputs");
    }

    fn act(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Route(to) => {
                assert!(to.direct().is_none_or(|path| self.heard.contains(&path)));
                self.route = to;
            }
            AgentEvent::OpenSockets(n) => {
                let first = self.open.last().map_or(1, |id| id.0 + 1);
                let ids: Vec<_> = (first..first.saturating_add(n)).map(SocketId).collect();
                self.open.extend(&ids);
                self.agent.sockets_opened(&ids, self.now);
            }
            AgentEvent::CloseSockets(ids) => {
                for id in ids {
                    assert!(id != SocketId::MAIN && self.open.remove(&id));
                }
            }
            _ => {}
        }
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
