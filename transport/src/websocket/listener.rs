//! The peer's end: takes tunnels on a TCP port.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use halloo_identity::PeerKey;
use rustls::server::NoServerSessionStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::certificate::{self, ALPN_CHALLENGE, Certificate};
use super::http::{Answer, answer, read_head};
use super::{ALPN, STEP_DEADLINE, TunnelEnd, config_of_socket, pump, tune};
use crate::endpoint::Endpoint;
use crate::error::BindError;
use crate::socket::canonical;
use crate::sync::{read, write};
use crate::tls;

/// TCP connections that the system keeps until they are looked at.
const BACKLOG: i32 = 1024;
/// How long accepting pauses when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The part of an IPv6 address that one customer has (RFC 6177).
const IPV6_PREFIX: u32 = 64;

/// How much a [`Listener`] takes. Beyond a limit, TCP connections are closed unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections. Each tunnel costs about 25 KB, and what the system keeps for TCP.
    pub connections: usize,
    /// TCP connections of one IPv4 address or IPv6 network of 64 bits. Offices and proxies stand
    /// behind one address.
    pub connections_per_source: usize,
    /// Unfinished handshakes. Each costs a millisecond of work and 5 seconds of patience.
    pub handshakes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, connections_per_source: 64, handshakes: 256 }
    }
}

/// What has come to a [`Listener`] since it was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Tunnels that are open.
    pub open: usize,
    /// Tunnels that were made.
    pub tunnels: u64,
    /// Requests that got a page or an error.
    pub pages: u64,
    /// Connections that failed before they asked for anything.
    pub failed: u64,
    /// Connections that were beyond a limit.
    pub refused: u64,
}

/// Takes tunnels on a TCP port. Whoever asks for `/` with plain HTTPS gets a line of text.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    own: Own,
    tls: RwLock<Acceptor>,
    guests: Arc<Guests>,
}

