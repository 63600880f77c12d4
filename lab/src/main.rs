//! The program `lab`. `lab --help` says what it can do.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use halloo_lab::check;
use halloo_lab::events::{self, Story};
use halloo_lab::full::{self, Whose};
use halloo_lab::inside;
use halloo_lab::instances;
use halloo_lab::kind::Kind;
use halloo_lab::ledger::Wrong;
use halloo_lab::matrix::{self, Data, Entry, Part, median};
use halloo_lab::page::{self, Facts};
use halloo_lab::pair;
use halloo_lab::people;
use halloo_lab::plan::Side;
use halloo_lab::program::Programs;
use halloo_lab::soak;
use halloo_lab::speed;
use halloo_lab::storm;
use halloo_lab::trouble::Trouble;
use halloo_lab::waiting;
use halloo_lab::wire::weather::Weather;
use halloo_lab::world::{Distance, Places, World};
use serde::Serialize;

/// Measures Halloo behind real NATs.
///
/// Builds small internets out of network namespaces, with delay, loss and NATs of all kinds, and
/// runs the real programs in them. Needs Linux with nftables, as root or where users may make
/// namespaces. Nothing outside of the lab is touched, and nothing is left when it ends.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the kinds of NAT
    List,
    /// Measure what the NATs do, without Halloo
    Check {
        /// These kinds; all of them when none is named
        #[arg(value_name = "KIND", hide_possible_values = true)]
        kinds: Vec<Kind>,
    },
    /// Measure what the wire itself carries, without Halloo
    Speed {
        #[command(flatten)]
        distance: DistanceArgs,
    },
    /// Measure the first message and the way to a direct path between two people
    Pair {
        #[command(flatten)]
        places: PlacesArgs,
        #[command(flatten)]
        plan: PlanArgs,
    },
    /// Measure all pairs, and write the page about them
    Matrix {
        #[command(flatten)]
        matrix: MatrixArgs,
        #[command(flatten)]
        plan: PlanArgs,
    },
    /// Measure what troubles on the way do to a conversation
    Events {
        /// These; all of them when none is named
        #[arg(value_name = "TROUBLE")]
        troubles: Vec<Trouble>,
        /// Anna's NAT, where things happen
        #[arg(long, default_value = "eim-apdf", hide_possible_values = true)]
        a: Kind,
        /// Ben's NAT
        #[arg(long, default_value = "eim-apdf", hide_possible_values = true)]
        b: Kind,
        /// Where measurements are added
        #[arg(long, value_name = "FILE", default_value = EVENTS)]
        data: PathBuf,
        #[command(flatten)]
        plan: PlanArgs,
    },
    /// Measure how much passes from one person to another
    Perf {
        #[command(flatten)]
        places: PlacesArgs,
        /// For how many seconds
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        duration: u64,
        #[command(flatten)]
        plan: PlanArgs,
    },
    /// Let messages flow on a bad wire while processes are killed and networks change
    ///
    /// Fails when a message is lost, arrives twice or out of order.
    Storm {
        #[command(flatten)]
        storm: StormArgs,
        #[command(flatten)]
        real: RealArgs,
    },
    /// Let a disk be full in the middle of a conversation
    ///
    /// Fails when a message is lost, arrives twice or out of order.
    Full {
        /// Whose disk; one after the other when none is named
        #[arg(value_name = "WHOSE")]
        whose: Vec<Whose>,
        /// The size of the disk, in MiB
        #[arg(long, default_value_t = 4)]
        mib: u32,
        #[command(flatten)]
        real: RealArgs,
    },
    /// Leave messages for people who are away
    ///
    /// Fails when a message is lost, arrives twice or out of order.
    Waiting {
        #[command(flatten)]
        waiting: WaitingArgs,
        #[command(flatten)]
        real: RealArgs,
    },
    /// Put several machines behind one name, and let one more come, one go, and one die
    ///
    /// Fails when a message is lost, arrives twice or out of order, or when somebody moves who has
    /// no reason to, or does not who has. Needs nsd.
    Instances {
        #[command(flatten)]
        instances: InstancesArgs,
        #[command(flatten)]
        real: RealArgs,
    },
    /// Let many people write to each other for an hour, and see what their memory does
    ///
    /// Troubles of all kinds come now and then. Fails when a message is lost, arrives twice or out
    /// of order; what grows is told.
    Soak {
        #[command(flatten)]
        soak: SoakArgs,
        #[command(flatten)]
        real: RealArgs,
    },
    /// Open a shell in a lab, to look around
    Shell {
        #[command(flatten)]
        places: PlacesArgs,
        #[command(flatten)]
        distance: DistanceArgs,
        /// Where
        #[arg(long, value_enum, default_value_t = At::Anna)]
        at: At,
    },
}

