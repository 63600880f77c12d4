//! The birthday search: the last technique, and the only costly one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_wire::candidate::{Allocation, Dependence};
use halloo_wire::path::{DirectPath, SocketId};

use super::pair::main_path;
use super::{Agent, Using};
use crate::birthday::{MAX_SEARCH_PROBES, ports, sockets};
use crate::output::{AgentEvent, NetworkPair, Purpose, SearchOutcome};
use crate::predict::address_dependent;

/// From the beginning of a round to its search when cheaper techniques may still succeed.
pub const SEARCH_AFTER: Duration = Duration::from_millis(800);
/// The same when only predicted ports may.
pub const SEARCH_AFTER_PREDICTION: Duration = Duration::from_millis(350);
/// How often a burst of search probes goes,
const STEP: Duration = Duration::from_millis(10);
/// and how many they are: 500 in a second.
const STEP_PROBES: usize = 5;
/// Sockets that send at once when the search begins.
const FIRST_STEP: usize = 64;
/// How long after the last probe something may still be heard.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Each socket sends again after this time: what was lost, or was too early.
const NEXT_WAVE: Duration = Duration::from_secs(1);
/// Times that each socket sends. With 256 sockets that is half of [`MAX_SEARCH_PROBES`].
const WAVES: usize = 2;
/// How long the driver may take to open sockets or to allow a search.
const DRIVER_TIME: Duration = Duration::from_secs(1);
/// Refusals by the system, or the network, that end a search: somebody does not want it.
const MAX_REFUSALS: u32 = 32;

/// Where a search stands.
#[derive(Debug, Clone)]
pub(super) enum Search {
    /// Not needed, not possible, or not allowed by both sides.
    None,
    /// It begins unless a path is found before.
    Waiting { at: Instant },
    /// The driver is asked.
    Asked { until: Instant },
    /// The driver said no.
    Denied,
    /// Sockets are being opened.
    Opening { until: Instant, pair: NetworkPair },
    /// Probes go.
    Running(Running),
    /// It is over.
    Over(SearchOutcome),
}

/// A search under way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pair: NetworkPair,
    /// Each probe of one wave.
    probes: Vec<DirectPath>,
    next: usize,
    waves_left: usize,
    due: Option<Instant>,
    ends: Instant,
    refusals: u32,
}

/// Our part in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchRole {
    /// Our NAT chooses ports at random: we open many sockets towards this address.
    Open { to: SocketAddr },
    /// Theirs does: we try many ports at this address, where this one was seen.
    Try { seen: SocketAddr },
}

impl SearchRole {
    fn theirs(self) -> IpAddr {
        match self {
            Self::Open { to: addr } | Self::Try { seen: addr } => addr.ip(),
        }
    }
}

impl Search {
    /// Whether it may still find something.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Self::None | Self::Denied | Self::Over(_))
    }

    /// Whether many ports at this address are being tried.
    pub(super) fn sprays(&self, ip: IpAddr) -> bool {
        matches!(self, Self::Running(r) if r.probes.first().is_some_and(|p| p.remote.ip() == ip))
    }

    fn pair(&self) -> Option<NetworkPair> {
        match self {
            Self::Opening { pair, .. } => Some(*pair),
            Self::Running(running) => Some(running.pair),
            _ => None,
        }
    }
}

impl Agent {
    /// Our part, if a search is what these two NATs need: exactly one gives each destination
    /// another port.
    pub(super) fn search_role(&self) -> Option<SearchRole> {
        let remote = self.remote.as_ref()?;
        let (ours, theirs) = (&self.local.verdict, &remote.card.verdict);
        let addr = remote.attested_v4().first().copied()?;
        if !crate::is_probe_target(addr, &self.local.ips) {
            return None;
        }
        let steady = Dependence::EndpointIndependent;
        if address_dependent(ours) && theirs.mapping == steady {
            Some(SearchRole::Open { to: addr })
        } else if address_dependent(theirs) && ours.mapping == steady {
            Some(SearchRole::Try { seen: addr })
        } else {
            None
        }
    }

    /// Whether a search could help and the contact agrees, so that only our own card is missing.
    pub(super) fn search_needs_consent(&self) -> bool {
        let theirs = self.remote.as_ref().is_some_and(|r| r.card.birthday);
        theirs && !self.local.birthday && self.search_role().is_some()
    }

