//! One request, one answer, and everything that can come between.

use halloo_wire::limits::{MAX_ENVELOPE, MAX_REQUEST};
use halloo_wire::peer::Control;
use quinn::Connection;

use super::*;
use crate::config::Tokens;

/// A peer, and a client of it that is not bound to this crate's manners.
async fn raw_client() -> (quinn::Endpoint, TestPeer, Connection, ServerConnection) {
    let (raw, peer) = (raw_endpoint(None), TestPeer::new());
    let tls = tls::peer_client(peer.pinned(), None);
    let config = config::peer_client(tls, Tokens::Refuse);
    let dial = raw.connect_with(config, peer.addr(), tls::SERVER_NAME).unwrap();
    let (client, server) = tokio::join!(dial, peer.accept());
    (raw, peer, client.unwrap(), server)
}

/// Sends `bytes` as a request and reads the answer.
async fn send_raw(client: &Connection, bytes: &[u8]) -> Response {
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    // The peer may stop reading before the end.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    Response::decode(&recv.read_to_end(1000).await.unwrap()).unwrap()
}

#[tokio::test]
async fn requests_do_not_wait_for_each_other() {
    let (_node, _peer, client, server) = connected(Show::Nothing).await;
    let asks = tokio::spawn(async move {
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.request(&drop_envelope(1)).await.unwrap() }
        });
        let second = client.request(&look_up()).await.unwrap();
        (first.await.unwrap(), second)
    });
    // Whatever came first is answered last.
    let one = server.accept_request().await.unwrap();
    let other = server.accept_request().await.unwrap();
    for request in [other, one] {
        let response = answer(&request);
        request.responder.send(&response).await.unwrap();
    }
    assert_eq!(asks.await.unwrap(), (dropped(), found()));
}

#[tokio::test]
async fn many_more_requests_than_streams_are_all_answered() {
    let (_node, _peer, client, server) = connected(Show::Nothing).await;
    tokio::spawn(async move { serve_client(&server).await });
    let mut asks = tokio::task::JoinSet::new();
    for i in 0..300 {
        let client = client.clone();
        asks.spawn(async move { client.request(&drop_envelope(i * 100)).await });
    }
    let mut answers = 0;
    while let Some(answer) = asks.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), dropped());
        answers += 1;
    }
    assert_eq!(answers, 300);
}

#[tokio::test]
async fn the_largest_request_fits_and_a_larger_one_is_not_sent() {
    let (_node, peer, client, server) = connected(Show::Nothing).await;
    tokio::spawn(async move { serve_client(&server).await });
    assert_eq!(client.request(&drop_envelope(MAX_ENVELOPE)).await.unwrap(), dropped());
    let before = peer.endpoint.stats().quic;
    let refused = client.request(&drop_envelope(MAX_ENVELOPE + 1)).await.unwrap_err();
    assert_eq!(refused, RequestError::TooLarge);
    assert_eq!(peer.endpoint.stats().quic, before);
}

#[tokio::test]
async fn oversized_and_unreadable_requests_are_answered_with_a_reason() {
    let (_raw, _peer, client, server) = raw_client().await;
    let served = tokio::spawn(async move {
        let mut faults = Vec::new();
        for _ in 0..5 {
            let request = server.accept_request().await.unwrap();
            let response = answer(&request);
            faults.push(request.request.unwrap_err());
            request.responder.send(&response).await.unwrap();
        }
        (faults, server)
    });
    let too_large = Response::Refused(PeerError::TooLarge);
    let malformed = Response::Refused(PeerError::Malformed);

    assert_eq!(send_raw(&client, &vec![0; MAX_REQUEST + 1]).await, too_large);
    assert_eq!(send_raw(&client, &vec![0; 40 * MAX_REQUEST]).await, too_large);
    // Within the limit as a whole, but not in its parts.
    assert_eq!(send_raw(&client, &drop_envelope(MAX_ENVELOPE + 1).encode()).await, too_large);
    assert_eq!(send_raw(&client, &vec![0xff; MAX_REQUEST]).await, malformed);
    assert_eq!(send_raw(&client, &[]).await, malformed);

    let (faults, _server) = served.await.unwrap();
    assert_eq!(faults[..3], [RequestFault::TooLarge; 3]);
    assert!(faults[3..].iter().all(|it| matches!(it, RequestFault::Malformed(_))), "{faults:?}");
    assert!(client.close_reason().is_none(), "the connection is still there");
}

