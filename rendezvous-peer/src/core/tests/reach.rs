//! Look-ups and knocks.

use super::*;
use halloo_wire::peer::{Callee, Control};

#[test]
fn a_look_up_gives_passport_and_bundle_and_each_one_time_key_once() {
    let mut w = World::new();
    let (alice, registered) = w.register(ALICE, 1);
    let stranger = w.anonymous();
    let unknown = PeerError::UnknownRecipient { instance: INSTANCE };
    assert_eq!(w.look_up(stranger, BOB), Err(unknown));
    assert_eq!(w.look_up(stranger, ALICE), Err(unknown), "nothing published yet");
    w.ask(alice, Some(registered.session), Call::Publish(publication(1, &[7, 8])));
    let given: Vec<_> = (0..3).map(|_| w.look_up(stranger, ALICE).unwrap()).collect();
    assert_eq!(given.iter().map(|f| f.one_time_key).collect::<Vec<_>>(), [Some(0), Some(1), None]);
    assert_eq!(given[2].passport, [ALICE.0; 400]);
    assert_eq!(given[2].bundle, publication(1, &[]).bundle);
    assert_eq!(given[2].one_time_keys, [[7; 32], [8; 32]]);
    let stale = Call::Publish(publication(0, &[9]));
    let answer = w.ask(alice, Some(registered.session), stale);
    assert_eq!(answer, Response::Refused(PeerError::StaleBundle));
    assert_eq!(w.count(IncidentKind::StaleBundle), 1);
}

#[test]
fn a_knock_forks_to_callee_and_caller() {
    let mut w = World::new();
    let (alice, _) = w.reachable(ALICE, &[1, 2]);
    let caller = w.anonymous();
    let outcome = w.call(caller, None, World::knock_call(ALICE, 2));
    let callee = Callee { observed: address(alice), card: vec![2; 50] };
    assert_eq!(outcome.response, Response::Knocked(Knocked { callee: Some(callee) }));
    let push = Push::Knock {
        capability: token(2).id(),
        observed: address(caller),
        card: b"caller's card".to_vec(),
    };
    assert_eq!(outcome.pushes, [(alice, push)]);
}

#[test]
fn unknown_offline_and_not_consenting_answer_alike() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let hidden = Grant { id: token(2).id(), card: vec![] };
    w.ask(alice, Some(session), Call::Grant(vec![hidden]));
    let (bob, _) = w.reachable(BOB, &[1]);
    w.core.connection_closed(bob, w.now);
    let caller = w.anonymous();
    let knocks = [
        World::knock_call(Who(9), 1), // unknown
        World::knock_call(BOB, 1),    // offline
        World::knock_call(ALICE, 2),  // consents to messages only
        World::knock_call(ALICE, 3),  // no such capability
    ];
    for knock in knocks {
        assert_eq!(w.ask(caller, None, knock).encode(), nobody().encode());
    }
    w.ask(alice, Some(session), Call::Revoke(vec![token(1).id()]));
    assert_eq!(w.ask(caller, None, World::knock_call(ALICE, 1)), nobody());
    assert_eq!(w.core.stats().knocks_forwarded, 0);
}

#[test]
fn a_knock_names_the_address_at_which_the_callee_was_last_seen() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let moved: SocketAddr = "[::ffff:203.0.113.9]:555".parse().unwrap();
    let request = Request { session: Some(session), call: Call::Peek { after: None } };
    w.core.call(alice, moved, request, w.now);
    let caller = w.anonymous();
    match w.call(caller, None, World::knock_call(ALICE, 1)).response {
        Response::Knocked(Knocked { callee: Some(callee) }) => {
            assert_eq!(callee.observed, "203.0.113.9:555".parse().unwrap());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_largest_answers_and_pushes_fit_the_wire() {
    use halloo_wire::limits::{MAX_BUNDLE, MAX_ONE_TIME_KEYS, MAX_SEALED_CARD};
    let mut w = World::new();
    let (alice, registered) = w.register(ALICE, 1);
    let one_time_keys = (0..MAX_ONE_TIME_KEYS).map(|n| [n as u8; 32]).collect();
    let publish = Publication { seq: u64::MAX, bundle: vec![0; MAX_BUNDLE], one_time_keys };
    w.ask(alice, Some(registered.session), Call::Publish(publish));
    let grant = Grant { id: token(1).id(), card: vec![0; MAX_SEALED_CARD] };
    w.ask(alice, Some(registered.session), Call::Grant(vec![grant]));
    let caller = w.anonymous();
    let found = Response::Found(w.look_up(caller, ALICE).unwrap());
    assert_eq!(Response::decode(&found.encode()).unwrap(), found);
    let mut outcome = w.call(caller, None, World::knock_call(ALICE, 1));
    assert_eq!(Response::decode(&outcome.response.encode()).unwrap(), outcome.response);
    let (_, push) = outcome.pushes.remove(0);
    assert_eq!(Push::decode(&push.encode()).unwrap(), push);
}
