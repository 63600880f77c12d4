//! The rendezvous peer and the two people of a measurement.

use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::inside;
use crate::ledger::Ledger;
use crate::namespace::Namespace;
use crate::plan::{SERVER_NAME, Side};
use crate::program::{Programs, Running, run};
use crate::tools;
use crate::world::World;

/// The rendezvous peer of a lab.
#[derive(Debug)]
pub struct Peer {
    programs: Programs,
    dir: PathBuf,
    more: Vec<String>,
    running: Running,
    address: String,
}

impl Peer {
    /// Starts it at the server.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(world: &World, programs: &Programs) -> Result<Self> {
        Self::start_with(world, programs, PORT, &[])
    }

    /// The same, at another port and with more options.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(
        world: &World,
        programs: &Programs,
        port: u16,
        more: &[&str],
    ) -> Result<Self> {
        let dir = inside::scratch(&tools::unique("peer"))?;
        let (listen, host) = (format!("[::]:{port}"), format!("{SERVER_NAME}:{port}"));
        let more = [&["--listen", &listen, "--public-host", &host], more].concat();
        let more: Vec<String> = more.into_iter().map(str::to_owned).collect();
        let (running, address) = Self::launch(world, programs, &dir, &more)?;
        Ok(Self { programs: programs.clone(), dir, more, running, address })
    }

    /// Its address with its key.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it and starts it again: what it kept in memory is gone.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, world: &World) -> Result<()> {
        self.running.kill();
        let begun = Self::launch(world, &self.programs, &self.dir, &self.more)?;
        (self.running, self.address) = begun;
        Ok(())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn launch(
        world: &World,
        programs: &Programs,
        dir: &Path,
        more: &[String],
    ) -> Result<(Running, String)> {
        let mut command = programs.rendezvous_peer();
        command.args(["run", "--json", "--data-dir"]).arg(dir).args(more);
        let running = Running::start(world.server(), command, dir)?;
        let ready = running
            .said()
            .wait_for(0, START, is("ready"))
            .context("rendezvous-peer does not start")?;
        let address = ready["address"].as_str().context("rendezvous-peer has no address")?;
        Ok((running, address.to_owned()))
    }
}

/// Somebody with a node.
#[derive(Debug)]
pub struct Person<'a> {
    side: Side,
    namespace: &'a Namespace,
    programs: Programs,
    /// What programs said.
    dir: PathBuf,
    home: PathBuf,
    address: String,
    /// `halloo listen`, while the person is there.
    listening: Option<Running>,
    /// Who is told what arrives.
    ledger: Option<Arc<Ledger>>,
    /// More options of `halloo listen`.
    more: Vec<String>,
}

impl<'a> Person<'a> {
    /// Makes an identity at the peer.
    ///
    /// # Errors
    /// `halloo init` fails.
    pub fn new(world: &'a World, side: Side, programs: &Programs, peer: &Peer) -> Result<Self> {
        Self::on_disk(world, side, programs, peer, None)
    }

    /// The same, with the home on a disk of its own of so many MiB.
    ///
    /// # Errors
    /// The disk cannot be made, or `halloo init` fails.
    pub fn on_disk(
        world: &'a World,
        side: Side,
        programs: &Programs,
        peer: &Peer,
        mib: Option<u32>,
    ) -> Result<Self> {
        let dir = inside::scratch(&tools::unique(side.name()))?;
        if let Some(mib) = mib {
            inside::small_disk(&dir.join(DISK), mib)?;
        }
        Self::in_dir(world, side, programs, peer.address(), dir)
    }

    /// Makes an identity at the peer of this address.
    ///
    /// # Errors
    /// `halloo init` fails.
    pub fn at(world: &'a World, side: Side, programs: &Programs, address: &str) -> Result<Self> {
        let dir = inside::scratch(&tools::unique(side.name()))?;
        Self::in_dir(world, side, programs, address, dir)
    }

    fn in_dir(
        world: &'a World,
        side: Side,
        programs: &Programs,
        address: &str,
        dir: PathBuf,
    ) -> Result<Self> {
        let mut person = Self {
            side,
            namespace: world.node(side)?,
            programs: programs.clone(),
            home: dir.join(DISK).join("home"),
            dir,
            address: String::new(),
            listening: None,
            ledger: None,
            more: Vec::new(),
        };
        let said = person.halloo(&["init", "--peer", address, "--name", side.name()])?;
        let uri = said.first().and_then(|line| line["uri"].as_str());
        uri.context("halloo init prints no address")?.clone_into(&mut person.address);
        Ok(person)
    }

    /// Starts the node, waits until it is online, and returns after how many milliseconds it was.
    ///
    /// # Errors
    /// It does not get there in [`START`].
    pub fn arrive(&mut self) -> Result<f64> {
        let begin = now();
        self.start()?;
        let is_online = |line: &Value| {
            is("online")(line) || (is("ready")(line) && line["online"] == Value::Bool(true))
        };
        let online = self.listening()?.said().wait_for(0, START, is_online);
        let at = online.as_ref().and_then(at);
        let at = at.with_context(|| format!("{} does not get online", self.side.name()))?;
        Ok(at.saturating_sub(begin) as f64 / 1e6)
    }

