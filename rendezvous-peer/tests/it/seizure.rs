//! What somebody finds who takes a running peer, its memory and its disk, when everything that
//! passed through it has had its time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::common::{Line, Node, PATIENCE, PROGRAM, Process, command, in_home, not_shown, tunnel};
use crate::scan::{Memory, Scan, may_read_others};
use crate::secrets::Needles;
use halloo_transport::{CloseCode, Show};
use halloo_wire::datagram::RelayFrame;
use halloo_wire::envelope::{HEADER_LEN, Lane};
use halloo_wire::peer::{Call, Grant, Knock, Publication, Push, Response};
use halloo_wire::{CapabilityToken, DeviceId};
use rustix::process::{Pid, Signal, geteuid, kill_process};

/// Bytes that stand nowhere else.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// What tells who somebody is, and where.
fn add_node(needles: &mut Needles, whose: &str, node: &Node) {
    let fingerprint = node.fingerprint();
    needles.add(&format!("{whose} fingerprint"), &fingerprint.as_bytes()[..15]);
    needles.add_text(&format!("{whose} fingerprint as text"), &fingerprint.to_string()[..16]);
    needles.add_text(&format!("{whose} short fingerprint"), &fingerprint.short());
    needles.add(&format!("{whose} passport key"), &node.identity.passport_public_key());
    let address = node.endpoint.local_addr().unwrap();
    needles.add_text(&format!("{whose} IP address"), &address.ip().to_string());
}

/// What is found in the files of a directory, and in their names.
fn in_files(needles: &Needles, dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        found.extend(needles.find(path.to_str().unwrap().as_bytes()));
        if path.is_dir() {
            found.extend(in_files(needles, &path));
        } else if path.is_file() {
            found.extend(needles.find(&fs::read(&path).unwrap()));
        }
    }
    found
}

/// Looks through the memory while the peer stands still.
fn scan(peer: &Process, needles: &Needles) -> Option<Scan> {
    let memory = match Memory::open(peer.pid().as_raw_pid().try_into().unwrap()) {
        Ok(memory) => memory,
        Err(e) if !may_read_others() => {
            not_shown(&format!("reading the peer's memory takes CAP_SYS_PTRACE: {e}"));
            return None;
        }
        Err(e) => panic!("the peer's memory cannot be read: {e}"),
    };
    peer.signal(Signal::STOP);
    let scan = memory.scan(needles);
    peer.signal(Signal::CONT);
    Some(scan)
}

/// An envelope's bytes with a canary in them.
fn with_canary(node: &Node, canary: &[u8], token: &CapabilityToken) -> Call {
    let Call::Drop(mut drop) = node.drop_call(Lane::Contacts, 0, None) else { panic!() };
    drop.token = Some(token.clone());
    let len = drop.envelope.len();
    for at in (HEADER_LEN..len - canary.len()).step_by(canary.len()) {
        drop.envelope[at..at + canary.len()].copy_from_slice(canary);
    }
    Call::Drop(drop)
}

/// One of everything that a peer does for two nodes.
struct Story {
    fetched: [u8; 32],
    left: [u8; 32],
    token: [u8; 32],
    card: [u8; 32],
    callers_card: [u8; 32],
    bundle: [u8; 32],
    frame: [u8; 32],
}

impl Story {
    fn new() -> Self {
        Self {
            fetched: random(),
            left: random(),
            token: random(),
            card: random(),
            callers_card: random(),
            bundle: random(),
            frame: random(),
        }
    }

