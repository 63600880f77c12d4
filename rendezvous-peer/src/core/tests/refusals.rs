//! Limits on connections, requests and registrations.

use super::*;
use std::time::Duration;

const TIGHT: Rate = Rate { per_second: 1, burst: limits::MAX_COST };

fn grant_nothing() -> Call {
    Call::Grant(vec![])
}

#[test]
fn a_busy_connection_is_told_when_to_come_back() {
    let mut w = World::with(|l| l.connection_rate = TIGHT);
    let (busy, session) = w.register(ALICE, 1);
    let (other, others) = w.register(BOB, 1);
    let ask = || w.ask(busy, Some(session.session), grant_nothing());
    let refusal = loop {
        match ask() {
            Response::Done => {}
            other => break other,
        }
    };
    assert_eq!(refusal, Response::Refused(PeerError::RateLimited { retry_after_ms: 1000 }));
    let fine = w.ask(other, Some(others.session), grant_nothing());
    assert_eq!(fine, Response::Done, "others are not disturbed");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.ask(busy, Some(session.session), grant_nothing()), Response::Done);
    assert_eq!(w.count(IncidentKind::RateLimited), 1);
}

#[test]
fn connections_of_one_network_share_a_rate() {
    let w = World::with(|l| l.source_rate = TIGHT);
    let at = |host: u8| SocketAddr::from(([203, 0, 113, host], 1));
    for n in 0..2 {
        w.core.welcome(ConnId(n), Origin::udp(at(n as u8)), None, w.now).unwrap();
    }
    let request = || Request { session: None, call: World::knock_call(ALICE, 1) };
    let ask = |n| w.core.call(ConnId(n), Origin::udp(at(n as u8)), request(), w.now).response;
    for _ in 2 * CONNECTION_COST..limits::MAX_COST {
        assert_eq!(ask(0), nobody());
    }
    assert!(matches!(ask(1), Response::Refused(PeerError::RateLimited { .. })));
    assert!(!w.core.admits(at(7), w.now));
    let third = w.core.welcome(ConnId(3), Origin::udp(at(7)), None, w.now);
    assert_eq!(third, Err(CloseReason::TooManyConnections));
    assert!(w.core.admits(SocketAddr::from(([198, 51, 100, 1], 1)), w.now));
}

#[test]
fn large_envelopes_cost_more_than_small_requests() {
    let mut w = World::with(|l| l.connection_rate = TIGHT);
    let sender = w.anonymous();
    let large = || {
        let Call::Drop(mut drop) = World::drop_call(ALICE, Lane::Strangers, 0, None) else {
            unreachable!()
        };
        drop.envelope.resize(drop.envelope.len() - 1024 + 16 * 1024, 0);
        Call::Drop(drop)
    };
    let accepted = (0..).take_while(|_| {
        let limited = |r| matches!(r, Response::Refused(PeerError::RateLimited { .. }));
        !limited(w.ask(sender, None, large()))
    });
    assert_eq!(accepted.count(), 3);
}

#[test]
fn malformed_requests_are_answered_counted_and_limited() {
    let mut w = World::with(|l| l.connection_rate = TIGHT);
    let conn = w.anonymous();
    let bad = |error| w.core.malformed(conn, origin(conn), error, w.now).response;
    assert_eq!(bad(DecodeError::Truncated), Response::Refused(PeerError::Malformed));
    assert_eq!(bad(DecodeError::TooLong), Response::Refused(PeerError::TooLarge));
    for _ in 0..100 {
        bad(DecodeError::TrailingBytes);
    }
    assert_eq!(w.count(IncidentKind::TooLarge), 1);
    assert_eq!(w.count(IncidentKind::Malformed), u64::from(limits::MAX_COST) - 1);
    assert!(w.core.incidents().len() <= 3);
}

#[test]
fn places_for_connections_run_out_and_come_back() {
    let w = World::with(|l| l.connections = 2);
    let welcome = |n| w.core.welcome(ConnId(n), origin(ConnId(n)), None, w.now);
    welcome(1).unwrap();
    welcome(2).unwrap();
    assert_eq!(welcome(3), Err(CloseReason::TooManyConnections));
    assert!(!w.core.admits(address(ConnId(3)), w.now));
    w.core.connection_closed(ConnId(1), w.now);
    w.core.connection_closed(ConnId(1), w.now);
    welcome(3).unwrap();
    assert_eq!(w.core.stats().connections, 2);
}

#[test]
fn one_network_cannot_take_all_places() {
    let w = World::with(|l| l.connections_per_source = 2);
    let at = |net: u8, host: u8| SocketAddr::from(([203, 0, net, host], 1));
    let welcome = |n, at| w.core.welcome(ConnId(n), Origin::udp(at), None, w.now);
    welcome(1, at(1, 1)).unwrap();
    welcome(2, at(1, 2)).unwrap();
    assert_eq!(welcome(3, at(1, 3)), Err(CloseReason::TooManyConnections));
    welcome(4, at(2, 1)).unwrap();
    w.core.connection_closed(ConnId(2), w.now);
    welcome(5, at(1, 3)).unwrap();
}

#[test]
fn registrations_run_out_without_harm_to_those_who_are_there() {
    let mut w = World::with(|l| l.registrations = 1);
    let (_, first) = w.register(ALICE, 1);
    let bob = w.connect(Some(BOB));
    let refused = w.ask(bob, None, World::register_call(1));
    assert_eq!(refused, Response::Refused(PeerError::PeerFull));
    let (_, again) = w.register(ALICE, 2);
    assert_eq!(first.session, again.session);
}

#[test]
fn a_device_cannot_hoard_capabilities() {
    let mut w = World::with(|l| l.capabilities = 2);
    let (alice, session) = w.reachable(ALICE, &[1, 2]);
    let third = Call::Grant(vec![Grant { id: token(3).id(), card: vec![] }]);
    let refused = w.ask(alice, Some(session), third);
    assert_eq!(refused, Response::Refused(PeerError::TooManyCapabilities));
}

#[test]
fn a_request_on_a_closed_connection_does_nothing() {
    let mut w = World::new();
    let conn = w.connect(Some(ALICE));
    w.core.connection_closed(conn, w.now);
    let answer = w.ask(conn, None, World::register_call(1));
    assert_eq!(answer, Response::Refused(PeerError::NotRegistered));
    assert_eq!(w.core.stats().registrations, 0);
}
