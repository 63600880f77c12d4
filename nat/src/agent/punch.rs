//! What a round probes: the contact's candidates, and ports that her NAT may choose.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_wire::candidate::{Candidate, CandidateKind, Card};
use halloo_wire::path::{DirectPath, SocketId};

use super::pair::main_path;
use super::rounds::RoundNumber;
use super::search::Search;
use super::{Agent, Using};
use crate::output::{AgentEvent, Purpose, SearchOutcome, Technique, WhyRelayed};
use crate::predict::{PREDICTION_PASSES, address_dependent, predicted_ports};
use crate::range::{is_probe_target, is_public};
use crate::schedule::{PUNCH_SCHEDULE_MS, Plan, PlanKind};
use crate::targets::{MAX_ATTESTED_TARGETS, candidates_to_try, canonical};

/// Hops of the first probes of a round after one that should have worked: they pass our own NATs,
/// of which there are three at most, and do not reach the far one.
pub const FIRST_HOPS: u8 = 5;
/// Probes of a target that are held back so.
const HELD_BACK: usize = 2;
/// Later probes of other targets are left out when a path has answered: a better one would have
/// answered by then.
const LATE: Duration = Duration::from_millis(300);
/// Guessed ports probed at once, and the time until the next ones.
const GUESSES: usize = 5;
const GUESS_EACH: Duration = Duration::from_millis(10);
/// From one pass over the guessed ports to the next.
const GUESS_PAUSE: Duration = Duration::from_millis(300);

/// What is known about the contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) card: Card,
    /// At most [`MAX_ATTESTED_TARGETS`], the presence's own first.
    pub(super) attested: Vec<SocketAddr>,
    round: RoundNumber,
}

impl Remote {
    pub(super) fn new(card: &Card, attested: &[SocketAddr], round: RoundNumber) -> Self {
        let attested = attested.iter().take(MAX_ATTESTED_TARGETS).map(|&a| canonical(a));
        Self { card: card.clone(), attested: attested.collect(), round }
    }

    /// Whether rendezvous peers have seen the contact at this IP address.
    pub(super) fn attests(&self, ip: IpAddr) -> bool {
        self.attested.iter().any(|a| a.ip() == ip)
    }

    /// The attested IPv4 addresses, each IP once, with the port last seen.
    pub(super) fn attested_v4(&self) -> Vec<SocketAddr> {
        let mut list: Vec<SocketAddr> = Vec::new();
        for &addr in self.attested.iter().filter(|a| a.is_ipv4()) {
            match list.iter_mut().find(|known| known.ip() == addr.ip()) {
                Some(known) => *known = addr,
                None => list.push(addr),
            }
        }
        list
    }

    fn technique(&self, remote: SocketAddr) -> Option<Technique> {
        let named = self.card.candidates.iter().find(|c| canonical(c.addr) == remote);
        let attested = || {
            let addr = self.attested.iter().copied().find(|&a| a == remote)?;
            Some(Candidate { kind: CandidateKind::ServerReflexive, addr })
        };
        named.copied().or_else(attested).map(|c| technique_of_kind(c.kind, remote))
    }
}

fn technique_of_kind(kind: CandidateKind, addr: SocketAddr) -> Technique {
    match kind {
        _ if !is_public(addr.ip()) => Technique::Lan,
        _ if addr.is_ipv6() => Technique::Ipv6,
        CandidateKind::Mapped => Technique::Mapped,
        CandidateKind::Host | CandidateKind::ServerReflexive => Technique::Reflexive,
    }
}

/// The probing of one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Punch {
    pub(super) started: Instant,
    ends: Instant,
    /// Whether any address could be tried.
    targets: usize,
}

/// Ports that the contact's NAT may choose.
#[derive(Debug, Clone)]
pub(super) struct Guess {
    list: Vec<SocketAddr>,
    next: usize,
    passes: usize,
    due: Option<Instant>,
}

