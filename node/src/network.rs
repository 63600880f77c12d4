//! What a node can say about its own network: for people who wonder why something is slow, or does
//! not work at all.
//!
//! Most of it is known already. Whether rendezvous peers can be reached is asked anew, over UDP
//! and over TCP, beside whatever the node is doing.

mod ask;
mod outlook;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use halloo_identity::{Fingerprint, PeerFingerprint, PeerHost};
pub use halloo_nat::{Allocation, Dependence};
use halloo_nat::{Local, Verdict, is_probe_target};
use halloo_wire::peer::NotAdmitted;
use serde::{Serialize, Serializer};
use tokio::time::timeout;

use crate::contact::ContactState;
use crate::error::{ConnectError, StoreError};
use crate::event::{Path, WhyRelayed};
use crate::net::Net;
use crate::node::Node;
use crate::text::as_text;
use ask::{all_peers, ask_all, peers_of_contact};
pub use outlook::Outlook;

/// For the verdict about the network, once our own peer has answered: twice the two seconds after
/// which an echo counts as lost.
const SETTLE: Duration = Duration::from_secs(4);
/// Stands for any port of a node's where only the address matters.
const ANY_PORT: u16 = u16::MAX;

/// What [`Node::network`] finds out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkReport {
    /// The node's UDP port on this machine; 0 when the system does not say.
    pub udp_port: u16,
    /// The machine's addresses that others may use, those of private networks included.
    pub addresses: Vec<IpAddr>,
    /// Whether the machine has an IPv6 address that is valid everywhere, and the node uses it.
    pub ipv6: bool,
    /// Rendezvous peers: our own first, then those of contacts, 16 at most.
    pub peers: Vec<PeerReport>,
    /// What the network does to UDP.
    pub nat: NatReport,
}

/// Whether a rendezvous peer can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerReport {
    /// The peer.
    #[serde(serialize_with = "as_text::serialize")]
    pub peer: PeerHost,
    /// Whether it serves this node; else it serves a contact.
    pub own: bool,
    /// Its addresses, as the domain name system tells; empty when it does not know the name.
    pub addresses: Vec<SocketAddr>,
    /// The machines behind its name, the one first that serves this node, or the contact; empty
    /// when the name stands for one machine. What else is told here is about that one.
    pub machines: Vec<MachineReport>,
    /// How this node is registered there; `None` when it is not.
    pub registered: Option<Registration>,
    /// Why it does not host this node, if it has said so.
    pub not_admitted: Option<NotAdmitted>,
    /// Whether it answers over UDP, asked for this report.
    pub udp: Reach,
    /// Whether it answers over TCP, through a WebSocket, asked for this report.
    pub tcp: Reach,
    /// Its second UDP port, with which a node finds out about its network.
    pub second_port: Option<u16>,
}

/// One of several machines behind the name of a rendezvous peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineReport {
    /// Where it is.
    #[serde(serialize_with = "as_text::serialize")]
    pub place: PeerHost,
    /// Whether this node is registered there.
    pub registered: bool,
    /// Whether it answers over UDP, asked for this report.
    pub udp: Reach,
}

/// How a node is registered at its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// What the connection runs on.
    pub over: Carrier,
    /// The node's address as the peer sees it.
    pub observed: SocketAddr,
}

/// What a connection to a peer runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// UDP, as it should be.
    Udp,
    /// A WebSocket on TCP, where the network blocks UDP.
    Tcp,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Whether a peer answers in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Reach {
    /// It does.
    Answered {
        /// The round trip. Serialized as `rtt_ms`.
        #[serde(rename = "rtt_ms", serialize_with = "as_ms")]
        rtt: Duration,
        /// The node's address as the peer sees it.
        observed: SocketAddr,
    },
    /// What answers has another key than the peer had before: somebody may stand between, or the
    /// peer's operator has replaced the key.
    KeyChanged {
        /// The key that is known.
        expected: PeerFingerprint,
        /// The key that is shown.
        found: PeerFingerprint,
    },
    /// It does not.
    Failed {
        /// Why, for people.
        why: String,
    },
}

impl Reach {
    /// Whether the peer answered, with the key that is known.
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }
}

