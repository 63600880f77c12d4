//! How many messages of 1 KiB a rendezvous peer forwards in a second, one by one, and how long each
//! takes. The peer has one core for itself, whoever sends and receives another.
//!
//! The load is open: messages are sent when their time has come, whatever became of those before,
//! so that a peer that cannot keep up shows it in loss and in time.

mod channels;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use halloo_bench_measure::cpu_of;
use halloo_identity::PeerAddress;
use halloo_wire::datagram::RelayFrame;
use rustix::thread::{CpuSet, sched_setaffinity};

use channels::{Channel, Channels};

/// Messages a second, one row each.
const RATES: [u64; 6] = [30_000, 60_000, 90_000, 120_000, 150_000, 180_000];
const SECONDS: u64 = 5;
const CHANNELS: u8 = 4;
const MESSAGE: usize = 1024;
/// Where in a message the time stands at which it was sent.
const TIME: std::ops::Range<usize> = 16..24;
/// Messages that are sent before what has come is looked at.
const BURST: u64 = 16;
/// What comes later than this after the last message does not come.
const LATE: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let rates = match std::env::args().nth(1) {
        None => RATES.to_vec(),
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
    };
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "the peer wants a core for itself, and so does who measures");
    let folder = tempfile::tempdir()?;
    pin(0)?;
    let mut peer = Peer::start(folder.path())?;
    pin(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let channels = runtime.block_on(Channels::lease(&peer.address, peer.listen, CHANNELS))?;
    println!("| offered a second | forwarded | lost | p50 | p99 | peer's core |");
    println!("|---|---|---|---|---|---|");
    for rate in rates {
        let before = cpu_of(peer.child.id())?;
        let mut it = load(&channels.list, rate)?;
        let cpu = cpu_of(peer.child.id())? - before;
        it.times.sort_unstable();
        let forwarded = it.times.len() as u64;
        println!(
            "| {rate} | {} | {:.2} % | {:.2} ms | {:.2} ms | {:.0} % |",
            forwarded / SECONDS,
            100.0 * (1.0 - forwarded as f64 / it.sent as f64),
            it.percentile(50),
            it.percentile(99),
            100.0 * cpu / SECONDS as f64,
        );
    }
    // Nothing is lost by that: its key is in a folder that goes as well.
    peer.child.kill()?;
    Ok(())
}

/// What became of the messages of one row.
struct Load {
    sent: u64,
    /// How long each took, in nanoseconds.
    times: Vec<u64>,
}

impl Load {
    fn percentile(&self, percent: usize) -> f64 {
        let place = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
        self.times.get(place).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }
}

fn load(channels: &[Channel], rate: u64) -> Result<Load> {
    let mut frames: Vec<Vec<u8>> = channels
        .iter()
        .map(|it| {
            let quic = [0x40; MESSAGE];
            RelayFrame { channel: it.number, datagram: &quic }.encode()
        })
        .collect();
    let end = Duration::from_secs(SECONDS);
    let mut it = Load { sent: 0, times: Vec::with_capacity((rate * SECONDS) as usize) };
    let begin = Instant::now();
    loop {
        let now = begin.elapsed();
        if now >= end + LATE {
            return Ok(it);
        }
        let due = (now.min(end).as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        for _ in 0..BURST.min(due - it.sent.min(due)) {
            let n = it.sent as usize % channels.len();
            frames[n][TIME].copy_from_slice(&(begin.elapsed().as_nanos() as u64).to_be_bytes());
            it.sent += 1;
            match channels[n].caller.send(&frames[n]) {
                Ok(_) => {}
                // Lost here is lost.
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
        for channel in channels {
            receive(channel, begin, &mut it.times)?;
        }
    }
}

fn receive(channel: &Channel, begin: Instant, times: &mut Vec<u64>) -> Result<()> {
    let mut frame = [0; 2048];
    loop {
        match channel.callee.recv(&mut frame) {
            Ok(_) => {
                let sent = u64::from_be_bytes(frame[TIME].try_into()?);
                // What is left of the row before carries a later time.
                if let Some(took) = (begin.elapsed().as_nanos() as u64).checked_sub(sent) {
                    times.push(took);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The peer, in a process of its own.
struct Peer {
    child: Child,
    listen: SocketAddr,
    address: PeerAddress,
}

impl Peer {
    fn start(folder: &std::path::Path) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("rendezvous-peer");
        ensure!(program.exists(), "rendezvous-peer is not built: see bench/README.md");
        let mut child = Command::new(program)
            .args(["run", "--json", "--listen", "127.0.0.1:0", "--websocket", "off"])
            // It keeps account and never refuses.
            .args(["--relay-rate", "30Gbit", "--relay-rate-per-network", "30Gbit", "--data-dir"])
            .arg(folder.join("peer"))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("the peer has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).context("the peer says nothing")?;
        let (Some(address), Some(listen)) = (ready["address"].as_str(), ready["listen"].as_str())
        else {
            bail!("the peer says: {line}");
        };
        Ok(Self { child, listen: listen.parse()?, address: address.parse()? })
    }
}

/// Lets this thread, and what it starts from now on, run on one core only.
fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
