//! What is over a limit, of another version, or not allowed together is refused by the decoder.
//! Here: end to end, and between two nodes.

use halloo_wire::DecodeError::{Invalid, TooLong, Truncated, UnknownType, UnsupportedVersion};
use halloo_wire::codec::{Reader, Writer};
use halloo_wire::content::{Body, Content, Message, PeerHint, Profile};
use halloo_wire::envelope::{EnvelopeRef, Lane};
use halloo_wire::inner::{Inner, Kind, Plain, RatchetType, Route};
use halloo_wire::limits::*;
use halloo_wire::node::{ChannelName, NodeFrame, StreamKind};
use halloo_wire::prekey::{Introduction, PrekeyBundle};
use halloo_wire::{DeviceId, Fingerprint, Nonce, Seq, StreamId};
use proptest::prelude::*;

use crate::golden_file::read;

#[test]
fn a_profile_keeps_its_limits() {
    let hint = || PeerHint { host: "peer.test".to_owned(), port: 443, key: None };
    let good = || Profile {
        name: "n".repeat(MAX_NAME),
        note: "n".repeat(MAX_NOTE),
        peers: vec![hint(); MAX_PEERS],
        capability: [0; 32],
    };
    assert_eq!(Profile::decode(&good().encode()), Ok(good()));

    let refused = |change: fn(&mut Profile)| {
        let mut profile = good();
        change(&mut profile);
        Profile::decode(&profile.encode()).unwrap_err()
    };
    assert_eq!(refused(|p| p.name.push('n')), TooLong);
    assert_eq!(refused(|p| p.note.push('n')), TooLong);
    let peers = Invalid("list of peers");
    assert_eq!(refused(|p| p.peers.clear()), peers);
    assert_eq!(refused(|p| p.peers.push(p.peers[0].clone())), peers);
    assert_eq!(refused(|p| p.peers[0].host.clear()), peers);
    assert_eq!(refused(|p| p.peers[1].host = "h".repeat(MAX_HOST + 1)), peers);
    assert_eq!(refused(|p| p.peers[2].port = 0), peers);
}

#[test]
fn a_text_keeps_its_limit() {
    let text = |n| Message { nonce: Nonce([1; 16]), parent: None, body: Body::Text("x".repeat(n)) };
    assert_eq!(Message::decode(&text(MAX_TEXT).encode()), Ok(text(MAX_TEXT)));
    assert_eq!(Message::decode(&text(MAX_TEXT + 1).encode()), Err(TooLong));
    // Not UTF-8.
    assert_eq!(
        Message::decode(&[&[9; 16][..], &[0, 0, 1, 0xff]].concat()),
        Err(Invalid("control message"))
    );
    // A newer version's message still has its name in front.
    assert_eq!(Message::nonce_in(&[9; 17]), Ok(Nonce([9; 16])));
    assert_eq!(Message::nonce_in(&[9; 15]), Err(Truncated));
}

#[test]
fn envelopes_of_other_versions_suites_and_sizes_are_refused() {
    let good = &read("envelope.hex")["envelope/smallest"];
    let with = |place: usize, byte| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        EnvelopeRef::decode(&bytes).map(drop)
    };
    assert_eq!(with(0, 1), Ok(()));
    assert_eq!(with(0, 2), Err(UnsupportedVersion(2)));
    assert_eq!(with(1, 2), Err(Invalid("envelope suite")));
    assert_eq!(with(2, 0), Err(Invalid("mailbox lane")));
    assert_eq!(with(2, 3), Err(Invalid("mailbox lane")));

    let long = |n: usize| {
        let mut bytes = good[..1147].to_vec();
        bytes.resize(1147 + n, 0);
        EnvelopeRef::decode(&bytes).map(drop)
    };
    assert_eq!(long(MAX_PADDED), Ok(()));
    assert_eq!(long(MAX_PADDED + 1), Err(TooLong));
    assert_eq!(long(0), Err(Invalid("envelope size")));
    assert_eq!(long(1023), Err(Invalid("envelope size")));
    assert_eq!(EnvelopeRef::decode(&good[..1146]).map(drop), Err(Truncated));
    assert_eq!((Lane::Contacts.to_byte(), Lane::Strangers.to_byte()), (1, 2));
}

#[test]
fn end_to_end_messages_of_other_versions_and_kinds_are_refused() {
    let vectors = read("inner.hex");
    let with = |name: &str, place: usize, byte| {
        let mut bytes = vectors[name].clone();
        bytes[place] = byte;
        let plain = name == "plain";
        if plain { Plain::decode(&bytes).map(drop) } else { Inner::decode(&bytes).map(drop) }
    };
    for name in ["inner/in a session", "plain"] {
        assert_eq!(with(name, 0, 2), Err(UnsupportedVersion(2)));
        assert_eq!(with(name, 85, 5), Err(UnknownType(5)));
        // Places begin at 1; this one is 42.
        assert_eq!(with(name, 84, 0), Err(Invalid("sequence number")));
    }
    assert_eq!(with("inner/in a session", 88, 2), Err(UnknownType(2)), "ratchet type");
}

