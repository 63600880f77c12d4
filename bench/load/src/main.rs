//! Loads on a real `rendezvous-peer` in a process of its own, over real sockets on the loopback.
//!
//! Every load is open: what is due is sent when its time has come, whatever became of what was sent
//! before, so that a peer that cannot keep up shows it in loss and in time. The peer's limits per
//! network are off where all the load comes from one machine.

mod answers;
mod bad;
mod churn;
mod contacts;
mod drops;
mod herd;
mod idle;
mod node;
mod parked;
mod peer;
mod slow;
mod strangers;
mod times;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Loads on a rendezvous peer, on the loopback", long_about = None)]
struct Options {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Idle nodes: all register and park, then keep themselves alive
    Idle(idle::Options),
    /// Messages left in mailboxes and fetched from there, at a fixed rate
    Drops(drops::Options),
    /// The peer is killed and started again: all parked nodes come back
    Herd(herd::Options),
    /// Whether the time of an answer tells who is unknown, away, or not consenting
    Answers(answers::Options),
    /// Nodes that come and go: whether anything of them stays
    Churn(churn::Options),
    /// Packets that are none, at a fixed rate, while contacts talk
    Bad(bad::Options),
    /// Connections that begin and go on slowly or not at all, while contacts talk
    Slow(slow::Options),
    /// Contact requests from strangers up to the memory cap, while contacts talk
    Strangers(strangers::Options),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Options::parse().load {
        Load::Idle(options) => idle::run(&options).await,
        Load::Drops(options) => drops::run(&options).await,
        Load::Herd(options) => herd::run(&options).await,
        Load::Answers(options) => answers::run(&options).await,
        Load::Churn(options) => churn::run(&options).await,
        Load::Bad(options) => bad::run(&options).await,
        Load::Slow(options) => slow::run(&options).await,
        Load::Strangers(options) => strangers::run(&options).await,
    }
}
