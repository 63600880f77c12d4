//! Two thousand worlds drawn at random: whatever stands between two nodes, they meet as directly as
//! the oracle says that they can, and everything is heard.

mod common;

use halloo_sim::oracle::{Expectation, expect};
use halloo_sim::story::named;

#[test]
fn two_thousand_worlds() {
    let worlds = named("worlds");
    let runs = common::run_all(&worlds, 1..=2000, |o| (expect(&o.scenario), o.is_direct()));
    let likely: Vec<bool> =
        runs.iter().filter(|r| r.0 == Expectation::Likely).map(|r| r.1).collect();
    let reached = likely.iter().filter(|r| **r).count();
    assert!(likely.len() >= 50, "only {} worlds need a guess or a search", likely.len());
    assert!(reached * 100 >= likely.len() * 90, "{reached} of {} are direct", likely.len());
}
