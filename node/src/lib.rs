//! Talk straight to people and programs, with nobody in between.
//!
//! A [`Node`] is one device of one identity. It is known by its [`Address`],
//! `peer-host/fingerprint`: the fingerprint is made from the node's own keys, the host is the
//! rendezvous peer where it can be found. Two nodes talk over a direct QUIC connection; where that
//! is impossible, or while one is away, sealed envelopes wait at the recipient's rendezvous peer,
//! which cannot read them and does not know who left them.
//!
//! ```no_run
//! use halloo::{EventKind, Node};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder()
//!     .home("/home/anna/.local/share/my-app")
//!     .peer("peer.example.org".parse()?, None)
//!     .start()
//!     .await?;
//! println!("my address: {}", node.address().await?);
//!
//! let ben = node.add_contact(&"peer.example.org/…".parse()?, Some("Ben"), "It's me").await?;
//! node.send(&ben.fingerprint, "hello").await?;
//!
//! let mut events = node.events_from_now().await?;
//! while let Ok(event) = events.next().await {
//!     if let EventKind::Message { text, .. } = event.kind {
//!         println!("{text}");
//!     }
//! }
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! [`Node::send`] returns when the message is on disk. It stays there until the recipient's node
//! says, end to end, that it has it on its disk; until then it is tried again by every way there
//! is. It arrives once, and messages of one sender arrive in the order in which they were sent. A
//! rendezvous peer can delay this, and nothing else.
//!
//! # What it does to a program
//!
//! It runs on the program's tokio runtime, with one thread of its own for the store. It installs
//! nothing global: no logger (it speaks through `tracing`), no signal handler, no crypto provider.
//! [`Node::shutdown`] ends every task that it began.
//!
//! # Events
//!
//! [`Node::events`] replays what happened since a [`Cursor`] and goes on with what happens. A
//! program that stores the cursor of the last event it dealt with misses nothing and, apart from
//! the event that it was dealing with when it was killed, sees nothing twice.

mod builder;
mod channel;
mod check;
mod clock;
mod contact;
mod core;
mod crash;
pub mod error;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod home;
mod net;
mod network;
mod node;
mod planted;
mod random;
#[cfg(test)]
mod simulation;
mod store;
mod stream;
mod text;

pub use builder::Builder;
pub use channel::{Channel, IncomingChannel, RecvStream, SendStream};
pub use check::SafetyCheck;
pub use clock::mono_ns;
pub use contact::{CheckedHow, Contact, ContactState, DirectPolicy, UnknownPolicy, Verification};
#[doc(hidden)]
pub use crash::point as crash_point;
pub use event::{
    Cursor, Delivery, Event, EventKind, FailReason, Hindrance, Path, SafetyState, Technique, Via,
    WhyRelayed,
};
pub use halloo_identity::safety::{TypedCode, TypedCodeError};
pub use halloo_identity::{
    Address, AddressError, DeviceId, Fingerprint, FingerprintError, HomeKey, HostError,
    PeerAddress, PeerAddressError, PeerFingerprint, PeerHost, SafetyNumber,
};
pub use halloo_wire::MessageId;
pub use halloo_wire::invite::{Invite, InviteError};
pub use halloo_wire::peer::NotAdmitted;
pub use home::Home;
pub use network::{
    Allocation, Carrier, Dependence, MachineReport, NatReport, NetworkReport, Outlook, PathReport,
    PeerReport, Reach, Registration,
};
pub use node::{HistoryItem, MAX_HISTORY, Node, NodeStats, Pong, SendOptions};
pub use stream::EventStream;
