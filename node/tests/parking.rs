//! Nodes that hold no connection to their peer, and are reached all the same.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Home, PATIENCE, introduce, start_peer_with, wait_for, wait_for_text};
use halloo::{Cursor, Delivery, DirectPolicy, EventKind, Node, Path};
use rendezvous_peer::RunningPeer;

/// Short, so that a test does not take long.
const IDLE: Duration = Duration::from_millis(300);

struct Friends {
    data: tempfile::TempDir,
    peer: RunningPeer,
    homes: [Home; 2],
    a: Node,
    b: Node,
}

impl Friends {
    /// Two contacts whose registrations are parked. They may connect, or have their mailboxes only.
    async fn parked(policy: DirectPolicy) -> Self {
        let data = tempfile::tempdir().unwrap();
        let relay = policy != DirectPolicy::Never;
        let peer = peer(data.path(), "127.0.0.1:0", relay).await;
        let homes = [Home::new("Anna", &peer), Home::new("Ben", &peer)];
        let [a, b] = [start(&homes[0], policy).await, start(&homes[1], policy).await];
        introduce(&a, &b).await;
        let it = Self { data, peer, homes, a, b };
        it.wait_until_parked().await;
        it
    }

    /// Nothing is on the way any more, and both have parked.
    async fn wait_until_parked(&self) {
        let settled = async {
            loop {
                let before = self.peer.stats();
                tokio::time::sleep(3 * IDLE).await;
                let now = self.peer.stats();
                let is_quiet = now.registered == before.registered && now.parked == before.parked;
                if is_quiet && self.is_parked() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
    }

    /// Whoever has registered has parked since.
    fn is_parked(&self) -> bool {
        let stats = self.peer.stats();
        stats.parked == stats.registered && stats.parked >= 2
    }

    async fn stop(self) {
        self.a.shutdown().await;
        self.b.shutdown().await;
        self.peer.shutdown().await;
        drop(self.data);
    }
}

async fn peer(data: &std::path::Path, listen: &str, relay: bool) -> RunningPeer {
    start_peer_with(data, listen, |config| {
        if !relay {
            config.limits.relay_channels = 0;
        }
    })
    .await
}

async fn start(home: &Home, policy: DirectPolicy) -> Node {
    home.builder(policy).park_after(Some(IDLE)).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_and_its_receipt_need_no_registration() {
    let friends = Friends::parked(DirectPolicy::Never).await;
    let Friends { peer, a, b, .. } = &friends;
    let mut at_b = b.events_from_now().await.unwrap();
    // On a machine that stands still for seconds a node may doubt its peer, and come.
    let mut attempts = 0..5;
    let nobody_came = loop {
        let Some(attempt) = attempts.next() else { break false };
        friends.wait_until_parked().await;
        let before = peer.stats();
        let text = format!("by datagrams {attempt}");
        let id = a.send(&b.fingerprint(), &text).await.unwrap();
        wait_for_text(&mut at_b, &text).await;
        let delivery = tokio::time::timeout(PATIENCE, a.wait_delivery(&id)).await;
        assert_eq!(delivery.unwrap().unwrap(), Delivery::Delivered);
        let after = peer.stats();
        assert!(after.acknowledged > before.acknowledged);
        if after.registered == before.registered {
            break after.rings >= before.rings + 2;
        }
    };
    assert!(nobody_came, "nobody has to come for one message");
    friends.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_at_once_bring_the_node_back_and_all_arrive_in_order() {
    let friends = Friends::parked(DirectPolicy::Never).await;
    let Friends { peer, a, b, .. } = &friends;
    let before = peer.stats();
    let mut at_b = b.events_from_now().await.unwrap();
    for i in 0..50 {
        a.send(&b.fingerprint(), &i.to_string()).await.unwrap();
    }
    for i in 0..50 {
        let text = wait_for(&mut at_b, |e| match e {
            EventKind::Message { text, .. } => Some(text.clone()),
            _ => None,
        })
        .await;
        assert_eq!(text, i.to_string());
    }
    assert!(peer.stats().registered > before.registered);
    friends.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_node_is_knocked_at() {
    // Nothing connects them, until both allow it.
    let friends = Friends::parked(DirectPolicy::Never).await;
    for node in [&friends.a, &friends.b] {
        node.set_direct_policy(DirectPolicy::Accepted).await.unwrap();
    }
    friends.wait_until_parked().await;
    let Friends { peer, a, b, .. } = &friends;
    let before = peer.stats();
    a.connect(&b.fingerprint()).await.unwrap();
    let path = tokio::time::timeout(PATIENCE, a.wait_direct(&b.fingerprint())).await;
    assert!(matches!(path.unwrap().unwrap(), Path::Direct { .. }));
    let after = peer.stats();
    assert!(after.rings > before.rings && after.knocks_forwarded > before.knocks_forwarded);
    friends.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_peer_parked_nodes_come_back() {
    let Friends { data, peer, homes, a, b } = Friends::parked(DirectPolicy::Never).await;
    let listen = peer.local_addr().to_string();
    let mut at_a = a.events_from_now().await.unwrap();
    peer.shutdown().await;
    let peer = self::peer(data.path(), &listen, false).await;
    wait_for(&mut at_a, |e| matches!(e, EventKind::Online { .. }).then_some(())).await;
    let mut at_b = b.events(Cursor::default());
    a.send(&b.fingerprint(), "after the restart").await.unwrap();
    wait_for_text(&mut at_b, "after the restart").await;
    Friends { data, peer, homes, a, b }.stop().await;
}