    /// Starts the node, and waits until other commands can use it. It need not be online then.
    ///
    /// # Errors
    /// It does not get there in [`START`].
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.command(&["listen", "--accept-all"]);
        command.args(&self.more);
        let (ledger, side) = (self.ledger.clone(), self.side);
        let running = Running::start_heard(self.namespace, command, &self.dir, move |line| {
            ledger.as_ref().is_none_or(|ledger| ledger.hear(side, line))
        })?;
        let is_ready = running.said().wait_for(0, START, is("ready")).is_some();
        self.listening = Some(running);
        ensure!(is_ready, "{} does not start: {}", self.side.name(), self.errors());
        Ok(())
    }

    /// Ends the node at once, as a crash would.
    pub fn kill(&mut self) {
        self.listening = None;
    }

    /// Has everything that arrives from here on told to a ledger.
    pub fn report_to(&mut self, ledger: &Arc<Ledger>) {
        self.ledger = Some(Arc::clone(ledger));
    }

    /// Has the node started with more options of `halloo listen` from here on.
    pub fn listen_with(&mut self, more: &[&str]) {
        self.more = more.iter().map(|&option| option.to_owned()).collect();
    }

    /// The address, as a link.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops the node.
    ///
    /// # Errors
    /// It does not end.
    pub fn leave(&mut self) -> Result<()> {
        self.listening.take().map_or(Ok(()), Running::stop)
    }

    /// Asks somebody to become a contact, who accepts everybody, and waits until they have.
    ///
    /// # Errors
    /// They do not in [`START`].
    pub fn befriend(&self, other: &Person<'_>) -> Result<()> {
        let mark = self.listening()?.said().mark();
        self.halloo(&["add", &other.address, "--name", other.side.name()])?;
        let accepted = self.listening()?.said().wait_for(mark, START, is("accepted"));
        ensure!(accepted.is_some(), "{} does not accept", other.side.name());
        Ok(())
    }

    /// Which side it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Runs a `halloo` command to its end.
    ///
    /// # Errors
    /// It fails.
    pub fn halloo(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        run(self.namespace, self.command(arguments))
    }

    /// Starts a `halloo` command that reads lines while it runs.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin(&self, arguments: &[&str]) -> Result<(Running, ChildStdin)> {
        let command = self.command(arguments);
        let mut running = Running::start(self.namespace, command, &self.dir)?;
        let stdin = running.take_input().context("the pipe was asked for")?;
        Ok((running, stdin))
    }

    /// Starts a `halloo` command of which each line is heard.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin_heard(
        &self,
        arguments: &[&str],
        hear: impl FnMut(&Value) -> bool + Send + 'static,
    ) -> Result<(Running, ChildStdin)> {
        let command = self.command(arguments);
        let mut running = Running::start_heard(self.namespace, command, &self.dir, hear)?;
        let stdin = running.take_input().context("the pipe was asked for")?;
        Ok((running, stdin))
    }

    /// What the node says.
    ///
    /// # Errors
    /// It does not run.
    pub fn listening(&self) -> Result<&Running> {
        self.listening.as_ref().with_context(|| format!("{} is not there", self.side.name()))
    }

    /// Gives the disk of the home, if it is one of its own, another size.
    ///
    /// # Errors
    /// It is none of its own.
    pub fn resize_disk(&self, mib: u32) -> Result<()> {
        inside::resize_disk(&self.dir.join(DISK), mib)
    }

    /// What went wrong so far, in the words of the node.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.join("errors")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.programs.halloo();
        command.arg("--json").arg("--home").arg(&self.home).args(arguments);
        command
    }
}

/// Tests for an event of this name.
pub fn is(event: &str) -> impl Fn(&Value) -> bool {
    move |line| line["event"] == event
}

/// When an event happened, in nanoseconds of `CLOCK_MONOTONIC`, which is one for all namespaces.
pub fn at(event: &Value) -> Option<u64> {
    event["mono_ns"].as_u64()
}

/// The time, as events have it.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The path that an event tells of: `direct`, `relay` or `mailbox`.
pub fn path(event: &Value) -> Option<&str> {
    event["path"].as_str().or_else(|| event["via"].as_str())
}

/// Lets time pass in which the nodes have nothing to do.
#[allow(clippy::disallowed_methods)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The directory on which a home may have a disk of its own.
const DISK: &str = "disk";
/// The UDP and TCP port of the rendezvous peer.
pub(crate) const PORT: u16 = 443;
/// How long a program may take to start, or two people to become contacts: many round trips, and
/// a way around a network that drops UDP.
pub const START: Duration = Duration::from_secs(30);
