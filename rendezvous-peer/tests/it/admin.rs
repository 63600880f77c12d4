//! What the operator of a running peer sees of it.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Child;

use crate::common::{Node, PATIENCE, Process, command};
use halloo_transport::{CloseCode, Show};
use halloo_wire::envelope::Lane;
use halloo_wire::peer::Push;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer over HTTP.
pub(crate) struct Answer {
    status: u16,
    head: String,
    pub(crate) body: String,
}

/// Sends bytes and reads until the other side closes.
async fn say(admin: SocketAddr, bytes: &[u8]) -> Answer {
    let talk = async {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = timeout(PATIENCE, talk).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).map_or(0, |code| code.parse().unwrap());
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(crate) async fn get(admin: SocketAddr, path: &str) -> Answer {
    say(admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n").as_bytes()).await
}

pub(crate) async fn status(admin: SocketAddr) -> Value {
    let answer = get(admin, "/status").await;
    assert_eq!(answer.status, 200);
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn the_numbers_say_what_has_happened_and_to_nobody() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &["--websocket", "127.0.0.1:0"]).await;
    let bob = Node::new(&peer);
    let inbox = bob.reachable(&[1]).await;
    let sender = Node::new(&peer).connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(1))).await;
    assert!(matches!(inbox.push().await, Push::Envelope(_)));
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(9))).await;

    let shown = status(peer.admin()).await;
    assert_eq!((&shown["schema"], &shown["state"]), (&1.into(), &"accepting".into()));
    assert_eq!(shown["addresses"], peer.ready["addresses"]);
    assert_eq!(shown["connections"]["now"], 2);
    assert_eq!(shown["registrations"]["now"], 1);
    assert_eq!(shown["counters"]["dropped"], 1);
    assert_eq!(shown["counters"]["pushed"], 1);
    assert_eq!(shown["incidents"]["not_authorized"], 1);
    assert_eq!(shown["recent_incidents"][0]["kind"], "not_authorized");
    assert!(shown["process"]["rss_bytes"].as_u64().unwrap() > 1 << 20);

    let metrics = get(peer.admin(), "/metrics").await;
    assert!(metrics.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    for line in [
        "rdv_connections 2",
        "rdv_registrations 1",
        "rdv_envelopes_accepted_total 1",
        "rdv_incidents_total{kind=\"not_authorized\"} 1",
    ] {
        assert!(metrics.body.lines().any(|l| l == line), "{line}:\n{}", metrics.body);
    }

    let page = get(peer.admin(), "/").await;
    assert!(page.head.contains("content-security-policy: default-src 'none'; style-src 'nonce-"));
    assert!(page.body.contains("<td>envelopes accepted</td><td>1</td>"), "{}", page.body);
    assert!(!page.body.contains("<script"));

    let place = bob.endpoint.local_addr().unwrap().to_string();
    for text in [shown.to_string(), metrics.body, page.body] {
        for canary in [bob.fingerprint().to_string(), bob.fingerprint().short(), place.clone()] {
            assert!(!text.contains(&canary), "{canary} is in:\n{text}");
        }
    }
}

#[tokio::test]
async fn a_stopping_peer_lives_and_is_not_ready() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--drain-timeout", "1h"]).await;
    let admin = peer.admin();
    assert_eq!(get(admin, "/readyz").await.status, 200);
    let stays = Node::new(&peer).connect(Show::Nothing).await;
    peer.signal(Signal::TERM);
    assert!(matches!(stays.push().await, Push::Draining { .. }));
    assert_eq!(get(admin, "/readyz").await.status, 503);
    assert_eq!(get(admin, "/healthz").await.status, 200);
    assert_eq!(status(admin).await["state"], "draining");
    stays.connection.close(CloseCode::Done);
    assert_eq!(peer.wait().await.code(), Some(0));
    assert!(TcpStream::connect(admin).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn pages_from_elsewhere_and_writers_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let admin = peer.admin();
    let port = admin.port();
    let code = async |request: String| say(admin, request.as_bytes()).await.status;
    for host in [format!("localhost:{port}"), format!("[::1]:{port}"), "127.0.0.1".to_owned()] {
        assert_eq!(code(format!("GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, 200);
    }
    let evil = format!("Host: rebound.example:{port}\r\n");
    assert_eq!(code(format!("GET /status HTTP/1.1\r\n{evil}\r\n")).await, 421);
    assert_eq!(code("GET /status HTTP/1.1\r\n\r\n".to_owned()).await, 421);
    let two = format!("GET /status HTTP/1.1\r\nHost: localhost\r\n{evil}\r\n");
    assert_ne!(code(two).await, 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(
            code(format!("{method} /status HTTP/1.1\r\nHost: localhost\r\n\r\n")).await,
            405
        );
    }
    let head = say(admin, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(get(admin, "/secret").await.status, 404);
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}", "x".repeat(100_000));
    let mut stream = TcpStream::connect(admin).await.unwrap();
    // It may stop reading before all is written, and closes in any case.
    let _ = stream.write_all(endless.as_bytes()).await;
    let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "a request without an end is cut off");
    assert_eq!(get(admin, "/healthz").await.status, 200, "and does no harm");
}

#[tokio::test]
async fn a_peer_without_an_admin_listener_says_so() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &["--admin", "off"]).await;
    assert_eq!(peer.ready["admin"], Value::Null);
}

