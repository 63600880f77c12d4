//! Worlds drawn at random.

use super::Story;
use crate::check;
use crate::oracle::expect;
use crate::scenario::Scenario;

/// `worlds`: any sites, any faults, one call. `storms`: the same with things that happen.
pub(super) fn worlds() -> Vec<Story> {
    vec![
        Story::new("worlds", Scenario::random, |o| check::call(o, expect(&o.scenario))),
        // What must come of it is in the invariants: everything is heard in the end.
        Story::new("storms", Scenario::random_storm, |_| Vec::new()),
    ]
}
