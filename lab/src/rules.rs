//! The kernel's packet filter as each kind of NAT.
//!
//! In every router `wan0` is outside. Translation is the kernel's own: `masquerade` keeps the port
//! where it can, and uses a mapping again for other destinations as long as that is possible, so
//! it maps endpoint-independently unless told otherwise; connection tracking lets answers in from
//! exactly the address and port that was sent to.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::kind::Kind;

/// The rules of a router for IPv4 in which the NAT of `kind` is the nearest to the internet.
pub(crate) fn of(kind: Kind) -> String {
    match kind {
        Kind::Open | Kind::V6Only => String::new(),
        Kind::EimEif => nat("masquerade", &mapped("", REMEMBER)),
        Kind::EimAdf => {
            nat("masquerade", &mapped("udp dport . ip saddr @spoken", REMEMBER_WITH_ADDRESS))
        }
        Kind::EimApdf | Kind::Cgn | Kind::CgnBlock | Kind::DualStack => nat("masquerade", ""),
        Kind::PortMapping => nat("masquerade", ""),
        // Outside of the range that programs get ports from, so that no port stays.
        Kind::EimApdfOtherPort => nat("masquerade to :10000-29999", ""),
        Kind::Touchy => translate("masquerade"),
        Kind::ApdmSequential => nat(&in_sequence(), ""),
        Kind::ApdmBlock => nat("masquerade to :20480-21503 random", ""),
        Kind::ApdmRandom => nat("masquerade random,fully-random", ""),
        Kind::UdpBlocked => nat("masquerade", DROP_UDP),
    }
}

/// What a router does with IPv6: it translates nothing and lets in what was asked for.
pub(crate) const V6_FIREWALL: &str = "
table ip6 lab {
  chain incoming {
    type filter hook input priority filter
    iifname wan0 ct state established,related accept
    iifname wan0 meta l4proto ipv6-icmp accept
    iifname wan0 drop
  }
  chain through {
    type filter hook forward priority filter
    iifname wan0 ct state established,related accept
    iifname wan0 meta l4proto ipv6-icmp accept
    iifname wan0 drop
  }
}";

/// Drops all UDP from here on, as a network does that begins to block it.
pub(crate) const BEGIN_TO_DROP_UDP: &str = "
table inet blocked {
  chain through {
    type filter hook forward priority filter - 10
    meta l4proto udp drop
  }
}";

/// A carrier that keeps its subscribers apart: no way between them inside.
pub(crate) const KEEP_APART: &str = "
table ip apart {
  chain through {
    type filter hook forward priority filter - 10
    iifname != wan0 oifname != wan0 drop
  }
}";

/// Lets a router forget all connections that it knows: from here on they are looked for in
/// another zone of connection tracking, where there are none. It happens at one moment, which
/// removing the entries would not.
pub(crate) fn forget() -> String {
    static ZONE: AtomicU16 = AtomicU16::new(1);
    let zone = ZONE.fetch_add(1, Ordering::Relaxed);
    format!(
        "
table inet forget
delete table inet forget
table inet forget {{
  chain before {{
    type filter hook prerouting priority raw
    ct zone set {zone}
  }}
  chain own {{
    type filter hook output priority raw
    ct zone set {zone}
  }}
}}"
    )
}

/// A NAT that translates UDP in this way, and lets nothing else in. What comes unasked is dropped
/// before connection tracking remembers it: a port that it had taken would not be free for the
/// node that it was meant for. What comes from inside for the address outside is dropped too: no
/// hairpinning.
fn nat(udp: &str, more: &str) -> String {
    let translate = translate(udp);
    format!("{translate}{CLOSED}{more}")
}

fn translate(udp: &str) -> String {
    format!(
        "
table ip lab {{
  chain outgoing {{
    type nat hook postrouting priority srcnat
    oifname wan0 meta l4proto udp {udp}
    oifname wan0 masquerade
  }}
}}"
    )
}

/// Each new mapping gets the next port. The ports are listed because a number that the filter
/// counts is in the byte order of the machine, and a port is not.
fn in_sequence() -> String {
    let ports: Vec<String> = (0..SEQUENCE).map(|i| format!("{i} : {}", 30_000 + i)).collect();
    format!("masquerade to :numgen inc mod {SEQUENCE} map {{ {} }}", ports.join(", "))
}

/// Ports until the sequence starts again: more than one measurement uses.
const SEQUENCE: u16 = 4_000;

const CLOSED: &str = "
table ip lab {
  chain incoming {
    type filter hook input priority filter
    iifname lo accept
    ct state established,related accept
    iifname wan0 drop
    fib daddr . iif type != local drop
  }
  chain through {
    type filter hook forward priority filter
    iifname wan0 ct status dnat accept
    iifname wan0 ct state established,related accept
    iifname wan0 drop
  }
}";

/// Lets packets in that connection tracking alone would not, by what was remembered of those that
/// went out.
fn mapped(condition: &str, remember: &str) -> String {
    format!(
        "
table ip lab {{
  map mapped {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 2m
    size 65535
  }}
  set spoken {{
    type inet_service . ipv4_addr
    flags dynamic,timeout
    timeout 2m
    size 65535
  }}
  chain remember {{
    type filter hook forward priority filter - 1
    {remember}
  }}
  chain unasked {{
    type nat hook prerouting priority dstnat
    iifname wan0 {condition} dnat to udp dport map @mapped
  }}
}}"
    )
}

/// The port outside is the port inside: there is one node.
const REMEMBER: &str = "oifname wan0 update @mapped { udp sport : ip saddr . udp sport }";
const REMEMBER_WITH_ADDRESS: &str = "\
    oifname wan0 update @mapped { udp sport : ip saddr . udp sport }
    oifname wan0 update @spoken { udp sport . ip daddr }";

const DROP_UDP: &str = "
table ip lab {
  chain through {
    meta l4proto udp drop
  }
}";
