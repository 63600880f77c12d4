//! Limits of cards and of datagrams that are not QUIC.

use halloo_wire::DecodeError::{
    Invalid, TooLong, TrailingBytes, Truncated, UnknownType, UnsupportedVersion,
};
use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Card, Verdict};
use halloo_wire::datagram::{Class, Probe, RELAY_HEADER, RelayFrame, classify};
use halloo_wire::limits::*;
use halloo_wire::parked::{Keepalive, ParkedDatagram, RING_BYTES, Word};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{ChannelId, RoundId};

use crate::golden_file::read;

#[test]
fn cards_keep_their_limits() {
    let good = &read("card.hex")["caller behind a carrier"];
    let with = |place: usize, bytes: &[u8]| {
        let mut card = good.clone();
        card[place..place + bytes.len()].copy_from_slice(bytes);
        Card::decode(&card).map(drop)
    };
    assert_eq!(with(0, &[2]), Ok(()));
    assert_eq!(with(0, &[1]), Err(UnsupportedVersion(1)));
    assert_eq!(with(0, &[3]), Err(UnsupportedVersion(3)));
    assert_eq!(with(1, &[8]), Err(Invalid("card flags")));
    assert_eq!(with(1, &[0x83]), Err(Invalid("card flags")));
    assert_eq!(with(18, &[4]), Err(Invalid("NAT behaviour")));
    assert_eq!(with(19, &[4]), Err(Invalid("NAT behaviour")));
    assert_eq!(with(27, &[MAX_CANDIDATES as u8 + 1]), Err(TooLong));
    assert_eq!(with(27, &[0]), Err(TrailingBytes));
    assert_eq!(with(27, &[2]), Err(Truncated));
    assert_eq!(with(28, &[0]), Err(UnknownType(0)));
    assert_eq!(with(28, &[4]), Err(UnknownType(4)));
    assert_eq!(with(29, &[5]), Err(Invalid("address family")));
    assert_eq!(with(34, &[0, 0]), Err(Invalid("port")));
}

#[test]
fn an_allocation_says_something_possible() {
    let read = |allocation: &[u8]| {
        let card = [&[2, 0, 0, 0][..], allocation, &[0, 0, 0]].concat();
        Card::decode(&card).map(|card| card.verdict.allocation)
    };
    let block = |first, size| Ok(Allocation::Block { first, size });
    assert_eq!(read(&[5]), Err(UnknownType(5)));

    assert_eq!(read(&[2, 0, 0]), Err(Invalid("port step")));
    assert_eq!(read(&[2, 0x80, 0]), Ok(Allocation::Sequential { delta: i16::MIN }));

    assert_eq!(read(&[3, 0, 0, 0xff, 0xff]), block(0, u16::MAX));
    assert_eq!(read(&[3, 0xff, 0xff, 0, 1]), block(u16::MAX, 1));
    // Empty, and beyond the last port.
    assert_eq!(read(&[3, 4, 0, 0, 0]), Err(Invalid("port block")));
    assert_eq!(read(&[3, 0xff, 0xff, 0, 2]), Err(Invalid("port block")));
}

#[test]
fn the_largest_card_fits_when_it_is_sealed() {
    let addr = "[2001:db8::1]:40000".parse().unwrap();
    let candidate = Candidate { kind: CandidateKind::Host, addr };
    let card = Card {
        round: Some(RoundId([1; 16])),
        again: Some(RoundId([2; 16])),
        verdict: Verdict {
            allocation: Allocation::Block { first: 1024, size: 2016 },
            ..Verdict::default()
        },
        local_port: 40_000,
        birthday: true,
        candidates: vec![candidate; MAX_CANDIDATES],
    };
    // A nonce of 12 and a tag of 16 bytes.
    assert!(card.encode().len() + 28 <= MAX_SEALED_CARD);
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

    let channel = ChannelId(1);
    let relay = |n| RelayFrame { channel, datagram: &vec![0x40; n] }.encode();
    let longest = MAX_DATAGRAM - RELAY_HEADER;
    assert!(RelayFrame::decode(&relay(longest)).is_ok());
    assert_eq!(RelayFrame::decode(&relay(longest + 1)), Err(TooLong));
    assert_eq!(RelayFrame::decode(&relay(0)), Err(Truncated));
    assert_eq!(RelayFrame::decode(&[4]), Err(UnknownType(4)));
    let nested = [&RelayFrame::header(channel)[..], &relay(20)].concat();
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
            0x06 => Class::Peer,
            0x07 => Class::Parked,
            _ => Class::Unknown,
        };
        assert_eq!(classify(&[byte]), class, "{byte:#04x}");
    }
}

#[test]
fn an_echo_request_is_larger_than_every_answer_to_it() {
    for (name, bytes) in read("peer-datagram.hex") {
        let it = PeerDatagram::decode(&bytes).unwrap();
        let is_request = matches!(it, PeerDatagram::EchoRequest { .. });
        assert_eq!(bytes.len() == PeerDatagram::MAX, is_request, "{name}");
        assert!(bytes.len() <= PeerDatagram::MAX, "{name}");
    }
}

