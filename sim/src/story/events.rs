//! What happens to a conversation when the network changes under it.

use std::time::Duration;

use halloo_nat::SendOn;

use super::Story;
use crate::conversation::PACE;
use crate::nat_box::{BoxConfig, Ports};
use crate::rng::Rng;
use crate::scenario::{Near, Scenario, Step};
use crate::world::Outcome;

/// What must be the case when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Direct,
    Relayed,
}

/// How long nothing may be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// No longer than between two datagrams.
    None,
    /// As long as a side takes to see that a path is dead, and to say it by the relay.
    Failover,
    /// As long as it takes to find out that a peer has forgotten us, too.
    Peer,
    /// As long as a relay needs at a new place.
    Move,
    /// It does not matter.
    Any,
}

/// `event/...`
pub(super) fn events() -> Vec<Story> {
    let home = || vec![BoxConfig::home()];
    let moving = || vec![BoxConfig { ports: Ports::Random, ..BoxConfig::home() }];
    let block = || vec![BoxConfig::symmetric(Ports::Block { first: 4096, size: 1024 })];
    let symmetric = || vec![BoxConfig::symmetric(Ports::Random)];
    let blocked = || vec![BoxConfig::blocked()];
    let cut = |s: u64| [at(s, Step::CutDirect(0)), at(s, Step::CutDirect(1))];
    let outage = |n| {
        let back = [at(8, Step::Plug(n, true)), at(12, Step::Listen(true))];
        [vec![at(3, Step::Plug(n, false))], back.to_vec()].concat()
    };
    let mut all = vec![
        event("cut", home(), home(), cut(3).to_vec(), Silence::Failover, End::Relayed),
        event(
            "cut-forward",
            home(),
            home(),
            vec![at(3, Step::CutDirect(0))],
            Silence::Failover,
            End::Relayed,
        ),
        event(
            "cut-back",
            home(),
            home(),
            vec![at(3, Step::CutDirect(1))],
            Silence::Failover,
            End::Relayed,
        ),
        event(
            "cut-and-heal",
            home(),
            home(),
            [cut(3).to_vec(), vec![at(6, Step::Heal)]].concat(),
            Silence::Failover,
            End::Direct,
        ),
        event(
            "restart-of-a-box-that-preserves",
            home(),
            home(),
            vec![at(3, Step::Flush(0, 0))],
            Silence::None,
            End::Direct,
        ),
        event(
            "restart-of-the-callers-box",
            moving(),
            home(),
            vec![at(3, Step::Flush(0, 0))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "restart-of-the-callees-box",
            home(),
            moving(),
            vec![at(3, Step::Flush(1, 0))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "restart-of-a-box-towards-an-open-one",
            moving(),
            vec![BoxConfig::open()],
            vec![at(3, Step::Flush(0, 0))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "restart-of-a-box-after-a-search",
            block(),
            home(),
            vec![at(5, Step::Flush(0, 0))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "renumbered-caller",
            home(),
            home(),
            vec![at(3, Step::Renumber(0))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "renumbered-callee",
            home(),
            home(),
            vec![at(3, Step::Renumber(1))],
            Silence::Failover,
            End::Direct,
        ),
        event(
            "move-of-the-caller",
            home(),
            home(),
            vec![at(3, Step::Move(0, home()))],
            Silence::Move,
            End::Direct,
        ),
        event(
            "move-of-the-callee",
            home(),
            home(),
            vec![at(3, Step::Move(1, home()))],
            Silence::Move,
            End::Direct,
        ),
        event(
            "move-of-both",
            home(),
            home(),
            vec![at(3, Step::Move(0, home())), at(3, Step::Move(1, home()))],
            Silence::Move,
            End::Direct,
        ),
        event(
            "move-to-a-carrier",
            home(),
            home(),
            vec![at(3, Step::Move(0, block()))],
            Silence::Move,
            End::Direct,
        ),
        event(
            "move-of-both-to-symmetric",
            home(),
            home(),
            vec![at(3, Step::Move(0, symmetric())), at(3, Step::Move(1, symmetric()))],
            Silence::Move,
            End::Relayed,
        ),
        event(
            "move-to-a-network-without-udp",
            home(),
            home(),
            vec![at(3, Step::Move(0, blocked()))],
            Silence::Peer,
            End::Relayed,
        ),
        event(
            "move-back",
            home(),
            home(),
            vec![at(3, Step::Move(0, blocked())), at(8, Step::Move(0, home()))],
            Silence::Peer,
            End::Direct,
        ),
        event("outage-of-the-caller", home(), home(), outage(0), Silence::None, End::Direct),
        event("outage-of-the-callee", home(), home(), outage(1), Silence::None, End::Direct),
        event(
            "outage-while-relayed",
            symmetric(),
            symmetric(),
            outage(1),
            Silence::None,
            End::Relayed,
        ),
        event(
            "restart-of-the-peer",
            home(),
            home(),
            vec![at(3, Step::RestartPeer(0))],
            Silence::None,
            End::Direct,
        ),
        event(
            "restart-of-the-peer-and-cut",
            home(),
            home(),
            [vec![at(3, Step::RestartPeer(0))], cut(5).to_vec()].concat(),
            Silence::Peer,
            End::Relayed,
        ),
        event(
            "restart-of-the-peer-while-relayed",
            symmetric(),
            symmetric(),
            vec![at(3, Step::RestartPeer(0))],
            Silence::Peer,
            End::Relayed,
        ),
        event(
            "pause",
            home(),
            home(),
            vec![
                at(3, Step::Listen(false)),
                at(3, Step::Talk(0, false)),
                at(3, Step::Talk(1, false)),
                at(150, Step::Talk(0, true)),
                at(150, Step::Talk(1, true)),
                at(152, Step::Listen(true)),
            ],
            Silence::Any,
            End::Direct,
        ),
    ];
    all.push(leaving_the_lan());
    all
}

/// Two nodes in one local network, of which one leaves: the way through the network was the best
/// one, and is dead.
fn leaving_the_lan() -> Story {
    let events = [at(3, Step::Move(1, vec![BoxConfig::home()]))];
    Story::new(
        "event/move-out-of-the-lan",
        move |seed| {
            let open = || vec![BoxConfig::open()];
            let mut it = Scenario::pair(seed, open(), open());
            it.near = Near::SameLan;
            it.with_events(Duration::from_secs(15), &events)
        },
        |outcome| judge(outcome, Silence::Move, End::Direct),
    )
}

fn at(secs: u64, step: Step) -> (Duration, Step) {
    (Duration::from_secs(secs), step)
}

fn event(
    name: &str,
    one: Vec<BoxConfig>,
    two: Vec<BoxConfig>,
    events: Vec<(Duration, Step)>,
    silence: Silence,
    end: End,
) -> Story {
    let last = events.iter().map(|(at, _)| *at).max().unwrap_or_default();
    let talk = last.max(Duration::from_secs(3)) + Duration::from_secs(12);
    Story::new(
        format!("event/{name}"),
        move |seed| {
            let mut rng = Rng::new(seed);
            let mut it = Scenario::pair(seed, one.clone(), two.clone()).with_events(talk, &events);
            // The first is the case of the written figures.
            if seed != 1 {
                it.sites.iter_mut().for_each(|s| s.delay = rng.millis(2..=25));
            }
            it
        },
        move |outcome| judge(outcome, silence, end),
    )
}

fn judge(outcome: &Outcome, silence: Silence, end: End) -> Vec<String> {
    let mut wrong = Vec::new();
    let looks = outcome.sides.each_ref().map(|s| s.look.send_on);
    let ended = match end {
        End::Direct => looks.iter().all(|l| matches!(l, SendOn::Direct(_))),
        End::Relayed => looks == [SendOn::Relay, SendOn::Relay],
    };
    if !ended {
        wrong.push(format!("not {end:?}: {looks:?}"));
    }
    let allowed = allowed(outcome, silence);
    for (name, side) in ["alice", "bob"].iter().zip(&outcome.sides) {
        if side.silence > allowed {
            wrong.push(format!("{name} heard nothing for {:?}, not {allowed:?}", side.silence));
        }
    }
    wrong
}

fn allowed(outcome: &Outcome, silence: Silence) -> Duration {
    let rtt = 2 * outcome.scenario.direct_delay();
    let relayed = outcome.scenario.direct_delay() + 2 * outcome.scenario.peer_delay;
    let seen = DOUBT.max(3 * rtt) + halloo_nat::WATCH_INTERVAL;
    match silence {
        Silence::None => 2 * PACE,
        Silence::Failover => seen + relayed + 5 * PACE,
        // A knock and its answer, with a stale mapping at first; or a stream.
        Silence::Move => (2 * relayed + 2 * rtt + 5 * PACE).max(MOVE),
        Silence::Peer => Duration::from_millis(2500),
        Silence::Any => Duration::MAX,
    }
}

/// Silence that makes a node doubt a path, at least.
const DOUBT: Duration = Duration::from_millis(250);
/// Repetition of a knock or a registration that met a stale address.
const MOVE: Duration = Duration::from_millis(400);
