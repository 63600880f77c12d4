//! What two nodes say to each other on a direct connection (ALPN [`ALPN_NODE`](crate::ALPN_NODE)).
//!
//! Every stream begins with one byte that says what it is.
//!
//! | byte | stream | content |
//! |---|---|---|
//! | `0x01` | unidirectional, one each way | [`NodeFrame`]s, each behind a 32-bit length |
//! | `0x02` | bidirectional, opened for each channel | name (16-bit length), then the program's own bytes |
//! | `0x03` | bidirectional | eight bytes, sent back as they are: a ping |
//!
//! TLS has already shown both certificates, so a frame needs no sender.

use crate::codec::{DecodeError, Reader, Writer};
use crate::content::Ack;
use crate::ids::{Seq, StreamId, Transcript};
use crate::limits::{MAX_CHANNEL_NAME, MAX_INNER};

/// What a stream between two nodes is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Messages and acknowledgements.
    Messages,
    /// A channel of the program's own.
    Channel,
    /// An echo.
    Ping,
}

impl StreamKind {
    /// The stream's first byte.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Messages => 0x01,
            Self::Channel => 0x02,
            Self::Ping => 0x03,
        }
    }

    /// Reads a stream's first byte.
    ///
    /// # Errors
    /// [`DecodeError::UnknownType`] for any other byte.
    pub fn from_byte(b: u8) -> Result<Self, DecodeError> {
        match b {
            0x01 => Ok(Self::Messages),
            0x02 => Ok(Self::Channel),
            0x03 => Ok(Self::Ping),
            other => Err(DecodeError::UnknownType(other)),
        }
    }
}

/// One frame on a message stream, behind its 32-bit length.
///
/// ```text
/// 0x01 | an inner message
/// 0x02 | stream 8 | next 8 | transcript 16
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFrame {
    /// An encoded [`Inner`](crate::inner::Inner), the same bytes as in an envelope.
    Inner(Vec<u8>),
    /// An acknowledgement. It needs no ratchet here: TLS authenticates it.
    Ack(Ack),
}

impl NodeFrame {
    /// The frame with its length in front.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Inner(bytes) => w.u32(1 + bytes.len() as u32).u8(0x01).put(bytes),
            Self::Ack(ack) => {
                w.u32(33).u8(0x02).u64(ack.stream.0).u64(ack.next.0).put(&ack.transcript.0)
            }
        };
        w.into_vec()
    }

    /// Reads a frame without its length. The inner message is not parsed.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            0x01 => {
                let inner = r.rest();
                if inner.len() > MAX_INNER {
                    return Err(DecodeError::TooLong);
                }
                Ok(Self::Inner(inner.to_vec()))
            }
            0x02 => {
                let (stream, next) = (StreamId(r.u64()?), Seq(r.u64()?));
                let ack = Ack { stream, next, transcript: Transcript(r.array()?) };
                r.finish()?;
                Ok(Self::Ack(ack))
            }
            other => Err(DecodeError::UnknownType(other)),
        }
    }
}

/// The name of a channel: 1 to [`MAX_CHANNEL_NAME`] bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(String);

impl ChannelName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when it is empty, [`DecodeError::TooLong`] beyond the limit.
    pub fn new(name: &str) -> Result<Self, DecodeError> {
        match name.len() {
            0 => Err(DecodeError::Invalid("channel name")),
            n if n > MAX_CHANNEL_NAME => Err(DecodeError::TooLong),
            _ => Ok(Self(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the stream's first byte: the name behind a 16-bit length.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes16(self.0.as_bytes());
        w.into_vec()
    }

    /// Reads a name without its length.
    ///
    /// # Errors
    /// [`DecodeError`] when it is empty, too long or not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::new(std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid("channel name"))?)
    }
}
