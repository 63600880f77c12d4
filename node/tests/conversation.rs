//! Two nodes and a peer, with real sockets on loopback.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Friends, Home, PATIENCE, introduce, start_peer, wait_for, wait_for_text};
use halloo::error::{PingError, StartError};
use halloo::{
    Cursor, Delivery, DirectPolicy, EventKind, Path, SendOptions, TypedCode, Via, WhyRelayed,
};

#[tokio::test(flavor = "multi_thread")]
async fn two_people_become_contacts_check_the_code_and_talk_directly() {
    let Friends { data: _data, peer, anna: _anna, ben: _ben, a, b } = Friends::new().await;

    let mut check_a = a.check_safety(&b.fingerprint()).await.unwrap();
    let code_a = tokio::time::timeout(PATIENCE, check_a.code()).await.unwrap().unwrap();
    let mut check_b = b.check_safety(&a.fingerprint()).await.unwrap();
    let code_b = tokio::time::timeout(PATIENCE, check_b.code()).await.unwrap().unwrap();
    assert_eq!(code_a, code_b);
    check_a.confirm(&TypedCode::parse(&code_b).unwrap()).await.unwrap();
    check_b.confirm(&TypedCode::parse(&code_a).unwrap()).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, check_a.done()).await.unwrap().unwrap().is_checked());
    assert!(tokio::time::timeout(PATIENCE, check_b.done()).await.unwrap().unwrap().is_checked());

    a.connect(&b.fingerprint()).await.unwrap();
    for (node, other) in [(&a, &b), (&b, &a)] {
        let other = other.fingerprint();
        let path = tokio::time::timeout(PATIENCE, node.wait_direct(&other)).await.unwrap().unwrap();
        assert!(matches!(path, Path::Direct { .. }));
    }
    let (mut at_a, mut at_b) = (a.events(Cursor::default()), b.events(Cursor::default()));
    let to_b = a.send(&b.fingerprint(), "to Ben").await.unwrap();
    b.send(&a.fingerprint(), "to Anna").await.unwrap();
    let via = wait_for(&mut at_b, |e| match e {
        EventKind::Message { text, id, via, .. } if text == "to Ben" => Some((*id, *via)),
        _ => None,
    })
    .await;
    assert_eq!(via, (to_b, Via::Direct));
    wait_for_text(&mut at_a, "to Anna").await;
    let delivery = tokio::time::timeout(PATIENCE, a.wait_delivery(&to_b)).await.unwrap().unwrap();
    assert_eq!(delivery, Delivery::Delivered);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_at_the_peer_for_somebody_who_is_away_and_arrives_once() {
    let Friends { data: _data, peer, anna, ben, a, b } = Friends::new().await;
    let to = b.fingerprint();
    let cursor = {
        let mut seen = b.events(Cursor::default());
        wait_for(&mut seen, |e| matches!(e, EventKind::Accepted { .. }).then_some(())).await;
        seen.cursor()
    };
    b.shutdown().await;

    let mut events = a.events_from_now().await.unwrap();
    let id = a.send(&to, "while you were away").await.unwrap();
    wait_for(&mut events, |e| match e {
        EventKind::AtPeer { id: of, .. } if *of == id => Some(()),
        _ => None,
    })
    .await;
    assert!(matches!(a.delivery(&id).await.unwrap(), Some(Delivery::AtPeer { .. })));
    // Even the sender may go now.
    a.shutdown().await;

    let b = ben.start().await;
    let mut at_b = b.events(cursor);
    wait_for_text(&mut at_b, "while you were away").await;
    let a = anna.start().await;
    let delivery = tokio::time::timeout(PATIENCE, a.wait_delivery(&id)).await.unwrap().unwrap();
    assert_eq!(delivery, Delivery::Delivered);
    let history = b.history(&a.fingerprint(), 100).await.unwrap();
    assert_eq!(history.iter().filter(|m| !m.outgoing).count(), 1);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_forgets_everything_loses_nothing() {
    let Friends { data, peer, anna: _anna, ben, a, b } = Friends::new().await;
    let listen = peer.local_addr().to_string();
    let to = b.fingerprint();
    b.shutdown().await;
    let mut events = a.events_from_now().await.unwrap();
    let id = a.send(&to, "twice at a peer, once at Ben").await.unwrap();
    wait_for(&mut events, |e| matches!(e, EventKind::AtPeer { .. }).then_some(())).await;

    peer.shutdown().await;
    let peer = start_peer(data.path(), &listen).await;
    let b = ben.start().await;
    let mut at_b = b.events(Cursor::default());
    wait_for_text(&mut at_b, "twice at a peer, once at Ben").await;
    let delivery = tokio::time::timeout(PATIENCE, a.wait_delivery(&id)).await.unwrap().unwrap();
    assert_eq!(delivery, Delivery::Delivered);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_arrive_in_order_each_way() {
    let Friends { data: _data, peer, anna: _anna, ben: _ben, a, b } = Friends::new().await;
    let (fa, fb) = (a.fingerprint(), b.fingerprint());
    let send = |node: halloo::Node, to| async move {
        for i in 0..1000 {
            node.send(&to, &i.to_string()).await.unwrap();
        }
    };
    tokio::join!(send(a.clone(), fb), send(b.clone(), fa));
    for (node, other) in [(&a, fb), (&b, fa)] {
        let mut events = node.events(Cursor::default());
        for wanted in 0..1000 {
            let text = wait_for(&mut events, |e| match e {
                EventKind::Message { from, text, .. } if *from == other => Some(text.clone()),
                _ => None,
            })
            .await;
            assert_eq!(text, wanted.to_string());
        }
    }
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_never_keeps_everything_on_the_relay() {
    let data = tempfile::tempdir().unwrap();
    let peer = start_peer(data.path(), "127.0.0.1:0").await;
    let (anna, ben) = (Home::new("Anna", &peer), Home::new("Ben", &peer));
    let a = anna.start().await;
    let b = ben.start_with(DirectPolicy::Never).await;
    introduce(&a, &b).await;
    for (node, other) in [(&a, &b), (&b, &a)] {
        let path = node.connect(&other.fingerprint()).await.unwrap();
        assert!(matches!(path, Path::Relayed { why: WhyRelayed::Hidden, .. }), "{path:?}");
    }
    let mut at_b = b.events(Cursor::default());
    a.send(&b.fingerprint(), "by relay").await.unwrap();
    let via = wait_for(&mut at_b, |e| match e {
        EventKind::Message { via, .. } => Some(*via),
        _ => None,
    })
    .await;
    assert_eq!(via, Via::Relay);
    let pong = a.ping(&b.fingerprint(), PATIENCE).await.unwrap();
    assert_eq!(pong.via, Via::Relay);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_carry_a_programs_own_bytes() {
    let Friends { data: _data, peer, anna: _anna, ben: _ben, a, b } = Friends::new().await;
    let echo = tokio::spawn({
        let b = b.clone();
        async move {
            let mut incoming = b.accept_channel().await.unwrap();
            assert_eq!(incoming.name, "echo");
            let bytes = incoming.channel.recv.read_to_end(10_000_000).await.unwrap();
            incoming.channel.send.write_all(&bytes).await.unwrap();
            incoming.channel.send.finish().unwrap();
            incoming.channel.send.stopped().await.unwrap();
            incoming.from
        }
    });
    let mut channel = a.open_channel(&b.fingerprint(), "echo").await.unwrap();
    let sent = vec![7u8; 3_000_000];
    let (_, read) = tokio::join!(
        async {
            channel.send.write_all(&sent).await.unwrap();
            channel.send.finish().unwrap();
        },
        async { channel.recv.read_to_end(10_000_000).await.unwrap() }
    );
    assert_eq!(read, sent);
    assert_eq!(echo.await.unwrap(), a.fingerprint());
    tokio::time::timeout(PATIENCE, a.wait_direct(&b.fingerprint())).await.unwrap().unwrap();
    let pong = a.ping(&b.fingerprint(), PATIENCE).await.unwrap();
    assert_eq!(pong.via, Via::Direct);
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_home_runs_one_node() {
    let data = tempfile::tempdir().unwrap();
    let peer = start_peer(data.path(), "127.0.0.1:0").await;
    let home = Home::new("Anna", &peer);
    let a = home.start().await;
    let second = halloo::Node::builder().home(home.path()).start().await;
    assert!(matches!(second, Err(StartError::AlreadyRunning { .. })));
    a.shutdown().await;
    let again = home.start().await;
    assert_eq!(again.fingerprint(), a.fingerprint());
    assert!(again.stats().tasks > 0);
    again.shutdown().await;
    assert_eq!(again.stats().tasks, 0);
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_key_changed_is_not_talked_to_and_said_loudly() {
    let data = tempfile::tempdir().unwrap();
    let peer = start_peer(data.path(), "127.0.0.1:0").await;
    let listen = peer.local_addr().to_string();
    let home = Home::new("Anna", &peer);
    let a = home.start().await;
    a.online().await;
    let expected = peer.fingerprint();
    a.shutdown().await;
    peer.shutdown().await;

    let other_data = tempfile::tempdir().unwrap();
    let impostor = start_peer(other_data.path(), &listen).await;
    // The event is not kept, and may be over before anybody listens; the next try is a minute away.
    let (a, keys) = loop {
        let a = home.start().await;
        let mut events = a.events_from_now().await.unwrap();
        let keys = wait_for(&mut events, |e| match e {
            EventKind::PeerKeyChanged { expected, found, .. } => Some((*expected, *found)),
            _ => None,
        });
        match tokio::time::timeout(Duration::from_secs(5), keys).await {
            Ok(keys) => break (a, keys),
            Err(_) => a.shutdown().await,
        }
    };
    assert_eq!(keys, (expected, impostor.fingerprint()));
    assert!(!a.is_online());
    a.shutdown().await;
    impostor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_that_nobody_answers_ends() {
    let Friends { data: _data, peer, anna: _anna, ben: _ben, a, b } = Friends::new().await;
    let to = b.fingerprint();
    b.shutdown().await;
    let none = a.ping(&to, Duration::from_millis(300)).await;
    assert!(matches!(none, Err(PingError::Timeout)));
    a.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_replayed_from_a_cursor() {
    let Friends { data: _data, peer, anna: _anna, ben: _ben, a, b } = Friends::new().await;
    for i in 0..5 {
        let options = SendOptions { client_id: Some(format!("job {i}")), ..SendOptions::default() };
        a.send_with(&b.fingerprint(), &i.to_string(), options).await.unwrap();
    }
    let mut first = b.events(Cursor::default());
    wait_for_text(&mut first, "2").await;
    let cursor = first.cursor();
    let mut second = b.events(cursor);
    let next = wait_for(&mut second, |e| match e {
        EventKind::Message { text, .. } => Some(text.clone()),
        _ => None,
    })
    .await;
    assert_eq!(next, "3");
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
}
