//! What a prober is told, and what it says.

use std::net::{IpAddr, SocketAddr};

use halloo_wire::candidate::Verdict;
use halloo_wire::path::SocketId;
use halloo_wire::peer::Attested;

/// What a [`Prober`](crate::Prober) is told about the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProberConfig {
    /// Random: the transaction ids come from it.
    pub seed: [u8; 32],
    /// Our own addresses.
    pub ips: Vec<IpAddr>,
    /// The port of our main socket.
    pub port: u16,
    /// The first UDP port of our rendezvous peer, at the address that its connection uses.
    pub home: SocketAddr,
    /// Its second UDP port, if it has one (`Push::Welcome` says so).
    pub second_port: Option<u16>,
    /// Its first UDP port at an address of the other family, if it has one.
    pub home_other_family: Option<SocketAddr>,
    /// The first UDP port of another peer, in another network, if one is known.
    pub other_peer: Option<SocketAddr>,
}

/// What a [`Prober`](crate::Prober) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProberEvent {
    /// Open this many extra sockets, then call [`Prober::sockets_opened`](crate::Prober::sockets_opened).
    OpenSockets(u16),
    /// Close these extra sockets.
    CloseSockets(Vec<SocketId>),
    /// The verdict is ready, or has changed.
    Verdict(Verdict),
    /// What our rendezvous peer attests has changed, or its cookies are fresh again.
    Attested(Vec<Attested>),
    /// A mapped port was checked.
    Mapped {
        /// The external port.
        port: u16,
        /// Whether the peer's datagram came through it.
        reachable: bool,
    },
    /// Our rendezvous peer does not answer over UDP.
    UdpBlocked,
}
