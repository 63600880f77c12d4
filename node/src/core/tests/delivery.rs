//! Messages and receipts: overtaken, repeated, lost, unreadable.

use super::*;

#[test]
fn a_lost_acknowledgement_is_made_again_and_nothing_arrives_twice() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "once");
    for _ in 0..3 {
        for (_, inner) in outgoing(&mut a, &mut b) {
            directly(&mut b, a.fp(), &inner);
            by_mailbox(&mut b, Kind::Message, &inner);
        }
        b.restart();
    }
    assert_eq!(b.texts(), ["once"]);
    acknowledge(&mut b, &mut a);
    assert!(outgoing(&mut a, &mut b).is_empty());
}

#[test]
fn messages_that_overtake_each_other_arrive_in_order() {
    let (mut a, mut b) = contacts();
    for i in 0..10 {
        send(&mut a, &b, &i.to_string());
    }
    let mut on_the_way = outgoing(&mut a, &mut b);
    on_the_way.reverse();
    for (_, inner) in on_the_way {
        directly(&mut b, a.fp(), &inner);
    }
    let in_order: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    assert_eq!(b.texts(), in_order);
}

#[test]
fn a_message_is_encrypted_once_and_repeated_as_the_same_bytes() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "same");
    let first = outgoing(&mut a, &mut b);
    a.restart();
    assert_eq!(first, outgoing(&mut a, &mut b));
}

#[test]
fn an_acknowledgement_of_a_stream_that_is_over_changes_nothing() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "kept");
    let (fp, stream) = (b.fp(), {
        let fp = b.fp();
        a.run(|_, cx| cx.db.contact(&fp)).unwrap().unwrap().stream
    });
    let (stream, transcript) = (halloo_wire::StreamId(stream.0 - 1), Transcript::START);
    let ack = Ack { stream, next: Seq(1_000), transcript };
    a.run(|m, cx| m.take_ack(cx, &fp, ack, Via::Direct)).unwrap();
    assert_eq!(outgoing(&mut a, &mut b).len(), 1);
}

#[test]
fn a_message_from_somebody_else_on_a_connection_is_refused() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "mine");
    let on_the_way = outgoing(&mut a, &mut b);
    let mallory = Identity::generate().fingerprint();
    for (_, inner) in &on_the_way {
        directly(&mut b, mallory, inner);
    }
    assert!(b.texts().is_empty());
}

#[test]
fn every_changed_byte_of_a_message_is_refused_and_the_original_still_arrives() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "whole");
    let (_, inner) = outgoing(&mut a, &mut b).remove(0);
    for i in 0..inner.len() {
        let mut changed = inner.clone();
        changed[i] ^= 1;
        directly(&mut b, a.fp(), &changed);
        assert!(b.texts().is_empty(), "byte {i}");
    }
    directly(&mut b, a.fp(), &inner);
    assert_eq!(b.texts(), ["whole"]);
}

#[test]
fn what_cannot_be_read_is_asked_for_again_under_a_fresh_session() {
    let (mut a, mut b) = contacts();
    // Ben's sessions are gone, as after a damaged disk.
    let fp = a.fp();
    b.run(|_, cx| cx.db.remove_sessions(&fp)).unwrap();
    b.restart();
    send(&mut a, &b, "unreadable at first");
    send(&mut a, &b, "and this");
    let mut unreadable = Vec::new();
    for (_, inner) in outgoing(&mut a, &mut b) {
        unreadable.extend(directly(&mut b, a.fp(), &inner).unreadable);
    }
    assert_eq!(unreadable, [fp]);
    assert!(b.texts().is_empty());
    let found = a.found();
    let resend = b.run(|m, cx| m.make_resend(cx, &fp, &found)).unwrap().unwrap();
    directly(&mut a, b.fp(), &resend);
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["unreadable at first", "and this"]);
}

