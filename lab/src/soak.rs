//! Many people who write to each other for an hour, with a trouble now and then: what does their
//! memory do?

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::dice::Dice;
use crate::kind::Kind;
use crate::ledger::{Batch, Delays, Ledger, StreamId, Wrong, settle};
use crate::people::{PORT, Peer, Person, pause};
use crate::plan::{MOST_PEOPLE, Side};
use crate::program::Programs;
use crate::sample::{Growth, Sample, cpu_s};
use crate::storm::PATIENCE;
use crate::trouble;
use crate::wire::SiteId;
use crate::wire::weather::Weather;
use crate::world::{Distance, World};

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// How many people.
    pub people: usize,
    /// Those of them, the last ones, whose nodes are killed now and then. Their memory is not
    /// counted.
    pub mortal: usize,
    /// The NATs, in turns.
    pub nats: Vec<Kind>,
    /// Messages that each sends to each friend before it begins, as fast as it goes: caches fill,
    /// as they would on the first day.
    pub fill: usize,
    /// For how long.
    pub time: Duration,
    /// What is not counted at the beginning.
    pub warm_up: Duration,
    /// Messages a second of all together.
    pub rate: f64,
    /// The links; the weather is the worst that comes.
    pub distance: Distance,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Repeats the choices.
    pub seed: u64,
    /// How long it was, in minutes.
    pub minutes: f64,
    /// Messages that `send` promised.
    pub messages: u64,
    /// What must not happen.
    #[serde(flatten)]
    pub wrong: Wrong,
    /// From the promise to the arrival.
    pub delays: Delays,
    /// What happened, and how often.
    pub troubles: Troubles,
    /// Memory of all counted nodes together, after the warm-up.
    pub nodes: Growth,
    /// The same without files and code.
    pub nodes_anon: Growth,
    /// Memory of the node that grew most.
    pub worst_node: Growth,
    /// Open files of all counted nodes together.
    pub node_fds: Growth,
    /// Memory of the peer that is never restarted.
    pub peer: Growth,
    /// The same without files and code.
    pub peer_anon: Growth,
    /// Its open files.
    pub peer_fds: Growth,
    /// What everything used, the laboratory too, of one core, in percent.
    pub cpu_percent: f64,
    /// How it went.
    pub course: Vec<Moment>,
    /// The last wait until everything had arrived, in seconds.
    pub settling_s: f64,
}

/// How often what happened.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Troubles {
    /// NATs that forgot everything.
    pub remaps: u64,
    /// Changes of an address.
    pub moves: u64,
    /// Links that were cut for a while.
    pub outages: u64,
    /// Times of bad weather.
    pub storms: u64,
    /// Kills of mortal nodes.
    pub node_kills: u64,
    /// Kills of the second peer.
    pub peer_kills: u64,
}

/// A look at all counted processes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Moment {
    /// When, in minutes from the beginning.
    pub minute: f64,
    /// Messages promised until then.
    pub messages: u64,
    /// Mean memory of nodes, in KiB.
    pub node_kib: f64,
    /// The same without files and code.
    pub node_anon_kib: f64,
    /// The largest.
    pub largest_node_kib: u64,
    /// Memory of the peer that is never restarted, in KiB.
    pub peer_kib: u64,
    /// The same without files and code.
    pub peer_anon_kib: u64,
    /// Mean of open files of nodes.
    pub node_fds: f64,
    /// Open files of that peer.
    pub peer_fds: u64,
}

