//! Golden bytes of datagrams that are not QUIC, and of cards; `golden.rs` says what that means.

use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Card, Dependence, Verdict};
use halloo_wire::datagram::{Probe, RELAY_HEADER, RelayFrame};
use halloo_wire::parked::{Keepalive, ParkedDatagram, RING_BYTES, RingPart, Sealed, Sender, Word};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{ChannelId, EnvelopeId, RoundId, RowId};

use crate::golden::addr;
use crate::golden_file::{check, hex, read};

#[test]
fn probes() {
    let probe = |n| Probe { key_id: 0x0102_0304_0506_0708, sealed: vec![0x5a; n] };
    check(
        "datagram.hex",
        "probe",
        &[("probe/shortest", probe(16)), ("probe/longest", probe(70))],
        Probe::encode,
        Probe::decode,
    );
}

#[test]
fn relay_frames() {
    let short = [&[0x40][..], &[0x51; 20]].concat();
    let long = [&[0xc0][..], &[0x52; 1199]].concat();
    for (name, channel, datagram) in [
        ("relay/from the caller", ChannelId(CHANNEL), &short),
        ("relay/from the callee", ChannelId(CHANNEL).other(), &long),
    ] {
        let bytes = &read("datagram.hex")[name];
        let frame = RelayFrame { channel, datagram };
        assert_eq!(hex(&frame.encode()), hex(bytes), "{name}");
        assert_eq!(RelayFrame::decode(bytes), Ok(frame), "{name}");
        assert_eq!(hex(&RelayFrame::header(channel)), hex(&bytes[..RELAY_HEADER]), "{name}");
    }
}

#[test]
fn datagrams_between_a_node_and_a_peer() {
    let txid = 0x0102_0304_0506_0708;
    let cookie = 0xc1c2_c3c4_c5c6_c7c8;
    let channel = ChannelId(CHANNEL);
    check(
        "peer-datagram.hex",
        "",
        &[
            (
                "echo request/here",
                PeerDatagram::EchoRequest { txid, cookie: 0, answer: EchoAnswer::Here },
            ),
            (
                "echo request/from the second port",
                PeerDatagram::EchoRequest { txid, cookie, answer: EchoAnswer::FromSecondPort },
            ),
            (
                "echo request/to a mapped port",
                PeerDatagram::EchoRequest { txid, cookie, answer: EchoAnswer::ToPort(40_000) },
            ),
            (
                "echo reply/over IPv4",
                PeerDatagram::EchoReply {
                    txid,
                    cookie,
                    from_second: false,
                    observed: addr("203.0.113.5:51001"),
                },
            ),
            (
                "echo reply/over IPv6",
                PeerDatagram::EchoReply {
                    txid: 0xf1f2_f3f4_f5f6_f7f8,
                    cookie,
                    from_second: true,
                    observed: addr("[2001:db8::7]:443"),
                },
            ),
            ("relay challenge", PeerDatagram::RelayChallenge { channel, cookie }),
            ("relay answer", PeerDatagram::RelayAnswer { channel, cookie }),
            ("keep", PeerDatagram::Keep { channel: channel.other() }),
        ],
        PeerDatagram::encode,
        PeerDatagram::decode,
    );
}

