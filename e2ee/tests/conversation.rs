//! Two people write to each other over a network and with nodes that do anything.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{NOW, Person, STREAM, acquainted, say};
use halloo_e2ee::{
    BundleError, BundleSecrets, DecryptError, IN_FLIGHT, OpenError, Parties, RatchetAccount,
    RatchetSession, UnixTime, VerifiedBundle, VerifiedPlain, open, seal,
};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::{Inner, Kind, RatchetType};
use halloo_wire::{DeviceId, Fingerprint, Seq};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_both_ends_agree_in_the_end(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.settle();
        world.assert_everything_arrived_once();
        world.assert_both_can_still_talk();
    }

    #[test]
    fn any_order_within_the_window_is_readable(
        order in Just((0..IN_FLIGHT as usize).collect::<Vec<_>>()).prop_shuffle(),
        begin in any::<bool>(),
    ) {
        let (alice, mut session, mut bob, bob_session) = if begin {
            let (alice, mut bob) = (Person::new(), Person::new());
            let session = alice.begin(&mut bob);
            (alice, session, bob, None)
        } else {
            let (alice, session, bob, bob_session) = acquainted();
            (alice, session, bob, Some(bob_session))
        };
        let messages: Vec<_> = (0..IN_FLIGHT)
            .map(|i| say(&mut session, &alice.sees(&bob), 2 + i, &[i as u8]))
            .collect();
        let mut reader = bob_session;
        for i in order {
            let parties = bob.sees(&alice);
            let heard = match &mut reader {
                Some(session) => session.decrypt_checked(&messages[i], &parties).unwrap(),
                None => {
                    let (session, heard) = bob.hear_first(&alice, &messages[i]);
                    reader = Some(session);
                    heard
                }
            };
            prop_assert_eq!(heard.content(), &[i as u8]);
        }
    }
}

/// One thing that can happen. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Send(Side),
    Deliver(usize),
    Drop(usize),
    Duplicate(usize),
    Corrupt(usize, usize),
    /// Seals a message that has not arrived again, the same bytes.
    Retry(Side, usize),
    /// Everything through the store and back.
    Restart(Side),
    /// Another bundle; secrets that are over are forgotten.
    Publish(Side),
    /// Begins another session although there is one.
    BeginAgain(Side),
    Days(u64),
}

type Side = usize;

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2usize;
    let index = any::<usize>();
    prop_oneof![
        12 => side.clone().prop_map(Step::Send),
        14 => index.prop_map(Step::Deliver),
        2 => index.prop_map(Step::Drop),
        2 => index.prop_map(Step::Duplicate),
        1 => (index, index).prop_map(|(i, bit)| Step::Corrupt(i, bit)),
        2 => (side.clone(), index).prop_map(|(s, i)| Step::Retry(s, i)),
        3 => side.clone().prop_map(Step::Restart),
        2 => side.clone().prop_map(Step::Publish),
        1 => side.prop_map(Step::BeginAgain),
        2 => (1..9u64).prop_map(Step::Days),
    ]
}

struct World {
    now: UnixTime,
    ends: [End; 2],
    /// Envelopes on their way or in a mailbox.
    network: Vec<(Side, Vec<u8>)>,
}

struct End {
    person: Person,
    /// The one to write with first.
    sessions: Vec<RatchetSession>,
    /// The other side's bundle, as its cached bytes.
    cache: Option<Vec<u8>>,
    highest_seq: Option<u64>,
    outbox: Vec<Outgoing>,
    inbox: BTreeMap<u64, Vec<u8>>,
    /// What has been accepted, byte for byte.
    accepted: BTreeSet<Vec<u8>>,
}

struct Outgoing {
    seq: u64,
    text: Vec<u8>,
    /// Encrypted once, sent as often as it takes.
    inner: Vec<u8>,
}

#[derive(Debug)]
enum Refused {
    Open(OpenError),
    Decrypt(DecryptError),
}

