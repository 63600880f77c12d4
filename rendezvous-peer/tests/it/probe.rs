//! `rendezvous-peer probe`: a peer as nodes see it.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::common::{Process, command};
use serde_json::Value;

/// Probes an address in a process of its own. Returns the exit code, what was printed, and what
/// was said beside it.
async fn probe(address: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path());
    command.args(["probe", address]).args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn probe_json(address: &str) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = probe(address, &["--json", "--relay-time", "1s"]).await;
    (code, serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}")))
}

/// A port of the loopback, UDP and TCP.
fn one_port() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn check<'a>(found: &'a Value, name: &str) -> &'a Value {
    let checks = found["checks"].as_array().unwrap();
    checks.iter().find(|c| c["check"] == name).unwrap()
}

#[tokio::test]
async fn a_peer_that_works_is_reached_in_every_way() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let address = peer.ready["address"].as_str().unwrap();
    let (code, found) = probe_json(address).await;
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(found["schema"], 1);
    assert_eq!(found["identity"]["ok"], true);
    let checks = found["checks"].as_array().unwrap();
    // The peer may have found its own TCP port taken; `ready` says so.
    let websocket = peer.ready["websocket"].is_string();
    for check in checks {
        let expected = check["check"] != "websocket" || websocket;
        assert_eq!(check["ok"], expected, "{check}");
    }
    let echoes = checks.iter().filter(|c| c["check"] == "echo").count();
    assert_eq!(echoes, 2, "at both ports");
    let observed: SocketAddr = found["observed"].as_str().unwrap().parse().unwrap();
    assert!(observed.ip().is_loopback());

    let (code, stdout, _) = probe(address, &["--no-relay"]).await;
    assert_eq!(code, Some(0));
    assert!(!stdout.contains("relay"), "{stdout}");
    assert!(stdout.contains(&format!("identity   ok      matches {}", peer.key())), "{stdout}");
    let (host_only, _) = address.rsplit_once('/').unwrap();
    let (code, found) = probe_json(host_only).await;
    assert_eq!((code, &found["identity"]["expected"]), (Some(0), &Value::Null));
    assert_eq!(found["identity"]["found"], peer.key().to_string());
}

#[tokio::test]
async fn the_relay_is_measured_and_nothing_stays_at_the_peer() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let address = peer.ready["address"].as_str().unwrap();
    let (code, stdout, stderr) = probe(address, &["--json", "--relay-time", "1s"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let relay = check(&found, "relay");
    assert!(relay["ok"] == true && relay["bits_per_second"].as_u64().unwrap() > 0, "{relay}");
    let status = crate::admin::status(peer.admin()).await;
    assert!(status["counters"]["relayed_bytes"].as_u64().unwrap() > 100_000, "{status:#}");
    assert_eq!(status["counters"]["left"], 1, "it says so before it ends");
    assert_eq!(
        (&status["registrations"]["now"], &status["relay_channels"]["now"]),
        (&0.into(), &0.into())
    );
    assert_eq!(status["memory_bytes"]["now"], 0);
    let (code, stdout, _) = probe(address, &["--relay-time", "1s"]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains(" Mbit/s from end to end"), "{stdout}");
    assert!(stdout.contains("relay_rate"), "{stdout}");
}

#[tokio::test]
async fn a_peer_that_does_not_relay_is_a_peer_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &["--relay", "off"]).await;
    let (code, found) = probe_json(peer.ready["address"].as_str().unwrap()).await;
    assert_eq!(code, Some(0), "{found:#}");
    let relay = check(&found, "relay");
    assert!(relay["error"].as_str().unwrap().contains("gives no relay channel"), "{relay}");
    assert_eq!(crate::admin::status(peer.admin()).await["registrations"]["now"], 0);
}

#[tokio::test]
async fn another_key_is_told_from_silence() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let peer = Process::start(one.path(), &[]).await;
    let other = Process::start(two.path(), &[]).await;
    let address = format!("halloo-peer://{}/{}", peer.listen(), other.key());
    let (code, found) = probe_json(&address).await;
    assert_eq!(code, Some(6), "{found:#}");
    assert_eq!(found["identity"]["ok"], false);
    assert_eq!(found["identity"]["found"], peer.key().to_string());
    let (_, stdout, stderr) = probe(&address, &[]).await;
    assert!(stdout.contains("identity   DIFFERS"), "{stdout}");
    assert!(stderr.contains("another key answers"), "{stderr}");
}

#[tokio::test]
async fn where_nobody_answers_the_exit_code_says_so() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    // They take what comes and never answer.
    let (udp, _tcp) = one_port();
    let address = format!("halloo-peer://{}/{}", udp.local_addr().unwrap(), peer.key());
    let (code, found) = probe_json(&address).await;
    assert_eq!(code, Some(4), "{found:#}");
    assert!(check(&found, "quic")["error"].is_string());
    assert_eq!(found["identity"]["ok"], false);
    let (code, _, stderr) = probe("halloo-peer://no-such-host.invalid", &[]).await;
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.starts_with("error[no-such-host]"), "{stderr}");
    assert_eq!(probe("no address", &[]).await.0, Some(2));
}

#[tokio::test]
async fn a_peer_whose_udp_is_blocked_is_reached_by_websocket_only() {
    let home = tempfile::tempdir().unwrap();
    // At the port of the WebSockets nothing answers over UDP, as behind a firewall.
    let (udp, tcp) = one_port();
    let websocket = tcp.local_addr().unwrap().to_string();
    drop(tcp);
    let peer = Process::start(home.path(), &["--websocket", &websocket]).await;
    let address = format!("halloo-peer://{}/{}", peer.websocket(), peer.key());
    let (code, found) = probe_json(&address).await;
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(check(&found, "quic")["ok"], false);
    assert_eq!(check(&found, "websocket")["ok"], true);
    assert_eq!(found["identity"]["ok"], true);
    drop(udp);
}
