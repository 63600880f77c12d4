//! A peer on loopback, and nodes in temporary homes.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo::{
    Builder, ContactState, DirectPolicy, EventKind, EventStream, Fingerprint, Node, PeerAddress,
};
use rendezvous_peer::{Config, RunningPeer, StartError};

/// Longest wait for something that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn start_peer(data: &Path, listen: &str) -> RunningPeer {
    start_peer_with(data, listen, |_| {}).await
}

/// The same, with a changed configuration.
pub async fn start_peer_with(
    data: &Path,
    listen: &str,
    change: impl FnOnce(&mut Config),
) -> RunningPeer {
    let mut config = Config::new(data);
    config.listen = listen.parse().unwrap();
    config.drain = Duration::ZERO;
    change(&mut config);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // An earlier peer's socket closes when its last task has been dropped.
        match rendezvous_peer::start(config.clone()).await {
            Err(StartError::Bind { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other.unwrap(),
        }
    }
}

pub struct Home {
    pub folder: tempfile::TempDir,
    pub peer: PeerAddress,
    pub name: &'static str,
}

impl Home {
    pub fn new(name: &'static str, peer: &RunningPeer) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), peer: peer.address().clone(), name }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    pub async fn start(&self) -> Node {
        self.start_with(DirectPolicy::Accepted).await
    }

    pub async fn start_with(&self, policy: DirectPolicy) -> Node {
        self.builder(policy).start().await.unwrap()
    }

    pub fn builder(&self, policy: DirectPolicy) -> Builder {
        Node::builder()
            .home(self.path())
            .peer_address(&self.peer)
            .name(self.name)
            .listen("127.0.0.1:0".parse().unwrap())
            .direct(policy)
    }
}

/// Waits for the first event that `pick` takes.
pub async fn wait_for<T>(events: &mut EventStream, pick: impl Fn(&EventKind) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.next().await.unwrap();
            if let Some(found) = pick(&event.kind) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it happens in time")
}

pub async fn wait_for_text(events: &mut EventStream, wanted: &str) {
    wait_for(events, |e| match e {
        EventKind::Message { text, .. } if text == wanted => Some(()),
        _ => None,
    })
    .await;
}

/// Makes two nodes contacts.
pub async fn introduce(a: &Node, b: &Node) {
    a.online().await;
    b.online().await;
    let mut events = b.events(halloo::Cursor::default());
    let mut answers = a.events(halloo::Cursor::default());
    a.add_contact(&b.address().await.unwrap(), None, "hello").await.unwrap();
    let from: Fingerprint = wait_for(&mut events, |e| match e {
        EventKind::Request { from, .. } => Some(*from),
        _ => None,
    })
    .await;
    assert_eq!(from, a.fingerprint());
    b.accept(&from, None).await.unwrap();
    wait_for(&mut answers, |e| match e {
        EventKind::Accepted { contact } => Some(*contact),
        _ => None,
    })
    .await;
    let contact = a.contact_by_fingerprint(&b.fingerprint()).await.unwrap().unwrap();
    assert_eq!(contact.state, ContactState::Accepted);
}

/// Anna and Ben, contacts of each other, at one peer.
pub struct Friends {
    /// Where the peer keeps its key.
    pub data: tempfile::TempDir,
    pub peer: RunningPeer,
    pub anna: Home,
    pub ben: Home,
    pub a: Node,
    pub b: Node,
}

impl Friends {
    pub async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let peer = start_peer(data.path(), "127.0.0.1:0").await;
        let (anna, ben) = (Home::new("Anna", &peer), Home::new("Ben", &peer));
        let (a, b) = (anna.start().await, ben.start().await);
        introduce(&a, &b).await;
        Self { data, peer, anna, ben, a, b }
    }
}
