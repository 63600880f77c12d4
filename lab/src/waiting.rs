//! Messages that wait at a peer for somebody who is away: until they come, and through a restart
//! of the peer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::kind::Kind;
use crate::ledger::{Batch, Ledger, StreamId, Wrong, settle};
use crate::people::{Peer, Person, pause};
use crate::plan::{MOST_PEOPLE, Side};
use crate::program::Programs;
use crate::storm::PATIENCE;
use crate::world::{Distance, World};

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// The NATs, in turns.
    pub nats: Vec<Kind>,
    /// Messages to each who is away.
    pub messages: usize,
    /// How many are away.
    pub away: usize,
    /// Whether the peer is killed while messages wait there.
    pub peer_dies: bool,
    /// How long those who are away stay away after that.
    pub after: Duration,
    /// Whether the sender leaves before the others come, and comes back after them.
    pub sender_leaves: bool,
    /// The links.
    pub distance: Distance,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Messages that were promised.
    pub messages: u64,
    /// Messages of which the sender heard that they wait at the peer.
    pub at_peer: u64,
    /// Until they were there, in seconds.
    pub left_s: f64,
    /// What those who came found, while the sender was away.
    pub found: Option<u64>,
    /// From when the last who was away, or the sender, is back until everything has arrived, in
    /// seconds.
    pub fetched_s: f64,
    /// What must not happen.
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// Lets it happen, and tells how it goes.
///
/// # Errors
/// The lab cannot be built, or messages are stuck.
pub fn run(plan: &Plan, mut tell: impl FnMut(&str)) -> Result<Outcome> {
    ensure!((1..MOST_PEOPLE).contains(&plan.away), "1 to {} can be away", MOST_PEOPLE - 1);
    let world = World::of_many(1 + plan.away, &plan.nats, &plan.distance)?;
    let mut peer = Peer::start(&world, &plan.programs)?;
    let ledger = Arc::new(Ledger::default());
    let mut people = Vec::new();
    for side in Side::first(1 + plan.away) {
        let mut person = Person::new(&world, side, &plan.programs, &peer)?;
        person.report_to(&ledger);
        person.arrive()?;
        people.push(person);
    }
    let Some((sender, others)) = people.split_first_mut() else { return Ok(Outcome::default()) };
    for other in &mut *others {
        sender.befriend(other)?;
        other.leave()?;
    }
    tell(&format!("{} are away", others.len()));

    let begun = Instant::now();
    let streams: Vec<StreamId> = others.iter().map(|_| ledger.stream()).collect();
    for (other, stream) in others.iter().zip(&streams) {
        let mut batch = Batch::new(&ledger, *stream, other.side(), 0..plan.messages);
        batch.begin(sender, &[])?;
        batch.finish(sender)?;
    }
    tell(&format!("{} messages are promised", ledger.counts().0));
    let room = plan.messages.min(LANE) * plan.away;
    let side = sender.side();
    ensure!(
        ledger.wait_at_peer(side, room as u64, PATIENCE),
        "{} of {room} messages were left at the peer",
        ledger.told(side).at_peer
    );
    let left_s = begun.elapsed().as_secs_f64();
    let at_peer = ledger.told(side).at_peer;
    tell(&format!("{at_peer} are at the peer, after {left_s:.1} s"));

    if plan.peer_dies {
        // It has forgotten those who are away as well: nothing can be left for them until they
        // have come back.
        peer.restart(&world)?;
        pause(plan.after);
    }
    if plan.sender_leaves {
        sender.leave()?;
    }
    let mut begun = Instant::now();
    for other in &mut *others {
        other.arrive()?;
    }
    let mut found = None;
    if plan.sender_leaves {
        for stream in &streams {
            ledger.wait_arrived(*stream, plan.messages.min(LANE) as u64, PATIENCE);
        }
        found = Some(ledger.counts().1);
        begun = Instant::now();
        sender.arrive()?;
    }
    settle(&ledger, &streams, PATIENCE)?;
    let fetched_s = begun.elapsed().as_secs_f64();
    for (other, stream) in others.iter().zip(&streams) {
        // Whatever comes again would come before this.
        let last = plan.messages..plan.messages + 1;
        let mut batch = Batch::new(&ledger, *stream, other.side(), last);
        batch.begin(sender, &["--wait", "delivered", "--timeout", "200s"])?;
        batch.finish(sender)?;
    }
    settle(&ledger, &streams, PATIENCE)?;
    let messages = ledger.counts().0;
    let wrong = ledger.wrong();
    Ok(Outcome { messages, at_peer, left_s, found, fetched_s, wrong })
}

/// What a peer keeps for one recipient unless told otherwise: 1,024 envelopes, some of which are
/// no messages.
const LANE: usize = 1_000;
