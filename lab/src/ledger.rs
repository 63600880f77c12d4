//! What was promised and what arrived, as the laboratory saw it: it asks no node.
//!
//! Messages of a stream, from one person to another, are numbered. A message counts as promised
//! when `halloo send` has said that it is kept, and as arrived when the recipient's
//! `halloo listen` has printed it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::people::{Person, at, is};
use crate::plan::Side;
use crate::program::Running;

/// All streams of a lab.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(usize);

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    /// The last durable event that each has printed.
    cursors: BTreeMap<Side, u64>,
    /// Events that were printed again after a crash, under the same cursor: no harm.
    read_again: u64,
    /// How often each was told that a message waits at the recipient's peer, and is delivered.
    told: BTreeMap<Side, Told>,
    promised: u64,
    arrived: u64,
}

/// How often a sender was told what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Told {
    /// That a message waits at the recipient's peer.
    pub at_peer: u64,
    /// That a message is on the recipient's disk.
    pub delivered: u64,
}

#[derive(Debug, Default)]
struct Stream {
    messages: Vec<Message>,
    promised: u64,
    arrived: u64,
    /// Promised and not arrived.
    missing: u64,
    /// Behind the last one that arrived.
    next: usize,
    wrong: Wrong,
}

#[derive(Debug, Default)]
struct Message {
    /// As the sender was told, or as it arrived, whichever came first.
    id: Box<str>,
    promised_ns: Option<u64>,
    arrived_ns: Option<u64>,
}

/// What must not happen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Promised and not arrived.
    pub lost: u64,
    /// Arrived again, as another event.
    pub twice: u64,
    /// Arrived after one that was sent later.
    pub out_of_order: u64,
    /// Arrived, or promised again, under another id.
    pub under_another_id: u64,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, twice, out_of_order, under_another_id } = self;
        write!(f, "lost {lost}, twice {twice}, out of order {out_of_order}")?;
        match under_another_id {
            0 => Ok(()),
            count => write!(f, ", under another id {count}"),
        }
    }
}

/// How long messages took from the promise to the arrival, in seconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Delays {
    /// Half took no longer.
    pub median_s: f64,
    /// Of a hundred, 99 took no longer.
    pub p99_s: f64,
    /// The slowest.
    pub longest_s: f64,
}

impl Ledger {
    /// A new stream.
    pub fn stream(&self) -> StreamId {
        let mut state = self.lock();
        state.streams.push(Stream::default());
        StreamId(state.streams.len() - 1)
    }

    /// The text of a message.
    fn text(stream: StreamId, number: usize, padding: usize) -> String {
        format!("{PREFIX}{} {number} {}", stream.0, "x".repeat(padding))
    }

    /// Notes a line that a listening node printed. Returns false when nobody else needs it.
    pub fn hear(&self, who: Side, line: &Value) -> bool {
        if !is("message")(line) {
            return self.is_told(who, line["event"].as_str().unwrap_or_default());
        }
        let mut words = line["text"].as_str().unwrap_or_default().split(' ');
        let stream = words.next().and_then(|word| word.strip_prefix(PREFIX)?.parse().ok());
        let number = words.next().and_then(|word| word.parse().ok());
        let Some((stream, number)) = stream.zip(number) else { return true };
        let mut state = self.lock();
        let cursor = line["cursor"].as_u64().unwrap_or(0);
        let last = state.cursors.entry(who).or_default();
        let is_old = cursor <= *last;
        *last = cursor.max(*last);
        let id = line["id"].as_str().unwrap_or_default();
        let State { streams, read_again, arrived, .. } = &mut *state;
        // Only what this ledger named is numbered so.
        let Some(stream) = streams.get_mut::<usize>(stream) else { return true };
        match stream.arrive(number, id, at(line).unwrap_or(0)) {
            true => *arrived += 1,
            false if is_old => *read_again += 1,
            false => stream.wrong.twice += 1,
        }
        self.changed.notify_all();
        false
    }

    fn is_told(&self, who: Side, event: &str) -> bool {
        let mut state = self.lock();
        let told = state.told.entry(who).or_default();
        match event {
            "at-peer" => told.at_peer += 1,
            "delivered" => told.delivered += 1,
            _ => return true,
        }
        self.changed.notify_all();
        false
    }

    /// What a sender was told so far.
    pub fn told(&self, who: Side) -> Told {
        self.lock().told.get(&who).copied().unwrap_or_default()
    }

    /// Waits until a sender was told so often that a message waits at the recipient's peer.
    /// Returns whether it was.
    pub fn wait_at_peer(&self, who: Side, count: u64, patience: Duration) -> bool {
        self.wait(patience, |state| state.told.get(&who).is_some_and(|told| told.at_peer >= count))
    }

    /// Waits until nothing has arrived for so long.
    pub fn wait_quiet(&self, time: Duration) {
        let mut before = self.counts().1;
        while self.wait(time, |state| state.arrived > before) {
            before = self.counts().1;
        }
    }

