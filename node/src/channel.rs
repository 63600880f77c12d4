//! Channels: a program's own streams to a contact.

use halloo_identity::Fingerprint;
pub use halloo_transport::{RecvStream, SendStream};

/// Two byte streams, one each way, on the direct connection to a contact.
///
/// They are QUIC streams: reliable, ordered, flow-controlled, encrypted, and both implement
/// tokio's `AsyncRead` and `AsyncWrite`. When the connection is lost, so is the channel: a program
/// that needs more opens another one.
#[derive(Debug)]
pub struct Channel {
    /// Towards the contact. Call `finish` at the end, or the contact sees a reset.
    pub send: SendStream,
    /// From the contact.
    pub recv: RecvStream,
}

/// A channel that a contact has opened.
#[derive(Debug)]
pub struct IncomingChannel {
    /// Who.
    pub from: Fingerprint,
    /// Its name, chosen by the contact.
    pub name: String,
    /// The streams.
    pub channel: Channel,
}
