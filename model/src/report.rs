//! Checking a world, and saying what was found.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

use crate::delivery::Delivery;
use crate::properties;
use crate::step::Step;
use crate::world::World;

/// How states are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// All of them, as fast as possible.
    All,
    /// The shortest first, until something is wrong.
    Shortest,
    /// The shortest first, until this property is broken.
    Until(&'static str),
}

/// What is known about a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It holds in every state.
    Holds,
    /// Steps to a state in which it does not hold.
    Broken(Vec<Step>),
    /// It is something that happens in some worlds, and does in this one.
    Seen,
    /// It is something that happens in some worlds, and does not in this one.
    NotSeen,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// The longest way from the beginning that was looked at.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether the search was broken off: then there are states that nobody has looked at.
    pub broken_off: bool,
    /// Each property, with what is known about it.
    pub findings: Vec<(&'static str, Finding)>,
}

impl Report {
    /// The properties that do not hold.
    pub fn broken(&self) -> impl Iterator<Item = (&'static str, &[Step])> {
        self.findings.iter().filter_map(|(name, finding)| match finding {
            Finding::Broken(steps) => Some((*name, &steps[..])),
            _ => None,
        })
    }

    /// Whether something that happens in some worlds does in this one.
    pub fn has_seen(&self, name: &str) -> bool {
        self.findings.iter().any(|(n, finding)| *n == name && *finding == Finding::Seen)
    }
}

/// Checks every property in every state of a world.
pub fn check(model: Delivery, search: Search, threads: usize) -> Report {
    check_within(model, search, threads, None)
}

/// Checks every property in the states of a world that so many steps reach, if
/// there is a limit.
pub fn check_within(
    model: Delivery,
    search: Search,
    threads: usize,
    limit: Option<usize>,
) -> Report {
    let begun = Instant::now();
    let mut checker = model.checker().threads(threads);
    if let Some(limit) = limit {
        checker = checker.target_state_count(limit);
    }
    let mut report = match search {
        Search::All => report(&checker.spawn_dfs().join(), begun),
        Search::Shortest => {
            let checker = checker.finish_when(HasDiscoveries::AnyFailures);
            report(&checker.spawn_bfs().join(), begun)
        }
        Search::Until(property) => {
            let wanted = HasDiscoveries::AnyOf([property].into());
            report(&checker.finish_when(wanted).spawn_bfs().join(), begun)
        }
    };
    report.broken_off = limit.is_some_and(|limit| report.steps >= limit);
    report
}

fn report(checker: &impl Checker<Delivery>, begun: Instant) -> Report {
    let took = begun.elapsed();
    let mut found = checker.discoveries();
    let finding = |property: Property<Delivery>| {
        let finding = match (found.remove(property.name), &property.expectation) {
            (Some(_), Expectation::Sometimes) => Finding::Seen,
            (None, Expectation::Sometimes) => Finding::NotSeen,
            (Some(path), _) => Finding::Broken(steps_to_harm(checker.model(), &property, path)),
            (None, _) => Finding::Holds,
        };
        (property.name, finding)
    };
    Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took,
        broken_off: false,
        findings: properties::all().into_iter().map(finding).collect(),
    }
}

/// The checker may name a path that goes on after the harm is done.
fn steps_to_harm(
    model: &Delivery,
    property: &Property<Delivery>,
    path: Path<World, Step>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (world, step) in path.into_vec() {
        if !(property.condition)(model, &world) {
            break;
        }
        steps.extend(step);
    }
    steps
}
