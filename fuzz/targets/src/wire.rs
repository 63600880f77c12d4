//! Targets for the decoders of `halloo-wire`.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use halloo_identity::PeerKey;
use halloo_wire::candidate::Card;
use halloo_wire::content::{Ack, Content, Message, Ping, Profile, Resend, Safety};
use halloo_wire::datagram::{Class, Probe, RelayFrame, classify};
use halloo_wire::envelope::{EnvelopeRef, pad, unpad};
use halloo_wire::inner::{Inner, Plain};
use halloo_wire::limits::{MAX_DATAGRAM, MAX_INNER, MAX_PARKED, MAX_PROBE};
use halloo_wire::node::{ChannelName, NodeFrame, StreamKind};
use halloo_wire::parked::{Keepalive, ParkedDatagram, Word};
use halloo_wire::peer::{Control, Push, Request, Response};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::prekey::{Introduction, PrekeyBundle};
use halloo_wire::{DecodeError, Fingerprint, Invite, InviteId, MessageId, PeerFingerprint};

/// What a node asks a rendezvous peer.
pub fn wire_request(data: &[u8]) {
    survives_another_round(data, Request::decode, Control::encode);
}

/// What a rendezvous peer answers.
pub fn wire_response(data: &[u8]) {
    survives_another_round(data, Response::decode, Control::encode);
}

/// What a rendezvous peer says unasked.
pub fn wire_push(data: &[u8]) {
    survives_another_round(data, Push::decode, Control::encode);
}

/// What is said end to end: the first byte chooses the kind.
pub fn wire_content(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => survives_another_round(data, Profile::decode, Content::encode),
        1 => survives_another_round(data, Message::decode, Content::encode),
        2 => survives_another_round(data, Ack::decode, Content::encode),
        3 => survives_another_round(data, Resend::decode, Content::encode),
        4 => survives_another_round(data, Ping::decode, Content::encode),
        _ => survives_another_round(data, Safety::decode, Content::encode),
    }
}

/// Datagrams that are not QUIC.
pub fn wire_datagram(data: &[u8]) {
    let class = classify(data);
    is_the_only_encoding(data, Probe::decode, Probe::encode);
    if Probe::decode(data).is_ok() {
        assert!(class == Class::Probe && data.len() <= MAX_PROBE);
    }
    if let Ok(frame) = RelayFrame::decode(data) {
        assert!(class == Class::Relay && data.len() <= MAX_DATAGRAM);
        assert_eq!(classify(frame.datagram), Class::Quic);
        assert!(data.starts_with(&RelayFrame::header(frame.channel)));
        assert_eq!(frame.encode(), data);
    }
}

/// Small datagrams between a node and a rendezvous peer.
pub fn wire_peer_datagram(data: &[u8]) {
    is_the_only_encoding(data, PeerDatagram::decode, PeerDatagram::encode);
    if let Ok(it) = PeerDatagram::decode(data) {
        assert_eq!(classify(data), Class::Peer);
        // Nobody gets more out of a peer than was sent in.
        let is_request = matches!(it, PeerDatagram::EchoRequest { .. });
        assert!(data.len() < PeerDatagram::MAX || is_request);
    }
}

/// Datagrams of parked registrations, and what is sealed in them: the first byte chooses.
pub fn wire_parked(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Ok(it) = ParkedDatagram::decode(data) {
                assert!(classify(data) == Class::Parked && data.len() <= MAX_PARKED);
                assert_eq!(it.encode(), data);
            }
        }
        1 => is_the_only_encoding(data, Keepalive::decode, Keepalive::encode),
        _ => is_the_only_encoding(data, Word::decode, Word::encode),
    }
}

/// Sealed envelopes from outside, and the padding inside.
pub fn wire_envelope(data: &[u8]) {
    if let Ok(envelope) = EnvelopeRef::decode(data) {
        let parts = [&envelope.header.encode()[..], envelope.kem_ct, envelope.noise];
        assert_eq!(parts.concat(), data);
    }
    if let Ok(plain) = unpad(data) {
        assert_eq!(pad(plain).as_deref(), Ok(data));
    }
    assert_eq!(pad(data).is_ok(), data.len() <= MAX_INNER);
}

/// End-to-end messages, outside and inside.
pub fn wire_inner(data: &[u8]) {
    is_the_only_encoding(data, Inner::decode, Inner::encode);
    is_the_only_encoding(data, Plain::decode, Plain::encode);
}

/// Prekey bundles and introductions.
pub fn wire_prekey(data: &[u8]) {
    is_the_only_encoding(data, PrekeyBundle::decode, PrekeyBundle::encode);
    is_the_only_encoding(data, Introduction::decode, Introduction::encode);
}

/// Frames and stream heads between two nodes.
pub fn wire_node(data: &[u8]) {
    if let Ok(frame) = NodeFrame::decode(data) {
        assert_eq!(frame.encode()[4..], *data);
    }
    if let Ok(name) = ChannelName::decode(data) {
        assert_eq!(name.encode()[2..], *data);
    }
    if let Some(&byte) = data.first() {
        assert!(
            StreamKind::from_byte(byte).is_ok_and(|k| k.to_byte() == byte)
                == (byte.wrapping_sub(1) < 3)
        );
    }
}

/// Contact cards with candidates.
pub fn wire_card(data: &[u8]) {
    is_the_only_encoding(data, Card::decode, Card::encode);
}

/// Invites: bytes, and what people write.
pub fn wire_invite(data: &[u8]) {
    if let Ok(bytes) = data.try_into() {
        let invite = Invite::from_bytes(bytes);
        assert_eq!(invite.to_string().parse(), Ok(invite));
        if let Some(head) = invite.head() {
            let tag = invite.tag().try_into().expect("15 bytes follow the head");
            assert_eq!(Invite::new(&head, &tag), invite);
            assert_eq!(invite.to_string().parse(), Ok(head.id));
        }
        // Nobody guesses a tag of 120 bits.
        let key = PeerKey::from_seed(&[0x5a; 32]).invite_key();
        assert_eq!(key.open(&invite, &Fingerprint::from_bytes([9; 30])), None);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    reads_back::<Invite>(text);
    reads_back::<InviteId>(text);
}

/// Names as people write them.
pub fn wire_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    reads_back::<Fingerprint>(text);
    reads_back::<PeerFingerprint>(text);
    reads_back::<MessageId>(text);
}

/// What decodes encodes to bytes that decode to the same value.
pub(crate) fn survives_another_round<T: PartialEq + Debug>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(data) {
        let again = decode(&encode(&value));
        assert!(again.as_ref() == Ok(&value), "{value:?} became {again:?}");
    }
}

/// What decodes encodes to exactly the bytes that it came from.
pub(crate) fn is_the_only_encoding<T>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(data) {
        assert_eq!(encode(&value), data);
    }
}

/// What parses is written as text that parses to the same value.
pub(crate) fn reads_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?}");
    }
}
