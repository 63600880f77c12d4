//! What a bad contact or a stranger might try with ratchet messages.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NOW, Person, STREAM, acquainted, say};
use halloo_e2ee::{
    DecryptError, IntroductionError, Parties, Party, RatchetAccount, RatchetSession, RestoreError,
    VerifiedBundle,
};
use halloo_identity::SignatureRole;
use halloo_wire::inner::{Inner, Kind, Plain, RatchetType};
use halloo_wire::prekey::PrekeyBundle;
use halloo_wire::{DeviceId, Seq, StreamId};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm::{Account, SessionConfig};

#[test]
fn a_ciphertext_cannot_be_moved() {
    let (alice, mut alice_session, bob, mut bob_session) = acquainted();
    let good = say(&mut alice_session, &alice.sees(&bob), 2, b"mine");
    type Move = (fn(&mut Inner), DecryptError);
    let moves: [Move; 7] = [
        (|m| m.route.seq = Seq(3), DecryptError::Moved),
        (|m| m.route.stream = StreamId(8), DecryptError::Moved),
        (|m| m.kind = Kind::Safety, DecryptError::Moved),
        (|m| m.route.from_device = DeviceId(2), DecryptError::WrongRoute),
        (|m| m.route.to_device = DeviceId(2), DecryptError::WrongRoute),
        (|m| m.route.from = m.route.to, DecryptError::WrongRoute),
        (|m| m.route.to = m.route.from, DecryptError::WrongRoute),
    ];
    let before = bob_session.to_bytes();
    for (change, expected) in moves {
        let mut moved = good.clone();
        change(&mut moved);
        let refused = bob_session.decrypt_checked(&moved, &bob.sees(&alice)).err();
        assert_eq!(refused, Some(expected));
        assert!(*bob_session.to_bytes() == *before);
    }
    assert!(bob_session.decrypt_checked(&good, &bob.sees(&alice)).is_ok());
}

#[test]
fn a_moved_first_message_uses_up_no_one_time_key() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, good) = alice.first_message(&mut bob, b"hello");
    let parties = bob.sees(&alice);
    let before = bob.account.to_bytes();
    let mut moved = good.clone();
    moved.route.seq = Seq(9);
    let refused = RatchetSession::inbound(&mut bob.account, &moved, &parties).err();
    assert_eq!(refused, Some(DecryptError::Moved));
    assert!(*bob.account.to_bytes() == *before);
    assert!(RatchetSession::inbound(&mut bob.account, &good, &parties).is_ok());
}

#[test]
fn a_message_to_somebody_else_cannot_be_passed_on() {
    // Mallory publishes Bob's ratchet keys as her own. Alice writes to Mallory, who hands the
    // message to Bob: it is from Alice, and Bob can decrypt it, but it was never for him.
    let (alice, mut mallory, mut bob) = (Person::new(), Person::new(), Person::new());
    let bobs = PrekeyBundle::decode(&bob.bundle).unwrap();
    let mut found = mallory.look_up();
    let mut bundle = PrekeyBundle::decode(&found.bundle).unwrap();
    bundle.olm_identity = bobs.olm_identity;
    bundle.olm_fallback = bobs.olm_fallback;
    bundle.one_time_keys_hash = bobs.one_time_keys_hash;
    bundle.signature = mallory.identity.sign(SignatureRole::PrekeyBundle, &bundle.signed_bytes());
    found.bundle = bundle.encode();
    found.one_time_keys = bob.one_time_keys.clone();
    let address = mallory.identity.fingerprint();
    let mut hers =
        VerifiedBundle::verify(&found, &address, DeviceId::FIRST, NOW, None).ok().unwrap();
    let mut session = RatchetSession::outbound(&alice.account, &mut hers).unwrap();
    let parties = Parties { us: alice.party(), them: hers.party() };
    let to_mallory = say(&mut session, &parties, 1, b"the treasure is yours");

    let bob_sees = bob.sees(&alice);
    let before = bob.account.to_bytes();
    let refused = RatchetSession::inbound(&mut bob.account, &to_mallory, &bob_sees).err();
    assert_eq!(refused, Some(DecryptError::WrongRoute));
    // Nor after she has written Bob's name on the outside.
    let mut renamed = to_mallory;
    renamed.route.to = bob.identity.fingerprint();
    let refused = RatchetSession::inbound(&mut bob.account, &renamed, &bob_sees).err();
    assert_eq!(refused, Some(DecryptError::Moved));
    assert!(*bob.account.to_bytes() == *before);
}

