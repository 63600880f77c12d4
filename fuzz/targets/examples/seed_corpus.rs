//! Writes the seeds of the corpora: `cargo run -p halloo-fuzz-targets --example seed_corpus`.
//!
//! Seeds are the golden vectors of the wire and, where a decoder checks signatures, what a fixed
//! identity made. A fuzzer that starts from them is past the first checks at once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use halloo_fuzz_targets::recorded;
use halloo_identity::safety::{Attempts, Initiator, Responder, TypedCode};
use halloo_identity::{
    Address, ContactCard, Continuity, DataKey, HomeKey, Identity, LockedHome, Move, PassphraseCost,
    PeerAddress, PeerKey, Seeds, safety_number,
};
use halloo_wire::content::SafetyStep;
use halloo_wire::inner::Inner;
use halloo_wire::invite::InviteHead;
use halloo_wire::peer::{Call, Control, Found, Request, Response};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{CapabilityToken, Invite, InviteId, Writer};

#[allow(dead_code)]
#[path = "../../../wire/tests/wire/golden_file.rs"]
mod golden_file;

fn main() {
    for (name, seed) in
        wire().into_iter().chain(identity()).chain(e2ee()).chain(peer()).chain(store())
    {
        write(&name, &seed);
    }
}

/// The golden vectors: `corpus/name of the vector`.
fn wire() -> BTreeMap<String, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let files = [
        ("peer-request.hex", "wire_request"),
        ("peer-response.hex", "wire_response"),
        ("peer-push.hex", "wire_push"),
        ("content.hex", "wire_content"),
        ("datagram.hex", "wire_datagram"),
        ("peer-datagram.hex", "wire_peer_datagram"),
        ("parked.hex", "wire_parked"),
        ("envelope.hex", "wire_envelope"),
        ("inner.hex", "wire_inner"),
        ("prekey.hex", "wire_prekey"),
        ("node.hex", "wire_node"),
        ("card.hex", "wire_card"),
    ];
    for (file, target) in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wire/tests/golden").join(file);
        for (name, bytes) in golden_file::parse(&fs::read_to_string(path).unwrap()) {
            let family = name.split('/').next().unwrap();
            let seed = match (target, family) {
                // The first byte chooses the kind.
                ("wire_content", family) => {
                    let kinds = ["profile", "message", "ack", "resend", "ping", "safety"];
                    chosen(&kinds, family, &bytes)
                }
                ("wire_parked", family) => {
                    chosen(&["datagram", "keepalive", "word"], family, &bytes)
                }
                // Decoders of frames and names begin after the length.
                ("wire_node", "frame") => bytes[4..].to_vec(),
                ("wire_node", _) => bytes[2..].to_vec(),
                _ => bytes,
            };
            seeds.insert(format!("{target}/{name}"), seed);
        }
    }
    for (name, text) in [
        ("fingerprint", "000g40r40m30e209185gr38e1w8124gk2gahc5rr34d1p70x7a1g"),
        ("fingerprint copied by hand", "OOOG4-oR4OM-3OE20-9i85g-r38eLw81-24gk2gahc5rr34dIp7ox7a1g"),
        ("peer fingerprint", "0000000000000000000000000000000000000000000000006frz"),
        ("message id", "f7a77690fd32488205c8e708e8dcbdd4"),
    ] {
        seeds.insert(format!("wire_text/{name}"), text.into());
    }
    for (name, bound) in [("first", false), ("bound", true)] {
        let head = InviteHead { bound, id: InviteId([0x1a; 10]), expires: 2_000_000_000 };
        let invite = Invite::new(&head, &[0x7a; 15]);
        seeds.insert(format!("wire_invite/{name}"), invite.as_bytes().to_vec());
        seeds.insert(format!("wire_invite/{name} written"), invite.to_string().into());
        seeds.insert(format!("wire_invite/{name} id"), head.id.to_string().into());
    }
    seeds
}

fn chosen(kinds: &[&str], kind: &str, bytes: &[u8]) -> Vec<u8> {
    let kind = kinds.iter().position(|&k| k == kind).unwrap();
    [&[kind as u8][..], bytes].concat()
}

