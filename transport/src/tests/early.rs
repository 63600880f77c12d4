//! Early data: requests that are under way before the first round trip, and those that are not.

use super::proxy::Wire;
use super::*;
use crate::config::Tokens;

/// A node that holds a ticket of a peer, and a wire between them.
async fn with_ticket() -> (TestNode, TestPeer, Wire) {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let wire = Wire::to(peer.addr()).await;
    let (client, server) = tokio::join!(
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing),
        peer.accept()
    );
    let client = client.unwrap();
    assert_eq!(client.confirmed().await, Ok(EarlyData::NotTried));
    let (response, ()) = tokio::join!(ask(&client, look_up()), async {
        server.accept_request().await.unwrap().responder.send(&found()).await.unwrap();
    });
    response.unwrap();
    assert_eq!(wire.seen(|it| &it.early), 0);
    (node, peer, wire)
}

#[tokio::test]
async fn a_second_anonymous_connection_asks_in_early_data() {
    let (node, peer, wire) = with_ticket().await;
    // The server will not see the end of the handshake until the wire is released.
    wire.hold();

    let client =
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    assert_eq!(client.peer_fingerprint(), peer.key.fingerprint());
    let ask = tokio::spawn(async move { (client.request(&look_up()).await, client) });
    let server = peer.accept().await;
    let request = server.accept_request().await.unwrap();

    assert!(request.early && is_call(&request, &look_up()));
    assert!(server.device().is_none());
    request.responder.send(&found()).await.unwrap();
    // The answer does not wait for the end of the handshake either.
    let (response, client) = ask.await.unwrap();
    assert_eq!(response.unwrap(), found());
    assert_eq!(client.confirmed().await, Ok(EarlyData::Accepted));
    assert!(wire.seen(|it| &it.early) > 0 && wire.is_held());

    wire.release();
    server.confirmed().await.unwrap();
    assert!(server.device().is_none());
}

#[tokio::test]
async fn a_drop_waits_for_the_handshake_while_a_look_up_does_not() {
    let (node, peer, wire) = with_ticket().await;
    wire.hold();
    let client =
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    let drops = tokio::spawn({
        let client = client.clone();
        async move { client.request(&drop_envelope(100)).await }
    });
    let look_ups = tokio::spawn(async move { client.request(&look_up()).await });

    let server = peer.accept().await;
    let request = server.accept_request().await.unwrap();
    assert!(request.early && is_call(&request, &look_up()));
    request.responder.send(&found()).await.unwrap();
    assert_eq!(look_ups.await.unwrap().unwrap(), found());

    wire.release();
    let request = server.accept_request().await.unwrap();
    assert!(!request.early && is_call(&request, &drop_envelope(100)));
    request.responder.send(&dropped()).await.unwrap();
    assert_eq!(drops.await.unwrap().unwrap(), dropped());
}

