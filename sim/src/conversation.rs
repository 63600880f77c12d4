//! What two people say to each other: numbered datagrams in both directions, acknowledged, and
//! repeated until they are. It stands for a QUIC connection.
//!
//! ```text
//! data   0x40 | connection 8 | 1 | number 4 | zeros up to 240 bytes in all
//! ack    0x40 | connection 8 | 2 | all below 4 | which of the 128 from there 16
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_wire::{DecodeError, Reader, Writer};

/// How often a talking side has something new to say.
pub const PACE: Duration = Duration::from_millis(20);
/// Datagrams that may be on their way: above it, new ones wait, as behind a congestion window.
pub const WINDOW: usize = 400;
/// Bytes of a datagram with data.
pub const DATA_LEN: usize = 240;
/// Repetitions in one go.
const MAX_REPEATS: usize = 10;
/// Time before a datagram is repeated, at least.
const MIN_REPEAT: Duration = Duration::from_millis(100);
/// And at most.
const MAX_REPEAT: Duration = Duration::from_secs(1);
/// Estimate of the round trip before it was measured.
const FIRST_RTT: Duration = Duration::from_millis(200);

/// One side of a conversation.
#[derive(Debug)]
pub struct Conversation {
    connection: u64,
    /// Whether it says something new each [`PACE`].
    talks: bool,
    next_tick: Option<Instant>,
    said: u32,
    unacknowledged: BTreeMap<u32, Sent>,
    rtt: Duration,
    /// All below have been heard.
    heard_below: u32,
    heard: BTreeSet<u32>,
    last_progress: Option<Instant>,
    /// What came of it.
    pub report: Report,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    last: Instant,
    tries: u32,
}

/// What came of one side's listening.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// When the first datagram came.
    pub first_heard: Option<Instant>,
    /// Datagrams that came more than once.
    pub duplicates: u64,
    /// Longest time between two new datagrams while the other side talked.
    pub longest_silence: Duration,
    /// Datagrams that were said again.
    pub repeats: u64,
}

impl Conversation {
    /// A conversation in which nothing was said.
    pub fn new(connection: u64) -> Self {
        Self {
            connection,
            talks: false,
            next_tick: None,
            said: 0,
            unacknowledged: BTreeMap::new(),
            rtt: FIRST_RTT,
            heard_below: 0,
            heard: BTreeSet::new(),
            last_progress: None,
            report: Report::default(),
        }
    }

    /// Begins or ends to talk.
    pub fn talk(&mut self, talks: bool, now: Instant) {
        self.talks = talks;
        if talks || !self.unacknowledged.is_empty() {
            self.next_tick.get_or_insert(now);
        }
    }

    /// Says one thing at once.
    pub fn say(&mut self, now: Instant) -> Vec<u8> {
        let number = self.said;
        self.said += 1;
        self.unacknowledged.insert(number, Sent { last: now, tries: 1 });
        self.next_tick.get_or_insert(now + PACE);
        self.data(number)
    }

    /// From here on, silence counts: the other side talks.
    pub fn listen(&mut self, now: Instant) {
        self.last_progress = Some(now);
        self.report.longest_silence = Duration::ZERO;
    }

    /// From here on, silence does not count.
    pub fn stop_listening(&mut self) {
        self.last_progress = None;
    }