#[test]
fn cards() {
    let candidate = |kind, at: &str| Candidate { kind, addr: addr(at) };
    let reflexive = candidate(CandidateKind::ServerReflexive, "203.0.113.5:51001");
    let verdict = |mapping, filtering, allocation| Verdict { mapping, filtering, allocation };
    let round = Some(RoundId(std::array::from_fn(|i| 0xa0 + i as u8)));
    let strict = Dependence::AddressAndPortDependent;
    check(
        "card.hex",
        "",
        &[
            ("nothing known", Card::default()),
            (
                "at home",
                Card {
                    verdict: verdict(
                        Dependence::EndpointIndependent,
                        strict,
                        Allocation::Preserving,
                    ),
                    local_port: 40_000,
                    candidates: vec![
                        candidate(CandidateKind::Host, "[fd00::7]:40000"),
                        candidate(CandidateKind::Host, "192.168.1.7:40000"),
                        candidate(CandidateKind::Mapped, "203.0.113.5:40000"),
                        reflexive,
                    ],
                    ..Card::default()
                },
            ),
            (
                "caller behind a carrier",
                Card {
                    round,
                    verdict: verdict(
                        strict,
                        Dependence::AddressDependent,
                        Allocation::Block { first: 1024, size: 2016 },
                    ),
                    local_port: 40_000,
                    birthday: true,
                    candidates: vec![reflexive],
                    ..Card::default()
                },
            ),
            (
                "caller counted upwards",
                Card {
                    round,
                    verdict: verdict(strict, strict, Allocation::Sequential { delta: 2 }),
                    ..Card::default()
                },
            ),
            (
                "caller knocks again",
                Card { round, again: Some(RoundId([0xb0; 16])), ..Card::default() },
            ),
            (
                "counted downwards",
                Card {
                    verdict: verdict(strict, strict, Allocation::Sequential { delta: -1 }),
                    ..Card::default()
                },
            ),
            (
                "random ports",
                Card {
                    verdict: verdict(
                        Dependence::AddressDependent,
                        Dependence::EndpointIndependent,
                        Allocation::Random,
                    ),
                    local_port: u16::MAX,
                    birthday: true,
                    ..Card::default()
                },
            ),
        ],
        Card::encode,
        Card::decode,
    );
}

const CHANNEL: u64 = 0xa1a2_a3a4_a5a6_a7a8;

#[test]
fn datagrams_of_a_parked_registration() {
    let (row, counter) = (RowId(0x0102_0304_0506_0708), 42);
    let short = Sealed { row, counter, sealed: &[0x5a; 32] };
    let long = Sealed { row, counter: u64::MAX, sealed: &[0x5b; 17] };
    for (name, datagram) in [
        ("datagram/keepalive", ParkedDatagram::Keepalive(short)),
        ("datagram/word", ParkedDatagram::Word(long)),
        ("datagram/unknown", ParkedDatagram::Unknown { row, counter, retry_after_ms: 30_000 }),
    ] {
        let bytes = &read("parked.hex")[name];
        assert_eq!(hex(&datagram.encode()), hex(bytes), "{name}");
        assert_eq!(ParkedDatagram::decode(bytes), Ok(datagram), "{name}");
    }
    let header = Sealed::header(Sender::Node, row, counter);
    assert!(read("parked.hex")["datagram/keepalive"].starts_with(&header));
}

#[test]
fn what_a_parked_node_and_its_peer_say() {
    let taken = vec![EnvelopeId(256), EnvelopeId(257)];
    check(
        "parked.hex",
        "keepalive",
        &[
            ("keepalive/plain", Keepalive { cookie: 0, rung: 0, taken: Vec::new() }),
            (
                "keepalive/after a challenge, with two taken",
                Keepalive { cookie: 0xc1c2_c3c4_c5c6_c7c8, rung: 7, taken },
            ),
        ],
        Keepalive::encode,
        Keepalive::decode,
    );
    let ring = |number, waiting, part| Word::Ring { number, waiting, part };
    let part = |parts, bytes| RingPart { part: 0, parts, bytes };
    check(
        "parked.hex",
        "word",
        &[
            ("word/heard", Word::Heard { counter: 42, waiting: 3 }),
            ("word/challenge", Word::Challenge { cookie: 0xc1c2_c3c4_c5c6_c7c8 }),
            ("word/ring that brings nothing", ring(7, 512, RingPart::NOTHING)),
            ("word/ring with a whole push", ring(8, 1, part(1, vec![1, 2, 3, 4, 5, 6, 7, 8]))),
            ("word/first part of a ring", ring(9, 1, part(2, vec![0xe0; RING_BYTES]))),
            ("word/draining", Word::Draining { retry_after_ms: 1_000 }),
        ],
        Word::encode,
        Word::decode,
    );
}
