//! What shares the socket with QUIC, and what the system does to it.

use std::net::{Ipv6Addr, UdpSocket};

use halloo_wire::datagram::{Probe, RelayFrame};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{ChannelId, Side};
use quinn::AsyncUdpSocket;
use quinn::udp::Transmit;

use super::paths::{CHANNEL, OneChannel};
use super::proxy::Wire;
use super::*;
use crate::socket::PathSocket;

fn arrived(source: SocketAddr, datagram: Vec<u8>) -> Arrived {
    Arrived { socket: SocketId::MAIN, source, datagram: datagram.into() }
}

fn probe(i: u64) -> Vec<u8> {
    Probe { key_id: i, sealed: vec![9; Probe::MAX_SEALED] }.encode()
}

/// Sends and hears back `len` bytes, again and again, until the test ends.
async fn chatter(dialed: NodeConnection, accepted: NodeConnection, len: usize) {
    let echo = async {
        let (mut send, mut recv) = accepted.accept_bi().await.unwrap();
        let mut heard = vec![0; len];
        loop {
            recv.read_exact(&mut heard).await.unwrap();
            send.write_all(&heard).await.unwrap();
        }
    };
    let talk = async {
        let (mut send, mut recv) = dialed.open_bi().await.unwrap();
        let said: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut heard = vec![0; len];
        loop {
            send.write_all(&said).await.unwrap();
            recv.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, said);
        }
    };
    tokio::join!(echo, talk);
}

#[tokio::test]
async fn probes_and_peer_datagrams_arrive_whole_while_quic_flows() {
    let (_alice, bob, dialed, accepted) = two_nodes().await;
    let mut probes = bob.endpoint.take_probes().unwrap();
    let mut peers = bob.endpoint.take_peer_datagrams().unwrap();
    assert!(bob.endpoint.take_probes().is_none());
    assert!(bob.endpoint.take_peer_datagrams().is_none());
    let chatter = tokio::spawn(chatter(dialed, accepted, 50_000));
    let other = UdpSocket::bind(loopback()).unwrap();
    let source = other.local_addr().unwrap();

    for i in 0..300 {
        other.send_to(&probe(i), bob.addr()).unwrap();
        assert_eq!(probes.recv().await.unwrap(), arrived(source, probe(i)));
        let keep = PeerDatagram::Keep { channel: ChannelId(i) }.encode();
        other.send_to(&keep, bob.addr()).unwrap();
        assert_eq!(peers.recv().await.unwrap(), arrived(source, keep));
    }

    let heard = bob.endpoint.stats().quic;
    until(|| bob.endpoint.stats().quic > heard + 100 || chatter.is_finished()).await;
    assert!(!chatter.is_finished(), "{:?}", chatter.await);
    chatter.abort();
    let stats = bob.endpoint.stats();
    assert_eq!((stats.probe, stats.peer, stats.unknown), (300, 300, 0));
    assert_eq!((stats.probe_dropped, stats.peer_dropped, stats.receive_errors), (0, 0, 0));
}

#[tokio::test]
async fn noise_is_counted_and_disturbs_nobody() {
    let (_alice, bob, dialed, accepted) = two_nodes().await;
    let chatter = tokio::spawn(chatter(dialed, accepted, 5_000));
    let other = UdpSocket::bind(loopback()).unwrap();

    // Unknown first bytes, a relay frame around noise, probes and relay frames of nobody's, an empty datagram, and
    // noise that calls itself QUIC.
    let unknown: Vec<u8> = (0..=255).filter(|b| b & 0x40 == 0 && *b != 4).collect();
    for &first in &unknown {
        other.send_to(&[first; 1300], bob.addr()).unwrap();
        until(|| bob.endpoint.stats().unknown > 0).await;
    }
    other.send_to(&[], bob.addr()).unwrap();
    other.send_to(&probe(1), bob.addr()).unwrap();
    let frame = RelayFrame { channel: ChannelId(1), datagram: &[0x40; 1200] }.encode();
    other.send_to(&frame, bob.addr()).unwrap();
    for first in (0..=255).filter(|b| b & 0x40 != 0) {
        other.send_to(&[first; 1300], bob.addr()).unwrap();
    }

    until(|| {
        let stats = bob.endpoint.stats();
        stats.unknown == unknown.len() as u64 + 1
            && (stats.probe_dropped, stats.relay_dropped) == (1, 1)
    })
    .await;
    let heard = bob.endpoint.stats().quic;
    until(|| bob.endpoint.stats().quic > heard + 100).await;
    assert!(!chatter.is_finished(), "{:?}", chatter.await);
    chatter.abort();
}

