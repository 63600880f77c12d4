//! Stores that are emptied, set back, copied or restored: what is promised holds all the same.

use super::*;
use crate::core::again::strip_for_backup;

/// A store as it is now.
fn snapshot(side: &Side) -> Connection {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    side.sql.execute("VACUUM INTO ?", [path.to_str().unwrap()]).unwrap();
    let copy = Connection::open(&path).unwrap();
    // The file is gone from its folder, and lives as long as it is open.
    copy.execute_batch("PRAGMA journal_mode = MEMORY").unwrap();
    copy
}

/// A side that goes on from another state of its store.
fn from_snapshot(side: &Side, sql: Connection) -> Side {
    let mind = load(&sql, &side.identity);
    Side {
        identity: Arc::clone(&side.identity),
        sql,
        mind,
        now: side.now,
        events: Vec::new(),
        controls: Vec::new(),
        told: Vec::new(),
    }
}

/// Takes a side as a backup has it, and restores that.
fn restore(side: &Side) -> Side {
    let sql = snapshot(side);
    strip_for_backup(Db::new(&sql)).unwrap();
    let mut it = from_snapshot(side, sql);
    it.run(|m, cx| m.restored(cx)).unwrap();
    it
}

/// Carries everything for ten minutes.
fn live(a: &mut Side, b: &mut Side) {
    for _ in 0..12 {
        settle_once(a, b);
        a.now += 50;
        b.now += 50;
        look_for_missing(a, b);
        look_for_missing(b, a);
    }
}

fn look_for_missing(from: &mut Side, to: &mut Side) {
    if !to.run(|m, cx| m.due_resends(cx)).unwrap().is_empty() {
        ask_again(from, to);
    }
}

fn settle_once(a: &mut Side, b: &mut Side) {
    carry(a, b);
    acknowledge(b, a);
    carry(b, a);
    acknowledge(a, b);
}

/// Begins another stream; the other side goes on with its own.
fn begin_again(from: &mut Side, with: &Side) {
    let fp = with.fp();
    from.run(|m, cx| {
        let mut row = cx.db.contact(&fp)?.unwrap();
        let (known, profile) = (row.stream, m.own_profile(cx, &row)?);
        m.begin_stream(cx, &mut row, (Kind::Accept, &profile), known)
    })
    .unwrap();
}

fn delivered(side: &Side) -> Vec<MessageId> {
    let ids = side.events.iter().filter_map(|e| match e {
        EventKind::Delivered { id, .. } => Some(*id),
        _ => None,
    });
    ids.collect()
}

fn is_set_back(side: &Side) -> bool {
    side.events.iter().any(|e| matches!(e, EventKind::SetBack { .. }))
}

fn sees_a_beginning(side: &Side) -> bool {
    side.events.iter().any(|e| matches!(e, EventKind::BeganAgain { .. }))
}

fn say(from: &mut Side, to: &Side, what: &str, count: usize) -> Vec<(MessageId, String)> {
    let say = |i| {
        let text = format!("{what} {i}");
        (send(from, to, &text), text)
    };
    (0..count).map(say).collect()
}

fn texts_of(said: &[(MessageId, String)]) -> Vec<String> {
    said.iter().map(|(_, text)| text.clone()).collect()
}

