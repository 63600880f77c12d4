//! Machines, their peers, and what lies between them, in virtual time.
//!
//! Everything that happens is an event in one queue, and everything by chance comes from one seed.
//! The minds, the store and the schedules are the real ones; the courier's shell, the peers and the
//! network are played here. Until [`CALM`] anything may go wrong; from then on nothing does, and by
//! [`END`] everything has to have arrived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use halloo_identity::{Fingerprint, PeerHost};
use halloo_wire::content::{Ack, Content};
use halloo_wire::inner::{Inner, Kind};
use halloo_wire::peer::Receipt;
use halloo_wire::{EnvelopeId, InstanceId, Seq};

use super::ledger::{Breach, Ledger};
use super::node::{Courier, Node};
use super::plan::{Fault, Plan};
use super::post::{Given, Peer};
use super::rng::Rng;
use crate::core::schedule::{Next, Trust, Work};
use crate::core::{Context, Departure, Messenger, Output};
use crate::event::{EventKind, Via};
use crate::planted::{Bug, planted};
use crate::store::StoreError;

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
    Say {
        from: usize,
        to: usize,
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
        envelopes: Vec<(Option<Seq>, Vec<u8>)>,
    },
    /// The peer's answer reaches the sender.
    Answer {
        node: usize,
        life: u32,
        contact: usize,
        left: Vec<(Seq, Receipt)>,
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
    /// What programs want to say and have not been told Ok for, by node and contact.
    unsaid: BTreeMap<(usize, usize), Vec<String>>,
    said: u32,
}

