//! Medians and ratios.

use anyhow::Result;

use crate::run::Outcome;
use crate::tell;

/// A stack's outcomes.
pub struct Row {
    pub stack: String,
    outcomes: Vec<Outcome>,
    failed: usize,
}

impl Row {
    pub fn new(stack: impl AsRef<str>) -> Self {
        Self { stack: stack.as_ref().to_owned(), outcomes: Vec::new(), failed: 0 }
    }

    pub fn add(&mut self, outcome: Result<Outcome>) {
        tell(&self.stack, &outcome);
        match outcome {
            Ok(it) => self.outcomes.push(it),
            Err(_) => self.failed += 1,
        }
    }

    /// The median of something.
    pub fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.outcomes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Prints a Markdown table. Ratios are to the stack `anchor`, of medians and, run by run, of pairs.
pub fn print(title: &str, rows: &[Row], anchor: &str) {
    let base = rows.iter().find(|row| row.stack == anchor);
    println!("\n**{title}** (median; load average {})\n", load());
    println!(
        "| stack | MiB/s | second half | of {anchor} | pairs | CPU s/GiB send | receive | relay | failed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let cell = |of: fn(&Outcome) -> f64, digits: usize| {
            let median = row.median(of).filter(|it| !it.is_nan());
            median.map_or("-".into(), |it| format!("{it:.digits$}"))
        };
        let base_rate = base.and_then(|it| it.median(|it| it.rate));
        let ratio = match (row.median(|it| it.rate), base_rate) {
            (Some(it), Some(base)) => format!("{:.2}", it / base),
            _ => "-".into(),
        };
        println!(
            "| {} | {} | {} | {ratio} | {} | {} | {} | {} | {} |",
            row.stack,
            cell(|it| it.rate, 1),
            cell(|it| it.later, 1),
            base.map_or("-".into(), |base| pairs(row, base)),
            cell(|it| it.send_cpu, 2),
            cell(|it| it.receive_cpu, 2),
            cell(|it| it.relay_cpu.unwrap_or(f64::NAN), 2),
            row.failed,
        );
    }
}

/// The system's own three averages, at the end of the runs.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The median of the ratios of neighbouring runs: what a machine with other work can still tell.
fn pairs(row: &Row, base: &Row) -> String {
    let ratios = row.outcomes.iter().zip(&base.outcomes);
    let mut ratios: Vec<f64> = ratios.map(|(it, base)| it.rate / base.rate).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).map_or("-".into(), |it| format!("{it:.2}"))
}
