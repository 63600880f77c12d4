//! Throughput over a channel: who asks, and who answers.
//!
//! On the channel [`CHANNEL`] the asker writes `version (1) | direction | milliseconds (u32)`, big
//! endian. Up: it then writes filler for that long and finishes; the other side counts and answers
//! with the number of bytes (u64). Down: the other side writes filler for that long and finishes.

use std::time::{Duration, Instant};

use halloo::{Channel, Fingerprint, Node};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::control::protocol::Direction;
use crate::fact::{Fact, Line, Throughput};
use crate::failure::Failure;

/// The name of the channel.
pub(crate) const CHANNEL: &str = "halloo.perf/1";
/// Measurements that one node answers at a time: more would measure each other.
pub(crate) const MAX_AT_ONCE: usize = 4;
/// Longest measurement, so that a contact cannot keep a node busy for ever.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(60);

const VERSION: u8 = 1;
const UP: u8 = 0;
const DOWN: u8 = 1;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(500);
/// How long a new connection gets to become direct before it is measured: a little more than the
/// 1.3 s in which the probes leave.
const BECOME_DIRECT: Duration = Duration::from_secs(2);
/// What a measurement may take beyond its duration: opening, the last bytes, the answer.
const GRACE: Duration = Duration::from_secs(15);
const FILLER: &[u8] = &[0x5a; 64 * 1024];

/// Measures to or from a contact.
///
/// # Errors
/// When there is no connection, or it breaks.
pub(crate) async fn measure(
    node: &Node,
    to: &Fingerprint,
    contact: String,
    direction: Direction,
    duration_ms: u32,
    emit: mpsc::Sender<Line>,
) -> Result<Throughput, Failure> {
    let duration = Duration::from_millis(u64::from(duration_ms)).min(MAX_DURATION);
    let mut channel = node.open_channel(to, CHANNEL).await?;
    // What stays relayed is measured so.
    let _ = tokio::time::timeout(BECOME_DIRECT, node.wait_direct(to)).await;
    let mut meter = Meter::new(contact, direction, node.path(to).via().to_string(), emit);
    let work = async {
        let mut hello = vec![VERSION, if direction == Direction::Up { UP } else { DOWN }];
        hello.extend((duration.as_millis() as u32).to_be_bytes());
        channel.send.write_all(&hello).await.map_err(broken)?;
        match direction {
            Direction::Up => {
                let sent = fill(&mut channel, duration, &mut meter).await?;
                let counted = channel.recv.read_u64().await.map_err(broken)?;
                if counted != sent {
                    let why = format!("{sent} bytes were sent and {counted} arrived");
                    return Err(Failure::new("perf-broken", why));
                }
            }
            Direction::Down => {
                channel.send.finish().map_err(broken)?;
                drain(&mut channel, &mut meter).await?;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(duration + GRACE, work).await {
        Ok(result) => result.map(|()| meter.result()),
        Err(_) => Err(Failure::new("timeout", "the measurement did not end in time")),
    }
}

/// Answers a measurement. Whatever the other side does, it ends.
pub(crate) async fn answer(mut channel: Channel) -> Result<(), Failure> {
    let hello = async {
        let mut hello = [0; 6];
        channel.recv.read_exact(&mut hello).await.map_err(broken)?;
        Ok::<_, Failure>(hello)
    };
    let [version, direction, a, b, c, d] = match tokio::time::timeout(GRACE, hello).await {
        Ok(hello) => hello?,
        Err(_) => return Err(Failure::new("timeout", "no measurement came")),
    };
    let duration = Duration::from_millis(u64::from(u32::from_be_bytes([a, b, c, d])));
    let duration = duration.min(MAX_DURATION);
    let work = async {
        let mut meter = Meter::silent();
        match (version, direction) {
            (VERSION, UP) => {
                drain(&mut channel, &mut meter).await?;
                channel.send.write_all(&meter.bytes.to_be_bytes()).await.map_err(broken)?;
                channel.send.finish().map_err(broken)?;
            }
            (VERSION, DOWN) => {
                fill(&mut channel, duration, &mut meter).await?;
            }
            _ => return Err(Failure::new("perf-version", "a measurement of another version")),
        }
        // The other side has read everything, or has gone.
        let _ = channel.send.stopped().await;
        Ok(())
    };
    match tokio::time::timeout(duration + GRACE, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new("timeout", "the measurement did not end in time")),
    }
}

/// Writes filler for `duration`, then finishes: how much.
async fn fill(
    channel: &mut Channel,
    duration: Duration,
    meter: &mut Meter,
) -> Result<u64, Failure> {
    while meter.started.elapsed() < duration {
        let written = channel.send.write(FILLER).await.map_err(broken)?;
        meter.count(written);
    }
    channel.send.finish().map_err(broken)?;
    Ok(meter.bytes)
}

/// Reads until the other side finishes.
async fn drain(channel: &mut Channel, meter: &mut Meter) -> Result<(), Failure> {
    let mut buffer = vec![0; FILLER.len()];
    while let Some(read) = channel.recv.read(&mut buffer).await.map_err(broken)? {
        meter.count(read);
    }
    Ok(())
}

/// Counts, and tells what it counted.
struct Meter {
    started: Instant,
    told: Instant,
    bytes: u64,
    contact: String,
    direction: Direction,
    path: String,
    emit: Option<mpsc::Sender<Line>>,
}

impl Meter {
    fn new(contact: String, direction: Direction, path: String, emit: mpsc::Sender<Line>) -> Self {
        let started = Instant::now();
        Self { started, told: started, bytes: 0, contact, direction, path, emit: Some(emit) }
    }

    fn silent() -> Self {
        let started = Instant::now();
        let (contact, path) = (String::new(), String::new());
        Self {
            started,
            told: started,
            bytes: 0,
            contact,
            direction: Direction::Up,
            path,
            emit: None,
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(emit) = &self.emit
            && self.told.elapsed() >= PROGRESS
        {
            self.told = Instant::now();
            // Progress that nobody has read yet makes place for nothing: it is only progress.
            let _ = emit.try_send(Line::of(Fact::Progress(self.result())));
        }
    }

    fn result(&self) -> Throughput {
        let seconds = self.started.elapsed().as_secs_f64();
        Throughput {
            contact: self.contact.clone(),
            direction: self.direction.word().to_owned(),
            seconds: (seconds * 1e3).round() / 1e3,
            bytes: self.bytes,
            mib_per_s: (self.bytes as f64 / (1 << 20) as f64 / seconds.max(1e-6) * 10.0).round()
                / 10.0,
            path: self.path.clone(),
        }
    }
}

fn broken(e: impl std::fmt::Display) -> Failure {
    Failure::new("perf-broken", format!("the channel broke: {e}"))
}
