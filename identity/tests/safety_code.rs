//! Comparing six digits.
#![allow(clippy::unwrap_used)]

use halloo_identity::safety::{
    Attempts, AwaitCommit, AwaitInitiatorKey, AwaitReveal, Compare, Confirmed, Initiator,
    LOCK_SECONDS, Locked, Responder, SafetyError, SafetyState, TypedCode, cancel, mismatch,
};
use halloo_identity::{Fingerprint, SafetyNumber, safety_number};
use halloo_wire::DecodeError;
use halloo_wire::content::{Safety, SafetyStep};
use proptest::prelude::*;
use zeroize::Zeroizing;

const EXCHANGE: [u8; 16] = [10; 16];
const ALICE: Fingerprint = Fingerprint::from_bytes([1; 30]);
const BOB: Fingerprint = Fingerprint::from_bytes([2; 30]);
const MALLORY: Fingerprint = Fingerprint::from_bytes([3; 30]);

#[test]
fn two_people_see_the_same_digits_and_verify_each_other() {
    let (alice, bob) = compare(0, ALICE, BOB);
    assert_eq!(alice.code(), bob.code());
    assert_ne!(alice.code(), compare(1, ALICE, BOB).0.code(), "each run has digits of its own");

    let (typed_by_alice, typed_by_bob) = (read_out(&bob), read_out(&alice));
    let (alice, to_bob) = alice.confirm(&typed_by_alice).unwrap();
    let (bob, to_alice) = bob.confirm(&typed_by_bob).unwrap();
    let alice = alice.on_confirm(mac(&to_alice)).unwrap();
    let bob = bob.on_confirm(mac(&to_bob)).unwrap();
    assert_eq!((alice.me(), alice.them(), alice.exchange()), (ALICE, BOB, EXCHANGE));
    assert_eq!((bob.me(), bob.them(), bob.exchange()), (BOB, ALICE, EXCHANGE));
}

#[test]
fn keys_are_fresh_unless_a_test_gives_them() {
    let start = || Responder::on_start(EXCHANGE, BOB, ALICE).1;
    assert_ne!(commitment(&start()), commitment(&start()));
    let reveal = || Initiator::start(EXCHANGE, ALICE, BOB).0.on_commit([0; 32]).1;
    assert_ne!(key(&reveal()), key(&reveal()));
}

#[test]
fn the_other_one_may_type_first() {
    let (alice, bob) = compare(0, ALICE, BOB);
    let typed = read_out(&alice);
    let (bob, to_alice) = bob.confirm(&typed).unwrap();
    let Err(bob) = bob.finish() else { panic!("Alice has not confirmed") };

    // Her typing is still needed: his word alone verifies nobody.
    let alice = alice.on_confirm(mac(&to_alice)).unwrap();
    let (alice, to_bob) = alice.confirm(&typed).unwrap();
    assert_eq!(alice.finish().ok().unwrap().them(), BOB);
    assert_eq!(bob.on_confirm(mac(&to_bob)).unwrap().them(), ALICE);
}

#[test]
fn somebody_in_the_middle_shows_in_different_digits() {
    // Mallory stands as Bob before Alice and as Alice before Bob.
    for run in 0..20 {
        let (alice, _) = compare(run, ALICE, MALLORY);
        let (_, bob) = compare(run + 100, MALLORY, BOB);
        assert_ne!(alice.code(), bob.code());
        assert_eq!(refused(alice.confirm(&read_out(&bob))), SafetyError::WrongCode);
    }
}

#[test]
fn the_exchange_cannot_be_relayed_under_other_names() {
    // Mallory passes every message on unchanged, but Alice knows her and not Bob.
    let (alice, _) = Initiator::start(EXCHANGE, ALICE, MALLORY);
    let (bob, commit) = Responder::on_start(EXCHANGE, BOB, MALLORY);
    let (alice, reveal) = alice.on_commit(commitment(&commit));
    let (_, reveal) = bob.on_reveal(key(&reveal)).unwrap();
    assert_eq!(refused(alice.on_reveal(key(&reveal))), SafetyError::CommitmentMismatch);
}

#[test]
fn every_changed_bit_of_a_revealed_key_is_noticed() {
    for bit in 0..256 {
        let (alice, bob, to_bob) = committed(0);
        let (_, reveal) = bob.on_reveal(key(&to_bob)).unwrap();
        let mut changed = key(&reveal);
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(alice.on_reveal(changed)), SafetyError::CommitmentMismatch);
    }
}