impl Agent {
    pub(super) fn start_punch(&mut self, now: Instant) {
        self.stop_search(SearchOutcome::Stopped);
        self.close_unused_sockets();
        let Some(remote) = self.remote.clone() else { return };
        let mut targets = candidates_to_try(&remote.card, &remote.attested, &self.local.ips);
        let found = self.lan.iter().filter(|&&a| is_probe_target(a, &self.local.ips));
        let found = found.map(|&addr| Candidate { kind: CandidateKind::Host, addr });
        targets
            .extend(found.filter(|f| targets.iter().all(|t| t.addr != f.addr)).collect::<Vec<_>>());

        let used = self.using.path();
        let kept = |path: DirectPath| {
            Some(path) == used || targets.iter().any(|t| path == main_path(t.addr))
        };
        for gone in self.pairs.remove_unless(|p| p.heard.is_some() || kept(p.path)) {
            self.pair_gone(&gone);
        }
        for pair in self.pairs.iter_mut() {
            pair.attested = remote.attests(pair.path.remote.ip());
            pair.triggered = false;
        }
        for target in &targets {
            let path = main_path(target.addr);
            if self.pairs.get(path).is_none() {
                self.add_pair(path, technique_of_kind(target.kind, target.addr));
            }
            if let Some(pair) = self.pairs.get_mut(path) {
                pair.plan = Some(Plan::new(PlanKind::Punch, now));
            }
        }
        // What worked in an earlier round and is not named in this one.
        for pair in self.pairs.iter_mut().filter(|p| p.is_confirmed() && p.plan.is_none()) {
            pair.plan = Some(Plan::new(PlanKind::Check, now));
        }

        let last = PUNCH_SCHEDULE_MS.last().copied().unwrap_or_default();
        let answer_time = (self.relay_rtt * 2).clamp(MIN_ANSWER_TIME, MAX_ANSWER_TIME);
        self.punch = Some(Punch {
            started: now,
            ends: now + Duration::from_millis(last.into()) + answer_time,
            targets: targets.len(),
        });
        self.why = WhyRelayed::StillTrying;
        self.guess = Guess::new(&remote, &self.local.ips, now);
        self.search = Search::None;
        self.consider_search(now);
    }

    /// A path answers: the rest of the round is not needed.
    pub(super) fn punch_succeeded(&mut self, path: DirectPath, now: Instant) {
        self.careful = false;
        self.guess = None;
        let started = self.punch.map_or(now, |p| p.started);
        let keep = LATE.max(now.saturating_duration_since(started));
        for pair in self.pairs.iter_mut() {
            match &mut pair.plan {
                Some(plan) if plan.kind() == PlanKind::Punch && pair.path == path => {
                    pair.plan = None;
                }
                Some(plan) if plan.kind() == PlanKind::Punch => plan.cut(keep),
                _ => {}
            }
        }
    }

    /// Hop limit of the `nth` probe of a round to this path.
    pub(super) fn first_hops(&self, path: DirectPath, nth: usize) -> Option<u8> {
        let far = path.remote.is_ipv4() && is_public(path.remote.ip());
        (self.careful && far && nth < HELD_BACK).then_some(FIRST_HOPS)
    }

    pub(super) fn send_guesses(&mut self, now: Instant) {
        // Something was heard: the rest waits until it has proved itself, or not.
        let (Some(guess), Using::Relay) = (&mut self.guess, self.using) else { return };
        for to in guess.take_due(now) {
            self.ping_unplanned(main_path(to), Purpose::Punch, now);
        }
    }

    /// How the owner of this path, which nobody planned to probe, may have been found.
    pub(super) fn technique_of(&self, path: DirectPath) -> Technique {
        let remote = self.remote.as_ref();
        if path.socket != SocketId::MAIN {
            return Technique::Birthday;
        }
        if let Some(technique) = remote.and_then(|r| r.technique(path.remote)) {
            return technique;
        }
        if self.guess.as_ref().is_some_and(|g| g.list.contains(&path.remote)) {
            return Technique::Predicted;
        }
        if self.search.sprays(path.remote.ip()) {
            return Technique::Birthday;
        }
        Technique::PeerReflexive
    }

