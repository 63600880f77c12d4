//! Keeping the path in use alive, and letting it die when nobody uses it.

use std::time::{Duration, Instant};

use halloo_wire::path::DirectPath;

use super::{Agent, Using};
use crate::schedule::{CHECK_SCHEDULE_MS, Plan, PlanKind};

/// From an answer to the next ping on the path in use. Most NATs keep a mapping for 30 s at least.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// The same while data flows, which finds out about a direction that has died while the other
/// lives; and the shortest interval to which a forgetful NAT can bring a path.
pub const KEEPALIVE_BUSY: Duration = Duration::from_secs(5);
/// A path that nobody has used for so long is left to die: to open it again takes one round trip
/// through the rendezvous peer, and each ping wakes a radio.
pub const UNUSED_AFTER: Duration = Duration::from_secs(60);
/// Other working paths kept alive beside the one in use, to go over to.
pub const SPARE_PATHS: usize = 2;
/// Data within this time means that it flows.
const FLOWS: Duration = Duration::from_secs(5);
/// How long the last ping of a check may take to be answered, at least.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// When paths are pinged.
#[derive(Debug, Clone)]
pub(super) struct Keep {
    /// When anybody last wanted the path: our data, theirs, a round.
    used: Instant,
    /// When our own data last went out.
    sent: Option<Instant>,
    interval: Duration,
    /// Checks that have not been answered.
    checks: Vec<(DirectPath, Instant)>,
}

impl Keep {
    pub(super) fn new(now: Instant) -> Self {
        Self { used: now, sent: None, interval: KEEPALIVE, checks: Vec::new() }
    }

    pub(super) fn used(&mut self, now: Instant) {
        self.used = self.used.max(now);
    }

    pub(super) fn sent(&mut self, at: Instant) {
        self.sent = self.sent.max(Some(at));
        self.used(at);
    }

    /// Whether our probes say that we want the path.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.sent.is_some_and(|at| now.saturating_duration_since(at) < UNUSED_AFTER)
    }

    pub(super) fn in_use(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < UNUSED_AFTER
    }

    /// The path has answered.
    pub(super) fn answered(&mut self, path: DirectPath) {
        self.checks.retain(|(checked, _)| *checked != path);
    }

    /// A path in use has gone. When it was a pause that killed it, pauses become shorter.
    pub(super) fn path_lost(&mut self, path: DirectPath, in_a_pause: bool) {
        self.answered(path);
        if in_a_pause {
            self.interval = (self.interval / 2).max(KEEPALIVE_BUSY);
        }
    }

    /// The path is used from now on: a check that began before says nothing.
    pub(super) fn check_at_once(&mut self, path: DirectPath) {
        self.answered(path);
    }

    fn interval(&self, now: Instant) -> Duration {
        let flows = self.sent.is_some_and(|at| now.saturating_duration_since(at) < FLOWS);
        if flows { KEEPALIVE_BUSY } else { self.interval }
    }
}

impl Agent {
    pub(super) fn keep_due(&self) -> Option<Instant> {
        let Using::Direct { .. } = self.using else { return None };
        let pings = self.kept_paths().into_iter().filter_map(|path| self.ping_due(path));
        let answers = self.keep.checks.iter().map(|&(path, at)| at + self.check_time(path));
        Some(pings.chain(answers).fold(self.keep.used + UNUSED_AFTER, Instant::min))
    }

    pub(super) fn keep_timeout(&mut self, now: Instant) {
        let Using::Direct { .. } = self.using else {
            self.keep.checks.clear();
            return;
        };
        if !self.keep.in_use(now) {
            self.keep.checks.clear();
            self.unused(now);
            return;
        }
        let over: Vec<DirectPath> = self
            .keep
            .checks
            .iter()
            .filter(|&&(path, at)| at + self.check_time(path) <= now)
            .map(|&(path, _)| path)
            .collect();
        for path in over {
            self.keep.answered(path);
            self.keepalive_missed(path, now);
        }
        for path in self.kept_paths() {
            if self.ping_due(path).is_some_and(|due| due <= now)
                && let Some(pair) = self.pairs.get_mut(path)
            {
                pair.plan = Some(Plan::new(PlanKind::Check, now));
                self.keep.checks.push((path, now));
            }
        }
    }

    /// The path in use, and the best others.
    fn kept_paths(&self) -> Vec<DirectPath> {
        let Using::Direct { path: used, .. } = self.using else { return Vec::new() };
        let mut spare: Vec<_> =
            self.pairs.iter().filter(|p| p.is_confirmed() && p.path != used).collect();
        spare.sort_by_key(|p| p.score());
        let spare = spare.into_iter().take(SPARE_PATHS).map(|p| p.path);
        std::iter::once(used).chain(spare).collect()
    }

    /// When the path is pinged next; none while an answer is awaited.
    fn ping_due(&self, path: DirectPath) -> Option<Instant> {
        if self.keep.checks.iter().any(|(checked, _)| *checked == path) {
            return None;
        }
        let pair = self.pairs.get(path)?;
        let Using::Direct { since, .. } = self.using else { return None };
        // A path taken over without an answer of its own is asked at once.
        let last = pair.answered.unwrap_or(since);
        let interval =
            if pair.answered.is_some() { self.keep.interval(last) } else { Duration::ZERO };
        Some(last + interval)
    }

    /// How long a check takes until it counts as missed.
    fn check_time(&self, path: DirectPath) -> Duration {
        let last = CHECK_SCHEDULE_MS.last().copied().unwrap_or_default();
        let rtt = self.pairs.get(path).and_then(|p| p.rtt()).unwrap_or(self.relay_rtt);
        Duration::from_millis(last.into()) + ANSWER_TIME.max(rtt * 3)
    }
}
