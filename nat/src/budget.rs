//! Limits that all agents of a node share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::output::{NetworkPair, Purpose, SearchOutcome};

/// Probes per second, of a whole node, to addresses that have not answered. A round of one contact
/// takes 56 at most, in 1.3 seconds.
pub const PROBES_PER_SECOND: u32 = 50;
/// Probes that may go at once: two full rounds and predicted ports, as when a laptop wakes up.
pub const PROBE_BURST: u32 = 150;
/// Probes per second of the one birthday search of a node: 30 kB/s.
pub const SEARCH_PROBES_PER_SECOND: u32 = 500;
/// Probes of a search that may go at once: one from each of 256 sockets.
pub const SEARCH_PROBE_BURST: u32 = 256;
/// Misses after which a pair of networks is left alone for [`SEARCH_PAUSE`].
pub const SEARCH_MISSES: u8 = 2;
/// How long a pair of networks is left alone.
pub const SEARCH_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Network pairs remembered. When full, the one that failed longest ago is forgotten.
pub const MAX_NETWORK_PAIRS: usize = 256;

/// What a node may send to addresses that have not answered, over all of its agents.
#[derive(Debug, Clone)]
pub struct Budget {
    probes: Bucket,
    search: Bucket,
}

impl Budget {
    /// A full budget.
    pub fn new(now: Instant) -> Self {
        Self {
            probes: Bucket::new(PROBE_BURST, PROBES_PER_SECOND, now),
            search: Bucket::new(SEARCH_PROBE_BURST, SEARCH_PROBES_PER_SECOND, now),
        }
    }

    /// Whether a datagram for this purpose may go now. When not, it is dropped: its agent repeats
    /// what matters.
    #[must_use]
    pub fn take(&mut self, purpose: Purpose, now: Instant) -> bool {
        match purpose {
            Purpose::Answer | Purpose::Check => true,
            Purpose::Punch => self.probes.take(now),
            Purpose::Search => self.search.take(now),
        }
    }
}

/// Who may search: one agent at a time, and not where it failed.
#[derive(Debug, Clone, Default)]
pub struct Searches {
    running: Option<NetworkPair>,
    missed: BTreeMap<NetworkPair, Misses>,
}

#[derive(Debug, Clone, Copy)]
struct Misses {
    count: u8,
    last: Instant,
}

impl Searches {
    /// Whether a search between these networks may begin. When it may, no other begins before
    /// [`over`](Self::over).
    #[must_use]
    pub fn begin(&mut self, pair: NetworkPair, now: Instant) -> bool {
        let pausing = self.missed.get(&pair).is_some_and(|m| {
            m.count >= SEARCH_MISSES && now.saturating_duration_since(m.last) < SEARCH_PAUSE
        });
        if pausing || self.running.is_some() {
            return false;
        }
        self.running = Some(pair);
        true
    }

    /// The search has ended.
    pub fn over(&mut self, pair: NetworkPair, outcome: SearchOutcome, now: Instant) {
        if self.running == Some(pair) {
            self.running = None;
        }
        match outcome {
            SearchOutcome::Found => {
                self.missed.remove(&pair);
            }
            SearchOutcome::Stopped => {}
            SearchOutcome::Missed => self.missed(pair, now),
        }
    }

    fn missed(&mut self, pair: NetworkPair, now: Instant) {
        if !self.missed.contains_key(&pair) && self.missed.len() == MAX_NETWORK_PAIRS {
            let oldest = self.missed.iter().min_by_key(|(_, m)| m.last).map(|(&pair, _)| pair);
            oldest.and_then(|pair| self.missed.remove(&pair));
        }
        let misses = self.missed.entry(pair).or_insert(Misses { count: 0, last: now });
        // Old misses do not count against a network that may have changed since.
        if now.saturating_duration_since(misses.last) >= SEARCH_PAUSE {
            misses.count = 0;
        }
        misses.count = misses.count.saturating_add(1);
        misses.last = now;
    }
}