impl Listener {
    /// Opens the TCP port. `key` is the peer's, the same that its QUIC endpoint shows.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(listen: SocketAddr, key: &PeerKey, limits: Limits) -> Result<Self, BindError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let socket = open(listen).map_err(BindError::Socket)?;
        Self::on(socket, key, limits)
    }

    /// Takes a TCP port that somebody else has opened. `key` is the peer's, as with
    /// [`bind`](Self::bind).
    ///
    /// # Errors
    /// [`BindError`]
    pub fn from_std(
        socket: std::net::TcpListener,
        key: &PeerKey,
        limits: Limits,
    ) -> Result<Self, BindError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        socket.set_nonblocking(true).map_err(BindError::Socket)?;
        Self::on(TcpListener::from_std(socket).map_err(BindError::Socket)?, key, limits)
    }

    fn on(socket: TcpListener, key: &PeerKey, limits: Limits) -> Result<Self, BindError> {
        let own = tls::peer_credentials(key).map_err(|_| BindError::Key)?;
        let guests = Arc::new(Guests::new(limits));
        let tls = RwLock::new(Acceptor(acceptor(Arc::clone(&own), None)));
        Ok(Self { socket, own: Own(own), tls, guests })
    }

    /// Shows this certificate from now on to all who are no nodes; `None` is the peer's own. Tunnels
    /// that are open stay.
    pub fn show(&self, certificate: Option<Certificate>) {
        *write(&self.tls) = Acceptor(acceptor(Arc::clone(&self.own.0), certificate));
    }

    /// The port's address.
    ///
    /// # Errors
    /// What the system says when it does not know its own socket any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What has come.
    pub fn stats(&self) -> ListenerStats {
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerStats {
            open: self.guests.open.load(Ordering::Relaxed),
            tunnels: counted(&self.guests.tunnels),
            pages: counted(&self.guests.pages),
            failed: counted(&self.guests.failed),
            refused: counted(&self.guests.refused),
        }
    }

    /// Takes connections and puts their tunnels on `endpoint`, until it is dropped; then they all
    /// end.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, it ends every tunnel.
    pub async fn serve(&self, endpoint: &Endpoint) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((tcp, source)) => {
                    let source = canonical(source);
                    let Some(guest) = Guest::admit(&self.guests, source.ip()) else {
                        self.guests.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let (tls, endpoint) = (read(&self.tls).0.clone(), endpoint.clone());
                    connections.spawn(serve_connection(tcp, source, tls, endpoint, guest));
                }
                Err(e) => {
                    tracing::debug!(kind = ?e.kind(), "A TCP connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(
    tcp: TcpStream,
    source: SocketAddr,
    tls: TlsAcceptor,
    endpoint: Endpoint,
    guest: Guest,
) {
    tune(&tcp);
    let guests = Arc::clone(&guest.guests);
    // Boxed, so that what it needs does not stay for as long as the tunnel.
    let handshake = timeout(STEP_DEADLINE, Box::pin(handshake(tcp, tls))).await;
    match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(Some(socket)) => {
            let tunnel = endpoint.open_tunnel_from(source);
            let _open = guest.opened();
            let (_never, stopped) = oneshot::channel();
            let end: TunnelEnd = pump::run(socket, tunnel, None, stopped).await;
            tracing::debug!(reason = %end, "A WebSocket tunnel ended");
        }
        Ok(None) => {
            guests.pages.fetch_add(1, Ordering::Relaxed);
        }
        Err(e) => {
            tracing::trace!(kind = ?e.kind(), "A TCP connection came to nothing");
            guests.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// TLS, then HTTP. `None` when what was asked for has been answered.
async fn handshake(
    tcp: TcpStream,
    tls: TlsAcceptor,
) -> io::Result<Option<WebSocketStream<TlsStream<TcpStream>>>> {
    let mut tls = tls.accept(tcp).await?;
    if tls.get_ref().1.alpn_protocol() == Some(ALPN_CHALLENGE) {
        // The certificate was the answer.
        tls.shutdown().await?;
        return Ok(None);
    }
    let (head, rest) = read_head(&mut tls).await?;
    match answer(&head) {
        Answer::Tunnel(response) => {
            tls.write_all(&response).await?;
            tls.flush().await?;
            let config = Some(config_of_socket());
            let socket = WebSocketStream::from_partially_read(tls, rest, Role::Server, config);
            Ok(Some(socket.await))
        }
        Answer::Page(response) => {
            tls.write_all(&response).await?;
            tls.shutdown().await?;
            Ok(None)
        }
    }
}

fn open(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    if listen.is_ipv6() {
        // As the UDP socket does: not every system can do both.
        let _ = socket.set_only_v6(false);
    }
    // Elsewhere it would let another program take the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// TLS as QUIC has it, but for anonymous clients, and without resumption: a tunnel lasts. Who is no
/// node may agree on more where there is a certificate for those.
fn acceptor(own: tls::Credentials, certificate: Option<Certificate>) -> TlsAcceptor {
    let provider = match &certificate {
        None => tls::provider(),
        Some(_) => certificate::provider(),
    };
    let mut alpn = vec![ALPN.to_vec()];
    if certificate.as_ref().is_some_and(Certificate::takes_challenges) {
        alpn.push(ALPN_CHALLENGE.to_vec());
    }
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(certificate::resolver(own, certificate));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    TlsAcceptor::from(Arc::new(config))
}

/// The peer's own certificate and key.
struct Own(tls::Credentials);

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Own")
    }
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Who is connected, for the limits.
#[derive(Debug)]
struct Guests {
    limits: Limits,
    /// Connections by source; a source is in here while it has one.
    sources: Mutex<HashMap<IpAddr, usize>>,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    open: AtomicUsize,
    tunnels: AtomicU64,
    pages: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

impl Guests {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            sources: Mutex::default(),
            connections: AtomicUsize::default(),
            handshakes: AtomicUsize::default(),
            open: AtomicUsize::default(),
            tunnels: AtomicU64::default(),
            pages: AtomicU64::default(),
            failed: AtomicU64::default(),
            refused: AtomicU64::default(),
        }
    }
}

/// One TCP connection, counted as long as this lives.
#[derive(Debug)]
struct Guest {
    guests: Arc<Guests>,
    source: IpAddr,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    Open,
}

impl Guest {
    /// Counts a connection, unless there are too many. Called by one task only.
    fn admit(guests: &Arc<Guests>, ip: IpAddr) -> Option<Self> {
        let (limits, source) = (&guests.limits, network(ip));
        let mut sources = guests.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = sources.get(&source).copied().unwrap_or_default();
        let full = guests.connections.load(Ordering::Relaxed) >= limits.connections
            || guests.handshakes.load(Ordering::Relaxed) >= limits.handshakes
            || of_source >= limits.connections_per_source;
        if full {
            return None;
        }
        sources.insert(source, of_source + 1);
        guests.connections.fetch_add(1, Ordering::Relaxed);
        guests.handshakes.fetch_add(1, Ordering::Relaxed);
        Some(Self { guests: Arc::clone(guests), source, stage: Stage::Handshake })
    }

    /// The handshake is over and there is a tunnel.
    fn opened(mut self) -> Self {
        self.stage = Stage::Open;
        self.guests.handshakes.fetch_sub(1, Ordering::Relaxed);
        self.guests.open.fetch_add(1, Ordering::Relaxed);
        self.guests.tunnels.fetch_add(1, Ordering::Relaxed);
        self
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let guests = &self.guests;
        match self.stage {
            Stage::Handshake => &guests.handshakes,
            Stage::Open => &guests.open,
        }
        .fetch_sub(1, Ordering::Relaxed);
        guests.connections.fetch_sub(1, Ordering::Relaxed);
        let mut sources = guests.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// What counts as one source.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> IPV6_PREFIX << IPV6_PREFIX).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn guests(limits: Limits) -> Arc<Guests> {
        Arc::new(Guests::new(limits))
    }

    #[test]
    fn one_source_cannot_take_all_the_room() {
        let guests = guests(Limits { connections_per_source: 2, ..Limits::default() });
        let admit = |ip: &str| Guest::admit(&guests, ip.parse().unwrap());
        let first = admit("2001:db8:1:2::1").unwrap();
        let _second = admit("2001:db8:1:2:ffff::1").unwrap();
        assert!(admit("2001:db8:1:2::3").is_none());
        let _elsewhere = admit("2001:db8:1:3::3").unwrap();
        drop(first);
        let _third = admit("2001:db8:1:2::3").unwrap();
    }

    #[test]
    fn finished_handshakes_make_room_for_others() {
        let guests = guests(Limits { handshakes: 1, connections: 2, ..Limits::default() });
        let admit = |ip: &str| Guest::admit(&guests, ip.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none());
        let first = first.opened();
        let second = admit("192.0.2.2").unwrap().opened();
        assert!(admit("192.0.2.3").is_none(), "two connections are all");
        drop((first, second));
        assert_eq!(guests.open.load(Ordering::Relaxed), 0);
        assert!(guests.sources.lock().unwrap().is_empty());
        assert!(admit("192.0.2.3").is_some());
    }
}
