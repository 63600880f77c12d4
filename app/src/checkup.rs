//! The checks of `doctor`: what the library finds out, one line for each, with what to do.

use std::time::Duration;

use halloo::error::ConnectError;
use halloo::{
    Carrier, Fingerprint, MachineReport, NatReport, NetworkReport, Node, Path, PathReport,
    PeerReport, Reach, WhyRelayed,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::duration::human;
use crate::fact::{Check, Fact, Line};
use crate::failure::Failure;
use crate::tell;

/// How long a connection to a contact is given.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it then has to become direct: the last probes leave after 1.3 seconds, and a port
/// search takes some more.
const BECOME_DIRECT: Duration = Duration::from_secs(4);

/// Checks the network of `node` and, when somebody is named, the path to them. Tells each check.
///
/// # Errors
/// When the node's store cannot be read. What is wrong with the network is no error here.
pub(crate) async fn run(
    node: &Node,
    who: Option<&Fingerprint>,
    emit: mpsc::Sender<Line>,
) -> Result<(), Failure> {
    let network = async {
        let report = node.network().await?;
        for check in of_network(&report) {
            say(&emit, check).await;
        }
        Ok::<_, Failure>(report)
    };
    let contact = async {
        match who {
            Some(who) => reach(node, who).await.map(Some),
            None => Ok(None),
        }
    };
    let (report, contact) = tokio::join!(network, contact);
    let report = report?;
    if let Some((name, tried, path)) = contact? {
        // A peer that was asked above says the same again.
        let asked = |p: &&PeerReport| report.peers.iter().all(|known| known.peer != p.peer);
        for check in path.peers.iter().filter(asked).flat_map(of_peer) {
            say(&emit, check).await;
        }
        say(&emit, of_path(&name, &tried, &path)).await;
    }
    Ok(())
}

async fn say(emit: &mpsc::Sender<Line>, check: Check) {
    // Who does not listen any more gives the whole request up.
    let _ = emit.send(Line::of(Fact::Check(check))).await;
}

/// Tries to get a direct path to a contact. Their name, what became of the connection, and how
/// they are reached at the end.
async fn reach(
    node: &Node,
    who: &Fingerprint,
) -> Result<(String, Result<(), String>, PathReport), Failure> {
    let tried = match tokio::time::timeout(CONNECT, node.connect(who)).await {
        Ok(Err(e @ (ConnectError::UnknownContact | ConnectError::Store(_)))) => {
            return Err(e.into());
        }
        Ok(tried) => tried.map(drop).map_err(|e| e.to_string()),
        Err(_) => Err("nobody answered in time".to_owned()),
    };
    if tried.is_ok() {
        // A path that stays relayed is reported as one.
        let _ = tokio::time::timeout(BECOME_DIRECT, node.wait_direct(who)).await;
    }
    Ok((tell::name(node, who).await, tried, node.path_report(who).await?))
}

/// The checks of a network.
fn of_network(report: &NetworkReport) -> Vec<Check> {
    let (own, theirs): (Vec<_>, Vec<_>) = report.peers.iter().partition(|p| p.own);
    let mut checks = vec![of_socket(report)];
    checks.extend(own.into_iter().flat_map(of_peer));
    checks.push(of_nat(&report.nat));
    checks.push(of_mapped_port(&report.nat));
    checks.push(of_ipv6(report));
    checks.extend(theirs.into_iter().flat_map(of_peer));
    checks
}

fn of_socket(report: &NetworkReport) -> Check {
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    let what = match addresses.as_slice() {
        [] => "this machine has no address that others could use".to_owned(),
        some => format!("UDP port {} is open, on {}", report.udp_port, some.join(", ")),
    };
    Check {
        ok: Some(!addresses.is_empty()),
        help: addresses.is_empty().then(|| "connect this machine to a network".to_owned()),
        figures: figures(json!({ "udp_port": report.udp_port, "addresses": addresses })),
        ..check("socket", what)
    }
}

/// The checks of a rendezvous peer.
fn of_peer(p: &PeerReport) -> Vec<Check> {
    let peer = p.peer.to_string();
    let about = |check: Check| Check { about: Some(peer.clone()), ..check };
    let mut checks = Vec::new();
    if p.addresses.is_empty() {
        checks.push(about(Check {
            ok: Some(false),
            help: Some("check how it is spelt, and that name look-ups work here".to_owned()),
            ..check("name", format!("the name of {peer} is not known"))
        }));
    } else {
        checks.extend(of_key(p, &peer).map(about));
        checks.push(about(of_reach(&peer, "udp", &p.udp, Some(false), udp_help(p))));
        // Where UDP works nobody misses TCP.
        let missing = if p.udp.is_answered() { None } else { Some(false) };
        checks.push(about(of_reach(&peer, "tcp", &p.tcp, missing, tcp_help(p))));
    }
    checks.extend(p.machines.iter().map(|m| about(of_machine(m, &peer))));
    if p.own {
        checks.push(about(of_registration(p, &peer)));
    }
    for check in &mut checks {
        check.figures.insert("own".to_owned(), p.own.into());
    }
    checks
}

fn of_key(p: &PeerReport, peer: &str) -> Option<Check> {
    [&p.udp, &p.tcp].into_iter().find_map(|reach| match reach {
        Reach::KeyChanged { expected, found } => Some(Check {
            ok: Some(false),
            help: Some(
                "ask its operator by another way; nothing is sent to it meanwhile".to_owned(),
            ),
            figures: figures(json!({
                "expected": expected.to_string(),
                "found": found.to_string(),
            })),
            ..check(KEY, format!("{peer} shows another key than before"))
        }),
        _ => None,
    })
}

/// Whether `peer` answers in one way; when it does not, that is as `missing` says.
fn of_reach(
    peer: &str,
    name: &str,
    reach: &Reach,
    missing: Option<bool>,
    help: Option<&str>,
) -> Check {
    let carrier = name.to_uppercase();
    let figures = figures(serde_json::to_value(reach).unwrap_or_default());
    match reach {
        Reach::Answered { rtt, .. } => {
            let what = format!("{peer} answers over {carrier}, round trip {}", human(*rtt));
            Check { ok: Some(true), figures, ..check(name, what) }
        }
        Reach::KeyChanged { .. } => {
            let what = format!("what answers over {carrier} is not {peer} as it was");
            Check { ok: Some(false), figures, ..check(name, what) }
        }
        Reach::Failed { why } => Check {
            ok: missing,
            help: help.map(str::to_owned),
            figures,
            ..check(name, format!("{peer} does not answer over {carrier}: {why}"))
        },
    }
}

fn udp_help(p: &PeerReport) -> Option<&'static str> {
    Some(match (p.tcp.is_answered(), p.own) {
        (true, _) => "let UDP out in the firewall; until then everything goes over TCP, relayed",
        (false, true) => "check your network; the peer may be down: its operator knows",
        (false, false) => "their peer may be down: what is for its users waits here",
    })
}

