//! A beginning of time for tests: `Instant` has no other constructor.

use std::time::Instant;

/// Any instant.
#[allow(clippy::disallowed_methods)]
pub(crate) fn start() -> Instant {
    Instant::now()
}
