//! Seeded simulation of delivery: real minds and real stores in virtual time, on disks that lose
//! what was not synced, with processes that die in the middle of a write, peers that restart, fill
//! up or lie, connections that die unnoticed, and clocks that jump by ten years.
//!
//! A seed is a whole story. The harness keeps its own book ([`ledger`]) and compares: see
//! docs/delivery.md for the invariants. `cargo test` runs 100 seeds;
//! `just delivery-seeds 100000` as many as one likes, from `HALLOO_FIRST_SEED` on. A seed that fails is printed, and
//! `HALLOO_SEED=n` runs it alone. Keys are the system's: their bytes change the sizes of rows and so
//! where in a write a process dies, which makes two runs of a seed much alike, not the same.

mod disk;
mod ledger;
mod node;
mod plan;
mod post;
mod rng;
mod world;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use disk::Disk;
use ledger::Breach;
use node::{Friends, Node};
use plan::Plan;
use rng::Rng;
use world::World;

use crate::core::{Context, Messenger};
use crate::planted::{Bug, plant, planted};

/// People in a world at most.
const MOST: usize = 3;

/// A thread's machines: SQLite knows their disks by name, and never forgets one.
struct Machines(Vec<(Disk, String)>);

thread_local! {
    static MACHINES: RefCell<Option<Machines>> = const { RefCell::new(None) };
}

fn machines() -> Vec<(Disk, String)> {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    MACHINES.with_borrow_mut(|machines| {
        let made = machines.get_or_insert_with(|| {
            let thread = THREADS.fetch_add(1, Ordering::Relaxed);
            let machines = (0..MOST).map(|n| {
                let (disk, name) = (Disk::default(), format!("machine-{thread}-{n}"));
                sqlite_vfs::register(&name, disk.clone(), false).expect("the name is free");
                (disk, name)
            });
            Machines(machines.collect())
        });
        made.0.clone()
    })
}

/// People who know each other.
fn friends() -> &'static Friends {
    static FRIENDS: OnceLock<Friends> = OnceLock::new();
    FRIENDS.get_or_init(|| Friends::make(MOST))
}

/// Lives through a seed. With a planted fault, the story is one in which that can show itself.
fn live(seed: u64, bug: Option<Bug>) -> Result<(), Breach> {
    let friends = friends();
    let mut rng = Rng::new(seed);
    let mut plan = Plan::draw(&mut rng);
    if let Some(bug) = bug {
        plan.sharpen(bug, &mut rng);
    }
    let people = friends.people.iter().zip(machines()).take(plan.nodes);
    let nodes = people.map(|((identity, image, found), (disk, vfs))| {
        disk.begin(image);
        disk.trouble(|t| t.lies = planted(Bug::NoSync));
        let mut node = Node::new(identity.clone(), disk, vfs);
        node.found = found.clone();
        // The first ones were used to become acquainted.
        node.one_time_keys_used = 2 * MOST as u16;
        node
    });
    World::new(nodes.collect(), plan, rng).run()
}

/// Lives through seeds on all processors. Returns the first that fails.
#[allow(clippy::print_stderr, reason = "a long run tells how far it is")]
fn live_through(seeds: std::ops::Range<u64>) -> Option<(u64, Breach)> {
    let next = AtomicU64::new(seeds.start);
    let found = std::sync::Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end
                        || found.lock().unwrap_or_else(|e| e.into_inner()).is_some()
                    {
                        return;
                    }
                    let lived = seed - seeds.start;
                    if lived > 0 && lived.is_multiple_of(1_000) {
                        eprintln!("{lived} seeds");
                    }
                    if let Err(breach) = live(seed, None) {
                        let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                        found.get_or_insert((seed, breach));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(|e| e.into_inner())
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_goes_wrong_everything_arrives_once_and_in_order() {
    let seeds = match setting("HALLOO_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = setting("HALLOO_FIRST_SEED").unwrap_or(0);
            first..first + setting("HALLOO_SEEDS").unwrap_or(100)
        }
    };
    let found = live_through(seeds);
    assert!(found.is_none(), "a seed fails; HALLOO_SEED=n runs it alone: {found:?}");
}

/// A process may be killed between a commit's last write and its sync. The next one finds the
/// commit, and says Ok to whoever asks again; then the power is lost.
#[test]
fn what_is_found_after_a_kill_is_on_the_disk_before_anything_is_promised() {
    let friends = friends();
    let (disk, vfs) = machines().swap_remove(0);
    let (identity, image, _) = &friends.people[0];
    let to = friends.people[1].0.fingerprint();
    let send = |node: &mut Node| {
        let send = move |m: &mut Messenger, cx: &mut Context<'_>| {
            m.send(cx, &to, "once", Some("its name"), None, None)
        };
        node.run(Duration::ZERO, send).0
    };
    let (mut found, mut rng) = (0, Rng::new(1));
    for operations in 1..60 {
        disk.begin(image);
        let mut node = Node::new(Arc::clone(identity), disk.clone(), vfs.clone());
        node.start().unwrap();
        disk.trouble(|t| t.dies_in = Some(operations));
        if send(&mut node).is_ok() {
            break;
        }
        node.running = None;
        disk.restart(None);

        node.start().unwrap();
        let before = node.run(Duration::ZERO, move |_, cx| cx.db.first_unacked(&to)).0;
        found += u32::from(before.unwrap().is_some());
        let id = send(&mut node).unwrap();
        disk.trouble(|t| t.dies_in = Some(0));
        node.running = None;
        disk.restart(Some(&mut rng));

        node.start().unwrap();
        let kept = node.run(Duration::ZERO, move |_, cx| cx.db.history_state(&id)).0;
        assert!(kept.unwrap().is_some(), "lost after {operations} operations");
    }
    assert!(found > 0, "a commit is found that nobody was told of");
}

/// Each fault that somebody could make is found within a few hundred seeds.
#[test]
fn planted_faults_are_found() {
    let bugs = [
        Bug::EncryptAgain,
        Bug::ForgetInstance,
        Bug::ControlsFirst,
        Bug::BelievePeer,
        Bug::ForgetPlaces,
        Bug::ReceiptBeforeCommit,
        Bug::NoSync,
    ];
    for bug in bugs {
        plant(Some(bug));
        let found = (0..300).find_map(|seed| live(seed, Some(bug)).err());
        plant(None);
        assert!(found.is_some(), "{bug:?} is not found");
    }
}
