//! What a rendezvous peer does with relay frames, as the socket sees it.

use std::net::SocketAddr;

use halloo_wire::ChannelId;

/// Decides where relay frames go, and answers the small datagrams beside them.
///
/// Both functions are called where datagrams are received, between QUIC's packets: they must be
/// quick and never wait. A source may be an address that stands for a [tunnel](crate::Tunnel).
pub trait Forward: Send + Sync {
    /// Where frames go that came from `source` on `channel`: `datagrams` of them at once, `bytes`
    /// in all, each a whole relay frame around a QUIC datagram.
    fn frame(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        datagrams: usize,
    ) -> Forwarded;

    /// What is answered to a datagram of the kinds
    /// [`peer_datagram`](halloo_wire::peer_datagram), which came to the second port or the first,
    /// and [`parked`](halloo_wire::parked), which came to the first. It has not been decoded. Echo
    /// requests and parked datagrams never come from a tunnel.
    fn peer_datagram(&self, source: SocketAddr, from_second: bool, datagram: &[u8]) -> Vec<Reply>;
}

/// What becomes of a batch of relay frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Where they are sent, unchanged; dropped when there is none.
    pub to: Option<SocketAddr>,
    /// A datagram to send besides: a challenge.
    pub reply: Option<(SocketAddr, Vec<u8>)>,
}

/// A datagram that a peer sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whether it leaves through the second port.
    pub via_second: bool,
    /// Where to.
    pub to: SocketAddr,
    /// The whole datagram.
    pub datagram: Vec<u8>,
}
