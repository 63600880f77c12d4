//! The model: which steps can be taken, and what they do.

use stateright::{Model, Property};

use crate::bounds::Bounds;
use crate::bug::Bug;
use crate::faults::{expire, lose_keys, restart};
use crate::message::{Content, Side};
use crate::properties;
use crate::step::Step;
use crate::world::{Ask, Mark, World};

/// Two nodes and a peer, in a world of some size.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// How large the world is.
    pub bounds: Bounds,
    /// What is broken in the nodes.
    pub bug: Bug,
    /// Whether the nodes have the rules that the model proposes ([`Delivery::amended`]).
    pub amended: bool,
}

impl Delivery {
    /// The protocol as it is.
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, bug: Bug::None, amended: false }
    }

    /// The protocol with a fault in it.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug, ..self }
    }

    /// The protocol with four more rules. Where keys are lost, messages are delivered without them
    /// too, but some only after receipts have run out:
    ///
    /// 1. Who takes a resend owes an acknowledgement: the last one may have been unreadable.
    /// 2. A message on an older session does not make that the one to speak on.
    /// 3. An acknowledgement that leaves on an older session than the one to speak on remains due.
    /// 4. A receipt for a ciphertext says nothing about the one that has replaced it.
    #[must_use]
    pub const fn amended(self) -> Self {
        Self { amended: true, ..self }
    }

    /// What can happen next if nothing goes wrong any more.
    pub fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        if world.faults == 0
            && !self.bounds.every_order
            && let Some(step) = self.certain(world)
        {
            steps.push(step);
            return;
        }
        for n in [0, 1] {
            self.sending(world, n, steps);
            self.reading(world, n, steps);
            if world.is_open(n) {
                steps.push(Step::Commit(n));
            }
        }
        if self.bounds.link && !world.connected {
            steps.push(Step::Connect);
        }
        if steps.is_empty() && world.waits > 0 && !self.is_done(world) {
            steps.push(Step::Wait);
        }
    }

    /// A step that may be taken before all others: where no fault can come between, it makes no
    /// difference for anything else when it is taken.
    fn certain(&self, world: &World) -> Option<Step> {
        (0..2).find_map(|n| {
            let done = world.mailboxes[n].iter().any(|envelope| envelope.mark == Mark::Done);
            if world.is_open(n) {
                Some(Step::Commit(n))
            } else if done && world.is_registered(n) {
                Some(Step::AckToPeer(n))
            } else {
                None
            }
        })
    }

    /// The steps with which a node reads.
    fn reading(&self, world: &World, n: Side, steps: &mut Vec<Step>) {
        let node = &world.nodes[n];
        if self.bounds.tell {
            let store = if self.bug == Bug::TellBeforeCommit { &node.mem } else { &node.disk };
            if usize::from(world.seen.told[n]) < store.arrived().count() {
                steps.push(Step::Tell(n));
            }
        }
        if !world.ways[n].is_empty() {
            steps.push(Step::Read(n));
        }
        if !self.bounds.peer {
            return;
        }
        if !world.is_registered(n) {
            steps.push(Step::Register(n));
            return;
        }
        let mut last = None;
        for envelope in &world.mailboxes[n] {
            if envelope.mark == Mark::New && last != Some(envelope.inner) {
                last = Some(envelope.inner);
                steps.push(Step::Fetch(n, envelope.inner));
            }
        }
        if world.mailboxes[n].iter().any(|envelope| envelope.mark == Mark::Done) {
            steps.push(Step::AckToPeer(n));
        }
    }

    /// Whether everything has been sent, has arrived, and is known to have.
    pub fn is_done(&self, world: &World) -> bool {
        [0, 1].into_iter().all(|n| {
            let sent = self.bounds.messages[n];
            let disk = &world.nodes[n].disk;
            let arrived = world.nodes[1 - n].disk;
            world.seen.promised[n] == sent
                && disk.first == sent + 1
                && disk.ends.iter().all(|ends| *ends <= 1)
                && arrived.arrived().count() == usize::from(sent)
        })
    }

    fn commit(&self, world: &mut World, n: Side) {
        let node = &mut world.nodes[n];
        node.disk = node.mem;
        if node.ask == Ask::Noted {
            node.ask = Ask::Due;
        }
        for control in &mut node.board {
            control.committed = true;
        }
        let promised = &mut world.seen.promised[n];
        *promised = (*promised).max(node.disk.accepted);
        world.mark(n, |envelope| envelope.mark == Mark::Noted, Mark::Done);
    }

    fn register(&self, world: &mut World, n: Side) {
        let first = usize::from(world.nodes[n].mem.first - 1);
        let instance = world.instance;
        let mem = &mut world.nodes[n].mem;
        mem.run = instance;
        // A receipt may have been lost with the mailbox: the first message asks for another.
        if let Some(parked) = mem.parked.get_mut(first)
            && self.bug != Bug::ForgetInstance
        {
            *parked = None;
        }
        // Other marks speak of envelopes that are gone.
        world.mark(n, |_| true, Mark::New);
    }

    fn apply(&self, world: &mut World, step: Step) {
        match step {
            Step::Accept(n) => {
                let mem = &mut world.nodes[n].mem;
                mem.accepted += 1;
                if self.bug == Bug::AcceptBeforeCommit {
                    world.seen.promised[n] = mem.accepted;
                }
            }
            Step::Encrypt(n) => {
                let place = world.nodes[n].mem.unencrypted();
                self.encrypt_place(world, n, place);
            }
            Step::EncryptAgain(n, place) => self.encrypt_place(world, n, place),
            Step::Ping(n) => {
                world.pings[n] -= 1;
                self.make_control(world, n, Content::Ping);
            }
            Step::MakeAck(n) => {
                let next = world.nodes[n].mem.next;
                self.make_control(world, n, Content::Ack(next));
            }
            Step::AskAgain(n) => {
                world.nodes[n].ask = Ask::No;
                let next = world.nodes[n].mem.next;
                if world.begin_session(n).is_some() {
                    self.make_control(world, n, Content::Resend(next));
                }
            }
            Step::Commit(n) => self.commit(world, n),
            Step::Tell(n) => world.seen.told[n] += 1,
            Step::Write(n, place) => self.write(world, n, place),
            Step::WriteAck(n) => self.write_ack(world, n),
            Step::Leave(n, place) => self.leave(world, n, place),
            Step::LeaveControl(n) => self.leave_control(world, n),
            Step::Read(n) => self.read(world, n),
            Step::Fetch(n, inner) => self.fetch(world, n, inner),
            Step::AckToPeer(n) => {
                world.mailboxes[n].retain(|envelope| envelope.mark != Mark::Done);
            }
            Step::Register(n) => self.register(world, n),
            Step::Connect => world.connected = true,
            Step::Wait => {
                world.waits -= 1;
                self.wait(world);
            }
            Step::Crash(_)
            | Step::Restart
            | Step::Expire(..)
            | Step::Cut
            | Step::Replay(_)
            | Step::LoseKeys(_) => {
                world.faults -= 1;
                self.fault(world, step);
            }
        }
    }

    fn fault(&self, world: &mut World, step: Step) {
        match step {
            Step::Crash(n) => self.crash(world, n),
            Step::Restart => restart(world),
            Step::Expire(n, inner) => expire(world, n, inner),
            Step::Cut => world.cut(),
            Step::Replay(inner) => world.put_envelope(1 - inner.from, inner),
            Step::LoseKeys(n) => lose_keys(world, n),
            _ => {}
        }
    }
}

impl Model for Delivery {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.bounds)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // Behind its own bounds the model says nothing.
        if !world.seen.broken.no_room {
            self.steps(world, steps);
            self.faults(world, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.apply(&mut next, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
