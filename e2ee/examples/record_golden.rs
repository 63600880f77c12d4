//! Records what `tests/golden.rs` reads, into a folder: `cargo run -p halloo-e2ee --example
//! record_golden FOLDER`. For a first recording only: a change of the format gets files of its own
//! beside the old ones.
#![allow(clippy::unwrap_used)]

#[path = "../tests/golden/recorded.rs"]
mod recorded;

use std::path::PathBuf;

use halloo_e2ee::{
    CardDirection, Parties, RatchetAccount, RatchetSession, UnixTime, VerifiedBundle, introduce,
    make_bundle, seal, seal_card,
};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::peer::Found;
use halloo_wire::{DeviceId, Seq, StreamId};
use recorded::{alice, bob, card, party};

/// When the bundle is made.
const NOW: UnixTime = UnixTime(1_800_000_000);

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap());
    let write = |name: &str, bytes: &[u8]| {
        let lines: Vec<String> = bytes
            .chunks(48)
            .map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n")
            .collect();
        std::fs::write(folder.join(format!("{name}.hex")), lines.concat()).unwrap();
    };

    let (alice, bob) = (alice(), bob());
    let mut account = RatchetAccount::generate();
    let (bundle, keys, secrets) = make_bundle(&bob, &mut account, 3, NOW);
    write("passport", bob.passport_der());
    write("bundle", &bundle.encode());
    write("one_time_keys", &keys.concat());
    write("bundle_secrets", &secrets.to_bytes());
    write("ratchet_account", &account.to_bytes());
    write("card", &seal_card(&[7; 32], CardDirection::Callee, &card()));

    let found = Found {
        passport: bob.passport_der().to_vec(),
        bundle: bundle.encode(),
        one_time_keys: keys,
        one_time_key: Some(0),
    };
    let mut bundle =
        VerifiedBundle::verify(&found, &bob.fingerprint(), DeviceId::FIRST, NOW, None).unwrap();
    let hers = RatchetAccount::generate();
    let mut session = RatchetSession::outbound(&hers, &mut bundle).unwrap();
    let parties = Parties { us: party(&alice, &hers), them: bundle.party() };
    let introduction = introduce(&alice, hers.olm_identity()).encode();
    let inner = session
        .compose(
            &parties,
            StreamId(7),
            Seq(1),
            Kind::Message,
            b"the first words",
            Some(&introduction),
        )
        .unwrap();
    write("envelope", &seal(&bundle, Lane::Strangers, &inner.encode()).unwrap());
    write("ratchet_session", &session.to_bytes());
}
