//! Two minds, two databases in memory, and a post that loses, repeats and reorders.

#![allow(clippy::unwrap_used)]

mod again;
mod contacts;
mod delivery;
mod safety;

use std::sync::Arc;
use std::time::Duration;

use halloo_e2ee::{UnixTime, VerifiedBundle, seal};
use halloo_identity::safety::TypedCode;
use halloo_identity::{Address, DeviceId, Fingerprint, Identity, PeerHost};
use halloo_wire::content::{Ack, PeerHint};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::peer::{Found, Receipt};
use halloo_wire::{EnvelopeId, InstanceId, MessageId, Seq, Transcript};
use proptest::prelude::*;
use rusqlite::Connection;

use super::{Context, Departure, Messenger, Output};
use crate::contact::{ContactState, Verification};
use crate::error::{CancelError, ContactError, SafetyError, SendError};
use crate::event::{Delivery, EventKind, FailReason, SafetyState, Via};
use crate::store::{Db, Incoming, StoreError};

const NOW: u64 = 1_800_000_000;
const RUN: InstanceId = InstanceId([1; 16]);

struct Side {
    identity: Arc<Identity>,
    sql: Connection,
    mind: Messenger,
    now: u64,
    events: Vec<EventKind>,
    controls: Vec<Vec<u8>>,
    /// What the courier was told, in order: woken (false) or heard by mailbox (true).
    told: Vec<bool>,
}

impl Side {
    fn new() -> Self {
        let identity = Arc::new(Identity::generate());
        let sql = Connection::open_in_memory().unwrap();
        crate::store::prepare_for_tests(&sql);
        let mind = load(&sql, &identity);
        let mut it = Self {
            identity,
            sql,
            mind,
            now: NOW,
            events: Vec::new(),
            controls: Vec::new(),
            told: Vec::new(),
        };
        let hint = PeerHint { host: "peer.example".into(), port: 443, key: None };
        it.run(|m, cx| m.set_own_peers(cx, &[hint])).unwrap();
        it
    }

    fn run<T, E>(
        &mut self,
        job: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.sql.execute_batch("BEGIN").unwrap();
        let mut cx = Context::new(Db::new(&self.sql), UnixTime(self.now));
        let result = job(&mut self.mind, &mut cx);
        for contact in self.mind.take_accepted() {
            self.mind.encrypt_early(&mut cx, &contact).unwrap();
        }
        let outputs = cx.outputs;
        if result.is_ok() {
            self.sql.execute_batch("COMMIT").unwrap();
            for output in outputs {
                match output {
                    Output::Event(_, kind) => self.events.push(kind),
                    Output::Control(_, inner) => self.controls.push(inner),
                    Output::HeardByMailbox(_) => self.told.push(true),
                    Output::Wake(_) => self.told.push(false),
                    _ => {}
                }
            }
        } else {
            self.sql.execute_batch("ROLLBACK").unwrap();
            self.mind.forget_cached();
        }
        result
    }

    /// The process is killed and started again.
    fn restart(&mut self) {
        self.mind = load(&self.sql, &self.identity);
    }

