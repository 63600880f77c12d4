//! People with fixed keys.
#![allow(dead_code)]

use halloo_identity::{Identity, PeerAddress, Seeds};

pub(crate) fn alice() -> Identity {
    Identity::from_seeds(Seeds { passport: [1; 32], ml_dsa: [2; 32], device: [3; 32] })
}

pub(crate) fn bob() -> Identity {
    Identity::from_seeds(Seeds { passport: [4; 32], ml_dsa: [5; 32], device: [6; 32] })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(crate) fn peers() -> Vec<PeerAddress> {
    let key = halloo_identity::PeerKey::from_seed(&[7; 32]).fingerprint();
    vec![
        PeerAddress { host: "peer.example".parse().expect("a place"), key: Some(key) },
        PeerAddress { host: "[2001:db8::1]:8443".parse().expect("a place"), key: None },
    ]
}
