//! What the fuzz targets do, one function for each family of decoders.
//!
//! A target takes any bytes and must return. Where a decoder accepts them, the target also checks
//! what its type promises: a hand-written encoding is the only one of its value, and a control
//! message survives another round. The functions are ordinary code, so that plain `cargo test`
//! replays every committed corpus (`tests/replay.rs`); the programs around them, which need
//! libFuzzer and instrumented code, are in `fuzz/fuzz_targets`.

mod conversation;
mod e2ee;
mod identity;
mod nat;
mod peer;
mod store;
mod wire;

pub use conversation::*;
pub use e2ee::*;
pub use identity::*;
pub use nat::*;
pub use peer::*;
pub use store::*;
pub use wire::*;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Names the program in `fuzz/fuzz_targets` and the folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds it an input.
    ///
    /// # Panics
    /// When a decoder breaks a promise: the input is a finding.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// Every target.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name }),*];
    };
}

targets! {
    wire_request
    wire_response
    wire_push
    wire_content
    wire_datagram
    wire_peer_datagram
    wire_parked
    wire_envelope
    wire_inner
    wire_prekey
    wire_node
    wire_card
    wire_text
    wire_invite
    identity_certificates
    identity_statements
    identity_safety_states
    identity_texts
    identity_locked_homes
    nat_probe
    nat_agent
    e2ee_envelope
    e2ee_message
    e2ee_conversation
    e2ee_introduction
    e2ee_bundle
    e2ee_storage
    peer_core_datagrams
    node_store
}
