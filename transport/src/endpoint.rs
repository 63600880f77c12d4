//! One UDP socket, client and server at once.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use halloo_identity::{Identity, PeerKey};
use halloo_wire::{Fingerprint, PeerFingerprint};
use quinn::{Connecting, TokioRuntime};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{self, HANDSHAKE_DEADLINE, MAX_HALF_OPEN, RETRY_ABOVE, Tokens};
use crate::demux::{DatagramStats, Datagrams};
use crate::error::{BindError, CloseCode, ConnectError, ConnectionLost, Dialled, HandshakeError};
use crate::node_conn::NodeConnection;
use crate::peer_client::PeerConnection;
use crate::peer_server::ServerConnection;
use crate::socket::{PathSocket, canonical};
use crate::tls::{self, Credentials, PeerTrust};

/// Rendezvous peers whose tickets are kept: those of a few hundred contacts. The longest known
/// is forgotten first, and costs its next connection one more round trip.
const TICKET_PEERS: usize = 256;

/// What an endpoint is, as a server, and what it can show as a client.
#[derive(Clone, Copy)]
pub enum EndpointRole<'a> {
    /// A node: accepts other nodes, dials nodes and rendezvous peers.
    Node {
        /// Who it is.
        identity: &'a Identity,
    },
    /// A rendezvous peer: accepts nodes, and dials nobody in a name of its own.
    Peer {
        /// Its key.
        key: &'a PeerKey,
    },
}

/// What a node shows to a rendezvous peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Nothing: the peer learns no more than the address.
    Nothing,
    /// The device certificate, which registering takes.
    Device,
}

/// One UDP socket with everything on it: QUIC in both directions, and the datagrams beside it.
///
/// Clones are handles to the same socket. Dropping the last handle lets connections go on; the
/// socket is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quic: quinn::Endpoint,
    socket: Arc<PathSocket>,
    role: Role,
    half_open: Arc<AtomicUsize>,
    tickets: Mutex<Tickets>,
}

enum Role {
    Node(Credentials),
    Peer,
}

