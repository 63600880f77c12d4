//! A node and a rendezvous peer: who is who, and what happens to connections.

use std::net::{Ipv6Addr, UdpSocket};

use halloo_wire::RowId;
use halloo_wire::parked::{ParkedDatagram, Word};

use super::*;
use crate::config::{RETRY_ABOVE, Tokens};

#[tokio::test]
async fn an_anonymous_node_asks_and_the_peer_does_not_learn_who_it_is() {
    let (_node, peer, client, server) = connected(Show::Nothing).await;
    assert_eq!(client.peer_fingerprint(), peer.key.fingerprint());
    assert_eq!(client.confirmed().await, Ok(EarlyData::NotTried));
    assert!(server.device().is_none());

    let (response, ()) = tokio::join!(ask(&client, look_up()), async {
        let request = server.accept_request().await.unwrap();
        assert!(is_call(&request, &look_up()) && !request.early);
        request.responder.send(&found()).await.unwrap();
    });

    assert_eq!(response.unwrap(), found());
}

#[tokio::test]
async fn a_node_that_registers_shows_its_device() {
    let (node, peer, client, server) = connected(Show::Device).await;
    let device = server.device().unwrap();
    assert_eq!(device.passport.fingerprint(), node.fingerprint());
    assert_eq!(device.device, DeviceId::FIRST);
    server.confirmed().await.unwrap();
    assert_eq!((client.remote_addr(), server.remote_addr()), (peer.addr(), node.addr()));
}

