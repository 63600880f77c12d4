//! Real sockets on loopback.
#![allow(clippy::unwrap_used)]

mod crypto;
mod datagrams;
mod early;
mod nodes;
mod paths;
mod peers;
mod proxy;
mod requests;
mod routes;
mod sorting;
mod tunnels;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use halloo_identity::{Identity, PeerKey};
use halloo_wire::peer::{
    Call, DropEnvelope, Found, LookUp, PeerError, Push, Receipt, Request, Response,
};
use halloo_wire::{DeviceId, Fingerprint, InstanceId};

use crate::*;

const INSTANCE: InstanceId = InstanceId([7; 16]);

struct TestNode {
    identity: Identity,
    endpoint: Endpoint,
}

impl TestNode {
    fn new() -> Self {
        Self::at(loopback())
    }

    fn at(listen: SocketAddr) -> Self {
        let identity = Identity::generate();
        let endpoint = Endpoint::bind(listen, EndpointRole::Node { identity: &identity }).unwrap();
        Self { identity, endpoint }
    }

    fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// The next connection, from a node that is let in.
    async fn accept(&self) -> NodeConnection {
        match self.try_accept().await.unwrap() {
            Accepted::Node(it) => it,
            Accepted::PeerClient(_) => panic!("a node has no clients"),
        }
    }

    async fn try_accept(&self) -> Result<Accepted, HandshakeError> {
        self.endpoint.accept().await.unwrap().handshake().await
    }
}

struct TestPeer {
    key: PeerKey,
    endpoint: Endpoint,
}

impl TestPeer {
    fn new() -> Self {
        Self::at(loopback(), PeerKey::generate())
    }

    fn at(listen: SocketAddr, key: PeerKey) -> Self {
        let endpoint = Endpoint::bind(listen, EndpointRole::Peer { key: &key }).unwrap();
        Self { key, endpoint }
    }

    fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    fn pinned(&self) -> PeerTrust {
        PeerTrust::Pinned(self.key.fingerprint())
    }

    async fn accept(&self) -> ServerConnection {
        match self.try_accept().await.unwrap() {
            Accepted::PeerClient(it) => it,
            Accepted::Node(_) => panic!("a peer has no contacts"),
        }
    }

    async fn try_accept(&self) -> Result<Accepted, HandshakeError> {
        self.endpoint.accept().await.unwrap().handshake().await
    }

    /// Answers everything until the test ends.
    fn serve(&self) {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    if let Ok(Accepted::PeerClient(client)) = incoming.handshake().await {
                        serve_client(&client).await;
                    }
                });
            }
        });
    }
}

async fn serve_client(client: &ServerConnection) {
    while let Ok(request) = client.accept_request().await {
        let response = answer(&request);
        tokio::spawn(async move { request.responder.send(&response).await });
    }
}

fn answer(request: &IncomingRequest) -> Response {
    match &request.request {
        Ok(Request { call: Call::LookUp(_), .. }) => found(),
        Ok(Request { call: Call::Drop(_), .. }) => dropped(),
        Ok(_) => Response::Done,
        Err(RequestFault::TooLarge) => Response::Refused(PeerError::TooLarge),
        Err(_) => Response::Refused(PeerError::Malformed),
    }
}

/// A node and a peer with a connection between them.
async fn connected(show: Show) -> (TestNode, TestPeer, PeerConnection, ServerConnection) {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let (client, server) =
        tokio::join!(node.endpoint.connect_peer(peer.addr(), peer.pinned(), show), peer.accept());
    (node, peer, client.unwrap(), server)
}

/// Two nodes with a connection between them: the dialling end first.
async fn two_nodes() -> (TestNode, TestNode, NodeConnection, NodeConnection) {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let fingerprint = bob.fingerprint();
    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node(bob.addr(), &fingerprint), bob.accept());
    (alice, bob, dialed.unwrap(), accepted)
}

/// A QUIC endpoint that is not this crate's, to do what this crate would not do.
fn raw_endpoint(server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    let config = config::endpoint(b"raw");
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn look_up() -> Request {
    let to = Fingerprint::from_bytes([1; 30]);
    Request { session: None, call: Call::LookUp(LookUp { to, device: DeviceId::FIRST }) }
}

fn drop_envelope(size: usize) -> Request {
    let call = Call::Drop(DropEnvelope {
        to: Fingerprint::from_bytes([1; 30]),
        device: DeviceId::FIRST,
        token: None,
        instance: None,
        envelope: vec![5; size],
    });
    Request { session: None, call }
}

fn found() -> Response {
    let passport = vec![1; 300];
    let bundle = vec![2; 1600];
    Response::Found(Found {
        passport,
        bundle,
        one_time_keys: vec![[3; 32]; 50],
        one_time_key: None,
    })
}

fn dropped() -> Response {
    Response::Dropped(Receipt { instance: INSTANCE, ttl_s: 60 })
}

fn welcome(addr: SocketAddr) -> Push {
    Push::Welcome { instance: INSTANCE, observed: addr, echo_port: None }
}

async fn ask(client: &PeerConnection, request: Request) -> Result<Response, RequestError> {
    client.request(&request).await
}

fn is_call(request: &IncomingRequest, expected: &Request) -> bool {
    request.request.as_ref().is_ok_and(|it| it == expected)
}

/// Makes sure that an attempt goes on, or has ended only because nobody answered in time, and ends
/// it.
async fn assert_unanswered(attempt: tokio::task::JoinHandle<Result<NodeConnection, ConnectError>>) {
    if attempt.is_finished() {
        assert_eq!(attempt.await.unwrap().unwrap_err(), ConnectError::TimedOut);
    } else {
        attempt.abort();
    }
}

/// Lets everything else run until `condition` holds.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
