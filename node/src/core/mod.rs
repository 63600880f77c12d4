//! What the node decides: contacts, messages, acknowledgements, codes. No sockets and no clock.
//!
//! [`Messenger`] works on the database inside of a transaction ([`Context`]). Its inputs are
//! method calls: what the program asks, what arrived, what a peer answered. Its outputs are
//! collected in the context and leave after the commit ([`Output`]). If the transaction fails,
//! nothing happened and nothing leaves.
//!
//! The order inside is always: check, decrypt on a copy, write, and only then tell. So a bad input
//! changes nothing, and no acknowledgement leaves before what it acknowledges is on disk.

mod again;
mod contacts;
mod incoming;
mod outgoing;
pub(crate) mod parking;
pub(crate) mod places;
mod prekeys;
mod safety;
pub(crate) mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use halloo_e2ee::{BundleSecrets, Party, RatchetAccount, RatchetSession, UnixTime};
use halloo_identity::{Fingerprint, Identity};
use halloo_wire::{EnvelopeId, Seq, StreamId};

pub(crate) use again::strip_for_backup;
pub(crate) use contacts::{Caller, Calling, Reach};
pub(crate) use incoming::{Arrival, Ingested};
use incoming::{Held, Origin};
#[cfg(test)]
pub(crate) use outgoing::DueAck;
pub(crate) use outgoing::{Departure, delivery_of};

use crate::contact::DirectPolicy;
use crate::event::{Cursor, EventKind};
use crate::store::{ContactRow, Db, StoreError};

const META_FINGERPRINT: &str = "fingerprint";
const META_ACCOUNT: &str = "account";
const META_NAME: &str = "name";
const META_POLICY: &str = "direct";
const META_PEERS: &str = "peers";
/// With the peer's name behind it: the invite that lets it host us.
const META_INVITE: &str = "invite";
/// With the peer's name behind it: the run that keeps our mailbox.
const META_RUN: &str = "run";

/// Contacts whose ratchets are kept in memory; beyond it, all are forgotten and read again.
const MAX_CACHED: usize = 512;

/// What the core works with: the database, the time, and what is to be told after the commit.
pub(crate) struct Context<'a> {
    pub(crate) db: Db<'a>,
    pub(crate) now: UnixTime,
    pub(crate) outputs: Vec<Output>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(db: Db<'a>, now: UnixTime) -> Self {
        Self { db, now, outputs: Vec::new() }
    }

    /// Tells the program, and keeps the event when it is durable.
    fn emit(&mut self, kind: EventKind) -> Result<(), StoreError> {
        let cursor = if kind.is_durable() { Some(self.db.add_event(&kind)?) } else { None };
        self.outputs.push(Output::Event(cursor, kind));
        Ok(())
    }

    fn wake(&mut self, contact: Fingerprint) {
        self.outputs.push(Output::Wake(contact));
    }
}

/// What is to be done after the commit.
#[derive(Debug)]
pub(crate) enum Output {
    /// Tell the program.
    Event(Option<Cursor>, EventKind),
    /// There is something to send to this contact, or an acknowledgement is due.
    Wake(Fingerprint),
    /// This contact was heard through the mailbox: a direct connection that is still open may be
    /// dead at its end, or it would have been used.
    HeardByMailbox(Fingerprint),
    /// Send an encrypted message outside of the stream.
    Control(Fingerprint, Vec<u8>),
    /// Our peer may forget these envelopes, and what waits there is to be fetched again.
    Forget(Vec<EnvelopeId>),
    /// A pong came.
    Pong(Fingerprint, u64),
    /// A message was accepted that has a deadline.
    Deadline,
    /// The capabilities or cards at our peer are out of date.
    GrantsChanged,
    /// The contact may no longer be connected.
    Disconnect(Fingerprint),
}

/// The node's mind.
pub(crate) struct Messenger {
    identity: Arc<Identity>,
    /// Accept every request; set by the program, not kept.
    accept_all: bool,
    /// `None` after a failed transaction: read from the database at the next use.
    account: Option<RatchetAccount>,
    sessions: HashMap<Fingerprint, Vec<RatchetSession>>,
    secrets: Option<Vec<BundleSecrets>>,
    /// To whom this transaction has accepted messages: they are encrypted at its end.
    accepted: Vec<Fingerprint>,
    /// Messages that came before their turn, not decrypted and not acknowledged. Bounded by
    /// [`incoming::MAX_HELD`] for each contact.
    held: HashMap<Fingerprint, Held>,
    /// The first place of each contact that was too early to be held, and is still at our peer.
    passed_over: HashMap<Fingerprint, (StreamId, Seq)>,
}

