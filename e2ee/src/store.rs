//! What the stored forms of this crate's secrets have in common.

use std::io;

use halloo_wire::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

/// Why stored bytes are not the value that they should be: another version wrote them, or the
/// store is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The frame around the value is broken.
    #[error("the stored keys cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The ratchet library does not understand its own part.
    #[error("the stored ratchet state cannot be read")]
    Ratchet,
    /// The stored session would use the first version of Olm, which cuts its MACs to 8 bytes.
    #[error("the stored ratchet session has an unsupported version")]
    UnsupportedVersion,
}

/// Appends a value as JSON.
///
/// JSON because vodozemac's stored forms need a self-describing format to be read back.
pub(crate) fn write_json<T: Serialize>(out: &mut Zeroizing<Vec<u8>>, value: &T) {
    serde_json::to_writer(Wiping(out), value).expect("ratchet state is always writable as JSON");
}

/// Reads a value that [`write_json`] wrote.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(bytes).map_err(|_| RestoreError::Ratchet)
}

/// Grows a vector of secrets without leaving copies of it in freed memory.
struct Wiping<'a>(&'a mut Zeroizing<Vec<u8>>);

impl io::Write for Wiping<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.next_power_of_two().max(FIRST_CAPACITY));
            larger.extend_from_slice(self.0);
            self.0.zeroize();
            **self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session between two that answer each other takes about 2 kB.
const FIRST_CAPACITY: usize = 4096;
