//! The peer, in a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use halloo_bench_measure::cpu_of;
use halloo_identity::PeerAddress;
use halloo_wire::PeerFingerprint;
use tempfile::TempDir;

/// No limit for what comes from one network, since everything comes from this machine.
pub const ONE_NETWORK: [&str; 8] = [
    "--rate-per-network",
    "0",
    "--rate-per-connection",
    "0",
    "--max-connections-per-network",
    "1000000",
    "--max-memory-per-network",
    "1024GiB",
];

pub struct Peer {
    child: Child,
    folder: TempDir,
    args: Vec<String>,
    pub listen: SocketAddr,
    pub websocket: Option<SocketAddr>,
    pub key: PeerFingerprint,
}

impl Peer {
    /// Starts it on a free port.
    pub fn start(args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let args: Vec<String> = args.iter().map(|&it| it.to_owned()).collect();
        let (child, ready) = spawn(folder.path(), "127.0.0.1:0", &args)?;
        let word = |name: &str| ready[name].as_str().with_context(|| format!("no {name}"));
        let address: PeerAddress = word("address")?.parse()?;
        let key = address.key.context("the peer's address has no key")?;
        let listen = word("listen")?.parse()?;
        let websocket = ready["websocket"].as_str().map(str::parse).transpose()?;
        Ok(Self { child, folder, args, listen, websocket, key })
    }

    /// Kills it at once, and starts it again at the same place: another run with the same key.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let listen = self.listen.to_string();
        (self.child, _) = spawn(self.folder.path(), &listen, &self.args)?;
        Ok(())
    }

    /// Processor time so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.child.id())
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> Result<usize> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn most_resident(&self) -> Result<usize> {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok());
        Ok(kib.context("the kernel does not tell")? * 1024)
    }

    /// Datagrams that the kernel had no room for before the peer read them.
    pub fn udp_drops(&self) -> Result<u64> {
        let table = std::fs::read_to_string("/proc/net/udp")?;
        let port = format!(":{:04X}", self.listen.port());
        let ours = table.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            words.nth(1).filter(|local| local.ends_with(&port))?;
            words.last()?.parse::<u64>().ok()
        });
        Ok(ours.sum())
    }

    /// Whether it still runs.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the peer has ended");
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nothing is lost by that: its key is in a folder that goes as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, listen: &str, args: &[String]) -> Result<(Child, serde_json::Value)> {
    let program = std::env::current_exe()?.with_file_name("rendezvous-peer");
    ensure!(program.exists(), "rendezvous-peer is not built: see bench/README.md");
    let mut child = Command::new(program)
        .args(["run", "--json", "--admin", "off", "--log", "error", "--listen", listen])
        .arg("--data-dir")
        .arg(folder.join("peer"))
        .args(args)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().context("the peer has no output")?;
    BufReader::new(out).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Ok(ready) => Ok((child, ready)),
        Err(_) => bail!("the peer says: {line}"),
    }
}
