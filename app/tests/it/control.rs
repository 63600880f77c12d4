//! The control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::harness::{Person, World};

fn say(person: &Person, line: &[u8]) -> Value {
    let mut socket = UnixStream::connect(person.home.join("control.sock")).unwrap();
    socket.write_all(line).unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn it_is_for_the_owner_alone() {
    let world = World::new();
    let anna = world.person("anna");
    let _daemon = anna.host(&["daemon"]);
    let mode =
        |name: &str| std::fs::metadata(anna.home.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("control.sock"), mode("")), (0o600, 0o700));
}

#[test]
fn it_answers_typed_requests() {
    let world = World::new();
    let anna = world.person("anna");
    let _daemon = anna.host(&["daemon"]);
    let answer = say(&anna, b"{\"v\":1,\"request\":{\"op\":\"status\"}}\n");
    assert_eq!(answer["v"], 1);
    assert_eq!(answer["ok"]["reply"], "status");
    assert_eq!(answer["ok"]["with"]["address"], anna.address());
}

#[test]
fn nonsense_is_answered_and_harms_nothing() {
    let world = World::new();
    let anna = world.person("anna");
    let daemon = anna.host(&["daemon"]);
    let code = |line: &[u8]| say(&anna, line)["error"]["code"].clone();
    assert_eq!(code(b"GET / HTTP/1.1\n"), "control-request");
    assert_eq!(code(b"{\"v\":9,\"request\":{\"op\":\"status\"}}\n"), "control-version");
    assert_eq!(code(b"{\"v\":1,\"request\":{\"op\":\"contact\"}}\n"), "control-request");
    assert_eq!(code(b"\xff\xfe\n"), "control-request");
    assert_eq!(code(b"\n"), "control-request");

    // A line without an end is cut off at its limit.
    let mut socket = UnixStream::connect(anna.home.join("control.sock")).unwrap();
    let flood = vec![b' '; 1 << 20];
    let _ = socket.write_all(&flood);
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.contains("control-request"), "{answer}");

    // Too many connections are told so, and the places come back.
    let idle: Vec<UnixStream> =
        (0..80).map(|_| UnixStream::connect(anna.home.join("control.sock")).unwrap()).collect();
    let refused = idle.iter().rev().take(16).any(|mut socket| {
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut answer = [0; 256];
        let n = socket.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..n]).contains("control-busy")
    });
    assert!(refused);
    drop(idle);
    anna.ok(&["contacts"]);
    assert!(daemon.lines().len() == 1, "a daemon prints that it is ready and nothing more");
}

#[test]
fn a_killed_daemon_is_no_obstacle() {
    let world = World::new();
    let anna = world.person("anna");
    let daemon = anna.host(&["daemon"]);
    daemon.kill();
    assert!(anna.home.join("control.sock").exists(), "it had no time to clean up");
    anna.ok(&["contacts"]);
    assert!(!anna.home.join("control.sock").exists(), "the left socket is removed");

    let daemon = anna.host(&["daemon"]);
    daemon.kill();
    let again = anna.host(&["daemon"]);
    assert_eq!(again.lines()[0]["hosted_by"], "daemon");
    let told =
        say(&anna, format!("{}\n", json!({ "v": 1, "request": { "op": "contacts" } })).as_bytes());
    assert_eq!(told["ok"]["with"], json!([]));
}

#[test]
fn commands_take_turns_on_a_home_without_a_daemon() {
    let world = World::new();
    let anna = world.person("anna");
    let many: Vec<_> = (0..6).map(|_| anna.start(&["contacts"])).collect();
    for command in many {
        assert_eq!(command.end(), 0, "{}", command.stderr());
    }
}
