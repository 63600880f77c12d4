//! A whole laboratory: the wire, the server's site, and the nodes' sites.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kind::Kind;
use crate::namespace::Namespace;
use crate::plan::{self, SERVER_V4, SERVER_V6, Side};
use crate::site::{Site, WAN, machine};
use crate::tools;
use crate::wire::link::LinkConfig;
use crate::wire::weather::Weather;
use crate::wire::{SiteId, Wire, WireBuilder};

/// Who is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// One node, for tests of its NAT.
    Alone(Kind),
    /// Two nodes, each behind a link of its own.
    Apart(Kind, Kind),
    /// Two nodes in one home network.
    SameLan,
    /// Two homes behind one carrier's NAT.
    SameCarrier,
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone(kind) => write!(f, "{kind}"),
            Self::Apart(a, b) => write!(f, "{a} {b}"),
            Self::SameLan => f.write_str("same-lan"),
            Self::SameCarrier => f.write_str("same-carrier"),
        }
    }
}

/// How far apart things are.
#[derive(Debug, Clone, PartialEq)]
pub struct Distance {
    /// The link of each node's site, each direction.
    pub node: LinkConfig,
    /// The link of the server's site, each direction.
    pub server: LinkConfig,
    /// What happens to packets between all links.
    pub weather: Weather,
    /// From this follows which frames are lost.
    pub seed: u64,
}

impl Default for Distance {
    /// 25 ms from each node to the middle of the internet, and the server there: 50 ms for a round
    /// trip to the server, 100 ms to each other.
    fn default() -> Self {
        Self::with_delay(Duration::from_millis(25))
    }
}

impl Distance {
    /// As the default, with another one-way delay.
    pub fn with_delay(delay: Duration) -> Self {
        Self {
            node: LinkConfig::delay(delay),
            server: LinkConfig::delay(Duration::ZERO),
            weather: Weather::CLEAR,
            seed: 1,
        }
    }
}

/// A laboratory. All of it is gone when it is dropped.
pub struct World {
    // The order is that in which they are dropped.
    wire: Wire,
    sites: Vec<(SiteId, Site)>,
    server: Namespace,
}

impl World {
    /// Builds it.
    ///
    /// # Errors
    /// The system does not permit it, or a tool fails.
    pub fn new(places: Places, distance: &Distance) -> Result<Self> {
        let homes: &[Side] = match places {
            Places::Apart(..) => &Side::BOTH,
            _ => &[Side::A],
        };
        Self::build(homes, distance, |side, wire, at| match places {
            Places::Apart(_, kind) if side == Side::B => Site::of_kind(kind, side, wire, at),
            Places::Alone(kind) | Places::Apart(kind, _) => Site::of_kind(kind, side, wire, at),
            Places::SameLan => Site::same_lan(wire, at),
            Places::SameCarrier => Site::same_carrier(wire, at),
        })
    }

    /// Builds one of many people, each behind a link and a NAT of their own; the kinds of NAT
    /// take turns.
    ///
    /// # Errors
    /// As [`World::new`], and for more than [`plan::MOST_PEOPLE`].
    pub fn of_many(people: usize, kinds: &[Kind], distance: &Distance) -> Result<Self> {
        ensure!(people <= plan::MOST_PEOPLE, "a lab has room for {} people", plan::MOST_PEOPLE);
        ensure!(!kinds.is_empty(), "a home needs a kind of NAT");
        let homes: Vec<Side> = Side::first(people).collect();
        Self::build(&homes, distance, |side, wire, at| {
            Site::of_kind(kinds[side.number() % kinds.len()], side, wire, at)
        })
    }

    fn build(
        homes: &[Side],
        distance: &Distance,
        site: impl Fn(Side, &Wire, SiteId) -> Result<Site>,
    ) -> Result<Self> {
        let mut builder = WireBuilder::new(distance.seed, distance.weather)?;
        let at_server =
            builder.site(plan::server_prefixes(), distance.server.clone(), distance.server.clone());
        let link = || distance.node.clone();
        let places: Vec<(Side, SiteId)> = homes
            .iter()
            .map(|home| (*home, builder.site(home.prefixes(), link(), link())))
            .collect();
        let wire = builder.start()?;
        let server = machine("server")?;
        wire.plug(at_server, &server, WAN)?;
        tools::ip(Some(&server), &server_addresses())?;
        let sites = places.into_iter().map(|(side, at)| Ok((at, site(side, &wire, at)?)));
        let sites = sites.collect::<Result<_>>()?;
        Ok(Self { wire, sites, server })
    }

    /// The server's namespace.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The namespace of a side's node.
    ///
    /// # Errors
    /// There is none: [`Places::Alone`] has no other side.
    pub fn node(&self, side: Side) -> Result<&Namespace> {
        let mut nodes = self.sites.iter().filter_map(|(_, site)| site.node(side));
        nodes.next().with_context(|| format!("{} is not in this lab", side.name()))
    }

    /// The site of a side's node, and its place on the wire.
    ///
    /// # Errors
    /// There is none.
    pub fn site(&self, side: Side) -> Result<(SiteId, &Site)> {
        let mut sites = self.sites.iter().filter(|(_, site)| site.node(side).is_some());
        let (id, site) = sites.next().with_context(|| format!("{} is nowhere", side.name()))?;
        Ok((*id, site))
    }

    /// The wire.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }
}

fn server_addresses() -> String {
    let mut lines = format!("link set {WAN} up\n");
    for ip in SERVER_V4 {
        let _ = writeln!(lines, "addr add {ip}/32 dev {WAN}");
    }
    for ip in SERVER_V6 {
        let _ = writeln!(lines, "addr add {ip}/128 dev {WAN}");
    }
    let _ = writeln!(lines, "route add default dev {WAN}\nroute add ::/0 dev {WAN}");
    lines
}
