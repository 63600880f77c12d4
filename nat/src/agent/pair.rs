//! Pairs (RFC 8445, 6.1.2): one of our sockets and one address of the contact, with what is known
//! about the way between them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_wire::path::{DirectPath, SocketId};

use crate::output::Technique;
use crate::schedule::{Plan, PlanKind};
use crate::score::Score;

/// Pairs kept for one contact: 8 candidates, their addresses as seen from a second socket or a
/// second round, and peer-reflexive ones. When full, the one that was of least use is replaced.
pub const MAX_PAIRS: usize = 24;
/// Pings of a pair that may still be answered. A schedule has seven.
const MAX_PINGS: usize = 8;
/// How long a ping may be answered: longer than any path should take.
const PING_LIFE: Duration = Duration::from_secs(5);

/// A pair.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) path: DirectPath,
    pub(super) technique: Technique,
    /// A rendezvous peer has seen the contact at this IP address.
    pub(super) attested: bool,
    /// When it will be probed.
    pub(super) plan: Option<Plan>,
    /// Whether the one extra ping that a first heard probe triggers has gone.
    pub(super) triggered: bool,
    /// Pings that may still be answered, oldest first.
    pings: VecDeque<(u64, Instant)>,
    /// When an authenticated probe last came from there.
    pub(super) heard: Option<Instant>,
    /// When a pong last came.
    pub(super) answered: Option<Instant>,
    /// When the latest ping that has been answered was sent: so long the path was whole.
    pub(super) whole: Option<Instant>,
    /// It has been given up, and only an answer to a later ping makes up for it.
    pub(super) failed: Option<Instant>,
    /// When the contact last said that she sends on it.
    pub(super) selected_by_them: Option<Instant>,
    rtt: Option<Rtt>,
}

impl Pair {
    fn new(path: DirectPath, technique: Technique, attested: bool) -> Self {
        Self {
            path,
            technique,
            attested,
            plan: None,
            triggered: false,
            pings: VecDeque::new(),
            heard: None,
            answered: None,
            whole: None,
            failed: None,
            selected_by_them: None,
            rtt: None,
        }
    }

    /// Whether datagrams may be sent there: it has answered, and has not failed since.
    pub(super) fn is_confirmed(&self) -> bool {
        self.answered.is_some() && self.failed.is_none()
    }

    /// Whether it was confirmed lately enough to be taken without asking.
    pub(super) fn is_fresh(&self, now: Instant, age: Duration) -> bool {
        self.is_confirmed()
            && self.answered.is_some_and(|at| now.saturating_duration_since(at) <= age)
    }

    pub(super) fn ping_sent(&mut self, txid: u64, now: Instant) {
        if self.pings.len() == MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((txid, now));
    }

    /// Takes a pong. False when it answers no ping of this pair.
    pub(super) fn pong_came(&mut self, txid: u64, now: Instant) -> bool {
        let Some(place) = self.pings.iter().position(|&(t, _)| t == txid) else { return false };
        let (_, sent) = self.pings.remove(place).expect("it was found there");
        let took = now.saturating_duration_since(sent);
        if took > PING_LIFE {
            return false;
        }
        match &mut self.rtt {
            Some(rtt) => rtt.sample(took),
            None => self.rtt = Some(Rtt(took)),
        }
        self.answered = Some(now);
        self.whole = self.whole.max(Some(sent));
        self.failed = None;
        true
    }

    pub(super) fn give_up_pings(&mut self) {
        self.pings.clear();
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.0)
    }

    pub(super) fn score(&self) -> Option<Score> {
        Some(Score::new(self.path, self.technique, self.rtt()?))
    }

    /// How much the pair is worth when another needs its place: the least goes first.
    fn worth(&self) -> (bool, bool, bool, Option<Instant>) {
        (self.is_confirmed(), self.plan.is_some(), self.attested, self.heard)
    }
}

/// Smoothed round trip (RFC 6298, with its factor of an eighth).
#[derive(Debug, Clone, Copy)]
struct Rtt(Duration);

impl Rtt {
    fn sample(&mut self, took: Duration) {
        self.0 = (self.0 * 7 + took) / 8;
    }
}

/// The pairs of one contact.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    list: Vec<Pair>,
}

