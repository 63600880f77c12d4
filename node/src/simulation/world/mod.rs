//! Machines, their peers, and what lies between them, in virtual time.
//!
//! Everything that happens is an event in one queue, and everything by chance comes from one seed.
//! The minds, the store and the schedules are the real ones; the courier's shell, the peers and the
//! network are played here. Until [`CALM`] anything may go wrong; from then on nothing does, and by
//! [`END`] everything has to have arrived.

mod carry;
mod faults;
mod mailbox;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_identity::{Fingerprint, PeerHost};
use halloo_wire::content::{Ack, Content};
use halloo_wire::inner::{Inner, Kind};
use halloo_wire::peer::Receipt;
use halloo_wire::{EnvelopeId, InstanceId, Seq};

use super::disk::Image;
use super::ledger::{Breach, Ledger};
use super::node::{Courier, Node};
use super::plan::{Fault, Plan, Say};
use super::post::{Given, Peer};
use super::rng::Rng;
use crate::core::schedule::{Next, Trust, Work};
use crate::core::{Context, Departure, Messenger, Output};
use crate::event::{EventKind, Via};
use crate::planted::{Bug, planted};
use crate::store::{Outgoing, StoreError};

/// From here on nothing goes wrong any more.
pub(super) const CALM: Duration = Duration::from_secs(240);
/// By then everything has to have arrived: three of the longest waits between attempts, with their
/// random factor, behind [`CALM`].
pub(super) const END: Duration = Duration::from_secs(240 + 3 * 450);
/// Envelopes on the way to a peer at once, and messages read from the store at once, as in the
/// courier.
const IN_FLIGHT: usize = 32;
const PORTION: usize = 64;

/// What happens.
enum Happening {
    /// A program wants to say something.
    Say(Say),
    /// A program takes something back.
    Cancel {
        node: usize,
    },
    /// A node looks whether a deadline has passed.
    Expire {
        node: usize,
        life: u32,
    },
    Wake {
        node: usize,
        life: u32,
        contact: usize,
    },
    Frame {
        link: u64,
        from: usize,
        to: usize,
        frame: Frame,
    },
    /// Envelopes reach a peer.
    Drop {
        from: usize,
        life: u32,
        to: usize,
        run: InstanceId,
        envelopes: Vec<(Option<Outgoing>, Vec<u8>)>,
    },
    /// The peer's answer reaches the sender.
    Answer {
        node: usize,
        life: u32,
        contact: usize,
        left: Vec<(Outgoing, Receipt)>,
        refused: bool,
    },
    Register {
        node: usize,
        life: u32,
    },
    Mail {
        node: usize,
        life: u32,
        run: InstanceId,
        id: EnvelopeId,
        bytes: Vec<u8>,
    },
    Forget {
        peer: usize,
        node: usize,
        run: InstanceId,
        ids: Vec<EnvelopeId>,
        /// Whether the rest is fetched again then.
        again: bool,
    },
    /// A node hears that a peer's connection has ended.
    PeerLost {
        node: usize,
        life: u32,
        peer: usize,
    },
    /// One side notices that a connection has ended.
    LinkLost {
        link: u64,
        node: usize,
        life: u32,
        contact: usize,
    },
    AskAgain {
        node: usize,
        life: u32,
        contact: usize,
    },
    /// A node looks for what it has asked for in vain.
    Missing {
        node: usize,
        life: u32,
    },
    Start {
        node: usize,
    },
    Fault(Fault),
}

enum Frame {
    Ack(Ack),
    Inner(Vec<u8>),
}

/// A connection between two nodes.
struct Link {
    id: u64,
    /// Whether anything passes. The two may believe so for a while after it does not.
    alive: bool,
    /// Frames keep their order: when the last one arrives, each way.
    last: [Duration; 2],
}

/// A text, and the seconds within which it has to leave.
type Unsaid = (String, Option<u64>);

/// A world.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Duration,
    origin: Instant,
    queue: BTreeMap<(Duration, u64), Happening>,
    count: u64,
    pub(super) nodes: Vec<Node>,
    peers: Vec<Peer>,
    /// By the two nodes, the smaller first.
    links: BTreeMap<(usize, usize), Link>,
    /// Who believes in which link: (node, contact) to its id.
    believed: BTreeMap<(usize, usize), u64>,
    plan: Plan,
    pub(super) ledger: Ledger,
    /// Envelopes that peers have pushed and that have not arrived.
    on_the_way: BTreeSet<(usize, EnvelopeId)>,
    /// What was on the disk of the machine that will be set back.
    remembered: Option<Image>,
    /// What programs want to say and have not been told Ok for, by node and contact.
    unsaid: BTreeMap<(usize, usize), Vec<Unsaid>>,
    said: u32,
}

