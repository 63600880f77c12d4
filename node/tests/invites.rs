//! A peer that hosts only those whom its operator has invited.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Home, PATIENCE, start_peer_with, wait_for};
use halloo::{DirectPolicy, EventKind, Invite, Node, NotAdmitted};
use halloo_wire::InviteId;
use rendezvous_peer::core::Access;
use rendezvous_peer::{RunningPeer, WebSocketAddr, keyfile};
use tempfile::TempDir;

async fn start() -> (TempDir, RunningPeer) {
    let data = tempfile::tempdir().unwrap();
    let invites_only = |config: &mut rendezvous_peer::Config| {
        config.access = Access::Invite { revoked: Arc::default() };
        // A handshake that takes long would be tried both ways, and both could be counted.
        config.websocket = WebSocketAddr::Off;
    };
    let peer = start_peer_with(data.path(), "127.0.0.1:0", invites_only).await;
    (data, peer)
}

fn invite(data: &TempDir, n: u8, expires: u32) -> Invite {
    let key = keyfile::load(data.path()).unwrap().unwrap().invite_key();
    key.issue(InviteId([n; 10]), expires, None)
}

async fn online(node: &Node) {
    tokio::time::timeout(PATIENCE, node.online()).await.expect("it gets online in time");
}

/// Waits until the peer has said why it does not host the node.
async fn refused(node: &Node) -> NotAdmitted {
    let mut events = node.events_from_now().await.unwrap();
    if let Some(why) = node.not_admitted() {
        return why;
    }
    wait_for(&mut events, |e| match e {
        EventKind::NotAdmitted { why, .. } => Some(*why),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_hosted_asks_once_and_again_with_an_invite() {
    let (data, peer) = start().await;
    let home = Home::new("Anna", &peer);
    let anna = home.start().await;
    assert_eq!(refused(&anna).await, NotAdmitted::InviteMissing);
    assert!(!anna.is_online());
    assert_eq!(peer.stats().not_admitted, 1, "not again at once");
    let report = anna.network().await.unwrap();
    assert_eq!(report.peers[0].not_admitted, Some(NotAdmitted::InviteMissing));

    let mut events = anna.events_from_now().await.unwrap();
    anna.set_invite(&invite(&data, 1, 1)).await.unwrap();
    let expired = |e: &EventKind| {
        matches!(e, EventKind::NotAdmitted { why: NotAdmitted::InviteExpired, .. }).then_some(())
    };
    wait_for(&mut events, expired).await;
    assert_eq!(peer.stats().not_admitted, 2);

    anna.set_invite(&invite(&data, 1, u32::MAX)).await.unwrap();
    online(&anna).await;
    assert_eq!(anna.not_admitted(), None);
    anna.shutdown().await;

    // It is kept.
    let again = home.start().await;
    online(&again).await;
    again.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_from_the_beginning_is_for_one() {
    let (data, peer) = start().await;
    let given = invite(&data, 1, u32::MAX);
    let (anna, ben) = (Home::new("Anna", &peer), Home::new("Ben", &peer));
    let a = anna.builder(DirectPolicy::Accepted).invite(given).start().await.unwrap();
    online(&a).await;
    let b = ben.builder(DirectPolicy::Accepted).invite(given).start().await.unwrap();
    assert_eq!(refused(&b).await, NotAdmitted::InviteTaken);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}