/// Lets it happen, and tells how it goes. Every sample is written to a file too, if there is one.
///
/// # Errors
/// The lab cannot be built, or messages are stuck.
pub fn run(plan: &Plan, samples: Option<&Path>, mut tell: impl FnMut(&str)) -> Result<Outcome> {
    ensure!(
        (LEAST..=MOST_PEOPLE).contains(&plan.people),
        "a soak has {LEAST} to {MOST_PEOPLE} people"
    );
    ensure!(plan.mortal < plan.people, "somebody has to be immortal: memory is counted there");
    let mut file = samples.map(File::create).transpose().context("cannot write samples")?;
    let world = World::of_many(plan.people, &plan.nats, &plan.distance)?;
    world.wire().set_weather(Weather::CLEAR);
    let mut peers = [
        Peer::start(&world, &plan.programs)?,
        Peer::start_with(&world, &plan.programs, SECOND_PORT, &[])?,
    ];
    let ledger = Arc::new(Ledger::default());
    let mut people = Vec::new();
    for side in Side::first(plan.people) {
        let peer = &peers[side.number() % peers.len()];
        let mut person = Person::new(&world, side, &plan.programs, peer)?;
        person.report_to(&ledger);
        person.arrive()?;
        people.push(person);
    }
    let mut streams = Vec::new();
    for from in 0..plan.people {
        for step in FRIENDS {
            let to = (from + step) % plan.people;
            people[from].befriend(&people[to])?;
            streams.push(Flow { from, to, stream: ledger.stream(), sent: 0 });
            streams.push(Flow { from: to, to: from, stream: ledger.stream(), sent: 0 });
        }
    }
    tell(&format!("{} people are there", plan.people));
    for flow in &mut streams {
        flow.send_many(plan.fill, LONGEST / 2, &people, &ledger)?;
    }
    let ids: Vec<StreamId> = streams.iter().map(|flow| flow.stream).collect();
    settle(&ledger, &ids, PATIENCE)?;
    tell(&format!("They have {} messages from each other", ledger.counts().1));

    let mut fate = Fate::new(plan);
    let begun = Instant::now();
    let mut cpu = Cpu::new();
    let (mut all, mut course) = (Vec::new(), Vec::new());
    let (mut next_sample, mut next_moment, mut next_send) = (begun, begun, begun);
    while begun.elapsed() < plan.time {
        fate.go_on(plan, &world, &mut peers, &mut people)?;
        let now = Instant::now();
        if now >= next_send {
            next_send = now.max(next_send + fate.until_next_send(plan.rate));
            let flow = fate.dice.place(streams.len());
            streams[flow].send(&mut fate.dice, &people, &ledger)?;
        }
        if now >= next_sample {
            next_sample += SAMPLE;
            let look = Look::at(&people[..plan.people - plan.mortal], &peers[0], begun)?;
            if let Some(file) = &mut file {
                writeln!(file, "{}", serde_json::to_string(&look)?)?;
            }
            cpu.look(&people, &peers);
            if now >= next_moment {
                next_moment += MOMENT;
                let moment = look.moment(&ledger);
                tell(&format!(
                    "{}; {}",
                    serde_json::to_string(&moment)?,
                    Wrong { lost: 0, ..ledger.wrong() }
                ));
                course.push(moment);
            }
            all.push(look);
        }
        let next = next_send.min(next_sample).min(fate.next());
        pause(next.saturating_duration_since(Instant::now()));
    }
    fate.calm(&world);
    let cpu_percent = cpu.look(&people, &peers) / begun.elapsed().as_secs_f64() * 100.0;
    let last = Look::at(&people[..plan.people - plan.mortal], &peers[0], begun)?;
    course.push(last.moment(&ledger));
    all.push(last);

    let settling = settle(&ledger, &ids, PATIENCE)?;
    for flow in &mut streams {
        // Whatever comes again would come before these.
        flow.send(&mut fate.dice, &people, &ledger)?;
    }
    settle(&ledger, &ids, PATIENCE)?;

    let counted = all.iter().filter(|look| look.at_s >= plan.warm_up.as_secs_f64());
    let counted: Vec<&Look> = counted.collect();
    let growth = |value: &dyn Fn(&Look) -> u64| {
        Growth::of(&counted.iter().map(|l| (l.at_s, value(l) as f64)).collect::<Vec<_>>())
    };
    let nodes = 0..plan.people - plan.mortal;
    let worst = nodes.map(|node| growth(&|look| look.nodes[node].rss_kib));
    Ok(Outcome {
        seed: plan.distance.seed,
        minutes: plan.time.as_secs_f64() / 60.0,
        messages: ledger.counts().0,
        wrong: ledger.wrong(),
        delays: ledger.delays(),
        troubles: fate.troubles,
        nodes: growth(&|look| look.nodes.iter().map(|node| node.rss_kib).sum()),
        nodes_anon: growth(&|look| look.nodes.iter().map(|node| node.anon_kib).sum()),
        worst_node: worst
            .max_by(|a, b| a.percent_per_hour.total_cmp(&b.percent_per_hour))
            .unwrap_or_default(),
        node_fds: growth(&|look| look.nodes.iter().map(|node| node.fds).sum()),
        peer: growth(&|look| look.peer.rss_kib),
        peer_anon: growth(&|look| look.peer.anon_kib),
        peer_fds: growth(&|look| look.peer.fds),
        cpu_percent,
        course,
        settling_s: settling.as_secs_f64(),
    })
}