    fn promise(&self, stream: StreamId, number: usize, line: &Value) {
        let mut state = self.lock();
        let id = line["id"].as_str().unwrap_or_default();
        if state.streams[stream.0].promise(number, id, at(line).unwrap_or(0)) {
            state.promised += 1;
        }
        self.changed.notify_all();
    }

    /// Messages promised and arrived so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.promised, state.arrived)
    }

    /// Waits until so many messages of a stream were promised. Returns whether they were.
    pub fn wait_promised(&self, stream: StreamId, count: u64, patience: Duration) -> bool {
        self.wait(patience, |state| state.streams[stream.0].promised >= count)
    }

    /// Waits until so many messages of all were promised. Returns whether they were.
    pub fn wait_all_promised(&self, count: u64, patience: Duration) -> bool {
        self.wait(patience, |state| state.promised >= count)
    }

    /// Waits until so many messages of a stream have arrived. Returns whether they have.
    pub fn wait_arrived(&self, stream: StreamId, count: u64, patience: Duration) -> bool {
        self.wait(patience, |state| state.streams[stream.0].arrived >= count)
    }

    /// Waits until everything that was promised in these streams has arrived. Returns whether it
    /// has.
    pub fn wait_settled(&self, streams: &[StreamId], patience: Duration) -> bool {
        self.wait(patience, |state| {
            streams.iter().all(|stream| state.streams[stream.0].missing == 0)
        })
    }

    /// Messages of a stream that were promised and have not arrived.
    pub fn missing(&self, stream: StreamId) -> u64 {
        self.lock().streams[stream.0].missing
    }

    /// Messages of a stream that have arrived.
    pub fn arrived(&self, stream: StreamId) -> u64 {
        self.lock().streams[stream.0].arrived
    }

    /// Everything that went wrong until now; what is still on its way counts as lost.
    pub fn wrong(&self) -> Wrong {
        let mut all = Wrong::default();
        for stream in &self.lock().streams {
            all.lost += stream.missing;
            all.twice += stream.wrong.twice;
            all.out_of_order += stream.wrong.out_of_order;
            all.under_another_id += stream.wrong.under_another_id;
        }
        all
    }

    /// Events that were printed again after a crash, under the same cursor.
    pub fn read_again(&self) -> u64 {
        self.lock().read_again
    }

    /// How long messages took.
    pub fn delays(&self) -> Delays {
        let state = self.lock();
        let messages = state.streams.iter().flat_map(|stream| &stream.messages);
        let took = messages.filter_map(|m| Some(m.arrived_ns?.saturating_sub(m.promised_ns?)));
        let mut took: Vec<u64> = took.collect();
        took.sort_unstable();
        let seconds = |share: f64| {
            let last = took.len().checked_sub(1)?;
            took.get((last as f64 * share) as usize).map(|ns| *ns as f64 / 1e9)
        };
        let of = |share| seconds(share).unwrap_or(0.0);
        Delays { median_s: of(0.5), p99_s: of(0.99), longest_s: of(1.0) }
    }

    fn wait(&self, patience: Duration, test: impl Fn(&State) -> bool) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, patience, |state| !test(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn message(&mut self, number: usize, id: &str) -> &mut Message {
        if number >= self.messages.len() {
            self.messages.resize_with(number + 1, Message::default);
        }
        let message = &mut self.messages[number];
        if message.id.is_empty() {
            message.id = id.into();
        } else if *message.id != *id {
            self.wrong.under_another_id += 1;
        }
        message
    }

    /// Returns false when it was promised before.
    fn promise(&mut self, number: usize, id: &str, ns: u64) -> bool {
        let message = self.message(number, id);
        let is_new = message.promised_ns.replace(ns).is_none();
        let is_missing = is_new && message.arrived_ns.is_none();
        self.promised += u64::from(is_new);
        self.missing += u64::from(is_missing);
        is_new
    }

    /// Returns false when it has arrived before.
    fn arrive(&mut self, number: usize, id: &str, ns: u64) -> bool {
        let message = self.message(number, id);
        if message.arrived_ns.is_some() {
            return false;
        }
        message.arrived_ns = Some(ns);
        let was_missing = message.promised_ns.is_some();
        self.arrived += 1;
        self.missing -= u64::from(was_missing);
        self.wrong.out_of_order += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
        true
    }
}

/// `halloo send NAME - --lines --key K`: repeated after a crash, it sends what is missing.
#[derive(Debug)]
pub struct Batch<'a> {
    ledger: &'a Arc<Ledger>,
    stream: StreamId,
    to: Side,
    numbers: Range<usize>,
    /// Bytes behind the number.
    padding: usize,
    running: Option<Running>,
}

impl<'a> Batch<'a> {
    /// Messages of a stream, not sent yet.
    pub fn new(ledger: &'a Arc<Ledger>, stream: StreamId, to: Side, numbers: Range<usize>) -> Self {
        Self { ledger, stream, to, numbers, padding: 0, running: None }
    }

