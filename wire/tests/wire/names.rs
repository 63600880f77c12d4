//! Fingerprints as people write them, and names that keep their secrets.

use halloo_wire::ids::{FINGERPRINT_TEXT_LEN, FingerprintError};
use halloo_wire::path::{DirectPath, SendOn, SocketId};
use halloo_wire::{
    CapabilityId, CapabilityToken, ChannelId, DecodeError, Fingerprint, MessageId, Nonce,
    PeerFingerprint, RoundId, Seq, SessionId, Side, StreamId, Transcript,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::strategies::fingerprint;

#[test]
fn fingerprints_have_one_written_form() {
    for (bytes, text) in [
        ([0; 30], "00000000000000000000000000000000000000000000000084gd"),
        ([0xff; 30], "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzht6c"),
        (std::array::from_fn(|i| i as u8), "000g40r40m30e209185gr38e1w8124gk2gahc5rr34d1p70x7a1g"),
    ] {
        let fingerprint = Fingerprint::from_bytes(bytes);
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse(), Ok(fingerprint));
    }
}

#[test]
fn a_peers_fingerprint_is_not_a_persons() {
    let peer = PeerFingerprint::from_bytes([0; 30]);
    assert_eq!(peer.to_string(), "0000000000000000000000000000000000000000000000006frz");
    let person = Fingerprint::from_bytes([0; 30]);
    assert_eq!(peer.to_string().parse::<Fingerprint>(), Err(FingerprintError::Checksum));
    assert_eq!(person.to_string().parse::<PeerFingerprint>(), Err(FingerprintError::Checksum));
}

#[test]
fn what_is_wrong_with_a_fingerprint_is_told() {
    let right = Fingerprint::from_bytes([7; 30]).to_string();
    let parse = |text: &str| text.parse::<Fingerprint>().unwrap_err();
    assert_eq!(parse(""), FingerprintError::Length(0));
    assert_eq!(parse(&right[1..]), FingerprintError::Length(51));
    assert_eq!(parse(&format!("{right}0")), FingerprintError::Length(53));
    assert_eq!(parse(&right.replacen(&right[..1], "u", 1)), FingerprintError::Character('u'));
    assert_eq!(parse(&format!(" {right}")), FingerprintError::Character(' '));
    assert_eq!(parse(&format!("{right}é")), FingerprintError::Character('é'));
    // The sign for kelvin becomes `k` only where all of Unicode is folded.
    assert_eq!(parse(&format!("{right}\u{212a}")), FingerprintError::Character('\u{212a}'));
}

#[test]
fn the_short_form_is_for_display_only() {
    let fingerprint = Fingerprint::from_bytes([7; 30]);
    assert_eq!(fingerprint.short(), fingerprint.to_string()[..8]);
    assert_eq!(fingerprint.short().parse::<Fingerprint>(), Err(FingerprintError::Length(8)));
    assert_eq!(format!("{fingerprint:?}"), format!("Fingerprint({}…)", fingerprint.short()));
}

#[test]
fn the_lowest_bit_of_a_channel_is_the_side_that_sends() {
    for number in [0, 1, 0xa1a2_a3a4_a5a6_a7a8, u64::MAX] {
        let channel = ChannelId(number);
        let (caller, callee) = (channel.of(Side::Caller), channel.of(Side::Callee));
        assert_eq!((caller.side(), callee.side()), (Side::Caller, Side::Callee));
        assert_eq!((caller.other(), callee.other()), (callee, caller));
        assert_eq!((caller.0, callee.0), (number & !1, number | 1));
        assert_eq!((caller.pair(), callee.pair()), (caller.0, caller.0));
        assert_eq!(channel.of(channel.side()), channel);
        assert_eq!(channel.other().side(), channel.side().other());
    }
}

#[test]
fn the_direct_path_is_where_data_goes_directly() {
    let remote = "203.0.113.5:51001".parse().unwrap();
    let path = DirectPath { socket: SocketId::MAIN, remote };
    assert_eq!(SendOn::default().direct(), None);
    assert_eq!(SendOn::Both(path).direct(), Some(path));
    assert_eq!(SendOn::Direct(path).direct(), Some(path));
    assert_eq!(SocketId::default(), SocketId::MAIN);
}

#[test]
fn secrets_do_not_print() {
    assert_eq!(format!("{:?}", ChannelId(0xab)), "ChannelId(…, Callee)");
    assert_eq!(format!("{:?}", RoundId([0xab; 16])), "RoundId(abab…)");
    assert_eq!(format!("{:?}", SessionId([0xab; 16])), "SessionId(…)");
    assert_eq!(format!("{:?}", CapabilityToken([0xab; 32])), "CapabilityToken(…)");
    assert_eq!(format!("{:?}", CapabilityId([0xab; 32])), "CapabilityId(…)");
}

