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
//! The [small worlds](worlds::small) are checked by `cargo test`, the [large ones](worlds::large) by
//! the program `model`. "All faults" are all kinds, so many of them in one run; a world with faults
//! has two pauses for each. States, and seconds of one core of a small machine:
//!
//! | messages | paths | faults | states | s |
//! |---|---|---|---|---|
//! | 1 | both | 1 of all | 34,788 | 0.1 |
//! | 1, in every order | both | 1 of all | 331,377 | 3 |
//! | 1, and the program told | both | 1 of all | 69,141 | 0.4 |
//! | 1 | peer | 2 of all | 52,274 | 0.3 |
//! | 2 | both | none | 22,915 | 0.1 |
//! | 2 and a ping | peer | 1 of all | 393,519 | 2 |
//! | 3 | peer | 1 of all | 348,248 | 2 |
//! | 3 | connection | 3 of crash, cut | 12,034 | 0.1 |
//! | 1 each way | peer | 1 of all | 149,334 | 0.6 |
//! | 1 each way | both | none | 185,692 | 1 |
//! | 1 | both | 2 of all | 3,597,838 | 23 |
//! | 2 | both | 1 of all | 11,698,926 | 62 |
//! | 2 | peer | 2 of all | 7,719,672 | 43 |
//! | 3 | both | none | 1,505,424 | 18 |
//! | 3 and a ping | peer | 1 of all | 8,887,078 | 33 |
//! | 3 and 2 pings | connection | 3 of crash, cut | 2,711,709 | 18 |
//! | 2 one way, 1 the other | peer | 1 of all | 6,389,170 | 22 |
//!
//! Not checked, because the search does not end within minutes: two faults with three messages or
//! with one each way by the peer, and a fault with one each way on both paths.
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