impl World {
    pub(super) fn new(nodes: Vec<Node>, plan: Plan, rng: Rng) -> Self {
        let peers = (0..plan.peers).map(|p| Peer::new(p, plan.malicious, plan.ttl_s)).collect();
        let ledger = Ledger::new(nodes.len());
        let mut it = Self {
            rng,
            now: Duration::ZERO,
            origin: Instant::now(),
            queue: BTreeMap::new(),
            count: 0,
            nodes,
            peers,
            links: BTreeMap::new(),
            believed: BTreeMap::new(),
            plan,
            ledger,
            on_the_way: BTreeSet::new(),
            remembered: None,
            unsaid: BTreeMap::new(),
            said: 0,
        };
        for node in 0..it.nodes.len() {
            it.at(Duration::ZERO, Happening::Start { node });
        }
        for (when, say) in it.plan.says.clone() {
            it.at(when, Happening::Say(say));
        }
        for (when, node) in it.plan.cancels.clone() {
            it.at(when, Happening::Cancel { node });
        }
        for (when, fault) in it.plan.faults.clone() {
            it.at(when, Happening::Fault(fault));
        }
        it.at(CALM, Happening::Fault(Fault::Calm));
        it
    }

    /// Lets everything happen. The first breach of an invariant ends it.
    pub(super) fn run(&mut self) -> Result<(), Breach> {
        while let Some(((when, _), happening)) = self.queue.pop_first() {
            if when > END {
                break;
            }
            self.now = when;
            self.happen(happening);
            if let Some(breach) = self.ledger.breach.take() {
                return Err(breach);
            }
        }
        self.now = END;
        self.judge()
    }

    fn at(&mut self, when: Duration, happening: Happening) {
        self.count += 1;
        self.queue.insert((when.max(self.now), self.count), happening);
    }

