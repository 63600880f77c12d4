//! Datagrams that share the UDP port with QUIC.
//!
//! The first byte tells what a datagram is. RFC 9443 gives QUIC `0x40..=0x7f` (short header) and
//! `0xc0..=0xff` (long header), which holds as long as nobody greases the QUIC bit; ours use bytes
//! that no protocol of that registry claims.
//!
//! ```text
//! probe  0x04 | version 1 | key id 8 | sealed, at most 70 bytes       at most 80 bytes in all
//! relay  0x05 | channel 8 | one QUIC datagram                         never nested
//! peer   0x06 | version 1 | ...                        between node and rendezvous peer
//! parked 0x07 | version 1 | kind 1 | row 8 | counter 8 | ...            the same, sealed
//! ```
//!
//! The last two kinds are in [`peer_datagram`](crate::peer_datagram) and [`parked`](crate::parked).

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::ChannelId;
use crate::limits::{MAX_DATAGRAM, MAX_PROBE};

const TYPE_PROBE: u8 = 0x04;
const TYPE_RELAY: u8 = 0x05;
pub(crate) const TYPE_PEER: u8 = 0x06;
pub(crate) const TYPE_PARKED: u8 = 0x07;
/// Bytes in front of a relayed datagram.
pub const RELAY_HEADER: usize = 9;
/// Version of the datagrams in this module.
const VERSION: u8 = 1;

/// What the first byte says a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A QUIC packet: it goes to the QUIC endpoint.
    Quic,
    /// A hole-punching probe: it goes to the `nat` crate's agents.
    Probe,
    /// A relay frame.
    Relay,
    /// A small datagram between a node and a rendezvous peer.
    Peer,
    /// A datagram of a parked registration.
    Parked,
    /// Anything else: dropped and counted.
    Unknown,
}

/// Classifies a datagram by its first byte; an empty one is [`Class::Unknown`].
pub fn classify(datagram: &[u8]) -> Class {
    match datagram.first() {
        Some(b) if b & 0x40 != 0 => Class::Quic,
        Some(&TYPE_PROBE) => Class::Probe,
        Some(&TYPE_RELAY) => Class::Relay,
        Some(&TYPE_PEER) => Class::Peer,
        Some(&TYPE_PARKED) => Class::Parked,
        _ => Class::Unknown,
    }
}

/// A hole-punching probe, still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Names the key that opens it; derived like it, for each round and direction.
    pub key_id: u64,
    /// AEAD ciphertext, 16 to 70 bytes.
    pub sealed: Vec<u8>,
}

impl Probe {
    /// Longest sealed part.
    pub const MAX_SEALED: usize = MAX_PROBE - 10;
    /// Shortest sealed part: an empty plaintext and the AEAD's tag.
    pub const MIN_SEALED: usize = 16;

    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(10 + self.sealed.len());
        w.u8(TYPE_PROBE).u8(VERSION).u64(self.key_id).put(&self.sealed);
        w.into_vec()
    }

    /// Reads a datagram of class [`Class::Probe`].
    ///
    /// # Errors
    /// [`DecodeError`] when it is anything but exactly one probe.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(datagram);
        match r.u8()? {
            TYPE_PROBE => {}
            other => return Err(DecodeError::UnknownType(other)),
        }
        match r.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnsupportedVersion(other)),
        }
        let key_id = r.u64()?;
        let sealed = r.rest();
        if sealed.len() < Self::MIN_SEALED {
            return Err(DecodeError::Truncated);
        }
        if sealed.len() > Self::MAX_SEALED {
            return Err(DecodeError::TooLong);
        }
        Ok(Self { key_id, sealed: sealed.to_vec() })
    }
}

/// A QUIC datagram on a leased channel of a relay. The peer forwards it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayFrame<'a> {
    /// The channel, under the number of the side that sent the frame.
    pub channel: ChannelId,
    /// The datagram, of class [`Class::Quic`].
    pub datagram: &'a [u8],
}

impl<'a> RelayFrame<'a> {
    /// What stands in front of each datagram on `channel`.
    pub fn header(channel: ChannelId) -> [u8; RELAY_HEADER] {
        let mut header = [TYPE_RELAY; RELAY_HEADER];
        header[1..].copy_from_slice(&channel.0.to_be_bytes());
        header
    }

    /// The datagram that goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(RELAY_HEADER + self.datagram.len());
        w.put(&Self::header(self.channel)).put(self.datagram);
        w.into_vec()
    }

    /// Reads a datagram of class [`Class::Relay`], borrowing its content.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not a relay frame around one QUIC datagram.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(datagram);
        match r.u8()? {
            TYPE_RELAY => {}
            other => return Err(DecodeError::UnknownType(other)),
        }
        let channel = ChannelId(r.u64()?);
        let datagram = r.rest();
        match classify(datagram) {
            Class::Quic => Ok(Self { channel, datagram }),
            _ if datagram.is_empty() => Err(DecodeError::Truncated),
            _ => Err(DecodeError::Invalid("relayed datagram")),
        }
    }
}