#[tokio::test]
async fn the_quic_bit_is_never_greased() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let wire = Wire::to(bob.addr()).await;
    let fingerprint = bob.fingerprint();
    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node(wire.addr(), &fingerprint), bob.accept());
    let chatter = tokio::spawn(chatter(dialed.unwrap(), accepted, 20_000));

    until(|| wire.seen(|it| &it.datagrams) > 2000 || chatter.is_finished()).await;

    assert!(!chatter.is_finished(), "{:?}", chatter.await);
    chatter.abort();
    assert_eq!(wire.seen(|it| &it.without_quic_bit), 0);
    assert_eq!((alice.endpoint.stats().unknown, bob.endpoint.stats().unknown), (0, 0));
}

/// Where the system refuses to send to: a broadcast without leave.
fn forbidden() -> SocketAddr {
    ([255, 255, 255, 255], 9).into()
}

#[tokio::test]
async fn a_datagram_that_cannot_be_sent_is_lost_like_any_other() {
    for listen in [loopback(), (Ipv6Addr::UNSPECIFIED, 0).into()] {
        let socket = PathSocket::bind(listen).unwrap();
        let to = |destination| Transmit {
            destination,
            ecn: None,
            contents: &[0x40; 30],
            segment_size: None,
            src_ip: None,
        };
        until_writable(&socket).await;
        socket.try_send(&to(forbidden())).unwrap();
        assert_eq!(socket.demux.stats().send_errors, 1);
        // Too large for any UDP datagram.
        socket.try_send(&Transmit { contents: &[0x40; 70_000], ..to(loopback()) }).unwrap();
        assert_eq!(socket.demux.stats().send_errors, 2);
    }
}

async fn until_writable(socket: &PathSocket) {
    let probe = Transmit {
        destination: (Ipv4Addr::LOCALHOST, 9).into(),
        ecn: None,
        contents: &[0x40; 30],
        segment_size: None,
        src_ip: None,
    };
    until(|| socket.try_send(&probe).is_ok()).await;
}

#[tokio::test]
async fn a_send_error_never_reaches_quic_and_does_not_harm_the_connections_of_the_socket() {
    let (alice, _bob, dialed, accepted) = two_nodes().await;
    let chatter = tokio::spawn(chatter(dialed, accepted, 1_000));
    let lost = tokio::spawn({
        let endpoint = alice.endpoint.clone();
        let nobody = Identity::generate().fingerprint();
        async move { endpoint.connect_node(forbidden(), &nobody).await }
    });

    until(|| alice.endpoint.stats().send_errors > 0).await;
    let heard = alice.endpoint.stats().quic;
    until(|| alice.endpoint.stats().quic > heard + 100).await;

    assert!(!chatter.is_finished(), "{:?}", chatter.await);
    chatter.abort();
    // It ends at its deadline, not by the error.
    assert_unanswered(lost).await;
}

