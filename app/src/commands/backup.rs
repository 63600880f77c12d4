//! `backup` and `restore`.

use std::path::Path;

use halloo::Home;

use super::{Context, identity};
use crate::cli::{BackupArgs, RestoreArgs};
use crate::control::protocol::Secret;
use crate::fact::Fact;
use crate::failure::Failure;
use crate::host::{self, Access};
use crate::passphrase::Passphrase;
use crate::session::Session;
use crate::tell;

/// Writes a backup, by the node that runs or from the home itself.
pub(super) async fn write(cx: &Context, args: BackupArgs) -> Result<(), Failure> {
    identity::require(&cx.home)?;
    let access = cx.interruptible(host::access(&cx.home, &cx.passphrase)).await?;
    let file = std::path::absolute(&args.file)?;
    let new = Passphrase { file: args.new.file, command: None };
    let passphrase = cx.interruptible(new.choose_text("Passphrase of the backup: ")).await?;
    match access {
        Access::Ours(home) => {
            let (to, key) = (file.clone(), Passphrase::key(&passphrase));
            let written =
                tokio::task::spawn_blocking(move || home.back_up(&to, &key, args.replace));
            written.await.map_err(|e| Failure::new("internal", e.to_string()))??;
        }
        Access::Running(client) => {
            let session = Session::Remote(client);
            session.back_up(&file, Secret::new(passphrase), args.replace).await?;
        }
    }
    cx.out.fact(Fact::Backup { file: shown(&file), bytes: std::fs::metadata(&file)?.len() })?;
    cx.out.hint("Nothing but its passphrase opens it. Keep both, in different places");
    cx.out.hint("on another machine: halloo restore FILE, and do not use this home any more");
    Ok(())
}

/// Makes a home of a backup.
pub(super) async fn restore(cx: &Context, args: &RestoreArgs) -> Result<(), Failure> {
    let key = cx.interruptible(cx.passphrase.for_backup()).await?;
    let (path, file, unlocked) = (cx.home.clone(), args.file.clone(), args.unlocked);
    let restored = tokio::task::spawn_blocking(move || {
        let own = (!unlocked).then_some(&key);
        let home = Home::restore(&path, &file, &key, own)?;
        let address = home.address();
        Ok::<_, Failure>((address?, home.has_key()))
    });
    let (address, locked) =
        restored.await.map_err(|e| Failure::new("internal", e.to_string()))??;
    if let Some(address) = address {
        cx.out.fact(Fact::Identity(tell::identity(&address)))?;
    }
    cx.out.fact(Fact::Home { locked })?;
    if locked {
        cx.out.hint(
            "The backup's passphrase opens the home; to have another: halloo passphrase change",
        );
    }
    cx.out.hint("Your contacts will be told that you begin again, and get what waited for them");
    cx.out.hint("next: halloo listen. Do not use the old home any more");
    Ok(())
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
