//! Locked homes: what opens them, what a thief finds, and what a kill leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Ended, Person, Process, World};

const TEXT: &str = "meet me at the old lighthouse";
const LOCKED: i32 = 7;

/// Files with passphrases, and a home.
struct Scene {
    world: World,
    anna: Person,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let anna = Person { home: world.path("anna") };
        for word in ["first", "second"] {
            fs::write(world.path(word), format!("correct horse {word}\n")).unwrap();
        }
        Self { world, anna }
    }

    fn file(&self, word: &str) -> String {
        self.world.path(word).into_os_string().into_string().unwrap()
    }

    fn init(&self, more: &[&str]) {
        let peer = self.world.peer.address.clone();
        let args = [&["init", "--peer", &peer, "--name", "anna"], more].concat();
        self.anna.ok(&args);
    }

    /// Runs a command of Anna's with a passphrase.
    fn with(&self, word: &str, args: &[&str]) -> Ended {
        self.anna.run(&[args, &["--json", "--passphrase-file", &self.file(word)]].concat())
    }

    fn passphrase(&self, args: &[&str]) -> Ended {
        self.anna.run(&[&["passphrase"], args, &["--json"]].concat())
    }
}

/// The files of a home that show one of `wanted`.
fn shows(home: &Path, wanted: &[&str]) -> Vec<PathBuf> {
    let files = fs::read_dir(home).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|file| {
            let raw = fs::read(file).unwrap_or_default();
            wanted.iter().any(|w| raw.windows(w.len()).any(|found| found == w.as_bytes()))
        })
        .collect()
}

/// Anna asks Ben and writes to him; her node ends.
fn talk(scene: &Scene, options: &[&str]) {
    let ben = scene.world.person("ben");
    let at_ben = ben.host(&["listen", "--accept-all"]);
    let at_anna: Process = scene.anna.host(&[&["listen"], options].concat());
    // No command needs the passphrase while a node runs.
    scene.anna.ok(&["add", &ben.address(), "--name", "benjamin"]);
    at_anna.wait("accepted", |e| e["event"] == "accepted");
    scene.anna.ok(&["send", "benjamin", TEXT, "--wait", "delivered"]);
    if !options.is_empty() {
        assert_eq!(shows(&scene.anna.home, &[TEXT, "benjamin"]), [""; 0].map(PathBuf::from));
    }
    at_anna.signal(rustix::process::Signal::TERM);
    at_anna.end();
    at_ben.signal(rustix::process::Signal::TERM);
    at_ben.end();
}

#[test]
fn a_home_that_was_locked_from_its_beginning_shows_nothing_and_opens_with_its_passphrase() {
    let scene = Scene::new();
    let first = scene.file("first");
    scene.init(&["--passphrase", "--passphrase-file", &first]);
    talk(&scene, &["--passphrase-file", &first]);
    assert!(shows(&scene.anna.home, &[TEXT, "benjamin", "HALLOO IDENTITY", "SQLite"]).is_empty());

    for args in [&["id"][..], &["contacts"], &["listen"], &["send", "benjamin", "x"]] {
        let ended = scene.anna.run(&[args, &["--json"]].concat());
        assert_eq!((ended.code(), ended.error().as_str()), (LOCKED, "home-locked"), "{args:?}");
        let ended = scene.with("second", args);
        assert_eq!(
            (ended.code(), ended.error().as_str()),
            (LOCKED, "wrong-passphrase"),
            "{args:?}"
        );
        assert!(!ended.stderr().contains("correct horse"), "{}", ended.stderr());
    }
    let contacts = scene.with("first", &["contacts"]);
    assert_eq!(contacts.code(), 0, "{}", contacts.stderr());
    assert!(contacts.stdout().contains("benjamin"));

    let ended = scene.with("nowhere", &["id"]);
    assert_eq!((ended.code(), ended.error().as_str()), (2, "passphrase-file"));
}

#[test]
fn a_home_in_use_is_locked_changed_and_opened_up() {
    let scene = Scene::new();
    let (first, second) = (scene.file("first"), scene.file("second"));
    scene.init(&[]);
    talk(&scene, &[]);
    let address = scene.anna.address();
    assert!(!shows(&scene.anna.home, &[TEXT]).is_empty(), "the test looks in the right place");
    let ended = scene.with("first", &["id"]);
    assert_eq!((ended.code(), ended.error().as_str()), (78, "home-not-locked"));
    assert_eq!(scene.passphrase(&["change", "--new-passphrase-file", &first]).code(), 78);
    assert_eq!(scene.passphrase(&["remove"]).code(), 78);

    let running = scene.anna.host(&["daemon"]);
    let ended = scene.passphrase(&["set", "--new-passphrase-file", &first]);
    assert_eq!((ended.code(), ended.error().as_str()), (8, "already-running"));
    running.signal(rustix::process::Signal::TERM);
    running.end();

    let ended = scene.passphrase(&["set", "--new-passphrase-file", &first]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(ended.lines()[0]["locked"], true);
    assert!(shows(&scene.anna.home, &[TEXT, "benjamin", "HALLOO IDENTITY", "SQLite"]).is_empty());
    assert_eq!(scene.passphrase(&["set", "--new-passphrase-file", &second]).code(), 8);

    let args = ["change", "--new-passphrase-file", &second, "--passphrase-file"];
    assert_eq!(scene.passphrase(&[&args[..], &[&second]].concat()).code(), LOCKED);
    assert_eq!(scene.passphrase(&[&args[..], &[&first]].concat()).code(), 0);
    assert_eq!(scene.with("first", &["id"]).code(), LOCKED);
    let id = scene.with("second", &["id"]);
    assert_eq!(id.lines()[0]["address"], address.as_str());

    let ended = scene.passphrase(&["remove", "--passphrase-file", &second]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(ended.lines()[0]["locked"], false);
    assert_eq!(scene.anna.address(), address);
    assert!(scene.anna.run(&["contacts"]).stdout().contains("benjamin"));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the moment of the kill is what is tried")]
fn a_kill_while_the_home_is_locked_leaves_the_old_state_or_the_new_one() {
    let scene = Scene::new();
    let first = scene.file("first");
    scene.init(&[]);
    let address = scene.anna.address();
    let mut locked = false;
    for wait in (0..40).map(|n| Duration::from_millis(n * 60)) {
        let change: &[&str] = match locked {
            false => &["passphrase", "set", "--json", "--new-passphrase-file", &first],
            true => &["passphrase", "remove", "--json", "--passphrase-file", &first],
        };
        let mut command = scene.anna.command(change);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait);
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // One of the two opens it, and then nothing of the other is left.
        let (plain, sealed) = (scene.anna.run(&["id", "--json"]), scene.with("first", &["id"]));
        let opened: Vec<&Ended> = [&plain, &sealed].into_iter().filter(|e| e.code() == 0).collect();
        assert_eq!(opened.len(), 1, "{} {}", plain.stderr(), sealed.stderr());
        assert_eq!(opened[0].lines()[0]["address"], address.as_str());
        let is_locked = sealed.code() == 0;
        assert_eq!(scene.anna.home.join("node.db").exists(), !is_locked);
        assert_eq!(scene.anna.home.join("locked.db").exists(), is_locked);
        if ended.is_some_and(|status| status.success()) {
            assert_ne!(is_locked, locked, "a change that succeeded has happened");
            if is_locked {
                assert!(shows(&scene.anna.home, &["HALLOO IDENTITY", "SQLite"]).is_empty());
                return;
            }
        }
        locked = is_locked;
    }
    panic!("no change came to its end");
}
