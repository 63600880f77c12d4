//! What a bad peer might do to a prekey bundle, and how long keys live.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NOW, Person};
use halloo_e2ee::{
    BUNDLE_VALIDITY, BundleError, CLOCK_SKEW, MAILBOX_TTL, UnixTime, VerifiedBundle, open,
    refresh_bundle, seal,
};
use halloo_identity::SignatureRole;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::Found;
use halloo_wire::prekey::PrekeyBundle;
use halloo_wire::{DecodeError, DeviceId};

#[test]
fn another_persons_bundle_is_not_taken_for_bobs() {
    let (mut bob, mut mallory) = (Person::new(), Person::new());
    let hers = mallory.look_up();
    assert_eq!(check(&bob, &hers), Err(BundleError::WrongIdentity));
    // Nor behind Bob's own passport.
    let mixed = Found { passport: bob.look_up().passport, ..hers };
    assert_eq!(check(&bob, &mixed), Err(BundleError::WrongIdentity));
}

#[test]
fn a_bundle_with_swapped_keys_needs_bobs_signature() {
    let (mut bob, mallory) = (Person::new(), Person::new());
    let hers = PrekeyBundle::decode(&mallory.bundle).unwrap();
    let swaps: [fn(&mut PrekeyBundle, &PrekeyBundle); 4] = [
        |b, m| b.sealing_kem = m.sealing_kem.clone(),
        |b, m| b.sealing_x25519 = m.sealing_x25519,
        |b, m| b.olm_identity = m.olm_identity,
        |b, m| b.olm_fallback = m.olm_fallback,
    ];
    for swap in swaps {
        let mut found = bob.look_up();
        let mut bundle = PrekeyBundle::decode(&found.bundle).unwrap();
        swap(&mut bundle, &hers);
        found.bundle = bundle.encode();
        assert_eq!(check(&bob, &found), Err(BundleError::Signature));
        // Mallory's own signature does not help.
        bundle.signature =
            mallory.identity.sign(SignatureRole::PrekeyBundle, &bundle.signed_bytes());
        found.bundle = bundle.encode();
        assert_eq!(check(&bob, &found), Err(BundleError::Signature));
    }
}

#[test]
fn a_signature_for_another_role_is_not_one_for_a_bundle() {
    let mut bob = Person::new();
    let mut found = bob.look_up();
    let mut bundle = PrekeyBundle::decode(&found.bundle).unwrap();
    bundle.signature = bob.identity.sign(SignatureRole::Introduction, &bundle.signed_bytes());
    found.bundle = bundle.encode();
    assert_eq!(check(&bob, &found), Err(BundleError::Signature));
}

#[test]
fn the_peer_cannot_change_the_list_of_one_time_keys() {
    let mut bob = Person::new();
    let good = bob.look_up();
    let changes: [fn(&mut Vec<[u8; 32]>); 5] = [
        |keys| keys[3] = [9; 32],
        |keys| keys.swap(0, 1),
        |keys| keys.truncate(49),
        |keys| keys.push([9; 32]),
        |keys| keys.clear(),
    ];
    for change in changes {
        let mut found = good.clone();
        change(&mut found.one_time_keys);
        assert_eq!(check(&bob, &found), Err(BundleError::OneTimeKeys));
    }
    let beyond = Found { one_time_key: Some(50), ..good.clone() };
    assert_eq!(check(&bob, &beyond), Err(BundleError::NoSuchOneTimeKey));
    let none_left = Found { one_time_key: None, ..good };
    assert_eq!(check(&bob, &none_left), Ok(()));
}

#[test]
fn another_device_is_not_the_one_asked_for() {
    let mut bob = Person::new();
    let found = bob.look_up();
    let address = bob.identity.fingerprint();
    let error = VerifiedBundle::verify(&found, &address, DeviceId(2), NOW, None).err();
    assert_eq!(error, Some(BundleError::WrongDevice));
}

#[test]
fn a_bundle_is_taken_from_its_first_to_its_last_second() {
    let mut bob = Person::new();
    let found = bob.look_up();
    let at = |now| check_at(&bob, &found, now);
    let (first, last) = (NOW.minus(CLOCK_SKEW), NOW.plus(BUNDLE_VALIDITY));
    assert_eq!(at(first.minus(1)), Err(BundleError::NotYetValid));
    assert_eq!(at(first), Ok(()));
    assert_eq!(at(last), Ok(()));
    assert_eq!(at(last.plus(1)), Err(BundleError::Expired));
}

#[test]
fn a_bundle_that_claims_to_live_too_long_is_refused() {
    let mut bob = Person::new();
    let mut found = bob.look_up();
    let mut bundle = PrekeyBundle::decode(&found.bundle).unwrap();
    bundle.not_after = bundle.not_before + halloo_e2ee::MAX_VALIDITY + 1;
    bundle.signature = bob.identity.sign(SignatureRole::PrekeyBundle, &bundle.signed_bytes());
    found.bundle = bundle.encode();
    assert_eq!(check(&bob, &found), Err(BundleError::TooLong));
}

