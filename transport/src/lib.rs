//! One UDP socket for everything that Halloo says to the network.
//!
//! An [`Endpoint`] is that socket. A node has one and dials with it, is dialled on it, and punches
//! holes with it: the mapping that a probe opens in a NAT has to be the mapping that QUIC uses. A
//! rendezvous peer has one too, on a public port, and forwards relay frames with it.
//!
//! ```text
//!   NodeConnection    PeerConnection    ServerConnection      probes, peer datagrams
//!   node <-> node     node -> peer      peer <- node                    ^
//!         \                 |                 /                         |
//!          +------ QUIC, TLS 1.3, keys as names ------+                 |
//!                           |                                           |
//!           path socket: sorts by the first byte, knows the paths ------+
//!                  /                |                   \
//!         UDP, IPv4 and IPv6    relay frames    tunnels (WebSocket)
//! ```
//!
//! # Who is there
//!
//! Certificates carry keys, not names. A node shows a device certificate and the passport behind
//! it; its name is the passport's fingerprint. A rendezvous peer shows a certificate that signs
//! itself; its name is the fingerprint of its key, pinned when it is first seen ([`PeerTrust`]).
//! Who dials states whom she expects, and the handshake ends before anything is shown or sent when
//! it is somebody else: [`ConnectError::WrongFingerprint`], [`ConnectError::PeerKeyChanged`]. Who
//! is dialled learns who called and decides. The key exchange is X25519 with ML-KEM-768, always.
//!
//! | connection | protocol | shows a certificate | early data |
//! |---|---|---|---|
//! | [`Endpoint::connect_node`], [`connect_node_by`](Endpoint::connect_node_by) | [`ALPN_NODE`](halloo_wire::ALPN_NODE) | both | never |
//! | [`Endpoint::connect_peer`], [`Show::Device`] | [`ALPN_PEER`](halloo_wire::ALPN_PEER) | both | never |
//! | [`Endpoint::connect_peer`], [`Show::Nothing`] | [`ALPN_PEER`](halloo_wire::ALPN_PEER) | the peer | for idempotent requests |
//!
//! # Paths
//!
//! To QUIC, a contact has one address for the whole life of the connection: a virtual one, that of
//! its [`Route`]. The path socket knows what it stands for, and that may change with any datagram:
//!
//! | path | set by | on the wire |
//! |---|---|---|
//! | relayed | [`Route::set_relay`] | a [relay frame](halloo_wire::datagram::RelayFrame) to the rendezvous peer, by UDP or a [`Tunnel`] |
//! | direct | [`Route::set_send`], [`Route::add_source`] | the QUIC datagram itself, from one of this node's sockets |
//! | both | [`SendOn::Both`] | each datagram twice |
//!
//! So an open stream goes on while its path changes from relay to direct and back, and QUIC does
//! not notice; its congestion controller is told, and has a model for each kind of path. Nothing is
//! sent to an address unless somebody says so here, after a probe has authenticated it. What comes
//! from an unknown address is taken when it carries the id of a contact's connection, and reported
//! ([`Endpoint::take_new_sources`]): a NAT that forgot its mapping costs nothing. With
//! [`Strangers::Refuse`], everything else that is QUIC is dropped.
//!
//! Who decides about paths, and by which probes, is not here: this crate moves bytes.
//!
//! # Requests, answers, pushes
//!
//! To a peer, a request is a stream, and its end is the end of the request; the answer comes back
//! on the same stream. A push is a stream of its own. Nothing waits for anything else: a slow
//! request holds up no other, on neither side, and each has a size and a time after which it is
//! over. Early data can be replayed by an attacker who recorded it, so only
//! [idempotent](halloo_wire::peer::Call::is_idempotent) requests are sent in it, and a server hands
//! all others out only when the handshake has shown that they are no recording.
//!
//! # What the socket promises QUIC
//!
//! Sending never fails and receiving never fails: an unreachable address costs the connection to
//! that address, never another one. What is not QUIC is taken out, in whole, and answered by nobody
//! but a rendezvous peer's [forwarder](Forward). Everything that waits, waits in a queue with a
//! limit, and what finds it full is lost and [counted](DatagramStats).
//! QUIC's own bit in the first byte is never greased, or nothing could be told apart. A restarted
//! endpoint with the same key tells the other sides of its former connections at their next packet
//! that they are gone ([`ConnectionLost::Reset`]).
//!
//! Tasks: one for the endpoint and one for each connection, which end with them; one for each
//! handshake that began with early data, which ends in 5 seconds; one for each request that is
//! being read, which ends in 10. All run on the tokio runtime in which the endpoint was bound.
//!
//! # Logs
//!
//! This crate logs neither addresses nor names. The QUIC library below it logs addresses at
//! `debug` and `trace`: programs should leave the targets `quinn`, `quinn_proto`, `quinn_udp` and
//! `rustls` out unless somebody looks for a fault.
//!
//! # Example
//!
//! ```
//! use halloo_identity::Identity;
//! use halloo_transport::{Accepted, Endpoint, EndpointRole};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (alice, bob) = (Identity::generate(), Identity::generate());
//! let listen = "127.0.0.1:0".parse()?;
//! let at_alice = Endpoint::bind(listen, EndpointRole::Node { identity: &alice })?;
//! let at_bob = Endpoint::bind(listen, EndpointRole::Node { identity: &bob })?;
//!
//! let addr = at_bob.local_addr()?;
//! let accepting = tokio::spawn(async move {
//!     let incoming = at_bob.accept().await.expect("the endpoint is open");
//!     incoming.handshake().await
//! });
//! let dialed = at_alice.connect_node(addr, &bob.fingerprint()).await?;
//! let Accepted::Node(accepted) = accepting.await?? else { panic!("nodes dial nodes") };
//!
//! assert_eq!(dialed.fingerprint(), bob.fingerprint());
//! assert_eq!(accepted.fingerprint(), alice.fingerprint());
//! # Ok(())
//! # }
//! ```

