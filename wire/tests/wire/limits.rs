//! What is over a limit, of another version, or not allowed together is refused by the decoder.

use halloo_wire::DecodeError::{
    Invalid, TooLong, TrailingBytes, Truncated, UnknownType, UnsupportedVersion,
};
use halloo_wire::candidate::{Candidate, CandidateKind, Card};
use halloo_wire::codec::{Reader, Writer, decode_control};
use halloo_wire::content::{Body, Content, Message, PeerHint, Profile};
use halloo_wire::datagram::{Class, Probe, RelayFrame, classify};
use halloo_wire::envelope::{EnvelopeRef, Lane};
use halloo_wire::inner::{Inner, Kind, Plain, RatchetType, Route};
use halloo_wire::limits::*;
use halloo_wire::node::{ChannelName, NodeFrame, StreamKind};
use halloo_wire::peer::{
    Call, Callee, Control, DropEnvelope, Found, Grant, Knock, Knocked, Page, Publication, Push,
    Request, Response, Waiting,
};
use halloo_wire::prekey::{Introduction, PrekeyBundle};
use halloo_wire::{
    CapabilityId, CapabilityToken, DeviceId, EnvelopeId, Fingerprint, Seq, StreamId,
};
use proptest::prelude::*;

use crate::golden_file::read;

#[test]
fn a_request_is_refused_when_a_part_of_it_is_too_long() {
    let at = |extra: usize| {
        [
            Call::Publish(Publication {
                seq: 1,
                bundle: vec![0; MAX_BUNDLE + extra],
                one_time_keys: vec![],
            }),
            Call::Publish(Publication {
                seq: 1,
                bundle: vec![],
                one_time_keys: vec![[0; 32]; MAX_ONE_TIME_KEYS + extra],
            }),
            Call::Grant(vec![grant(0); MAX_GRANT + extra]),
            Call::Grant(vec![grant(MAX_SEALED_CARD + extra)]),
            Call::Revoke(vec![CapabilityId([0; 32]); MAX_GRANT + extra]),
            Call::Ack(vec![EnvelopeId(u64::MAX); MAX_ACK_IDS + extra]),
            Call::Drop(DropEnvelope {
                to: somebody(),
                device: DeviceId(u32::MAX),
                token: Some(CapabilityToken([0; 32])),
                instance: None,
                envelope: vec![0; MAX_ENVELOPE + extra],
            }),
            Call::Knock(Knock {
                to: somebody(),
                device: DeviceId::FIRST,
                token: CapabilityToken([0; 32]),
                card: vec![0; MAX_SEALED_CARD + extra],
            }),
        ]
        .map(|call| Request { session: None, call })
    };
    for request in at(0) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for request in at(1) {
        assert_eq!(Request::decode(&request.encode()), Err(TooLong));
    }
}

#[test]
fn the_largest_parts_fit_the_largest_messages() {
    let grants = vec![grant(MAX_SEALED_CARD); MAX_GRANT];
    let request = Request { session: None, call: Call::Grant(grants) };
    assert!(request.encode().len() <= MAX_REQUEST);

    let publication = Publication {
        seq: u64::MAX,
        bundle: vec![0; MAX_BUNDLE],
        one_time_keys: vec![[0; 32]; MAX_ONE_TIME_KEYS],
    };
    let request = Request { session: None, call: Call::Publish(publication) };
    assert!(request.encode().len() <= MAX_REQUEST);

    assert!(Push::Envelope(waiting(MAX_ENVELOPE)).encode().len() <= MAX_PUSH);

    // A page is filled while its envelopes have at most MAX_PAGE bytes.
    let envelopes = vec![waiting(MAX_ENVELOPE); MAX_PAGE / MAX_ENVELOPE];
    let page = Response::Page(Page { envelopes, more: true });
    assert!(page.encode().len() <= MAX_RESPONSE);
    let envelopes = vec![waiting(2171); MAX_PAGE / 2171];
    let page = Response::Page(Page { envelopes, more: true });
    assert!(page.encode().len() <= MAX_RESPONSE);

    let candidate =
        Candidate { kind: CandidateKind::Host, addr: "[2001:db8::1]:40000".parse().unwrap() };
    let card = Card { candidates: vec![candidate; MAX_CANDIDATES], ..Card::default() };
    // A nonce of 12 and a tag of 16 bytes.
    assert!(card.encode().len() + 28 <= MAX_SEALED_CARD);

    let text = Body::Text("x".repeat(MAX_TEXT));
    let message = Message { parent: Some(halloo_wire::MessageId([0; 16])), body: text };
    assert!(message.encode().len() <= MAX_CONTENT);
}

