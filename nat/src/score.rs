//! Which of several direct paths is best.
//!
//! A direct path that works is always before the relay: it spares the peer and hides from it when
//! the two talk. Between direct paths the round trip decides, with enough hysteresis that two
//! equal ones do not take turns.

use std::time::Duration;

use halloo_wire::path::DirectPath;

use crate::output::Technique;

/// How much faster a path must be to take over: at least this,
pub const HYSTERESIS: Duration = Duration::from_millis(5);
/// and at least this part (a tenth) of the round trip of the path in use.
pub const HYSTERESIS_PART: u32 = 10;
/// By how much an IPv6 path may be slower and still be preferred: nothing translates it, so
/// nothing forgets it.
pub const IPV6_BONUS: Duration = Duration::from_millis(3);

/// A path's rank; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// Smoothed round trip, less what its family is preferred by.
    rtt: Duration,
    /// On ties, what was cheaper to find.
    technique: Technique,
    /// On ties, the same choice each time.
    path: DirectPath,
}

impl Score {
    pub(crate) fn new(path: DirectPath, technique: Technique, rtt: Duration) -> Self {
        let bonus = if path.remote.is_ipv6() { IPV6_BONUS } else { Duration::ZERO };
        Self { rtt: rtt.saturating_sub(bonus), technique, path }
    }

    /// Whether it pays to leave `current` for this one.
    pub(crate) fn beats(&self, current: &Self) -> bool {
        self.rtt + HYSTERESIS.max(current.rtt / HYSTERESIS_PART) <= current.rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_wire::path::SocketId;

    #[test]
    fn the_shorter_round_trip_is_better_but_must_be_so_by_enough() {
        let (ten, twelve, fourteen) = (v4(10), v4(12), v4(14));
        assert!(ten < twelve && twelve < fourteen);
        assert!(!v4(10).beats(&v4(10)), "equal paths do not take turns");
        assert!(!ten.beats(&fourteen), "4 ms is not worth a change");
        assert!(v4(10).beats(&v4(15)));
        assert!(!v4(191).beats(&v4(200)), "nor is a twentieth");
        assert!(v4(180).beats(&v4(200)));
    }

    #[test]
    fn ipv6_wins_a_tie() {
        assert!(v6(12) < v4(10));
        assert!(v6(14) > v4(10));
    }

    #[test]
    fn a_local_network_wins_a_tie() {
        let lan = Score::new(path("10.0.0.1:4000"), Technique::Lan, Duration::from_millis(10));
        assert!(lan < v4(10));
    }

    fn v4(ms: u64) -> Score {
        Score::new(path("192.0.2.1:4000"), Technique::Reflexive, Duration::from_millis(ms))
    }

    fn v6(ms: u64) -> Score {
        Score::new(path("[2001:db8::1]:4000"), Technique::Reflexive, Duration::from_millis(ms))
    }

    fn path(remote: &str) -> DirectPath {
        DirectPath { socket: SocketId::MAIN, remote: remote.parse().expect("an address") }
    }
}
