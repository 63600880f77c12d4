//! The node's tasks: they move bytes between the sockets and the store, and decide nothing about
//! messages.
//!
//! | task | one for each | does |
//! |---|---|---|
//! | [`home`] | rendezvous peer of ours | registers, publishes, receives envelopes and knocks |
//! | [`courier`] | contact with something to send | direct connection first, the contact's peer beside it |
//! | [`direct`] | direct connection | reads messages, channels and pings |
//! | accept loop | node | takes direct connections |
//!
//! Every task belongs to a tracker and ends when the node's token is cancelled.

pub(crate) mod courier;
pub(crate) mod dial;
pub(crate) mod direct;
pub(crate) mod home;
pub(crate) mod post;
pub(crate) mod switchboard;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use halloo_identity::{Fingerprint, Identity, PeerHost};
use halloo_transport::{Accepted, Endpoint};
use halloo_wire::candidate::{Candidate, CandidateKind, Card};
use halloo_wire::limits::MAX_CANDIDATES;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::IncomingChannel;
use crate::store::Store;

use direct::Links;
use post::Post;
use switchboard::Switchboard;

/// Channels that wait to be accepted by the program; more are refused.
pub(crate) const MAX_WAITING_CHANNELS: usize = 64;

/// Knocks that are answered at once.
pub(crate) const MAX_KNOCKS: usize = 16;

/// What the tasks share.
pub(crate) struct Net {
    pub(crate) identity: Arc<Identity>,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Store,
    pub(crate) board: Arc<Switchboard>,
    pub(crate) links: Links,
    pub(crate) post: Post,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) channels: mpsc::Sender<IncomingChannel>,
    /// Our address as each of our peers sees it; a peer is in here while we are registered there.
    pub(crate) observed: watch::Sender<HashMap<PeerHost, SocketAddr>>,
    pub(crate) knocks: Arc<Semaphore>,
    dials: Mutex<HashMap<Fingerprint, Arc<tokio::sync::Mutex<()>>>>,
}

impl Net {
    pub(crate) fn new(
        identity: Arc<Identity>,
        endpoint: Endpoint,
        store: Store,
        board: Arc<Switchboard>,
        channels: mpsc::Sender<IncomingChannel>,
    ) -> Self {
        Self {
            identity,
            endpoint,
            store,
            board,
            links: Links::default(),
            post: Post::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            channels,
            observed: watch::Sender::new(HashMap::new()),
            knocks: Arc::new(Semaphore::new(MAX_KNOCKS)),
            dials: Mutex::default(),
        }
    }

    /// Starts the tasks that a node always has.
    pub(crate) fn start(self: &Arc<Self>, peers: Vec<PeerHost>) {
        for peer in peers {
            self.spawn(home::run(Arc::clone(self), peer));
        }
        self.spawn(accept_loop(Arc::clone(self)));
        self.spawn(dispatch_loop(Arc::clone(self)));
    }

    /// Runs a task until it ends or the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Our addresses, for contacts that may know them.
    pub(crate) fn card(&self) -> Card {
        let port = self.endpoint.local_addr().map_or(0, |a| a.port());
        let bound = self.endpoint.local_addr().ok().map(|a| a.ip());
        let reflexive: Vec<SocketAddr> = self.observed.borrow().values().copied().collect();
        // Another program on this machine can use a loopback address; nobody else can.
        let loopback = reflexive.iter().any(|a| a.ip().is_loopback());
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut add = |kind, addr: SocketAddr| {
            if addr.port() != 0 && !candidates.iter().any(|c: &Candidate| c.addr == addr) {
                candidates.push(Candidate { kind, addr });
            }
        };
        for addr in reflexive {
            add(CandidateKind::ServerReflexive, addr);
        }
        for ip in own_ips() {
            let bound_here = bound.is_none_or(|b| b.is_unspecified() || b == ip);
            if bound_here && (loopback || !ip.is_loopback()) {
                add(CandidateKind::Host, SocketAddr::new(ip, port));
            }
        }
        candidates.truncate(MAX_CANDIDATES);
        candidates.sort();
        Card { candidates, ..Card::default() }
    }

    /// One dial at a time for each contact.
    fn dial_lock(&self, contact: &Fingerprint) -> Arc<tokio::sync::Mutex<()>> {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        dials.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(dials.entry(*contact).or_default())
    }
}

/// The addresses of this machine's interfaces that are of use to others.
pub(crate) fn own_ips() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().filter(|i| !i.is_link_local()).map(|i| i.ip()).collect()
}

async fn accept_loop(net: Arc<Net>) {
    while let Some(incoming) = net.endpoint.accept().await {
        let net_of_task = Arc::clone(&net);
        net.spawn(async move {
            match incoming.handshake().await {
                Ok(Accepted::Node(connection)) => direct::adopt(&net_of_task, connection).await,
                Ok(Accepted::PeerClient(_)) => {}
                Err(e) => tracing::debug!(reason = %e, "A direct connection was not made"),
            }
        });
    }
}

/// Gives each contact that is woken a courier, and rings it.
async fn dispatch_loop(net: Arc<Net>) {
    let mut couriers: HashMap<Fingerprint, Arc<Notify>> = HashMap::new();
    loop {
        net.board.woken.notified().await;
        let (wake, disconnect) = net.board.take_woken();
        for contact in disconnect {
            net.links.disconnect(&contact);
        }
        for contact in wake {
            let bell = couriers.entry(contact).or_insert_with(|| {
                let bell = Arc::new(Notify::new());
                net.spawn(courier::run(Arc::clone(&net), contact, Arc::clone(&bell)));
                bell
            });
            bell.notify_one();
        }
    }
}
