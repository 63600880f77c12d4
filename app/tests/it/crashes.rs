//! Three processes, thousands of messages, and `kill -9` in the middle.

use std::collections::HashMap;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Person, Process, World, text};

/// Messages each way.
const MESSAGES: usize = 1000;
/// Where the peer is killed, and where Ben's node is.
const PEER_DIES_AT: usize = 250;
const BEN_DIES_AT: usize = 600;

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let mut world = World::new();
    let (anna, ben, at_anna, at_ben) = world.friends();
    let mut at_ben = vec![at_ben];

    let mut from_anna = Sender::start(&anna, "ben", "a");
    let mut from_ben = Sender::start(&ben, "anna", "b");

    await_messages(&at_ben, PEER_DIES_AT);
    world.peer.kill();
    world.peer.restart();

    await_messages(&at_ben, BEN_DIES_AT);
    at_ben.last().unwrap().kill();
    at_ben.push(ben.host(&["listen"]));
    from_ben.resume_if_it_failed(&ben);

    let sent_by_anna = from_anna.end(&anna);
    let sent_by_ben = from_ben.end(&ben);
    await_messages(&at_ben, MESSAGES);
    await_messages(std::slice::from_ref(&at_anna), MESSAGES);
    // What was sent last has arrived, so anything that came twice would have come before it.
    for (from, to, at) in [(&anna, "ben", at_ben.last().unwrap()), (&ben, "anna", &at_anna)] {
        from.ok(&["send", to, "the end", "--wait", "delivered", "--timeout", "200s"]);
        at.wait("the end", |e| e["text"] == "the end");
    }

    check(&sent_by_anna, &at_ben, "a");
    check(&sent_by_ben, std::slice::from_ref(&at_anna), "b");
}

/// Every message that was sent arrived once, under its id, in order.
fn check(sent: &HashMap<String, String>, at: &[Process], prefix: &str) {
    let arrived: Vec<(String, String)> = messages(at);
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("{prefix} {n}")).collect();
    let texts: Vec<&String> = arrived.iter().map(|(_, text)| text).collect();
    assert!(
        texts.iter().copied().eq(&expected),
        "in order, none lost, none twice: {}",
        gaps(&texts, &expected)
    );
    assert_eq!(sent.len(), MESSAGES);
    for (id, text) in &arrived {
        assert!(sent.contains_key(id), "{text} has the id that its sender was told");
    }
}

fn gaps(got: &[&String], expected: &[String]) -> String {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for text in got {
        *count.entry(text.as_str()).or_default() += 1;
    }
    let lost: Vec<&String> = expected.iter().filter(|t| !count.contains_key(t.as_str())).collect();
    let twice: Vec<_> = count.iter().filter(|(_, n)| **n > 1).collect();
    format!("{} arrived, lost {lost:?}, twice {twice:?}", got.len())
}

/// What the processes printed, one after the other. A process that was killed after it printed a
/// line and before it noted that it had is followed by one that prints that line again; the id
/// tells, and it is left out here.
fn messages(at: &[Process]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for process in at {
        let mut printed = process
            .lines()
            .into_iter()
            .filter(|e| e["event"] == "message" && e["text"] != "the end")
            .map(|e| (text(&e["id"]), text(&e["text"])))
            .peekable();
        printed.next_if(|first| all.last() == Some(first));
        all.extend(printed);
    }
    all
}

/// Waits until so many messages were printed, by all the processes together.
fn await_messages(at: &[Process], n: usize) {
    let (last, before) = at.split_last().unwrap();
    let missing = n.saturating_sub(messages(before).len());
    last.wait_for_count(missing, |e| e["event"] == "message" && e["text"] != "the end");
}

/// `halloo send NAME - --lines --key K`: repeated after a crash, it sends what is missing.
struct Sender {
    to: &'static str,
    prefix: &'static str,
    process: Process,
}

impl Sender {
    fn start(person: &Person, to: &'static str, prefix: &'static str) -> Self {
        Self { to, prefix, process: Self::spawn(person, to, prefix) }
    }

    fn spawn(person: &Person, to: &str, prefix: &str) -> Process {
        let all: Vec<String> = (0..MESSAGES).map(|n| format!("{prefix} {n}")).collect();
        let mut command =
            person.command(&["send", to, &all.join("\n"), "--lines", "--key", prefix]);
        command.arg("--json").stdin(Stdio::null());
        Process::start(command)
    }

    /// The node that it used has been killed: it sends the rest through the one that runs.
    fn resume_if_it_failed(&mut self, person: &Person) {
        if self.process.end() != 0 {
            self.process = Self::spawn(person, self.to, self.prefix);
        }
    }

    /// Waits for its end: the ids that it was told, with their texts.
    fn end(&mut self, person: &Person) -> HashMap<String, String> {
        self.resume_if_it_failed(person);
        assert_eq!(self.process.end(), 0, "{}", self.process.stderr());
        let sent: Vec<Value> =
            self.process.lines().into_iter().filter(|e| e["event"] == "sent").collect();
        let named = sent.iter().enumerate();
        named.map(|(n, e)| (text(&e["id"]), format!("{} {n}", self.prefix))).collect()
    }
}
