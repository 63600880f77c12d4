//! Messages that flow while something is killed: who sends them, who prints them, and what became
//! of them.

use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Person, Process, text};

/// A message that was printed: its id and its text.
type Printed = (String, String);

/// Somebody whose node listens, in one process after the other.
pub(crate) struct Listening<'a> {
    pub(crate) person: &'a Person,
    pub(crate) process: Process,
    /// What the processes before this one printed, and this one, once it was killed.
    before: Vec<Printed>,
    killed: bool,
}

impl<'a> Listening<'a> {
    pub(crate) fn new(person: &'a Person, process: Process) -> Self {
        Self { person, process, before: Vec::new(), killed: false }
    }

    /// `kill -9`, unless it is dead already.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        let printed = self.now();
        self.before.extend(printed);
        self.killed = true;
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = self.person.host(&["listen"]);
        self.killed = false;
    }

    /// Kills it and starts it again as one that dies at a point. It may do so before it is ready.
    pub(crate) fn restart_to_die(&mut self, at: &str) {
        self.kill();
        self.process = self.person.host_to_die(&["listen"], at);
        self.killed = false;
    }

    /// What this process printed, unless that counts as before.
    fn now(&self) -> Vec<Printed> {
        match self.killed {
            true => Vec::new(),
            false => printed_after(self.before.last(), &self.process.lines()).collect(),
        }
    }

    /// The messages of a sender that were printed.
    pub(crate) fn arrived(&self, prefix: &str) -> Vec<Printed> {
        let before = self.before.iter().filter(|printed| is_of(printed, prefix)).cloned();
        before.chain(self.now().into_iter().filter(|printed| is_of(printed, prefix))).collect()
    }

    /// How many of all messages that were printed had been printed before.
    pub(crate) fn repeated(&self) -> usize {
        let mut seen = HashSet::new();
        self.before.iter().chain(&self.now()).filter(|(id, _)| !seen.insert(id.as_str())).count()
    }

    /// Waits until so many messages of a sender were printed. Returns false when the process ends
    /// before.
    pub(crate) fn wait_or_end(&self, prefix: &str, n: usize) -> bool {
        let before = self.before.iter().filter(|printed| is_of(printed, prefix)).count();
        let enough = |lines: &[Value]| {
            let printed = printed_after(self.before.last(), lines);
            before + printed.filter(|printed| is_of(printed, prefix)).count() >= n
        };
        self.process.wait_or_end("messages", enough)
    }

    /// Waits until so many messages of a sender were printed.
    pub(crate) fn wait(&self, prefix: &str, n: usize) {
        assert!(self.wait_or_end(prefix, n), "it runs on: {}", self.process.stderr());
    }
}

fn is_of((_, text): &Printed, prefix: &str) -> bool {
    text.rsplit_once(' ').is_some_and(|(before, _)| before == prefix)
}

/// The messages that a process printed. One that was killed after it printed a line and before it
/// noted that it had is followed by one that prints that line again; the id tells, and it is left
/// out here.
fn printed_after<'a>(
    before: Option<&Printed>,
    lines: &'a [Value],
) -> impl Iterator<Item = Printed> + 'a {
    let mut printed = lines
        .iter()
        .filter(|line| line["event"] == "message")
        .map(|line| (text(&line["id"]), text(&line["text"])))
        .peekable();
    printed.next_if(|first| before == Some(first));
    printed
}

/// `halloo send NAME - --lines --key K`: repeated after a crash, it sends what is missing.
pub(crate) struct Sender<'a> {
    person: &'a Person,
    to: &'a str,
    prefix: String,
    count: usize,
    process: Process,
    /// What was told of messages by processes that were killed: their ids, in order.
    told: Vec<Vec<String>>,
}

impl<'a> Sender<'a> {
    pub(crate) fn start(person: &'a Person, to: &'a str, prefix: &str, count: usize) -> Self {
        Self::start_with(person, to, prefix, count, |_| {})
    }

    /// Starts one whose first process is something special.
    pub(crate) fn start_with(
        person: &'a Person,
        to: &'a str,
        prefix: &str,
        count: usize,
        special: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = command(person, to, prefix, count);
        special(&mut command);
        let process = Process::start(command);
        Self { person, to, prefix: prefix.to_owned(), count, process, told: Vec::new() }
    }

    /// Waits for its end: its exit code.
    pub(crate) fn ended(&self) -> i32 {
        self.process.end()
    }

    /// The node that it used has been killed: it sends the rest through the one that runs.
    pub(crate) fn resume_if_it_failed(&mut self) {
        if self.process.end() != 0 {
            self.again(&[]);
        }
    }

    /// Sends the rest and waits until every one is told delivered.
    pub(crate) fn deliver(&mut self) {
        self.process.end();
        self.again(&["--wait", "delivered", "--timeout", "200s"]);
        assert_eq!(self.process.end(), 0, "delivered: {}", self.process.stderr());
    }

    fn again(&mut self, more: &[&str]) {
        let mut command = command(self.person, self.to, &self.prefix, self.count);
        command.args(more);
        self.told.push(ids(&self.process));
        self.process = Process::start(command);
    }

    /// Waits for its end: the ids that it was told, in order. Every process was told the same.
    pub(crate) fn end(&mut self) -> Vec<String> {
        self.resume_if_it_failed();
        assert_eq!(self.process.end(), 0, "{}", self.process.stderr());
        let all = ids(&self.process);
        for told in &self.told {
            assert!(all.starts_with(told), "a repeated message keeps its id");
        }
        all
    }
}

fn command(person: &Person, to: &str, prefix: &str, count: usize) -> Command {
    let all = texts(prefix, count).join("\n");
    let mut command = person.command(&["send", to, &all, "--lines", "--key", prefix, "--json"]);
    command.stdin(Stdio::null());
    command
}

fn texts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix} {n}")).collect()
}

fn ids(process: &Process) -> Vec<String> {
    let lines = process.lines();
    lines.iter().filter(|e| e["event"] == "sent").map(|e| text(&e["id"])).collect()
}

/// What went wrong on the way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    pub(crate) out_of_order: usize,
    pub(crate) under_another_id: usize,
}

impl Wrong {
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.out_of_order += other.out_of_order;
        self.under_another_id += other.under_another_id;
    }
}

/// Compares what was sent, by its ids, with what was printed.
pub(crate) fn compare(sent: &[String], at: &Listening, prefix: &str) -> Wrong {
    let arrived = at.arrived(prefix);
    let expected: HashMap<String, usize> =
        texts(prefix, sent.len()).into_iter().enumerate().map(|(n, text)| (text, n)).collect();
    let mut wrong = Wrong::default();
    let mut seen = HashSet::new();
    let mut next = 0;
    for (id, text) in &arrived {
        let n = expected[text];
        match seen.insert(n) {
            false => wrong.twice += 1,
            true if n < next => wrong.out_of_order += 1,
            true => next = n + 1,
        }
        wrong.under_another_id += usize::from(sent[n] != *id);
    }
    wrong.lost = expected.len() - seen.len();
    wrong
}
