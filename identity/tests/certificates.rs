//! Certificates: only the right ones are believed.
#![allow(clippy::unwrap_used)]

mod common;

use common::{alice, bob};
use halloo_identity::{
    CertificateError, ChainError, DeviceId, Identity, Passport, PassportError, PeerKey,
    SignatureError, SignatureRole, peer_fingerprint_of_cert, verify_device_chain,
};
use proptest::prelude::*;

#[test]
fn an_identity_shows_who_it_is() {
    let alice = alice();
    let [device, passport] = alice.device_chain();
    let shown = verify_device_chain(&[&device, &passport]).unwrap();
    assert_eq!(shown.passport.fingerprint(), alice.fingerprint());
    assert_eq!(shown.passport.public_key(), alice.passport_public_key());
    assert_eq!(shown.passport, alice.passport());
    assert_eq!(shown.device, DeviceId::FIRST);
    assert_ne!(shown.device_key, shown.passport.public_key());
    assert!(passport.len() <= halloo_wire::limits::MAX_PASSPORT / 2);
}

#[test]
fn the_same_seeds_make_the_same_identity() {
    assert_eq!(alice().device_chain(), alice().device_chain());
    assert_eq!(alice().device_key_pkcs8(), alice().device_key_pkcs8());
    assert_ne!(Identity::generate().fingerprint(), Identity::generate().fingerprint());
}

#[test]
fn somebody_elses_device_certificate_is_refused() {
    let (alice, bob) = (alice().device_chain(), bob().device_chain());
    let wrong = ChainError::Certificate(CertificateError::Signature);
    assert_eq!(verify_device_chain(&[&alice[0], &bob[1]]), Err(wrong));
    assert_eq!(verify_device_chain(&[&bob[0], &alice[1]]), Err(wrong));
}

#[test]
fn certificates_in_the_wrong_places_are_refused() {
    let [device, passport] = alice().device_chain();
    let peer = PeerKey::from_seed(&[7; 32]);
    let not_a_passport = ChainError::Passport(PassportError::NotAPassport);

    assert_eq!(verify_device_chain(&[]), Err(ChainError::Length(0)));
    assert_eq!(verify_device_chain(&[&device]), Err(ChainError::Length(1)));
    assert_eq!(verify_device_chain(&[&device, &passport, &passport]), Err(ChainError::Length(3)));
    assert_eq!(verify_device_chain(&[&passport, &device]), Err(not_a_passport));
    assert_eq!(verify_device_chain(&[&device, &device]), Err(not_a_passport));
    assert_eq!(verify_device_chain(&[&device, peer.cert_der()]), Err(not_a_passport));
    assert_eq!(verify_device_chain(&[&passport, &passport]), Err(ChainError::NotADevice));
    assert_eq!(verify_device_chain(&[peer.cert_der(), &passport]), Err(ChainError::NotADevice));
    assert_eq!(Passport::verify(&device), Err(PassportError::NotAPassport));

    assert_eq!(peer_fingerprint_of_cert(peer.cert_der()), Ok(peer.fingerprint()));
    assert_eq!(peer_fingerprint_of_cert(&passport), Err(ChainError::NotAPeer));
    assert_eq!(peer_fingerprint_of_cert(&device), Err(ChainError::NotAPeer));
}

#[test]
fn every_changed_bit_is_refused() {
    let [device, passport] = alice().device_chain();
    let peer = PeerKey::from_seed(&[7; 32]);
    for changed in flips(&passport) {
        assert!(Passport::verify(&changed).is_err());
        assert!(verify_device_chain(&[&device, &changed]).is_err());
    }
    for changed in flips(&device) {
        assert!(verify_device_chain(&[&changed, &passport]).is_err());
    }
    for changed in flips(peer.cert_der()) {
        assert!(peer_fingerprint_of_cert(&changed).is_err());
    }
}

