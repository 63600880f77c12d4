//! The lab's own corner of the machine.
//!
//! The program starts itself again inside fresh namespaces for network, mounts and processes, and
//! for users where it is not root. Nothing of a lab is seen outside, labs do not see each other,
//! and when this program ends, however it ends, the kernel ends the first process inside, with it
//! all others in the process namespace, and takes their networks away.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::{plan, tools};

/// Set in the program that was started again.
const MARK: &str = "HALLOO_LAB_INSIDE";
/// Where the lab keeps files: a file system in memory that only the lab sees.
const SCRATCH: &str = "/mnt";

/// Goes on inside, with the same arguments. Outside it waits for that and returns how the program
/// ended there; inside it prepares what all labs need and returns `None`.
///
/// # Errors
/// A tool is missing, or the system does not permit namespaces.
pub fn go() -> Result<Option<ExitCode>> {
    if std::env::var_os(MARK).is_some() {
        prepare()?;
        return Ok(None);
    }
    tools::check()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = unshare();
    let status = command.arg(program).args(arguments).env(MARK, "1").status();
    let code = status.context("cannot start setpriv")?.code();
    Ok(Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into()))
}

/// Why no lab can be built here; `None` when one can.
pub fn obstacle() -> Option<String> {
    if let Err(e) = tools::check() {
        return Some(e.to_string());
    }
    let probe = "ip tuntap add w0 mode tun && nft add table ip lab && mount -t tmpfs lab /mnt";
    let output = unshare().args(["sh", "-c", probe]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("this system does not let us: {}", said.trim()))
        }
        Err(e) => Some(format!("cannot start unshare: {e}")),
    }
}

/// Keeps files in this directory, where they outlive the lab, instead of in memory. For looking
/// at them later, and for measuring with a disk.
///
/// # Errors
/// The directory cannot be made.
pub fn keep(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize().context("what was just made is there")?;
    // Whoever asks twice gets the first answer.
    let _ = KEPT.set(dir);
    Ok(())
}

/// A directory of the lab's own.
///
/// # Errors
/// It cannot be made.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let dir = KEPT.get().map_or(Path::new(SCRATCH), PathBuf::as_path).join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

static KEPT: OnceLock<PathBuf> = OnceLock::new();

fn unshare() -> Command {
    let mut command = Command::new("setpriv");
    // `unshare` outlives a polite signal, so it is not asked: it goes when we go.
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

fn prepare() -> Result<()> {
    ensure!(std::process::id() == 1, "{MARK} is set outside of a lab");
    mount(&["-t", "tmpfs", "lab", SCRATCH])?;
    // Everybody in the lab knows the server by name.
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
    hosts.push_str(&format!("{} {}\n", plan::SERVER_V4[0], plan::SERVER_NAME));
    hosts.push_str(&format!("{} {}\n", plan::SERVER_V6[0], plan::SERVER_NAME));
    let file = Path::new(SCRATCH).join("hosts");
    std::fs::write(&file, hosts).context("cannot write the names of the lab")?;
    mount(&["--bind", &file.to_string_lossy(), "/etc/hosts"])
}

/// Has everybody in the lab ask a name server of the lab, and nobody else.
///
/// # Errors
/// The settings cannot be replaced.
pub(crate) fn ask_names_at(server: std::net::IpAddr) -> Result<()> {
    let file = Path::new(SCRATCH).join("resolv.conf");
    let settings = format!("nameserver {server}\noptions timeout:1 attempts:2\n");
    std::fs::write(&file, settings).context("cannot write the lab's resolv.conf")?;
    mount(&["--bind", &file.to_string_lossy(), "/etc/resolv.conf"])
}

/// Puts a disk of so many MiB at a directory, which is made if need be. It is memory, and gone with
/// the lab.
///
/// # Errors
/// It cannot be mounted.
pub(crate) fn small_disk(dir: &Path, mib: u32) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "disk", &dir.to_string_lossy()])
}

/// Gives such a disk another size.
///
/// # Errors
/// It cannot be remounted.
pub(crate) fn resize_disk(dir: &Path, mib: u32) -> Result<()> {
    mount(&["-o", &format!("remount,size={mib}m"), &dir.to_string_lossy()])
}

fn mount(arguments: &[&str]) -> Result<()> {
    let status = Command::new("mount").args(arguments).status().context("cannot start mount")?;
    ensure!(status.success(), "cannot mount: mount {}", arguments.join(" "));
    Ok(())
}
