//! Names and numbers, each with a type of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a fingerprint: 240 bits.
pub const FINGERPRINT_LEN: usize = 30;
/// Characters of a written fingerprint: 48 for the 240 bits and 4 for a 20-bit checksum.
pub const FINGERPRINT_TEXT_LEN: usize = 52;

/// Crockford's base32 alphabet in lower case: no `i`, `l`, `o` or `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why a text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// Not 52 characters after hyphens are taken out.
    #[error("a fingerprint has 52 characters, this one has {0}")]
    Length(usize),
    /// A character outside of the alphabet.
    #[error("the character {0:?} cannot stand in a fingerprint")]
    Character(char),
    /// The last four characters do not fit the others: a typing mistake.
    #[error("the fingerprint's checksum does not match: a character is wrong or missing")]
    Checksum,
}

macro_rules! fingerprint_type {
    ($(#[$doc:meta])* $name:ident, $context:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; FINGERPRINT_LEN]);

        impl $name {
            /// Wraps the 240 bits.
            pub const fn from_bytes(bytes: [u8; FINGERPRINT_LEN]) -> Self {
                Self(bytes)
            }

            /// The 240 bits.
            pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_LEN] {
                &self.0
            }

            /// The first eight characters, for display only: this is a `String`, which no
            /// look-up takes.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }

            fn checksum(&self) -> u32 {
                let h = blake3::derive_key($context, &self.0);
                u32::from_be_bytes([0, h[0], h[1], h[2]]) >> 4
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32_with_checksum(&self.0, self.checksum()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = FingerprintError;

            /// Reads the written form; forgives case, `i l o` for `1 1 0`, and hyphens.
            fn from_str(text: &str) -> Result<Self, FingerprintError> {
                let (bytes, checksum) = base32_decode(text)?;
                let it = Self(bytes);
                if it.checksum() == checksum { Ok(it) } else { Err(FingerprintError::Checksum) }
            }
        }
    };
}

fingerprint_type! {
    /// The name of an identity: 240 bits derived from its public keys.
    ///
    /// Written as 52 lower-case characters of Crockford's base32, the last four a checksum.
    /// How the bits are made from keys is the identity crate's matter.
    Fingerprint, "halloo 2026 fingerprint checksum v1"
}

fingerprint_type! {
    /// The name of a rendezvous peer's key, written like a [`Fingerprint`] but with another
    /// checksum, so that one cannot be mistaken for the other.
    PeerFingerprint, "halloo 2026 peer fingerprint checksum v1"
}

/// Five bytes as eight characters.
pub(crate) fn base32_group(five: &[u8]) -> String {
    let bits = five.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b));
    let digit = |i: u32| char::from(ALPHABET[(bits >> (5 * i)) as usize & 31]);
    (0..8).rev().map(digit).collect()
}

/// 30 bytes, which are six groups, and four characters of a checksum.
pub(crate) fn base32_with_checksum(bytes: &[u8; FINGERPRINT_LEN], checksum: u32) -> String {
    let mut text = String::with_capacity(FINGERPRINT_TEXT_LEN);
    for group in bytes.chunks_exact(5) {
        text += &base32_group(group);
    }
    for i in (0..4).rev() {
        text.push(char::from(ALPHABET[(checksum >> (5 * i)) as usize & 31]));
    }
    text
}

/// The counterpart of [`base32_with_checksum`], which does not compare the checksum.
pub(crate) fn base32_decode(text: &str) -> Result<([u8; FINGERPRINT_LEN], u32), FingerprintError> {
    let mut values = [0u8; FINGERPRINT_TEXT_LEN];
    let mut n = 0;
    for c in text.chars().filter(|&c| c != '-') {
        let v = base32_value(c).ok_or(FingerprintError::Character(c))?;
        if let Some(slot) = values.get_mut(n) {
            *slot = v;
        }
        n += 1;
    }
    if n != FINGERPRINT_TEXT_LEN {
        return Err(FingerprintError::Length(n));
    }
    let (head, tail) = values.split_at(48);
    let mut bytes = [0u8; FINGERPRINT_LEN];
    for (out, group) in bytes.chunks_exact_mut(5).zip(head.chunks_exact(8)) {
        let bits = group.iter().fold(0u64, |acc, &v| acc << 5 | u64::from(v));
        out.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Ok((bytes, tail.iter().fold(0u32, |acc, &v| acc << 5 | u32::from(v))))
}

/// What a character stands for.
pub(crate) fn base32_value(c: char) -> Option<u8> {
    let c = match c.to_ascii_lowercase() {
        'i' | 'l' => '1',
        'o' => '0',
        c => c,
    };
    let c = u8::try_from(c).ok()?;
    ALPHABET.iter().position(|&a| a == c).map(|i| i as u8)
}

/// The number of a device of an identity, from 1. There is one device per identity for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// The first and, for now, only device.
    pub const FIRST: Self = Self(1);
}

/// A place in a sender's stream of messages to one recipient: from 1, without holes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Seq(pub u64);