#[test]
fn message_ids_are_exactly_32_hexadecimal_digits() {
    let id = MessageId([0xab; 16]);
    assert_eq!(id.to_string(), "ab".repeat(16));
    assert_eq!("AB".repeat(16).parse(), Ok(id));
    for text in
        ["", "ab", "é", &"ab".repeat(17), &"+a".repeat(16), &" a".repeat(16), &"é".repeat(16)]
    {
        let refused = Err(DecodeError::Invalid("message id"));
        assert_eq!(text.parse::<MessageId>(), refused, "{text:?}");
    }
}

proptest! {
    #[test]
    fn fingerprints_read_back(it in fingerprint()) {
        let text = it.to_string();
        prop_assert_eq!(text.len(), FINGERPRINT_TEXT_LEN);
        prop_assert!(text.bytes().all(|b| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&b)));
        prop_assert_eq!(text.parse(), Ok(it));
    }

    #[test]
    fn fingerprints_forgive_how_people_copy(
        it in fingerprint(),
        upper: u64,
        hyphens in prop::collection::vec(any::<Index>(), 0..8),
        letters: bool,
    ) {
        let mut text: String = it
            .to_string()
            .chars()
            .enumerate()
            .map(|(i, c)| match c {
                '1' if letters => if upper >> (i % 64) & 1 == 1 { 'L' } else { 'i' },
                '0' if letters => if upper >> (i % 64) & 1 == 1 { 'O' } else { 'o' },
                c if upper >> (i % 64) & 1 == 1 => c.to_ascii_uppercase(),
                c => c,
            })
            .collect();
        for at in hyphens {
            text.insert(at.index(text.len() + 1), '-');
        }
        prop_assert_eq!(text.parse(), Ok(it));
    }

    /// A changed character is found, but for one in a million: the checksum has 20 bits.
    #[test]
    fn a_typing_mistake_is_found(it in fingerprint(), place: Index, other: Index) {
        let mut text = it.to_string().into_bytes();
        let alphabet = b"0123456789abcdefghjkmnpqrstvwxyz";
        let at = place.index(text.len());
        let typed = alphabet[other.index(32)];
        prop_assume!(text[at] != typed);
        text[at] = typed;
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(text.parse::<Fingerprint>(), Err(FingerprintError::Checksum));
    }

    #[test]
    fn any_text_parses_or_says_why(text: String) {
        let _ = text.parse::<Fingerprint>();
        let _ = text.parse::<PeerFingerprint>();
        let _ = text.parse::<MessageId>();
    }

    #[test]
    fn message_ids_read_back(bytes: [u8; 16]) {
        let id = MessageId(bytes);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn each_message_and_direction_has_its_own_name(
        from in fingerprint(),
        to in fingerprint(),
        nonce: [u8; 16],
    ) {
        let id = |from, to, nonce| MessageId::derive(from, to, Nonce(nonce));
        let this = id(&from, &to, nonce);
        prop_assert_eq!(this, id(&from, &to, nonce));
        prop_assert_ne!(this, id(&to, &from, nonce));
        prop_assert_ne!(this, id(&from, &to, nonce.map(|b| !b)));
    }

    #[test]
    fn a_transcript_tells_every_place_apart(
        stream: u64,
        seq in 1..u64::MAX,
        kind: u8,
        content: Vec<u8>,
    ) {
        let start = Transcript::START;
        let then = |seq, kind, content: &[u8]| start.then(StreamId(stream), Seq(seq), kind, content);
        let this = then(seq, kind, &content);
        prop_assert_eq!(this, then(seq, kind, &content));
        prop_assert_ne!(this, start);
        prop_assert_ne!(this, then(seq + 1, kind, &content));
        prop_assert_ne!(this, then(seq, !kind, &content));
        prop_assert_ne!(this, then(seq, kind, &[&content[..], b"."].concat()));
        prop_assert_ne!(this, start.then(StreamId(!stream), Seq(seq), kind, &content));
        let next = |from: Transcript| from.then(StreamId(stream), Seq(seq), kind, &content);
        prop_assert_ne!(next(this), next(then(seq, !kind, &content)));
    }

    #[test]
    fn a_later_stream_has_a_larger_number(before: u64, now: u64, random: u32) {
        match StreamId::after(Some(StreamId(before)), now, random) {
            Some(later) => prop_assert!(later > StreamId(before)),
            None => prop_assert!(before > u64::MAX - (1 << 24)),
        }
        prop_assert!(StreamId::after(None, now, random).is_some());
    }
}