#[test]
fn a_bundle_that_was_replaced_does_not_come_back() {
    let mut bob = Person::new();
    let old = bob.look_up();
    bob.publish(NOW);
    let address = bob.identity.fingerprint();
    let verify = |found: &Found, seen| {
        VerifiedBundle::verify(found, &address, DeviceId::FIRST, NOW, Some(seen)).map(|b| b.seq())
    };
    assert_eq!(verify(&bob.look_up(), 1).ok(), Some(2));
    assert_eq!(verify(&old, 2).err(), Some(BundleError::RolledBack { seen: 2, found: 1 }));
}

#[test]
fn an_unknown_version_or_suite_of_a_bundle_is_named() {
    let mut bob = Person::new();
    let mut found = bob.look_up();
    found.bundle[1] = 2;
    let suite = DecodeError::Invalid("prekey suite");
    assert_eq!(check(&bob, &found), Err(BundleError::Decode(suite)));
    found.bundle[0] = 2;
    let version = DecodeError::UnsupportedVersion(2);
    assert_eq!(check(&bob, &found), Err(BundleError::Decode(version)));
}

#[test]
fn a_cached_bundle_is_checked_again_and_has_no_one_time_key() {
    let mut bob = Person::new();
    let address = bob.identity.fingerprint();
    let bundle = bob.verified(NOW);
    assert!(bundle.one_time_key().is_some());
    let bytes = bundle.to_bytes();
    let load = |bytes: &[u8], now, seen| {
        VerifiedBundle::from_bytes(bytes, &address, DeviceId::FIRST, now, seen)
    };
    let cached = load(&bytes, NOW, Some(1)).ok().unwrap();
    assert_eq!((cached.seq(), cached.one_time_key()), (1, None));
    assert!(cached.is_valid_at(NOW) && !cached.is_valid_at(NOW.plus(BUNDLE_VALIDITY + 1)));

    let later = load(&bytes, NOW.plus(BUNDLE_VALIDITY + 1), None).err();
    assert_eq!(later, Some(BundleError::Expired));
    let rolled_back = load(&bytes, NOW, Some(2)).err();
    assert_eq!(rolled_back, Some(BundleError::RolledBack { seen: 2, found: 1 }));
    for n in 0..bytes.len() {
        assert!(load(&bytes[..n], NOW, None).is_err(), "length {n}");
    }
}

#[test]
fn secrets_live_as_long_as_something_sealed_to_them_can_arrive() {
    let bob = Person::new();
    let secrets = &bob.secrets[&1];
    let end = NOW.plus(BUNDLE_VALIDITY + MAILBOX_TTL);
    assert_eq!(secrets.expires_at(), end);
    assert!(!secrets.is_expired(end) && secrets.is_expired(end.plus(1)));
    assert!(!secrets.rotation_due(NOW.plus(24 * 3600 - 1)));
    assert!(secrets.rotation_due(NOW.plus(24 * 3600)));
}

#[test]
fn a_refreshed_bundle_keeps_the_sealing_keys_and_their_end() {
    let mut bob = Person::new();
    let old = bob.verified(NOW);
    let later = NOW.plus(2 * 24 * 3600);
    let current = &bob.secrets[&1];
    let (bundle, keys, secrets) =
        refresh_bundle(&bob.identity, &mut bob.account, current, 2, later).unwrap();
    assert_eq!(secrets.expires_at(), current.expires_at());
    assert!(keys.iter().all(|key| !bob.one_time_keys.contains(key)));
    assert_eq!(bundle.sealing_x25519, PrekeyBundle::decode(&bob.bundle).unwrap().sealing_x25519);
    bob.secrets.insert(2, secrets);
    (bob.bundle, bob.one_time_keys) = (bundle.encode(), keys);
    let me = bob.identity.fingerprint();

    // Both are open: what was sealed to the old one is still on its way.
    let new = bob.verified(later);
    for bundle in [&old, &new] {
        let envelope = seal(bundle, Lane::Contacts, b"hi").unwrap();
        assert!(open(&envelope, &me, |id| bob.secrets.get(&id)).is_ok());
    }
    let ended = NOW.plus(BUNDLE_VALIDITY);
    let current = &bob.secrets[&1];
    assert!(refresh_bundle(&bob.identity, &mut bob.account, current, 3, ended).is_none());
}

fn check(owner: &Person, found: &Found) -> Result<(), BundleError> {
    check_at(owner, found, NOW)
}

fn check_at(owner: &Person, found: &Found, now: UnixTime) -> Result<(), BundleError> {
    let address = owner.identity.fingerprint();
    VerifiedBundle::verify(found, &address, DeviceId::FIRST, now, None).map(|_| ())
}
