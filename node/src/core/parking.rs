//! A parked registration as the node keeps it: when to say that it is there, what it has been rung
//! with, and when it has to come. No socket, no clock: the time comes in, and what is to be said or
//! done comes out.

use std::time::{Duration, Instant};

use halloo_wire::EnvelopeId;
use halloo_wire::limits::MAX_TAKEN;
use halloo_wire::parked::{Keepalive, RingPart, Word};
use halloo_wire::peer::{Control, Push};

/// From one keepalive to the next, when the peer allows it. Few NATs forget sooner (RFC 4787 asks
/// for two minutes, and many give thirty seconds).
const KEEPALIVE: Duration = Duration::from_secs(25);
/// How long the answer to a keepalive is waited for, each time, before it is said again; after the
/// last, the peer counts as out of reach.
const PATIENCE: [Duration; 4] = [
    Duration::from_millis(600),
    Duration::from_millis(1_200),
    Duration::from_millis(2_400),
    Duration::from_millis(2_400),
];

/// What is to be done after something was heard, or some time has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say [`Parking::say`].
    Say,
    /// Something has come, whole.
    Take(Push),
    /// Something waits that a ring does not bring: a connection is needed.
    Come,
    /// The peer stops, or does not know us: come back after this time at most.
    Leave(Gone),
}

/// Why a parked registration is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The peer is about to stop.
    Draining(Duration),
    /// It does not know us: it was restarted.
    Unknown(Duration),
    /// It has not answered.
    Silent,
}

/// A parked registration.
#[derive(Debug)]
pub(crate) struct Parking {
    every: Duration,
    /// The last counter that was used.
    counter: u64,
    /// The latest ring that was heard, and the parts of the one that comes.
    rung: u32,
    coming: Option<(u32, Vec<Option<Vec<u8>>>)>,
    /// What the peer may forget, until it has heard so.
    taken: Vec<EnvelopeId>,
    /// How many of them were in which keepalive.
    said: (u64, usize),
    /// How often the keepalive has been said without an answer.
    unanswered: usize,
    cookie: u64,
    due: Instant,
}

impl Parking {
    /// A registration that has just been parked, at a peer that rings for so long after the last
    /// keepalive. The first keepalive is due now: it opens the NAT for what is no QUIC, and shows
    /// what has come since.
    pub(crate) fn new(silence: Duration, now: Instant) -> Self {
        Self {
            every: KEEPALIVE.min(silence / 3),
            counter: 0,
            rung: 0,
            coming: None,
            taken: Vec::new(),
            said: (0, 0),
            unanswered: 0,
            cookie: 0,
            due: now,
        }
    }

    /// When [`Parking::elapsed`] has something to do.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// What is to be done when that time has come.
    pub(crate) fn elapsed(&mut self) -> Step {
        if self.unanswered >= PATIENCE.len() { Step::Leave(Gone::Silent) } else { Step::Say }
    }

    /// Something may have changed: the peer is asked at once.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// What to say, and under which counter.
    pub(crate) fn say(&mut self, now: Instant) -> (u64, Keepalive) {
        self.counter += 1;
        let taken: Vec<_> = self.taken.iter().copied().take(MAX_TAKEN).collect();
        self.said = (self.counter, taken.len());
        self.due = now + PATIENCE[self.unanswered.min(PATIENCE.len() - 1)];
        self.unanswered += 1;
        (self.counter, Keepalive { cookie: self.cookie, rung: self.rung, taken })
    }

    /// Envelopes are in the store: the peer is told with the next keepalive.
    pub(crate) fn taken(&mut self, ids: impl IntoIterator<Item = EnvelopeId>) {
        for id in ids {
            if !self.taken.contains(&id) {
                self.taken.push(id);
            }
        }
    }

