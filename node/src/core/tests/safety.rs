//! Comparing codes.

use super::*;

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