/// What fixed identities sign, store and write.
fn identity() -> BTreeMap<String, Vec<u8>> {
    let alice = Identity::from_seeds(Seeds { passport: [1; 32], ml_dsa: [2; 32], device: [3; 32] });
    let bob = Identity::from_seeds(Seeds { passport: [4; 32], ml_dsa: [5; 32], device: [6; 32] });
    let peer = PeerKey::from_seed(&[7; 32]);
    let [device, passport] = alice.device_chain();
    let chain = [&(device.len() as u16).to_be_bytes()[..], &device, &passport].concat();
    let at_home =
        PeerAddress { host: "peer.example".parse().unwrap(), key: Some(peer.fingerprint()) };
    let elsewhere = PeerAddress { host: "[2001:db8::1]:8443".parse().unwrap(), key: None };
    let peers = vec![at_home.clone(), elsewhere];
    let card = ContactCard::sign(&alice, 3, "Alice", peers.clone()).unwrap();
    let address = Address {
        peer: at_home.host.clone(),
        peer_key: at_home.key,
        fingerprint: alice.fingerprint(),
    };
    let locked = |key: HomeKey, cost| {
        let data_key = DataKey::from_bytes([8; 32]);
        let home = LockedHome::lock_with(&alice, &data_key, &key, cost, [3; 16], [6; 24]).unwrap();
        home.to_key_file().as_bytes().to_vec()
    };
    let passphrase = HomeKey::passphrase("correct horse");
    let mut seeds = BTreeMap::from([
        ("identity_locked_homes/passphrase", locked(passphrase.clone(), PassphraseCost::NOTHING)),
        ("identity_locked_homes/recommended", locked(passphrase, PassphraseCost::RECOMMENDED)),
        (
            "identity_locked_homes/keychain",
            locked(HomeKey::from_bytes([9; 32]), PassphraseCost::NOTHING),
        ),
        ("identity_certificates/passport", passport.clone()),
        ("identity_certificates/peer", peer.cert_der().to_vec()),
        ("identity_certificates/chain", chain),
        ("identity_statements/card", card.encode()),
        ("identity_statements/rotation", Continuity::sign(&alice, &bob, 1, 1_800_000_000).encode()),
        ("identity_statements/move", Move::sign(&alice, peers, 4, 1_800_000_000).unwrap().encode()),
        ("identity_texts/address", address.to_string().into()),
        ("identity_texts/uri", address.to_uri().into()),
        ("identity_texts/peer", at_home.to_string().into()),
        ("identity_texts/card", card.to_text().into()),
        ("identity_texts/key file", alice.to_key_file().as_bytes().to_vec()),
        ("identity_texts/peer key file", peer.to_key_file().as_bytes().to_vec()),
        (
            "identity_texts/safety number",
            safety_number(&alice.fingerprint(), &bob.fingerprint()).to_string().into(),
        ),
        ("identity_texts/code", b"481 907".to_vec()),
    ]);

    let (a, b) = (alice.fingerprint(), bob.fingerprint());
    let (await_commit, _) = Initiator::start_with_secret([1; 32].into(), [9; 16], a, b);
    seeds.insert("identity_safety_states/await commit", await_commit.to_bytes().to_vec());
    let (await_key, committed) = Responder::on_start_with_secret([2; 32].into(), [9; 16], b, a);
    seeds.insert("identity_safety_states/await key", await_key.to_bytes().to_vec());
    let SafetyStep::Commit(commitment) = committed.step else { unreachable!() };
    let (await_reveal, revealed) = await_commit.on_commit(commitment);
    seeds.insert("identity_safety_states/await reveal", await_reveal.to_bytes().to_vec());
    let SafetyStep::RevealInitiator(key) = revealed.step else { unreachable!() };
    let (compare, _) = await_key.on_reveal(key).ok().unwrap();
    seeds.insert("identity_safety_states/compare", compare.to_bytes().to_vec());
    let typed = TypedCode::parse(&compare.code().to_string()).unwrap();
    let (confirmed, _) = compare.confirm(&typed).ok().unwrap();
    seeds.insert("identity_safety_states/confirmed", confirmed.to_bytes().to_vec());
    let mut attempts = Attempts::default();
    attempts.failed(1_800_000_000).unwrap();
    seeds.insert("identity_safety_states/attempts", attempts.to_bytes());
    seeds.into_iter().map(|(name, seed)| (name.to_owned(), seed)).collect()
}

/// The recorded conversation of the end-to-end crate, taken apart.
fn e2ee() -> BTreeMap<String, Vec<u8>> {
    let envelope = recorded::envelope();
    let message = recorded::opened();
    let introduction = Inner::decode(&message).unwrap().introduction.unwrap();
    let passport = recorded::passport();
    let found = Found {
        passport: passport.clone(),
        bundle: recorded::bundle(),
        one_time_keys: recorded::one_time_keys(),
        one_time_key: Some(0),
    };
    let mut cached = Writer::default();
    cached.u8(1).bytes16(&passport).bytes16(&recorded::bundle());
    [
        ("e2ee_envelope/first words", envelope),
        ("e2ee_message/first words", message),
        ("e2ee_introduction/alice", introduction),
        ("e2ee_bundle/found", Response::Found(found).encode()),
        ("e2ee_bundle/cached", cached.into_vec()),
        ("e2ee_storage/bundle secrets", recorded::bundle_secrets()),
        ("e2ee_storage/account", recorded::account()),
        ("e2ee_storage/session", recorded::session()),
        ("e2ee_storage/card", recorded::card()),
    ]
    .map(|(name, seed)| (name.to_owned(), seed))
    .into()
}