    fn fp(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    fn address(&self) -> Address {
        let peer = PeerHost::new("peer.example", 443).unwrap();
        Address { peer, peer_key: None, fingerprint: self.fp() }
    }

    /// What a peer would hand out of this side.
    fn found(&mut self) -> Found {
        let made = self.run(|m, cx| m.publication(cx, None)).unwrap().unwrap();
        Found {
            passport: self.identity.passport_der().to_vec(),
            bundle: made.bundle,
            one_time_keys: made.one_time_keys,
            one_time_key: Some((self.events.len() % 50) as u16),
        }
    }

    fn texts(&self) -> Vec<String> {
        let texts = self.events.iter().filter_map(|e| match e {
            EventKind::Message { text, .. } => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }

    fn state_of(&mut self, other: &Fingerprint) -> ContactState {
        let fp = *other;
        self.run(|_, cx| cx.db.contact(&fp)).unwrap().unwrap().state
    }
}

fn load(sql: &Connection, identity: &Arc<Identity>) -> Messenger {
    let mut cx = Context::new(Db::new(sql), UnixTime(NOW));
    Messenger::load(&mut cx, Arc::clone(identity), false).unwrap()
}

/// Everything that `from` has for `to`, as bytes on the way.
fn outgoing(from: &mut Side, to: &mut Side) -> Vec<(Kind, Vec<u8>)> {
    let fp = to.fp();
    loop {
        let departure = from.run(|m, cx| m.depart(cx, &fp, Seq(0), 100)).unwrap();
        match departure {
            Departure::Ready(ready) => {
                let mut all: Vec<_> = ready.into_iter().map(|o| (o.kind, o.inner)).collect();
                all.extend(from.controls.drain(..).map(|c| (Kind::Ack, c)));
                return all;
            }
            Departure::NeedBundle => {
                let found = to.found();
                from.run(|m, cx| m.take_bundle(cx, &fp, &found)).unwrap();
            }
        }
    }
}

fn by_mailbox(to: &mut Side, kind: Kind, inner: &[u8]) -> super::Ingested {
    let found = to.found();
    let (fp, device) = (to.fp(), DeviceId::FIRST);
    let bundle = VerifiedBundle::verify(&found, &fp, device, UnixTime(NOW), None).unwrap();
    let lane = if kind == Kind::Request { Lane::Strangers } else { Lane::Contacts };
    let envelope = seal(&bundle, lane, inner).unwrap();
    to.run(|m, cx| {
        let arrival = m.open_envelope(cx, EnvelopeId(1), &envelope)?.unwrap();
        m.ingest(cx, vec![arrival])
    })
    .unwrap()
}

fn directly(to: &mut Side, from: Fingerprint, inner: &[u8]) -> super::Ingested {
    to.run(|m, cx| {
        let arrivals = m.open_frame(&from, Via::Direct, inner).into_iter().collect();
        m.ingest(cx, arrivals)
    })
    .unwrap()
}

fn acknowledge(from: &mut Side, to: &mut Side) {
    let (a, b) = (from.fp(), to.fp());
    if let Some(due) = from.run(|m, cx| m.due_ack(cx, &b)).unwrap() {
        to.run(|m, cx| m.take_ack(cx, &a, due.ack, Via::Direct)).unwrap();
        from.run(|m, cx| m.ack_sent(cx, &b, due)).unwrap();
    }
}

/// Carries everything both ways until nothing is left; what cannot be read is asked for again.
fn settle(a: &mut Side, b: &mut Side) {
    for _ in 0..10 {
        carry(a, b);
        acknowledge(b, a);
        carry(b, a);
        acknowledge(a, b);
    }
}

fn carry(from: &mut Side, to: &mut Side) {
    for (kind, inner) in outgoing(from, to) {
        let ingested = match kind {
            Kind::Request => by_mailbox(to, kind, &inner),
            _ => directly(to, from.fp(), &inner),
        };
        if !ingested.unreadable.is_empty() {
            ask_again(from, to);
        }
    }
}

fn ask_again(from: &mut Side, to: &mut Side) {
    let (fp, found) = (from.fp(), from.found());
    let resend = to.run(|m, cx| m.make_resend(cx, &fp, &found)).unwrap().unwrap();
    directly(from, to.fp(), &resend);
}

fn contacts() -> (Side, Side) {
    let (mut a, mut b) = (Side::new(), Side::new());
    let address = b.address();
    a.run(|m, cx| m.add_contact(cx, &address, Some("Ben"), "hello")).unwrap();
    settle(&mut a, &mut b);
    let fp = a.fp();
    b.run(|m, cx| m.accept(cx, &fp, Some("Anna"))).unwrap();
    settle(&mut a, &mut b);
    (a, b)
}

fn send(from: &mut Side, to: &Side, text: &str) -> MessageId {
    let fp = to.fp();
    from.run(|m, cx| m.send(cx, &fp, text, None, None, None)).unwrap()
}
