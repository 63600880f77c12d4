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

/// Somebody with a home in the lab: one of the two sides of a pair, or of many people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Side(u8);

impl Side {
    /// Anna's.
    pub const A: Self = Self(0);
    /// Ben's.
    pub const B: Self = Self(1);
    /// Both of a pair.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The first so many people; at most [`MOST_PEOPLE`].
    pub fn first(people: usize) -> impl Iterator<Item = Self> {
        (0..).map(Self).take(people.min(MOST_PEOPLE))
    }

    /// Its number, from 0.
    pub fn number(self) -> usize {
        self.0.into()
    }

    /// The other one of a pair: of Anna's and Ben's, or of the next two.
    pub fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// The prefixes that the internet routes to this side.
    pub fn prefixes(self) -> Vec<Prefix> {
        vec![Prefix::new(self.public_v4(), 24), Prefix::new(self.v6(0, 0), 48)]
    }

    /// The side's address in the internet.
    pub fn public_v4(self) -> Ipv4Addr {
        Ipv4Addr::new(44, 128, 1 + self.0, 10)
    }

    /// The address that it has after its provider gave it another one.
    pub fn next_public_v4(self) -> Ipv4Addr {
        let [a, b, c, _] = self.public_v4().octets();
        Ipv4Addr::new(a, b, c, 11)
    }

    /// The node's address in the home network. All homes use the same range, as in life.
    pub fn private_v4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 1, if self.0.is_multiple_of(2) { 10 } else { 20 })
    }

    /// The node's address after it has moved.
    pub fn next_private_v4(self) -> Ipv4Addr {
        let [a, b, c, d] = self.private_v4().octets();
        Ipv4Addr::new(a, b, c, d + 100)
    }

    /// The carrier's and the subscriber's address between a carrier's NAT and a home router.
    pub fn shared_v4(self) -> [Ipv4Addr; 2] {
        [Ipv4Addr::new(100, 64, self.0, 1), Ipv4Addr::new(100, 64, self.0, 2)]
    }

    /// An IPv6 address of the side.
    pub fn v6(self, network: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0xa + u16::from(self.0), network, 0, 0, 0, host)
    }

    /// The hardware address of the node.
    pub fn mac(self) -> String {
        format!("02:00:00:00:00:{:02x}", 0x0a + self.0)
    }

    /// The node's name in messages.
    pub fn name(self) -> &'static str {
        NAMES[self.number() % MOST_PEOPLE]
    }
}

/// The most people of one lab: so many names are there.
pub const MOST_PEOPLE: usize = NAMES.len();
const NAMES: [&str; 26] = [
    "anna", "ben", "cara", "dan", "eva", "finn", "gina", "hugo", "ida", "jan", "kira", "leo",
    "mia", "nils", "olga", "paul", "quin", "rosa", "sam", "tina", "uma", "vito", "wanda", "xenia",
    "yara", "zoe",
];