#[test]
fn the_longest_message_to_a_stranger_fits() {
    // Text, its headers, Olm's pre-key message around it, and the introduction.
    let plain = Plain {
        route: route(1),
        kind: Kind::Message,
        from_ratchet_key: [0; 32],
        to_ratchet_key: [0; 32],
        content: vec![0; MAX_CONTENT],
    };
    assert_eq!(Plain::decode(&plain.encode()).as_ref(), Ok(&plain));
    let introduction = Introduction {
        passport: vec![0; MAX_PASSPORT],
        ml_dsa_key: Box::new([0; 1952]),
        device: DeviceId::FIRST,
        olm_identity: [0; 32],
        ed25519_signature: [0; 64],
        ml_dsa_signature: Box::new([0; 3309]),
    };
    let olm_overhead = 256;
    let inner = Inner {
        route: route(1),
        kind: Kind::Message,
        introduction: Some(introduction.encode()),
        ratchet_type: RatchetType::PreKey,
        ratchet: vec![0; plain.encode().len() + olm_overhead],
    };
    assert!(inner.encode().len() <= MAX_INNER);
    assert_eq!(Inner::decode(&inner.encode()).as_ref(), Ok(&inner));

    let over = Plain { content: vec![0; MAX_CONTENT + 1], ..plain };
    assert_eq!(Plain::decode(&over.encode()), Err(TooLong));
    let over = Inner { ratchet: vec![0; MAX_INNER], ..inner };
    assert_eq!(Inner::decode(&over.encode()), Err(TooLong));
}

#[test]
fn prekeys_of_other_versions_suites_and_times_are_refused() {
    let vectors = read("prekey.hex");
    let with = |place: usize, byte| {
        let mut bytes = vectors["bundle"].clone();
        bytes[place] = byte;
        PrekeyBundle::decode(&bytes).map(drop)
    };
    assert_eq!(with(0, 2), Err(UnsupportedVersion(2)));
    assert_eq!(with(1, 2), Err(Invalid("prekey suite")));
    // Ends before it begins.
    assert_eq!(with(108, 1), Err(Invalid("prekey validity")));
    assert_eq!(PrekeyBundle::decode(&[1; MAX_BUNDLE + 1]), Err(TooLong));

    let mut bytes = vectors["introduction"].clone();
    bytes[0] = 2;
    assert_eq!(Introduction::decode(&bytes), Err(UnsupportedVersion(2)));
    bytes[..3].copy_from_slice(&[1, 4, 1]);
    assert_eq!(Introduction::decode(&bytes), Err(TooLong), "a passport of 1,025 bytes");
}

#[test]
fn streams_between_nodes_keep_their_limits() {
    assert_eq!(StreamKind::from_byte(0), Err(UnknownType(0)));
    assert_eq!(StreamKind::from_byte(4), Err(UnknownType(4)));
    assert_eq!(NodeFrame::decode(&[3]), Err(UnknownType(3)));

    let frame = |n| NodeFrame::Inner(vec![0; n]).encode();
    assert!(NodeFrame::decode(&frame(MAX_INNER)[4..]).is_ok());
    assert!(frame(MAX_INNER).len() - 4 <= MAX_NODE_FRAME);
    assert_eq!(NodeFrame::decode(&frame(MAX_INNER + 1)[4..]), Err(TooLong));

    let name = |n| ChannelName::new(&"x".repeat(n)).map(drop);
    assert_eq!(name(0), Err(Invalid("channel name")));
    assert_eq!(name(MAX_CHANNEL_NAME), Ok(()));
    assert_eq!(name(MAX_CHANNEL_NAME + 1), Err(TooLong));
    assert_eq!(ChannelName::decode(&[0xff]).map(drop), Err(Invalid("channel name")));
    assert_eq!(ChannelName::new("voice").unwrap().as_str(), "voice");
}

proptest! {
    #[test]
    fn the_reader_reads_what_the_writer_wrote(
        a: u8, b: u16, c: u32, d: u64, e: [u8; 5], f in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut w = Writer::default();
        w.u8(a).u16(b).u32(c).u64(d).put(&e).bytes16(&f).put(&f);
        let bytes = w.into_vec();
        let mut r = Reader::new(&bytes);
        prop_assert_eq!((r.u8(), r.u16(), r.u32()), (Ok(a), Ok(b), Ok(c)));
        prop_assert_eq!((r.u64(), r.array(), r.bytes16(300)), (Ok(d), Ok(e), Ok(&f[..])));
        prop_assert_eq!(r.clone().finish().is_ok(), f.is_empty());
        prop_assert_eq!(r.rest(), &f[..]);
        prop_assert_eq!(r.u8(), Err(Truncated));
        prop_assert_eq!(r.finish(), Ok(()));
    }
}

fn route(seq: u64) -> Route {
    Route {
        from: somebody(),
        from_device: DeviceId::FIRST,
        to: somebody(),
        to_device: DeviceId::FIRST,
        stream: StreamId(1),
        seq: Seq(seq),
    }
}

pub(crate) fn somebody() -> Fingerprint {
    Fingerprint::from_bytes([1; 30])
}