impl World {
    fn new() -> Self {
        Self { now: NOW, ends: [End::new(), End::new()], network: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let pick = |i: usize| (!self.network.is_empty()).then(|| i % self.network.len());
        match step {
            Step::Send(side) => self.send(side),
            Step::Deliver(i) => {
                if let Some(i) = pick(i) {
                    let (to, envelope) = self.network.remove(i);
                    let _ = self.deliver(to, &envelope);
                }
            }
            Step::Drop(i) => {
                if let Some(i) = pick(i) {
                    self.network.remove(i);
                }
            }
            Step::Duplicate(i) => {
                if let Some(i) = pick(i) {
                    let copy = self.network[i].clone();
                    self.network.push(copy);
                }
            }
            Step::Corrupt(i, bit) => {
                if let Some(i) = pick(i) {
                    let (to, mut envelope) = self.network.remove(i);
                    let bit = bit % (envelope.len() * 8);
                    envelope[bit / 8] ^= 1 << (bit % 8);
                    assert!(self.deliver(to, &envelope).is_err(), "a changed bit was accepted");
                }
            }
            Step::Retry(side, i) => {
                let waiting = self.unread(side);
                if !waiting.is_empty() {
                    let inner = self.ends[side].outbox[waiting[i % waiting.len()]].inner.clone();
                    self.seal_and_send(side, &inner);
                }
            }
            Step::Restart(side) => self.ends[side].restart(),
            Step::Publish(side) => self.ends[side].person.publish(self.now),
            Step::BeginAgain(side) => {
                let _ = self.begin(side);
            }
            Step::Days(days) => self.now = self.now.plus(days * 24 * 3600),
        }
    }

    /// Encrypts the next message, unless the window is full or there is no way to begin.
    fn send(&mut self, side: Side) {
        let waiting = self.unread(side);
        let oldest = waiting.first().map(|&i| self.ends[side].outbox[i].seq);
        let seq = self.ends[side].outbox.len() as u64 + 1;
        let window_is_full = oldest.is_some_and(|oldest| seq >= oldest + IN_FLIGHT);
        let silent = self.ends[side].sessions.is_empty() && self.begin(side).is_none();
        if window_is_full || silent {
            return;
        }
        let text = format!("number {seq} from {side}").into_bytes();
        let inner = self.compose(side, seq, &text);
        self.ends[side].outbox.push(Outgoing { seq, text, inner: inner.clone() });
        self.seal_and_send(side, &inner);
    }

    fn compose(&mut self, side: Side, seq: u64, text: &[u8]) -> Vec<u8> {
        let parties = self.parties(side);
        let end = &mut self.ends[side];
        let session = end.sessions.first_mut().unwrap();
        let introduction = (!session.has_heard()).then(|| end.person.introduction());
        let introduction = introduction.as_deref();
        session
            .compose(&parties, STREAM, Seq(seq), Kind::Message, text, introduction)
            .unwrap()
            .encode()
    }

    fn begin(&mut self, side: Side) -> Option<()> {
        let mut bundle = self.look_up(side).ok()?;
        let end = &mut self.ends[side];
        let session = RatchetSession::outbound(&end.person.account, &mut bundle).unwrap();
        end.sessions.insert(0, session);
        Some(())
    }

    /// Seals to the cached bundle while that is valid. When the other side has not published for
    /// too long, the message waits.
    fn seal_and_send(&mut self, side: Side, inner: &[u8]) {
        let other = self.fingerprint(1 - side);
        let end = &self.ends[side];
        let cached = end.cache.as_ref().and_then(|bytes| {
            VerifiedBundle::from_bytes(bytes, &other, DeviceId::FIRST, self.now, end.highest_seq)
                .ok()
        });
        if let Some(bundle) = cached.or_else(|| self.look_up(side).ok()) {
            let envelope = seal(&bundle, Lane::Contacts, inner).unwrap();
            self.network.push((1 - side, envelope));
        }
    }

    fn look_up(&mut self, side: Side) -> Result<VerifiedBundle, BundleError> {
        let other = self.fingerprint(1 - side);
        let found = self.ends[1 - side].person.look_up();
        let end = &mut self.ends[side];
        let bundle =
            VerifiedBundle::verify(&found, &other, DeviceId::FIRST, self.now, end.highest_seq)?;
        end.highest_seq = Some(bundle.seq());
        end.cache = Some(bundle.to_bytes());
        Ok(bundle)
    }

    /// Checks at the same time that a refusal changes nothing and that no bytes are taken twice.
    fn deliver(&mut self, to: Side, envelope: &[u8]) -> Result<(), Refused> {
        let parties = self.parties(to);
        let end = &mut self.ends[to];
        let before = end.state();
        let me = end.person.identity.fingerprint();
        let inner = open(envelope, &me, |id| end.person.secrets.get(&id))
            .map(|opened| opened.as_bytes().to_vec())
            .map_err(Refused::Open);
        match inner.and_then(|inner| Ok((end.read(&parties, &inner)?, inner))) {
            Ok((heard, inner)) => {
                assert!(end.accepted.insert(inner), "the same bytes were accepted twice");
                let seq = heard.route().seq.0;
                let text = heard.content().to_vec();
                // The inbox takes each place once; a message composed again says the same.
                let kept = end.inbox.entry(seq).or_insert_with(|| text.clone());
                assert_eq!(*kept, text);
                Ok(())
            }
            Err(refused) => {
                assert!(end.state() == before, "a refused message changed something");
                Err(refused)
            }
        }
    }

    /// The network heals: what has not arrived is sent again, the same bytes; what cannot be
    /// read any more is composed again under another session.
    fn settle(&mut self) {
        while !self.network.is_empty() {
            let (to, envelope) = self.network.remove(0);
            let _ = self.deliver(to, &envelope);
        }
        for side in [0, 1] {
            self.ends[side].person.publish(self.now);
        }
        for side in [0, 1] {
            for i in self.unread(side) {
                let inner = self.ends[side].outbox[i].inner.clone();
                let bundle = self.look_up(side).unwrap();
                let envelope = seal(&bundle, Lane::Contacts, &inner).unwrap();
                match self.deliver(1 - side, &envelope) {
                    Ok(()) => {}
                    Err(Refused::Decrypt(
                        DecryptError::UnknownOneTimeKey
                        | DecryptError::KeyGone
                        | DecryptError::NotAuthentic,
                    )) => {}
                    Err(Refused::Decrypt(e)) => panic!("a retry may not end with: {e}"),
                    Err(Refused::Open(e)) => panic!("a fresh envelope does not open: {e}"),
                }
            }
            let lost = self.unread(side);
            if !lost.is_empty() {
                self.begin(side).unwrap();
            }
            for i in lost {
                let Outgoing { seq, text, .. } = &self.ends[side].outbox[i];
                let (seq, text) = (*seq, text.clone());
                let inner = self.compose(side, seq, &text);
                let bundle = self.look_up(side).unwrap();
                let envelope = seal(&bundle, Lane::Contacts, &inner).unwrap();
                self.deliver(1 - side, &envelope).unwrap();
            }
        }
    }

    fn assert_everything_arrived_once(&self) {
        for side in [0, 1] {
            let sent: BTreeMap<_, _> =
                self.ends[side].outbox.iter().map(|o| (o.seq, o.text.clone())).collect();
            assert_eq!(self.ends[1 - side].inbox, sent);
        }
    }

    fn assert_both_can_still_talk(&mut self) {
        for round in 0..3 {
            for side in [0, 1] {
                self.send(side);
                let (to, envelope) = self.network.pop().unwrap();
                self.deliver(to, &envelope).unwrap_or_else(|e| panic!("round {round}: {e:?}"));
            }
        }
        self.assert_everything_arrived_once();
    }

    /// Places in the outbox that the other side has not got.
    fn unread(&self, side: Side) -> Vec<usize> {
        let read = &self.ends[1 - side].inbox;
        let outbox = &self.ends[side].outbox;
        (0..outbox.len()).filter(|&i| !read.contains_key(&outbox[i].seq)).collect()
    }

    fn fingerprint(&self, side: Side) -> Fingerprint {
        self.ends[side].person.identity.fingerprint()
    }

    fn parties(&self, side: Side) -> Parties {
        self.ends[side].person.sees(&self.ends[1 - side].person)
    }
}

impl End {
    fn new() -> Self {
        Self {
            // Sessions after the first of each bundle begin with the fallback key.
            person: Person { at_peer: 1, ..Person::new() },
            sessions: Vec::new(),
            cache: None,
            highest_seq: None,
            outbox: Vec::new(),
            inbox: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    fn read(&mut self, parties: &Parties, inner: &[u8]) -> Result<VerifiedPlain, Refused> {
        let inner = Inner::decode(inner).unwrap();
        let begun = self.sessions.iter().position(|s| s.matches(&inner));
        let candidates = match (inner.ratchet_type, begun) {
            (RatchetType::PreKey, None) => {
                let (session, heard) =
                    RatchetSession::inbound(&mut self.person.account, &inner, parties)
                        .map_err(Refused::Decrypt)?;
                self.sessions.insert(0, session);
                return Ok(heard);
            }
            (RatchetType::PreKey, Some(i)) => i..i + 1,
            (RatchetType::Normal, _) => 0..self.sessions.len(),
        };
        let mut refused = DecryptError::UnknownOneTimeKey;
        for i in candidates {
            match self.sessions[i].decrypt_checked(&inner, parties) {
                Ok(heard) => {
                    // What the other side writes with is best for the answer.
                    let session = self.sessions.remove(i);
                    self.sessions.insert(0, session);
                    return Ok(heard);
                }
                Err(e) => refused = e,
            }
        }
        Err(Refused::Decrypt(refused))
    }

    fn restart(&mut self) {
        let person = &mut self.person;
        person.account = RatchetAccount::from_bytes(&person.account.to_bytes()).unwrap();
        for secrets in person.secrets.values_mut() {
            *secrets = BundleSecrets::from_bytes(&secrets.to_bytes()).unwrap();
        }
        for session in &mut self.sessions {
            *session = RatchetSession::from_bytes(&session.to_bytes()).unwrap();
        }
    }

    fn state(&self) -> Vec<Vec<u8>> {
        let sessions = self.sessions.iter().map(|s| s.to_bytes().to_vec());
        std::iter::once(self.person.account.to_bytes().to_vec()).chain(sessions).collect()
    }
}
