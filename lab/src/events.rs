//! Two people who write to each other all the time, and something that goes wrong meanwhile.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pair::Plan;
use crate::people::{Peer, Person, at, is, now, path, pause};
use crate::plan::Side;
use crate::stream::{Outcome, Stream};
use crate::trouble::Trouble;
use crate::world::{Places, World};

/// What a trouble did to a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// What happened.
    pub trouble: Trouble,
    /// Where the two were, as on the command line of `lab pair`.
    pub pair: String,
    /// How messages went before, as Ben saw it.
    pub before: Option<String>,
    /// How they went at the end.
    pub after: Option<String>,
    /// When both were direct again, in seconds from the trouble on, if a path was lost.
    pub direct_again_s: Option<f64>,
    /// What became of Anna's messages, and of Ben's.
    pub outcomes: [Outcome; 2],
}

impl Story {
    /// The longest silence that either heard, in seconds.
    pub fn silence_s(&self) -> f64 {
        self.outcomes.iter().map(|o| o.silence_s).fold(0.0, f64::max)
    }

    /// Messages of both that did not arrive.
    pub fn lost(&self) -> u64 {
        self.outcomes.iter().map(|o| o.lost).sum()
    }

    /// Messages that both wrote.
    pub fn sent(&self) -> u64 {
        self.outcomes.iter().map(|o| o.sent).sum()
    }

    /// Messages of both that arrived twice or in another order.
    pub fn disorder(&self) -> u64 {
        self.outcomes.iter().map(|o| o.disorder).sum()
    }
}

/// Lets a trouble happen to a conversation.
///
/// # Errors
/// The lab cannot be built, or the two cannot become contacts.
pub fn measure(trouble: Trouble, places: Places, plan: &Plan) -> Result<Story> {
    let world = World::new(places, &plan.distance)?;
    let mut peer = Peer::start(&world, &plan.programs)?;
    let mut anna = Person::new(&world, Side::A, &plan.programs, &peer)?;
    let mut ben = Person::new(&world, Side::B, &plan.programs, &peer)?;
    anna.arrive()?;
    ben.arrive()?;
    anna.befriend(&ben)?;

    let people = [&anna, &ben];
    let streams = [Stream::begin(&anna, &ben)?, Stream::begin(&ben, &anna)?];
    for person in people {
        // Where no direct path is possible, this is how long it takes to see that.
        person.listening()?.said().wait_for(0, plan.patience, is_direct);
    }
    pause(CALM);
    let marks = [anna.listening()?.said().mark(), ben.listening()?.said().mark()];
    let begin = now();
    trouble.happen(&world, &mut peer)?;
    pause(AFTERMATH);

    let [from_anna, from_ben] = streams;
    let outcomes = [from_anna.end(&ben, begin)?, from_ben.end(&anna, begin)?];
    let heard = ben.listening()?.said().since(0);
    let (early, late) = heard.split_at(marks[1]);
    let way = |lines: &[Value]| {
        let last = lines.iter().rev().find(|line| is("message")(line));
        last.and_then(path).map(str::to_owned)
    };
    let mut direct_again = Some(0.0f64);
    for (person, mark) in people.into_iter().zip(marks) {
        let lines = person.listening()?.said().since(mark);
        let last = lines.iter().rev().find(|line| is("path")(line));
        let after = match last {
            // Who says nothing has lost nothing.
            None => Some(0.0),
            Some(line) if is_direct(line) => {
                at(line).map(|at| at.saturating_sub(begin) as f64 / 1e9)
            }
            Some(_) => None,
        };
        direct_again = direct_again.zip(after).map(|(a, b)| a.max(b));
    }
    Ok(Story {
        trouble,
        pair: places.to_string(),
        before: way(early),
        after: way(late),
        direct_again_s: direct_again,
        outcomes,
    })
}

fn is_direct(line: &Value) -> bool {
    is("path")(line) && path(line) == Some("direct")
}

/// How long the two talk before something happens.
const CALM: Duration = Duration::from_secs(3);
/// How long they go on talking: longer than a connection takes to notice that it is dead.
pub const AFTERMATH: Duration = Duration::from_secs(40);
