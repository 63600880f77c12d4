//! Messages that flow both ways between people behind NATs, on a bad wire, while processes are
//! killed and networks change: the ledger has to be even in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use crate::dice::Dice;
use crate::kind::Kind;
use crate::ledger::{Batch, Delays, Ledger, StreamId, Wrong, settle};
use crate::people::{Peer, Person, pause};
use crate::plan::{MOST_PEOPLE, Side};
use crate::program::Programs;
use crate::trouble;
use crate::wire::weather::Weather;
use crate::world::{Distance, World};

/// What is to happen. What happens when follows from the seed; the machine decides the rest.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// Pairs of people who write to each other at the same time; all have one peer.
    pub pairs: usize,
    /// The NATs, in turns.
    pub nats: Vec<Kind>,
    /// Messages of all together.
    pub messages: usize,
    /// How often a node is killed, while it sends and receives.
    pub node_kills: usize,
    /// After how many rounds, each with a kill, everything of a pair has to arrive before it goes on.
    pub settle: usize,
    /// How often the peer is killed.
    pub peer_kills: usize,
    /// How often a NAT forgets everything and gives other ports.
    pub remaps: usize,
    /// How often a provider gives somebody another address.
    pub moves: usize,
    /// The links; the weather is that of the storm.
    pub distance: Distance,
    /// Bytes behind the number of each message.
    pub padding: usize,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Repeats the plan.
    pub seed: u64,
    /// Messages that `send` promised.
    pub messages: u64,
    /// Kills of nodes of those who are named first of a pair, and second.
    pub node_kills: [u64; 2],
    /// Kills of the peer.
    pub peer_kills: u64,
    /// NATs that forgot everything.
    pub remaps: u64,
    /// Changes of an address.
    pub moves: u64,
    /// What must not happen.
    #[serde(flatten)]
    pub wrong: Wrong,
    /// Events that were printed again after a kill, under the same cursor.
    pub read_again: u64,
    /// From the promise to the arrival.
    pub delays: Delays,
    /// The longest wait until everything that a pair had promised had arrived, in seconds.
    pub settling_s: f64,
    /// The same after the weather had cleared.
    pub last_settling_s: f64,
    /// All of it, in seconds.
    pub took_s: f64,
}

/// Lets it happen, and tells how it goes.
///
/// # Errors
/// The lab cannot be built, or messages are stuck for [`PATIENCE`].
pub fn run(plan: &Plan, mut tell: impl FnMut(&str)) -> Result<Outcome> {
    let people = plan.pairs * 2;
    ensure!((2..=MOST_PEOPLE).contains(&people), "a storm has 1 to {} pairs", MOST_PEOPLE / 2);
    let begun = Instant::now();
    let world = World::of_many(people, &plan.nats, &plan.distance)?;
    world.wire().set_weather(Weather::CLEAR);
    let mut peer = Peer::start(&world, &plan.programs)?;
    let ledger = Arc::new(Ledger::default());
    let mut pairs = Vec::new();
    let everybody: Vec<Side> = Side::first(people).collect();
    for sides in everybody.chunks(2) {
        pairs.push(Pair::meet(&world, &plan.programs, &peer, &ledger, [sides[0], sides[1]])?);
    }
    tell(&format!("{people} people are there, after {:.0?}", begun.elapsed()));

    world.wire().set_weather(plan.distance.weather);
    let shared = Shared::default();
    let messages = plan.messages as u64;
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .enumerate()
            .map(|(i, pair)| {
                let shared = &shared;
                scope.spawn(move || shared.watch(pair.flow(plan, i, shared)))
            })
            .collect();
        let fate = {
            let (shared, world, ledger, peer) = (&shared, &world, &ledger, &mut peer);
            scope.spawn(move || shared.watch(happen(plan, world, peer, ledger, shared)))
        };
        let mut next = TELL;
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            ledger.wait_all_promised(messages.saturating_add(1), LOOK);
            if begun.elapsed() > next {
                next += TELL;
                tell(&shared.progress(&ledger, plan, begun.elapsed()));
            }
        }
        shared.is_over.store(true, Ordering::Relaxed);
        fate.join().map_err(|_| anyhow!("what happens to networks panicked"))??;
        let pairs = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("the thread of a pair panicked"))?);
        pairs.collect::<Result<Vec<_>>>()
    })?;

    world.wire().set_weather(Weather::CLEAR);
    let mut last = Duration::ZERO;
    for pair in &mut done {
        last = last.max(pair.end()?);
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Outcome {
        seed: plan.distance.seed,
        messages: ledger.counts().0,
        node_kills: [count(&shared.node_kills[0]), count(&shared.node_kills[1])],
        peer_kills: count(&shared.peer_kills),
        remaps: count(&shared.remaps),
        moves: count(&shared.moves),
        wrong: ledger.wrong(),
        read_again: ledger.read_again(),
        delays: ledger.delays(),
        settling_s: done.iter().map(|pair| pair.settling).max().unwrap_or_default().as_secs_f64(),
        last_settling_s: last.as_secs_f64(),
        took_s: begun.elapsed().as_secs_f64(),
    })
}

