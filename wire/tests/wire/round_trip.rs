//! Properties of every decoder: what is written reads back, a part of it does not, more than it
//! does not, and no bytes at all make a decoder panic.

use std::fmt::Debug;

use halloo_wire::candidate::Card;
use halloo_wire::content::{Ack, Content, Message, Ping, Profile, Resend, Safety};
use halloo_wire::datagram::{Class, Probe, RELAY_HEADER, RelayFrame, classify};
use halloo_wire::envelope::{EnvelopeRef, Header, padded_len};
use halloo_wire::inner::{Inner, Plain};
use halloo_wire::limits::{CLASS_LARGE, CLASS_MEDIUM, CLASS_SMALL, MAX_PARKED, MAX_RING_PARTS};
use halloo_wire::node::{ChannelName, NodeFrame};
use halloo_wire::parked::{
    HEADER_LEN, Keepalive, ParkedDatagram, RING_BYTES, RingPart, Sealed, TAG_LEN, Word,
};
use halloo_wire::peer::{Control, Push, Request, Response};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::prekey::{Introduction, PrekeyBundle};
use halloo_wire::{ChannelId, DecodeError, RowId};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;

use crate::strategies as any_;

proptest! {
    #[test]
    fn requests(v in any_::request(), t in tampering()) {
        postcard(&v, Control::encode, Request::decode, t)?;
    }

    #[test]
    fn responses(v in any_::response(), t in tampering()) {
        postcard(&v, Control::encode, Response::decode, t)?;
    }

    #[test]
    fn pushes(v in any_::push(), t in tampering()) {
        postcard(&v, Control::encode, Push::decode, t)?;
    }

    #[test]
    fn profiles(v in any_::profile(), t in tampering()) {
        postcard(&v, Content::encode, Profile::decode, t)?;
    }

    #[test]
    fn messages(v in any_::message(), t in tampering()) {
        postcard(&v, Content::encode, Message::decode, t)?;
    }

    #[test]
    fn acks(v in any_::ack(), t in tampering()) {
        postcard(&v, Content::encode, Ack::decode, t)?;
    }

    #[test]
    fn resends(v in any_::resend(), t in tampering()) {
        postcard(&v, Content::encode, Resend::decode, t)?;
    }

    #[test]
    fn pings(v in any_::ping(), t in tampering()) {
        postcard(&v, Content::encode, Ping::decode, t)?;
    }

    #[test]
    fn safety_steps(v in any_::safety(), t in tampering()) {
        postcard(&v, Content::encode, Safety::decode, t)?;
    }

    #[test]
    fn cards(v in any_::card(), t in tampering()) {
        canonical(&v, Card::encode, Card::decode, t)?;
    }

    #[test]
    fn inner_messages(v in any_::inner(), t in tampering()) {
        canonical(&v, Inner::encode, Inner::decode, t)?;
    }

    #[test]
    fn plain_messages(v in any_::plain(), t in tampering()) {
        canonical(&v, Plain::encode, Plain::decode, t)?;
    }

    #[test]
    fn prekey_bundles(v in any_::bundle(), t in tampering()) {
        canonical(&v, PrekeyBundle::encode, PrekeyBundle::decode, t)?;
    }

    #[test]
    fn introductions(v in any_::introduction(), t in tampering()) {
        canonical(&v, Introduction::encode, Introduction::decode, t)?;
    }

    #[test]
    fn node_frames(v in any_::node_frame(), t in tampering()) {
        let bytes = v.encode();
        let (length, frame) = bytes.split_first_chunk::<4>().unwrap();
        prop_assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
        prop_assert_eq!(NodeFrame::decode(frame), Ok(v.clone()));
        prop_assert_eq!(NodeFrame::decode(&[]), Err(DecodeError::Truncated));
        let tampered = t.apply(frame);
        if let Ok(other) = NodeFrame::decode(&tampered) {
            prop_assert_eq!(&other.encode()[4..], &tampered[..]);
        }
        if let NodeFrame::Ack(_) = v {
            refuses_parts_and_more(frame, NodeFrame::decode, t.cut)?;
        }
    }

    #[test]
    fn channel_names(v in any_::channel_name()) {
        let bytes = v.encode();
        let (length, name) = bytes.split_first_chunk::<2>().unwrap();
        prop_assert_eq!(usize::from(u16::from_be_bytes(*length)), name.len());
        prop_assert_eq!(ChannelName::decode(name), Ok(v));
    }

    #[test]
    fn probes(v in any_::probe(), t in tampering()) {
        let bytes = v.encode();
        prop_assert_eq!(classify(&bytes), Class::Probe);
        prop_assert_eq!(Probe::decode(&bytes), Ok(v.clone()));
        // A datagram ends where it ends: a cut is seen only when less than a tag is left. The
        // seal finds the others.
        let cut = t.cut.index(10 + Probe::MIN_SEALED);
        prop_assert_eq!(Probe::decode(&bytes[..cut]), Err(DecodeError::Truncated));
        let tampered = t.apply(&bytes);
        if let Ok(other) = Probe::decode(&tampered) {
            prop_assert_eq!(other.encode(), tampered);
        }
    }

    #[test]
    fn relay_frames(
        channel in any_::channel(), datagram in any_::quic_datagram(1200), cut: Index,
    ) {
        let frame = RelayFrame { channel, datagram: &datagram };
        let bytes = frame.encode();
        prop_assert_eq!(classify(&bytes), Class::Relay);
        prop_assert_eq!(RelayFrame::decode(&bytes), Ok(frame));
        prop_assert_eq!(&bytes, &[&RelayFrame::header(channel)[..], &datagram].concat());
        let part = RelayFrame::decode(&bytes[..cut.index(RELAY_HEADER + 1)]);
        prop_assert_eq!(part, Err(DecodeError::Truncated));
    }

    #[test]
    fn relay_frames_never_nest(channel: u64, first: u8, rest in any_::bytes(100)) {
        let datagram = [&[first][..], &rest].concat();
        let channel = ChannelId(channel);
        let bytes = RelayFrame { channel, datagram: &datagram }.encode();
        prop_assert_eq!(RelayFrame::decode(&bytes).is_ok(), classify(&datagram) == Class::Quic);
    }

    #[test]
    fn peer_datagrams(v in any_::peer_datagram(), t in tampering()) {
        let bytes = v.encode();
        prop_assert_eq!(classify(&bytes), Class::Peer);
        prop_assert!(bytes.len() <= PeerDatagram::MAX);
        canonical(&v, PeerDatagram::encode, PeerDatagram::decode, t)?;
    }

    #[test]
    fn keepalives(v in any_::keepalive(), t in tampering()) {
        prop_assert!(v.encode().len() + HEADER_LEN + TAG_LEN <= MAX_PARKED);
        canonical(&v, Keepalive::encode, Keepalive::decode, t)?;
    }

    #[test]
    fn words_to_a_parked_node(v in any_::word(), t in tampering()) {
        let sealed = v.encode().len() + HEADER_LEN + TAG_LEN;
        let most = match v {
            Word::Ring { .. } => MAX_PARKED,
            _ => ParkedDatagram::SHORTEST_KEEPALIVE,
        };
        prop_assert!(sealed <= most);
        // A ring that brings bytes may bring fewer.
        let cut_is_another = matches!(&v, Word::Ring { .. });
        if cut_is_another {
            prop_assert_eq!(Word::decode(&v.encode()), Ok(v));
        } else {
            canonical(&v, Word::encode, Word::decode, t)?;
        }
    }

    #[test]
    fn a_ring_comes_in_parts_that_make_it_whole(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        match RingPart::split(&bytes) {
            Some(parts) => {
                let together: Vec<u8> = parts.iter().flat_map(|it| it.bytes.clone()).collect();
                prop_assert_eq!(together, bytes);
            }
            None => prop_assert!(bytes.len() > usize::from(MAX_RING_PARTS) * RING_BYTES),
        }
    }

    #[test]
    fn parked_datagrams(
        row: u64,
        counter: u64,
        retry_after_ms: u32,
        sealed in proptest::collection::vec(any::<u8>(), 32..=MAX_PARKED - HEADER_LEN),
        cut: Index,
    ) {
        let sealed = Sealed { row: RowId(row), counter, sealed: &sealed };
        let unknown = ParkedDatagram::Unknown { row: RowId(row), counter, retry_after_ms };
        for it in [ParkedDatagram::Keepalive(sealed), ParkedDatagram::Word(sealed), unknown] {
            let bytes = it.encode();
            prop_assert_eq!(classify(&bytes), Class::Parked);
            prop_assert_eq!(ParkedDatagram::decode(&bytes), Ok(it));
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(ParkedDatagram::decode(cut) != Ok(it));
        }
    }

    #[test]
    fn envelopes(
        lane in any_::lane(),
        key_id: u64,
        fill: u8,
        class in prop_oneof![
            Just(CLASS_SMALL), Just(CLASS_MEDIUM), Just(CLASS_LARGE), 16_385..=49_154usize
        ],
        t in tampering(),
    ) {
        let header = Header { lane, key_id };
        let noise = vec![!fill; 48 + padded_len(class)];
        let bytes = [&header.encode()[..], &[fill; 1088], &noise].concat();
        let envelope = EnvelopeRef::decode(&bytes).unwrap();
        prop_assert_eq!(envelope, EnvelopeRef { header, kem_ct: &[fill; 1088], noise: &noise });

        // Any other length is refused, but for the lengths of the other classes: which of them
        // was meant is for the seal to say.
        let cut = t.cut.index(bytes.len());
        let is_class = cut.checked_sub(1147).is_some_and(|n| padded_len(n) == n);
        prop_assert_eq!(EnvelopeRef::decode(&bytes[..cut]).is_ok(), is_class);
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(EnvelopeRef::decode(&longer).is_err());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in any_::bytes(400)) {
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes);
        let _ = Push::decode(&bytes);
        let _ = Profile::decode(&bytes);
        let _ = Message::decode(&bytes);
        let _ = Ack::decode(&bytes);
        let _ = Resend::decode(&bytes);
        let _ = Ping::decode(&bytes);
        let _ = Safety::decode(&bytes);
        let _ = Card::decode(&bytes);
        let _ = Inner::decode(&bytes);
        let _ = Plain::decode(&bytes);
        let _ = PrekeyBundle::decode(&bytes);
        let _ = Introduction::decode(&bytes);
        let _ = NodeFrame::decode(&bytes);
        let _ = ChannelName::decode(&bytes);
        let _ = Probe::decode(&bytes);
        let _ = RelayFrame::decode(&bytes);
        let _ = PeerDatagram::decode(&bytes);
        let _ = ParkedDatagram::decode(&bytes);
        let _ = Keepalive::decode(&bytes);
        let _ = Word::decode(&bytes);
        let _ = EnvelopeRef::decode(&bytes);
    }
}

