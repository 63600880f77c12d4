//! Recorded bytes that every later version has to open.
//!
//! `golden/*.hex` were written once, by the example `record_golden`. Sealing draws fresh keys, so
//! they cannot be made again; they are only ever read.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "golden/recorded.rs"]
mod recorded;

use std::path::PathBuf;

use common::NOW;
use halloo_e2ee::{
    BundleSecrets, CardDirection, Parties, RatchetAccount, RatchetSession, VerifiedBundle, open,
    open_card, verify_introduction,
};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::peer::Found;
use halloo_wire::{DeviceId, Seq, StreamId};
use recorded::{alice, bob, card, party};

#[test]
fn a_recorded_envelope_opens() {
    let bob = bob();
    let secrets = BundleSecrets::from_bytes(&read("bundle_secrets")).unwrap();
    let opened =
        open(&read("envelope"), &bob.fingerprint(), |id| (id == 3).then_some(&secrets)).ok();
    let opened = opened.unwrap();
    assert_eq!((opened.lane(), opened.key_id()), (Lane::Strangers, 3));

    let inner = opened.decode().unwrap();
    let sender = verify_introduction(inner.introduction.as_deref().unwrap()).ok().unwrap();
    assert_eq!(sender.fingerprint(), alice().fingerprint());

    let mut account = RatchetAccount::from_bytes(&read("ratchet_account")).unwrap();
    let parties = Parties { us: party(&bob, &account), them: sender.party() };
    let (session, heard) = RatchetSession::inbound(&mut account, &inner, &parties).unwrap();
    assert_eq!(heard.content(), b"the first words");
    assert_eq!((heard.route().stream, heard.route().seq), (StreamId(7), Seq(1)));

    // The recorded session is the other end of the one that this message begins.
    let mut alice_session = RatchetSession::from_bytes(&read("ratchet_session")).unwrap();
    assert_eq!(alice_session.id(), session.id());
    let theirs = Parties { us: parties.them, them: parties.us };
    let next = alice_session
        .compose(&theirs, StreamId(7), Seq(2), Kind::Message, b"and more", None)
        .unwrap();
    let mut session = session;
    assert_eq!(session.decrypt_checked(&next, &parties).unwrap().content(), b"and more");
}

#[test]
fn a_recorded_bundle_verifies() {
    let bob = bob();
    let found = Found {
        passport: read("passport"),
        bundle: read("bundle"),
        one_time_keys: read("one_time_keys").chunks(32).map(|k| k.try_into().unwrap()).collect(),
        one_time_key: Some(0),
    };
    let bundle =
        VerifiedBundle::verify(&found, &bob.fingerprint(), DeviceId::FIRST, NOW, Some(3)).unwrap();
    assert_eq!(bundle.seq(), 3);
}

#[test]
fn a_recorded_card_opens() {
    let opened = open_card(&[7; 32], CardDirection::Callee, &read("card"));
    assert_eq!(opened, Ok(card()));
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden", &format!("{name}.hex")].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}
