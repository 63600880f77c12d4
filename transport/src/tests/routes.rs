//! One connection, several paths.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use halloo_wire::Side;
use halloo_wire::datagram::Probe;
use halloo_wire::limits::MAX_KNOCK_DATAGRAMS;
use halloo_wire::path::{DirectPath, SocketId};

use super::paths::{Contacts, Nat, TestRelay, connect, direct, transfer};
use super::*;

const MEGABYTE: usize = 1 << 20;

#[tokio::test]
async fn a_handshake_begins_in_a_knock_and_goes_on_through_the_relay() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    bob.endpoint.set_strangers(Strangers::Refuse);
    let relay = TestRelay::between(alice.addr(), bob.addr());
    let at_alice = alice.endpoint.open_route();
    let fingerprint = bob.fingerprint();
    let dialling = tokio::spawn({
        let (endpoint, route) = (alice.endpoint.clone(), at_alice.clone());
        async move { endpoint.connect_node_by(&route, &fingerprint).await }
    });

    // The knock takes the first flight along, and the answers find the relay's channel.
    let first = first_flight(&at_alice, MAX_KNOCK_DATAGRAMS).await;
    assert!(first.len() <= MAX_KNOCK_DATAGRAMS);
    assert!(first.iter().all(|it| it.len() >= 1200), "a first flight is padded");
    at_alice.set_relay(Some(relay.path(Side::Caller)));
    let at_bob = bob.endpoint.open_route();
    at_bob.set_relay(Some(relay.path(Side::Callee)));
    for datagram in first {
        at_bob.inject(datagram);
    }

    let incoming = bob.endpoint.accept().await.unwrap();
    assert_eq!(incoming.remote_addr(), at_bob.virtual_addr());
    let Accepted::Node(accepted) = incoming.handshake().await.unwrap() else { panic!("a node") };
    let dialed = dialling.await.unwrap().unwrap();
    assert_eq!(accepted.fingerprint(), alice.fingerprint());
    assert_eq!(accepted.route(), Some(at_bob.virtual_addr()));
    assert_eq!(dialed.route(), Some(at_alice.virtual_addr()));
    transfer(&dialed, &accepted, 100_000).0.await.unwrap();
}

/// The beginning of a connection, however busy the machine is.
async fn first_flight(route: &Route, max: usize) -> Vec<Bytes> {
    loop {
        let first = route.first_datagrams(max).await;
        if !first.is_empty() {
            return first;
        }
    }
}

#[tokio::test]
async fn a_stream_moves_between_relay_and_direct_path_and_quic_does_not_notice() {
    let it = Contacts::new().await;
    let (task, _) = transfer(&it.dialed, &it.accepted, 16 * MEGABYTE);
    let relayed = || it.at_alice.stats().relay_sent;
    let direct = || it.at_alice.stats().direct_sent;
    let a_piece = MEGABYTE as u64;

    until(|| relayed() > a_piece || task.is_finished()).await;
    it.go_direct();
    until(|| direct() > a_piece || task.is_finished()).await;
    let before = relayed();
    it.go_relayed();
    until(|| relayed() > before + a_piece || task.is_finished()).await;
    assert!(!task.is_finished(), "it moved while the stream flowed");
    it.go_direct();
    task.await.unwrap();

    it.assert_quic_noticed_nothing();
    for (route, of) in [(&it.at_alice, "alice"), (&it.at_bob, "bob")] {
        let stats = route.stats();
        assert_eq!(stats.switches, 3, "{of}");
        assert!(stats.direct_sent > 0 && stats.relay_sent > 0, "{of}: {stats:?}");
        assert!(stats.direct_heard > 0 && stats.relay_heard > 0, "{of}: {stats:?}");
        let traffic = route.traffic();
        assert!(traffic.heard_direct.is_some() && traffic.heard_relay.is_some(), "{of}");
    }
    assert!(it.relay.frames() > 1500, "the relay has carried its pieces");
    assert!(it.at_alice.traffic().sent.is_some());
}

#[tokio::test]
async fn a_relay_sees_batches() {
    let it = Contacts::new().await;
    transfer(&it.dialed, &it.accepted, 4 * MEGABYTE).0.await.unwrap();
    let (frames, batches) = (it.relay.frames(), it.relay.table.batches.load(Ordering::Relaxed));
    // Where the system can do it, several frames come and go at once.
    if it.relay.peer.endpoint.offloads() {
        assert!(frames > 2 * batches, "{frames} frames in {batches} batches");
    }
    let stats = it.relay.peer.endpoint.stats();
    assert_eq!(stats.forwarded + stats.relay_dropped, frames as u64);
}

