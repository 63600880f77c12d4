//! The stored forms, and what is forgotten when.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NOW, Person, acquainted, say};
use halloo_e2ee::{
    BUNDLE_VALIDITY, BundleSecrets, DecryptError, MAILBOX_TTL, RatchetAccount, RatchetSession,
    VerifiedBundle,
};
use halloo_wire::DecodeError;
use halloo_wire::prekey::PrekeyBundle;

#[test]
fn stored_forms_come_back_the_same() {
    let (alice, alice_session, ..) = acquainted();
    let account = alice.account.to_bytes();
    assert!(*RatchetAccount::from_bytes(&account).unwrap().to_bytes() == *account);
    let session = alice_session.to_bytes();
    let restored = RatchetSession::from_bytes(&session).unwrap();
    assert!(*restored.to_bytes() == *session);
    assert_eq!(restored.id(), alice_session.id());
    let secrets = alice.secrets[&1].to_bytes();
    assert!(*BundleSecrets::from_bytes(&secrets).unwrap().to_bytes() == *secrets);
}

#[test]
fn damaged_stored_forms_are_refused() {
    let (alice, session, ..) = acquainted();
    let (account, session) = (alice.account.to_bytes(), session.to_bytes());
    let secrets = alice.secrets[&1].to_bytes();
    for n in 0..account.len() {
        assert!(RatchetAccount::from_bytes(&account[..n]).is_err(), "length {n}");
    }
    for n in 0..session.len() {
        assert!(RatchetSession::from_bytes(&session[..n]).is_err(), "length {n}");
    }
    for n in 0..secrets.len() {
        assert!(BundleSecrets::from_bytes(&secrets[..n]).is_err(), "length {n}");
    }
    let later = DecodeError::UnsupportedVersion(2);
    for bytes in [&account, &session, &secrets] {
        let mut bytes = bytes.to_vec();
        bytes[0] = 2;
        assert_eq!(RatchetAccount::from_bytes(&bytes).err(), Some(later.into()));
        assert_eq!(RatchetSession::from_bytes(&bytes).err(), Some(later.into()));
        assert_eq!(BundleSecrets::from_bytes(&bytes).err(), Some(later.into()));
    }
}

#[test]
fn an_account_forgets_what_nobody_can_use_any_more() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, late) = alice.first_message(&mut bob, b"late");
    let end = bob.secrets[&1].expires_at();
    assert!(!bob.account.prune(end));
    assert_eq!(bob.account.one_time_key_count(), 50);
    assert!(bob.account.prune(end.plus(1)));
    assert_eq!(bob.account.one_time_key_count(), 0);
    let parties = bob.sees(&alice);
    let refused = RatchetSession::inbound(&mut bob.account, &late, &parties).err();
    assert_eq!(refused, Some(DecryptError::UnknownOneTimeKey));
}

#[test]
fn a_fallback_key_serves_until_its_last_message_can_have_arrived() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let day = 24 * 3600;
    let fallback = |bob: &Person| PrekeyBundle::decode(&bob.bundle).unwrap().olm_fallback;
    let first = fallback(&bob);
    bob.publish(NOW.plus(10 * day - 1));
    assert_eq!(fallback(&bob), first, "it serves ten days");
    let mut bundle = bob.verified(NOW.plus(10 * day - 1));
    bundle.take_one_time_key();
    let begin = |bundle: &mut VerifiedBundle, bob: &Person, seq| {
        let mut session = RatchetSession::outbound(&alice.account, bundle).unwrap();
        say(&mut session, &alice.sees(bob), seq, b"to the fallback key")
    };
    let (early, late) = (begin(&mut bundle, &bob, 1), begin(&mut bundle, &bob, 2));

    bob.publish(NOW.plus(10 * day));
    assert_ne!(fallback(&bob), first, "and is replaced");
    let parties = bob.sees(&alice);
    let last_moment = NOW.plus(10 * day - 1).plus(BUNDLE_VALIDITY + MAILBOX_TTL);
    bob.account.prune(last_moment);
    assert!(RatchetSession::inbound(&mut bob.account, &early, &parties).is_ok());
    bob.account.prune(last_moment.plus(1));
    let refused = RatchetSession::inbound(&mut bob.account, &late, &parties).err();
    assert_eq!(refused, Some(DecryptError::UnknownOneTimeKey));
}

#[test]
fn a_peer_that_restarts_all_the_time_cannot_fill_the_store() {
    let mut bob = Person::new();
    for _ in 0..60 {
        bob.publish(NOW);
    }
    assert_eq!(bob.account.one_time_key_count(), 40 * 50);
}
