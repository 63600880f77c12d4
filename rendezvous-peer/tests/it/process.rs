//! The program as its operator sees it: signals, restarts, files, exit codes.

use std::process::Output;

use crate::common::{Node, PATIENCE, Process, command, names};
use halloo_transport::{CloseCode, ConnectError, ConnectionLost, PeerTrust, Show};
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, PeerError, Push, Response};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::timeout;

#[tokio::test]
async fn sigterm_lets_nodes_fetch_and_leave() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--drain-timeout", "60s"]).await;
    let bob = Node::new(&peer);
    let inbox = bob.reachable(&[1]).await;
    let sender = Node::new(&peer).connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(1))).await;
    assert!(matches!(inbox.push().await, Push::Envelope(_)));
    peer.signal(Signal::TERM);
    for line in [&inbox, &sender] {
        let Push::Draining { retry_after_ms } = line.push().await else { panic!() };
        assert!(retry_after_ms < 10_000);
    }
    let more = bob.drop_call(Lane::Contacts, 1, Some(1));
    assert_eq!(sender.refused(more).await, PeerError::Draining);
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    assert_eq!(page.envelopes.len(), 1);
    inbox.connection.close(CloseCode::Done);
    sender.connection.close(CloseCode::Done);
    assert_eq!(peer.wait().await.code(), Some(0), "it ends when the last connection has left");
    assert_eq!(peer.event("stopping").await["signal"], "SIGTERM");
    peer.event("stopped").await;
}

#[tokio::test]
async fn who_does_not_leave_is_told_why_it_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--drain-timeout", "100ms"]).await;
    let stays = Node::new(&peer).connect(Show::Nothing).await;
    peer.signal(Signal::INT);
    let end = timeout(PATIENCE, stays.connection.closed()).await.unwrap();
    assert_eq!(end, ConnectionLost::Closed(CloseCode::ShuttingDown));
    assert_eq!(peer.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--drain-timeout", "1h"]).await;
    let _stays = Node::new(&peer).connect(Show::Nothing).await;
    peer.signal(Signal::TERM);
    peer.event("stopping").await;
    peer.signal(Signal::TERM);
    assert_eq!(peer.wait().await.code(), Some(130));
}

#[tokio::test]
async fn a_restarted_peer_has_its_key_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let first = Process::start(home.path(), &[]).await;
    let (listen, key) = (first.listen(), first.key());
    let (bob, alice) = (Node::new(&first), Node::new(&first));
    drop(bob.reachable(&[1]).await);
    let before = alice.connect(Show::Nothing).await.instance;
    first.kill().await;

    let second = Process::start_at(home.path(), &listen.to_string(), &[]).await;
    assert_eq!(second.key(), key);
    let sender = alice.connect(Show::Nothing).await;
    assert_ne!(sender.instance, before);
    let unknown = PeerError::UnknownRecipient { instance: sender.instance };
    assert_eq!(sender.refused(bob.look_up_call()).await, unknown);
    let Call::Drop(mut again) = bob.drop_call(Lane::Contacts, 1, Some(1)) else { panic!() };
    again.instance = Some(before);
    let changed = PeerError::InstanceChanged { instance: sender.instance };
    assert_eq!(sender.refused(Call::Drop(again)).await, changed);
    bob.register(2).await;
}

#[tokio::test]
async fn a_changed_key_is_noticed_by_who_has_pinned_it() {
    let home = tempfile::tempdir().unwrap();
    let first = Process::start(home.path(), &[]).await;
    let node = Node::new(&first);
    node.connect(Show::Nothing).await;
    let (listen, expected) = (first.listen(), first.key());
    first.kill().await;
    std::fs::remove_file(home.path().join("data/peer.key")).unwrap();

    let second = Process::start_at(home.path(), &listen.to_string(), &[]).await;
    let found = second.key();
    let refused =
        node.endpoint.connect_peer(listen, PeerTrust::Pinned(expected), Show::Device).await;
    assert_eq!(refused.unwrap_err(), ConnectError::PeerKeyChanged { expected, found });
}

#[tokio::test]
async fn nothing_but_the_key_is_ever_written() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let bob = Node::new(&peer);
    let (line, _) = bob.register(1).await;
    line.ask(bob.drop_call(Lane::Strangers, 1, None)).await;
    assert_eq!(writable_files(&peer), Vec::<String>::new());
    peer.signal(Signal::TERM);
    assert!(peer.wait().await.success());
    assert_eq!(names(home.path()), ["data"]);
    assert_eq!(names(&home.path().join("data")), ["peer.key"]);
    let key = std::fs::read(home.path().join("data/peer.key")).unwrap();
    assert!(key.len() < 300, "the key file holds a key: {} bytes", key.len());
}

