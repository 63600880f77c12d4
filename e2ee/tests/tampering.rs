//! Every changed bit is refused and changes nothing.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NOW, Person, acquainted, each_bit_changed, say};
use halloo_e2ee::{
    Parties, RatchetAccount, RatchetSession, VerifiedBundle, open, seal, verify_introduction,
};
use halloo_wire::DeviceId;
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Inner;
use halloo_wire::peer::Found;

#[test]
fn every_bit_of_a_bundle_counts() {
    let mut bob = Person::new();
    let good = bob.look_up();
    assert!(verifies(&bob, &good));
    for (bit, bundle) in each_bit_changed(&good.bundle) {
        assert!(!verifies(&bob, &Found { bundle, ..good.clone() }), "bit {bit}");
    }
}

#[test]
fn every_bit_of_the_passport_beside_a_bundle_counts() {
    let mut bob = Person::new();
    let good = bob.look_up();
    for (bit, passport) in each_bit_changed(&good.passport) {
        assert!(!verifies(&bob, &Found { passport, ..good.clone() }), "bit {bit}");
    }
}

#[test]
fn every_bit_of_the_one_time_keys_counts() {
    let mut bob = Person::new();
    let good = bob.look_up();
    for i in [0, 17, 49] {
        for (bit, key) in each_bit_changed(&good.one_time_keys[i]) {
            let mut found = good.clone();
            found.one_time_keys[i] = key.try_into().unwrap();
            assert!(!verifies(&bob, &found), "key {i}, bit {bit}");
        }
    }
}

#[test]
fn every_bit_of_an_envelope_counts() {
    let mut bob = Person::new();
    let me = bob.identity.fingerprint();
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"sealed").unwrap();
    let secrets = |id| bob.secrets.get(&id);
    assert_eq!(open(&envelope, &me, secrets).ok().unwrap().as_bytes(), b"sealed");
    for (bit, changed) in each_bit_changed(&envelope) {
        assert!(open(&changed, &me, secrets).is_err(), "bit {bit}");
    }
}

#[test]
fn every_bit_of_the_header_counts_even_when_its_key_id_is_known() {
    let mut bob = Person::new();
    let me = bob.identity.fingerprint();
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"sealed").unwrap();
    let whatever_the_id = |_| bob.secrets.get(&1);
    for (bit, changed) in each_bit_changed(&envelope).take(11 * 8) {
        assert!(open(&changed, &me, whatever_the_id).is_err(), "bit {bit}");
    }
}

#[test]
fn no_part_of_an_envelope_opens() {
    let mut bob = Person::new();
    let me = bob.identity.fingerprint();
    let envelope = seal(&bob.verified(NOW), Lane::Contacts, b"sealed").unwrap();
    let secrets = |id| bob.secrets.get(&id);
    for n in 0..envelope.len() {
        assert!(open(&envelope[..n], &me, secrets).is_err(), "length {n}");
    }
    let longer = [&envelope[..], &[0]].concat();
    assert!(open(&longer, &me, secrets).is_err());
}

#[test]
fn every_bit_of_a_first_message_counts() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, first) = alice.first_message(&mut bob, b"hello");
    let parties = bob.sees(&alice);
    let before = bob.account.to_bytes();
    for (bit, changed) in each_bit_changed(&first.encode()) {
        assert!(begin(&mut bob.account, &changed, &parties).is_none(), "bit {bit}");
        assert!(*bob.account.to_bytes() == *before, "bit {bit} changed the account");
    }
    assert!(begin(&mut bob.account, &first.encode(), &parties).is_some());
}

#[test]
fn every_bit_of_a_first_message_counts_in_the_session_that_it_began() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (mut alice_session, first) = alice.first_message(&mut bob, b"one");
    let (mut bob_session, _) = bob.hear_first(&alice, &first);
    let second = say(&mut alice_session, &alice.sees(&bob), 2, b"two");
    refuses_each_bit_changed(&mut bob_session, &bob.sees(&alice), &second);
}

#[test]
fn every_bit_of_a_later_message_counts() {
    let (alice, mut alice_session, bob, mut bob_session) = acquainted();
    // The first is in the chain that Bob knows, the second makes his session turn its ratchet.
    let answer = say(&mut bob_session, &bob.sees(&alice), 2, b"in the chain");
    refuses_each_bit_changed(&mut alice_session, &alice.sees(&bob), &answer);
    let turn = say(&mut alice_session, &alice.sees(&bob), 2, b"turn");
    refuses_each_bit_changed(&mut bob_session, &bob.sees(&alice), &turn);
}

#[test]
fn every_byte_of_an_introduction_counts() {
    let alice = Person::new();
    let good = alice.introduction();
    assert!(verify_introduction(&good).is_ok());
    for i in 0..good.len() {
        let mut changed = good.clone();
        // All bits of the passport at the front, one bit of each byte of the long rest.
        let bits = if i < 500 { 0..8 } else { i % 8..i % 8 + 1 };
        for bit in bits {
            changed[i] ^= 1 << bit;
            assert!(verify_introduction(&changed).is_err(), "byte {i}, bit {bit}");
            changed[i] ^= 1 << bit;
        }
    }
    for n in (0..good.len()).step_by(7) {
        assert!(verify_introduction(&good[..n]).is_err(), "length {n}");
    }
}

#[test]
fn a_changed_introduction_spoils_the_message_that_carries_it() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, mut first) = alice.first_message(&mut bob, b"hello");
    let mut introduction = alice.introduction();
    *introduction.last_mut().unwrap() ^= 1;
    first.introduction = Some(introduction);
    let parties = bob.sees(&alice);
    let before = bob.account.to_bytes();
    assert!(begin(&mut bob.account, &first.encode(), &parties).is_none());
    assert!(*bob.account.to_bytes() == *before);
}

fn verifies(owner: &Person, found: &Found) -> bool {
    let address = owner.identity.fingerprint();
    VerifiedBundle::verify(found, &address, DeviceId::FIRST, NOW, Some(1)).is_ok()
}

fn begin(account: &mut RatchetAccount, bytes: &[u8], parties: &Parties) -> Option<RatchetSession> {
    let inner = Inner::decode(bytes).ok()?;
    RatchetSession::inbound(account, &inner, parties).ok().map(|(session, _)| session)
}

/// Also that the unchanged message is read after all the changed ones.
fn refuses_each_bit_changed(session: &mut RatchetSession, parties: &Parties, good: &Inner) {
    let before = session.to_bytes();
    for (bit, changed) in each_bit_changed(&good.encode()) {
        let Ok(inner) = Inner::decode(&changed) else { continue };
        assert!(session.decrypt_checked(&inner, parties).is_err(), "bit {bit}");
        assert!(*session.to_bytes() == *before, "bit {bit} changed the session");
    }
    session.decrypt_checked(good, parties).unwrap();
}