    /// The peer has said something, which was opened with the registration's key.
    pub(crate) fn heard(&mut self, word: Word, now: Instant) -> Option<Step> {
        match word {
            Word::Heard { counter, waiting } => {
                // An answer to an earlier one may have been late.
                if counter != self.counter {
                    return None;
                }
                let (_, said) = self.said;
                self.taken.drain(..said.min(self.taken.len()));
                self.unanswered = 0;
                self.due = now + self.every;
                if !self.taken.is_empty() {
                    return Some(Step::Say);
                }
                (waiting > 0).then_some(Step::Come)
            }
            Word::Challenge { cookie } => {
                let again = self.cookie == cookie;
                self.cookie = cookie;
                // The same challenge twice is an answer to a keepalive that was sent before.
                (!again).then_some(Step::Say)
            }
            Word::Ring { number, waiting, part } => self.rung(number, waiting, part),
            Word::Draining { retry_after_ms } => {
                let pause = Duration::from_millis(retry_after_ms.into());
                Some(Step::Leave(Gone::Draining(pause)))
            }
        }
    }

    /// The peer has no such row, as an answer to the keepalive with this counter.
    pub(crate) fn unknown(&self, counter: u64, retry_after_ms: u32) -> Option<Step> {
        let pause = Duration::from_millis(retry_after_ms.into());
        (counter == self.counter).then_some(Step::Leave(Gone::Unknown(pause)))
    }

