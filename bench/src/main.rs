//! Figures of one conversation on loopback: two nodes and a peer in one process, real sockets,
//! real stores.
//!
//! `cargo run --release` prints a table. Times depend on the machine and most of all on what one
//! fsync costs there, which is printed first; compare runs of one machine by ratio.
//!
//! `cargo run --release -- sends [FOLDER]` measures how fast a node accepts messages, and
//! `cargo run --release -- idle [NODES]` what idle nodes cost a peer.

mod idle;
mod sends;
mod slow_disk;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::{Cursor, DirectPolicy, EventKind, EventStream, Node, PeerAddress, Via};
use rendezvous_peer::Config;

const ROUNDS: usize = 50;
/// Idle nodes, when nobody says how many.
const NODES: usize = 1_000_000;
const MESSAGES: usize = 5_000;
/// Sends that wait for the store at once: what a busy program does.
const SENDERS: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        None => conversation().await,
        Some("sends") => {
            let folder = words.next().map_or_else(std::env::temp_dir, Into::into);
            sends::measure(tempfile::tempdir_in(folder)?.path()).await
        }
        Some("idle") => idle::measure(words.next().map_or(Ok(NODES), |n| n.parse())?),
        Some("idle-one") => {
            let nodes = words.next().context("how many?")?.parse()?;
            idle::measure_one(nodes, words.next().and_then(|n| n.parse().ok()))
        }
        Some(_) => bail!("usage: halloo-bench [sends [FOLDER] | idle [NODES]]"),
    }
}

async fn conversation() -> Result<()> {
    let folder = tempfile::tempdir()?;
    println!("{:<58}{:>12}", "one fsync of 4 KiB, median", micros(fsync(folder.path())?));

    let mut config = Config::new(folder.path().join("peer"));
    config.listen = "127.0.0.1:0".parse()?;
    let peer = rendezvous_peer::start(config).await?;
    let address = peer.address().clone();

    // Through the peer only: nobody learns an address.
    let a = start(folder.path(), "a", &address, DirectPolicy::Never).await?;
    let b = start(folder.path(), "b", &address, DirectPolicy::Never).await?;
    introduce(&a, &b).await?;
    one_by_one(&a, &b, "first byte to reader, through the peer", Via::Mailbox).await?;
    many(&a, &b, "messages a second, through the peer").await?;
    a.shutdown().await;
    b.shutdown().await;

    let a = start(folder.path(), "c", &address, DirectPolicy::Accepted).await?;
    let b = start(folder.path(), "d", &address, DirectPolicy::Accepted).await?;
    introduce(&a, &b).await?;
    let begun = Instant::now();
    a.connect(&b.fingerprint()).await?;
    println!("{:<58}{:>12}", "knock to direct connection", micros(begun.elapsed()));
    one_by_one(&a, &b, "first byte to reader, directly", Via::Direct).await?;
    many(&a, &b, "messages a second, directly").await?;
    let mut pings = Vec::new();
    for _ in 0..ROUNDS {
        pings.push(a.ping(&b.fingerprint(), Duration::from_secs(5)).await?.rtt);
    }
    println!("{:<58}{:>12}", "ping on the direct connection, median", micros(median(pings)));
    a.shutdown().await;
    b.shutdown().await;
    peer.shutdown().await;
    Ok(())
}

async fn start(
    folder: &Path,
    name: &str,
    peer: &PeerAddress,
    policy: DirectPolicy,
) -> Result<Node> {
    let node = Node::builder()
        .home(folder.join(name))
        .peer_address(peer)
        .listen("127.0.0.1:0".parse()?)
        .direct(policy)
        .accept_all(true)
        .start()
        .await?;
    node.online().await;
    Ok(node)
}

async fn introduce(a: &Node, b: &Node) -> Result<()> {
    let mut events = a.events(Cursor::default());
    a.add_contact(&b.address().await?, None, "").await?;
    until(&mut events, |e| matches!(e, EventKind::Accepted { .. })).await
}

/// One message at a time: from the call of `send` to the event at the other side.
async fn one_by_one(a: &Node, b: &Node, what: &str, wanted: Via) -> Result<()> {
    let mut events = b.events_from_now().await?;
    let mut times = Vec::new();
    for i in 0..ROUNDS {
        let begun = Instant::now();
        a.send(&b.fingerprint(), &format!("message {i}")).await?;
        until(&mut events, |e| matches!(e, EventKind::Message { via, .. } if *via == wanted))
            .await?;
        times.push(begun.elapsed());
    }
    println!("{what:<50}median {:>13}", micros(median(times)));
    Ok(())
}

/// Many at once: from the first call of `send` to the last event at the other side.
async fn many(a: &Node, b: &Node, what: &str) -> Result<()> {
    let mut events = b.events_from_now().await?;
    let begun = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (a, to) = (a.clone(), b.fingerprint());
        senders.spawn(async move {
            for i in (sender..MESSAGES).step_by(SENDERS) {
                a.send(&to, &format!("{i:0100}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    let accepted = begun.elapsed();
    let mut left = MESSAGES;
    while left > 0 {
        until(&mut events, |e| matches!(e, EventKind::Message { .. })).await?;
        left -= 1;
    }
    let arrived = begun.elapsed();
    let rate = |t: Duration| (MESSAGES as f64 / t.as_secs_f64()).round();
    println!("{what:<50}accepted {:>7}  arrived {:>7}", rate(accepted), rate(arrived));
    Ok(())
}

async fn until(events: &mut EventStream, wanted: impl Fn(&EventKind) -> bool) -> Result<()> {
    let found = async {
        loop {
            if wanted(&events.next().await?.kind) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), found).await.context("nothing came in time")?
}

fn fsync(folder: &Path) -> Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{} us", time.as_micros())
}
