//! What goes to the contact: pings when they are due, and answers.

use std::time::Instant;

use halloo_wire::path::DirectPath;
use rand_chacha::rand_core::Rng;

use super::rounds::RoundNumber;
use super::{Agent, MAX_QUEUE};
use crate::output::{Output, Purpose, Transmit};
use crate::probe::{Kind, Message};
use crate::schedule::PlanKind;

/// How a datagram is sent.
#[derive(Debug, Clone, Copy)]
struct Sending {
    ttl: Option<u8>,
    purpose: Purpose,
}

impl Agent {
    /// Sends the probes whose time has come.
    pub(super) fn send_due(&mut self, now: Instant) {
        while let Some((path, kind, nth)) = self.pairs.take_due(now) {
            let ttl = match kind {
                PlanKind::Punch => self.first_hops(path, nth),
                _ => None,
            };
            self.ping(path, ttl, now);
        }
        self.send_guesses(now);
        self.send_search(now);
    }

    pub(super) fn ping(&mut self, path: DirectPath, ttl: Option<u8>, now: Instant) {
        let Some(pair) = self.pairs.get_mut(path) else { return };
        let purpose = match pair.answered {
            Some(_) => Purpose::Check,
            None => Purpose::Punch,
        };
        if purpose == Purpose::Punch && !pair.attested && !self.unattested.take(now) {
            self.stats.held_back += 1;
            return;
        }
        let txid = self.rng.next_u64();
        pair.ping_sent(txid, now);
        // A round that the other side has not shown to know may never have reached it.
        let round = match pair.plan.map(|plan| plan.kind()) {
            Some(PlanKind::Punch) => self.rounds.newest(),
            _ => self.rounds.newest_heard(),
        };
        self.stats.probes_sent += 1;
        self.send_ping(path, round, txid, Sending { ttl, purpose }, now);
    }

    /// A ping that is not of a pair: what comes of it is heard, and becomes one.
    pub(super) fn ping_unplanned(&mut self, path: DirectPath, purpose: Purpose, now: Instant) {
        let txid = self.rng.next_u64();
        self.stats.probes_sent += 1;
        let round = self.rounds.newest();
        self.send_ping(path, round, txid, Sending { ttl: None, purpose }, now);
    }

    fn send_ping(
        &mut self,
        path: DirectPath,
        round: RoundNumber,
        txid: u64,
        how: Sending,
        now: Instant,
    ) {
        let message = self.message(Kind::Ping, path, txid, now);
        self.transmit(path, round, &message, how);
    }

    pub(super) fn answer(&mut self, path: DirectPath, round: RoundNumber, txid: u64, now: Instant) {
        self.stats.answers_sent += 1;
        let message = self.message(Kind::Pong, path, txid, now);
        self.transmit(path, round, &message, Sending { ttl: None, purpose: Purpose::Answer });
    }

    fn message(&self, kind: Kind, path: DirectPath, txid: u64, now: Instant) -> Message {
        Message {
            kind,
            busy: self.keep.is_busy(now),
            selected: self.using.path() == Some(path),
            doubts: self.using.doubts(path),
            txid,
            you: path.remote,
        }
    }

    fn transmit(
        &mut self,
        path: DirectPath,
        round: RoundNumber,
        message: &Message,
        Sending { ttl, purpose }: Sending,
    ) {
        if self.queue.len() >= MAX_QUEUE {
            return;
        }
        if let Some(datagram) = self.rounds.seal(round, message) {
            let DirectPath { socket, remote: to } = path;
            self.queue.push_back(Output::Transmit(Transmit { socket, to, datagram, ttl, purpose }));
        }
    }
}
