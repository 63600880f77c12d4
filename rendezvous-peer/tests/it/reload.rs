//! SIGHUP: a running peer reads its settings again.

use std::path::Path;

use crate::common::{Node, Process};
use halloo_transport::{ConnectionLost, Show};
use halloo_wire::peer::PeerError;
use rustix::process::Signal;
use serde_json::{Value, json};

/// A peer with its settings in a file.
async fn start(home: &Path, text: &str, args: &[&str]) -> Process {
    let file = home.join("config.toml");
    write(home, text);
    let named = ["--config", file.to_str().unwrap()];
    Process::start(home, &[&named, args].concat()).await
}

fn write(home: &Path, text: &str) {
    std::fs::write(home.join("config.toml"), text).unwrap();
}

async fn reload(peer: &mut Process) -> Value {
    peer.signal(Signal::HUP);
    peer.event("reloaded").await
}

#[tokio::test]
async fn limits_change_and_nobody_loses_the_connection() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = start(home.path(), "max_registrations = 5\n", &[]).await;
    let first = Node::new(&peer);
    let inbox = first.reachable(&[1]).await;
    write(home.path(), "max_registrations = 1\nmax_memory = \"1GiB\"\ndrain_timeout = \"9s\"\n");
    let event = reload(&mut peer).await;
    // The harness gives the time to leave in the environment, which wins.
    let changed = json!({
        "max_registrations": "1", "max_memory": "1GiB", "max_memory_per_network": "203MiB",
    });
    assert_eq!((&event["changed"], &event["needs_restart"]), (&changed, &json!([])));
    let second = Node::new(&peer).connect(Show::Device).await;
    let refused = second.refused(second.register_call(1)).await;
    assert_eq!(refused, PeerError::PeerFull);
    inbox.grant(&[2]).await;

    write(home.path(), "");
    let event = reload(&mut peer).await;
    assert_eq!(event["changed"]["max_registrations"], "32768");
    Node::new(&peer).register(1).await;
    assert_eq!(reload(&mut peer).await["changed"], json!({}));
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_stays() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = start(home.path(), "", &[]).await;
    write(
        home.path(),
        "max_connections = 7\npublic_host = [\"peer.example\"]\nlog_format = \"json\"\n",
    );
    let event = reload(&mut peer).await;
    assert_eq!(event["changed"]["max_connections"], "7");
    assert_eq!(event["needs_restart"], json!(["public_host", "log_format"]));
    assert_eq!(reload(&mut peer).await["needs_restart"], json!(["public_host", "log_format"]));
}

#[tokio::test]
async fn flags_win_over_the_file_again() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = start(home.path(), "", &["--max-connections", "9"]).await;
    write(home.path(), "max_connections = 7\n");
    assert_eq!(reload(&mut peer).await["changed"], json!({}));
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = start(home.path(), "max_registrations = 5\n", &[]).await;
    for (text, place) in [
        ("max_registrations = 1\nmax_memroy = \"1GiB\"\n", "config.toml:2:1: unknown field"),
        ("max_registrations = 1\nmax_memory = \"1KiB\"\n", "max_memory = 1KiB is too small"),
        ("max_registrations = \n", "config.toml:1:"),
    ] {
        write(home.path(), text);
        peer.signal(Signal::HUP);
        let event = peer.event("reload_failed").await;
        let message = event["error"]["message"].as_str().unwrap();
        assert!(message.contains(place), "{message}");
    }
    std::fs::remove_file(home.path().join("config.toml")).unwrap();
    peer.signal(Signal::HUP);
    assert_eq!(peer.event("reload_failed").await["error"]["code"], "config-unreadable");
    let (_first, _) = Node::new(&peer).register(1).await;
    Node::new(&peer).register(1).await;
}

#[tokio::test]
async fn the_level_of_the_log_changes() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = start(home.path(), "log = \"off\"\nlog_format = \"json\"\n", &[]).await;
    let somebody = Node::new(&peer);
    let unheard = somebody.connect(Show::Nothing).await;
    unheard.refused(somebody.look_up_call()).await;
    write(home.path(), "log = \"debug\"\nlog_format = \"json\"\n");
    assert_eq!(reload(&mut peer).await["changed"], json!({ "log": "debug" }));
    let heard = somebody.connect(Show::Nothing).await;
    heard.refused(somebody.look_up_call()).await;
    // The connection is closed before the peer is: what was logged of it is written.
    peer.signal(Signal::TERM);
    let end = heard.connection.closed().await;
    assert!(matches!(end, ConnectionLost::Closed(_)), "{end:?}");
    peer.wait().await;
    let log = peer.log().await;
    let lines: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let refusals = lines.iter().filter(|l| l["fields"]["message"] == "Refused").count();
    assert_eq!(refusals, 1, "only what came after the change is logged:\n{log}");
    assert!(lines.iter().all(|l| l["target"].as_str().unwrap().starts_with("rendezvous_peer")));
}

#[tokio::test]
async fn a_closed_terminal_stops_a_peer_that_came_from_it() {
    let home = tempfile::tempdir().unwrap();
    let (master, terminal) = crate::admin::terminal();
    let mut peer = Process::start_with(home.path(), "127.0.0.1:0", &[], terminal.into()).await;
    assert_eq!(reload(&mut peer).await["changed"], json!({}), "the terminal is there");
    drop(master);
    peer.signal(Signal::HUP);
    assert_eq!(peer.event("stopping").await["signal"], "SIGHUP");
    assert_eq!(peer.wait().await.code(), Some(0));
}
