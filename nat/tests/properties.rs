//! Whatever happens, in whatever order: an agent keeps its promises.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_nat::limits::{MAX_QUEUE, MAX_SEARCH_PROBES, MAX_SOCKETS};
use halloo_nat::{
    Agent, AgentConfig, AgentEvent, Allocation, Candidate, CandidateKind, Card, Dependence,
    DirectPath, Local, Output, PunchKeys, Purpose, Role, SendOn, SocketId, Traffic, Verdict,
    is_probe_target,
};
use halloo_wire::RoundId;
use proptest::prelude::*;

proptest! {
    #[test]
    fn an_agent_keeps_its_promises(
        operations in prop::collection::vec(operation(), 1..80),
        local in local(),
        role in prop::sample::select(vec![Role::Caller, Role::Callee]),
    ) {
        let mut harness = Harness::new(role, local);
        for operation in operations {
            harness.apply(operation);
        }
        // Without anybody, an agent comes to rest.
        harness.run_for(Duration::from_secs(600));
        let before = harness.datagrams;
        harness.run_for(Duration::from_secs(86_400));
        prop_assert_eq!(harness.datagrams, before, "nothing is sent for ever");
    }
}

/// An agent, its counterpart that answers some of what it sends, and what it has promised.
struct Harness {
    agent: Agent,
    /// Has the same keys, so that some of what comes is authentic.
    other: Agent,
    now: Instant,
    own: Vec<IpAddr>,
    attested: BTreeSet<IpAddr>,
    /// From where an authentic probe came.
    heard: BTreeSet<DirectPath>,
    sources: BTreeSet<SocketAddr>,
    open: BTreeSet<SocketId>,
    /// What the agent sent, for the other to answer.
    sent: Vec<(SocketId, SocketAddr, Vec<u8>)>,
    datagrams: u64,
    route: SendOn,
    watch: bool,
}

impl Harness {
    fn new(role: Role, local: Local) -> Self {
        let now = Instant::now();
        let own = local.ips.clone();
        let make = |role, local| {
            let keys = PunchKeys::derive(&[9; 32], &RoundId([1; 16]), role);
            let relay_rtt = Duration::from_millis(100);
            Agent::new(AgentConfig { role, keys, seed: [role as u8; 32], local, relay_rtt }, now)
        };
        Self {
            agent: make(role, local),
            other: make(role.other(), Local::default()),
            now,
            own,
            attested: BTreeSet::new(),
            heard: BTreeSet::new(),
            sources: BTreeSet::new(),
            open: BTreeSet::from([SocketId::MAIN]),
            sent: Vec::new(),
            datagrams: 0,
            route: SendOn::Relay,
            watch: false,
        }
    }

    fn apply(&mut self, operation: Operation) {
        let now = self.now;
        match operation {
            Operation::SetRemote(card, attested) => {
                self.attested.extend(attested.iter().map(|a| a.ip().to_canonical()));
                self.agent.set_remote(&card, &attested, now);
            }
            Operation::Round(i, role) => {
                let keys = |role| PunchKeys::derive(&[9; 32], &RoundId([i; 16]), role);
                self.agent.begin_round(role, keys(role), now);
                self.other.begin_round(role.other(), keys(role.other()), now);
            }
            Operation::Local(local) => {
                self.own.extend(&local.ips);
                self.agent.local_changed(local, now);
            }
            Operation::Lan(addr) => {
                self.agent.add_lan(addr, now);
            }
            Operation::Garbage(source, bytes) => {
                assert!(self.agent.handle_probe(SocketId::MAIN, source, &bytes, now).is_err());
            }
            Operation::Answer(back) => self.answer(back, None),
            Operation::AnswerFrom(back, source) => self.answer(back, Some(source)),
            Operation::NewSource(source) => {
                self.sources.insert(canonical(source));
                self.agent.new_source(SocketId::MAIN, source, now);
            }
            Operation::Traffic(ago) => {
                let at = |ago: Option<u16>| now.checked_sub(Duration::from_millis(ago?.into()));
                let [sent, heard_direct, heard_relay] = ago.map(at);
                self.agent.traffic(Traffic { sent, heard_direct, heard_relay }, now);
            }
            Operation::SendFailed => {
                let path = self.route.direct().unwrap_or(DirectPath {
                    socket: SocketId::MAIN,
                    remote: ([8, 8, 8, 8], 5_000).into(),
                });
                self.agent.send_failed(path, now);
            }
            Operation::Want(bulk) => self.agent.want(bulk, now),
            Operation::Allow(allowed) => self.agent.allow_birthday(allowed, now),
            Operation::Wait(ms) => self.run_for(Duration::from_millis(ms.into())),
            Operation::Sleep(ms) => {
                // The machine was suspended: one timeout, much too late.
                self.now += Duration::from_millis(ms.into());
                self.agent.handle_timeout(self.now);
            }
        }
        self.drain();
    }