    fn rung(&mut self, number: u32, waiting: u16, part: RingPart) -> Option<Step> {
        if number <= self.rung {
            // It has not heard that we have.
            return Some(Step::Say);
        }
        let RingPart { part, parts, bytes } = part;
        if parts == 0 {
            return Some(Step::Come);
        }
        let fits = |(of, all): &(u32, Vec<_>)| *of == number && all.len() == usize::from(parts);
        if !self.coming.as_ref().is_some_and(fits) {
            self.coming = Some((number, vec![None; usize::from(parts)]));
        }
        let (_, all) = self.coming.as_mut()?;
        *all.get_mut(usize::from(part))? = Some(bytes);
        let whole: Vec<u8> = all.iter().cloned().collect::<Option<Vec<_>>>()?.concat();
        self.coming = None;
        self.rung = number;
        match Push::decode(&whole) {
            // Others wait besides.
            Ok(Push::Envelope(_)) if waiting > 1 => Some(Step::Come),
            Ok(push) => Some(Step::Take(push)),
            Err(_) => Some(Step::Come),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use halloo_wire::envelope::Lane;
    use halloo_wire::peer::Waiting;

    use super::*;

    fn parking() -> (Parking, Instant) {
        let now = Instant::now();
        (Parking::new(Duration::from_secs(600), now), now)
    }

    fn push(len: usize) -> Push {
        let envelope = (0..len).map(|n| n as u8).collect();
        Push::Envelope(Waiting { id: EnvelopeId(7), lane: Lane::Contacts, envelope })
    }

    fn ring(number: u32, waiting: u16, push: &Push) -> Vec<Word> {
        let parts = RingPart::split(&push.encode()).unwrap();
        parts.into_iter().map(|part| Word::Ring { number, waiting, part }).collect()
    }

    fn heard(p: &Parking, waiting: u16) -> Word {
        Word::Heard { counter: p.counter, waiting }
    }

    #[test]
    fn a_keepalive_is_said_every_25_seconds_and_sooner_for_an_impatient_peer() {
        let (mut p, now) = parking();
        assert_eq!((p.due(), p.elapsed()), (now, Step::Say));
        let (counter, said) = p.say(now);
        assert_eq!((counter, said), (1, Keepalive { cookie: 0, rung: 0, taken: vec![] }));
        assert_eq!(p.heard(heard(&p, 0), now), None);
        assert_eq!(p.due(), now + KEEPALIVE);
        let mut p = Parking::new(Duration::from_secs(30), now);
        p.say(now);
        p.heard(heard(&p, 0), now);
        assert_eq!(p.due(), now + Duration::from_secs(10));
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_again_and_then_given_up() {
        let (mut p, mut now) = parking();
        for wait in PATIENCE {
            assert_eq!(p.elapsed(), Step::Say);
            p.say(now);
            assert_eq!(p.due(), now + wait);
            now = p.due();
        }
        assert_eq!(p.elapsed(), Step::Leave(Gone::Silent));
        // An answer to an earlier one is none to the last: a new address may lie between.
        assert_eq!(p.heard(Word::Heard { counter: 1, waiting: 0 }, now), None);
        assert_eq!(p.elapsed(), Step::Leave(Gone::Silent));
        p.heard(heard(&p, 0), now);
        assert_eq!(p.elapsed(), Step::Say);
    }

    #[test]
    fn a_ring_is_put_together_in_any_order_and_taken_once() {
        let (mut p, now) = parking();
        let words = ring(1, 1, &push(3_000));
        assert_eq!(words.len(), 3);
        assert_eq!(p.heard(words[2].clone(), now), None);
        assert_eq!(p.heard(words[0].clone(), now), None);
        assert_eq!(p.heard(words[0].clone(), now), None);
        assert_eq!(p.heard(words[1].clone(), now), Some(Step::Take(push(3_000))));
        p.taken([EnvelopeId(7)]);
        let (_, said) = p.say(now);
        assert_eq!((said.rung, said.taken), (1, vec![EnvelopeId(7)]));
        // The peer has not heard it, and rings again.
        assert_eq!(p.heard(words[0].clone(), now), Some(Step::Say));
        let (_, said) = p.say(now);
        assert_eq!(said.taken, [EnvelopeId(7)]);
        assert_eq!(p.heard(heard(&p, 0), now), None);
        assert!(p.say(now).1.taken.is_empty());
    }

    #[test]
    fn parts_of_different_rings_do_not_mix() {
        let (mut p, now) = parking();
        let (first, second) = (ring(1, 1, &push(1_500)), ring(2, 1, &push(1_600)));
        assert_eq!(p.heard(first[0].clone(), now), None);
        assert_eq!(p.heard(second[1].clone(), now), None);
        assert_eq!(p.heard(first[1].clone(), now), None);
        assert_eq!(p.heard(second[1].clone(), now), None);
        assert_eq!(p.heard(second[0].clone(), now), Some(Step::Take(push(1_600))));
        assert_eq!(p.heard(first[0].clone(), now), Some(Step::Say), "it is older");
    }

    #[test]
    fn what_a_ring_does_not_bring_is_fetched() {
        let (mut p, now) = parking();
        let nothing = Word::Ring { number: 1, waiting: 1, part: RingPart::NOTHING };
        assert_eq!(p.heard(nothing, now), Some(Step::Come));
        let more = ring(1, 2, &push(100));
        assert_eq!(p.heard(more[0].clone(), now), Some(Step::Come));
        p.say(now);
        assert_eq!(p.heard(heard(&p, 3), now), Some(Step::Come));
        let noise = RingPart { part: 0, parts: 1, bytes: vec![0xff; 9] };
        let noise = Word::Ring { number: 9, waiting: 1, part: noise };
        assert_eq!(p.heard(noise, now), Some(Step::Come));
    }

    #[test]
    fn a_challenge_is_answered_once() {
        let (mut p, now) = parking();
        p.say(now);
        assert_eq!(p.heard(Word::Challenge { cookie: 5 }, now), Some(Step::Say));
        assert_eq!(p.say(now).1.cookie, 5);
        assert_eq!(p.heard(Word::Challenge { cookie: 5 }, now), None);
        assert_eq!(p.heard(Word::Challenge { cookie: 6 }, now), Some(Step::Say));
    }

    #[test]
    fn more_than_one_keepalive_can_say_is_said_with_the_next() {
        let (mut p, now) = parking();
        p.taken((0..20).map(EnvelopeId));
        assert_eq!(p.say(now).1.taken.len(), MAX_TAKEN);
        assert_eq!(p.heard(heard(&p, 4), now), Some(Step::Say));
        let taken = p.say(now).1.taken;
        assert_eq!(taken, (16..20).map(EnvelopeId).collect::<Vec<_>>());
        assert_eq!(p.heard(heard(&p, 0), now), None);
    }

    #[test]
    fn who_is_not_known_any_more_leaves_when_that_answers_the_last_keepalive() {
        let (mut p, now) = parking();
        p.say(now);
        p.say(now);
        assert_eq!(p.unknown(1, 500), None);
        let gone = Gone::Unknown(Duration::from_millis(500));
        assert_eq!(p.unknown(2, 500), Some(Step::Leave(gone)));
        let draining = Word::Draining { retry_after_ms: 7 };
        let gone = Gone::Draining(Duration::from_millis(7));
        assert_eq!(p.heard(draining, now), Some(Step::Leave(gone)));
    }
}