    /// Arms a search if both sides consent and nothing else will do.
    pub(super) fn consider_search(&mut self, now: Instant) {
        let (Search::None, Using::Relay, Some(punch)) = (&self.search, self.using, self.punch)
        else {
            return;
        };
        let (Some(role), Some(remote)) = (self.search_role(), &self.remote) else { return };
        if !(self.local.birthday && remote.card.birthday) {
            return;
        }
        let (dependent, steady) = match role {
            SearchRole::Open { .. } => (&self.local.verdict, &remote.card.verdict),
            SearchRole::Try { .. } => (&remote.card.verdict, &self.local.verdict),
        };
        let hopeless = steady.filtering == Dependence::AddressAndPortDependent;
        let after = match dependent.allocation {
            Allocation::Block { .. } | Allocation::Random if hopeless => Duration::ZERO,
            Allocation::Preserving | Allocation::Sequential { .. } if hopeless => {
                SEARCH_AFTER_PREDICTION
            }
            _ => SEARCH_AFTER,
        };
        self.search = Search::Waiting { at: (punch.started + after).max(now) };
        self.search_timeout(now);
    }

    /// The driver's answer to [`AgentEvent::WantBirthday`].
    pub fn allow_birthday(&mut self, allowed: bool, now: Instant) {
        let Some(pair) = self.asked.take() else { return };
        let Search::Asked { .. } = self.search else {
            // The search is not wanted any more: who gave the permit is told.
            if allowed {
                let outcome = SearchOutcome::Stopped;
                self.event(AgentEvent::BirthdayOver { pair, outcome });
            }
            return;
        };
        match self.search_role().filter(|_| allowed) {
            None if allowed => {
                self.search = Search::Over(SearchOutcome::Stopped);
                let outcome = SearchOutcome::Stopped;
                self.event(AgentEvent::BirthdayOver { pair, outcome });
            }
            None => self.search = Search::Denied,
            Some(SearchRole::Open { .. }) => {
                let until = now + DRIVER_TIME;
                self.search = Search::Opening { until, pair };
                self.event(AgentEvent::OpenSockets(sockets(self.local.verdict.allocation)));
            }
            Some(SearchRole::Try { seen }) => {
                let Some(remote) = &self.remote else { return };
                let ports = ports(&remote.card, seen.port(), &mut self.rng);
                let probes = ports
                    .into_iter()
                    .map(|port| main_path(SocketAddr::new(seen.ip(), port)))
                    .filter(|p| crate::is_probe_target(p.remote, &self.local.ips))
                    .collect();
                self.run_search(pair, probes, 1, now);
            }
        }
        self.send_due(now);
    }

    /// The driver opened sockets, at most as many as [`AgentEvent::OpenSockets`] asked for.
    pub fn sockets_opened(&mut self, ids: &[SocketId], now: Instant) {
        let asked = usize::from(sockets(self.local.verdict.allocation));
        let role = self.search_role();
        match (&self.search, role) {
            (&Search::Opening { pair, .. }, Some(SearchRole::Open { to }))
                if !ids.is_empty() && ids.len() <= asked =>
            {
                self.extra.extend(ids);
                let probes = ids.iter().map(|&socket| DirectPath { socket, remote: to }).collect();
                self.run_search(pair, probes, WAVES, now);
            }
            _ => {
                if !ids.is_empty() {
                    self.event(AgentEvent::CloseSockets(ids.to_vec()));
                }
                if let Search::Opening { .. } = self.search {
                    self.stop_search(SearchOutcome::Stopped);
                }
            }
        }
        self.send_due(now);
    }

    fn run_search(
        &mut self,
        pair: NetworkPair,
        probes: Vec<DirectPath>,
        waves: usize,
        now: Instant,
    ) {
        debug_assert!(probes.len() * waves <= MAX_SEARCH_PROBES, "a search is bounded");
        let steps = probes.len().div_ceil(STEP_PROBES) as u32;
        let ends = now + (STEP * steps + NEXT_WAVE) * waves as u32 + ANSWER_TIME;
        self.search = Search::Running(Running {
            pair,
            probes,
            next: 0,
            waves_left: waves - 1,
            due: Some(now),
            ends,
            refusals: 0,
        });
    }

