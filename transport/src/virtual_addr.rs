//! Addresses that stand for something else than a place in the network.
//!
//! QUIC knows places by address only. What it reaches by several paths, or by none of UDP, gets an
//! address that no network has: one of a unique local network (RFC 4193) whose number is drawn at
//! random when the socket is bound. It never leaves the socket.
//!
//! ```text
//! fd | network 6, random | what 1 | number 8       port 443
//! ```

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand;

/// QUIC refuses port 0; any other would do.
const PORT: u16 = 443;

/// What a virtual address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// A route to a contact.
    Route(u64),
    /// A tunnel through something that is not UDP.
    Tunnel(u64),
    /// An address of this network with another meaning, which nothing ever had.
    Nothing,
}

/// A socket's network of virtual addresses.
#[derive(Debug)]
pub(crate) struct VirtualNet {
    prefix: [u8; 7],
    next: AtomicU64,
}

impl VirtualNet {
    pub(crate) fn new() -> Self {
        let mut prefix = [0xfd; 7];
        rand::fill(&mut prefix[1..]).expect("the system has randomness");
        Self { prefix, next: AtomicU64::new(1) }
    }

    /// An address that was never given before.
    pub(crate) fn new_route(&self) -> (u64, SocketAddr) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number, self.addr(Place::Route(number)))
    }

    /// An address that was never given before.
    pub(crate) fn new_tunnel(&self) -> (u64, SocketAddr) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number, self.addr(Place::Tunnel(number)))
    }

    fn addr(&self, place: Place) -> SocketAddr {
        let (what, number) = match place {
            Place::Route(number) => (0, number),
            Place::Tunnel(number) => (1, number),
            Place::Nothing => (2, 0),
        };
        let mut octets = [0; 16];
        octets[..7].copy_from_slice(&self.prefix);
        octets[7] = what;
        octets[8..].copy_from_slice(&number.to_be_bytes());
        SocketAddrV6::new(Ipv6Addr::from(octets), PORT, 0, 0).into()
    }

    /// What `addr` stands for; `None` when it is a place in the network.
    pub(crate) fn place(&self, addr: SocketAddr) -> Option<Place> {
        let SocketAddr::V6(v6) = addr else { return None };
        let octets = v6.ip().octets();
        if octets[..7] != self.prefix {
            return None;
        }
        let (_, number) = octets.split_last_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        Some(match (octets[7], v6.port()) {
            (0, PORT) => Place::Route(number),
            (1, PORT) => Place::Tunnel(number),
            _ => Place::Nothing,
        })
    }

    /// Whether `addr` is a place in the network.
    pub(crate) fn is_real(&self, addr: SocketAddr) -> bool {
        self.place(addr).is_none()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn virtual_addresses_are_local_to_their_socket_and_never_given_twice() {
        let (net, other) = (VirtualNet::new(), VirtualNet::new());
        let (route, tunnel) = (net.new_route(), net.new_tunnel());
        assert_eq!(net.place(route.1), Some(Place::Route(route.0)));
        assert_eq!(net.place(tunnel.1), Some(Place::Tunnel(tunnel.0)));
        assert_ne!(route.1, net.new_route().1);
        assert!(other.is_real(route.1));
        let SocketAddr::V6(v6) = route.1 else { panic!("QUIC sees IPv6") };
        assert!(v6.ip().is_unique_local());
    }

    #[test]
    fn the_rest_of_the_network_stands_for_nothing() {
        let net = VirtualNet::new();
        let mut addr = net.new_route().1;
        addr.set_port(444);
        assert_eq!(net.place(addr), Some(Place::Nothing));
        assert_eq!(net.place(net.addr(Place::Nothing)), Some(Place::Nothing));
        assert!(net.is_real("127.0.0.1:443".parse().unwrap()));
        assert!(net.is_real("[2001:db8::1]:443".parse().unwrap()));
    }
}
