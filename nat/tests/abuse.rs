//! What a hostile contact can make of us is what `limits` says, and no more.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_nat::limits::{
    CHECK_SCHEDULE_MS, MAX_ATTESTED_TARGETS, MAX_LAN, MAX_QUEUE, PREDICTED_PORTS,
    PREDICTION_PASSES, PROBE_LEN, PUNCH_SCHEDULE_MS, ROUND_BURST, ROUND_EACH, SOURCES_BURST,
    UNATTESTED_BURST, UNATTESTED_EACH,
};
use halloo_nat::{
    Agent, AgentConfig, AgentEvent, Allocation, Candidate, CandidateKind, Card, Dependence, Local,
    MAX_CANDIDATES, Output, PunchKeys, Purpose, Reject, Role, SocketId, Verdict,
};
use halloo_wire::RoundId;

#[test]
fn a_thousand_candidates_in_the_internet_bother_nobody() {
    let mut us = Victimised::new();
    for i in 0..125u8 {
        us.round(i);
        let victims = (0..8u16).map(|j| SocketAddr::from(([8, 8, i, 1], 5_000 + j)));
        us.agent.set_remote(&card(victims), &[], us.now);
        us.run_for(ROUND_EACH);
    }
    assert!(us.sent.is_empty(), "{:?}", us.sent);
}

#[test]
fn a_thousand_local_candidates_bother_a_neighbour_no_more_than_written() {
    let mut us = Victimised::new();
    let started = us.now;
    for i in 0..125u16 {
        us.round(i as u8);
        let victims = (0..8).map(|j| SocketAddr::from(([10, 0, 0, 66], 5_000 + 8 * i + j)));
        us.agent.set_remote(&card(victims), &[], us.now);
        us.run_for(ROUND_EACH);
    }
    us.run_for(Duration::from_secs(60));
    let seconds = (us.now - started).as_secs();
    let bound = u64::from(UNATTESTED_BURST) + seconds / UNATTESTED_EACH.as_secs();
    let sent = us.total();
    assert!(sent <= bound, "{sent} of {bound}");
    assert!(sent >= u64::from(UNATTESTED_BURST), "the limit is what stopped it: {sent}");
}

#[test]
fn one_round_sends_no_more_than_eight_times_seven() {
    let mut us = Victimised::new();
    let local = (0..20u8).map(|i| SocketAddr::from(([10, 0, 0, i], 5_000)));
    let mut card = card(local);
    card.candidates.truncate(MAX_CANDIDATES);
    let attested: Vec<SocketAddr> = (0..20u8).map(|i| ([8, 8, 8, i], 5_000).into()).collect();
    us.agent.set_remote(&card, &attested, us.now);
    us.run_for(Duration::from_secs(3_600));
    assert_eq!(us.sent.len(), MAX_CANDIDATES);
    assert!(us.sent.values().all(|&n| n == PUNCH_SCHEDULE_MS.len() as u64), "{:?}", us.sent);
}

#[test]
fn rounds_that_come_too_fast_are_not_probed() {
    let mut us = Victimised::new();
    let attested = [SocketAddr::from(([8, 8, 8, 8], 5_000))];
    let started = us.now;
    for i in 0..100u8 {
        us.round(i);
        us.agent.set_remote(&card([]), &attested, us.now);
        us.run_for(Duration::from_millis(500));
    }
    let elapsed = (us.now - started).as_secs_f64();
    let rounds = f64::from(ROUND_BURST) + elapsed / ROUND_EACH.as_secs_f64();
    assert!(us.total() as f64 <= rounds * PUNCH_SCHEDULE_MS.len() as f64, "{}", us.total());
    assert!(us.agent.stats().rounds_refused > 80);
}

#[test]
fn predicted_ports_are_as_many_as_written() {
    let mut us = Victimised::new();
    let mut card = card([]);
    card.verdict = Verdict {
        mapping: Dependence::AddressAndPortDependent,
        filtering: Dependence::AddressAndPortDependent,
        allocation: Allocation::Sequential { delta: 7 },
    };
    let attested: Vec<SocketAddr> = (0..4u8).map(|i| ([8, 8, 8, i], 5_000).into()).collect();
    us.agent.set_remote(&card, &attested, us.now);
    us.run_for(Duration::from_secs(60));
    let targets = MAX_ATTESTED_TARGETS as u64;
    let scheduled = targets * PUNCH_SCHEDULE_MS.len() as u64;
    let predicted = targets * PREDICTED_PORTS as u64 * PREDICTION_PASSES as u64;
    assert_eq!(us.total(), scheduled + predicted);
}

#[test]
fn what_is_not_authentic_is_never_answered() {
    let mut us = Victimised::new();
    us.run_for(Duration::from_secs(1));
    let mut hers = us.contact(0);
    let probe = hers.ping();
    let mut rejects = Vec::new();
    for i in 0..probe.len() {
        let mut forged = probe.clone();
        forged[i] ^= 0x40;
        rejects.push(us.hears([9, 9, 9, 9], 5_000, &forged).unwrap_err());
    }
    assert!(rejects.contains(&Reject::Malformed));
    assert!(rejects.contains(&Reject::UnknownKey));
    assert!(rejects.contains(&Reject::NotAuthentic));
    assert_eq!(us.total(), 0);
    assert_eq!(us.agent.stats().rejected, probe.len() as u64);
}

