//! Asking rendezvous peers whether they are there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halloo_identity::{Fingerprint, PeerFingerprint, PeerHost};
use halloo_transport::websocket::{self, TunnelError};
use halloo_transport::{CloseCode, ConnectError as DialError, PeerTrust, Show};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Carrier, MachineReport, PeerReport, Reach, Registration};
use crate::contact::ContactState;
use crate::core::{Context, Messenger};
use crate::error::StoreError;
use crate::net::Net;
use crate::net::post::{Connected, OfficeError, Welcome, resolve};

/// Peers that are asked at once, our own first: each costs two connections.
const MAX_PEERS: usize = 16;
/// Addresses of one peer that are tried: a name has one or two for each family.
const MAX_ADDRESSES: usize = 4;
/// For an answer of a peer, over UDP and over TCP each. The handshake has as much.
const DEADLINE: Duration = Duration::from_secs(5);

/// A peer to ask.
pub(super) struct Target {
    peer: PeerHost,
    key: Option<PeerFingerprint>,
    /// A contact whom it serves; `None` when it serves us.
    serves: Option<Fingerprint>,
}

/// Our own peers, and those of contacts that have been accepted or that we have asked.
pub(super) fn all_peers(m: &Messenger, cx: &Context<'_>) -> Result<Vec<Target>, StoreError> {
    let mut targets: Vec<Target> = Vec::new();
    for hint in m.own_peers(cx)? {
        if let Ok(peer) = PeerHost::try_from(&hint) {
            let key = cx.db.pin(&peer)?.or(hint.key);
            targets.push(Target { peer, key, serves: None });
        }
    }
    for contact in cx.db.contacts()? {
        // A stranger chooses the address of her peer: nothing is sent there unasked.
        let may_ask = contact.state == ContactState::Requested || m.allows_link(cx, &contact.fp)?;
        let Some(mail) = m.mail(cx, &contact.fp)?.filter(|_| may_ask) else { continue };
        for target in peers_of_contact(mail.peers, contact.fp) {
            if targets.iter().all(|known| known.peer != target.peer) {
                targets.push(target);
            }
        }
    }
    targets.truncate(MAX_PEERS);
    Ok(targets)
}

pub(super) fn peers_of_contact(
    peers: Vec<(PeerHost, Option<PeerFingerprint>)>,
    contact: Fingerprint,
) -> impl Iterator<Item = Target> {
    let serves = Some(contact);
    peers.into_iter().take(MAX_PEERS).map(move |(peer, key)| Target { peer, key, serves })
}

/// Asks peers, all at once. The order stays.
pub(super) async fn ask_all(net: &Arc<Net>, targets: Vec<Target>) -> Vec<PeerReport> {
    let mut asking = JoinSet::new();
    for (place, target) in targets.into_iter().enumerate() {
        let net = Arc::clone(net);
        asking.spawn(async move { (place, ask(&net, target).await) });
    }
    let mut reports = asking.join_all().await;
    reports.sort_by_key(|(place, _)| *place);
    reports.into_iter().map(|(_, report)| report).collect()
}

