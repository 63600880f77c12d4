//! `passphrase`: locks a home, changes what opens it, or opens it up for good.

use halloo::Home;

use super::{Context, identity};
use crate::cli::{PassphraseArgs, PassphraseChange};
use crate::fact::Fact;
use crate::failure::Failure;
use crate::passphrase::Passphrase;

/// Carries out a change.
pub(super) async fn run(cx: &Context, args: &PassphraseArgs) -> Result<(), Failure> {
    identity::require(&cx.home)?;
    let given = cx.passphrase.clone();
    let (current, new) = match (&args.change, Home::is_locked(&cx.home)) {
        (PassphraseChange::Set { .. }, true) => {
            let why = "this home is locked with a passphrase already";
            return Err(Failure::new("home-is-locked", why));
        }
        // It has no passphrase yet, so the one that is given is the new one.
        (PassphraseChange::Set { new }, false) => {
            let new = new.file.clone().map(|file| Passphrase { file: Some(file), command: None });
            (Passphrase::default(), Some(new.unwrap_or(given)))
        }
        (PassphraseChange::Change { new }, true) => {
            (given, Some(Passphrase { file: new.file.clone(), command: None }))
        }
        (PassphraseChange::Remove, true) => (given, None),
        (_, false) => return Err(Failure::new("home-not-locked", "this home has no passphrase")),
    };
    let mut home = cx.home_with(&current).await?;
    let key = match new {
        Some(new) => Some(cx.interruptible(new.choose()).await?),
        None => None,
    };
    home.set_key(key.as_ref())?;
    cx.out.fact(Fact::Home { locked: home.has_key() })?;
    if home.has_key() {
        cx.out.hint("Nothing but the passphrase opens this home: there is no way around it");
    }
    Ok(())
}