/// Messages from one to another.
#[derive(Debug)]
struct Flow {
    from: usize,
    to: usize,
    stream: StreamId,
    sent: usize,
}

impl Flow {
    fn send(&mut self, dice: &mut Dice, people: &[Person<'_>], ledger: &Arc<Ledger>) -> Result<()> {
        let count = 1 + dice.place(MOST_AT_ONCE);
        self.send_many(count, dice.place(LONGEST), people, ledger)
    }

    fn send_many(
        &mut self,
        count: usize,
        padding: usize,
        people: &[Person<'_>],
        ledger: &Arc<Ledger>,
    ) -> Result<()> {
        let numbers = self.sent..self.sent + count;
        self.sent = numbers.end;
        let mut batch =
            Batch::new(ledger, self.stream, people[self.to].side(), numbers).padded(padding);
        batch.begin(&people[self.from], &[])?;
        batch.finish(&people[self.from])
    }
}

/// A look at all counted processes.
#[derive(Debug, Serialize)]
struct Look {
    at_s: f64,
    nodes: Vec<Sample>,
    peer: Sample,
}

impl Look {
    fn at(people: &[Person<'_>], peer: &Peer, begun: Instant) -> Result<Self> {
        let at_s = begun.elapsed().as_secs_f64();
        let nodes = people.iter().map(|person| Sample::of(person.listening()?.pid(), at_s));
        let nodes = nodes.collect::<Result<_>>()?;
        Ok(Self { at_s, nodes, peer: Sample::of(peer.pid(), at_s)? })
    }

    fn moment(&self, ledger: &Ledger) -> Moment {
        let count = self.nodes.len() as f64;
        let mean =
            |value: fn(&Sample) -> u64| self.nodes.iter().map(value).sum::<u64>() as f64 / count;
        Moment {
            minute: (self.at_s / 6.0).round() / 10.0,
            messages: ledger.counts().0,
            node_kib: mean(|node| node.rss_kib).round(),
            node_anon_kib: mean(|node| node.anon_kib).round(),
            largest_node_kib: self.nodes.iter().map(|node| node.rss_kib).max().unwrap_or(0),
            peer_kib: self.peer.rss_kib,
            peer_anon_kib: self.peer.anon_kib,
            node_fds: mean(|node| node.fds),
            peer_fds: self.peer.fds,
        }
    }
}

/// What happens to networks and processes.
#[derive(Debug)]
struct Fate {
    dice: Dice,
    troubles: Troubles,
    next: Instant,
    next_peer: Instant,
    /// What ends when.
    bad_weather_until: Option<Instant>,
    down: Vec<(Instant, SiteId)>,
    has_moved: Vec<bool>,
}

impl Fate {
    fn new(plan: &Plan) -> Self {
        let now = Instant::now();
        Self {
            dice: Dice::new(plan.distance.seed, 0),
            troubles: Troubles::default(),
            next: now + TROUBLE,
            next_peer: now + PEER_DIES / 2,
            bad_weather_until: None,
            down: Vec::new(),
            has_moved: vec![false; plan.people],
        }
    }

    /// When something is to be done next.
    fn next(&self) -> Instant {
        let ends = self.down.iter().map(|(until, _)| *until).chain(self.bad_weather_until);
        ends.fold(self.next.min(self.next_peer), Instant::min)
    }

    fn until_next_send(&mut self, rate: f64) -> Duration {
        // From half of the mean to one and a half: not in step with anything.
        let mean = (1 + MOST_AT_ONCE) as f64 / 2.0 / rate;
        Duration::from_secs_f64(mean / 2.0) + self.dice.time(Duration::from_secs_f64(mean))
    }

    fn go_on(
        &mut self,
        plan: &Plan,
        world: &World,
        peers: &mut [Peer; 2],
        people: &mut [Person<'_>],
    ) -> Result<()> {
        let now = Instant::now();
        self.end(world, now);
        if now >= self.next_peer {
            self.next_peer = now + PEER_DIES;
            peers[1].restart(world)?;
            self.troubles.peer_kills += 1;
        }
        if now < self.next {
            return Ok(());
        }
        self.next = now + TROUBLE / 2 + self.dice.time(TROUBLE);
        let who = self.dice.place(people.len());
        let side = people[who].side();
        match self.dice.below(5) {
            0 => {
                trouble::remap(trouble::router(world, side)?)?;
                self.troubles.remaps += 1;
            }
            1 => {
                trouble::move_again(world, side, self.has_moved[who])?;
                self.has_moved[who] = !self.has_moved[who];
                self.troubles.moves += 1;
            }
            2 => {
                let (site, _) = world.site(side)?;
                world.wire().set_down(site, true);
                self.down.push((now + self.dice.time(LONGEST_TROUBLE), site));
                self.troubles.outages += 1;
            }
            3 => {
                world.wire().set_weather(plan.distance.weather);
                self.bad_weather_until = Some(now + self.dice.time(LONGEST_TROUBLE));
                self.troubles.storms += 1;
            }
            _ if plan.mortal > 0 => {
                let mortal = people.len() - 1 - self.dice.place(plan.mortal);
                people[mortal].kill();
                people[mortal].start()?;
                self.troubles.node_kills += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, world: &World, now: Instant) {
        self.down.retain(|(until, site)| {
            let goes_on = *until > now;
            world.wire().set_down(*site, goes_on);
            goes_on
        });
        if self.bad_weather_until.take_if(|until| *until <= now).is_some() {
            world.wire().set_weather(Weather::CLEAR);
        }
    }

    fn calm(&mut self, world: &World) {
        self.end(world, Instant::now() + LONGEST_TROUBLE);
    }
}

/// Time of the processor. What a process had used when it was last seen counts when it is gone.
#[derive(Debug)]
struct Cpu {
    begin: f64,
    seen: std::collections::BTreeMap<u32, (f64, f64)>,
}

impl Cpu {
    fn new() -> Self {
        Self { begin: cpu_s(std::process::id()), seen: std::collections::BTreeMap::new() }
    }

    /// Seconds that everything has used from the first look on.
    fn look(&mut self, people: &[Person<'_>], peers: &[Peer]) -> f64 {
        let nodes = people.iter().filter_map(|person| Some(person.listening().ok()?.pid()));
        for pid in nodes.chain(peers.iter().map(Peer::pid)) {
            let used = cpu_s(pid);
            let (_, last) = self.seen.entry(pid).or_insert((used, used));
            *last = used.max(*last);
        }
        // Children that have ended are in our own time: `send`, and killed nodes as a whole.
        let own = cpu_s(std::process::id()) - self.begin;
        let living = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        let nodes = self.seen.iter().filter(|(pid, _)| living(pid));
        own + nodes.map(|(_, (first, last))| last - first).sum::<f64>()
    }
}

/// To whom people write: the next, and one further on.
const FRIENDS: [usize; 2] = [1, 3];
/// With fewer people, somebody would be the next and the one further on.
const LEAST: usize = 7;
/// Where the peer is that is restarted.
const SECOND_PORT: u16 = PORT + 8_000;
/// The most messages that are sent at once.
const MOST_AT_ONCE: usize = 4;
/// Texts are shorter.
const LONGEST: usize = 2_000;
/// From one sample to the next.
const SAMPLE: Duration = Duration::from_secs(30);
/// From one line about how it goes to the next.
const MOMENT: Duration = Duration::from_secs(300);
/// The mean time from one trouble to the next.
const TROUBLE: Duration = Duration::from_secs(15);
/// The longest time of bad weather or without a link.
const LONGEST_TROUBLE: Duration = Duration::from_secs(20);
/// How often the second peer dies.
const PEER_DIES: Duration = Duration::from_secs(600);
