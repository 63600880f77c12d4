//! Arbitrary values of every type, within its limits.

use std::net::SocketAddr;

use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Card, Dependence, Verdict};
use halloo_wire::content::{
    Ack, Body, Message, PeerHint, Ping, Profile, Resend, Safety, SafetyStep,
};
use halloo_wire::datagram::Probe;
use halloo_wire::envelope::Lane;
use halloo_wire::inner::{Inner, Kind, Plain, RatchetType, Route};
use halloo_wire::limits::{
    MAX_ATTESTED, MAX_CANDIDATES, MAX_CHANNEL_NAME, MAX_KNOCK_DATAGRAMS, MAX_ONE_TIME_KEYS,
    MAX_PASSPORT, MAX_PEERS, MAX_RING_PARTS, MAX_SEALED_CARD, MAX_TAKEN,
};
use halloo_wire::node::{ChannelName, NodeFrame};
use halloo_wire::parked::{Keepalive, RING_BYTES, RingPart, Word};
use halloo_wire::peer::{
    Attested, Call, Callee, DropEnvelope, Found, Grant, Knock, KnockMessage, Knocked, LookUp,
    NotAdmitted, Page, Parked, PeerError, Publication, Push, Receipt, Register, Registered,
    Request, Response, Waiting,
};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::prekey::{Introduction, PrekeyBundle};
use halloo_wire::{
    CapabilityId, CapabilityToken, ChannelId, DeviceId, EnvelopeId, Fingerprint, InstanceId,
    Invite, MessageId, Nonce, PeerFingerprint, RoundId, RowId, Seq, SessionId, StreamId,
    Transcript,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn request() -> impl Strategy<Value = Request> {
    (option::of(session()), call()).prop_map(|(session, call)| Request { session, call })
}

fn grant() -> impl Strategy<Value = Grant> {
    (capability(), bytes(MAX_SEALED_CARD)).prop_map(|(id, card)| Grant { id, card })
}

fn call() -> impl Strategy<Value = Call> {
    let to = || (fingerprint(), device());
    prop_oneof![
        (
            (device(), any::<u64>(), option::of(instance())),
            vec(grant(), 0..3),
            option::of(invite())
        )
            .prop_map(|((device, counter, instance), grants, invite)| {
                Call::Register(Register { device, counter, instance, grants, invite })
            }),
        (any::<u64>(), bytes(200), vec(any::<[u8; 32]>(), 0..=MAX_ONE_TIME_KEYS)).prop_map(
            |(seq, bundle, one_time_keys)| {
                Call::Publish(Publication { seq, bundle, one_time_keys })
            }
        ),
        vec(grant(), 0..5).prop_map(Call::Grant),
        vec(capability(), 0..5).prop_map(Call::Revoke),
        option::of(envelope_id()).prop_map(|after| Call::Peek { after }),
        vec(envelope_id(), 0..50).prop_map(Call::Ack),
        to().prop_map(|(to, device)| Call::LookUp(LookUp { to, device })),
        (to(), option::of(token()), option::of(instance()), bytes(300)).prop_map(
            |((to, device), token, instance, envelope)| {
                Call::Drop(DropEnvelope { to, device, token, instance, envelope })
            }
        ),
        knock().prop_map(Call::Knock),
        attested().prop_map(Call::Attest),
        Just(Call::Park),
        Just(Call::Leave),
    ]
}

pub(crate) fn invite() -> impl Strategy<Value = Invite> {
    any::<[u8; 30]>().prop_map(Invite::from_bytes)
}

fn knock() -> impl Strategy<Value = Knock> {
    let message = (option::of(instance()), bytes(300))
        .prop_map(|(instance, envelope)| KnockMessage { instance, envelope });
    let whom = (fingerprint(), device(), token(), bytes(MAX_SEALED_CARD));
    let paths = (any::<bool>(), attested(), any::<bool>(), first_flight());
    (whom, paths, option::of(message)).prop_map(
        |((to, device, token, card), (reveal, attested, relay, datagrams), message)| Knock {
            to,
            device,
            token,
            card,
            reveal,
            attested,
            relay,
            datagrams,
            message,
        },
    )
}

fn attested() -> impl Strategy<Value = Vec<Attested>> {
    let one = (socket_addr(), any::<u64>()).prop_map(|(addr, cookie)| Attested { addr, cookie });
    vec(one, 0..=MAX_ATTESTED)
}

fn first_flight() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(quic_datagram(200), 0..=MAX_KNOCK_DATAGRAMS)
}

