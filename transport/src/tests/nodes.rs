//! Two nodes, directly.

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::*;

#[tokio::test]
async fn two_nodes_find_each_other_and_talk() {
    let (alice, bob, dialed, accepted) = two_nodes().await;

    assert_eq!(dialed.fingerprint(), bob.fingerprint());
    assert_eq!(accepted.fingerprint(), alice.fingerprint());
    assert_eq!((dialed.device(), accepted.device()), (DeviceId::FIRST, DeviceId::FIRST));
    assert_eq!(accepted.presented().passport.der(), alice.identity.passport_der());
    assert_eq!((dialed.remote_addr(), accepted.remote_addr()), (bob.addr(), alice.addr()));
    assert!(dialed.dialed() && !accepted.dialed());

    let echo = async {
        let (mut send, mut recv) = accepted.accept_bi().await.unwrap();
        let heard = recv.read_to_end(100).await.unwrap();
        send.write_all(&heard).await.unwrap();
        send.finish().unwrap();
    };
    let talk = async {
        let (mut send, mut recv) = dialed.open_bi().await.unwrap();
        send.write_all(b"halloo").await.unwrap();
        send.finish().unwrap();
        recv.read_to_end(100).await.unwrap()
    };
    assert_eq!(tokio::join!(talk, echo).0, b"halloo");

    let (sent, heard) = tokio::join!(
        async {
            let mut stream = accepted.open_uni().await.unwrap();
            stream.write_all(b"back").await.unwrap();
        },
        async {
            let mut stream = dialed.accept_uni().await.unwrap();
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await.unwrap();
            heard
        },
    );
    assert_eq!(((), *b"back"), (sent, heard));
}

