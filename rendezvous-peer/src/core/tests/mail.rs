//! Envelopes: left, pushed, read, acknowledged, forgotten.

use super::*;
use std::time::Duration;

fn receipt() -> Response {
    let ttl_s = 72 * 3600;
    Response::Dropped(Receipt { instance: INSTANCE, ttl_s })
}

#[test]
fn an_envelope_is_pushed_at_once_and_stays_until_it_is_acknowledged() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    let outcome = w.call(sender, None, World::drop_call(ALICE, Lane::Contacts, 3, Some(1)));
    assert_eq!((outcome.response, outcome.mail_for), (receipt(), Some(alice)));
    let Some(Push::Envelope(pushed)) = w.core.next_mail(alice, w.now) else { panic!("no push") };
    assert_eq!(pushed.envelope, envelope(Lane::Contacts, 3));
    assert_eq!(w.core.next_mail(alice, w.now), None, "once");
    assert_eq!(w.peek(alice, session, None).envelopes, std::slice::from_ref(&pushed));
    w.ask(alice, Some(session), Call::Ack(vec![pushed.id, pushed.id, EnvelopeId(1)]));
    assert!(w.peek(alice, session, None).envelopes.is_empty());
    assert_eq!(w.core.stats().acknowledged, 1);
}

#[test]
fn what_waited_before_is_for_peeking_and_what_comes_later_is_pushed() {
    let mut w = World::new();
    let (conn, session) = w.reachable(ALICE, &[1]);
    w.core.connection_closed(conn, w.now);
    let sender = w.anonymous();
    let drop = |fill| World::drop_call(ALICE, Lane::Contacts, fill, Some(1));
    let outcome = w.call(sender, None, drop(1));
    assert_eq!(outcome.mail_for, None);
    let (back, registered) = w.register(ALICE, 2);
    assert_eq!(registered.waiting, 1);
    assert_eq!(w.core.next_mail(back, w.now), None);
    for fill in [2, 3] {
        assert_eq!(w.call(sender, None, drop(fill)).mail_for, Some(back));
    }
    let pushed: Vec<u8> = std::iter::from_fn(|| w.core.next_mail(back, w.now))
        .map(|push| match push {
            Push::Envelope(w) => w.envelope[500],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pushed, [2, 3]);
    let page = w.peek(back, session, None);
    assert_eq!(page.envelopes.iter().map(|w| w.envelope[500]).collect::<Vec<_>>(), [1, 2, 3]);
    let after = w.peek(back, session, Some(page.envelopes[1].id));
    assert_eq!(after.envelopes, page.envelopes[2..]);
}

#[test]
fn the_contacts_lane_wants_a_capability_that_still_stands() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    let refused = Response::Refused(PeerError::NotAuthorized);
    let drop = |shown| World::drop_call(ALICE, Lane::Contacts, 1, shown);
    assert_eq!(w.ask(sender, None, drop(None)), refused);
    assert_eq!(w.ask(sender, None, drop(Some(2))), refused);
    assert_eq!(w.call(sender, None, drop(Some(1))).response, receipt());
    w.ask(alice, Some(session), Call::Revoke(vec![token(1).id()]));
    assert_eq!(w.ask(sender, None, drop(Some(1))), refused);
    let stranger = World::drop_call(ALICE, Lane::Strangers, 1, None);
    assert_eq!(w.call(sender, None, stranger).response, receipt());
}

#[test]
fn an_unknown_recipient_and_a_changed_instance_are_told() {
    let mut w = World::new();
    let sender = w.anonymous();
    let unknown = PeerError::UnknownRecipient { instance: INSTANCE };
    let answer = w.ask(sender, None, World::drop_call(ALICE, Lane::Strangers, 1, None));
    assert_eq!(answer, Response::Refused(unknown));
    let (_, _) = w.reachable(ALICE, &[1]);
    let Call::Drop(mut drop) = World::drop_call(ALICE, Lane::Contacts, 1, Some(1)) else {
        unreachable!()
    };
    drop.instance = Some(InstanceId([1; 16]));
    let changed = PeerError::InstanceChanged { instance: INSTANCE };
    assert_eq!(w.ask(sender, None, Call::Drop(drop.clone())), Response::Refused(changed));
    drop.instance = Some(INSTANCE);
    assert_eq!(w.call(sender, None, Call::Drop(drop)).response, receipt());
}