    pub(super) fn punch_due(&self) -> Option<Instant> {
        let ends = self.punch.map(|p| p.ends);
        let guess = self.guess.as_ref().filter(|_| self.using == Using::Relay);
        let guess = guess.and_then(|g| g.due);
        ends.into_iter().chain(guess).min()
    }

    pub(super) fn punch_timeout(&mut self, now: Instant) {
        match &mut self.punch {
            None => return,
            Some(punch) if punch.ends > now => return,
            // A search that is under way has the last word.
            Some(punch) if self.search.is_open() => {
                punch.ends = now + SEARCH_POLL;
                return;
            }
            Some(_) => {}
        }
        let Some(punch) = self.punch.take() else { return };
        self.guess = None;
        if let Using::Relay = self.using {
            let why = self.why_not(punch.targets);
            self.careful = why == WhyRelayed::NoAnswer;
            self.relayed(why);
            let idle = self.pairs.remove_unless(|p| p.heard.is_some());
            debug_assert!(idle.iter().all(|p| p.heard.is_none()), "nobody was told of them");
        }
    }

    /// Why a round found nothing.
    fn why_not(&self, targets: usize) -> WhyRelayed {
        if self.local.observed.is_empty() {
            return WhyRelayed::UdpBlocked;
        }
        let Some(remote) = self.remote.as_ref().filter(|_| targets > 0) else {
            return WhyRelayed::NoCandidates;
        };
        let (ours, theirs) = (&self.local.verdict, &remote.card.verdict);
        match (address_dependent(ours), address_dependent(theirs)) {
            (true, true) => WhyRelayed::BothAddressDependent,
            (false, false) => WhyRelayed::NoAnswer,
            _ => match self.search {
                Search::Over(SearchOutcome::Missed) => WhyRelayed::SearchFailed,
                Search::Over(_) => WhyRelayed::NoAnswer,
                _ if self.search_role().is_some() => WhyRelayed::SearchNotAllowed,
                _ => WhyRelayed::NoAnswer,
            },
        }
    }

    pub(super) fn relayed(&mut self, why: WhyRelayed) {
        self.why = why;
        self.event(AgentEvent::Relayed(why));
    }
}

impl Guess {
    fn new(remote: &Remote, own: &[IpAddr], now: Instant) -> Option<Self> {
        let list: Vec<SocketAddr> = remote
            .attested_v4()
            .into_iter()
            .flat_map(|seen| {
                let ports = predicted_ports(&remote.card, seen.port());
                ports.into_iter().map(move |port| SocketAddr::new(seen.ip(), port))
            })
            .filter(|&addr| is_probe_target(addr, own) && !remote.attested.contains(&addr))
            .collect();
        (!list.is_empty()).then_some(Self { list, next: 0, passes: 0, due: Some(now) })
    }

    fn take_due(&mut self, now: Instant) -> Vec<SocketAddr> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let end = (self.next + GUESSES).min(self.list.len());
        let due = self.list[self.next..end].to_vec();
        self.next = end;
        self.due = Some(now + GUESS_EACH);
        if self.next == self.list.len() {
            self.next = 0;
            self.passes += 1;
            self.due = (self.passes < PREDICTION_PASSES).then_some(now + GUESS_PAUSE);
        }
        due
    }
}

/// How long the last probe of a round may take to be answered.
const MIN_ANSWER_TIME: Duration = Duration::from_millis(500);
const MAX_ANSWER_TIME: Duration = Duration::from_secs(2);
/// How often a round that is over looks whether its search is.
const SEARCH_POLL: Duration = Duration::from_millis(250);
