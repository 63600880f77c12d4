//! Datagrams of a parked registration: a node without a connection, which its rendezvous peer can
//! ring all the same.
//!
//! ```text
//! all          0x07 | version 1 | kind 1 | row 8 | counter 8 | ...
//! 1 keepalive  sealed          from the node
//! 2 word       sealed          from the peer
//! 3 unknown    retry after 4   from the peer: it has no such row
//!
//! keepalive    cookie 8 | rung 4 | count 1 | that many envelope ids, 8 each | zeros up to 16 in all
//! word         1 heard      counter 8 | waiting 2
//!              2 challenge  cookie 8
//!              3 ring       number 4 | waiting 2 | part 1 | parts 1 | bytes
//!              4 draining   retry after 4
//! ```
//!
//! What is sealed has a tag of 16 bytes. The key is made with the registration, and a counter is
//! used once by each side, so the counter is the nonce; sealing and opening are the transport's.
//! What is in front of it is authenticated with it, save `unknown`, which nobody could seal: a node
//! takes it as a reason to ask again, and only under the number of its last keepalive.
//!
//! No word but a ring is longer than the shortest keepalive, so that nobody gets more out of a peer
//! than was sent in; a ring goes to an address only that has answered a challenge.

use crate::codec::{DecodeError, Reader, Writer};
use crate::datagram::TYPE_PARKED;
use crate::ids::{EnvelopeId, RowId};
use crate::limits::{MAX_PARKED, MAX_RING_PARTS, MAX_TAKEN};

const VERSION: u8 = 1;
/// Bytes in front of what is sealed.
pub const HEADER_LEN: usize = 19;
/// Bytes of an AEAD's tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a keepalive at least, before it is sealed.
const KEEPALIVE_LEN: usize = 16;
/// Bytes in front of those that a ring carries.
const RING_HEADER: usize = 9;
/// Bytes that one ring carries.
pub const RING_BYTES: usize = MAX_PARKED - HEADER_LEN - TAG_LEN - RING_HEADER;

/// A datagram of a parked registration, still sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedDatagram<'a> {
    /// From the node: a sealed [`Keepalive`].
    Keepalive(Sealed<'a>),
    /// From the peer: a sealed [`Word`].
    Word(Sealed<'a>),
    /// From the peer: it does not know the row. It may have restarted.
    Unknown {
        /// The keepalive's.
        row: RowId,
        /// The keepalive's.
        counter: u64,
        /// Within how many milliseconds to come back, at a random moment.
        retry_after_ms: u32,
    },
}

/// Who has sealed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The node: a [`Keepalive`].
    Node,
    /// The peer: a [`Word`].
    Peer,
}

impl Sender {
    fn kind(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Peer => 2,
        }
    }
}

/// The sealed part of a datagram, and what is in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Names the registration.
    pub row: RowId,
    /// Rises with each datagram of its sender.
    pub counter: u64,
    /// Ciphertext and tag.
    pub sealed: &'a [u8],
}

impl Sealed<'_> {
    /// What stands in front of the sealed part.
    pub fn header(from: Sender, row: RowId, counter: u64) -> [u8; HEADER_LEN] {
        let mut header = [TYPE_PARKED; HEADER_LEN];
        header[1] = VERSION;
        header[2] = from.kind();
        header[3..11].copy_from_slice(&row.0.to_be_bytes());
        header[11..].copy_from_slice(&counter.to_be_bytes());
        header
    }
}

impl<'a> ParkedDatagram<'a> {
    /// Bytes of the shortest keepalive: nothing but a ring is longer than it.
    pub const SHORTEST_KEEPALIVE: usize = HEADER_LEN + KEEPALIVE_LEN + TAG_LEN;

    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let (from, sealed) = match self {
            Self::Keepalive(sealed) => (Sender::Node, sealed),
            Self::Word(sealed) => (Sender::Peer, sealed),
            Self::Unknown { row, counter, retry_after_ms } => {
                let mut w = Writer::with_capacity(HEADER_LEN + 4);
                w.u8(TYPE_PARKED).u8(VERSION).u8(3).u64(row.0).u64(*counter).u32(*retry_after_ms);
                return w.into_vec();
            }
        };
        let mut w = Writer::with_capacity(HEADER_LEN + sealed.sealed.len());
        w.put(&Sealed::header(from, sealed.row, sealed.counter)).put(sealed.sealed);
        w.into_vec()
    }

    /// Reads a datagram of class [`Class::Parked`](crate::datagram::Class::Parked), borrowing what
    /// is sealed.
    ///
    /// # Errors
    /// [`DecodeError`] when it is anything but exactly one.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        if datagram.len() > MAX_PARKED {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(datagram);
        match r.u8()? {
            TYPE_PARKED => {}
            other => return Err(DecodeError::UnknownType(other)),
        }
        match r.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnsupportedVersion(other)),
        }
        let kind = r.u8()?;
        let (row, counter) = (RowId(r.u64()?), r.u64()?);
        let least = match kind {
            1 => KEEPALIVE_LEN + TAG_LEN,
            2 => 1 + TAG_LEN,
            3 => {
                let retry_after_ms = r.u32()?;
                r.finish()?;
                return Ok(Self::Unknown { row, counter, retry_after_ms });
            }
            other => return Err(DecodeError::UnknownType(other)),
        };
        let sealed = r.rest();
        if sealed.len() < least {
            return Err(DecodeError::Truncated);
        }
        let sealed = Sealed { row, counter, sealed };
        Ok(if kind == 1 { Self::Keepalive(sealed) } else { Self::Word(sealed) })
    }
}

