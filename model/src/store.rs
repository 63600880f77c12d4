//! What a node keeps on disk.

use crate::message::Key;
use crate::ratchet::Session;

/// Places that a stream has at most.
pub const PLACES: usize = 3;
/// Sessions that begin at most in one run.
pub const SESSIONS: usize = 6;

/// A node's store. Each node has two: what is on disk, and what the running transaction has made
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Store {
    /// Places of the own stream that are given out.
    pub accepted: u8,
    /// The first of them that is not acknowledged. Those from here on are the outbox.
    pub first: u8,
    /// The ciphertexts of the outbox, by what they were encrypted with.
    pub ciphers: [Option<Key>; PLACES],
    /// The instance with which each message of the outbox was left.
    pub parked: [Option<u8>; PLACES],
    /// How often each message's end was noted.
    pub ends: [u8; PLACES],
    /// The first place of the contact's stream that has not arrived.
    pub next: u8,
    /// The inbox, in the order of arrival; 0 is nothing. It has room for a mistake.
    pub inbox: [u8; PLACES + 1],
    /// Whether an acknowledgement is due.
    pub ack_due: bool,
    /// Whether a resend was asked for within the last minute.
    pub asked: bool,
    /// The ratchet.
    pub sessions: [Session; SESSIONS],
    /// The session that read last.
    pub speaks: Option<u8>,
    /// The peer's instance that keeps our mailbox.
    pub run: u8,
}

impl Store {
    /// The store of a node that has a session with its contact, and is registered.
    pub fn new() -> Self {
        let mut sessions = [Session::default(); SESSIONS];
        sessions[0] = Session::begin();
        Self {
            accepted: 0,
            first: 1,
            ciphers: [None; PLACES],
            parked: [None; PLACES],
            ends: [0; PLACES],
            next: 1,
            inbox: [0; PLACES + 1],
            ack_due: false,
            asked: false,
            sessions,
            speaks: Some(0),
            run: 0,
        }
    }

    /// Places in the outbox.
    pub fn outbox(&self) -> std::ops::RangeInclusive<u8> {
        self.first..=self.accepted
    }

    /// The ciphertext of a place.
    pub fn cipher(&self, place: u8) -> Option<Key> {
        self.ciphers.get(usize::from(place).wrapping_sub(1)).copied().flatten()
    }

    /// The first place that is not encrypted.
    pub fn unencrypted(&self) -> u8 {
        let in_outbox = self.outbox().find(|place| self.cipher(*place).is_none());
        in_outbox.unwrap_or(self.accepted + 1)
    }

    /// What has arrived.
    pub fn arrived(&self) -> impl Iterator<Item = u8> + '_ {
        self.inbox.iter().copied().take_while(|place| *place > 0)
    }

    /// Whether a place is in the inbox.
    pub fn has(&self, place: u8) -> bool {
        self.arrived().any(|p| p == place)
    }

    /// Puts a place at the end of the inbox.
    pub fn put(&mut self, place: u8) {
        if let Some(room) = self.inbox.iter_mut().find(|p| **p == 0) {
            *room = place;
        }
    }

    /// Forgets what is acknowledged, and notes its end.
    pub fn deliver_below(&mut self, next: u8) {
        while self.first < next && self.first <= self.accepted {
            let i = usize::from(self.first - 1);
            self.ends[i] += 1;
            self.ciphers[i] = None;
            self.parked[i] = None;
            self.first += 1;
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}
