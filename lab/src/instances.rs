//! Several machines behind one name: who is registered where, and what moves when the name gets
//! another machine, loses one, or one of them dies.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use halloo_identity::{Address, Fingerprint, Machine, Machines, PeerHost};
use serde::Serialize;

use crate::inside;
use crate::kind::Kind;
use crate::ledger::{Batch, Ledger, StreamId, Wrong, settle};
use crate::names::{Listed, NameServer};
use crate::people::{Person, START, is};
use crate::plan::{MOST_PEOPLE, SERVER_V4, Side};
use crate::program::{Programs, Running, run as run_program};
use crate::tools;
use crate::world::{Distance, World};

/// The name that they share.
const NAME: &str = "many.test";
/// The shares of the machines: the first three are there from the beginning, the last comes later.
const WEIGHTS: [u16; 4] = [2, 1, 1, 2];
/// How many are there from the beginning.
const FIRST: usize = 3;
/// The one that is taken out of the name.
const REMOVED: usize = 1;
/// The one that dies.
const KILLED: usize = 0;
/// How long a change may take until everybody is where they belong, and until messages have arrived.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// The NATs, in turns.
    pub nats: Vec<Kind>,
    /// Pairs of people who write to each other.
    pub pairs: usize,
    /// Messages of each to the other, in each of the four times.
    pub messages: usize,
    /// The links.
    pub distance: Distance,
}

/// What became of one change.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// What happened.
    pub what: &'static str,
    /// Who is where after it, for each machine.
    pub at: Vec<usize>,
    /// How many moved.
    pub moved: usize,
    /// How many were to move, by the records and their fingerprints.
    pub to_move: usize,
    /// Until the last was where they belong, in seconds.
    pub moved_s: f64,
    /// Until all messages that were sent meanwhile had arrived, in seconds.
    pub settled_s: f64,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Messages that were promised.
    pub messages: u64,
    /// What happened, in order; the first is the beginning.
    pub changes: Vec<Change>,
    /// People who went from or to a machine although nothing had changed for them.
    pub moved_for_nothing: usize,
    /// What must not happen.
    #[serde(flatten)]
    pub wrong: Wrong,
}

impl Outcome {
    /// Whether everything is as it should be.
    pub fn is_right(&self) -> bool {
        let as_expected = |change: &Change| change.moved == change.to_move;
        self.wrong == Wrong::default()
            && self.moved_for_nothing == 0
            && self.changes.iter().all(as_expected)
    }

    /// What moved and what did not.
    pub fn table(&self) -> String {
        let mut table = format!("{:<24}", "");
        for number in 0..WEIGHTS.len() {
            let _ = write!(table, "{:>5}", label(number));
        }
        let _ = writeln!(table, "   moved  to move  stayed  all there  all arrived");
        for change in &self.changes {
            let _ = write!(table, "{:<24}", change.what);
            for count in &change.at {
                let _ = write!(table, "{count:>5}");
            }
            let stayed = change.at.iter().sum::<usize>() - change.moved;
            let _ = writeln!(
                table,
                "{:>8}{:>9}{stayed:>8}{:>9.1} s{:>11.1} s",
                change.moved, change.to_move, change.moved_s, change.settled_s
            );
        }
        table
    }
}

