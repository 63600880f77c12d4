//! Real processes that are killed while messages flow both ways: at named points, and at random
//! moments.
//!
//! `HALLOO_KILLS=1000 cargo test -p halloo-app --test it kills::at_random -- --nocapture` is a long
//! run; `HALLOO_SEED` repeats the choices of one.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::flow::{Listening, Sender, Wrong, compare};
use crate::harness::World;

/// Messages each way, for each death.
const MESSAGES: usize = 30;
/// The exit code of what was killed by a signal.
const KILLED: i32 = -1;

/// Who is there when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Both: messages flow on a connection.
    Both,
    /// The one who dies is alone, and leaves messages at the other's peer.
    Alone,
    /// The one who dies has been away, and messages wait at the peer.
    Away,
}

/// At the how-manieth passing of a point somebody dies: those that are passed for sure, and those
/// that depend on how much is done at once.
struct Deaths {
    scene: Scene,
    point: &'static str,
    surely: &'static [u32],
    perhaps: &'static [u32],
}

const fn deaths(
    scene: Scene,
    point: &'static str,
    surely: &'static [u32],
    perhaps: &'static [u32],
) -> Deaths {
    Deaths { scene, point, surely, perhaps }
}

const STORE: [Deaths; 4] = [
    deaths(Scene::Both, "store-before-begin", &[1, 17, 50], &[]),
    deaths(Scene::Both, "store-before-commit", &[3, 17, 50], &[]),
    deaths(Scene::Both, "store-after-commit", &[3, 17, 50], &[]),
    deaths(Scene::Both, "store-before-replies", &[1, 17, 50], &[]),
];

const CONNECTION: [Deaths; 5] = [
    deaths(Scene::Both, "link-before-write", &[1, 3, 17], &[]),
    deaths(Scene::Both, "link-after-write", &[1, 3, 17], &[]),
    deaths(Scene::Both, "link-receipt-not-noted", &[1], &[3]),
    // Nobody, when the other keeps to a connection that has just died.
    deaths(Scene::Both, "direct-before-store", &[], &[1, 1, 3, 17]),
    deaths(Scene::Both, "direct-after-store", &[], &[1, 1, 3, 17]),
];

const MAILBOX: [Deaths; 5] = [
    deaths(Scene::Alone, "peer-before-drop", &[1, 3, 17], &[]),
    deaths(Scene::Alone, "peer-receipt-not-noted", &[1, 3, 17], &[]),
    deaths(Scene::Away, "home-before-store", &[1], &[3]),
    deaths(Scene::Away, "home-not-forgotten", &[1], &[3]),
    deaths(Scene::Away, "mailbox-receipt-not-noted", &[1], &[]),
];

#[test]
fn around_a_transaction() {
    die_at(&STORE);
}

#[test]
fn on_a_connection() {
    die_at(&CONNECTION);
}

#[test]
fn through_a_mailbox() {
    die_at(&MAILBOX);
}

#[test]
fn before_the_sender_is_told() {
    let world = World::new();
    let (anna, ben, _at_anna, at_ben) = world.friends();
    let at_ben = Listening::new(&ben, at_ben);
    for which in [1, 3, 17] {
        let prefix = format!("m{which}");
        let at = format!("app-sent-not-told:{which}");
        let mut sender = Sender::start_with(&anna, "ben", &prefix, MESSAGES, |command| {
            command.env("HALLOO_CRASH", &at);
        });
        assert_eq!(sender.ended(), KILLED, "{at}");
        sender.deliver();
        at_ben.wait(&prefix, MESSAGES);
        assert_eq!(compare(&sender.end(), &at_ben, &prefix), Wrong::default(), "{at}");
    }
}

/// One of two who write to each other.
struct Side<'a> {
    /// What the other calls them.
    name: &'static str,
    listening: Listening<'a>,
}