#[test]
fn a_response_is_refused_when_a_part_of_it_is_too_long() {
    let found = |passport: usize, bundle: usize, keys: usize| {
        Response::Found(Found {
            passport: vec![0; passport],
            bundle: vec![0; bundle],
            one_time_keys: vec![[0; 32]; keys],
            one_time_key: None,
        })
    };
    let knocked = |card| {
        let observed = "203.0.113.5:443".parse().unwrap();
        Response::Knocked(Knocked { callee: Some(Callee { observed, card: vec![0; card] }) })
    };
    let page = |len| Response::Page(Page { envelopes: vec![waiting(len)], more: false });
    for fits in [
        found(MAX_PASSPORT, MAX_BUNDLE, MAX_ONE_TIME_KEYS),
        knocked(MAX_SEALED_CARD),
        page(MAX_ENVELOPE),
    ] {
        assert_eq!(Response::decode(&fits.encode()), Ok(fits));
    }
    for too_long in [
        found(MAX_PASSPORT + 1, 0, 0),
        found(0, MAX_BUNDLE + 1, 0),
        found(0, 0, MAX_ONE_TIME_KEYS + 1),
        knocked(MAX_SEALED_CARD + 1),
        page(MAX_ENVELOPE + 1),
    ] {
        assert_eq!(Response::decode(&too_long.encode()), Err(TooLong));
    }
}

#[test]
fn a_push_is_refused_when_a_part_of_it_is_too_long() {
    let knock = |len| Push::Knock {
        capability: CapabilityId([0; 32]),
        observed: "203.0.113.5:443".parse().unwrap(),
        card: vec![0; len],
    };
    for fits in [Push::Envelope(waiting(MAX_ENVELOPE)), knock(MAX_SEALED_CARD)] {
        assert_eq!(Push::decode(&fits.encode()), Ok(fits));
    }
    for too_long in [Push::Envelope(waiting(MAX_ENVELOPE + 1)), knock(MAX_SEALED_CARD + 1)] {
        assert_eq!(Push::decode(&too_long.encode()), Err(TooLong));
    }
}

#[test]
fn a_control_message_is_measured_before_it_is_read() {
    assert_eq!(Request::decode(&vec![0; MAX_REQUEST + 1]), Err(TooLong));
    assert_eq!(Response::decode(&vec![0; MAX_RESPONSE + 1]), Err(TooLong));
    assert_eq!(Push::decode(&vec![0; MAX_PUSH + 1]), Err(TooLong));
    assert_eq!(Message::decode(&vec![0; MAX_CONTENT + 1]), Err(TooLong));
    assert_eq!(decode_control::<u8>(&[1, 2], 1), Err(TooLong));
    assert_eq!(decode_control::<u8>(&[1], 1), Ok(1));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    // An acknowledgement that claims 2^63 ids, a page that claims as many envelopes.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Request::decode(&[&[0, 5][..], &huge].concat()), Err(Truncated));
    assert_eq!(Response::decode(&[&[2][..], &huge].concat()), Err(Truncated));
}