#[test]
fn a_replayed_probe_is_never_answered() {
    let mut us = Victimised::new();
    let probe = us.contact(0).ping();
    us.hears([9, 9, 9, 9], 5_000, &probe).unwrap();
    us.run_for(Duration::from_secs(10));
    let before = us.total();
    for i in 0..200 {
        assert_eq!(us.hears([9, 9, 9, i], 5_000, &probe), Err(Reject::Replayed));
        us.run_for(Duration::from_millis(100));
    }
    assert_eq!(us.total(), before);
}

#[test]
fn a_forged_source_gets_the_answer_and_a_few_pings() {
    let mut us = Victimised::new();
    let mut hers = us.contact(0);
    let probe = hers.ping();
    us.hears([9, 9, 9, 9], 5_000, &probe).unwrap();
    us.run_for(Duration::from_secs(600));
    assert_eq!(us.total(), 1 + CHECK_SCHEDULE_MS.len() as u64);
    assert!(us.agent.send_on().direct().is_none(), "no data to what has not answered");
}

#[test]
fn thousand_forged_sources_get_no_more_than_their_own_probes_and_the_written_pings() {
    let mut us = Victimised::new();
    let mut hers = us.contact(0);
    let started = us.now;
    let mut taken = 0;
    for i in 0..1_000u16 {
        let probe = hers.ping();
        let port = 5_000 + i;
        taken += u64::from(us.hears([9, 9, 9, 9], port, &probe).is_ok());
        us.run_for(Duration::from_millis(10));
    }
    us.run_for(Duration::from_secs(10));
    let seconds = (us.now - started).as_secs();
    let pings = u64::from(UNATTESTED_BURST) + seconds;
    assert!(us.total() <= taken + pings, "{} for {taken}", us.total());
    assert!(taken <= u64::from(SOURCES_BURST) + 4 * seconds, "{taken} sources");
}

#[test]
fn special_addresses_are_not_answered_even_if_authentic() {
    let mut us = Victimised::new();
    let mut hers = us.contact(0);
    for (source, port) in [
        ([224, 0, 0, 1], 5_000),
        ([255, 255, 255, 255], 5_000),
        ([0, 0, 0, 0], 5_000),
        ([9, 9, 9, 9], 53),
        ([9, 9, 9, 9], 123),
        ([9, 9, 9, 9], 0),
    ] {
        let probe = hers.ping();
        assert_eq!(us.hears(source, port, &probe), Err(Reject::Source));
    }
    us.agent.new_source(SocketId::MAIN, ([9, 9, 9, 9], 53).into(), us.now);
    us.agent.add_lan(([9, 9, 9, 9], 5_000).into(), us.now);
    us.agent.add_lan(([169, 254, 0, 1], 5_000).into(), us.now);
    us.agent.set_remote(&card([]), &[([224, 0, 0, 1], 5_000).into()], us.now);
    us.run_for(Duration::from_secs(10));
    assert_eq!(us.total(), 0);
}

#[test]
fn quic_from_nowhere_is_probed_a_little_and_believed_not_at_all() {
    let mut us = Victimised::new();
    for i in 0..1_000u16 {
        us.agent.new_source(SocketId::MAIN, ([9, 9, 9, 9], 5_000 + i).into(), us.now);
        us.run_for(Duration::from_millis(1));
    }
    us.run_for(Duration::from_secs(10));
    assert!(us.total() <= u64::from(UNATTESTED_BURST) + 11, "{}", us.total());
    assert!(us.events.is_empty(), "{:?}", us.events);
}

#[test]
fn an_attested_address_that_only_sends_gets_data_for_a_second_once() {
    let mut us = Victimised::new();
    let attested = SocketAddr::from(([8, 8, 8, 8], 5_000));
    us.agent.set_remote(&card([]), &[attested], us.now);
    let mut hers = us.contact(0);
    let mut with_data = Duration::ZERO;
    for _ in 0..600 {
        let probe = hers.ping();
        us.hears([8, 8, 8, 8], 5_000, &probe).unwrap();
        us.run_for(Duration::from_millis(100));
        if us.agent.send_on().direct().is_some() {
            with_data += Duration::from_millis(100);
        }
    }
    assert!(with_data <= Duration::from_millis(1_100), "{with_data:?}");
}

#[test]
fn of_many_neighbours_that_announce_themselves_a_few_are_remembered() {
    let mut us = Victimised::new();
    for i in 0..10 {
        us.agent.add_lan(([10, 0, 0, 100 + i], 5_000).into(), us.now);
    }
    us.run_for(Duration::from_secs(120));
    us.sent.clear();
    us.agent.set_remote(&card([]), &[], us.now);
    us.run_for(Duration::from_secs(10));
    assert_eq!(us.sent.len(), MAX_LAN, "{:?}", us.sent);
}