#[tokio::test]
async fn a_slow_request_ends_at_its_deadline_and_holds_up_nobody() {
    let (_raw, _peer, client, server) = raw_client().await;
    let (mut slow, mut slow_answer) = client.open_bi().await.unwrap();
    slow.write_all(&drop_envelope(100).encode()[..50]).await.unwrap();

    // The slow one came first and is overtaken.
    let (mut fast, _answer) = client.open_bi().await.unwrap();
    fast.write_all(&look_up().encode()).await.unwrap();
    fast.finish().unwrap();
    let request = server.accept_request().await.unwrap();
    assert!(is_call(&request, &look_up()));

    // Ten virtual seconds, in no time.
    tokio::time::pause();
    let request = server.accept_request().await.unwrap();
    assert_eq!(request.request, Err(RequestFault::TooSlow));
    let response = Response::Refused(PeerError::Malformed);
    request.responder.send(&response).await.unwrap();
    assert_eq!(Response::decode(&slow_answer.read_to_end(100).await.unwrap()), Ok(response));
    let stopped = slow.stopped().await.unwrap();
    assert_eq!(stopped, Some(error::stream_code::TOO_SLOW));
    assert!(client.close_reason().is_none());
}

#[tokio::test]
async fn a_request_that_is_dropped_half_way_is_taken_back() {
    let (_raw, _peer, client, server) = raw_client().await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(&drop_envelope(100).encode()[..50]).await.unwrap();
    send.reset(error::stream_code::CANCELLED).unwrap();
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(&look_up().encode()).await.unwrap();
    send.finish().unwrap();

    let request = server.accept_request().await.unwrap();
    assert!(is_call(&request, &look_up()), "the first one is not handed out");
}

#[tokio::test]
async fn waiting_for_requests_may_be_given_up_at_any_time() {
    let (_raw, _peer, client, server) = raw_client().await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    for byte in drop_envelope(20).encode() {
        send.write_all(&[byte]).await.unwrap();
        tokio::select! {
            biased;
            _ = server.accept_request() => panic!("the request is not whole yet"),
            () = async { for _ in 0..20 { tokio::task::yield_now().await } } => {}
        }
    }
    send.finish().unwrap();
    assert!(is_call(&server.accept_request().await.unwrap(), &drop_envelope(20)));
}

#[tokio::test]
async fn a_request_without_an_answer_is_told_apart() {
    let (_node, _peer, client, server) = connected(Show::Nothing).await;
    let (response, ()) = tokio::join!(ask(&client, look_up()), async {
        drop(server.accept_request().await.unwrap());
    });
    assert_eq!(response.unwrap_err(), RequestError::Unanswered);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_not_waited_for_forever() {
    let (_node, _peer, client, server) = connected(Show::Nothing).await;
    let (response, _kept) =
        tokio::join!(ask(&client, look_up()), async { server.accept_request().await.unwrap() });
    assert_eq!(response.unwrap_err(), RequestError::TimedOut);
}

#[tokio::test]
async fn an_answer_can_be_followed_by_closing_the_connection() {
    let (_node, _peer, client, server) = connected(Show::Nothing).await;
    let last = Response::Refused(PeerError::WrongSession);
    let (response, ()) = tokio::join!(ask(&client, look_up()), async {
        let request = server.accept_request().await.unwrap();
        request.responder.send_acknowledged(&last).await.unwrap();
        server.close(CloseCode::WrongSession);
    });
    assert_eq!(response.unwrap(), last);
    let closed = ConnectionLost::Closed(CloseCode::WrongSession);
    assert_eq!(client.closed().await, closed);
    assert_eq!(client.request(&look_up()).await.unwrap_err(), RequestError::Lost(closed));
    assert_eq!(client.next_push().await.unwrap_err(), PushError::Lost(closed));
    assert_eq!(server.accept_request().await.unwrap_err(), ConnectionLost::ClosedHere);
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error_and_the_connection_stays() {
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
    let nonsense = [vec![0xff; 30], vec![], vec![0; halloo_wire::limits::MAX_RESPONSE + 1]];
    for bytes in nonsense {
        let (response, ()) = tokio::join!(ask(&client, look_up()), async {
            let (mut send, _recv) = server.accept_bi().await.unwrap();
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
        });
        assert!(matches!(response, Err(RequestError::BadResponse(_))), "{response:?}");
    }
    assert!(client.close_reason().is_none());
}