/// Lets it happen, and tells how it goes.
///
/// # Errors
/// The lab cannot be built, somebody does not get where they belong, or messages are stuck.
pub fn run(plan: &Plan, mut tell: impl FnMut(&str)) -> Result<Outcome> {
    let people = plan.pairs * 2;
    let room = MOST_PEOPLE - WEIGHTS.len();
    ensure!((2..=room).contains(&people), "there is room for 1 to {} pairs", room / 2);
    ensure!(!plan.nats.is_empty(), "a home needs a kind of NAT");
    let mut kinds: Vec<Kind> = plan.nats.iter().copied().cycle().take(people).collect();
    kinds.extend([Kind::Open; WEIGHTS.len()]);
    let world = World::of_many(kinds.len(), &kinds, &plan.distance)?;
    let everybody: Vec<Side> = Side::first(kinds.len()).collect();
    let (sides, places) = everybody.split_at(people);

    inside::ask_names_at(SERVER_V4[0].into())?;
    let mut names = NameServer::start(world.server(), SERVER_V4[0].into(), NAME)?;
    let mut machines: Vec<Option<Running>> = Vec::new();
    let mut key = None;
    for (number, side) in places.iter().enumerate().take(FIRST) {
        machines.push(Some(start(&world, *side, &plan.programs, number, &mut key)?));
    }
    let mut listed: Vec<usize> = (0..FIRST).collect();
    names.list(&listing(&listed, places))?;
    tell(&format!("{FIRST} machines are behind {NAME}"));

    let ledger = Arc::new(Ledger::default());
    let address = key.as_ref().map(|key| key.address.clone()).context("there is no machine")?;
    let arriving = |side: Side| -> Result<Member<'_>> {
        let mut person = Person::at(&world, side, &plan.programs, &address)?;
        person.report_to(&ledger);
        // Everything is to go through the machines.
        person.listen_with(&["--direct", "never"]);
        person.arrive()?;
        Member::new(person)
    };
    let begun = Instant::now();
    let arriving = &arriving;
    let mut members = std::thread::scope(|scope| {
        let threads: Vec<_> =
            sides.iter().map(|side| scope.spawn(move || arriving(*side))).collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().map_err(|_| anyhow!("the thread of somebody who arrives panicked"))?
        });
        joined.collect::<Result<Vec<_>>>()
    })?;
    tell(&format!("{people} people are there, after {:.1?}", begun.elapsed()));
    std::thread::scope(|scope| {
        let meet = |pair: &[Member<'_>]| pair[0].person.befriend(&pair[1].person);
        let threads: Vec<_> =
            members.chunks(2).map(|pair| scope.spawn(move || meet(pair))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow!("the thread of a pair panicked"))?
        })
    })?;
    let found = look(&world, &plan.programs, &members[0])?;
    tell(&format!("a node and rendezvous-peer probe see {found} machines"));

    let mut story = Story {
        ledger: &ledger,
        streams: (0..people).map(|_| ledger.stream()).collect(),
        messages: plan.messages,
        sent: 0,
        moved_for_nothing: 0,
    };
    let mut changes = vec![story.go_on("at the beginning", &mut members, &listed, None)?];

    machines.push(Some(start(&world, places[FIRST], &plan.programs, FIRST, &mut key)?));
    listed.push(FIRST);
    names.list(&listing(&listed, places))?;
    changes.push(story.go_on("one more in the name", &mut members, &listed, None)?);
    tell(&format!("{} has come", label(FIRST)));

    listed.retain(|number| *number != REMOVED);
    names.list(&listing(&listed, places))?;
    changes.push(story.go_on("one out of the name", &mut members, &listed, None)?);
    if let Some(mut machine) = machines[REMOVED].take() {
        machine.kill();
    }
    tell(&format!("{} has gone", label(REMOVED)));

    if let Some(mut machine) = machines[KILLED].take() {
        machine.kill();
    }
    changes.push(story.go_on("one killed, still listed", &mut members, &listed, Some(KILLED))?);
    tell(&format!("{} was killed", label(KILLED)));

    Ok(Outcome {
        messages: ledger.counts().0,
        changes,
        moved_for_nothing: story.moved_for_nothing,
        wrong: ledger.wrong(),
    })
}

/// What `halloo doctor` and `rendezvous-peer probe` say about the name: how many machines there are,
/// all of which answer.
fn look(world: &World, programs: &Programs, member: &Member<'_>) -> Result<usize> {
    let doctor = || -> Result<Vec<String>> {
        let said = member.person.halloo(&["doctor"])?;
        let machines = said.iter().filter(|line| line["check"] == "machine");
        let answer = machines.filter(|line| line["ok"] == true);
        Ok(answer.filter_map(|line| line["figures"]["place"].as_str().map(str::to_owned)).collect())
    };
    let mut probe = programs.rendezvous_peer();
    probe.args(["probe", NAME, "--json"]);
    let node = world.node(member.person.side())?;
    let (doctor, probed) = std::thread::scope(|scope| {
        let doctor = scope.spawn(doctor);
        let probed = run_program(node, probe);
        (doctor.join(), probed)
    });
    let mut doctor = doctor.map_err(|_| anyhow!("the thread of the doctor panicked"))??;
    doctor.sort();
    let probed = probed?;
    let probed = probed.first().context("rendezvous-peer probe says nothing")?;
    let hosts: Vec<String> = (0..FIRST).map(host).collect();
    ensure!(probed["machines"] == serde_json::json!(hosts), "probe says {probed}");
    ensure!(doctor == hosts, "halloo doctor says {doctor:?}");
    Ok(hosts.len())
}

/// What all machines have in common.
struct Key {
    file: PathBuf,
    address: String,
}

fn start(
    world: &World,
    side: Side,
    programs: &Programs,
    number: usize,
    key: &mut Option<Key>,
) -> Result<Running> {
    let dir = inside::scratch(&tools::unique("machine"))?;
    let data = dir.join("data");
    if let Some(Key { file, .. }) = key {
        std::fs::create_dir_all(&data).context("cannot make a machine's directory")?;
        // A copy has the rights of what it is a copy of.
        std::fs::copy(file, data.join("peer.key")).context("cannot copy the key")?;
    }
    let mut command = programs.rendezvous_peer();
    command.args(["run", "--json", "--listen", "[::]:443", "--public-host", NAME]);
    command.arg("--data-dir").arg(&data);
    let running = Running::start(world.node(side)?, command, &dir)?;
    let ready = running.said().wait_for(0, START, is("ready"));
    let ready = ready.with_context(|| format!("{} does not start", label(number)))?;
    let address = ready["address"].as_str().context("a machine has no address")?.to_owned();
    match key {
        Some(key) => ensure!(key.address == address, "{} has another key", label(number)),
        None => *key = Some(Key { file: data.join("peer.key"), address }),
    }
    Ok(running)
}

