//! People with keys, and a rendezvous peer's look-up, for the tests.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use halloo_e2ee::{
    BundleSecrets, Parties, Party, RatchetAccount, RatchetSession, UnixTime, VerifiedBundle,
    VerifiedPlain, introduce, make_bundle,
};
use halloo_identity::Identity;
use halloo_wire::inner::{Inner, Kind};
use halloo_wire::peer::Found;
use halloo_wire::{DeviceId, Seq, StreamId};

/// The day on which the stories begin.
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const STREAM: StreamId = StreamId(7);

/// Somebody with a node that has published a bundle.
pub struct Person {
    pub identity: Identity,
    pub account: RatchetAccount,
    pub secrets: BTreeMap<u64, BundleSecrets>,
    pub bundle: Vec<u8>,
    pub one_time_keys: Vec<[u8; 32]>,
    /// How many of them the peer gives away before it has none left.
    pub at_peer: u16,
    pub given_away: u16,
    pub seq: u64,
}

impl Person {
    pub fn new() -> Self {
        let mut it = Self {
            identity: Identity::generate(),
            account: RatchetAccount::generate(),
            secrets: BTreeMap::new(),
            bundle: Vec::new(),
            one_time_keys: Vec::new(),
            at_peer: 50,
            given_away: 0,
            seq: 0,
        };
        it.publish(NOW);
        it
    }

    /// Replaces the bundle at the peer and forgets what is over.
    pub fn publish(&mut self, now: UnixTime) {
        self.secrets.retain(|_, s| !s.is_expired(now));
        self.seq += 1;
        let (bundle, one_time_keys, secrets) =
            make_bundle(&self.identity, &mut self.account, self.seq, now);
        self.secrets.insert(secrets.seq(), secrets);
        self.bundle = bundle.encode();
        self.one_time_keys = one_time_keys;
        self.given_away = 0;
    }

    /// What the peer answers to a look-up.
    pub fn look_up(&mut self) -> Found {
        let one_time_key = (self.given_away < self.at_peer).then_some(self.given_away);
        self.given_away += 1;
        Found {
            passport: self.identity.passport_der().to_vec(),
            bundle: self.bundle.clone(),
            one_time_keys: self.one_time_keys.clone(),
            one_time_key,
        }
    }

    pub fn verified(&mut self, now: UnixTime) -> VerifiedBundle {
        let found = self.look_up();
        VerifiedBundle::verify(&found, &self.identity.fingerprint(), DeviceId::FIRST, now, None)
            .unwrap()
    }

    pub fn party(&self) -> Party {
        Party {
            fingerprint: self.identity.fingerprint(),
            device: self.identity.device_id(),
            ratchet_key: self.account.olm_identity(),
        }
    }

    pub fn sees(&self, other: &Self) -> Parties {
        Parties { us: self.party(), them: other.party() }
    }

    pub fn introduction(&self) -> Vec<u8> {
        introduce(&self.identity, self.account.olm_identity()).encode()
    }

    pub fn begin(&self, other: &mut Self) -> RatchetSession {
        RatchetSession::outbound(&self.account, &mut other.verified(NOW)).unwrap()
    }

    /// Begins a session and writes its first message.
    pub fn first_message(&self, other: &mut Self, text: &[u8]) -> (RatchetSession, Inner) {
        let mut session = self.begin(other);
        let inner = say(&mut session, &self.sees(other), 1, text);
        (session, inner)
    }

    pub fn hear_first(&mut self, other: &Self, inner: &Inner) -> (RatchetSession, VerifiedPlain) {
        let parties = self.sees(other);
        RatchetSession::inbound(&mut self.account, inner, &parties).unwrap()
    }
}

/// Two people whose sessions have both heard from each other.
pub fn acquainted() -> (Person, RatchetSession, Person, RatchetSession) {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (mut alice_session, first) = alice.first_message(&mut bob, b"hello");
    let (mut bob_session, _) = bob.hear_first(&alice, &first);
    let answer = say(&mut bob_session, &bob.sees(&alice), 1, b"hello yourself");
    alice_session.decrypt_checked(&answer, &alice.sees(&bob)).unwrap();
    (alice, alice_session, bob, bob_session)
}

pub fn say(session: &mut RatchetSession, parties: &Parties, seq: u64, text: &[u8]) -> Inner {
    session.compose(parties, STREAM, Seq(seq), Kind::Message, text, None).unwrap()
}

/// The bytes with one bit turned, for each bit.
pub fn each_bit_changed(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit, changed)
    })
}
