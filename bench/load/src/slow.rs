//! Connections that begin and go on slowly or not at all: TCP without a word, TLS byte by byte.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::contacts::Contacts;
use crate::peer::{ONE_NETWORK, Peer};

/// How soon a connection that the peer has ended is made again.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Options {
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Seconds before they come, and seconds with them
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub async fn run(options: &Options) -> Result<()> {
    let mut peer = Peer::start(&ONE_NETWORK)?;
    let contacts = Contacts::meet(&peer).await?;
    let time = Duration::from_secs(options.seconds);
    contacts.talk(Duration::from_secs(1)).await?;
    let mut quiet = contacts.talk(time).await?;
    let resident = peer.resident()?;
    let at = peer.websocket.context("the peer has no TCP port")?;

    let begun = Instant::now();
    let slow: Vec<_> = (0..options.connections)
        .map(|n| {
            tokio::spawn(async move {
                // A new one takes the place of one that the peer has ended.
                loop {
                    let Ok(mut stream) = TcpStream::connect(at).await else {
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    };
                    if n % 2 == 0 {
                        // Nothing comes; it waits for the peer to end it.
                        let _ = stream.readable().await;
                    } else {
                        // The beginning of a ClientHello, a byte a second.
                        for byte in
                            [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain([0; 500])
                        {
                            if stream.write_all(&[byte]).await.is_err() {
                                break;
                            }
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = peer.cpu()?;
    let mut under = contacts.talk(time).await?;
    let cpu = peer.cpu()? - cpu;
    peer.check()?;
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    println!("{} slow connections for {:.0} s", options.connections, begun.elapsed().as_secs_f64());
    quiet.print("before");
    under.print("meanwhile");
    println!(
        "  99 % took {:.2} times as long; the peer took {:.0} % of a core; {:.1} MB resident at most, {:.1} before",
        under.times.percentile(99) / quiet.times.percentile(99),
        cpu / time.as_secs_f64() * 100.0,
        peer.most_resident()? as f64 / 1e6,
        resident as f64 / 1e6
    );
    Ok(())
}
