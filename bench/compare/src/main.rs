//! Runs the sides against each other, in turn and in the same run, and prints tables with ratios.
//!
//! `compare direct` on loopback, `compare far` over a wire with delay and loss, `compare fair`
//! beside a TCP connection on one bottleneck; `compare relayed` and `compare relayed-far` through a
//! relay, on loopback and over a wire with delay. `far`, `fair` and `relayed-far` build a laboratory
//! of namespaces (`lab/`), so they need root or unprivileged user namespaces.

mod beside;
mod far;
mod program;
mod relay;
mod relayed;
mod run;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::run::{Amount, Here, Outcome, run};
use crate::table::{Row, print};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let options = Options::parse(&words)?;
    match words.first().map(String::as_str) {
        Some("direct") => direct(&options)?,
        Some("relayed") => relayed::here(&options),
        Some(command @ ("far" | "fair" | "relayed-far")) => {
            if let Some(code) = halloo_lab::inside::go()? {
                return Ok(code);
            }
            match command {
                "far" => far::all(&options)?,
                "fair" => beside::all(&options)?,
                _ => relayed::far(&options),
            }
        }
        _ => bail!(
            "compare direct | far | fair | relayed | relayed-far \
             [--runs N] [--mib N] [--seconds N] [--stacks A,B] [--row N]"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// What can be chosen.
pub struct Options {
    runs: Option<usize>,
    mib: u64,
    seconds: u64,
    stacks: Option<Vec<String>>,
    row: Option<usize>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { runs: None, mib: 1024, seconds: 12, stacks: None, row: None };
        let mut words = words.iter().skip(1);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            match name.as_str() {
                "--runs" => options.runs = Some(value.parse()?),
                "--mib" => options.mib = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--row" => options.row = Some(value.parse()?),
                "--stacks" => options.stacks = Some(value.split(',').map(str::to_owned).collect()),
                other => bail!("there is no option {other}"),
            }
        }
        Ok(options)
    }

    /// The chosen row of a table, counted from 1, or all.
    pub fn rows<T: Copy>(&self, all: &[T]) -> Vec<T> {
        match self.row {
            Some(row) => all.get(row.wrapping_sub(1)).copied().into_iter().collect(),
            None => all.to_vec(),
        }
    }

    /// The chosen stacks, or else these.
    pub fn stacks(&self, all: &[&str]) -> Vec<String> {
        self.stacks.clone().unwrap_or_else(|| all.iter().map(|it| (*it).to_owned()).collect())
    }
}

/// No delay, no loss: what a stack costs.
fn direct(options: &Options) -> Result<()> {
    let stacks = options.stacks(&[
        "quinn",
        "halloo",
        "halloo-route",
        "quinn-cubic",
        "quinn-bbr",
        "quinn-default",
        "iroh",
    ]);
    let amount = Amount { mib: options.mib, time: Duration::from_secs(60) };
    let mut rows: Vec<Row> = stacks.iter().map(Row::new).collect();
    for _ in 0..options.runs.unwrap_or(5) {
        for (stack, row) in stacks.iter().zip(&mut rows) {
            row.add(run(stack, amount, &Here));
        }
    }
    print(&format!("loopback, {} MiB, one stream", options.mib), &rows, "quinn");
    Ok(())
}

/// How an outcome is told on a line of its own, while a run goes on.
pub fn tell(what: &str, outcome: &Result<Outcome>) {
    match outcome {
        Ok(it) => eprintln!("{what}: {:.1} MiB/s, later {:.1}", it.rate, it.later),
        Err(e) => eprintln!("{what}: {e:#}"),
    }
}
