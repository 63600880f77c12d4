//! A session of the ratchet: one chain of message keys each way, and a few skipped keys.

/// Keys that a chain has at most; a run that would need more breaks the property about bounds.
pub const MAX_KEYS: u8 = 15;

/// What a node knows about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Knows {
    /// Nothing: it has not begun here.
    #[default]
    Nothing,
    /// Its keys.
    Keys,
    /// Its keys are lost, and it cannot begin again.
    Lost,
}

/// One end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Session {
    /// Whether it is there.
    pub knows: Knows,
    /// The next key to write with.
    pub write: u8,
    /// The next key of the other side's chain.
    pub read: u8,
    /// Skipped keys of the other side's chain that are kept, one bit each.
    pub skipped: u16,
}

/// Why a session does not read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The key was used, or was skipped so long ago that it is forgotten.
    KeyGone,
    /// The session is not there.
    NoSession,
}

impl Session {
    /// A session that has just begun.
    pub fn begin() -> Self {
        Self { knows: Knows::Keys, ..Self::default() }
    }

    /// Takes the key with this index out of the other side's chain. Returns the skipped keys that
    /// were forgotten for want of room, one bit each.
    ///
    /// # Errors
    /// [`Unreadable::KeyGone`]; nothing has changed.
    pub fn take_key(&mut self, index: u8, max_skipped: u32) -> Result<u16, Unreadable> {
        if index < self.read {
            if self.skipped & (1 << index) == 0 {
                return Err(Unreadable::KeyGone);
            }
            self.skipped &= !(1 << index);
            return Ok(0);
        }
        for skipped in self.read..index {
            self.skipped |= 1 << skipped;
        }
        self.read = index + 1;
        let mut forgotten = 0;
        while self.skipped.count_ones() > max_skipped {
            let oldest = 1 << self.skipped.trailing_zeros();
            self.skipped &= !oldest;
            forgotten |= oldest;
        }
        Ok(forgotten)
    }
}
