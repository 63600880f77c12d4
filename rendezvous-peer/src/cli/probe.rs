//! `rendezvous-peer probe`: a peer as a node sees it, from wherever this runs.

mod relay;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_identity::{Identity, PeerAddress, PeerHost};
use halloo_transport::websocket::{self, TunnelError};
use halloo_transport::{CloseCode, ConnectError, Endpoint, EndpointRole, PeerTrust, Show, names};
use halloo_wire::PeerFingerprint;
use halloo_wire::peer::Push;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use serde::Serialize;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use self::relay::{Ends, RelayError, Speed};
use super::failure::{Exit, Failure};
use super::output;

/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// How long a peer may take with its first word, after the handshake.
const GREETING: Duration = Duration::from_secs(5);
/// The longest that the relay is measured: the peer carries it at other people's cost.
const LONGEST_RELAY: Duration = Duration::from_secs(60);
/// How long a closed connection gets to say that it is.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often an echo request is sent before nobody is there, and how long each waits.
const ECHOES: u32 = 3;
const ECHO_WAIT: Duration = Duration::from_secs(1);

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Check {
    /// What.
    check: &'static str,
    /// Of which machine, when several are behind the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    /// Where.
    place: String,
    /// Whether it worked.
    ok: bool,
    /// How long it took.
    ms: Option<f64>,
    /// Why it did not work.
    error: Option<String>,
    /// For the relay: bits in a second from one end to the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_second: Option<u64>,
}

/// All that was found.
#[derive(Debug, Default)]
struct Findings {
    checks: Vec<Check>,
    /// The machines behind the name, when there are several.
    machines: Vec<PeerHost>,
    /// The one that is tried at the moment.
    machine: Option<String>,
    /// The key that answered.
    found: Option<PeerFingerprint>,
    /// A key that is not the one that was expected, or that another machine has.
    other: Option<PeerFingerprint>,
    /// Whether anything came back at all.
    answered: bool,
    /// Where the peer sees this machine.
    observed: Option<SocketAddr>,
}

/// Tries the peer at an address and prints what works. The relay is measured for `relay`, if it is.
pub(super) fn probe(
    address: &PeerAddress,
    relay: Option<Duration>,
    json: bool,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::of(Exit::Failure, "no-runtime", &e))?;
    let findings = runtime.block_on(examine(address, relay))?;
    let exit = findings.exit(address.key);
    findings.print(address, exit, json);
    Ok(exit)
}

async fn examine(address: &PeerAddress, relay: Option<Duration>) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    // A name of which nothing is known stands for one machine.
    let listed = names::machines(&address.host).await.ok().and_then(|listing| listing.machines);
    let Some(machines) = listed else {
        let host = address.host.host();
        let places = addresses(&address.host).await.map_err(|e| {
            Failure::new(Exit::Unreachable, "no-such-host", format!("{host} has no address: {e}"))
        })?;
        examine_machine(&mut findings, address, places, relay).await?;
        return Ok(findings);
    };
    findings.machines = machines.all().iter().map(|machine| machine.place.clone()).collect();
    for machine in findings.machines.clone() {
        findings.machine = Some(machine.to_string());
        match addresses(&machine).await {
            Ok(places) => examine_machine(&mut findings, address, places, relay).await?,
            // The others may be there.
            Err(e) => findings.fails("name", machine.to_string(), &e),
        }
    }
    Ok(findings)
}

async fn addresses(machine: &PeerHost) -> std::io::Result<Vec<SocketAddr>> {
    let all = tokio::net::lookup_host((machine.host(), machine.port())).await?;
    Ok(all.take(ADDRESSES).collect())
}

