//! Golden bytes between two nodes, on streams and end to end: what is on the wire is what another program can read.
//!
//! The vectors are annotated byte by byte in `tests/golden`; the values that they stand for are
//! here. A vector that changes is a new version of the protocol.

use std::net::SocketAddr;

use halloo_wire::content::{
    Ack, Body, Content, Message, PeerHint, Ping, Profile, Resend, Safety, SafetyStep,
};
use halloo_wire::envelope::{EnvelopeRef, Header, Lane, pad, unpad};
use halloo_wire::inner::{Inner, Kind, Plain, RatchetType, Route};
use halloo_wire::node::{ChannelName, NodeFrame, StreamKind};
use halloo_wire::prekey::{Introduction, PrekeyBundle, one_time_keys_hash};
use halloo_wire::{
    ALPN_NODE, ALPN_PEER, CapabilityToken, DeviceId, Fingerprint, MessageId, Nonce,
    PeerFingerprint, Seq, StreamId, Transcript,
};

use crate::golden_file::{check, hex, read};

#[test]
fn protocols_have_their_names() {
    assert_eq!(ALPN_PEER, b"halloo-peer/2");
    assert_eq!(ALPN_NODE, b"halloo/1");
}

fn ack(stream: StreamId) -> Ack {
    Ack { stream, next: Seq(42), transcript: Transcript([0x77; 16]) }
}

#[test]
fn frames_between_nodes() {
    check(
        "node.hex",
        "frame",
        &[
            ("frame/inner", NodeFrame::Inner(vec![0xa0, 0xa1, 0xa2])),
            ("frame/ack", NodeFrame::Ack(ack(stream()))),
        ],
        NodeFrame::encode,
        // The reader of the stream takes the length off.
        |bytes| NodeFrame::decode(&bytes[4..]),
    );
    check(
        "node.hex",
        "channel name",
        &[("channel name", ChannelName::new("voice").unwrap())],
        ChannelName::encode,
        |bytes| ChannelName::decode(&bytes[2..]),
    );
    let kinds = [StreamKind::Messages, StreamKind::Channel, StreamKind::Ping];
    assert_eq!(kinds.map(StreamKind::to_byte), [1, 2, 3]);
    assert_eq!([1, 2, 3].map(StreamKind::from_byte), kinds.map(Ok));
}

#[test]
fn end_to_end_messages() {
    let route = |seq| Route {
        from: alice(),
        from_device: DeviceId::FIRST,
        to: bob(),
        to_device: DeviceId::FIRST,
        stream: stream(),
        seq: Seq(seq),
    };
    let inner = |seq, kind, introduction, ratchet_type| Inner {
        route: route(seq),
        kind,
        introduction,
        ratchet_type,
        ratchet: vec![0xf0, 0xf1, 0xf2, 0xf3],
    };
    check(
        "inner.hex",
        "inner",
        &[
            (
                "inner/first message of a session",
                inner(1, Kind::Request, Some(vec![0xd1, 0xd2, 0xd3]), RatchetType::PreKey),
            ),
            ("inner/in a session", inner(42, Kind::Message, None, RatchetType::Normal)),
            ("inner/outside of the stream", inner(43, Kind::Ack, None, RatchetType::Normal)),
        ],
        Inner::encode,
        Inner::decode,
    );

    let text = Message { nonce: Nonce([0x11; 16]), parent: None, body: Body::Text("A".to_owned()) };
    let plain = Plain {
        route: route(42),
        kind: Kind::Message,
        from_ratchet_key: [0xaa; 32],
        to_ratchet_key: [0xbb; 32],
        content: text.encode(),
    };
    check("inner.hex", "plain", &[("plain", plain)], Plain::encode, Plain::decode);
}

#[test]
fn kinds_of_messages() {
    let kinds = [
        (Kind::Request, 1),
        (Kind::Accept, 2),
        (Kind::Message, 3),
        (Kind::Safety, 4),
        (Kind::Ack, 16),
        (Kind::Resend, 17),
        (Kind::Ping, 18),
        (Kind::Pong, 19),
    ];
    for byte in 0..=u8::MAX {
        let known = kinds.iter().find(|(_, b)| *b == byte).map(|(kind, _)| *kind);
        assert_eq!(Kind::from_byte(byte).ok(), known);
        assert!(known.is_none_or(|kind| kind.to_byte() == byte));
    }
}

#[test]
fn contents() {
    let hint = |host: &str, port, key| PeerHint { host: host.to_owned(), port, key };
    let capability = [0x4c; 32];
    let peer_key = PeerFingerprint::from_bytes([0x99; 30]);
    content(
        "profile",
        &[
            (
                "profile/request",
                Profile {
                    name: "Alice".to_owned(),
                    note: "hi".to_owned(),
                    peers: vec![
                        hint("peer.alice.test", 443, Some(peer_key)),
                        hint("127.0.0.1", 40_000, None),
                    ],
                    capability,
                },
            ),
            (
                "profile/acceptance",
                Profile {
                    name: String::new(),
                    note: String::new(),
                    peers: vec![hint("::1", 443, None)],
                    capability,
                },
            ),
        ],
    );
    let message = |parent, text: &str| Message {
        nonce: Nonce([0x22; 16]),
        parent,
        body: Body::Text(text.to_owned()),
    };
    content(
        "message",
        &[
            ("message/text", message(None, "ü!")),
            ("message/answer", message(Some(MessageId([0xab; 16])), "")),
            ("message/withdrawn", Message::WITHDRAWN),
        ],
    );
    content("ack", &[("ack", ack(StreamId(136)))]);
    content(
        "resend",
        &[
            ("resend", Resend { stream: Some(StreamId(136)), next: Seq(42) }),
            ("resend/from the beginning", Resend { stream: None, next: Seq(0) }),
        ],
    );
    content("ping", &[("ping", Ping { nonce: u64::MAX })]);
    let safety = |step| Safety { exchange: [0xe0; 16], step };
    content(
        "safety",
        &[
            ("safety/start", safety(SafetyStep::Start)),
            ("safety/commit", safety(SafetyStep::Commit([0xcc; 32]))),
            ("safety/reveal initiator", safety(SafetyStep::RevealInitiator([0xaa; 32]))),
            ("safety/reveal responder", safety(SafetyStep::RevealResponder([0xbb; 32]))),
            ("safety/confirm", safety(SafetyStep::Confirm([0xdd; 32]))),
            ("safety/mismatch", safety(SafetyStep::Mismatch)),
            ("safety/cancel", safety(SafetyStep::Cancel)),
        ],
    );
}

