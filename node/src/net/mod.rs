//! The node's tasks: they move bytes between the sockets and the store, and decide nothing about
//! messages.
//!
//! | task | one for each | does |
//! |---|---|---|
//! | [`home`] | rendezvous peer of ours | registers, publishes, receives envelopes and knocks; parks |
//! | [`parked`] | node | hands on what comes for parked registrations |
//! | [`courier`] | contact with something to send | direct connection first, the contact's peer beside it |
//! | [`direct`] | connection to a contact | reads messages, channels and pings |
//! | [`paths`] | node | finds direct paths, and moves connections between them and the relay |
//! | [`probing`] | node | finds out how this node's network treats UDP |
//! | accept loop | node | takes connections of contacts |
//!
//! Every task belongs to a tracker and ends when the node's token is cancelled.

pub(crate) mod courier;
pub(crate) mod dial;
pub(crate) mod direct;
pub(crate) mod home;
mod interfaces;
mod lan;
pub(crate) mod line;
mod machines;
mod parked;
pub(crate) mod paths;
mod portmap;
pub(crate) mod post;
pub(crate) mod probing;
pub(crate) mod switchboard;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halloo_identity::{Fingerprint, Identity, PeerHost};
use halloo_transport::Strangers;
use halloo_transport::{Accepted, Endpoint};
use halloo_wire::candidate::{Candidate, CandidateKind, Card};
use halloo_wire::limits::MAX_CANDIDATES;
use halloo_wire::peer::NotAdmitted;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::IncomingChannel;
use crate::core::schedule;
use crate::store::{Store, StoreError};

use direct::Links;
use halloo_wire::RoundId;
use lan::Neighbour;
use machines::Directory;
use parked::Lodgings;
use paths::Paths;
use post::Post;
use probing::Probing;
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
    pub(crate) directory: Directory,
    pub(crate) paths: Paths,
    pub(crate) probing: Probing,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) channels: mpsc::Sender<IncomingChannel>,
    /// How each of our peers sees us; a peer is in here while we are registered there.
    pub(crate) observed: watch::Sender<HashMap<PeerHost, Seen>>,
    /// Which of our peers do not host us, and why.
    unwelcome: Mutex<HashMap<PeerHost, NotAdmitted>>,
    /// Counts the invites that were given to this node while it runs.
    pub(crate) invited: watch::Sender<u64>,
    /// The machine of each of our peers at which we were registered last.
    pub(crate) home_at: watch::Sender<HashMap<PeerHost, PeerHost>>,
    pub(crate) knocks: Arc<Semaphore>,
    /// Our registrations that hold no connection.
    lodgings: Lodgings,
    /// After how long without a use a registration is parked.
    pub(crate) park_after: Option<Duration>,
    own_peers: Vec<PeerHost>,
    /// What our announcement in the local network carries.
    nonce: watch::Sender<Option<RoundId>>,
    /// Nodes in the local network; contacts may be among them.
    neighbours: watch::Sender<Vec<Neighbour>>,
    /// Counts the times that this machine's addresses changed.
    pub(crate) network: watch::Sender<u64>,
    dials: Mutex<HashMap<Fingerprint, Arc<tokio::sync::Mutex<()>>>>,
    /// The node is about to stop: receipts do not wait for company.
    pub(crate) leaving: AtomicBool,
    /// Rings when a receipt has been given.
    pub(crate) receipt_given: Notify,
    /// Counts the connections to peers that have ended: a peer that was restarted may be ours too.
    pub(crate) ended: watch::Sender<u64>,
}

/// How a peer of ours sees us.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Our address.
    pub(crate) addr: SocketAddr,
    /// Whether the connection runs through a tunnel.
    pub(crate) by_tunnel: bool,
    /// Whether everything that waited there is in the store.
    pub(crate) caught_up: bool,
    /// Which of the machines behind the peer's name it is.
    pub(crate) place: PeerHost,
}

impl Net {
    pub(crate) fn new(
        identity: Arc<Identity>,
        endpoint: Endpoint,
        store: Store,
        board: Arc<Switchboard>,
        channels: mpsc::Sender<IncomingChannel>,
        own_peers: Vec<PeerHost>,
        park_after: Option<Duration>,
    ) -> Self {
        Self {
            identity,
            endpoint,
            store,
            board,
            links: Links::default(),
            post: Post::default(),
            directory: Directory::default(),
            paths: Paths::new(),
            probing: Probing::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            channels,
            observed: watch::Sender::new(HashMap::new()),
            unwelcome: Mutex::default(),
            invited: watch::Sender::new(0),
            home_at: watch::Sender::new(HashMap::new()),
            knocks: Arc::new(Semaphore::new(MAX_KNOCKS)),
            lodgings: Lodgings::default(),
            park_after,
            own_peers,
            nonce: watch::Sender::new(None),
            neighbours: watch::Sender::new(Vec::new()),
            network: watch::Sender::new(0),
            dials: Mutex::default(),
            leaving: AtomicBool::new(false),
            receipt_given: Notify::new(),
            ended: watch::Sender::new(0),
        }
    }