    /// The other side gets one of the last datagrams, and its answers come back.
    fn answer(&mut self, back: u8, source: Option<SocketAddr>) {
        let Some(place) = self.sent.len().checked_sub(1 + usize::from(back)) else { return };
        let (socket, to, datagram) = self.sent[place].clone();
        let us = ([203, 0, 113, 5], 5_000).into();
        let _ = self.other.handle_probe(SocketId::MAIN, us, &datagram, self.now);
        let source = source.unwrap_or(to);
        loop {
            match self.other.poll_output() {
                Output::Transmit(t) => {
                    let taken = self.agent.handle_probe(socket, source, &t.datagram, self.now);
                    if taken.is_ok() {
                        self.heard.insert(DirectPath { socket, remote: canonical(source) });
                        self.sources.insert(canonical(source));
                    }
                }
                Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut idle = 0;
        while let Some(at) = self.drain().filter(|&at| at <= end) {
            idle = if at > self.now { 0 } else { idle + 1 };
            assert!(idle < 4, "the agent wants to be woken again and again");
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn drain(&mut self) -> Option<Instant> {
        let mut outputs = 0;
        let wait = loop {
            outputs += 1;
            assert!(outputs < 2 * MAX_QUEUE, "one input makes few outputs");
            match self.agent.poll_output() {
                Output::Wait(at) => break at,
                Output::Transmit(t) => self.check_transmit(t.socket, t.to, t.purpose, t.datagram),
                Output::Event(event) => self.check_event(event),
            }
        };
        assert_eq!(self.agent.send_on(), self.route, "each change is told");
        assert_eq!(self.agent.why_relayed().is_none(), self.route.direct().is_some());
        assert_eq!(self.watch, self.route.direct().is_some());
        wait
    }

    fn check_transmit(&mut self, socket: SocketId, to: SocketAddr, purpose: Purpose, d: Vec<u8>) {
        self.datagrams += 1;
        assert!(self.open.contains(&socket), "sends from open sockets only");
        assert!(d.len() <= 80);
        if purpose != Purpose::Answer {
            let public = is_probe_target(to, &[]);
            let attested = self.attested.contains(&to.ip());
            let spoke = self.sources.contains(&to);
            assert!(!public || attested || spoke, "a probe to {to}, whom nobody attests");
            assert!(public || spoke || is_probe_target(to, &self.own), "a probe to {to}");
        }
        self.sent.push((socket, to, d));
        if self.sent.len() > 64 {
            self.sent.remove(0);
        }
    }

    fn check_event(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Route(to) => {
                if let Some(path) = to.direct() {
                    assert!(self.heard.contains(&path), "{path:?} has not proved itself");
                }
                assert_ne!(to, self.route);
                self.route = to;
            }
            AgentEvent::Valid { path, .. } | AgentEvent::Invalid { path } => {
                assert!(self.heard.contains(&path));
            }
            AgentEvent::OpenSockets(n) => {
                assert!(n <= MAX_SOCKETS);
                let first = self.open.iter().map(|id| id.0).max().unwrap_or_default() + 1;
                let ids: Vec<SocketId> = (first..first + n / 2).map(SocketId).collect();
                self.open.extend(&ids);
                self.agent.sockets_opened(&ids, self.now);
            }
            AgentEvent::CloseSockets(ids) => {
                for id in ids {
                    assert!(id != SocketId::MAIN && self.open.remove(&id));
                }
                assert!(self.agent.stats().search_probes_sent <= 100 * MAX_SEARCH_PROBES as u64);
            }
            AgentEvent::Watch(watch) => self.watch = watch,
            _ => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Operation {
    SetRemote(Card, Vec<SocketAddr>),
    Round(u8, Role),
    Local(Local),
    Lan(SocketAddr),
    Garbage(SocketAddr, Vec<u8>),
    Answer(u8),
    AnswerFrom(u8, SocketAddr),
    NewSource(SocketAddr),
    Traffic([Option<u16>; 3]),
    SendFailed,
    Want(bool),
    Allow(bool),
    Wait(u16),
    Sleep(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    let role = prop::sample::select(vec![Role::Caller, Role::Callee]);
    let attested = prop::collection::vec(addr(), 0..5);
    prop_oneof![
        3 => (card(), attested).prop_map(|(c, a)| Operation::SetRemote(c, a)),
        1 => (2..20u8, role).prop_map(|(i, r)| Operation::Round(i, r)),
        1 => local().prop_map(Operation::Local),
        1 => addr().prop_map(Operation::Lan),
        1 => (addr(), prop::collection::vec(any::<u8>(), 0..90))
            .prop_map(|(a, b)| Operation::Garbage(a, b)),
        8 => (0..8u8).prop_map(Operation::Answer),
        2 => (0..8u8, addr()).prop_map(|(i, a)| Operation::AnswerFrom(i, a)),
        1 => addr().prop_map(Operation::NewSource),
        5 => prop::array::uniform3(prop::option::of(0..2_000u16)).prop_map(Operation::Traffic),
        1 => Just(Operation::SendFailed),
        2 => any::<bool>().prop_map(Operation::Want),
        3 => prop::bool::weighted(0.8).prop_map(Operation::Allow),
        6 => (1..3_000u16).prop_map(Operation::Wait),
        1 => (1..200_000u32).prop_map(Operation::Sleep),
    ]
}

fn card() -> impl Strategy<Value = Card> {
    let candidate =
        (prop::sample::select(vec![CandidateKind::Host, CandidateKind::Mapped]), addr())
            .prop_map(|(kind, addr)| Candidate { kind, addr });
    (verdict(), any::<u16>(), any::<bool>(), prop::collection::vec(candidate, 0..8)).prop_map(
        |(verdict, local_port, birthday, candidates)| Card {
            round: None,
            again: None,
            verdict,
            local_port,
            birthday,
            candidates,
        },
    )
}

fn local() -> impl Strategy<Value = Local> {
    let ips = prop::collection::vec(addr().prop_map(|a| a.ip()), 0..3);
    (ips, verdict(), any::<u16>(), prop::collection::vec(addr(), 0..3), any::<bool>()).prop_map(
        |(ips, verdict, port, observed, birthday)| Local { ips, verdict, port, observed, birthday },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let dependence = || {
        prop::sample::select(vec![
            Dependence::Unknown,
            Dependence::EndpointIndependent,
            Dependence::AddressDependent,
            Dependence::AddressAndPortDependent,
        ])
    };
    let allocation = prop::sample::select(vec![
        Allocation::Unknown,
        Allocation::Preserving,
        Allocation::Sequential { delta: -3 },
        Allocation::Block { first: 65_000, size: 536 },
        Allocation::Random,
    ]);
    (dependence(), dependence(), allocation).prop_map(|(mapping, filtering, allocation)| Verdict {
        mapping,
        filtering,
        allocation,
    })
}

/// Few enough that addresses meet each other, and of all kinds.
fn addr() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        (0..3u8).prop_map(|i| IpAddr::from([8, 8, 8, i])),
        (0..3u8).prop_map(|i| IpAddr::from([10, 0, 0, i])),
        (0..3u8).prop_map(|i| IpAddr::from([127, 0, 0, i])),
        (0..3u16).prop_map(|i| IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, i])),
        (0..3u16).prop_map(|i| IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0808, 0x0800 + i])),
        Just(IpAddr::from([224, 0, 0, 1])),
    ];
    (ip, prop_oneof![Just(53u16), Just(443), 5_000..5_004u16])
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
