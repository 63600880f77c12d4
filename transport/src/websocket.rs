//! A way to a rendezvous peer where UDP is blocked: a WebSocket (RFC 6455) over TLS and TCP, on
//! the TCP port with the same number as the peer's UDP port.
//!
//! It is a tunnel. One binary message is one datagram of whatever the UDP socket would have
//! carried: QUIC, relay frames, peer datagrams. The endpoint gives the tunnel an address that
//! stands for it, and everything above dials and answers that address as any other
//! ([`Endpoint::connect_peer`]). So a connection through a tunnel makes the same handshake inside,
//! with the same keys, and nothing here is trusted with more than a network is.
//!
//! ```text
//!   node                                                rendezvous peer
//!   QUIC to the tunnel's address                        QUIC from the tunnel's address
//!     | outgoing          ^ injected                      ^ injected        | outgoing
//!     v                   |                               |                 v
//!   pump <==== WebSocket, TLS 1.3, TCP, perhaps an HTTP proxy ====> pump of the Listener
//! ```
//!
//! The outer TLS shows the peer's own certificate, checked as QUIC checks it, so that a network
//! that opens TLS is noticed before anything is said inside. Unlike QUIC's handshake, the outer
//! one names the peer's host: the name was in the DNS query, or in the clear for the proxy, a
//! moment before, and networks that allow nothing but HTTPS look at it.
//!
//! A peer's operator may give a [`Certificate`] of an authority. It is for those who are no nodes: a
//! node offers to check Ed25519 and nothing else, and is shown the peer's own certificate as before.
//!
//! # Slow connections
//!
//! TCP repeats what is lost, and then everything behind it waits. Datagrams that could not be
//! written wait in a queue of 256; when it is full the *oldest* is dropped, because QUIC has
//! repeated that one by then. The sending side never waits.
//!
//! # Tasks
//!
//! One for each tunnel, which ends with its [`WebSocketTunnel`] or with the connection. At a peer,
//! one for each TCP connection, which end with [`Listener::serve`].

mod certificate;
mod http;
mod listener;
mod proxy;
mod pump;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use halloo_wire::PeerFingerprint;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::endpoint::Endpoint;
use crate::tls::{self, PeerTrust, Refusal};

pub use certificate::{Certificate, CertificateError, not_after};
pub use listener::{Limits, Listener, ListenerStats};
pub use proxy::Proxy;

/// Where a peer takes tunnels.
const PATH: &str = "/halloo";
/// The protocol inside: the version is that of [`ALPN_PEER`](halloo_wire::ALPN_PEER).
const SUBPROTOCOL: &str = "halloo-peer.2";
/// What TLS says is spoken. HTTP/2 has no plain upgrade.
const ALPN: &[u8] = b"http/1.1";

/// For TCP, for a proxy's answer, and for TLS with the upgrade, each: one or two round trips and
/// a lost packet.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
/// Largest message: the largest datagram with room for the header of a relay frame and for
/// networks with more than Ethernet carries.
const MAX_MESSAGE: usize = 1600;
/// Datagrams that wait for a slow connection: 370 KB of full ones.
const QUEUE: usize = 256;
/// How often the node breaks the silence. Proxies give up idle connections after 30 to 60 s.
const PING: Duration = Duration::from_secs(20);
/// Silence, pongs included, after which a tunnel is given up: two pings may be lost.
const IDLE: Duration = Duration::from_secs(60);
/// For telling the other side that the tunnel ends.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// What the system may hold unsent for one connection: the usual limit of several MB would keep
/// datagrams for seconds on a slow line. 256 KiB is 40 Mbit/s at 50 ms.
const SEND_BUFFER: usize = 256 * 1024;
/// Buffers of each WebSocket, read and write: a few datagrams. A peer has thousands of tunnels.
const BUFFER: usize = 8 * 1024;

/// A tunnel to a rendezvous peer. Dropped, it is closed, and connections through it end.
#[must_use]
pub struct WebSocketTunnel {
    addr: SocketAddr,
    peer: PeerFingerprint,
    ended: watch::Receiver<Option<TunnelEnd>>,
    _stop: oneshot::Sender<()>,
}

impl WebSocketTunnel {
    /// The address that stands for the tunnel: the one to give to [`Endpoint::connect_peer`].
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The peer whose key the outer TLS has shown.
    pub fn peer_fingerprint(&self) -> PeerFingerprint {
        self.peer
    }

    /// Whether the tunnel has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some() || self.ended.has_changed().is_err()
    }

    /// Waits until the tunnel has ended, and says why. Does not keep the tunnel; cancel safe.
    pub fn ended(&self) -> impl Future<Output = TunnelEnd> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(end) => end.unwrap_or(TunnelEnd::ClosedHere),
                Err(_) => TunnelEnd::ClosedHere,
            }
        }
    }
}

impl fmt::Debug for WebSocketTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketTunnel").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelEnd {
    /// This side closed it.
    #[error("closed by this side")]
    ClosedHere,
    /// The other side closed it, or the connection broke.
    #[error("closed by the other side")]
    Closed,
    /// Nothing was heard for a minute.
    #[error("nothing was heard for too long")]
    Idle,
    /// The other side sent what is no datagram: text, or more than a message may have.
    #[error("the other side broke the protocol")]
    Misbehaved,
}

