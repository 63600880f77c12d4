//! Who has which address.
//!
//! The server's ranges are those for documentation (RFC 5737, RFC 3849), the others private
//! (RFC 1918) and shared (RFC 6598) ones. The homes' public addresses are of 44.128.0.0/16, which
//! amateur radio has set aside for tests: port mappers refuse to work on documentation addresses.
//! Nothing leaves the laboratory anyway.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::routes::Prefix;

/// The name of the rendezvous peer, with all of its addresses.
pub const SERVER_NAME: &str = "rendezvous.test";
/// The two IPv4 addresses of the server.
pub const SERVER_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// The two IPv6 addresses of the server.
pub const SERVER_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 2),
];

/// The routers' address in the home networks.
pub const HOME_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// The prefixes of the server's site.
pub fn server_prefixes() -> Vec<Prefix> {
    vec![Prefix::new([192, 0, 2, 0], 24), Prefix::new(SERVER_V6[0], 48)]
}

/// One of the two sides of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Anna's.
    A,
    /// Ben's.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The prefixes that the internet routes to this side.
    pub fn prefixes(self) -> Vec<Prefix> {
        vec![Prefix::new(self.public_v4(), 24), Prefix::new(self.v6(0, 0), 48)]
    }

    /// The side's address in the internet.
    pub fn public_v4(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(44, 128, 1, 10),
            Self::B => Ipv4Addr::new(44, 128, 2, 10),
        }
    }

    /// The address that it has after its provider gave it another one.
    pub fn next_public_v4(self) -> Ipv4Addr {
        let [a, b, c, _] = self.public_v4().octets();
        Ipv4Addr::new(a, b, c, 11)
    }

    /// The node's address in the home network. Both homes use the same range, as in life.
    pub fn private_v4(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(192, 168, 1, 10),
            Self::B => Ipv4Addr::new(192, 168, 1, 20),
        }
    }

    /// The node's address after it has moved.
    pub fn next_private_v4(self) -> Ipv4Addr {
        let [a, b, c, d] = self.private_v4().octets();
        Ipv4Addr::new(a, b, c, d + 100)
    }

    /// The carrier's and the subscriber's address between a carrier's NAT and a home router.
    pub fn shared_v4(self) -> [Ipv4Addr; 2] {
        let third = match self {
            Self::A => 0,
            Self::B => 1,
        };
        [Ipv4Addr::new(100, 64, third, 1), Ipv4Addr::new(100, 64, third, 2)]
    }

    /// An IPv6 address of the side.
    pub fn v6(self, network: u16, host: u16) -> Ipv6Addr {
        let site = match self {
            Self::A => 0xa,
            Self::B => 0xb,
        };
        Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, host)
    }

    /// The node's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "anna",
            Self::B => "ben",
        }
    }
}
