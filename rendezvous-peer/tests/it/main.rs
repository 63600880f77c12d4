//! The real program on the loopback, and nodes that talk to it over real sockets.

#![allow(clippy::unwrap_used)]

mod admin;
mod common;
mod echo;
mod library;
mod parking;
mod privacy;
mod probe;
mod process;
mod protocol;
mod relay;
mod reload;
mod tunnel;
