//! What the socket makes of single buffers, without QUIC.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::sync::Mutex;

use halloo_wire::datagram::{Probe, RelayFrame};
use halloo_wire::path::{DirectPath, SocketId};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{ChannelId, Side};
use quinn::AsyncUdpSocket;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};

use super::*;
use crate::demux::PROBE_QUEUE;
use crate::socket::PathSocket;
use crate::udp::{Udp, mapped};

const CHANNEL: ChannelId = ChannelId(0x77 << 8);

fn source() -> SocketAddr {
    ([192, 0, 2, 1], 4000).into()
}

fn peer() -> SocketAddr {
    ([198, 51, 100, 1], 4433).into()
}

fn quic(id: u8, len: usize) -> Vec<u8> {
    let mut it = vec![id; len];
    it[0] = 0x41;
    it
}

fn frame(channel: ChannelId, datagram: &[u8]) -> Vec<u8> {
    RelayFrame { channel, datagram }.encode()
}

fn probe() -> Vec<u8> {
    Probe { key_id: 3, sealed: vec![9; Probe::MAX_SEALED] }.encode()
}

/// A socket with a route on it that has both kinds of path.
fn with_route() -> (Arc<PathSocket>, Route) {
    let socket = Arc::new(PathSocket::bind(loopback()).unwrap());
    let route = Route::open(&socket);
    route.add_source(DirectPath { socket: SocketId::MAIN, remote: source() });
    route.set_relay(Some(RelayPath { via: peer(), channel: CHANNEL.of(Side::Caller) }));
    (socket, route)
}

/// Sorts a buffer of datagrams of one size and perhaps a shorter one: what is left for QUIC.
fn sort(socket: &PathSocket, from: SocketAddr, datagrams: &[Vec<u8>]) -> (RecvMeta, Vec<u8>) {
    let mut buffer = datagrams.concat();
    let mut meta = RecvMeta {
        addr: from,
        len: buffer.len(),
        stride: datagrams[0].len(),
        ecn: Some(EcnCodepoint::Ce),
        dst_ip: Some(Ipv4Addr::LOCALHOST.into()),
    };
    socket.sort(SocketId::MAIN, &mut buffer, &mut meta);
    buffer.truncate(meta.len);
    (meta, buffer)
}

/// What QUIC receives next: each datagram with its source.
async fn receive(socket: &PathSocket) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut memory = vec![vec![0; 65_536]; 4];
    let mut bufs: Vec<_> = memory.iter_mut().map(|it| IoSliceMut::new(it)).collect();
    let mut meta = vec![RecvMeta::default(); 4];
    let n = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
    let datagrams = |(meta, buffer): (&RecvMeta, &Vec<u8>)| {
        let addr = meta.addr;
        let whole = buffer[..meta.len].chunks(meta.stride).map(move |it| (addr, it.to_vec()));
        whole.collect::<Vec<_>>()
    };
    meta.iter().zip(&memory).take(n).flat_map(datagrams).collect()
}

#[tokio::test]
async fn dst_ip_is_none_for_virtual_addresses() {
    let (socket, route) = with_route();
    let direct = sort(&socket, source(), &[quic(1, 1200), quic(1, 1200), quic(1, 80)]).0;
    let inner = [quic(2, 1200), quic(2, 80)];
    let frames: Vec<_> = inner.iter().map(|it| frame(CHANNEL.of(Side::Callee), it)).collect();
    let (relayed, left) = sort(&socket, peer(), &frames);

    for meta in [direct, relayed] {
        assert_eq!((meta.addr, meta.dst_ip), (route.virtual_addr(), None));
        assert_eq!((meta.stride, meta.ecn), (1200, Some(EcnCodepoint::Ce)));
    }
    assert_eq!(left, inner.concat(), "the frames were taken off where they lay");
    let real = sort(&socket, peer(), &[quic(3, 50)]).0;
    assert_eq!((real.addr, real.dst_ip), (mapped(peer()), Some(Ipv4Addr::LOCALHOST.into())));
}