#[tokio::test]
async fn ipv4_and_ipv6_share_a_socket() {
    let bob = TestNode::at((Ipv6Addr::UNSPECIFIED, 0).into());
    let port = bob.addr().port();
    let peer = TestPeer::at((Ipv6Addr::UNSPECIFIED, 0).into(), PeerKey::generate());
    peer.serve();
    let v4: SocketAddr = ([127, 0, 0, 1], port).into();
    let v6: SocketAddr = (Ipv6Addr::LOCALHOST, port).into();
    let fingerprint = bob.fingerprint();

    for (listen, to) in [
        (loopback(), v4),
        ((Ipv6Addr::LOCALHOST, 0).into(), v6),
        ((Ipv6Addr::UNSPECIFIED, 0).into(), v4),
        ((Ipv6Addr::UNSPECIFIED, 0).into(), v6),
    ] {
        let alice = TestNode::at(listen);
        let (dialed, accepted) =
            tokio::join!(alice.endpoint.connect_node(to, &fingerprint), bob.accept());
        // Each side knows the other by the address that people would write.
        assert_eq!(dialed.unwrap().remote_addr(), to);
        let seen = accepted.remote_addr();
        assert_eq!(seen, SocketAddr::new(to.ip(), alice.addr().port()));

        let to = SocketAddr::new(to.ip(), peer.addr().port());
        let client = alice.endpoint.connect_peer(to, peer.pinned(), Show::Nothing).await.unwrap();
        assert_eq!(client.request(&look_up()).await.unwrap(), found());
    }

    // A probe over IPv4 shows an IPv4 address.
    let mut probes = bob.endpoint.take_probes().unwrap();
    let other = UdpSocket::bind(loopback()).unwrap();
    other.send_to(&probe(7), v4).unwrap();
    assert_eq!(probes.recv().await.unwrap().source, other.local_addr().unwrap());
}

#[test]
fn local_addr_is_ipv6() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    for listen in [loopback(), (Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()] {
        let socket = PathSocket::bind(listen).unwrap();
        assert!(socket.local_addr().unwrap().is_ipv6());
        assert_eq!(socket.bound_addr().unwrap().ip(), listen.ip());
        let (v4, v6) = (loopback(), (Ipv6Addr::LOCALHOST, 1).into());
        assert_eq!(
            socket.can_reach(v4),
            !matches!(listen, SocketAddr::V6(a) if a.ip().is_loopback())
        );
        assert_eq!(socket.can_reach(v6), listen.is_ipv6());
    }
}

#[test]
fn binding_fails_with_a_reason() {
    let identity = Identity::generate();
    let role = EndpointRole::Node { identity: &identity };
    assert!(matches!(Endpoint::bind(loopback(), role), Err(BindError::NoRuntime)));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    let taken = UdpSocket::bind(loopback()).unwrap();
    let Err(BindError::Socket(e)) = Endpoint::bind(taken.local_addr().unwrap(), role) else {
        panic!("the port is taken")
    };
    assert_eq!(e.kind(), std::io::ErrorKind::AddrInUse);
}

/// A server with several addresses is asked at one, and who asked takes no answer from another.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_answers_and_forwards_from_the_address_that_was_asked() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let peer = TestPeer::at(listen.parse().unwrap(), PeerKey::generate());
        let table = Arc::<OneChannel>::default();
        peer.endpoint.set_forwarder(Arc::clone(&table) as Arc<dyn Forward>);
        let second = peer.endpoint.bind_second(0).unwrap();
        let nodes = [1, 2].map(|_| tokio::net::UdpSocket::bind("127.0.0.1:0"));
        let [alice, bob] = nodes;
        let (alice, bob) = (alice.await.unwrap(), bob.await.unwrap());
        let asked = [2, 3].map(|n| SocketAddr::from(([127, 0, 0, n], peer.addr().port())));
        let keep = PeerDatagram::Keep { channel: CHANNEL }.encode();
        let mut heard = [0; 2000];
        for (node, port, at) in [
            (&alice, peer.addr().port(), asked[0]),
            (&bob, peer.addr().port(), asked[1]),
            (&bob, second.port(), asked[1]),
            (&alice, peer.addr().port(), asked[0]),
        ] {
            let at = SocketAddr::new(at.ip(), port);
            node.send_to(&keep, at).await.unwrap();
            let (n, from) = node.recv_from(&mut heard).await.unwrap();
            assert_eq!((&heard[..n], from), (&keep[..], at));
        }

        table.set_end(Side::Caller, alice.local_addr().unwrap());
        table.set_end(Side::Callee, bob.local_addr().unwrap());
        let quic = [0x40; 100];
        for (from, to, side, there) in
            [(&alice, &bob, Side::Caller, 0), (&bob, &alice, Side::Callee, 1)]
        {
            let channel = CHANNEL.of(side);
            let frame = RelayFrame { channel, datagram: &quic }.encode();
            from.send_to(&frame, asked[there]).await.unwrap();
            let (n, via) = to.recv_from(&mut heard).await.unwrap();
            assert_eq!((&heard[..n], via), (&frame[..], asked[1 - there]));
        }
    }
}
