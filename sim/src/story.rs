//! Named families of worlds, each with what must come of it. A name and a seed make a run.

mod events;
mod pairs;
mod planted;
mod worlds;

use crate::check;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::{Outcome, run};

pub use self::planted::planted;

/// A family of worlds.
pub struct Story {
    /// What it is called.
    pub name: String,
    scenario: Box<dyn Fn(u64) -> Scenario + Send + Sync>,
    verdict: Box<Judge>,
}

/// Says what is wrong.
type Judge = dyn Fn(&Outcome) -> Vec<String> + Send + Sync;

impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Story").field(&self.name).finish()
    }
}

impl Story {
    fn new(
        name: impl Into<String>,
        scenario: impl Fn(u64) -> Scenario + Send + Sync + 'static,
        verdict: impl Fn(&Outcome) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), scenario: Box::new(scenario), verdict: Box::new(verdict) }
    }

    /// The world of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        (self.scenario)(seed)
    }

    /// Runs the world of a seed. Returns what came of it, and what is wrong with that.
    pub fn run(&self, seed: u64, trace: Trace) -> (Outcome, Vec<String>) {
        let outcome = run(self.scenario(seed), trace);
        let mut wrong = check::invariants(&outcome);
        wrong.extend((self.verdict)(&outcome));
        (outcome, wrong)
    }

    /// The command that repeats a run, with a trace.
    pub fn command(&self, seed: u64) -> String {
        format!("cargo run -p halloo-sim -- --story {} --seed {seed} --trace", self.name)
    }
}

/// All families of which all must be well: those that `worlds` begins, each pair of boxes, each
/// event.
pub fn all() -> Vec<Story> {
    let mut all = worlds::worlds();
    all.extend(pairs::pairs());
    all.extend(events::events());
    all
}

/// The family of this name, or all whose names begin so.
pub fn named(name: &str) -> Vec<Story> {
    let (mut exact, others): (Vec<Story>, Vec<Story>) =
        all().into_iter().chain(planted()).partition(|s| s.name == name);
    if exact.is_empty() {
        exact.extend(others.into_iter().filter(|s| s.name.starts_with(name)));
    }
    exact
}
