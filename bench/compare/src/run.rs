//! One transfer between two processes.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much is sent. It ends with whichever comes first.
#[derive(Clone, Copy)]
pub struct Amount {
    pub mib: u64,
    pub time: Duration,
}

/// What a transfer came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// MiB a second.
    pub rate: f64,
    /// The same, in the second half of the time.
    pub later: f64,
    /// CPU seconds for each GiB.
    pub send_cpu: f64,
    pub receive_cpu: f64,
}

/// Where the two sides run.
pub trait Places {
    fn sender(&self) -> IpAddr;
    fn receiver(&self) -> IpAddr;
    fn spawn(&self, receives: bool, command: &mut Command) -> Result<Child>;
}

/// Both on this machine.
pub struct Here;

impl Places for Here {
    fn sender(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn receiver(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn spawn(&self, _receives: bool, command: &mut Command) -> Result<Child> {
        Ok(command.spawn()?)
    }
}

/// Runs one transfer.
pub fn run(stack: &str, amount: Amount, places: &dyn Places) -> Result<Outcome> {
    let patience = amount.time * 2 + Duration::from_secs(20);
    let listen = format!("{}:0", places.receiver());
    let mut receiver = Side::start(stack, &["receive", &listen], places, true, patience)?;
    let ready = receiver.heard("ready")?;
    let from = format!("{}:0", places.sender());
    let (mib, seconds) = (amount.mib.to_string(), amount.time.as_secs().to_string());
    let task = ["send", &from, &mib, &seconds];
    let mut sender = Side::start(stack, &task, places, false, patience)?;
    let from = sender.heard("from")?;
    receiver.tell(&format!("from {}", from.join(" ")))?;
    sender.tell(&format!("go {}", ready.join(" ")))?;
    let sent = numbers(&sender.heard("sent")?)?;
    let received = numbers(&receiver.heard("received")?)?;
    let ([_, _, send_cpu], [bytes, seconds, receive_cpu, later]) = (&sent[..], &received[..])
    else {
        bail!("a side counts differently");
    };
    const MIB: f64 = 1024.0 * 1024.0;
    let gib = bytes / (1024.0 * MIB);
    Ok(Outcome {
        rate: bytes / MIB / seconds,
        later: later / MIB,
        send_cpu: send_cpu / gib,
        receive_cpu: receive_cpu / gib,
    })
}

fn numbers(words: &[String]) -> Result<Vec<f64>> {
    words.iter().map(|it| it.parse().context("no number")).collect()
}

/// A side's process. It ends with this value.
pub struct Side {
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
    until: Instant,
}

impl Side {
    fn start(
        stack: &str,
        task: &[&str],
        places: &dyn Places,
        receives: bool,
        patience: Duration,
    ) -> Result<Self> {
        let program = if stack.starts_with("iroh") { "side-iroh" } else { "side" };
        let mut command = Command::new(beside_me(program)?);
        command.arg(stack).args(task).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = places.spawn(receives, &mut command).context("cannot start a side")?;
        let (to, out) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(out)) = (to, out) else { bail!("a side has no pipes") };
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, to, lines, until: Instant::now() + patience })
    }

    fn heard(&mut self, first: &str) -> Result<Vec<String>> {
        let left = self.until.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left).with_context(|| format!("never {first}"))?;
        let mut words = line.split_whitespace().map(str::to_owned);
        if words.next().as_deref() != Some(first) {
            bail!("{line:?} where {first:?} was expected");
        }
        Ok(words.collect())
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.to, "{line}").context("a side has ended")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn beside_me(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    if !path.exists() {
        bail!("{} is not built: see bench/README.md", path.display());
    }
    Ok(path)
}
