//! Becoming contacts, and the keys of contacts.

use super::*;

#[test]
fn a_request_is_accepted_and_messages_flow_both_ways() {
    let (mut a, mut b) = contacts();
    assert_eq!(a.state_of(&b.fp()), ContactState::Accepted);
    assert_eq!(b.state_of(&a.fp()), ContactState::Accepted);
    let id = send(&mut a, &b, "to Ben");
    send(&mut b, &a, "to Anna");
    settle(&mut a, &mut b);
    assert_eq!(a.texts(), ["to Anna"]);
    assert_eq!(b.texts(), ["to Ben"]);
    assert_eq!(a.run(|m, cx| m.delivery(cx, &id)).unwrap(), Some(Delivery::Delivered));
    let fp = b.fp();
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fp)).unwrap(), 0);
}

#[test]
fn what_is_written_before_the_acceptance_waits_for_it() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let address = b.address();
    a.run(|m, cx| m.add_contact(cx, &address, None, "")).unwrap();
    send(&mut a, &b, "early");
    settle(&mut a, &mut b);
    assert!(b.texts().is_empty());
    assert!(matches!(b.events[..], [EventKind::Request { .. }]));
    let fp = a.fp();
    b.run(|m, cx| m.accept(cx, &fp, None)).unwrap();
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["early"]);
}

#[test]
fn a_stranger_who_is_not_accepted_hears_nothing_not_even_an_acknowledgement() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let address = b.address();
    a.run(|m, cx| m.add_contact(cx, &address, None, "")).unwrap();
    for (kind, inner) in outgoing(&mut a, &mut b) {
        by_mailbox(&mut b, kind, &inner);
    }
    let fp = a.fp();
    assert_eq!(b.run(|m, cx| m.due_ack(cx, &fp)).unwrap(), None);
    assert!(outgoing(&mut b, &mut a).is_empty());
}

#[test]
fn requests_that_cross_make_contacts() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let (to_b, to_a) = (b.address(), a.address());
    a.run(|m, cx| m.add_contact(cx, &to_b, None, "")).unwrap();
    b.run(|m, cx| m.add_contact(cx, &to_a, None, "")).unwrap();
    let (from_a, from_b) = (outgoing(&mut a, &mut b), outgoing(&mut b, &mut a));
    for (kind, inner) in from_a {
        by_mailbox(&mut b, kind, &inner);
    }
    for (kind, inner) in from_b {
        by_mailbox(&mut a, kind, &inner);
    }
    settle(&mut a, &mut b);
    send(&mut a, &b, "one");
    send(&mut b, &a, "two");
    settle(&mut a, &mut b);
    assert_eq!((a.texts(), b.texts()), (vec!["two".to_owned()], vec!["one".to_owned()]));
}

#[test]
fn a_contact_who_begins_again_with_an_empty_home_is_heard() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "before");
    settle(&mut a, &mut b);
    // Ben keeps his key and loses everything else.
    let identity = Arc::clone(&b.identity);
    let mut again = Side::new();
    again.identity = identity;
    again.sql = Connection::open_in_memory().unwrap();
    crate::store::prepare_for_tests(&again.sql);
    again.restart();
    let hint = PeerHint { host: "peer.example".into(), port: 443, key: None };
    again.run(|m, cx| m.set_own_peers(cx, &[hint])).unwrap();
    again.now += 10;
    let kept = send(&mut a, &b, "sent while Ben was gone");
    let address = a.address();
    again.run(|m, cx| m.add_contact(cx, &address, None, "")).unwrap();
    settle(&mut again, &mut a);
    assert_eq!(again.state_of(&a.fp()), ContactState::Accepted);
    send(&mut again, &a, "I am back");
    settle(&mut again, &mut a);
    assert!(a.texts().contains(&"I am back".to_owned()));
    assert_eq!(again.texts(), ["sent while Ben was gone"]);
    assert_eq!(a.run(|m, cx| m.delivery(cx, &kept)).unwrap(), Some(Delivery::Delivered));
}

#[test]
fn a_blocked_contact_is_not_heard_and_what_waited_for_it_fails() {
    let (mut a, mut b) = contacts();
    let id = send(&mut a, &b, "never");
    send(&mut b, &a, "unheard");
    let from_b = outgoing(&mut b, &mut a);
    let fp = b.fp();
    a.run(|m, cx| m.block(cx, &fp)).unwrap();
    for (_, inner) in from_b {
        directly(&mut a, b.fp(), &inner);
    }
    assert!(a.texts().is_empty());
    let delivery = a.run(|m, cx| m.delivery(cx, &id)).unwrap().unwrap();
    assert!(matches!(delivery, Delivery::Failed { .. }));
    let refused = a.run(|m, cx| m.send(cx, &fp, "x", None, None, None));
    assert!(matches!(refused, Err(SendError::Blocked)));
}

