//! `rendezvous-peer status` and `rendezvous-peer health`

use serde_json::json;

use super::admin::{Section, State, Status, certificate, client, sections};
use super::failure::{Exit, Failure};
use super::output;
use super::settings::Effective;

/// Prints the numbers of the running peer.
pub(super) fn status(effective: &Effective) -> Result<Exit, Failure> {
    let status = client::status(client::place(effective.admin)?)?;
    print(&status, effective.json);
    Ok(Exit::Ok)
}

/// Says whether the running peer takes connections.
pub(super) fn health(effective: &Effective) -> Result<Exit, Failure> {
    let status = client::status(client::place(effective.admin)?)?;
    let (word, exit) = match status.state {
        State::Accepting => ("accepting", Exit::Ok),
        State::Draining => ("draining", Exit::Failure),
    };
    let near = status.certificate.filter(|ending| ending.near);
    let warnings: Vec<String> =
        near.map(|ending| format!("the certificate {}", certificate(ending))).into_iter().collect();
    if effective.json {
        let object = json!({ "schema": output::SCHEMA, "state": word, "warnings": warnings });
        output::line(&object.to_string());
    } else {
        output::line(word);
        warnings.iter().for_each(|warning| output::error_line(&format!("warning: {warning}")));
    }
    Ok(exit)
}

/// Prints a status once.
pub(super) fn print(status: &Status, json: bool) {
    if json {
        let json = serde_json::to_string(status).expect("a status is plain data");
        return output::line(&json);
    }
    let mut text = format!("rendezvous-peer {}\n", status.version);
    for Section { title, rows } in sections(status) {
        text += &format!("\n{title}\n");
        for (name, value) in rows {
            text += &format!("  {name:<26} {value}\n");
        }
    }
    output::text(&text);
}