impl Endpoint {
    /// Opens the socket and begins to serve it.
    ///
    /// `[::]` takes IPv4 along where the system can do that, and stands for `0.0.0.0` on a machine
    /// without IPv6. Port 0 lets the system choose.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(listen: SocketAddr, role: EndpointRole<'_>) -> Result<Self, BindError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let (endpoint, server, role) = match role {
            EndpointRole::Node { identity } => {
                let own = tls::node_credentials(identity).map_err(|_| BindError::Key)?;
                let server = config::node_server(tls::node_server(Arc::clone(&own)));
                (config::endpoint(&identity.device_key_pkcs8()), server, Role::Node(own))
            }
            EndpointRole::Peer { key } => {
                let own = tls::peer_credentials(key).map_err(|_| BindError::Key)?;
                let server = config::peer_server(tls::peer_server(own));
                (config::endpoint(&key.key_pkcs8()), server, Role::Peer)
            }
        };
        let socket = Arc::new(PathSocket::bind(listen).map_err(BindError::Socket)?);
        let quic = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            Some(server),
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(TokioRuntime),
        )
        .map_err(BindError::Socket)?;
        let half_open = Arc::default();
        let inner = Inner { quic, socket, role, half_open, tickets: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Connects to a rendezvous peer.
    ///
    /// Anonymous connections to a pinned peer keep its tickets, in memory only, and begin with
    /// early data when there is one: then this returns before the handshake has ended, and a
    /// failure shows at the first request (see [`PeerConnection`]). A ticket lets the peer see
    /// that two connections have the same origin, as the address does. Connections that show the
    /// device, and those of first use, neither use nor keep tickets.
    ///
    /// It takes 5 seconds at most. Dropped, the attempt is given up.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn connect_peer(
        &self,
        addr: SocketAddr,
        trust: PeerTrust,
        show: Show,
    ) -> Result<PeerConnection, ConnectError> {
        let config = match (show, trust) {
            (Show::Nothing, PeerTrust::Pinned(peer)) => {
                self.inner.tickets.lock().unwrap_or_else(PoisonError::into_inner).client(peer)
            }
            (Show::Nothing, PeerTrust::FirstUse) => {
                config::peer_client(tls::peer_client(trust, None), Tokens::Refuse)
            }
            (Show::Device, _) => {
                let own = self.inner.credentials()?;
                config::peer_client(tls::peer_client(trust, Some(own)), Tokens::Refuse)
            }
        };
        let pinned = match trust {
            PeerTrust::Pinned(peer) => Some(peer),
            PeerTrust::FirstUse => None,
        };
        match (self.dial(addr, config)?.into_0rtt(), pinned) {
            (Ok((connection, accepted)), Some(pinned)) => {
                Ok(PeerConnection::early(connection, accepted, pinned))
            }
            // Only a pinned peer has tickets.
            (Ok(_), None) => Err(ConnectError::EndpointClosed),
            (Err(connecting), _) => {
                let connection = established(connecting, Dialled::Peer(pinned)).await?;
                PeerConnection::established(connection, trust)
            }
        }
    }

    /// Connects to another node, and makes sure that it is the one with the fingerprint `expect`.
    ///
    /// It takes 5 seconds at most. Dropped, the attempt is given up.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn connect_node(
        &self,
        addr: SocketAddr,
        expect: &Fingerprint,
    ) -> Result<NodeConnection, ConnectError> {
        let own = self.inner.credentials()?;
        let config = config::node_client(tls::node_client(*expect, own));
        let connection = established(self.dial(addr, config)?, Dialled::Node(*expect)).await?;
        let it = NodeConnection::new(connection, true).ok_or(ConnectError::BadCertificate)?;
        match it.fingerprint() {
            found if found == *expect => Ok(it),
            found => Err(ConnectError::WrongFingerprint { expected: *expect, found }),
        }
    }

    fn dial(
        &self,
        addr: SocketAddr,
        config: quinn::ClientConfig,
    ) -> Result<Connecting, ConnectError> {
        if !self.inner.socket.can_reach(addr) {
            return Err(ConnectError::Unreachable);
        }
        self.inner.quic.connect_with(config, addr, tls::SERVER_NAME).map_err(|e| match e {
            quinn::ConnectError::EndpointStopping => ConnectError::EndpointClosed,
            // Port 0, or an address that means nothing.
            _ => ConnectError::Unreachable,
        })
    }

    /// Waits for the next connection attempt. `None` when the endpoint is closed.
    ///
    /// When many handshakes are unfinished, clients have to prove their address first, and beyond
    /// a limit attempts are dropped: both happen here, unseen. So this has to be called
    /// again soon; handshakes are finished elsewhere.
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let attempt = self.inner.quic.accept().await?;
            let open = self.inner.half_open.load(Ordering::Relaxed);
            match admit(open, attempt.remote_address_validated()) {
                Admission::Accept => {
                    let half_open = HalfOpen::new(&self.inner.half_open);
                    let server = match self.inner.role {
                        Role::Node(_) => Server::Node,
                        Role::Peer => Server::Peer,
                    };
                    return Some(Incoming { attempt, half_open, server });
                }
                // Fails only for those who have answered a retry, which come in above.
                Admission::Retry => drop(attempt.retry()),
                Admission::Drop => attempt.ignore(),
            }
        }
    }

    /// Closes every connection with `code` and takes no more. What has not arrived yet is lost.
    pub fn close(&self, code: CloseCode) {
        self.inner.quic.close(code.to_varint(), b"");
    }

    /// Waits until every connection has ended and the other sides had a chance to hear it. Does
    /// not close them. Cancel safe.
    pub async fn wait_idle(&self) {
        self.inner.quic.wait_idle().await;
    }

    /// The probes that arrive, 256 at most at a time. `None` when they have been taken; until then
    /// they are dropped.
    pub fn take_probes(&self) -> Option<Datagrams> {
        self.inner.socket.demux.take_probes()
    }

    /// The relay frames that arrive, 1,024 at most at a time. `None` when they have been taken;
    /// until then they are dropped.
    pub fn take_relay_frames(&self) -> Option<Datagrams> {
        self.inner.socket.demux.take_relays()
    }

    /// The socket's address: what `bind` was given, with the port that the system chose.
    ///
    /// # Errors
    /// What the system says when it does not know its own socket any more.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.socket.bound_addr()
    }

    /// What has come through the socket.
    pub fn stats(&self) -> DatagramStats {
        self.inner.socket.demux.stats()
    }
}

impl Inner {
    fn credentials(&self) -> Result<Credentials, ConnectError> {
        match &self.role {
            Role::Node(own) => Ok(Arc::clone(own)),
            Role::Peer => Err(ConnectError::NoIdentity),
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("socket", &self.socket).finish_non_exhaustive()
    }
}

async fn established(
    connecting: Connecting,
    dialled: Dialled,
) -> Result<quinn::Connection, ConnectError> {
    timeout(HANDSHAKE_DEADLINE, connecting)
        .await
        .map_err(|_| ConnectError::TimedOut)?
        .map_err(|e| ConnectError::from_quic(e, dialled))
}

/// A connection attempt. Dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    attempt: quinn::Incoming,
    half_open: HalfOpen,
    server: Server,
}