#[test]
fn what_was_refused_is_asked_for_until_it_has_come_though_earlier_ones_come() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    for text in ["first", "second", "third"] {
        send(&mut a, &b, text);
    }
    let on_the_way: Vec<_> = outgoing(&mut a, &mut b).into_iter().map(|(_, inner)| inner).collect();
    // The last two are on a session that is lost; the request to send them again is lost, too.
    for inner in &on_the_way[1..] {
        let mut lost = halloo_wire::inner::Inner::decode(inner).unwrap();
        *lost.ratchet.last_mut().unwrap() ^= 1;
        assert_eq!(directly(&mut b, fa, &lost.encode()).refused, 1);
    }
    directly(&mut b, fa, &on_the_way[0]);
    b.restart();
    assert_eq!(b.texts(), ["first"]);

    b.now += 61;
    assert_eq!(b.run(|m, cx| m.due_resends(cx)).unwrap(), [fa]);
    ask_again(&mut a, &mut b);
    let again = outgoing(&mut a, &mut b);
    directly(&mut b, fa, &again[0].1);
    assert_eq!(b.texts(), ["first"], "acknowledged or not, it comes once");
    directly(&mut b, fa, &again[1].1);
    b.now += 1_000;
    assert_eq!(b.run(|m, cx| m.due_resends(cx)).unwrap(), [fa], "the third is missing");
    directly(&mut b, fa, &again[2].1);
    assert_eq!(b.texts(), ["first", "second", "third"]);
    b.now += 10_000;
    assert_eq!(b.run(|m, cx| m.due_resends(cx)).unwrap(), [], "nothing is missing any more");
    acknowledge(&mut b, &mut a);
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fb)).unwrap(), 0);
}

#[test]
fn what_waited_for_earlier_ones_and_was_let_go_is_asked_for_until_it_has_come() {
    let (mut a, mut b) = contacts();
    let fa = a.fp();
    for text in ["first", "second", "third", "fourth"] {
        send(&mut a, &b, text);
    }
    let on_the_way = outgoing(&mut a, &mut b);
    let due = |b: &mut Side| b.run(|m, cx| m.due_resends(cx)).unwrap();
    directly(&mut b, fa, &on_the_way[2].1);
    directly(&mut b, fa, &on_the_way[3].1);
    b.now += 301;
    assert_eq!(due(&mut b), [fa]);
    // Nobody has the last one in a mailbox any more, whatever becomes of those before it.
    for (_, inner) in &on_the_way[..3] {
        directly(&mut b, fa, inner);
    }
    b.now += 1_000;
    assert_eq!(due(&mut b), [fa]);
    ask_again(&mut a, &mut b);
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["first", "second", "third", "fourth"]);
    b.now += 10_000;
    assert_eq!(due(&mut b), []);
}

#[test]
fn a_receipt_that_could_not_be_read_is_asked_for_until_it_has_come() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    let due = |a: &mut Side| a.run(|m, cx| m.due_resends(cx)).unwrap();
    send(&mut a, &b, "first");
    send(&mut a, &b, "second");
    let on_the_way = outgoing(&mut a, &mut b);
    let garbled = |b: &mut Side| {
        let ack = b.run(|m, cx| m.due_ack(cx, &fa)).unwrap().unwrap();
        let bytes = halloo_wire::content::Content::encode(&ack.ack);
        let made = b.run(|m, cx| m.make_control(cx, &fa, Kind::Ack, &bytes)).unwrap();
        b.run(|m, cx| m.ack_sent(cx, &fa, ack)).unwrap();
        let mut inner = halloo_wire::inner::Inner::decode(&made.unwrap()).unwrap();
        *inner.ratchet.last_mut().unwrap() ^= 1;
        inner.encode()
    };
    directly(&mut b, fa, &on_the_way[0].1);
    let receipt = garbled(&mut b);
    assert_eq!(directly(&mut a, fb, &receipt).unreadable, [fb]);
    directly(&mut b, fa, &on_the_way[1].1);
    a.now += 10;
    let receipt = garbled(&mut b);
    // Anna asks once a minute at most.
    assert_eq!(directly(&mut a, fb, &receipt).unreadable, [], "too soon");
    assert_eq!(b.run(|m, cx| m.due_ack(cx, &fa)).unwrap(), None, "Ben believes it given");
    a.restart();

    // What Ben writes is read; it does not tell what he has read. The first requests get lost.
    send(&mut b, &a, "a word");
    carry(&mut b, &mut a);
    assert_eq!(a.texts(), ["a word"]);
    assert_eq!(due(&mut a), []);
    a.now += 51;
    assert_eq!(due(&mut a), [fb]);
    a.now += 121;
    assert_eq!(due(&mut a), [fb]);
    ask_again(&mut b, &mut a);
    acknowledge(&mut b, &mut a);
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fb)).unwrap(), 0);
    a.now += 10_000;
    assert_eq!(due(&mut a), [], "nothing is missing any more");
}