/// Tries one machine at all of its addresses.
async fn examine_machine(
    findings: &mut Findings,
    address: &PeerAddress,
    places: Vec<SocketAddr>,
    mut relay: Option<Duration>,
) -> Result<(), Failure> {
    let trust = address.key.map_or(PeerTrust::FirstUse, PeerTrust::Pinned);
    // It dials, and shows nobody who it is.
    let identity = Identity::generate();
    let name = address.host.host();
    for place in places {
        let any: IpAddr = match place {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let role = EndpointRole::Node { identity: &identity };
        let bind = |role| {
            Endpoint::bind(SocketAddr::new(any, 0), role)
                .map_err(|e| Failure::of(Exit::Failure, "no-socket", &e))
        };
        let endpoint = bind(role)?;
        let second = quic(findings, &endpoint, place, trust).await;
        echo(findings, place).await;
        if let Some(port) = second.filter(|&port| port != place.port()) {
            echo(findings, SocketAddr::new(place.ip(), port)).await;
        }
        Box::pin(tunnel(findings, &endpoint, place, name, trust)).await;
        if findings.reached_at(place)
            && let Some(time) = relay.take()
        {
            let caller = Identity::generate();
            let other = bind(EndpointRole::Node { identity: &caller })?;
            let ends = Ends { callee: (&identity, &endpoint), caller: &other };
            let measured =
                Box::pin(relay::measure(ends, place, trust, time.min(LONGEST_RELAY))).await;
            findings.relays(place, measured);
            other.close(CloseCode::Done);
            let _ = timeout(GOODBYE, other.wait_idle()).await;
        }
        endpoint.close(CloseCode::Done);
        let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
    }
    Ok(())
}

/// Comes as most nodes do. Returns the peer's second port.
async fn quic(
    findings: &mut Findings,
    endpoint: &Endpoint,
    place: SocketAddr,
    trust: PeerTrust,
) -> Option<u16> {
    let start = Instant::now();
    let greeted = greet(endpoint, place, trust).await;
    let took = start.elapsed();
    let place = format!("UDP {place}");
    match greeted {
        Ok(greeting) => {
            findings.shows(greeting.key);
            findings.observed = Some(greeting.observed);
            findings.works("quic", place, took);
            greeting.echo_port
        }
        Err(error) => {
            findings.hears(&error);
            findings.fails("quic", place, &error);
            None
        }
    }
}

/// Asks where the peer sees this machine, as a node does that looks at its NAT.
async fn echo(findings: &mut Findings, place: SocketAddr) {
    let start = Instant::now();
    let named = format!("UDP {place}");
    match ask_echo(place).await {
        Ok(true) => {
            findings.answered = true;
            findings.works("echo", named, start.elapsed());
        }
        Ok(false) => findings.fails("echo", named, &"nobody answered in time"),
        Err(error) => findings.fails("echo", named, &error),
    }
}

/// Says whether an answer came.
async fn ask_echo(place: SocketAddr) -> std::io::Result<bool> {
    let any: IpAddr =
        if place.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(place).await?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let asked = u64::from_be_bytes(random);
    let request = PeerDatagram::EchoRequest { txid: asked, cookie: 0, answer: EchoAnswer::Here };
    for _ in 0..ECHOES {
        socket.send(&request.encode()).await?;
        let answer = async {
            let mut buffer = [0; 256];
            loop {
                let n = socket.recv(&mut buffer).await?;
                match PeerDatagram::decode(&buffer[..n]) {
                    Ok(PeerDatagram::EchoReply { txid, .. }) if txid == asked => return Ok(()),
                    _ => {}
                }
            }
        };
        if let Ok(answer) = timeout(ECHO_WAIT, answer).await {
            return answer.map(|()| true);
        }
    }
    Ok(false)
}

/// Comes as a node does whose network blocks UDP.
async fn tunnel(
    findings: &mut Findings,
    endpoint: &Endpoint,
    place: SocketAddr,
    host: &str,
    trust: PeerTrust,
) {
    let start = Instant::now();
    let named = format!("TCP {place}");
    let tunnel = match websocket::connect(endpoint, place, host, trust).await {
        Ok(tunnel) => tunnel,
        Err(error) => {
            if let TunnelError::PeerKeyChanged { found, .. } = error {
                findings.shows(found);
            }
            findings.answered |= !matches!(
                error,
                TunnelError::Unreachable(_) | TunnelError::TimedOut | TunnelError::BadHost
            );
            return findings.fails("websocket", named, &error);
        }
    };
    findings.answered = true;
    let greeted = greet(endpoint, tunnel.addr(), trust).await;
    let took = start.elapsed();
    // The peer hears through the tunnel that the connection has ended.
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
    match greeted {
        Ok(greeting) => {
            findings.shows(greeting.key);
            findings.works("websocket", named, took);
        }
        Err(error) => {
            findings.hears(&error);
            findings.fails("websocket", named, &error);
        }
    }
}

/// A peer's first word.
struct Greeting {
    key: PeerFingerprint,
    observed: SocketAddr,
    echo_port: Option<u16>,
}

/// Why a peer did not greet.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it does not say what a peer says first")]
    Silent,
}

async fn greet(
    endpoint: &Endpoint,
    place: SocketAddr,
    trust: PeerTrust,
) -> Result<Greeting, GreetError> {
    let connection = endpoint.connect_peer(place, trust, Show::Nothing).await?;
    let push = timeout(GREETING, connection.next_push()).await;
    let key = connection.peer_fingerprint();
    connection.close(CloseCode::Done);
    match push {
        Ok(Ok(Push::Welcome { observed, echo_port, .. })) => {
            Ok(Greeting { key, observed, echo_port })
        }
        _ => Err(GreetError::Silent),
    }
}

impl Findings {
    fn works(&mut self, check: &'static str, place: String, took: Duration) {
        let ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
        self.answered = true;
        let machine = self.machine.clone();
        self.checks.push(Check {
            check,
            machine,
            place,
            ok: true,
            ms: Some(ms),
            error: None,
            bits_per_second: None,
        });
    }

    /// Whether QUIC has worked there.
    fn reached_at(&self, place: SocketAddr) -> bool {
        let place = format!("UDP {place}");
        self.checks.iter().any(|c| c.check == "quic" && c.ok && c.place == place)
    }