#[test]
fn a_message_with_other_ratchet_keys_inside_is_refused() {
    let (alice, mut alice_session, bob, mut bob_session) = acquainted();
    let parties = alice.sees(&bob);
    let honest = Plain {
        route: parties.outgoing(STREAM, Seq(2)),
        kind: Kind::Message,
        from_ratchet_key: parties.us.ratchet_key,
        to_ratchet_key: parties.them.ratchet_key,
        content: b"hi".to_vec(),
    };
    let before = bob_session.to_bytes();
    for plain in [
        Plain { from_ratchet_key: [9; 32], ..honest.clone() },
        Plain { to_ratchet_key: [9; 32], ..honest.clone() },
    ] {
        let inner = outside_of(&plain, alice_session.encrypt(&plain).unwrap());
        let refused = bob_session.decrypt_checked(&inner, &bob.sees(&alice)).err();
        assert_eq!(refused, Some(DecryptError::OtherParties));
        assert!(*bob_session.to_bytes() == *before);
    }
    let inner = outside_of(&honest, alice_session.encrypt(&honest).unwrap());
    assert!(bob_session.decrypt_checked(&inner, &bob.sees(&alice)).is_ok());
}

#[test]
fn nobody_begins_a_session_in_anothers_name() {
    // Mallory writes Alice's name on the outside and inside; her own key gives her away.
    let (alice, mallory, mut bob) = (Person::new(), Person::new(), Person::new());
    let mut session = mallory.begin(&mut bob);
    let pretends = Parties { us: alice.party(), them: bob.party() };
    let inner = say(&mut session, &pretends, 1, b"it is me, alice");
    let parties = bob.sees(&alice);
    let refused = RatchetSession::inbound(&mut bob.account, &inner, &parties).err();
    assert_eq!(refused, Some(DecryptError::WrongRatchetKey));

    // With her own key in Alice's party she would have to introduce it as Alice's.
    let wrong = Party { ratchet_key: mallory.account.olm_identity(), ..alice.party() };
    let with = |introduction| Inner { introduction: Some(introduction), ..inner.clone() };
    let parties = Parties { us: bob.party(), them: wrong };
    let before = bob.account.to_bytes();
    for introduction in [alice.introduction(), mallory.introduction()] {
        let inner = with(introduction);
        let refused = RatchetSession::inbound(&mut bob.account, &inner, &parties).err();
        assert_eq!(refused, Some(IntroductionError::WrongSender.into()));
    }
    assert!(*bob.account.to_bytes() == *before);
}

#[test]
fn a_first_message_is_read_once() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, first) = alice.first_message(&mut bob, b"hello");
    let stored = bob.account.one_time_key_count();
    let (mut session, _) = bob.hear_first(&alice, &first);
    assert_eq!(bob.account.one_time_key_count(), stored - 1);

    let parties = bob.sees(&alice);
    assert!(session.matches(&first));
    assert_eq!(session.decrypt_checked(&first, &parties).err(), Some(DecryptError::KeyGone));
    let again = RatchetSession::inbound(&mut bob.account, &first, &parties).err();
    assert_eq!(again, Some(DecryptError::UnknownOneTimeKey));
}

#[test]
fn a_first_message_to_the_fallback_key_is_read_once_also_after_a_restart() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let mut bundle = bob.verified(NOW);
    bundle.take_one_time_key();
    let mut session = RatchetSession::outbound(&alice.account, &mut bundle).unwrap();
    let first = say(&mut session, &alice.sees(&bob), 1, b"one");
    let second = say(&mut session, &alice.sees(&bob), 2, b"two");
    bob.hear_first(&alice, &first);
    bob.account = RatchetAccount::from_bytes(&bob.account.to_bytes()).unwrap();

    let parties = bob.sees(&alice);
    for replayed in [&first, &second] {
        let again = RatchetSession::inbound(&mut bob.account, replayed, &parties).err();
        assert_eq!(again, Some(DecryptError::Replayed));
    }
    // Another session with the same key is another matter.
    let mut bundle = bob.verified(NOW);
    bundle.take_one_time_key();
    let mut session = RatchetSession::outbound(&alice.account, &mut bundle).unwrap();
    let other = say(&mut session, &alice.sees(&bob), 1, b"again");
    assert!(RatchetSession::inbound(&mut bob.account, &other, &parties).is_ok());
}

#[test]
fn an_outbound_session_takes_the_one_time_key_with_it() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let mut bundle = bob.verified(NOW);
    let parties = alice.sees(&bob);
    for (seq, fallback) in [(1, false), (2, true)] {
        let mut session = RatchetSession::outbound(&alice.account, &mut bundle).unwrap();
        assert_eq!(bundle.one_time_key(), None);
        let stored = bob.account.one_time_key_count();
        bob.hear_first(&alice, &say(&mut session, &parties, seq, b"hi"));
        assert_eq!(stored - bob.account.one_time_key_count(), usize::from(!fallback));
    }
}