#[test]
fn unreadable_messages_ask_again_once_a_minute_at_most() {
    let (mut a, mut b) = contacts();
    let fp = a.fp();
    b.run(|_, cx| cx.db.remove_sessions(&fp)).unwrap();
    b.restart();
    send(&mut a, &b, "x");
    let (_, inner) = outgoing(&mut a, &mut b).remove(0);
    assert_eq!(directly(&mut b, fp, &inner).unreadable.len(), 1);
    assert_eq!(directly(&mut b, fp, &inner).unreadable.len(), 0);
    b.now += 61;
    assert_eq!(directly(&mut b, fp, &inner).unreadable.len(), 1);
}

#[test]
fn sending_twice_under_one_client_id_sends_once() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    let one = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None, None)).unwrap();
    a.restart();
    let two = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None, None)).unwrap();
    assert_eq!(one, two);
    settle(&mut a, &mut b);
    let again = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None, None)).unwrap();
    assert_eq!(one, again);
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["x"]);
}

#[test]
fn a_transaction_that_fails_leaves_no_trace() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    let failed: Result<(), StoreError> = a.run(|m, cx| {
        m.send(cx, &fp, "ghost", None, None, None).unwrap();
        m.depart(cx, &fp, Seq(0), 10).map(drop)?;
        Err(StoreError::DiskFull)
    });
    assert!(failed.is_err());
    send(&mut a, &b, "real");
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["real"]);
}

#[test]
fn a_parked_message_is_left_again_when_the_peer_has_restarted_or_its_time_is_over() {
    let (mut a, b) = contacts();
    let id = send(&mut a, &b, "parked");
    let fp = b.fp();
    let messages = |a: &mut Side, run: InstanceId| match a
        .run(|m, cx| m.depart_to_peer(cx, &fp, run, 10))
        .unwrap()
    {
        Departure::Ready(ready) => ready,
        Departure::NeedBundle => panic!("there is a session"),
    };
    let ready = |a: &mut Side, run: InstanceId| messages(a, run).len();
    let parked = messages(&mut a, RUN).remove(0);
    let receipt = Receipt { instance: RUN, ttl_s: 3600 };
    a.run(|m, cx| m.parked(cx, &fp, &[(parked, receipt)])).unwrap();
    let delivery = a.run(|m, cx| m.delivery(cx, &id)).unwrap().unwrap();
    assert_eq!(delivery, Delivery::AtPeer { until_unix_s: NOW + 3600 });
    assert_eq!(ready(&mut a, RUN), 0);
    assert_eq!(ready(&mut a, InstanceId([2; 16])), 1);
    a.now += 3601;
    assert_eq!(ready(&mut a, RUN), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Send { by_a: bool },
    Deliver { to_a: bool, which: prop::sample::Index, mailbox: bool },
    Acknowledge { by_a: bool },
    Restart { a: bool },
    LoseSessions { a: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<bool>().prop_map(|by_a| Step::Send { by_a }),
        10 => (any::<bool>(), any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(to_a, which, mailbox)| Step::Deliver { to_a, which, mailbox }),
        3 => any::<bool>().prop_map(|by_a| Step::Acknowledge { by_a }),
        2 => any::<bool>().prop_map(|a| Step::Restart { a }),
        1 => any::<bool>().prop_map(|a| Step::LoseSessions { a }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is lost, repeated, reordered or forgotten on the way: in the end each message is
    /// there once and in order, on both sides.
    #[test]
    fn everything_arrives_once_and_in_order_whatever_happens(steps in steps()) {
        let (mut a, mut b) = contacts();
        let (mut said_a, mut said_b) = (Vec::new(), Vec::new());
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { by_a: true } => {
                    send(&mut a, &b, &i.to_string());
                    said_a.push(i.to_string());
                }
                Step::Send { by_a: false } => {
                    send(&mut b, &a, &i.to_string());
                    said_b.push(i.to_string());
                }
                Step::Deliver { to_a, which, mailbox } => {
                    let (from, to) = if to_a { (&mut b, &mut a) } else { (&mut a, &mut b) };
                    let on_the_way = outgoing(from, to);
                    if !on_the_way.is_empty() {
                        let (kind, inner) = which.get(&on_the_way);
                        if mailbox {
                            by_mailbox(to, *kind, inner);
                        } else {
                            directly(to, from.fp(), inner);
                        }
                    }
                }
                Step::Acknowledge { by_a: true } => acknowledge(&mut a, &mut b),
                Step::Acknowledge { by_a: false } => acknowledge(&mut b, &mut a),
                Step::Restart { a: true } => a.restart(),
                Step::Restart { a: false } => b.restart(),
                Step::LoseSessions { a: which } => {
                    let (side, other) = if which { (&mut a, b.fp()) } else { (&mut b, a.fp()) };
                    side.run(|_, cx| cx.db.remove_sessions(&other)).unwrap();
                    side.restart();
                }
            }
        }
        // The faults stop. Time passes, so that each may ask again for what it cannot read.
        for _ in 0..6 {
            a.now += 61;
            b.now += 61;
            settle(&mut a, &mut b);
        }
        settle(&mut a, &mut b);
        prop_assert_eq!(b.texts(), said_a);
        prop_assert_eq!(a.texts(), said_b);
    }
}

#[test]
fn an_early_message_that_cannot_be_read_is_not_kept() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "first");
    send(&mut a, &b, "second");
    let on_the_way = outgoing(&mut a, &mut b);
    let mut junk = halloo_wire::inner::Inner::decode(&on_the_way[1].1).unwrap();
    let last = junk.ratchet.len() - 1;
    junk.ratchet[last] ^= 1;
    assert_eq!(directly(&mut b, a.fp(), &junk.encode()).refused, 1);
    for (_, inner) in on_the_way.iter().rev() {
        directly(&mut b, a.fp(), inner);
    }
    assert_eq!(b.texts(), ["first", "second"]);
}

