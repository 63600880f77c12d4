//! When what waits for a contact is carried, and which way. Pure: the time comes in, and so does
//! chance; the courier (`net::courier`) does what is decided here.
//!
//! With a direct connection everything goes there. What is not acknowledged within [`PATIENCE`], or
//! without a connection, is left at the contact's peer too. Attempts that fail are repeated after a
//! wait that grows. Nothing here has to outlive the process: what is unacknowledged stands in the
//! store, and what is sent twice arrives once.

use std::time::{Duration, Instant};

use halloo_wire::Seq;

/// What is sent on a direct connection and not acknowledged for this long goes to the peer too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Receipts that are given at once tell the peers who talks to whom; so they wait a random part
/// of this time, and one covers all that came meanwhile.
const ACK_DELAY: Duration = Duration::from_secs(2);
/// Waits between attempts to leave something at a contact's peer.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(500), last: Duration::from_secs(300) };
/// How often it is made sure that the peer still has what was left there, while nothing tells.
pub(crate) const RECHECK: Duration = Duration::from_secs(120);

/// How long a deadline is slept towards at most: the wall clock, by which it is meant, may be set.
pub(crate) const DEADLINE_LOOK: Duration = Duration::from_secs(30);

/// How long to wait before it is looked whether a deadline has passed, both in Unix seconds.
pub(crate) fn look_at_deadline(now: u64, deadline: u64) -> Duration {
    // It passes when its second is over.
    let left = deadline.saturating_add(1).saturating_sub(now).max(1);
    Duration::from_secs(left).min(DEADLINE_LOOK)
}

/// Waits between attempts that fail. They double three times and grow by a quarter from then on:
/// whatever was in the way, an attempt follows its end after about a quarter of the time that it
/// was there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Backoff {
    /// The wait after the attempt that so many failed before, without jitter.
    pub(crate) fn after(self, failures: u32) -> Duration {
        let slow = failures.saturating_sub(Self::DOUBLED).min(Self::MOST);
        let wait = self.first * (1 << failures.min(Self::DOUBLED));
        wait.mul_f64(1.25_f64.powi(slow as i32)).min(self.last)
    }

    const DOUBLED: u32 = 3;
    /// Enough for any two waits that make sense.
    const MOST: u32 = 64;
}

/// What waits for a contact.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// The first place that is not acknowledged.
    pub(crate) first: Option<Seq>,
    /// Whether a receipt is due.
    pub(crate) ack: bool,
    /// Whether there are messages outside of the stream.
    pub(crate) controls: bool,
}

impl Work {
    fn is_nothing(&self) -> bool {
        self.first.is_none() && !self.ack && !self.controls
    }
}

/// How a direct connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// There is none, or it has been silent for too long: the peer is needed.
    None,
    /// Everything is acknowledged, and nothing is to be done.
    Done,
    /// It is trusted until then with what it carries.
    Until(Instant),
}

impl Trust {
    fn until(self) -> Option<Instant> {
        match self {
            Self::Until(until) => Some(until),
            Self::None | Self::Done => None,
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, until then or until something happens.
    Wait(Option<Instant>),
    /// Leave things at the contact's peer.
    ByPeer,
}

/// One contact's schedule.
#[derive(Debug)]
pub(crate) struct Schedule {
    failures: u32,
    /// Earliest time of the next attempt at the contact's peer.
    not_before: Instant,
    /// When the receipt that is due goes to the peer.
    ack_at: Option<Instant>,
    /// The contact was heard through the mailbox: what is due goes there too, since a direct
    /// connection may be dead at the other end long before this one knows.
    ack_by_mail: bool,
    /// The first place that was not acknowledged in the last round.
    first: Option<Seq>,
    /// On the direct connection: the first place that is not acknowledged, and since when that has
    /// not changed.
    waiting: Option<(Seq, Instant)>,
}

impl Schedule {
    /// Everything is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            not_before: now,
            ack_at: None,
            ack_by_mail: false,
            first: None,
            waiting: None,
        }
    }

    /// Another path is a new chance.
    pub(crate) fn path_changed(&mut self, now: Instant) {
        self.failures = 0;
        self.not_before = now;
    }

    /// The contact was heard through the mailbox: it is there, and a new chance.
    pub(crate) fn heard_by_mailbox(&mut self, now: Instant) {
        self.ack_by_mail = true;
        self.path_changed(now);
    }

    /// Whether a receipt on a direct connection is all that is needed.
    pub(crate) fn receipt_by_link_suffices(&self) -> bool {
        !self.ack_by_mail
    }

    /// A direct connection has begun to carry everything anew.
    pub(crate) fn link_began(&mut self) {
        self.waiting = None;
    }

    /// Everything has been written on the direct connection; `first` is what is not acknowledged.
    pub(crate) fn written(&mut self, now: Instant, first: Option<Seq>) -> Trust {
        self.waiting = first.map(|first| match self.waiting {
            Some((same, since)) if same == first => (first, since),
            _ => (first, now),
        });
        match self.waiting {
            None if !self.ack_by_mail => Trust::Done,
            None => Trust::Until(now + RECHECK),
            Some((_, since)) if now < since + PATIENCE => Trust::Until(since + PATIENCE),
            Some(_) => Trust::None,
        }
    }

    /// Whether a direct connection is all that is needed, and when to look again.
    pub(crate) fn link_suffices(&self, trust: Trust) -> Option<Next> {
        match trust {
            Trust::Done => Some(Next::Wait(None)),
            Trust::Until(until) if !self.ack_by_mail => Some(Next::Wait(Some(until))),
            Trust::Until(_) | Trust::None => None,
        }
    }