fn label(number: usize) -> String {
    format!("m{}", number + 1)
}

fn host(number: usize) -> String {
    format!("{}.{NAME}", label(number))
}

fn listing(listed: &[usize], places: &[Side]) -> Vec<Listed> {
    let of = |number: &usize| Listed {
        label: label(*number),
        ip: IpAddr::from(places[*number].public_v4()),
        weight: WEIGHTS[*number],
    };
    listed.iter().map(of).collect()
}

/// Where somebody belongs, when one machine may be dead.
fn belongs(listed: &[usize], dead: Option<usize>, who: &Fingerprint) -> Result<usize> {
    let mut records = Vec::new();
    for number in listed {
        let place = PeerHost::new(&host(*number), 443)?;
        records.push(Machine { place, priority: 10, weight: WEIGHTS[*number] });
    }
    let machines = Machines::new(records);
    let numbers = machines.order(who).into_iter().filter_map(|machine| {
        listed.iter().copied().find(|number| host(*number) == machine.place.host())
    });
    numbers.into_iter().find(|number| Some(*number) != dead).context("there is no machine")
}

/// Somebody, and where they are registered.
struct Member<'a> {
    person: Person<'a>,
    who: Fingerprint,
    at: usize,
    /// What was heard of their node before.
    mark: usize,
}

impl<'a> Member<'a> {
    fn new(person: Person<'a>) -> Result<Self> {
        let who = person.address().parse::<Address>()?.fingerprint;
        let said = person.listening()?.said();
        let ready = said.wait_for(0, START, is("ready")).context("it was ready a moment ago")?;
        let at = ready["online_at"][0].as_str().and_then(number_of);
        let at = at.with_context(|| format!("{} is nowhere", person.side().name()))?;
        let mark = said.mark();
        Ok(Self { person, who, at, mark })
    }

    /// Waits until they are registered where they belong, and returns the other places at which they
    /// were since they were looked at last.
    fn wait_for(&mut self, place: usize) -> Result<Vec<usize>> {
        let said = self.person.listening()?.said();
        let name = self.person.side().name();
        if self.at != place {
            let is_there = |line: &serde_json::Value| {
                is("online")(line) && line["machine"].as_str() == Some(host(place).as_str())
            };
            said.wait_for(self.mark, PATIENCE, is_there).with_context(|| {
                format!("{name} does not come to {}: {}", label(place), self.person.errors())
            })?;
        }
        let mark = said.mark();
        let came = said.since(self.mark).into_iter().filter(is("online"));
        let came = came.filter_map(|line| line["machine"].as_str().and_then(number_of));
        let came: Vec<usize> = came.collect();
        self.mark = mark;
        Ok(came)
    }
}

fn number_of(machine: &str) -> Option<usize> {
    (0..WEIGHTS.len()).find(|number| host(*number) == machine)
}

struct Story<'a> {
    ledger: &'a Arc<Ledger>,
    /// From each to the other of the pair.
    streams: Vec<StreamId>,
    messages: usize,
    /// Messages that each has sent.
    sent: usize,
    moved_for_nothing: usize,
}

impl Story<'_> {
    /// Sends messages, waits until everybody is where they belong and everything has arrived.
    fn go_on(
        &mut self,
        what: &'static str,
        members: &mut [Member<'_>],
        listed: &[usize],
        dead: Option<usize>,
    ) -> Result<Change> {
        let begun = Instant::now();
        // Some are sent while people move.
        self.send(members)?;
        let (mut at, mut moved, mut to_move) = (vec![0; WEIGHTS.len()], 0, 0);
        for member in &mut *members {
            let place = belongs(listed, dead, &member.who)?;
            let came = member.wait_for(place)?;
            let is_to_move = member.at != place;
            let has_moved = came.iter().any(|to| *to != member.at);
            to_move += usize::from(is_to_move);
            moved += usize::from(has_moved);
            self.moved_for_nothing += usize::from(has_moved != is_to_move);
            member.at = place;
            at[place] += 1;
        }
        let moved_s = begun.elapsed().as_secs_f64();
        // And some afterwards.
        self.send(members)?;
        settle(self.ledger, &self.streams, PATIENCE).with_context(|| what)?;
        let settled_s = begun.elapsed().as_secs_f64();
        Ok(Change { what, at, moved, to_move, moved_s, settled_s })
    }

    /// Each writes to the other of the pair. Returns when everything is promised.
    fn send(&mut self, members: &[Member<'_>]) -> Result<()> {
        let half = self.messages.div_ceil(2);
        let numbers = self.sent..self.sent + half;
        self.sent += half;
        let mut batches = Vec::new();
        for (number, member) in members.iter().enumerate() {
            let to = members[number ^ 1].person.side();
            let mut batch = Batch::new(self.ledger, self.streams[number], to, numbers.clone());
            batch.begin(&member.person, &[])?;
            batches.push(batch);
        }
        for (batch, member) in batches.iter_mut().zip(members) {
            batch.finish(&member.person)?;
        }
        Ok(())
    }
}
