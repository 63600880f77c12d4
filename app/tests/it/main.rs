//! The program from outside: real processes, real sockets, loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a failed test shows what its processes said")]

mod backup;
mod control;
mod conversation;
mod crashes;
mod doctor;
mod errors;
mod flow;
mod generated;
mod harness;
mod invites;
mod kills;
mod passphrase;
mod peer_key;
