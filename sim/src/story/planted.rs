//! Worlds with a fault put in on purpose, which the checks must see.

use super::{Story, named};
use crate::bug::Bug;
use crate::check;
use crate::nat_box::{BoxConfig, Ports};
use crate::oracle::{Expectation, expect};
use crate::scenario::Scenario;

/// `planted/...`: each of them must fail.
pub fn planted() -> Vec<Story> {
    let home = || vec![BoxConfig::home()];
    let random = || vec![BoxConfig::symmetric(Ports::Random)];
    let open = || vec![BoxConfig::open()];
    let fall = "event/cut";
    let rebind = "event/restart-of-the-callers-box";
    vec![
        // Peer-reflexive candidates are the only way to somebody behind such a box.
        broken("deaf-to-strangers", Bug::DeafToStrangers, 0, [open(), random()], None),
        broken("trusts-cards", Bug::TrustsCards, 1, [home(), home()], None),
        broken("storms", Bug::Storms, 1, [home(), home()], None),
        broken("slow", Bug::Slow, 1, [home(), home()], None),
        broken("never-falls-back", Bug::NeverFallsBack, 1, [home(), home()], Some(fall)),
        broken("ignores-challenges", Bug::IgnoresChallenges, 0, [random(), random()], Some(rebind)),
        // An oracle that says that nothing can come of an open box.
        Story::new(
            "planted/wrong-oracle",
            move |seed| Scenario::pair(seed, random(), open()),
            |outcome| check::call(outcome, Expectation::Relay),
        ),
    ]
}

/// A call between other boxes, or what happens in another story, with a fault in one node.
fn broken(
    name: &str,
    bug: Bug,
    victim: usize,
    [one, two]: [Vec<BoxConfig>; 2],
    like: Option<&'static str>,
) -> Story {
    Story::new(
        format!("planted/{name}"),
        move |seed| {
            let mut it = Scenario::pair(seed, one.clone(), two.clone());
            if let Some(like) = like {
                let original = named(like).remove(0).scenario(seed);
                (it.steps, it.end) = (original.steps, original.end);
            }
            it.sites[victim].bug = bug;
            it.sites[1 - victim].lies = bug == Bug::TrustsCards;
            it
        },
        move |outcome| match like {
            Some(like) => (named(like).remove(0).verdict)(outcome),
            None => check::call(outcome, expect(&outcome.scenario)),
        },
    )
}
