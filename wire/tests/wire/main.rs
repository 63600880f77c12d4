//! The wire's promises: bytes that never change, decoders that take all or nothing.
#![allow(clippy::unwrap_used)]

mod golden;
mod golden_file;
mod golden_peer;
mod limits;
mod names;
mod padding;
mod round_trip;
mod strategies;
