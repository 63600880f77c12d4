//! A disk that is full in the middle of a conversation: the sender's, or the recipient's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::kind::Kind;
use crate::ledger::{Batch, Ledger, StreamId, Told, Wrong, settle};
use crate::people::{Peer, Person};
use crate::plan::Side;
use crate::program::Programs;
use crate::storm::PATIENCE;
use crate::world::{Distance, World};

/// Whose disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// Of who sends.
    Sender,
    /// Of who is written to.
    Recipient,
}

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs.
    pub programs: Programs,
    /// The NATs of the two, in turns.
    pub nats: Vec<Kind>,
    /// The size of the disk.
    pub mib: u32,
    /// The links.
    pub distance: Distance,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whose disk was full.
    pub whose: Whose,
    /// Messages that were promised in the end.
    pub messages: u64,
    /// Messages that were promised, and that had arrived, while the disk was full.
    pub while_full: [u64; 2],
    /// What the sender was told until then.
    pub told_while_full: Told,
    /// How `halloo send` ended when the sender's disk was full: its exit code and its error.
    pub refused: Option<(i32, String)>,
    /// What must not happen.
    #[serde(flatten)]
    pub wrong: Wrong,
    /// From the moment in which there was room again until everything had arrived, in seconds.
    pub recovery_s: f64,
}

/// Lets it happen.
///
/// # Errors
/// The lab cannot be built, the disk does not fill, the full disk is not said, or messages are
/// stuck after there is room again.
pub fn run(whose: Whose, plan: &Plan) -> Result<Outcome> {
    let world = World::of_many(2, &plan.nats, &plan.distance)?;
    let peer = Peer::start(&world, &plan.programs)?;
    let ledger = Arc::new(Ledger::default());
    let disk = |owner| (whose == owner).then_some(plan.mib);
    let person = |side, owner| {
        let mut person = Person::on_disk(&world, side, &plan.programs, &peer, disk(owner))?;
        person.report_to(&ledger);
        person.arrive()?;
        anyhow::Ok(person)
    };
    let anna = person(Side::A, Whose::Sender)?;
    let ben = person(Side::B, Whose::Recipient)?;
    anna.befriend(&ben)?;
    let (there, back) = (ledger.stream(), ledger.stream());
    let (mut sent, mut answered) = (0, 0);

    let refused = match whose {
        Whose::Sender => {
            let (batch, code) = loop {
                ensure!(sent * LENGTH < MOST, "the disk does not fill");
                let mut batch = batch(&ledger, there, Side::B, &mut sent);
                batch.begin(&anna, &[])?;
                let code = batch.ended()?;
                if code != 0 {
                    break (batch, code);
                }
            };
            Some((batch, code, error_of(&anna)?))
        }
        Whose::Recipient => {
            // More than fits.
            while sent * LENGTH < (plan.mib as usize) << 20 {
                let mut batch = batch(&ledger, there, Side::B, &mut sent);
                batch.begin(&anna, &[])?;
                batch.finish(&anna)?;
            }
            None
        }
    };
    // The other way goes on as far as it can.
    let mut answers = batch(&ledger, back, Side::A, &mut answered);
    if whose == Whose::Sender {
        answers.begin(&ben, &[])?;
        answers.finish(&ben)?;
    }
    ledger.wait_quiet(QUIET);
    let (promised, arrived) = ledger.counts();
    let told_while_full = ledger.told(Side::A);
    ensure!(arrived < promised, "everything has arrived: the disk is not full");
    ensure!(
        told_while_full.delivered <= ledger.arrived(there),
        "{} messages are told delivered, and {} have arrived",
        told_while_full.delivered,
        ledger.arrived(there)
    );

    let owner = if whose == Whose::Sender { &anna } else { &ben };
    owner.resize_disk(ROOM_MIB)?;
    let begun = Instant::now();
    let refused = match refused {
        Some((mut batch, code, error)) => {
            batch.finish(&anna)?;
            Some((code, error))
        }
        None => {
            answers.begin(&ben, &[])?;
            answers.finish(&ben)?;
            None
        }
    };
    settle(&ledger, &[there, back], PATIENCE)
        .with_context(|| format!("{}\n{}", anna.errors(), ben.errors()))?;
    let recovery_s = begun.elapsed().as_secs_f64();
    // Whatever comes again would come before these.
    let mut last = batch(&ledger, there, Side::B, &mut sent);
    last.begin(&anna, &["--wait", "delivered", "--timeout", "60s"])?;
    last.finish(&anna)?;
    settle(&ledger, &[there, back], PATIENCE)?;
    Ok(Outcome {
        whose,
        messages: ledger.counts().0,
        while_full: [promised, arrived],
        told_while_full,
        refused,
        wrong: ledger.wrong(),
        recovery_s,
    })
}

fn batch<'a>(ledger: &'a Arc<Ledger>, stream: StreamId, to: Side, sent: &mut usize) -> Batch<'a> {
    let numbers = *sent..*sent + AT_ONCE;
    *sent = numbers.end;
    Batch::new(ledger, stream, to, numbers).padded(LENGTH)
}

/// The last error that a program of somebody printed.
fn error_of(person: &Person<'_>) -> Result<String> {
    let errors = person.errors();
    let last = errors.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    last.map(|error| error.to_string()).context("no error was said")
}

/// Messages of one `halloo send`.
const AT_ONCE: usize = 40;
/// Bytes of each.
const LENGTH: usize = 4_000;
/// Bytes after which every disk of this laboratory should be full.
const MOST: usize = 64 << 20;
/// The size of the disk when room has been made, in MiB.
const ROOM_MIB: u32 = 256;
/// When nothing has arrived for so long, nothing comes any more.
const QUIET: Duration = Duration::from_secs(2);
