//! Asks the router for a port: with PCP (RFC 6887) or NAT-PMP (RFC 6886), else with UPnP IGD.
//!
//! A mapped port makes the NAT endpoint-independent for this node, in both respects, so that
//! contacts behind the worst NATs reach it at once. It is asked for in the background and never
//! waited for. Only the UDP port of this node's own socket is ever mapped, it is kept for
//! [`LEASE`], renewed at half of that, and given back when the node stops.
//!
//! What a router says is a claim: some report success and map nothing. So an address that comes
//! out of here has to be shown to work, by an echo from a rendezvous peer, before anybody is told
//! about it. An address that cannot be public is not even reported: behind a second NAT it means
//! nothing.

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp,
};
use halloo_nat::is_probe_target;
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::interfaces::{self, Uplink};
use crate::random;

/// How long a mapping is asked for (RFC 6886, 3.3). Routers may give less.
const LEASE: Duration = Duration::from_secs(7200);
/// Shortest time between renewals, whatever a router says.
const MIN_RENEWAL: Duration = Duration::from_secs(60);
/// Pause after a failure, unless the network changes: most routers that do not map ports never
/// will.
const RETRY: Duration = Duration::from_secs(600);
/// Waits for PCP and NAT-PMP: 250, 500 and 1,000 ms, as RFC 6886, 3.1 begins.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// For finding a UPnP router. They answer within the 2 s that the question allows, and some read
/// their own description slowly.
const SEARCH: Duration = Duration::from_secs(6);
/// Ports that are asked for before giving up, when others have them.
const MAX_PORTS: u32 = 4;
/// Renewals in a row that may fail: a router that restarts is away for a minute or two.
const MAX_FAILURES: u32 = 2;
/// For giving a mapping back when the node stops: one round trip in the local network.
const GOODBYE: Duration = Duration::from_secs(1);
/// Stands for any port of a node's where only the address matters.
const ANY_PORT: u16 = u16::MAX;
/// Names the mapping in the router's list. People look there.
const DESCRIPTION: &str = "Halloo";

/// Keeps `port` mapped at the router and `mapped` up to date, until it is told to stop; then gives
/// the mapping back, in a second at most. `changes` are the machine's addresses
/// ([`interfaces::run`]): when they change, everything is asked anew.
///
/// # Cancel safety
/// Not cancel safe: dropped, it leaves the mapping to the router, for [`LEASE`] at most.
pub(crate) async fn run(
    port: NonZeroU16,
    stop: CancellationToken,
    changes: watch::Receiver<Vec<IpAddr>>,
    mapped: watch::Sender<Option<SocketAddr>>,
) {
    Keeper { port, find: interfaces::uplink, stop, changes, mapped }.run().await;
}

/// Who keeps the port mapped. `F` finds the router.
struct Keeper<F> {
    port: NonZeroU16,
    find: F,
    stop: CancellationToken,
    changes: watch::Receiver<Vec<IpAddr>>,
    mapped: watch::Sender<Option<SocketAddr>>,
}