#[tokio::test]
async fn duplicates_on_both_paths_are_harmless() {
    let it = Contacts::new().await;
    it.send_on(SendOn::Both);
    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    transfer(&it.accepted, &it.dialed, MEGABYTE).0.await.unwrap();
    it.assert_quic_noticed_nothing();
    let stats = it.at_alice.stats();
    assert!(stats.relay_sent > MEGABYTE as u64 && stats.direct_sent > MEGABYTE as u64);
}

#[tokio::test]
async fn one_dead_path_of_two_is_not_felt() {
    let it = Contacts::new().await;
    it.send_on(SendOn::Both);
    it.relay.table.broken.store(true, Ordering::Relaxed);
    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    it.assert_quic_noticed_nothing();
}

#[tokio::test]
async fn a_nat_rebinding_costs_nothing_and_nothing_is_sent_to_an_unvalidated_source() {
    let it = Contacts::new().await;
    let nat = Nat::between(it.alice.addr(), it.bob.addr()).await;
    let mut new_sources = it.bob.endpoint.take_new_sources().unwrap();
    for (route, path) in [(&it.at_alice, nat.inside()), (&it.at_bob, nat.outside())] {
        route.add_source(direct(path));
        route.set_send(SendOn::Direct(direct(path)));
    }
    transfer(&it.dialed, &it.accepted, 100_000).0.await.unwrap();
    assert!(nat.heard()[0] > 0);
    assert!(new_sources.try_recv().is_err(), "nothing has come from elsewhere");

    // What Alice sends from here on comes from an address that Bob has never heard of.
    nat.rebind().await;
    transfer(&it.dialed, &it.accepted, 100_000).0.await.unwrap();

    let reported = NewSource {
        route: it.at_bob.virtual_addr(),
        socket: SocketId::MAIN,
        source: nat.outside(),
    };
    assert_eq!(new_sources.recv().await, Some(reported));
    assert_eq!(nat.heard()[1], 0, "Bob has answered to where he knows her");

    // Once probes have authenticated it, everything goes there.
    it.at_bob.add_source(direct(nat.outside()));
    it.at_bob.set_send(SendOn::Direct(direct(nat.outside())));
    let before = nat.heard()[0];
    transfer(&it.accepted, &it.dialed, 100_000).0.await.unwrap();
    assert!(nat.heard()[1] > 0);
    assert!(nat.heard()[0] - before < nat.heard()[1], "what was under way at most");
    it.assert_quic_noticed_nothing();
}

#[tokio::test]
async fn strangers_are_not_heard_and_not_answered() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    bob.endpoint.set_strangers(Strangers::Refuse);
    let fingerprint = bob.fingerprint();
    let dialling = tokio::spawn({
        let endpoint = alice.endpoint.clone();
        let addr = bob.addr();
        async move { endpoint.connect_node(addr, &fingerprint).await }
    });
    until(|| bob.endpoint.stats().refused > 0).await;
    assert_eq!(alice.endpoint.stats().quic, 0, "not even a version or a reset");
    assert_unanswered(dialling).await;

    // Whom one has dialled is no stranger.
    let peer = TestPeer::new();
    peer.serve();
    let client =
        bob.endpoint.connect_peer(peer.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    assert_eq!(client.request(&look_up()).await.unwrap(), found());
}

#[tokio::test]
async fn a_source_that_was_taken_away_is_a_strangers() {
    let it = Contacts::new().await;
    it.go_direct();
    transfer(&it.dialed, &it.accepted, 10_000).0.await.unwrap();
    let alice = direct(it.alice.addr());

    it.at_bob.remove_source(alice);

    assert_eq!(it.at_bob.send_on(), SendOn::Relay, "it was the one that was sent to");
    // It is Alice all the same, by her connection's id, and reported.
    let mut new_sources = it.bob.endpoint.take_new_sources().unwrap();
    transfer(&it.dialed, &it.accepted, 10_000).0.await.unwrap();
    assert_eq!(new_sources.recv().await.unwrap().source, alice.remote);
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_at_once_share_a_path() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let relay = TestRelay::between(alice.addr(), bob.addr());
    let first = Contacts::between(alice, bob, relay).await;
    first.go_direct();
    // A second pair of routes over the same addresses, dialled the other way.
    let (alice, bob) = (&first.alice, &first.bob);
    let second_relay = TestRelay::between(bob.addr(), alice.addr());
    second_relay.table.other.store(0x4242, Ordering::Relaxed);
    let (back_at_bob, back_at_alice) = (bob.endpoint.open_route(), alice.endpoint.open_route());
    back_at_bob.set_relay(Some(second_relay.path(Side::Caller)));
    back_at_alice.set_relay(Some(second_relay.path(Side::Callee)));
    let (dialed, accepted) = connect(bob, alice, &back_at_bob).await;
    for (route, remote) in [(&back_at_bob, alice.addr()), (&back_at_alice, bob.addr())] {
        route.add_source(direct(remote));
        route.set_send(SendOn::Direct(direct(remote)));
    }

    let both = [
        transfer(&first.dialed, &first.accepted, MEGABYTE).0,
        transfer(&dialed, &accepted, MEGABYTE).0,
        transfer(&accepted, &dialed, MEGABYTE).0,
    ];
    for task in both {
        task.await.unwrap();
    }
    first.assert_quic_noticed_nothing();
    assert_eq!((dialed.close_reason(), accepted.close_reason()), (None, None));
    assert!(back_at_alice.stats().direct_heard > MEGABYTE as u64);
}

