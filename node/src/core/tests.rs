//! Two minds, two databases in memory, and a post that loses, repeats and reorders.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use halloo_e2ee::{UnixTime, VerifiedBundle, seal};
use halloo_identity::safety::TypedCode;
use halloo_identity::{Address, DeviceId, Fingerprint, Identity, PeerHost};
use halloo_wire::content::{Ack, PeerHint};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::peer::{Found, Receipt};
use halloo_wire::{EnvelopeId, InstanceId, MessageId, Seq};
use proptest::prelude::*;
use rusqlite::Connection;

use super::{Context, Departure, Messenger, Output};
use crate::contact::{ContactState, Verification};
use crate::error::{ContactError, SafetyError, SendError};
use crate::event::{Delivery, EventKind, SafetyState, Via};
use crate::store::{Db, StoreError};

const NOW: u64 = 1_800_000_000;
const RUN: InstanceId = InstanceId([1; 16]);

struct Side {
    identity: Arc<Identity>,
    sql: Connection,
    mind: Messenger,
    now: u64,
    events: Vec<EventKind>,
    controls: Vec<Vec<u8>>,
    /// What the courier was told, in order: woken (false) or heard by mailbox (true).
    told: Vec<bool>,
}

impl Side {
    fn new() -> Self {
        let identity = Arc::new(Identity::generate());
        let sql = Connection::open_in_memory().unwrap();
        crate::store::prepare_for_tests(&sql);
        let mind = load(&sql, &identity);
        let mut it = Self {
            identity,
            sql,
            mind,
            now: NOW,
            events: Vec::new(),
            controls: Vec::new(),
            told: Vec::new(),
        };
        let hint = PeerHint { host: "peer.example".into(), port: 443, key: None };
        it.run(|m, cx| m.set_own_peers(cx, &[hint])).unwrap();
        it
    }

    fn run<T, E>(
        &mut self,
        job: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.sql.execute_batch("BEGIN").unwrap();
        let mut cx = Context::new(Db::new(&self.sql), UnixTime(self.now));
        let result = job(&mut self.mind, &mut cx);
        let outputs = cx.outputs;
        if result.is_ok() {
            self.sql.execute_batch("COMMIT").unwrap();
            for output in outputs {
                match output {
                    Output::Event(_, kind) => self.events.push(kind),
                    Output::Control(_, inner) => self.controls.push(inner),
                    Output::HeardByMailbox(_) => self.told.push(true),
                    Output::Wake(_) => self.told.push(false),
                    _ => {}
                }
            }
        } else {
            self.sql.execute_batch("ROLLBACK").unwrap();
            self.mind.forget_cached();
        }
        result
    }

    /// The process is killed and started again.
    fn restart(&mut self) {
        self.mind = load(&self.sql, &self.identity);
    }

