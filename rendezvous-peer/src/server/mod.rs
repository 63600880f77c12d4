//! The shell around the core: a socket, a clock, and a task for each connection.
//!
//! [`start`] opens the sockets and runs the accept loop, the expiry tick and the tunnels. What is
//! not QUIC never comes here: the socket asks the core itself ([`forwarder`]). Every task belongs
//! to one tracker and hears a token, so that [`RunningPeer::shutdown`] waits for all of them.

#[cfg(feature = "acme")]
mod acme;
mod certificate;
mod config;
mod connection;
mod forwarder;
mod host;
mod monitor;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use halloo_identity::{HostError, PeerAddress, PeerHost, PeerKey};
use halloo_transport::websocket::{self, Listener, ListenerStats};
use halloo_transport::{BindError, CloseCode, Endpoint, EndpointRole, SocketId};
use halloo_wire::peer::Push;
use halloo_wire::{InstanceId, PeerFingerprint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[cfg(feature = "acme")]
use self::acme::Orders;
use self::certificate::Certificates;
use self::forwarder::Forwarder;
use crate::certificate::{CertificateFileError, CertificateFiles};
use crate::core::{
    Access, ConnId, Core, Expired, Incident, Limits, LimitsError, Millis, Outcome, Ring, RowView,
    Stats,
};
use crate::keyfile;

#[cfg(feature = "acme")]
pub use self::acme::AcmeError;
pub use self::certificate::CertificateEnd;
pub use self::config::{Acme, Config, EchoPort, ListenError, Sockets, StartError, WebSocketAddr};
pub use self::host::{PublicHost, is_public};
pub use self::monitor::Monitor;

/// How often what has expired is swept out. It is never handed out in between.
const EXPIRY_TICK: Duration = Duration::from_secs(5);
/// Small pushes (a knock, a farewell) that may wait for a slow connection. A knock beyond them is
/// dropped: the caller has its answer and tries again.
const PUSH_QUEUE: usize = 16;
/// Bytes of QUIC datagrams that may wait in knocks for slow connections: some thousand first
/// flights. All queues together could hold a gigabyte of them otherwise.
const FIRST_FLIGHTS: usize = 16 << 20;
/// Pages of envelopes under way at a time: at 256 KiB each, what slow readers hold stays below
/// 64 MiB.
const PAGES: usize = 256;
/// How long closed connections get to hear that they are.
const GOODBYE: Duration = Duration::from_secs(1);

/// Starts a peer on the current tokio runtime.
///
/// # Errors
/// [`StartError`]; nothing is left running then. A key that was made stays.
///
/// # Cancel safety
/// It does not wait for anything, so it is not cancelled half-way.
pub async fn start(config: Config) -> Result<RunningPeer, StartError> {
    start_on(config, Sockets::default()).await
}

/// Starts a peer as [`start`] does, on sockets that somebody else has opened, as far as there are any.
/// What the configuration says about where to listen is for the others.
///
/// # Errors
/// [`StartError`]; nothing is left running then. A key that was made stays.
///
/// # Cancel safety
/// As [`start`].
#[allow(clippy::unused_async, reason = "starting may come to wait; callers await it already")]
pub async fn start_on(config: Config, sockets: Sockets) -> Result<RunningPeer, StartError> {
    config.limits.check()?;
    let key = keyfile::load_or_create(&config.data_dir)?;
    let clock = Clock(Instant::now());
    let (mut instance, mut seed) = ([0; 16], [0; 32]);
    getrandom::fill(&mut instance).map_err(StartError::Random)?;
    getrandom::fill(&mut seed).map_err(StartError::Random)?;
    let bind = |source| StartError::Bind { listen: config.listen, source };
    let role = EndpointRole::Peer { key: &key };
    let endpoint = match sockets.udp {
        Some(socket) => Endpoint::from_std(socket, role),
        None => Endpoint::bind(config.listen, role),
    };
    let endpoint = endpoint.map_err(bind)?;
    let local = endpoint.local_addr().map_err(|e| bind(BindError::Socket(e)))?;
    let addresses = addresses(&config.public_hosts, local, &key)?;
    let tunnels = tunnels(&config, sockets.tcp, local, &key)?;
    let certificates =
        Arc::new(Certificates::new(tunnels.as_ref().map_or_else(Weak::new, Arc::downgrade)));
    certificates.use_files(config.certificate.clone()).map_err(StartError::Certificate)?;
    #[cfg(feature = "acme")]
    let orders = config
        .acme
        .clone()
        .filter(|_| tunnels.is_some())
        .map(|acme| Orders::new(acme, &certificates))
        .transpose()?;
    #[cfg(not(feature = "acme"))]
    if config.acme.is_some() {
        return Err(StartError::NoAcme);
    }
    let echo_port = second_port(&config, sockets.second, &endpoint);
    let core = Core::new(config.limits, InstanceId(instance), seed, clock.now())?;
    let core = Arc::new(core.with_echo_port(echo_port).with_invites(key.invite_key()));
    core.set_access(config.access.clone());
    core.tell_time(wall_clock());
    endpoint.set_forwarder(Arc::new(Forwarder { core: Arc::clone(&core), clock }));
    let shared = Arc::new(Shared {
        core,
        clock,
        endpoint,
        links: DashMap::new(),
        next_conn: AtomicU64::new(1),
        pages: Semaphore::new(PAGES),
        first_flights: Arc::new(Semaphore::new(FIRST_FLIGHTS)),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        stop_tunnels: CancellationToken::new(),
        occupancy: watch::Sender::new(0),
        rung: Notify::new(),
        sweeps: watch::Sender::new(0),
    });
    shared.tasks.spawn(accept_loop(Arc::clone(&shared)));
    shared.tasks.spawn(expiry_loop(Arc::clone(&shared)));
    shared.tasks.spawn(ring_loop(Arc::clone(&shared)));
    if let Some(tunnels) = &tunnels {
        shared.tasks.spawn(tunnel_loop(Arc::clone(&shared), Arc::clone(tunnels)));
        let looking = certificate::look_loop(Arc::clone(&certificates));
        shared.tasks.spawn(shared.stop.clone().run_until_cancelled_owned(looking));
    }
    #[cfg(feature = "acme")]
    if let Some(orders) = orders {
        certificates.show(Some(orders.certificate()));
        shared.tasks.spawn(shared.stop.clone().run_until_cancelled_owned(orders.run()));
    }
    let (fingerprint, drain) = (key.fingerprint(), config.drain);
    Ok(RunningPeer {
        shared,
        local,
        echo_port,
        tunnels,
        certificates,
        addresses,
        fingerprint,
        drain,
    })
}

/// Opens the second UDP port, if it can be had.
fn second_port(config: &Config, given: Option<UdpSocket>, endpoint: &Endpoint) -> Option<u16> {
    let (port, second) = match given {
        Some(socket) => (socket.local_addr().ok()?.port(), endpoint.take_second(socket)),
        None => {
            let main = endpoint.local_addr().ok()?.port();
            // The system may be asked for any port: then the second one is any other.
            let listen = if config.listen.port() == 0 { 0 } else { main };
            let port = config.echo_port.port(listen)?;
            (port, endpoint.bind_second(port))
        }
    };
    match second {
        Ok(second) => Some(second.port()),
        Err(error) => {
            tracing::warn!(
                port, kind = ?error.kind(),
                "No second UDP port: nodes learn less about their NAT"
            );
            None
        }
    }
}

/// Opens the TCP port for WebSockets, if it is wanted and can be had.
fn tunnels(
    config: &Config,
    given: Option<TcpListener>,
    local: SocketAddr,
    key: &PeerKey,
) -> Result<Option<Arc<Listener>>, StartError> {
    let most = websocket::Limits::default();
    let limits = websocket::Limits {
        connections: most.connections.min(config.limits.connections),
        connections_per_source: most
            .connections_per_source
            .min(config.limits.connections_per_source),
        ..most
    };
    let bind = |listen| {
        Listener::bind(listen, key, limits)
            .map(|it| Some(Arc::new(it)))
            .map_err(|source| StartError::BindTcp { listen, source })
    };
    if let Some(socket) = given {
        return Listener::from_std(socket, key, limits)
            .map(|it| Some(Arc::new(it)))
            .map_err(|source| StartError::BindTcp { listen: local, source });
    }
    match config.websocket {
        WebSocketAddr::Off => Ok(None),
        WebSocketAddr::At(listen) => bind(listen),
        WebSocketAddr::Same => bind(local).or_else(|error| {
            let kind = match &error {
                StartError::BindTcp { source: BindError::Socket(e), .. } => Some(e.kind()),
                _ => None,
            };
            tracing::warn!(?kind, "No WebSockets: nodes whose network blocks UDP cannot come");
            Ok(None)
        }),
    }
}

/// A rendezvous peer at work. Dropped without [`shutdown`](Self::shutdown), it stops at once and
/// its tasks end on their own.
pub struct RunningPeer {
    shared: Arc<Shared>,
    local: SocketAddr,
    echo_port: Option<u16>,
    tunnels: Option<Arc<Listener>>,
    certificates: Arc<Certificates>,
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

    /// The second UDP port, if there is one.
    pub fn echo_port(&self) -> Option<u16> {
        self.echo_port
    }

    /// Where WebSockets are taken, if they are.
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.tunnels.as_ref()?.local_addr().ok()
    }

    /// What has come to the WebSockets' port, if there is one.
    pub fn websocket_stats(&self) -> Option<ListenerStats> {
        self.tunnels.as_ref().map(|tunnels| tunnels.stats())
    }

    /// When the certificate ends that those see at the WebSockets' port who are no nodes; `None` when
    /// it is the peer's own, or is not there yet.
    pub fn certificate_end(&self) -> Option<CertificateEnd> {
        self.certificates.ends()
    }

    /// Hears of each certificate that is shown there from now on, by its end in seconds since 1970.
    pub fn certificate_changes(&self) -> watch::Receiver<Option<i64>> {
        self.certificates.changes()
    }

    /// Reads the certificate for the WebSockets' port from these files and shows it from now on;
    /// without files, the peer's own. Files that are in use are also looked at each minute, and read
    /// when they have changed.
    ///
    /// # Errors
    /// [`CertificateFileError`]; what was shown before is shown on then.
    pub fn set_certificate(
        &self,
        files: Option<CertificateFiles>,
    ) -> Result<(), CertificateFileError> {
        self.certificates.use_files(files)
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

    /// Changes the limits, as [`Core::set_limits`] does. How many WebSockets there may be stays as
    /// it was at the start.
    ///
    /// # Errors
    /// [`LimitsError`] when the limits cannot work together; nothing has changed then.
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        self.shared.core.set_limits(limits)
    }

    /// Changes whom the peer hosts, as [`Core::set_access`] does.
    pub fn set_access(&self, access: Access) {
        self.shared.core.set_access(access);
    }

    /// Changes how long the peer, when it stops, lets its connections leave by themselves.
    pub fn set_drain(&mut self, drain: Duration) {
        self.drain = drain;
    }

    /// A view of the peer's counters that outlives it.
    pub fn monitor(&self) -> Monitor {
        let tunnels = self.tunnels.as_ref().map_or_else(Weak::new, Arc::downgrade);
        Monitor {
            core: Arc::clone(&self.shared.core),
            clock: self.shared.clock,
            tunnels,
            certificates: Arc::clone(&self.certificates),
        }
    }

    /// How often what has expired was swept out, every five seconds. A sweep takes a part of the
    /// table's locks, and eight take all: while the number grows, requests are answered.
    pub fn sweeps(&self) -> watch::Receiver<u64> {
        self.shared.sweeps.subscribe()
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
        let (pushes, rings) = self.shared.core.drain(self.shared.clock.now());
        self.shared.deliver(pushes);
        self.shared.ring(&rings);
        let mut occupancy = self.shared.occupancy.subscribe();
        let empty = occupancy.wait_for(|&n| n == 0);
        // Both ways on are the same: those who are still there are closed.
        let _ = timeout(self.drain, empty).await;
        // Each connection closes in its own time. A task that let go of one before would close it
        // without saying why.
        self.shared.endpoint.close(CloseCode::ShuttingDown);
        let _ = timeout(GOODBYE, self.shared.endpoint.wait_idle()).await;
        self.shared.stop.cancel();
        // Those behind a tunnel hear it through the tunnel.
        self.shared.stop_tunnels.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        self.shared.endpoint.close(CloseCode::ShuttingDown);
        self.shared.stop.cancel();
        self.shared.stop_tunnels.cancel();
    }
}