impl World {
    pub(super) fn new(nodes: Vec<Node>, plan: Plan, rng: Rng) -> Self {
        let peers = (0..plan.peers).map(|p| Peer::new(p, plan.malicious)).collect();
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
            unsaid: BTreeMap::new(),
            said: 0,
        };
        for node in 0..it.nodes.len() {
            it.at(Duration::ZERO, Happening::Start { node });
        }
        for (when, from, to) in it.plan.says.clone() {
            it.at(when, Happening::Say { from, to });
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
            Happening::Say { from, to } => {
                self.said += 1;
                let text = format!("{} from {from} to {to}", self.said);
                self.unsaid.entry((from, to)).or_default().push(text);
                self.say(from);
            }
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
            Happening::Mail { node, life, run, id, bytes } if self.is(node, life) => {
                self.mail(node, run, id, &bytes);
            }
            Happening::Forget { peer, node, run, ids } => {
                let peer = &mut self.peers[peer];
                if peer.run() == Some(run) {
                    peer.forget(node, &ids);
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
                    let (known, _) =
                        self.nodes[contact].run(self.now, move |_, cx| cx.db.has_received(&id));
                    let known = known.unwrap_or_else(|_: StoreError| true);
                    self.ledger.delivered(node, contact, &id, known);
                }
            }
            Output::Event(_, EventKind::Undecryptable { from }) => {
                if let Some(contact) = self.index(&from) {
                    self.ledger.unreadable(node, contact, self.plan.malicious);
                    let life = self.nodes[node].life;
                    self.soon(1, 50, Happening::AskAgain { node, life, contact });
                }
            }
            Output::Wake(fp) => {
                if let Some(contact) = self.index(&fp) {
                    self.wake(node, contact);
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

    // ---- a process ------------------------------------------------------------------------------

    fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() {
            return;
        }
        if let Err(e) = self.nodes[node].start() {
            if self.nodes[node].disk.is_dead() {
                return self.die(node);
            }
            // The disk may be full or not answer: somebody tries again.
            if matches!(e, StoreError::Corrupt | StoreError::NotOurs | StoreError::Unreadable(_)) {
                self.ledger.breach(Breach::Damaged { node, why: e.to_string() });
            }
            self.soon(5_000, 10_000, Happening::Start { node });
            return;
        }
        let life = self.nodes[node].life;
        self.soon(10, 300, Happening::Register { node, life });
        let waiting = self.on(node, |_, cx| cx.db.contacts_with_unacked()).unwrap_or_default();
        for fp in waiting {
            if let Some(contact) = self.index(&fp) {
                self.wake(node, contact);
            }
        }
        self.say(node);
    }

    /// The process is gone, and perhaps the machine's power.
    fn die(&mut self, node: usize) {
        if self.nodes[node].running.take().is_some() {
            let power_lost = self.rng.chance(500);
            self.end_links(node);
            self.nodes[node].disk.restart(power_lost.then_some(&mut self.rng));
        } else {
            self.nodes[node].disk.restart(Some(&mut self.rng));
        }
        self.peers.iter_mut().for_each(|p| p.gone(node));
        self.soon(50, 20_000, Happening::Start { node });
    }

    fn end_links(&mut self, node: usize) {
        for contact in 0..self.nodes.len() {
            if let Some(link) = self.links.get_mut(&pair(node, contact)).filter(|l| l.alive) {
                link.alive = false;
                let id = link.id;
                self.notice(id, contact, node);
            }
            self.believed.remove(&(node, contact));
        }
    }

    /// One side will notice that a link has ended; it may take a while.
    fn notice(&mut self, link: u64, node: usize, contact: usize) {
        let life = self.nodes[node].life;
        self.soon(5, 60_000, Happening::LinkLost { link, node, life, contact });
    }

    fn stop_believing(&mut self, link: u64, node: usize, contact: usize) {
        if self.believed.get(&(node, contact)) == Some(&link) {
            self.believed.remove(&(node, contact));
            let now = self.instant();
            self.courier(node, contact, |c| c.schedule.path_changed(now));
            self.wake(node, contact);
        }
    }

    /// What the programs want to say goes to `send`, under one name until that says Ok.
    fn say(&mut self, node: usize) {
        for to in 0..self.nodes.len() {
            while let Some(text) = self.unsaid.get(&(node, to)).and_then(|t| t.first()).cloned() {
                let (fp, body) = (self.fp(to), text.clone());
                let sent = self.on(node, move |m, cx| m.send(cx, &fp, &body, Some(&body), None));
                match sent {
                    Ok(id) => {
                        self.ledger.accepted(node, to, id, text);
                        if let Some(texts) = self.unsaid.get_mut(&(node, to)) {
                            texts.remove(0);
                        }
                    }
                    // A full or failing disk: the program hears it, and tries again later.
                    Err(_) => break,
                }
            }
        }
    }

    // ---- a courier ------------------------------------------------------------------------------

    fn round(&mut self, node: usize, contact: usize) {
        let now = self.instant();
        let carrying = self.courier(node, contact, |c| {
            c.wake_at = None;
            if c.carrying.is_some() {
                c.again = true;
            }
            if std::mem::take(&mut c.heard_by_mailbox) {
                c.schedule.heard_by_mailbox();
            }
            c.carrying.is_some()
        });
        if carrying != Some(false) {
            return;
        }
        let trust = match self.believed.get(&(node, contact)).copied() {
            Some(link) => match self.by_link(node, contact, link) {
                Ok(first) => self
                    .courier(node, contact, |c| c.schedule.written(now, first))
                    .unwrap_or(Trust::None),
                Err(_) => return self.failed(node, contact),
            },
            None => Trust::None,
        };
        let suffices = self.courier(node, contact, |c| c.schedule.link_suffices(trust)).flatten();
        if let Some(Next::Wait(again)) = suffices {
            return self.rest(node, contact, again);
        }
        let fp = self.fp(contact);
        let controls = self.courier(node, contact, |c| !c.controls.is_empty()).unwrap_or_default();
        let work = self.on(node, move |m, cx| {
            let first = cx.db.first_unacked(&fp)?;
            Ok::<_, StoreError>(Work { first, ack: m.due_ack(cx, &fp)?, controls })
        });
        let Ok(mut work) = work else { return self.failed(node, contact) };
        let next = self.courier(node, contact, |c| c.schedule.next(now, trust, &mut work));
        match next {
            Some(Next::Wait(again)) => self.rest(node, contact, again),
            Some(Next::ByPeer) => {
                self.courier(node, contact, |c| c.carrying = Some((trust, work)));
                self.carry(node, contact);
            }
            None => {}
        }
    }

    fn rest(&mut self, node: usize, contact: usize, again: Option<Instant>) {
        if let Some(again) = again {
            let when = again.saturating_duration_since(self.origin);
            self.wake_at(node, contact, when.max(self.now + Duration::from_millis(1)));
        }
    }

    fn failed(&mut self, node: usize, contact: usize) {
        let (now, jitter) = (self.instant(), 0.5 + self.rng.part());
        let again = self.courier(node, contact, |c| {
            c.carrying = None;
            c.ack = None;
            c.schedule.failed(now, None, jitter)
        });
        self.rest(node, contact, again);
    }

    /// Writes everything on a link. Returns the first place that is not acknowledged.
    fn by_link(
        &mut self,
        node: usize,
        contact: usize,
        link: u64,
    ) -> Result<Option<Seq>, StoreError> {
        let fp = self.fp(contact);
        self.courier(node, contact, |c| {
            if c.writing.is_none_or(|(id, _)| id != link) {
                c.writing = Some((link, Seq(0)));
                c.schedule.link_began();
            }
        });
        loop {
            let upto = self.courier(node, contact, |c| c.writing).flatten().map_or(Seq(0), |w| w.1);
            let by_link = self.on(node, move |m, cx| m.depart_by_link(cx, &fp, upto, PORTION))?;
            if let Some(ack) = by_link.ack {
                let suffices = self.courier(node, contact, |c| {
                    if std::mem::take(&mut c.heard_by_mailbox) {
                        c.schedule.heard_by_mailbox();
                    }
                    c.schedule.receipt_by_link_suffices()
                });
                self.write(node, contact, link, Frame::Ack(ack));
                if suffices == Some(true) {
                    self.on(node, move |m, cx| m.ack_sent(cx, &fp, ack))?;
                    self.courier(node, contact, |c| c.schedule.receipt_given(false));
                }
            }
            match by_link.departure {
                Departure::NeedBundle => self.begin_session(node, contact)?,
                Departure::Ready(ready) => {
                    let all = ready.len() < PORTION;
                    for one in ready {
                        self.ledger.left(node, contact, &one.inner);
                        self.courier(node, contact, |c| c.writing = Some((link, one.seq)));
                        self.write(node, contact, link, Frame::Inner(one.inner));
                    }
                    if all {
                        let controls =
                            self.courier(node, contact, |c| std::mem::take(&mut c.controls));
                        for inner in controls.into_iter().flatten() {
                            self.write(node, contact, link, Frame::Inner(inner));
                        }
                        return Ok(by_link.first);
                    }
                }
            }
        }
    }

    fn begin_session(&mut self, node: usize, contact: usize) -> Result<(), StoreError> {
        let (fp, found) = (self.fp(contact), self.nodes[contact].look_up());
        self.on(node, move |m, cx| m.take_bundle(cx, &fp, &found).map_err(|_| StoreError::Stopped))
    }

    fn write(&mut self, from: usize, to: usize, id: u64, frame: Frame) {
        let wait = Duration::from_millis(self.rng.within(5, 60));
        let Some(link) = self.links.get_mut(&pair(from, to)) else { return };
        if link.id != id || !link.alive {
            return;
        }
        let last = &mut link.last[usize::from(from < to)];
        *last = (self.now + wait).max(*last);
        let when = *last;
        self.at(when, Happening::Frame { link: id, from, to, frame });
    }

    fn frame(&mut self, id: u64, from: usize, to: usize, frame: Frame) {
        let alive = self.links.get(&pair(from, to)).is_some_and(|l| l.id == id && l.alive);
        if !alive || self.nodes[to].running.is_none() {
            return;
        }
        let fp = self.fp(from);
        let taken = match frame {
            Frame::Ack(ack) => self.on(to, move |m, cx| m.take_ack(cx, &fp, ack, Via::Direct)),
            Frame::Inner(bytes) => {
                self.receipt_too_early(to, from, &bytes);
                self.on(to, move |m, cx| {
                    let arrivals = m.open_frame(&fp, Via::Direct, &bytes).into_iter().collect();
                    m.ingest(cx, arrivals).map(drop)
                })
            }
        };
        // What could not be stored is not acknowledged.
        let _ = taken;
    }

    /// A planted fault: the receipt leaves first.
    fn receipt_too_early(&mut self, node: usize, from: usize, bytes: &[u8]) {
        if !planted(Bug::ReceiptBeforeCommit) {
            return;
        }
        let Ok(inner) = Inner::decode(bytes) else { return };
        let (fp, route) = (self.fp(node), inner.route);
        let fs = self.fp(from);
        let next = self.on(node, move |_, cx| cx.db.stream_next(&fs, route.stream));
        if inner.kind == Kind::Message && next.ok().flatten() == Some(route.seq) {
            let ack = Ack { stream: route.stream, next: Seq(route.seq.0 + 1) };
            let _ = self.on(from, move |m, cx| m.take_ack(cx, &fp, ack, Via::Direct));
        }
    }

    // ---- by the contact's peer --------------------------------------------------------------------

    /// Sends the next envelopes to the contact's peer, or ends the carrying.
    fn carry(&mut self, node: usize, contact: usize) {
        let Some((trust, work)) = self.courier(node, contact, |c| c.carrying).flatten() else {
            return;
        };
        // A connection is the better way.
        if trust == Trust::None
            && let Some(link) = self.believed.get(&(node, contact)).copied()
            && self.courier(node, contact, |c| c.writing.is_none_or(|w| w.0 != link)) == Some(true)
        {
            self.courier(node, contact, |c| c.carrying = None);
            return self.wake(node, contact);
        }
        let home = self.home(contact);
        let known = self.nodes[node].running.as_ref().and_then(|r| r.offices.get(&home).copied());
        let Some(run) = known.or_else(|| self.peers[home].run()) else {
            return self.failed(node, contact);
        };
        if let Some(running) = &mut self.nodes[node].running {
            running.offices.insert(home, run);
        }
        let fp = self.fp(contact);
        let ready = loop {
            if work.first.is_none() {
                break Vec::new();
            }
            match self.on(node, move |m, cx| m.depart_to_peer(cx, &fp, run, IN_FLIGHT)) {
                Ok(Departure::Ready(ready)) => break ready,
                Ok(Departure::NeedBundle) => {
                    if self.begin_session(node, contact).is_err() {
                        return self.failed(node, contact);
                    }
                }
                Err(_) => return self.failed(node, contact),
            }
        };
        let last = ready.is_empty();
        let mut envelopes = Vec::new();
        for one in ready {
            self.ledger.left(node, contact, &one.inner);
            envelopes.push((Some(one.seq), one.inner));
        }
        let mut later = None;
        if last {
            let controls = self.courier(node, contact, |c| std::mem::take(&mut c.controls));
            envelopes.extend(controls.into_iter().flatten().map(|inner| (None, inner)));
        }
        match self.receipt_by_mail(node, contact) {
            Ok(Some(inner)) => envelopes.push((None, inner)),
            Ok(None) => later = self.courier(node, contact, |c| c.receipt_later).flatten(),
            Err(_) => return self.failed(node, contact),
        }
        if envelopes.is_empty() {
            let (now, jitter) = (self.instant(), 0.5 + self.rng.part());
            let again = self.courier(node, contact, |c| {
                c.carrying = None;
                c.schedule.left(now, trust, &work, later, jitter)
            });
            self.rest(node, contact, again.flatten());
            if self.courier(node, contact, |c| std::mem::take(&mut c.again)) == Some(true) {
                self.wake(node, contact);
            }
            return;
        }
        let life = self.nodes[node].life;
        self.soon(5, 80, Happening::Drop { from: node, life, to: contact, run, envelopes });
    }

    /// The receipt that is due, if its time has come.
    fn receipt_by_mail(
        &mut self,
        node: usize,
        contact: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (fp, now, part) = (self.fp(contact), self.instant(), self.rng.part());
        let due = self.on(node, move |m, cx| m.due_ack(cx, &fp))?;
        let Some(ack) = due else {
            self.courier(node, contact, |c| {
                c.receipt_later = None;
                c.schedule.receipt_given(true);
            });
            return Ok(None);
        };
        let later = self.courier(node, contact, |c| {
            c.receipt_later = c.schedule.receipt_at(now, part);
            c.receipt_later
        });
        if later.flatten().is_some() {
            return Ok(None);
        }
        let inner =
            self.on(node, move |m, cx| m.make_control(cx, &fp, Kind::Ack, &ack.encode()))?;
        self.courier(node, contact, |c| c.ack = inner.is_some().then_some(ack));
        Ok(inner)
    }

    fn at_peer(
        &mut self,
        from: usize,
        life: u32,
        to: usize,
        run: InstanceId,
        mut envelopes: Vec<(Option<Seq>, Vec<u8>)>,
    ) {
        let home = self.home(to);
        let (mut left, mut refused) = (Vec::new(), false);
        self.rng.shuffle(&mut envelopes);
        for (seq, bytes) in envelopes {
            match self.peers[home].take(to, run, bytes, self.now, &mut self.rng) {
                Given::Kept(receipt, id) => {
                    if let Some(id) = id {
                        self.push(home, to, id);
                    }
                    left.extend(seq.map(|seq| (seq, receipt)));
                }
                Given::Refused => refused = true,
            }
        }
        // The answer may get lost with the connection; then the sender hears nothing good.
        if self.now < CALM && self.rng.chance(self.plan.loss) {
            left.clear();
            refused = true;
        }
        self.soon(5, 80, Happening::Answer { node: from, life, contact: to, left, refused });
    }

    fn answered(&mut self, node: usize, contact: usize, left: Vec<(Seq, Receipt)>, refused: bool) {
        let fp = self.fp(contact);
        let noted = self.on(node, move |m, cx| m.parked(cx, &fp, &left));
        if noted.is_err() || refused {
            // The next attempt asks which run there is.
            let home = self.home(contact);
            if let Some(running) = &mut self.nodes[node].running {
                running.offices.remove(&home);
            }
            return self.failed(node, contact);
        }
        if let Some(ack) = self.courier(node, contact, |c| c.ack.take()).flatten() {
            self.courier(node, contact, |c| c.schedule.receipt_given(true));
            if self.on(node, move |m, cx| m.ack_sent(cx, &fp, ack)).is_err() {
                return self.failed(node, contact);
            }
        }
        self.carry(node, contact);
    }

    // ---- the own mailbox ----------------------------------------------------------------------------

    fn register(&mut self, node: usize) {
        let (home, life) = (self.home(node), self.nodes[node].life);
        let Some(run) = self.peers[home].run() else {
            return self.soon(500, 30_000, Happening::Register { node, life });
        };
        let name = PeerHost::new("peer.example", 443).expect("it is a name");
        if self.on(node, move |m, cx| m.mailbox_kept_by(cx, &name, run)).is_err() {
            return self.soon(500, 30_000, Happening::Register { node, life });
        }
        if let Some(running) = &mut self.nodes[node].running {
            running.registered = Some(run);
        }
        self.peers[home].came(node);
        self.fetch(node);
    }

    fn fetch(&mut self, node: usize) {
        let home = self.home(node);
        for id in self.peers[home].waiting(node, self.now) {
            self.push(home, node, id);
        }
    }

    /// A connected recipient is given what waits, in any order.
    fn push(&mut self, peer: usize, to: usize, id: EnvelopeId) {
        let life = self.nodes[to].life;
        for (id, bytes) in self.peers[peer].give(to, id, &mut self.rng) {
            let Some(run) = self.peers[peer].run() else { return };
            self.soon(5, 120, Happening::Mail { node: to, life, run, id, bytes });
        }
    }

    fn mail(&mut self, node: usize, run: InstanceId, id: EnvelopeId, bytes: &[u8]) {
        let home = self.home(node);
        let registered = self.nodes[node].running.as_ref().and_then(|r| r.registered);
        if registered != Some(run) || self.peers[home].run() != Some(run) {
            return;
        }
        let from = Inner::decode(bytes).ok().and_then(|inner| self.index(&inner.route.from));
        if let Some(from) = from {
            self.receipt_too_early(node, from, bytes);
        }
        let arrivals: Vec<_> = Messenger::open_bare(id, bytes).into_iter().collect();
        let dead = arrivals.is_empty();
        let Ok(mut ingested) = self.on(node, move |m, cx| m.ingest(cx, arrivals)) else {
            // As after any trouble with the store: the registration is given up and begun again.
            let life = self.nodes[node].life;
            self.peers[home].gone(node);
            return self.soon(500, 10_000, Happening::Register { node, life });
        };
        if dead {
            ingested.done.push(id);
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        running.passed_over |= ingested.passed_over;
        let again = running.passed_over && !ingested.done.is_empty();
        if again {
            running.passed_over = false;
        }
        if !ingested.done.is_empty() {
            let ids = ingested.done;
            self.soon(5, 80, Happening::Forget { peer: home, node, run, ids });
        }
        if again {
            self.fetch(node);
        }
    }

    fn ask_again(&mut self, node: usize, contact: usize) {
        let (fp, found) = (self.fp(contact), self.nodes[contact].look_up());
        let made = self
            .on(node, move |m, cx| m.make_resend(cx, &fp, &found).map_err(|_| StoreError::Stopped));
        if let Ok(Some(inner)) = made {
            self.courier(node, contact, |c| c.controls.push(inner));
            self.wake(node, contact);
        }
    }

    fn peer_lost(&mut self, node: usize, peer: usize) {
        if let Some(running) = &mut self.nodes[node].running {
            running.offices.remove(&peer);
        }
        let waiting = self.on(node, |_, cx| cx.db.contacts_with_unacked()).unwrap_or_default();
        for fp in waiting {
            if let Some(contact) = self.index(&fp) {
                self.wake(node, contact);
            }
        }
        if self.home(node) == peer {
            let life = self.nodes[node].life;
            self.soon(200, 5_000, Happening::Register { node, life });
        }
    }

    // ---- what goes wrong ----------------------------------------------------------------------------

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { node, operations } => match operations {
                0 => self.die(node),
                n => self.nodes[node].disk.trouble(|t| t.dies_in = Some(n)),
            },
            Fault::RestartPeer { peer } => self.restart_peer(peer),
            Fault::Connect { a, b } => self.connect(a, b),
            Fault::Disconnect { a, b } => {
                if let Some(link) = self.links.get_mut(&pair(a, b)).filter(|l| l.alive) {
                    link.alive = false;
                    let id = link.id;
                    self.notice(id, a, b);
                    self.notice(id, b, a);
                }
            }
            Fault::DiskFull { node, full } => {
                self.nodes[node].disk.trouble(|t| t.full = full);
                if !full {
                    self.say(node);
                }
            }
            Fault::NoSync { node } => {
                self.nodes[node].disk.trouble(|t| t.no_sync = true);
                // The store stops at the first failure; whoever watches the program restarts it.
                self.soon(1_000, 20_000, Happening::Fault(Fault::Replaced { node }));
            }
            Fault::Replaced { node } => {
                self.nodes[node].disk.trouble(|t| t.no_sync = false);
                self.die(node);
            }
            Fault::Clock { node, seconds } => self.nodes[node].clock = seconds,
            Fault::Calm => self.calm(),
        }
    }

    fn restart_peer(&mut self, peer: usize) {
        self.peers[peer].restart(&mut self.rng);
        for node in 0..self.nodes.len() {
            let life = self.nodes[node].life;
            if self.home(node) == peer
                && let Some(running) = &mut self.nodes[node].running
            {
                running.registered = None;
            }
            self.soon(1, 3_000, Happening::PeerLost { node, life, peer });
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        if a == b || self.nodes[a].running.is_none() || self.nodes[b].running.is_none() {
            return;
        }
        self.count += 1;
        let link = Link { id: self.count, alive: true, last: [self.now; 2] };
        for (node, contact) in [(a, b), (b, a)] {
            self.believed.insert((node, contact), link.id);
            let now = self.instant();
            self.courier(node, contact, |c| c.schedule.path_changed(now));
        }
        self.links.insert(pair(a, b), link);
        self.wake(a, b);
        self.wake(b, a);
    }

    /// The faults stop. Peers that have lied are replaced by honest ones.
    fn calm(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].clock = 0;
            self.nodes[node].disk.trouble(|t| {
                (t.full, t.no_sync) = (false, false);
                t.dies_in = t.dies_in.filter(|n| *n == 0);
            });
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].is_malicious() {
                self.peers[peer].reform();
                self.restart_peer(peer);
            }
        }
        for node in 0..self.nodes.len() {
            // A store that has failed serves no more.
            if self.nodes[node].running.is_some() && self.rng.chance(500) {
                self.die(node);
            } else {
                self.say(node);
            }
        }
    }

    // ---- the end --------------------------------------------------------------------------------------

    fn judge(&mut self) -> Result<(), Breach> {
        let heard: Vec<Vec<EventKind>> = self.nodes.iter_mut().map(Node::events).collect();
        let fps: Vec<Fingerprint> = self.nodes.iter().map(Node::fp).collect();
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_none() {
                return Err(Breach::Stuck { node, contact: node, left: 0 });
            }
            for contact in 0..self.nodes.len() {
                let fp = fps[contact];
                let (left, _) = self.nodes[node].run(self.now, move |_, cx| cx.db.outbox_len(&fp));
                let left = left.unwrap_or_else(|_: StoreError| u64::MAX);
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
