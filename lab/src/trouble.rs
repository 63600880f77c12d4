//! What happens to networks while people talk.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::namespace::Namespace;
use crate::people::{Peer, pause};
use crate::plan::{HOME_ROUTER, Side};
use crate::site::WAN;
use crate::world::World;
use crate::{rules, tools};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// One network begins to drop all UDP; TCP goes on.
    UdpDropped,
    /// One network begins to drop what goes straight to the other person; the peer is reachable.
    DirectDropped,
    /// A router starts again: it has forgotten its mappings and gives other ports.
    NatRemaps,
    /// A provider gives another public address.
    AddressChanges,
    /// One link is cut for ten seconds.
    Outage,
    /// The rendezvous peer is killed and starts again, with nothing in its memory.
    PeerRestarts,
    /// Both change to another network at the same moment.
    BothSwitch,
}

impl Trouble {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is, in a sentence.
    pub fn help(self) -> String {
        self.to_possible_value()
            .and_then(|v| v.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Makes it happen, at Anna's side when it happens to one. Comes back when it is over or has
    /// become how things are.
    ///
    /// # Errors
    /// A tool fails, or the lab has no router in which it could happen.
    pub fn happen(self, world: &World, peer: &mut Peer) -> Result<()> {
        match self {
            Self::UdpDropped => tools::nft(router(world, Side::A)?, rules::BEGIN_TO_DROP_UDP),
            Self::DirectDropped => drop_direct(router(world, Side::A)?),
            Self::NatRemaps => remap(router(world, Side::A)?),
            Self::AddressChanges => {
                let (old, new) = (Side::A.public_v4(), Side::A.next_public_v4());
                readdress(router(world, Side::A)?, old, new)
            }
            Self::Outage => {
                let (at, _) = world.site(Side::A)?;
                world.wire().set_down(at, true);
                pause(OUTAGE);
                world.wire().set_down(at, false);
                Ok(())
            }
            Self::PeerRestarts => peer.restart(world),
            Self::BothSwitch => {
                for side in Side::BOTH {
                    let (old, new) = (side.public_v4(), side.next_public_v4());
                    readdress(router(world, side)?, old, new)?;
                    change_place(world.node(side)?, side)?;
                }
                Ok(())
            }
        }
    }
}

/// Lets a router forget its mappings and choose other ports from then on.
pub(crate) fn remap(router: &Namespace) -> Result<()> {
    let other_ports = rules::of(Kind::EimApdfOtherPort);
    tools::nft(router, &format!("delete table ip lab\n{other_ports}\n{}", rules::forget()))
}

/// Gives a router another address outside.
pub(crate) fn readdress(router: &Namespace, old: Ipv4Addr, new: Ipv4Addr) -> Result<()> {
    tools::ip(Some(router), &format!("addr add {new}/32 dev {WAN}\naddr del {old}/32 dev {WAN}"))?;
    tools::nft(router, &rules::forget())
}

/// Gives a router its other address outside, and back.
pub(crate) fn move_again(world: &World, side: Side, has_moved: bool) -> Result<()> {
    let (old, new) = (side.public_v4(), side.next_public_v4());
    let (old, new) = if has_moved { (new, old) } else { (old, new) };
    readdress(router(world, side)?, old, new)
}

/// The router of a side that is nearest to the internet.
pub(crate) fn router(world: &World, side: Side) -> Result<&Namespace> {
    let (_, site) = world.site(side)?;
    site.outer_router().context("nothing can happen to the NAT of an open node: it has none")
}

fn drop_direct(router: &Namespace) -> Result<()> {
    let other = Side::B.public_v4();
    tools::nft(
        router,
        &format!(
            "table ip blocked {{
              chain through {{
                type filter hook forward priority filter - 10
                meta l4proto udp ip daddr {other} drop
                meta l4proto udp ip saddr {other} drop
              }}
            }}"
        ),
    )
}

/// Gives a node another address in the home network.
pub(crate) fn change_place(node: &Namespace, side: Side) -> Result<()> {
    let (old, new) = (side.private_v4(), side.next_private_v4());
    let lines = format!(
        "addr del {old}/24 dev eth0\naddr add {new}/24 dev eth0\n\
         route replace default via {HOME_ROUTER}"
    );
    tools::ip(Some(node), &lines)
}

/// How long an outage lasts.
pub const OUTAGE: Duration = Duration::from_secs(10);
