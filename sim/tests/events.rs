//! What happens to a conversation when the network changes under it.

mod common;

use std::time::Duration;

use halloo_sim::check::MAX_SILENCE;
use halloo_sim::story::named;
use halloo_sim::trace::Trace;

#[test]
fn every_event_ends_well() {
    common::run_all(&named("event/"), 1..=10, |_| ());
}

#[test]
fn a_direct_path_that_dies_under_traffic_costs_less_than_half_a_second() {
    // With links of 25 ms, in both directions and in each.
    for name in ["event/cut", "event/cut-forward", "event/cut-back"] {
        let story = named(name).remove(0);
        let (outcome, wrong) = story.run(1, Trace::off());
        assert_eq!(wrong, [""; 0]);
        let longest = outcome.sides.iter().map(|s| s.silence).max().unwrap_or_default();
        assert!(longest < MAX_SILENCE, "{name}: {longest:?}");
        assert!(longest > Duration::from_millis(100), "{name}: it did not die");
    }
}
