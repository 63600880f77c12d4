//! Routers and nodes: the namespaces behind one link to the internet.

use std::fmt::Write as _;

use anyhow::Result;

use crate::kind::Kind;
use crate::namespace::Namespace;
use crate::plan::{HOME_ROUTER, Side};
use crate::upnp::PortMapper;
use crate::wire::{SiteId, Wire};
use crate::{rules, tools};

/// What is behind one link to the internet.
#[derive(Debug)]
pub struct Site {
    /// The nodes, by side. Mostly there is one.
    nodes: Vec<(Side, Namespace)>,
    /// The routers, the nearest to the internet first.
    routers: Vec<Namespace>,
    /// Runs in a router, and ends before it.
    _mapper: Option<PortMapper>,
}

impl Site {
    /// A node of one side behind its own link.
    ///
    /// # Errors
    /// A namespace cannot be made or set up.
    pub fn of_kind(kind: Kind, side: Side, wire: &Wire, at: SiteId) -> Result<Self> {
        let node = machine(side.name())?;
        if kind == Kind::Open {
            wire.plug(at, &node, WAN)?;
            tools::ip(Some(&node), &wan(side, true, false))?;
            return Ok(Self { nodes: vec![(side, node)], routers: Vec::new(), _mapper: None });
        }
        let mut routers = Vec::new();
        let home = router("home router")?;
        match kind.carrier() {
            Some(carrier_kind) => {
                let carrier = carrier(carrier_kind, side, wire, at)?;
                subscribe(&carrier, &home, side)?;
                routers.push(carrier);
                tools::nft(&home, &rules::of(Kind::EimApdf))?;
            }
            None => {
                wire.plug(at, &home, WAN)?;
                tools::ip(Some(&home), &wan(side, kind.has_v4(), kind.has_v6()))?;
                if kind.has_v4() {
                    tools::nft(&home, &rules::of(kind))?;
                }
                if kind.has_v6() {
                    tools::nft(&home, rules::V6_FIREWALL)?;
                }
            }
        }
        join(
            &End {
                namespace: &home,
                interface: LAN,
                mac: ROUTER_MAC.into(),
                addrs: lan(side, kind),
            },
            &End { namespace: &node, interface: "eth0", mac: side.mac(), addrs: own(side, kind) },
        )?;
        tools::ip(Some(&node), &default_routes(side, kind))?;
        let mapper = match kind {
            Kind::PortMapping => Some(PortMapper::start(&home)?),
            _ => None,
        };
        routers.push(home);
        Ok(Self { nodes: vec![(side, node)], routers, _mapper: mapper })
    }

    /// Both nodes in one home network, behind a common home router.
    ///
    /// # Errors
    /// A namespace cannot be made or set up.
    pub fn same_lan(wire: &Wire, at: SiteId) -> Result<Self> {
        let home = router("home router")?;
        wire.plug(at, &home, WAN)?;
        tools::ip(Some(&home), &wan(Side::A, true, false))?;
        tools::nft(&home, &rules::of(Kind::EimApdf))?;
        let kind = Kind::EimApdf;
        tools::ip(
            Some(&home),
            &format!(
                "link add {LAN} address {ROUTER_MAC} type bridge\naddr add {HOME_ROUTER}/24 dev {LAN}\nlink set {LAN} up"
            ),
        )?;
        // The packet filter judges what is routed, not what a switch would carry.
        let _ = home.sysctl(&[("bridge/bridge-nf-call-iptables", "0")]);
        let mut nodes = Vec::new();
        for side in Side::BOTH {
            let node = machine(side.name())?;
            let (port, pid) = (format!("port-{}", side.name()), node.pid());
            let (own_mac, other_mac) = (side.mac(), side.other().mac());
            let (own_ip, other_ip) = (side.private_v4(), side.other().private_v4());
            tools::ip(
                Some(&home),
                &format!(
                    "link add {port} type veth peer name eth0 netns {pid} address {own_mac}\nlink set {port} master {LAN} up\nneigh replace {own_ip} lladdr {own_mac} dev {LAN} nud permanent"
                ),
            )?;
            tools::ip(
                Some(&node),
                &format!(
                    "addr add {own_ip}/24 dev eth0\nlink set eth0 up\nneigh replace {HOME_ROUTER} lladdr {ROUTER_MAC} dev eth0 nud permanent\nneigh replace {other_ip} lladdr {other_mac} dev eth0 nud permanent"
                ),
            )?;
            tools::ip(Some(&node), &default_routes(side, kind))?;
            nodes.push((side, node));
        }
        Ok(Self { nodes, routers: vec![home], _mapper: None })
    }

    /// Two homes behind one carrier's NAT that knows no hairpinning and keeps them apart inside.
    ///
    /// # Errors
    /// A namespace cannot be made or set up.
    pub fn same_carrier(wire: &Wire, at: SiteId) -> Result<Self> {
        let kind = Kind::EimApdf;
        let carrier = carrier(kind, Side::A, wire, at)?;
        tools::nft(&carrier, rules::KEEP_APART)?;
        let (mut nodes, mut routers) = (Vec::new(), Vec::new());
        for side in Side::BOTH {
            let (home, node) = (router("home router")?, machine(side.name())?);
            subscribe(&carrier, &home, side)?;
            tools::nft(&home, &rules::of(kind))?;
            join(
                &End {
                    namespace: &home,
                    interface: LAN,
                    mac: ROUTER_MAC.into(),
                    addrs: lan(side, kind),
                },
                &End {
                    namespace: &node,
                    interface: "eth0",
                    mac: side.mac(),
                    addrs: own(side, kind),
                },
            )?;
            tools::ip(Some(&node), &default_routes(side, kind))?;
            nodes.push((side, node));
            routers.push(home);
        }
        routers.insert(0, carrier);
        Ok(Self { nodes, routers, _mapper: None })
    }

