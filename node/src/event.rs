//! What a node tells its program.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use halloo_identity::{Fingerprint, PeerFingerprint, PeerHost};
pub use halloo_nat::{Technique, WhyRelayed};
use halloo_wire::MessageId;
use halloo_wire::peer::NotAdmitted;
use serde::{Deserialize, Serialize};

/// A place in the durable events of a node. Events after it can be read again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Cursor(pub u64);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's place, for durable events. `None` for passing ones (online, path, …), which
    /// are not kept.
    pub cursor: Option<Cursor>,
    /// [`mono_ns`](crate::mono_ns) at the moment when the event was emitted to this program.
    pub mono_ns: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
// The store keeps durable ones by their number: what is new stands at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// The node is registered with its rendezvous peer and can be reached. Passing.
    Online {
        /// The peer.
        #[serde(with = "crate::text::as_text")]
        peer: PeerHost,
        /// Which of the machines behind that name; the peer itself when there is one only.
        #[serde(with = "crate::text::as_text")]
        machine: PeerHost,
    },
    /// The node lost its rendezvous peer; it tries again by itself. Passing.
    Offline {
        /// The peer.
        #[serde(with = "crate::text::as_text")]
        peer: PeerHost,
        /// Why, for people.
        why: String,
    },
    /// A rendezvous peer shows another key than before. The node does not talk to it. Passing.
    PeerKeyChanged {
        /// The peer.
        #[serde(with = "crate::text::as_text")]
        peer: PeerHost,
        /// The key that it had.
        expected: PeerFingerprint,
        /// The key that it shows.
        found: PeerFingerprint,
    },
    /// Somebody wants to talk and waits for [`accept`](crate::Node::accept). Durable.
    Request {
        /// Who.
        from: Fingerprint,
        /// The name that they give themselves; empty when none.
        name: String,
        /// Their line to us; may be empty.
        note: String,
    },
    /// A contact is accepted, by us or by them: messages flow. Durable.
    Accepted {
        /// Who.
        contact: Fingerprint,
    },
    /// A message arrived and is on disk. Durable.
    Message {
        /// Who wrote.
        from: Fingerprint,
        /// The message's name.
        id: MessageId,
        /// What they wrote.
        text: String,
        /// The message that it answers.
        parent: Option<MessageId>,
        /// How it came.
        via: Via,
    },
    /// A message waits at the recipient's peer. Passing: the peer promises nothing.
    AtPeer {
        /// For whom.
        to: Fingerprint,
        /// Which message.
        id: MessageId,
        /// Until when the peer means to keep it, Unix seconds.
        until_unix_s: u64,
    },
    /// The recipient has the message on disk and said so, end to end. Durable, final.
    Delivered {
        /// Who has it.
        to: Fingerprint,
        /// Which message.
        id: MessageId,
        /// How the acknowledgement came.
        via: Via,
    },
    /// What waits for a contact cannot be left at the contact's peer for now. It is kept here, and
    /// the node goes on trying by itself. Told at each attempt that fails. Passing.
    Undeliverable {
        /// For whom something waits.
        to: Fingerprint,
        /// What is in the way.
        why: Hindrance,
    },
    /// A message will not be delivered. Durable, final.
    Failed {
        /// For whom it was.
        to: Fingerprint,
        /// Which message.
        id: MessageId,
        /// Why.
        why: FailReason,
    },
    /// The path to a contact changed. Passing.
    Path {
        /// Which contact.
        contact: Fingerprint,
        /// The path from here on.
        path: Path,
    },
    /// A safety-code exchange moved on. Durable.
    Safety {
        /// With whom.
        contact: Fingerprint,
        /// Where it stands.
        state: SafetyState,
    },
    /// A message could not be read and was asked for again under fresh keys. Passing.
    Undecryptable {
        /// Who sent it.
        from: Fingerprint,
    },
    /// A contact has begun again: their home was emptied, restored from a backup, set back or
    /// copied. If they say that they did nothing of it, somebody else may have their keys. Durable.
    BeganAgain {
        /// Who.
        contact: Fingerprint,
    },
    /// A contact has read what this store has never written: it was set back to an earlier state, or
    /// a copy of it writes in the same name. What they have not acknowledged is sent again. Durable.
    SetBack {
        /// Who knows more.
        contact: Fingerprint,
    },
    /// The program reads too slowly: this many passing events were dropped. Passing.
    Lagged {
        /// How many.
        dropped: u64,
    },
    /// The node's rendezvous peer does not host it: others cannot reach it before its operator changes
    /// that, or gives an invite ([`Node::set_invite`](crate::Node::set_invite)). The node asks again by
    /// itself, more and more seldom. Passing.
    NotAdmitted {
        /// The peer.
        #[serde(with = "crate::text::as_text")]
        peer: PeerHost,
        /// Why.
        why: NotAdmitted,
    },
}