/// Something that begins as a QUIC packet does.
pub(crate) fn quic_datagram(max: usize) -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![0x40..=0x7fu8, 0xc0..=0xffu8], bytes(max - 1))
        .prop_map(|(first, rest)| [&[first][..], &rest].concat())
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let numbers = (any::<u32>(), option::of(any::<u64>()), any::<u16>(), any::<u32>());
    prop_oneof![
        (session(), numbers, any::<u32>()).prop_map(
            |(session, (expires_s, bundle_seq, one_time_keys_left, capabilities), waiting)| {
                Response::Registered(Registered {
                    session,
                    expires_s,
                    bundle_seq,
                    one_time_keys_left,
                    capabilities,
                    waiting,
                })
            }
        ),
        Just(Response::Done),
        (vec(waiting(), 0..5), any::<bool>())
            .prop_map(|(envelopes, more)| Response::Page(Page { envelopes, more })),
        (
            bytes(MAX_PASSPORT),
            bytes(200),
            vec(any::<[u8; 32]>(), 0..=MAX_ONE_TIME_KEYS),
            option::of(any::<u16>())
        )
            .prop_map(|(passport, bundle, one_time_keys, one_time_key)| {
                Response::Found(Found { passport, bundle, one_time_keys, one_time_key })
            }),
        receipt().prop_map(Response::Dropped),
        (option::of(callee()), option::of(prop::result::maybe_err(receipt(), peer_error())))
            .prop_map(|(callee, message)| Response::Knocked(Knocked { callee, message })),
        peer_error().prop_map(Response::Refused),
        (any::<u64>(), any::<u16>()).prop_map(|(row, silence_s)| {
            Response::Parked(Parked { row: RowId(row), silence_s })
        }),
    ]
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (instance(), any::<u32>()).prop_map(|(instance, ttl_s)| Receipt { instance, ttl_s })
}

fn callee() -> impl Strategy<Value = Callee> {
    (observed(), bytes(MAX_SEALED_CARD), option::of(channel()))
        .prop_map(|(observed, card, channel)| Callee { observed, card, channel })
}

/// The address that a peer sees, and those that were attested.
fn observed() -> impl Strategy<Value = Vec<SocketAddr>> {
    vec(socket_addr(), 0..=1 + MAX_ATTESTED)
}

fn peer_error() -> impl Strategy<Value = PeerError> {
    prop_oneof![
        select(vec![
            PeerError::Malformed,
            PeerError::TooLarge,
            PeerError::NotRegistered,
            PeerError::WrongSession,
            PeerError::NoCertificate,
            PeerError::StaleCounter,
            PeerError::StaleBundle,
            PeerError::NotAuthorized,
            PeerError::MailboxFull,
            PeerError::PeerFull,
            PeerError::TooManyCapabilities,
            PeerError::Draining,
        ]),
        instance().prop_map(|instance| PeerError::InstanceChanged { instance }),
        instance().prop_map(|instance| PeerError::UnknownRecipient { instance }),
        any::<u32>().prop_map(|retry_after_ms| PeerError::RateLimited { retry_after_ms }),
        select(NotAdmitted::ALL.to_vec()).prop_map(PeerError::NotAdmitted),
    ]
}

pub(crate) fn push() -> impl Strategy<Value = Push> {
    prop_oneof![
        (instance(), socket_addr(), option::of(any::<u16>())).prop_map(
            |(instance, observed, echo_port)| Push::Welcome { instance, observed, echo_port }
        ),
        waiting().prop_map(Push::Envelope),
        (capability(), observed(), bytes(MAX_SEALED_CARD), option::of(channel()), first_flight())
            .prop_map(|(capability, observed, card, channel, datagrams)| {
                Push::Knock { capability, observed, card, channel, datagrams }
            }),
        Just(Push::Superseded),
        any::<u32>().prop_map(|retry_after_ms| Push::Draining { retry_after_ms }),
    ]
}

