//! What the sides of a measured transfer say and count.
//!
//! A side is a program with one stack in it. It talks to whoever measures in lines:
//!
//! ```text
//!   receiver: ready ADDRESS NAME        where it listens and under which name
//!   sender:   from ADDRESS              its own address
//!   receiver <- from ADDRESS            so that it can let the sender in
//!   receiver: open                      it has
//!   sender <- go ADDRESS NAME           whom to dial
//!   sender:   sent BYTES SECONDS CPU
//!   receiver: received BYTES SECONDS CPU LATER
//! ```
//!
//! CPU is seconds of all threads of the process between the connection and its end. LATER is the
//! rate in the second half of the time, in bytes a second: without the beginning.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Stdin};

/// What a side was told to do.
#[derive(Debug)]
pub enum Task {
    /// Listen there and count.
    Receive(SocketAddr),
    /// Send from there, this much, or this long.
    Send(SocketAddr, Amount),
}

/// How much is sent. It ends with whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    pub bytes: u64,
    pub time: Duration,
}

/// The task in the arguments after the first `skip`:
/// `receive ADDRESS` or `send ADDRESS MIB SECONDS`.
pub fn task(skip: usize) -> Result<Task> {
    let words: Vec<String> = std::env::args().skip(skip + 1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["receive", at] => Ok(Task::Receive(at.parse()?)),
        ["send", at, mib, seconds] => {
            let bytes = mib.parse::<u64>()? << 20;
            Ok(Task::Send(
                at.parse()?,
                Amount { bytes, time: Duration::from_secs(seconds.parse()?) },
            ))
        }
        _ => bail!("receive ADDRESS | send ADDRESS MIB SECONDS"),
    }
}

/// The lines from whoever measures.
pub struct Orders(BufReader<Stdin>);

impl Orders {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(BufReader::new(tokio::io::stdin()))
    }

    /// The words of the next line, which has to begin with `first`.
    pub async fn next(&mut self, first: &str) -> Result<Vec<String>> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let found = words.next().with_context(|| format!("no {first:?}"))?;
        if found != first {
            bail!("{found:?} where {first:?} was expected");
        }
        Ok(words.collect())
    }
}

/// The sender's clock: says how much more to write, and reports.
pub struct Sent {
    amount: Amount,
    begun: Instant,
    cpu: f64,
    bytes: u64,
}

impl Sent {
    pub fn begin(amount: Amount) -> Self {
        Self { amount, begun: Instant::now(), cpu: cpu(), bytes: 0 }
    }

    /// The next piece; `None` when it is over.
    pub fn next<'a>(&mut self, payload: &'a [u8]) -> Option<&'a [u8]> {
        let left = self.amount.bytes - self.bytes;
        if left == 0 || self.begun.elapsed() >= self.amount.time {
            return None;
        }
        let piece = &payload[..payload.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.bytes += piece.len() as u64;
        Some(piece)
    }

    /// Whether the time was over before everything was written. What is still unsent is then to
    /// be thrown away, or it would be measured without a clock.
    pub fn is_cut(&self) -> bool {
        self.bytes < self.amount.bytes
    }

    pub fn report(&self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("sent {} {seconds:.4} {:.3}", self.bytes, cpu() - self.cpu);
    }
}

/// The receiver's count.
pub struct Received {
    begun: Instant,
    cpu: f64,
    bytes: u64,
    /// When how much had come, at most every 50 ms.
    log: Vec<(Instant, u64)>,
}

impl Received {
    pub fn begin() -> Self {
        Self { begun: Instant::now(), cpu: cpu(), bytes: 0, log: Vec::new() }
    }

    pub fn add(&mut self, bytes: usize) {
        let now = Instant::now();
        self.bytes += bytes as u64;
        if self.log.last().is_none_or(|(at, _)| now - *at >= Duration::from_millis(50)) {
            self.log.push((now, self.bytes));
        }
    }

    pub fn report(&self) {
        let end = Instant::now();
        let all = (end - self.begun).as_secs_f64();
        let later = self.log.iter().find(|(at, _)| (*at - self.begun).as_secs_f64() >= all / 2.0);
        let later = later.map_or(0.0, |(at, bytes)| {
            (self.bytes - bytes) as f64 / (end - *at).as_secs_f64().max(1e-3)
        });
        println!("received {} {all:.4} {:.3} {later:.0}", self.bytes, cpu() - self.cpu);
    }
}

/// What is sent: 1 MiB.
pub fn payload() -> Vec<u8> {
    (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// CPU seconds of this process so far, in steps of 10 ms.
pub fn cpu() -> f64 {
    cpu_of("self").unwrap_or(0.0)
}

/// CPU seconds of a process so far, in steps of 10 ms.
pub fn cpu_of(process: impl Display) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name in parentheses can hold spaces.
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let mut fields = after.split(' ').skip(11).map_while(|it| it.parse::<f64>().ok());
    Ok((fields.next().unwrap_or(0.0) + fields.next().unwrap_or(0.0)) / 100.0)
}
