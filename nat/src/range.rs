//! Which addresses may be sent to because a contact named them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether a node may send to `addr` only because a contact, or a rendezvous peer, named it.
///
/// `own` holds the node's own addresses, as far as it wants to be reached there. A range that
/// means another machine in every network is allowed only to a node that is in a range of the
/// same kind and family: private (RFC 1918), shared (RFC 6598, also used by overlay networks),
/// IPv4 link-local, unique local (RFC 4193), and loopback. So loopback is tried only by a node
/// that lists a loopback address itself, as all do in a demonstration on one machine.
///
/// Never allowed:
///
/// | range | why |
/// |---|---|
/// | `0.0.0.0/8`, `::` | unspecified, "this network" |
/// | `224.0.0.0/4`, `ff00::/8` | multicast: one datagram becomes many |
/// | `240.0.0.0/4` with `255.255.255.255` | reserved and broadcast |
/// | `192.0.0.0/24` | protocol assignments, no hosts (RFC 6890) |
/// | `fe80::/10`, `fec0::/10` | link-local needs an interface that the wire does not carry; site-local is gone |
/// | `::/96`, `64:ff9b::/32`, `2001::/32`, `2002::/16` | IPv4 in disguise, which would pass by the rules above |
/// | `100::/64` | discard only (RFC 6666) |
/// | port 0, and ports below 1024 but 443 | no node listens there, but name, time and boot servers do |
///
/// Documentation and benchmark ranges count as public: nobody is there to be harmed, and test
/// networks use them.
///
/// An IPv4 address written as IPv6 (`::ffff:a.b.c.d`) is judged as IPv4.
pub fn is_probe_target(addr: SocketAddr, own: &[IpAddr]) -> bool {
    if addr.port() < FIRST_USER_PORT && addr.port() != HTTPS_PORT {
        return false;
    }
    match range_of(addr.ip()) {
        Range::Never => false,
        Range::Public => true,
        shared => own.iter().any(|&ip| range_of(ip) == shared),
    }
}

/// Whether an authenticated probe from `addr` may be answered. More is allowed than by
/// [`is_probe_target`]: the way on which it came leads back, also between nested private networks.
pub(crate) fn is_answerable(addr: SocketAddr) -> bool {
    (addr.port() >= FIRST_USER_PORT || addr.port() == HTTPS_PORT)
        && range_of(addr.ip()) != Range::Never
}

/// Whether anybody in the internet may be at this address.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    range_of(ip) == Range::Public
}

/// What kind of network an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    Public,
    Private,
    Shared,
    LinkLocal,
    UniqueLocal,
    Loopback4,
    Loopback6,
    Never,
}

fn range_of(ip: IpAddr) -> Range {
    match ip.to_canonical() {
        IpAddr::V4(ip) => range_of_v4(ip),
        IpAddr::V6(ip) => range_of_v6(ip),
    }
}

fn range_of_v4(ip: Ipv4Addr) -> Range {
    match ip.octets() {
        [0, ..] | [224..=255, ..] | [192, 0, 0, _] => Range::Never,
        [127, ..] => Range::Loopback4,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Range::Private,
        [100, 64..=127, ..] => Range::Shared,
        [169, 254, ..] => Range::LinkLocal,
        _ => Range::Public,
    }
}

fn range_of_v6(ip: Ipv6Addr) -> Range {
    match ip.segments() {
        _ if ip == Ipv6Addr::LOCALHOST => Range::Loopback6,
        [0, 0, 0, 0, 0, 0, _, _] => Range::Never,
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] | [0x2002, ..] | [0x100, 0, 0, 0, ..] => Range::Never,
        [0xfe80..=0xfeff, ..] | [0xff00..=0xffff, ..] => Range::Never,
        [0xfc00..=0xfdff, ..] => Range::UniqueLocal,
        _ => Range::Public,
    }
}

/// Ports below belong to well-known services (RFC 6335).
const FIRST_USER_PORT: u16 = 1024;
/// The one well-known port where Halloo itself may listen.
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_targets_for_everybody() {
        for addr in ["8.8.4.4:40000", "203.0.113.5:443", "[2600:1f18::7]:1024", "198.18.0.1:5000"] {
            assert!(allowed(addr, &[]), "{addr}");
        }
    }

    #[test]
    fn special_ranges_are_targets_for_nobody() {
        let everywhere =
            ["127.0.0.1", "::1", "10.0.0.1", "100.64.0.1", "169.254.0.1", "fd00::1", "fe80::1"];
        for addr in [
            "0.0.0.0:5000",
            "0.1.2.3:5000",
            "224.0.0.1:5000",
            "239.255.255.250:5000",
            "240.0.0.1:5000",
            "255.255.255.255:5000",
            "192.0.0.8:5000",
            "[::]:5000",
            "[::10.0.0.1]:5000",
            "[64:ff9b::a00:1]:5000",
            "[2001::1]:5000",
            "[2002:a00:1::1]:5000",
            "[100::1]:5000",
            "[fe80::1]:5000",
            "[fec0::1]:5000",
            "[ff02::1]:5000",
        ] {
            assert!(!allowed(addr, &everywhere), "{addr}");
        }
    }

    #[test]
    fn local_ranges_are_targets_only_for_those_in_the_same_kind_of_network() {
        for (addr, own) in [
            ("10.1.2.3:5000", "192.168.0.4"),
            ("172.16.0.1:5000", "10.0.0.1"),
            ("192.168.1.1:5000", "172.31.255.1"),
            ("100.64.0.1:5000", "100.127.1.1"),
            ("169.254.9.9:5000", "169.254.1.1"),
            ("127.0.0.1:5000", "127.0.0.1"),
            ("[::1]:5000", "::1"),
            ("[fd12::1]:5000", "fc00::2"),
        ] {
            assert!(allowed(addr, &[own]), "{addr} from {own}");
            assert!(!allowed(addr, &["203.0.113.5", "2600::1"]), "{addr} from a public host");
        }
        assert!(!allowed("127.0.0.1:5000", &["::1", "10.0.0.1"]));
        assert!(!allowed("172.32.0.1:53", &["10.0.0.1"]));
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_judged_as_ipv4() {
        assert!(!allowed("[::ffff:127.0.0.1]:5000", &["::1"]));
        assert!(allowed("[::ffff:127.0.0.1]:5000", &["127.0.0.1"]));
        assert!(allowed("127.0.0.1:5000", &["::ffff:127.0.0.1"]));
        assert!(!allowed("[::ffff:224.0.0.1]:5000", &[]));
    }

    #[test]
    fn well_known_services_are_not_bothered() {
        for port in [0, 1, 53, 123, 442, 444, 1023] {
            assert!(!allowed(&format!("203.0.113.5:{port}"), &[]), "{port}");
        }
        for port in [443, 1024, 65535] {
            assert!(allowed(&format!("203.0.113.5:{port}"), &[]), "{port}");
        }
    }

    fn allowed(addr: &str, own: &[&str]) -> bool {
        let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().expect("an address")).collect();
        is_probe_target(addr.parse().expect("an address"), &own)
    }
}
