//! What a node reads: sorted by place, decrypted, written, and only then acknowledged.

use crate::bug::Bug;
use crate::delivery::Delivery;
use crate::message::{Content, Inner, Side, other};
use crate::ratchet::{Knows, Session, Unreadable};
use crate::world::{Ask, Envelope, Frame, Mark, World};

/// What becomes of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Written, known, or refused.
    Done,
    /// Waits for earlier ones.
    Held,
}

impl Delivery {
    /// Reads what is first on the connection.
    pub(crate) fn read(&self, world: &mut World, n: Side) {
        match world.ways[n].remove(0) {
            Frame::Ack(next) => take_ack(world, n, next),
            Frame::Inner(inner) => {
                self.ingest(world, n, inner);
            }
        }
    }

    /// Fetches an envelope and reads it.
    pub(crate) fn fetch(&self, world: &mut World, n: Side, inner: Inner) {
        let new = Envelope { inner, mark: Mark::New };
        let Some(i) = world.mailboxes[n].iter().position(|e| *e == new) else { return };
        let mark = match self.ingest(world, n, inner) {
            Verdict::Done => Mark::Noted,
            Verdict::Held => Mark::Held,
        };
        // Reading what was held has marked others only: this one was new.
        let i = world.mailboxes[n].iter().position(|e| *e == new).unwrap_or(i);
        world.mailboxes[n][i].mark = mark;
        world.mailboxes[n].sort_unstable();
    }

    /// Takes an arrival, and then what was held for its turn.
    fn ingest(&self, world: &mut World, n: Side, inner: Inner) -> Verdict {
        let verdict = self.take(world, n, inner);
        if verdict == Verdict::Done {
            while let Some(held) = held_next(world, n) {
                self.take(world, n, held);
            }
        }
        verdict
    }

    fn take(&self, world: &mut World, n: Side, inner: Inner) -> Verdict {
        let mem = &mut world.nodes[n].mem;
        if let Content::Place(place) = inner.content {
            let is_known = match self.bug {
                Bug::OrderIgnored => mem.has(place),
                _ => place < mem.next,
            };
            if is_known {
                mem.ack_due = true;
                return Verdict::Done;
            }
            if place > mem.next && self.bug != Bug::OrderIgnored {
                return self.hold(world, n, inner, place);
            }
        }
        // A copy: reading would skip the keys of what was encrypted before and has not come.
        let is_early = !inner.content.is_sequenced() && inner.number > mem.next;
        let on_copy = is_early
            && match self.bug {
                Bug::ControlMovesRatchet => false,
                Bug::ResendOnCopy => true,
                // It is the first message of its session, so it skips none.
                _ => !matches!(inner.content, Content::Resend(_)),
            };
        let read = if on_copy { self.peek(world, n, inner) } else { self.decrypt(world, n, inner) };
        match read {
            Ok(()) => {
                world.seen.read_on_copy |= on_copy;
                self.write_content(world, n, inner.content);
            }
            // Read before, and only the newest counts.
            Err(Unreadable::KeyGone) if !inner.content.is_sequenced() => {}
            Err(_) => ask(world, n),
        }
        Verdict::Done
    }

    /// Keeps a message until its turn, if it can be read.
    fn hold(&self, world: &mut World, n: Side, inner: Inner, place: u8) -> Verdict {
        if self.peek(world, n, inner).is_err() {
            ask(world, n);
            return Verdict::Done;
        }
        world.nodes[n].held[usize::from(place - 1)] = Some(inner);
        Verdict::Held
    }

    /// Writes what a message says, in the transaction.
    fn write_content(&self, world: &mut World, n: Side, content: Content) {
        let mem = &mut world.nodes[n].mem;
        match content {
            Content::Place(place) => {
                mem.put(place);
                mem.next = match self.bug {
                    Bug::OrderIgnored => (1..=place + 1).find(|p| !mem.has(*p)).unwrap_or(1),
                    _ => place + 1,
                };
                mem.ack_due = true;
            }
            Content::Ack(next) => take_ack(world, n, next),
            Content::Resend(next) => {
                mem.ack_due |= self.amended && mem.next > 1;
                for place in next.max(mem.first)..=mem.accepted {
                    mem.ciphers[usize::from(place - 1)] = None;
                    mem.parked[usize::from(place - 1)] = None;
                }
            }
            Content::Ping => {}
        }
    }

    /// The session that would read a message, as it would be afterwards, and which keys it would
    /// forget.
    fn session(&self, world: &World, n: Side, inner: Inner) -> Result<(Session, u16), Unreadable> {
        let i = usize::from(inner.key.session);
        let mut session = world.nodes[n].mem.sessions[i];
        match session.knows {
            Knows::Keys => {}
            Knows::Nothing if world.seen.began.get(i) == Some(&inner.from) => {
                session = Session::begin();
            }
            Knows::Nothing | Knows::Lost => return Err(Unreadable::NoSession),
        }
        let forgotten = session.take_key(inner.key.index, self.bounds.skipped)?;
        Ok((session, forgotten))
    }

    /// Reads on a copy, which is thrown away.
    fn peek(&self, world: &World, n: Side, inner: Inner) -> Result<(), Unreadable> {
        self.session(world, n, inner).map(|_| ())
    }

    /// Reads, and moves the ratchet in the transaction.
    fn decrypt(&self, world: &mut World, n: Side, inner: Inner) -> Result<(), Unreadable> {
        let (session, forgotten) = self.session(world, n, inner)?;
        let mem = &mut world.nodes[n].mem;
        mem.sessions[usize::from(inner.key.session)] = session;
        if !self.amended || mem.speaks < Some(inner.key.session) {
            mem.speaks = Some(inner.key.session);
        }
        // Does it forget the key of a message that is on its way?
        let next = mem.next;
        let writer = &world.nodes[other(n)].disk;
        let lost = writer.outbox().filter(|place| *place >= next).any(|place| {
            writer.cipher(place).is_some_and(|key| {
                key.session == inner.key.session && forgotten & (1 << key.index) != 0
            })
        });
        if lost {
            world.seen.broken.key_lost = true;
        }
        Ok(())
    }
}

/// The held message whose turn it is.
fn held_next(world: &mut World, n: Side) -> Option<Inner> {
    let next = world.nodes[n].mem.next;
    for i in 0..usize::from(next).min(world.nodes[n].held.len()) {
        let place = i as u8 + 1;
        let held = world.nodes[n].held[i].take();
        if held.is_some() {
            let waits =
                |e: &Envelope| e.mark == Mark::Held && e.inner.content == Content::Place(place);
            world.mark(n, waits, Mark::Noted);
        }
        if place == next && held.is_some() {
            return held;
        }
    }
    None
}

/// Passes over what was never given out.
fn take_ack(world: &mut World, n: Side, next: u8) {
    let mem = &mut world.nodes[n].mem;
    if next <= mem.accepted + 1 {
        mem.deliver_below(next);
    }
}

/// Something is unreadable: once a minute at most, a resend is asked for.
fn ask(world: &mut World, n: Side) {
    let node = &mut world.nodes[n];
    if !node.mem.asked {
        node.mem.asked = true;
        node.ask = Ask::Noted;
    }
}
