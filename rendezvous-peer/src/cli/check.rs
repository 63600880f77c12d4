//! `rendezvous-peer config check`

use rendezvous_peer::core::Rate;
use serde_json::{Map, Value, json};

use super::failure::{Exit, Failure};
use super::output;
use super::settings::Effective;

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
    unlimited(rates, "").chain(unlimited(relay_rates, "'s line")).collect()
}