#[tokio::test]
async fn a_path_may_use_a_socket_of_its_own() {
    let it = Contacts::new().await;
    let sockets = it.alice.endpoint.open_sockets(3).unwrap();
    let own = sockets[1];
    let seen = it.alice.endpoint.socket_addr(own).unwrap();
    assert_ne!(seen, it.alice.addr());

    // Probes arrive there, with the socket's name.
    let mut probes = it.alice.endpoint.take_probes().unwrap();
    let probe = Probe { key_id: 7, sealed: vec![1; 20] }.encode();
    it.bob.endpoint.send_datagram(SocketId::MAIN, seen, &probe).unwrap();
    let arrived = Arrived { socket: own, source: it.bob.addr(), datagram: probe.into() };
    assert_eq!(probes.recv().await, Some(arrived));

    let path = DirectPath { socket: own, remote: it.bob.addr() };
    for (route, path) in [(&it.at_alice, path), (&it.at_bob, direct(seen))] {
        route.add_source(path);
        route.set_send(SendOn::Direct(path));
    }
    let relayed = it.relay.frames();
    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    transfer(&it.accepted, &it.dialed, MEGABYTE).0.await.unwrap();
    assert!(it.relay.frames() < relayed + 100, "it is not the relay that carried them");

    // The socket is gone, and the connection goes on through the relay.
    it.alice.endpoint.close_socket(own);
    it.at_bob.set_send(SendOn::Relay);
    assert_eq!(it.at_alice.send_on(), SendOn::Relay);
    assert_eq!(it.alice.endpoint.socket_addr(own), None);
    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    it.assert_quic_noticed_nothing();
}

#[tokio::test]
async fn an_unreachable_direct_path_falls_back_to_the_relay_at_once() {
    let it = Contacts::new().await;
    it.go_direct();
    transfer(&it.dialed, &it.accepted, 10_000).0.await.unwrap();

    // The system refuses to send there: a broadcast without leave.
    it.at_alice.set_send(SendOn::Direct(direct(([255, 255, 255, 255], 9).into())));
    transfer(&it.dialed, &it.accepted, 100_000).0.await.unwrap();

    assert!(it.at_alice.traffic().unreachable.is_some());
    assert!(it.alice.endpoint.stats().send_errors > 0);
    it.assert_quic_noticed_nothing();
}

#[tokio::test]
async fn whoever_watches_a_path_sleeps_while_nothing_is_asked_of_it() {
    let it = Contacts::new().await;
    it.go_direct();
    let watcher = tokio::spawn({
        let route = it.at_alice.clone();
        async move {
            let before = route.traffic().sent;
            route.sent().await;
            (before, route.traffic().sent)
        }
    });
    transfer(&it.dialed, &it.accepted, 100_000).0.await.unwrap();
    let (before, after) = watcher.await.unwrap();
    assert!(after.is_some() && after > before);
}

#[tokio::test]
async fn a_route_without_a_path_keeps_the_first_datagrams_and_loses_the_newest() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let route = alice.endpoint.open_route();
    let fingerprint = bob.fingerprint();
    let dialling = tokio::spawn({
        let (endpoint, route) = (alice.endpoint.clone(), route.clone());
        async move { endpoint.connect_node_by(&route, &fingerprint).await }
    });
    let first = first_flight(&route, 1).await;
    assert_eq!(first.len(), 1);
    // What is left, and what QUIC says when nobody answers.
    let rest = route.first_datagrams(100).await;
    assert!(first.iter().chain(&rest).all(|it| it[0] & 0xf0 == 0xc0), "first packets all");
    assert!(route.first_datagrams(4).await.len() <= 8);
    dialling.abort();
}

