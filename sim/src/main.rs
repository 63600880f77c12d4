//! Runs simulated worlds by their names and seeds.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use halloo_sim::oracle::{Expectation, expect};
use halloo_sim::story::{Story, named};
use halloo_sim::trace::Trace;

/// Runs simulated worlds by their names and seeds.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// Families of worlds, by the beginning of their names; an empty one means all.
    #[arg(long, default_value = "worlds")]
    story: String,
    /// The world to run, or the first of them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many worlds to run of each family.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Writes what happens in a world; with several, in those that fail.
    #[arg(long)]
    trace: bool,
    /// Lists the families and runs nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let stories = named(&args.story);
    if args.list {
        for story in &stories {
            writeln!(out, "{}", story.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let one = stories.len() == 1 && args.runs == 1;
    let (mut runs, mut failed, mut likely, mut reached) = (0u64, 0u64, 0u64, 0u64);
    for story in &stories {
        for seed in args.seed..args.seed + args.runs {
            let expected = expect(&story.scenario(seed));
            let (is_direct, well) = tell(story, seed, one, args.trace, &mut out)?;
            runs += 1;
            failed += u64::from(!well);
            if expected == Expectation::Likely && !story.name.starts_with("event") {
                likely += 1;
                reached += u64::from(is_direct);
            }
        }
    }
    writeln!(out, "{runs} runs, {failed} failed; {reached} of {likely} likely paths found")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one world; whether it ended with a direct path, and whether all was well.
fn tell(
    story: &Story,
    seed: u64,
    one: bool,
    trace: bool,
    out: &mut impl io::Write,
) -> io::Result<(bool, bool)> {
    if one {
        let scenario = story.scenario(seed);
        writeln!(out, "{scenario:#?}\nexpected of a call: {:?}", expect(&scenario))?;
    }
    let (outcome, wrong) = story.run(seed, if trace { Trace::on() } else { Trace::off() });
    if trace && (one || !wrong.is_empty()) {
        for line in &outcome.trace {
            writeln!(out, "{line}")?;
        }
    }
    if one {
        writeln!(out, "{:#?}", outcome.sides)?;
    }
    for line in &wrong {
        writeln!(out, "{} {seed}: {line}", story.name)?;
    }
    Ok((outcome.is_direct(), wrong.is_empty()))
}