#[test]
fn a_changed_initiator_key_shows_in_different_digits() {
    let (alice, bob, to_bob) = committed(0);
    let mut changed = key(&to_bob);
    changed[3] ^= 1;
    let (bob, reveal) = bob.on_reveal(changed).unwrap();
    let alice = alice.on_reveal(key(&reveal)).unwrap();
    assert_ne!(alice.code(), bob.code());
}

#[test]
fn the_key_of_an_earlier_run_is_refused() {
    let (_, earlier, to_bob) = committed(1);
    let (_, replayed) = earlier.on_reveal(key(&to_bob)).unwrap();
    let (alice, _, _) = committed(2);
    assert_eq!(refused(alice.on_reveal(key(&replayed))), SafetyError::CommitmentMismatch);
}

#[test]
fn a_commitment_counts_for_its_exchange_only() {
    let secret = || [9; 32].into();
    let (_, other) = Responder::on_start_with_secret(secret(), [11; 16], BOB, ALICE);
    let (bob, own) = Responder::on_start_with_secret(secret(), EXCHANGE, BOB, ALICE);
    assert_ne!(commitment(&other), commitment(&own));
    let (alice, _) = Initiator::start(EXCHANGE, ALICE, BOB);
    let (alice, to_bob) = alice.on_commit(commitment(&other));
    let (_, reveal) = bob.on_reveal(key(&to_bob)).unwrap();
    assert_eq!(refused(alice.on_reveal(key(&reveal))), SafetyError::CommitmentMismatch);
}

#[test]
fn keys_that_make_every_secret_zero_are_refused() {
    let mut order_one = [0; 32];
    order_one[0] = 1;
    for weak in [[0; 32], order_one] {
        let (_, bob, _) = committed(0);
        assert_eq!(refused(bob.on_reveal(weak)), SafetyError::WeakKey);
    }
    // A responder that commits to such a key is found out when it reveals.
    let state = hand_made(2, 0, &[&[8; 32][..], &commitment_to([0; 32])].concat());
    let SafetyState::AwaitReveal(alice) = state else { panic!("an initiator waits") };
    assert_eq!(refused(alice.on_reveal([0; 32])), SafetyError::WeakKey);
}

#[test]
fn only_the_six_right_digits_will_do() {
    let (alice, bob) = compare(0, ALICE, BOB);
    let wrong = TypedCode::parse(&format!("{:06}", (bob.code().number() + 1) % 1_000_000)).unwrap();
    assert_eq!(refused(alice.confirm(&wrong)), SafetyError::WrongCode);

    for text in ["", "y", "yes", "\n", "48190", "4819070", "481 90x", "+81907", "-", "४८१९०७"]
    {
        assert!(TypedCode::parse(text).is_err(), "{text:?}");
    }
    for text in ["481907", "481 907", " 481-907\n", "4 8 1 9 0 7"] {
        assert_eq!(TypedCode::parse(text), TypedCode::parse("481907"), "{text:?}");
    }
    assert!(shown(7).code().matches(&TypedCode::parse("000 007").unwrap()));
}

#[test]
fn digits_print_for_people_and_not_for_logs() {
    assert_eq!(shown(481_907).code().to_string(), "481 907");
    assert_eq!(shown(7).code().to_string(), "000 007");
    let typed = TypedCode::parse("481907").unwrap();
    assert_eq!(format!("{:?} {typed:?}", shown(481_907).code()), "SafetyCode(…) TypedCode(…)");
}

#[test]
fn a_confirmation_counts_for_its_sender_and_exchange_only() {
    let (alice, bob) = compare(0, ALICE, BOB);
    let typed = read_out(&alice);
    let (alice, to_bob) = alice.confirm(&typed).unwrap();
    let (_, to_alice) = bob.confirm(&typed).unwrap();
    let alice = || restored_confirmed(&alice);

    assert!(alice().on_confirm(mac(&to_alice)).is_ok());
    // Her own, sent back.
    assert_eq!(refused(alice().on_confirm(mac(&to_bob))), SafetyError::WrongConfirmation);
    for bit in 0..256 {
        let mut changed = mac(&to_alice);
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(alice().on_confirm(changed)), SafetyError::WrongConfirmation);
    }
    let (_, other) = compare(1, ALICE, BOB);
    let typed = read_out(&other);
    let (_, from_another_run) = other.confirm(&typed).unwrap();
    assert!(alice().on_confirm(mac(&from_another_run)).is_err());
    let (waiting, _) = compare(2, ALICE, BOB);
    assert_eq!(refused(waiting.on_confirm(mac(&to_alice))), SafetyError::WrongConfirmation);
}

