//! How many messages a second a node accepts: `send` returns when the message is on the disk.
//!
//! The recipient is a contact who is away, and so is the peer, so that nothing else takes the
//! processors' time: `cargo run --release` has the whole way. The first rows are on this machine's
//! disk, the others on one of which each sync takes a millisecond at least.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::StreamExt;
use halloo::{DirectPolicy, Node};
use rendezvous_peer::Config;

use crate::slow_disk::{self, SlowDisk};
use crate::{introduce, median, micros, start};

const MESSAGES: usize = 10_000;
const SYNCS: usize = 300;
const SLOW: Duration = Duration::from_millis(1);

/// Who sends.
#[derive(Clone, Copy)]
enum Who {
    /// So many tasks, each of which waits for its answer before it sends again.
    Senders(usize),
    /// One task that has so many calls open at once.
    Pipeline(usize),
}

/// Prints the table. `folder` decides which disk is measured.
pub async fn measure(folder: &Path) -> Result<()> {
    let fast = Duration::ZERO;
    println!("{:<46}{:>10}", "one fdatasync behind 4 KiB, median", micros(sync(folder, fast)?));
    node(&folder.join("fast")).await?;
    SlowDisk::install(SLOW)?;
    println!("\n{:<46}{:>10}", "the same, made slow", micros(sync(folder, SLOW)?));
    node(&folder.join("slow")).await
}

async fn node(folder: &Path) -> Result<()> {
    let mut config = Config::new(folder.join("peer"));
    config.listen = "127.0.0.1:0".parse()?;
    let peer = rendezvous_peer::start(config).await?;
    let address = peer.address().clone();
    let a = start(folder, "a", &address, DirectPolicy::Never).await?;
    let b = start(folder, "b", &address, DirectPolicy::Never).await?;
    introduce(&a, &b).await?;
    b.shutdown().await;
    peer.shutdown().await;
    println!("{:<30}{:>10}{:>16}{:>16}", "messages of 100 bytes", "sends/s", "median", "CPU each");
    for who in [
        Who::Senders(1),
        Who::Senders(16),
        Who::Senders(64),
        Who::Senders(128),
        Who::Senders(256),
        Who::Pipeline(256),
    ] {
        let few = matches!(who, Who::Senders(1));
        row(&a, &b, who, if few { MESSAGES / 10 } else { MESSAGES }).await?;
    }
    a.shutdown().await;
    Ok(())
}

async fn row(a: &Node, b: &Node, who: Who, messages: usize) -> Result<()> {
    let to = b.fingerprint();
    let send = move |a: Node, i: usize| async move {
        let begun = Instant::now();
        a.send(&to, &format!("{i:0100}")).await?;
        anyhow::Ok(begun.elapsed())
    };
    let (begun, cpu) = (Instant::now(), cpu()?);
    let mut times = Vec::with_capacity(messages);
    let name = match who {
        Who::Senders(senders) => {
            let mut tasks = tokio::task::JoinSet::new();
            for sender in 0..senders {
                let a = a.clone();
                tasks.spawn(async move {
                    let mut times = Vec::new();
                    for i in (sender..messages).step_by(senders) {
                        times.push(send(a.clone(), i).await?);
                    }
                    anyhow::Ok(times)
                });
            }
            while let Some(done) = tasks.join_next().await {
                times.extend(done??);
            }
            format!("{senders} senders")
        }
        Who::Pipeline(depth) => {
            let sends = (0..messages).map(|i| send(a.clone(), i));
            let mut done = futures_util::stream::iter(sends).buffered(depth);
            while let Some(time) = done.next().await {
                times.push(time?);
            }
            format!("1 sender, {depth} calls open")
        }
    };
    let (took, cpu) = (begun.elapsed(), self::cpu()? - cpu);
    let rate = messages as f64 / took.as_secs_f64();
    let each = cpu / messages as u32;
    println!("{name:<30}{rate:>10.0}{:>16}{:>16}", micros(median(times)), micros(each));
    Ok(())
}

/// What one sync of a small append costs here.
fn sync(folder: &Path, takes: Duration) -> Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("fdatasync"))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        file.write_all(&[7; 4096])?;
        let begun = Instant::now();
        slow_disk::sync(&file, takes)?;
        times.push(begun.elapsed());
    }
    Ok(median(times))
}

/// Processor time of all threads of this process, in the kernel's ticks of 10 ms.
fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}
