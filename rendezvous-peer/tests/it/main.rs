//! The real program on the loopback, and nodes that talk to it over real sockets.

#![allow(clippy::unwrap_used)]

mod access;
#[cfg(feature = "acme")]
mod acme;
mod admin;
mod certificate;
mod common;
mod echo;
mod library;
mod memory;
mod parking;
mod privacy;
mod probe;
mod process;
mod protocol;
mod relay;
mod reload;
#[path = "../../../app/tests/secrecy/memory.rs"]
mod scan;
#[path = "../../../app/tests/secrecy/secrets.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod secrets;
mod seizure;
mod service;
mod sockets;
mod tunnel;
