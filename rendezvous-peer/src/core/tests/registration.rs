//! Who is who, and for how long.

use super::*;
use std::time::Duration;

#[test]
fn an_anonymous_connection_cannot_register() {
    let mut w = World::new();
    let conn = w.anonymous();
    let answer = w.ask(conn, None, World::register_call(1));
    assert_eq!(answer, Response::Refused(PeerError::NoCertificate));
}

#[test]
fn a_connection_can_be_named_once_after_its_welcome() {
    let mut w = World::new();
    let conn = w.anonymous();
    w.core.identify(conn, ALICE.caller());
    w.core.identify(conn, BOB.caller());
    let answer = w.ask(conn, None, World::register_call(1));
    assert!(matches!(answer, Response::Registered(_)));
    assert_eq!(w.core.inspect(w.now)[0].fingerprint, ALICE.fingerprint());
}

#[test]
fn a_certificate_registers_no_other_device() {
    let mut w = World::new();
    let conn = w.connect(Some(ALICE));
    let other = Register {
        device: DeviceId(2),
        counter: 1,
        instance: Some(INSTANCE),
        grants: Vec::new(),
        invite: None,
    };
    let answer = w.ask(conn, None, Call::Register(other));
    assert_eq!(answer, Response::Refused(PeerError::NoCertificate));
}

#[test]
fn a_registration_for_an_earlier_run_is_refused() {
    let mut w = World::new();
    let conn = w.connect(Some(ALICE));
    let old = Register {
        device: DeviceId::FIRST,
        counter: 1,
        instance: Some(InstanceId([1; 16])),
        grants: Vec::new(),
        invite: None,
    };
    let expected = PeerError::InstanceChanged { instance: INSTANCE };
    assert_eq!(w.ask(conn, None, Call::Register(old)), Response::Refused(expected));
    assert_eq!(w.core.stats().registrations, 0);
}

#[test]
fn who_does_not_wait_for_the_welcome_registers_with_any_run() {
    let mut w = World::new();
    let conn = w.connect(Some(ALICE));
    let Call::Register(register) = World::register_call(1) else { unreachable!() };
    let any = Call::Register(Register { instance: None, ..register });
    assert!(matches!(w.ask(conn, None, any), Response::Registered(_)));
}

#[test]
fn capabilities_that_come_with_a_registration_stand_at_once() {
    let mut w = World::new();
    let caller = w.anonymous();
    for (counter, granted) in [(1, vec![1]), (2, vec![1, 2])] {
        let conn = w.connect(Some(ALICE));
        let outcome = w.call(conn, None, register_with(counter, &granted));
        let Response::Registered(registered) = outcome.response else { panic!("{outcome:?}") };
        assert_eq!(registered.capabilities as usize, granted.len());
        for n in granted {
            assert!(w.knock_as(caller, World::knock(ALICE, n)).0.callee.is_some());
        }
    }
}

#[test]
fn capabilities_that_find_no_room_do_not_hold_up_the_registration() {
    let mut w = World::with(|l| l.capabilities = 1);
    let conn = w.connect(Some(ALICE));
    let answer = w.ask(conn, None, register_with(1, &[1, 2]));
    let Response::Registered(registered) = answer else { panic!("{answer:?}") };
    assert_eq!(registered.capabilities, 0);
}

fn register_with(counter: u64, tokens: &[u8]) -> Call {
    let Call::Register(register) = World::register_call(counter) else { unreachable!() };
    let grants = tokens.iter().map(|&n| Grant { id: token(n).id(), card: vec![n; 50] }).collect();
    Call::Register(Register { grants, ..register })
}

#[test]
fn a_replayed_counter_is_refused_and_recorded() {
    let mut w = World::new();
    let (_, first) = w.register(ALICE, 7);
    let again = w.connect(Some(ALICE));
    for counter in [7, 6, 0] {
        let answer = w.ask(again, None, World::register_call(counter));
        assert_eq!(answer, Response::Refused(PeerError::StaleCounter));
    }
    assert_eq!(w.count(IncidentKind::StaleRegistration), 3);
    let (_, second) = w.register(ALICE, 8);
    assert_eq!(first.session, second.session);
}

