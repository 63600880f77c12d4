//! Each kind of box with each: the table of the oracle.

use std::time::Duration;

use super::Story;
use crate::check;
use crate::nat_box::{BoxConfig, Ports};
use crate::oracle::expect;
use crate::rng::Rng;
use crate::scenario::{DIAL_AT, Scenario};

/// The kinds of sites, by name.
pub(super) fn kinds() -> Vec<(&'static str, Vec<BoxConfig>)> {
    let block = Ports::Block { first: 20_480, size: 1024 };
    let random_home = BoxConfig { ports: Ports::Random, ..BoxConfig::home() };
    vec![
        ("public", vec![]),
        ("open", vec![BoxConfig::open()]),
        ("address", vec![BoxConfig::address_restricted()]),
        ("home", vec![BoxConfig::home()]),
        ("linux", vec![BoxConfig::symmetric(Ports::Preserving)]),
        ("double", vec![BoxConfig::home(), random_home]),
        ("sequential", vec![BoxConfig::symmetric(Ports::Sequential { delta: 1, busy: 0 })]),
        ("block", vec![BoxConfig::symmetric(block)]),
        ("random", vec![BoxConfig::symmetric(Ports::Random)]),
        ("blocked", vec![BoxConfig::blocked()]),
    ]
}

/// `pair/x-y`: x calls y.
pub(super) fn pairs() -> Vec<Story> {
    let mut all = Vec::new();
    for (one, a) in kinds() {
        for (two, b) in kinds() {
            let a = a.clone();
            all.push(Story::new(
                format!("pair/{one}-{two}"),
                move |seed| pair(seed, a.clone(), b.clone()),
                |outcome| check::call(outcome, expect(&outcome.scenario)),
            ));
        }
    }
    // All at 25 ms from the middle: the figures of the design.
    all.push(Story::new(
        "floor",
        |seed| Scenario::pair(seed, vec![BoxConfig::home()], vec![BoxConfig::home()]),
        |outcome| {
            let mut wrong = check::call(outcome, expect(&outcome.scenario));
            for (name, side) in ["alice", "bob"].iter().zip(&outcome.sides) {
                let direct = side.direct.map(|at| at - DIAL_AT);
                if direct.is_none_or(|at| at > Duration::from_millis(120)) {
                    wrong.push(format!("{name} is direct after {direct:?}, not 100 to 120 ms"));
                }
            }
            wrong
        },
    ));
    all
}

fn pair(seed: u64, one: Vec<BoxConfig>, two: Vec<BoxConfig>) -> Scenario {
    let mut rng = Rng::new(seed);
    let mut it = Scenario::pair(seed, one, two);
    for site in &mut it.sites {
        site.delay = rng.millis(5..=60);
    }
    it.peer_delay = rng.millis(0..=20);
    it.two_homes = rng.chance(500);
    it
}
