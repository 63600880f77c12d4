//! What a peer must not tell: its logs name nobody.

use crate::common::{Node, Process, raw, tunnel};
use halloo_transport::Show;
use halloo_wire::SessionId;
use halloo_wire::datagram::RelayFrame;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, Push};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};

#[tokio::test]
async fn logs_at_the_lowest_level_hold_no_address_and_no_identity() {
    names_nobody("text").await;
}

#[tokio::test]
async fn nor_do_logs_for_programs() {
    names_nobody("json").await;
}

async fn names_nobody(format: &str) {
    let home = tempfile::tempdir().unwrap();
    let args = ["--log", "trace", "--log-format", format, "--websocket", "127.0.0.1:0"];
    let mut peer = Process::start(home.path(), &args).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(1))).await;
    assert!(matches!(inbox.push().await, Push::Envelope(_)));
    let channel = sender.knock(bob.knock(1)).await.callee.unwrap().channel.unwrap();
    assert!(matches!(inbox.push().await, Push::Knock { .. }));
    // What comes beside QUIC, from somebody whose place is nobody's business either.
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo = PeerDatagram::EchoRequest { txid: 1, cookie: 0, answer: EchoAnswer::Here };
    let frame = RelayFrame { channel, datagram: &[0x40; 100] };
    for datagram in [echo.encode(), frame.encode(), b"\x06nonsense".to_vec()] {
        other.send_to(&datagram, peer.listen()).unwrap();
    }
    let tunnel = tunnel(&alice, peer.websocket()).await;
    alice.connect_at(tunnel.addr(), Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(9))).await;
    bob.register(2).await;
    let thief = alice.connect(Show::Device).await;
    thief.ask_as(Some(SessionId([0; 16])), Call::Peek { after: None }).await;
    let rude = raw::connect(peer.listen()).await;
    raw::ask(&rude, b"nonsense").await;
    peer.event("incident").await;

    let log = peer.kill().await;
    assert!(log.contains("Refused"), "the log is at work: {log}");
    let port = format!(":{}", other.local_addr().unwrap().port());
    assert!(!log.contains(&port), "{port} is in the log:\n{log}");
    for node in [&alice, &bob] {
        let fingerprint = node.fingerprint();
        let address = node.endpoint.local_addr().unwrap();
        let port = format!(":{}", address.port());
        let device = node.identity.passport_der();
        for canary in [
            fingerprint.to_string(),
            fingerprint.short(),
            format!("{:?}", fingerprint.as_bytes()),
            address.ip().to_string(),
            port,
            format!("{device:?}"),
        ] {
            assert!(!log.contains(&canary), "{canary} is in the log:\n{log}");
        }
    }
}