    /// The same, with longer texts.
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Begins to send them, or what is left of them after a crash.
    ///
    /// # Errors
    /// `halloo send` cannot be started.
    pub fn begin(&mut self, from: &Person<'_>, more: &[&str]) -> Result<()> {
        let (ledger, stream) = (Arc::clone(self.ledger), self.stream);
        let mut number = self.numbers.start;
        let key = format!("{}-{}", stream.0, self.numbers.start);
        let arguments = [&["send", self.to.name(), "-", "--lines", "--key", &key], more].concat();
        let (running, mut input) = from.begin_heard(&arguments, move |line| {
            if is("sent")(line) {
                ledger.promise(stream, number, line);
                number += 1;
            }
            false
        })?;
        self.running = Some(running);
        let lines: String = self
            .numbers
            .clone()
            .map(|number| Ledger::text(stream, number, self.padding) + "\n")
            .collect();
        // Who stops reading has a reason, and ends with it.
        let _ = input.write_all(lines.as_bytes());
        Ok(())
    }

    /// Whether every message was promised.
    pub fn is_promised(&self) -> bool {
        let state = self.ledger.lock();
        let messages = state.streams[self.stream.0].messages.get(self.numbers.clone());
        messages.is_some_and(|all| all.iter().all(|message| message.promised_ns.is_some()))
    }

    /// Waits for the end of the program: its exit code.
    ///
    /// # Errors
    /// It does not end in `SEND`.
    pub fn ended(&mut self) -> Result<i32> {
        let Some(running) = &mut self.running else { return Ok(0) };
        match running.ended(SEND)? {
            Some(code) => Ok(code),
            None => bail!("halloo send runs for more than {SEND:?}"),
        }
    }

    /// Waits until every message was promised; repeats the command as often as that takes.
    ///
    /// # Errors
    /// It takes more than `REPETITIONS`.
    pub fn finish(&mut self, from: &Person<'_>) -> Result<()> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let mut code = self.ended()?;
        for _ in 0..REPETITIONS {
            if self.is_promised() {
                return Ok(());
            }
            self.begin(from, &[])?;
            code = self.ended()?;
        }
        ensure!(self.is_promised(), "halloo send ends with {code}: {}", from.errors());
        Ok(())
    }
}

/// Waits until everything that was promised has arrived, and returns after how long.
///
/// # Errors
/// Something is missing after `patience`.
pub fn settle(ledger: &Ledger, streams: &[StreamId], patience: Duration) -> Result<Duration> {
    let begun = Instant::now();
    if !ledger.wait_settled(streams, patience) {
        let missing: Vec<u64> = streams.iter().map(|stream| ledger.missing(*stream)).collect();
        bail!("after {patience:?} messages are still missing, of each stream: {missing:?}");
    }
    Ok(begun.elapsed())
}

/// Before the number of a stream.
const PREFIX: &str = "s";
/// How long `halloo send` may take to have messages kept.
const SEND: Duration = Duration::from_secs(300);
/// How often `halloo send` is repeated for the same messages.
const REPETITIONS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn arrives(ledger: &Ledger, number: usize, cursor: u64, id: &str) {
        let text = Ledger::text(StreamId(0), number, 0);
        let line = serde_json::json!({
            "event": "message", "text": text, "id": id, "cursor": cursor, "mono_ns": 3_000_000_000u64
        });
        assert!(!ledger.hear(Side::B, &line));
    }

    fn promised(count: usize) -> (Ledger, StreamId) {
        let ledger = Ledger::default();
        let stream = ledger.stream();
        for number in 0..count {
            let line =
                serde_json::json!({ "id": format!("id{number}"), "mono_ns": 1_000_000_000u64 });
            ledger.promise(stream, number, &line);
        }
        (ledger, stream)
    }

    #[test]
    fn what_arrives_once_and_in_order_is_right() {
        let (ledger, stream) = promised(3);
        assert_eq!(ledger.wrong().lost, 3);
        for number in 0..3 {
            arrives(&ledger, number, number as u64 + 1, &format!("id{number}"));
        }
        assert_eq!((ledger.wrong(), ledger.missing(stream)), (Wrong::default(), 0));
        assert_eq!(ledger.delays().median_s, 2.0);
    }

    #[test]
    fn an_event_that_is_printed_again_is_no_second_message() {
        let (ledger, _) = promised(1);
        arrives(&ledger, 0, 1, "id0");
        arrives(&ledger, 0, 1, "id0");
        assert_eq!((ledger.wrong(), ledger.read_again()), (Wrong::default(), 1));
        arrives(&ledger, 0, 2, "id0");
        assert_eq!(ledger.wrong().twice, 1);
    }

    #[test]
    fn disorder_loss_and_another_id_are_counted() {
        let (ledger, _) = promised(4);
        arrives(&ledger, 2, 1, "id2");
        arrives(&ledger, 0, 2, "other");
        arrives(&ledger, 1, 3, "id1");
        let wrong = Wrong { lost: 1, twice: 0, out_of_order: 2, under_another_id: 1 };
        assert_eq!(ledger.wrong(), wrong);
    }

    #[test]
    fn what_arrives_before_it_was_promised_is_not_missing_and_hides_nothing() {
        let (ledger, stream) = promised(1);
        arrives(&ledger, 1, 1, "id1");
        assert_eq!(ledger.missing(stream), 1);
    }
}