#[tokio::test]
async fn on_first_use_the_fingerprint_is_reported_for_pinning() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    peer.serve();
    for show in [Show::Nothing, Show::Device] {
        let first = node.endpoint.connect_peer(peer.addr(), PeerTrust::FirstUse, show).await;
        let found = first.unwrap().peer_fingerprint();
        assert_eq!(found, peer.key.fingerprint());
        node.endpoint.connect_peer(peer.addr(), PeerTrust::Pinned(found), show).await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_peer_key_is_told_apart_from_everything_else() {
    let (node, old, new) = (TestNode::new(), PeerKey::generate(), TestPeer::new());
    new.serve();
    let pinned = PeerTrust::Pinned(old.fingerprint());
    let expected =
        ConnectError::PeerKeyChanged { expected: old.fingerprint(), found: new.key.fingerprint() };
    for show in [Show::Nothing, Show::Device] {
        let refused = node.endpoint.connect_peer(new.addr(), pinned, show).await;
        assert_eq!(refused.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_peer_whose_key_changes_between_two_connections_gets_no_request() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    peer.serve();
    let (addr, pinned) = (peer.addr(), peer.pinned());
    let first = node.endpoint.connect_peer(addr, pinned, Show::Nothing).await.unwrap();
    first.request(&look_up()).await.unwrap();
    drop(first);

    // The other peer is elsewhere, but the ticket does not know that.
    let other = TestPeer::new();
    other.serve();
    let second = node.endpoint.connect_peer(other.addr(), pinned, Show::Nothing).await.unwrap();
    let expected = ConnectError::PeerKeyChanged {
        expected: peer.key.fingerprint(),
        found: other.key.fingerprint(),
    };
    let refused = RequestError::Connect(expected);
    assert_eq!(second.request(&look_up()).await.unwrap_err(), refused);
    assert_eq!(second.request(&drop_envelope(9)).await.unwrap_err(), refused);
    assert_eq!(second.next_push().await.unwrap_err(), PushError::Connect(expected));
    assert_eq!(second.confirmed().await, Err(expected));
}

#[tokio::test]
async fn what_is_no_peer_is_refused_even_on_first_use() {
    let node = TestNode::new();
    // A node's chain, behind the peer's protocol.
    let chain = tls::node_credentials(&Identity::generate()).unwrap();
    let raw = raw_endpoint(Some(config::peer_server(tls::peer_server(chain))));
    let addr = raw.local_addr().unwrap();
    let dial = node.endpoint.connect_peer(addr, PeerTrust::FirstUse, Show::Device);
    let (dialed, accepted) = tokio::join!(dial, async { raw.accept().await.unwrap().await });
    assert_eq!(dialed.unwrap_err(), ConnectError::BadCertificate);
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_peer_has_no_identity_to_show() {
    let (one, other) = (TestPeer::new(), TestPeer::new());
    let shown = one.endpoint.connect_peer(other.addr(), other.pinned(), Show::Device).await;
    assert_eq!(shown.unwrap_err(), ConnectError::NoIdentity);
    let fingerprint = Identity::generate().fingerprint();
    let dialed = one.endpoint.connect_node(other.addr(), &fingerprint).await;
    assert_eq!(dialed.unwrap_err(), ConnectError::NoIdentity);
}

#[tokio::test]
async fn pushes_arrive_in_order_on_a_connection_that_asks_nothing() {
    let (_node, _peer, client, server) = connected(Show::Device).await;
    let pushes: Vec<Push> = std::iter::once(welcome(server.remote_addr()))
        .chain((0..100).map(|i| Push::Draining { retry_after_ms: i }))
        .chain([Push::Superseded])
        .collect();

    let (heard, ()) = tokio::join!(
        async {
            let mut heard = Vec::new();
            while heard.len() < pushes.len() {
                heard.push(client.next_push().await.unwrap());
            }
            heard
        },
        async {
            for push in &pushes {
                server.push(push).await.unwrap();
            }
        }
    );

    assert_eq!(heard, pushes);
}

#[tokio::test]
async fn a_push_reader_may_be_dropped_at_any_time() {
    let (node, key) = (TestNode::new(), PeerKey::generate());
    let own = tls::peer_credentials(&key).unwrap();
    let raw = raw_endpoint(Some(config::peer_server(tls::peer_server(own))));
    let pinned = PeerTrust::Pinned(key.fingerprint());
    let addr = raw.local_addr().unwrap();
    let (client, server) =
        tokio::join!(node.endpoint.connect_peer(addr, pinned, Show::Device), async {
            raw.accept().await.unwrap().await.unwrap()
        });
    let client = client.unwrap();
    let bytes = halloo_wire::peer::Control::encode(&welcome(addr));

    // The push comes byte by byte, and each byte meets another reader.
    let mut stream = server.open_uni().await.unwrap();
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::select! {
            biased;
            it = client.next_push() => panic!("there is no whole push yet: {it:?}"),
            () = until_quiet() => {}
        }
    }
    stream.finish().unwrap();
    assert_eq!(client.next_push().await, Ok(welcome(addr)));

    // One that is taken back is not heard, one that is no push is an error; the connection stays.
    let mut taken_back = server.open_uni().await.unwrap();
    taken_back.write_all(&bytes[..3]).await.unwrap();
    taken_back.reset(1u32.into()).unwrap();
    let mut nonsense = server.open_uni().await.unwrap();
    nonsense.write_all(&[0xff; 40]).await.unwrap();
    nonsense.finish().unwrap();
    assert!(matches!(client.next_push().await, Err(PushError::Malformed(_))));
    let mut huge = server.open_uni().await.unwrap();
    huge.write_all(&vec![0; halloo_wire::limits::MAX_PUSH + 1]).await.unwrap();
    assert_eq!(client.next_push().await, Err(PushError::TooLarge));
    assert!(client.close_reason().is_none());
}

async fn until_quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_restarted_peer_is_noticed_by_the_next_packet() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (first, second, ours) = (runtime().unwrap(), runtime().unwrap(), runtime().unwrap());
    let peer = first.block_on(async { TestPeer::new() });
    first.block_on(async { peer.serve() });
    let (addr, pinned, key) = (peer.addr(), peer.pinned(), peer.key.to_key_file());
    let node = ours.block_on(async { TestNode::new() });
    let client = ours.block_on(node.endpoint.connect_peer(addr, pinned, Show::Device)).unwrap();
    ours.block_on(client.request(&look_up())).unwrap();

    // A crash: its tasks end where they are, and nobody says goodbye.
    drop(first);
    drop(peer);
    let key = PeerKey::from_key_file(&key).unwrap();
    let peer = second.block_on(async { TestPeer::at(addr, key) });
    second.block_on(async { peer.serve() });

    let lost = ours.block_on(client.request(&drop_envelope(10))).unwrap_err();
    assert_eq!(lost, RequestError::Lost(ConnectionLost::Reset));
    ours.block_on(node.endpoint.connect_peer(addr, pinned, Show::Device)).unwrap();
}

#[tokio::test]
async fn many_half_open_handshakes_make_the_next_client_prove_its_address() {
    let peer = TestPeer::new();
    let raw = raw_endpoint(None);
    let node = TestNode::new();
    let mut held = Vec::new();
    let mut dials = Vec::new();
    for _ in 0..RETRY_ABOVE {
        let tls = tls::peer_client(peer.pinned(), None);
        let config = config::peer_client(tls, Tokens::Refuse);
        dials.push(raw.connect_with(config, peer.addr(), tls::SERVER_NAME).unwrap());
        held.push(peer.endpoint.accept().await.unwrap());
    }

    let dial = node.endpoint.connect_peer(peer.addr(), peer.pinned(), Show::Device);
    let (client, incoming) = tokio::join!(dial, async {
        let incoming = peer.endpoint.accept().await.unwrap();
        assert!(incoming.address_validated(), "it came back with the token of a retry");
        incoming.handshake().await.unwrap()
    });

    assert!(client.is_ok());
    assert!(matches!(incoming, Accepted::PeerClient(_)));
    assert!(held.iter().all(|it| !it.address_validated()));
}

#[tokio::test]
async fn a_refused_attempt_is_told_so() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let dial = node.endpoint.connect_peer(peer.addr(), peer.pinned(), Show::Device);
    let (dialed, ()) = tokio::join!(dial, async { peer.endpoint.accept().await.unwrap().refuse() });
    assert_eq!(dialed.unwrap_err(), ConnectError::Refused);
}

#[tokio::test(start_paused = true)]
async fn nobody_answers() {
    let node = TestNode::new();
    let deaf = UdpSocket::bind(loopback()).unwrap();
    let addr = deaf.local_addr().unwrap();
    let trust = PeerTrust::Pinned(PeerKey::generate().fingerprint());
    for show in [Show::Nothing, Show::Device] {
        let dialed = node.endpoint.connect_peer(addr, trust, show).await;
        assert_eq!(dialed.unwrap_err(), ConnectError::TimedOut);
    }
    let fingerprint = Identity::generate().fingerprint();
    let dialed = node.endpoint.connect_node(addr, &fingerprint).await;
    assert_eq!(dialed.unwrap_err(), ConnectError::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_begins_a_handshake_and_leaves_is_given_up() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    // The first flight of a real client, sent from a socket that never answers.
    let deaf = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let addr = deaf.local_addr().unwrap();
    let dial = node.endpoint.connect_peer(addr, peer.pinned(), Show::Device);
    let (dialed, accepted) = tokio::join!(dial, async {
        let mut first = [0; 1500];
        let half = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        for _ in 0..2 {
            let n = deaf.recv(&mut first).await.unwrap();
            half.send_to(&first[..n], peer.addr()).await.unwrap();
        }
        peer.try_accept().await
    });
    assert_eq!(dialed.unwrap_err(), ConnectError::TimedOut);
    assert_eq!(accepted.unwrap_err(), HandshakeError::TimedOut);
}

#[tokio::test]
async fn addresses_that_cannot_be_dialled_are_refused_at_once() {
    let node = TestNode::new();
    let trust = PeerTrust::FirstUse;
    let v6 = (Ipv6Addr::LOCALHOST, 443).into();
    let nowhere = ([127, 0, 0, 1], 0).into();
    for addr in [v6, nowhere] {
        let dialed = node.endpoint.connect_peer(addr, trust, Show::Nothing).await;
        assert_eq!(dialed.unwrap_err(), ConnectError::Unreachable, "{addr}");
    }
}

#[tokio::test]
async fn both_ends_draw_the_same_parking_key_for_each_row() {
    let (_node, _peer, client, server) = connected(Show::Device).await;
    let word = Word::Heard { counter: 1, waiting: 0 };
    for (theirs, ours, is_same) in [(7, 7, true), (7, 8, false)] {
        let datagram = server.parking_key(RowId(theirs)).seal_word(RowId(theirs), 1, &word);
        let Ok(ParkedDatagram::Word(sealed)) = ParkedDatagram::decode(&datagram) else {
            panic!("a word was sealed")
        };
        let opened = client.parking_key(RowId(ours)).open_word(&sealed);
        assert_eq!(opened.is_ok(), is_same);
    }
}

#[tokio::test]
async fn parked_datagrams_reach_their_reader() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let mut parked = node.endpoint.take_parked_datagrams().unwrap();
    assert!(node.endpoint.take_parked_datagrams().is_none());
    let datagram =
        ParkedDatagram::Unknown { row: RowId(1), counter: 2, retry_after_ms: 3 }.encode();
    let to = node.endpoint.local_addr().unwrap();
    peer.endpoint.send_datagram(SocketId::MAIN, to, &datagram).unwrap();
    let arrived = parked.recv().await.unwrap();
    assert_eq!((arrived.source, &arrived.datagram[..]), (peer.addr(), &datagram[..]));
    assert_eq!((node.endpoint.stats().parked, peer.endpoint.stats().parked), (1, 0));
}