#[tokio::test]
async fn a_route_that_was_dropped_carries_nothing() {
    let it = Contacts::new().await;
    it.go_direct();
    transfer(&it.dialed, &it.accepted, 10_000).0.await.unwrap();
    let addr = it.at_alice.virtual_addr();
    let again = it.at_alice.clone();

    drop(it.at_alice);
    transfer(&it.dialed, &it.accepted, 10_000).0.await.unwrap();
    assert_eq!(again.virtual_addr(), addr);
    drop(again);

    it.accepted.close(CloseCode::Done);
    until(|| it.alice.endpoint.stats().refused > 0).await;
    assert_eq!(it.dialed.close_reason(), None, "it has not heard it");
    let before = it.alice.endpoint.stats().send_dropped;
    it.dialed.close(CloseCode::Done);
    until(|| it.alice.endpoint.stats().send_dropped > before).await;
    assert_ne!(it.alice.endpoint.open_route().virtual_addr(), addr);
}

#[tokio::test]
async fn relayed_packets_stay_small_until_there_was_a_direct_path() {
    let it = Contacts::new().await;
    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    assert_eq!(it.relay.table.largest.load(Ordering::Relaxed), 1209);
    assert_eq!(it.dialed.path_stats().current_mtu, 1200);
    assert!(it.alice.endpoint.stats().send_dropped > 0, "QUIC has tried larger ones");
}

#[tokio::test]
async fn mtu_black_hole_on_the_relay_after_a_direct_path_is_found_out() {
    let it = Contacts::new().await;
    it.go_direct();
    // QUIC looks for the largest packet as data flows.
    while it.dialed.path_stats().current_mtu <= 1250 {
        transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();
    }
    // The way to the relay carries no more than QUIC's smallest packet, and says nothing.
    it.relay.table.carries.store(1209, Ordering::Relaxed);
    it.go_relayed();

    transfer(&it.dialed, &it.accepted, MEGABYTE).0.await.unwrap();

    assert_eq!(it.dialed.path_stats().current_mtu, 1200);
    it.assert_quic_noticed_nothing();
}

#[tokio::test]
async fn migration_is_off_for_nodes() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let nat = Nat::between(alice.addr(), bob.addr()).await;
    let fingerprint = bob.fingerprint();
    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node(nat.inside(), &fingerprint), bob.accept());
    let dialed = dialed.unwrap();
    let before = nat.outside();
    transfer(&dialed, &accepted, 10_000).0.await.unwrap();

    nat.rebind().await;
    let mut stream = dialed.open_uni().await.unwrap();
    let heard = bob.endpoint.stats().quic;
    stream.write_all(b"from elsewhere").await.unwrap();
    until(|| bob.endpoint.stats().quic > heard + 2).await;

    assert_eq!(accepted.remote_addr(), before);
    assert_eq!(nat.heard()[1], 0);
}

#[tokio::test]
async fn what_is_injected_is_quic_or_lost() {
    let bob = TestNode::new();
    let route = bob.endpoint.open_route();
    route.inject(Bytes::from_static(&[0x04; 40]));
    route.inject(Bytes::new());
    assert_eq!(bob.endpoint.stats().unknown, 2);
    for _ in 0..2000 {
        route.inject(Bytes::from_static(&[0x40; 40]));
    }
    assert!(bob.endpoint.stats().queue_dropped > 0);
}

#[tokio::test]
async fn only_what_is_not_quic_is_sent_beside_quic() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let mut probes = bob.endpoint.take_probes().unwrap();
    let probe = Probe { key_id: 7, sealed: vec![1; 20] }.encode();
    let send = |to, bytes: &[u8]| alice.endpoint.send_datagram(SocketId::MAIN, to, bytes);
    let refused = Err(std::io::ErrorKind::InvalidInput);
    let kind = |it: std::io::Result<()>| it.map_err(|e| e.kind());

    assert_eq!(kind(send(bob.addr(), &[0x40; 30])), refused);
    assert_eq!(kind(send(bob.addr(), &[0x80; 30])), refused);
    assert_eq!(kind(send(bob.addr(), &[])), refused);
    assert_eq!(kind(send(SocketAddr::new(bob.addr().ip(), 0), &probe)), refused);
    let route = alice.endpoint.open_route();
    assert_eq!(kind(send(route.virtual_addr(), &probe)), refused);
    let closed = alice.endpoint.send_datagram(SocketId(99), bob.addr(), &probe);
    assert_eq!(kind(closed), Err(std::io::ErrorKind::NotConnected));

    send(bob.addr(), &probe).unwrap();
    alice.endpoint.send_datagram_ttl(SocketId::MAIN, bob.addr(), &probe, 2).unwrap();
    for _ in 0..2 {
        assert_eq!(probes.recv().await.unwrap().source, alice.addr());
    }
}
