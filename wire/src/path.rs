//! Names of paths, shared by what decides about them and what moves bytes on them. Nothing here
//! is ever sent.

use std::net::SocketAddr;

use crate::ids::ChannelId;

/// One of a node's UDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The socket that everything uses. Others are opened for a moment, to be found behind a NAT
    /// that gives each destination another port.
    pub const MAIN: Self = Self(0);
}

/// A direct path: one of our sockets and the other side's address as we see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectPath {
    /// Ours.
    pub socket: SocketId,
    /// Theirs.
    pub remote: SocketAddr,
}

/// A relayed path: a leased channel at a rendezvous peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayPath {
    /// Where the peer is: its UDP address, or the address that stands for a tunnel to it.
    pub via: SocketAddr,
    /// The number under which our side sends.
    pub channel: ChannelId,
}

/// Where the datagrams of a contact's connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SendOn {
    /// Through the relay.
    #[default]
    Relay,
    /// Through the relay and directly, each of them: while a path is new, or in doubt.
    Both(DirectPath),
    /// Directly.
    Direct(DirectPath),
}

impl SendOn {
    /// The direct path among them.
    pub fn direct(self) -> Option<DirectPath> {
        match self {
            Self::Relay => None,
            Self::Both(path) | Self::Direct(path) => Some(path),
        }
    }
}
