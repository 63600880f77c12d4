//! What is not UDP, under QUIC and relay frames alike.

use bytes::Bytes;
use halloo_wire::path::SocketId;
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{ChannelId, Side};
use tokio::task::JoinHandle;

use super::paths::{Contacts, TestRelay, connect, transfer};
use super::*;

/// A stream between two tunnels, as a WebSocket would be.
fn joined(a: Tunnel, b: Tunnel) -> JoinHandle<()> {
    let ((mut from_a, to_a), (mut from_b, to_b)) = (a.split(), b.split());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(datagram) = from_a.recv() => to_b.inject(datagram),
                Some(datagram) = from_b.recv() => to_a.inject(datagram),
                else => return,
            }
        }
    })
}

#[tokio::test]
async fn a_peer_is_reached_through_a_tunnel() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    node.endpoint.set_strangers(Strangers::Refuse);
    let at_node = node.endpoint.open_tunnel();
    let tcp: SocketAddr = ([192, 0, 2, 7], 50_000).into();
    let at_peer = peer.endpoint.open_tunnel_from(tcp);
    let (addr, other) = (at_node.addr(), at_peer.addr());
    let stream = joined(at_node, at_peer);

    let (client, server) =
        tokio::join!(node.endpoint.connect_peer(addr, peer.pinned(), Show::Device), peer.accept());
    let (client, server) = (client.unwrap(), server);

    assert_eq!((client.remote_addr(), server.remote_addr()), (addr, other));
    assert_eq!((server.tunnelled(), server.origin()), (true, tcp));
    assert_eq!(peer.endpoint.tunnel_source(other), Some(tcp));
    assert_eq!(node.endpoint.tunnel_source(addr), None);
    let (answer, ()) = tokio::join!(ask(&client, look_up()), async {
        let request = server.accept_request().await.unwrap();
        request.responder.send(&found()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), found());
    // UDP had no part in it.
    assert_eq!(peer.endpoint.socket_addr(SocketId::MAIN), Some(peer.addr()));
    stream.abort();
}

#[tokio::test]
async fn a_connection_over_udp_has_no_tunnel() {
    let (node, _peer, _client, server) = connected(Show::Nothing).await;
    assert_eq!((server.tunnelled(), server.origin()), (false, node.addr()));
}

#[tokio::test]
async fn one_end_of_a_relay_may_be_behind_a_tunnel() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let relay = TestRelay::between(alice.addr(), bob.addr());
    let (at_alice, at_peer) = (alice.endpoint.open_tunnel(), relay.peer.endpoint.open_tunnel());
    let via = at_alice.addr();
    relay.table.set_end(Side::Caller, at_peer.addr());
    let _stream = joined(at_alice, at_peer);
    let (route, at_bob) = (alice.endpoint.open_route(), bob.endpoint.open_route());
    route.set_relay(Some(RelayPath { via, ..relay.path(Side::Caller) }));
    at_bob.set_relay(Some(relay.path(Side::Callee)));

    let (dialed, accepted) = connect(&alice, &bob, &route).await;
    transfer(&dialed, &accepted, 1 << 20).0.await.unwrap();
    transfer(&accepted, &dialed, 1 << 20).0.await.unwrap();

    assert_eq!(alice.endpoint.stats().relay_dropped, 0);
    assert!(route.stats().relay_heard > 1 << 20);
}

#[tokio::test]
async fn a_full_relay_queue_drops_and_never_blocks_others() {
    let it = Contacts::new().await;
    // A second contact of Alice's behind a tunnel that nobody empties.
    let stuck = it.alice.endpoint.open_tunnel();
    let route = it.alice.endpoint.open_route();
    let channel = ChannelId(0x66 << 8);
    let via = stuck.addr();
    let dropped = || it.alice.endpoint.stats().send_dropped;
    let before = dropped();
    let fill = PeerDatagram::Keep { channel }.encode();
    for _ in 0..TUNNEL_QUEUE + 7 {
        it.alice.endpoint.send_datagram(SocketId::MAIN, via, &fill).unwrap();
    }
    assert_eq!(dropped(), before + 7);
    route.set_relay(Some(RelayPath { via, channel }));
    let lost = tokio::spawn({
        let (endpoint, route) = (it.alice.endpoint.clone(), route.clone());
        let nobody = Identity::generate().fingerprint();
        async move { endpoint.connect_node_by(&route, &nobody).await }
    });
    until(|| route.stats().relay_sent > 0).await;

    transfer(&it.dialed, &it.accepted, 1 << 20).0.await.unwrap();

    it.assert_quic_noticed_nothing();
    assert_unanswered(lost).await;
}

#[tokio::test]
async fn a_tunnel_takes_what_a_socket_takes_and_probes_it_does_not() {
    let bob = TestNode::new();
    let mut peers = bob.endpoint.take_peer_datagrams().unwrap();
    let mut probes = bob.endpoint.take_probes().unwrap();
    let (outgoing, injector) = bob.endpoint.open_tunnel().split();
    let keep = PeerDatagram::Keep { channel: ChannelId(4) }.encode();

    injector.inject(Bytes::from(keep.clone()));
    injector.inject(Bytes::from_static(&[0x04; 60]));
    injector.inject(Bytes::from_static(&[0x80; 60]));
    injector.inject(Bytes::new());

    let arrived = peers.recv().await.unwrap();
    assert_eq!((arrived.source, &arrived.datagram[..]), (injector.addr(), &keep[..]));
    assert!(probes.try_recv().is_err());
    assert_eq!(bob.endpoint.stats().unknown, 3);

    // Closed, its address leads nowhere.
    let addr = injector.addr();
    drop((outgoing, injector));
    bob.endpoint.send_datagram(SocketId::MAIN, addr, &keep).unwrap();
    assert_eq!(bob.endpoint.stats().send_dropped, 1);
}
