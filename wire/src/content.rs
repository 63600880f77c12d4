//! What is said inside a [`Plain`](crate::inner::Plain), by kind. Postcard; nothing here is seen
//! by a rendezvous peer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, decode_control, encode_control};
use crate::ids::{MessageId, Nonce, PeerFingerprint, Seq, StreamId, Transcript};
use crate::limits::{MAX_CONTENT, MAX_HOST, MAX_NAME, MAX_NOTE, MAX_PEERS, MAX_TEXT};

/// A rendezvous peer that serves somebody: where it is and, when known, its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerHint {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// The peer's key, when the giver of the hint knows it.
    pub key: Option<PeerFingerprint>,
}

/// Who the sender is and how to reach her: the content of a request and of its acceptance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The name that the sender gives herself; empty when she gives none. Not proof of anything.
    pub name: String,
    /// A line to the recipient; empty in an acceptance.
    pub note: String,
    /// The sender's rendezvous peers in order of preference, 1 to 3.
    pub peers: Vec<PeerHint>,
    /// The secret of the reach capability that the sender gives this recipient.
    pub capability: [u8; 32],
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

/// What a person or program wrote.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Drawn at random for this message: its name comes from it, so that it keeps its name when it
    /// is moved to another stream. It stands in front in every version.
    pub nonce: Nonce,
    /// The message that this one answers, if any: messages form a tree.
    pub parent: Option<MessageId>,
    /// What is written.
    pub body: Body,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Message(…)")
    }
}

/// The forms of content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Body {
    /// Text of at most [`MAX_TEXT`] bytes.
    Text(String),
    /// Nothing: what stood here was taken back before it left its writer's machine, or its time was
    /// over. It keeps the place in the stream. Nobody is told of it.
    Withdrawn,
}

impl Message {
    /// What takes the place of a message that is taken back.
    pub const WITHDRAWN: Self = Self { nonce: Nonce([0; 16]), parent: None, body: Body::Withdrawn };
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} B)", text.len()),
            Self::Withdrawn => f.write_str("Withdrawn"),
        }
    }
}

/// Everything of `stream` below `next` has arrived and is on the recipient's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The stream that is acknowledged.
    pub stream: StreamId,
    /// The first place that has not arrived.
    pub next: Seq,
    /// What the recipient has read in the places below `next`. If it is not what the sender has
    /// written there, the sender's store has been set back or copied, and nothing is acknowledged.
    pub transcript: Transcript,
}

/// Asks for everything of `stream` from `next` on again, under the session that carries this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The stream that is missing something; `None` when nothing of it was ever readable.
    pub stream: Option<StreamId>,
    /// The first place that has not arrived.
    pub next: Seq,
}

/// A number to send back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Chosen by who asks.
    pub nonce: u64,
}

/// A step of the safety-code exchange. The cryptography is the identity crate's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safety {
    /// The exchange, drawn at random by who starts it.
    pub exchange: [u8; 16],
    /// The step.
    pub step: SafetyStep,
}

/// The steps in order: start, commit, reveal, reveal, and each side's confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SafetyStep {
    /// Initiator: let us compare.
    Start,
    /// Responder: the hash of the key that will be revealed.
    Commit([u8; 32]),
    /// Initiator: its fresh key.
    RevealInitiator([u8; 32]),
    /// Responder: the key that it committed to.
    RevealResponder([u8; 32]),
    /// Either: my person typed the right digits; a MAC over the exchange and my fingerprint.
    Confirm([u8; 32]),
    /// Either: the digits differ, or the exchange broke. Counted as a failed run.
    Mismatch,
    /// Either: not now.
    Cancel,
}

/// A content type with its limits.
pub trait Content: Serialize + serde::de::DeserializeOwned {
    /// Checks the limits that the encoding does not.
    ///
    /// # Errors
    /// [`DecodeError`] naming the field that is beyond its limit.
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }

    /// The content's bytes.
    fn encode(&self) -> Vec<u8> {
        encode_control(self)
    }

    /// Reads a content and checks its limits.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one content within its limits.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let it: Self = decode_control(bytes, MAX_CONTENT)?;
        it.check()?;
        Ok(it)
    }
}

/// The content of a place in a stream, as it is encrypted: what the stream held before it, and what
/// is said. A recipient who has read something else there reads no further.
///
/// ```text
/// transcript 16 | content
/// ```
pub fn in_stream(before: Transcript, content: &[u8]) -> Vec<u8> {
    [&before.0, content].concat()
}

/// Takes apart what [`in_stream`] made.
///
/// # Errors
/// [`DecodeError::Truncated`] when there are too few bytes.
pub fn from_stream(bytes: &[u8]) -> Result<(Transcript, &[u8]), DecodeError> {
    let mut r = Reader::new(bytes);
    Ok((Transcript(r.array()?), r.rest()))
}

impl Content for Profile {
    fn check(&self) -> Result<(), DecodeError> {
        let usable = |p: &PeerHint| (1..=MAX_HOST).contains(&p.host.len()) && p.port != 0;
        if self.name.len() > MAX_NAME || self.note.len() > MAX_NOTE {
            return Err(DecodeError::TooLong);
        }
        if self.peers.is_empty() || self.peers.len() > MAX_PEERS || !self.peers.iter().all(usable) {
            return Err(DecodeError::Invalid("list of peers"));
        }
        Ok(())
    }
}

impl Content for Message {
    fn check(&self) -> Result<(), DecodeError> {
        match &self.body {
            Body::Text(text) if text.len() > MAX_TEXT => Err(DecodeError::TooLong),
            Body::Text(_) | Body::Withdrawn => Ok(()),
        }
    }
}

impl Message {
    /// The nonce in a message's bytes, also in those of a newer version.
    ///
    /// # Errors
    /// [`DecodeError`] when there are too few bytes.
    pub fn nonce_in(bytes: &[u8]) -> Result<Nonce, DecodeError> {
        Reader::new(bytes).array().map(Nonce)
    }
}

impl Content for Ack {}
impl Content for Resend {}
impl Content for Ping {}
impl Content for Safety {}