#[test]
fn an_exchange_survives_restarts_at_every_step() {
    let (alice, _) = Initiator::start(EXCHANGE, ALICE, BOB);
    let SafetyState::AwaitCommit(alice) = restart(alice) else { panic!("same state") };
    let (bob, commit) = Responder::on_start(EXCHANGE, BOB, ALICE);
    let SafetyState::AwaitInitiatorKey(bob) = restart(bob) else { panic!("same state") };
    let (alice, to_bob) = alice.on_commit(commitment(&commit));
    let SafetyState::AwaitReveal(alice) = restart(alice) else { panic!("same state") };
    let (bob, to_alice) = bob.on_reveal(key(&to_bob)).unwrap();
    let SafetyState::Compare(bob) = restart(bob) else { panic!("same state") };
    let alice = alice.on_reveal(key(&to_alice)).unwrap();
    let typed = read_out(&alice);
    let (bob, to_alice) = bob.confirm(&typed).unwrap();
    let alice = alice.on_confirm(mac(&to_alice)).unwrap();
    let SafetyState::Compare(alice) = restart(alice) else { panic!("same state") };
    let (alice, to_bob) = alice.confirm(&typed).unwrap();
    let SafetyState::Confirmed(alice) = restart(alice) else { panic!("same state") };
    let SafetyState::Confirmed(bob) = restart(bob) else { panic!("same state") };
    assert_eq!(alice.finish().ok().unwrap().them(), BOB);
    assert_eq!(bob.on_confirm(mac(&to_bob)).unwrap().them(), ALICE);
}