    /// Starts the tasks that a node always has.
    pub(crate) fn start(self: &Arc<Self>) {
        for peer in &self.own_peers {
            self.spawn(home::run(Arc::clone(self), peer.clone()));
        }
        // Whoever calls has knocked before: its line is there.
        self.endpoint.set_strangers(Strangers::Refuse);
        self.spawn(accept_loop(Arc::clone(self)));
        self.spawn(paths::run(Arc::clone(self)));
        self.spawn(probing::run(Arc::clone(self)));
        self.spawn(parked::run(Arc::clone(self)));
        self.spawn(machines::run(Arc::clone(self)));
        self.spawn(dial::expect_nearby(Arc::clone(self)));
        self.spawn(dispatch_loop(Arc::clone(self)));
        self.spawn(courier::ask_for_missing(Arc::clone(self)));
        self.spawn(expiry_loop(Arc::clone(self)));
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
        let local = self.paths.local();
        let bound = self.endpoint.local_addr().ok().map(|a| a.ip());
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut add = |kind, addr: SocketAddr| {
            if addr.port() != 0 && !candidates.iter().any(|c: &Candidate| c.addr == addr) {
                candidates.push(Candidate { kind, addr });
            }
        };
        if let Some(addr) = self.paths.mapped() {
            add(CandidateKind::Mapped, addr);
        }
        for addr in local.observed {
            add(CandidateKind::ServerReflexive, addr);
        }
        for ip in local.ips {
            if bound.is_none_or(|b| b.is_unspecified() || b == ip) {
                add(CandidateKind::Host, SocketAddr::new(ip, local.port));
            }
        }
        candidates.truncate(MAX_CANDIDATES);
        candidates.sort();
        Card {
            round: None,
            again: None,
            verdict: local.verdict,
            local_port: local.port,
            birthday: local.birthday,
            candidates,
        }
    }

    /// This machine's addresses have changed: connections may be dead without knowing it yet.
    fn network_changed(&self) {
        self.look_after_home();
        self.post.forget_all();
    }

    /// Before the node stops: gives the receipts that are due, and returns when all are given. A
    /// node that runs for a moment only would never give any.
    pub(crate) async fn give_receipts(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        while let Ok(due) = self.store.run(|_, cx| cx.db.contacts_with_due_ack()).await
            && !due.is_empty()
        {
            self.board.wake(due);
            // One that was given since is remembered.
            self.receipt_given.notified().await;
        }
    }

    /// Makes sure that our own peer is still there.
    pub(crate) fn look_after_home(&self) {
        self.network.send_modify(|n| *n += 1);
    }

    /// Which of our peers do not host us, and why.
    pub(crate) fn not_admitted(&self) -> MutexGuard<'_, HashMap<PeerHost, NotAdmitted>> {
        self.unwelcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a machine of a peer serves this node. Another one of the same name is somebody
    /// else's, as far as this node goes.
    pub(crate) fn is_home(&self, peer: &PeerHost, place: &PeerHost) -> bool {
        let at = self.home_at.borrow();
        self.own_peers.contains(peer) && at.get(peer).is_none_or(|at| at == place)
    }

    /// One dial at a time for each contact.
    pub(crate) fn dial_lock(&self, contact: &Fingerprint) -> Arc<tokio::sync::Mutex<()>> {
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
        let Some(line) = net.paths.find(&incoming.remote_addr()) else {
            incoming.refuse();
            continue;
        };
        let net_of_task = Arc::clone(&net);
        net.spawn(async move {
            match incoming.handshake().await {
                Ok(Accepted::Node(connection)) => {
                    direct::adopt(&net_of_task, connection, line).await;
                }
                Ok(Accepted::PeerClient(_)) => {}
                Err(e) => tracing::debug!(reason = %e, "A connection was not made"),
            }
        });
    }
}

/// Takes back what has not left in time.
async fn expiry_loop(net: Arc<Net>) {
    loop {
        // A store that fails now may do so for a moment only.
        let next = net.store.run(|m, cx| Ok::<_, StoreError>((cx.now.0, m.expire(cx)?))).await;
        let wait = match next {
            Ok((now, next)) => next.map(|at| schedule::look_at_deadline(now, at)),
            Err(StoreError::Stopped) => return,
            Err(_) => Some(schedule::DEADLINE_LOOK),
        };
        let pause = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = net.board.deadline.notified() => {}
        }
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