/// One sender's stream of messages to one recipient device. A later stream has a larger number and
/// replaces the one before, which is over; a restored backup begins another one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct StreamId(pub u64);

impl StreamId {
    /// A stream that begins now, after another one: the second in which it begins, and 24 random
    /// bits. When the clock has been set back, it is somewhat larger than `after`. `None` when there
    /// is no larger one.
    pub fn after(after: Option<Self>, now_unix_s: u64, random: u32) -> Option<Self> {
        let random = u64::from(random & 0xff_ffff);
        let now = now_unix_s.checked_mul(1 << 24).map_or(u64::MAX, |high| high | random);
        match after {
            Some(Self(after)) if now <= after => after.checked_add(1 + random).map(Self),
            _ => Some(Self(now)),
        }
    }
}

/// An envelope's place in one run of a rendezvous peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnvelopeId(pub u64);

/// One run of a rendezvous peer, drawn at random when it starts. What it knew is gone when this
/// changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub [u8; 16]);

/// One attempt of two nodes to open a direct path, drawn at random by the caller. The keys of its
/// probes are derived from it, so that nobody can link two attempts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundId(pub [u8; 16]);

impl fmt::Debug for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoundId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Which end of a relay channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Who knocked.
    Caller,
    /// Who was knocked at.
    Callee,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// One side's number of a leased relay channel. The lowest bit is the side that sends under it;
/// the other 63 are the channel's, drawn at random by the peer and known to the two ends only. It
/// opens the channel to whoever knows it, so it does not print.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelId(pub u64);

impl ChannelId {
    /// The number under which `side` of the same channel sends.
    #[must_use]
    pub fn of(self, side: Side) -> Self {
        Self(self.pair() | u64::from(side == Side::Callee))
    }

    /// The side that sends under this number.
    #[must_use]
    pub fn side(self) -> Side {
        if self.0 & 1 == 0 { Side::Caller } else { Side::Callee }
    }

    /// The number under which the other end sends.
    #[must_use]
    pub fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// What both sides' numbers have in common: the caller's.
    #[must_use]
    pub fn pair(self) -> u64 {
        self.0 & !1
    }
}

/// One parked registration at one run of a rendezvous peer: where its row lies, and random bits. It
/// is in the clear in every datagram, and opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId(pub u64);

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelId(…, {:?})", self.side())
    }
}

/// What a registered device shows with each later request. Unique, and shared by the connections
/// of one device. It is a secret of the device and the peer: it does not print.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

/// What the holder of a reach capability shows to the recipient's peer. Derived from the
/// capability's secret; it does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityToken(pub [u8; 32]);

impl CapabilityToken {
    /// The hash under which the recipient registers it: the peer learns the token only from
    /// who presents it.
    pub fn id(&self) -> CapabilityId {
        CapabilityId(blake3::derive_key("halloo 2026 capability id v1", &self.0))
    }
}

impl fmt::Debug for CapabilityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityToken(…)")
    }
}

/// The hash of a [`CapabilityToken`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CapabilityId(pub [u8; 32]);

impl fmt::Debug for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityId(…)")
    }
}

/// 16 random bytes that stand for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 16]);

/// What a stream has held up to a place: a hash over the contents of all places so far. Both ends
/// compute it; where they differ, the stream was written twice.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript(pub [u8; 16]);

impl Transcript {
    /// Of a stream in which nothing has been written.
    pub const START: Self = Self([0; 16]);

    /// With the next place of `stream` behind it: `seq` with `content`, of a kind by its byte.
    #[must_use]
    pub fn then(&self, stream: StreamId, seq: Seq, kind: u8, content: &[u8]) -> Self {
        let mut h = blake3::Hasher::new_derive_key("halloo 2026 stream transcript v1");
        h.update(&self.0).update(&stream.0.to_be_bytes()).update(&seq.0.to_be_bytes());
        h.update(&[kind]).update(content);
        let mut transcript = [0; 16];
        transcript.copy_from_slice(&h.finalize().as_bytes()[..16]);
        Self(transcript)
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transcript(…)")
    }
}

/// The name of one message, the same at both ends and for ever: a hash of who sends to whom and the
/// message's nonce. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// Names the message with `nonce` from `from` to `to`. Nobody can take a name of somebody else's
    /// message.
    pub fn derive(from: &Fingerprint, to: &Fingerprint, nonce: Nonce) -> Self {
        let mut h = blake3::Hasher::new_derive_key("halloo 2026 message id v2");
        h.update(from.as_bytes()).update(to.as_bytes()).update(&nonce.0);
        let mut id = [0; 16];
        id.copy_from_slice(&h.finalize().as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

impl FromStr for MessageId {
    type Err = crate::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = crate::DecodeError::Invalid("message id");
        let mut id = [0; 16];
        // Checked first, because `from_str_radix` would take a sign.
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid);
        }
        for (i, b) in id.iter_mut().enumerate() {
            *b = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| invalid)?;
        }
        Ok(Self(id))
    }
}
