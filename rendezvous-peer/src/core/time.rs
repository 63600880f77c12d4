//! Monotonic time as the core sees it.

use std::time::Duration;

/// Milliseconds of monotonic time since a moment that the caller chose. Wall clocks lie and jump,
/// so the peer's table knows none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment `span` later. Stops at the end of time instead of wrapping.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; nothing when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}
