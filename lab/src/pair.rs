//! Two people who have not talked for a while, and the first message between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::people::{Peer, Person, at, is, path, pause};
use crate::plan::Side;
use crate::program::Programs;
use crate::world::{Distance, Places, World};

/// What one run showed. Times are from the moment in which `halloo send` had the message
/// accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// From the start of each node's program until it was registered at the peer, in
    /// milliseconds.
    pub online_ms: [Option<f64>; 2],
    /// Until the other person's program printed it, in milliseconds.
    pub first_message_ms: Option<f64>,
    /// How that message travelled.
    pub first_path: Option<String>,
    /// Until both nodes said that their path is direct, in milliseconds.
    pub direct_ms: Option<f64>,
    /// How the direct path was found, as far as the nodes say.
    pub technique: Option<String>,
    /// The path at the end, on both sides.
    pub last_path: [Option<String>; 2],
    /// The paths were not cold: one was there before the message.
    pub was_warm: bool,
}

impl Run {
    /// Whether the message arrived.
    pub fn is_delivered(&self) -> bool {
        self.first_message_ms.is_some()
    }

    /// Whether both nodes had a direct path.
    pub fn is_direct(&self) -> bool {
        self.was_warm || self.direct_ms.is_some()
    }
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// How often. Each time both nodes start afresh, so that no path is left of the time before.
    pub runs: usize,
    /// How long to wait for a direct path before it is clear that there will be none.
    pub patience: Duration,
    /// The links.
    pub distance: Distance,
}

/// Measures a pair: builds a lab for it, makes the two contacts, and sends a first message as often
/// as planned.
///
/// # Errors
/// The lab cannot be built, or the two cannot become contacts.
pub fn measure(places: Places, plan: &Plan) -> Result<Vec<Run>> {
    let world = World::new(places, &plan.distance)?;
    let peer = Peer::start(&world, &plan.programs)?;
    let mut anna = Person::new(&world, Side::A, &plan.programs, &peer)?;
    let mut ben = Person::new(&world, Side::B, &plan.programs, &peer)?;
    anna.arrive()?;
    ben.arrive()?;
    anna.befriend(&ben)?;
    let mut runs = Vec::new();
    for number in 0..plan.runs {
        // What is on its way at the end of a run would open a path at the start of the next.
        pause(QUIET);
        anna.leave()?;
        ben.leave()?;
        let online_ms = [anna.arrive()?, ben.arrive()?].map(Some);
        pause(QUIET);
        let run = first_message(&anna, &ben, number, plan.patience)?;
        runs.push(Run { online_ms, ..run });
    }
    Ok(runs)
}

fn first_message(
    anna: &Person<'_>,
    ben: &Person<'_>,
    number: usize,
    patience: Duration,
) -> Result<Run> {
    let text = format!("first message of run {number}");
    let people = [anna.listening()?.said(), ben.listening()?.said()];
    let is_direct = |line: &Value| is("path")(line) && path(line) == Some("direct");
    let was_warm = people.iter().any(|said| said.wait_for(0, Duration::ZERO, is_direct).is_some());
    let marks = people.map(|said| said.mark());
    let sent = anna.halloo(&["send", Side::B.name(), &text])?;
    let sent = sent.iter().find(|line| is("sent")(line)).and_then(at);
    let sent = sent.context("halloo send does not say when")?;
    let since = |event: &Value| at(event).map(|at| (at as f64 - sent as f64) / 1e6);

    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    let arrived =
        people[1].wait_for(marks[1], left(), |line| is("message")(line) && line["text"] == *text);
    let mut run = Run { was_warm, ..Run::default() };
    if let Some(message) = &arrived {
        run.first_message_ms = since(message);
        run.first_path = path(message).map(str::to_owned);
    }
    if was_warm {
        return Ok(run);
    }
    let direct = [0, 1].map(|i| people[i].wait_for(marks[i], left(), is_direct));
    if let [Some(a), Some(b)] = &direct {
        run.direct_ms = since(a).zip(since(b)).map(|(a, b)| a.max(b));
        let technique = a["technique"].as_str().or_else(|| b["technique"].as_str());
        run.technique = technique.map(str::to_owned);
    }
    run.last_path = [0, 1].map(|i| {
        let lines = people[i].since(marks[i]);
        lines.iter().rev().find(|l| is("path")(l)).and_then(path).map(str::to_owned)
    });
    Ok(run)
}

/// How long both are left alone before the message, and before they leave: what they do by
/// themselves is over.
const QUIET: Duration = Duration::from_secs(1);