/// Regular files that the process has open for writing. Empty where the system shows none of
/// another process, which a process without core dumps is to everybody but the superuser.
fn writable_files(peer: &Process) -> Vec<String> {
    let proc = format!("/proc/{}", peer.pid());
    let Ok(fds) = std::fs::read_dir(format!("{proc}/fd")) else { return Vec::new() };
    let number = |text: &str| u32::from_str_radix(text.trim(), 8).unwrap();
    let open_for_writing = |fd: &std::fs::DirEntry| {
        let name = fd.file_name().into_string().unwrap();
        let info = std::fs::read_to_string(format!("{proc}/fdinfo/{name}")).unwrap_or_default();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
        flags.is_some_and(|f| number(f) & 0o3 != 0)
    };
    fds.flatten()
        .filter(open_for_writing)
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        // Sockets and pipes have no path.
        .filter(|target| target.starts_with('/') && !target.starts_with("/dev/"))
        .collect()
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> (Output, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path());
    let output = command.args(args).envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    (output, stdout, stderr)
}

#[test]
fn a_taken_port_names_its_holder_and_a_way_out() {
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = holder.local_addr().unwrap().to_string();
    let (output, stdout, stderr) = run(&["run", "--admin", "off", "--listen", &listen], &[]);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(8), ""));
    assert!(stderr.starts_with("error[port-taken]: cannot listen on UDP 127.0.0.1:"), "{stderr}");
    assert!(stderr.contains(&format!("(process {})", std::process::id())), "{stderr}");
    assert!(stderr.contains("--listen [::]:8443"), "{stderr}");
    let (_, _, stderr) = run(&["run", "--json", "--admin", "off", "--listen", &listen], &[]);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!((&error["schema"], &error["error"]["code"]), (&1.into(), &"port-taken".into()));
}

#[test]
fn a_taken_port_for_websockets_is_named_when_it_was_asked_for() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let websocket = holder.local_addr().unwrap().to_string();
    let args = ["run", "--admin", "off", "--listen", "127.0.0.1:0", "--websocket", &websocket];
    let (output, stdout, stderr) = run(&args, &[]);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(8), ""));
    assert!(stderr.starts_with("error[port-taken]: cannot listen on TCP 127.0.0.1:"), "{stderr}");
    assert!(stderr.contains("--websocket [::]:8443"), "{stderr}");
}

#[tokio::test]
async fn a_ready_peer_says_where_it_listens() {
    let home = tempfile::tempdir().unwrap();
    let all = Process::start(home.path(), &["--websocket", "127.0.0.1:0"]).await;
    let echo_port = all.ready["echo_port"].as_u64().unwrap();
    assert_ne!(echo_port, u64::from(all.listen().port()));
    assert_ne!(all.websocket().port(), 0);
    all.kill().await;
    let args = ["--websocket", "off", "--echo-port", "off", "--relay", "off"];
    let little = Process::start(home.path(), &args).await;
    assert_eq!(
        (&little.ready["websocket"], &little.ready["echo_port"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn usage_and_configuration_have_exit_codes_of_their_own() {
    let code = |args: &[&str], variables: &[(&str, &str)]| run(args, variables).0.status.code();
    assert_eq!(code(&["--help"], &[]), Some(0));
    assert_eq!(code(&["--version"], &[]), Some(0));
    assert_eq!(code(&["no-such-command"], &[]), Some(2));
    assert_eq!(code(&["run", "--max-memory", "lots"], &[]), Some(2));
    assert_eq!(code(&["run"], &[("RENDEZVOUS_PEER_MAX_MEMORY", "lots")]), Some(78));
    assert_eq!(code(&["run", "--config", "/no/such/file"], &[]), Some(78));
    assert_eq!(code(&["address"], &[]), Some(3));
    let (_, _, stderr) = run(&["config", "check"], &[("RENDEZVOUS_PEER_MAX_MEMORY", "lots")]);
    assert!(stderr.contains("RENDEZVOUS_PEER_MAX_MEMORY=\"lots\""), "{stderr}");
}

#[test]
fn config_check_shows_each_value_with_its_source() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, "max_memory = \"1GiB\"\nlisten = \"[::]:1\"\nmax_connections = 5\n")
        .unwrap();
    let variables =
        [("RENDEZVOUS_PEER_LISTEN", "[::]:2"), ("RENDEZVOUS_PEER_MAX_CONNECTIONS", "6")];
    let args = ["config", "check", path, "--json", "--max-connections", "7"];
    let (output, stdout, stderr) = run(&args, &variables);
    assert!(output.status.success(), "{stderr}");
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    let row = |name: &str| {
        let row = &shown["settings"][name];
        (row["value"].as_str().unwrap(), row["source"].as_str().unwrap())
    };
    assert_eq!(row("max_connections"), ("7", "flag"));
    assert_eq!(row("listen"), ("[::]:2", "RENDEZVOUS_PEER_LISTEN"));
    assert_eq!(row("max_memory"), ("1GiB", path));
    assert_eq!(row("envelope_ttl"), ("3d", "default"));
}

#[test]
fn config_check_names_the_place_of_a_mistake() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, "listen = \"[::]:1\"\nmax_memroy = \"1GiB\"\n").unwrap();
    let (output, _, stderr) = run(&["config", "check", path], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr.contains(&format!("{path}:2:1: unknown field `max_memroy`")), "{stderr}");
}