#[tokio::test]
async fn gro_tails() {
    let (socket, route) = with_route();
    let mut probes = socket.demux.probes.take(PROBE_QUEUE).unwrap();
    // A probe behind a contact's QUIC.
    let (meta, left) = sort(&socket, source(), &[quic(1, 1200), quic(1, 1200), probe()]);
    assert_eq!(meta.addr, route.virtual_addr());
    assert_eq!(&left[..2400], [quic(1, 1200), quic(1, 1200)].concat());
    assert_eq!(probes.try_recv().unwrap().datagram, probe());

    // A relay frame behind the rendezvous peer's own QUIC, and the other way round.
    let relayed = frame(CHANNEL.of(Side::Callee), &quic(2, 600));
    let (meta, left) = sort(&socket, peer(), &[quic(3, 1200), relayed.clone()]);
    assert_eq!((meta.addr, &left[..1200]), (mapped(peer()), &quic(3, 1200)[..]));
    let (meta, _) = sort(&socket, peer(), &[relayed, quic(3, 100)]);
    assert_eq!(meta.addr, mapped(peer()));
    let expected = vec![(route.virtual_addr(), quic(2, 600)); 2];
    assert_eq!(receive(&socket).await, expected);

    // Frames of two channels at once.
    let other = Route::open(&socket);
    let channel = ChannelId(0x99 << 8);
    other.set_relay(Some(RelayPath { via: peer(), channel: channel.of(Side::Callee) }));
    let (meta, _) = sort(
        &socket,
        peer(),
        &[
            frame(CHANNEL.of(Side::Callee), &quic(4, 900)),
            frame(channel.of(Side::Caller), &quic(5, 900)),
        ],
    );
    assert_eq!(meta.len, 0);
    let got = receive(&socket).await;
    assert_eq!(got, [(route.virtual_addr(), quic(4, 900)), (other.virtual_addr(), quic(5, 900))]);
    assert_eq!(socket.demux.stats().unknown, 0);
}

#[tokio::test]
async fn relay_frames_are_taken_from_the_routes_own_peer_only() {
    let (socket, _route) = with_route();
    let theirs = frame(CHANNEL.of(Side::Callee), &quic(1, 100));
    let ours = frame(CHANNEL.of(Side::Caller), &quic(1, 100));
    let unknown = frame(ChannelId(1), &quic(1, 100));
    for (from, frame) in [(source(), &theirs), (peer(), &ours), (peer(), &unknown)] {
        assert_eq!(sort(&socket, from, std::slice::from_ref(frame)).0.len, 0);
        // In a buffer of several kinds as well.
        sort(&socket, from, &[frame.clone(), probe()]);
    }
    let stats = socket.demux.stats();
    assert_eq!((stats.relay, stats.relay_dropped, stats.unknown), (6, 6, 0));
    assert_ne!(sort(&socket, peer(), &[theirs]).0.len, 0);
}

#[tokio::test]
async fn nobody_has_a_virtual_address_from_outside() {
    let (socket, route) = with_route();
    let tunnel = Tunnel::open(&socket, None);
    let mut other = route.virtual_addr();
    other.set_port(1);
    for forged in [route.virtual_addr(), tunnel.addr(), other] {
        assert_eq!(sort(&socket, forged, &[quic(1, 100)]).0.len, 0);
        assert_eq!(sort(&socket, forged, &[quic(1, 100), probe()]).0.len, 0);
    }
    assert_eq!(socket.demux.stats().quic, 0);
}