fn waiting() -> impl Strategy<Value = Waiting> {
    (envelope_id(), lane(), bytes(300)).prop_map(|(id, lane, envelope)| Waiting {
        id,
        lane,
        envelope,
    })
}

pub(crate) fn lane() -> impl Strategy<Value = Lane> {
    select(vec![Lane::Contacts, Lane::Strangers])
}

pub(crate) fn node_frame() -> impl Strategy<Value = NodeFrame> {
    prop_oneof![bytes(500).prop_map(NodeFrame::Inner), ack().prop_map(NodeFrame::Ack)]
}

pub(crate) fn channel_name() -> impl Strategy<Value = ChannelName> {
    text(MAX_CHANNEL_NAME)
        .prop_filter_map("a channel name is not empty", |name| ChannelName::new(&name).ok())
}

pub(crate) fn probe() -> impl Strategy<Value = Probe> {
    (any::<u64>(), vec(any::<u8>(), Probe::MIN_SEALED..=Probe::MAX_SEALED))
        .prop_map(|(key_id, sealed)| Probe { key_id, sealed })
}

pub(crate) fn peer_datagram() -> impl Strategy<Value = PeerDatagram> {
    let answer = prop_oneof![
        Just(EchoAnswer::Here),
        Just(EchoAnswer::FromSecondPort),
        (1..=u16::MAX).prop_map(EchoAnswer::ToPort),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), answer)
            .prop_map(|(txid, cookie, answer)| PeerDatagram::EchoRequest { txid, cookie, answer }),
        (any::<u64>(), any::<u64>(), any::<bool>(), socket_addr()).prop_map(
            |(txid, cookie, from_second, observed)| {
                PeerDatagram::EchoReply { txid, cookie, from_second, observed }
            }
        ),
        (channel(), any::<u64>())
            .prop_map(|(channel, cookie)| PeerDatagram::RelayChallenge { channel, cookie }),
        (channel(), any::<u64>())
            .prop_map(|(channel, cookie)| PeerDatagram::RelayAnswer { channel, cookie }),
        channel().prop_map(|channel| PeerDatagram::Keep { channel }),
    ]
}

pub(crate) fn keepalive() -> impl Strategy<Value = Keepalive> {
    (any::<u64>(), any::<u32>(), vec(envelope_id(), 0..=MAX_TAKEN))
        .prop_map(|(cookie, rung, taken)| Keepalive { cookie, rung, taken })
}

pub(crate) fn word() -> impl Strategy<Value = Word> {
    let part = (bytes(usize::from(MAX_RING_PARTS) * RING_BYTES), any::<usize>()).prop_map(
        |(bytes, which)| {
            let parts = RingPart::split(&bytes).expect("few enough");
            if parts.is_empty() { RingPart::NOTHING } else { parts[which % parts.len()].clone() }
        },
    );
    prop_oneof![
        (any::<u64>(), any::<u16>())
            .prop_map(|(counter, waiting)| Word::Heard { counter, waiting }),
        any::<u64>().prop_map(|cookie| Word::Challenge { cookie }),
        (any::<u32>(), any::<u16>(), part).prop_map(|(number, waiting, part)| Word::Ring {
            number,
            waiting,
            part
        }),
        any::<u32>().prop_map(|retry_after_ms| Word::Draining { retry_after_ms }),
    ]
}

pub(crate) fn channel() -> impl Strategy<Value = ChannelId> {
    any::<u64>().prop_map(ChannelId)
}

