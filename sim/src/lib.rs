//! A simulated internet in virtual time, in which two nodes must find each other.
//!
//! A run is a function of its seed: no clock, no socket, no thread. NAT boxes map, filter and
//! allocate ports in the ways of RFC 4787 and in those of real boxes ([`nat_box`]); links delay,
//! lose, double and reorder ([`link`]); boxes restart, addresses change, nodes move, cables are
//! pulled out ([`scenario`]).
//!
//! The nodes run the real machines of the `nat` crate, agent and prober, on the real formats of the
//! `wire` crate ([`node`]). What is around them is a model: the path socket's route ([`route`]), the
//! QUIC connection ([`conversation`]), the connection to a rendezvous peer ([`control`]), and the
//! peer itself ([`peer`]).
//!
//! # What is judged
//!
//! An [`oracle`] says from what stands between two nodes whether a direct path is possible; it
//! knows nothing of the code that tries. Where it is, it must come, and in time; where it is not,
//! the relay must carry everything. [`check`] has what must hold in every run: everything is heard,
//! nobody is flooded, and nobody who is not concerned is sent anything. Faults that are put in on
//! purpose ([`bug`]) show that the checks can fail.
//!
//! # Repeating a run
//!
//! Worlds come in families with names ([`story`]). A test that fails prints the command:
//!
//! ```text
//! cargo run -p halloo-sim -- --story event/cut --seed 7 --trace
//! cargo run -p halloo-sim -- --story worlds --runs 5000
//! cargo run -p halloo-sim -- --story "" --list
//! ```
//!
//! # Example
//!
//! ```
//! use halloo_sim::nat_box::BoxConfig;
//! use halloo_sim::scenario::Scenario;
//! use halloo_sim::trace::Trace;
//! use halloo_sim::world::run;
//!
//! // Two home routers.
//! let outcome = run(Scenario::pair(1, vec![BoxConfig::home()], vec![BoxConfig::home()]), Trace::off());
//! assert!(outcome.is_direct());
//! ```

pub mod bug;
pub mod check;
pub mod control;
pub mod conversation;
pub mod link;
pub mod nat_box;
pub mod net;
pub mod node;
pub mod oracle;
pub mod packet;
pub mod peer;
pub mod rng;
pub mod route;
pub mod scenario;
pub mod story;
pub mod trace;
pub mod world;