/// Where to cut an encoding, and which byte of it to change.
#[derive(Debug, Clone, Copy)]
struct Tampering {
    cut: Index,
    place: Index,
    change: u8,
}

impl Tampering {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut tampered = bytes.to_vec();
        tampered[self.place.index(bytes.len())] ^= self.change;
        tampered
    }
}

fn tampering() -> impl Strategy<Value = Tampering> {
    (any::<Index>(), any::<Index>(), 1..=u8::MAX).prop_map(|(cut, place, change)| Tampering {
        cut,
        place,
        change,
    })
}

/// A control message: changed bytes that still decode are a message that survives another round.
fn postcard<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    t: Tampering,
) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(decode(&bytes).as_ref() == Ok(value), "{:?}", decode(&bytes));
    refuses_parts_and_more(&bytes, &decode, t.cut)?;
    if let Ok(other) = decode(&t.apply(&bytes)) {
        prop_assert!(decode(&encode(&other)) == Ok(other));
    }
    Ok(())
}

/// What is signed, hashed or parsed before authentication: besides, each value has one encoding,
/// so changed bytes that still decode are exactly the encoding of another value.
fn canonical<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    t: Tampering,
) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(decode(&bytes).as_ref() == Ok(value), "{:?}", decode(&bytes));
    refuses_parts_and_more(&bytes, &decode, t.cut)?;
    let tampered = t.apply(&bytes);
    if let Ok(other) = decode(&tampered) {
        prop_assert!(other != *value);
        prop_assert_eq!(encode(&other), tampered);
    }
    Ok(())
}

/// Every beginning is refused: a random one for long encodings, each one for short ones. So is
/// one byte more.
fn refuses_parts_and_more<T: Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    cut: Index,
) -> Result<(), TestCaseError> {
    let cuts = if bytes.len() <= 200 { 0..bytes.len() } else { just(cut.index(bytes.len())) };
    for cut in cuts {
        let part = decode(&bytes[..cut]);
        prop_assert!(matches!(part, Err(DecodeError::Truncated)), "cut at {cut}: {part:?}");
    }
    let more = decode(&[bytes, &[0]].concat());
    prop_assert!(matches!(more, Err(DecodeError::TrailingBytes)), "{more:?}");
    Ok(())
}

fn just(n: usize) -> std::ops::Range<usize> {
    n..n + 1
}
