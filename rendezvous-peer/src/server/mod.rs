//! The shell around the core: a socket, a clock, and a task for each connection.
//!
//! [`start`] opens the socket and runs the accept loop and the expiry tick. Every task belongs to
//! one tracker and hears one token, so that [`RunningPeer::shutdown`] waits for all of them.

mod connection;
mod host;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use halloo_identity::{HostError, PeerAddress, PeerHost, PeerKey};
use halloo_transport::{BindError, CloseCode, Endpoint, EndpointRole};
use halloo_wire::peer::Push;
use halloo_wire::{InstanceId, PeerFingerprint};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::{ConnId, Core, Incident, Limits, LimitsError, Millis, Outcome, RowView, Stats};
use crate::keyfile::{self, KeyError};

pub use self::host::{PublicHost, is_public};

/// How often what has expired is swept out. It is never handed out in between.
const EXPIRY_TICK: Duration = Duration::from_secs(5);
/// Small pushes (a knock, a farewell) that may wait for a slow connection. A knock beyond them is
/// dropped: the caller has its answer and tries again.
const PUSH_QUEUE: usize = 16;
/// Pages of envelopes under way at a time: at 256 KiB each, what slow readers hold stays below
/// 64 MiB.
const PAGES: usize = 256;
/// How long closed connections get to hear that they are.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a rendezvous peer is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, UDP. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Names under which nodes reach the peer. When there are none, its address is the machine's.
    pub public_hosts: Vec<PublicHost>,
    /// Where the key is kept, and nothing else.
    pub data_dir: PathBuf,
    /// The table's limits.
    pub limits: Limits,
    /// How long a stopping peer lets its connections fetch what waits and leave by themselves.
    pub drain: Duration,
}

impl Config {
    /// A peer on UDP port 443 of every address, which keeps its key in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 443)),
            public_hosts: Vec::new(),
            data_dir: data_dir.into(),
            limits: Limits::default(),
            drain: Duration::from_secs(3),
        }
    }
}

/// Why a peer did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The limits cannot work together.
    #[error("the limits cannot work together: {0}")]
    Limits(#[from] LimitsError),
    /// The key could not be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The socket could not be opened.
    #[error("cannot listen on UDP {listen}")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: BindError,
    },
    /// The place under which nodes would reach the peer is none.
    #[error("the peer's address cannot be written: {0}")]
    Host(#[from] HostError),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Starts a peer on the current tokio runtime.
///
/// # Errors
/// [`StartError`]; nothing is left running then. A key that was made stays.
///
/// # Cancel safety
/// It does not wait for anything, so it is not cancelled half-way.
#[allow(clippy::unused_async, reason = "starting may come to wait; callers await it already")]
pub async fn start(config: Config) -> Result<RunningPeer, StartError> {
    config.limits.check()?;
    let key = keyfile::load_or_create(&config.data_dir)?;
    let clock = Clock(Instant::now());
    let (mut instance, mut seed) = ([0; 16], [0; 32]);
    getrandom::fill(&mut instance).map_err(StartError::Random)?;
    getrandom::fill(&mut seed).map_err(StartError::Random)?;
    let core = Core::new(config.limits, InstanceId(instance), seed, clock.now())?;
    let bind = |source| StartError::Bind { listen: config.listen, source };
    let endpoint = Endpoint::bind(config.listen, EndpointRole::Peer { key: &key }).map_err(bind)?;
    let local = endpoint.local_addr().map_err(|e| bind(BindError::Socket(e)))?;
    let addresses = addresses(&config.public_hosts, local, &key)?;
    let shared = Arc::new(Shared {
        core,
        clock,
        endpoint,
        links: DashMap::new(),
        next_conn: AtomicU64::new(1),
        pages: Semaphore::new(PAGES),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        occupancy: watch::Sender::new(0),
    });
    shared.tasks.spawn(accept_loop(Arc::clone(&shared)));
    shared.tasks.spawn(expiry_loop(Arc::clone(&shared)));
    let drain = config.drain;
    Ok(RunningPeer { shared, local, addresses, fingerprint: key.fingerprint(), drain })
}

/// A rendezvous peer at work. Dropped without [`shutdown`](Self::shutdown), it stops at once and
/// its tasks end on their own.
pub struct RunningPeer {
    shared: Arc<Shared>,
    local: SocketAddr,
    addresses: Vec<PeerAddress>,
    fingerprint: PeerFingerprint,
    drain: Duration,
}

impl RunningPeer {
    /// Where nodes find the peer, with its key: the first public host, or the machine's own
    /// address when none was given.
    pub fn address(&self) -> &PeerAddress {
        self.addresses.first().expect("there is one address even without a public host")
    }

    /// The address for each public host.
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// Where the socket listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The name of the peer's key.
    pub fn fingerprint(&self) -> PeerFingerprint {
        self.fingerprint
    }

    /// This run of the peer.
    pub fn instance(&self) -> InstanceId {
        self.shared.core.instance()
    }

    /// What the peer has done and holds.
    pub fn stats(&self) -> Stats {
        self.shared.core.stats()
    }

    /// The latest incidents, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.shared.core.incidents()
    }

    /// Time since the peer started, as the incidents count it.
    pub fn uptime(&self) -> Duration {
        self.shared.clock.0.elapsed()
    }

    /// Everything that the table holds: what somebody would find who seized the machine while it
    /// runs. For demonstrations and tests.
    pub fn inspect(&self) -> Vec<RowView> {
        self.shared.core.inspect(self.shared.clock.now())
    }

    /// Stops: tells all connections when to come back, lets them fetch and leave for as long as
    /// the configuration says, closes them, and waits for every task.
    ///
    /// # Cancel safety
    /// Dropped half-way, the peer stops at once.
    pub async fn shutdown(self) {
        self.shared.deliver(self.shared.core.drain());
        let mut occupancy = self.shared.occupancy.subscribe();
        let empty = occupancy.wait_for(|&n| n == 0);
        // Both ways on are the same: those who are still there are closed.
        let _ = timeout(self.drain, empty).await;
        // Closed before the tasks let go of their connections, so that all hear why.
        self.shared.endpoint.close(CloseCode::ShuttingDown);
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let _ = timeout(GOODBYE, self.shared.endpoint.wait_idle()).await;
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        self.shared.endpoint.close(CloseCode::ShuttingDown);
        self.shared.stop.cancel();
    }
}