    fn soon(&mut self, from_ms: u64, to_ms: u64, happening: Happening) {
        let wait = Duration::from_millis(self.rng.within(from_ms, to_ms));
        self.at(self.now + wait, happening);
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    /// The peer that serves a node.
    fn home(&self, node: usize) -> usize {
        node % self.peers.len()
    }

    fn fp(&self, node: usize) -> Fingerprint {
        self.nodes[node].fp()
    }

    fn index(&self, fp: &Fingerprint) -> Option<usize> {
        self.nodes.iter().position(|n| n.fp() == *fp)
    }

    fn is(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].running.is_some()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start { node } => self.start(node),
            Happening::Say(Say { from, to, within }) => {
                self.said += 1;
                let text = format!("{} from {from} to {to}", self.said);
                self.unsaid.entry((from, to)).or_default().push((text, within));
                self.say(from);
            }
            Happening::Cancel { node } => self.cancel(node),
            Happening::Expire { node, life } if self.is(node, life) => self.expire(node),
            Happening::Wake { node, life, contact } if self.is(node, life) => {
                self.round(node, contact);
            }
            Happening::Frame { link, from, to, frame } => self.frame(link, from, to, frame),
            Happening::Drop { from, life, to, run, envelopes } => {
                self.at_peer(from, life, to, run, envelopes);
            }
            Happening::Answer { node, life, contact, left, refused } if self.is(node, life) => {
                self.answered(node, contact, left, refused);
            }
            Happening::Register { node, life } if self.is(node, life) => self.register(node),
            Happening::Mail { node, life, run, id, bytes } => {
                self.on_the_way.remove(&(node, id));
                if self.is(node, life) {
                    self.mail(node, run, id, &bytes);
                }
            }
            Happening::Forget { peer, node, run, ids, again }
                if self.peers[peer].run() == Some(run) =>
            {
                self.peers[peer].forget(node, &ids);
                if again && self.nodes[node].running.is_some() {
                    self.fetch(node);
                }
            }
            Happening::PeerLost { node, life, peer } if self.is(node, life) => {
                self.peer_lost(node, peer);
            }
            Happening::LinkLost { link, node, life, contact } if self.is(node, life) => {
                self.stop_believing(link, node, contact);
            }
            Happening::AskAgain { node, life, contact } if self.is(node, life) => {
                self.ask_again(node, contact);
            }
            Happening::Missing { node, life } if self.is(node, life) => {
                let due = self.on(node, |m, cx| m.due_resends(cx)).unwrap_or_default();
                self.asked_for(node, &due);
                self.soon(30_000, 90_000, Happening::Missing { node, life });
            }
            Happening::Fault(fault) => self.fault(fault),
            _ => {}
        }
    }

    /// Runs work on a node's store; what leaves after the commit is followed up.
    fn on<T, E, F>(&mut self, node: usize, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E> + Send + 'static,
    {
        let (result, outputs) = self.nodes[node].run(self.now, work);
        if self.nodes[node].disk.is_dead() {
            self.die(node);
            return result;
        }
        for output in outputs {
            self.follow(node, output);
        }
        result
    }

    fn follow(&mut self, node: usize, output: Output) {
        match output {
            Output::Event(_, EventKind::Delivered { to, id, .. }) => {
                if let Some(contact) = self.index(&to) {
                    let (known, _): (Result<bool, StoreError>, _) =
                        self.nodes[contact].run(self.now, move |_, cx| cx.db.has_received(&id));
                    let known = known.unwrap_or(true);
                    self.ledger.delivered(node, contact, &id, known);
                }
            }
            Output::Event(_, EventKind::Undecryptable { from }) => {
                if let Some(contact) = self.index(&from) {
                    self.ledger.unreadable(node, contact, self.plan.malicious);
                }
            }
            Output::Deadline => self.expire_at(node, self.now),
            Output::Wake(fp) => {
                if let Some(contact) = self.index(&fp) {
                    self.wake(node, contact);
                }
            }
            Output::Forget(ids) => {
                let peer = self.home(node);
                if let Some(run) = self.nodes[node].running.as_ref().and_then(|r| r.registered) {
                    self.soon(5, 80, Happening::Forget { peer, node, run, ids, again: true });
                }
            }
            Output::HeardByMailbox(fp) => {
                if let Some(contact) = self.index(&fp) {
                    self.courier(node, contact, |c| c.heard_by_mailbox = true);
                }
            }
            Output::Control(fp, inner) => {
                if let Some(contact) = self.index(&fp) {
                    self.courier(node, contact, |c| c.controls.push(inner));
                    self.wake(node, contact);
                }
            }
            _ => {}
        }
    }

    /// What was not readable, or has been missing for too long, is asked for.
    fn asked_for(&mut self, node: usize, from: &[Fingerprint]) {
        for fp in from {
            if let Some(contact) = self.index(fp) {
                self.ledger.asked(node, contact);
                let life = self.nodes[node].life;
                self.soon(1, 50, Happening::AskAgain { node, life, contact });
            }
        }
    }

    fn courier<T>(
        &mut self,
        node: usize,
        contact: usize,
        work: impl FnOnce(&mut Courier) -> T,
    ) -> Option<T> {
        let now = self.instant();
        let running = self.nodes[node].running.as_mut()?;
        Some(work(running.couriers.entry(contact).or_insert_with(|| Courier::new(now))))
    }

    fn wake(&mut self, node: usize, contact: usize) {
        self.wake_at(node, contact, self.now);
    }

    fn wake_at(&mut self, node: usize, contact: usize, when: Duration) {
        let earlier = self.courier(node, contact, |c| {
            let earlier = c.wake_at.is_some_and(|at| at <= when);
            if !earlier {
                c.wake_at = Some(when);
            }
            earlier
        });
        if earlier == Some(false) {
            let life = self.nodes[node].life;
            self.at(when, Happening::Wake { node, life, contact });
        }
    }

    fn judge(&mut self) -> Result<(), Breach> {
        let heard: Vec<Vec<EventKind>> = self.nodes.iter_mut().map(Node::events).collect();
        let fps: Vec<Fingerprint> = self.nodes.iter().map(Node::fp).collect();
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_none() {
                return Err(Breach::Stuck { node, contact: node, left: 0 });
            }
            for (contact, fp) in fps.iter().copied().enumerate() {
                let (left, _): (Result<u64, StoreError>, _) =
                    self.nodes[node].run(self.now, move |_, cx| cx.db.outbox_len(&fp));
                let left = left.unwrap_or(u64::MAX);
                if node != contact && left > 0 {
                    return Err(Breach::Stuck { node, contact, left });
                }
            }
        }
        self.ledger.judge(&fps, &heard)
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