    pub(super) fn send_search(&mut self, now: Instant) {
        // Something was heard: the rest waits until it has proved itself, or not.
        let (Search::Running(running), Using::Relay) = (&mut self.search, self.using) else {
            return;
        };
        for path in running.take_due(now) {
            self.stats.search_probes_sent += 1;
            self.ping_unplanned(path, Purpose::Search, now);
        }
    }

    /// A path answers.
    pub(super) fn search_succeeded(&mut self, path: DirectPath) {
        if self.extra.contains(&path.socket) || self.search.is_open() {
            self.stop_search(SearchOutcome::Found);
        }
    }

    /// Ends whatever search there is.
    pub(super) fn stop_search(&mut self, outcome: SearchOutcome) {
        if self.search.is_open() {
            let pair = self.search.pair();
            self.search = Search::Over(outcome);
            if let Some(pair) = pair {
                self.event(AgentEvent::BirthdayOver { pair, outcome });
            }
        }
        self.close_unused_sockets();
    }

    /// Closes the extra sockets on which nothing works.
    pub(super) fn close_unused_sockets(&mut self) {
        let used = self.using.path().map(|p| p.socket);
        let works = |id: SocketId| {
            Some(id) == used || self.pairs.iter().any(|p| p.path.socket == id && p.is_confirmed())
        };
        let (kept, closed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.extra).into_iter().partition(|&id| works(id));
        self.extra = kept;
        if closed.is_empty() {
            return;
        }
        for pair in self.pairs.remove_unless(|p| !closed.contains(&p.path.socket)) {
            self.pair_gone(&pair);
        }
        self.event(AgentEvent::CloseSockets(closed));
    }

    pub(super) fn search_send_failed(&mut self, _now: Instant) {
        let Search::Running(running) = &mut self.search else { return };
        running.refusals += 1;
        if running.refusals >= MAX_REFUSALS {
            self.stop_search(SearchOutcome::Missed);
        }
    }

    pub(super) fn search_due(&self) -> Option<Instant> {
        match &self.search {
            Search::Waiting { at } => Some(*at),
            Search::Asked { until } | Search::Opening { until, .. } => Some(*until),
            Search::Running(r) => {
                let due = r.due.filter(|_| self.using == Using::Relay);
                Some(due.map_or(r.ends, |due| due.min(r.ends)))
            }
            Search::None | Search::Denied | Search::Over(_) => None,
        }
    }

    pub(super) fn search_timeout(&mut self, now: Instant) {
        match self.search {
            Search::Waiting { at } if at <= now => self.ask_for_search(now),
            Search::Asked { until } if until <= now => self.search = Search::Denied,
            Search::Opening { until, .. } if until <= now => {
                self.stop_search(SearchOutcome::Stopped);
            }
            Search::Running(ref running) if running.ends <= now => {
                self.stop_search(SearchOutcome::Missed);
            }
            _ => {}
        }
    }

    fn ask_for_search(&mut self, now: Instant) {
        let own = self.local.observed.iter().find(|a| a.is_ipv4());
        let (Using::Relay, Some(role), Some(own)) = (self.using, self.search_role(), own) else {
            self.search = Search::None;
            return;
        };
        let pair = NetworkPair { own: own.ip().to_canonical(), theirs: role.theirs() };
        self.search = Search::Asked { until: now + DRIVER_TIME };
        self.asked = Some(pair);
        self.event(AgentEvent::WantBirthday(pair));
    }
}

impl Running {
    fn take_due(&mut self, now: Instant) -> Vec<DirectPath> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let opens = self.probes.first().is_some_and(|p| p.socket != SocketId::MAIN);
        let step = if opens && self.next == 0 { FIRST_STEP } else { STEP_PROBES };
        let end = (self.next + step).min(self.probes.len());
        let due = self.probes[self.next..end].to_vec();
        self.next = end;
        self.due = Some(now + STEP);
        if self.next == self.probes.len() {
            self.next = 0;
            self.due = (self.waves_left > 0).then_some(now + NEXT_WAVE);
            self.waves_left = self.waves_left.saturating_sub(1);
        }
        due
    }
}
