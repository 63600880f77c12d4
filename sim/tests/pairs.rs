//! Each kind of box with each.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use halloo_sim::check;
use halloo_sim::oracle::{Expectation, expect};
use halloo_sim::scenario::DIAL_AT;
use halloo_sim::story::named;
use halloo_sim::trace::Trace;

/// How soon after both know each other a search or a guess has to have found a path.
const SEARCH_TIME: Duration = Duration::from_secs(2);

#[test]
fn every_pair_of_boxes_ends_as_the_table_says() {
    common::run_all(&named("pair/"), 1..=5, |_| ());
}

#[test]
fn nineteen_of_twenty_searches_find_a_path_within_two_seconds() {
    let all = named("pair/");
    let searches: Vec<_> =
        all.into_iter().filter(|s| expect(&s.scenario(1)) == Expectation::Likely).collect();
    assert_eq!(searches.len(), 18, "three kinds each way with three kinds");
    let runs = common::run_all(&searches, 1..=20, |outcome| {
        let last = outcome.sides.iter().map(|s| s.direct.unwrap_or(Duration::MAX)).max();
        let boxes = outcome.scenario.sites.each_ref().map(|s| format!("{:?}", s.boxes));
        let (both_know, _) = check::floor(outcome);
        (boxes, last.is_some_and(|at| at <= both_know + SEARCH_TIME))
    });
    let mut cells: BTreeMap<[String; 2], (usize, usize)> = BTreeMap::new();
    for (boxes, found) in runs {
        let cell = cells.entry(boxes).or_default();
        cell.0 += usize::from(found);
        cell.1 += 1;
    }
    for (boxes, (found, of)) in &cells {
        assert!(found * 100 >= of * 80, "{found} of {of} between {boxes:?}");
    }
    let found: usize = cells.values().map(|c| c.0).sum();
    assert!(found * 100 >= 360 * 95, "{found} of 360");
}

#[test]
fn two_home_routers_at_25_ms_reach_the_floor() {
    let (outcome, wrong) = named("floor").remove(0).run(1, Trace::off());
    assert_eq!(wrong, [""; 0]);
    let [alice, bob] = &outcome.sides;
    let ms = |at: Option<Duration>| at.map(|at| (at - DIAL_AT).as_millis());
    assert_eq!(ms(bob.first_heard), Some(50), "the first message takes the way through the peer");
    assert_eq!(ms(alice.told), Some(50));
    assert_eq!(ms(bob.told), Some(50));
    assert_eq!(ms(alice.direct), Some(100), "her first probe is on its way when his comes");
    assert_eq!(ms(bob.direct), Some(100));
    assert!(outcome.sides.iter().all(|s| s.probes <= 2 * 7), "no more than two targets' probes");
}
