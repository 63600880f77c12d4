//! A restart: nodes that were parked find out by their keepalives that the peer does not know them
//! any more, and come back when it says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::Rng;
use tokio::task::JoinSet;

use crate::parked::{KEEPALIVE, Keeper, Parked, park, park_all};
use crate::peer::{ONE_NETWORK, Peer};
use crate::times::Times;

/// Registrations under way at once: more of one program's would measure the program.
const AT_ONCE: usize = 64;
/// A herd that is not back by then does not come.
const PATIENCE: Duration = Duration::from_secs(3_600);

#[derive(clap::Args)]
pub struct Options {
    /// Nodes
    #[arg(long, default_value_t = 100_000)]
    nodes: usize,
    /// Nodes that the peer tells to come back in a second
    #[arg(long, default_value_t = 500)]
    return_rate: u32,
}

pub async fn run(options: &Options) -> Result<()> {
    let (registrations, rate) = (options.nodes.to_string(), options.return_rate.to_string());
    let own =
        ["--max-memory", "4GiB", "--max-registrations", &registrations, "--return-rate", &rate];
    let mut peer = Peer::start(&[&ONE_NETWORK[..], &own].concat())?;
    let rows = park_all(&peer, options.nodes, false).await?;
    let mut keeper = Keeper::new(rows, peer.listen)?;
    keeper.run(KEEPALIVE * 2)?;
    peer.kill_and_start()?;
    let (begun, cpu) = (Instant::now(), peer.cpu()?);
    let (listen, key) = (peer.listen, peer.key);

    let mut due = BinaryHeap::new();
    let mut told = vec![false; options.nodes];
    let mut coming: JoinSet<(usize, Instant, Result<Parked>)> = JoinSet::new();
    let (mut back, mut failed, mut late) = (0, 0, Times::default());
    let mut most_in_a_second = (0, 0, 0);
    while back < options.nodes {
        if begun.elapsed() > PATIENCE {
            bail!("{back} of {} came back", options.nodes);
        }
        keeper.run(Duration::from_millis(5))?;
        for (place, within) in std::mem::take(&mut keeper.unknown) {
            // A node asks once; its later keepalives are of before it has asked.
            if !std::mem::replace(&mut told[place], true) {
                let wait = within.mul_f64(rand::rng().random_range(0.0..=1.0));
                due.push(Reverse((Instant::now() + wait, place)));
            }
        }
        while coming.len() < AT_ONCE
            && let Some(Reverse((at, place))) = due.peek().copied()
            && at <= Instant::now()
        {
            due.pop();
            coming.spawn(async move { (place, at, park(listen, key, false).await) });
        }
        tokio::task::yield_now().await;
        while let Some(done) = coming.try_join_next() {
            let (place, at, parked) = done?;
            match parked {
                Ok(parked) => {
                    keeper.replace(place, parked);
                    back += 1;
                    late.add(at.elapsed());
                    let second = begun.elapsed().as_secs();
                    let (now, n, most) = most_in_a_second;
                    let n = if now == second { n + 1 } else { 1 };
                    most_in_a_second = (second, n, most.max(n));
                }
                Err(_) => {
                    failed += 1;
                    due.push(Reverse((Instant::now() + Duration::from_secs(5), place)));
                }
            }
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} nodes were back {took:.0} s after the peer: {:.0} a second, at most {}",
        options.nodes,
        options.nodes as f64 / took,
        most_in_a_second.2
    );
    println!(
        "  from its moment until it was back, a node took {:.0} ms (half of them), {:.0} ms (99 %)",
        late.percentile(50),
        late.percentile(99)
    );
    println!(
        "  {failed} attempts failed; the peer took {:.0} % of a core, {:.1} MB resident",
        (peer.cpu()? - cpu) / took * 100.0,
        peer.resident()? as f64 / 1e6
    );
    Ok(())
}
