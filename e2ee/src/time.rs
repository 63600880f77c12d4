//! The clock, as an argument: nothing in this crate asks what time it is.

/// A point in time: seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The point `seconds` later.
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The point `seconds` earlier.
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

/// Seconds in an hour.
pub(crate) const HOUR: u64 = 3600;
/// Seconds in a day.
pub(crate) const DAY: u64 = 24 * HOUR;
