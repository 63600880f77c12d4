//! Memory stays memory: no swap, no core dumps, no other process that reads it. The program runs
//! as an ordinary user here, also where the tests run as root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Node, PROGRAM, Process, in_home, names, not_shown};
use halloo_transport::Show;
use halloo_wire::envelope::Lane;
use rustix::process::{Signal, geteuid};
use serde_json::Value;

/// The user and the group that own nothing.
const NOBODY: &str = "65534";

const SWAP: &str = "Filename\tType\tSize\tUsed\tPriority\n/swapfile file 1048572 0 -2\n";
const NO_SWAP: &str = "Filename\tType\tSize\tUsed\tPriority\n";

/// A place where the program is started as an ordinary user, on a machine whose table of swaps
/// says what the test wants.
struct Machine {
    home: tempfile::TempDir,
    pretends: bool,
}

impl Machine {
    /// This machine as it is.
    fn real() -> Self {
        let home = tempfile::tempdir().unwrap();
        // Another user may have to reach it.
        fs::copy(PROGRAM, home.path().join("program")).unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o777)).unwrap();
        Self { home, pretends: false }
    }

    /// One with these swaps; `None` where the system lets nobody pretend.
    fn new(swaps: &str) -> Option<Self> {
        let it = Self { pretends: true, ..Self::real() };
        fs::write(it.path().join("swaps"), swaps).unwrap();
        let table = it.with(&[], &["cat", "/proc/swaps"]).output();
        let pretends = table.is_ok_and(|o| o.stdout == swaps.as_bytes());
        if !pretends {
            not_shown("a machine with another table of swaps takes a mount namespace (unshare)");
        }
        pretends.then_some(it)
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    /// The program with `args`, as an ordinary user who may lock 64 KiB of memory.
    fn program(&self, args: &[&str]) -> Command {
        self.with(&[], &[&["./program"], args].concat())
    }

    fn run(&self, args: &[&str]) -> Command {
        self.program(&[&["run", "--json", "--listen", "127.0.0.1:0"], args].concat())
    }

    /// `command`, as an ordinary user with `rights`, options of `setpriv`.
    fn with(&self, rights: &[&str], command: &[&str]) -> Command {
        let mut words = Vec::new();
        if self.pretends {
            words.extend(["unshare", "--mount"]);
            if !geteuid().is_root() {
                words.extend(["--user", "--map-root-user"]);
            }
            words.extend(["sh", "-c", "mount --bind ./swaps /proc/swaps && exec \"$@\"", "sh"]);
        }
        words.extend(["prlimit", "--memlock=65536:65536"]);
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        if geteuid().is_root() {
            words.extend(["setpriv", &user, &group, "--clear-groups"]);
            words.extend(rights);
        }
        words.extend(command);
        let mut it = in_home(Command::new(words[0]), self.path());
        it.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(&words[1..]);
        it
    }
}

/// The state of a promise, and how it is kept.
fn promise(audit: &Value, name: &str) -> (String, String) {
    let promises = audit["promises"].as_array().unwrap();
    let found = promises.iter().find(|p| p["promise"] == name).unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("state"), text("how"))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Whether a control group keeps this machine from swapping, whatever the table of swaps says.
fn never_swaps(machine: &Machine) -> bool {
    let audit = machine.program(&["self-audit", "--json"]).output().unwrap();
    let by_group = promise(&json(&audit.stdout), "swap").1.contains("control group");
    if by_group {
        not_shown("the tests run in a control group without swap, which is protection enough");
    }
    by_group
}

#[tokio::test]
async fn swap_without_protection_is_said_and_refused_when_that_is_asked_for() {
    let Some(machine) = Machine::new(SWAP) else { return };
    if never_swaps(&machine) {
        return;
    }
    let by_flag = machine.run(&["--require-memory-protection"]);
    let mut by_environment = machine.run(&[]);
    by_environment.env("RENDEZVOUS_PEER_REQUIRE_MEMORY_PROTECTION", "true");
    for mut command in [by_flag, by_environment] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        let error = &json(&output.stderr)["error"];
        assert_eq!(error["code"], "memory-unprotected");
        let help = error["help"][0].as_str().unwrap();
        assert!(help.contains("MemorySwapMax=0") && help.contains("swapoff"), "{help}");
        assert_eq!(names(&machine.path().join("data")), Vec::<String>::new(), "no key is made");
    }
    let peer = Process::spawn(machine.run(&[])).await;
    let protection = &peer.ready["memory_protection"];
    assert_eq!(
        (&protection["in_force"], &protection["swap"]["state"]),
        (&false.into(), &"broken".into())
    );
}