    /// What has come of measuring the relay. A peer need not relay: nothing hangs on it.
    fn relays(&mut self, place: SocketAddr, measured: Result<Speed, RelayError>) {
        let place = format!("UDP {place}");
        match measured {
            Ok(speed) => {
                self.works("relay", place, speed.there_and_back);
                if let Some(check) = self.checks.last_mut() {
                    check.bits_per_second = Some(speed.bits_per_second());
                }
            }
            Err(error) => self.fails("relay", place, &error),
        }
    }

    fn fails(&mut self, check: &'static str, place: String, error: &dyn std::fmt::Display) {
        let error = Some(error.to_string());
        let machine = self.machine.clone();
        self.checks.push(Check {
            check,
            machine,
            place,
            ok: false,
            ms: None,
            error,
            bits_per_second: None,
        });
    }

    /// A key was shown. All machines of a name have the same.
    fn shows(&mut self, key: PeerFingerprint) {
        match self.found {
            Some(before) if before != key => self.other = Some(key),
            _ => self.found = Some(key),
        }
    }

    /// What a failed greeting says about who is there.
    fn hears(&mut self, error: &GreetError) {
        match error {
            GreetError::Connect(ConnectError::PeerKeyChanged { found, .. }) => {
                self.answered = true;
                self.shows(*found);
            }
            GreetError::Connect(ConnectError::TimedOut | ConnectError::Unreachable) => {}
            _ => self.answered = true,
        }
    }

    fn exit(&self, expected: Option<PeerFingerprint>) -> Exit {
        let other = |found| expected.is_some_and(|expected| expected != found);
        if self.found.is_some_and(other) || self.other.is_some() {
            return Exit::Mismatch;
        }
        let works = |machine: Option<&str>| {
            let of = |c: &&Check| machine.is_none() || c.machine.as_deref() == machine;
            self.checks.iter().filter(of).any(|c| c.check == "quic" && c.ok)
        };
        let all_work = match self.machines.as_slice() {
            [] => works(None),
            machines => machines.iter().all(|machine| works(Some(&machine.to_string()))),
        };
        match (all_work, self.answered) {
            (true, _) => Exit::Ok,
            (false, true) => Exit::Failure,
            (false, false) => Exit::Unreachable,
        }
    }

    fn print(&self, address: &PeerAddress, exit: Exit, json: bool) {
        let observed = self.observed.map(|at| at.to_string());
        if json {
            let object = json!({
                "schema": output::SCHEMA,
                "address": address.to_string(),
                "checks": self.checks,
                "machines": self.machines.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "identity": {
                    "expected": address.key.map(|key| key.to_string()),
                    "found": self.found.map(|key| key.to_string()),
                    "ok": self.found.is_some() && exit != Exit::Mismatch,
                },
                "observed": observed,
            });
            return output::line(&object.to_string());
        }
        let mut last = &None;
        for Check { check, machine, place, ms, error, bits_per_second, .. } in &self.checks {
            if let Some(name) = machine.as_deref().filter(|_| machine != last) {
                output::line(&format!("{:<10} {name}", "machine"));
            }
            last = machine;
            let result = match (ms, error) {
                (Some(ms), _) if bits_per_second.is_some() => {
                    let speed = megabits(bits_per_second.unwrap_or_default());
                    format!("ok      {speed} Mbit/s from end to end, {ms} ms there and back")
                }
                (Some(ms), _) => format!("ok      {ms} ms"),
                (None, Some(error)) => format!("failed  {error}"),
                (None, None) => "failed".to_owned(),
            };
            output::line(&format!("{check:<10} {place:<32} {result}"));
        }
        let identity = match (address.key, self.found) {
            _ if self.other.is_some() => "DIFFERS: the machines show different keys".to_owned(),
            (_, None) => "unknown: no peer has shown a key".to_owned(),
            (None, Some(found)) => format!("the address names no key; found {found}"),
            (Some(key), Some(found)) if key == found => format!("ok      matches {key}"),
            (Some(_), Some(found)) => format!("DIFFERS: found {found}"),
        };
        output::line(&format!("{:<10} {identity}", "identity"));
        if self.checks.iter().any(|c| c.bits_per_second.is_some()) {
            output::line(&format!(
                "{:<10} both ends are here: no more than this line takes one way, and no more than \
                 the peer's relay_rate and relay_rate_per_network let through",
                ""
            ));
        }
        if let Some(observed) = observed {
            output::line(&format!("{:<10} the peer sees this machine as {observed}", "seen from"));
        }
        match exit {
            Exit::Failure if self.machines.is_empty() => {
                output::error_line("something answers, but not as a peer that nodes reach over UDP")
            }
            Exit::Failure => {
                output::error_line("not every machine answers as a peer that nodes reach over UDP")
            }
            Exit::Unreachable => output::error_line("nothing answers"),
            Exit::Mismatch => output::error_line(
                "another key answers: the operator has made a new one, or it is somebody else",
            ),
            _ => {}
        }
    }
}

/// Bits as millions of them, with a tenth.
fn megabits(bits: u64) -> String {
    format!("{}.{}", bits / 1_000_000, bits % 1_000_000 / 100_000)
}
