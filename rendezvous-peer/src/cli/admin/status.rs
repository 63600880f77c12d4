//! What a running peer says of itself: the same numbers for `/status`, the metrics, the page and
//! the commands. None of them is about one person.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use halloo_transport::websocket::ListenerStats;
use rendezvous_peer::core::{Incident, Limits, Stats};
use rendezvous_peer::{CertificateEnd, Monitor, RunningPeer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::process::Process;
use crate::cli::output::SCHEMA;

/// By this name a peer's answer is told from that of another program on the port.
pub(super) const PROGRAM: &str = "rendezvous-peer";
/// Incidents of so many seconds are listed; all are counted.
const RECENT_SECONDS: u64 = 3600;

/// The numbers at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Status {
    /// The version of this shape.
    pub(in crate::cli) schema: u32,
    /// `rendezvous-peer`.
    pub(in crate::cli) program: String,
    /// Which version of it.
    pub(in crate::cli) version: String,
    /// Whether it takes connections.
    pub(in crate::cli) state: State,
    /// Milliseconds since the start.
    pub(in crate::cli) uptime_ms: u64,
    /// What does not change while the peer runs.
    #[serde(flatten)]
    pub(in crate::cli) facts: Facts,
    /// Connections, with those among them that came through a WebSocket.
    pub(in crate::cli) connections: Level,
    /// Tunnels through WebSockets.
    pub(in crate::cli) websocket_tunnels: u64,
    /// The certificate of the WebSockets' port, if an authority has given it.
    #[serde(default)]
    pub(in crate::cli) certificate: Option<Ending>,
    /// Registered devices.
    pub(in crate::cli) registrations: Level,
    /// Invites that somebody has made theirs by using them first.
    #[serde(default)]
    pub(in crate::cli) invites_in_use: u64,
    /// Relay channels.
    pub(in crate::cli) relay_channels: Level,
    /// Bytes of the table and the mailboxes.
    pub(in crate::cli) memory_bytes: Level,
    /// What the process takes of the machine.
    pub(in crate::cli) process: Process,
    /// What has happened since the start.
    pub(in crate::cli) counters: BTreeMap<String, u64>,
    /// Incidents since the start, by kind.
    pub(in crate::cli) incidents: BTreeMap<String, u64>,
    /// The incidents of the last hour, oldest first, as far as they are remembered.
    pub(in crate::cli) recent_incidents: Vec<Recent>,
}

/// Whether a peer takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum State {
    /// It does.
    Accepting,
    /// It is about to stop.
    Draining,
}

/// What does not change while a peer runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Facts {
    /// The process.
    pub(in crate::cli) pid: u32,
    /// When it started, in seconds since 1970.
    pub(in crate::cli) start_time_s: u64,
    /// Its addresses, with its key.
    pub(in crate::cli) addresses: Vec<String>,
    /// Where it listens, UDP.
    pub(in crate::cli) listen: String,
    /// Its second UDP port.
    pub(in crate::cli) echo_port: Option<u16>,
    /// Where it takes WebSockets, TCP.
    pub(in crate::cli) websocket: Option<String>,
}

/// How much there is of something, and how much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Level {
    /// At the moment.
    pub(in crate::cli) now: u64,
    /// At most.
    pub(in crate::cli) limit: u64,
}

/// When a certificate ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Ending {
    /// In seconds since 1970.
    pub(in crate::cli) ends_s: i64,
    /// Whole days from now; negative when it is over.
    pub(in crate::cli) days_left: i64,
    /// Whether it should have been renewed.
    pub(in crate::cli) near: bool,
}

impl From<CertificateEnd> for Ending {
    fn from(end: CertificateEnd) -> Self {
        Self { ends_s: end.at, days_left: end.days_left, near: end.is_near() }
    }
}

/// An incident of the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Recent {
    /// What.
    pub(in crate::cli) kind: String,
    /// How long ago, in seconds.
    pub(in crate::cli) seconds_ago: u64,
    /// How often in that second.
    pub(in crate::cli) count: u32,
}

