//! Where the store's outputs go: a place that never blocks, shared by the store's thread and the
//! network's tasks.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use halloo_identity::Fingerprint;
use halloo_wire::EnvelopeId;
use tokio::sync::{Notify, broadcast, oneshot, watch};

use crate::clock::mono_ns;
use crate::core::Output;
use crate::event::{Cursor, Event, EventKind};

/// Events that a slow program may be behind. Durable ones are read again from the store, passing
/// ones are lost and counted.
const EVENT_BACKLOG: usize = 1024;
/// Messages outside of the stream that wait for one contact; the oldest go first, since only the
/// newest answer matters.
const MAX_CONTROLS: usize = 16;
/// Pings that wait for an answer; more are not sent.
const MAX_PINGS: usize = 256;

pub(crate) struct Switchboard {
    events: broadcast::Sender<Event>,
    inner: Mutex<Inner>,
    /// Rings when a contact is woken or to be disconnected.
    pub(crate) woken: Notify,
    /// Rings when a message with a deadline was accepted.
    pub(crate) deadline: Notify,
    /// Rings when our peer may forget envelopes.
    pub(crate) forget: Notify,
    /// Counts the times that our peers' copies of our capabilities went out of date.
    pub(crate) grants: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    // Each of these holds contacts, and the store limits those.
    wake: BTreeSet<Fingerprint>,
    disconnect: BTreeSet<Fingerprint>,
    controls: HashMap<Fingerprint, VecDeque<Vec<u8>>>,
    by_mailbox: BTreeSet<Fingerprint>,
    pings: HashMap<(Fingerprint, u64), oneshot::Sender<()>>,
    /// What is held for a contact is bounded, and is in here once.
    forget: Vec<EnvelopeId>,
}

impl Switchboard {
    pub(crate) fn new() -> Self {
        Self {
            events: broadcast::Sender::new(EVENT_BACKLOG),
            inner: Mutex::default(),
            woken: Notify::new(),
            deadline: Notify::new(),
            forget: Notify::new(),
            grants: watch::Sender::new(0),
        }
    }

    /// The envelopes that our peer may forget. Those that it does not have are no trouble.
    pub(crate) fn take_forgotten(&self) -> Vec<EnvelopeId> {
        std::mem::take(&mut self.lock().forget)
    }

    /// Takes an output of the store, after its commit.
    pub(crate) fn take(&self, output: Output) {
        match output {
            Output::Event(cursor, kind) => self.emit(cursor, kind),
            Output::Wake(contact) => self.wake([contact]),
            Output::HeardByMailbox(contact) => {
                self.lock().by_mailbox.insert(contact);
            }
            Output::Control(contact, inner) => {
                let mut it = self.lock();
                let controls = it.controls.entry(contact).or_default();
                if controls.len() >= MAX_CONTROLS {
                    controls.pop_front();
                }
                controls.push_back(inner);
                it.wake.insert(contact);
                drop(it);
                self.woken.notify_one();
            }
            Output::Forget(envelopes) => {
                self.lock().forget.extend(envelopes);
                self.forget.notify_one();
            }
            Output::Pong(contact, nonce) => {
                if let Some(waiting) = self.lock().pings.remove(&(contact, nonce)) {
                    // Whoever asked may have given up.
                    let _ = waiting.send(());
                }
            }
            Output::Deadline => self.deadline.notify_one(),
            Output::GrantsChanged => self.grants.send_modify(|n| *n += 1),
            Output::Disconnect(contact) => {
                self.lock().disconnect.insert(contact);
                self.woken.notify_one();
            }
        }
    }

    /// Tells the program something that is not kept.
    pub(crate) fn tell(&self, kind: EventKind) {
        self.emit(None, kind);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn wake(&self, contacts: impl IntoIterator<Item = Fingerprint>) {
        self.lock().wake.extend(contacts);
        self.woken.notify_one();
    }

    /// Contacts that were woken, and those to disconnect, since the last call.
    pub(crate) fn take_woken(&self) -> (BTreeSet<Fingerprint>, BTreeSet<Fingerprint>) {
        let mut it = self.lock();
        (std::mem::take(&mut it.wake), std::mem::take(&mut it.disconnect))
    }

    pub(crate) fn take_controls(&self, contact: &Fingerprint) -> VecDeque<Vec<u8>> {
        self.lock().controls.remove(contact).unwrap_or_default()
    }

    /// Whether a contact was heard through the mailbox since the last call.
    pub(crate) fn take_by_mailbox(&self, contact: &Fingerprint) -> bool {
        self.lock().by_mailbox.remove(contact)
    }

    pub(crate) fn has_controls(&self, contact: &Fingerprint) -> bool {
        self.lock().controls.contains_key(contact)
    }

    /// Waits for a pong; `None` when too many wait already.
    pub(crate) fn await_pong(
        &self,
        contact: Fingerprint,
        nonce: u64,
    ) -> Option<oneshot::Receiver<()>> {
        let mut it = self.lock();
        it.pings.retain(|_, waiting| !waiting.is_closed());
        if it.pings.len() >= MAX_PINGS {
            return None;
        }
        let (answer, waiting) = oneshot::channel();
        it.pings.insert((contact, nonce), answer);
        Some(waiting)
    }

    fn emit(&self, cursor: Option<Cursor>, kind: EventKind) {
        // Without a listener nobody needs to hear it.
        let _ = self.events.send(Event { cursor, mono_ns: mono_ns(), kind });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code in here can leave the maps half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
