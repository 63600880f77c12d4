//! What can happen next.

use std::fmt;

use crate::message::{Inner, NAMES, Side};

/// One thing that happens. Between any two, everything in memory can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The program sends a message: it gets a place, in the transaction.
    Accept(Side),
    /// The next message is encrypted, in the transaction.
    Encrypt(Side),
    /// A message that has left is encrypted once more: a planted fault.
    EncryptAgain(Side, u8),
    /// A ping is encrypted, in the transaction.
    Ping(Side),
    /// An acknowledgement for the mailbox is encrypted, in the transaction.
    MakeAck(Side),
    /// A session begins and a resend is encrypted on it, in the transaction.
    AskAgain(Side),
    /// The transaction ends: what it wrote is on disk.
    Commit(Side),
    /// The program hears of a message in the inbox.
    Tell(Side),
    /// A message is written to the connection.
    Write(Side, u8),
    /// An acknowledgement is written to the connection.
    WriteAck(Side),
    /// A message is left at the peer, which gives a receipt.
    Leave(Side, u8),
    /// What waits first outside of the stream leaves, by the connection or to the peer.
    LeaveControl(Side),
    /// What is first on the connection is read, in a transaction.
    Read(Side),
    /// An envelope is fetched from the mailbox and read, in a transaction.
    Fetch(Side, Inner),
    /// The peer hears what it may forget.
    AckToPeer(Side),
    /// A node learns of the peer's new instance and registers.
    Register(Side),
    /// A connection begins.
    Connect,
    /// Nothing else can happen: time passes until receipts have run out and a resend may be asked
    /// for again.
    Wait,
    /// A node dies and begins again.
    Crash(Side),
    /// The peer dies and begins again.
    Restart,
    /// An envelope to this side is lost at the peer.
    Expire(Side, Inner),
    /// The connection breaks.
    Cut,
    /// An envelope with something old is in the mailbox of its recipient.
    Replay(Inner),
    /// A node loses the keys of its sessions.
    LoseKeys(Side),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |n: &Side| NAMES[*n];
        match self {
            Self::Accept(n) => write!(f, "{}: accepts a message, in memory", name(n)),
            Self::Encrypt(n) => write!(f, "{}: encrypts the next message, in memory", name(n)),
            Self::EncryptAgain(n, p) => write!(f, "{}: encrypts message {p} again", name(n)),
            Self::Ping(n) => write!(f, "{}: encrypts a ping, in memory", name(n)),
            Self::MakeAck(n) => write!(f, "{}: encrypts an ack, in memory", name(n)),
            Self::AskAgain(n) => write!(f, "{}: begins a session and encrypts a resend", name(n)),
            Self::Commit(n) => write!(f, "{}: commits", name(n)),
            Self::Tell(n) => write!(f, "{}: tells the program of a message", name(n)),
            Self::Write(n, p) => write!(f, "{}: writes message {p} to the connection", name(n)),
            Self::WriteAck(n) => write!(f, "{}: writes an ack to the connection", name(n)),
            Self::Leave(n, p) => write!(f, "{}: leaves message {p} at the peer", name(n)),
            Self::LeaveControl(n) => write!(f, "{}: sends the first control message", name(n)),
            Self::Read(n) => write!(f, "{}: reads from the connection, in memory", name(n)),
            Self::Fetch(n, inner) => write!(f, "{}: fetches {inner}, in memory", name(n)),
            Self::AckToPeer(n) => write!(f, "{}: tells the peer what to forget", name(n)),
            Self::Register(n) => write!(f, "{}: registers with the new instance", name(n)),
            Self::Connect => write!(f, "a connection begins"),
            Self::Wait => write!(f, "time passes, receipts run out"),
            Self::Crash(n) => write!(f, "FAULT: {} dies and begins again", name(n)),
            Self::Restart => write!(f, "FAULT: the peer dies and begins again"),
            Self::Expire(n, inner) => write!(f, "FAULT: the peer loses {inner} to {}", name(n)),
            Self::Cut => write!(f, "FAULT: the connection breaks"),
            Self::Replay(inner) => {
                write!(f, "FAULT: the peer has {inner} of {} again", name(&inner.from))
            }
            Self::LoseKeys(n) => write!(f, "FAULT: {} loses the keys of its sessions", name(n)),
        }
    }
}