/// What the network does to the node's UDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatReport {
    /// Whether the router uses one mapping for all destinations (RFC 4787, 4.1).
    #[serde(serialize_with = "dependence")]
    pub mapping: Dependence,
    /// Who may send in through a mapping (RFC 4787, 5).
    #[serde(serialize_with = "dependence")]
    pub filtering: Dependence,
    /// How the router chooses ports (RFC 4787, 4.2).
    #[serde(serialize_with = "allocation")]
    pub allocation: Allocation,
    /// Where peers see the node.
    pub observed: Vec<SocketAddr>,
    /// A port that a router keeps open for the node, once a datagram has come through it.
    pub mapped: Option<SocketAddr>,
    /// What all of that means.
    pub outlook: Outlook,
}

impl NatReport {
    /// Mapping, filtering and allocation in the words of RFC 4787.
    pub fn words(&self) -> String {
        format!(
            "mapping {}, filtering {}, allocation {}",
            dependence_word(self.mapping),
            dependence_word(self.filtering),
            allocation_word(self.allocation),
        )
    }
}

/// What [`Node::path_report`] finds out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathReport {
    /// Which contact.
    pub contact: Fingerprint,
    /// How something sent now travels.
    pub path: Path,
    /// Whether our own policy lets the contact learn this node's addresses.
    pub shown: bool,
    /// What could get a direct path, or a connection at all, in plain words; `None` when there is
    /// nothing to do.
    pub advice: Option<&'static str>,
    /// The contact's rendezvous peers.
    pub peers: Vec<PeerReport>,
}

impl Node {
    /// Finds out what this node's network is like, and whether the rendezvous peers that it needs
    /// can be reached. Takes a few round trips; up to 9 seconds where something does not answer.
    ///
    /// Our own peers and those of contacts see a connection from this node, as they do whenever it
    /// starts.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn network(&self) -> Result<NetworkReport, StoreError> {
        let net = self.net();
        let targets = net.store.run(|m, cx| all_peers(m, cx)).await?;
        let peers = ask_all(net, targets).await;
        if peers.iter().any(|p| p.own && p.udp.is_answered() && p.second_port.is_some()) {
            let mut local = net.paths.watch_local();
            // What is not known by then is reported as unknown.
            let _ = timeout(SETTLE, local.wait_for(|local| is_known(&local.verdict))).await;
        }
        Ok(report(net, peers))
    }

    /// Finds out how a contact is reached, why not directly, and whether the contact's peers
    /// answer. It makes no connection to the contact: see [`Node::connect`]. Takes a few round
    /// trips; up to 5 seconds where something does not answer.
    ///
    /// # Errors
    /// [`ConnectError::UnknownContact`], or [`ConnectError::Store`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn path_report(&self, contact: &Fingerprint) -> Result<PathReport, ConnectError> {
        let (net, fp) = (self.net(), *contact);
        let (state, shown, targets) = net
            .store
            .run(move |m, cx| {
                let row = cx.db.contact(&fp)?.ok_or(ConnectError::UnknownContact)?;
                let shown = m.policy(cx)?.allows(row.state, row.verified);
                let peers = m.mail(cx, &fp)?.map(|mail| mail.peers).unwrap_or_default();
                Ok::<_, ConnectError>((row.state, shown, peers_of_contact(peers, fp)))
            })
            .await?;
        // A stranger chooses the address of her peer: nothing is sent there unasked.
        let may_ask = matches!(state, ContactState::Accepted | ContactState::Requested);
        let peers = if may_ask { ask_all(net, targets.collect()).await } else { Vec::new() };
        let path = self.path(contact);
        let advice = advice(&path, state, shown, &peers);
        Ok(PathReport { contact: fp, path, shown, advice, peers })
    }
}

fn is_known(verdict: &Verdict) -> bool {
    verdict.mapping != Dependence::Unknown && verdict.filtering != Dependence::Unknown
}

fn report(net: &Net, peers: Vec<PeerReport>) -> NetworkReport {
    let Local { ips, verdict, port, .. } = net.paths.local();
    let bound = net.endpoint.local_addr().ok().map(|addr| addr.ip());
    let addresses = match bound {
        Some(ip) if !ip.is_unspecified() => vec![ip],
        _ => ips,
    };
    let is_global = |ip: &IpAddr| ip.is_ipv6() && is_probe_target((*ip, ANY_PORT).into(), &[]);
    let observed = observed(&peers);
    let untranslated = observed.iter().any(|addr| addresses.contains(&addr.ip()));
    let udp_blocked =
        peers.iter().any(|p| p.tcp.is_answered()) && !peers.iter().any(|p| p.udp.is_answered());
    let mapped = net.paths.mapped();
    NetworkReport {
        udp_port: port,
        ipv6: addresses.iter().any(is_global),
        addresses,
        peers,
        nat: NatReport {
            mapping: verdict.mapping,
            filtering: verdict.filtering,
            allocation: verdict.allocation,
            observed,
            mapped,
            outlook: Outlook::of(&verdict, untranslated, mapped.is_some(), udp_blocked),
        },
    }
}

