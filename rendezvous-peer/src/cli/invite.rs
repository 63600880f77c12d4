//! `rendezvous-peer invite`

use std::time::{SystemTime, UNIX_EPOCH};

use halloo_identity::{Address, FingerprintError, InviteKey};
use halloo_wire::{Fingerprint, Invite, InviteId};
use rendezvous_peer::keyfile;
use serde_json::json;

use super::failure::{Exit, Failure};
use super::output;
use super::settings::Effective;
use super::values::Span;

/// Invites that are made at once.
const MAX_COUNT: u32 = 10_000;

/// Which invites are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// How long they let somebody be hosted, from now on
    #[arg(long, value_name = "TIME", default_value = "30d")]
    expires: Span,
    /// For this identity only: a fingerprint, or an address. Without it, an invite is for whoever
    /// uses it first, which the peer remembers until it is restarted
    #[arg(long = "for", value_name = "FINGERPRINT", value_parser = identity)]
    whom: Option<Fingerprint>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)))]
    count: u32,
}

/// Makes invites with the key of the peer and prints them, one a line.
pub(super) fn invite(effective: &Effective, wanted: &Wanted) -> Result<Exit, Failure> {
    let key = keyfile::load(&effective.config.data_dir);
    let key = key.map_err(|e| super::run::key_failure(&e))?;
    let key = key.ok_or_else(|| {
        let message = format!("there is no key in {} yet", effective.config.data_dir.display());
        Failure::new(Exit::NotFound, "no-key", message)
            .try_this("rendezvous-peer run: the first start makes one")
    })?;
    let key = key.invite_key();
    let expires = expiry(wanted.expires)?;
    for _ in 0..wanted.count {
        let (id, invite) = make(&key, expires, wanted.whom.as_ref())?;
        if effective.json {
            output::event(
                "invite",
                json!({
                    "invite": invite.to_string(),
                    "id": id.to_string(),
                    "expires_unix_s": expires,
                    "for": wanted.whom.map(|who| who.to_string()),
                }),
            );
        } else {
            output::line(&invite.to_string());
        }
    }
    if !effective.json {
        let whom = match wanted.whom {
            Some(_) => "for that identity only",
            None => "each for whoever uses it first",
        };
        output::error_line(&format!(
            "good for {}, {whom}: halloo init --peer ADDRESS --invite INVITE",
            wanted.expires
        ));
        if !effective.wants_invites() {
            output::error_line("note: nobody needs one while `access` is not \"invite\"");
        }
    }
    Ok(Exit::Ok)
}

fn make(
    key: &InviteKey,
    expires: u32,
    whom: Option<&Fingerprint>,
) -> Result<(InviteId, Invite), Failure> {
    let mut id = InviteId([0; 10]);
    getrandom::fill(&mut id.0).map_err(|e| Failure::of(Exit::Failure, "no-random", &e))?;
    Ok((id, key.issue(id, expires, whom)))
}

/// The moment, Unix seconds, up to which invites are good.
fn expiry(span: Span) -> Result<u32, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = now.saturating_add(span.0.as_secs());
    u32::try_from(at).ok().filter(|_| span.0.as_secs() > 0).ok_or_else(|| {
        Failure::new(Exit::Usage, "usage", "--expires is between 1s and the year 2106")
    })
}

/// Reads a fingerprint, by itself or at the end of an address.
fn identity(text: &str) -> Result<Fingerprint, FingerprintError> {
    match text.parse::<Address>() {
        Ok(address) => Ok(address.fingerprint),
        Err(_) => text.parse(),
    }
}