mod config;
mod congestion;
mod demux;
mod dialled;
mod endpoint;
mod endpoint_paths;
mod error;
mod forward;
mod incoming;
mod inject;
mod message;
pub mod names;
mod node_conn;
mod own_addrs;
mod parking;
mod peer_client;
mod peer_server;
mod rate_model;
mod receive;
mod route;
mod route_state;
mod routes;
mod send;
mod socket;
mod sockets;
mod sync;
mod times;
mod tls;
mod tunnel;
mod udp;
mod virtual_addr;
pub mod websocket;

#[cfg(test)]
mod congestion_tests;
#[cfg(test)]
mod tests;

pub use demux::{Arrived, DatagramStats};
pub use endpoint::{Endpoint, EndpointRole, Show};
pub use endpoint_paths::Strangers;
pub use error::{
    BindError, CloseCode, ConnectError, ConnectionLost, HandshakeError, PushError, RequestError,
    RequestFault, RespondError,
};
pub use forward::{Forward, Forwarded, Reply};
pub use halloo_wire::path::{DirectPath, RelayPath, SendOn, SocketId};
pub use incoming::{Accepted, Incoming};
pub use node_conn::NodeConnection;
pub use parking::{OpenError, ParkingKey};
pub use peer_client::{EarlyData, PeerConnection};
pub use peer_server::{IncomingRequest, Responder, ServerConnection};
pub use quinn::{PathStats, RecvStream, SendStream};
pub use route::Route;
pub use routes::NewSource;
pub use sockets::MAX_EXTRA_SOCKETS;
pub use times::{RouteStats, Traffic};
pub use tls::PeerTrust;
pub use tunnel::{TUNNEL_QUEUE, Tunnel, TunnelInjector, TunnelOutgoing};
