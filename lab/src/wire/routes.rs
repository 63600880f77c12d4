//! Which site an IP packet is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    ip: IpAddr,
    length: u8,
}

impl Prefix {
    /// The addresses that share the first `length` bits of `ip`.
    pub fn new(ip: impl Into<IpAddr>, length: u8) -> Self {
        Self { ip: ip.into(), length }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(self.length.into());
                (own.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(self.length.into());
                (own.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The prefixes of each site; a site is its index here.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    sites: Vec<Vec<Prefix>>,
}

impl Routes {
    /// Adds a site with these prefixes.
    pub fn add(&mut self, prefixes: Vec<Prefix>) -> usize {
        self.sites.push(prefixes);
        self.sites.len() - 1
    }

    /// The site that has this address.
    pub fn site_of(&self, ip: IpAddr) -> Option<usize> {
        self.sites.iter().position(|prefixes| prefixes.iter().any(|p| p.contains(ip)))
    }

    /// Where a packet from `site` goes. `None`: nobody has the destination, or the source is not
    /// the site's own (BCP 38); so private addresses go nowhere, as in the internet.
    pub fn route(&self, site: usize, packet: &[u8]) -> Option<usize> {
        let (from, to) = addresses(packet)?;
        (self.site_of(from) == Some(site)).then(|| self.site_of(to)).flatten()
    }
}

/// Source and destination of an IP packet.
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into()))
        }
        6 => {
            let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packet(from: &str, to: &str) -> Vec<u8> {
        match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                [&[0x45; 12][..], &from.octets(), &to.octets()].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                [&[0x60; 8][..], &from.octets(), &to.octets()].concat()
            }
            _ => panic!("two families"),
        }
    }

    fn two_sites() -> Routes {
        let mut routes = Routes::default();
        let v6: Ipv6Addr = "2001:db8:a::".parse().unwrap();
        routes.add(vec![Prefix::new([198, 51, 100, 0], 24), Prefix::new(v6, 48)]);
        routes.add(vec![Prefix::new([203, 0, 113, 7], 32)]);
        routes
    }

    #[test]
    fn a_packet_goes_to_the_site_that_has_its_destination() {
        let routes = two_sites();
        assert_eq!(routes.route(0, &packet("198.51.100.9", "203.0.113.7")), Some(1));
        assert_eq!(routes.route(1, &packet("203.0.113.7", "198.51.100.200")), Some(0));
        assert_eq!(routes.route(0, &packet("2001:db8:a::1", "2001:db8:a:ffff::1")), Some(0));
        assert_eq!(routes.route(0, &packet("198.51.100.9", "203.0.113.8")), None);
    }

    #[test]
    fn private_and_foreign_sources_go_nowhere() {
        let routes = two_sites();
        assert_eq!(routes.route(0, &packet("192.168.1.10", "203.0.113.7")), None);
        assert_eq!(routes.route(1, &packet("198.51.100.9", "203.0.113.7")), None);
    }

    #[test]
    fn what_is_no_ip_packet_goes_nowhere() {
        let whole = packet("198.51.100.9", "203.0.113.7");
        for length in 0..whole.len() {
            assert_eq!(two_sites().route(0, &whole[..length]), None);
        }
        assert_eq!(two_sites().route(0, &[0x10; 40]), None);
    }

    #[test]
    fn the_empty_prefix_has_every_address_of_its_family() {
        assert!(Prefix::new([0, 0, 0, 0], 0).contains([9, 9, 9, 9].into()));
        assert!(!Prefix::new([0, 0, 0, 0], 0).contains(Ipv6Addr::LOCALHOST.into()));
        assert!(Prefix::new(Ipv6Addr::UNSPECIFIED, 0).contains(Ipv6Addr::LOCALHOST.into()));
    }
}