/// What all tasks of a peer share.
struct Shared {
    core: Core,
    clock: Clock,
    endpoint: Endpoint,
    links: DashMap<ConnId, Link>,
    next_conn: AtomicU64,
    pages: Semaphore,
    /// Every task of the peer.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Connections at the moment; somebody waits for none.
    occupancy: watch::Sender<usize>,
}

/// The way to a connection's task.
struct Link {
    pushes: mpsc::Sender<Push>,
    mail: Arc<Notify>,
}

/// Monotonic time since the start.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Millis {
        Millis::default().after(self.0.elapsed())
    }
}

impl Shared {
    /// Carries out what a request means for other connections.
    fn route(&self, outcome: &mut Outcome) {
        self.deliver(std::mem::take(&mut outcome.pushes));
        if let Some(link) = outcome.mail_for.take().and_then(|conn| self.links.get(&conn)) {
            link.mail.notify_one();
        }
    }

    fn deliver(&self, pushes: Vec<(ConnId, Push)>) {
        for (conn, push) in pushes {
            // The connection may have ended since, or be too slow to hear it.
            if let Some(link) = self.links.get(&conn)
                && link.pushes.try_send(push).is_err()
            {
                tracing::debug!(conn = conn.0, "A push found no room");
            }
        }
    }
}

async fn accept_loop(shared: Arc<Shared>) {
    loop {
        let incoming = tokio::select! {
            () = shared.stop.cancelled() => break,
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => break,
            },
        };
        if !shared.core.admits(incoming.remote_addr(), shared.clock.now()) {
            incoming.refuse();
            continue;
        }
        let conn = ConnId(shared.next_conn.fetch_add(1, Ordering::Relaxed));
        shared.tasks.spawn(connection::serve(Arc::clone(&shared), conn, incoming));
    }
}

async fn expiry_loop(shared: Arc<Shared>) {
    let mut tick = interval(EXPIRY_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let expired = shared.core.expire(shared.clock.now());
        if expired != crate::core::Expired::default() {
            let (envelopes, registrations) = (expired.envelopes, expired.registrations);
            tracing::debug!(envelopes, registrations, "Expired");
        }
    }
}

/// The address of a peer with this key that listens at `local`: one for each public host, or
/// the machine's own.
///
/// # Errors
/// [`HostError`] when the port is 0 and a host needs it.
pub fn addresses(
    hosts: &[PublicHost],
    local: SocketAddr,
    key: &PeerKey,
) -> Result<Vec<PeerAddress>, HostError> {
    let with_key = |host| PeerAddress { host, key: Some(key.fingerprint()) };
    if hosts.is_empty() {
        let ip = host::local_ip(local.ip());
        return Ok(vec![with_key(PeerHost::new(&ip.to_string(), local.port())?)]);
    }
    hosts.iter().map(|h| h.at(local.port()).map(with_key)).collect()
}