#[tokio::test]
async fn a_drop_that_somebody_sends_in_early_data_is_kept_back() {
    let peer = TestPeer::new();
    let wire = Wire::to(peer.addr()).await;
    // A client with no scruples.
    let raw = raw_endpoint(None);
    let tls = tls::resuming_peer_client(peer.key.fingerprint());
    let config = config::peer_client(tls, Tokens::Keep);
    let dial = || raw.connect_with(config.clone(), wire.addr(), tls::SERVER_NAME).unwrap();
    let (first, server) = tokio::join!(async { dial().await.unwrap() }, peer.accept());
    let question = look_up();
    let (response, ()) = tokio::join!(ask_raw(&first, &question), async {
        server.accept_request().await.unwrap().responder.send(&found()).await.unwrap();
    });
    assert_eq!(response, found());

    wire.hold();
    let (second, _accepted) = dial().into_0rtt().map_err(drop).unwrap();
    let asks = tokio::spawn(async move {
        let drops = [drop_envelope(1), drop_envelope(3000)];
        let look_up = look_up();
        tokio::join!(
            ask_raw(&second, &drops[0]),
            ask_raw(&second, &drops[1]),
            ask_bytes(&second, &[0xff; 9]),
            ask_raw(&second, &look_up),
        )
    });
    let server = peer.accept().await;
    let request = server.accept_request().await.unwrap();
    assert!(request.early && is_call(&request, &look_up()), "{request:?}");
    request.responder.send(&found()).await.unwrap();

    // All four are there, and nobody has seen the other three: each time round, the server gets
    // every chance to make that mistake.
    for _ in 0..500 {
        tokio::select! {
            biased;
            request = server.accept_request() => panic!("handed out early: {request:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(wire.is_held());
    wire.release();
    for _ in 0..3 {
        let request = server.accept_request().await.unwrap();
        assert!(!request.early);
        let response = answer(&request);
        request.responder.send(&response).await.unwrap();
    }
    let malformed = Response::Refused(PeerError::Malformed);
    assert_eq!(asks.await.unwrap(), (dropped(), dropped(), malformed, found()));
}

#[tokio::test]
async fn a_device_gets_no_ticket() {
    let own = tls::node_credentials(&Identity::generate()).unwrap();
    for shows_device in [true, false] {
        let (peer, raw) = (TestPeer::new(), raw_endpoint(None));
        // Nodes do not keep tickets of such connections; another program might.
        let mut tls = tls::peer_client(peer.pinned(), shows_device.then(|| own.clone()));
        tls.resumption = rustls::client::Resumption::in_memory_sessions(1);
        tls.enable_early_data = true;
        let config = config::peer_client(tls, Tokens::Keep);
        let dial = || raw.connect_with(config.clone(), peer.addr(), tls::SERVER_NAME).unwrap();
        let (first, server) = tokio::join!(async { dial().await.unwrap() }, peer.accept());
        assert_eq!(server.device().is_some(), shows_device);
        // Tickets would have come before the answer.
        let question = look_up();
        let (response, ()) = tokio::join!(ask_raw(&first, &question), async {
            server.accept_request().await.unwrap().responder.send(&found()).await.unwrap();
        });
        assert_eq!(response, found());
        assert_eq!(dial().into_0rtt().is_ok(), !shows_device);
    }
}

#[tokio::test]
async fn a_recording_of_early_data_is_worth_nothing() {
    let (node, peer, wire) = with_ticket().await;
    wire.hold();
    let client =
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    let ask = tokio::spawn(async move { (client.request(&look_up()).await, client) });
    let server = peer.accept().await;
    let request = server.accept_request().await.unwrap();
    assert!(request.early);
    request.responder.send(&found()).await.unwrap();
    ask.await.unwrap().0.unwrap();
    let recording = wire.recording();
    wire.release();
    server.confirmed().await.unwrap();
    server.closed().await;
    drop(server);
    peer.endpoint.wait_idle().await;

    let attacker = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    for datagram in &recording {
        attacker.send_to(datagram, peer.addr()).await.unwrap();
    }
    let incoming = peer.endpoint.accept().await.unwrap();
    assert_eq!(incoming.remote_addr(), attacker.local_addr().unwrap());
    // The ticket is used up. Five virtual seconds, in no time.
    tokio::time::pause();
    assert_eq!(incoming.handshake().await.unwrap_err(), HandshakeError::TimedOut);
}

#[tokio::test]
async fn one_connection_brings_tickets_for_two() {
    let (node, peer, wire) = with_ticket().await;
    peer.serve();
    for _ in 0..2 {
        let client =
            node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
        client.request(&look_up()).await.unwrap();
        assert_eq!(client.confirmed().await, Ok(EarlyData::Accepted));
    }
}

#[tokio::test]
async fn a_peer_that_forgot_the_ticket_still_gets_the_request() {
    let (node, peer, wire) = with_ticket().await;
    // The same key elsewhere, with no memory of the ticket.
    let again = TestPeer::at(loopback(), PeerKey::from_key_file(&peer.key.to_key_file()).unwrap());
    again.serve();

    let client =
        node.endpoint.connect_peer(again.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    let (one, other) = tokio::join!(ask(&client, look_up()), ask(&client, drop_envelope(1000)));

    assert_eq!((one.unwrap(), other.unwrap()), (found(), dropped()));
    assert_eq!(client.confirmed().await, Ok(EarlyData::Rejected));
    drop(wire);
}

#[tokio::test]
async fn connections_that_show_the_device_use_no_tickets() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    peer.serve();
    let wire = Wire::to(peer.addr()).await;
    for trust in [peer.pinned(), peer.pinned(), PeerTrust::FirstUse, PeerTrust::FirstUse] {
        let client = node.endpoint.connect_peer(wire.addr(), trust, Show::Device).await.unwrap();
        client.request(&look_up()).await.unwrap();
        assert_eq!(client.confirmed().await, Ok(EarlyData::NotTried));
    }
    // Nor do their tickets help anonymous ones.
    let client =
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    client.request(&look_up()).await.unwrap();
    assert_eq!(client.confirmed().await, Ok(EarlyData::NotTried));
    assert_eq!(wire.seen(|it| &it.early), 0);
}

#[tokio::test]
async fn an_early_connection_whose_handshake_never_ends_is_given_up() {
    let (node, peer, wire) = with_ticket().await;
    wire.hold();
    let client =
        node.endpoint.connect_peer(wire.addr(), peer.pinned(), Show::Nothing).await.unwrap();
    let ask = tokio::spawn(async move { (client.request(&look_up()).await, client) });
    let server = peer.accept().await;
    let request = server.accept_request().await.unwrap();
    assert!(request.early);

    // Five virtual seconds, in no time.
    tokio::time::pause();
    assert_eq!(server.confirmed().await, Err(HandshakeError::TimedOut));
    assert_eq!(server.closed().await, ConnectionLost::ClosedHere);
    assert!(ask.await.unwrap().0.is_err());
}

async fn ask_raw(connection: &quinn::Connection, request: &Request) -> Response {
    ask_bytes(connection, &halloo_wire::peer::Control::encode(request)).await
}

async fn ask_bytes(connection: &quinn::Connection, bytes: &[u8]) -> Response {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(10_000).await.unwrap();
    halloo_wire::peer::Control::decode(&answer).unwrap()
}
