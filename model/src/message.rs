//! What nodes say to each other.

use std::fmt;

/// One of the two nodes.
pub type Side = usize;

/// Their names.
pub const NAMES: [&str; 2] = ["alice", "bob"];

/// The other node.
pub fn other(side: Side) -> Side {
    1 - side
}

/// The message key with which something was encrypted. With the side that wrote it, it is the only
/// one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The session, by the order in which they began.
    pub session: u8,
    /// How many keys of the writer's chain came before.
    pub index: u8,
}

/// The inside of an inner message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// A message of the stream, by its place.
    Place(u8),
    /// Everything below this place is on disk.
    Ack(u8),
    /// Everything from this place on is to be encrypted again.
    Resend(u8),
    /// A message outside of the stream that changes nothing.
    Ping,
}

impl Content {
    /// Whether it has a place in the stream.
    pub fn is_sequenced(self) -> bool {
        matches!(self, Self::Place(_))
    }
}

/// An inner message: the same bytes on every path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inner {
    /// Who wrote it.
    pub from: Side,
    /// What it says.
    pub content: Content,
    /// The number in its route: its place or, outside of the stream, the first place that was not
    /// encrypted yet.
    pub number: u8,
    /// What it was encrypted with.
    pub key: Key,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => write!(f, "message {place}"),
            Self::Ack(next) => write!(f, "ack below {next}"),
            Self::Resend(next) => write!(f, "resend from {next}"),
            Self::Ping => write!(f, "ping"),
        }
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { session, index } = self.key;
        write!(f, "[{}, key {index} of session {session}", self.content)?;
        if !self.content.is_sequenced() {
            write!(f, ", behind places below {}", self.number)?;
        }
        write!(f, "]")
    }
}
