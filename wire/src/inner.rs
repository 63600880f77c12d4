//! A message between two nodes, end to end: what a sealed envelope holds, and what travels bare on
//! a direct connection, where TLS already hides it.
//!
//! ```text
//! Inner   version 1 | route 84 | kind 1 | introduction (16-bit length) | ratchet type 1 | ratchet message (16-bit length)
//! Plain   version 1 | route 84 | kind 1 | sender's ratchet key 32 | recipient's ratchet key 32 | content (16-bit length)
//! route   sender fingerprint 30, device 4 | recipient fingerprint 30, device 4 | stream 8 | seq 8
//! ```
//!
//! [`Plain`] is what the ratchet encrypts; its ciphertext stands in [`Inner`]. Olm takes no
//! associated data, so the route is repeated inside and the reader compares the two: a ciphertext
//! cannot be moved to another place, person or stream.

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::{DeviceId, Fingerprint, Seq, StreamId};
use crate::limits::{MAX_CONTENT, MAX_INNER};

const VERSION: u8 = 1;

/// Who sends what place of which stream to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Who sends.
    pub from: Fingerprint,
    /// The sending device.
    pub from_device: DeviceId,
    /// Who receives.
    pub to: Fingerprint,
    /// The receiving device.
    pub to_device: DeviceId,
    /// The sender's stream to this recipient.
    pub stream: StreamId,
    /// The place in the stream, from 1. Of kinds outside of it ([`Kind::is_sequenced`]), the first
    /// place that is not encrypted yet: everything below it was encrypted before this. A recipient
    /// that lacks some of it reads this without moving its ratchet, which would skip their keys.
    pub seq: Seq,
}

impl Route {
    fn write(&self, w: &mut Writer) {
        w.put(self.from.as_bytes()).u32(self.from_device.0);
        w.put(self.to.as_bytes()).u32(self.to_device.0);
        w.u64(self.stream.0).u64(self.seq.0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            from: Fingerprint::from_bytes(r.array()?),
            from_device: DeviceId(r.u32()?),
            to: Fingerprint::from_bytes(r.array()?),
            to_device: DeviceId(r.u32()?),
            stream: StreamId(r.u64()?),
            seq: Seq(r.u64()?),
        })
    }
}

/// What a message is for. Sequenced kinds are delivered once and in order; the others are
/// idempotent and only the newest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A contact request with the sender's profile. Sequenced.
    Request,
    /// The answer to a request. Sequenced.
    Accept,
    /// What a person or program wrote. Sequenced.
    Message,
    /// A step of the safety-code exchange. Sequenced.
    Safety,
    /// Everything below a place has arrived and is on disk.
    Ack,
    /// Something could not be read: send it again under the session that carries this.
    Resend,
    /// Asks for a [`Kind::Pong`].
    Ping,
    /// Answers a [`Kind::Ping`].
    Pong,
}

impl Kind {
    const ALL: [(Self, u8); 8] = [
        (Self::Request, 1),
        (Self::Accept, 2),
        (Self::Message, 3),
        (Self::Safety, 4),
        (Self::Ack, 16),
        (Self::Resend, 17),
        (Self::Ping, 18),
        (Self::Pong, 19),
    ];

    /// Whether messages of this kind have a place in the stream.
    pub fn is_sequenced(self) -> bool {
        self.to_byte() < 16
    }

    /// The kind's byte on the wire.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Accept => 2,
            Self::Message => 3,
            Self::Safety => 4,
            Self::Ack => 16,
            Self::Resend => 17,
            Self::Ping => 18,
            Self::Pong => 19,
        }
    }

    /// Reads a kind's byte.
    ///
    /// # Errors
    /// [`DecodeError::UnknownType`] for any other byte.
    pub fn from_byte(b: u8) -> Result<Self, DecodeError> {
        Self::ALL
            .iter()
            .find_map(|&(kind, byte)| (byte == b).then_some(kind))
            .ok_or(DecodeError::UnknownType(b))
    }
}

/// Which of Olm's two message types a ratchet message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatchetType {
    /// Begins a session: it carries the keys that the recipient needs.
    PreKey,
    /// Belongs to a session that the sender has heard from.
    Normal,
}

/// The outside of a message: enough to find the session, nothing that is trusted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Who, to whom, where in the stream. Claimed; the ratchet proves it.
    pub route: Route,
    /// What it is for. Claimed.
    pub kind: Kind,
    /// The sender's keys and signatures, in the first message of a session.
    pub introduction: Option<Vec<u8>>,
    /// Olm's message type.
    pub ratchet_type: RatchetType,
    /// Olm's message.
    pub ratchet: Vec<u8>,
}

impl Inner {
    /// The message's bytes: at most [`MAX_INNER`] when its content is within its limit.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(128 + self.ratchet.len());
        w.u8(VERSION);
        self.route.write(&mut w);
        w.u8(self.kind.to_byte());
        w.bytes16(self.introduction.as_deref().unwrap_or_default());
        w.u8(match self.ratchet_type {
            RatchetType::PreKey => 0,
            RatchetType::Normal => 1,
        });
        w.bytes16(&self.ratchet);
        w.into_vec()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_INNER {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let (route, kind) = read_head(&mut r)?;
        let introduction = match r.bytes16(MAX_INNER)? {
            [] => None,
            bytes => Some(bytes.to_vec()),
        };
        let ratchet_type = match r.u8()? {
            0 => RatchetType::PreKey,
            1 => RatchetType::Normal,
            other => return Err(DecodeError::UnknownType(other)),
        };
        let ratchet = r.bytes16(MAX_INNER)?.to_vec();
        r.finish()?;
        Ok(Self { route, kind, introduction, ratchet_type, ratchet })
    }
}

/// The inside of a message, which the ratchet encrypts.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain {
    /// Repeats the outside's route.
    pub route: Route,
    /// Repeats the outside's kind.
    pub kind: Kind,
    /// The sender's Olm identity key.
    pub from_ratchet_key: [u8; 32],
    /// The recipient's Olm identity key.
    pub to_ratchet_key: [u8; 32],
    /// What is said ([`crate::content`]).
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain")
            .field("route", &self.route)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Plain {
    /// The plaintext's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(160 + self.content.len());
        w.u8(VERSION);
        self.route.write(&mut w);
        w.u8(self.kind.to_byte());
        w.put(&self.from_ratchet_key).put(&self.to_ratchet_key);
        w.bytes16(&self.content);
        w.into_vec()
    }

    /// Reads a plaintext.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (route, kind) = read_head(&mut r)?;
        let from_ratchet_key = r.array()?;
        let to_ratchet_key = r.array()?;
        let content = r.bytes16(MAX_CONTENT)?.to_vec();
        r.finish()?;
        Ok(Self { route, kind, from_ratchet_key, to_ratchet_key, content })
    }
}

fn read_head(r: &mut Reader<'_>) -> Result<(Route, Kind), DecodeError> {
    let version = r.u8()?;
    if version != VERSION {
        return Err(DecodeError::UnsupportedVersion(version));
    }
    let route = Route::read(r)?;
    let kind = Kind::from_byte(r.u8()?)?;
    if route.seq.0 == 0 {
        return Err(DecodeError::Invalid("sequence number"));
    }
    Ok((route, kind))
}