/// Where measurements of `lab events` are kept.
const EVENTS: &str = "target/nat-events.jsonl";

/// A place in a lab with two people.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum At {
    /// The node of who is named first.
    Anna,
    /// The other node.
    Ben,
    /// The router of who is named first, the nearest to the internet.
    RouterOfAnna,
    /// The other router.
    RouterOfBen,
    /// The server.
    Server,
}

/// What happens in a storm.
#[derive(Debug, Args)]
struct StormArgs {
    /// Messages of all together
    #[arg(long, default_value_t = 2_000)]
    messages: usize,
    /// Pairs of people who write to each other at the same time
    #[arg(long, default_value_t = 2)]
    pairs: usize,
    /// How often a node is killed while it sends and receives
    #[arg(long, default_value_t = 20, value_name = "N")]
    node_kills: usize,
    /// After how many kills everything of a pair has to arrive before it goes on
    #[arg(long, default_value_t = 5, value_name = "N")]
    settle: usize,
    /// How often the peer is killed
    #[arg(long, default_value_t = 2, value_name = "N")]
    peer_kills: usize,
    /// How often a NAT forgets everything and gives other ports
    #[arg(long, default_value_t = 2, value_name = "N")]
    remaps: usize,
    /// How often a provider gives somebody another address
    #[arg(long, default_value_t = 2, value_name = "N")]
    moves: usize,
    /// Share of packets that are lost, in percent
    #[arg(long, default_value_t = 30.0, value_name = "PERCENT")]
    loss: f64,
    /// Share of packets that overtake others, in percent
    #[arg(long, default_value_t = 50.0, value_name = "PERCENT")]
    reorder: f64,
    /// Share of packets that come twice, in percent
    #[arg(long, default_value_t = 20.0, value_name = "PERCENT")]
    duplicate: f64,
    /// Share of packets in which a bit is changed, in percent
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    corrupt: f64,
    /// Bytes behind the number of each message
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    padding: usize,
}

/// Where real processes run, and what they are.
#[derive(Debug, Args)]
struct RealArgs {
    /// The NATs of people, in turns
    #[arg(
        long, value_name = "KIND", hide_possible_values = true, value_delimiter = ',',
        default_values = ["eim-apdf", "eim-apdf-other-port"]
    )]
    nats: Vec<Kind>,
    /// One-way delay of each node's link, in milliseconds
    #[arg(long, default_value_t = 25, value_name = "MS")]
    delay: u64,
    /// Chooses what happens when [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Where halloo and rendezvous-peer are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep homes, and what the programs said, in a directory instead of in memory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl RealArgs {
    fn programs(&self) -> Result<Programs> {
        if let Some(dir) = &self.keep {
            inside::keep(dir)?;
        }
        Programs::find(self.bin_dir.as_deref())
    }

    /// The links, the weather between them, and the seed, which is said.
    fn distance(&self, weather: Weather) -> Distance {
        let mut distance = Distance::with_delay(Duration::from_millis(self.delay));
        distance.weather = weather;
        distance.seed = self.seed.unwrap_or_else(|| people::now() % 1_000_000_007);
        progress(&format!("--seed {}", distance.seed));
        distance
    }

    /// Tells the outcome, and whether it is as it should be.
    fn outcome(&self, outcome: &impl Serialize, line: &str, is_right: bool) -> Result<()> {
        say(if self.json { serde_json::to_string(outcome)? } else { line.to_owned() }.as_str())?;
        ensure!(is_right, "that is not what was promised");
        Ok(())
    }
}