/// Whole stores, and ones with another byte at some places: the header, the schema, rows.
fn store() -> BTreeMap<String, Vec<u8>> {
    let changed = |kind: u8, places: &[(u32, u8)]| -> Vec<u8> {
        let steps = places.iter().flat_map(|(place, byte)| {
            let [_, a, b, c] = place.to_be_bytes();
            [a, b, c, *byte]
        });
        std::iter::once(kind).chain(steps).collect()
    };
    BTreeMap::from([
        ("node_store/first".into(), changed(0, &[])),
        ("node_store/newest".into(), changed(1, &[])),
        ("node_store/newer".into(), changed(1, &[(63, 9)])),
        ("node_store/of_somebody_else".into(), changed(1, &[(68, 1)])),
        ("node_store/pages".into(), changed(0, &[(4_096, 5), (8_192, 2), (12_290, 0xff)])),
        ("node_store/rows".into(), changed(1, &[(20_400, 1), (24_500, 0), (45_000, 0x80)])),
        ("node_store/file".into(), [b"\x02SQLite format 3\0".as_slice(), &[0; 84]].concat()),
    ])
}

/// Short lives of a channel: a step is its number, what it needs follows.
fn peer() -> BTreeMap<String, Vec<u8>> {
    const FRAME: u8 = 0;
    const DATAGRAM: u8 = 1;
    const ANSWER: u8 = 2;
    const REQUEST: u8 = 3;
    const KNOCK: u8 = 4;
    const PASS: u8 = 5;
    const EXPIRE: u8 = 6;
    const MAIL: u8 = 7;
    const PARK: u8 = 0xe0;
    const CLOSE: u8 = 0xe1;
    const PARKED: u8 = 0xe2;
    const KEEPALIVE: u8 = 0xe3;
    // A keepalive from a place, with a cookie, that has heard some ring and has taken nothing.
    let keepalive = |place: u8, cookie: u8, rung: u8| [KEEPALIVE, place, cookie, rung, 0, 1];
    // A frame of 1,200 bytes on the first channel, from a place, as the caller or the callee.
    let frame = |place: u8, side: u8| [FRAME, place, 2 | side, 4, 0xb0, 1];
    let answer = |place: u8, cookie: u8| [ANSWER, place, 2, cookie, 0];
    let keep = |place: u8, side: u8| [ANSWER, place, 2 | side, 0, 1];
    let echo = |second: u8, answer| {
        let request = PeerDatagram::EchoRequest { txid: 1, cookie: 0, answer }.encode();
        let mut w = Writer::default();
        w.u8(DATAGRAM).u8(3).u8(second).bytes16(&request);
        w.into_vec()
    };
    let request = |conn: u8, call| {
        let mut w = Writer::default();
        w.u8(REQUEST).u8(conn).bytes16(&Request { session: None, call }.encode());
        w.into_vec()
    };
    let revoke = Call::Revoke(vec![CapabilityToken([1; 32]).id()]);
    let parked = [PARK, CLOSE, KNOCK, 1, PASS, 0, 60, CLOSE];
    let taken = [[KEEPALIVE, 1, 0, 1, 1].as_slice(), &[0; 8], &[1]].concat();
    let noise = [&[PARKED, 1, 0, 3][..], &[7, 1, 1]].concat();
    BTreeMap::from([
        ("parked", [&parked[..], &keepalive(1, 0, 1), &taken, &noise].concat()),
        (
            "parked moves",
            [&parked[..], &keepalive(4, 0, 0), &keepalive(4, 1, 0), &[KNOCK, 1]].concat(),
        ),
        ("frames", [frame(2, 0), frame(1, 1)].concat()),
        ("moved", [&frame(5, 0)[..], &answer(5, 1), &frame(1, 1)].concat()),
        ("thief", [&frame(5, 0)[..], &answer(4, 1), &frame(1, 1)].concat()),
        ("kept", [&keep(2, 0)[..], &[PASS, 0x20, 0], &keep(1, 1), &frame(2, 0)].concat()),
        ("silent", [&[PASS, 0x2e, 0xe0, EXPIRE][..], &frame(2, 0)].concat()),
        ("knocks", vec![KNOCK, 1, KNOCK, 2, KNOCK, 3, KNOCK, 1, KNOCK, 1, KNOCK, 1, MAIL]),
        ("revoked", [request(0, revoke), frame(2, 0).to_vec()].concat()),
        ("echo", [echo(0, EchoAnswer::Here), echo(1, EchoAnswer::ToPort(5000))].concat()),
    ])
    .into_iter()
    .map(|(name, seed)| (format!("peer_core_datagrams/{name}"), seed))
    .collect()
}

/// `target/some name` becomes the file `some_name` of the target's corpus.
fn write(name: &str, seed: &[u8]) {
    let (target, name) = name.split_once('/').unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name.replace([' ', '/'], "_")), seed).unwrap();
}
