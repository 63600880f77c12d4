//! What nodes see of a running peer.

use crate::common::{Node, PATIENCE, Process, envelope, raw, token};
use halloo_transport::{CloseCode, ConnectionLost, EarlyData, PeerTrust, Show};
use halloo_wire::SessionId;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{
    Call, Callee, Knock, Knocked, PeerError, Publication, Push, Receipt, Request, Response,
};
use tokio::time::timeout;

#[tokio::test]
async fn a_message_is_left_pushed_read_and_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let bundle = Publication { seq: 1, bundle: vec![7; 1489], one_time_keys: vec![[1; 32]] };
    assert_eq!(inbox.ask(Call::Publish(bundle.clone())).await, Response::Done);

    let sender = alice.connect(Show::Nothing).await;
    let Response::Found(found) = sender.ask(bob.look_up_call()).await else { panic!() };
    assert_eq!(found.passport, bob.identity.passport_der());
    assert_eq!((found.bundle, found.one_time_key), (bundle.bundle, Some(0)));
    let receipt = sender.ask(bob.drop_call(Lane::Contacts, 5, Some(1))).await;
    let expected = Receipt { instance: sender.instance, ttl_s: 72 * 3600 };
    assert_eq!(receipt, Response::Dropped(expected));

    let Push::Envelope(pushed) = inbox.push().await else { panic!() };
    assert_eq!(pushed.envelope, envelope(Lane::Contacts, 5));
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    assert_eq!(page.envelopes, std::slice::from_ref(&pushed));
    assert_eq!(inbox.ask(Call::Ack(vec![pushed.id])).await, Response::Done);
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    assert!(page.envelopes.is_empty());
}

#[tokio::test]
async fn what_is_left_for_an_absent_node_waits() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    drop(bob.reachable(&[1]).await);
    let sender = alice.connect(Show::Nothing).await;
    for fill in 0..40 {
        let answer = sender.ask(bob.drop_call(Lane::Contacts, fill, Some(1))).await;
        assert!(matches!(answer, Response::Dropped(_)));
    }
    let (inbox, registered) = bob.register(2).await;
    assert_eq!(registered.waiting, 40);
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    let fills: Vec<u8> = page.envelopes.iter().map(|w| w.envelope[500]).collect();
    assert_eq!(fills, (0..40).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_look_up_is_answered_before_the_handshake_is_done() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let bundle = Publication { seq: 1, bundle: vec![7; 1489], one_time_keys: vec![] };
    assert_eq!(inbox.ask(Call::Publish(bundle)).await, Response::Done);
    let first = alice.connect(Show::Nothing).await;
    assert!(matches!(first.ask(bob.look_up_call()).await, Response::Found(_)));
    let (at, key) = alice.target;
    let trust = PeerTrust::Pinned(key);
    let second = alice.endpoint.connect_peer(at, trust, Show::Nothing).await.unwrap();
    let request = Request { session: None, call: bob.look_up_call() };
    assert!(matches!(second.request(&request).await.unwrap(), Response::Found(_)));
    assert_eq!(second.confirmed().await, Ok(EarlyData::Accepted));
    let request = Request { session: None, call: bob.drop_call(Lane::Contacts, 1, Some(1)) };
    assert!(matches!(second.request(&request).await.unwrap(), Response::Dropped(_)));
}

#[tokio::test]
async fn a_burst_is_pushed_whole_and_in_order() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    for fill in 0..200 {
        sender.ask(bob.drop_call(Lane::Contacts, fill, Some(1))).await;
    }
    for fill in 0..200 {
        let Push::Envelope(pushed) = inbox.push().await else { panic!() };
        assert_eq!(pushed.envelope[500], fill);
    }
}

#[tokio::test]
async fn a_knock_reaches_the_callee_and_answers_the_caller() {
    let home = tempfile::tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let caller = alice.connect(Show::Nothing).await;
    let knock = |shown| Knock { relay: false, ..bob.knock(shown) };
    let nobody = Knocked { callee: None, message: None };
    assert_eq!(caller.knock(knock(2)).await, nobody);
    let observed = vec![bob.endpoint.local_addr().unwrap()];
    let callee = Callee { observed, card: vec![1; 60], channel: None };
    let answer = caller.knock(knock(1)).await;
    assert_eq!(answer, Knocked { callee: Some(callee), message: None });
    let pushed = Push::Knock {
        capability: token(1).id(),
        observed: vec![alice.endpoint.local_addr().unwrap()],
        card: b"caller's card".to_vec(),
        channel: None,
        datagrams: vec![],
    };
    assert_eq!(inbox.push().await, pushed);
    inbox.connection.close(CloseCode::Done);
    timeout(PATIENCE, async { while caller.knock(knock(1)).await != nobody {} }).await.unwrap();
}

