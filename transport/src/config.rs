//! Every number of a connection, with its reason, and the QUIC configurations made of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use halloo_wire::limits::{MAX_REQUEST, MAX_RESPONSE};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    EndpointConfig, MtuDiscoveryConfig, NoneTokenStore, TransportConfig, ValidationTokenConfig,
    VarInt,
};
use quinn_proto::RandomConnectionIdGenerator;

use crate::congestion::{PathAwareConfig, PathClass, PathSignal};

/// A handshake takes one round trip; this is five of the longest, or a few losses.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// A request with its answer, the handshake included when it was still going on.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// One message on a stream, read or written. 64 KiB in this time is a modem's speed; whoever is
/// slower holds memory for nothing.
pub(crate) const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// Silence after which a connection is given up. Long enough for a lift or a tunnel.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The dialling side breaks the silence this often: two of these may be lost, and NATs forget UDP
/// after 30 s (RFC 4787, 4.3 asks for 2 minutes, few keep it).
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Requests that a client may have under way. An outbox keeps 32 envelopes in flight.
const PEER_REQUESTS: u32 = 32;
/// Pushes that may be under way to a client.
const PEER_PUSHES: u32 = 32;
/// Bytes of requests that one client may make a rendezvous peer hold unread.
const PEER_RECEIVE_WINDOW: u32 = 8 * MAX_REQUEST as u32;
/// Channels and pings that one node may have open to another.
const NODE_BIDI_STREAMS: u32 = 128;
/// Message streams between two nodes: one each way, and a successor while one ends.
const NODE_UNI_STREAMS: u32 = 4;
/// Bytes that a contact may send ahead on one stream. A gigabit at 100 ms has 12.5 MB on the way,
/// and what arrives behind a lost packet waits for one round trip more, or two: at 4 % loss, 16 MiB
/// carried 391 Mbit/s of 900 in simulation, 32 MiB 630, and 48 MiB no more.
const NODE_STREAM_WINDOW: u32 = 32 * 1024 * 1024;
/// Bytes that a contact may send ahead on all streams, so that one that nobody reads leaves room
/// for others. This is the budget of memory that one contact can take: it costs nothing until it
/// is filled, what is read is free at once, and quinn may hold one and a half times as much again
/// when the pieces are small. Only who has shown a certificate gets that far.
const NODE_RECEIVE_WINDOW: u32 = NODE_STREAM_WINDOW + NODE_STREAM_WINDOW / 2;
/// Bytes that are kept for a contact until they have arrived: of streams that this side writes.
const NODE_SEND_WINDOW: u64 = NODE_STREAM_WINDOW as u64;

/// Largest QUIC packet between nodes, if the path takes it. With a relay frame's header of 9 bytes
/// and UDP and IP it still fits through PPPoE (1,492 bytes) and DS-Lite (1,460).
const NODE_MAX_MTU: u16 = 1400;
/// How often a larger packet is tried again: the path may be another one, and a relay's may be
/// smaller than a direct one's. quinn's 10 minutes would leave most calls and files at 1,200 bytes.
const NODE_MTU_INTERVAL: Duration = Duration::from_secs(20);

/// Connection attempts that QUIC keeps for the program to look at; others are refused.
const MAX_INCOMING: usize = 1024;
/// Early data that is kept for one attempt: one full request.
const INCOMING_BUFFER: u64 = 2 * MAX_REQUEST as u64;
/// Early data that is kept for all attempts.
const INCOMING_BUFFERS: u64 = 16 * 1024 * 1024;

/// Unfinished handshakes from which on a client has to show, by a retry, that it is where it
/// says: a flood with made-up sources ends there.
pub(crate) const RETRY_ABOVE: usize = 64;
/// Unfinished handshakes beyond which attempts are dropped unanswered. Each costs about 40 KB and
/// a millisecond.
pub(crate) const MAX_HALF_OPEN: usize = 1024;