async fn ask(net: &Arc<Net>, target: Target) -> PeerReport {
    let Target { peer, key, serves } = target;
    let own = serves.is_none();
    let who = serves.unwrap_or_else(|| net.identity.fingerprint());
    let trust = key.map_or(PeerTrust::FirstUse, PeerTrust::Pinned);
    let order = timeout(DEADLINE, net.order(&peer, &who)).await.unwrap_or_default();
    let addresses = match order.first() {
        Some(first) => timeout(DEADLINE, resolve(first)).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let (mut by_udp, mut by_tcp) = (JoinSet::new(), JoinSet::new());
    for addr in addresses.iter().copied().take(MAX_ADDRESSES) {
        by_udp.spawn(over_udp(Arc::clone(net), addr, trust));
        by_tcp.spawn(over_tcp(Arc::clone(net), peer.clone(), addr, trust));
    }
    let several = if order.iter().any(|place| *place != peer) { order } else { Vec::new() };
    let machines = ask_machines(net, &peer, several, trust);
    let (udp, tcp, machines) = tokio::join!(first(by_udp), first(by_tcp), machines);
    let echo_port = |answer: &Result<Answer, Failed>| answer.as_ref().ok()?.welcome.echo_port;
    let second_port = echo_port(&udp).or_else(|| echo_port(&tcp));
    let registered = net.observed.borrow().get(&peer).map(|seen| Registration {
        over: if seen.by_tunnel { Carrier::Tcp } else { Carrier::Udp },
        observed: seen.addr,
    });
    let (udp, tcp) = (reach(udp), reach(tcp));
    let not_admitted = net.not_admitted().get(&peer).copied();
    PeerReport { peer, own, addresses, machines, registered, not_admitted, udp, tcp, second_port }
}

/// Asks each of the machines behind a name, over UDP. The order stays.
async fn ask_machines(
    net: &Arc<Net>,
    peer: &PeerHost,
    places: Vec<PeerHost>,
    trust: PeerTrust,
) -> Vec<MachineReport> {
    let home = net.observed.borrow().get(peer).map(|seen| seen.place.clone());
    let mut asking = JoinSet::new();
    for (number, place) in places.into_iter().enumerate() {
        let (net, registered) = (Arc::clone(net), home.as_ref() == Some(&place));
        asking.spawn(async move {
            let mut by_udp = JoinSet::new();
            let addresses = timeout(DEADLINE, resolve(&place)).await.unwrap_or_default();
            for addr in addresses.into_iter().take(MAX_ADDRESSES) {
                by_udp.spawn(over_udp(Arc::clone(&net), addr, trust));
            }
            let udp = reach(first(by_udp).await);
            (number, MachineReport { place, registered, udp })
        });
    }
    let mut reports = asking.join_all().await;
    reports.sort_by_key(|(number, _)| *number);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// What a peer said.
struct Answer {
    rtt: Duration,
    welcome: Welcome,
}

/// Why it said nothing.
enum Failed {
    NoSuchHost,
    TimedOut,
    Office(OfficeError),
}

async fn over_udp(
    net: Arc<Net>,
    addr: SocketAddr,
    trust: PeerTrust,
) -> Result<Answer, OfficeError> {
    let connection = net.endpoint.connect_peer(addr, trust, Show::Nothing).await?;
    Ok(answer(Connected::greet(connection, None, None).await?))
}

async fn over_tcp(
    net: Arc<Net>,
    peer: PeerHost,
    addr: SocketAddr,
    trust: PeerTrust,
) -> Result<Answer, OfficeError> {
    // A tunnel of its own: one that is there already proves nothing about this moment.
    let tunnel = Box::pin(websocket::connect(&net.endpoint, addr, peer.host(), trust)).await;
    let tunnel = Arc::new(tunnel.map_err(OfficeError::Tunnel)?);
    let connection = net.endpoint.connect_peer(tunnel.addr(), trust, Show::Nothing).await?;
    Ok(answer(Connected::greet(connection, Some(tunnel), None).await?))
}

fn answer(connected: Connected) -> Answer {
    let answer = Answer { rtt: connected.connection.rtt(), welcome: connected.welcome };
    connected.connection.close(CloseCode::Done);
    answer
}

/// The first answer among several addresses. What is under way then is given up.
async fn first(mut asking: JoinSet<Result<Answer, OfficeError>>) -> Result<Answer, Failed> {
    let any = async {
        let mut failed = Failed::NoSuchHost;
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok(Ok(answer)) => return Ok(answer),
                // The worst news is told.
                Ok(Err(_)) if changed_key(&failed).is_some() => {}
                Ok(Err(e)) => failed = Failed::Office(e),
                Err(_) => {}
            }
        }
        Err(failed)
    };
    timeout(DEADLINE, any).await.unwrap_or(Err(Failed::TimedOut))
}

fn reach(asked: Result<Answer, Failed>) -> Reach {
    match asked {
        Ok(Answer { rtt, welcome }) => Reach::Answered { rtt, observed: welcome.observed },
        Err(failed) => match (changed_key(&failed), failed) {
            (Some((expected, found)), _) => Reach::KeyChanged { expected, found },
            (None, Failed::Office(OfficeError::Tunnel(TunnelError::Unreachable(kind)))) => {
                Reach::Failed { why: kind.to_string() }
            }
            (None, Failed::Office(e)) => Reach::Failed { why: e.to_string() },
            (None, Failed::NoSuchHost) => {
                Reach::Failed { why: "the domain name system does not know its name".into() }
            }
            (None, Failed::TimedOut) => Reach::Failed { why: "nobody answered in time".into() },
        },
    }
}

/// The key that was expected and the one that was found, when that is what failed.
fn changed_key(failed: &Failed) -> Option<(PeerFingerprint, PeerFingerprint)> {
    match failed {
        Failed::Office(
            OfficeError::Connect(DialError::PeerKeyChanged { expected, found })
            | OfficeError::Tunnel(TunnelError::PeerKeyChanged { expected, found })
            | OfficeError::KeyChanged { expected, found, .. },
        ) => Some((*expected, *found)),
        _ => None,
    }
}
