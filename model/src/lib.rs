//! A model of how messages are delivered, and a checker that tries every order of steps and faults.
//!
//! The model has the rules of `docs/protocol/delivery.md` as the node follows them, and nothing
//! else: no bytes, no clock, no sockets. `stateright` visits every state that a world of some size
//! can be in and asks in each whether the properties hold ([`properties`]). Where one does not, it
//! names the steps that lead there.
//!
//! # What is modelled
//!
//! - Two nodes that are contacts. Each has a [store](store::Store) on disk, what the running
//!   transaction has made of it, and a memory. A crash leaves the first. A transaction can hold
//!   several inputs, as the store's group commit does.
//! - The sender: accepted, encrypted once, committed, written to the connection, left at the peer,
//!   the receipt noted. A crash can come between any two of them.
//! - The recipient: fetched or read, held until its turn, decrypted, committed, the program told,
//!   acknowledged to the peer, acknowledged to the sender over the connection or by a message
//!   outside of the stream. A crash can come between any two of them.
//! - A rendezvous peer with memory only. When it begins again it has another instance, and its
//!   mailboxes are empty until nodes register. Mailboxes have no order.
//! - A connection, in order, until it breaks with all that is on it. The same inner message can
//!   take both paths, in any order between them.
//! - The ratchet: sessions, a chain of keys each way, and skipped keys, of which only one is kept
//!   where the real one keeps 40. Messages outside of the stream use keys of the same chain. Their
//!   route has the first place that was not encrypted before them; who lacks a place below reads
//!   them on a copy of the session. A resend begins a session.
//! - Faults ([`bounds::Faults`]): a node's crash, the peer's restart, an envelope that is lost, a
//!   connection that breaks, anything that ever left in a mailbox once more (duplicates, old
//!   acknowledgements, a peer that replays), lost keys. Each world has a budget of them.
//!
//! # Liveness
//!
//! Every path ends: faults are counted, and so are pauses, in which nothing can happen but that
//! receipts run out. In a state in which nothing more can happen, everything must be delivered
//! ([`properties::ALL_ENDS_WELL`]), whatever is left of the budget. That is checked as something
//! that always holds; the checker's own "eventually" may overlook paths that meet.
//!
//! # What is left out
//!
//! - Requests, acceptances, blocking, beginning again with another stream id, several own peers.
//! - Ratchet steps by Diffie-Hellman, the limit of five sessions, one-time keys, envelopes' seals.
//! - The sizes of windows, outboxes and mailboxes; a mailbox that refuses. Times: how long a pause
//!   is, and that resends are asked for once a minute, is one pause here.
//! - Bytes that are not what a node wrote: authenticity is taken for granted.
//! - Torn writes: what is committed is on disk.
//!
//! A drop and its receipt are one step. Where no fault can come any more, commits and what the peer
//! is told to forget come first, because their moment makes no difference then;
//! [`bounds::Bounds::every_order`] does without.
//!
//! # What is checked
//!
//! STATES
//!
//! # What it has shown
//!
//! Each fault of [`bug::Bug`] breaks the property that is there for it. As long as no envelope is
//! lost alone and no keys, nothing ever has to wait until a receipt runs out, whatever crashes; and
//! nothing is ever unreadable. For one lost envelope one such pause is enough.
//!
//! Where keys are lost, everything is delivered too, but some only after a receipt has run out. With
//! four more rules it would be sooner: [`delivery::Delivery::amended`].
//!
//! ```text
//! cargo run --release -p halloo-model -- --small
//! cargo run --release -p halloo-model -- --bug control-moves-ratchet
//! ```

pub mod bounds;
pub mod bug;
pub mod delivery;
mod faults;
pub mod message;
pub mod properties;
pub mod ratchet;
mod receiving;
pub mod report;
mod sending;
pub mod step;
pub mod store;
pub mod world;
pub mod worlds;