/// What the threads of a storm tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// Nobody sends any more, or something failed: there is no use in going on.
    is_over: AtomicBool,
    node_kills: [AtomicU64; 2],
    peer_kills: AtomicU64,
    remaps: AtomicU64,
    moves: AtomicU64,
}

impl Shared {
    /// One that fails ends all.
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.is_over.store(true, Ordering::Relaxed);
        }
        result
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn progress(&self, ledger: &Ledger, plan: &Plan, elapsed: Duration) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (promised, arrived) = ledger.counts();
        format!(
            "{:.0} s: {promised} of {} messages promised, {arrived} arrived, killed: nodes {} of \
             {}, peer {}; {}",
            elapsed.as_secs_f64(),
            plan.messages,
            count(&self.node_kills[0]) + count(&self.node_kills[1]),
            plan.node_kills,
            count(&self.peer_kills),
            Wrong { lost: 0, ..ledger.wrong() },
        )
    }
}

/// Two who write to each other.
#[derive(Debug)]
struct Pair<'a> {
    people: [Person<'a>; 2],
    /// From the first, and from the second.
    streams: [StreamId; 2],
    ledger: &'a Arc<Ledger>,
    /// Messages that each has sent.
    sent: usize,
    settling: Duration,
}

impl<'a> Pair<'a> {
    fn meet(
        world: &'a World,
        programs: &Programs,
        peer: &Peer,
        ledger: &'a Arc<Ledger>,
        [first, second]: [Side; 2],
    ) -> Result<Self> {
        let mut people = [
            Person::new(world, first, programs, peer)?,
            Person::new(world, second, programs, peer)?,
        ];
        for person in &mut people {
            person.report_to(ledger);
            person.arrive()?;
        }
        people[0].befriend(&people[1])?;
        let streams = [ledger.stream(), ledger.stream()];
        Ok(Self { people, streams, ledger, sent: 0, settling: Duration::ZERO })
    }

    /// Rounds of messages, in each of which somebody is killed.
    fn flow(mut self, plan: &Plan, number: usize, shared: &Shared) -> Result<Self> {
        let mut dice = Dice::new(plan.distance.seed, 1 + number as u64);
        let kills = share(plan.node_kills, number, plan.pairs);
        let each = share(plan.messages, number, plan.pairs) / 2;
        let rounds = if kills > 0 { kills } else { each.div_ceil(ROUND) };
        for round in 0..rounds {
            if shared.is_over() {
                return Ok(self);
            }
            let victim = (kills > 0).then(|| (dice.place(2), dice.time(LATEST)));
            self.round(share(each, round, rounds), victim, plan.padding, shared)
                .with_context(|| format!("in round {round} of pair {number}"))?;
            if (round + 1).is_multiple_of(plan.settle) {
                let took = settle(self.ledger, &self.streams, PATIENCE)
                    .with_context(|| self.report(number, round))?;
                self.settling = self.settling.max(took);
            }
        }
        Ok(self)
    }

    fn round(
        &mut self,
        messages: usize,
        victim: Option<(usize, Duration)>,
        padding: usize,
        shared: &Shared,
    ) -> Result<()> {
        let numbers = self.sent..self.sent + messages;
        let (ledger, streams) = (self.ledger, self.streams);
        let mut batches = [0, 1].map(|i| {
            let to = self.people[1 - i].side();
            Batch::new(ledger, streams[i], to, numbers.clone()).padded(padding)
        });
        for (batch, person) in batches.iter_mut().zip(&self.people) {
            batch.begin(person, &[])?;
        }
        if let Some((who, after)) = victim {
            // Before the first is promised, `send` may not have found the node yet: it would run
            // one of its own.
            for stream in streams.iter().take(if messages > 0 { 2 } else { 0 }) {
                ledger.wait_promised(*stream, numbers.start as u64 + 1, PROMISED);
            }
            pause(after);
            self.people[who].kill();
            self.people[who].start()?;
            shared.node_kills[who].fetch_add(1, Ordering::Relaxed);
        }
        for (batch, person) in batches.iter_mut().zip(&self.people) {
            batch.finish(person)?;
        }
        self.sent = numbers.end;
        Ok(())
    }

