//! Other nodes in the same local network, found with multicast DNS (RFC 6762, RFC 6763).
//!
//! A node announces that here is *a* node, at this address, with a random number, its *nonce*.
//! That says nothing about who it is: the instance's and the host's name are random too, and all
//! of them change each hour, when the network changes and when the node starts. Who knows a reach
//! capability of the node can derive from it and the nonce the keys of probes to that address, and
//! only the right node answers those. So contacts recognise each other, without a server and even
//! without a way to the internet, and others learn no more than that somebody uses Halloo.
//!
//! What is found is a claim of anybody in the local network. Public addresses are believed only
//! next to our own, so that an announcement cannot make nodes send somewhere else.
//!
//! Where multicast is not possible, nothing is found, and nothing else happens.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use halloo_nat::is_probe_target;
use halloo_wire::RoundId;
use mdns_sd::{
    IfKind, IfPredicate, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::interfaces::leads_outside;
use crate::random;

/// What is announced and looked for.
const SERVICE: &str = "_halloo._udp.local.";
/// The one property of an announcement: the nonce, in 32 hexadecimal digits.
const NONCE: &str = "n";
/// How often the nonce and the names change.
const ROTATION: Duration = Duration::from_secs(3600);
/// Neighbours that are remembered, one for each address. Announcements beyond it are ignored until
/// others have ended: a household has a few, and somebody who floods the network gets no further.
pub(crate) const MAX_NEIGHBOURS: usize = 64;
/// Addresses that are believed of one announcement: one of each family, and a second network.
const MAX_PER_ANNOUNCEMENT: usize = 4;
/// Pause after a failure of the system's.
const RETRY: Duration = Duration::from_secs(600);
/// For saying that the announcement ends.
const GOODBYE: Duration = Duration::from_millis(500);
/// The port of multicast DNS.
const MDNS_PORT: u16 = 5353;

/// A node in the local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Where it says that it is.
    pub(crate) addr: SocketAddr,
    /// What the keys of probes to it are derived from.
    pub(crate) nonce: RoundId,
}

/// Announces `port` and looks for others until it is told to stop. `changes` are this machine's
/// addresses ([`super::interfaces::run`]). `ours` is told each nonce of ours before it is
/// announced; the one before it may still be in use by who found us a moment ago. `neighbours`
/// are those that are there: they end when they say so, or two minutes after they fell silent.
pub(crate) async fn run(
    port: u16,
    stop: CancellationToken,
    changes: watch::Receiver<Vec<IpAddr>>,
    ours: watch::Sender<Option<RoundId>>,
    neighbours: watch::Sender<Vec<Neighbour>>,
) {
    let lan = Lan { port, mdns_port: MDNS_PORT, changes, ours, neighbours };
    stop.run_until_cancelled(lan.run()).await;
}

struct Lan {
    port: u16,
    mdns_port: u16,
    changes: watch::Receiver<Vec<IpAddr>>,
    ours: watch::Sender<Option<RoundId>>,
    neighbours: watch::Sender<Vec<Neighbour>>,
}

impl Lan {
    async fn run(mut self) {
        loop {
            let own = self.changes.borrow_and_update().clone();
            match Session::begin(self.mdns_port) {
                Ok(session) => self.serve(session, &own).await,
                Err(e) => {
                    tracing::debug!(reason = %e, "Multicast DNS is not possible");
                    self.change_within(RETRY).await;
                }
            }
            // Another network has other neighbours.
            self.neighbours.send_if_modified(|known| !std::mem::take(known).is_empty());
        }
    }

    /// Announces and listens until the network changes.
    async fn serve(&mut self, mut session: Session, own: &[IpAddr]) {
        let mut known = Known::default();
        loop {
            let nonce = RoundId(random::bytes());
            known.is_ours(nonce);
            self.ours.send_replace(Some(nonce));
            if let Err(e) = session.announce(self.port, own, nonce) {
                tracing::debug!(reason = %e, "This node cannot be announced");
            }
            let rotation = sleep(ROTATION);
            tokio::pin!(rotation);
            loop {
                let changed = tokio::select! {
                    event = session.next() => match event {
                        Some(event) => known.hear(event, own),
                        None => {
                            // It gave up on a flood of events.
                            self.change_within(RETRY).await;
                            return session.end().await;
                        }
                    },
                    () = self.change() => return session.end().await,
                    () = &mut rotation => break,
                };
                if changed {
                    self.neighbours.send_replace(known.neighbours());
                }
            }
        }
    }

    async fn change_within(&mut self, time: Duration) {
        let _ = timeout(time, self.change()).await;
    }