/// Where peers see the node's UDP, each address once.
fn observed(peers: &[PeerReport]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for peer in peers {
        let by_registration = peer.registered.filter(|r| r.over == Carrier::Udp);
        let by_answer = match peer.udp {
            Reach::Answered { observed, .. } => Some(observed),
            _ => None,
        };
        for addr in by_registration.map(|r| r.observed).into_iter().chain(by_answer) {
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
    }
    all
}

/// What could change a path that is not direct.
fn advice(
    path: &Path,
    state: ContactState,
    shown: bool,
    peers: &[PeerReport],
) -> Option<&'static str> {
    let reachable = peers.iter().any(|p| p.udp.is_answered() || p.tcp.is_answered());
    match path {
        Path::Direct { .. } => None,
        Path::Relayed { why, .. } => relayed_advice(*why, shown),
        Path::Mailbox => Some(match state {
            ContactState::Requested => "wait until they accept, or ask them to",
            ContactState::Incoming => "accept them, if you know who they are",
            ContactState::Blocked => "they are blocked here",
            ContactState::Accepted if !reachable => {
                "their rendezvous peer does not answer: messages wait here until it does"
            }
            ContactState::Accepted => {
                "they are away, or have just come: messages wait at their peer"
            }
        }),
    }
}

fn relayed_advice(why: WhyRelayed, shown: bool) -> Option<&'static str> {
    Some(match why {
        WhyRelayed::NotTried | WhyRelayed::StillTrying => "look again in a few seconds",
        WhyRelayed::Hidden if !shown => {
            "your own policy hides your addresses from them: allow direct paths, or check their \
             safety code"
        }
        WhyRelayed::Hidden => {
            "they do not show their addresses: ask them to allow direct paths, or to check your \
             safety code"
        }
        WhyRelayed::UdpBlocked => {
            "let UDP out in your firewall, at least to your peer's port, or use another network"
        }
        WhyRelayed::NoCandidates => {
            "their network may block UDP: they can let it out in their firewall, or use another \
             network"
        }
        WhyRelayed::BothAddressDependent
        | WhyRelayed::SearchNotAllowed
        | WhyRelayed::SearchFailed => {
            "one of you can turn on UPnP, NAT-PMP or PCP in the router, or use a network with IPv6"
        }
        WhyRelayed::NoAnswer => {
            "a firewall on one side may drop UDP: let it through, or turn on UPnP, NAT-PMP or PCP \
             in the router"
        }
        WhyRelayed::PathLost => "another direct path is looked for when something is sent",
        WhyRelayed::Unused => "it comes back when something is sent",
        _ => return None,
    })
}

/// The word of RFC 4787.
fn dependence_word(it: Dependence) -> &'static str {
    match it {
        Dependence::Unknown => "unknown",
        Dependence::EndpointIndependent => "endpoint-independent",
        Dependence::AddressDependent => "address-dependent",
        Dependence::AddressAndPortDependent => "address-and-port-dependent",
    }
}

fn allocation_word(it: Allocation) -> &'static str {
    match it {
        Allocation::Unknown => "unknown",
        Allocation::Preserving => "preserving",
        Allocation::Sequential { .. } => "sequential",
        Allocation::Block { .. } => "block",
        Allocation::Random => "random",
    }
}

fn dependence<S: Serializer>(it: &Dependence, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(dependence_word(*it))
}

fn allocation<S: Serializer>(it: &Allocation, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(allocation_word(*it))
}

fn as_ms<S: Serializer>(it: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64((it.as_secs_f64() * 1e6).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hides_is_told_apart() {
        let (us, them) =
            (relayed_advice(WhyRelayed::Hidden, false), relayed_advice(WhyRelayed::Hidden, true));
        assert!(us.is_some_and(|it| it.contains("your own policy")));
        assert!(them.is_some_and(|it| it.contains("ask them")));
    }
}