#[test]
fn peer_datagrams_are_read_whole_or_not_at_all() {
    let vectors = read("peer-datagram.hex");
    let with = |name: &str, place: usize, byte| {
        let mut bytes = vectors[name].clone();
        bytes[place] = byte;
        PeerDatagram::decode(&bytes).map(drop)
    };
    for name in vectors.keys() {
        assert_eq!(with(name, 0, 0x05), Err(UnknownType(5)), "{name}");
        assert_eq!(with(name, 1, 2), Err(UnsupportedVersion(2)), "{name}");
        assert_eq!(with(name, 2, 0), Err(UnknownType(0)), "{name}");
        assert_eq!(with(name, 2, 6), Err(UnknownType(6)), "{name}");
    }

    let here = "echo request/here";
    assert_eq!(with(here, 19, 3), Err(Invalid("echo answer")));
    // A port where none is meant, and none where one is.
    assert_eq!(with(here, 21, 1), Err(Invalid("echo answer")));
    assert_eq!(with("echo request/from the second port", 21, 1), Err(Invalid("echo answer")));
    assert_eq!(with(here, 19, 2), Err(Invalid("echo answer")));
    // The padding is zeros, all of them, and no more.
    assert_eq!(with(here, 22, 1), Err(Invalid("padding")));
    assert_eq!(with(here, 47, 1), Err(Invalid("padding")));
    assert_eq!(PeerDatagram::decode(&vectors[here][..47]), Err(Truncated));
    let longer = [&vectors[here][..], &[0]].concat();
    assert_eq!(PeerDatagram::decode(&longer), Err(TrailingBytes));

    assert_eq!(with("echo reply/over IPv4", 19, 2), Err(Invalid("echo reply")));
    assert_eq!(with("echo reply/over IPv4", 20, 5), Err(Invalid("address family")));
}

#[test]
fn an_echo_reply_does_not_show_the_address_to_a_nat() {
    let observed = "203.0.113.5:51001".parse().unwrap();
    let reply =
        |txid| PeerDatagram::EchoReply { txid, cookie: 0, from_second: false, observed }.encode();
    let (ip, port) = ([203, 0, 113, 5], 51_001u16.to_be_bytes());
    let shows =
        |bytes: &[u8]| bytes.windows(4).any(|w| w == ip) || bytes.windows(2).any(|w| w == port);
    assert!(shows(&reply(0)), "a transaction id of zeros hides nothing");
    assert!(!shows(&reply(0x0102_0304_0506_0708)));
}

#[test]
#[should_panic(expected = "nobody listens on port 0")]
fn an_echo_to_port_zero_is_our_own_mistake() {
    let _ =
        PeerDatagram::EchoRequest { txid: 1, cookie: 1, answer: EchoAnswer::ToPort(0) }.encode();
}

#[test]
fn datagrams_of_parked_registrations_keep_their_limits() {
    let good = &read("parked.hex")["datagram/keepalive"];
    let with = |place: usize, byte: u8| {
        let mut datagram = good.clone();
        datagram[place] = byte;
        ParkedDatagram::decode(&datagram).map(drop)
    };
    assert_eq!(with(0, 6), Err(UnknownType(6)));
    assert_eq!(with(1, 2), Err(UnsupportedVersion(2)));
    assert_eq!(with(2, 0), Err(UnknownType(0)));
    assert_eq!(with(2, 3), Err(TrailingBytes));
    assert_eq!(with(2, 4), Err(UnknownType(4)));
    assert_eq!(ParkedDatagram::decode(&good[..good.len() - 1]), Err(Truncated));
    let mut long = good.clone();
    long.resize(MAX_PARKED, 0);
    assert!(ParkedDatagram::decode(&long).is_ok());
    long.push(0);
    assert_eq!(ParkedDatagram::decode(&long), Err(TooLong));
    assert_eq!(ParkedDatagram::SHORTEST_KEEPALIVE, good.len());
}

#[test]
fn what_is_said_to_and_by_a_parked_node_keeps_its_limits() {
    let plain = &read("parked.hex")["keepalive/plain"];
    let with = |place: usize, byte: u8| {
        let mut keepalive = plain.clone();
        keepalive[place] = byte;
        Keepalive::decode(&keepalive).map(drop)
    };
    assert_eq!(with(12, MAX_TAKEN as u8 + 1), Err(TooLong));
    assert_eq!(with(12, 1), Err(Truncated));
    assert_eq!(with(15, 1), Err(Invalid("padding")));
    assert_eq!(Keepalive::decode(&plain[..15]), Err(Truncated));
    assert_eq!(Keepalive::decode(&[&plain[..], &[0]].concat()), Err(TrailingBytes));

    let ring = |part, parts, len: usize| {
        let head = [3, 0, 0, 0, 1, 0, 1, part, parts];
        Word::decode(&[&head[..], &vec![7; len]].concat()).map(drop)
    };
    let wrong = Err(Invalid("part of a ring"));
    assert_eq!(ring(0, 0, 0), Ok(()));
    assert_eq!((ring(1, 0, 0), ring(0, 0, 1)), (wrong, wrong));
    assert_eq!((ring(0, 1, 0), ring(0, 1, 1)), (wrong, Ok(())));
    assert_eq!((ring(0, 1, RING_BYTES), ring(0, 1, RING_BYTES + 1)), (Ok(()), wrong));
    assert_eq!((ring(0, 2, RING_BYTES), ring(0, 2, RING_BYTES - 1)), (Ok(()), wrong));
    assert_eq!((ring(1, 2, 1), ring(2, 2, 1), ring(255, 2, 1)), (Ok(()), wrong, wrong));
    assert_eq!(ring(0, MAX_RING_PARTS + 1, RING_BYTES), wrong);
    assert_eq!(Word::decode(&[5]), Err(UnknownType(5)));
    assert_eq!(Word::decode(&[4, 0, 0, 0, 0, 0]), Err(TrailingBytes));
}
