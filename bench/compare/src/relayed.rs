//! Through a relay and nowhere else.

use std::time::Duration;

use anyhow::Result;
use halloo_lab::wire::link::LinkConfig;

use crate::Options;
use crate::far::Apart;
use crate::run::{Amount, Here, Outcome, run};
use crate::table::{Row, print};

/// What Halloo is measured by: a relay without TLS has less to do.
const ANCHOR: &str = "iroh-relayed";
const STACKS: [&str; 3] = ["halloo-relayed", ANCHOR, "iroh-relayed-tls"];
/// Round trip between the nodes, in ms. The relay is half-way.
const RTT: u64 = 100;

/// On loopback: what the stacks and their relays cost.
pub fn here(options: &Options) {
    let amount = Amount { mib: options.mib, time: Duration::from_secs(60) };
    let title = format!("loopback through a relay, {} MiB, one stream", options.mib);
    in_turn(options, 5, &title, |stack| run(stack, amount, &Here));
}

/// Over a wire with delay.
pub fn far(options: &Options) {
    let amount = Amount { mib: 1 << 20, time: Duration::from_secs(options.seconds) };
    let link = LinkConfig::delay(Duration::from_millis(RTT) / 4);
    let title = format!("{RTT} ms through a relay, {} s, one stream", options.seconds);
    in_turn(options, 3, &title, |stack| run(stack, amount, &Apart::new(link.clone())?));
}

fn in_turn(options: &Options, runs: usize, title: &str, run: impl Fn(&str) -> Result<Outcome>) {
    let mut rows: Vec<Row> = options.stacks(&STACKS).iter().map(Row::new).collect();
    for _ in 0..options.runs.unwrap_or(runs) {
        for row in &mut rows {
            let outcome = run(&row.stack);
            row.add(outcome);
        }
    }
    print(title, &rows, ANCHOR);
}
