//! `rendezvous-peer generate`: files for packages.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::failure::{Exit, Failure};

/// Writes the man pages to `dir`.
pub(super) fn man(command: Command, dir: &Path) -> Result<Exit, Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(command, dir))
        .map(|()| Exit::Ok)
        .map_err(|e| failure(dir, &e))
}

/// Writes the completions for all shells to `dir`.
pub(super) fn completions(mut command: Command, dir: &Path) -> Result<Exit, Failure> {
    let name = command.get_name().to_owned();
    std::fs::create_dir_all(dir).map_err(|e| failure(dir, &e))?;
    for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, &name, dir)
            .map_err(|e| failure(dir, &e))?;
    }
    Ok(Exit::Ok)
}

fn failure(dir: &Path, e: &io::Error) -> Failure {
    let exit =
        if e.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Failure };
    Failure::new(exit, "cannot-write", format!("cannot write to {}: {e}", dir.display()))
}