/// A token bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    burst: u32,
    /// Time that one token takes to come back.
    each: Duration,
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self::every(burst, Duration::from_secs(1) / per_second, now)
    }

    /// A full bucket to which one token comes back after each `each`.
    pub(crate) fn every(burst: u32, each: Duration, now: Instant) -> Self {
        Self { burst, each, tokens: burst, filled: now }
    }

    /// When the next token comes to an empty bucket.
    pub(crate) fn next(&self) -> Instant {
        self.filled + self.each
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        let came = passed.as_nanos() / self.each.as_nanos();
        if came >= u128::from(self.burst - self.tokens) {
            self.tokens = self.burst;
            self.filled = now.max(self.filled);
        } else {
            // Fewer than a burst of u32.
            self.tokens += came as u32;
            self.filled += self.each * came as u32;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sends_fifty_probes_a_second_after_a_burst() {
        let start = crate::test_clock::start();
        let mut budget = Budget::new(start);
        let sent = |budget: &mut Budget, now| {
            (0..10_000).filter(|_| budget.take(Purpose::Punch, now)).count() as u32
        };
        assert_eq!(sent(&mut budget, start), PROBE_BURST);
        assert_eq!(sent(&mut budget, start), 0);
        let mut later = 0;
        for ms in (10..=10_000).step_by(10) {
            later += sent(&mut budget, start + Duration::from_millis(ms));
        }
        assert_eq!(later, 10 * PROBES_PER_SECOND);
        assert!(budget.take(Purpose::Answer, start), "answers and checks are not limited");
    }

    #[test]
    fn a_search_has_a_budget_of_its_own() {
        let start = crate::test_clock::start();
        let mut budget = Budget::new(start);
        while budget.take(Purpose::Punch, start) {}
        let sent = (0..10_000).filter(|_| budget.take(Purpose::Search, start)).count() as u32;
        assert_eq!(sent, SEARCH_PROBE_BURST);
        let later = start + Duration::from_secs(1);
        let sent = (0..10_000).filter(|_| budget.take(Purpose::Search, later)).count() as u32;
        assert!(sent <= SEARCH_PROBES_PER_SECOND);
    }

    #[test]
    fn one_search_runs_at_a_time() {
        let now = crate::test_clock::start();
        let mut searches = Searches::default();
        assert!(searches.begin(pair(1), now));
        assert!(!searches.begin(pair(2), now));
        searches.over(pair(1), SearchOutcome::Found, now);
        assert!(searches.begin(pair(2), now));
    }

    #[test]
    fn after_two_misses_a_pair_of_networks_is_left_alone_for_a_day() {
        let now = crate::test_clock::start();
        let mut searches = Searches::default();
        for _ in 0..SEARCH_MISSES {
            assert!(searches.begin(pair(1), now));
            searches.over(pair(1), SearchOutcome::Missed, now);
        }
        assert!(!searches.begin(pair(1), now));
        assert!(!searches.begin(pair(1), now + SEARCH_PAUSE - Duration::from_secs(1)));
        assert!(searches.begin(pair(2), now), "other networks are not concerned");
        searches.over(pair(2), SearchOutcome::Stopped, now);
        assert!(searches.begin(pair(1), now + SEARCH_PAUSE));
    }

    #[test]
    fn what_is_remembered_of_misses_is_bounded() {
        let now = crate::test_clock::start();
        let mut searches = Searches::default();
        for i in 0..10 * MAX_NETWORK_PAIRS as u32 {
            let at = now + Duration::from_secs(i.into());
            assert!(searches.begin(pair(i), at));
            searches.over(pair(i), SearchOutcome::Missed, at);
        }
        assert_eq!(searches.missed.len(), MAX_NETWORK_PAIRS);
    }

    fn pair(i: u32) -> NetworkPair {
        let ip = |n: u32| std::net::IpAddr::from(n.to_be_bytes());
        NetworkPair { own: ip(0xcb00_7101), theirs: ip(0xc633_0000 + i) }
    }
}