fn ids_of(said: &[(MessageId, String)]) -> Vec<MessageId> {
    said.iter().map(|(id, _)| *id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the sender's store has forgotten: what it accepts afterwards arrives, once and in
    /// order, and nothing is told delivered that has not arrived.
    #[test]
    fn a_sender_whose_store_is_set_back_loses_nothing_of_what_it_accepts_then(
        before in 0..4usize,
        forgotten in 1..6usize,
        answered: bool,
        waiting in 0..3usize,
        after in 1..8usize,
    ) {
        let (mut a, mut b) = contacts();
        say(&mut a, &b, "before", before);
        live(&mut a, &mut b);
        let waiting = say(&mut a, &b, "waiting", waiting);
        let old = snapshot(&a);
        say(&mut a, &b, "forgotten", forgotten);
        if answered {
            say(&mut b, &a, "answer", 2);
        }
        live(&mut a, &mut b);
        let known = b.texts();

        let mut a = from_snapshot(&a, old);
        let mut said = waiting.clone();
        said.extend(say(&mut a, &b, "after", after));
        live(&mut a, &mut b);

        let mut expected = known;
        expected.extend(texts_of(&said[waiting.len()..]));
        prop_assert_eq!(b.texts(), expected);
        prop_assert_eq!(delivered(&a), ids_of(&said));
        prop_assert!(is_set_back(&a));
        prop_assert!(sees_a_beginning(&b));
        // And the other way.
        let back = say(&mut b, &a, "back", 3);
        live(&mut a, &mut b);
        prop_assert!(a.texts().ends_with(&texts_of(&back)));
    }

    /// A recipient whose store is set back reads on.
    #[test]
    fn a_recipient_whose_store_is_set_back_reads_on(
        forgotten in 1..6usize,
        in_another_stream: bool,
        answered: bool,
        after in 1..4usize,
    ) {
        let (mut a, mut b) = contacts();
        say(&mut a, &b, "before", 2);
        live(&mut a, &mut b);
        let old = snapshot(&b);
        if in_another_stream {
            begin_again(&mut a, &b);
        }
        say(&mut a, &b, "forgotten", forgotten);
        live(&mut a, &mut b);
        if answered {
            say(&mut b, &a, "answer", 2);
            live(&mut a, &mut b);
        }

        let mut b = from_snapshot(&b, old);
        // What is missing is asked for after five minutes.
        let said = say(&mut a, &b, "after", after);
        live(&mut a, &mut b);
        prop_assert_eq!(b.texts(), texts_of(&said));
        prop_assert_eq!(a.mind.held.len() + b.mind.held.len(), 0);
    }
}

#[test]
fn two_copies_of_a_store_that_write_in_turn_are_noticed_and_lose_nothing() {
    let (mut a, mut b) = contacts();
    say(&mut a, &b, "before", 2);
    live(&mut a, &mut b);
    b.events.clear();
    let copy = snapshot(&a);
    let mut copy = from_snapshot(&a, copy);
    let mut said = Vec::new();
    for round in 0..3 {
        for (who, side) in [("original", &mut a), ("copy", &mut copy)] {
            side.now = b.now;
            said.push(format!("{who} {round}"));
            send(side, &b, said.last().unwrap());
            live(side, &mut b);
        }
    }
    assert_eq!(b.texts(), said);
    assert!(is_set_back(&a), "the original is told");
    assert!(is_set_back(&copy), "the copy is told");
    assert!(sees_a_beginning(&b), "and the contact");
}

#[test]
fn a_restored_store_sends_what_waited_and_hears_what_is_said_once() {
    for (a_restores, b_restores) in [(true, false), (false, true), (true, true)] {
        let (mut a, mut b) = contacts();
        say(&mut a, &b, "before", 2);
        live(&mut a, &mut b);
        // On the way, read, and not acknowledged; and not read.
        let waiting = say(&mut a, &b, "waiting", 2);
        for (_, inner) in outgoing(&mut a, &mut b) {
            directly(&mut b, a.fp(), &inner);
        }
        let unread = say(&mut a, &b, "unread", 2);
        let back = say(&mut b, &a, "back", 2);
        let mut heard = b.texts();
        heard.extend(texts_of(&unread));
        if a_restores {
            a = restore(&a);
        }
        if b_restores {
            let old = b.texts();
            b = restore(&b);
            assert!(b.texts().is_empty() && !old.is_empty());
            heard = texts_of(&unread);
        }
        live(&mut a, &mut b);
        assert_eq!(b.texts(), heard, "restored: {a_restores} {b_restores}");
        assert_eq!(a.texts(), texts_of(&back));
        assert_eq!(delivered(&a)[delivered(&a).len() - 4..], ids_of(&[waiting, unread].concat()));
        for (restored, other) in [(a_restores, &b), (b_restores, &a)] {
            assert!(sees_a_beginning(other) || !restored);
        }
        let more = say(&mut a, &b, "more", 3);
        let answers = say(&mut b, &a, "answers", 3);
        live(&mut a, &mut b);
        assert!(b.texts().ends_with(&texts_of(&more)));
        assert!(a.texts().ends_with(&texts_of(&answers)));
    }
}

#[test]
fn a_backup_holds_no_ratchet() {
    let (mut a, mut b) = contacts();
    say(&mut a, &b, "read", 3);
    live(&mut a, &mut b);
    say(&mut a, &b, "waiting", 3);
    outgoing(&mut a, &mut b);
    let (sessions, account) = {
        let fp = b.fp();
        let of = |cx: &mut Context<'_>| {
            Ok::<_, StoreError>((cx.db.sessions(&fp)?, cx.db.meta("account")?))
        };
        a.run(|_, cx| of(cx)).unwrap()
    };
    assert!(sessions.len() == 1 && account.is_some());
    let copy = snapshot(&a);
    strip_for_backup(Db::new(&copy)).unwrap();
    for table in [
        "sessions",
        "bundles",
        "safety",
        "meta WHERE key = 'account'",
        "outbox WHERE inner IS NOT NULL",
        "contact_bundles",
        "contacts WHERE ratchet_key IS NOT NULL",
    ] {
        let rows: i64 =
            copy.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn a_request_that_a_peer_has_kept_back_does_not_bring_the_old_stream_back() {
    let (a, mut b) = contacts();
    let mut first = restore(&a);
    let late = outgoing(&mut first, &mut b);
    first.now += 1_000;
    let mut again = restore(&first);
    live(&mut again, &mut b);
    let said = say(&mut again, &b, "said", 1);
    for (kind, inner) in late {
        by_mailbox(&mut b, kind, &inner);
    }
    live(&mut again, &mut b);
    assert_eq!(b.texts(), texts_of(&said));
    assert_eq!(delivered(&again), ids_of(&said));
}

#[test]
fn a_late_word_of_the_stream_before_lets_nothing_go_that_waits_for_its_turn() {
    let (mut a, mut b) = contacts();
    let (fp, found) = (b.fp(), b.found());
    let late = a.run(|m, cx| m.make_resend(cx, &fp, &found)).unwrap().unwrap();
    begin_again(&mut a, &b);
    send(&mut a, &b, "one");
    send(&mut a, &b, "two");
    let mut of_the_next = outgoing(&mut a, &mut b).into_iter().map(|(_, inner)| inner);
    let mut mailbox = |id, inner: Vec<u8>| {
        let ingested = b.run(move |m, cx| {
            let arrivals = Messenger::open_bare(EnvelopeId(id), &inner).into_iter().collect();
            m.ingest(cx, arrivals)
        });
        ingested.unwrap().done
    };
    let (request, one, two) =
        (of_the_next.next().unwrap(), of_the_next.next().unwrap(), of_the_next.next().unwrap());
    assert_eq!(mailbox(1, request), [EnvelopeId(1)]);
    assert_eq!(mailbox(3, two), [], "it waits for the one before");
    assert_eq!(mailbox(4, late), [EnvelopeId(4)], "nobody may forget the one that waits");
    assert_eq!(mailbox(2, one), [EnvelopeId(2), EnvelopeId(3)]);
    assert_eq!(b.texts(), ["one", "two"]);
}

#[test]
fn a_stream_that_begins_again_goes_on_a_connection_from_its_first_place() {
    let (mut a, mut b) = contacts();
    let (fp, from) = (b.fp(), a.fp());
    let mut written = None;
    let mut by_link = |a: &mut Side, b: &mut Side| {
        let by_link = a.run(|m, cx| m.depart_by_link(cx, &fp, written, 100)).unwrap();
        let Departure::Ready(ready) = by_link.departure else { return false };
        for one in ready {
            written = Some((by_link.stream, one.seq));
            directly(b, from, &one.inner);
        }
        true
    };
    say(&mut a, &b, "before", 5);
    assert!(by_link(&mut a, &mut b));
    acknowledge(&mut b, &mut a);

    begin_again(&mut a, &b);
    let said = say(&mut a, &b, "after", 2);
    if !by_link(&mut a, &mut b) {
        let found = b.found();
        a.run(|m, cx| m.take_bundle(cx, &fp, &found)).unwrap();
        assert!(by_link(&mut a, &mut b));
    }
    assert!(b.texts().ends_with(&texts_of(&said)));
    acknowledge(&mut b, &mut a);
    assert_eq!(a.run(|_, cx| cx.db.outbox_len(&fp)).unwrap(), 0);
}