pub(crate) fn card() -> impl Strategy<Value = Card> {
    let round = || option::of(any::<[u8; 16]>().prop_map(RoundId));
    let candidates = vec(candidate(), 0..=MAX_CANDIDATES);
    (round(), round(), verdict(), any::<u16>(), any::<bool>(), candidates).prop_map(
        |(round, again, verdict, local_port, birthday, candidates)| Card {
            round,
            again,
            verdict,
            local_port,
            birthday,
            candidates,
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    (dependence(), dependence(), allocation())
        .prop_map(|(mapping, filtering, allocation)| Verdict { mapping, filtering, allocation })
}

fn allocation() -> impl Strategy<Value = Allocation> {
    let delta = prop_oneof![i16::MIN..=-1, 1..=i16::MAX];
    let block = any::<u16>().prop_flat_map(|first| {
        let last = u16::MAX - first;
        (Just(first), 1..=last.saturating_add(1))
    });
    prop_oneof![
        Just(Allocation::Unknown),
        Just(Allocation::Preserving),
        delta.prop_map(|delta| Allocation::Sequential { delta }),
        block.prop_map(|(first, size)| Allocation::Block { first, size }),
        Just(Allocation::Random),
    ]
}

fn dependence() -> impl Strategy<Value = Dependence> {
    select(vec![
        Dependence::Unknown,
        Dependence::EndpointIndependent,
        Dependence::AddressDependent,
        Dependence::AddressAndPortDependent,
    ])
}

fn candidate() -> impl Strategy<Value = Candidate> {
    use CandidateKind::{Host, Mapped, ServerReflexive};
    (select(vec![Host, Mapped, ServerReflexive]), socket_addr())
        .prop_map(|(kind, addr)| Candidate { kind, addr })
}

pub(crate) fn inner() -> impl Strategy<Value = Inner> {
    let ratchet_type = select(vec![RatchetType::PreKey, RatchetType::Normal]);
    let introduction = option::of(vec(any::<u8>(), 1..300));
    (route_and_kind(), introduction, ratchet_type, bytes(500)).prop_map(
        |((route, kind), introduction, ratchet_type, ratchet)| Inner {
            route,
            kind,
            introduction,
            ratchet_type,
            ratchet,
        },
    )
}

pub(crate) fn plain() -> impl Strategy<Value = Plain> {
    (route_and_kind(), any::<[u8; 32]>(), any::<[u8; 32]>(), bytes(500)).prop_map(
        |((route, kind), from_ratchet_key, to_ratchet_key, content)| Plain {
            route,
            kind,
            from_ratchet_key,
            to_ratchet_key,
            content,
        },
    )
}

fn route_and_kind() -> impl Strategy<Value = (Route, Kind)> {
    let kind = select(vec![
        Kind::Request,
        Kind::Accept,
        Kind::Message,
        Kind::Safety,
        Kind::Ack,
        Kind::Resend,
        Kind::Ping,
        Kind::Pong,
    ]);
    let place = (any::<u64>(), 1..=u64::MAX);
    (fingerprint(), device(), fingerprint(), device(), place, kind).prop_map(
        |(from, from_device, to, to_device, (stream, seq), kind)| {
            let (stream, seq) = (StreamId(stream), Seq(seq));
            (Route { from, from_device, to, to_device, stream, seq }, kind)
        },
    )
}

pub(crate) fn bundle() -> impl Strategy<Value = PrekeyBundle> {
    let validity = (0..u64::MAX).prop_flat_map(|from| (Just(from), from + 1..=u64::MAX));
    let names = (fingerprint(), device(), any::<u64>(), validity);
    let fill = (any::<u8>(), any::<[u8; 7]>());
    (names, any::<[[u8; 32]; 6]>(), fill).prop_map(
        |((fingerprint, device, seq, (not_before, not_after)), keys, (a, salt))| PrekeyBundle {
            fingerprint,
            device,
            passport_key: keys[0],
            ml_dsa_hash: keys[1],
            seq,
            not_before,
            not_after,
            sealing_x25519: keys[2],
            sealing_kem: Box::new(filled(a, &salt)),
            olm_identity: keys[3],
            olm_fallback: keys[4],
            one_time_keys_hash: keys[5],
            signature: filled(!a, &salt),
        },
    )
}

pub(crate) fn introduction() -> impl Strategy<Value = Introduction> {
    (bytes(MAX_PASSPORT), device(), any::<[u8; 32]>(), any::<u8>(), any::<[u8; 7]>()).prop_map(
        |(passport, device, olm_identity, a, salt)| Introduction {
            passport,
            ml_dsa_key: Box::new(filled(a, &salt)),
            device,
            olm_identity,
            ed25519_signature: filled(!a, &salt),
            ml_dsa_signature: Box::new(filled(a ^ 0x55, &salt)),
        },
    )
}

/// A long array that differs from place to place, without a random number for each byte.
fn filled<const N: usize>(start: u8, salt: &[u8; 7]) -> [u8; N] {
    std::array::from_fn(|i| start.wrapping_add(salt[i % 7]).wrapping_mul(i as u8 | 1))
}

pub(crate) fn profile() -> impl Strategy<Value = Profile> {
    let host = "[a-z0-9.:-]{1,40}";
    let key = option::of(any::<[u8; 30]>().prop_map(PeerFingerprint::from_bytes));
    let hint = (host, 1..=u16::MAX, key).prop_map(|(host, port, key)| PeerHint { host, port, key });
    (text(64), text(280), vec(hint, 1..=MAX_PEERS), any::<[u8; 32]>())
        .prop_map(|(name, note, peers, capability)| Profile { name, note, peers, capability })
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let nonce = any::<[u8; 16]>().prop_map(Nonce);
    (nonce, option::of(any::<[u8; 16]>().prop_map(MessageId)), text(600))
        .prop_map(|(nonce, parent, text)| Message { nonce, parent, body: Body::Text(text) })
        .boxed()
        .prop_union(Just(Message::WITHDRAWN).boxed())
}

pub(crate) fn ack() -> impl Strategy<Value = Ack> {
    any::<(u64, u64, [u8; 16])>().prop_map(|(stream, next, transcript)| Ack {
        stream: StreamId(stream),
        next: Seq(next),
        transcript: Transcript(transcript),
    })
}

pub(crate) fn resend() -> impl Strategy<Value = Resend> {
    any::<(Option<u64>, u64)>()
        .prop_map(|(stream, next)| Resend { stream: stream.map(StreamId), next: Seq(next) })
}

pub(crate) fn ping() -> impl Strategy<Value = Ping> {
    any::<u64>().prop_map(|nonce| Ping { nonce })
}

pub(crate) fn safety() -> impl Strategy<Value = Safety> {
    let step = prop_oneof![
        Just(SafetyStep::Start),
        any::<[u8; 32]>().prop_map(SafetyStep::Commit),
        any::<[u8; 32]>().prop_map(SafetyStep::RevealInitiator),
        any::<[u8; 32]>().prop_map(SafetyStep::RevealResponder),
        any::<[u8; 32]>().prop_map(SafetyStep::Confirm),
        Just(SafetyStep::Mismatch),
        Just(SafetyStep::Cancel),
    ];
    (any::<[u8; 16]>(), step).prop_map(|(exchange, step)| Safety { exchange, step })
}

pub(crate) fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 30]>().prop_map(Fingerprint::from_bytes)
}

/// A socket address of either family with a port.
pub(crate) fn socket_addr() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from),
    ];
    (ip, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(crate) fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

/// Any text of at most `max` bytes.
fn text(max: usize) -> impl Strategy<Value = String> {
    any::<String>().prop_map(move |mut text| {
        text.truncate(text.floor_char_boundary(max));
        text
    })
}

fn device() -> impl Strategy<Value = DeviceId> {
    any::<u32>().prop_map(DeviceId)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn instance() -> impl Strategy<Value = InstanceId> {
    any::<[u8; 16]>().prop_map(InstanceId)
}

fn token() -> impl Strategy<Value = CapabilityToken> {
    any::<[u8; 32]>().prop_map(CapabilityToken)
}

fn capability() -> impl Strategy<Value = CapabilityId> {
    any::<[u8; 32]>().prop_map(CapabilityId)
}

fn envelope_id() -> impl Strategy<Value = EnvelopeId> {
    any::<u64>().prop_map(EnvelopeId)
}