#[test]
fn unknown_control_messages_are_refused() {
    let unknown = Err(Invalid("control message"));
    assert_eq!(Request::decode(&[0, 9]), unknown);
    assert_eq!(Response::decode(&[7]).map(drop), unknown.map(drop));
    assert_eq!(Response::decode(&[6, 15]).map(drop), Err(Invalid("control message")));
    assert_eq!(Push::decode(&[5]).map(drop), Err(Invalid("control message")));
    assert_eq!(Request::decode(&[2]).map(drop), Err(Invalid("control message")), "no such option");
}

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
    let text = |n| Message { parent: None, body: Body::Text("x".repeat(n)) };
    assert_eq!(Message::decode(&text(MAX_TEXT).encode()), Ok(text(MAX_TEXT)));
    assert_eq!(Message::decode(&text(MAX_TEXT + 1).encode()), Err(TooLong));
    // Not UTF-8.
    assert_eq!(Message::decode(&[0, 0, 1, 0xff]), Err(Invalid("control message")));
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
        // The place is 42, and an acknowledgement has none.
        assert_eq!(with(name, 85, 16), Err(Invalid("sequence number for this kind")));
        // A message has one.
        assert_eq!(with(name, 84, 0), Err(Invalid("sequence number for this kind")));
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
fn cards_keep_their_limits() {
    let good = &read("card.hex")["behind a carrier"];
    let with = |place: usize, byte| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        Card::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(UnsupportedVersion(2)));
    assert_eq!(with(1, 4), Err(Invalid("NAT behaviour")));
    assert_eq!(with(2, 4), Err(Invalid("NAT behaviour")));
    assert_eq!(with(3, MAX_CANDIDATES as u8 + 1), Err(TooLong));
    assert_eq!(with(3, 0), Err(TrailingBytes));
    assert_eq!(with(3, 2), Err(Truncated));
    assert_eq!(with(4, 0), Err(UnknownType(0)));
    assert_eq!(with(5, 5), Err(Invalid("address family")));
    let mut portless = good.clone();
    portless[10..12].fill(0);
    assert_eq!(Card::decode(&portless), Err(Invalid("port")));
}

#[test]
#[should_panic(expected = "the sender limits its candidates")]
fn a_card_with_too_many_candidates_is_our_own_mistake() {
    let addr = "203.0.113.5:443".parse().unwrap();
    let candidate = Candidate { kind: CandidateKind::Host, addr };
    let candidates = vec![candidate; MAX_CANDIDATES + 1];
    Card { candidates, ..Card::default() }.encode();
}

#[test]
fn datagrams_keep_their_limits() {
    let probe = |n| Probe { key_id: 1, sealed: vec![0; n] }.encode();
    assert_eq!(probe(Probe::MAX_SEALED).len(), MAX_PROBE);
    assert_eq!(Probe::decode(&probe(Probe::MAX_SEALED + 1)), Err(TooLong));
    assert_eq!(Probe::decode(&probe(Probe::MIN_SEALED - 1)), Err(Truncated));
    assert_eq!(Probe::decode(&[4, 2]), Err(UnsupportedVersion(2)));
    assert_eq!(Probe::decode(&[5]), Err(UnknownType(5)));

    let relay = |n| RelayFrame { channel: 1, datagram: &vec![0x40; n] }.encode();
    assert!(RelayFrame::decode(&relay(MAX_DATAGRAM - 5)).is_ok());
    assert_eq!(RelayFrame::decode(&relay(MAX_DATAGRAM - 4)), Err(TooLong));
    assert_eq!(RelayFrame::decode(&relay(0)), Err(Truncated));
    assert_eq!(RelayFrame::decode(&[4]), Err(UnknownType(4)));
    let nested = [&[5, 0, 0, 0, 1][..], &relay(20)].concat();
    assert_eq!(RelayFrame::decode(&nested), Err(Invalid("relayed datagram")));
}

#[test]
fn the_first_byte_of_a_datagram_tells_what_it_is() {
    assert_eq!(classify(&[]), Class::Unknown);
    for byte in 0..=u8::MAX {
        let class = match byte {
            0x40..=0x7f | 0xc0..=0xff => Class::Quic,
            0x04 => Class::Probe,
            0x05 => Class::Relay,
            _ => Class::Unknown,
        };
        assert_eq!(classify(&[byte]), class, "{byte:#04x}");
    }
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

#[test]
fn calls_that_need_a_session_are_not_early_data_for_strangers() {
    let idempotent: Vec<String> = read("peer-request.hex")
        .into_iter()
        .filter(|(_, bytes)| Request::decode(bytes).unwrap().call.is_idempotent())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(idempotent, ["look up", "peek/after", "peek/from the beginning"]);

    let anonymous: Vec<String> = read("peer-request.hex")
        .into_iter()
        .filter(|(_, bytes)| !Request::decode(bytes).unwrap().call.needs_session())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(anonymous, ["drop/contact", "drop/stranger", "knock", "look up", "register"]);
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

fn grant(card: usize) -> Grant {
    Grant { id: CapabilityId([0; 32]), card: vec![0; card] }
}

fn waiting(len: usize) -> Waiting {
    Waiting { id: EnvelopeId(u64::MAX), lane: Lane::Contacts, envelope: vec![0; len] }
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

fn somebody() -> Fingerprint {
    Fingerprint::from_bytes([1; 30])
}
