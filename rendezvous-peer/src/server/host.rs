//! Under which name nodes reach the peer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

use halloo_identity::{DEFAULT_PORT, HostError, PeerHost};

/// A public name of the peer. Without a port it means the port on which the peer listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicHost {
    host: PeerHost,
    port_given: bool,
}

impl PublicHost {
    /// The place, for a peer that listens on `port`.
    ///
    /// # Errors
    /// [`HostError`] when `port` is 0.
    pub fn at(&self, port: u16) -> Result<PeerHost, HostError> {
        if self.port_given { Ok(self.host.clone()) } else { PeerHost::new(self.host.host(), port) }
    }
}

impl FromStr for PublicHost {
    type Err = HostError;

    /// Reads `NAME`, `NAME:PORT`, `[v6]:PORT`.
    fn from_str(text: &str) -> Result<Self, HostError> {
        let host: PeerHost = text.parse()?;
        let default = format!(":{DEFAULT_PORT}");
        let port_given = host.port() != DEFAULT_PORT
            || (text.trim().ends_with(&default) && text.trim().parse::<Ipv6Addr>().is_err());
        Ok(Self { host, port_given })
    }
}

impl fmt::Display for PublicHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        let hidden = self.port_given && self.host.port() == DEFAULT_PORT;
        if hidden { write!(f, ":{DEFAULT_PORT}") } else { Ok(()) }
    }
}

/// The machine's own address, for a socket that listens on `bound`: the one from which it would
/// speak to the internet. Asks the routing table and sends nothing.
pub(super) fn local_ip(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    // Addresses for documentation (RFC 5737, RFC 3849): routed like any other.
    let v4 = source_towards((Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let v6 = source_towards((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
    let candidates = [v4, v6.filter(|_| bound.is_ipv6())];
    let mut known = candidates.into_iter().flatten();
    let best = known.clone().find(|&ip| is_public(ip)).or_else(|| known.next());
    best.unwrap_or(match bound {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    })
}

fn source_towards(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
}

/// Whether an address can be reached from the whole internet, as far as its range tells.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b); // carrier NAT, RFC 6598
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_documentation()
                || ip.is_multicast()
                || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_port_means_the_listening_port() {
        let at = |text: &str| {
            let host: PublicHost = text.parse().unwrap();
            (host.at(8443).unwrap().to_string(), host.to_string())
        };
        assert_eq!(at("peer.example"), ("peer.example:8443".into(), "peer.example".into()));
        assert_eq!(at("peer.example:443"), ("peer.example".into(), "peer.example:443".into()));
        assert_eq!(at("peer.example:99"), ("peer.example:99".into(), "peer.example:99".into()));
        assert_eq!(at("2001:db8::443").0, "[2001:db8::443]:8443");
        assert_eq!(at("[2001:db8::1]:443").0, "[2001:db8::1]");
        assert!("no spaces".parse::<PublicHost>().is_err());
    }

    #[test]
    fn private_ranges_are_not_public() {
        for ip in ["10.0.0.1", "100.64.0.1", "192.168.1.1", "127.0.0.1", "169.254.0.1", "::1"] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["fd00::1", "fe80::1", "::ffff:10.0.0.1", "0.0.0.0"] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "100.128.0.1", "2600::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_socket_on_one_address_is_reached_there() {
        let one: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(local_ip(one), one);
        assert!(!local_ip(Ipv6Addr::UNSPECIFIED.into()).is_unspecified());
    }
}
