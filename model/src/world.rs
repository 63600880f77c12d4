//! The state of the world: two nodes, a peer, a connection, and what an observer has seen.

use crate::bounds::Bounds;
use crate::message::{Inner, Side};
use crate::store::{PLACES, SESSIONS, Store};

/// A message outside of the stream that waits in memory to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Control {
    /// What leaves.
    pub inner: Inner,
    /// Whether the ratchet that made it is on disk.
    pub committed: bool,
}

/// Whether a resend is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ask {
    /// No.
    #[default]
    No,
    /// Yes, after the commit.
    Noted,
    /// Yes.
    Due,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// What survives a crash.
    pub disk: Store,
    /// What the running transaction has made of it.
    pub mem: Store,
    /// Messages that came before their turn. In memory.
    pub held: [Option<Inner>; PLACES],
    /// Messages outside of the stream that have to leave, in order. In memory.
    pub board: Vec<Control>,
    /// Whether a resend is to be asked for. In memory.
    pub ask: Ask,
    /// The last place that was written to the connection. In memory.
    pub written: u8,
}

impl Node {
    fn new() -> Self {
        Self {
            disk: Store::new(),
            mem: Store::new(),
            held: [None; PLACES],
            board: Vec::new(),
            ask: Ask::No,
            written: 0,
        }
    }
}

/// What the recipient's memory knows about an envelope in the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// Nothing: it has not been fetched.
    New,
    /// It waits for its turn.
    Held,
    /// The peer may forget it after the commit.
    Noted,
    /// The peer may forget it.
    Done,
}

/// An envelope in a mailbox. Mailboxes are sorted, because their order says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Envelope {
    /// What it holds.
    pub inner: Inner,
    /// What the recipient knows about it.
    pub mark: Mark,
}

/// Something on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frame {
    /// An inner message.
    Inner(Inner),
    /// An acknowledgement of everything below a place, authenticated by TLS.
    Ack(u8),
}

/// What must not happen, and is seen only in the moment in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Broken {
    /// A ciphertext left before its ratchet was on disk.
    pub left_early: bool,
    /// An acknowledgement left before what it acknowledges was on disk.
    pub acked_early: bool,
    /// The key of a message that has not arrived was skipped and forgotten.
    pub key_lost: bool,
    /// There were more sessions or keys than the model has room for.
    pub no_room: bool,
}

/// What an observer has seen, who sees everything and never forgets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Messages that each side's program was promised.
    pub promised: [u8; 2],
    /// Messages that each side's program has heard of.
    pub told: [u8; 2],
    /// Every inner message that has left a node, sorted.
    pub left: Vec<Inner>,
    /// Who began each session; the first was there at the beginning.
    pub began: Vec<Side>,
    /// What has happened that must not.
    pub broken: Broken,
    /// Whether a control message was read on a copy.
    pub read_on_copy: bool,
}

/// The state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The nodes.
    pub nodes: [Node; 2],
    /// The peer's instance.
    pub instance: u8,
    /// The mailboxes of both, at the peer.
    pub mailboxes: [Vec<Envelope>; 2],
    /// Whether there is a connection.
    pub connected: bool,
    /// What is on its way to each side on it, in order.
    pub ways: [Vec<Frame>; 2],
    /// What an observer has seen.
    pub seen: Seen,
    /// Faults that may still happen.
    pub faults: u8,
    /// Pauses that may still be.
    pub waits: u8,
    /// Pings that each side may still send.
    pub pings: [u8; 2],
}

impl World {
    /// Two nodes that are contacts, both registered, and no connection.
    pub fn new(bounds: &Bounds) -> Self {
        Self {
            nodes: [Node::new(), Node::new()],
            instance: 0,
            mailboxes: [Vec::new(), Vec::new()],
            connected: false,
            ways: [Vec::new(), Vec::new()],
            seen: Seen {
                promised: [0; 2],
                told: [0; 2],
                left: Vec::new(),
                began: vec![0],
                broken: Broken::default(),
                read_on_copy: false,
            },
            faults: bounds.faults,
            waits: bounds.waits,
            pings: bounds.pings,
        }
    }

    /// Whether a transaction of this node is open.
    pub fn is_open(&self, n: Side) -> bool {
        let node = &self.nodes[n];
        node.disk != node.mem
            || node.ask == Ask::Noted
            || node.board.iter().any(|control| !control.committed)
            || self.mailboxes[n].iter().any(|envelope| envelope.mark == Mark::Noted)
    }

    /// Whether a node has a mailbox at the peer.
    pub fn is_registered(&self, n: Side) -> bool {
        self.nodes[n].mem.run == self.instance
    }

    /// Puts an envelope into a mailbox.
    pub fn put_envelope(&mut self, to: Side, inner: Inner) {
        self.mailboxes[to].push(Envelope { inner, mark: Mark::New });
        self.mailboxes[to].sort_unstable();
    }

    /// Marks envelopes of a mailbox.
    pub fn mark(&mut self, n: Side, which: impl Fn(&Envelope) -> bool, mark: Mark) {
        for envelope in &mut self.mailboxes[n] {
            if which(envelope) {
                envelope.mark = mark;
            }
        }
        self.mailboxes[n].sort_unstable();
    }

    /// The connection is gone, with everything on it.
    pub fn cut(&mut self) {
        self.connected = false;
        self.ways = [Vec::new(), Vec::new()];
        for node in &mut self.nodes {
            node.written = 0;
        }
    }

    /// A new session of which `n` knows the keys; `None` when there is no room for one.
    pub fn begin_session(&mut self, n: Side) -> Option<u8> {
        let session = self.seen.began.len();
        if session >= SESSIONS {
            self.seen.broken.no_room = true;
            return None;
        }
        self.seen.began.push(n);
        self.nodes[n].mem.sessions[session] = crate::ratchet::Session::begin();
        self.nodes[n].mem.speaks = Some(session as u8);
        Some(session as u8)
    }
}
