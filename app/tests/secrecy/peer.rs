//! A rendezvous peer in a process of its own, behind a tap.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{DEADLINE, Process, peer_program, text};
use crate::memory::{Memory, Scan};
use crate::secrets::Needles;
use crate::wire::Forwarder;

/// A peer and its tap. Nodes know the tap's address only.
pub(crate) struct TappedPeer {
    pub(crate) address: String,
    pub(crate) tap: Forwarder,
    pub(crate) port: u16,
    process: Process,
    pid: u64,
}

impl TappedPeer {
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::behind(Forwarder::start(), data_dir)
    }

    /// Another peer at the same place.
    pub(crate) fn replace(self, data_dir: &Path) -> Self {
        self.process.kill();
        Self::behind(self.tap, data_dir)
    }

    fn behind(tap: Forwarder, data_dir: &Path) -> Self {
        let mut command = Command::new(peer_program());
        command.args(["run", "--json", "--listen", "127.0.0.1:0"]);
        command.args(["--public-host", &format!("127.0.0.1:{}", tap.port), "--data-dir"]);
        command.arg(data_dir).env_clear().stdin(Stdio::null());
        let process = Process::start(command);
        let ready = process.wait("the peer", |e| e["event"] == "ready");
        let listen: SocketAddr = text(&ready["listen"]).parse().unwrap();
        tap.serve(listen);
        let (address, pid) = (text(&ready["address"]), ready["pid"].as_u64().unwrap());
        Self { address, tap, port: listen.port(), process, pid }
    }

    /// The peer's memory, if the system lets us see it.
    pub(crate) fn memory(&self) -> Option<Memory> {
        match Memory::open(self.pid) {
            Ok(memory) => Some(memory),
            Err(e) if !crate::memory::may_read_others() => {
                println!("NOT LOOKED AT: the peer's memory, which takes CAP_SYS_PTRACE: {e}");
                None
            }
            Err(e) => panic!("the peer's memory cannot be read: {e}"),
        }
    }

    /// Looks through the memory while the peer stands still.
    pub(crate) fn scan(&self, needles: &Needles) -> Option<Scan> {
        let memory = self.memory()?;
        self.process.signal(Signal::STOP);
        let scan = memory.scan(needles);
        self.process.signal(Signal::CONT);
        Some(scan)
    }

    /// Looks again and again until a needle is there.
    pub(crate) fn scan_until(&self, what: &str, needles: &Needles) -> Option<Scan> {
        let end = Instant::now() + DEADLINE;
        loop {
            let scan = self.scan(needles)?;
            if scan.found.contains(what) {
                return Some(scan);
            }
            assert!(Instant::now() < end, "{what} is never in the peer's memory");
            // Another process's memory rings no bell.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