#[test]
fn the_latest_registration_wins_and_the_older_connection_hears_it() {
    let mut w = World::new();
    let (old, _) = w.register(ALICE, 1);
    let new = w.connect(Some(ALICE));
    let outcome = w.call(new, None, World::register_call(2));
    assert_eq!(outcome.pushes, [(old, Push::Superseded)]);
    let stranger = w.anonymous();
    let drop = w.call(stranger, None, World::drop_call(ALICE, Lane::Strangers, 1, None));
    assert_eq!(drop.mail_for, Some(new));
    assert_eq!(w.core.next_mail(old, w.now), None);
    assert!(w.core.next_mail(new, w.now).is_some());
    w.core.connection_closed(old, w.now);
    let drop = w.call(stranger, None, World::drop_call(ALICE, Lane::Strangers, 2, None));
    assert_eq!(drop.mail_for, Some(new));
}

#[test]
fn registering_again_on_the_same_connection_supersedes_nobody() {
    let mut w = World::new();
    let (conn, registered) = w.register(ALICE, 1);
    let outcome = w.call(conn, Some(registered.session), World::register_call(2));
    assert!(matches!(outcome.response, Response::Registered(_)) && outcome.pushes.is_empty());
}

#[test]
fn sessions_differ_between_devices_and_are_shared_within_one() {
    let mut w = World::new();
    let (_, alice) = w.register(ALICE, 1);
    let (_, bob) = w.register(BOB, 1);
    assert_ne!(alice.session, bob.session);
    let second = w.connect(Some(ALICE));
    assert!(w.peek(second, alice.session, None).envelopes.is_empty());
}

#[test]
fn a_wrong_session_closes_the_connection_and_leaves_a_record_without_a_name() {
    let mut w = World::new();
    let (alice, session) = w.register(ALICE, 1);
    let (bob, _) = w.register(BOB, 1);
    let anonymous = w.anonymous();
    let peek = || Call::Peek { after: None };
    let no_row = w.connect(Some(Who(3)));
    for conn in [bob, anonymous, no_row] {
        let outcome = w.call(conn, Some(session.session), peek());
        assert_eq!(outcome.response, Response::Refused(PeerError::WrongSession));
        assert_eq!(outcome.close, Some(CloseReason::WrongSession));
    }
    let look_up = LookUp { to: ALICE.fingerprint(), device: DeviceId::FIRST };
    let wrong = w.call(alice, Some(SessionId([0; 16])), Call::LookUp(look_up));
    assert_eq!(wrong.close, Some(CloseReason::WrongSession));
    let record = Incident { kind: IncidentKind::WrongSession, second: 1000, count: 4 };
    assert_eq!(w.core.incidents(), [record]);
}

#[test]
fn what_needs_a_session_is_refused_without_one() {
    let mut w = World::new();
    let (conn, _) = w.register(ALICE, 1);
    let calls = [
        Call::Publish(publication(1, &[1])),
        Call::Grant(vec![]),
        Call::Revoke(vec![]),
        Call::Peek { after: None },
        Call::Ack(vec![]),
    ];
    for call in calls {
        assert!(call.needs_session());
        assert_eq!(w.ask(conn, None, call), Response::Refused(PeerError::NotRegistered));
    }
}

#[test]
fn a_returning_device_hears_what_the_peer_still_has() {
    let mut w = World::new();
    let (conn, session) = w.reachable(ALICE, &[1, 2]);
    w.ask(conn, Some(session), Call::Publish(publication(4, &[1, 2, 3])));
    let stranger = w.anonymous();
    w.look_up(stranger, ALICE).unwrap();
    w.core.connection_closed(conn, w.now);
    w.call(stranger, None, World::drop_call(ALICE, Lane::Contacts, 1, Some(1)));
    let (_, back) = w.register(ALICE, 2);
    let expected = Registered {
        session,
        expires_s: 14 * 24 * 3600,
        bundle_seq: Some(4),
        one_time_keys_left: 2,
        capabilities: 2,
        waiting: 1,
    };
    assert_eq!(back, expected);
}

#[test]
fn a_registration_is_forgotten_after_fourteen_days_without_a_visit() {
    let mut w = World::new();
    let (conn, session) = w.register(ALICE, 1);
    let day = Duration::from_secs(24 * 3600);
    w.pass(30 * day);
    assert_eq!(w.expire().registrations, 0, "a connected device is there");
    w.core.connection_closed(conn, w.now);
    w.pass(13 * day);
    assert_eq!(w.expire().registrations, 0);
    let visit = w.connect(Some(ALICE));
    w.peek(visit, session.session, None);
    w.pass(13 * day);
    assert_eq!(w.expire().registrations, 0, "a visit counts from its own day");
    w.pass(day);
    assert_eq!(w.expire().registrations, 1);
    let stats = w.core.stats();
    assert_eq!((stats.registrations, stats.memory_used), (0, 0));
    let (_, fresh) = w.register(ALICE, 1);
    assert_ne!(fresh.session, session.session);
}