#[tokio::test]
async fn the_latest_registration_wins_and_a_replay_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let bob = Node::new(&peer);
    let (old, first) = bob.register(1).await;
    let (new, second) = bob.register(2).await;
    assert_eq!(first.session, second.session);
    assert_eq!(old.push().await, Push::Superseded);
    assert_eq!(old.refused(old.register_call(2)).await, PeerError::StaleCounter);
    let sender = Node::new(&peer).connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Strangers, 1, None)).await;
    assert!(matches!(new.push().await, Push::Envelope(_)));
    assert_eq!(peer.event("incident").await["kind"], "stale_registration");
}

#[tokio::test]
async fn a_wrong_session_closes_its_connection_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let thief = alice.connect(Show::Device).await;
    for session in [inbox.session, Some(SessionId([0; 16]))] {
        let thief = alice.connect(Show::Device).await;
        let answer = thief.ask_as(session, Call::Peek { after: None }).await;
        assert_eq!(answer, Response::Refused(PeerError::WrongSession));
        let end = timeout(PATIENCE, thief.connection.closed()).await.unwrap();
        assert_eq!(end, ConnectionLost::Closed(CloseCode::WrongSession));
    }
    assert_eq!(thief.refused(Call::Peek { after: None }).await, PeerError::NotRegistered);
    assert!(matches!(inbox.ask(Call::Peek { after: None }).await, Response::Page(_)));
    let incident = peer.event("incident").await;
    assert_eq!(incident["kind"], "wrong_session");
    let fields: Vec<_> = incident.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["count", "event", "kind", "mono_ns", "schema", "second"]);
}

#[tokio::test]
async fn nonsense_is_answered_and_disturbs_nobody() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let bob = Node::new(&peer);
    let inbox = bob.reachable(&[1]).await;
    let rude = raw::connect(peer.listen()).await;
    for bytes in [&b""[..], b"\xff\xff\xff\xff", &[0; 1000], &[0x63; 65_536]] {
        let answer = raw::ask(&rude, bytes).await;
        assert_eq!(answer, Response::Refused(PeerError::Malformed), "{} bytes", bytes.len());
    }
    let large = raw::ask(&rude, &vec![0; 1 << 20]).await;
    assert_eq!(large, Response::Refused(PeerError::TooLarge));
    // A stream that ends in the middle of a request, and one that is never written.
    let (mut send, _recv) = rude.open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    send.reset(0u32.into()).unwrap();
    let _silent = rude.open_bi().await.unwrap();
    assert!(matches!(inbox.ask(Call::Peek { after: None }).await, Response::Page(_)));
    // Datagrams that are no QUIC.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..100u8 {
        socket.send_to(&[n.wrapping_mul(37); 100], peer.listen()).unwrap();
    }
    assert!(matches!(inbox.ask(Call::Peek { after: None }).await, Response::Page(_)));
    let kinds =
        [peer.event("incident").await, peer.event("incident").await].map(|i| i["kind"].clone());
    assert!(kinds.iter().any(|k| k == "malformed"));
}

#[tokio::test]
async fn a_full_lane_refuses_and_the_other_lane_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    let stranger = || bob.drop_call(Lane::Strangers, 1, None);
    for _ in 0..32 {
        assert!(matches!(sender.ask(stranger()).await, Response::Dropped(_)));
    }
    assert_eq!(sender.refused(stranger()).await, PeerError::MailboxFull);
    let contact = sender.ask(bob.drop_call(Lane::Contacts, 2, Some(1))).await;
    assert!(matches!(contact, Response::Dropped(_)));
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    assert_eq!(page.envelopes.len(), 33);
    let first = page.envelopes[0].id;
    assert_eq!(inbox.ask(Call::Ack(vec![first])).await, Response::Done);
    assert!(matches!(sender.ask(stranger()).await, Response::Dropped(_)));
    assert_eq!(peer.event("incident").await["kind"], "mailbox_full");
}

#[tokio::test]
async fn the_memory_cap_holds_and_frees_again() {
    let home = tempfile::tempdir().unwrap();
    let mut peer =
        Process::start(home.path(), &["--max-memory", "21MiB", "--max-connections", "16"]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let inbox = bob.reachable(&[1]).await;
    let sender = alice.connect(Show::Nothing).await;
    let drop = || bob.drop_call(Lane::Contacts, 1, Some(1));
    let mut kept = 0;
    let refusal = loop {
        match sender.ask(drop()).await {
            Response::Dropped(_) => kept += 1,
            Response::Refused(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal, PeerError::PeerFull);
    let Response::Page(page) = inbox.ask(Call::Peek { after: None }).await else { panic!() };
    assert_eq!(page.envelopes.len(), kept, "nothing was evicted");
    let ids = page.envelopes.iter().map(|w| w.id).collect();
    assert_eq!(inbox.ask(Call::Ack(ids)).await, Response::Done);
    assert!(matches!(sender.ask(drop()).await, Response::Dropped(_)));
    peer.signal(rustix::process::Signal::TERM);
    let stats = peer.event("stopping").await["stats"].clone();
    assert!(stats["memory_used"].as_u64() <= stats["memory_cap"].as_u64());
    assert_eq!(stats["memory_cap"], 256 << 10);
    assert!(peer.wait().await.success());
}