#[test]
fn every_truncation_and_every_tail_is_refused() {
    let [device, passport] = alice().device_chain();
    for n in 0..passport.len() {
        assert!(Passport::verify(&passport[..n]).is_err());
    }
    for n in 0..device.len() {
        assert!(verify_device_chain(&[&device[..n], &passport]).is_err());
    }
    let longer = [&passport[..], &[0]].concat();
    assert!(Passport::verify(&longer).is_err());
    let huge = vec![0x30; 2000];
    assert_eq!(Passport::verify(&huge), Err(CertificateError::TooLong.into()));
}

#[test]
fn another_hash_in_the_certificate_needs_another_signature() {
    let alice = alice();
    let hash = alice.passport().ml_dsa_hash();
    let mut der = alice.passport_der().to_vec();
    let at = der.windows(32).position(|w| w == hash).unwrap();
    der[at..at + 32].copy_from_slice(&bob().passport().ml_dsa_hash());
    assert_eq!(Passport::verify(&der), Err(CertificateError::Signature.into()));
}

#[test]
fn a_signature_counts_for_its_role_its_bytes_and_its_signer_only() {
    let (alice, bob) = (alice(), bob());
    let passport = alice.passport();
    let signature = alice.sign(SignatureRole::Move, b"here");
    let verify = |role, bytes: &[u8]| passport.verify_ed25519(role, bytes, &signature);
    assert_eq!(verify(SignatureRole::Move, b"here"), Ok(()));
    assert_eq!(verify(SignatureRole::Move, b"there"), Err(SignatureError::Ed25519));
    assert_eq!(verify(SignatureRole::ContactCard, b"here"), Err(SignatureError::Ed25519));
    assert!(bob.passport().verify_ed25519(SignatureRole::Move, b"here", &signature).is_err());
}

#[test]
fn post_quantum_signatures_are_bound_to_the_passport() {
    let (alice, bob) = (alice(), bob());
    let (passport, role) = (alice.passport(), SignatureRole::Introduction);
    let signature = alice.sign_ml_dsa(role, b"it is me");
    let verify = |role, bytes: &[u8]| {
        passport.verify_ml_dsa(alice.ml_dsa_public_key(), role, bytes, &signature)
    };
    assert_eq!(verify(role, b"it is me"), Ok(()));
    assert_eq!(verify(role, b"it was me"), Err(SignatureError::MlDsa));
    assert_eq!(verify(SignatureRole::Continuity, b"it is me"), Err(SignatureError::MlDsa));

    // Bob's key makes a good signature, but the passport does not commit to it.
    let signature = bob.sign_ml_dsa(role, b"it is me");
    assert_eq!(
        passport.verify_ml_dsa(bob.ml_dsa_public_key(), role, b"it is me", &signature),
        Err(SignatureError::MlDsaKey),
    );
}

#[test]
fn the_tls_library_reads_the_certificates() {
    let [device, _] = alice().device_chain();
    for der in [&device[..], PeerKey::from_seed(&[7; 32]).cert_der()] {
        assert!(webpki::EndEntityCert::try_from(&der.into()).is_ok());
    }
}

#[test]
fn identities_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&alice());
    shared(&PeerKey::from_seed(&[7; 32]));
}

#[test]
fn secrets_do_not_print() {
    let alice = alice();
    let printed = format!("{alice:?} {:?} {:?}", PeerKey::generate(), alice.passport());
    assert!(printed.starts_with(&format!("Identity({}…)", alice.fingerprint().short())));
    assert!(printed.len() < 100, "{printed}");
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        halloo_identity::fuzzing::certificates(&bytes);
    }

    #[test]
    fn a_damaged_certificate_makes_no_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut der = alice().passport_der().to_vec();
        for (at, byte) in damage {
            let at = at.index(der.len());
            der[at] = byte;
        }
        halloo_identity::fuzzing::certificates(&der);
    }
}

fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..8 * bytes.len()).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    })
}
