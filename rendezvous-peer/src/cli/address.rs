//! `rendezvous-peer address`

use rendezvous_peer::{Config, is_public, keyfile};
use serde_json::json;

use super::failure::{Exit, Failure};
use super::output;
use super::settings::Effective;

/// Prints the address that a peer with these settings has.
pub(super) fn address(effective: &Effective) -> Result<Exit, Failure> {
    let config = &effective.config;
    let key = keyfile::load(&config.data_dir).map_err(|e| super::run::key_failure(&e))?;
    let key = key.ok_or_else(|| {
        let message = format!("there is no key in {} yet", config.data_dir.display());
        Failure::new(Exit::NotFound, "no-key", message)
            .try_this("rendezvous-peer run: the first start makes one")
    })?;
    let addresses = rendezvous_peer::addresses(&config.public_hosts, config.listen, &key)
        .map_err(|e| Failure::of(Exit::Config, "config-invalid", &e))?;
    if effective.json {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        output::event(
            "address",
            json!({
                "address": texts.first(),
                "addresses": texts,
                "fingerprint": key.fingerprint().to_string(),
                "listen": config.listen.to_string(),
            }),
        );
    } else {
        addresses.iter().for_each(|a| output::line(&a.to_string()));
        if let Some(note) = host_note(config, addresses.first()) {
            output::error_line(&note);
        }
    }
    Ok(Exit::Ok)
}

/// What to say when the address is the machine's own and not one that was chosen.
pub(super) fn host_note(
    config: &Config,
    address: Option<&halloo_identity::PeerAddress>,
) -> Option<String> {
    if !config.public_hosts.is_empty() {
        return None;
    }
    let host = address?.host.host();
    let public = host.parse().is_ok_and(is_public);
    Some(if public {
        format!("{host} is this machine's own address; --public-host NAME gives it a name")
    } else {
        format!("{host} cannot be reached from elsewhere; set --public-host NAME[:PORT]")
    })
}