fn tcp_help(p: &PeerReport) -> Option<&'static str> {
    p.udp.is_answered().then_some("nothing: TCP is for networks that let no UDP through")
}

/// One of several machines behind the name of a peer. Others serve when one is away.
fn of_machine(m: &MachineReport, peer: &str) -> Check {
    let here = if m.registered { ", where you are registered" } else { "" };
    let what = match &m.udp {
        Reach::Answered { rtt, .. } => {
            format!("{} of {peer}{here}: answers over UDP in {}", m.place, human(*rtt))
        }
        Reach::KeyChanged { .. } => {
            format!("{} of {peer}{here}: has another key than the one that is known", m.place)
        }
        Reach::Failed { why } => format!("{} of {peer}{here}: no answer over UDP: {why}", m.place),
    };
    Check {
        ok: match m.udp {
            Reach::Answered { .. } => Some(true),
            Reach::KeyChanged { .. } => Some(false),
            // Another one serves.
            Reach::Failed { .. } => None,
        },
        figures: figures(serde_json::to_value(m).unwrap_or_default()),
        ..check("machine", what)
    }
}

fn of_registration(p: &PeerReport, peer: &str) -> Check {
    let (ok, what, help) = match (p.registered, p.not_admitted) {
        (Some(r), _) => {
            let what = format!("registered at {peer} over {}, seen as {}", r.over, r.observed);
            let late = r.over == Carrier::Tcp && p.udp.is_answered();
            let help = "UDP works by now, which direct paths need: start the node again";
            (!late, what, late.then_some(help))
        }
        (None, Some(why)) => {
            let what = format!("{peer} does not host this node: {why}");
            (false, what, Some(tell::admission_help(tell::not_admitted(why))))
        }
        (None, None) if p.udp.is_answered() || p.tcp.is_answered() => (
            false,
            format!("not registered at {peer}, though it answers"),
            Some("try again in a minute; halloo listen -v shows what it says"),
        ),
        (None, None) => (
            false,
            format!("not registered at {peer}: others cannot reach you, and nothing is lost"),
            None,
        ),
    };
    Check {
        ok: Some(ok),
        help: help.map(str::to_owned),
        figures: match p.not_admitted {
            Some(why) => figures(json!({ "not_admitted": tell::not_admitted(why) })),
            None => figures(serde_json::to_value(p.registered).unwrap_or_default()),
        },
        ..check("registered", what)
    }
}