impl Pairs {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.list.iter_mut()
    }

    pub(super) fn get(&self, path: DirectPath) -> Option<&Pair> {
        self.list.iter().find(|p| p.path == path)
    }

    pub(super) fn get_mut(&mut self, path: DirectPath) -> Option<&mut Pair> {
        self.list.iter_mut().find(|p| p.path == path)
    }

    /// Adds a pair that is not there. When there is no room, the least worthy other one but `used`
    /// leaves and is returned.
    pub(super) fn add(
        &mut self,
        path: DirectPath,
        technique: Technique,
        attested: bool,
        used: Option<DirectPath>,
    ) -> Option<Pair> {
        debug_assert!(self.get(path).is_none(), "a pair is added once");
        let mut gone = None;
        if self.list.len() == MAX_PAIRS {
            let least = (0..MAX_PAIRS)
                .filter(|&i| Some(self.list[i].path) != used)
                .min_by_key(|&i| self.list[i].worth());
            gone = least.map(|i| self.list.swap_remove(i));
        }
        self.list.push(Pair::new(path, technique, attested));
        gone
    }

    /// Takes out those that are not to be kept.
    pub(super) fn remove_unless(&mut self, mut keep: impl FnMut(&Pair) -> bool) -> Vec<Pair> {
        let (kept, gone) = std::mem::take(&mut self.list).into_iter().partition(|p| keep(p));
        self.list = kept;
        gone
    }

    /// The best pair that may be used.
    pub(super) fn best(&self, may: impl Fn(&Pair) -> bool) -> Option<&Pair> {
        self.list.iter().filter(|p| p.is_confirmed() && may(p)).min_by_key(|p| p.score())
    }

    /// When the next probe of a plan goes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.list.iter().filter_map(|p| p.plan.and_then(|plan| plan.due())).min()
    }

    /// A path whose probe goes now; its plan counts it as gone.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(DirectPath, PlanKind, usize)> {
        for pair in &mut self.list {
            let Some(plan) = &mut pair.plan else { continue };
            match plan.due() {
                Some(due) if due <= now => {
                    let (nth, kind) = (plan.done(), plan.kind());
                    plan.advance(now);
                    if plan.due().is_none() && kind != PlanKind::Recovery && pair.failed.is_some() {
                        // It has worked before, and a new round did not bring it back at once.
                        let mut later = Plan::new(PlanKind::Recovery, now);
                        later.advance(now);
                        pair.plan = Some(later);
                    }
                    return Some((pair.path, kind, nth));
                }
                _ => {}
            }
        }
        None
    }
}

/// The pair of our main socket and an address.
pub(super) fn main_path(remote: SocketAddr) -> DirectPath {
    DirectPath { socket: SocketId::MAIN, remote }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_clock::start;

    #[test]
    fn a_pong_counts_once_and_only_for_its_own_ping() {
        let start = start();
        let mut pair = Pair::new(path(1), Technique::Reflexive, true);
        pair.ping_sent(7, start);
        assert!(!pair.pong_came(8, start));
        assert!(!pair.is_confirmed());
        assert!(pair.pong_came(7, start + Duration::from_millis(40)));
        assert!(pair.is_confirmed());
        assert_eq!(pair.rtt(), Some(Duration::from_millis(40)));
        assert!(!pair.pong_came(7, start + Duration::from_millis(50)));
    }

    #[test]
    fn a_late_pong_says_nothing() {
        let start = start();
        let mut pair = Pair::new(path(1), Technique::Reflexive, true);
        pair.ping_sent(7, start);
        assert!(!pair.pong_came(7, start + PING_LIFE + Duration::from_millis(1)));
        assert!(!pair.is_confirmed());
    }

    #[test]
    fn pings_that_wait_are_bounded() {
        let start = start();
        let mut pair = Pair::new(path(1), Technique::Reflexive, true);
        for txid in 0..1_000 {
            pair.ping_sent(txid, start);
        }
        assert_eq!(pair.pings.len(), MAX_PINGS);
        assert!(pair.pong_came(999, start));
    }

    #[test]
    fn a_full_table_keeps_what_works_and_what_is_in_use() {
        let start = start();
        let mut pairs = Pairs::default();
        for i in 0..MAX_PAIRS as u16 {
            assert!(pairs.add(path(i), Technique::PeerReflexive, false, None).is_none());
        }
        let confirmed = pairs.get_mut(path(0)).expect("it was added");
        confirmed.ping_sent(1, start);
        confirmed.pong_came(1, start);
        for i in 100..1_000 {
            let gone = pairs.add(path(i), Technique::PeerReflexive, false, Some(path(1)));
            let gone = gone.expect("the table is full").path;
            assert!(gone != path(0) && gone != path(1));
        }
        assert_eq!(pairs.iter().count(), MAX_PAIRS);
    }

    fn path(i: u16) -> DirectPath {
        main_path(SocketAddr::from(([203, 0, 113, 5], 5_000 + i)))
    }
}