    /// One more message each way, which everything that comes again would come before; and
    /// everything has to have arrived.
    fn end(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        for i in [0, 1] {
            let numbers = self.sent..self.sent + 1;
            let to = self.people[1 - i].side();
            let mut batch = Batch::new(self.ledger, self.streams[i], to, numbers);
            batch.begin(&self.people[i], &["--wait", "delivered", "--timeout", "200s"])?;
            batch.finish(&self.people[i])?;
        }
        self.sent += 1;
        settle(self.ledger, &self.streams, PATIENCE).with_context(|| self.report(0, 0))?;
        Ok(begun.elapsed())
    }

    fn report(&self, number: usize, round: usize) -> String {
        let errors = self.people.iter().map(|person| {
            let errors = person.errors();
            let lines: Vec<&str> = errors.lines().rev().take(LAST_LINES).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("{} said at the end:\n{}", person.side().name(), lines.join("\n"))
        });
        let errors: Vec<String> = errors.collect();
        format!("round {round} of pair {number} does not settle\n{}", errors.join("\n"))
    }
}

/// What happens to the peer and to networks, evenly among the messages.
fn happen(
    plan: &Plan,
    world: &World,
    peer: &mut Peer,
    ledger: &Ledger,
    shared: &Shared,
) -> Result<()> {
    #[derive(Debug, Clone, Copy)]
    enum Act {
        PeerDies,
        Remap,
        Move,
    }
    let mut dice = Dice::new(plan.distance.seed, 0);
    let all =
        [(Act::PeerDies, plan.peer_kills), (Act::Remap, plan.remaps), (Act::Move, plan.moves)];
    let acts = all.into_iter().flat_map(|(act, count)| std::iter::repeat_n(act, count));
    let mut acts: Vec<(u64, Act)> =
        acts.map(|act| (dice.below(plan.messages as u64), act)).collect();
    acts.sort_by_key(|(at, _)| *at);
    let sides: Vec<Side> = Side::first(plan.pairs * 2).collect();
    let mut has_moved = vec![false; sides.len()];
    for (at, act) in acts {
        while !ledger.wait_all_promised(at, LOOK) {
            if shared.is_over() {
                return Ok(());
            }
        }
        let who = dice.place(sides.len());
        let side = sides[who];
        match act {
            Act::PeerDies => {
                peer.restart(world)?;
                shared.peer_kills.fetch_add(1, Ordering::Relaxed);
            }
            Act::Remap => {
                trouble::remap(trouble::router(world, side)?)?;
                shared.remaps.fetch_add(1, Ordering::Relaxed);
            }
            Act::Move => {
                trouble::move_again(world, side, has_moved[who])?;
                has_moved[who] = !has_moved[who];
                shared.moves.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// What the `number`-th of `of` gets of a whole.
fn share(whole: usize, number: usize, of: usize) -> usize {
    whole * (number + 1) / of - whole * number / of
}

/// Messages of a round in which nobody is killed.
const ROUND: usize = 50;
/// The longest time from the first promise of a round to the death.
const LATEST: Duration = Duration::from_millis(800);
/// How long messages may be on their way before they count as stuck: longer than the longest wait
/// between two attempts.
pub const PATIENCE: Duration = Duration::from_secs(330);
/// How long the first promise of a round may take; it only chooses the moment of the death.
const PROMISED: Duration = Duration::from_secs(5);
/// From one line about progress to the next.
const TELL: Duration = Duration::from_secs(20);
/// How often threads look whether it is over.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of a node's log that a failure shows.
const LAST_LINES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_nothing_is_left_over() {
        for (whole, of) in [(10, 3), (2, 5), (0, 4), (100_000, 7)] {
            let shares: Vec<usize> = (0..of).map(|number| share(whole, number, of)).collect();
            assert_eq!(shares.iter().sum::<usize>(), whole);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