#[test]
fn what_waits_for_a_driver_is_bounded() {
    let mut us = Victimised::new();
    let mut hers = us.contact(0);
    for _ in 0..1_000 {
        let source = ([9, 9, 9, 9], 5_000).into();
        us.agent.handle_probe(SocketId::MAIN, source, &hers.ping(), us.now).unwrap();
    }
    us.drain();
    assert!(us.total() <= MAX_QUEUE as u64, "{}", us.total());
}

#[test]
fn no_probe_is_larger_than_written() {
    let mut us = Victimised::new();
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 5_000));
    us.agent.set_remote(&card([]), &[v6, ([8, 8, 8, 8], 5_000).into()], us.now);
    let probe = us.contact(0).ping();
    us.hears([9, 9, 9, 9], 5_000, &probe).unwrap();
    us.run_for(Duration::from_secs(2));
    assert!(us.total() > 10);
    assert_eq!(us.sizes, [PROBE_LEN], "question and answer have one size");
}

/// An agent in 10.0.0.0/8 whose datagrams are counted and lost.
struct Victimised {
    agent: Agent,
    now: Instant,
    sent: BTreeMap<SocketAddr, u64>,
    sizes: Vec<usize>,
    events: Vec<AgentEvent>,
}

impl Victimised {
    fn new() -> Self {
        let now = Instant::now();
        let local = Local {
            ips: vec!["10.0.0.5".parse().unwrap()],
            port: 5_000,
            observed: vec!["203.0.113.5:5000".parse().unwrap()],
            ..Local::default()
        };
        let agent = agent(Role::Callee, 0, local, now);
        Self { agent, now, sent: BTreeMap::new(), sizes: Vec::new(), events: Vec::new() }
    }

    /// The hostile contact knocks with another round.
    fn round(&mut self, i: u8) {
        let keys = PunchKeys::derive(&[9; 32], &RoundId([i; 16]), Role::Callee);
        self.agent.begin_round(Role::Callee, keys, self.now);
    }

    fn contact(&self, round: u8) -> Contact {
        Contact::new(round, self.now)
    }

    fn hears(&mut self, source: [u8; 4], port: u16, datagram: &[u8]) -> Result<(), Reject> {
        let source = (source, port).into();
        let taken = self.agent.handle_probe(SocketId::MAIN, source, datagram, self.now);
        self.drain();
        taken
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.drain().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.agent.poll_output() {
                Output::Wait(at) => return at,
                Output::Event(event) => self.events.push(event),
                Output::Transmit(t) => {
                    assert_ne!(t.purpose, Purpose::Check, "nothing has answered");
                    *self.sent.entry(t.to).or_default() += 1;
                    if !self.sizes.contains(&t.datagram.len()) {
                        self.sizes.push(t.datagram.len());
                    }
                }
            }
        }
    }

    fn total(&self) -> u64 {
        self.sent.values().sum()
    }
}

/// A hostile contact's stock of authentic pings.
struct Contact {
    pings: VecDeque<Vec<u8>>,
}

impl Contact {
    /// Makes them with a real agent: one that searches sends a thousand.
    fn new(round: u8, mut now: Instant) -> Self {
        let steady = Dependence::EndpointIndependent;
        let local = Local {
            verdict: Verdict { mapping: steady, ..Verdict::default() },
            observed: vec!["192.0.2.66:5000".parse().unwrap()],
            birthday: true,
            ..Local::default()
        };
        let dependent = Dependence::AddressAndPortDependent;
        let verdict = Verdict { mapping: dependent, ..Verdict::default() };
        let card = Card { verdict, birthday: true, ..Card::default() };
        let mut agent = agent(Role::Caller, round, local, now);
        agent.set_remote(&card, &["203.0.113.5:5000".parse().unwrap()], now);
        let mut pings = VecDeque::new();
        while pings.len() < 1_010 {
            match agent.poll_output() {
                Output::Transmit(t) => pings.push_back(t.datagram),
                Output::Event(AgentEvent::WantBirthday(_)) => agent.allow_birthday(true, now),
                Output::Event(_) => {}
                Output::Wait(at) => {
                    now = at.unwrap();
                    agent.handle_timeout(now);
                }
            }
        }
        Self { pings }
    }

    fn ping(&mut self) -> Vec<u8> {
        self.pings.pop_front().unwrap()
    }
}

fn agent(role: Role, round: u8, local: Local, now: Instant) -> Agent {
    let keys = PunchKeys::derive(&[9; 32], &RoundId([round; 16]), role);
    let relay_rtt = Duration::from_millis(100);
    Agent::new(AgentConfig { role, keys, seed: [role as u8; 32], local, relay_rtt }, now)
}

fn card(candidates: impl IntoIterator<Item = SocketAddr>) -> Card {
    let candidates =
        candidates.into_iter().map(|addr| Candidate { kind: CandidateKind::Host, addr });
    Card { candidates: candidates.collect(), ..Card::default() }
}