    /// What is left to do when the direct connection has had its turn and does not suffice. Takes
    /// out of `work` what that is trusted with.
    pub(crate) fn next(&mut self, now: Instant, trust: Trust, work: &mut Work) -> Next {
        let trusted = trust.until();
        if trusted.is_some() {
            // The receipt goes both ways; the rest is where it belongs.
            work.first = None;
        }
        if work.is_nothing() {
            self.ack_by_mail = false;
            return Next::Wait(trusted);
        }
        if trusted.is_none() && work.first != self.first {
            // The contact reads: what was refused for want of room has a chance again.
            self.first = work.first;
            self.path_changed(now);
        }
        if now < self.not_before {
            return Next::Wait(Some(self.not_before));
        }
        Next::ByPeer
    }

    /// Everything has been left at the contact's peer. Returns when to look again: what the
    /// connection is trusted with, the receipt that is not due yet, and what may get lost there.
    pub(crate) fn left(
        &mut self,
        now: Instant,
        trust: Trust,
        work: &Work,
        receipt: Option<Instant>,
        jitter: f64,
    ) -> Option<Instant> {
        self.failures = 0;
        let recheck = work.first.map(|_| now + RECHECK.mul_f64(jitter));
        [trust.until(), receipt, recheck].into_iter().flatten().min()
    }

    /// An attempt has failed; the peer may have said how long to wait. Returns when the next is.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Instant {
        let wait = match retry_after {
            Some(wait) => wait.clamp(RETRY.first, RETRY.last),
            None => RETRY.after(self.failures),
        };
        self.failures += 1;
        self.not_before = now + wait.mul_f64(jitter);
        self.not_before
    }

    /// When the receipt that is due goes to the contact's peer; `None` for now. `part` of the delay
    /// is drawn by chance.
    pub(crate) fn receipt_at(&mut self, now: Instant, part: f64) -> Option<Instant> {
        let at = *self.ack_at.get_or_insert_with(|| now + ACK_DELAY.mul_f64(part));
        (now < at).then_some(at)
    }

    /// A receipt has been given, or none is due.
    pub(crate) fn receipt_given(&mut self, by_mail: bool) {
        self.ack_at = None;
        if by_mail {
            self.ack_by_mail = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn work(first: Option<u64>, ack: bool) -> Work {
        Work { first: first.map(Seq), ack, controls: false }
    }

    #[test]
    fn a_connection_that_does_not_acknowledge_is_trusted_for_a_moment_only() {
        let t = Instant::now();
        let mut s = Schedule::new(t);
        assert_eq!(s.written(t, None), Trust::Done);
        assert_eq!(s.written(t, Some(Seq(1))), Trust::Until(t + PATIENCE));
        assert_eq!(s.written(t + PATIENCE, Some(Seq(1))), Trust::None);
        assert_eq!(s.next(t + PATIENCE, Trust::None, &mut work(Some(1), false)), Next::ByPeer);
        // It acknowledges again; another one begins.
        let (later, waits) = (t + 2 * PATIENCE, Trust::Until(t + 3 * PATIENCE));
        assert_eq!(s.written(later, Some(Seq(2))), waits);
        assert_eq!(s.link_suffices(waits), Some(Next::Wait(Some(t + 3 * PATIENCE))));
        s.link_began();
        assert_eq!(s.written(later + SECOND, Some(Seq(2))), Trust::Until(later + 2 * SECOND));
    }

    #[test]
    fn a_receipt_for_what_came_by_mailbox_goes_there_too() {
        let t = Instant::now();
        let mut s = Schedule::new(t);
        s.heard_by_mailbox(t);
        let trust = s.written(t, Some(Seq(7)));
        assert_eq!(s.link_suffices(trust), None);
        let mut due = work(Some(7), true);
        assert_eq!(s.next(t, trust, &mut due), Next::ByPeer);
        assert_eq!(due.first, None, "the connection carries the rest");
        let at = s.receipt_at(t, 0.5).unwrap();
        assert_eq!(at, t + SECOND);
        assert_eq!(s.left(t, trust, &due, Some(at), 1.0), Some(t + PATIENCE));
        assert_eq!(s.receipt_at(at, 0.9), None, "its time was drawn once");
        s.receipt_given(true);
        assert_eq!(s.link_suffices(trust), Some(Next::Wait(Some(t + PATIENCE))));
    }

    #[test]
    fn waits_between_attempts_grow_to_five_minutes_and_a_word_from_the_contact_ends_them() {
        let t = Instant::now();
        let mut s = Schedule::new(t);
        let mut waits = Vec::new();
        for _ in 0..30 {
            waits.push((s.failed(t, None, 1.0) - t).as_millis());
        }
        assert_eq!(waits[..6], [500, 1_000, 2_000, 4_000, 5_000, 6_250]);
        for i in 7..waits.len() {
            let before: u128 = waits[..i].iter().sum();
            assert!(waits[i] <= before * 2 / 5, "never long after what was in the way is gone");
        }
        assert_eq!(waits[29], 300_000);
        assert_eq!(RETRY.after(u32::MAX), RETRY.last);
        let some = Some(3);
        assert_eq!(s.next(t, Trust::None, &mut work(some, false)), Next::ByPeer, "it has moved");
        let again = s.failed(t, Some(9 * SECOND), 1.0);
        assert_eq!(again, t + 9 * SECOND, "a peer that says how long is believed");
        assert_eq!(s.next(t, Trust::None, &mut work(some, false)), Next::Wait(Some(again)));
        s.path_changed(t);
        assert_eq!(s.next(t, Trust::None, &mut work(some, false)), Next::ByPeer);
        let left = s.left(t, Trust::None, &work(some, false), None, 0.5);
        assert_eq!(left, Some(t + RECHECK / 2));
        assert_eq!(s.next(t, Trust::None, &mut work(None, false)), Next::Wait(None));
    }
}
