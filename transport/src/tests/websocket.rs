//! A node and a rendezvous peer through a WebSocket, where UDP gets nowhere.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use halloo_wire::path::SocketId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::websocket::{
    Certificate, CertificateError, Limits, Listener, Proxy, TunnelEnd, TunnelError,
    WebSocketTunnel, connect_by,
};

/// A name that means nothing to the tests' sockets.
const HOST: &str = "peer.example.org";

/// A rendezvous peer that takes tunnels and answers everything that comes through them.
struct TunnelledPeer {
    peer: TestPeer,
    listener: Arc<Listener>,
    serving: JoinHandle<()>,
}

impl TunnelledPeer {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let peer = TestPeer::new();
        let listener = Arc::new(Listener::bind(loopback(), &peer.key, limits).unwrap());
        let (serving, endpoint) = (Arc::clone(&listener), peer.endpoint.clone());
        let serving = tokio::spawn(async move { serving.serve(&endpoint).await });
        Self { peer, listener, serving }
    }

    fn tcp(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    async fn tunnel(&self, node: &TestNode) -> WebSocketTunnel {
        connect_by(&node.endpoint, self.tcp(), HOST, self.peer.pinned(), None).await.unwrap()
    }
}

#[tokio::test]
async fn a_node_asks_a_peer_through_a_tunnel() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let tunnel = there.tunnel(&node).await;
    assert_eq!(tunnel.peer_fingerprint(), there.peer.key.fingerprint());

    let dial = node.endpoint.connect_peer(tunnel.addr(), there.peer.pinned(), Show::Device);
    let (client, server) = tokio::join!(dial, there.peer.accept());
    let client = client.unwrap();
    assert_eq!(server.device().unwrap().passport.fingerprint(), node.fingerprint());
    server.push(&Push::Superseded).await.unwrap();
    assert_eq!(client.next_push().await.unwrap(), Push::Superseded);

    tokio::spawn(async move { serve_client(&server).await });
    // Both directions, larger than what fits in any buffer on the way.
    let (small, large) = tokio::join!(ask(&client, look_up()), ask(&client, drop_envelope(50_000)));
    assert_eq!((small.unwrap(), large.unwrap()), (found(), dropped()));
}

#[tokio::test]
async fn a_peer_learns_from_where_a_tunnel_comes() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let tunnel = there.tunnel(&node).await;
    let dial = node.endpoint.connect_peer(tunnel.addr(), there.peer.pinned(), Show::Nothing);
    let (_client, server) = tokio::join!(dial, there.peer.accept());
    let source = there.peer.endpoint.tunnel_source(server.remote_addr()).unwrap();
    assert!(source.ip().is_loopback());
    assert_ne!(source, there.tcp());
}

#[tokio::test]
async fn dropping_the_tunnel_ends_it_on_both_sides() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let tunnel = there.tunnel(&node).await;
    until(|| there.listener.stats().open == 1).await;
    drop(tunnel);
    until(|| there.listener.stats().open == 0).await;
    assert_eq!(there.listener.stats().tunnels, 1);
}

#[tokio::test]
async fn a_peer_that_stops_ends_its_tunnels() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let tunnel = there.tunnel(&node).await;
    there.serving.abort();
    assert_eq!(tunnel.ended().await, TunnelEnd::Closed);
}

#[tokio::test]
async fn a_changed_peer_key_is_told_apart() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let expected = PeerKey::generate().fingerprint();
    let trust = PeerTrust::Pinned(expected);
    let refused = connect_by(&node.endpoint, there.tcp(), HOST, trust, None).await;
    let found = there.peer.key.fingerprint();
    assert_eq!(refused.unwrap_err(), TunnelError::PeerKeyChanged { expected, found });
    until(|| there.listener.stats().failed == 1).await;
}

#[tokio::test]
async fn on_first_use_the_tunnel_reports_the_fingerprint() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let trust = PeerTrust::FirstUse;
    let tunnel = connect_by(&node.endpoint, there.tcp(), HOST, trust, None).await.unwrap();
    assert_eq!(tunnel.peer_fingerprint(), there.peer.key.fingerprint());
}

