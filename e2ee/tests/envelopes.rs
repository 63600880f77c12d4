//! What does not open, and what an envelope gives away.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NOW, Person};
use halloo_e2ee::{OpenError, open, refresh_bundle, seal};
use halloo_wire::DecodeError;
use halloo_wire::envelope::Lane;

#[test]
fn only_the_recipient_opens_an_envelope() {
    let (mut bob, carol) = (Person::new(), Person::new());
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"for bob").unwrap();
    let opened = open(&envelope, &carol.identity.fingerprint(), |id| carol.secrets.get(&id));
    assert_eq!(opened.err(), Some(OpenError::NotAuthentic));
    // Not even Bob's keys under another name.
    let opened = open(&envelope, &carol.identity.fingerprint(), |id| bob.secrets.get(&id));
    assert_eq!(opened.err(), Some(OpenError::NotAuthentic));
}

#[test]
fn an_envelope_for_a_bundle_whose_secrets_are_gone_names_the_bundle() {
    let mut bob = Person::new();
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"late").unwrap();
    let long_after = bob.secrets[&1].expires_at().plus(1);
    bob.publish(long_after);
    let opened = open(&envelope, &bob.identity.fingerprint(), |id| bob.secrets.get(&id));
    assert_eq!(opened.err(), Some(OpenError::UnknownKey(1)));
}

#[test]
fn an_envelope_is_bound_to_its_exact_bundle() {
    // The same sealing keys under another number: only the hash of the bundle differs.
    let mut bob = Person::new();
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"hi").unwrap();
    let (_, _, refreshed) =
        refresh_bundle(&bob.identity, &mut bob.account, &bob.secrets[&1], 2, NOW).unwrap();
    let opened = open(&envelope, &bob.identity.fingerprint(), |_| Some(&refreshed));
    assert_eq!(opened.err(), Some(OpenError::NotAuthentic));
}

#[test]
fn the_parts_of_two_envelopes_do_not_mix() {
    let mut bob = Person::new();
    let bundle = bob.verified(NOW);
    let me = bob.identity.fingerprint();
    let one = seal(&bundle, Lane::Contacts, b"one").unwrap();
    let two = seal(&bundle, Lane::Contacts, b"two").unwrap();
    let mixed = [&one[..11 + 1088], &two[11 + 1088..]].concat();
    let opened = open(&mixed, &me, |id| bob.secrets.get(&id));
    assert_eq!(opened.err(), Some(OpenError::NotAuthentic));
}

#[test]
fn an_unknown_version_or_suite_of_an_envelope_is_named() {
    let mut bob = Person::new();
    let me = bob.identity.fingerprint();
    let mut envelope = seal(&bob.verified(NOW), Lane::Contacts, b"hi").unwrap();
    envelope[1] = 2;
    let opened = open(&envelope, &me, |id| bob.secrets.get(&id)).err();
    assert_eq!(opened, Some(OpenError::Decode(DecodeError::Invalid("envelope suite"))));
    envelope[0] = 2;
    let opened = open(&envelope, &me, |id| bob.secrets.get(&id)).err();
    assert_eq!(opened, Some(OpenError::Decode(DecodeError::UnsupportedVersion(2))));
}

#[test]
fn envelopes_have_few_sizes_and_a_limit() {
    let mut bob = Person::new();
    let bundle = bob.verified(NOW);
    let sealed = |n| seal(&bundle, Lane::Contacts, &vec![7; n]).map(|e| e.len());
    assert_eq!(sealed(0), Ok(1024 + 1147));
    assert_eq!(sealed(1022), Ok(1024 + 1147));
    assert_eq!(sealed(1023), Ok(4096 + 1147));
    assert!(sealed(48 * 1024).is_ok());
    assert_eq!(sealed(48 * 1024 + 1), Err(halloo_e2ee::SealError::TooLong));
}

#[test]
fn an_envelope_holds_neither_the_sender_nor_the_text() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, first) = alice.first_message(&mut bob, b"a canary in the coal mine");
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, &first.encode()).unwrap();
    let party = alice.party();
    let canaries: [&[u8]; 4] = [
        b"canary",
        &party.fingerprint.as_bytes()[..8],
        &party.ratchet_key[..8],
        &alice.identity.passport_public_key()[..8],
    ];
    for canary in canaries {
        assert!(!envelope.windows(canary.len()).any(|w| w == canary));
    }
}

#[test]
fn the_same_message_sealed_twice_shares_nothing_but_the_header() {
    let mut bob = Person::new();
    let bundle = bob.verified(NOW);
    let one = seal(&bundle, Lane::Contacts, b"same").unwrap();
    let two = seal(&bundle, Lane::Contacts, b"same").unwrap();
    let same = one[11..].iter().zip(&two[11..]).filter(|(a, b)| a == b).count();
    assert!(same < 40, "{same} of {} bytes are the same", one.len());
}
