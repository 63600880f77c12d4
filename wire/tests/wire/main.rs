//! The wire's promises: bytes that never change, decoders that take all or nothing.
#![allow(clippy::unwrap_used)]

mod golden;
mod golden_datagram;
mod golden_file;
mod golden_peer;
mod invites;
mod limits;
mod limits_datagram;
mod limits_peer;
mod names;
mod padding;
mod round_trip;
mod strategies;