impl StormArgs {
    fn weather(&self) -> Weather {
        Weather {
            loss: self.loss / 100.0,
            reorder: self.reorder / 100.0,
            duplicate: self.duplicate / 100.0,
            corrupt: self.corrupt / 100.0,
        }
    }

    fn run(&self, real: &RealArgs) -> Result<()> {
        let plan = storm::Plan {
            programs: real.programs()?,
            pairs: self.pairs,
            nats: real.nats.clone(),
            messages: self.messages,
            node_kills: self.node_kills,
            settle: self.settle.max(1),
            peer_kills: self.peer_kills,
            remaps: self.remaps,
            moves: self.moves,
            distance: real.distance(self.weather()),
            padding: self.padding,
        };
        let outcome = storm::run(&plan, progress)?;
        let storm::Outcome { wrong, delays, node_kills: [first, second], .. } = &outcome;
        let line = format!(
            "{} messages, killed: nodes {first} + {second}, peer {}; NATs forgot {} times, \
             addresses changed {} times; {wrong}; half within {:.2} s, 99 % within {:.1} s, \
             longest {:.1} s; longest settling {:.1} s, at the end {:.1} s; {:.0} s",
            outcome.messages,
            outcome.peer_kills,
            outcome.remaps,
            outcome.moves,
            delays.median_s,
            delays.p99_s,
            delays.longest_s,
            outcome.settling_s,
            outcome.last_settling_s,
            outcome.took_s,
        );
        real.outcome(&outcome, &line, *wrong == Wrong::default())
    }
}

/// What waits, and what happens meanwhile.
#[derive(Debug, Args)]
struct WaitingArgs {
    /// Messages to each who is away
    #[arg(long, default_value_t = 2_500)]
    messages: usize,
    /// How many are away
    #[arg(long, default_value_t = 1, value_name = "N")]
    away: usize,
    /// Kill the peer while they wait there
    #[arg(long)]
    peer_dies: bool,
    /// How long the others stay away after that, in seconds
    #[arg(long, default_value_t = 1, value_name = "SECONDS", requires = "peer_dies")]
    after: u64,
    /// Let the sender leave before the others come, and come back after them
    #[arg(long)]
    sender_leaves: bool,
}

impl WaitingArgs {
    fn run(&self, real: &RealArgs) -> Result<()> {
        let plan = waiting::Plan {
            programs: real.programs()?,
            nats: real.nats.clone(),
            messages: self.messages,
            away: self.away,
            peer_dies: self.peer_dies,
            after: Duration::from_secs(self.after),
            sender_leaves: self.sender_leaves,
            distance: real.distance(Weather::CLEAR),
        };
        let outcome = waiting::run(&plan, progress)?;
        let waiting::Outcome { wrong, found, .. } = &outcome;
        let found = found.map(|n| format!(", {n} found without the sender")).unwrap_or_default();
        let line = format!(
            "{} messages to {} people; at the peer: {} after {:.1} s{found}; everything \
             arrived after {:.1} s; {wrong}",
            outcome.messages, self.away, outcome.at_peer, outcome.left_s, outcome.fetched_s,
        );
        real.outcome(&outcome, &line, *wrong == Wrong::default())
    }
}

/// Who writes, with several machines behind a name.
#[derive(Debug, Args)]
struct InstancesArgs {
    /// Pairs of people who write to each other
    #[arg(long, default_value_t = 6)]
    pairs: usize,
    /// Messages of each to the other, in each of the four times
    #[arg(long, default_value_t = 20)]
    messages: usize,
}

impl InstancesArgs {
    fn run(&self, real: &RealArgs) -> Result<()> {
        let plan = instances::Plan {
            programs: real.programs()?,
            nats: real.nats.clone(),
            pairs: self.pairs,
            messages: self.messages,
            distance: real.distance(Weather::CLEAR),
        };
        let outcome = instances::run(&plan, progress)?;
        let instances::Outcome { wrong, messages, moved_for_nothing, .. } = &outcome;
        let table = outcome.table();
        let line = format!(
            "{table}{messages} messages; {wrong}; moved without a reason, or not although there was \
             one: {moved_for_nothing}"
        );
        real.outcome(&outcome, &line, outcome.is_right())
    }
}