#[test]
fn bytes_that_are_no_envelope_are_not_kept() {
    let mut w = World::new();
    w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    let with = |envelope: Vec<u8>| {
        let Call::Drop(drop) = World::drop_call(ALICE, Lane::Strangers, 1, None) else {
            unreachable!()
        };
        w.ask(sender, None, Call::Drop(DropEnvelope { envelope, ..drop }))
    };
    let good = envelope(Lane::Strangers, 1);
    assert_eq!(with(vec![]), Response::Refused(PeerError::Malformed));
    assert_eq!(with(good[..good.len() - 1].to_vec()), Response::Refused(PeerError::Malformed));
    assert_eq!(with(vec![1; 60_000]), Response::Refused(PeerError::TooLarge));
    assert_eq!((w.count(IncidentKind::Malformed), w.count(IncidentKind::TooLarge)), (2, 1));
    assert_eq!(w.core.stats().dropped, 0);
}

#[test]
fn a_full_mailbox_refuses_and_evicts_nothing() {
    let mut w = World::with(|l| l.contacts = Quota { envelopes: 3, bytes: 1 << 20 });
    let (alice, session) = w.reachable(ALICE, &[1]);
    let (_, _) = w.reachable(BOB, &[1]);
    let sender = w.anonymous();
    let drop = |to, fill| World::drop_call(to, Lane::Contacts, fill, Some(1));
    for fill in 1..=3 {
        assert_eq!(w.call(sender, None, drop(ALICE, fill)).response, receipt());
    }
    assert_eq!(w.ask(sender, None, drop(ALICE, 4)), Response::Refused(PeerError::MailboxFull));
    assert_eq!(w.count(IncidentKind::MailboxFull), 1);
    assert_eq!(w.call(sender, None, drop(BOB, 1)).response, receipt(), "others are not disturbed");
    let page = w.peek(alice, session, None);
    assert_eq!(page.envelopes.iter().map(|w| w.envelope[500]).collect::<Vec<_>>(), [1, 2, 3]);
    w.ask(alice, Some(session), Call::Ack(vec![page.envelopes[0].id]));
    assert_eq!(w.call(sender, None, drop(ALICE, 4)).response, receipt());
}

#[test]
fn the_memory_cap_refuses_with_its_own_word() {
    let mut w = World::with(|l| l.memory = limits::MIN_MEMORY);
    let (alice, session) = w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    let drop = || World::drop_call(ALICE, Lane::Contacts, 1, Some(1));
    let mut kept = 0;
    let refusal = loop {
        match w.call(sender, None, drop()).response {
            Response::Dropped(_) => kept += 1,
            other => break other,
        }
    };
    assert_eq!(refusal, Response::Refused(PeerError::PeerFull));
    assert!(kept > 40 && w.core.stats().memory_used <= limits::MIN_MEMORY);
    let page = w.peek(alice, session, None);
    assert_eq!(page.envelopes.len(), kept);
    w.ask(alice, Some(session), Call::Ack(vec![page.envelopes[0].id]));
    assert_eq!(w.call(sender, None, drop()).response, receipt());
}

#[test]
fn envelopes_are_forgotten_after_three_days_even_when_nobody_sweeps() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    w.call(sender, None, World::drop_call(ALICE, Lane::Contacts, 1, Some(1)));
    w.pass(Duration::from_secs(72 * 3600) - Duration::from_millis(1));
    assert_eq!(w.peek(alice, session, None).envelopes.len(), 1);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.core.next_mail(alice, w.now), None);
    assert!(w.peek(alice, session, None).envelopes.is_empty());
    assert_eq!(w.core.stats().expired, 1);
}

#[test]
fn the_sweep_forgets_what_nobody_asks_for() {
    let mut w = World::new();
    w.reachable(ALICE, &[1]);
    let before = w.core.stats().memory_used;
    let sender = w.anonymous();
    w.call(sender, None, World::drop_call(ALICE, Lane::Contacts, 1, Some(1)));
    w.pass(Duration::from_secs(72 * 3600));
    assert_eq!(w.expire(), Expired { envelopes: 1, ..Expired::default() });
    assert_eq!(w.core.stats().memory_used, before);
}

#[test]
fn inspection_shows_exactly_what_the_table_holds() {
    let mut w = World::new();
    let (alice, _) = w.reachable(ALICE, &[1]);
    let sender = w.anonymous();
    w.call(sender, None, World::drop_call(ALICE, Lane::Contacts, 3, Some(1)));
    let rows = w.core.inspect(w.now);
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].fingerprint, rows[0].observed),
        (ALICE.fingerprint(), Some(address(alice)))
    );
    assert_eq!(rows[0].capabilities, [(token(1).id(), vec![1; 50])]);
    assert_eq!(rows[0].envelopes[0].bytes, envelope(Lane::Contacts, 3));
    assert_eq!(rows[0].memory, w.core.stats().memory_used);
}