/// What all tasks of a peer share.
struct Shared {
    core: Arc<Core>,
    clock: Clock,
    endpoint: Endpoint,
    links: DashMap<ConnId, Link>,
    next_conn: AtomicU64,
    pages: Semaphore,
    /// Bytes of QUIC datagrams that may still wait in knocks.
    first_flights: Arc<Semaphore>,
    /// Every task of the peer.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the tunnels, after everything that goes through them.
    stop_tunnels: CancellationToken,
    /// Connections at the moment; somebody waits for none.
    occupancy: watch::Sender<usize>,
    /// A device was rung, so that something may have to be repeated earlier.
    rung: Notify,
    /// Sweeps that were done.
    sweeps: watch::Sender<u64>,
}

/// The way to a connection's task.
struct Link {
    pushes: mpsc::Sender<Queued>,
    mail: Arc<Notify>,
}

/// A push that waits for its connection.
struct Queued {
    push: Push,
    /// What it takes of [`FIRST_FLIGHTS`].
    room: Option<OwnedSemaphorePermit>,
}

/// Monotonic time since the start.
#[derive(Debug, Clone, Copy)]
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
        self.ring(&std::mem::take(&mut outcome.rings));
        if let Some(link) = outcome.mail_for.take().and_then(|conn| self.links.get(&conn)) {
            link.mail.notify_one();
        }
    }

    /// Sends what rings parked devices. What is lost is repeated, or found at the next keepalive.
    fn ring(&self, rings: &[Ring]) {
        for Ring { to, datagrams } in rings {
            for datagram in datagrams {
                if self.endpoint.send_datagram(SocketId::MAIN, *to, datagram).is_err() {
                    tracing::debug!("A ring was not sent");
                }
            }
        }
        if !rings.is_empty() {
            self.rung.notify_one();
        }
    }

    fn deliver(&self, pushes: Vec<(ConnId, Push)>) {
        for (conn, push) in pushes {
            // The connection may have ended since, or be too slow to hear it.
            if let Some(link) = self.links.get(&conn)
                && link.pushes.try_send(self.queued(push)).is_err()
            {
                tracing::debug!(conn = conn.0, "A push found no room");
            }
        }
    }

    /// A push with room for what it carries. A knock whose first flight finds none goes without:
    /// QUIC sends it again, through the relay.
    fn queued(&self, mut push: Push) -> Queued {
        let mut room = None;
        if let Push::Knock { datagrams, .. } = &mut push {
            let bytes = datagrams.iter().map(Vec::len).sum::<usize>();
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            room = Arc::clone(&self.first_flights).try_acquire_many_owned(bytes).ok();
            if room.is_none() {
                tracing::debug!("A first flight found no room");
                datagrams.clear();
            }
        }
        Queued { push, room }
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
        if !shared.core.admits(incoming.origin(), shared.clock.now()) {
            incoming.refuse();
            continue;
        }
        let conn = ConnId(shared.next_conn.fetch_add(1, Ordering::Relaxed));
        shared.tasks.spawn(connection::serve(Arc::clone(&shared), conn, incoming));
    }
}

/// What the clock on the wall says, Unix seconds.
fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn expiry_loop(shared: Arc<Shared>) {
    let mut tick = interval(EXPIRY_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        shared.core.tell_time(wall_clock());
        let expired = shared.core.expire(shared.clock.now());
        if expired != Expired::default() {
            let Expired { envelopes, registrations, channels } = expired;
            tracing::debug!(envelopes, registrations, channels, "Expired");
        }
        shared.sweeps.send_modify(|n| *n += 1);
    }
}

/// Repeats rings that nothing answers.
async fn ring_loop(shared: Arc<Shared>) {
    loop {
        let due = async {
            match shared.core.next_repeat() {
                Some(at) => sleep(at.since(shared.clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = shared.rung.notified() => continue,
            () = due => {}
        }
        shared.ring(&shared.core.repeat_rings(shared.clock.now()));
    }
}

async fn tunnel_loop(shared: Arc<Shared>, tunnels: Arc<Listener>) {
    tokio::select! {
        () = shared.stop_tunnels.cancelled() => {}
        () = tunnels.serve(&shared.endpoint) => {}
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