#[test]
fn envelopes() {
    let vectors = read("envelope.hex");
    let contacts = Header { lane: Lane::Contacts, key_id: 7 };
    let strangers = Header { lane: Lane::Strangers, key_id: u64::MAX };
    assert_eq!(hex(&contacts.encode()), hex(&vectors["header/contacts"]));
    assert_eq!(hex(&strangers.encode()), hex(&vectors["header/strangers"]));

    for (name, lane, body) in [
        ("envelope/smallest", Lane::Contacts, 1040),
        ("envelope/second class", Lane::Strangers, 4112),
    ] {
        let envelope = EnvelopeRef::decode(&vectors[name]).unwrap();
        assert_eq!(envelope.header, Header { lane, key_id: 7 }, "{name}");
        assert_eq!(envelope.kem_ct, &[0x4b; 1088], "{name}");
        assert_eq!(envelope.noise, [vec![0x4e; 32], vec![0x4f; body]].concat(), "{name}");
    }

    for (name, len) in [
        ("padded/nothing", 0),
        ("padded/fills the first class", 1022),
        ("padded/into the second class", 1023),
    ] {
        let plain = vec![0x70; len];
        assert_eq!(hex(&pad(&plain).unwrap()), hex(&vectors[name]), "{name}");
        assert_eq!(unpad(&vectors[name]), Ok(&plain[..]), "{name}");
    }
}

#[test]
fn prekeys_and_introductions() {
    let bundle = PrekeyBundle {
        fingerprint: alice(),
        device: DeviceId::FIRST,
        passport_key: [0x11; 32],
        ml_dsa_hash: [0x22; 32],
        seq: 7,
        not_before: 1_761_607_680,
        not_after: 1_762_807_680,
        sealing_x25519: [0x33; 32],
        sealing_kem: Box::new([0x44; 1184]),
        olm_identity: [0x55; 32],
        olm_fallback: [0x66; 32],
        one_time_keys_hash: [0x77; 32],
        signature: [0x88; 64],
    };
    assert_eq!(bundle.encode()[..bundle.encode().len() - 64], bundle.signed_bytes());
    assert_eq!(bundle.encode().len(), 1500);
    check("prekey.hex", "bundle", &[("bundle", bundle)], PrekeyBundle::encode, |bytes| {
        PrekeyBundle::decode(bytes)
    });

    let introduction = Introduction {
        passport: vec![0xd0, 0xd1, 0xd2],
        ml_dsa_key: Box::new([0xaa; 1952]),
        device: DeviceId::FIRST,
        olm_identity: [0x55; 32],
        ed25519_signature: [0x88; 64],
        ml_dsa_signature: Box::new([0x99; 3309]),
    };
    let signed = introduction.signed_bytes();
    assert_eq!(introduction.encode()[..signed.len()], signed);
    assert_eq!(introduction.encode().len(), signed.len() + 64 + 3309);
    check(
        "prekey.hex",
        "introduction",
        &[("introduction", introduction)],
        Introduction::encode,
        Introduction::decode,
    );
}

#[test]
fn derived_names() {
    let id = MessageId::derive(&alice(), &bob(), Nonce([0x11; 16]));
    assert_eq!(id.to_string(), "1350580a4d1737bc0d077af4f727ac43");
    let transcript = Transcript::START.then(stream(), Seq(1), 3, b"abc");
    assert_eq!(hex(&transcript.0), "83ead53a8b5bc59ad7c9056dc2c675d1");
    assert_eq!(
        hex(&CapabilityToken([0x70; 32]).id().0),
        "440a39bb2729351e7c7bb45ec13a26f7a7d7b4ad30fe16c5abf3b0ce1a3f4275"
    );
    assert_eq!(
        hex(&one_time_keys_hash(&[])),
        "335f2387d17d67f2f44de66b899a1be84c66bbd0348553b10ca8fd038510d5ac"
    );
    assert_eq!(
        hex(&one_time_keys_hash(&[[0x11; 32], [0x22; 32]])),
        "9a647a01726e23e5a545ce8d7219c980c170c5545daa452c34f9afdb6482af9b"
    );
}

fn content<T: Content + PartialEq + std::fmt::Debug>(family: &str, values: &[(&str, T)]) {
    check("content.hex", family, values, Content::encode, Content::decode);
}

pub(crate) fn alice() -> Fingerprint {
    Fingerprint::from_bytes(std::array::from_fn(|i| i as u8))
}

fn bob() -> Fingerprint {
    Fingerprint::from_bytes([0xbb; 30])
}

fn stream() -> StreamId {
    StreamId(0x0102_0304_0506_0708)
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