    fn canaries(&self) -> [(&'static str, &[u8; 32]); 7] {
        [
            ("an envelope that was fetched", &self.fetched),
            ("an envelope that nobody fetched", &self.left),
            ("the capability's token", &self.token),
            ("the callee's card", &self.card),
            ("the caller's card", &self.callers_card),
            ("the bundle", &self.bundle),
            ("a relayed frame", &self.frame),
        ]
    }

    /// Lets it happen and leaves `left` in the mailbox. Returns the connections.
    async fn happen(&self, peer: &Process, alice: &Node, bob: &Node) -> [Line; 2] {
        let token = CapabilityToken(self.token);
        let (inbox, _) = bob.register(1).await;
        let grant = Grant { id: token.id(), card: self.card.to_vec() };
        assert_eq!(inbox.ask(Call::Grant(vec![grant])).await, Response::Done);
        let bundle = Publication { seq: 1, bundle: self.bundle.repeat(40), one_time_keys: vec![] };
        assert_eq!(inbox.ask(Call::Publish(bundle)).await, Response::Done);
        let sender = alice.connect(Show::Nothing).await;
        assert!(matches!(sender.ask(bob.look_up_call()).await, Response::Found(_)));
        let drop = sender.ask(with_canary(bob, &self.fetched, &token)).await;
        assert!(matches!(drop, Response::Dropped(_)), "{drop:?}");
        let Push::Envelope(pushed) = inbox.push().await else { panic!() };
        let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
        assert_eq!(page.envelopes.len(), 1);
        assert_eq!(inbox.ask(Call::Ack(vec![pushed.id])).await, Response::Done);
        let knock = Knock {
            to: bob.fingerprint(),
            device: DeviceId::FIRST,
            token: token.clone(),
            card: self.callers_card.to_vec(),
            reveal: true,
            attested: vec![],
            relay: true,
            datagrams: vec![],
            message: None,
        };
        let channel = sender.knock(knock).await.callee.unwrap().channel.unwrap();
        assert!(matches!(inbox.push().await, Push::Knock { .. }));
        let frame = RelayFrame { channel, datagram: &self.frame.repeat(20) };
        let outside = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        outside.send_to(&frame.encode(), peer.listen()).unwrap();
        assert!(matches!(
            sender.ask(with_canary(bob, &self.left, &token)).await,
            Response::Dropped(_)
        ));
        assert!(matches!(inbox.push().await, Push::Envelope(_)));
        [inbox, sender]
    }
}

#[tokio::test]
async fn what_has_had_its_time_is_nowhere() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("tmp")).unwrap();
    let mut command = command(home.path());
    command.env("TMPDIR", home.path().join("tmp"));
    command.args(["run", "--json", "--listen", "127.0.0.1:0", "--websocket", "off"]);
    command.args(["--log", "trace", "--envelope-ttl", "5s", "--registration-ttl", "5s"]);
    let mut peer = Process::spawn(command).await;
    let (alice, bob) = (Node::here(&peer, "127.83.211.7:0"), Node::here(&peer, "127.91.17.39:0"));
    let story = Story::new();
    let mut carried = Needles::default();
    story.canaries().iter().for_each(|(what, bytes)| carried.add(what, *bytes));
    let mut all = carried.clone();
    add_node(&mut all, "Alice's", &alice);
    add_node(&mut all, "Bob's", &bob);

    let lines = story.happen(&peer, &alice, &bob).await;
    // While somebody waits for it, it is there: the search finds what is there to be found. On a
    // machine that is so slow that it has had its time meanwhile, it is left again.
    let left = || with_canary(&bob, &story.left, &CapabilityToken(story.token));
    let there = patiently(async || {
        let Some(scan) = scan(&peer, &all) else { return true };
        assert!(matches!(lines[1].ask(left()).await, Response::Dropped(_)));
        ["an envelope that nobody fetched", "Bob's fingerprint"]
            .iter()
            .all(|w| scan.found.contains(*w))
    })
    .await;
    assert!(there, "the search does not find what waits");
    lines.iter().for_each(|line| line.connection.close(CloseCode::Done));
    drop((lines, alice, bob));

    // The peer goes on and serves others, until nothing of it is left.
    let mut still = BTreeSet::new();
    let gone = patiently(async || {
        let (carol, dave) = (Node::new(&peer), Node::new(&peer));
        let lines = Story::new().happen(&peer, &carol, &dave).await;
        lines.iter().for_each(|line| line.connection.close(CloseCode::Done));
        still = scan(&peer, &carried).map(|scan| scan.found).unwrap_or_default();
        still.is_empty()
    })
    .await;
    assert!(gone, "the peer's memory still holds {still:?}");

    peer.signal(Signal::TERM);
    peer.event("stopped").await;
    peer.wait().await;
    let log = peer.log().await;
    assert!(log.contains("Connection ended"), "the log is at work: {log}");
    assert_eq!(all.find(peer.said().as_bytes()), Vec::<String>::new());
    assert_eq!(all.find(log.as_bytes()), Vec::<String>::new());
    assert_eq!(in_files(&all, home.path()), Vec::<String>::new());
}

