//! The peer inside of another program.

use std::time::Duration;

use crate::common::{Node, PATIENCE};
use halloo_transport::Show;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::Push;
use rendezvous_peer::{Config, RunningPeer, start};
use tokio::time::timeout;

async fn peer(dir: &std::path::Path) -> RunningPeer {
    start(config(dir)).await.unwrap()
}

fn config(dir: &std::path::Path) -> Config {
    let mut config = Config::new(dir);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.drain = Duration::from_millis(50);
    config
}

/// A peer in this process with a changed configuration, and the directory with its key.
pub(crate) async fn running(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, RunningPeer) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    let peer = start(config).await.unwrap();
    (dir, peer)
}

#[tokio::test]
async fn inspection_shows_what_a_seized_machine_would() {
    let dir = tempfile::tempdir().unwrap();
    let peer = peer(dir.path()).await;
    assert_eq!(peer.address().host.to_string(), peer.local_addr().to_string());
    assert_eq!(peer.address().key, Some(peer.fingerprint()));
    let node = |p: &RunningPeer| Node::at(p.local_addr(), p.fingerprint());
    let (bob, alice) = (node(&peer), node(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 0xc5, Some(1))).await;
    assert!(matches!(inbox.push().await, Push::Envelope(_)));
    let rows = peer.inspect();
    assert_eq!(rows.len(), 1, "the sender is nowhere");
    assert_eq!(rows[0].fingerprint, bob.fingerprint());
    assert_eq!(rows[0].observed, Some(bob.endpoint.local_addr().unwrap()));
    let [kept] = &rows[0].envelopes[..] else { panic!() };
    assert_eq!((kept.lane, kept.bytes[1000]), (Lane::Contacts, 0xc5));
    assert_eq!(rows[0].memory, peer.stats().memory_used);
    peer.shutdown().await;
}

#[test]
fn a_peer_that_has_stopped_leaves_no_task() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let peer = runtime.block_on(runtime.spawn({
        let dir = dir.path().to_owned();
        async move { peer(&dir).await }
    }));
    let peer = peer.unwrap();
    nodes.block_on(async {
        let bob = Node::at(peer.local_addr(), peer.fingerprint());
        let alice = Node::at(peer.local_addr(), peer.fingerprint());
        let _inbox = bob.reachable(&[1]).await;
        let sender = alice.connect(Show::Nothing).await;
        sender.ask(bob.drop_call(Lane::Contacts, 1, Some(1))).await;
    });
    runtime.block_on(peer.shutdown());
    let tasks = || runtime.metrics().num_alive_tasks();
    let none_left = async {
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    runtime.block_on(async { timeout(PATIENCE, none_left).await }).unwrap();
}

#[tokio::test]
async fn a_dropped_peer_stops_too() {
    let dir = tempfile::tempdir().unwrap();
    let peer = peer(dir.path()).await;
    let node = Node::at(peer.local_addr(), peer.fingerprint());
    let line = node.connect(Show::Nothing).await;
    drop(peer);
    timeout(PATIENCE, line.connection.closed()).await.unwrap();
}
