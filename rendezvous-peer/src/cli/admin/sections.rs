//! The numbers as tables for people.

use std::time::Duration;

use super::status::{Ending, Level, State, Status};

/// A table with a title.
pub(in crate::cli) struct Section {
    /// What it is about.
    pub(in crate::cli) title: &'static str,
    /// Names and values.
    pub(in crate::cli) rows: Vec<(String, String)>,
}

/// All that a status says, for people.
pub(in crate::cli) fn sections(status: &Status) -> Vec<Section> {
    let section = |title, rows: Vec<(&str, String)>| Section {
        title,
        rows: rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let count = |name: &str| grouped(status.counters.get(name).copied().unwrap_or(0));
    let mut sections = vec![
        section("Peer", peer(status)),
        section(
            "At the moment",
            vec![
                ("connections", of_limit(status.connections, grouped)),
                ("WebSocket tunnels", grouped(status.websocket_tunnels)),
                ("registered devices", of_limit(status.registrations, grouped)),
                ("relay channels", of_limit(status.relay_channels, grouped)),
                ("table and mailboxes", of_limit(status.memory_bytes, bytes)),
                ("memory of the process", status.process.rss_bytes.map_or_else(unknown, bytes)),
                ("open files", open_files(status)),
            ],
        ),
        section(
            "Since the start",
            vec![
                ("connections welcomed", count("connected")),
                ("registrations made", count("registered")),
                ("registrations not admitted", count("not_admitted")),
                ("look-ups answered", count("looked_up")),
                ("envelopes accepted", count("dropped")),
                ("envelopes acknowledged", count("acknowledged")),
                ("envelopes expired", count("expired")),
                ("knocks passed on", count("knocks_forwarded")),
                (
                    "bytes relayed",
                    bytes(status.counters.get("relayed_bytes").copied().unwrap_or(0)),
                ),
                ("echo requests answered", count("echoes")),
                ("requests refused", count("refused")),
            ],
        ),
    ];
    if !status.incidents.is_empty() {
        let rows = status.incidents.iter();
        let rows = rows.map(|(kind, n)| (kind.replace('_', " "), incidents(status, kind, *n)));
        let rows = rows.collect();
        sections.push(Section { title: "Incidents since the start", rows });
    }
    sections
}

fn peer(status: &Status) -> Vec<(&'static str, String)> {
    let facts = &status.facts;
    let mut rows: Vec<_> = facts.addresses.iter().map(|a| ("address", a.clone())).collect();
    let mut listening = format!("UDP {}", facts.listen);
    if let Some(port) = facts.echo_port {
        listening += &format!(" and port {port}");
    }
    if let Some(websocket) = &facts.websocket {
        listening += &format!(", TCP {websocket}");
    }
    rows.push(("listening", listening));
    let state = match status.state {
        State::Accepting => "accepting",
        State::Draining => "draining",
    };
    if let Some(ending) = status.certificate {
        rows.push(("certificate", certificate(ending)));
    }
    rows.push(("state", state.to_owned()));
    rows.push(("up for", span(Duration::from_millis(status.uptime_ms))));
    rows.push(("process", facts.pid.to_string()));
    rows
}

/// How long a certificate is good, in words that say what to do.
pub(in crate::cli) fn certificate(ending: Ending) -> String {
    match ending.days_left {
        ..0 => "has expired: renew it".to_owned(),
        days if ending.near => format!("ends in {days} days: its renewal seems to fail"),
        days => format!("ends in {days} days"),
    }
}

/// How many incidents of a kind there were, and when the latest.
fn incidents(status: &Status, kind: &str, n: u64) -> String {
    match status.recent_incidents.iter().rev().find(|recent| recent.kind == kind) {
        Some(latest) => {
            let ago = span(Duration::from_secs(latest.seconds_ago));
            format!("{}, the latest {ago} ago", grouped(n))
        }
        None => grouped(n),
    }
}

fn open_files(status: &Status) -> String {
    match (status.process.open_fds, status.process.max_fds) {
        (Some(now), Some(limit)) => of_limit(Level { now, limit }, grouped),
        (Some(now), None) => grouped(now),
        _ => unknown(),
    }
}

fn of_limit(level: Level, show: impl Fn(u64) -> String) -> String {
    format!("{} of {}", show(level.now), show(level.limit))
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// A number with its thousands apart: `12,345`.
pub(in crate::cli) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes in the largest unit of which there is one: `1.5 MiB`.
pub(in crate::cli) fn bytes(n: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| n >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(n) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{n} B"),
    }
}

/// A span of time in its two largest units: `1d 2h`.
pub(in crate::cli) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert!(bytes(u64::MAX).ends_with("TiB"));
        let spans = [59, 61, 3_660, 90_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