#[tokio::test]
async fn a_node_with_another_fingerprint_is_refused_by_who_dials() {
    let (alice, mallory) = (TestNode::new(), TestNode::new());
    let bob = Identity::generate().fingerprint();

    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node(mallory.addr(), &bob), mallory.try_accept());

    let found = mallory.fingerprint();
    assert_eq!(dialed.unwrap_err(), ConnectError::WrongFingerprint { expected: bob, found });
    // It has not learnt who called.
    assert!(matches!(accepted, Err(HandshakeError::Lost(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_node_that_is_no_contact_is_turned_away_by_who_is_called() {
    let (alice, _bob, dialed, accepted) = two_nodes().await;
    assert_eq!(accepted.fingerprint(), alice.fingerprint());

    accepted.close(CloseCode::NotWelcome);

    assert_eq!(dialed.closed().await, ConnectionLost::Closed(CloseCode::NotWelcome));
    assert_eq!(accepted.close_reason(), Some(ConnectionLost::ClosedHere));
    assert_eq!(dialed.open_bi().await.unwrap_err(), dialed.close_reason().unwrap());
}

#[tokio::test]
async fn every_close_code_is_heard_at_the_other_end() {
    let (alice, bob) = (TestNode::new(), TestNode::new());
    let fingerprint = bob.fingerprint();
    for n in [0, 1, 2, 3, 4, 5, 6, 7, 99] {
        let code = CloseCode::from_u64(n);
        let (dialed, accepted) =
            tokio::join!(alice.endpoint.connect_node(bob.addr(), &fingerprint), bob.accept());
        dialed.unwrap().close(code);
        assert_eq!(accepted.closed().await, ConnectionLost::Closed(code));
    }
}

#[tokio::test]
async fn dropping_all_handles_closes_the_connection() {
    let (_alice, _bob, dialed, accepted) = two_nodes().await;
    let second = dialed.clone();
    assert_eq!(second.stable_id(), dialed.stable_id());
    drop(dialed);
    drop(second);
    assert_eq!(accepted.closed().await, ConnectionLost::Closed(CloseCode::Done));
}

#[tokio::test]
async fn a_closed_endpoint_says_goodbye_and_takes_nobody() {
    let (alice, bob, _dialed, accepted) = two_nodes().await;

    alice.endpoint.close(CloseCode::ShuttingDown);
    alice.endpoint.wait_idle().await;

    assert_eq!(accepted.closed().await, ConnectionLost::Closed(CloseCode::ShuttingDown));
    assert!(alice.endpoint.accept().await.is_none());
    let again = alice.endpoint.connect_node(bob.addr(), &bob.fingerprint()).await;
    assert_eq!(again.unwrap_err(), ConnectError::EndpointClosed);
}

/// The chains that somebody might show who does not have a chain of his own.
fn bad_chains() -> Vec<(&'static str, tls::Credentials)> {
    let (own, other) = (Identity::generate(), Identity::generate());
    let [device, passport] = own.device_chain();
    let [other_device, other_passport] = other.device_chain();
    let key = own.device_key_pkcs8();
    let chains = [
        ("device without passport", vec![device.clone()]),
        ("swapped", vec![passport.clone(), device.clone()]),
        ("passport of somebody else", vec![device.clone(), other_passport.clone()]),
        ("chain of somebody else", vec![other_device.clone(), other_passport.clone()]),
        ("one certificate too many", vec![device, passport.clone(), other_passport]),
        ("passport alone", vec![passport]),
        ("rendezvous peer", vec![PeerKey::generate().cert_der().to_vec()]),
    ];
    let with_key = |chain: Vec<Vec<u8>>| {
        let pkcs8 = PrivatePkcs8KeyDer::from(&key[..]);
        let key = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&pkcs8).unwrap();
        Arc::new(CertifiedKey::new(chain.into_iter().map(CertificateDer::from).collect(), key))
    };
    chains.into_iter().map(|(name, chain)| (name, with_key(chain))).collect()
}

#[tokio::test]
async fn a_caller_with_a_bad_chain_is_refused() {
    let (node, peer) = (TestNode::new(), TestPeer::new());
    let raw = raw_endpoint(None);
    for (name, chain) in bad_chains() {
        let config = config::node_client(tls::node_client(node.fingerprint(), chain.clone()));
        let dial = raw.connect_with(config, node.addr(), tls::SERVER_NAME).unwrap();
        let (_dialed, accepted) = tokio::join!(dial, node.try_accept());
        assert_eq!(accepted.unwrap_err(), HandshakeError::BadCertificate, "{name}, at a node");

        let tls = tls::peer_client(peer.pinned(), Some(chain));
        let config = config::peer_client(tls, config::Tokens::Refuse);
        let dial = raw.connect_with(config, peer.addr(), tls::SERVER_NAME).unwrap();
        let (_dialed, accepted) = tokio::join!(dial, peer.try_accept());
        assert_eq!(accepted.unwrap_err(), HandshakeError::BadCertificate, "{name}, at a peer");
    }
}

#[tokio::test]
async fn a_node_with_a_bad_chain_is_refused_by_who_dials() {
    let alice = TestNode::new();
    for (name, chain) in bad_chains() {
        let raw = raw_endpoint(Some(config::node_server(tls::node_server(chain))));
        let addr = raw.local_addr().unwrap();
        let accept = async { raw.accept().await.unwrap().await };
        let fingerprint = Identity::generate().fingerprint();
        let (dialed, accepted) =
            tokio::join!(alice.endpoint.connect_node(addr, &fingerprint), accept);
        let e = dialed.unwrap_err();
        if name == "chain of somebody else" {
            // The chain is sound, but it is not the one that was dialled.
            assert!(matches!(e, ConnectError::WrongFingerprint { .. }), "{e}");
        } else {
            assert_eq!(e, ConnectError::BadCertificate, "{name}");
        }
        assert!(accepted.is_err());
    }
}

#[tokio::test]
async fn showing_the_chain_of_somebody_else_needs_her_key() {
    let (alice, bob) = (TestNode::new(), Identity::generate());
    let own = Identity::generate();
    let chain = bob.device_chain().map(CertificateDer::from).to_vec();
    let pkcs8 = own.device_key_pkcs8();
    let key = PrivatePkcs8KeyDer::from(&pkcs8[..]);
    let key = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&key).unwrap();
    let stolen = Arc::new(CertifiedKey::new(chain, key));
    let raw = raw_endpoint(Some(config::node_server(tls::node_server(stolen))));
    let addr = raw.local_addr().unwrap();

    let fingerprint = bob.fingerprint();
    let (dialed, accepted) = tokio::join!(alice.endpoint.connect_node(addr, &fingerprint), async {
        raw.accept().await.unwrap().await
    });

    assert_eq!(dialed.unwrap_err(), ConnectError::BadCertificate);
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused_by_a_node() {
    let node = TestNode::new();
    let raw = raw_endpoint(None);
    let mut tls = tls::peer_client(PeerTrust::FirstUse, None);
    tls.alpn_protocols = vec![halloo_wire::ALPN_NODE.to_vec()];
    // The caller takes any server, even one with a chain.
    tls.dangerous().set_certificate_verifier(Arc::new(crypto::AnyServer));
    let config = config::node_client(tls);

    let dial = raw.connect_with(config, node.addr(), tls::SERVER_NAME).unwrap();
    let (_dialed, accepted) = tokio::join!(dial, node.try_accept());

    assert_eq!(accepted.unwrap_err(), HandshakeError::BadCertificate);
}