fn fill(whose: Whose, mib: u32, real: &RealArgs) -> Result<()> {
    let plan = full::Plan {
        programs: real.programs()?,
        nats: real.nats.clone(),
        mib,
        distance: real.distance(Weather::CLEAR),
    };
    let outcome = full::run(whose, &plan)?;
    let full::Outcome { wrong, while_full: [promised, arrived], told_while_full, .. } = &outcome;
    let refused = outcome.refused.as_ref();
    let line = format!(
        "{whose:?}: {} messages; while the disk was full {promised} promised, {arrived} arrived, {} \
         told delivered{}; everything arrived {:.1} s after there was room; {wrong}",
        outcome.messages,
        told_while_full.delivered,
        refused.map(|(code, e)| format!(", send ended with {code}: {e}")).unwrap_or_default(),
        outcome.recovery_s,
    );
    let is_said = refused.is_none_or(|(code, error)| *code == 1 && error.contains("disk-full"));
    real.outcome(&outcome, &line, *wrong == Wrong::default() && is_said)
}

/// How a soak is.
#[derive(Debug, Args)]
struct SoakArgs {
    /// How many people
    #[arg(long, default_value_t = 20)]
    people: usize,
    /// How many of them have a node that is killed now and then; their memory is not counted
    #[arg(long, default_value_t = 4, value_name = "N")]
    mortal: usize,
    /// Messages that each sends to each friend at the beginning, so that caches are full
    #[arg(long, default_value_t = 800, value_name = "N")]
    fill: usize,
    /// For how long
    #[arg(long, default_value_t = 60, value_name = "MINUTES")]
    minutes: u64,
    /// What is not counted at the beginning
    #[arg(long, default_value_t = 10, value_name = "MINUTES")]
    warm_up: u64,
    /// Messages a second of all together
    #[arg(long, default_value_t = 5.0, value_name = "N")]
    rate: f64,
    /// Write every sample to a file, as JSON, one object a line
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
}

impl SoakArgs {
    fn run(&self, real: &RealArgs) -> Result<()> {
        let weather = Weather { loss: 0.3, reorder: 0.5, duplicate: 0.2, corrupt: 0.01 };
        let plan = soak::Plan {
            programs: real.programs()?,
            people: self.people,
            mortal: self.mortal,
            nats: real.nats.clone(),
            fill: self.fill,
            time: Duration::from_secs(self.minutes * 60),
            warm_up: Duration::from_secs(self.warm_up * 60),
            rate: self.rate,
            distance: real.distance(weather),
        };
        let outcome = soak::run(&plan, self.samples.as_deref(), progress)?;
        let soak::Outcome { wrong, delays, nodes, worst_node, peer, .. } = &outcome;
        let line = format!(
            "{} minutes, {} messages; {wrong}; 99 % within {:.1} s, longest {:.1} s; memory of \
             nodes {:+.2} % an hour (the worst {:+.2} %; without files {:+.2} %), of the peer {:+.2} % \
             (without files {:+.2} %); open files {:+.2} % \
             and {:+.2} %; {:.0} % of one core; {:?}",
            outcome.minutes,
            outcome.messages,
            delays.p99_s,
            delays.longest_s,
            nodes.percent_per_hour,
            worst_node.percent_per_hour,
            outcome.nodes_anon.percent_per_hour,
            peer.percent_per_hour,
            outcome.peer_anon.percent_per_hour,
            outcome.node_fds.percent_per_hour,
            outcome.peer_fds.percent_per_hour,
            outcome.cpu_percent,
            outcome.troubles,
        );
        real.outcome(&outcome, &line, *wrong == Wrong::default())
    }
}

/// Which pairs, and where to.
#[derive(Debug, Args)]
struct MatrixArgs {
    /// Only one part of the pairs, as NUMBER/OF: 1/4 is the first quarter
    #[arg(long, value_parser = part, default_value = "1/1", value_name = "NUMBER/OF")]
    part: Part,
    /// Where measurements are kept; what is in it is not measured again
    #[arg(long, value_name = "FILE", default_value = "target/nat-matrix.jsonl")]
    data: PathBuf,
    /// Where measurements of `lab events` are kept
    #[arg(long, value_name = "FILE", default_value = EVENTS)]
    events: PathBuf,
    /// Write the page about all that is in the data, here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure nothing more
    #[arg(long, requires = "out")]
    only_page: bool,
}