impl EventKind {
    pub(crate) fn is_durable(&self) -> bool {
        matches!(
            self,
            Self::Request { .. }
                | Self::Accepted { .. }
                | Self::Message { .. }
                | Self::Delivered { .. }
                | Self::Failed { .. }
                | Self::Safety { .. }
                | Self::BeganAgain { .. }
                | Self::SetBack { .. }
        )
    }
}

/// How something travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Via {
    /// On a direct connection.
    Direct,
    /// Through a relay channel.
    Relay,
    /// In a sealed envelope through the recipient's rendezvous peer.
    Mailbox,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Mailbox => "mailbox",
        })
    }
}

/// The path to a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Path {
    /// Straight to the contact's address. Told as soon as the address has proved to be the
    /// contact's; data flows as soon as the connection's handshake is done, which is about that
    /// time.
    Direct {
        /// The contact's address.
        addr: SocketAddr,
        /// Smoothed round-trip time when the path was chosen, zero when not known yet.
        rtt: Duration,
        /// How the path was found.
        technique: Technique,
    },
    /// Through a relay channel at the rendezvous peer of one of the two. The connection is the
    /// same, and moves to a direct path when there is one.
    Relayed {
        /// Smoothed round-trip time, zero when not known yet.
        rtt: Duration,
        /// Why not directly.
        why: WhyRelayed,
    },
    /// No connection: envelopes through the contact's rendezvous peer.
    Mailbox,
}

impl Path {
    /// How something sent now travels.
    pub fn via(&self) -> Via {
        match self {
            Self::Direct { .. } => Via::Direct,
            Self::Relayed { .. } => Via::Relay,
            Self::Mailbox => Via::Mailbox,
        }
    }
}

/// Why a message failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailReason {
    /// The contact was blocked here before it was delivered.
    Blocked,
    /// It was cancelled here before it could leave.
    Cancelled,
    /// Its time was over before it could leave.
    Expired,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "the contact is blocked",
            Self::Cancelled => "it was cancelled",
            Self::Expired => "its time was over before it could leave",
        })
    }
}

/// What keeps a message from being left at the recipient's peer for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Hindrance {
    /// The peer gave out keys that are not the contact's, or that somebody has changed. Nothing
    /// was sealed to them. The peer, or whoever stands in front of it, does not play fair.
    KeysRefused {
        /// Which check failed, for people.
        why: String,
    },
    /// The peer does not know the contact: the address is wrong, or the contact has not been
    /// online since the peer started.
    UnknownAtPeer,
    /// Something that can pass by itself: no connection, a full mailbox.
    Other {
        /// What, for people.
        why: String,
    },
}

impl Hindrance {
    /// A stable name for programs, in kebab case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeysRefused { .. } => "keys-refused",
            Self::UnknownAtPeer => "unknown-at-peer",
            Self::Other { .. } => "not-now",
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeysRefused { why } => {
                write!(f, "their peer gives out keys that are not theirs: {why}")
            }
            Self::UnknownAtPeer => f.write_str(
                "their peer does not know them: the address is wrong, or they have not been \
                 online since the peer started",
            ),
            Self::Other { why } => f.write_str(why),
        }
    }
}

/// Where a message stands, in the words that people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Kept here, on disk.
    Waiting,
    /// A copy waits at the recipient's peer; another is kept here.
    AtPeer {
        /// Until when the peer means to keep it, Unix seconds.
        until_unix_s: u64,
    },
    /// The recipient has it on disk. Final.
    Delivered,
    /// It will not be delivered. Final.
    Failed {
        /// Why.
        why: FailReason,
    },
}

impl Delivery {
    /// Whether nothing can change any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Delivered | Self::Failed { .. })
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting here"),
            Self::AtPeer { until_unix_s } => {
                write!(f, "at their peer until {}", crate::text::utc(*until_unix_s))
            }
            Self::Delivered => f.write_str("delivered"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

/// Where a safety-code exchange stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SafetyState {
    /// Begun; the code is not known yet.
    Started {
        /// Whether this node began it.
        by_us: bool,
    },
    /// Both sides can read the code to each other.
    CodeReady {
        /// The six digits, for example `481 907`.
        code: String,
    },
    /// Our person typed the right digits; theirs has not yet.
    WaitingForThem,
    /// Both did: the contact is checked.
    Verified,
    /// The digits differ, on either side: somebody may stand between.
    Mismatch,
    /// Given up, on either side.
    Cancelled,
}

impl fmt::Debug for SafetyState {
    /// The code is for two people and not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started { by_us: true } => "Started(by us)",
            Self::Started { by_us: false } => "Started(by them)",
            Self::CodeReady { .. } => "CodeReady(…)",
            Self::WaitingForThem => "WaitingForThem",
            Self::Verified => "Verified",
            Self::Mismatch => "Mismatch",
            Self::Cancelled => "Cancelled",
        })
    }
}
