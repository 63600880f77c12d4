//! Connections that come in, and how many of them are let in at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, timeout_at};

use crate::config::{HANDSHAKE_DEADLINE, MAX_HALF_OPEN, RETRY_ABOVE};
use crate::error::{ConnectionLost, HandshakeError};
use crate::node_conn::NodeConnection;
use crate::peer_server::ServerConnection;
use crate::udp::canonical;

/// A connection attempt. Dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) attempt: quinn::Incoming,
    pub(crate) half_open: HalfOpen,
    pub(crate) server: Server,
    pub(crate) source: Source,
}

/// What is known of a connection's source beside its address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) tunnelled: bool,
    /// Where a tunnel comes from.
    pub(crate) origin: Option<SocketAddr>,
}

/// What is at this end.
#[derive(Debug)]
pub(crate) enum Server {
    Node(Option<OnRoute>),
    Peer,
}

/// What a connection on a route has of its own.
#[derive(Debug)]
pub(crate) struct OnRoute {
    pub(crate) addr: SocketAddr,
    pub(crate) config: Arc<quinn::ServerConfig>,
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
        let Self { attempt, half_open, server, source } = self;
        let deadline = Instant::now() + HANDSHAKE_DEADLINE;
        let (connecting, route) = match &server {
            Server::Node(Some(on)) => (attempt.accept_with(Arc::clone(&on.config))?, Some(on.addr)),
            Server::Node(None) | Server::Peer => (attempt.accept()?, None),
        };
        let handshake = async move {
            match server {
                Server::Node(_) => {
                    let connection = connecting.await?;
                    drop(half_open);
                    NodeConnection::accepted(connection, route)
                        .map(Accepted::Node)
                        .ok_or(HandshakeError::BadCertificate)
                }
                Server::Peer => {
                    let (connection, confirmed) = connecting
                        .into_0rtt()
                        .map_err(|_| HandshakeError::Lost(ConnectionLost::ClosedHere))?;
                    ServerConnection::accept(connection, source, confirmed, half_open, deadline)
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

    /// Where the client says that it is: the address of a route or a tunnel, when it came through
    /// one.
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.attempt.remote_address())
    }

    /// Where the client is in the network, as far as that is known: like
    /// [`remote_addr`](Self::remote_addr), but for a tunnel where that comes from.
    pub fn origin(&self) -> SocketAddr {
        self.source.origin.unwrap_or_else(|| self.remote_addr())
    }
}

/// One unfinished handshake, counted as long as this lives.
#[derive(Debug)]
pub(crate) struct HalfOpen(Arc<AtomicUsize>);

impl HalfOpen {
    pub(crate) fn new(counter: &Arc<AtomicUsize>) -> Self {
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
pub(crate) enum Admission {
    Accept,
    Retry,
    Drop,
}

pub(crate) fn admit(half_open: usize, address_validated: bool) -> Admission {
    match half_open {
        MAX_HALF_OPEN.. => Admission::Drop,
        RETRY_ABOVE.. if !address_validated => Admission::Retry,
        _ => Admission::Accept,
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
}
