//! What the harness has seen, and what may never be seen. The nodes know nothing of it.

use std::collections::HashMap;
use std::ops::Range;

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
    /// Who has asked whom for something again: it may come in another ciphertext.
    asked: Vec<(usize, usize)>,
    nodes: usize,
    /// The machine that is set back, and how it stood when its state was kept.
    snapshot: Option<Snapshot>,
}

/// A machine's state that is put back later. What its store forgets by that is no breach: messages
/// that it has accepted or taken since. Everything else is.
struct Snapshot {
    node: usize,
    /// How much each had accepted for each then.
    kept: HashMap<(usize, usize), usize>,
    /// The same when it was put back.
    put_back: Option<HashMap<(usize, usize), usize>>,
}

impl Ledger {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            breach: None,
            accepted: HashMap::new(),
            ciphertexts: HashMap::new(),
            keys: HashMap::new(),
            asked: Vec::new(),
            nodes,
            snapshot: None,
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
        // Somebody who was set back has had it.
        if !known && !self.is_old(contact) {
            self.breach(Breach::DeliveredTooEarly { node, contact });
        }
    }

    pub(super) fn unreadable(&mut self, node: usize, contact: usize, tampered: bool) {
        // Who was set back uses the same keys again, and has lost those of others.
        if !tampered && !self.is_old(node) && !self.is_old(contact) {
            self.breach(Breach::Unreadable { node, contact });
        }
    }

    /// Something is asked for again.
    pub(super) fn asked(&mut self, node: usize, contact: usize) {
        self.asked.push((node, contact));
    }

    /// A machine's state is kept.
    pub(super) fn remembered(&mut self, node: usize) {
        let snapshot = Snapshot { node, kept: self.counts(), put_back: None };
        self.snapshot.get_or_insert(snapshot);
    }

    /// It is put back.
    pub(super) fn set_back(&mut self, node: usize) {
        let counts = self.counts();
        if let Some(snapshot) = self.snapshot.as_mut().filter(|s| s.node == node) {
            snapshot.put_back = Some(counts);
        }
    }

    fn counts(&self) -> HashMap<(usize, usize), usize> {
        self.accepted.iter().map(|(pair, all)| (*pair, all.len())).collect()
    }

    /// Whether a machine was set back.
    pub(super) fn somebody_is_old(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|s| s.put_back.is_some())
    }

    fn is_old(&self, node: usize) -> bool {
        self.snapshot.as_ref().is_some_and(|s| s.node == node && s.put_back.is_some())
    }

    /// Of what `node` has accepted for `contact`, the places that a set-back may have taken away:
    /// those whose sender may have forgotten them, and those that their recipient may have.
    fn forgettable(&self, node: usize, contact: usize) -> (Range<usize>, Range<usize>) {
        let none = || (0..0, 0..0);
        let Some(snapshot) = &self.snapshot else { return none() };
        let Some(put_back) = &snapshot.put_back else { return none() };
        let at = |counts: &HashMap<_, usize>| counts.get(&(node, contact)).copied().unwrap_or(0);
        if snapshot.node == node {
            (at(&snapshot.kept)..at(put_back), 0..0)
        } else if snapshot.node == contact {
            (0..0, 0..at(put_back))
        } else {
            none()
        }
    }

    /// A ciphertext has left.
    pub(super) fn left(&mut self, node: usize, contact: usize, bytes: &[u8]) {
        let Ok(inner) = Inner::decode(bytes) else { return };
        let place = (node, contact, inner.route.stream, inner.route.seq);
        let before = self.ciphertexts.insert(place, bytes.to_vec());
        if before.is_some_and(|before| before != bytes)
            && !self.asked.contains(&(contact, node))
            && !self.is_old(node)
        {
            self.breach(Breach::EncryptedAgain { node, contact, seq: inner.route.seq });
        }
        if let Some(key) = message_key(&inner)
            && self.keys.insert(key, bytes.to_vec()).is_some_and(|before| before != bytes)
            && !self.is_old(node)
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
                let (unsent, unread) = self.forgettable(node, contact);
                let (mut expected, mut loose) = (Vec::new(), Vec::new());
                for (place, Accepted { id, text, may_fail, answer }) in accepted.iter().enumerate()
                {
                    if unsent.contains(&place) {
                        expected.push((text, true));
                        continue;
                    }
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
                    // A store that was set back has forgotten what it has answered.
                    let differs = answer.is_some_and(|taken| taken != failed) && !self.is_old(node);
                    if failed && !may_fail || differs {
                        let (text, answer) = (text.clone(), *answer);
                        return Err(Breach::TakenBack { node, text, answer, failed });
                    }
                    if !failed && *may_fail && self.is_old(node) {
                        // Taken back, perhaps, which a store that was set back has forgotten: it
                        // comes after those that did not wait for it.
                        loose.push(text);
                    } else if !failed {
                        expected.push((text, unread.contains(&place)));
                    } else if self.is_old(node) {
                        // Taken back by a store that has forgotten that it was sent.
                        expected.push((text, true));
                    }
                }
                let times = |text: &String| arrived.iter().filter(|it| **it == text).count();
                let twice = loose.iter().any(|text| times(text) > 1);
                let in_order: Vec<&String> =
                    arrived.iter().copied().filter(|text| !loose.contains(text)).collect();
                let mut rest = in_order.iter().copied().peekable();
                let all = expected.iter().all(|(text, may_miss)| {
                    rest.next_if(|arrived| arrived == text).is_some() || *may_miss
                });
                if !all || rest.peek().is_some() || twice {
                    let wrong = in_order.iter().zip(&expected).find(|(a, (b, _))| a != &b);
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