impl Facts {
    /// What is known of a peer that has just started.
    pub(in crate::cli) fn of(peer: &RunningPeer) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            pid: std::process::id(),
            start_time_s: started.map_or(0, |since| since.as_secs()),
            addresses: peer.addresses().iter().map(ToString::to_string).collect(),
            listen: peer.local_addr().to_string(),
            echo_port: peer.echo_port(),
            websocket: peer.websocket_addr().map(|a| a.to_string()),
        }
    }
}

impl Status {
    /// The numbers at this moment.
    pub(super) fn now(monitor: &Monitor, facts: &Facts) -> Self {
        let tunnels = monitor.websocket_stats().unwrap_or_default();
        let incidents = monitor.incidents();
        let certificate = monitor.certificate_end().map(Ending::from);
        let (stats, limits) = (monitor.stats(), monitor.limits());
        let it = Self::of(&stats, &limits, tunnels, &incidents, monitor.uptime(), facts);
        Self { certificate, ..it }
    }

    fn of(
        stats: &Stats,
        limits: &Limits,
        tunnels: ListenerStats,
        incidents: &[Incident],
        uptime: Duration,
        facts: &Facts,
    ) -> Self {
        let level = |now: usize, limit: usize| Level { now: now as u64, limit: limit as u64 };
        let recent = incidents.iter().map(|incident| Recent {
            kind: word(&incident.kind),
            seconds_ago: uptime.as_secs().saturating_sub(incident.second),
            count: incident.count,
        });
        Self {
            schema: SCHEMA,
            program: PROGRAM.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: if stats.draining { State::Draining } else { State::Accepting },
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            facts: facts.clone(),
            connections: level(stats.connections, limits.connections),
            websocket_tunnels: tunnels.open as u64,
            certificate: None,
            registrations: level(stats.registrations, limits.registrations),
            invites_in_use: stats.invites_in_use as u64,
            relay_channels: level(stats.channels, limits.relay_channels),
            memory_bytes: level(stats.memory_used, stats.memory_cap),
            process: Process::this(),
            incidents: stats.incidents.iter().map(|(kind, n)| (word(kind), *n)).collect(),
            recent_incidents: recent.filter(|r| r.seconds_ago < RECENT_SECONDS).collect(),
            counters: counters(stats, tunnels),
        }
    }
}

/// Every counter by its name.
fn counters(stats: &Stats, tunnels: ListenerStats) -> BTreeMap<String, u64> {
    const LEVELS: [&str; 6] =
        ["connections", "registrations", "invites_in_use", "channels", "memory_used", "memory_cap"];
    let mut counters = BTreeMap::from([
        ("websocket_tunnels".to_owned(), tunnels.tunnels),
        ("websocket_pages".to_owned(), tunnels.pages),
        ("websocket_failed".to_owned(), tunnels.failed),
        ("websocket_refused".to_owned(), tunnels.refused),
    ]);
    if let Ok(Value::Object(fields)) = serde_json::to_value(stats) {
        let numbers = fields.into_iter().filter_map(|(name, v)| Some((name, v.as_u64()?)));
        counters.extend(numbers.filter(|(name, _)| !LEVELS.contains(&name.as_str())));
    }
    counters
}

/// A value's name in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(in crate::cli) mod tests {
    use super::*;
    use rendezvous_peer::core::{Core, Millis};

    /// The numbers of a peer to which nobody has come.
    pub(in crate::cli) fn sample() -> Status {
        let core = Core::new(
            Limits::default(),
            halloo_wire::InstanceId([0; 16]),
            [0; 32],
            Millis::default(),
        );
        let facts = Facts {
            pid: 1,
            start_time_s: 1_800_000_000,
            addresses: vec!["halloo-peer://peer.example/abc".into()],
            listen: "[::]:443".into(),
            echo_port: Some(444),
            websocket: None,
        };
        let core = core.unwrap();
        let none = ListenerStats::default();
        Status::of(&core.stats(), &core.limits(), none, &[], Duration::from_secs(90_061), &facts)
    }

    #[test]
    fn numbers_read_back() {
        let status = sample();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
