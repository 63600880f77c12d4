//! The checks see what is put in on purpose: so they can fail.

mod common;

use halloo_sim::story::planted;

#[test]
fn every_planted_fault_is_seen_in_every_run() {
    for story in planted() {
        let name = story.name.clone();
        let (missed, seen) = common::run(&[story], 1..=5, |o| o.scenario.seed);
        assert_eq!(missed, [0; 0], "{name} was not seen with these seeds");
        assert_eq!(seen.len(), 5);
    }
}

#[test]
fn without_a_fault_the_same_worlds_are_well() {
    for name in ["pair/open-random", "pair/home-home", "event/cut"] {
        common::run_all(&halloo_sim::story::named(name)[..1], 1..=3, |_| ());
    }
}
