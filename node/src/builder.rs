//! Starting a node.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use halloo_identity::{HomeKey, Identity, PeerAddress, PeerFingerprint, PeerHost};
use halloo_transport::{Endpoint, EndpointRole};
use halloo_wire::Invite;
use tokio::sync::mpsc;

use crate::contact::DirectPolicy;
use crate::core::{Messenger, Output};
use crate::error::{StartError, StoreError};
use crate::home::{self, Home};
use crate::net::switchboard::Switchboard;
use crate::net::{MAX_WAITING_CHANNELS, Net};
use crate::node::Node;
use crate::store::Store;

/// What a node needs to start; made by [`Node::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `start`"]
pub struct Builder {
    home: Option<PathBuf>,
    key: Option<HomeKey>,
    peer: Option<(PeerHost, Option<PeerFingerprint>)>,
    invite: Option<Invite>,
    name: Option<String>,
    listen: SocketAddr,
    direct: Option<DirectPolicy>,
    accept_all: bool,
    park_after: Option<Duration>,
}

/// After how long without a use a registration is parked, unless it is told otherwise.
const PARK_AFTER: Duration = Duration::from_secs(60);

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            home: None,
            key: None,
            peer: None,
            invite: None,
            name: None,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            direct: None,
            accept_all: false,
            park_after: Some(PARK_AFTER),
        }
    }

    /// The directory where everything is kept. Needed. Created when it is missing.
    pub fn home(mut self, path: impl Into<PathBuf>) -> Self {
        self.home = Some(path.into());
        self
    }

    /// The passphrase of a locked home. A home that is created is locked with it; one that is there
    /// and not locked is refused ([`StartError::NotLocked`]). [`Home::set_key`] locks a home.
    pub fn passphrase(self, passphrase: impl Into<String>) -> Self {
        self.key(HomeKey::passphrase(passphrase))
    }

    /// The same, for a program that keeps a random key in its platform's keychain
    /// ([`HomeKey::from_bytes`]).
    pub fn key(mut self, key: HomeKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The rendezvous peer that serves this node, with its key when it is known. Kept: needed at
    /// the first start only.
    pub fn peer(mut self, peer: PeerHost, key: Option<PeerFingerprint>) -> Self {
        self.peer = Some((peer, key));
        self
    }

    /// Like [`Builder::peer`], as a peer prints its own address.
    pub fn peer_address(self, address: &PeerAddress) -> Self {
        self.peer(address.host.clone(), address.key)
    }

    /// The invite that the operator of the rendezvous peer has given, when the peer hosts only those
    /// who have one. Kept: needed at the first start only. See also [`Node::set_invite`].
    pub fn invite(mut self, invite: Invite) -> Self {
        self.invite = Some(invite);
        self
    }

    /// The name that contacts see, at most 64 bytes. Kept.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where to open the UDP port. Any free port on all addresses, unless this is called.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = addr;
        self
    }

    /// Who may learn this node's addresses. Kept; [`DirectPolicy::Accepted`] at first.
    pub fn direct(mut self, policy: DirectPolicy) -> Self {
        self.direct = Some(policy);
        self
    }

    /// Accepts every contact request while the node runs. For bots and tests: whoever knows the
    /// address can then write, and learn this node's addresses.
    pub fn accept_all(mut self, accept: bool) -> Self {
        self.accept_all = accept;
        self
    }

    /// After how long without a use the connection to the rendezvous peer is given up. The node stays
    /// reachable: the peer rings it by datagrams, which saves the peer memory and a phone's battery,
    /// and costs the first message of a conversation nothing. `None` keeps the connection. A minute,
    /// unless this is called.
    pub fn park_after(mut self, idle: Option<Duration>) -> Self {
        self.park_after = idle;
        self
    }

    /// Starts the node. It registers with its peer in the background: see
    /// [`Node::online`].
    ///
    /// # Errors
    /// [`StartError`] says which part of the home, the settings or the machine is in the way.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call leaves no task; the home may have been created.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(self) -> Result<Node, StartError> {
        let path = self.home.clone().ok_or(StartError::NoHome)?;
        let opened = tokio::task::spawn_blocking(move || self.open(&path));
        opened.await.map_err(|_| StartError::Store(StoreError::Stopped))??.listen().await
    }

    /// The part that waits for the disk.
    fn open(self, path: &std::path::Path) -> Result<Opened, StartError> {
        let home = Home::open_as(path, self.key.as_ref())?;
        let data_key = home.data_key().cloned();
        let board = Arc::new(Switchboard::new());
        let (identity, accept_all) = (Arc::clone(home.identity()), self.accept_all);
        let outputs = Arc::clone(&board);
        let path = home.store_path()?;
        let identity_of_net = Arc::clone(&identity);
        let (store, thread) = Store::open(
            Some((&path, data_key.as_ref())),
            |cx| {
                let mut m = Messenger::load(cx, identity, accept_all)?;
                let peer = self.peer.as_ref().map(|(peer, key)| (peer, *key));
                home::set_up(&m, cx, peer, self.name.as_deref())?;
                if let Some(invite) = &self.invite {
                    home::set_invite(&m, cx, invite)?;
                }
                if let Some(policy) = self.direct {
                    m.set_policy(cx, policy)?;
                }
                Ok(m)
            },
            Arc::new(move |output: Output| outputs.take(output)),
            home,
        )?;
        Ok(Opened {
            identity: identity_of_net,
            board,
            store,
            thread,
            listen: self.listen,
            park_after: self.park_after,
        })
    }
}

struct Opened {
    identity: Arc<Identity>,
    board: Arc<Switchboard>,
    store: Store,
    thread: crate::store::StoreThread,
    listen: SocketAddr,
    park_after: Option<Duration>,
}

impl Opened {
    async fn listen(self) -> Result<Node, StartError> {
        let peers: Vec<PeerHost> = self
            .store
            .run(|m, cx| m.own_peers(cx))
            .await?
            .iter()
            .filter_map(|hint| PeerHost::new(&hint.host, hint.port).ok())
            .collect();
        if peers.is_empty() {
            return Err(StartError::NoPeer);
        }
        let identity = self.identity;
        let endpoint = Endpoint::bind(self.listen, EndpointRole::Node { identity: &identity })
            .map_err(|e| {
                let source = std::error::Error::source(&e).map(|s| format!(": {s}"));
                StartError::Bind { why: format!("{e}{}", source.unwrap_or_default()) }
            })?;
        let (sender, channels) = mpsc::channel(MAX_WAITING_CHANNELS);
        let (board, park_after) = (self.board, self.park_after);
        let net = Net::new(identity, endpoint, self.store, board, sender, peers, park_after);
        let net = Arc::new(net);
        net.start();
        let waiting = net.store.run(|_, cx| cx.db.contacts_with_unacked()).await?;
        net.board.wake(waiting);
        Ok(Node::new(net, self.thread, channels))
    }
}
