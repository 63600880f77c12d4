//! What a contact, or her rendezvous peer, can make this node send.
//!
//! Hole punching sends to addresses that somebody else names. Each limit has a name and a reason
//! at its constant; together they give these bounds, which tests check.
//!
//! # A host that is not attested
//!
//! A *victim* is a host that a hostile contact wants to be bothered. She can name it in a card,
//! send probes under its address if her network lets her forge sources, or say that she is in our
//! local network.
//!
//! - An address in the internet that is only named receives **nothing**: a card's candidates in
//!   public ranges are probed only if a rendezvous peer attests them.
//! - Whatever is not attested, from all cards, rounds and sources of one contact together, receives
//!   at most [`UNATTESTED_BURST`] probes at once and one more each [`UNATTESTED_EACH`]. A thousand
//!   local candidates, in 125 cards over ten minutes and a half, are `56 + 630 = 686` probes of
//!   [`PROBE_LEN`] bytes, 45 kB; and when she stops, so does it.
//! - A forged authentic probe is answered by one datagram of the same size: she gains nothing over
//!   sending to the victim herself. There are at most [`SOURCES_BURST`] such sources at once, and
//!   one more each [`SOURCES_EACH`].
//! - Data goes to no address that has not answered a probe, or that is attested and has sent one;
//!   to the latter for [`TRIAL_LIMIT`], once in a round.
//!
//! # An attested host
//!
//! A hostile contact with a hostile peer of her own can have any address attested to those who
//! call her. One round sends at most [`MAX_CANDIDATES`] × 7 = 56 scheduled probes (and 28 to nodes
//! that mDNS found), of which at most [`MAX_ATTESTED_TARGETS`] × 7 = 28 go to attested addresses,
//! and at most [`MAX_ATTESTED_TARGETS`] × [`PREDICTED_PORTS`] × [`PREDICTION_PASSES`] = 160 to
//! predicted ports there. Rounds follow each other as [`ROUND_BURST`] and [`ROUND_EACH`] say, so
//! that attested hosts receive at most `188 × (3 + t / 5 s)` datagrams, and never more than
//! [`PROBES_PER_SECOND`] in a second after [`PROBE_BURST`], which all agents of a node share. A
//! birthday search needs this node's consent in its own card, sends at most
//! [`MAX_SEARCH_PROBES`], and is not repeated for a day after [`SEARCH_MISSES`] misses.
//!
//! # Memory
//!
//! An agent keeps at most [`MAX_PAIRS`] pairs, [`MAX_ROUNDS`] rounds, [`MAX_QUEUE`] datagrams to
//! be sent and, in a search, [`MAX_SOCKETS`] sockets.

pub use crate::agent::{
    CHANGES_EACH, CHECKED_PATHS, DOUBT_AFTER, DOUBT_AFTER_RTTS, FIRST_HOPS, KEEPALIVE,
    KEEPALIVE_BUSY, MAX_LAN, MAX_PAIRS, MAX_QUEUE, MAX_ROUNDS, OVERLAP, RELAY_AFTER,
    RELAY_AFTER_KEEPALIVE, RELAY_AFTER_RTTS, ROUND_BURST, ROUND_EACH, SEARCH_AFTER,
    SEARCH_AFTER_PREDICTION, SOURCES_BURST, SOURCES_EACH, SPARE_PATHS, TRIAL_LIMIT,
    UNATTESTED_BURST, UNATTESTED_EACH, UNUSED_AFTER,
};
pub use crate::birthday::{MAX_SEARCH_PROBES, MAX_SOCKETS, MAX_SOCKETS_IN_BLOCK};
pub use crate::budget::{
    MAX_NETWORK_PAIRS, PROBE_BURST, PROBES_PER_SECOND, SEARCH_MISSES, SEARCH_PAUSE,
    SEARCH_PROBE_BURST, SEARCH_PROBES_PER_SECOND,
};
pub use crate::predict::{PREDICTED_PORTS, PREDICTION_PASSES};
pub use crate::probe::PROBE_LEN;
pub use crate::schedule::{CHECK_SCHEDULE_MS, PUNCH_SCHEDULE_MS, RECOVERY_SCHEDULE_MS};
pub use crate::score::{HYSTERESIS, HYSTERESIS_PART, IPV6_BONUS};
pub use crate::targets::MAX_ATTESTED_TARGETS;
pub use crate::verdict::{CHOICE_SOCKETS, COOKIE_LIFE, ECHO_SCHEDULE_MS};
pub use halloo_wire::limits::MAX_CANDIDATES;

/// How often a driver reports [`Traffic`](crate::Traffic) while an agent watches: a fifth of
/// [`DOUBT_AFTER`].
pub const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);
