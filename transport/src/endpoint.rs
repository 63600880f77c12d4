//! One UDP socket, client and server at once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use halloo_identity::{Identity, PeerKey};
use halloo_wire::{Fingerprint, PeerFingerprint};
use quinn::{Connecting, TokioRuntime};
use tokio::time::timeout;

use crate::config::{self, HANDSHAKE_DEADLINE, Tokens};
use crate::demux::DatagramStats;
use crate::dialled::Acquaintance;
use crate::error::{BindError, CloseCode, ConnectError, Dialled};
use crate::incoming::{Admission, HalfOpen, Incoming, OnRoute, Server, Source, admit};
use crate::node_conn::NodeConnection;
use crate::peer_client::PeerConnection;
use crate::route::Route;
use crate::route_state::RouteState;
use crate::socket::PathSocket;
use crate::tls::{self, Credentials, PeerTrust};
use crate::udp::Udp;
use crate::virtual_addr::Place;

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
    Node(Credentials, quinn::ServerConfig),
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
        Self::over(|| PathSocket::bind(listen), role)
    }

    /// Takes a UDP socket that somebody else has opened, a service manager for example.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn from_std(
        socket: std::net::UdpSocket,
        role: EndpointRole<'_>,
    ) -> Result<Self, BindError> {
        Self::over(|| Udp::from_std(socket).map(PathSocket::on), role)
    }

    fn over(
        open: impl FnOnce() -> io::Result<PathSocket>,
        role: EndpointRole<'_>,
    ) -> Result<Self, BindError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let (endpoint, server, role) = match role {
            EndpointRole::Node { identity } => {
                let own = tls::node_credentials(identity).map_err(|_| BindError::Key)?;
                let server = config::node_server(tls::node_server(Arc::clone(&own)));
                let role = Role::Node(own, server.clone());
                (config::endpoint(&identity.device_key_pkcs8()), server, role)
            }
            EndpointRole::Peer { key } => {
                let own = tls::peer_credentials(key).map_err(|_| BindError::Key)?;
                let server = config::peer_server(tls::peer_server(own));
                (config::endpoint(&key.key_pkcs8()), server, Role::Peer)
            }
        };
        let socket = Arc::new(open().map_err(BindError::Socket)?);
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
        let (connecting, known) = self.dial(addr, config)?;
        match (connecting.into_0rtt(), pinned) {
            (Ok((connection, accepted)), Some(pinned)) => {
                Ok(PeerConnection::early(connection, accepted, pinned, known))
            }
            // Only a pinned peer has tickets.
            (Ok(_), None) => Err(ConnectError::EndpointClosed),
            (Err(connecting), _) => {
                let connection = established(connecting, Dialled::Peer(pinned)).await?;
                PeerConnection::established(connection, trust, known)
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
        let tls = tls::node_client(*expect, own);
        let route = self.inner.route_at(addr);
        let config = match &route {
            Some(route) => config::node_client_on(tls, Arc::clone(&route.signal)),
            None => config::node_client(tls),
        };
        let (connecting, known) = self.dial(addr, config)?;
        let connection = established(connecting, Dialled::Node(*expect)).await?;
        let it = NodeConnection::dialled(connection, route.map(|it| it.addr), known)
            .ok_or(ConnectError::BadCertificate)?;
        match it.fingerprint() {
            found if found == *expect => Ok(it),
            found => Err(ConnectError::WrongFingerprint { expected: *expect, found }),
        }
    }

    /// Connects to another node by whatever paths `route` has, or will have: the handshake begins
    /// at once, and what it sends first waits in the route ([`Route::first_datagrams`]).
    ///
    /// The connection needs the route as long as it lives; the caller keeps both. It takes 5
    /// seconds at most. Dropped, the attempt is given up.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn connect_node_by(
        &self,
        route: &Route,
        expect: &Fingerprint,
    ) -> Result<NodeConnection, ConnectError> {
        self.connect_node(route.virtual_addr(), expect).await
    }

    /// Starts to dial. The guard keeps the answers of a real address from being a stranger's.
    fn dial(
        &self,
        addr: SocketAddr,
        config: quinn::ClientConfig,
    ) -> Result<(Connecting, Acquaintance), ConnectError> {
        let socket = &self.inner.socket;
        let reachable = match socket.net.place(addr) {
            None => socket.can_reach(addr),
            Some(Place::Route(number)) => socket.routes.by_number(number).is_some(),
            Some(Place::Tunnel(_)) => true,
            Some(Place::Nothing) => false,
        };
        if !reachable {
            return Err(ConnectError::Unreachable);
        }
        let known = Acquaintance::new(socket, addr);
        match self.inner.quic.connect_with(config, addr, tls::SERVER_NAME) {
            Ok(connecting) => Ok((connecting, known)),
            Err(quinn::ConnectError::EndpointStopping) => Err(ConnectError::EndpointClosed),
            // Port 0, or an address that means nothing.
            Err(_) => Err(ConnectError::Unreachable),
        }
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
            let addr = attempt.remote_address();
            let route = self.inner.route_at(addr);
            // Whoever calls on a route has been asked for already.
            match admit(open, attempt.remote_address_validated() || route.is_some()) {
                Admission::Accept => {
                    let half_open = HalfOpen::new(&self.inner.half_open);
                    let source = self.inner.source_of(addr);
                    let server = match &self.inner.role {
                        Role::Node(_, server) => Server::Node(route.map(|route| OnRoute {
                            addr: route.addr,
                            config: Arc::new(config::node_server_on(
                                server,
                                Arc::clone(&route.signal),
                            )),
                        })),
                        Role::Peer => Server::Peer,
                    };
                    return Some(Incoming { attempt, half_open, server, source });
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

    /// The socket's address: what `bind` was given, with the port that the system chose.
    ///
    /// # Errors
    /// What the system says when it does not know its own socket any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.socket.bound_addr()
    }

    /// What has come through the socket.
    pub fn stats(&self) -> DatagramStats {
        self.inner.socket.demux.stats()
    }
}

impl Endpoint {
    pub(crate) fn socket(&self) -> &Arc<PathSocket> {
        &self.inner.socket
    }
}

#[cfg(test)]
impl Endpoint {
    /// Whether the system sends and receives several datagrams at once.
    pub(crate) fn offloads(&self) -> bool {
        let state = &self.inner.socket.main.state;
        state.max_gso_segments() > 1 && state.gro_segments() > 1
    }
}

impl Inner {
    fn credentials(&self) -> Result<Credentials, ConnectError> {
        match &self.role {
            Role::Node(own, _) => Ok(Arc::clone(own)),
            Role::Peer => Err(ConnectError::NoIdentity),
        }
    }

    /// The route with the address `addr`.
    fn route_at(&self, addr: SocketAddr) -> Option<Arc<RouteState>> {
        match self.socket.net.place(addr)? {
            Place::Route(number) => self.socket.routes.by_number(number),
            Place::Tunnel(_) | Place::Nothing => None,
        }
    }

    /// Where a connection with the address `addr` comes from.
    fn source_of(&self, addr: SocketAddr) -> Source {
        match self.socket.net.place(addr) {
            Some(Place::Tunnel(number)) => {
                Source { tunnelled: true, origin: self.socket.tunnels.real_addr(number) }
            }
            _ => Source { tunnelled: false, origin: None },
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
