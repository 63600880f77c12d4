//! The one place that reads clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use halloo_e2ee::UnixTime;

/// `CLOCK_MONOTONIC` in nanoseconds: comparable between processes of one machine until it
/// restarts, and never set back.
pub fn mono_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(t.tv_nsec).unwrap_or_default()
}

/// Seconds since 1970 by the machine's wall clock, which may be wrong: it dates what people see
/// and how long keys are offered, and orders nothing.
pub(crate) fn unix_now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}
