//! What travels.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::control::Control;

/// Hop limit of a packet that does not say otherwise.
pub const DEFAULT_TTL: u8 = 64;

/// A packet on its way.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Source, as the network at this point sees it.
    pub src: SocketAddr,
    /// Destination, likewise.
    pub dst: SocketAddr,
    /// Hops that it may still make.
    pub ttl: u8,
    /// What is in it.
    pub body: Body,
}

/// What is in a packet.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in the real formats of the wire crate.
    Datagram(Rc<[u8]>),
    /// A part of the QUIC connection between a node and its rendezvous peer.
    Control(Rc<Control>),
}

impl Body {
    /// Size in bytes of UDP payload.
    pub fn len(&self) -> usize {
        match self {
            Self::Datagram(bytes) => bytes.len(),
            // About what a QUIC packet with one small frame has.
            Self::Control(_) => 120,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
