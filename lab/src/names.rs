//! A name server: `nsd`, with one zone that changes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::Namespace;
use crate::{inside, tools};

/// A machine behind a name, as the zone lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its own name, without that of the zone.
    pub(crate) label: String,
    /// Where it is.
    pub(crate) ip: IpAddr,
    /// Its share.
    pub(crate) weight: u16,
}

/// A name server that runs. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    daemon: Child,
    zone: PathBuf,
    name: String,
    serial: u32,
}

impl NameServer {
    /// Starts it at an address, for one name behind which nobody is yet.
    ///
    /// # Errors
    /// `nsd` is not installed, or does not start.
    pub(crate) fn start(namespace: &Namespace, ip: IpAddr, name: &str) -> Result<Self> {
        ensure!(tools::is_installed("nsd"), "nsd is missing: apt-get install nsd");
        let dir = inside::scratch(&tools::unique("nsd"))?;
        let (config, zone) = (dir.join("config"), dir.join("zone"));
        let at = dir.display();
        let settings = format!(
            "server:\n ip-address: {ip}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{at}\"\n \
             pidfile: \"{at}/pid\"\n database: \"\"\n xfrdfile: \"{at}/xfrd\"\n \
             zonelistfile: \"{at}/zones\"\n server-count: 1\n verbosity: 1\n\
             remote-control:\n control-enable: no\n\
             zone:\n name: {name}\n zonefile: zone\n"
        );
        std::fs::write(&config, settings).context("cannot write the name server's settings")?;
        std::fs::write(&zone, records(name, 1, &[])).context("cannot write the zone")?;
        let program = ["/usr/sbin/nsd", "/sbin/nsd"]
            .into_iter()
            .find(|path| std::path::Path::new(path).is_file())
            .unwrap_or("nsd");
        let mut command = Command::new(program);
        command.arg("-d").arg("-c").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = namespace.spawn(&mut command)?.context("cannot start nsd")?;
        let mut errors = BufReader::new(daemon.stderr.take().context("the pipe was asked for")?);
        let (mut said, mut line) = (String::new(), String::new());
        while !line.contains("nsd started") {
            line.clear();
            let length = errors.read_line(&mut line).context("cannot read from nsd")?;
            ensure!(length > 0, "nsd does not start: {}", said.trim());
            said.push_str(&line);
        }
        // It goes on talking; a pipe that nobody reads would stop it.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Self { daemon, zone, name: name.to_owned(), serial: 1 })
    }

    /// Puts other machines behind the name. Who asked before believes the old answer until its time
    /// has passed.
    ///
    /// # Errors
    /// The zone cannot be written.
    pub(crate) fn list(&mut self, machines: &[Listed]) -> Result<()> {
        self.serial += 1;
        std::fs::write(&self.zone, records(&self.name, self.serial, machines))
            .context("cannot write the zone")?;
        let id = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        // It reads files of zones again that have changed.
        kill_process(id.context("a child has an id")?, Signal::HUP).context("nsd is gone")
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // It may have ended by itself. Its own children end with it: they have lost their parent's
        // pipe, and at the latest with the lab.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A zone file: a name without addresses of its own, and its machines.
fn records(name: &str, serial: u32, machines: &[Listed]) -> String {
    let mut zone = format!(
        "$ORIGIN {name}.\n$TTL {TTL}\n@ IN SOA ns.{name}. admin.{name}. {serial} 60 60 600 {TTL}\n\
         @ IN NS ns.{name}.\nns IN A 192.0.2.1\n"
    );
    for Listed { label, ip, weight } in machines {
        let kind = if ip.is_ipv4() { "A" } else { "AAAA" };
        let _ = writeln!(zone, "{label} IN {kind} {ip}");
        let _ = writeln!(zone, "_halloo._udp IN SRV 10 {weight} 443 {label}.{name}.");
    }
    zone
}

/// How many seconds an answer may be believed. Nodes believe none for less.
const TTL: u32 = 5;
