//! The bytes that Halloo puts on the wire, and nothing else: no sockets, no clocks, no keys.
//!
//! Three conversations are described here.
//!
//! | who talks | carried by | module |
//! |---|---|---|
//! | node and rendezvous peer | QUIC streams, ALPN [`ALPN_PEER`] | [`peer`] |
//! | node and node, directly | QUIC streams, ALPN [`ALPN_NODE`] | [`node`] |
//! | node and node, end to end | sealed envelopes that a peer may keep for a while | [`envelope`], [`inner`], [`content`], [`prekey`] |
//!
//! Datagrams that are not QUIC share the same UDP port and are told apart by their first byte
//! ([`datagram`], [`peer_datagram`], [`parked`]).
//!
//! Two encodings are used. Control messages, which are never signed or hashed, are
//! [postcard](https://postcard.jamesmunns.com/wire-format): compact and derived. Everything that
//! is signed, hashed, sealed or parsed before authentication has a hand-written codec with one
//! valid encoding for each value ([`codec`]).
//!
//! Every decoder is total: bytes become a value as a whole or a small [`DecodeError`]. Limits are
//! checked here, once, so that nobody has to check them again ([`limits`]).

pub mod candidate;
pub mod codec;
pub mod content;
pub mod datagram;
pub mod envelope;
pub mod ids;
pub mod inner;
pub mod invite;
pub mod limits;
pub mod node;
pub mod parked;
pub mod path;
pub mod peer;
pub mod peer_datagram;
pub mod prekey;

pub use codec::{DecodeError, Reader, Writer};
pub use ids::{
    CapabilityId, CapabilityToken, ChannelId, DeviceId, EnvelopeId, Fingerprint, InstanceId,
    MessageId, Nonce, PeerFingerprint, RoundId, RowId, Seq, SessionId, Side, StreamId, Transcript,
};
pub use invite::{Invite, InviteId};

/// Application protocol of a connection between a node and a rendezvous peer.
///
/// The number is the protocol's version: a change that an older program could misread gets a new
/// one, and TLS refuses the connection when the two sides share none.
pub const ALPN_PEER: &[u8] = b"halloo-peer/2";

/// Application protocol of a direct connection between two nodes. See [`ALPN_PEER`].
pub const ALPN_NODE: &[u8] = b"halloo/1";

/// Label of the TLS exporter (RFC 8446, 7.5) that gives both sides the key of a parked registration:
/// 32 bytes, with the row's 8 bytes as context.
pub const PARKING_LABEL: &[u8] = b"EXPORTER-halloo-parked/1";