/// A message outside of the stream that overtakes what was encrypted before it.
fn control(from: &mut Side, to: &Side) -> Vec<u8> {
    let fp = to.fp();
    let incoming = from.run(|_, cx| cx.db.incoming(&fp)).unwrap();
    let Incoming { stream, next, transcript } = incoming.unwrap();
    let ack = halloo_wire::content::Content::encode(&Ack { stream, next, transcript });
    from.run(|m, cx| m.make_control(cx, &fp, Kind::Ack, &ack)).unwrap().unwrap()
}

#[test]
fn a_receipt_that_overtakes_messages_costs_none_of_their_keys() {
    let (mut a, mut b) = contacts();
    let said: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    for text in &said {
        send(&mut a, &b, text);
    }
    send(&mut b, &a, "to Anna");
    let unacknowledged = outgoing(&mut b, &mut a);
    directly(&mut a, b.fp(), &unacknowledged[0].1);
    let on_the_way = outgoing(&mut a, &mut b);
    assert_eq!(on_the_way.len(), 100, "more than Olm keeps skipped keys for");
    // The receipts are read at once, before a restart and after it, twice.
    let receipt = control(&mut a, &b);
    by_mailbox(&mut b, Kind::Ack, &receipt);
    assert!(outgoing(&mut b, &mut a).is_empty(), "the receipt counts at once");
    b.restart();
    by_mailbox(&mut b, Kind::Ack, &receipt);
    for (kind, inner) in &on_the_way {
        by_mailbox(&mut b, *kind, inner);
    }
    assert_eq!(b.texts(), said);
}

#[test]
fn receipts_go_back_and_forth_any_number_of_times_while_a_message_is_on_its_way() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "slow");
    let slow = outgoing(&mut a, &mut b);
    // Olm keeps five chains of keys; each answer could begin another one.
    for round in 0..12 {
        let receipt = control(&mut a, &b);
        by_mailbox(&mut b, Kind::Ack, &receipt);
        send(&mut b, &a, &format!("round {round}"));
        settle_one_way(&mut b, &mut a);
    }
    for (kind, inner) in &slow {
        by_mailbox(&mut b, *kind, inner);
    }
    assert_eq!(b.texts(), ["slow"]);
    assert_eq!(a.texts().len(), 12);
}