#[tokio::test]
async fn what_is_no_peer_is_refused() {
    let node = TestNode::new();
    let connect = async |addr| {
        let trust = PeerTrust::FirstUse;
        connect_by(&node.endpoint, addr, HOST, trust, None).await.unwrap_err()
    };
    // A server that speaks TLS with a node's certificate, as a stranger would with his own.
    let chain = tls::node_credentials(&Identity::generate()).unwrap();
    let mut config = tls::peer_server(chain);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stranger = tls_server(config, b"").await;
    assert_eq!(connect(stranger).await, TunnelError::BadCertificate);
    // A peer's key, but another service.
    let mut config = tls::peer_server(tls::peer_credentials(&PeerKey::generate()).unwrap());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let other = tls_server(config, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(connect(other).await, TunnelError::NotTaken);
    // No TLS at all.
    let plain = TcpListener::bind(loopback()).await.unwrap();
    let addr = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = plain.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drain(&mut tcp).await;
    });
    assert_eq!(connect(addr).await, TunnelError::Incompatible);
    // Nobody.
    let vacant = TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    assert!(matches!(connect(vacant).await, TunnelError::Unreachable(_)));
}

#[tokio::test]
async fn a_host_that_is_no_name_is_refused_before_anything_is_sent() {
    let node = TestNode::new();
    for host in ["", "a b", "peer\r\nX: y"] {
        let refused =
            connect_by(&node.endpoint, node.addr(), host, PeerTrust::FirstUse, None).await;
        assert_eq!(refused.unwrap_err(), TunnelError::BadHost, "{host:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_tcp_and_says_nothing_is_given_up() {
    let node = TestNode::new();
    let silent = TcpListener::bind(loopback()).await.unwrap();
    let addr = silent.local_addr().unwrap();
    let refused = connect_by(&node.endpoint, addr, HOST, PeerTrust::FirstUse, None).await;
    assert_eq!(refused.unwrap_err(), TunnelError::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_tcp_and_says_nothing_is_given_up() {
    let there = TunnelledPeer::new();
    let mut silent = TcpStream::connect(there.tcp()).await.unwrap();
    // The peer ends it, after its deadline.
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
    assert_eq!(there.listener.stats().failed, 1);
}

#[tokio::test]
async fn garbage_instead_of_tls_costs_a_counter() {
    let there = TunnelledPeer::new();
    let mut garbage = TcpStream::connect(there.tcp()).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drain(&mut garbage).await;
    until(|| there.listener.stats().failed == 1).await;
}

#[tokio::test]
async fn a_browser_sees_a_line_of_text() {
    let there = TunnelledPeer::new();
    let mut tls = there.tls().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: peer.example.org\r\n\r\n").await.unwrap();
    let mut page = String::new();
    tls.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.ends_with("\r\n\r\nThis is a Halloo rendezvous peer.\n"), "{page}");
    assert_eq!(there.listener.stats().pages, 1);
}

#[tokio::test]
async fn what_is_no_datagram_ends_the_tunnel() {
    let there = TunnelledPeer::new();
    let frames = [
        Message::text("hello"),
        Message::binary(vec![0x40; 1601]),
        Message::Ping(vec![0; 126].into()),
    ];
    for frame in frames {
        let mut socket = there.socket().await;
        let _ = socket.send(frame).await;
        while let Some(Ok(_)) = socket.next().await {}
        until(|| there.listener.stats().open == 0).await;
    }
    assert_eq!(there.listener.stats().tunnels, 3);
}

#[tokio::test]
async fn the_largest_datagram_passes_and_an_empty_one_is_ignored() {
    let there = TunnelledPeer::new();
    let mut socket = there.socket().await;
    socket.send(Message::binary(Bytes::new())).await.unwrap();
    // Of no kind that the endpoint would keep.
    socket.send(Message::binary(vec![0x21; 1600])).await.unwrap();
    let unknown = || there.peer.endpoint.stats().unknown;
    until(|| unknown() == 1).await;
    assert_eq!(there.listener.stats().open, 1);
}

#[tokio::test]
async fn a_slow_reader_loses_the_oldest_and_holds_up_nobody() {
    const SENT: u32 = 20_000;
    let there = TunnelledPeer::new();
    let mut small = there.peer.endpoint.take_peer_datagrams().unwrap();
    let mut slow = there.socket().await;
    slow.send(Message::binary(vec![0x06; 40])).await.unwrap();
    let source = small.recv().await.unwrap().source;

    // 24 MB, more than all buffers on the way hold, while nobody reads.
    for n in 0..SENT {
        let mut datagram = vec![0x05; 1200];
        datagram[1..5].copy_from_slice(&n.to_be_bytes());
        there.peer.endpoint.send_datagram(SocketId::MAIN, source, &datagram).unwrap();
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // Another node is served meanwhile.
    let node = TestNode::new();
    let tunnel = there.tunnel(&node).await;
    there.peer.serve();
    let (addr, pinned) = (tunnel.addr(), there.peer.pinned());
    let client = node.endpoint.connect_peer(addr, pinned, Show::Nothing).await.unwrap();
    assert_eq!(ask(&client, look_up()).await.unwrap(), found());

    let (mut arrived, mut last) = (0, 0);
    while last != SENT - 1 {
        if let Message::Binary(datagram) = slow.next().await.unwrap().unwrap() {
            let n = u32::from_be_bytes(datagram[1..5].try_into().unwrap());
            assert!(arrived == 0 || n > last, "in order");
            (arrived, last) = (arrived + 1, n);
        }
    }
    assert!(arrived < SENT, "all of {SENT} were kept for a reader that did not read");
}

#[tokio::test]
async fn a_side_that_vanished_is_given_up() {
    let there = TunnelledPeer::new();
    let mut mute = there.socket().await;
    until(|| there.listener.stats().open == 1).await;
    tokio::time::pause();
    // A node would ping; this one says nothing, and hears the peer end it after a minute.
    let began = tokio::time::Instant::now();
    while let Some(Ok(_)) = mute.next().await {}
    assert!(began.elapsed() >= std::time::Duration::from_secs(60));
    until(|| there.listener.stats().open == 0).await;
}

#[tokio::test]
async fn a_quiet_tunnel_stays_open() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let tunnel = there.tunnel(&node).await;
    until(|| there.listener.stats().open == 1).await;
    tokio::time::pause();
    for _ in 0..20 {
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        // The ping and its answer need a few turns of the system's.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    let dial = node.endpoint.connect_peer(tunnel.addr(), there.peer.pinned(), Show::Nothing);
    let (client, _server) = tokio::join!(dial, there.peer.accept());
    client.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_unanswered() {
    let there = TunnelledPeer::with(Limits { connections_per_source: 1, ..Limits::default() });
    let node = TestNode::new();
    let first = there.tunnel(&node).await;
    let second =
        connect_by(&node.endpoint, there.tcp(), HOST, there.peer.pinned(), None).await.unwrap_err();
    assert!(matches!(second, TunnelError::Lost(_)), "{second}");
    assert_eq!(there.listener.stats().refused, 1);
    drop(first);
    until(|| there.listener.stats().open == 0).await;
    let _third = there.tunnel(&node).await;
}

#[tokio::test]
async fn a_proxy_that_lets_it_through_is_a_way() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let (proxy, asked) = connect_proxy(there.tcp(), "HTTP/1.1 200 Connection established").await;
    let port = there.tcp().port();
    let tunnel =
        connect_by(&node.endpoint, there.tcp(), HOST, there.peer.pinned(), Some(&proxy)).await;
    let tunnel = tunnel.unwrap();
    there.peer.serve();
    let (addr, pinned) = (tunnel.addr(), there.peer.pinned());
    let client = node.endpoint.connect_peer(addr, pinned, Show::Nothing).await.unwrap();
    assert_eq!(ask(&client, look_up()).await.unwrap(), found());
    assert!(asked.await.unwrap().starts_with(&format!("CONNECT {HOST}:{port} HTTP/1.1\r\n")));
}

#[tokio::test]
async fn a_proxy_that_refuses_says_why() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    for (answer, expected) in [
        ("HTTP/1.1 407 Proxy Authentication Required", TunnelError::ProxyRefused(407)),
        ("HTTP/1.0 403 Forbidden", TunnelError::ProxyRefused(403)),
        ("SSH-2.0-OpenSSH_9.9", TunnelError::ProxyUnusable),
    ] {
        let (proxy, _asked) = connect_proxy(there.tcp(), answer).await;
        let refused =
            connect_by(&node.endpoint, there.tcp(), HOST, there.peer.pinned(), Some(&proxy)).await;
        assert_eq!(refused.unwrap_err(), expected);
    }
    assert_eq!(there.listener.stats(), Default::default());
}

/// A certificate for [`HOST`] and its key, in PEM.
fn pair() -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([HOST.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

#[tokio::test]
async fn who_is_no_node_sees_the_certificate_of_an_authority() {
    let (node, there) = (TestNode::new(), TunnelledPeer::new());
    let open = there.tunnel(&node).await;
    let (certificate, key) = pair();
    let shown = Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    there.listener.show(Some(shown.unwrap()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let browse = async || {
        // It knows nothing of hybrid key exchanges, as many programs do not.
        let kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let provider = rustls::crypto::CryptoProvider { kx_groups, ..provider };
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let tcp = TcpStream::connect(there.tcp()).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let mut browser = browse().await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut page = String::new();
    browser.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    // A node finds the key that it has pinned, and who was there before stays.
    assert_eq!(there.tunnel(&node).await.peer_fingerprint(), there.peer.key.fingerprint());
    assert!(!open.has_ended());
    there.listener.show(None);
    assert!(browse().await.is_err());
    assert_eq!(there.tunnel(&node).await.peer_fingerprint(), there.peer.key.fingerprint());
}

#[test]
fn a_pair_that_does_not_fit_is_named() {
    let ((certificate, key), (_, other)) = (pair(), pair());
    let (chain, key, other) = (certificate.pem(), key.serialize_pem(), other.serialize_pem());
    let read = |chain: &str, key: &str| {
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).map(|it| it.not_after()).err()
    };
    assert_eq!(read(&chain, &key), None);
    assert_eq!(read("", &key), Some(CertificateError::NoCertificate));
    assert_eq!(read(&key, &key), Some(CertificateError::NoCertificate));
    assert_eq!(read(&chain.repeat(11), &key), Some(CertificateError::TooLong));
    assert_eq!(read(&chain, &chain), Some(CertificateError::NoKey));
    assert_eq!(read(&chain, &other), Some(CertificateError::Mismatch));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(read(nonsense, &key), Some(CertificateError::BadCertificate));
}

impl TunnelledPeer {
    /// A TLS connection of something that is no node.
    async fn tls(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.tcp()).await.unwrap();
        let mut config = tls::peer_client(self.peer.pinned(), None);
        config.alpn_protocols.clear();
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    /// A WebSocket of something that is no node.
    async fn socket(&self) -> WebSocketStream<TlsStream<TcpStream>> {
        let uri = format!("wss://{HOST}/halloo").parse().unwrap();
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("halloo-peer.2");
        tokio_tungstenite::client_async(request, self.tls().await).await.unwrap().0
    }
}

/// A server that answers the first bytes of one client with `answer`.
async fn tls_server(config: rustls::ServerConfig, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        if let Ok(mut tls) = acceptor.accept(tcp).await {
            let _ = tls.read(&mut [0; 2048]).await;
            let _ = tls.write_all(answer).await;
            let _ = tls.shutdown().await;
        }
    });
    addr
}

/// A proxy that answers one client with the status line `answer`, and connects it with `to` if
/// that is a success. Tells what it was asked.
async fn connect_proxy(to: SocketAddr, answer: &'static str) -> (Proxy, JoinHandle<String>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let proxy = Proxy::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let asked = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            tcp.read_buf(&mut head).await.unwrap();
        }
        tcp.write_all(format!("{answer}\r\nvia: test\r\n\r\n").as_bytes()).await.unwrap();
        if answer.contains(" 200 ") {
            let mut further = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut tcp, &mut further).await });
        }
        String::from_utf8(head).unwrap()
    });
    (proxy, asked)
}

async fn drain(tcp: &mut TcpStream) {
    let _ = tcp.read_to_end(&mut Vec::new()).await;
}