#[tokio::test]
async fn a_connection_id_is_known_from_wherever_it_comes_until_its_route_is_gone() {
    let (socket, route) = with_route();
    let mut new_sources = socket.routes.new_sources.take(8).unwrap();
    socket.refuse_strangers.store(true, std::sync::atomic::Ordering::Relaxed);
    let elsewhere: SocketAddr = ([203, 0, 113, 5], 5).into();
    assert_eq!(sort(&socket, elsewhere, &[quic(1, 100)]).0.len, 0, "a stranger so far");
    assert_eq!(sort(&socket, source(), &[quic(1, 100)]).0.addr, route.virtual_addr());

    for _ in 0..3 {
        let (meta, _) = sort(&socket, elsewhere, &[quic(1, 100)]);
        assert_eq!((meta.addr, meta.len), (route.virtual_addr(), 100));
    }

    let expected =
        NewSource { route: route.virtual_addr(), socket: SocketId::MAIN, source: elsewhere };
    assert_eq!(new_sources.try_recv().unwrap(), expected);
    assert!(new_sources.try_recv().is_err(), "once a second is enough");
    // Another contact that uses the id does not take it over: QUIC drops what she sends under it.
    let mallory = Route::open(&socket);
    let hers: SocketAddr = ([203, 0, 113, 6], 6).into();
    mallory.add_source(DirectPath { socket: SocketId::MAIN, remote: hers });
    assert_eq!(sort(&socket, hers, &[quic(1, 100)]).0.addr, route.virtual_addr());
    assert_eq!(sort(&socket, hers, &[quic(50, 100)]).0.addr, mallory.virtual_addr());
    assert_eq!(sort(&socket, elsewhere, &[quic(1, 100)]).0.addr, route.virtual_addr());
    // And a contact's many ids are no burden.
    for id in 2..50 {
        sort(&socket, source(), &[quic(id, 100)]);
    }
    assert_eq!(sort(&socket, elsewhere, &[quic(49, 100)]).0.addr, route.virtual_addr());
    assert_eq!(sort(&socket, elsewhere, &[quic(1, 100)]).0.len, 0, "the oldest are forgotten");

    drop(route);
    assert_eq!(sort(&socket, elsewhere, &[quic(49, 100)]).0.len, 0);
    assert_eq!(sort(&socket, source(), &[quic(49, 100)]).0.len, 0);
}

#[tokio::test]
async fn a_contact_has_few_addresses_and_never_loses_the_one_in_use() {
    let (socket, route) = with_route();
    let path =
        |i: u16| DirectPath { socket: SocketId::MAIN, remote: ([203, 0, 113, 9], i + 1).into() };
    route.set_send(SendOn::Direct(DirectPath { socket: SocketId::MAIN, remote: source() }));
    for i in 0..40 {
        route.add_source(path(i));
        route.add_source(path(i));
    }
    let is_hers = |addr| sort(&socket, addr, &[quic(200, 20)]).0.addr == route.virtual_addr();
    socket.refuse_strangers.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(is_hers(source()));
    assert!(is_hers(path(39).remote));
    let known = (0..40).filter(|i| {
        let at = socket.routes.at(path(*i));
        matches!(at, crate::routes::Sender::One(_))
    });
    assert_eq!(known.count(), 15);
}

#[tokio::test]
async fn an_id_is_known_from_what_was_sent() {
    let (socket, route) = with_route();
    let id = [7; 8];
    let handshake = [&[0xe0, 0, 0, 0, 1, 8][..], &[1; 8], &[8], &id, &[0; 60]].concat();
    let transmit = Transmit {
        destination: route.virtual_addr(),
        ecn: None,
        contents: &handshake,
        segment_size: None,
        src_ip: None,
    };
    until(|| socket.try_send(&transmit).is_ok()).await;
    let elsewhere = ([203, 0, 113, 5], 5).into();
    assert_eq!(sort(&socket, elsewhere, &[quic(7, 100)]).0.addr, route.virtual_addr());
}

#[tokio::test]
async fn an_unknown_id_from_a_shared_address_reaches_every_route_and_begins_one_connection() {
    let (socket, route) = with_route();
    let newer = Route::open(&socket);
    newer.add_source(DirectPath { socket: SocketId::MAIN, remote: source() });
    let (old, new) = (route.virtual_addr(), newer.virtual_addr());

    assert_eq!(sort(&socket, source(), &[quic(1, 100)]).0.len, 0);
    assert_eq!(receive(&socket).await, [(old, quic(1, 100)), (new, quic(1, 100))]);
    let initial = [&[0xc0, 0, 0, 0, 1, 8][..], &[9; 1194]].concat();
    assert_eq!(sort(&socket, source(), std::slice::from_ref(&initial)).0.len, 0);
    assert_eq!(receive(&socket).await, [(new, initial)]);

    // A relay frame tells whose id it is.
    let relayed = frame(CHANNEL.of(Side::Callee), &quic(1, 100));
    assert_eq!(sort(&socket, peer(), &[relayed]).0.addr, old);
    assert_eq!(sort(&socket, source(), &[quic(1, 100)]).0.len, 0);
    assert_eq!(receive(&socket).await, [(old, quic(1, 100))]);
}