/// Carries what `from` has to say, and no answer.
fn settle_one_way(from: &mut Side, to: &mut Side) {
    for (kind, inner) in outgoing(from, to) {
        by_mailbox(to, kind, &inner);
    }
}

#[test]
fn thousands_that_wait_are_read_whatever_order_the_peer_gives_them_in() {
    let (mut a, mut b) = contacts();
    let said: Vec<String> = (0..2_500).map(|i| i.to_string()).collect();
    for text in &said {
        send(&mut a, &b, text);
    }
    let fp = b.fp();
    let departure = a.run(|m, cx| m.depart(cx, &fp, Seq(0), 5_000)).unwrap();
    let Departure::Ready(mut waiting) = departure else { panic!("there is a session") };
    assert_eq!(waiting.len(), 2_500, "all may wait at a peer at once");
    // The newest first. Vodozemac follows 2,000 ahead and no further.
    waiting.reverse();
    let from = a.fp();
    let mut again = true;
    for round in 0.. {
        assert!(round < 100, "it ends");
        assert!(again, "what is left is to be fetched again");
        let ingested = b
            .run(|m, cx| {
                let arrivals = waiting.iter();
                let arrivals =
                    arrivals.filter_map(|o| m.open_frame(&from, Via::Mailbox, &o.inner)).collect();
                m.ingest(cx, arrivals)
            })
            .unwrap();
        assert_eq!(ingested.refused, 0);
        let read = b.texts().len();
        waiting.truncate(2_500 - read);
        if waiting.is_empty() {
            break;
        }
        again = ingested.fetch_again;
        // Some come in order meanwhile, as on a connection.
        for oldest in waiting.split_off(waiting.len().saturating_sub(200)).iter().rev() {
            directly(&mut b, from, &oldest.inner);
        }
    }
    assert_eq!(b.texts(), said);
}

#[test]
fn what_waits_in_the_mailbox_goes_when_it_has_come_by_a_connection() {
    let (mut a, mut b) = contacts();
    for i in 0..100 {
        send(&mut a, &b, &i.to_string());
    }
    let (fp, from) = (b.fp(), a.fp());
    let Departure::Ready(ready) = a.run(|m, cx| m.depart(cx, &fp, Seq(0), 200)).unwrap() else {
        panic!("there is a session");
    };
    // The peer has all but the first: some are held, the rest is passed over.
    let mut mailbox: Vec<_> = (1..).map(EnvelopeId).zip(&ready).skip(1).collect();
    let fetch = |b: &mut Side, mailbox: &mut Vec<(EnvelopeId, &crate::store::Outgoing)>| {
        let mut fetch_again = false;
        for (id, one) in mailbox.clone() {
            let inner = one.inner.clone();
            let ingested = b.run(move |m, cx| {
                let arrivals = Messenger::open_bare(id, &inner).into_iter().collect();
                m.ingest(cx, arrivals)
            });
            let ingested = ingested.unwrap();
            mailbox.retain(|(id, _)| !ingested.done.contains(id));
            fetch_again |= ingested.fetch_again;
        }
        fetch_again
    };
    assert!(!fetch(&mut b, &mut mailbox));
    assert_eq!(mailbox.len(), 99, "nothing has its turn");

    let (mut again, mut forgotten) = (false, Vec::new());
    for one in &ready {
        let ingested = directly(&mut b, from, &one.inner);
        again |= ingested.fetch_again;
        forgotten.extend(ingested.done);
    }
    mailbox.retain(|(id, _)| !forgotten.contains(id));
    assert!((1..99).contains(&mailbox.len()), "what was held is let go");
    assert!(again, "and the rest is to be fetched");
    fetch(&mut b, &mut mailbox);
    assert!(mailbox.is_empty());
    assert_eq!(b.texts().len(), 100);
}

