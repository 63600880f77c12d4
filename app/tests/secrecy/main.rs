//! What others can see: whoever listens on the wire, and whoever reads a rendezvous peer's memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it could not look at"
)]

mod cheats;
#[path = "../../../node/tests/common/crook.rs"]
mod crook;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod harness;
mod memory;
mod peer;
mod secrets;
mod story;
mod wire;