    /// Takes a datagram in; the answer, if there is one to send.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none of this conversation.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let mut r = Reader::new(datagram);
        let first = r.u8()?;
        if first != HEADER || r.u64()? != self.connection {
            return Err(DecodeError::Invalid("connection"));
        }
        match r.u8()? {
            1 => {
                let number = r.u32()?;
                self.hear(number, now);
                Ok(Some(self.acknowledgement()))
            }
            2 => {
                let below = r.u32()?;
                let bits = u128::from_be_bytes(r.array()?);
                self.acknowledged(below, bits, now);
                Ok(None)
            }
            other => Err(DecodeError::UnknownType(other)),
        }
    }

    /// What is to be said at this time.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if self.next_tick.is_none_or(|t| now < t) {
            return out;
        }
        let base = (self.rtt * 3 / 2).max(MIN_REPEAT);
        let late = |s: &Sent| {
            now >= s.last + (base * 2u32.saturating_pow(s.tries.min(5) - 1)).min(MAX_REPEAT)
        };
        let again: Vec<u32> = self
            .unacknowledged
            .iter()
            .filter(|(_, s)| late(s))
            .map(|(&n, _)| n)
            .take(MAX_REPEATS)
            .collect();
        for number in again {
            let sent = self.unacknowledged.get_mut(&number).expect("it was just there");
            *sent = Sent { last: now, tries: sent.tries + 1 };
            self.report.repeats += 1;
            out.push(self.data(number));
        }
        if self.talks && self.unacknowledged.len() < WINDOW {
            out.push(self.say(now));
        }
        self.next_tick = (self.talks || !self.unacknowledged.is_empty()).then_some(now + PACE);
        out
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// How many datagrams have been said, and how many of the other side's are here without a gap.
    pub fn counts(&self) -> (u32, u32) {
        (self.said, self.heard_below)
    }

    /// Datagrams that wait for their acknowledgement.
    pub fn waiting(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Longest silence, the present one included.
    pub fn silence(&self, now: Instant) -> Duration {
        let present = self.last_progress.map_or(Duration::ZERO, |at| now - at);
        self.report.longest_silence.max(present)
    }

    fn hear(&mut self, number: u32, now: Instant) {
        self.report.first_heard.get_or_insert(now);
        if number < self.heard_below || !self.heard.insert(number) {
            self.report.duplicates += 1;
            return;
        }
        while self.heard.remove(&self.heard_below) {
            self.heard_below += 1;
        }
        if let Some(last) = self.last_progress.replace(now) {
            self.report.longest_silence = self.report.longest_silence.max(now - last);
        } else {
            self.last_progress = None;
        }
    }

    fn acknowledged(&mut self, below: u32, bits: u128, now: Instant) {
        let rtt = self
            .unacknowledged
            .get(&below.wrapping_sub(1))
            .filter(|s| s.tries == 1)
            .map(|s| now - s.last);
        if let Some(rtt) = rtt {
            self.rtt = (self.rtt * 7 + rtt) / 8;
        }
        self.unacknowledged.retain(|&n, _| {
            let bit = n.wrapping_sub(below);
            n >= below && (bit >= 128 || bits >> bit & 1 == 0)
        });
    }

    fn data(&self, number: u32) -> Vec<u8> {
        let mut w = Writer::with_capacity(DATA_LEN);
        w.u8(HEADER).u64(self.connection).u8(1).u32(number);
        let mut bytes = w.into_vec();
        bytes.resize(DATA_LEN, 0);
        bytes
    }

    fn acknowledgement(&self) -> Vec<u8> {
        let bits = self
            .heard
            .range(self.heard_below..self.heard_below.saturating_add(128))
            .fold(0u128, |bits, &n| bits | 1 << (n - self.heard_below));
        let mut w = Writer::with_capacity(30);
        w.u8(HEADER).u64(self.connection).u8(2).u32(self.heard_below).put(&bits.to_be_bytes());
        w.into_vec()
    }
}

/// First byte of a QUIC packet with a short header.
const HEADER: u8 = 0x40;

/// The connection that a datagram names, if it is long enough to name one.
pub fn connection_of(datagram: &[u8]) -> Option<u64> {
    let bytes = datagram.get(1..9)?;
    Some(bytes.iter().fold(0, |acc, &b| acc << 8 | u64::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn everything_arrives_once_though_half_of_it_is_lost() {
        let mut now = Instant::now();
        let (mut a, mut b) = (Conversation::new(5), Conversation::new(5));
        a.talk(true, now);
        let (mut rng, mut dropped) = (Rng::new(1), 0);
        for step in 0..1000 {
            now += PACE;
            if step == 300 {
                a.talk(false, now);
            }
            for datagram in a.handle_timeout(now) {
                if rng.chance(500) {
                    dropped += 1;
                } else if let Some(ack) = b.receive(&datagram, now).unwrap() {
                    a.receive(&ack, now).unwrap();
                }
            }
        }
        assert!(dropped > 100);
        assert_eq!(a.waiting(), 0);
        assert_eq!(a.counts().0, b.counts().1);
        assert!(a.counts().0 >= 300);
    }

    #[test]
    fn silence_is_measured_while_somebody_listens() {
        let start = Instant::now();
        let (mut a, mut b) = (Conversation::new(5), Conversation::new(5));
        let at = |ms| start + Duration::from_millis(ms);
        b.receive(&a.say(at(0)), at(0)).unwrap();
        b.listen(at(1000));
        b.receive(&a.say(at(1100)), at(1100)).unwrap();
        b.receive(&a.say(at(1400)), at(1400)).unwrap();
        assert_eq!(b.silence(at(1500)), Duration::from_millis(300));
        assert_eq!(b.silence(at(2000)), Duration::from_millis(600));
    }
}