/// What a parked node says: it is there, and what it has taken of what the peer has rung with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalive {
    /// From a challenge; 0 when there was none.
    pub cookie: u64,
    /// The number of the latest ring that the node has heard.
    pub rung: u32,
    /// Envelopes that it has stored, to be forgotten by the peer; at most
    /// [`MAX_TAKEN`].
    pub taken: Vec<EnvelopeId>,
}

impl Keepalive {
    /// What is to be sealed.
    ///
    /// # Panics
    /// With more than [`MAX_TAKEN`] envelopes.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.taken.len() <= MAX_TAKEN, "the rest is said with the next");
        let mut w = Writer::with_capacity(13 + 8 * self.taken.len());
        w.u64(self.cookie).u32(self.rung).u8(self.taken.len() as u8);
        for id in &self.taken {
            w.u64(id.0);
        }
        let mut bytes = w.into_vec();
        bytes.resize(bytes.len().max(KEEPALIVE_LEN), 0);
        bytes
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// [`DecodeError`] when it is anything but exactly one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (cookie, rung, count) = (r.u64()?, r.u32()?, usize::from(r.u8()?));
        if count > MAX_TAKEN {
            return Err(DecodeError::TooLong);
        }
        let taken = (0..count).map(|_| r.u64().map(EnvelopeId)).collect::<Result<_, _>>()?;
        let padding = r.rest();
        match bytes.len() {
            0..KEEPALIVE_LEN => Err(DecodeError::Truncated),
            KEEPALIVE_LEN if padding.iter().all(|&b| b == 0) => Ok(Self { cookie, rung, taken }),
            KEEPALIVE_LEN => Err(DecodeError::Invalid("padding")),
            _ if padding.is_empty() => Ok(Self { cookie, rung, taken }),
            _ => Err(DecodeError::TrailingBytes),
        }
    }
}

/// What a peer says to a parked node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It has heard a keepalive.
    Heard {
        /// The keepalive's.
        counter: u64,
        /// Envelopes that wait, as far as 16 bits can say.
        waiting: u16,
    },
    /// Are you, at this new address, the one who has parked here?
    Challenge {
        /// To be sent back with a keepalive.
        cookie: u64,
    },
    /// Something has come.
    Ring {
        /// Rises with each ring; its parts share it.
        number: u32,
        /// Envelopes that wait, as far as 16 bits can say.
        waiting: u16,
        /// What of it is in this datagram.
        part: RingPart,
    },
    /// The peer is about to stop.
    Draining {
        /// Milliseconds after which to come back; spread so that not all come at once.
        retry_after_ms: u32,
    },
}

/// One of the parts in which a ring brings an encoded [`Push`](crate::peer::Push).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPart {
    /// Which one, from 0 on.
    pub part: u8,
    /// Of how many, at most [`MAX_RING_PARTS`]; 0 when the ring brings nothing: the node has to come
    /// for it.
    pub parts: u8,
    /// Its bytes. All parts but the last have [`RING_BYTES`].
    pub bytes: Vec<u8>,
}

impl RingPart {
    /// The ring that brings nothing.
    pub const NOTHING: Self = Self { part: 0, parts: 0, bytes: Vec::new() };

    /// The parts of `bytes`; `None` when they do not fit in one ring.
    pub fn split(bytes: &[u8]) -> Option<Vec<Self>> {
        let parts = u8::try_from(bytes.len().div_ceil(RING_BYTES)).ok()?;
        if parts > MAX_RING_PARTS {
            return None;
        }
        let chunks = bytes.chunks(RING_BYTES).zip(0..);
        Some(chunks.map(|(it, part)| Self { part, parts, bytes: it.to_vec() }).collect())
    }

    fn is_sound(&self) -> bool {
        let last = self.part.checked_add(1) == Some(self.parts);
        match self.parts {
            0 => self.part == 0 && self.bytes.is_empty(),
            1..=MAX_RING_PARTS if last => (1..=RING_BYTES).contains(&self.bytes.len()),
            1..=MAX_RING_PARTS => self.part < self.parts && self.bytes.len() == RING_BYTES,
            _ => false,
        }
    }
}

impl Word {
    /// What is to be sealed.
    ///
    /// # Panics
    /// When the part of a ring is none that [`RingPart::split`] makes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(16);
        match self {
            Self::Heard { counter, waiting } => w.u8(1).u64(*counter).u16(*waiting),
            Self::Challenge { cookie } => w.u8(2).u64(*cookie),
            Self::Ring { number, waiting, part } => {
                assert!(part.is_sound(), "rings are split by `RingPart::split`");
                let RingPart { part, parts, bytes } = part;
                w.u8(3).u32(*number).u16(*waiting).u8(*part).u8(*parts).put(bytes)
            }
            Self::Draining { retry_after_ms } => w.u8(4).u32(*retry_after_ms),
        };
        w.into_vec()
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// [`DecodeError`] when it is anything but exactly one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let it = match r.u8()? {
            1 => Self::Heard { counter: r.u64()?, waiting: r.u16()? },
            2 => Self::Challenge { cookie: r.u64()? },
            3 => {
                let (number, waiting) = (r.u32()?, r.u16()?);
                let part = RingPart { part: r.u8()?, parts: r.u8()?, bytes: r.rest().to_vec() };
                if !part.is_sound() {
                    return Err(DecodeError::Invalid("part of a ring"));
                }
                Self::Ring { number, waiting, part }
            }
            4 => Self::Draining { retry_after_ms: r.u32()? },
            other => return Err(DecodeError::UnknownType(other)),
        };
        r.finish()?;
        Ok(it)
    }
}