    fn fp(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    fn address(&self) -> Address {
        let peer = PeerHost::new("peer.example", 443).unwrap();
        Address { peer, peer_key: None, fingerprint: self.fp() }
    }

    /// What a peer would hand out of this side.
    fn found(&mut self) -> Found {
        let made = self.run(|m, cx| m.publication(cx, None)).unwrap().unwrap();
        Found {
            passport: self.identity.passport_der().to_vec(),
            bundle: made.bundle,
            one_time_keys: made.one_time_keys,
            one_time_key: Some((self.events.len() % 50) as u16),
        }
    }

    fn texts(&self) -> Vec<String> {
        let texts = self.events.iter().filter_map(|e| match e {
            EventKind::Message { text, .. } => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }

    fn state_of(&mut self, other: &Fingerprint) -> ContactState {
        let fp = *other;
        self.run(|_, cx| cx.db.contact(&fp)).unwrap().unwrap().state
    }
}

fn load(sql: &Connection, identity: &Arc<Identity>) -> Messenger {
    let mut cx = Context::new(Db::new(sql), UnixTime(NOW));
    Messenger::load(&mut cx, Arc::clone(identity), false).unwrap()
}

/// Everything that `from` has for `to`, as bytes on the way.
fn outgoing(from: &mut Side, to: &mut Side) -> Vec<(Kind, Vec<u8>)> {
    let fp = to.fp();
    loop {
        let departure = from.run(|m, cx| m.depart(cx, &fp, Seq(0), 100)).unwrap();
        match departure {
            Departure::Ready(ready) => {
                let mut all: Vec<_> = ready.into_iter().map(|o| (o.kind, o.inner)).collect();
                all.extend(from.controls.drain(..).map(|c| (Kind::Ack, c)));
                return all;
            }
            Departure::NeedBundle => {
                let found = to.found();
                from.run(|m, cx| m.take_bundle(cx, &fp, &found)).unwrap();
            }
        }
    }
}

fn by_mailbox(to: &mut Side, kind: Kind, inner: &[u8]) {
    let found = to.found();
    let (fp, device) = (to.fp(), DeviceId::FIRST);
    let bundle = VerifiedBundle::verify(&found, &fp, device, UnixTime(NOW), None).unwrap();
    let lane = if kind == Kind::Request { Lane::Strangers } else { Lane::Contacts };
    let envelope = seal(&bundle, lane, inner).unwrap();
    to.run(|m, cx| {
        let arrival = m.open_envelope(cx, EnvelopeId(1), &envelope)?.unwrap();
        m.ingest(cx, vec![arrival])
    })
    .unwrap();
}

fn directly(to: &mut Side, from: Fingerprint, inner: &[u8]) -> super::Ingested {
    to.run(|m, cx| {
        let arrivals = m.open_frame(&from, Via::Direct, inner).into_iter().collect();
        m.ingest(cx, arrivals)
    })
    .unwrap()
}

fn acknowledge(from: &mut Side, to: &mut Side) {
    let (a, b) = (from.fp(), to.fp());
    if let Some(due) = from.run(|m, cx| m.due_ack(cx, &b)).unwrap() {
        to.run(|m, cx| m.take_ack(cx, &a, due.ack, Via::Direct)).unwrap();
        from.run(|m, cx| m.ack_sent(cx, &b, due)).unwrap();
    }
}

/// Carries everything both ways until nothing is left; what cannot be read is asked for again.
fn settle(a: &mut Side, b: &mut Side) {
    for _ in 0..10 {
        carry(a, b);
        acknowledge(b, a);
        carry(b, a);
        acknowledge(a, b);
    }
}

fn carry(from: &mut Side, to: &mut Side) {
    for (kind, inner) in outgoing(from, to) {
        if kind == Kind::Request {
            by_mailbox(to, kind, &inner);
        } else if !directly(to, from.fp(), &inner).unreadable.is_empty() {
            ask_again(from, to);
        }
    }
}

fn ask_again(from: &mut Side, to: &mut Side) {
    let (fp, found) = (from.fp(), from.found());
    let resend = to.run(|m, cx| m.make_resend(cx, &fp, &found)).unwrap().unwrap();
    directly(from, to.fp(), &resend);
}

fn contacts() -> (Side, Side) {
    let (mut a, mut b) = (Side::new(), Side::new());
    let address = b.address();
    a.run(|m, cx| m.add_contact(cx, &address, Some("Ben"), "hello")).unwrap();
    settle(&mut a, &mut b);
    let fp = a.fp();
    b.run(|m, cx| m.accept(cx, &fp, Some("Anna"))).unwrap();
    settle(&mut a, &mut b);
    (a, b)
}

fn send(from: &mut Side, to: &Side, text: &str) -> MessageId {
    let fp = to.fp();
    from.run(|m, cx| m.send(cx, &fp, text, None, None)).unwrap()
}

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
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let (mut a, mut b) = contacts();
    send(&mut a, &b, "kept");
    let (fp, stream) = (b.fp(), {
        let fp = b.fp();
        a.run(|_, cx| cx.db.contact(&fp)).unwrap().unwrap().stream
    });
    for ack in [
        Ack { stream, next: Seq(1_000) },
        Ack { stream: halloo_wire::StreamId(stream.0 ^ 1), next: Seq(3) },
    ] {
        a.run(|m, cx| m.take_ack(cx, &fp, ack, Via::Direct)).unwrap();
    }
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
    let refused = a.run(|m, cx| m.send(cx, &fp, "x", None, None));
    assert!(matches!(refused, Err(SendError::Blocked)));
}

#[test]
fn sending_twice_under_one_client_id_sends_once() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    let one = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None)).unwrap();
    a.restart();
    let two = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None)).unwrap();
    assert_eq!(one, two);
    settle(&mut a, &mut b);
    let again = a.run(|m, cx| m.send(cx, &fp, "x", Some("job 7"), None)).unwrap();
    assert_eq!(one, again);
    settle(&mut a, &mut b);
    assert_eq!(b.texts(), ["x"]);
}