    /// Waits until the network changes. Cancel safe.
    async fn change(&mut self) {
        if self.changes.changed().await.is_err() {
            // Nobody looks any more: the node stops.
            pending().await
        }
    }
}

/// The library's thread and what it reports.
struct Session {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    announced: Option<String>,
}

impl Session {
    fn begin(mdns_port: u16) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new_with_port(mdns_port)?;
        let inner = IfPredicate::new(|interface| !leads_outside(&interface.name));
        daemon.disable_interface(IfKind::Predicate(inner))?;
        // A session ends when the addresses change: there is no need to look for that.
        daemon.set_ip_check_interval(0)?;
        let events = daemon.browse(SERVICE)?;
        Ok(Self { daemon, events, announced: None })
    }

    /// Announces this node under new names, in place of what was announced before.
    fn announce(
        &mut self,
        port: u16,
        own: &[IpAddr],
        nonce: RoundId,
    ) -> Result<(), mdns_sd::Error> {
        if let Some(before) = self.announced.take() {
            self.daemon.unregister(&before)?;
        }
        if own.is_empty() {
            return Ok(());
        }
        let name = || HEXLOWER.encode(&random::bytes::<8>());
        let host = format!("{}.local.", name());
        let nonce = HEXLOWER.encode(&nonce.0);
        let properties = [(NONCE, nonce.as_str())];
        let mut info = ServiceInfo::new(SERVICE, &name(), &host, own, port, &properties[..])?;
        // Nobody else has a name of 64 random bits: there is no need to ask first.
        info.set_requires_probe(false);
        self.announced = Some(info.get_fullname().to_owned());
        self.daemon.register(info)
    }

    /// What was heard next; `None` when there will be no more. Cancel safe.
    async fn next(&mut self) -> Option<ServiceEvent> {
        self.events.recv_async().await.ok()
    }

    /// Tells the network that this node is not here any more.
    async fn end(self) {
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = timeout(GOODBYE, ended.recv_async()).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The thread goes on otherwise.
        let _ = self.daemon.shutdown();
    }
}

/// What has been heard and not taken back.
#[derive(Debug, Default)]
struct Known {
    /// The nonces of this session, ours: our own announcements come back to us.
    ours: Vec<RoundId>,
    /// By the full name of the announcement.
    heard: Vec<(String, Neighbour)>,
}

impl Known {
    fn is_ours(&mut self, nonce: RoundId) {
        // Two are enough: what is taken back is forgotten at once, or an hour later.
        if self.ours.len() == 2 {
            self.ours.remove(0);
        }
        self.ours.push(nonce);
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        self.heard.iter().map(|(_, it)| *it).collect()
    }

    /// Says whether it changed anything.
    fn hear(&mut self, event: ServiceEvent, own: &[IpAddr]) -> bool {
        let (name, neighbours) = match event {
            ServiceEvent::ServiceResolved(service) => {
                let neighbours = neighbours(&service, own);
                (service.fullname, neighbours)
            }
            ServiceEvent::ServiceRemoved(_, name) => (name, Vec::new()),
            _ => return false,
        };
        let before = self.neighbours();
        self.heard.retain(|(known, _)| *known != name);
        for it in neighbours {
            let is_new = !self.ours.contains(&it.nonce) && self.heard.len() < MAX_NEIGHBOURS;
            if is_new {
                self.heard.push((name.clone(), it));
            }
        }
        self.neighbours() != before
    }
}

/// The neighbours that an announcement stands for.
fn neighbours(service: &ResolvedService, own: &[IpAddr]) -> Vec<Neighbour> {
    let Some(nonce) = service.get_property_val_str(NONCE).and_then(nonce) else {
        return Vec::new();
    };
    let mut ips: Vec<IpAddr> = service.addresses.iter().map(|ip| ip.to_ip_addr()).collect();
    ips.sort();
    ips.into_iter()
        .map(|ip| SocketAddr::new(ip, service.port))
        .filter(|addr| is_probe_target(*addr, own) && is_near(addr.ip(), own))
        .take(MAX_PER_ANNOUNCEMENT)
        .map(|addr| Neighbour { addr, nonce })
        .collect()
}

fn nonce(text: &str) -> Option<RoundId> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok().map(RoundId)
}

/// Whether an address may be one of this local network: it means a machine in each network of its
/// kind, or it is next to one of ours.
fn is_near(ip: IpAddr, own: &[IpAddr]) -> bool {
    // An address of a kind that only its own kind may send to is no public one.
    let local = !is_probe_target(SocketAddr::new(ip, u16::MAX), &[]);
    local || own.iter().any(|&ours| network(ours) == network(ip))
}

/// The smallest usual network around an address: 24 bits of IPv4, 64 of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "lan_tests.rs"]
mod tests;
