//! What must hold in every run.

use std::time::Duration;

use halloo_nat::{SendOn, Technique};

use crate::oracle::Expectation;
use crate::scenario::DIAL_AT;
use crate::world::Outcome;

/// Probes in one second to addresses that have not answered: what the node's budget gives after a
/// quiet time (150 and 50).
pub const MAX_PUNCH: u32 = 200;
/// Probes of a search in one second: likewise (256 and 500).
pub const MAX_SEARCH: u32 = 756;
/// Answers and checks in one second. A search is answered at its own rate.
pub const MAX_SOLICITED: u32 = 800;
/// Echo requests in one second.
pub const MAX_ECHO: u32 = 60;
/// Outputs of the machines for one input: one from each of 256 sockets, and some more.
pub const MAX_OUTPUTS: usize = 600;
/// Knocks in one run of less than half a minute.
pub const MAX_KNOCKS: usize = 9;
/// Silence while a direct path dies under traffic.
pub const MAX_SILENCE: Duration = Duration::from_millis(500);

/// What is wrong with a run, whatever happened in it. Empty when all is well.
pub fn invariants(outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    must(outcome.bystander == 0, format!("a bystander received {}", outcome.bystander));
    for (n, side) in outcome.sides.iter().enumerate() {
        let other = &outcome.sides[1 - n];
        let name = ["alice", "bob"][n];
        must(
            side.said == other.heard,
            format!("{name} said {}, of which {} were heard", side.said, other.heard),
        );
        let mut below = |what: &str, is: u32, limit: u32| {
            must(is <= limit, format!("{name}: {what}: {is}, more than {limit}"));
        };
        below("probes a second", side.punch_peak, MAX_PUNCH);
        below("search probes a second", side.search_peak, MAX_SEARCH);
        below("answers a second", side.solicited_peak, MAX_SOLICITED);
        below("echoes a second", side.echo_peak, MAX_ECHO);
        below("outputs for one input", side.most_outputs as u32, MAX_OUTPUTS as u32);
        below("knocks", side.knocks as u32, MAX_KNOCKS as u32);
    }
    wrong
}

/// What is wrong with a call in which nothing else happened, after what the oracle says.
/// [`Expectation::Likely`] is for those who count.
pub fn call(outcome: &Outcome, expected: Expectation) -> Vec<String> {
    let mut wrong = Vec::new();
    let looks = outcome.sides.each_ref().map(|s| s.look.send_on);
    match expected {
        Expectation::Direct => {
            if !looks.iter().all(|l| matches!(l, SendOn::Direct(_))) {
                let why = outcome.sides.each_ref().map(|s| s.why);
                wrong.push(format!("a direct path is possible, but: {looks:?}, {why:?}"));
            }
            wrong.extend(too_late(outcome));
        }
        Expectation::Relay => {
            if looks != [SendOn::Relay, SendOn::Relay] {
                wrong.push(format!("no direct path is possible, but: {looks:?}"));
            }
        }
        Expectation::Likely | Expectation::Either => {}
    }
    wrong.extend(first_message_late(outcome));
    wrong
}

/// The earliest moment, since the beginning, at which both sides know each other's addresses, and
/// the one-way delay between them.
pub fn floor(outcome: &Outcome) -> (Duration, Duration) {
    let scenario = &outcome.scenario;
    let [a, b] = [0, 1].map(|n| scenario.delay(n) + scenario.peer_delay);
    (DIAL_AT + (2 * a).max(a + b), scenario.direct_delay())
}

/// Where nothing is lost, a path that needs no search is there when the first probes have crossed:
/// at the side that was told first after one transit, at the other after its answer at the latest.
/// One step of the schedule is allowed on top.
fn too_late(outcome: &Outcome) -> Option<String> {
    if !outcome.scenario.is_clean() {
        return None;
    }
    let (both_know, transit) = floor(outcome);
    let [one, two] = outcome.sides.each_ref().map(|s| s.direct.unwrap_or(Duration::MAX));
    let (first, last) = (one.min(two), one.max(two));
    // A local address is nobody's in particular, so its probe has to be answered first.
    let local = outcome.sides.iter().any(|s| s.look.technique == Some(Technique::Lan));
    let answer = if local { transit } else { Duration::ZERO };
    let first_allowed = both_know + transit + answer + STEP;
    let last_allowed = both_know + 2 * transit + answer + STEP;
    let late = first > first_allowed || last > last_allowed;
    late.then(|| {
        format!(
            "direct after {:?} and {:?}, allowed {:?} and {:?}",
            first.saturating_sub(DIAL_AT),
            last.saturating_sub(DIAL_AT),
            first_allowed - DIAL_AT,
            last_allowed - DIAL_AT
        )
    })
}

/// The first message takes the way through the peer and waits for nothing.
fn first_message_late(outcome: &Outcome) -> Option<String> {
    let scenario = &outcome.scenario;
    if !scenario.is_clean() {
        return None;
    }
    let transit = scenario.delay(0) + scenario.delay(1) + 2 * scenario.peer_delay;
    let heard = outcome.sides[1].first_heard;
    let late = heard.is_none_or(|at| at > DIAL_AT + transit);
    late.then(|| format!("the first message came at {heard:?}, not after {transit:?}"))
}

/// The second probe of the schedule follows the first after 20 ms.
const STEP: Duration = Duration::from_millis(20);