#[derive(Debug, Clone, Copy)]
enum Server {
    Node,
    Peer,
}

/// A connection that came in.
#[derive(Debug)]
pub enum Accepted {
    /// At a node: from another node, which has shown who it is. Whether it is welcome is for the
    /// program to say.
    Node(NodeConnection),
    /// At a rendezvous peer: from a node.
    PeerClient(ServerConnection),
}

impl Incoming {
    /// Makes the handshake, in 5 seconds at most. At a rendezvous peer it may return earlier, with
    /// a request that came in early data (see [`ServerConnection`]).
    ///
    /// Dropped, the connection is closed.
    ///
    /// # Errors
    /// [`HandshakeError`]
    pub async fn handshake(self) -> Result<Accepted, HandshakeError> {
        let Self { attempt, half_open, server } = self;
        let deadline = Instant::now() + HANDSHAKE_DEADLINE;
        let connecting = attempt.accept()?;
        let handshake = async move {
            match server {
                Server::Node => {
                    let connection = connecting.await?;
                    drop(half_open);
                    NodeConnection::new(connection, false)
                        .map(Accepted::Node)
                        .ok_or(HandshakeError::BadCertificate)
                }
                Server::Peer => {
                    let (connection, confirmed) = connecting
                        .into_0rtt()
                        .map_err(|_| HandshakeError::Lost(ConnectionLost::ClosedHere))?;
                    ServerConnection::accept(connection, confirmed, half_open, deadline)
                        .await
                        .map(Accepted::PeerClient)
                }
            }
        };
        timeout_at(deadline, handshake).await.unwrap_or(Err(HandshakeError::TimedOut))
    }

    /// Tells the client that it is not taken.
    pub fn refuse(self) {
        self.attempt.refuse();
    }

    /// Whether the client has proved that it is where it says.
    pub fn address_validated(&self) -> bool {
        self.attempt.remote_address_validated()
    }

    /// Where the client says that it is.
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.attempt.remote_address())
    }
}

/// One unfinished handshake, counted as long as this lives.
#[derive(Debug)]
pub(crate) struct HalfOpen(Arc<AtomicUsize>);

impl HalfOpen {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What happens to a connection attempt.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Accept,
    Retry,
    Drop,
}

fn admit(half_open: usize, address_validated: bool) -> Admission {
    match half_open {
        MAX_HALF_OPEN.. => Admission::Drop,
        RETRY_ABOVE.. if !address_validated => Admission::Retry,
        _ => Admission::Accept,
    }
}

/// Client configurations that hold the tickets of rendezvous peers, one for each.
#[derive(Default)]
struct Tickets {
    clients: HashMap<PeerFingerprint, quinn::ClientConfig>,
    /// The peers in `clients`, longest known first.
    order: VecDeque<PeerFingerprint>,
}

impl Tickets {
    fn client(&mut self, peer: PeerFingerprint) -> quinn::ClientConfig {
        if let Some(config) = self.clients.get(&peer) {
            return config.clone();
        }
        if self.order.len() == TICKET_PEERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.clients.remove(&oldest);
        }
        let config = config::peer_client(tls::resuming_peer_client(peer), Tokens::Keep);
        self.order.push_back(peer);
        self.clients.insert(peer, config.clone());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_handshakes_has_to_prove_its_addresses_and_is_cut_off() {
        assert_eq!(admit(0, false), Admission::Accept);
        assert_eq!(admit(RETRY_ABOVE - 1, false), Admission::Accept);
        assert_eq!(admit(RETRY_ABOVE, false), Admission::Retry);
        assert_eq!(admit(RETRY_ABOVE, true), Admission::Accept);
        assert_eq!(admit(MAX_HALF_OPEN, true), Admission::Drop);
    }

    #[test]
    fn tickets_are_kept_for_a_limited_number_of_peers() {
        let mut tickets = Tickets::default();
        for i in 0..=TICKET_PEERS {
            let mut bytes = [0; 30];
            bytes[..8].copy_from_slice(&i.to_be_bytes());
            tickets.client(PeerFingerprint::from_bytes(bytes));
        }
        assert_eq!((tickets.clients.len(), tickets.order.len()), (TICKET_PEERS, TICKET_PEERS));
        assert!(!tickets.clients.contains_key(&PeerFingerprint::from_bytes([0; 30])));
    }
}