#[test]
fn a_receipt_that_was_lost_with_our_mailbox_is_asked_for_by_leaving_one_message_again() {
    let (mut a, mut b) = contacts();
    let (fp, home) = (b.fp(), PeerHost::new("peer.example", 443).unwrap());
    a.run(|m, cx| m.mailbox_kept_by(cx, &home, RUN)).unwrap();
    for text in ["one", "two"] {
        send(&mut a, &b, text);
    }
    let unparked = |a: &mut Side| {
        let departure = a.run(|m, cx| m.depart_to_peer(cx, &fp, RUN, 10)).unwrap();
        let Departure::Ready(ready) = departure else { panic!("there is a session") };
        ready
    };
    let ready = unparked(&mut a);
    let receipt = Receipt { instance: RUN, ttl_s: 3600 };
    let left: Vec<_> = ready.iter().map(|o| (o.clone(), receipt)).collect();
    a.run(|m, cx| m.parked(cx, &fp, &left)).unwrap();
    for o in &ready {
        directly(&mut b, a.fp(), &o.inner);
    }
    let lost = control(&mut b, &a);
    drop(lost);
    let due = b.run(|m, cx| m.due_ack(cx, &a.fp())).unwrap().unwrap();
    b.run(|m, cx| m.ack_sent(cx, &a.fp(), due)).unwrap();

    a.run(|m, cx| m.mailbox_kept_by(cx, &home, RUN)).unwrap();
    assert_eq!(unparked(&mut a).len(), 0, "nothing was lost");
    a.run(|m, cx| m.mailbox_kept_by(cx, &home, InstanceId([9; 16]))).unwrap();
    let again = unparked(&mut a);
    assert_eq!(again.len(), 1);
    directly(&mut b, a.fp(), &again[0].inner);
    acknowledge(&mut b, &mut a);
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fp)).unwrap(), 0);
    assert_eq!(b.texts(), ["one", "two"]);
}

#[test]
fn the_courier_knows_which_way_a_message_came_before_it_is_woken_to_give_the_receipt() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "by mailbox");
    for (kind, inner) in outgoing(&mut a, &mut b) {
        // The second is a duplicate, whose receipt must have been lost.
        for _ in 0..2 {
            b.told.clear();
            by_mailbox(&mut b, kind, &inner);
            assert_eq!(b.told, [true, false]);
        }
        b.told.clear();
        directly(&mut b, a.fp(), &inner);
        assert_eq!(b.told, [false]);
    }
}

#[test]
fn a_receipt_that_becomes_due_while_one_is_on_its_way_stays_due() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "twice");
    let (_, inner) = outgoing(&mut a, &mut b).remove(0);
    directly(&mut b, a.fp(), &inner);
    let fp = a.fp();
    let given = b.run(|m, cx| m.due_ack(cx, &fp)).unwrap().unwrap();
    // The same message again: the receipt that is on its way may come too late.
    directly(&mut b, fp, &inner);
    b.run(|m, cx| m.ack_sent(cx, &fp, given)).unwrap();
    let again = b.run(|m, cx| m.due_ack(cx, &fp)).unwrap().unwrap();
    assert_eq!(again.ack, given.ack);
    b.run(|m, cx| m.ack_sent(cx, &fp, again)).unwrap();
    assert_eq!(b.run(|m, cx| m.due_ack(cx, &fp)).unwrap(), None);
}

#[test]
fn a_request_to_send_again_is_followed_by_a_receipt_and_outlives_older_receipts_of_the_peer() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    send(&mut a, &b, "x");
    let departure = a.run(|m, cx| m.depart_to_peer(cx, &fb, RUN, 10)).unwrap();
    let Departure::Ready(unreadable) = departure else { panic!("there is a session") };
    let found = a.found();
    let resend = b.run(|m, cx| m.make_resend(cx, &fa, &found)).unwrap().unwrap();
    directly(&mut a, fb, &resend);
    assert!(a.run(|m, cx| m.due_ack(cx, &fb)).unwrap().is_some(), "one may have been unreadable");
    // The peer's receipt for the old ciphertext comes after it, and says nothing of the new one.
    let receipt = Receipt { instance: RUN, ttl_s: 3600 };
    let parked: Vec<_> = unreadable.into_iter().map(|o| (o, receipt)).collect();
    a.run(|m, cx| m.parked(cx, &fb, &parked)).unwrap();
    let departure = a.run(|m, cx| m.depart_to_peer(cx, &fb, RUN, 10)).unwrap();
    let Departure::Ready(again) = departure else { panic!("there is a session") };
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].inner, parked[0].0.inner);
}