fn part(text: &str) -> Result<Part> {
    let parts = text.split_once('/').context("a part is NUMBER/OF")?;
    let part = Part { number: parts.0.parse()?, of: parts.1.parse()? };
    ensure!((1..=part.of).contains(&part.number), "there is no part {text}");
    Ok(part)
}

/// Where the two people are.
#[derive(Debug, Args)]
struct PlacesArgs {
    /// Who writes: a kind of `lab list`, or same-lan or same-carrier for both
    #[arg(value_name = "A|same-lan|same-carrier")]
    a: String,
    /// Who is written to
    #[arg(value_name = "B")]
    b: Option<String>,
}

impl PlacesArgs {
    fn places(&self) -> Result<Places> {
        let kind = |name: &str| {
            Kind::from_str(name, true)
                .map_err(|_| anyhow!("there is no kind of NAT called {name}: see lab list"))
        };
        match (self.a.as_str(), &self.b) {
            ("same-lan", None) => Ok(Places::SameLan),
            ("same-carrier", None) => Ok(Places::SameCarrier),
            (a, Some(b)) => Ok(Places::Apart(kind(a)?, kind(b)?)),
            (a, None) => bail!("where is the other one? lab pair {a} KIND"),
        }
    }
}

/// How to measure.
#[derive(Debug, Args)]
struct PlanArgs {
    /// How often
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How many seconds to wait for a direct path
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    patience: u64,
    #[command(flatten)]
    distance: DistanceArgs,
    /// Where halloo and rendezvous-peer are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep homes, and what the programs said, in a directory instead of in memory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What the links are like.
#[derive(Debug, Args)]
struct DistanceArgs {
    /// One-way delay of each node's link, in milliseconds
    #[arg(long, default_value_t = 25, value_name = "MS")]
    delay: u64,
    /// Share of frames that each node's link loses, in each direction, in percent
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    loss: f64,
    /// Chooses which frames are lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl DistanceArgs {
    fn distance(&self) -> Distance {
        let mut distance = Distance::with_delay(Duration::from_millis(self.delay));
        distance.node = distance.node.with_loss(self.loss / 100.0);
        distance.seed = self.seed;
        distance
    }
}

impl PlanArgs {
    fn plan(&self) -> Result<pair::Plan> {
        if let Some(dir) = &self.keep {
            inside::keep(dir)?;
        }
        Ok(pair::Plan {
            programs: Programs::find(self.bin_dir.as_deref())?,
            runs: self.runs,
            patience: Duration::from_secs(self.patience),
            distance: self.distance.distance(),
        })
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    if !matches!(command, Command::List)
        && let Some(code) = inside::go()?
    {
        return Ok(code);
    }
    match command {
        Command::List => {
            for kind in Kind::all() {
                say(&format!("{kind:<22}{}", kind.help()))?;
            }
        }
        Command::Check { kinds } => {
            let kinds = if kinds.is_empty() { Kind::all() } else { &kinds };
            check::run(kinds, say)?;
        }
        Command::Speed { distance } => {
            let rate = speed::measure(&distance.distance(), Duration::from_secs(5))?;
            say(&format!("{rate:.2} Gbit/s"))?;
        }
        Command::Pair { places, plan } => {
            let places = places.places()?;
            let runs = pair::measure(places, &plan.plan()?)?;
            for run in &runs {
                say(&serde_json::to_string(run)?)?;
            }
            say(&in_a_line(&Entry { pair: places.to_string(), runs, error: None }))?;
        }
        Command::Perf { places, duration, plan } => {
            let (places, time) = (places.places()?, Duration::from_secs(duration));
            let found = speed::between_people(places, &plan.plan()?, time)?;
            say(&format!("{places}: {:.1} MiB/s, {}", found.mib_per_s, found.path))?;
        }
        Command::Shell { places, distance, at } => {
            shell(&World::new(places.places()?, &distance.distance())?, at)?;
        }
        Command::Events { troubles, a, b, data, plan } => {
            let (plan, mut data) = (plan.plan()?, Data::open(&data)?);
            let troubles = if troubles.is_empty() { Trouble::all() } else { &troubles };
            for trouble in troubles {
                let story = events::measure(*trouble, Places::Apart(a, b), &plan)?;
                say(&story_in_a_line(&story))?;
                data.add(story)?;
            }
        }
        Command::Full { whose, mib, real } => {
            let whose = if whose.is_empty() { Whose::value_variants() } else { &whose };
            for whose in whose {
                fill(*whose, mib, &real)?;
            }
        }
        Command::Waiting { waiting, real } => waiting.run(&real)?,
        Command::Instances { instances, real } => instances.run(&real)?,
        Command::Soak { soak, real } => soak.run(&real)?,
        Command::Storm { storm, real } => storm.run(&real)?,
        Command::Matrix { matrix, plan } => measure_all(&matrix, &plan.plan()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_all(args: &MatrixArgs, plan: &pair::Plan) -> Result<()> {
    let mut data = Data::open(&args.data)?;
    if !args.only_page {
        matrix::measure(&mut data, args.part, plan, |entry| say(&in_a_line(entry)))?;
    }
    let Some(out) = &args.out else { return Ok(()) };
    let findings = Kind::all().iter().map(|kind| check::measure(*kind));
    let findings = findings.collect::<Result<Vec<_>>>()?;
    let facts = Facts {
        date: output_of("date", &["-u", "+%Y-%m-%d"])?,
        kernel: output_of("uname", &["-r"])?.split('-').next().unwrap_or_default().to_owned(),
        command: format!(
            "cargo build --release -p halloo-app -p rendezvous-peer -p halloo-lab\n\
             target/release/lab events\n\
             target/release/lab matrix --runs {} --out docs/nat-matrix.md",
            plan.runs
        ),
    };
    let page = page::write(&data, &Data::open(&args.events)?, &findings, &facts)?;
    std::fs::write(out, page).with_context(|| format!("cannot write {}", out.display()))
}

fn in_a_line(entry: &Entry) -> String {
    if let Some(error) = &entry.error {
        return format!("{:<42}{error}", entry.pair);
    }
    let (first, direct) =
        (entry.times(|run| run.first_message_ms), entry.times(|run| run.direct_ms));
    let ms = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0}"));
    format!(
        "{:<42}arrived {}/{}, first {} ms (slowest {}), direct {}/{} after {} ms (slowest {}){}",
        entry.pair,
        entry.delivered(),
        entry.runs.len(),
        ms(median(&first)),
        ms(first.last().copied()),
        entry.direct(),
        entry.runs.len(),
        ms(median(&direct)),
        ms(direct.last().copied()),
        entry.technique().map(|t| format!(", {t}")).unwrap_or_default(),
    )
}

fn story_in_a_line(story: &Story) -> String {
    let way = |way: &Option<String>| way.clone().unwrap_or_else(|| "nothing".to_owned());
    let again = story.direct_again_s.map_or("not".to_owned(), |s| format!("after {s:.2} s"));
    format!(
        "{:<18}{}: longest silence {:.2} s ({:.2} one way, {:.2} the other), lost {}, disorder {}, {} -> {}, direct again {again}",
        story.trouble.name(),
        story.pair,
        story.silence_s(),
        story.outcomes[0].silence_s,
        story.outcomes[1].silence_s,
        story.lost(),
        story.disorder(),
        way(&story.before),
        way(&story.after),
    )
}

fn shell(world: &World, at: At) -> Result<()> {
    let router = |side| {
        let router = world.site(side)?.1.outer_router();
        router.context("an open node has no router")
    };
    let place = match at {
        At::Anna => world.node(Side::A)?,
        At::Ben => world.node(Side::B)?,
        At::RouterOfAnna => router(Side::A)?,
        At::RouterOfBen => router(Side::B)?,
        At::Server => world.server(),
    };
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut child = place.spawn(&mut std::process::Command::new(shell))??;
    child.wait()?;
    Ok(())
}

fn output_of(program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// For people who wait.
fn progress(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
