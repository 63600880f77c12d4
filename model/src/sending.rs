//! What a node sends: accepted, encrypted once, sent until acknowledged.

use crate::bug::Bug;
use crate::delivery::Delivery;
use crate::message::{Content, Inner, Key, Side, other};
use crate::ratchet::{Knows, MAX_KEYS};
use crate::step::Step;
use crate::store::Store;
use crate::world::{Ask, Control, Frame, World};

impl Delivery {
    /// The steps with which a node sends.
    pub(crate) fn sending(&self, world: &World, n: Side, steps: &mut Vec<Step>) {
        let node = &world.nodes[n];
        let mem = &node.mem;
        if mem.accepted < self.bounds.messages[n] {
            steps.push(Step::Accept(n));
        }
        if mem.unencrypted() <= mem.accepted {
            steps.push(Step::Encrypt(n));
        }
        if self.bug == Bug::EncryptAgain {
            let stale =
                mem.outbox().find(|p| self.is_due(world, n, *p) && self.has_left(world, n, *p));
            steps.extend(stale.map(|place| Step::EncryptAgain(n, place)));
        }
        if world.pings[n] > 0 {
            steps.push(Step::Ping(n));
        }
        let may_leave = |place: &u8| {
            let key = self.leaving(world, n).cipher(*place);
            // One that was replaced while it left would have its receipt noted for the new one.
            let is_current = !self.amended || key == mem.cipher(*place);
            let is_fresh = self.bug != Bug::EncryptAgain || !self.has_left(world, n, *place);
            key.is_some() && is_current && is_fresh
        };
        steps.extend(self.next_to_write(world, n).filter(may_leave).map(|p| Step::Write(n, p)));
        steps.extend(self.next_to_leave(world, n).filter(may_leave).map(|p| Step::Leave(n, p)));
        // Once it is on disk, and nothing newer is about to be.
        let on_disk = node.disk.ack_due && node.disk.next == mem.next;
        if mem.ack_due && (on_disk || self.bug == Bug::AckBeforeCommit) {
            if world.connected {
                steps.push(Step::WriteAck(n));
            }
            let made = node.board.iter().any(|c| matches!(c.inner.content, Content::Ack(_)));
            if self.bounds.peer && !made {
                steps.push(Step::MakeAck(n));
            }
        }
        if node.ask == Ask::Due && (world.is_registered(other(n)) || !self.bounds.peer) {
            steps.push(Step::AskAgain(n));
        }
        if let Some(control) = node.board.first()
            && control.committed
            && self.way(world, n, control.inner.content).is_some()
        {
            steps.push(Step::LeaveControl(n));
        }
    }

