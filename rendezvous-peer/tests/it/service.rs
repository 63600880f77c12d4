//! The program as a service of systemd, and the unit that it is packaged with.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{PATIENCE, Process, command, not_shown};
use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// What systemd counts as well protected goes up to 2.0; it takes tenths.
const MOST_EXPOSED: &str = "--threshold=20";

/// The end of the socket that systemd holds.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for the next word that contains `what`.
    async fn hears(&self, what: &str) -> String {
        loop {
            let mut bytes = [0; 1024];
            let len = timeout(PATIENCE, self.0.recv(&mut bytes)).await.unwrap().unwrap();
            let word = String::from_utf8(bytes[..len].to_vec()).unwrap();
            if word.lines().any(|line| line == what) {
                return word;
            }
        }
    }
}

#[tokio::test]
async fn systemd_hears_of_the_start_of_life_and_of_the_end() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut command = command(home.path());
    command.args(["run", "--json", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "30000000");
    let mut peer = Process::spawn(command).await;
    let ready = manager.hears("READY=1").await;
    assert!(ready.contains("STATUS=0 connections, 0 registrations, 0B of 300MiB"), "{ready}");
    // Life is shown again and again, not once.
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;
    peer.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert!(peer.wait().await.success());
}

#[test]
fn the_unit_protects_what_it_runs() {
    let home = tempfile::tempdir().unwrap();
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output();
    if let Err(e) = analyze(&["--version"]) {
        return not_shown(&format!("the unit is not looked at without systemd-analyze: {e}"));
    }
    // Where the program is not installed, something else stands for it.
    let program = home.path().join("rendezvous-peer");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let unit = home.path().join("rendezvous-peer.service");
    let text = fs::read_to_string(packaging("rendezvous-peer.service")).unwrap();
    fs::write(&unit, text.replace("/usr/bin/rendezvous-peer", program.to_str().unwrap())).unwrap();
    let unit = unit.to_str().unwrap();
    let verified = analyze(&["verify", "--man=no", unit]).unwrap();
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !words.contains("rendezvous-peer"), "{words}");
    let judged = analyze(&["security", "--offline=yes", MOST_EXPOSED, unit]).unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

#[test]
fn the_unit_keeps_memory_from_the_disk_and_its_settings_are_known() {
    let unit = fs::read_to_string(packaging("rendezvous-peer.service")).unwrap();
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    lines.for_each(|(key, value)| settings.entry(key).or_default().push(value));
    for (key, value) in [
        ("Type", "notify"),
        ("MemorySwapMax", "0"),
        ("LimitMEMLOCK", "infinity"),
        ("LimitCORE", "0"),
        ("CoredumpFilter", "0"),
        ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
    ] {
        assert_eq!(settings[key], [value], "{key}");
    }
    let home = tempfile::tempdir().unwrap();
    let mut check = command(home.path());
    for variable in &settings["Environment"] {
        let (name, value) = variable.split_once('=').unwrap();
        check.env(name, value);
    }
    let checked = check.args(["config", "check"]).output().unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    for variable in &settings["Environment"] {
        let (name, value) = variable.split_once('=').unwrap();
        let found = text.lines().any(|l| l.ends_with(name) && l.contains(value));
        assert!(found, "{variable} changes nothing:\n{text}");
    }
}

/// A file for packages.
pub(crate) fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}
