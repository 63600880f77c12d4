//! Messages in a steady stream, one way, and what became of them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::people::{Person, at, is, now, pause};
use crate::program::Running;

/// Somebody who writes a numbered message every [`INTERVAL`].
#[derive(Debug)]
pub struct Stream {
    /// `halloo send`, which passes the lines on.
    program: Running,
    writer: JoinHandle<()>,
    ends: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    /// In the recipient's lines, where the stream began.
    mark: usize,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Messages written.
    pub sent: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Messages that arrived more than once, or before one that was written earlier.
    pub disorder: u64,
    /// The longest time between one arrival and the next, in seconds, from the trouble on.
    pub silence_s: f64,
}

impl Stream {
    /// Begins to write to somebody.
    ///
    /// # Errors
    /// `halloo send` cannot be started.
    pub fn begin(from: &Person<'_>, to: &Person<'_>) -> Result<Self> {
        let mark = to.listening()?.said().mark();
        let (program, mut input) = from.begin(&["send", to.side().name(), "-", "--lines"])?;
        let (ends, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, counter) = (Arc::clone(&ends), Arc::clone(&count));
        let writer = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let number = counter.load(Ordering::Relaxed);
                if writeln!(input, "{PREFIX}{number}").is_err() {
                    return;
                }
                counter.store(number + 1, Ordering::Relaxed);
                next += INTERVAL;
                pause(next.saturating_duration_since(Instant::now()));
            }
        });
        Ok(Self { program, writer, ends, count, mark })
    }

    /// Ends the stream, waits a while for what is still on its way, and says what became of all.
    /// `since` is when the trouble began, in nanoseconds as events have it.
    ///
    /// # Errors
    /// The recipient is gone.
    pub fn end(self, to: &Person<'_>, since: u64) -> Result<Outcome> {
        self.ends.store(true, Ordering::Relaxed);
        let stopped = now();
        self.writer.join().map_err(|_| anyhow!("the writer of messages panicked"))?;
        // The pipe is closed: the program ends when all is kept by the node.
        self.program.said().wait_for_end(PATIENCE);
        let sent = self.count.load(Ordering::Relaxed);
        let said = to.listening()?.said();
        let last = format!("{PREFIX}{}", sent.saturating_sub(1));
        said.wait_for(self.mark, PATIENCE, |line| is("message")(line) && line["text"] == *last);
        Ok(judge(&said.since(self.mark), sent, since, stopped))
    }
}

fn judge(lines: &[Value], sent: u64, since: u64, stopped: u64) -> Outcome {
    let mut seen = BTreeSet::new();
    let (mut disorder, mut next, mut silence, mut before) = (0, 0, 0, None);
    for line in lines.iter().filter(|line| is("message")(line)) {
        let number = line["text"].as_str().and_then(|text| text.strip_prefix(PREFIX));
        let Some((number, at)) = number.and_then(|n| n.parse::<u64>().ok()).zip(at(line)) else {
            continue;
        };
        if !seen.insert(number) || number < next {
            disorder += 1;
        }
        next = next.max(number + 1);
        if at > since {
            silence = silence.max(at - before.unwrap_or(at));
        }
        before = Some(at);
    }
    // Nothing came any more until the writer gave up.
    silence = silence.max(stopped.saturating_sub(before.unwrap_or(since)));
    let lost = sent.saturating_sub(seen.len() as u64);
    Outcome { sent, lost, disorder, silence_s: silence as f64 / 1e9 }
}

/// From one message to the next.
pub const INTERVAL: Duration = Duration::from_millis(20);
/// How long what was written may take to arrive after the end.
const PATIENCE: Duration = Duration::from_secs(60);
const PREFIX: &str = "tick ";

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn line(number: u64, second: u64) -> Value {
        let text = format!("{PREFIX}{number}");
        serde_json::json!({ "event": "message", "text": text, "mono_ns": second * S })
    }

    #[test]
    fn the_longest_silence_counts_from_the_trouble_on() {
        let lines = [line(0, 1), line(1, 9), line(2, 11), line(3, 14), line(4, 15)];
        let outcome = judge(&lines, 5, 10 * S, 15 * S);
        assert_eq!(outcome, Outcome { sent: 5, lost: 0, disorder: 0, silence_s: 3.0 });
    }

    #[test]
    fn a_silence_that_does_not_end_counts_until_the_writer_stops() {
        let lines = [line(0, 1), line(1, 2)];
        assert_eq!(judge(&lines, 9, 2 * S, 30 * S).silence_s, 28.0);
    }

    #[test]
    fn what_is_lost_repeated_or_early_is_counted() {
        let lines = [line(0, 1), line(2, 2), line(1, 3), line(2, 4)];
        let outcome = judge(&lines, 5, 0, 4 * S);
        assert_eq!((outcome.lost, outcome.disorder), (2, 2));
    }
}