#[tokio::test]
async fn locked_memory_is_enough_on_a_machine_with_swap() {
    if !geteuid().is_root() {
        return not_shown("only root gives others the right to lock all memory");
    }
    let Some(machine) = Machine::new(SWAP) else { return };
    let rights = ["--inh-caps=-all,+ipc_lock", "--ambient-caps=-all,+ipc_lock"];
    let words =
        ["./program", "run", "--json", "--listen", "127.0.0.1:0", "--require-memory-protection"];
    let mut peer = Process::spawn(machine.with(&rights, &words)).await;
    assert_eq!(peer.ready["memory_protection"]["in_force"], true);
    // What is allocated later is locked too.
    let bob = Node::new(&peer);
    let (line, _) = bob.register(1).await;
    for _ in 0..20 {
        line.ask(bob.drop_call(Lane::Strangers, 1, None)).await;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid())).unwrap();
    let kib = |key: &str| -> u64 {
        let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        value.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(kib("VmSwap"), 0);
    assert!(kib("VmLck") > 0 && kib("VmLck") + 1024 >= kib("VmSize"), "{status}");
    // Somebody else sees it as well.
    let pid = peer.pid().to_string();
    let mut audit = in_home(Command::new(PROGRAM), machine.path());
    let audit = audit.args(["self-audit", "--json", "--pid", &pid]).output().unwrap();
    let audit = json(&audit.stdout);
    let (state, how) = promise(&audit, "swap");
    assert!(state == "in-force" && how.contains("all memory is locked"), "{how}");
    for name in ["core dumps", "other processes", "open files", "user", "capabilities"] {
        assert_eq!(promise(&audit, name).0, "in-force", "{name}");
    }
    assert_eq!(
        promise(&audit, "data directory"),
        (
            "in-force".into(),
            format!("{} holds the key only", machine.path().join("data").display())
        )
    );
    peer.signal(Signal::TERM);
    assert!(peer.wait().await.success());
}

#[test]
fn a_self_audit_holds_for_an_ordinary_user_on_a_machine_without_swap() {
    let Some(machine) = Machine::new(NO_SWAP) else { return };
    let audit = machine.program(&["self-audit", "--json"]).output().unwrap();
    let found = json(&audit.stdout);
    assert_eq!((audit.status.code(), &found["ok"]), (Some(0), &true.into()), "{found:#}");
    // The same for people.
    let audit = machine.program(&["self-audit"]).output().unwrap();
    let text = String::from_utf8(audit.stdout).unwrap();
    assert_eq!(text.matches("in force").count(), text.lines().count(), "{text}");
    // Something else beside the key is found, and said with what to do.
    fs::create_dir(machine.path().join("data")).unwrap();
    fs::write(machine.path().join("data/queue.db"), "").unwrap();
    let audit = machine.program(&["self-audit"]).output().unwrap();
    let text = String::from_utf8(audit.stdout).unwrap();
    assert_eq!(audit.status.code(), Some(1), "{text}");
    assert!(text.contains("NOT IN FORCE") && text.contains("try: chmod 700"), "{text}");
}

#[test]
fn a_process_that_is_not_there_is_not_audited() {
    let home = tempfile::tempdir().unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let mut audit = in_home(Command::new(PROGRAM), home.path());
    let audit = audit.args(["self-audit", "--pid", &gone.id().to_string()]).output().unwrap();
    assert_eq!(audit.status.code(), Some(3));
}

#[tokio::test]
async fn a_crash_leaves_no_core_file() {
    let home = tempfile::tempdir().unwrap();
    let as_large_as_allowed = "ulimit -S -c $(ulimit -H -c) && exec \"$@\"";
    let shell = |words: &[&str]| {
        let mut it = in_home(Command::new("/bin/sh"), home.path());
        it.args(["-c", as_large_as_allowed, "sh"]).args(words);
        it
    };
    // What it looks like where nothing is forbidden.
    let crash = shell(&["/bin/sh", "-c", "kill -ABRT $$"]).status().unwrap();
    if !crash.core_dumped() {
        not_shown("a process that allows core dumps leaves none here either (ulimit -H -c)");
    }
    let before = names(home.path());
    let mut peer =
        Process::spawn(shell(&[PROGRAM, "run", "--json", "--listen", "127.0.0.1:0"])).await;
    let bob = Node::new(&peer);
    let (_line, _) = bob.register(1).await;
    // As a panic ends the program. The system treats all signals that dump alike.
    peer.signal(Signal::ABORT);
    let end = peer.wait().await;
    assert_eq!((end.signal(), end.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
    let after: Vec<_> = names(home.path()).into_iter().filter(|n| n != "data").collect();
    assert_eq!(after, before);
}

#[tokio::test]
async fn other_processes_of_the_same_user_cannot_read_the_memory() {
    let machine = Machine::real();
    let peer = Process::spawn(machine.run(&[])).await;
    let owner = fs::metadata(format!("/proc/{}/environ", peer.pid())).unwrap().uid();
    assert_eq!(owner, 0, "the system gives what cannot be dumped to root");
    let reads = |pid: &str| {
        let path = format!("/proc/{pid}/maps");
        machine.with(&[], &["cat", &path]).output().unwrap().status.success()
    };
    assert!(reads("self"));
    assert!(!reads(&peer.pid().to_string()));
    Node::new(&peer).connect(Show::Nothing).await;
}
