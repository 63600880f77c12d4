//! Nodes whose network blocks UDP.

use crate::common::{Line, Node, PATIENCE, envelope, tunnel};
use crate::library::running;
use crate::relay::{Routed, call, converse};
use halloo_transport::websocket::{self, TunnelError, WebSocketTunnel};
use halloo_transport::{CloseCode, ConnectionLost, PeerTrust, RelayPath, Show, SocketId};
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Push, Response};
use halloo_wire::peer_datagram::PeerDatagram;
use rendezvous_peer::{RunningPeer, WebSocketAddr};
use tokio::time::timeout;

fn node(peer: &RunningPeer) -> Node {
    Node::at(peer.local_addr(), peer.fingerprint())
}

/// A node that uses TCP and nothing else.
struct Tunnelled {
    node: Node,
    tunnel: WebSocketTunnel,
    line: Line,
}

impl Tunnelled {
    async fn connect(peer: &RunningPeer, show: Show) -> Self {
        let node = node(peer);
        let tunnel = tunnel(&node, peer.websocket_addr().unwrap()).await;
        let line = node.connect_at(tunnel.addr(), show).await;
        Self { node, tunnel, line }
    }

    async fn reachable(peer: &RunningPeer) -> Self {
        let mut it = Self::connect(peer, Show::Device).await;
        it.line.register(1).await;
        it.line.grant(&[1]).await;
        it
    }

    fn routed(&self) -> Routed<'_> {
        Routed { node: &self.node, line: &self.line, via: self.tunnel.addr() }
    }
}

#[tokio::test]
async fn a_node_without_udp_registers_drops_knocks_and_hears() {
    let (_dir, peer) = running(|config| {
        config.websocket = WebSocketAddr::At("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let bob = Tunnelled::reachable(&peer).await;
    assert_eq!(bob.line.observed.ip(), peer.local_addr().ip(), "its end of the TCP connection");
    assert_eq!(peer.inspect()[0].observed, None);

    let alice = Tunnelled::connect(&peer, Show::Nothing).await;
    let left = alice.line.ask(bob.node.drop_call(Lane::Contacts, 5, Some(1))).await;
    assert!(matches!(left, Response::Dropped(_)));
    let Push::Envelope(pushed) = bob.line.push().await else { panic!() };
    assert_eq!(pushed.envelope, envelope(Lane::Contacts, 5));

    let callee = alice.line.knock(bob.node.knock(1)).await.callee.unwrap();
    assert!(callee.observed.is_empty() && callee.channel.is_some());
    let Push::Knock { observed, channel, .. } = bob.line.push().await else { panic!() };
    assert!(observed.is_empty() && channel.is_some());
    assert_eq!(peer.websocket_stats().unwrap().open, 2);
    peer.shutdown().await;
}

#[tokio::test]
async fn nodes_without_udp_speak_through_the_relay() {
    let (_dir, peer) = running(|config| {
        config.websocket = WebSocketAddr::At("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let bob = Tunnelled::reachable(&peer).await;
    let alice = Tunnelled::connect(&peer, Show::Nothing).await;
    let ((at_alice, _a), (at_bob, _b)) = call(alice.routed(), bob.routed()).await;
    converse(&at_alice, &at_bob).await;
    // And somebody with UDP reaches who has none.
    let carol = node(&peer);
    let line = carol.connect(Show::Nothing).await;
    let caller = Routed { node: &carol, line: &line, via: peer.local_addr() };
    let ((at_carol, _c), (at_bob, _d)) = call(caller, bob.routed()).await;
    converse(&at_carol, &at_bob).await;
    assert_eq!(peer.stats().channels, 2);
}

#[tokio::test]
async fn an_end_of_a_channel_moves_into_a_tunnel_when_udp_is_gone() {
    let (_dir, peer) = running(|config| {
        config.websocket = WebSocketAddr::At("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let (bob, alice) = (node(&peer), node(&peer));
    let inbox = bob.reachable(&[1]).await;
    let line = alice.connect(Show::Nothing).await;
    let via = peer.local_addr();
    let mut small = alice.endpoint.take_peer_datagrams().unwrap();
    let caller = Routed { node: &alice, line: &line, via };
    let callee = Routed { node: &bob, line: &inbox, via };
    let ((at_alice, route), (at_bob, _b)) = call(caller, callee).await;
    converse(&at_alice, &at_bob).await;

    let tunnel = tunnel(&alice, peer.websocket_addr().unwrap()).await;
    let channel = route.relay().unwrap().channel;
    route.set_relay(Some(RelayPath { via: tunnel.addr(), channel }));
    let keep = PeerDatagram::Keep { channel }.encode();
    alice.endpoint.send_datagram(SocketId::MAIN, tunnel.addr(), &keep).unwrap();
    let arrived = timeout(PATIENCE, small.recv()).await.unwrap().unwrap();
    assert_eq!(arrived.source, tunnel.addr());
    let challenge = PeerDatagram::decode(&arrived.datagram).unwrap();
    let PeerDatagram::RelayChallenge { cookie, .. } = challenge else { panic!("{challenge:?}") };
    let answer = PeerDatagram::RelayAnswer { channel, cookie }.encode();
    alice.endpoint.send_datagram(SocketId::MAIN, tunnel.addr(), &answer).unwrap();
    converse(&at_alice, &at_bob).await;
    assert_eq!(peer.stats().relay_moves, 1);
}

#[tokio::test]
async fn a_stopping_peer_says_goodbye_through_the_tunnel() {
    let (_dir, peer) = running(|config| {
        config.websocket = WebSocketAddr::At("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let alice = Tunnelled::connect(&peer, Show::Nothing).await;
    peer.shutdown().await;
    assert!(matches!(alice.line.push().await, Push::Draining { .. }));
    let end = timeout(PATIENCE, alice.line.connection.closed()).await.unwrap();
    assert_eq!(end, ConnectionLost::Closed(CloseCode::ShuttingDown));
    timeout(PATIENCE, alice.tunnel.ended()).await.unwrap();
}

#[tokio::test]
async fn a_peer_without_websockets_takes_none() {
    let (_dir, peer) = running(|config| config.websocket = WebSocketAddr::Off).await;
    assert_eq!((peer.websocket_addr(), peer.websocket_stats()), (None, None));
    let node = node(&peer);
    let trust = PeerTrust::Pinned(peer.fingerprint());
    let there = peer.local_addr();
    let opening = websocket::connect_by(&node.endpoint, there, "127.0.0.1", trust, None);
    assert!(matches!(Box::pin(opening).await, Err(TunnelError::Unreachable(_))));
    node.connect(Show::Nothing).await;
}

#[tokio::test]
async fn a_tcp_port_that_is_taken_costs_the_websockets_only() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let (_dir, peer) = running(|config| config.listen = taken).await;
    assert_eq!((peer.local_addr(), peer.websocket_addr()), (taken, None));
    node(&peer).connect(Show::Nothing).await;
}