/// Tries until it is true; says whether it ever was.
async fn patiently(mut attempt: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    loop {
        if attempt().await {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
    }
}

#[tokio::test]
async fn no_file_is_opened_for_writing_but_the_key_at_the_first_start() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let Some(first) = traced(home.path()).await else { return };
    let (drafts, others): (Vec<_>, Vec<_>) =
        first.iter().partition(|call| call.contains("/.peer.key."));
    let names = |calls: &[&String]| -> Vec<String> {
        let name = |call: &&String| {
            // Some machines have the older calls, some the newer ones.
            call.split('(').next().unwrap().trim_end_matches("at").to_owned()
        };
        calls.iter().map(name).collect()
    };
    assert_eq!(names(&drafts), ["open", "link", "unlink"], "{first:#?}");
    assert_eq!(names(&others), ["open", "mkdir"], "{first:#?}");
    assert!(others[0].contains("/proc/self/coredump_filter"), "{first:#?}");
    assert!(others[1].contains(data.to_str().unwrap()), "{first:#?}");

    let second = traced(home.path()).await.unwrap();
    assert_eq!(second.len(), 1, "{second:#?}");
    assert!(second[0].contains("/proc/self/coredump_filter"), "{second:#?}");
}

/// Lets the whole story happen at a peer that is watched with strace, and returns the calls by which
/// it changed the file system, or could have. `None` where nobody can be watched.
async fn traced(home: &Path) -> Option<Vec<String>> {
    let calls = tempfile::NamedTempFile::new().unwrap();
    let strace = |words: &[&str]| {
        let mut it = in_home(Command::new("strace"), home);
        it.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        it.args(["-f", "-qq", "-s", "4096", "-e", "trace=%file,memfd_create", "-o"]);
        it.arg(calls.path()).args(words);
        it
    };
    match strace(&["/bin/true"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            not_shown(&format!("strace does not work here: {output:?}"));
            return None;
        }
        Err(e) => {
            not_shown(&format!("strace is missing (apt-get install strace): {e}"));
            return None;
        }
    }
    let mut peer =
        Process::spawn(strace(&[PROGRAM, "run", "--json", "--listen", "127.0.0.1:0"])).await;
    let (alice, bob) = (Node::new(&peer), Node::new(&peer));
    let lines = Story::new().happen(&peer, &alice, &bob).await;
    let tunnel = tunnel(&alice, peer.websocket()).await;
    let line = alice.connect_at(tunnel.addr(), Show::Nothing).await;
    lines.iter().chain([&line]).for_each(|line| line.connection.close(CloseCode::Done));
    // Not strace, which ends with what it watches.
    let pid = peer.ready["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    kill_process(pid.unwrap(), Signal::TERM).unwrap();
    assert!(peer.wait().await.success());
    let calls = fs::read_to_string(calls.path()).unwrap();
    if !calls.contains("peer.key") {
        assert!(!geteuid().is_root(), "strace does not see what is opened");
        not_shown("only root's strace reads the names of files in a process that is not dumpable");
        return None;
    }
    Some(calls.lines().filter_map(changing).collect())
}

/// The call in a line of strace, without the process, if it changes something.
fn changing(line: &str) -> Option<String> {
    const READING: [&str; 12] = [
        "access",
        "execve",
        "faccessat",
        "faccessat2",
        "getcwd",
        "newfstatat",
        "readlink",
        "readlinkat",
        "stat",
        "statfs",
        "statx",
        "lstat",
    ];
    const WRITING: [&str; 5] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (name, arguments) = call.split_once('(')?;
    let reads = READING.contains(&name)
        || name.starts_with("open") && !WRITING.iter().any(|flag| arguments.contains(flag));
    (!reads).then(|| call.to_owned())
}
