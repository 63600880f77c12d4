//! Running many worlds.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use halloo_sim::story::Story;
use halloo_sim::trace::Trace;
use halloo_sim::world::Outcome;

/// Failures that are written out; more say nothing new.
const MAX_SHOWN: usize = 10;
const UNPOISONED: &str = "a run that panics ends the test";

/// Runs each story with each seed on all cores, and returns what `look` makes of the runs in which
/// all was well.
///
/// # Panics
/// When something was wrong in a run, with the command that repeats it.
#[allow(dead_code, reason = "not every test counts")]
pub(crate) fn run_all<T: Send>(
    stories: &[Story],
    seeds: RangeInclusive<u64>,
    look: impl Fn(&Outcome) -> T + Sync,
) -> Vec<T> {
    let (results, failures) = run(stories, seeds, look);
    let shown: Vec<&str> = failures.iter().take(MAX_SHOWN).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), shown.join("\n"));
    results
}

/// The same, without a judgement: results of good runs, and descriptions of bad ones.
pub(crate) fn run<T: Send>(
    stories: &[Story],
    seeds: RangeInclusive<u64>,
    look: impl Fn(&Outcome) -> T + Sync,
) -> (Vec<T>, Vec<String>) {
    let jobs: Vec<(&Story, u64)> =
        stories.iter().flat_map(|s| seeds.clone().map(move |seed| (s, seed))).collect();
    let next = AtomicUsize::new(0);
    let (results, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((story, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (outcome, wrong) = story.run(*seed, Trace::off());
                    if wrong.is_empty() {
                        results.lock().expect(UNPOISONED).push(look(&outcome));
                    } else {
                        let lines = wrong.join("\n  ");
                        let repeat = story.command(*seed);
                        failures.lock().expect(UNPOISONED).push(format!("{repeat}\n  {lines}"));
                    }
                }
            });
        }
    });
    let lists = (results.into_inner(), failures.into_inner());
    (lists.0.expect(UNPOISONED), lists.1.expect(UNPOISONED))
}