#[test]
fn what_config_prints_reads_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let settings = |args: &[&str]| {
        let (output, stdout, stderr) = run(&[&["config"], args, &["--json"]].concat(), &[]);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["settings"].clone()
    };
    let changed = ["--public-host", "a.example,b.example:9", "--max-connections", "7"];
    let (_, shown, _) = run(&[["config", "show"].as_slice(), &changed].concat(), &[]);
    std::fs::write(path, &shown).unwrap();
    let (_, again, _) = run(&["config", "show", "--config", path], &[]);
    // Each run has a directory of its own, named in the environment.
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.starts_with("data_dir")).map(str::to_owned).collect()
    };
    assert_eq!(lines(&again), lines(&shown));
    let values = settings(&["show", "--config", path]);
    assert_eq!(values["max_connections"], 7);
    assert_eq!(values["public_host"], serde_json::json!(["a.example", "b.example:9"]));

    let (_, example, _) = run(&["config", "example"], &[("RENDEZVOUS_PEER_RELAY", "off")]);
    std::fs::write(path, &example).unwrap();
    for row in settings(&["check", path]).as_object().unwrap().values() {
        assert!(!row["source"].as_str().unwrap().contains(path), "all is commented out: {row}");
    }
    assert!(example.contains("\n#relay = \"on\"\n"), "{example}");
}

#[test]
fn config_check_warns_of_what_is_seldom_wise() {
    let args = ["config", "check", "--json", "--rate-per-network", "0", "--max-connections", "9"];
    let (output, stdout, _) = run(&[&args[..], &["--max-memory", "900000GiB"]].concat(), &[]);
    assert!(output.status.success(), "it is allowed");
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    let warnings: Vec<&str> =
        shown["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    for what in ["rate_per_network = 0", "max_connections_per_network", "max_memory = 900000GiB"] {
        assert!(warnings.iter().any(|w| w.contains(what)), "{what} is not in {warnings:?}");
    }
    let (_, stdout, _) = run(&["config", "check", "--json"], &[]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert!(shown["warnings"].as_array().unwrap().iter().all(|w| {
        // A machine may have less memory than the defaults are for.
        w.as_str().unwrap().starts_with("max_memory")
    }));
}

#[tokio::test]
async fn the_address_is_the_same_before_and_after_a_run() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &["--public-host", "peer.example"]).await;
    let address = peer.ready["address"].as_str().unwrap().to_owned();
    let port = peer.listen().port();
    assert_eq!(address, format!("halloo-peer://peer.example:{port}/{}", peer.key()));
    peer.kill().await;
    let args = ["address", "--public-host", "peer.example", "--listen", &format!("[::]:{port}")];
    let output = command(home.path()).args(args).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), address);
}

#[test]
fn packagers_get_man_pages_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["man", "completions"] {
        let (output, _, stderr) = run(&["generate", kind, dir.path().to_str().unwrap()], &[]);
        assert!(output.status.success(), "{stderr}");
    }
    let files = names(dir.path());
    for name in ["rendezvous-peer.1", "rendezvous-peer-run.1", "rendezvous-peer.bash"] {
        assert!(files.iter().any(|f| f == name), "{files:?}");
    }
}