#[tokio::test]
async fn a_taken_port_is_a_failure_only_where_it_was_chosen() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let admin = peer.admin().to_string();
    let second = command(home.path())
        .args(["run", "--listen", "127.0.0.1:0", "--admin", &admin])
        .output()
        .unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(8), "{stderr}");
    assert!(stderr.starts_with("error[port-taken]: cannot listen on TCP 127.0.0.1:"), "{stderr}");
    assert!(stderr.contains("--admin off"), "{stderr}");
}

#[test]
fn an_address_that_others_reach_is_refused_with_a_way() {
    let home = tempfile::tempdir().unwrap();
    for command_line in [["config", "check"].as_slice(), ["run"].as_slice()] {
        let output = command(home.path())
            .args(command_line)
            .env("RENDEZVOUS_PEER_ADMIN", "0.0.0.0:9464")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(stderr.contains("ssh -L 9464:127.0.0.1:9464 HOST"), "{stderr}");
    }
}

/// Runs a command that asks the peer whose admin listener is at `admin`.
fn ask(admin: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output = command(home.path()).args(args).args(["--admin", admin]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn commands_ask_the_running_peer() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--drain-timeout", "1h"]).await;
    let admin = peer.admin().to_string();
    let stays = Node::new(&peer).connect(Show::Nothing).await;

    let (code, stdout, _) = ask(&admin, &["status"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("  connections                1 of 4,096\n"), "{stdout}");
    assert!(stdout.contains(peer.ready["address"].as_str().unwrap()), "{stdout}");
    let (code, stdout, _) = ask(&admin, &["status", "--json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &shown["schema"]), (Some(0), &1.into()));
    assert_eq!(shown["counters"]["connected"], 1);
    assert_eq!(ask(&admin, &["health"]).1, "accepting\n");
    let (code, stdout, _) = ask(&admin, &["top"]);
    assert_eq!(code, Some(0), "without a terminal, it ends");
    assert!(stdout.contains("connections welcomed"), "{stdout}");

    peer.signal(Signal::TERM);
    assert!(matches!(stays.push().await, Push::Draining { .. }));
    let (code, stdout, _) = ask(&admin, &["health", "--json"]);
    assert_eq!(code, Some(1));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["state"], "draining");
    stays.connection.close(CloseCode::Done);
    peer.wait().await;
    for args in [["health"].as_slice(), &["status"], &["status", "--json"], &["top"]] {
        let (code, stdout, stderr) = ask(&admin, args);
        assert_eq!((code, stdout.as_str()), (Some(4), ""), "{stderr}");
        assert!(stderr.contains("not-running"), "{stderr}");
    }
}

#[test]
fn another_program_on_the_port_is_not_taken_for_a_peer() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        for body in ["hello", "{\"program\":\"other\",\"schema\":1}"] {
            let (mut stream, _) = other.accept().unwrap();
            // Read before it is closed, or the answer may be lost.
            let mut request = [0; 4096];
            let mut n = 0;
            while !request[..n].ends_with(b"\r\n\r\n") {
                n += std::io::Read::read(&mut stream, &mut request[n..]).unwrap();
            }
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..2 {
        let (code, _, stderr) = ask(&admin, &["health"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.starts_with("error[not-a-peer]"), "{stderr}");
    }
    answers.join().unwrap();
    assert_eq!(ask("off", &["health"]).0, Some(3));
    assert_eq!(ask("127.0.0.1:0", &["health"]).0, Some(3));
}

/// A terminal of its own, from behind and from before.
pub(crate) fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (master.into(), terminal.into())
}

#[tokio::test]
async fn top_shows_the_numbers_and_gives_the_terminal_back() {
    top_ends_by(|_, master| std::io::Write::write_all(master, b"q").unwrap()).await;
}

#[tokio::test]
async fn top_gives_the_terminal_back_when_it_is_told_to_stop() {
    top_ends_by(|top, _| kill_process(Pid::from_child(top), Signal::TERM).unwrap()).await;
}

async fn top_ends_by(end: impl FnOnce(&Child, &mut File)) {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (mut master, terminal) = terminal();
    tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })
        .unwrap();
    let before = tcgetattr(&terminal).unwrap();
    let mut top = command(home.path())
        .args(["top", "--admin", &peer.admin().to_string()])
        .env("TERM", "xterm")
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut screen = String::new();
    let read_until = |master: &mut File, screen: &mut String, text: &str| {
        let mut buffer = [0; 4096];
        while !screen.contains(text) {
            let n = std::io::Read::read(master, &mut buffer).unwrap();
            screen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    // The last thing that is drawn.
    read_until(&mut master, &mut screen, "leaves");
    assert!(!tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON));
    end(&top, &mut master);
    read_until(&mut master, &mut screen, "\x1b[?1049l");
    assert!(top.wait().unwrap().success());
    assert!(screen.contains("accepting"), "{screen}");
    assert_eq!(tcgetattr(&terminal).unwrap().local_modes, before.local_modes);
}
