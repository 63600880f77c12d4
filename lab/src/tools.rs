//! The programs of the system that the laboratory uses.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::namespace::Namespace;

/// What has to be installed, and the Debian package that has it.
const NEEDED: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux"), ("setpriv", "util-linux")];

/// Finds out whether everything is there that a lab needs.
///
/// # Errors
/// Names what is missing and how to install it.
pub(crate) fn check() -> Result<()> {
    for (program, package) in NEEDED {
        ensure!(is_installed(program), "{program} is missing: apt-get install {package}");
    }
    ensure!(
        std::path::Path::new("/dev/net/tun").exists(),
        "/dev/net/tun is missing: modprobe tun, or give the container the device"
    );
    Ok(())
}

/// Whether a program can be started.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
}

/// Runs lines of `ip` in a namespace, or in the lab's own; stops at the first that fails.
///
/// # Errors
/// The line, and what `ip` says about it.
pub(crate) fn ip(namespace: Option<&Namespace>, lines: &str) -> Result<()> {
    feed(namespace, Command::new("ip").args(["-batch", "-"]), lines)
}

/// Loads rules into a namespace's packet filter, all of them or none.
///
/// # Errors
/// The rules, and what `nft` says about them.
pub(crate) fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    feed(Some(namespace), Command::new("nft").args(["-f", "-"]), rules)
}

/// A name for an interface that nothing else in this process has. Names of interfaces end after
/// 15 characters.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn feed(namespace: Option<&Namespace>, command: &mut Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = match namespace {
        Some(namespace) => namespace.spawn(command)?,
        None => command.spawn(),
    };
    let mut child = spawned.with_context(|| format!("cannot start {name}"))?;
    let mut stdin = child.stdin.take().context("the pipe was asked for")?;
    // A tool that fails early closes its end; why it failed is what counts.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed: {}\nIts input was:\n{input}", said.trim());
    }
    Ok(())
}
