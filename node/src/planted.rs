//! Faults that the simulation plants, to show that it finds them. In a release they do not exist.

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A message is encrypted anew each time that it leaves.
    EncryptAgain,
    /// What waits at a peer is believed to wait there after the peer has restarted.
    ForgetInstance,
    /// What is outside of the stream moves the ratchet, whatever is missing before it.
    ControlsFirst,
    /// A peer's receipt counts as delivery.
    BelievePeer,
    /// A message that is taken back leaves no trace: its place stays empty.
    LeaveHole,
    /// Which messages have arrived is kept in memory only.
    #[cfg(test)]
    ForgetPlaces,
    /// A receipt leaves before what it acknowledges is on disk.
    #[cfg(test)]
    ReceiptBeforeCommit,
    /// The disk's syncs are left out.
    #[cfg(test)]
    NoSync,
}

#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this thread has the fault.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Gives this thread a fault, or none.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
