//! What a running peer takes over when it is told to read its settings again (SIGHUP).

use rendezvous_peer::RunningPeer;
use rendezvous_peer::core::Access;
use serde_json::{Map, Value, json};

use super::failure::{Exit, Failure};
use super::log::LogLevel;
use super::output;
use super::run::certificate_failure;
use super::settings::Effective;

/// The settings that hold from the start to the end. Another value waits for the next start.
const AT_START: [&str; 13] = [
    "listen",
    "echo_port",
    "websocket",
    "acme",
    "acme_contact",
    "acme_directory",
    "acme_cache",
    "public_host",
    "data_dir",
    "require_memory_protection",
    "admin",
    "json",
    "log_format",
];

/// What has come of reading the settings again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Names with values that hold from now on.
    taken_over: Vec<(&'static str, String)>,
    /// Names whose other value waits for the next start.
    for_restart: Vec<&'static str>,
}

/// Takes over what can be, and says what was and what was not. When the settings cannot be read,
/// all stays as it was.
pub(super) fn reload(
    current: &mut Effective,
    again: Result<Effective, Failure>,
    peer: &mut RunningPeer,
    log: &LogLevel,
) {
    let json = current.json;
    let changes = again.and_then(|again| {
        // What can fail comes first, and before anything has changed.
        again.config.limits.check().map_err(|e| Failure::of(Exit::Config, "config-invalid", &e))?;
        peer.set_certificate(again.config.certificate.clone())
            .map_err(|e| certificate_failure(&e))?;
        peer.set_limits(again.config.limits)
            .map_err(|e| Failure::of(Exit::Config, "config-invalid", &e))?;
        peer.set_drain(again.config.drain);
        peer.set_access(again.config.access.clone());
        log.set(again.log);
        Ok(take_over(current, again))
    });
    match changes {
        Ok(changes) => changes.report(json),
        Err(failure) if json => {
            output::event("reload_failed", json!({ "error": failure.to_json() }));
        }
        Err(failure) => {
            failure.report(false);
            output::error_line("SIGHUP: nothing has changed");
        }
    }
}

/// Makes `again` the current settings, apart from those that wait for the next start.
fn take_over(current: &mut Effective, again: Effective) -> Changes {
    let mut changes = Changes::default();
    for (now, again) in current.rows.iter_mut().zip(again.rows) {
        if now.value == again.value {
            continue;
        }
        if AT_START.contains(&now.name) {
            changes.for_restart.push(now.name);
        } else {
            changes.taken_over.push((again.name, again.value.clone()));
            *now = again;
        }
    }
    if let Access::AllowList(list) = &again.config.access
        && current.config.access != again.config.access
    {
        // Its name may be the same.
        changes.taken_over.retain(|(name, _)| *name != "allow_list");
        changes.taken_over.push(("allow_list", format!("a list of {}", list.len())));
    }
    current.config.access = again.config.access;
    current.config.limits = again.config.limits;
    current.config.drain = again.config.drain;
    current.config.certificate = again.config.certificate;
    current.log = again.log;
    changes
}

impl Changes {
    fn report(&self, json: bool) {
        if json {
            let changed: Map<String, Value> =
                self.taken_over.iter().map(|(name, v)| ((*name).into(), json!(v))).collect();
            let fields = json!({ "changed": changed, "needs_restart": self.for_restart });
            return output::event("reloaded", fields);
        }
        output::error_line(match (self.taken_over.is_empty(), self.for_restart.is_empty()) {
            (true, true) => "SIGHUP: the settings are as they were",
            _ => "SIGHUP: read the settings again",
        });
        for (name, value) in &self.taken_over {
            output::error_line(&format!("  {name} is {value} from now on"));
        }
        for name in &self.for_restart {
            output::error_line(&format!("  {name} needs a restart and stays as it was"));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::settings;

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let mut current =
            settings::of_text("max_registrations = 5\nlisten = \"[::]:1\"\n").unwrap();
        let again = || settings::of_text("max_registrations = 6\nlisten = \"[::]:2\"\n").unwrap();
        let changes = take_over(&mut current, again());
        assert_eq!(changes.taken_over, [("max_registrations", "6".to_owned())]);
        assert_eq!(changes.for_restart, ["listen"]);
        assert_eq!(current.config.limits.registrations, 6);
        assert_eq!(current.config.listen.port(), 1);
        let changes = take_over(&mut current, again());
        assert_eq!(changes, Changes { taken_over: vec![], for_restart: vec!["listen"] });
    }

    #[test]
    fn every_setting_is_taken_over_or_named_as_one_of_the_start() {
        let names: Vec<_> = settings::defaults().unwrap().rows.iter().map(|r| r.name).collect();
        assert!(AT_START.iter().all(|name| names.contains(name)));
        let taken_over: Vec<_> = names.into_iter().filter(|n| !AT_START.contains(n)).collect();
        // Each of these is a limit, whom the peer hosts, the certificate, the level of the log, or the
        // time to leave. A setting that is none of them belongs to the list above.
        let limits = [
            "max_",
            "rate_",
            "relay",
            "envelope_ttl",
            "registration_ttl",
            "parked_",
            "return_rate",
            "tls_",
        ];
        for name in taken_over {
            let known = limits.iter().any(|prefix| name.starts_with(prefix));
            let others = ["access", "allow_list", "revoked_invites", "log", "drain_timeout"];
            assert!(known || others.contains(&name), "{name}");
        }
    }
}
