//! Faults that are put into the protocol on purpose, so that the properties can show that they see
//! them.

use clap::ValueEnum;

/// What is broken in both nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, ValueEnum)]
pub enum Bug {
    /// Nothing.
    #[default]
    None,
    /// The program hears that a message is accepted before that is on disk.
    AcceptBeforeCommit,
    /// The program hears of a message before it is on disk.
    TellBeforeCommit,
    /// An acknowledgement leaves before what it acknowledges is on disk.
    AckBeforeCommit,
    /// A peer's receipt makes a message delivered.
    DeliveredOnReceipt,
    /// Each repetition is encrypted anew.
    EncryptAgain,
    /// A ciphertext leaves before the ratchet that made it is on disk.
    SendBeforeCommit,
    /// What was left at a peer once is never left there again, also when the peer's instance has
    /// changed.
    ForgetInstance,
    /// The next place of the contact's stream is kept in memory only.
    DedupInMemory,
    /// A message is taken when it comes, also before those below it.
    OrderIgnored,
    /// A control message moves the ratchet also when messages that were encrypted before it have
    /// not come.
    ControlMovesRatchet,
    /// A resend is read on a copy of its session, as other control messages are.
    ResendOnCopy,
}

impl Bug {
    /// Every one of them, without [`Bug::None`].
    pub fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|bug| *bug != Self::None)
    }
}