#[test]
fn stored_states_are_a_promise() {
    let (alice, _) = Initiator::start_with_secret([8; 32].into(), EXCHANGE, ALICE, BOB);
    let head = |state: &str, role: &str| {
        let (alice, bob) = ("01".repeat(30), "02".repeat(30));
        format!("01{state}{role}{}{alice}{bob}", "0a".repeat(16))
    };
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&alice.to_bytes()), format!("{}{}", head("01", "00"), "08".repeat(32)));
    let (alice, _) = alice.on_commit([5; 32]);
    assert_eq!(
        hex(&alice.to_bytes()),
        format!("{}{}{}", head("02", "00"), "08".repeat(32), "05".repeat(32)),
    );
    assert_eq!(
        hex(&shown(481_907).to_bytes()),
        format!("{}{}00{:08x}", head("04", "00"), "07".repeat(32), 481_907),
    );
    assert_eq!(Attempts::default().to_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn damaged_states_are_refused() {
    for state in every_state() {
        let bytes = state.to_bytes();
        assert_eq!((state.exchange(), bytes.len() > 110), (EXCHANGE, true));
        for n in 0..bytes.len() {
            assert!(SafetyState::from_bytes(&bytes[..n]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(SafetyState::from_bytes(&longer).err(), Some(DecodeError::TrailingBytes));
    }
    let why = |state, role, rest: &[u8]| {
        SafetyState::from_bytes(&state_bytes(state, role, rest)).err().unwrap()
    };
    assert_eq!(why(1, 1, &[0; 32]), DecodeError::Invalid("role"));
    assert_eq!(why(3, 0, &[0; 32]), DecodeError::Invalid("role"));
    assert_eq!(why(5, 2, &[0; 33]), DecodeError::Invalid("role"));
    assert_eq!(why(9, 0, &[0; 32]), DecodeError::UnknownType(9));
    assert_eq!(why(5, 0, &[2; 33]), DecodeError::Invalid("flag"));
    let million = [&[0; 33][..], &1_000_000u32.to_be_bytes()].concat();
    assert_eq!(why(4, 0, &million), DecodeError::Invalid("safety code"));
    assert_eq!(SafetyState::from_bytes(&[2]).err(), Some(DecodeError::UnsupportedVersion(2)));
}

#[test]
fn a_run_counts_from_the_moment_our_key_is_known() {
    let revealed: Vec<bool> = every_state().iter().map(SafetyState::has_revealed).collect();
    assert_eq!(revealed, [false, true, false, true, true]);
}

#[test]
fn three_failed_runs_lock_for_an_hour() {
    let mut attempts = Attempts::default();
    let noon = 1_800_000_000;
    assert_eq!(attempts.failed(noon), Ok(()));
    assert_eq!(attempts.failed(noon + 86_400), Ok(()), "a slow attacker is counted too");
    assert_eq!(attempts.failures(), 2);
    let until = noon + 86_500 + LOCK_SECONDS;
    assert_eq!(attempts.failed(noon + 86_500), Err(Locked { until }));

    let mut attempts = Attempts::from_bytes(&attempts.to_bytes()).unwrap();
    assert_eq!(attempts.check(until - 1), Err(Locked { until }));
    assert_eq!(attempts.check(until), Ok(()));
    assert_eq!(attempts.failures(), 0);
}

#[test]
fn a_clock_set_back_does_not_lock_for_years() {
    let mut attempts = Attempts::default();
    let wrong = 4_000_000_000;
    let _ = (attempts.failed(wrong), attempts.failed(wrong), attempts.failed(wrong));
    let right = 1_800_000_000;
    assert_eq!(attempts.check(right), Err(Locked { until: right + LOCK_SECONDS }));
    assert_eq!(attempts.check(right + LOCK_SECONDS), Ok(()));
}

#[test]
fn a_verification_forgets_the_failures() {
    let mut attempts = Attempts::default();
    assert_eq!(attempts.failed(5), Ok(()));
    attempts.verified();
    assert_eq!(attempts, Attempts::default());
    let bytes = attempts.to_bytes();
    assert!((0..bytes.len()).all(|n| Attempts::from_bytes(&bytes[..n]).is_err()));
    assert!(Attempts::from_bytes(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn an_exchange_can_be_ended() {
    assert_eq!(mismatch(EXCHANGE), Safety { exchange: EXCHANGE, step: SafetyStep::Mismatch });
    assert_eq!(cancel(EXCHANGE), Safety { exchange: EXCHANGE, step: SafetyStep::Cancel });
}

#[test]
fn the_safety_number_is_the_same_at_both_ends() {
    let number = safety_number(&ALICE, &BOB);
    assert_eq!(number, safety_number(&BOB, &ALICE));
    let text = number.to_string();
    let groups: Vec<&str> = text.split(' ').collect();
    assert_eq!(groups.len(), 12);
    assert!(groups.iter().all(|g| g.len() == 5 && g.bytes().all(|b| b.is_ascii_digit())));
    for text in [text.clone(), number.digits(), text.replace(' ', "-\n")] {
        assert_eq!(text.parse(), Ok(number.clone()));
    }
    for wrong in ["", &text[1..], &format!("{text}0"), &text.replacen(' ', "x", 1)] {
        assert!(wrong.parse::<SafetyNumber>().is_err());
    }
}

#[test]
fn each_half_of_the_safety_number_is_one_persons() {
    let halves = |a, b| {
        let digits = safety_number(a, b).digits();
        [digits[..30].to_owned(), digits[30..].to_owned()]
    };
    let with_bob = halves(&ALICE, &BOB);
    let with_mallory = halves(&ALICE, &MALLORY);
    let shared: Vec<_> = with_bob.iter().filter(|h| with_mallory.contains(h)).collect();
    assert_eq!(shared.len(), 1, "only Alice's half stays");
}

proptest! {
    #[test]
    fn every_code_can_be_typed(number in 0..1_000_000u32) {
        let code = shown(number).code();
        prop_assert!(code.matches(&TypedCode::parse(&code.to_string()).unwrap()));
        let other = TypedCode::parse(&format!("{:06}", (number + 1) % 1_000_000)).unwrap();
        prop_assert!(!code.matches(&other));
    }

    #[test]
    fn any_two_identities_agree(a: [u8; 30], b: [u8; 30]) {
        let (a, b) = (Fingerprint::from_bytes(a), Fingerprint::from_bytes(b));
        prop_assert_eq!(safety_number(&a, &b), safety_number(&b, &a));
    }

    #[test]
    fn states_survive_storing(bytes in any_state_bytes()) {
        let state = SafetyState::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&state.to_bytes()[..], &bytes[..]);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        halloo_identity::fuzzing::safety_states(&bytes);
    }
}

/// A whole exchange up to the digits; each run has keys of its own.
fn compare(run: u8, initiator: Fingerprint, responder: Fingerprint) -> (Compare, Compare) {
    let secret = |role| [[run; 16], [role; 16]].concat().try_into().map(Zeroizing::new).unwrap();
    let (a, _) = Initiator::start_with_secret(secret(1), EXCHANGE, initiator, responder);
    let (b, commit) = Responder::on_start_with_secret(secret(2), EXCHANGE, responder, initiator);
    let (a, reveal) = a.on_commit(commitment(&commit));
    let (b, reveal) = b.on_reveal(key(&reveal)).unwrap();
    (a.on_reveal(key(&reveal)).unwrap(), b)
}

/// An exchange up to the initiator's key, which is on its way; each run has keys of its own.
fn committed(run: u8) -> (AwaitReveal, AwaitInitiatorKey, Safety) {
    let secret = |role| [[run; 16], [role; 16]].concat().try_into().map(Zeroizing::new).unwrap();
    let (alice, _) = Initiator::start_with_secret(secret(1), EXCHANGE, ALICE, BOB);
    let (bob, commit) = Responder::on_start_with_secret(secret(2), EXCHANGE, BOB, ALICE);
    let (alice, to_bob) = alice.on_commit(commitment(&commit));
    (alice, bob, to_bob)
}

/// What one person types when the other one reads the digits out.
fn read_out(other: &Compare) -> TypedCode {
    TypedCode::parse(&other.code().to_string()).unwrap()
}

fn refused<T>(result: Result<T, SafetyError>) -> SafetyError {
    result.err().expect("this must be refused")
}

fn commitment(message: &Safety) -> [u8; 32] {
    let SafetyStep::Commit(bytes) = message.step else { panic!("not a commitment") };
    bytes
}

fn key(message: &Safety) -> [u8; 32] {
    match message.step {
        SafetyStep::RevealInitiator(bytes) | SafetyStep::RevealResponder(bytes) => bytes,
        _ => panic!("not a key"),
    }
}

fn mac(message: &Safety) -> [u8; 32] {
    let SafetyStep::Confirm(bytes) = message.step else { panic!("not a confirmation") };
    bytes
}

fn restart(state: impl Into<SafetyState>) -> SafetyState {
    SafetyState::from_bytes(&state.into().to_bytes()).unwrap()
}

fn restored_confirmed(state: &Confirmed) -> Confirmed {
    match SafetyState::from_bytes(&state.to_bytes()) {
        Ok(SafetyState::Confirmed(state)) => state,
        _ => panic!("same state"),
    }
}

fn state_bytes(state: u8, role: u8, rest: &[u8]) -> Vec<u8> {
    [&[1, state, role], &EXCHANGE[..], ALICE.as_bytes(), BOB.as_bytes(), rest].concat()
}

fn hand_made(state: u8, role: u8, rest: &[u8]) -> SafetyState {
    SafetyState::from_bytes(&state_bytes(state, role, rest)).unwrap()
}

/// A state in which these digits stand on the screen.
fn shown(code: u32) -> Compare {
    let rest = [&[7; 32][..], &[0], &code.to_be_bytes()].concat();
    let SafetyState::Compare(state) = hand_made(4, 0, &rest) else { panic!("digits are shown") };
    state
}

/// The commitment that Bob would make to a key of his choice, as the protocol describes it.
fn commitment_to(key: [u8; 32]) -> [u8; 32] {
    let start = [&EXCHANGE[..], ALICE.as_bytes(), BOB.as_bytes()].concat();
    let start = blake3::derive_key("halloo 2026 safety start v1", &start);
    blake3::derive_key("halloo 2026 safety commit v1", &[start, key].concat())
}

fn every_state() -> [SafetyState; 5] {
    let (await_commit, _): (AwaitCommit, _) = Initiator::start(EXCHANGE, ALICE, BOB);
    let (await_reveal, await_key, _) = committed(0);
    let (compare, other) = compare(0, ALICE, BOB);
    let typed = read_out(&other);
    let (confirmed, _) = other.confirm(&typed).unwrap();
    [await_commit.into(), await_reveal.into(), await_key.into(), compare.into(), confirmed.into()]
}

fn any_state_bytes() -> impl Strategy<Value = Vec<u8>> {
    let flag = prop_oneof![Just(0u8), Just(1u8)];
    (1..=5u8, flag.clone(), any::<[u8; 32]>(), any::<[u8; 32]>(), flag, 0..1_000_000u32).prop_map(
        |(state, role, secret, commitment, theirs, code)| match state {
            1 => state_bytes(1, 0, &secret),
            2 => state_bytes(2, 0, &[secret, commitment].concat()),
            3 => state_bytes(3, 1, &secret),
            4 => state_bytes(4, role, &[&secret[..], &[theirs], &code.to_be_bytes()].concat()),
            _ => state_bytes(5, role, &[&secret[..], &[theirs]].concat()),
        },
    )
}