#[test]
fn envelopes_of_a_forgotten_registration_go_with_it() {
    let mut w = World::with(|l| l.registration_ttl = Duration::from_secs(3600));
    let (conn, _) = w.reachable(ALICE, &[1]);
    let stranger = w.anonymous();
    w.call(stranger, None, World::drop_call(ALICE, Lane::Contacts, 1, Some(1)));
    w.core.connection_closed(conn, w.now);
    w.pass(Duration::from_secs(3600));
    assert_eq!(w.expire(), Expired { envelopes: 1, registrations: 1, channels: 0 });
    assert_eq!((w.core.stats().expired, w.core.stats().memory_used), (1, 0));
}

#[test]
fn a_draining_peer_lets_devices_fetch_and_takes_nothing_more() {
    let mut w = World::with(|l| l.drain_spread = Duration::from_millis(500));
    let (conn, session) = w.reachable(ALICE, &[1]);
    let stranger = w.anonymous();
    w.call(stranger, None, World::drop_call(ALICE, Lane::Contacts, 1, Some(1)));
    let (mut told, rings) = w.core.drain(w.now);
    assert!(rings.is_empty());
    told.sort_by_key(|(conn, _)| *conn);
    assert_eq!(told.iter().map(|(c, _)| *c).collect::<Vec<_>>(), [conn, stranger]);
    for (_, push) in told {
        assert!(matches!(push, Push::Draining { retry_after_ms } if retry_after_ms < 500));
    }
    assert_eq!(w.peek(conn, session, None).envelopes.len(), 1);
    let refused = Response::Refused(PeerError::Draining);
    let drop = World::drop_call(ALICE, Lane::Contacts, 1, Some(1));
    assert_eq!(w.ask(stranger, None, drop), refused);
    assert_eq!(w.ask(stranger, None, World::knock_call(ALICE, 1)), refused);
    assert_eq!(w.ask(stranger, None, World::knock_call(BOB, 1)), refused);
    let late = w.core.welcome(ConnId(99), origin(ConnId(99)), None, w.now);
    assert_eq!(late, Err(CloseReason::Stopping));
}

#[test]
fn who_leaves_is_forgotten_at_once_with_everything_that_waits() {
    let mut w = World::new();
    let empty = w.core.stats();
    let (bob, registered) = w.register(BOB, 1);
    let grant = Grant { id: token(1).id(), card: vec![] };
    let session = Some(registered.session);
    assert_eq!(w.ask(bob, session, Call::Grant(vec![grant])), Response::Done);
    let alice = w.anonymous();
    let knock = Knock {
        to: BOB.fingerprint(),
        device: DeviceId::FIRST,
        token: token(1),
        card: vec![],
        reveal: false,
        attested: vec![],
        relay: true,
        datagrams: vec![],
        message: Some(KnockMessage { instance: None, envelope: envelope(Lane::Contacts, 1) }),
    };
    w.call(alice, None, Call::Knock(knock.clone()));
    assert_eq!((w.core.stats().registrations, w.core.stats().channels), (1, 1));
    assert_eq!(w.ask(alice, None, Call::Leave), Response::Refused(PeerError::NotRegistered));

    assert_eq!(w.ask(bob, session, Call::Leave), Response::Done);
    let stats = w.core.stats();
    assert_eq!((stats.registrations, stats.left), (0, 1));
    assert!(w.core.inspect(w.now).is_empty());
    let Response::Knocked(knocked) = w.call(alice, None, Call::Knock(knock)).response else {
        panic!("a knock is answered");
    };
    assert!(knocked.callee.is_none() && knocked.message.unwrap().is_err());
    w.pass(Duration::from_secs(600));
    w.expire();
    let stats = w.core.stats();
    assert_eq!((stats.channels, stats.memory_used), (0, empty.memory_used), "nothing is left");

    // The session has ended, and the device may come again, under any counter.
    let again = w.call(bob, session, Call::Peek { after: None });
    assert_eq!(again.response, Response::Refused(PeerError::WrongSession));
    let (_, fresh) = w.register(BOB, 1);
    assert_ne!(fresh.session, registered.session);
    assert_eq!((fresh.capabilities, fresh.waiting), (0, 0));
}
