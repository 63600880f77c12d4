//! When probes go.

use std::time::{Duration, Instant};

/// Milliseconds from the beginning of a round to each probe of a target. The first opens our own
/// filter; the second gets through when both sides begin within 20 ms of each other; the rest
/// double, for sides that begin later, and for loss.
pub const PUNCH_SCHEDULE_MS: [u32; 7] = [0, 20, 60, 140, 300, 620, 1260];
/// Milliseconds to each probe of a path that is in doubt, or of a source that was not expected.
pub const CHECK_SCHEDULE_MS: [u32; 3] = [0, 100, 300];
/// Milliseconds to each probe of a path that died, with the contact on the relay meanwhile.
pub const RECOVERY_SCHEDULE_MS: [u32; 7] = [0, 1_000, 3_000, 7_000, 15_000, 31_000, 61_000];

/// The times at which one pair is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    start: Instant,
    offsets: &'static [u32],
    next: usize,
    kind: PlanKind,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlanKind {
    Punch,
    Check,
    Recovery,
}

impl Plan {
    pub(crate) fn new(kind: PlanKind, start: Instant) -> Self {
        let offsets: &'static [u32] = match kind {
            PlanKind::Punch => &PUNCH_SCHEDULE_MS,
            PlanKind::Check => &CHECK_SCHEDULE_MS,
            PlanKind::Recovery => &RECOVERY_SCHEDULE_MS,
        };
        Self { start, offsets, next: 0, kind }
    }

    pub(crate) fn kind(&self) -> PlanKind {
        self.kind
    }

    /// Probes that have gone.
    pub(crate) fn done(&self) -> usize {
        self.next
    }

    /// When the next one goes.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.offsets.get(self.next).map(|&ms| self.start + Duration::from_millis(ms.into()))
    }

    /// Marks all that is due as gone. After a long sleep many are due, and one probe stands for
    /// all of them.
    pub(crate) fn advance(&mut self, now: Instant) {
        while self.due().is_some_and(|due| due <= now) {
            self.next += 1;
        }
    }

    /// Leaves out what would come after `offset`.
    pub(crate) fn cut(&mut self, offset: Duration) {
        let keep = self.offsets.iter().filter(|&&ms| u128::from(ms) <= offset.as_millis()).count();
        self.offsets = &self.offsets[..keep.max(self.next)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_clock::start;

    #[test]
    fn a_punch_goes_at_the_written_times() {
        let start = start();
        let mut plan = Plan::new(PlanKind::Punch, start);
        let mut sent = Vec::new();
        while let Some(due) = plan.due() {
            sent.push((due - start).as_millis());
            plan.advance(due);
        }
        assert_eq!(sent, [0, 20, 60, 140, 300, 620, 1260]);
        assert_eq!(plan.done(), 7);
    }

    #[test]
    fn after_a_sleep_what_was_missed_is_not_made_up_for() {
        let start = start();
        let mut plan = Plan::new(PlanKind::Punch, start);
        plan.advance(start + Duration::from_millis(500));
        assert_eq!(plan.due(), Some(start + Duration::from_millis(620)));
        plan.advance(start + Duration::from_secs(3600));
        assert_eq!(plan.due(), None);
    }

    #[test]
    fn a_plan_can_be_cut_short() {
        let start = start();
        let mut plan = Plan::new(PlanKind::Punch, start);
        plan.cut(Duration::from_millis(140));
        plan.advance(start + Duration::from_millis(140));
        assert_eq!(plan.due(), None);
    }
}