/// Why there is no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// Nobody takes TCP connections there.
    #[error("the peer cannot be reached over TCP: {0}")]
    Unreachable(io::ErrorKind),
    /// The proxy that the environment names is of a kind that cannot be used.
    #[error("the configured proxy is not a plain HTTP proxy")]
    ProxyUnusable,
    /// The proxy cannot be reached.
    #[error("the configured proxy cannot be reached: {0}")]
    ProxyUnreachable(io::ErrorKind),
    /// The proxy did not let the connection through; 407 asks for a password.
    #[error("the configured proxy refused with status {0}")]
    ProxyRefused(u16),
    /// The peer has another key than the pinned one, or somebody on the way opens TLS.
    #[error("the rendezvous peer's key has changed: expected {expected}, found {found}")]
    PeerKeyChanged {
        /// The pinned fingerprint.
        expected: PeerFingerprint,
        /// The fingerprint of who answered.
        found: PeerFingerprint,
    },
    /// What answered shows no rendezvous peer's certificate: another service, or somebody on the
    /// way who opens TLS.
    #[error("what answered shows no rendezvous peer's certificate")]
    BadCertificate,
    /// TLS could not be agreed on.
    #[error("what answered speaks no TLS that this program speaks")]
    Incompatible,
    /// It speaks TLS, but takes no tunnels of this version.
    #[error("what answered takes no tunnels")]
    NotTaken,
    /// The host is no name that can be asked for.
    #[error("the host's name cannot be used")]
    BadHost,
    /// The connection ended before the tunnel was there.
    #[error("the connection ended: {0}")]
    Lost(io::ErrorKind),
    /// Nobody answered in time.
    #[error("nobody answered in time")]
    TimedOut,
}

/// Opens a tunnel to the rendezvous peer at `addr`, whose name is `host`.
///
/// When the environment names a proxy for it ([`Proxy::from_env`]), the proxy is asked to connect
/// to `host`, and `addr` gives the port only.
///
/// It takes 15 seconds at most, 5 for each of TCP, the proxy, and TLS with the upgrade. Dropped,
/// the attempt is given up.
///
/// # Errors
/// [`TunnelError`]
pub async fn connect(
    endpoint: &Endpoint,
    addr: SocketAddr,
    host: &str,
    trust: PeerTrust,
) -> Result<WebSocketTunnel, TunnelError> {
    connect_by(endpoint, addr, host, trust, Proxy::from_env(host).as_ref()).await
}

/// Opens a tunnel as [`connect`] does, through `proxy` or, without one, straight.
///
/// # Errors
/// [`TunnelError`]
pub async fn connect_by(
    endpoint: &Endpoint,
    addr: SocketAddr,
    host: &str,
    trust: PeerTrust,
    proxy: Option<&Proxy>,
) -> Result<WebSocketTunnel, TunnelError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TunnelError::BadHost)?;
    let tcp = match proxy {
        Some(proxy) => proxy.connect(host, addr.port()).await?,
        None => within(TcpStream::connect(addr)).await?.map_err(unreachable)?,
    };
    tune(&tcp);
    // Boxed, because TLS makes it large and it is soon over.
    let handshake = Box::pin(handshake(tcp, name, authority(host, addr.port()), trust));
    let (peer, socket) = within(handshake).await??;
    let tunnel = endpoint.open_tunnel();
    let addr = tunnel.addr();
    let (ended_sender, ended) = watch::channel(None);
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let end = pump::run(socket, tunnel, Some(PING), stopped).await;
        tracing::debug!(reason = %end, "A WebSocket tunnel ended");
        ended_sender.send_replace(Some(end));
    });
    Ok(WebSocketTunnel { addr, peer, ended, _stop: stop })
}

async fn handshake(
    tcp: TcpStream,
    name: ServerName<'static>,
    authority: String,
    trust: PeerTrust,
) -> Result<(PeerFingerprint, WebSocketStream<TlsStream<TcpStream>>), TunnelError> {
    let mut config = tls::peer_client(trust, None);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect(name, tcp).await.map_err(|e| tls_error(&e, trust))?;
    let peer = (tls.get_ref().1.peer_certificates().unwrap_or_default().first())
        .and_then(|cert| halloo_identity::peer_fingerprint_of_cert(cert).ok())
        .ok_or(TunnelError::BadCertificate)?;
    let uri = format!("wss://{authority}{PATH}");
    let uri: Uri = uri.parse().map_err(|_| TunnelError::BadHost)?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    match client_async_with_config(request, tls, Some(config_of_socket())).await {
        Ok((socket, _response)) => Ok((peer, socket)),
        Err(tungstenite::Error::Io(e)) => Err(TunnelError::Lost(e.kind())),
        Err(_) => Err(TunnelError::NotTaken),
    }
}

fn tls_error(e: &io::Error, trust: PeerTrust) -> TunnelError {
    let Some(tls) = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return TunnelError::Lost(e.kind());
    };
    match (Refusal::find(&tls.to_string()), trust) {
        (Some(Refusal::PeerKey(found)), PeerTrust::Pinned(expected)) => {
            TunnelError::PeerKeyChanged { expected, found }
        }
        (Some(_), _) => TunnelError::BadCertificate,
        // A foreign certificate may fail before the verifier's own check of the key.
        (None, _) if matches!(tls, rustls::Error::InvalidCertificate(_)) => {
            TunnelError::BadCertificate
        }
        (None, _) => TunnelError::Incompatible,
    }
}

/// Host and port, as HTTP writes them.
fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

fn config_of_socket() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(2 * BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// No waiting for more to send, and little unsent in the system. Both only make it faster.
fn tune(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(tcp).set_send_buffer_size(SEND_BUFFER);
}

async fn within<T>(step: impl Future<Output = T>) -> Result<T, TunnelError> {
    timeout(STEP_DEADLINE, step).await.map_err(|_| TunnelError::TimedOut)
}

fn unreachable(e: io::Error) -> TunnelError {
    TunnelError::Unreachable(e.kind())
}

/// What a WebSocket can run on.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