#[test]
fn a_message_of_another_session_changes_nothing() {
    let (alice, mut alice_session, mut bob, mut bob_session) = acquainted();
    let (_, first_of_another) = alice.first_message(&mut bob, b"another");
    let parties = bob.sees(&alice);
    assert!(!bob_session.matches(&first_of_another));
    let refused = bob_session.decrypt_checked(&first_of_another, &parties).err();
    assert_eq!(refused, Some(DecryptError::OtherSession));

    let later = say(&mut alice_session, &alice.sees(&bob), 2, b"later");
    assert!(!bob_session.matches(&later));
    let refused = RatchetSession::inbound(&mut bob.account, &later, &parties).err();
    assert_eq!(refused, Some(DecryptError::NotAFirstMessage));
}

#[test]
fn olm_version_1_is_refused_in_every_form() {
    let (mallory, mut bob) = (Account::new(), Person::new());
    let bundle = bob.verified(NOW);
    let key = |bytes| Curve25519PublicKey::from_bytes(bytes);
    let mut session = mallory
        .create_outbound_session(
            SessionConfig::version_1(),
            key(bundle.party().ratchet_key),
            key(bundle.one_time_key().unwrap()),
        )
        .unwrap();
    let alice = Party { ratchet_key: mallory.curve25519_key().to_bytes(), ..Person::new().party() };
    let parties = Parties { us: bob.party(), them: alice };
    let plain = Plain {
        route: Parties { us: alice, them: bob.party() }.outgoing(STREAM, Seq(1)),
        kind: Kind::Message,
        from_ratchet_key: alice.ratchet_key,
        to_ratchet_key: bob.account.olm_identity(),
        content: b"short MAC".to_vec(),
    };
    let first = session.encrypt(plain.encode()).unwrap().to_parts().1;
    let inner = outside_of(&plain, (RatchetType::PreKey, first));
    let refused = RatchetSession::inbound(&mut bob.account, &inner, &parties).err();
    assert_eq!(refused, Some(DecryptError::UnsupportedVersion));

    // A stored session of version 1 is not restored.
    let stored = [&[1], &*serde_json::to_vec(&session.pickle()).unwrap()].concat();
    let restored = RatchetSession::from_bytes(&stored).err();
    assert_eq!(restored, Some(RestoreError::UnsupportedVersion));
}

#[test]
fn messages_carry_a_whole_mac() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (mut alice_session, first) = alice.first_message(&mut bob, b"");
    let (mut bob_session, _) = bob.hear_first(&alice, &first);
    let answer = say(&mut bob_session, &bob.sees(&alice), 1, b"");
    alice_session.decrypt_checked(&answer, &alice.sees(&bob)).unwrap();
    let later = say(&mut alice_session, &alice.sees(&bob), 2, b"");
    assert_eq!(later.ratchet_type, RatchetType::Normal);

    // version 1 | ratchet key 2 + 32 | index 2 | ciphertext 3 + 160 | MAC 32. The plaintext has
    // 152 bytes; AES-CBC fills it up to 160.
    assert_eq!(later.ratchet[0], 4);
    assert_eq!(later.ratchet.len(), 1 + 34 + 2 + 3 + 160 + 32);
    // version 1 | three keys 34 each | message 3 + 232.
    assert_eq!(first.ratchet.len(), 1 + 3 * 34 + 3 + later.ratchet.len());
}

#[test]
fn content_and_place_have_limits() {
    let (alice, mut session, bob, _) = acquainted();
    let parties = alice.sees(&bob);
    let before = session.to_bytes();
    let mut compose = |seq, kind, len: usize| {
        session.compose(&parties, STREAM, Seq(seq), kind, &vec![0; len], None).map(|_| ()).err()
    };
    let limit = halloo_wire::limits::MAX_CONTENT;
    assert_eq!(compose(2, Kind::Message, limit + 1), Some(halloo_e2ee::ComposeError::TooLong));
    assert_eq!(compose(0, Kind::Message, 1), Some(halloo_e2ee::ComposeError::Place));
    assert_eq!(compose(0, Kind::Ack, 1), Some(halloo_e2ee::ComposeError::Place));
    assert!(*session.to_bytes() == *before);

    // The longest message with an introduction fits its envelope.
    let introduction = alice.introduction();
    let inner = session
        .compose(&parties, STREAM, Seq(2), Kind::Message, &vec![0; limit], Some(&introduction))
        .unwrap();
    assert!(Inner::decode(&inner.encode()).is_ok());
}

fn outside_of(plain: &Plain, (ratchet_type, ratchet): (RatchetType, Vec<u8>)) -> Inner {
    Inner { route: plain.route, kind: plain.kind, introduction: None, ratchet_type, ratchet }
}
