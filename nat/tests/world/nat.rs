//! A NAT, as simple as the tests of this crate need one. (The `sim` crate has a richer one.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use halloo_nat::{Allocation, Dependence, SocketId, Verdict};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub struct Nat {
    pub ip: IpAddr,
    pub behaviour: Verdict,
    mappings: BTreeMap<(SocketId, Option<SocketAddr>), u16>,
    /// By external port: to whom something was sent.
    sent_to: BTreeMap<u16, BTreeSet<SocketAddr>>,
    next: u16,
    rng: ChaCha12Rng,
}

impl Nat {
    pub fn new(ip: &str, behaviour: Verdict, seed: u8) -> Self {
        Self {
            ip: ip.parse().unwrap(),
            behaviour,
            mappings: BTreeMap::new(),
            sent_to: BTreeMap::new(),
            next: 40_000,
            rng: ChaCha12Rng::from_seed([seed; 32]),
        }
    }

    /// Where a datagram from this socket, bound to `inside`, appears to come from.
    pub fn outbound(&mut self, socket: SocketId, inside: u16, to: SocketAddr) -> SocketAddr {
        let key = match self.behaviour.mapping {
            Dependence::AddressAndPortDependent => Some(to),
            Dependence::AddressDependent => Some(SocketAddr::new(to.ip(), 0)),
            _ => None,
        };
        let port = match self.mappings.get(&(socket, key)) {
            Some(&port) => port,
            None => self.allocate(inside),
        };
        self.mappings.insert((socket, key), port);
        self.sent_to.entry(port).or_default().insert(to);
        SocketAddr::new(self.ip, port)
    }

    /// The socket that a datagram to this external port reaches, if it gets in.
    pub fn inbound(&self, port: u16, from: SocketAddr) -> Option<SocketId> {
        let (&(socket, _), _) = self.mappings.iter().find(|(_, p)| **p == port)?;
        let sent_to = self.sent_to.get(&port)?;
        let open = match self.behaviour.filtering {
            Dependence::AddressAndPortDependent => sent_to.contains(&from),
            Dependence::AddressDependent => sent_to.iter().any(|to| to.ip() == from.ip()),
            _ => true,
        };
        open.then_some(socket)
    }

    /// Forgets everything, as when it is switched off and on.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.sent_to.clear();
        self.next += 1_000;
    }

    fn allocate(&mut self, inside: u16) -> u16 {
        loop {
            let port = match self.behaviour.allocation {
                Allocation::Preserving => inside,
                Allocation::Sequential { delta } => {
                    self.next = self.next.wrapping_add_signed(delta);
                    self.next
                }
                Allocation::Block { first, size } => {
                    first + (self.rng.next_u32() % u32::from(size)) as u16
                }
                _ => 1_024 + (self.rng.next_u32() % 64_512) as u16,
            };
            let free = self.mappings.values().all(|&p| p != port);
            // One that keeps the port keeps it for each destination.
            if free || self.behaviour.allocation == Allocation::Preserving {
                return port;
            }
        }
    }
}

/// No translation and no filter.
pub fn open() -> Verdict {
    verdict(1, 1, Allocation::Preserving)
}

/// The usual home router.
pub fn home() -> Verdict {
    verdict(1, 3, Allocation::Random)
}

/// Another port for each destination.
pub fn dependent(allocation: Allocation) -> Verdict {
    verdict(3, 3, allocation)
}

/// Behaviour by numbers: 1 endpoint-independent, 2 address-dependent, 3 both.
pub fn verdict(mapping: u8, filtering: u8, allocation: Allocation) -> Verdict {
    let of = |n| match n {
        1 => Dependence::EndpointIndependent,
        2 => Dependence::AddressDependent,
        _ => Dependence::AddressAndPortDependent,
    };
    Verdict { mapping: of(mapping), filtering: of(filtering), allocation }
}
