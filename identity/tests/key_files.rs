//! Key files: read back whole, or refused with the reason.
#![allow(clippy::unwrap_used)]

mod common;

use common::{alice, bob};
use data_encoding::BASE64;
use halloo_identity::{Identity, KeyFileError, PeerKey};

const IDENTITY: (&str, &str) = ("HALLOO IDENTITY", "halloo 2026 identity file check v1");
const PEER_KEY: (&str, &str) = ("HALLOO PEER KEY", "halloo 2026 peer key file check v1");

#[test]
fn an_identity_comes_back_whole() {
    let alice = alice();
    let read = Identity::from_key_file(&alice.to_key_file()).unwrap();
    assert_eq!(read.device_chain(), alice.device_chain());
    assert_eq!(read.device_key_pkcs8(), alice.device_key_pkcs8());
    assert_eq!(read.ml_dsa_public_key(), alice.ml_dsa_public_key());
    assert_eq!(*read.to_key_file(), *alice.to_key_file());
}

#[test]
fn a_peer_key_comes_back_whole() {
    let key = PeerKey::generate();
    let read = PeerKey::from_key_file(&key.to_key_file()).unwrap();
    assert_eq!(read.cert_der(), key.cert_der());
    assert_eq!(read.key_pkcs8(), key.key_pkcs8());
}

#[test]
fn editors_and_mail_programs_do_no_harm() {
    let file = alice().to_key_file();
    let dressed = format!("my key, do not share\r\n{}\n-- \n", file.replace('\n', "\r\n"));
    assert_eq!(Identity::from_key_file(&dressed).unwrap().fingerprint(), alice().fingerprint());
}

#[test]
fn another_kind_of_file_is_named() {
    let identity = alice().to_key_file();
    let peer = PeerKey::from_seed(&[7; 32]).to_key_file();
    for text in ["", "hello", &peer] {
        assert_eq!(why(text), KeyFileError::Label("HALLOO IDENTITY"));
    }
    assert_eq!(
        PeerKey::from_key_file(&identity).unwrap_err(),
        KeyFileError::Label("HALLOO PEER KEY"),
    );
    assert_eq!(why(&"x".repeat(20_000)), KeyFileError::TooLong);
}

#[test]
fn every_damaged_character_is_noticed() {
    let file = alice().to_key_file();
    let lines: Vec<&str> = file.lines().collect();
    let block = lines[1..lines.len() - 1].join("");
    for at in 0..block.len() {
        let mut damaged = block.clone().into_bytes();
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(damaged).unwrap();
        let text = format!("{}\n{damaged}\n{}\n", lines[0], lines[lines.len() - 1]);
        let error = why(&text);
        // The first characters hold the version; the last ones base64's unused bits.
        let expected = [KeyFileError::Check, KeyFileError::Base64];
        let version = matches!(error, KeyFileError::Version(_)) && at < 2;
        assert!(expected.contains(&error) || version, "{at}: {error:?}");
    }
}

#[test]
fn a_file_that_is_cut_short_is_noticed() {
    let file = alice().to_key_file();
    for n in 0..file.trim_end().len() {
        assert!(Identity::from_key_file(&file[..n]).is_err(), "{n}");
    }
    let binary = unwrap(&file);
    for n in 0..binary.len() {
        let text = wrap(IDENTITY.0, &binary[..n]);
        assert!(Identity::from_key_file(&text).is_err(), "{n}");
    }
}

#[test]
fn a_later_version_is_named() {
    let mut binary = unwrap(&alice().to_key_file());
    binary[0] = 2;
    assert_eq!(why(&wrap(IDENTITY.0, &binary)), KeyFileError::Version(2));
}

#[test]
fn keys_and_certificates_must_fit_each_other() {
    let (alice, bob) = (unwrap(&alice().to_key_file()), unwrap(&bob().to_key_file()));
    // Version and three seeds of Alice, then the certificates of Bob.
    let mixed = [&alice[..97], &bob[97..bob.len() - 32]].concat();
    assert_eq!(why(&checked(IDENTITY, &mixed)), KeyFileError::Content);
    // Only the device's seed is another one.
    let mixed = [&alice[..65], &bob[65..97], &alice[97..alice.len() - 32]].concat();
    assert_eq!(why(&checked(IDENTITY, &mixed)), KeyFileError::Content);
    // A byte too many, and one too few.
    let long = [&alice[..alice.len() - 32], &[0]].concat();
    assert_eq!(why(&checked(IDENTITY, &long)), KeyFileError::Content);
    let short = &alice[..alice.len() - 33];
    assert_eq!(why(&checked(IDENTITY, short)), KeyFileError::Content);
    let peer = PeerKey::from_key_file(&checked(PEER_KEY, &[&[1], &[7; 31][..]].concat()));
    assert_eq!(peer.unwrap_err(), KeyFileError::Content);
}

fn why(text: &str) -> KeyFileError {
    Identity::from_key_file(text).unwrap_err()
}

fn unwrap(file: &str) -> Vec<u8> {
    let block: String = file.lines().filter(|l| !l.starts_with('-')).collect();
    BASE64.decode(block.as_bytes()).unwrap()
}

fn wrap(label: &str, binary: &[u8]) -> String {
    let base64 = BASE64.encode(binary);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

fn checked((label, context): (&str, &str), body: &[u8]) -> String {
    wrap(label, &[body, &blake3::derive_key(context, body)].concat())
}