fn of_nat(nat: &NatReport) -> Check {
    let what = match nat.mapping {
        halloo::Dependence::Unknown => nat.outlook.to_string(),
        _ => format!("{} ({})", nat.outlook, nat.words()),
    };
    Check {
        ok: nat.outlook.is_good(),
        help: nat.outlook.advice().map(str::to_owned),
        figures: figures(serde_json::to_value(nat).unwrap_or_default()),
        ..check("nat", what)
    }
}

fn of_mapped_port(nat: &NatReport) -> Check {
    let (ok, what) = match nat.mapped {
        Some(addr) => (Some(true), format!("a router keeps {addr} open for this node")),
        None => (None, "no router keeps a port open for this node".to_owned()),
    };
    let mapped = nat.mapped.map(|addr| addr.to_string());
    Check { ok, figures: figures(json!({ "mapped": mapped })), ..check("mapped-port", what) }
}

fn of_ipv6(report: &NetworkReport) -> Check {
    let (ok, what) = match report.ipv6 {
        true => (Some(true), "an IPv6 address that is valid everywhere"),
        false => (None, "no IPv6 address that is valid everywhere; it is not needed"),
    };
    Check { ok, figures: figures(json!({ "ipv6": report.ipv6 })), ..check("ipv6", what.to_owned()) }
}

/// The check of the path to a contact.
fn of_path(name: &str, tried: &Result<(), String>, report: &PathReport) -> Check {
    let path = tell::path(name.to_owned(), &report.path);
    let rtt = match report.path {
        Path::Direct { rtt, .. } | Path::Relayed { rtt, .. } if !rtt.is_zero() => {
            format!(", round trip {}", human(rtt))
        }
        _ => String::new(),
    };
    let (ok, what) = match &report.path {
        Path::Direct { addr, technique, .. } => {
            (Some(true), format!("{name} is reached directly, at {addr}, by {technique}{rtt}"))
        }
        // These are as somebody wants it, or pass by themselves.
        Path::Relayed { why: why @ (WhyRelayed::Hidden | WhyRelayed::Unused), .. } => {
            (None, format!("{name} is reached through a relay{rtt}: {why}"))
        }
        Path::Relayed { why, .. } => {
            (Some(false), format!("{name} is reached through a relay{rtt}: {why}"))
        }
        Path::Mailbox => {
            let why = tried.as_ref().err().map_or("the connection has ended", String::as_str);
            (Some(false), format!("{name} is reached through a mailbox only: {why}"))
        }
    };
    let mut figures = figures(serde_json::to_value(&path).unwrap_or_default());
    figures.remove("contact");
    figures.insert("shown".to_owned(), report.shown.into());
    let help = match report.path {
        Path::Relayed { why: WhyRelayed::Hidden, .. } if !report.shown => {
            Some("halloo daemon --direct accepted, or: halloo verify NAME")
        }
        _ => report.advice,
    };
    Check {
        about: Some(name.to_owned()),
        ok,
        help: help.map(str::to_owned),
        figures,
        ..check("path", what)
    }
}

