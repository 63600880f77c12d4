//! Checks the model of delivery, and shows what planted faults do.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use halloo_model::bug::Bug;
use halloo_model::delivery::Delivery;
use halloo_model::report::{Finding, Report, Search, check, check_within};
use halloo_model::worlds::{large, planted, small};

/// Checks the model of delivery, and shows what planted faults do.
#[derive(Debug, Parser)]
#[command(name = "model")]
struct Args {
    /// Shows the shortest way to the harm that a planted fault does.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Checks only the small worlds, as the tests do.
    #[arg(long)]
    small: bool,
    /// Checks only worlds with this in their names.
    #[arg(long, default_value = "")]
    world: String,
    /// Checks the protocol with the rules that the model proposes.
    #[arg(long)]
    amended: bool,
    /// Breaks off the search of each world after so many steps between states.
    #[arg(long)]
    steps: Option<usize>,
    /// Threads to search with; they make the shortest way only nearly so.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    if let Some(bug) = args.bug {
        let (model, property) = planted(bug);
        writeln!(out, "{bug:?}, which breaks \"{property}\"\n  {}", model.bounds)?;
        tell(&check(model, Search::Until(property), args.threads), Some(property), &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut worlds = small();
    if !args.small {
        worlds.extend(large());
    }
    let mut well = true;
    for (name, bounds) in worlds {
        if !name.contains(&args.world) {
            continue;
        }
        writeln!(out, "{name}\n  {bounds}")?;
        out.flush()?;
        let model = Delivery { amended: args.amended, ..Delivery::new(bounds) };
        let report = check_within(model, Search::All, args.threads, args.steps);
        tell(&report, None, &mut out)?;
        well &= report.broken().next().is_none();
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes what was found; the steps to the harm of `shown` only, if one is named.
fn tell(report: &Report, shown: Option<&str>, out: &mut impl io::Write) -> io::Result<()> {
    let Report { states, steps, depth, took, broken_off, findings } = report;
    let took = took.as_secs_f64();
    writeln!(out, "  {states} states, {steps} steps between them, depth {depth}, {took:.1} s")?;
    if *broken_off {
        writeln!(out, "  broken off: there are more states")?;
    }
    for (name, finding) in findings {
        match finding {
            Finding::Holds => writeln!(out, "  holds      {name}")?,
            Finding::Seen => writeln!(out, "  yes        {name}")?,
            Finding::NotSeen => writeln!(out, "  no         {name}")?,
            Finding::Broken(steps) => {
                writeln!(out, "  BROKEN     {name}")?;
                if shown.is_some_and(|shown| shown != *name) {
                    continue;
                }
                for (i, step) in steps.iter().enumerate() {
                    writeln!(out, "      {:3}. {step}", i + 1)?;
                }
            }
        }
    }
    writeln!(out)
}
