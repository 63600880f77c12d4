//! Messages through mailboxes at a fixed rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, Push, Response};
use tokio::task::JoinSet;

use crate::node::{Node, Registered, drop_for, leave};
use crate::peer::{ONE_NETWORK, Peer};
use crate::times::Times;

/// Acknowledgements that a recipient puts into one request at most.
const ACKS: usize = 64;
/// What is not answered by then is lost.
const LATE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Options {
    /// Messages a second, one row each
    #[arg(long, value_delimiter = ',', default_values_t = [2_500, 5_000, 10_000, 20_000])]
    rates: Vec<u64>,
    /// Seconds of a row
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections of senders
    #[arg(long, default_value_t = 16)]
    senders: usize,
    /// Recipients
    #[arg(long, default_value_t = 256)]
    recipients: usize,
    /// Recipients are away: messages wait until the row has ended
    #[arg(long)]
    away: bool,
}

pub async fn run(options: &Options) -> Result<()> {
    println!(
        "| offered a second | taken | refused or lost | p50 | p99 | fetched | peer's processor |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &rate in &options.rates {
        row(options, rate).await?;
    }
    Ok(())
}

async fn row(options: &Options, rate: u64) -> Result<()> {
    let mut peer = Peer::start(&[&ONE_NETWORK[..], &["--max-memory", "4GiB"]].concat())?;
    let (listen, key) = (peer.listen, peer.key);
    let nodes = (0..options.recipients).map(|_| Node::new()).collect::<Result<Vec<_>>>()?;
    let registered: Vec<Registered> =
        try_join_all(nodes.iter().map(|it| it.register(listen, key))).await?;
    let registered: Vec<_> = registered.into_iter().map(Arc::new).collect();
    let fetched = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    if options.away {
        registered.iter().for_each(|it| it.connection.close(halloo_transport::CloseCode::Done));
    } else {
        for it in &registered {
            readers.spawn(read(Arc::clone(it), Arc::clone(&fetched)));
        }
    }
    let senders = (0..options.senders).map(|_| Node::new()).collect::<Result<Vec<_>>>()?;
    let connections = try_join_all(senders.iter().map(|it| it.connect(listen, key))).await?;

    let end = Duration::from_secs(options.seconds);
    let cpu = peer.cpu()?;
    let (mut sent, begun) = (0, Instant::now());
    let mut answers = JoinSet::new();
    while begun.elapsed() < end {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            let to = nodes[sent as usize % nodes.len()].fingerprint;
            let connection = connections[sent as usize % connections.len()].clone();
            let at = begun + Duration::from_secs_f64(sent as f64 / rate as f64);
            answers.spawn(async move {
                let answer = leave(&connection, drop_for(to, Lane::Contacts)).await;
                matches!(answer, Ok(Response::Dropped(_))).then(|| at.elapsed())
            });
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut times = Times::default();
    let all = async {
        while let Some(answer) = answers.join_next().await {
            times.extend(answer?);
        }
        anyhow::Ok(())
    };
    if let Ok(ended) = tokio::time::timeout(LATE, all).await {
        ended?;
    }
    let cpu = peer.cpu()? - cpu;
    let seconds = begun.elapsed().as_secs_f64();
    peer.check()?;
    if options.away {
        for node in &nodes {
            fetch(&node.register(listen, key).await?, &fetched).await?;
        }
    } else {
        let taken = times.count() as u64;
        let begun = Instant::now();
        while fetched.load(Ordering::Relaxed) < taken && begun.elapsed() < LATE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    readers.abort_all();
    println!(
        "| {rate} | {:.0} | {:.2} % | {:.2} ms | {:.2} ms | {} of {} | {:.0} % |",
        times.count() as f64 / options.seconds as f64,
        (1.0 - times.count() as f64 / sent as f64) * 100.0,
        times.percentile(50),
        times.percentile(99),
        fetched.load(Ordering::Relaxed),
        times.count(),
        cpu / seconds * 100.0,
    );
    Ok(())
}

/// Takes what is pushed, and acknowledges it in batches.
async fn read(it: Arc<Registered>, fetched: Arc<AtomicU64>) {
    let (read, mut queue) = tokio::sync::mpsc::unbounded_channel();
    let acks = async {
        let mut ids = Vec::with_capacity(ACKS);
        while queue.recv_many(&mut ids, ACKS).await > 0 {
            if it.ask(Call::Ack(std::mem::take(&mut ids))).await.is_err() {
                return;
            }
        }
    };
    let pushes = async {
        while let Ok(push) = it.connection.next_push().await {
            if let Push::Envelope(waiting) = push {
                fetched.fetch_add(1, Ordering::Relaxed);
                let _ = read.send(waiting.id);
            }
        }
    };
    tokio::join!(acks, pushes);
}

/// Fetches everything that waits.
async fn fetch(it: &Registered, fetched: &AtomicU64) -> Result<()> {
    loop {
        let Response::Page(page) = it.ask(Call::Peek { after: None }).await? else {
            bail!("no page");
        };
        if page.envelopes.is_empty() {
            return Ok(());
        }
        fetched.fetch_add(page.envelopes.len() as u64, Ordering::Relaxed);
        for ids in page.envelopes.chunks(ACKS) {
            it.ask(Call::Ack(ids.iter().map(|it| it.id).collect())).await?;
        }
    }
}