    /// The store that says what may leave.
    fn leaving<'a>(&self, world: &'a World, n: Side) -> &'a Store {
        let node = &world.nodes[n];
        if self.bug == Bug::SendBeforeCommit { &node.mem } else { &node.disk }
    }

    /// The next place for the connection.
    fn next_to_write(&self, world: &World, n: Side) -> Option<u8> {
        let node = &world.nodes[n];
        let place = node.mem.first.max(node.written + 1);
        (world.connected && place <= node.mem.accepted).then_some(place)
    }

    /// The next place for the peer: in order, the first that does not wait there.
    fn next_to_leave(&self, world: &World, n: Side) -> Option<u8> {
        let mem = &world.nodes[n].mem;
        let waits = |place: u8| match mem.parked[usize::from(place - 1)] {
            None => false,
            Some(instance) => instance == world.instance || self.bug == Bug::ForgetInstance,
        };
        let ready = self.bounds.peer && world.is_registered(other(n));
        let place = mem.outbox().find(|place| !waits(*place));
        place.filter(|_| ready)
    }

    fn is_due(&self, world: &World, n: Side, place: u8) -> bool {
        [self.next_to_write(world, n), self.next_to_leave(world, n)].contains(&Some(place))
    }

    /// Whether the ciphertext of a place has left before.
    fn has_left(&self, world: &World, n: Side, place: u8) -> bool {
        let key = world.nodes[n].mem.cipher(place);
        world
            .seen
            .left
            .iter()
            .any(|inner| inner.from == n && inner.content.is_sequenced() && Some(inner.key) == key)
    }

    /// Encrypts on the session that speaks, or on a new one. `None` when there is no room.
    pub(crate) fn encrypt(&self, world: &mut World, n: Side, content: Content) -> Option<Inner> {
        let number = match content {
            Content::Place(place) => place,
            _ => world.nodes[n].mem.unencrypted(),
        };
        let session = match world.nodes[n].mem.speaks {
            Some(session) => session,
            None => world.begin_session(n)?,
        };
        let state = &mut world.nodes[n].mem.sessions[usize::from(session)];
        let key = Key { session, index: state.write };
        state.write += 1;
        if state.write > MAX_KEYS {
            world.seen.broken.no_room = true;
            return None;
        }
        Some(Inner { from: n, content, number, key })
    }

    /// Encrypts a message of the stream.
    pub(crate) fn encrypt_place(&self, world: &mut World, n: Side, place: u8) {
        if let Some(inner) = self.encrypt(world, n, Content::Place(place)) {
            world.nodes[n].mem.ciphers[usize::from(place - 1)] = Some(inner.key);
        }
    }

    /// Encrypts a message outside of the stream, which waits for the commit.
    pub(crate) fn make_control(&self, world: &mut World, n: Side, content: Content) {
        if let Some(inner) = self.encrypt(world, n, content) {
            world.nodes[n].board.push(Control { inner, committed: false });
        }
    }

    /// The message of a place, as it leaves.
    fn message(&self, world: &World, n: Side, place: u8) -> Option<Inner> {
        let key = self.leaving(world, n).cipher(place)?;
        Some(Inner { from: n, content: Content::Place(place), number: place, key })
    }

    /// An observer sees what leaves.
    fn leaves(&self, world: &mut World, inner: Inner) {
        let session = &world.nodes[inner.from].disk.sessions[usize::from(inner.key.session)];
        if session.knows != Knows::Lost && session.write <= inner.key.index {
            world.seen.broken.left_early = true;
        }
        if let Content::Ack(next) = inner.content {
            self.acknowledges(world, inner.from, next);
        }
        if let Err(i) = world.seen.left.binary_search(&inner) {
            world.seen.left.insert(i, inner);
        }
    }

    fn acknowledges(&self, world: &mut World, n: Side, next: u8) {
        if (1..next).any(|place| !world.nodes[n].disk.has(place)) {
            world.seen.broken.acked_early = true;
        }
    }

    /// A message is written to the connection.
    pub(crate) fn write(&self, world: &mut World, n: Side, place: u8) {
        let Some(inner) = self.message(world, n, place) else { return };
        self.leaves(world, inner);
        world.ways[other(n)].push(Frame::Inner(inner));
        world.nodes[n].written = place;
    }

    /// A message is left at the peer, and the receipt noted in a transaction.
    pub(crate) fn leave(&self, world: &mut World, n: Side, place: u8) {
        let Some(inner) = self.message(world, n, place) else { return };
        self.leaves(world, inner);
        world.put_envelope(other(n), inner);
        let instance = world.instance;
        let mem = &mut world.nodes[n].mem;
        mem.parked[usize::from(place - 1)] = Some(instance);
        if self.bug == Bug::DeliveredOnReceipt {
            mem.deliver_below(place + 1);
        }
    }

    /// An acknowledgement is written to the connection.
    pub(crate) fn write_ack(&self, world: &mut World, n: Side) {
        let next = world.nodes[n].mem.next;
        self.acknowledges(world, n, next);
        world.ways[other(n)].push(Frame::Ack(next));
        world.nodes[n].mem.ack_due = false;
    }

    /// Whether a message outside of the stream goes by the connection; `None` when nowhere.
    fn way(&self, world: &World, n: Side, content: Content) -> Option<bool> {
        let by_link = world.connected && !matches!(content, Content::Ack(_));
        let by_peer = self.bounds.peer && world.is_registered(other(n));
        (by_link || by_peer).then_some(by_link)
    }

    /// The first message outside of the stream leaves.
    pub(crate) fn leave_control(&self, world: &mut World, n: Side) {
        let inner = world.nodes[n].board.remove(0).inner;
        let by_link = self.way(world, n, inner.content) == Some(true);
        self.leaves(world, inner);
        if by_link {
            world.ways[other(n)].push(Frame::Inner(inner));
        } else {
            world.put_envelope(other(n), inner);
        }
        let mem = &mut world.nodes[n].mem;
        let is_old = self.amended && mem.speaks != Some(inner.key.session);
        if inner.content == Content::Ack(mem.next) && !is_old {
            mem.ack_due = false;
        }
    }
}
