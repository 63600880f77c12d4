//! Key files of locked homes: they open with their key alone, and damage is told from a wrong key.
#![allow(clippy::unwrap_used)]

mod common;

use common::alice;
use data_encoding::BASE64;
use halloo_identity::{
    DataKey, HomeKey, Identity, KeyFileError, LockedHome, PassphraseCost, UnlockError,
};
use proptest::prelude::*;

const DATA_KEY: [u8; 32] = [8; 32];
const CONTEXT: &str = "halloo 2026 locked home check v1";

fn cheap(key: &HomeKey) -> LockedHome {
    let data_key = DataKey::from_bytes(DATA_KEY);
    let cost = PassphraseCost::NOTHING;
    LockedHome::lock_with(&alice(), &data_key, key, cost, [5; 16], [6; 24]).unwrap()
}

#[test]
fn the_right_key_opens_it_and_no_other_does() {
    let passphrase = HomeKey::passphrase("correct horse");
    let bytes = HomeKey::from_bytes([9; 32]);
    let wrong = [
        HomeKey::passphrase("correct horse "),
        HomeKey::passphrase(""),
        HomeKey::from_bytes([10; 32]),
    ];
    for (key, other) in [(&passphrase, &bytes), (&bytes, &passphrase)] {
        let home = LockedHome::from_key_file(&cheap(key).to_key_file()).unwrap();
        let (identity, data_key) = home.unlock(key).unwrap();
        assert_eq!(identity.fingerprint(), alice().fingerprint());
        assert_eq!(data_key.as_bytes(), &DATA_KEY);
        for wrong in wrong.iter().chain([other]) {
            assert_eq!(home.unlock(wrong).unwrap_err(), UnlockError::WrongKey);
        }
    }
}

#[test]
fn two_files_of_one_home_share_nothing() {
    let (data_key, key) = (DataKey::generate(), HomeKey::from_bytes([9; 32]));
    let [a, b] = [(); 2].map(|()| LockedHome::lock(&alice(), &data_key, &key).unwrap());
    assert_ne!(a, b);
    assert_ne!(*a.to_key_file(), *b.to_key_file());
}

#[test]
fn what_is_locked_costs_what_is_recommended() {
    let key = HomeKey::passphrase("correct horse");
    let home = LockedHome::lock(&alice(), &DataKey::generate(), &key).unwrap();
    let binary = unwrap(&home.to_key_file());
    assert_eq!(binary[..14], *b"\x01\x01\x00\x01\x00\x00\x00\x00\x00\x03\x00\x00\x00\x04");
    assert!(home.unlock(&key).is_ok());
}

#[test]
fn secrets_do_not_show() {
    let key = HomeKey::passphrase("correct horse");
    let file = cheap(&key).to_key_file();
    let seeds = [[1u8; 32], [2; 32], [3; 32], DATA_KEY];
    let binary = unwrap(&file);
    assert!(seeds.iter().all(|seed| !binary.windows(32).any(|w| w == seed)));
    let printed = format!("{key:?} {:?} {:?}", DataKey::from_bytes(DATA_KEY), cheap(&key));
    assert!(printed.contains("HomeKey(…)") && printed.contains("DataKey(…)"), "{printed}");
    assert!(!printed.contains("correct horse"));
}

#[test]
fn a_plain_key_file_and_a_locked_one_are_told_apart() {
    let plain = alice().to_key_file();
    let locked = cheap(&HomeKey::from_bytes([9; 32])).to_key_file();
    assert!(LockedHome::is_one(&locked) && !LockedHome::is_one(&plain));
    assert_eq!(LockedHome::from_key_file(&plain), Err(KeyFileError::Label("HALLOO LOCKED HOME")));
    assert_eq!(
        Identity::from_key_file(&locked).unwrap_err(),
        KeyFileError::Label("HALLOO IDENTITY"),
    );
}

#[test]
fn damage_is_not_taken_for_a_wrong_passphrase() {
    let binary = unwrap(&cheap(&HomeKey::passphrase("correct horse")).to_key_file());
    for at in 0..binary.len() {
        let mut damaged = binary.clone();
        damaged[at] ^= 1;
        let error = LockedHome::from_key_file(&wrap(&damaged)).unwrap_err();
        let expected = if at == 0 { KeyFileError::Version(0) } else { KeyFileError::Check };
        assert_eq!(error, expected, "{at}");
        assert!(LockedHome::from_key_file(&wrap(&binary[..at])).is_err(), "{at}");
    }
}

/// Somebody who changes the file mends its check as well.
#[test]
fn every_byte_counts_also_when_the_check_is_mended() {
    let key = HomeKey::from_bytes([9; 32]);
    let binary = unwrap(&cheap(&key).to_key_file());
    let body = &binary[..binary.len() - 32];
    for at in 2..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1;
        let home = LockedHome::from_key_file(&checked(&changed)).unwrap();
        assert_eq!(home.unlock(&key).unwrap_err(), UnlockError::WrongKey, "{at}");
    }
}

#[test]
fn a_cost_beyond_the_limits_is_refused_before_it_is_paid() {
    let binary = unwrap(&cheap(&HomeKey::passphrase("correct horse")).to_key_file());
    let with = |memory: u32, passes: u32, lanes: u32| {
        let mut body = binary[..binary.len() - 32].to_vec();
        for (at, v) in [(2, memory), (6, passes), (10, lanes)] {
            body[at..at + 4].copy_from_slice(&v.to_be_bytes());
        }
        LockedHome::from_key_file(&checked(&body))
    };
    assert!(with(1024 * 1024, 16, 16).is_ok());
    for (memory, passes, lanes) in [
        (1024 * 1024 + 1, 1, 1),
        (u32::MAX, 1, 1),
        (64, 17, 1),
        (64, 0, 1),
        (1024, 1, 17),
        (64, 1, 0),
        (63, 1, 8),
        (0, 1, 1),
    ] {
        let refused = with(memory, passes, lanes);
        assert_eq!(refused, Err(KeyFileError::Content), "{memory} {passes} {lanes}");
    }
}

proptest! {
    #[test]
    fn whatever_locks_it_opens_it(passphrase in ".{0,40}", data_key: [u8; 32], nonce: [u8; 24], salt: [u8; 16]) {
        let key = HomeKey::passphrase(passphrase);
        let cost = PassphraseCost::NOTHING;
        let home =
            LockedHome::lock_with(&alice(), &DataKey::from_bytes(data_key), &key, cost, salt, nonce);
        let read = LockedHome::from_key_file(&home.unwrap().to_key_file()).unwrap();
        let (_, opened) = read.unlock(&key).unwrap();
        prop_assert_eq!(opened.as_bytes(), &data_key);
    }

    #[test]
    fn no_content_makes_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = LockedHome::from_key_file(&checked(&[&[1], &body[..]].concat()));
    }
}

fn unwrap(file: &str) -> Vec<u8> {
    let block: String = file.lines().filter(|l| !l.starts_with('-')).collect();
    BASE64.decode(block.as_bytes()).unwrap()
}

fn wrap(binary: &[u8]) -> String {
    let base64 = BASE64.encode(binary);
    format!("-----BEGIN HALLOO LOCKED HOME-----\n{base64}\n-----END HALLOO LOCKED HOME-----\n")
}

fn checked(body: &[u8]) -> String {
    wrap(&[body, &blake3::derive_key(CONTEXT, body)].concat())
}