#[test]
fn one_cannot_add_oneself_or_somebody_twice_or_under_a_taken_name() {
    let (mut a, b) = contacts();
    let (own, known) = (a.address(), b.address());
    let add = |a: &mut Side, address: &Address, name| {
        a.run(|m, cx| m.add_contact(cx, address, name, "")).err()
    };
    assert!(matches!(add(&mut a, &own, None), Some(ContactError::Oneself)));
    assert!(matches!(add(&mut a, &known, None), Some(ContactError::Known { .. })));
    let other = Side::new().address();
    assert!(matches!(add(&mut a, &other, Some("Ben")), Some(ContactError::NameTaken { .. })));
    assert!(matches!(add(&mut a, &other, Some("a\nb")), Some(ContactError::BadName { .. })));
}

#[test]
fn a_peer_that_has_restarted_is_given_fresh_one_time_keys() {
    let mut a = Side::new();
    let (before, after) = (a.found(), a.found());
    assert!(after.one_time_keys.iter().all(|k| !before.one_time_keys.contains(k)));
    // One that remembers is given nothing.
    let newest = a.run(|_, cx| cx.db.newest_bundle()).unwrap().unwrap();
    let again = a.run(|m, cx| m.publication(cx, Some((newest.seq, 50)))).unwrap();
    assert_eq!(again, None);
}

#[test]
fn one_time_keys_that_come_back_are_replaced_before_they_run_out() {
    let (mut a, mut b) = contacts();
    let full = b.run(|m, cx| m.published(cx)).unwrap().unwrap().1;
    // A session of Anna's takes one of them.
    let (fb, found) = (b.fp(), b.found());
    let resend = a.run(|m, cx| m.make_resend(cx, &fb, &found)).unwrap().unwrap();
    directly(&mut b, a.fp(), &resend);
    let (_, left) = b.run(|m, cx| m.published(cx)).unwrap().unwrap();
    assert_eq!(left, full - 1);
    let due = b.run(|m, cx| {
        cx.db.set_count(crate::core::prekeys::KEYS_USED, 45)?;
        let has = m.published(cx)?;
        m.publication(cx, has)
    });
    assert!(due.unwrap().is_some());
}

#[test]
fn keys_of_peers_that_somebody_names_are_not_pinned() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let key = halloo_identity::PeerFingerprint::from_bytes([9; 30]);
    let hint = PeerHint { host: "other.example".into(), port: 443, key: Some(key) };
    a.run(|m, cx| m.set_own_peers(cx, &[hint])).unwrap();
    let mut address = b.address();
    address.peer_key = Some(key);
    a.run(|m, cx| m.add_contact(cx, &address, None, "")).unwrap();
    settle(&mut a, &mut b);
    assert_eq!(b.state_of(&a.fp()), ContactState::Incoming);
    for (side, host) in [(&mut a, "peer.example"), (&mut b, "other.example")] {
        let peer = PeerHost::new(host, 443).unwrap();
        assert_eq!(side.run(|_, cx| cx.db.pin(&peer)).unwrap(), None);
    }
}

#[test]
fn an_acceptance_proves_its_sender_also_against_quantum_computers() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let address = b.address();
    a.run(|m, cx| m.add_contact(cx, &address, None, "")).unwrap();
    settle(&mut a, &mut b);
    let fp = a.fp();
    b.run(|m, cx| m.accept(cx, &fp, None)).unwrap();
    let (kind, bytes) = outgoing(&mut b, &mut a).remove(0);
    assert_eq!(kind, Kind::Accept);
    let mut bare = halloo_wire::inner::Inner::decode(&bytes).unwrap();
    bare.introduction = None;
    directly(&mut a, b.fp(), &bare.encode());
    assert_eq!(a.state_of(&b.fp()), ContactState::Requested);
    directly(&mut a, b.fp(), &bytes);
    assert_eq!(a.state_of(&b.fp()), ContactState::Accepted);
}

#[test]
fn a_proved_ratchet_key_is_not_replaced_by_a_bundle() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    // Ben's passport signs another ratchet key, as somebody could who has broken Ed25519.
    b.run(|_, cx| {
        cx.db.set_meta(
            crate::core::META_ACCOUNT,
            &halloo_e2ee::RatchetAccount::generate().to_bytes(),
        )
    })
    .unwrap();
    b.restart();
    let found = b.found();
    assert!(a.run(|m, cx| m.take_bundle(cx, &fp, &found)).is_err());
}