impl<F, Found> Keeper<F>
where
    F: Fn() -> Found,
    Found: Future<Output = Option<Uplink>>,
{
    async fn run(mut self) {
        loop {
            self.changes.borrow_and_update();
            let uplink = (self.find)().await.filter(|it| !is_public((it.ip, ANY_PORT).into()));
            let waited = match uplink {
                // With a public address, or without a router, only a change can help.
                None => self.wait(None).await,
                Some(uplink) => {
                    let asked = self.stop.run_until_cancelled(ask(uplink, self.port)).await;
                    match asked.flatten() {
                        Some(mapping) => self.keep(mapping, uplink).await,
                        None => self.wait(Some(RETRY)).await,
                    }
                }
            };
            if waited == Waited::Stopped {
                return;
            }
        }
    }

    /// Renews a mapping until the way to the router changes, the router refuses, or the node
    /// stops.
    async fn keep(&mut self, mut mapping: Mapping, uplink: Uplink) -> Waited {
        let mut failures = 0;
        loop {
            self.publish(Some(mapping.external));
            let waited = self.wait(Some(renewal(mapping.lease, failures))).await;
            let gone = match waited {
                Waited::Stopped => true,
                // Most changes, a VPN or an IPv6 address, leave the way to the router as it was.
                Waited::Changed => (self.find)().await != Some(uplink),
                Waited::TimeIsUp => {
                    let renewed = self.stop.run_until_cancelled(mapping.renew(uplink)).await;
                    failures = if renewed == Some(true) { 0 } else { failures + 1 };
                    failures > MAX_FAILURES
                }
            };
            if gone {
                self.publish(None);
                let _ = timeout(GOODBYE, mapping.give_back()).await;
                return waited;
            }
        }
    }

    fn publish(&self, external: Option<SocketAddr>) {
        self.mapped.send_if_modified(|known| std::mem::replace(known, external) != external);
    }

    /// Waits for an end or a change, and for `time` if it is limited.
    async fn wait(&mut self, time: Option<Duration>) -> Waited {
        let time_is_up = async {
            match time {
                Some(time) => sleep(time).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Waited::Stopped,
            // Their sender is gone only when the node stops.
            changed = self.changes.changed() => changed.map_or(Waited::Stopped, |()| Waited::Changed),
            () = time_is_up => Waited::TimeIsUp,
        }
    }
}

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Stopped,
    Changed,
    TimeIsUp,
}

/// A port at the router that leads here.
struct Mapping {
    external: SocketAddr,
    lease: Duration,
    kind: Kind,
}

enum Kind {
    /// PCP or NAT-PMP.
    Pcp(Box<PortMapping>),
    Upnp(Box<Upnp>),
}

struct Upnp {
    gateway: Gateway<Tokio>,
    external_port: u16,
    internal: SocketAddr,
}

impl Mapping {
    /// Asks the router to keep it. Says whether it does.
    async fn renew(&mut self, uplink: Uplink) -> bool {
        let renewed = match &mut self.kind {
            Kind::Pcp(mapping) => match mapping.renew().await {
                Ok(()) => external_of(mapping, uplink).await,
                Err(_) => None,
            },
            Kind::Upnp(it) => match it.add(it.external_port).await {
                Ok(()) => it.external().await,
                Err(_) => None,
            },
        };
        match renewed.filter(|external| is_public(*external)) {
            Some(external) => {
                self.external = external;
                true
            }
            None => false,
        }
    }

    async fn give_back(self) {
        // It ends by itself otherwise.
        match self.kind {
            Kind::Pcp(mapping) => drop(mapping.try_drop().await),
            Kind::Upnp(it) => {
                drop(it.gateway.remove_port(PortMappingProtocol::UDP, it.external_port).await);
            }
        }
    }

    /// The mapping, unless its address is of no use: then it is given back.
    async fn if_public(self) -> Option<Self> {
        if is_public(self.external) {
            return Some(self);
        }
        tracing::debug!("The router has no public address itself");
        let _ = timeout(GOODBYE, self.give_back()).await;
        None
    }
}

/// Asks in all three ways. The search for a UPnP router runs beside the others, and nothing is
/// asked of it when they succeed.
async fn ask(uplink: Uplink, port: NonZeroU16) -> Option<Mapping> {
    let mut search = Box::pin(search(uplink));
    let mut pcp = Box::pin(ask_pcp(uplink, port));
    let (found, mapping) = tokio::select! {
        found = &mut search => (Some(found), pcp.await),
        mapping = &mut pcp => (None, mapping),
    };
    if let Some(mapping) = mapping {
        return mapping.if_public().await;
    }
    let gateway = match found {
        Some(gateway) => gateway,
        None => search.await,
    };
    Box::pin(ask_upnp(gateway?, uplink, port)).await?.if_public().await
}