#[tokio::test]
async fn forged_sources_without_number_make_few_reports() {
    let (socket, route) = with_route();
    let mut new_sources = socket.routes.new_sources.take(64).unwrap();
    sort(&socket, source(), &[quic(1, 100)]);
    for port in 1..1000 {
        let forged = ([203, 0, 113, 5], port).into();
        assert_eq!(sort(&socket, forged, &[quic(1, 100)]).0.addr, route.virtual_addr());
    }
    let mut reports = 0;
    while new_sources.try_recv().is_ok() {
        reports += 1;
    }
    // Sixteen a second, and a slow machine may see a few seconds pass.
    assert!((16..1000).contains(&reports), "{reports}");
}

/// Forwards to one place and remembers what it was asked.
struct Asked {
    to: Option<SocketAddr>,
    challenge: Option<SocketAddr>,
    frames: Mutex<Vec<(SocketAddr, ChannelId, usize, usize)>>,
    datagrams: Mutex<Vec<(SocketAddr, bool)>>,
}

impl Forward for Asked {
    fn frame(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        datagrams: usize,
    ) -> Forwarded {
        self.frames.lock().unwrap().push((source, channel, bytes, datagrams));
        let reply = self
            .challenge
            .map(|to| (to, PeerDatagram::RelayChallenge { channel, cookie: 5 }.encode()));
        Forwarded { to: self.to, reply }
    }

    fn peer_datagram(&self, source: SocketAddr, from_second: bool, datagram: &[u8]) -> Vec<Reply> {
        self.datagrams.lock().unwrap().push((source, from_second));
        vec![Reply { via_second: from_second, to: source, datagram: datagram.to_vec() }]
    }
}

fn forwarding(to: Option<SocketAddr>, challenge: Option<SocketAddr>) -> (PathSocket, Arc<Asked>) {
    let socket = PathSocket::bind(loopback()).unwrap();
    let asked = Asked { to, challenge, frames: Mutex::default(), datagrams: Mutex::default() };
    let asked = Arc::new(asked);
    assert!(socket.forward.set(Arc::clone(&asked) as Arc<dyn Forward>).is_ok());
    (socket, asked)
}

#[tokio::test]
async fn a_batch_of_frames_is_forwarded_unchanged_and_at_once() {
    let end = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let (socket, asked) = forwarding(Some(end.local_addr().unwrap()), None);
    let frames: Vec<_> = (0..50).map(|i| frame(CHANNEL, &quic(i, 1200))).collect();
    let tail = frame(CHANNEL, &quic(99, 40));

    let all: Vec<_> = frames.iter().chain([&tail]).cloned().collect();
    assert_eq!(sort(&socket, source(), &all).0.len, 0);

    let bytes = 50 * 1209 + 49;
    assert_eq!(*asked.frames.lock().unwrap(), [(source(), CHANNEL, bytes, 51)]);
    let mut buffer = [0; 2000];
    for frame in &all {
        let (n, from) = end.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..n], from), (&frame[..], socket.bound_addr().unwrap()));
    }
    assert_eq!(socket.demux.stats().forwarded, 51);
}

#[tokio::test]
async fn frames_that_go_nowhere_are_counted_and_a_challenge_is_sent() {
    let end = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let (socket, asked) = forwarding(None, Some(end.local_addr().unwrap()));
    // Frames of two channels and the node's own QUIC, all in one buffer.
    let frames = [
        frame(CHANNEL, &quic(1, 600)),
        frame(ChannelId(2), &quic(2, 600)),
        quic(3, 609),
        frame(CHANNEL, &quic(1, 60)),
    ];
    let (meta, _) = sort(&socket, source(), &frames);
    assert_eq!(meta.addr, mapped(source()), "QUIC gets its own");
    let asked: Vec<_> = asked.frames.lock().unwrap().iter().map(|it| (it.1, it.3)).collect();
    assert_eq!(asked, [(CHANNEL, 1), (ChannelId(2), 1), (CHANNEL, 1)]);
    let stats = socket.demux.stats();
    assert_eq!((stats.relay, stats.relay_dropped, stats.forwarded), (3, 3, 0));
    let mut buffer = [0; 100];
    let (n, _) = end.recv_from(&mut buffer).await.unwrap();
    let challenge = PeerDatagram::RelayChallenge { channel: CHANNEL, cookie: 5 };
    assert_eq!(PeerDatagram::decode(&buffer[..n]).unwrap(), challenge);
}