/// The name of the check that fails when a peer shows another key than before.
pub(crate) const KEY: &str = "key";

fn check(name: &str, what: String) -> Check {
    Check { check: name.to_owned(), about: None, ok: None, what, help: None, figures: Map::new() }
}

/// The members of an object; nothing of anything else.
fn figures(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use halloo::{Allocation, Dependence, Outlook, Registration, Technique};

    fn answered() -> Reach {
        Reach::Answered {
            rtt: Duration::from_millis(31),
            observed: "203.0.113.5:51000".parse().unwrap(),
        }
    }

    fn failed() -> Reach {
        Reach::Failed { why: "nobody answered in time".into() }
    }

    fn peer(udp: Reach, tcp: Reach) -> PeerReport {
        PeerReport {
            peer: "peer.example.org".parse().unwrap(),
            own: true,
            addresses: vec!["198.51.100.1:443".parse().unwrap()],
            machines: Vec::new(),
            registered: Some(Registration {
                over: if udp.is_answered() { Carrier::Udp } else { Carrier::Tcp },
                observed: "203.0.113.5:51000".parse().unwrap(),
            }),
            not_admitted: None,
            udp,
            tcp,
            second_port: Some(444),
        }
    }

    fn network(peer: PeerReport, outlook: Outlook) -> NetworkReport {
        NetworkReport {
            udp_port: 40_000,
            addresses: vec!["192.168.1.7".parse().unwrap()],
            ipv6: false,
            peers: vec![peer],
            nat: NatReport {
                mapping: Dependence::EndpointIndependent,
                filtering: Dependence::AddressAndPortDependent,
                allocation: Allocation::Unknown,
                observed: vec!["203.0.113.5:51000".parse().unwrap()],
                mapped: None,
                outlook,
            },
        }
    }

    fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|c| c.check == name).unwrap()
    }

    #[test]
    fn a_good_network_has_nothing_to_mend() {
        let checks = of_network(&network(peer(answered(), answered()), Outlook::OnePort));
        let names: Vec<&str> = checks.iter().map(|c| c.check.as_str()).collect();
        assert_eq!(names, ["socket", "udp", "tcp", "registered", "nat", "mapped-port", "ipv6"]);
        assert!(checks.iter().all(|c| c.ok != Some(false) && c.help.is_none()), "{checks:#?}");
        let udp = named(&checks, "udp");
        assert_eq!(udp.what, "peer.example.org answers over UDP, round trip 31.0 ms");
        assert_eq!((&udp.figures["rtt_ms"], &udp.figures["own"]), (&31.0.into(), &true.into()));
        let nat = named(&checks, "nat");
        assert!(nat.what.contains("one port for everybody"), "{}", nat.what);
        assert!(nat.what.contains("mapping endpoint-independent"), "{}", nat.what);
        assert_eq!(nat.figures["filtering"], "address-and-port-dependent");
        assert_eq!(nat.figures["outlook"], "one-port");
    }

    #[test]
    fn blocked_udp_is_told_apart_from_a_peer_that_is_down() {
        let blocked = of_network(&network(peer(failed(), answered()), Outlook::UdpBlocked));
        let (udp, nat) = (named(&blocked, "udp"), named(&blocked, "nat"));
        assert_eq!((udp.ok, nat.ok), (Some(false), Some(false)));
        assert!(udp.help.as_ref().unwrap().contains("let UDP out"), "{udp:?}");
        assert!(named(&blocked, "registered").what.contains("over TCP"));

        let down = of_network(&network(
            PeerReport { registered: None, ..peer(failed(), failed()) },
            Outlook::Unknown,
        ));
        let udp = named(&down, "udp");
        assert!(udp.help.as_ref().unwrap().contains("the peer may be down"), "{udp:?}");
        assert_eq!(named(&down, "registered").ok, Some(false));
        assert_eq!(named(&down, "nat").ok, None, "nothing is known of the network");
    }

    #[test]
    fn who_is_not_hosted_hears_why() {
        let refused = PeerReport {
            registered: None,
            not_admitted: Some(halloo::NotAdmitted::InviteExpired),
            ..peer(answered(), answered())
        };
        let checks = of_peer(&refused);
        let registered = named(&checks, "registered");
        assert_eq!(registered.ok, Some(false));
        assert!(registered.what.contains("the invite has expired"), "{}", registered.what);
        assert!(registered.help.as_ref().unwrap().contains("halloo init --invite"));
        assert_eq!(registered.figures["not_admitted"], "invite-expired");
    }

    #[test]
    fn missing_tcp_is_no_fault_where_udp_works() {
        let checks = of_peer(&peer(answered(), failed()));
        assert_eq!(named(&checks, "tcp").ok, None);
    }

    #[test]
    fn another_key_is_said_first() {
        let key = |n: u8| halloo::PeerFingerprint::from_bytes([n; 30]);
        let changed = Reach::KeyChanged { expected: key(1), found: key(2) };
        let checks = of_peer(&peer(changed.clone(), changed));
        assert_eq!((checks[0].check.as_str(), checks[0].ok), (KEY, Some(false)));
        assert_eq!(checks[0].figures["found"], key(2).to_string());
    }

    #[test]
    fn a_name_that_is_not_known_needs_no_more_checks() {
        let unknown =
            PeerReport { addresses: Vec::new(), registered: None, ..peer(failed(), failed()) };
        let checks = of_peer(&unknown);
        let names: Vec<&str> = checks.iter().map(|c| c.check.as_str()).collect();
        assert_eq!(names, ["name", "registered"]);
    }

    #[test]
    fn a_path_says_how_and_why() {
        let report = |path| PathReport {
            contact: Fingerprint::from_bytes([7; 30]),
            path,
            shown: false,
            advice: Some("look again in a few seconds"),
            peers: Vec::new(),
        };
        let direct = Path::Direct {
            addr: "198.51.100.9:40000".parse().unwrap(),
            rtt: Duration::from_millis(12),
            technique: Technique::PeerReflexive,
        };
        let direct = of_path("ben", &Ok(()), &report(direct));
        assert_eq!(direct.ok, Some(true));
        assert_eq!(
            direct.what,
            "ben is reached directly, at 198.51.100.9:40000, by peer-reflexive, round trip 12.0 ms"
        );
        assert_eq!(direct.figures["via"], "direct");

        let hidden = Path::Relayed { rtt: Duration::ZERO, why: WhyRelayed::Hidden };
        let hidden = of_path("ben", &Ok(()), &report(hidden));
        assert_eq!(hidden.ok, None, "somebody wants it so");
        assert!(hidden.help.unwrap().contains("--direct accepted"));

        let away = of_path("ben", &Err("the contact is away".into()), &report(Path::Mailbox));
        assert_eq!(away.ok, Some(false));
        assert!(away.what.ends_with("mailbox only: the contact is away"), "{}", away.what);
    }
}
