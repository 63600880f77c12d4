//! `rendezvous-peer config check`

use std::fs;

use rendezvous_peer::core::{Access, Rate};
use rendezvous_peer::{CertificateEnd, Config, WebSocketAddr};
use serde_json::{Map, Value, json};

use super::failure::{Exit, Failure};
use super::output;
use super::settings::Effective;
use super::values::ByteSize;

/// Prints every setting in force with its source. What cannot be has failed before.
pub(super) fn check(effective: &Effective) -> Result<Exit, Failure> {
    let warnings = warnings(effective);
    if effective.json {
        let settings: Map<String, Value> = effective
            .rows
            .iter()
            .map(|r| {
                let row = json!({ "value": r.value, "source": r.source.to_string() });
                (r.name.to_owned(), row)
            })
            .collect();
        output::event("config", json!({ "ok": true, "settings": settings, "warnings": warnings }));
        return Ok(Exit::Ok);
    }
    for row in &effective.rows {
        let value = if row.value.is_empty() { "(none)" } else { &row.value };
        output::line(&format!("{:<28} {value:<28} {}", row.name, row.source));
    }
    for warning in warnings {
        output::error_line(&format!("warning: {warning}"));
    }
    Ok(Exit::Ok)
}

/// What is allowed and seldom wise.
fn warnings(effective: &Effective) -> Vec<String> {
    let limits = &effective.config.limits;
    let rates =
        [("rate_per_connection", limits.connection_rate), ("rate_per_network", limits.source_rate)];
    let relay_rates =
        [("relay_rate", limits.relay_rate), ("relay_rate_per_network", limits.relay_source_rate)];
    let unlimited = |rates: [(&'static str, Rate); 2], what| {
        rates
            .into_iter()
            .filter(|(_, rate)| rate.per_second == 0)
            .map(move |(name, _)| format!("{name} = 0: one caller may use up this machine{what}"))
    };
    let mut warnings: Vec<String> =
        unlimited(rates, "").chain(unlimited(relay_rates, "'s line")).collect();
    warnings.extend(of_certificate(&effective.config));
    if limits.connections_per_source >= limits.connections {
        warnings.push(
            "max_connections_per_network is not below max_connections: one network may take \
             every connection"
                .to_owned(),
        );
    }
    if limits.registration_ttl < limits.envelope_ttl {
        warnings.push(
            "registration_ttl is shorter than envelope_ttl: what waits goes with its registration"
                .to_owned(),
        );
    }
    if let Access::AllowList(list) = &effective.config.access
        && list.is_empty()
    {
        warnings.push("allow_list is empty: nobody is hosted".to_owned());
    }
    for name in ["allow_list", "revoked_invites"] {
        let used = match &effective.config.access {
            Access::Open => false,
            Access::Invite { .. } => name == "revoked_invites",
            Access::AllowList(_) => name == "allow_list",
        };
        if effective.is_given(name) && !used {
            warnings.push(format!("{name} has no use with this setting of access"));
        }
    }
    if let Some(machine) = memory_of_machine()
        && limits.process_memory() > machine / 4 * 3
    {
        warnings.push(format!(
            "max_memory = {}: this machine has {}, and the system takes some of it",
            ByteSize(limits.process_memory()),
            ByteSize(machine >> 20 << 20)
        ));
    }
    warnings
}

/// What is wrong with the certificate's files, as far as who checks may read them.
fn of_certificate(config: &Config) -> Option<String> {
    let files = config.certificate.as_ref()?;
    if config.websocket == WebSocketAddr::Off {
        return Some("tls_certificate is for the WebSockets' port, and websocket = off".to_owned());
    }
    match files.read() {
        Err(error) => Some(Failure::of(Exit::Config, "certificate", &error).message().to_owned()),
        Ok(certificate) => {
            let end = CertificateEnd::of(certificate.not_after()?);
            let path = files.certificate.display();
            match end.days_left {
                ..0 => Some(format!("{path} has expired")),
                days if end.is_near() => Some(format!("{path} ends in {days} days")),
                _ => None,
            }
        }
    }
}

/// Bytes of memory that the machine has, or that this process's container may use.
fn memory_of_machine() -> Option<usize> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|bytes| bytes.trim().parse().ok());
    Some(container.unwrap_or(usize::MAX).min(kibibytes.saturating_mul(1024)))
}
