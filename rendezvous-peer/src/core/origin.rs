//! Where a connection comes from.

use std::net::SocketAddr;

use crate::redacted::Redacted;

/// Where a connection comes from. It does not print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a UDP address that the handshake has proved.
    Udp(Redacted<SocketAddr>),
    /// Through a tunnel over TCP. Such a node has no UDP address that the peer knows.
    Tunnel {
        /// The node's end of the TCP connection.
        tcp: Redacted<SocketAddr>,
        /// The address that stands for the tunnel on this machine; no datagram carries it.
        stand_in: Redacted<SocketAddr>,
    },
}

impl Origin {
    /// The origin of a connection over UDP.
    pub fn udp(address: SocketAddr) -> Self {
        Self::Udp(Redacted(canonical(address)))
    }

    /// The origin of a connection through a tunnel.
    pub fn tunnel(tcp: SocketAddr, stand_in: SocketAddr) -> Self {
        Self::Tunnel { tcp: Redacted(canonical(tcp)), stand_in: Redacted(canonical(stand_in)) }
    }

    /// The node's address, whichever way it comes: whom the limits count, and what the welcome
    /// says.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(address) | Self::Tunnel { tcp: address, .. } => address.0,
        }
    }

    /// The node's server-reflexive address, if it has one.
    pub(super) fn reflexive(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address.0),
            Self::Tunnel { .. } => None,
        }
    }

    /// From where the node's relay frames come, and where those for it go.
    pub(super) fn path(&self) -> SocketAddr {
        match self {
            Self::Udp(address) | Self::Tunnel { stand_in: address, .. } => address.0,
        }
    }
}

/// An IPv4 address that came in through an IPv6 socket is an IPv4 address. The scope of a
/// link-local one stays: without it there is no way back.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}
