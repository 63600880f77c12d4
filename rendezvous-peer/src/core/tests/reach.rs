//! Look-ups, and the sizes of what is answered.

use super::*;

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