#[test]
fn a_transaction_that_fails_leaves_no_trace() {
    let (mut a, mut b) = contacts();
    let fp = b.fp();
    let failed: Result<(), StoreError> = a.run(|m, cx| {
        m.send(cx, &fp, "ghost", None, None).unwrap();
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

fn code(side: &Side) -> Option<String> {
    side.events.iter().rev().find_map(|e| match e {
        EventKind::Safety { state: SafetyState::CodeReady { code }, .. } => Some(code.clone()),
        _ => None,
    })
}

fn verified(side: &mut Side, other: &Fingerprint) -> Verification {
    let fp = *other;
    side.run(|_, cx| cx.db.contact(&fp)).unwrap().unwrap().verified
}

#[test]
fn two_people_who_type_each_others_digits_are_checked() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    a.run(|m, cx| m.check_safety(cx, &fb)).unwrap();
    settle(&mut a, &mut b);
    a.restart();
    b.restart();
    let (code_a, code_b) = (code(&a).unwrap(), code(&b).unwrap());
    assert_eq!(code_a, code_b);
    let typed = TypedCode::parse(&code_b).unwrap();
    a.run(|m, cx| m.confirm_safety(cx, &fb, &typed)).unwrap().unwrap();
    settle(&mut a, &mut b);
    assert!(!verified(&mut a, &fb).is_checked(), "one side alone is not enough");
    b.run(|m, cx| m.confirm_safety(cx, &fa, &typed)).unwrap().unwrap();
    settle(&mut a, &mut b);
    assert!(verified(&mut a, &fb).is_checked());
    assert!(verified(&mut b, &fa).is_checked());
}

#[test]
fn both_may_begin_to_compare_at_once() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    a.run(|m, cx| m.check_safety(cx, &fb)).unwrap();
    b.run(|m, cx| m.check_safety(cx, &fa)).unwrap();
    settle(&mut a, &mut b);
    assert_eq!(code(&a).unwrap(), code(&b).unwrap());
}

#[test]
fn a_wrong_code_is_told_to_both_and_three_lock_the_exchange_for_an_hour() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    for run in 1..=3 {
        a.run(|m, cx| m.check_safety(cx, &fb)).unwrap();
        settle(&mut a, &mut b);
        let right: u32 = code(&a).unwrap().replace(' ', "").parse().unwrap();
        let wrong = TypedCode::parse(&format!("{:06}", (right + 1) % 1_000_000)).unwrap();
        let refused = a.run(|m, cx| m.confirm_safety(cx, &fb, &wrong)).unwrap();
        match run {
            3 => assert!(matches!(refused, Err(SafetyError::Locked { .. }))),
            _ => assert!(matches!(refused, Err(SafetyError::WrongCode))),
        }
        settle(&mut a, &mut b);
        let last = b.events.iter().rev().find_map(|e| match e {
            EventKind::Safety { state, .. } => Some(state.clone()),
            _ => None,
        });
        assert_eq!(last, Some(SafetyState::Mismatch));
    }
    let locked = a.run(|m, cx| m.check_safety(cx, &fb));
    assert!(matches!(locked, Err(SafetyError::Locked { .. })));
    assert!(!verified(&mut a, &fb).is_checked());
    assert!(!verified(&mut b, &fa).is_checked());
    a.now += 3601;
    b.now += 3601;
    a.run(|m, cx| m.check_safety(cx, &fb)).unwrap();
}

#[test]
fn a_run_that_the_other_side_gives_up_after_the_reveal_counts() {
    let (mut a, mut b) = contacts();
    let (fa, fb) = (a.fp(), b.fp());
    for _ in 0..3 {
        b.run(|m, cx| m.check_safety(cx, &fa)).unwrap();
        settle(&mut a, &mut b);
        b.run(|m, cx| m.give_up_safety(cx, &fa, false)).unwrap();
        settle(&mut a, &mut b);
    }
    assert!(matches!(a.run(|m, cx| m.check_safety(cx, &fb)), Err(SafetyError::Locked { .. })));
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
        cx.db.set_count(super::prekeys::KEYS_USED, 45)?;
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
        cx.db.set_meta(super::META_ACCOUNT, &halloo_e2ee::RatchetAccount::generate().to_bytes())
    })
    .unwrap();
    b.restart();
    let found = b.found();
    assert!(a.run(|m, cx| m.take_bundle(cx, &fp, &found)).is_err());
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
    let stream = from.run(|_, cx| cx.db.newest_stream(&fp)).unwrap();
    let (stream, next) = stream.unwrap();
    let ack = halloo_wire::content::Content::encode(&Ack { stream, next });
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
    for round in 0.. {
        assert!(round < 100, "it ends");
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
        assert!(ingested.passed_over, "what is left is to be fetched again");
        // Some come in order meanwhile, as on a connection.
        for oldest in waiting.split_off(waiting.len().saturating_sub(200)).iter().rev() {
            directly(&mut b, from, &oldest.inner);
        }
    }
    assert_eq!(b.texts(), said);
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