/// What is taken back before it left keeps its place; the recipient hears nothing of it.
#[test]
fn what_is_taken_back_in_time_leaves_a_place_and_nothing_else() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    // Behind more than are encrypted at once.
    for i in 0..40 {
        send(&mut a, &b, &format!("{i}"));
    }
    let last = send(&mut a, &b, "cancelled");
    let within = Some(Duration::from_secs(10));
    let expired = a.run(|m, cx| m.send(cx, &fp, "expired", None, None, within)).unwrap();
    let in_time = a.run(|m, cx| m.send(cx, &fp, "in time", None, None, within)).unwrap();
    let behind = send(&mut a, &b, "behind");
    a.events.clear();

    a.run(|m, cx| m.cancel(cx, &last)).unwrap();
    a.run(|m, cx| m.cancel(cx, &last)).unwrap();
    let first = a.run(|_, cx| cx.db.history(&fp, 1_000)).unwrap()[0].id;
    assert!(matches!(a.run(|m, cx| m.cancel(cx, &first)), Err(CancelError::TooLate)));
    let nobody = MessageId([0; 16]);
    assert!(matches!(a.run(|m, cx| m.cancel(cx, &nobody)), Err(CancelError::Unknown)));

    // The second is not over yet; then it is, but one of the two was encrypted before.
    a.now += 10;
    assert_eq!(a.run(|m, cx| m.expire(cx)).unwrap(), Some(NOW + 10));
    a.sql
        .execute("UPDATE outbox SET expires = ?1 WHERE id = ?2", ((NOW + 99) as i64, in_time.0))
        .unwrap();
    a.now += 1;
    settle(&mut a, &mut b);
    a.now += 1_000;
    assert_eq!(a.run(|m, cx| m.expire(cx)).unwrap(), None);
    let failed: Vec<_> = a
        .events
        .iter()
        .filter_map(|e| match e {
            EventKind::Failed { id, why, .. } => Some((*id, *why)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(last, FailReason::Cancelled), (expired, FailReason::Expired)]);
    assert!(matches!(
        a.run(|m, cx| m.cancel(cx, &expired)),
        Err(CancelError::Failed { why: FailReason::Expired })
    ));
    for id in [in_time, behind] {
        let delivery = a.run(|m, cx| m.delivery(cx, &id)).unwrap();
        assert_eq!(delivery, Some(Delivery::Delivered));
    }
    let heard = b.texts();
    assert_eq!(heard.len(), 42);
    assert_eq!(heard[40..], ["in time", "behind"]);
    let kept = b.run(|_, cx| cx.db.history(&a.identity.fingerprint(), 1_000)).unwrap();
    assert_eq!(kept.len(), 42);
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fp)).unwrap(), 0);
}

/// A ciphertext may have left, also when it is not to be used any more.
#[test]
fn what_has_been_encrypted_once_cannot_be_taken_back() {
    let (mut a, mut b) = contacts();
    let id = send(&mut a, &b, "hello");
    let _lost = outgoing(&mut a, &mut b);
    let fp = b.fp();
    a.run(|_, cx| cx.db.clear_inner(&fp, Seq(0))).unwrap();
    assert!(matches!(a.run(|m, cx| m.cancel(cx, &id)), Err(CancelError::TooLate)));
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["hello"]);
}

#[test]
fn a_session_that_speaks_and_is_answered_goes_on_speaking() {
    let (mut a, mut b) = contacts();
    let (fp, from) = (b.fp(), a.fp());
    // One that was begun and never answered, and one that has taken its place.
    let (to_b, to_a) = (b.found(), a.found());
    let lost = a.run(|m, cx| m.make_resend(cx, &fp, &to_b)).unwrap();
    drop(lost);
    let asked = b.run(|m, cx| m.make_resend(cx, &from, &to_a)).unwrap().unwrap();
    directly(&mut a, fp, &asked);
    let speaking = |a: &mut Side| a.run(|m, cx| Ok::<_, StoreError>(m.sessions(cx, &fp)?[0].id()));
    let first = speaking(&mut a).unwrap();

    send(&mut b, &a, "an answer");
    carry(&mut b, &mut a);
    assert_eq!(a.texts(), ["an answer"]);
    assert_eq!(speaking(&mut a).unwrap(), first);
    a.restart();
    assert_eq!(speaking(&mut a).unwrap(), first);
}
