//! Programs that run in the lab and print JSON, one object a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::namespace::Namespace;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Those of a directory, or beside this program when none is named.
    ///
    /// # Errors
    /// One is missing.
    pub fn find(dir: Option<&Path>) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let beside = own.parent().context("every program is in a directory")?;
        let dir = dir.unwrap_or(beside).to_owned();
        for name in ["halloo", "rendezvous-peer"] {
            ensure!(
                dir.join(name).is_file(),
                "{name} is not in {}: cargo build --release -p halloo-app -p rendezvous-peer, \
                 or name another directory with --bin-dir",
                dir.display()
            );
        }
        Ok(Self { dir })
    }

    /// The node.
    pub fn halloo(&self) -> Command {
        Command::new(self.dir.join("halloo"))
    }

    /// The server.
    pub fn rendezvous_peer(&self) -> Command {
        Command::new(self.dir.join("rendezvous-peer"))
    }
}

/// A program that runs, and what it has said. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    said: Arc<Said>,
}

impl Running {
    /// Starts a program in a namespace. What it says is kept in a directory too.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(namespace: &Namespace, command: Command, dir: &Path) -> Result<Self> {
        Self::start_heard(namespace, command, dir, |_| true)
    }

    /// The same, with somebody who hears each line when it comes, and says whether it is to be
    /// kept for those who look for it later.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_heard(
        namespace: &Namespace,
        mut command: Command,
        dir: &Path,
        hear: impl FnMut(&Value) -> bool + Send + 'static,
    ) -> Result<Self> {
        let name = name_of(&command);
        let (stderr, copy) = (append(dir, "errors")?, append(dir, "lines")?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let spawned = namespace.spawn(&mut command)?;
        let mut child = spawned.with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("the pipe was asked for")?;
        let said = Arc::new(Said::default());
        let hears = Arc::clone(&said);
        std::thread::spawn(move || hears.listen(BufReader::new(stdout), copy, hear));
        Ok(Self { name, child, said })
    }

    /// What it reads from; once.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has said, and will say.
    pub fn said(&self) -> &Said {
        &self.said
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself and everything that it said was heard: its exit code,
    /// -1 after a signal. `None` when it runs on.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self, patience: Duration) -> Result<Option<i32>> {
        if !self.said.wait_for_end(patience) {
            return Ok(None);
        }
        Ok(Some(self.child.wait()?.code().unwrap_or(-1)))
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end in [`END`].
    pub fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("a child has an id")?, Signal::TERM)
            .with_context(|| format!("cannot stop {}", self.name))?;
        ensure!(self.said.wait_for_end(END), "{} does not end", self.name);
        self.child.wait()?;
        Ok(())
    }

    /// Ends it at once, as a crash would. Everything that it said before has been heard then.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Only a child of its own could keep the pipe open.
        self.said.wait_for_end(END);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end, and returns what it said.
///
/// # Errors
/// It fails, with what it said on standard error.
pub fn run(namespace: &Namespace, mut command: Command) -> Result<Vec<Value>> {
    let name = name_of(&command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = namespace.spawn(&mut command)?;
    let child = spawned.with_context(|| format!("cannot start {name}"))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, errors.trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The lines of a program, as they come.
#[derive(Debug, Default)]
pub struct Said {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Value>,
    ended: bool,
}

impl Said {
    /// The number of lines so far: from here on, what comes is new.
    pub fn mark(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lines.len()
    }

    /// The first line from `mark` on for which `test` holds, as soon as it is said. `None` when
    /// it does not come in time, or the program ends.
    pub fn wait_for(
        &self,
        mark: usize,
        patience: Duration,
        test: impl Fn(&Value) -> bool,
    ) -> Option<Value> {
        let deadline = Instant::now() + patience;
        let mut next = mark;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = state.lines.get(next..)?.iter().find(|line| test(line)) {
                return Some(line.clone());
            }
            next = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All lines from `mark` on so far.
    pub fn since(&self, mark: usize) -> Vec<Value> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits until the program has ended, and says whether it has.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, patience, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn listen(&self, stdout: impl BufRead, mut copy: File, mut hear: impl FnMut(&Value) -> bool) {
        for line in stdout.lines().map_while(Result::ok) {
            // Only for people who look at it later.
            // In one piece: several programs of a home write here.
            let _ = copy.write_all(format!("{line}\n").as_bytes());
            let Ok(value) = serde_json::from_str(&line) else { continue };
            if !hear(&value) {
                continue;
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.lines.len() < MAX_LINES {
                state.lines.push(value);
            }
            self.changed.notify_all();
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}

fn append(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    let file = File::options().create(true).append(true).open(&path);
    file.with_context(|| format!("cannot write to {}", path.display()))
}

fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Lines that are kept of one program: a minute of messages every 20 ms many times over.
const MAX_LINES: usize = 200_000;
/// How long a program may take to end when it is asked to.
pub const END: Duration = Duration::from_secs(15);
