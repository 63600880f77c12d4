//! What goes wrong.

use crate::bug::Bug;
use crate::delivery::Delivery;
use crate::message::{Inner, Side, other};
use crate::ratchet::{Knows, Session};
use crate::step::Step;
use crate::world::{Ask, Mark, World};

impl Delivery {
    /// The faults that can happen next and would change something.
    pub(crate) fn faults(&self, world: &World, steps: &mut Vec<Step>) {
        if world.faults == 0 {
            return;
        }
        let kinds = self.bounds.kinds;
        for n in [0, 1] {
            if kinds.crash && loses_something(world, n) {
                steps.push(Step::Crash(n));
            }
            if kinds.expire {
                let mut last = None;
                for envelope in &world.mailboxes[n] {
                    let waits = matches!(envelope.mark, Mark::New | Mark::Held);
                    if waits && last != Some(envelope.inner) {
                        last = Some(envelope.inner);
                        steps.push(Step::Expire(n, envelope.inner));
                    }
                }
            }
            if kinds.lose_keys && world.nodes[n].mem.speaks.is_some() {
                steps.push(Step::LoseKeys(n));
            }
        }
        let parked = |n: Side| world.nodes[n].mem.parked.iter().any(Option::is_some);
        let kept = |n: Side| !world.mailboxes[n].is_empty();
        if kinds.restart && [0, 1].into_iter().any(|n| parked(n) || kept(n)) {
            steps.push(Step::Restart);
        }
        let used = world.ways.iter().any(|way| !way.is_empty())
            || world.nodes.iter().any(|node| node.written > 0);
        if kinds.cut && world.connected && used {
            steps.push(Step::Cut);
        }
        if kinds.replay && self.bounds.peer {
            let there = |inner: &Inner| {
                let mailbox = &world.mailboxes[other(inner.from)];
                mailbox.iter().any(|e| e.inner == *inner && e.mark == Mark::New)
            };
            let old = world.seen.left.iter().filter(|inner| !there(inner));
            steps.extend(old.map(|inner| Step::Replay(*inner)));
        }
    }

    /// A node dies, with everything that is not on disk, and begins again.
    pub(crate) fn crash(&self, world: &mut World, n: Side) {
        let node = &mut world.nodes[n];
        if self.bug == Bug::DedupInMemory {
            node.disk.next = 1;
        }
        node.mem = node.disk;
        node.held = Default::default();
        node.board.clear();
        node.ask = Ask::No;
        world.mark(n, |_| true, Mark::New);
        world.cut();
    }

    /// Receipts have run out, and a resend may be asked for again.
    pub(crate) fn wait(&self, world: &mut World) {
        for node in &mut world.nodes {
            for store in [&mut node.disk, &mut node.mem] {
                store.asked = false;
                if self.bug != Bug::ForgetInstance {
                    store.parked = Default::default();
                }
            }
        }
    }
}

fn loses_something(world: &World, n: Side) -> bool {
    let node = &world.nodes[n];
    world.is_open(n)
        || world.connected
        || node.held.iter().any(Option::is_some)
        || !node.board.is_empty()
        || node.ask != Ask::No
        || world.mailboxes[n].iter().any(|e| e.mark != Mark::New)
}

/// The peer dies, with everything, and begins again.
pub(crate) fn restart(world: &mut World) {
    world.instance += 1;
    world.mailboxes = [Vec::new(), Vec::new()];
}

/// An envelope is lost at the peer.
pub(crate) fn expire(world: &mut World, n: Side, inner: Inner) {
    let waits = |mark| matches!(mark, Mark::New | Mark::Held);
    let mailbox = &mut world.mailboxes[n];
    if let Some(i) = mailbox.iter().position(|e| e.inner == inner && waits(e.mark)) {
        mailbox.remove(i);
    }
}

/// A node loses the keys of its sessions.
pub(crate) fn lose_keys(world: &mut World, n: Side) {
    let node = &mut world.nodes[n];
    for store in [&mut node.disk, &mut node.mem] {
        for session in &mut store.sessions {
            if session.knows == Knows::Keys {
                *session = Session { knows: Knows::Lost, ..Session::default() };
            }
        }
        store.speaks = None;
    }
}