    /// The node of a side, if it is here.
    pub fn node(&self, side: Side) -> Option<&Namespace> {
        self.nodes.iter().find(|(s, _)| *s == side).map(|(_, node)| node)
    }

    /// The router that is nearest to the internet; none in front of an open node.
    pub fn outer_router(&self) -> Option<&Namespace> {
        self.routers.first()
    }
}

/// A machine that is no router.
pub fn machine(name: &str) -> Result<Namespace> {
    let namespace = Namespace::new(name)?;
    namespace.sysctl(&[
        // Addresses are usable at once: nobody else can have them.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
    ])?;
    Ok(namespace)
}

fn router(name: &str) -> Result<Namespace> {
    let namespace = machine(name)?;
    namespace.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    Ok(namespace)
}

/// A carrier's NAT on the wire, without subscribers.
fn carrier(kind: Kind, side: Side, wire: &Wire, at: SiteId) -> Result<Namespace> {
    let carrier = router("carrier")?;
    wire.plug(at, &carrier, WAN)?;
    tools::ip(Some(&carrier), &wan(side, true, false))?;
    tools::nft(&carrier, &rules::of(kind))?;
    Ok(carrier)
}

/// Connects a home router to a carrier.
fn subscribe(carrier: &Namespace, home: &Namespace, side: Side) -> Result<()> {
    let [up, down] = side.shared_v4();
    let interface = format!("sub-{}", side.name());
    join(
        &End {
            namespace: carrier,
            interface: &interface,
            mac: "02:00:00:00:00:c0".into(),
            addrs: vec![format!("{up}/24")],
        },
        &End {
            namespace: home,
            interface: WAN,
            mac: "02:00:00:00:00:c1".into(),
            addrs: vec![format!("{down}/24")],
        },
    )?;
    tools::ip(Some(home), &format!("route add default via {up}"))
}

/// One end of a cable.
struct End<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
    mac: String,
    /// With the length of the prefix.
    addrs: Vec<String>,
}

/// Lays a cable. Both ends know each other's hardware address beforehand: otherwise the first
/// packet of each measurement would wait for ARP.
fn join(a: &End<'_>, b: &End<'_>) -> Result<()> {
    tools::ip(
        Some(a.namespace),
        &format!(
            "link add {} address {} type veth peer name {} netns {} address {}",
            a.interface,
            a.mac,
            b.interface,
            b.namespace.pid(),
            b.mac
        ),
    )?;
    for (own, other) in [(a, b), (b, a)] {
        let interface = own.interface;
        let mut lines = format!("link set {interface} up\n");
        for addr in &own.addrs {
            let _ = writeln!(lines, "addr add {addr} dev {interface}");
        }
        for addr in &other.addrs {
            let ip = addr.split('/').next().unwrap_or(addr);
            let mac = &other.mac;
            let _ =
                writeln!(lines, "neigh replace {ip} lladdr {mac} dev {interface} nud permanent");
        }
        tools::ip(Some(own.namespace), &lines)?;
    }
    Ok(())
}

/// Sets up the interface to the internet.
fn wan(side: Side, v4: bool, v6: bool) -> String {
    let mut lines = format!("link set {WAN} up\n");
    if v4 {
        let _ = writeln!(lines, "addr add {}/32 dev {WAN}", side.public_v4());
        let _ = writeln!(lines, "route add default dev {WAN}");
    }
    if v6 {
        let _ = writeln!(lines, "addr add {}/128 dev {WAN}", side.v6(0, 1));
        let _ = writeln!(lines, "route add ::/0 dev {WAN}");
    }
    lines
}

/// The home router's addresses inside.
fn lan(side: Side, kind: Kind) -> Vec<String> {
    let mut addrs = Vec::new();
    if kind.has_v4() {
        addrs.push(format!("{HOME_ROUTER}/24"));
    }
    if kind.has_v6() {
        addrs.push(format!("{}/64", side.v6(1, 1)));
    }
    addrs
}

/// The node's addresses.
fn own(side: Side, kind: Kind) -> Vec<String> {
    let mut addrs = Vec::new();
    if kind.has_v4() {
        addrs.push(format!("{}/24", side.private_v4()));
    }
    if kind.has_v6() {
        addrs.push(format!("{}/64", side.v6(1, 0x10)));
    }
    addrs
}

fn default_routes(side: Side, kind: Kind) -> String {
    let mut lines = String::new();
    if kind.has_v4() {
        let _ = writeln!(lines, "route add default via {HOME_ROUTER}");
    }
    if kind.has_v6() {
        let _ = writeln!(lines, "route add ::/0 via {}", side.v6(1, 1));
    }
    lines
}

/// The interface to the internet, or to the carrier.
pub const WAN: &str = "wan0";
/// The router's interface to the home network.
pub const LAN: &str = "lan0";
const ROUTER_MAC: &str = "02:00:00:00:00:01";
