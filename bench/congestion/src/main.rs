//! Congestion controllers in virtual time: quinn's own state machines at both ends of one simulated
//! bottleneck, so that the machine's other work changes nothing.
//!
//! `congestion alone | beside | fat | jitter`. `beside` has quinn's Cubic as the other flow;
//! `compare fair` does the same with the kernel's TCP on a real wire.

#[allow(dead_code)]
#[path = "../../../transport/src/congestion.rs"]
mod congestion;
#[allow(dead_code)]
#[path = "../../../transport/src/rate_model.rs"]
mod rate_model;
mod sim;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quinn_proto::congestion::{BbrConfig, CubicConfig};

use crate::congestion::{PathAwareConfig, PathClass, PathSignal};
use crate::sim::{Factory, Flow, Link, run};

const CONTROLLERS: [&str; 3] = ["cubic", "bbr", "halloo"];

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("alone") => alone(),
        Some("beside") => beside(),
        Some("fat") => fat(),
        Some("jitter") => jitter(),
        _ => bail!("congestion alone | beside | fat | jitter"),
    }
}

/// One connection on paths of all sorts.
fn alone() -> Result<()> {
    println!(
        "| Mbit/s, round trip, queue in round trips, loss | controller | Mbit/s | queue ms | p95 | lost |"
    );
    println!("|---|---|---|---|---|---|");
    for (mbit, rtt, queue, loss) in [
        (100.0, 40.0, 1.0, 0.0),
        (100.0, 40.0, 0.1, 0.0),
        (100.0, 40.0, 5.0, 0.0),
        (100.0, 100.0, 1.0, 0.005),
        (100.0, 100.0, 1.0, 0.01),
        (100.0, 100.0, 1.0, 0.04),
        (10.0, 20.0, 8.0, 0.02),
        (1.0, 50.0, 4.0, 0.0),
        (200.0, 2.0, 2.0, 0.0),
        (200.0, 2.0, 2.0, 0.02),
    ] {
        for name in CONTROLLERS {
            let outcome = run(link(mbit, rtt, queue, loss), &[flow(name, 0.0)], secs(15.0), 1)?;
            let (mean, p95) = outcome.queue_ms(secs(5.0), secs(15.0));
            println!(
                "| {mbit}, {rtt} ms, {queue}, {} % | {name} | {} | {mean:.1} | {p95:.1} | {:.2} % |",
                loss * 100.0,
                outcome.flows[0].said(secs(5.0), secs(15.0)),
                outcome.flows[0].lost_percent(),
            );
        }
    }
    Ok(())
}

/// Beside a Cubic connection that began 5 s earlier or later.
fn beside() -> Result<()> {
    println!(
        "| Mbit/s, round trip, queue | controller | began | Mbit/s | Cubic's | share | queue ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (mbit, rtt, queue) in [
        (50.0, 20.0, 0.25),
        (50.0, 20.0, 1.0),
        (50.0, 20.0, 2.0),
        (50.0, 20.0, 5.0),
        (50.0, 100.0, 0.25),
        (50.0, 100.0, 1.0),
        (50.0, 100.0, 2.0),
    ] {
        for name in CONTROLLERS {
            for (it, cubic) in [(0.0, 5.0), (5.0, 0.0)] {
                let flows = [flow(name, it), flow("cubic", cubic)];
                let outcome = run(link(mbit, rtt, queue, 0.0), &flows, secs(60.0), 1)?;
                let rate = |i: usize| outcome.flows[i].rate(secs(15.0), secs(60.0)) * 8e-6;
                println!(
                    "| {mbit}, {rtt} ms, {queue} | {name} | {} | {:.1} | {:.1} | {:.0} % | {:.0} |",
                    if it < cubic { "first" } else { "second" },
                    rate(0),
                    rate(1),
                    100.0 * rate(1) / (rate(0) + rate(1)),
                    outcome.queue_ms(secs(15.0), secs(60.0)).0,
                );
            }
        }
    }
    Ok(())
}

/// Paths on which a window is thousands of packets.
fn fat() -> Result<()> {
    println!(
        "| Mbit/s, round trip, queue, loss | controller | first 3 s | then Mbit/s | queue ms | lost |"
    );
    println!("|---|---|---|---|---|---|");
    for (rtt, queue, loss) in [
        (100.0, 0.05, 0.0),
        (100.0, 0.3, 0.0),
        (100.0, 2.0, 0.04),
        (100.0, 0.05, 0.04),
        (10.0, 1.0, 0.0),
    ] {
        for name in CONTROLLERS {
            let outcome = run(link(900.0, rtt, queue, loss), &[flow(name, 0.0)], secs(8.0), 1)?;
            println!(
                "| 900, {rtt} ms, {queue}, {} % | {name} | {:.0} | {} | {:.1} | {:.2} % |",
                loss * 100.0,
                outcome.flows[0].rate(secs(0.0), secs(3.0)) * 8e-6,
                outcome.flows[0].said(secs(4.0), secs(8.0)),
                outcome.queue_ms(secs(4.0), secs(8.0)).0,
                outcome.flows[0].lost_percent(),
            );
        }
    }
    Ok(())
}

/// Radio: each datagram waits up to so long, never passing another.
fn jitter() -> Result<()> {
    println!("| Mbit/s, round trip, jitter, loss | controller | Mbit/s |");
    println!("|---|---|---|");
    for (rtt, jitter, loss) in
        [(20.0, 10.0, 0.0), (20.0, 10.0, 0.02), (20.0, 30.0, 0.02), (5.0, 10.0, 0.01)]
    {
        for name in CONTROLLERS {
            let link = Link { jitter: secs(jitter / 1e3), ..link(50.0, rtt, 3.0, loss) };
            let outcome = run(link, &[flow(name, 0.0)], secs(20.0), 1)?;
            println!(
                "| 50, {rtt} ms, {jitter} ms, {} % | {name} | {} |",
                loss * 100.0,
                outcome.flows[0].said(secs(5.0), secs(20.0)),
            );
        }
    }
    Ok(())
}

fn controller(name: &str) -> Factory {
    match name {
        "cubic" => Arc::new(CubicConfig::default()),
        "bbr" => Arc::new(BbrConfig::default()),
        _ => PathAwareConfig::new(PathSignal::new(PathClass::Direct, Instant::now())),
    }
}

fn link(mbit: f64, rtt_ms: f64, queue: f64, loss: f64) -> Link {
    let rate = mbit * 1e6 / 8.0;
    let queue = ((rate * rtt_ms / 1e3 * queue) as usize).max(30_000);
    Link { rate, queue, delay: secs(rtt_ms / 2e3), loss, jitter: Duration::ZERO }
}

fn flow(name: &'static str, start: f64) -> Flow {
    Flow { controller: controller(name), start: secs(start) }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
