//! Processes to test with. Everything awaited has a generous deadline, and everything that was
//! started is killed at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long something may take on a machine that does much else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

/// The program.
pub(crate) fn halloo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halloo"));
    command.env_clear().env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// A folder for one test: a peer and some homes.
pub(crate) struct World {
    pub(crate) peer: Peer,
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_peer(&[])
    }

    /// With a peer that is started with more options.
    pub(crate) fn with_peer(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(&dir.path().join("peer"), 0, options);
        Self { peer, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Somebody with an identity at the peer.
    pub(crate) fn person(&self, name: &str) -> Person {
        self.person_with(name, &[])
    }

    /// The same, with more options of `init`.
    pub(crate) fn person_with(&self, name: &str, options: &[&str]) -> Person {
        let home = self.path(name);
        let person = Person { home };
        let init = ["init", "--peer", &self.peer.address, "--name", name];
        person.ok(&[&init, options].concat());
        person
    }

    /// Two who are contacts of each other, and whose nodes listen.
    pub(crate) fn friends(&self) -> (Person, Person, Process, Process) {
        let (anna, ben) = (self.person("anna"), self.person("ben"));
        let at_anna = anna.host(&["listen"]);
        let at_ben = ben.host(&["listen", "--accept-all"]);
        anna.ok(&["add", &ben.address(), "--name", "ben"]);
        at_anna.wait("accepted", |e| e["event"] == "accepted");
        (anna, ben, at_anna, at_ben)
    }
}

/// A rendezvous peer in a process of its own.
pub(crate) struct Peer {
    pub(crate) address: String,
    data_dir: PathBuf,
    port: u16,
    process: Process,
}

impl Peer {
    /// Port 0 lets the system choose one that nobody uses.
    fn start(data_dir: &Path, port: u16, options: &[&str]) -> Self {
        let mut command = Command::new(peer_program());
        command.args(["run", "--json", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"]);
        command.arg(data_dir).args(options).stdin(Stdio::null());
        let process = Process::start(command);
        let ready = process.wait("the peer", |e| e["event"] == "ready");
        let address = text(&ready["address"]);
        let place: halloo::PeerAddress = address.parse().unwrap();
        let port = place.host.port();
        Self { address, data_dir: data_dir.to_owned(), port, process }
    }

    /// Makes invites with the peer's key.
    pub(crate) fn invites(&self, count: usize) -> Vec<String> {
        let mut command = Command::new(peer_program());
        command.args(["invite", "--count", &count.to_string(), "--data-dir"]).arg(&self.data_dir);
        let output = finish(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Ends without a chance to say good-bye.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Starts again at the same place with the same key.
    pub(crate) fn restart(&mut self) {
        *self = Self::start(&self.data_dir, self.port, &[]);
    }

    /// Starts again at the same place with another key.
    pub(crate) fn restart_as_another(&mut self) {
        *self = Self::start(&self.data_dir.with_extension("other"), self.port, &[]);
    }

    /// Without its key: `host:port`.
    pub(crate) fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Somebody with a home.
pub(crate) struct Person {
    pub(crate) home: PathBuf,
}

impl Person {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = halloo();
        command.arg("--home").arg(&self.home).args(args);
        // Only this machine: the test must not depend on its other networks.
        command.env("HALLOO_UDP", "127.0.0.1:0");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended(finish(self.command(args)))
    }

    /// Runs a command that must succeed, with `--json`: its lines.
    pub(crate) fn ok(&self, args: &[&str]) -> Vec<Value> {
        let ended = self.run(&[args, &["--json"]].concat());
        assert_eq!(ended.code(), 0, "{args:?}: {}", ended.stderr());
        ended.lines()
    }

    pub(crate) fn address(&self) -> String {
        text(&self.ok(&["id"])[0]["address"])
    }

    /// Starts a command that goes on, with `--json`, and waits until it is ready.
    pub(crate) fn host(&self, args: &[&str]) -> Process {
        let mut command = self.command(args);
        command.arg("--json").stdin(Stdio::piped()).env("HALLOO_LOG", "warn,halloo=debug");
        let process = Process::start(command);
        process.wait("ready", |e| e["event"] == "ready");
        process
    }

    /// The same, as one that kills itself at a point, perhaps before it is ready.
    pub(crate) fn host_to_die(&self, args: &[&str], at: &str) -> Process {
        let mut command = self.command(args);
        command.arg("--json").stdin(Stdio::piped()).env("HALLOO_LOG", "warn,halloo=debug");
        command.env("HALLOO_CRASH", at);
        Process::start(command)
    }

    /// Starts a command that goes on, with `--json`.
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        let mut command = self.command(args);
        command.arg("--json").stdin(Stdio::piped());
        Process::start(command)
    }
}

/// A command that has ended.
pub(crate) struct Ended(Output);

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout().lines().map(json).collect()
    }

    /// The name of the error that it printed as JSON at last.
    pub(crate) fn error(&self) -> String {
        let line = json(self.stderr().lines().last().unwrap());
        text(&line["error"]["code"])
    }
}

/// A program that goes on, and the JSON lines that it has printed.
pub(crate) struct Process {
    pid: Pid,
    stdin: Mutex<Option<ChildStdin>>,
    heard: Arc<Watched<Heard>>,
}

#[derive(Default)]
struct Heard {
    lines: Vec<Value>,
    errors: String,
    /// `None` while it runs.
    exit: Option<i32>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let stdin = Mutex::new(child.stdin.take());
        let heard = Arc::new(Watched::<Heard>::default());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let at = heard.clone();
        let data = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = json(&line.unwrap());
                at.change(|heard| heard.lines.push(line));
            }
        });
        let at = heard.clone();
        let talk = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                at.change(|heard| heard.errors.push_str(&format!("{line}\n")));
            }
        });
        let at = heard.clone();
        std::thread::spawn(move || {
            // Its end is told after everything that it said.
            let said = (data.join(), talk.join());
            let exit = child.wait().unwrap().code().unwrap_or(-1);
            at.change(|heard| heard.exit = Some(exit));
            assert!(said.0.is_ok() && said.1.is_ok(), "what it said can be read");
        });
        Self { pid, stdin, heard }
    }

    /// Waits for a line, also among those that were printed before.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.heard.wait(
            |heard| heard.lines.iter().find(|line| is_it(line)).cloned(),
            |heard| format!("no {what}; lines: {:#?}\n{}", heard.lines, heard.errors),
        )
    }

    /// Waits until the lines are enough. Returns false when it ends before.
    pub(crate) fn wait_or_end(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> bool {
        self.heard.wait(
            |heard| match enough(&heard.lines) {
                true => Some(true),
                false => heard.exit.map(|_| false),
            },
            |heard| format!("no {what}; {} lines; {}", heard.lines.len(), heard.errors),
        )
    }

    /// What was printed so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.heard.state.lock().unwrap().lines.clone()
    }

    /// The texts of the messages that were printed so far.
    pub(crate) fn messages(&self) -> Vec<String> {
        let lines = self.lines();
        lines.iter().filter(|e| e["event"] == "message").map(|e| text(&e["text"])).collect()
    }

    pub(crate) fn stderr(&self) -> String {
        self.heard.state.lock().unwrap().errors.clone()
    }

    /// Writes a line to its standard input.
    pub(crate) fn say(&self, line: &str) {
        let mut stdin = self.stdin.lock().unwrap();
        writeln!(stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its standard input.
    pub(crate) fn hang_up(&self) {
        self.stdin.lock().unwrap().take();
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&self) {
        if self.heard.state.lock().unwrap().exit.is_none() {
            self.signal(Signal::KILL);
            self.end();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for its end: its exit code.
    pub(crate) fn end(&self) -> i32 {
        self.heard.wait(|heard| heard.exit, |heard| format!("it does not end: {}", heard.errors))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let heard = self.heard.state.lock().unwrap();
            let lines: Vec<String> = heard.lines.iter().map(Value::to_string).collect();
            let errors: Vec<String> = heard.errors.lines().map(str::to_owned).collect();
            let end = |all: &[String]| all[all.len().saturating_sub(30)..].join("\n");
            eprintln!("process {:?} said at the end:\n{}\n{}", self.pid, end(&lines), end(&errors));
        }
        if self.heard.state.lock().unwrap().exit.is_none() {
            self.signal(Signal::KILL);
        }
    }
}

/// Something that one thread changes and another waits for.
#[derive(Default)]
struct Watched<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    fn change(&self, how: impl FnOnce(&mut T)) {
        how(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until `ready` finds something; at the deadline, `why` tells what is missing.
    fn wait<R>(&self, ready: impl Fn(&T) -> Option<R>, why: impl Fn(&T) -> String) -> R {
        let end = Instant::now() + DEADLINE;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = ready(&state) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = why(&state);
                // A poisoned lock would only hide the reason.
                drop(state);
                panic!("{why}");
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// Runs a command to its end, but not for ever.
pub(crate) fn finish(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (ended, wait) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if wait.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    guard.join().unwrap();
    output
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The rendezvous peer's program, beside ours; built when it is not there or older than its
/// sources. A test of the whole workspace has built it: building it alone would build what it needs
/// once more, with other features.
pub(crate) fn peer_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_halloo")).parent().unwrap();
        let program = folder.join("rendezvous-peer");
        if is_current(&program) {
            return program;
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "rendezvous-peer", "--target-dir"]);
        build.arg(folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the rendezvous peer cannot be built");
        program
    })
}

fn is_current(program: &Path) -> bool {
    let Ok(built) = program.metadata().and_then(|m| m.modified()) else { return false };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    ["wire", "identity", "transport", "rendezvous-peer"]
        .iter()
        .all(|of| newest(&root.join(of).join("src")) <= built)
}

/// When a folder, or anything in it, was last changed.
fn newest(folder: &Path) -> SystemTime {
    let inside = std::fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => newest(&entry.path()),
            false => entry.metadata().unwrap().modified().unwrap(),
        }
    });
    inside.chain([folder.metadata().unwrap().modified().unwrap()]).max().unwrap()
}