impl Messenger {
    /// Reads what the database holds, or begins.
    ///
    /// # Errors
    /// [`StoreError::OtherIdentity`] when the database belongs to somebody else.
    pub(crate) fn load(
        cx: &mut Context<'_>,
        identity: Arc<Identity>,
        accept_all: bool,
    ) -> Result<Self, StoreError> {
        let fingerprint = identity.fingerprint();
        match cx.db.meta(META_FINGERPRINT)? {
            None => cx.db.set_meta(META_FINGERPRINT, fingerprint.as_bytes())?,
            Some(fp) if fp == fingerprint.as_bytes() => {}
            Some(_) => return Err(StoreError::OtherIdentity),
        }
        let mut it = Self {
            identity,
            accept_all,
            account: None,
            sessions: HashMap::new(),
            secrets: None,
            accepted: Vec::new(),
            held: HashMap::new(),
            passed_over: HashMap::new(),
        };
        if cx.db.meta(META_ACCOUNT)?.is_none() {
            it.account = Some(RatchetAccount::generate());
            it.save_account(cx)?;
        }
        it.account(cx)?;
        Ok(it)
    }

    /// Whether a database belongs to nobody yet.
    pub(crate) fn is_new(cx: &Context<'_>) -> Result<bool, StoreError> {
        Ok(cx.db.meta(META_FINGERPRINT)?.is_none())
    }

    /// Forgets what is only a copy of the database, after a transaction was rolled back.
    pub(crate) fn forget_cached(&mut self) {
        self.account = None;
        self.secrets = None;
        self.sessions.clear();
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    pub(crate) fn policy(&self, cx: &Context<'_>) -> Result<DirectPolicy, StoreError> {
        match cx.db.meta(META_POLICY)? {
            None => Ok(DirectPolicy::default()),
            Some(v) => String::from_utf8_lossy(&v)
                .parse()
                .map_err(|_| StoreError::Unreadable("direct policy")),
        }
    }

    pub(crate) fn set_policy(
        &mut self,
        cx: &mut Context<'_>,
        policy: DirectPolicy,
    ) -> Result<(), StoreError> {
        if self.policy(cx)? == policy {
            return Ok(());
        }
        cx.db.set_meta(META_POLICY, policy.to_string().as_bytes())?;
        cx.outputs.push(Output::GrantsChanged);
        for contact in cx.db.contacts()? {
            if !policy.allows(contact.state, contact.verified) {
                cx.outputs.push(Output::Disconnect(contact.fp));
            }
        }
        Ok(())
    }

    fn account(&mut self, cx: &Context<'_>) -> Result<&mut RatchetAccount, StoreError> {
        if self.account.is_none() {
            let bytes = cx.db.meta(META_ACCOUNT)?.ok_or(StoreError::Unreadable("account"))?;
            let bytes = zeroize::Zeroizing::new(bytes);
            self.account = Some(
                RatchetAccount::from_bytes(&bytes)
                    .map_err(|_| StoreError::Unreadable("account"))?,
            );
        }
        Ok(self.account.as_mut().expect("set above"))
    }

    fn save_account(&self, cx: &Context<'_>) -> Result<(), StoreError> {
        let account = self.account.as_ref().expect("saved only after it was used");
        cx.db.set_meta(META_ACCOUNT, &account.to_bytes())
    }

    /// Ratchet sessions with a contact, the one that speaks first.
    fn sessions(
        &mut self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<&mut Vec<RatchetSession>, StoreError> {
        if self.sessions.len() > MAX_CACHED {
            self.sessions.clear();
        }
        if !self.sessions.contains_key(fp) {
            let sessions = cx
                .db
                .sessions(fp)?
                .iter()
                .map(|bytes| {
                    RatchetSession::from_bytes(bytes).map_err(|_| StoreError::Unreadable("session"))
                })
                .collect::<Result<_, _>>()?;
            self.sessions.insert(*fp, sessions);
        }
        Ok(self.sessions.get_mut(fp).expect("inserted above"))
    }

    /// Writes a session that read a message, and makes it the one that we speak on. A known one has
    /// been taken out of the cache; it does not overtake a session that waits for its first answer,
    /// because that was begun for the reason that the known ones are not readable.
    fn save_session(
        &mut self,
        cx: &Context<'_>,
        fp: &Fingerprint,
        session: RatchetSession,
        origin: Origin,
    ) -> Result<(), StoreError> {
        let kept = self.sessions.entry(*fp).or_default();
        let waits = matches!(origin, Origin::Known(1..))
            && kept.first().is_some_and(|fresh| !fresh.has_heard());
        cx.db.put_session(fp, &session.id(), &session.to_bytes(), !waits)?;
        match origin {
            Origin::Known(_) => kept.insert(usize::from(waits), session),
            // The store keeps a few: read again which ones.
            Origin::Begun => {
                self.sessions.remove(fp);
            }
        }
        Ok(())
    }

    fn me(&mut self, cx: &Context<'_>) -> Result<Party, StoreError> {
        Ok(Party {
            fingerprint: self.identity.fingerprint(),
            device: self.identity.device_id(),
            ratchet_key: self.account(cx)?.olm_identity(),
        })
    }
}

/// A contact's side of a ratchet session; `None` until its key is proved.
fn party(c: &ContactRow) -> Option<Party> {
    Some(Party {
        fingerprint: c.fp,
        device: halloo_wire::DeviceId(c.device),
        ratchet_key: c.ratchet_key?,
    })
}
