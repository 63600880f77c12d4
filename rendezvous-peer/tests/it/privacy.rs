//! What a peer must not tell: its logs name nobody.

use crate::common::{Node, Process, raw, token};
use halloo_transport::Show;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, Knock, Push, Response};
use halloo_wire::{DeviceId, SessionId};

#[tokio::test]
async fn logs_at_the_lowest_level_hold_no_address_and_no_identity() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &["--log", "trace"]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(1))).await;
    assert!(matches!(inbox.push().await, Push::Envelope(_)));
    let card = vec![1; 20];
    let to = bob.fingerprint();
    let knock = Knock { to, device: DeviceId::FIRST, token: token(1), card };
    assert!(matches!(sender.ask(Call::Knock(knock)).await, Response::Knocked(_)));
    assert!(matches!(inbox.push().await, Push::Knock { .. }));
    sender.ask(bob.drop_call(Lane::Contacts, 1, Some(9))).await;
    bob.register(2).await;
    let thief = alice.connect(Show::Device).await;
    thief.ask_as(Some(SessionId([0; 16])), Call::Peek { after: None }).await;
    let rude = raw::connect(peer.listen()).await;
    raw::ask(&rude, b"nonsense").await;
    peer.event("incident").await;

    let log = peer.kill().await;
    assert!(log.contains("Refused"), "the log is at work: {log}");
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
