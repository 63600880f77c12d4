//! Who is introduced, and who is not.

#![allow(clippy::unwrap_used)]

mod common;

use common::Person;
use halloo_e2ee::{IntroductionError, RatchetSession, introduce, verify_introduction};
use halloo_wire::prekey::Introduction;

#[test]
fn an_introduction_brings_its_sender() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, mut first) = alice.first_message(&mut bob, b"hello");
    first.introduction = Some(alice.introduction());
    let sender = verify_introduction(first.introduction.as_deref().unwrap()).ok().unwrap();
    assert_eq!(sender.party(), alice.party());
    let (_, heard) = bob.hear_first(&alice, &first);
    let introduced = heard.introduction().unwrap();
    assert_eq!(introduced.fingerprint(), alice.identity.fingerprint());
    assert_eq!(introduced.passport().der(), alice.identity.passport_der());
}

#[test]
fn an_introduction_by_another_passport_is_refused() {
    let (alice, mallory) = (Person::new(), Person::new());
    let hers = Introduction::decode(&mallory.introduction()).unwrap();
    let swaps: [fn(&mut Introduction, &Introduction); 5] = [
        |it, m| it.passport = m.passport.clone(),
        |it, m| it.ml_dsa_key = m.ml_dsa_key.clone(),
        |it, m| it.olm_identity = m.olm_identity,
        |it, m| it.ed25519_signature = m.ed25519_signature,
        |it, m| it.ml_dsa_signature = m.ml_dsa_signature.clone(),
    ];
    for swap in swaps {
        let mut it = Introduction::decode(&alice.introduction()).unwrap();
        swap(&mut it, &hers);
        let refused = verify_introduction(&it.encode()).err();
        assert_eq!(refused, Some(IntroductionError::Signature));
    }
}

#[test]
fn one_good_signature_is_not_enough() {
    // What somebody could do who has broken one of the two schemes.
    let (alice, mallory) = (Person::new(), Person::new());
    let olm = mallory.account.olm_identity();
    let genuine = Introduction { olm_identity: olm, ..introduce(&alice.identity, olm) };
    let forged = introduce(&mallory.identity, olm);
    for one_forged in [
        Introduction { ed25519_signature: forged.ed25519_signature, ..genuine.clone() },
        Introduction { ml_dsa_signature: forged.ml_dsa_signature.clone(), ..genuine.clone() },
    ] {
        let refused = verify_introduction(&one_forged.encode()).err();
        assert_eq!(refused, Some(IntroductionError::Signature));
    }
    assert!(verify_introduction(&genuine.encode()).is_ok());
}

#[test]
fn an_introduction_with_another_olm_key_does_not_introduce_this_session() {
    let (alice, mut bob) = (Person::new(), Person::new());
    let (_, mut first) = alice.first_message(&mut bob, b"hello");
    // Signed by Alice, but for a ratchet account that she had before.
    first.introduction = Some(introduce(&alice.identity, [9; 32]).encode());
    let parties = bob.sees(&alice);
    let before = bob.account.to_bytes();
    let refused = RatchetSession::inbound(&mut bob.account, &first, &parties).err();
    assert_eq!(refused, Some(IntroductionError::WrongSender.into()));
    assert!(*bob.account.to_bytes() == *before);
}
