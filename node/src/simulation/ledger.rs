//! What the harness has seen, and what may never be seen. The nodes know nothing of it.

use std::collections::HashMap;

use halloo_identity::Fingerprint;
use halloo_wire::inner::{Inner, RatchetType};
use halloo_wire::{MessageId, Seq, StreamId};

use crate::event::EventKind;

/// An invariant that was broken (docs/delivery.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Breach {
    /// I1: what `send` has taken is not what arrived, or not in this order (I4), or twice (I3).
    Inbox { node: usize, from: usize, accepted: usize, arrived: usize, first_wrong: Option<String> },
    /// I1: of a message was not told exactly once how it ended.
    NotToldOnce { node: usize, text: String, times: usize },
    /// I1: a message failed that nobody took back, or one was taken back and did not fail, or failed
    /// when it was said to be too late.
    TakenBack { node: usize, text: String, answer: Option<bool>, failed: bool },
    /// I2: told delivered, and the recipient does not have it.
    DeliveredTooEarly { node: usize, contact: usize },
    /// I6: one message key for two ciphertexts.
    KeyUsedTwice { node: usize, contact: usize },
    /// A place was encrypted again without having been asked for.
    EncryptedAgain { node: usize, contact: usize, seq: Seq },
    /// A message could not be read, and nobody had tampered with anything.
    Unreadable { node: usize, contact: usize },
    /// I9: something has not left long after the faults have stopped.
    Stuck { node: usize, contact: usize, left: u64 },
    /// The store does not open.
    Damaged { node: usize, why: String },
}

/// What `send` has returned Ok for.
struct Accepted {
    id: MessageId,
    text: String,
    /// Whether it has a deadline, or somebody has tried to cancel it.
    may_fail: bool,
    /// What `cancel` has answered: done, or too late.
    answer: Option<bool>,
}

/// The harness's book.
pub(super) struct Ledger {
    pub(super) breach: Option<Breach>,
    accepted: HashMap<(usize, usize), Vec<Accepted>>,
    /// The ciphertext of each place, by sender and recipient.
    ciphertexts: HashMap<(usize, usize, StreamId, Seq), Vec<u8>>,
    /// What each message key has encrypted.
    keys: HashMap<Vec<u8>, Vec<u8>>,
    /// Who could not read whom: those may ask for the same in another ciphertext.
    unreadable: Vec<(usize, usize)>,
    nodes: usize,
}

impl Ledger {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            breach: None,
            accepted: HashMap::new(),
            ciphertexts: HashMap::new(),
            keys: HashMap::new(),
            unreadable: Vec::new(),
            nodes,
        }
    }

    pub(super) fn breach(&mut self, breach: Breach) {
        self.breach.get_or_insert(breach);
    }

    /// `send` has returned Ok.
    pub(super) fn accepted(
        &mut self,
        node: usize,
        to: usize,
        id: MessageId,
        text: String,
        may_fail: bool,
    ) {
        let accepted = Accepted { id, text, may_fail, answer: None };
        self.accepted.entry((node, to)).or_default().push(accepted);
    }

    /// One of the last messages that a node has accepted.
    pub(super) fn said_lately(&self, node: usize, to: usize, back: usize) -> Option<MessageId> {
        self.accepted.get(&(node, to))?.iter().nth_back(back).map(|a| a.id)
    }

    /// `cancel` was asked, and may have answered.
    pub(super) fn cancelled(
        &mut self,
        node: usize,
        to: usize,
        id: &MessageId,
        answer: Option<bool>,
    ) {
        let accepted = self.accepted.get_mut(&(node, to)).into_iter().flatten();
        if let Some(accepted) = accepted.into_iter().find(|a| a.id == *id) {
            accepted.may_fail = true;
            accepted.answer = accepted.answer.or(answer);
        }
    }

    /// A program was told that a message is delivered; `known` to its recipient?
    pub(super) fn delivered(&mut self, node: usize, contact: usize, _id: &MessageId, known: bool) {
        if !known {
            self.breach(Breach::DeliveredTooEarly { node, contact });
        }
    }

    pub(super) fn unreadable(&mut self, node: usize, contact: usize, tampered: bool) {
        self.unreadable.push((node, contact));
        if !tampered {
            self.breach(Breach::Unreadable { node, contact });
        }
    }

    /// A ciphertext has left.
    pub(super) fn left(&mut self, node: usize, contact: usize, bytes: &[u8]) {
        let Ok(inner) = Inner::decode(bytes) else { return };
        let place = (node, contact, inner.route.stream, inner.route.seq);
        let before = self.ciphertexts.insert(place, bytes.to_vec());
        if before.is_some_and(|before| before != bytes)
            && !self.unreadable.contains(&(contact, node))
        {
            self.breach(Breach::EncryptedAgain { node, contact, seq: inner.route.seq });
        }
        if let Some(key) = message_key(&inner)
            && self.keys.insert(key, bytes.to_vec()).is_some_and(|before| before != bytes)
        {
            self.breach(Breach::KeyUsedTwice { node, contact });
        }
    }

    /// Compares what was accepted with what every program was told in the end.
    pub(super) fn judge(
        &self,
        fps: &[Fingerprint],
        heard: &[Vec<EventKind>],
    ) -> Result<(), Breach> {
        for node in 0..self.nodes {
            for contact in 0..self.nodes {
                let accepted = self.accepted.get(&(node, contact)).map_or(&[][..], Vec::as_slice);
                let arrived: Vec<&String> = heard[contact]
                    .iter()
                    .filter_map(|e| match e {
                        EventKind::Message { from, text, .. } if *from == fps[node] => Some(text),
                        _ => None,
                    })
                    .collect();
                let mut expected = Vec::new();
                for Accepted { id, text, may_fail, answer } in accepted {
                    let (mut delivered, mut failed) = (0, 0);
                    for event in &heard[node] {
                        match event {
                            EventKind::Delivered { id: i, .. } if i == id => delivered += 1,
                            EventKind::Failed { id: i, .. } if i == id => failed += 1,
                            _ => {}
                        }
                    }
                    if delivered + failed != 1 {
                        let times = delivered + failed;
                        return Err(Breach::NotToldOnce { node, text: text.clone(), times });
                    }
                    let failed = failed > 0;
                    if failed && !may_fail || answer.is_some_and(|taken| taken != failed) {
                        let (text, answer) = (text.clone(), *answer);
                        return Err(Breach::TakenBack { node, text, answer, failed });
                    }
                    if !failed {
                        expected.push(text);
                    }
                }
                if arrived != expected {
                    let wrong = arrived.iter().zip(&expected).find(|(a, b)| a != b);
                    return Err(Breach::Inbox {
                        node: contact,
                        from: node,
                        accepted: expected.len(),
                        arrived: arrived.len(),
                        first_wrong: wrong.map(|(a, _)| (*a).clone()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// What names the key of a message in a session that both have spoken on: the ratchet key and the
/// place in its chain, which stand before the ciphertext (tag 0x22).
fn message_key(inner: &Inner) -> Option<Vec<u8>> {
    if inner.ratchet_type != RatchetType::Normal {
        return None;
    }
    let head = inner.ratchet.get(35..)?;
    let end = head.iter().position(|b| *b == 0x22)?;
    inner.ratchet.get(..35 + end).map(<[u8]>::to_vec)
}
