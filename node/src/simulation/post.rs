//! A rendezvous peer: mailboxes in memory, and what it may do wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halloo_wire::peer::Receipt;
use halloo_wire::{EnvelopeId, InstanceId};

use super::rng::Rng;

/// Envelopes for one recipient.
const ROOM: usize = 100;

/// What became of an envelope.
pub(super) enum Given {
    /// It says that it has it, and perhaps it does.
    Kept(Receipt, Option<EnvelopeId>),
    Refused,
}

/// A peer.
pub(super) struct Peer {
    number: usize,
    runs: u8,
    mailboxes: BTreeMap<usize, BTreeMap<EnvelopeId, (Vec<u8>, Duration)>>,
    connected: BTreeSet<usize>,
    next: u64,
    malicious: bool,
    /// Seconds for which an envelope is kept.
    ttl_s: u32,
    /// What has passed through it: a peer that lies remembers.
    seen: Vec<(usize, Vec<u8>)>,
}

impl Peer {
    pub(super) fn new(number: usize, malicious: bool, ttl_s: u32) -> Self {
        Self {
            number,
            runs: 1,
            mailboxes: BTreeMap::new(),
            connected: BTreeSet::new(),
            next: 1,
            malicious,
            ttl_s,
            seen: Vec::new(),
        }
    }

    /// Its present run.
    pub(super) fn run(&self) -> Option<InstanceId> {
        let mut id = [self.runs; 16];
        id[0] = self.number as u8;
        Some(InstanceId(id))
    }

    pub(super) fn is_malicious(&self) -> bool {
        self.malicious
    }

    pub(super) fn reform(&mut self) {
        self.malicious = false;
    }

    /// Everything in memory is gone.
    pub(super) fn restart(&mut self, rng: &mut Rng) {
        self.runs = self.runs.wrapping_add(1);
        self.mailboxes.clear();
        self.connected.clear();
        self.next = rng.within(1, 1 << 30);
    }

    pub(super) fn came(&mut self, node: usize) {
        self.connected.insert(node);
    }

    pub(super) fn gone(&mut self, node: usize) {
        self.connected.remove(&node);
    }

    pub(super) fn take(
        &mut self,
        to: usize,
        run: InstanceId,
        bytes: Vec<u8>,
        now: Duration,
        rng: &mut Rng,
    ) -> Given {
        let instance = InstanceId(self.run().map_or([0; 16], |run| run.0));
        if instance != run {
            return Given::Refused;
        }
        let receipt = Receipt { instance, ttl_s: self.ttl_s };
        if self.malicious {
            self.seen.push((to, bytes.clone()));
            match rng.below(10) {
                // It says that it has it.
                0 | 1 => return Given::Kept(receipt, None),
                2 => return Given::Refused,
                _ => {}
            }
        }
        let mailbox = self.mailboxes.entry(to).or_default();
        mailbox.retain(|_, (_, until)| *until > now);
        if mailbox.len() >= ROOM {
            return Given::Refused;
        }
        let id = EnvelopeId(self.next);
        self.next += 1;
        mailbox.insert(id, (bytes, now + Duration::from_secs(self.ttl_s.into())));
        Given::Kept(receipt, Some(id))
    }

    pub(super) fn forget(&mut self, node: usize, ids: &[EnvelopeId]) {
        if let Some(mailbox) = self.mailboxes.get_mut(&node) {
            mailbox.retain(|id, _| !ids.contains(id));
        }
    }

    /// What waits for a recipient who has just connected.
    pub(super) fn waiting(&mut self, node: usize, now: Duration) -> Vec<EnvelopeId> {
        let Some(mailbox) = self.mailboxes.get_mut(&node) else { return Vec::new() };
        mailbox.retain(|_, (_, until)| *until > now);
        mailbox.keys().copied().collect()
    }

    /// What a recipient gets when one envelope is to be pushed to it.
    pub(super) fn give(
        &mut self,
        to: usize,
        id: EnvelopeId,
        rng: &mut Rng,
    ) -> Vec<(EnvelopeId, Vec<u8>)> {
        if !self.connected.contains(&to) {
            return Vec::new();
        }
        let mailbox = self.mailboxes.get(&to);
        let Some((bytes, _)) = mailbox.and_then(|m| m.get(&id)) else { return Vec::new() };
        let mut given = vec![(id, bytes.clone())];
        if self.malicious {
            match rng.below(8) {
                // Twice, changed, something old, something for somebody else.
                0 => given.push((id, bytes.clone())),
                1 => {
                    let at = rng.below(bytes.len());
                    given[0].1[at] ^= 1 << rng.below(8);
                }
                2 | 3 => {
                    let old = &self.seen[rng.below(self.seen.len())];
                    given.push((EnvelopeId(rng.within(1, 1 << 40)), old.1.clone()));
                }
                _ => {}
            }
        }
        given
    }
}