#[tokio::test]
async fn a_flood_of_frames_leaves_room_for_quic() {
    let end = std::net::UdpSocket::bind(loopback()).unwrap();
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let asked = Asked {
        to: end.local_addr().ok(),
        challenge: None,
        frames: Mutex::default(),
        datagrams: Mutex::default(),
    };
    peer.endpoint.set_forwarder(Arc::new(asked));
    peer.serve();
    let client =
        node.endpoint.connect_peer(peer.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    let flood = tokio::spawn({
        let (addr, frame) = (peer.addr(), frame(CHANNEL, &quic(1, 1000)));
        async move {
            loop {
                for _ in 0..64 {
                    let _ = end.send_to(&frame, addr);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    until(|| peer.endpoint.stats().forwarded > 1000).await;
    for _ in 0..20 {
        assert_eq!(client.request(&look_up()).await.unwrap(), found());
    }
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn a_peer_answers_from_the_port_that_it_is_told_to() {
    let peer = TestPeer::new();
    let asked = Arc::new(Asked {
        to: None,
        challenge: None,
        frames: Mutex::default(),
        datagrams: Mutex::default(),
    });
    peer.endpoint.set_forwarder(Arc::clone(&asked) as Arc<dyn Forward>);
    let second = peer.endpoint.bind_second(0).unwrap();
    assert!(peer.endpoint.bind_second(0).is_err(), "there is one");
    let node = TestNode::new();
    let mut heard = node.endpoint.take_peer_datagrams().unwrap();
    let keep = PeerDatagram::Keep { channel: CHANNEL }.encode();

    for to in [peer.addr(), second] {
        node.endpoint.send_datagram(SocketId::MAIN, to, &keep).unwrap();
        let reply = heard.recv().await.unwrap();
        assert_eq!((reply.source, &reply.datagram[..]), (to, &keep[..]));
    }
    assert_eq!(*asked.datagrams.lock().unwrap(), [(node.addr(), false), (node.addr(), true)]);

    // The second port does nothing else.
    let unknown = peer.endpoint.stats().unknown;
    node.endpoint.send_datagram(SocketId::MAIN, second, &probe()).unwrap();
    node.endpoint.send_datagram(SocketId::MAIN, second, &frame(CHANNEL, &quic(1, 50))).unwrap();
    let other = Udp::bind(loopback()).unwrap();
    other.send_one(second, &quic(1, 1200)).unwrap();
    until(|| peer.endpoint.stats().unknown == unknown + 3).await;
    assert!(asked.frames.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_echo_is_for_addresses_of_the_network_only() {
    let (socket, asked) = forwarding(None, None);
    let socket = Arc::new(socket);
    let (mut outgoing, injector) = Tunnel::open(&socket, None).split();
    let echo = PeerDatagram::EchoRequest { txid: 1, cookie: 0, answer: EchoAnswer::Here };
    let keep = PeerDatagram::Keep { channel: CHANNEL };

    injector.inject(echo.encode().into());
    injector.inject(keep.encode().into());

    assert_eq!(*asked.datagrams.lock().unwrap(), [(injector.addr(), false)]);
    assert_eq!(outgoing.recv().await.unwrap(), keep.encode());
    assert!(outgoing.try_recv().is_none());
}

#[tokio::test]
async fn a_connection_is_found_on_a_channel_that_was_put_under_another() {
    let (socket, route) = with_route();
    let other = Route::open(&socket);
    let channel = ChannelId(77);
    other.set_relay(Some(RelayPath { via: peer(), channel: channel.of(Side::Caller) }));
    // The first connection speaks on its own channel, and then on the other's.
    let own = sort(&socket, peer(), &[frame(CHANNEL.of(Side::Callee), &quic(1, 100))]);
    assert_eq!(own.0.addr, route.virtual_addr());
    let theirs = channel.of(Side::Callee);
    assert_eq!(sort(&socket, peer(), &[frame(theirs, &quic(1, 100))]).0.addr, route.virtual_addr());
    assert_eq!(sort(&socket, peer(), &[frame(theirs, &quic(2, 100))]).0.addr, other.virtual_addr());
    // In a buffer of several kinds as well.
    sort(&socket, peer(), &[frame(theirs, &quic(1, 100)), probe()]);
    assert_eq!(receive(&socket).await, [(route.virtual_addr(), quic(1, 100))]);
}