/// What all connections of an endpoint have in common.
///
/// The key of stateless resets is derived from the endpoint's own secret, so that a restarted
/// endpoint can still tell the other sides of its lost connections that they are gone: they hear
/// it in one round trip instead of after [`IDLE_TIMEOUT`].
pub(crate) fn endpoint(secret: &[u8]) -> EndpointConfig {
    let reset_key = blake3::derive_key("halloo 2026 stateless reset key v1", secret);
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset_key)));
    // A greased QUIC bit could not be told from a datagram that is not QUIC.
    config.grease_quic_bit(false);
    // Random ids need no key that would have to survive a restart with them.
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)));
    config
}

/// A node as a client of a rendezvous peer.
pub(crate) fn peer_client(tls: rustls::ClientConfig, tokens: Tokens) -> quinn::ClientConfig {
    let mut transport = common();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(PEER_PUSHES))
        .stream_receive_window(VarInt::from_u32(MAX_RESPONSE as u32))
        .receive_window(VarInt::from_u32(4 * MAX_RESPONSE as u32))
        .send_window(u64::from(PEER_RECEIVE_WINDOW));
    client(tls, transport, tokens)
}

/// A node as the client of another node, on a path that stays.
pub(crate) fn node_client(tls: rustls::ClientConfig) -> quinn::ClientConfig {
    node_client_on(tls, PathSignal::new(PathClass::Direct, Instant::now()))
}

/// A node as the client of another node, on the path that `signal` is told.
pub(crate) fn node_client_on(
    tls: rustls::ClientConfig,
    signal: Arc<PathSignal>,
) -> quinn::ClientConfig {
    let mut transport = node(signal);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    client(tls, transport, Tokens::Refuse)
}

/// A rendezvous peer.
pub(crate) fn peer_server(tls: rustls::ServerConfig) -> quinn::ServerConfig {
    let mut transport = common();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(PEER_REQUESTS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(MAX_REQUEST as u32))
        .receive_window(VarInt::from_u32(PEER_RECEIVE_WINDOW))
        .send_window(2 * MAX_RESPONSE as u64);
    let mut config = server(tls, transport);
    // A NAT may give a node another port, or the node another network: QUIC makes sure of the new
    // address and goes on there.
    config.migration(true);
    config
}

/// A node as a server, for connections on paths that stay.
pub(crate) fn node_server(tls: rustls::ServerConfig) -> quinn::ServerConfig {
    let mut config = server(tls, node(PathSignal::new(PathClass::Direct, Instant::now())));
    // A changed path is the path socket's matter, below QUIC.
    config.migration(false);
    // Address tokens would let a node recognise a caller before it shows who it is.
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config.validation_token_config(tokens);
    config
}

/// The same server, for one connection on the path that `signal` is told.
pub(crate) fn node_server_on(
    config: &quinn::ServerConfig,
    signal: Arc<PathSignal>,
) -> quinn::ServerConfig {
    let mut config = config.clone();
    config.transport_config(Arc::new(node(signal)));
    config
}

/// Whether a client keeps the address tokens of servers. They make a later handshake cheaper
/// under load, and tell the server that two connections have the same origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    Keep,
    Refuse,
}

fn client(
    tls: rustls::ClientConfig,
    transport: TransportConfig,
    tokens: Tokens,
) -> quinn::ClientConfig {
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    if tokens == Tokens::Refuse {
        config.token_store(Arc::new(NoneTokenStore));
    }
    config
}

fn server(tls: rustls::ServerConfig, transport: TransportConfig) -> quinn::ServerConfig {
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    config
}

fn node(signal: Arc<PathSignal>) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(NODE_MAX_MTU).interval(NODE_MTU_INTERVAL);
    let mut transport = common();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(NODE_BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(NODE_UNI_STREAMS))
        .stream_receive_window(VarInt::from_u32(NODE_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(NODE_RECEIVE_WINDOW))
        .send_window(NODE_SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(PathAwareConfig::new(signal));
    transport
}

fn common() -> TransportConfig {
    let idle = IDLE_TIMEOUT.try_into().expect("a minute fits in QUIC's 62 bits of milliseconds");
    let mut transport = TransportConfig::default();
    // No QUIC datagrams: nothing uses them.
    transport.max_idle_timeout(Some(idle)).datagram_receive_buffer_size(None);
    transport
}
