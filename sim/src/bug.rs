//! Faults that are put into a node on purpose, so that the checks can show that they see them.

use halloo_nat::{DirectPath, SocketId};

/// What is broken in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bug {
    /// Nothing.
    #[default]
    None,
    /// It hears probes only from port 40,000 to 40,001, where its contact's own sockets are, and so
    /// never learns a peer-reflexive candidate.
    DeafToStrangers,
    /// Once direct, it never sends by relay again.
    NeverFallsBack,
    /// It probes whatever a card names.
    TrustsCards,
    /// It sends every probe a hundred times.
    Storms,
    /// It does not answer the challenges of a relay.
    IgnoresChallenges,
    /// It thinks for a fifth of a second before it probes.
    Slow,
}

impl Bug {
    /// Whether a probe that comes this way is dropped.
    pub fn deaf_to(self, path: DirectPath) -> bool {
        self == Self::DeafToStrangers
            && (path.socket != SocketId::MAIN || !(40_000..=40_001).contains(&path.remote.port()))
    }
}
