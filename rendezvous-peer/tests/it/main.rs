//! The real program on the loopback, and nodes that talk to it over real sockets.

#![allow(clippy::unwrap_used)]

mod common;
mod echo;
mod library;
mod memory;
mod privacy;
mod process;
mod protocol;
mod relay;
mod tunnel;
