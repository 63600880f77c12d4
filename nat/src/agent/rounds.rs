//! The rounds of one contact: which keys open and seal her probes.

use crate::probe::{Message, PunchKeys, Reject, Sealer};
use halloo_wire::datagram::Probe;

/// Rounds whose probes are still heard. Two when both sides knock at once, and one more on which
/// the present path was found.
pub const MAX_ROUNDS: usize = 3;

/// A round, by its place in the agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoundNumber(u64);

struct Round {
    number: RoundNumber,
    sealer: Sealer,
    /// Whether the other side has shown that it has the keys.
    heard: bool,
}

pub(super) struct Rounds {
    /// Oldest first; never empty.
    list: Vec<Round>,
    next: u64,
}

impl Rounds {
    pub(super) fn new(keys: PunchKeys, salt: u64) -> Self {
        let mut it = Self { list: Vec::with_capacity(MAX_ROUNDS + 1), next: 0 };
        it.begin(keys, salt);
        it
    }

    /// Begins another round. When there are too many, the oldest is forgotten that is not the one
    /// last heard.
    pub(super) fn begin(&mut self, keys: PunchKeys, salt: u64) {
        self.list.retain(|r| r.sealer.receive_id() != keys.receive_id());
        let number = RoundNumber(self.next);
        self.next += 1;
        self.list.push(Round { number, sealer: Sealer::new(keys, salt), heard: false });
        if self.list.len() > MAX_ROUNDS {
            let kept = self.list.iter().rposition(|r| r.heard);
            self.list.remove(usize::from(kept == Some(0)));
        }
    }

    pub(super) fn receive_ids(&self) -> impl Iterator<Item = u64> {
        self.list.iter().map(|r| r.sealer.receive_id())
    }

    pub(super) fn newest(&self) -> RoundNumber {
        self.list.last().expect("there is a round").number
    }

    /// The newest that the other side has shown to know, or the newest of all.
    pub(super) fn newest_heard(&self) -> RoundNumber {
        self.list.iter().rev().find(|r| r.heard).map_or(self.newest(), |r| r.number)
    }

    /// Whether this side decides between paths: exactly one of the two does.
    pub(super) fn decides(&self) -> bool {
        let number = self.newest_heard();
        self.list.iter().any(|r| r.number == number && r.sealer.has_greater_id())
    }

    pub(super) fn seal(&mut self, number: RoundNumber, message: &Message) -> Option<Vec<u8>> {
        self.list.iter_mut().find(|r| r.number == number)?.sealer.seal(message)
    }

    pub(super) fn open(&mut self, datagram: &[u8]) -> Result<(RoundNumber, Message), Reject> {
        let probe = Probe::decode(datagram).map_err(|_| Reject::Malformed)?;
        let round = self.list.iter_mut().find(|r| r.sealer.receive_id() == probe.key_id);
        let round = round.ok_or(Reject::UnknownKey)?;
        let message = round.sealer.open(&probe)?;
        round.heard = true;
        Ok((round.number, message))
    }
}