impl<'a> Side<'a> {
    fn send(&self, to: &Side<'a>, prefix: &str, count: usize) -> Sender<'a> {
        Sender::start(self.listening.person, to.name, prefix, count)
    }
}

fn die_at(all: &[Deaths]) {
    let world = World::new();
    let (anna, ben, at_anna, at_ben) = world.friends();
    let mut one = Side { name: "anna", listening: Listening::new(&anna, at_anna) };
    let mut other = Side { name: "ben", listening: Listening::new(&ben, at_ben) };
    let (mut run, mut at_points) = (0, 0);
    let begun = Instant::now();
    for deaths in all {
        let surely = deaths.surely.iter().map(|which| (which, true));
        let perhaps = deaths.perhaps.iter().map(|which| (which, false));
        let before = at_points;
        for (which, surely) in surely.chain(perhaps) {
            let began = Instant::now();
            let at = format!("{}:{which}", deaths.point);
            let died = die(run, deaths.scene, &at, surely, &mut one, &mut other);
            assert!(died || !surely, "nobody died at {at}");
            let how = if died { "died" } else { "not passed" };
            eprintln!("{at}: {how} in {:.1?}", began.elapsed());
            at_points += usize::from(died);
            run += 1;
            std::mem::swap(&mut one, &mut other);
        }
        assert!(at_points > before, "nobody died at {}", deaths.point);
    }
    assert_eq!(one.listening.repeated() + other.listening.repeated(), 0);
    eprintln!("{run} runs, {at_points} deaths at points, {:.1?}", begun.elapsed());
}

/// One dies at a point, and both have everything in the end. Returns false when the point was not
/// passed so often.
fn die<'a>(
    run: usize,
    scene: Scene,
    at: &str,
    surely: bool,
    one: &mut Side<'a>,
    other: &mut Side<'a>,
) -> bool {
    let (ours, theirs) = (format!("m{run}-{}", one.name), format!("m{run}-{}", other.name));
    let mut from_other = None;
    match scene {
        Scene::Both => {}
        Scene::Alone => other.listening.kill(),
        Scene::Away => {
            one.listening.kill();
            let person = other.listening.person;
            let sender = Sender::start_with(person, one.name, &theirs, MESSAGES, |command| {
                command.args(["--wait", "peer", "--timeout", "200s"]);
            });
            assert_eq!(sender.ended(), 0, "its messages wait at the peer");
            from_other = Some(sender);
        }
    }
    one.listening.restart_to_die(at);
    let mut died = !is_ready(one) || (scene == Scene::Both && !is_connected(run, one, other));
    let restarted = died;
    if restarted {
        assert_eq!(one.listening.process.end(), KILLED, "{at}");
        one.listening.restart();
    }
    let mut from_one = one.send(other, &ours, MESSAGES);
    if scene == Scene::Both {
        from_other = Some(other.send(one, &theirs, MESSAGES));
    }
    if !restarted {
        died = match surely {
            true => one.listening.process.end() == KILLED,
            false => !one.listening.wait_or_end(&theirs, MESSAGES),
        };
        one.listening.restart();
    }
    if scene == Scene::Alone {
        other.listening.restart();
    }
    let mut from_other = from_other.unwrap_or_else(|| other.send(one, &theirs, MESSAGES));
    for (sender, to, prefix) in [(&mut from_one, &*other, &ours), (&mut from_other, &*one, &theirs)]
    {
        sender.deliver();
        to.listening.wait(prefix, MESSAGES);
    }
    for (sender, to, prefix) in [(&mut from_one, &*other, &ours), (&mut from_other, &*one, &theirs)]
    {
        assert_eq!(compare(&sender.end(), &to.listening, prefix), Wrong::default(), "{at}");
    }
    died
}

/// Waits until the node is ready. Returns false when it died before.
fn is_ready(side: &Side) -> bool {
    let ready = |lines: &[Value]| lines.iter().any(|line| line["event"] == "ready");
    side.listening.process.wait_or_end("ready", ready)
}

/// Waits until there is a connection: whoever has something to say gets one. Returns false when the
/// one died before.
fn is_connected(run: usize, one: &Side, other: &Side) -> bool {
    let hello = format!("hello {run}");
    one.listening.person.run(&["send", other.name, &hello, "--key", &hello]);
    one.listening.process.wait_or_end("connection", |lines| {
        lines.iter().any(|line| line["event"] == "path" && line["via"] != "mailbox")
    })
}

/// Messages of a round of the random run.
const ROUND: usize = 20;
/// Rounds after which everything has to have arrived.
const SETTLE: usize = 5;
/// Longest time from the beginning of a round to the death.
const LATEST_MS: u64 = 400;
/// A wait that is worth a line.
const LONG: Duration = Duration::from_secs(20);
/// Every so-manieth death is the peer's.
const PEER_DIES: usize = 10;

#[test]
fn at_random() {
    let kills = number("HALLOO_KILLS").unwrap_or(12);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("HALLOO_SEED").unwrap_or(now.subsec_nanos().into());
    eprintln!("HALLOO_SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::new();
    let (anna, ben, at_anna, at_ben) = world.friends();
    let mut sides = [
        Side { name: "anna", listening: Listening::new(&anna, at_anna) },
        Side { name: "ben", listening: Listening::new(&ben, at_ben) },
    ];
    let (mut open, mut died) = (Vec::new(), [0; 3]);
    let (mut wrong, mut messages) = (Wrong::default(), 0);
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for round in 1..=kills as usize {
        for (from, to) in [(0, 1), (1, 0)] {
            let prefix = format!("r{round}-{}", sides[from].name);
            let sender = sides[from].send(&sides[to], &prefix, ROUND);
            open.push((sender, to, prefix));
        }
        #[expect(clippy::disallowed_methods, reason = "the death comes at any moment")]
        std::thread::sleep(Duration::from_millis(random.below(LATEST_MS)));
        if round % PEER_DIES == 0 {
            world.peer.kill();
            world.peer.restart();
            died[2] += 1;
        } else {
            let who = usize::from(random.below(2) == 1);
            sides[who].listening.restart();
            died[who] += 1;
        }
        for (sender, ..) in open.iter_mut().rev().take(2) {
            sender.resume_if_it_failed();
        }
        if round % SETTLE == 0 || round == kills as usize {
            let began = Instant::now();
            for (mut sender, to, prefix) in open.drain(..) {
                sender.deliver();
                sides[to].listening.wait(&prefix, ROUND);
                wrong.add(&compare(&sender.end(), &sides[to].listening, &prefix));
                messages += ROUND;
            }
            longest = longest.max(began.elapsed());
            if began.elapsed() > LONG {
                eprintln!("round {round}: {:.1?} until everything arrived", began.elapsed());
                for side in &sides {
                    eprintln!("{} logged:\n{}", side.name, side.listening.process.stderr());
                }
            }
        }
    }
    // Whatever came again after it was compared.
    wrong.twice = wrong.twice.max(sides.iter().map(|side| side.listening.repeated()).sum());
    let [anna, ben, peer] = died;
    eprintln!(
        "{messages} messages, killed: anna {anna}, ben {ben}, peer {peer}; lost {}, twice {}, \
         out of order {}, under another id {}; {:.0?}, longest settling {longest:.1?}",
        wrong.lost,
        wrong.twice,
        wrong.out_of_order,
        wrong.under_another_id,
        begun.elapsed(),
    );
    assert_eq!(wrong, Wrong::default());
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
