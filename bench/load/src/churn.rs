//! Nodes that come and go, in both ways: does the peer keep anything of them?

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use halloo_transport::websocket;
use halloo_transport::{CloseCode, PeerTrust};

use crate::node::Node;
use crate::parked::park;
use crate::peer::{ONE_NETWORK, Peer};

/// Nodes that come at once.
const AT_ONCE: usize = 8;

#[derive(clap::Args)]
pub struct Options {
    /// How often the memory is looked at
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Nodes that come and go in a round, each way
    #[arg(long, default_value_t = 500)]
    nodes: usize,
}

pub async fn run(options: &Options) -> Result<()> {
    let at_once = ["--registration-ttl", "1s", "--envelope-ttl", "1s"];
    let peer = Peer::start(&[&ONE_NETWORK[..], &at_once].concat())?;
    let begun = Instant::now();
    println!("| round | seconds | over UDP, MB resident | over TCP |");
    println!("|---|---|---|---|");
    for round in 1..=options.rounds {
        each(options.nodes, || async {
            park(peer.listen, peer.key, true).await?;
            Ok(())
        })
        .await?;
        let udp = peer.resident()? as f64 / 1e6;
        each(options.nodes, || tunnel(&peer)).await?;
        let tcp = peer.resident()? as f64 / 1e6;
        println!("| {round} | {:.0} | {udp:.2} | {tcp:.2} |", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn each<F: Future<Output = Result<()>>>(n: usize, come: impl Fn() -> F) -> Result<()> {
    stream::iter(0..n).map(|_| come()).buffer_unordered(AT_ONCE).try_collect().await
}

/// Comes through a tunnel over TCP, and goes.
async fn tunnel(peer: &Peer) -> Result<()> {
    let at = peer.websocket.context("the peer has no TCP port")?;
    let trust = PeerTrust::Pinned(peer.key);
    let node = Node::new()?;
    let host = at.ip().to_string();
    let tunnel = Box::pin(websocket::connect_by(&node.endpoint, at, &host, trust, None)).await?;
    let registered = node.register(tunnel.addr(), peer.key).await?;
    registered.connection.close(CloseCode::Done);
    node.leave().await;
    Ok(())
}