/// PCP, and NAT-PMP where the router does not know PCP: some say so, others say nothing.
async fn ask_pcp(uplink: Uplink, port: NonZeroU16) -> Option<Mapping> {
    let Uplink { ip, gateway } = uplink;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LEASE.as_secs()).ok(),
        timeout_config: Some(TIMING),
    };
    let asked = PortMapping::new(gateway.into(), ip.into(), InternetProtocol::Udp, port, options);
    let mapping = match asked.await {
        Ok(mapping) => mapping,
        Err(MappingFailure::NatPmp(_)) => return None,
        Err(MappingFailure::Pcp(_)) => {
            natpmp::port_mapping(gateway.into(), InternetProtocol::Udp, port, options).await.ok()?
        }
    };
    let external = external_of(&mapping, uplink).await?;
    let lease = Duration::from_secs(mapping.lifetime().into());
    Some(Mapping { external, lease, kind: Kind::Pcp(Box::new(mapping)) })
}

/// The mapping's address outside.
async fn external_of(mapping: &PortMapping, uplink: Uplink) -> Option<SocketAddr> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => {
            natpmp::external_address(uplink.gateway.into(), Some(TIMING)).await.ok()?.into()
        }
    };
    Some(SocketAddr::new(ip, mapping.external_port().get()))
}

/// Looks for a UPnP router.
async fn search(uplink: Uplink) -> Option<Gateway<Tokio>> {
    let mut options = SearchOptions::default();
    // Bound to the interface's address, so that the question leaves there.
    options.bind_addr = (uplink.ip, 0).into();
    options.gateway_ip_version = GatewayIpVersion::V4;
    options.timeout = Some(SEARCH);
    options.single_search_timeout = Some(SEARCH);
    let gateway = search_gateway(options).await.ok()?;
    // Anybody in the local network may answer; only the router has the port that matters.
    (gateway.addr.ip() == IpAddr::V4(uplink.gateway)).then_some(gateway)
}

async fn ask_upnp(gateway: Gateway<Tokio>, uplink: Uplink, port: NonZeroU16) -> Option<Mapping> {
    let internal = SocketAddr::new(uplink.ip.into(), port.get());
    let mut it = Upnp { gateway, external_port: port.get(), internal };
    let mut tries = 0;
    while let Err(e) = it.add(it.external_port).await {
        tries += 1;
        if tries == MAX_PORTS || !matches!(e, AddPortError::PortInUse) {
            return None;
        }
        // Somebody else in this network has it.
        it.external_port = random_port();
    }
    let external = it.external().await?;
    Some(Mapping { external, lease: LEASE, kind: Kind::Upnp(Box::new(it)) })
}

impl Upnp {
    async fn add(&self, external_port: u16) -> Result<(), AddPortError> {
        let lease = u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX);
        match self.add_for(external_port, lease).await {
            // Then it is kept until this node gives it back.
            Err(AddPortError::OnlyPermanentLeasesSupported) => self.add_for(external_port, 0).await,
            other => other,
        }
    }

    async fn add_for(&self, external_port: u16, lease: u32) -> Result<(), AddPortError> {
        let (protocol, internal) = (PortMappingProtocol::UDP, self.internal);
        self.gateway.add_port(protocol, external_port, internal, lease, DESCRIPTION).await
    }

    async fn external(&self) -> Option<SocketAddr> {
        let ip = self.gateway.get_external_ip().await.ok()?;
        Some(SocketAddr::new(ip, self.external_port))
    }
}

/// Whether others could reach this address from anywhere, and a node may be there.
fn is_public(addr: SocketAddr) -> bool {
    is_probe_target(addr, &[])
}

fn renewal(lease: Duration, failures: u32) -> Duration {
    (lease / 2 / (1 << failures)).clamp(MIN_RENEWAL, LEASE / 2)
}

/// A port of the dynamic range (RFC 6335).
fn random_port() -> u16 {
    let [a, b] = random::bytes();
    u16::from_be_bytes([a, b]) | 0xc000
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "portmap_tests.rs"]
mod tests;
