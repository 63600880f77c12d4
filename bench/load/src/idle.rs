//! Idle nodes: what they cost a peer in memory and processor time.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::parked::{KEEPALIVE, Keeper, park_all};
use crate::peer::{ONE_NETWORK, Peer};

#[derive(clap::Args)]
pub struct Options {
    /// Nodes
    #[arg(long, default_value_t = 100_000)]
    nodes: usize,
    /// Seconds that are measured, after all have been heard once
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Let each leave bytes as long as a prekey bundle
    #[arg(long)]
    bundle: bool,
}

pub async fn run(options: &Options) -> Result<()> {
    let registrations = options.nodes.to_string();
    let own = ["--max-memory", "16GiB", "--max-registrations", &registrations];
    let mut peer = Peer::start(&[&ONE_NETWORK[..], &own].concat())?;
    let empty = peer.resident()?;
    let (begun, cpu) = (Instant::now(), peer.cpu()?);
    let rows = park_all(&peer, options.nodes, options.bundle).await?;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), peer.cpu()? - cpu);
    let n = options.nodes as f64;
    println!(
        "{} nodes registered and parked in {took:.0} s: {:.0} a second",
        options.nodes,
        n / took
    );
    println!("  of the peer's processor time each took {:.2} ms", cpu / n * 1e3);

    let mut keeper = Keeper::new(rows, peer.listen)?;
    // Each is at a new address, and is asked whether it is the one.
    keeper.run(KEEPALIVE * 2)?;
    let (before, drops, cpu) = (keeper.counts, peer.udp_drops()?, peer.cpu()?);
    keeper.run(Duration::from_secs(options.seconds))?;
    let cpu = peer.cpu()? - cpu;
    peer.check()?;
    let (now, seconds) = (keeper.counts, options.seconds as f64);
    let (sent, heard) = (now.sent - before.sent, now.heard - before.heard);
    println!(
        "{:.0} keepalives a second for {seconds:.0} s: {heard} of {sent} heard ({:.3} %), {} dropped by the kernel",
        sent as f64 / seconds,
        heard as f64 / sent as f64 * 100.0,
        peer.udp_drops()? - drops,
    );
    println!("  the peer took {:.1} % of a core", cpu / seconds * 100.0);
    let resident = peer.resident()?;
    println!(
        "  {:.1} MB resident, {:.0} B a node ({:.1} MB before the first came)",
        resident as f64 / 1e6,
        (resident - empty) as f64 / n,
        empty as f64 / 1e6,
    );
    let deaf = keeper.rows.iter().filter(|it| !it.heard).count();
    println!("  {deaf} nodes had not been heard when they last spoke");
    Ok(())
}
