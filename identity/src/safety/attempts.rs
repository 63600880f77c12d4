//! How often an exchange with one contact may fail.

use halloo_wire::{DecodeError, Reader, Writer};

/// Failed runs until the exchange is locked. With three guesses an hour, somebody in the middle
/// needs decades for an even chance, and is heard of after the first.
pub const MAX_FAILURES: u8 = 3;
/// How long it is locked, in seconds. The 60-digit number and the QR code still work.
pub const LOCK_SECONDS: u64 = 60 * 60;

const VERSION: u8 = 1;

/// The failed runs with one contact. Failures are not forgotten with time but by a run that ends
/// in [`Verified`](super::Verified) or by the lock that they lead to: a slow attacker is heard of
/// too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    failures: u8,
    locked_until: u64,
}

impl Attempts {
    /// Whether a run may begin. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// [`Locked`] while it may not.
    pub fn check(&mut self, now: u64) -> Result<(), Locked> {
        // A clock that was set back must not lock for longer than the lock.
        self.locked_until = self.locked_until.min(now.saturating_add(LOCK_SECONDS));
        if now < self.locked_until {
            return Err(Locked { until: self.locked_until });
        }
        Ok(())
    }

    /// Counts a run that ended without being verified after our key was revealed. `now` is Unix
    /// time in seconds.
    ///
    /// # Errors
    /// [`Locked`] when this was one too many: tell the person, loudly.
    pub fn failed(&mut self, now: u64) -> Result<(), Locked> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= MAX_FAILURES {
            self.failures = 0;
            self.locked_until = now.saturating_add(LOCK_SECONDS);
            return Err(Locked { until: self.locked_until });
        }
        Ok(())
    }

    /// Forgets the failures: a run ended in [`Verified`](super::Verified).
    pub fn verified(&mut self) {
        *self = Self::default();
    }

    /// Failed runs since the last lock or verification.
    pub fn failures(&self) -> u8 {
        self.failures
    }

    /// The bytes for the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(10);
        w.u8(VERSION).u8(self.failures).u64(self.locked_until);
        w.into_vec()
    }

    /// Reads the bytes of [`Attempts::to_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] when they are not exactly that.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let it = Self { failures: r.u8()?, locked_until: r.u64()? };
        r.finish()?;
        if it.failures >= MAX_FAILURES {
            return Err(DecodeError::Invalid("failed runs"));
        }
        Ok(it)
    }
}

/// Too many runs failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many runs failed: compare the 60-digit number or the QR code, or wait an hour")]
pub struct Locked {
    /// The first second at which a run may begin, Unix time.
    pub until: u64,
}
