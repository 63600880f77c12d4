//! Each planted fault breaks the property that is there for it; and what one does beyond that.

use halloo_model::bug::Bug;
use halloo_model::delivery::Delivery;
use halloo_model::properties;
use halloo_model::report::{Report, Search, check};
use halloo_model::worlds::planted;

/// The first property that breaks is the expected one, and without the fault all is well.
fn breaks(bug: Bug, expected: &str) {
    let (model, property) = planted(bug);
    assert_eq!(property, expected);
    let broken = names(&check(model, Search::Shortest, 1));
    assert!(broken.contains(&property), "{bug:?} breaks {broken:?}, not {property}");
    let sound = names(&check(Delivery { bug: Bug::None, ..model }, Search::All, 1));
    assert_eq!(sound, [""; 0], "without {bug:?}");
}

fn names(report: &Report) -> Vec<&'static str> {
    report.broken().map(|(name, _)| name).collect()
}

#[test]
fn accepting_before_the_commit_loses_messages() {
    breaks(Bug::AcceptBeforeCommit, properties::KEPT);
}

#[test]
fn telling_before_the_commit_tells_what_is_lost() {
    breaks(Bug::TellBeforeCommit, properties::TOLD);
}

#[test]
fn acknowledging_before_the_commit_is_seen() {
    breaks(Bug::AckBeforeCommit, properties::COMMIT_FIRST);
}

#[test]
fn acknowledging_before_the_commit_loses_messages() {
    let (model, _) = planted(Bug::AckBeforeCommit);
    for property in [properties::DELIVERED, properties::ALL_ENDS_WELL] {
        assert!(names(&check(model, Search::Until(property), 1)).contains(&property));
    }
}

#[test]
fn a_receipt_is_not_a_delivery() {
    breaks(Bug::DeliveredOnReceipt, properties::DELIVERED);
}

#[test]
fn encrypting_again_makes_two_ciphertexts_of_one_place() {
    breaks(Bug::EncryptAgain, properties::ENCRYPTED_ONCE);
}

#[test]
fn sending_before_the_commit_is_seen() {
    breaks(Bug::SendBeforeCommit, properties::RATCHET_FIRST);
}

#[test]
fn sending_before_the_commit_uses_a_key_twice() {
    let (model, _) = planted(Bug::SendBeforeCommit);
    let broken = names(&check(model, Search::Until(properties::KEY_ONCE), 1));
    assert!(broken.contains(&properties::KEY_ONCE), "{broken:?}");
}

#[test]
fn without_the_instance_a_lost_mailbox_is_not_noticed() {
    breaks(Bug::ForgetInstance, properties::ALL_ENDS_WELL);
}

#[test]
fn deduplication_in_memory_takes_messages_twice() {
    breaks(Bug::DedupInMemory, properties::ONCE);
}

#[test]
fn without_order_there_are_holes() {
    breaks(Bug::OrderIgnored, properties::IN_ORDER);
}

#[test]
fn a_control_message_that_moves_the_ratchet_loses_keys() {
    breaks(Bug::ControlMovesRatchet, properties::NO_KEY_LOST);
}

#[test]
fn keys_lost_to_a_control_message_are_saved_by_a_resend_only() {
    let (model, _) = planted(Bug::ControlMovesRatchet);
    let report = check(model, Search::All, 1);
    assert!(report.has_seen(properties::RESENT));
    // It ends well, but nobody would have had to ask.
    let broken = names(&report);
    assert!(broken.contains(&properties::UNASKED), "{broken:?}");
    assert!(!broken.contains(&properties::ALL_ENDS_WELL), "{broken:?}");
    let sound = check(Delivery { bug: Bug::None, ..model }, Search::All, 1);
    assert!(!sound.has_seen(properties::RESENT));
    assert!(sound.has_seen(properties::COPIED));
}

#[test]
fn a_resend_must_begin_its_session() {
    breaks(Bug::ResendOnCopy, properties::ALL_ENDS_WELL);
}

#[test]
fn every_fault_has_a_test() {
    assert_eq!(Bug::all().count(), 11);
}
