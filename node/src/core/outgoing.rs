//! Messages that leave: accepted, encrypted once, sent until acknowledged. Before it is encrypted,
//! a message can be taken back; its place in the stream is kept.

use std::time::Duration;

use std::cmp::Ordering;

use halloo_e2ee::{IN_FLIGHT, Parties, RatchetSession, VerifiedBundle};
use halloo_identity::{Fingerprint, PeerHost, ReachCapability};
use halloo_wire::content::{Ack, Body, Content, Message, in_stream};
use halloo_wire::inner::Kind;
use halloo_wire::limits::MAX_TEXT;
use halloo_wire::peer::{Found, Receipt};
use halloo_wire::{CapabilityToken, DeviceId, InstanceId, MessageId, Nonce, Seq, StreamId};

use super::incoming::Origin;
use super::{Context, META_RUN, Messenger, Output, party};
use crate::contact::ContactState;
use crate::error::{BundleRefused, CancelError, SendError};
use crate::event::{Delivery, EventKind, FailReason, Via};
use crate::planted::{Bug, planted};
use crate::store::{
    ContactRow, Incoming, MAX_PARKED_S, NewHistory, Outgoing, StoreError, Unacked, Unsent,
};

/// Messages that wait for one contact. A person never gets there; a program hears that it must
/// wait.
const MAX_OUTBOX: u64 = 100_000;
/// Messages that are encrypted ahead of the first one that is not acknowledged: more than a peer
/// keeps, unless it is told otherwise. They are read in order, so Olm's limits do not count here; but
/// the fewer there are, the fewer have to be encrypted again when a session is lost.
const MAX_ENCRYPTED_AHEAD: u64 = 4_000;
/// A bundle is fetched again after this time, so that new sealing keys come into use.
const BUNDLE_REFRESH_S: u64 = 24 * 3600;

/// Behind every place of a stream.
pub(super) const END: Seq = Seq(i64::MAX as u64);
/// Seconds that a peer keeps something at least, whatever it says: a shorter time would make us
/// leave it again and again.
const MIN_PARKED_S: u32 = 60;

/// State numbers in the history.
pub(super) const WAITING: i64 = 0;
pub(super) const DELIVERED: i64 = 1;
pub(super) const BLOCKED: i64 = 2;
pub(super) const RECEIVED: i64 = 3;
const CANCELLED: i64 = 4;
const EXPIRED: i64 = 5;

/// Where a message with a state number of the history stands; `None` for one that was received.
pub(crate) fn delivery_of(state: i64) -> Option<Delivery> {
    match state {
        WAITING => Some(Delivery::Waiting),
        DELIVERED => Some(Delivery::Delivered),
        BLOCKED => Some(Delivery::Failed { why: FailReason::Blocked }),
        CANCELLED => Some(Delivery::Failed { why: FailReason::Cancelled }),
        EXPIRED => Some(Delivery::Failed { why: FailReason::Expired }),
        _ => None,
    }
}

fn failed_state(why: FailReason) -> i64 {
    match why {
        FailReason::Blocked => BLOCKED,
        FailReason::Cancelled => CANCELLED,
        FailReason::Expired => EXPIRED,
    }
}

/// What can leave now.
pub(crate) enum Departure {
    /// These messages, in order.
    Ready(Vec<Outgoing>),
    /// Nothing can be encrypted before the recipient's bundle is fetched.
    NeedBundle,
}

/// A receipt that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DueAck {
    /// What it says.
    pub(crate) ack: Ack,
    /// Tells it from one that becomes due while it is on its way.
    due: u64,
}

/// What a direct connection has to carry.
pub(crate) struct ByLink {
    /// The stream that all this is in.
    pub(crate) stream: StreamId,
    /// The acknowledgement that is due.
    pub(crate) ack: Option<DueAck>,
    /// The first place that is not acknowledged.
    pub(crate) first: Option<Seq>,
    /// What can leave.
    pub(crate) departure: Departure,
}

/// Where and how envelopes for a contact are left.
pub(crate) struct Mail {
    /// Their peers, first choice first, with the keys that we know.
    pub(crate) peers: Vec<(PeerHost, Option<halloo_identity::PeerFingerprint>)>,
    /// Shows that we may use the contacts' lane.
    pub(crate) token: Option<CapabilityToken>,
    /// Their device.
    pub(crate) device: DeviceId,
    /// The cached bundle, to be checked again before use.
    pub(crate) bundle: Option<Vec<u8>>,
    /// The highest sequence number of their bundles that we have seen.
    pub(crate) bundle_seq: u64,
}

impl Messenger {
    /// Accepts a text for sending. It is taken back when it has not been encrypted `within` a time.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        text: &str,
        client_id: Option<&str>,
        parent: Option<MessageId>,
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let stands = cx.db.standing(fp)?.ok_or(SendError::UnknownContact)?;
        if let Some(client_id) = client_id
            && let Some(id) = cx.db.message_by_client_id(fp, client_id)?
        {
            return Ok(id);
        }
        match stands.state {
            ContactState::Accepted | ContactState::Requested => {}
            ContactState::Incoming => return Err(SendError::NotAccepted),
            ContactState::Blocked => return Err(SendError::Blocked),
        }
        if stands.verified == crate::contact::Verification::KeyChanged {
            return Err(SendError::KeyChanged);
        }
        if text.len() > MAX_TEXT {
            return Err(SendError::TooLong { limit: MAX_TEXT, len: text.len() });
        }
        if stands.waiting >= MAX_OUTBOX {
            return Err(SendError::OutboxFull { limit: MAX_OUTBOX });
        }
        let nonce = Nonce(crate::random::bytes());
        let content = Message { nonce, parent, body: Body::Text(text.to_owned()) }.encode();
        let seq = cx.db.take_seq(fp)?;
        let id = MessageId::derive(&self.fingerprint(), fp, nonce);
        cx.db.enqueue(fp, seq, Kind::Message, &content, Some(&id))?;
        cx.db.add_history(
            fp,
            &NewHistory {
                outgoing: true,
                seq,
                id,
                client_id,
                content: &content,
                state: WAITING,
                at: cx.now.0,
            },
        )?;
        if let Some(within) = within {
            // SQLite's numbers end there, long after everything.
            let seconds = within.as_secs() + u64::from(within.subsec_nanos() > 0);
            cx.db.set_expiry(fp, seq, cx.now.0.saturating_add(seconds).min(END.0))?;
            cx.outputs.push(Output::Deadline);
        }
        if !self.accepted.contains(fp) {
            self.accepted.push(*fp);
        }
        cx.wake(*fp);
        Ok(id)
    }

    /// Takes a message back that has not left. Again is as good as once.
    pub(crate) fn cancel(
        &mut self,
        cx: &mut Context<'_>,
        id: &MessageId,
    ) -> Result<(), CancelError> {
        self.expire(cx)?;
        let (fp, seq, state) = cx.db.history_state(id)?.ok_or(CancelError::Unknown)?;
        match delivery_of(state) {
            Some(Delivery::Failed { why: FailReason::Cancelled }) => return Ok(()),
            Some(Delivery::Failed { why }) => return Err(CancelError::Failed { why }),
            _ => {}
        }
        match self.withdraw(cx, &fp, seq, id, FailReason::Cancelled)? {
            true => Ok(()),
            false => Err(CancelError::TooLate),
        }
    }

    /// Takes back what has not left in time. Returns when to look again.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>) -> Result<Option<u64>, StoreError> {
        if cx.db.next_expiry()?.is_some_and(|at| at < cx.now.0) {
            for (fp, seq, id) in cx.db.expired(cx.now.0)? {
                self.withdraw(cx, &fp, seq, &id, FailReason::Expired)?;
            }
        }
        cx.db.next_expiry()
    }

    /// Replaces a message that was never encrypted by what keeps its place. Returns whether it was
    /// one.
    fn withdraw(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        seq: Seq,
        id: &MessageId,
        why: FailReason,
    ) -> Result<bool, StoreError> {
        if !cx.db.withdraw(fp, seq, id, &Message::WITHDRAWN.encode())? {
            return Ok(false);
        }
        cx.db.set_history_state(id, failed_state(why))?;
        cx.emit(EventKind::Failed { to: *fp, id: *id, why })?;
        cx.wake(*fp);
        Ok(true)
    }

    /// Where a message of ours stands; `None` when it is not one.
    pub(crate) fn delivery(
        &self,
        cx: &Context<'_>,
        id: &MessageId,
    ) -> Result<Option<Delivery>, StoreError> {
        let Some((fp, seq, state)) = cx.db.history_state(id)? else { return Ok(None) };
        let until = cx.db.parked_until(&fp, seq)?.filter(|until| *until > cx.now.0);
        Ok(match (delivery_of(state), until) {
            (Some(Delivery::Waiting), Some(until_unix_s)) => {
                Some(Delivery::AtPeer { until_unix_s })
            }
            (other, _) => other,
        })
    }

    /// Whether something that may leave for a contact waits here only.
    pub(crate) fn waits_here(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<bool, StoreError> {
        let Some(row) = cx.db.contact(fp)? else { return Ok(false) };
        match row.state {
            ContactState::Accepted => Ok(row.ack_due > 0 || cx.db.waits_here(fp, cx.now.0, false)?),
            ContactState::Requested => cx.db.waits_here(fp, cx.now.0, true),
            ContactState::Incoming | ContactState::Blocked => Ok(false),
        }
    }

    /// Messages after `after` that may go on a direct connection, encrypted and on disk.
    pub(crate) fn depart(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        after: Seq,
        limit: usize,
    ) -> Result<Departure, StoreError> {
        self.expire(cx)?;
        let rows = cx.db.unacked(fp, after, limit)?;
        self.encrypt(cx, fp, rows)
    }

    /// Messages that have to be left at the contact's peer, whose run is `instance`.
    pub(crate) fn depart_to_peer(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        instance: InstanceId,
        limit: usize,
    ) -> Result<Departure, StoreError> {
        self.expire(cx)?;
        let rows = cx.db.unparked(fp, instance, cx.now.0, limit)?;
        self.encrypt(cx, fp, rows)
    }

    /// Everything that a direct connection needs to know, in one transaction. `written` is the last
    /// place that it has carried, and its stream.
    pub(crate) fn depart_by_link(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        written: Option<(StreamId, Seq)>,
        limit: usize,
    ) -> Result<ByLink, StoreError> {
        let stream = cx.db.contact(fp)?.map_or(StreamId(0), |row| row.stream);
        // Another stream may have begun since, or what was written be wanted under fresh keys:
        // ciphertexts are made in the order of the stream, whichever way they go.
        let after = written.filter(|(of, _)| *of == stream).map_or(Seq(0), |(_, seq)| seq);
        let not_made = cx.db.first_without_inner(fp)?.map(|seq| Seq(seq.0.saturating_sub(1)));
        let departure = self.depart(cx, fp, not_made.map_or(after, |seq| seq.min(after)), limit)?;
        let (ack, first) = (self.due_ack(cx, fp)?, cx.db.first_unacked(fp)?);
        Ok(ByLink { stream, ack, first, departure })
    }

    /// To whom messages have been accepted since it was asked.
    pub(crate) fn take_accepted(&mut self) -> Vec<Fingerprint> {
        std::mem::take(&mut self.accepted)
    }

    /// Encrypts messages in the transaction that accepts them, which saves a commit before they can
    /// leave. Only the first few that are on the way: the rest is encrypted when its turn comes.
    /// Once for all that a transaction accepts: the session is written as often.
    pub(crate) fn encrypt_early(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
    ) -> Result<(), StoreError> {
        let Some(first) = cx.db.first_unacked(fp)? else { return Ok(()) };
        // What has a deadline can be taken back until it leaves. Ciphertexts are made in order.
        let mut rows = cx.db.without_inner(fp, Seq(first.0 + IN_FLIGHT))?;
        rows.truncate(rows.iter().position(|r| r.expires.is_some()).unwrap_or(rows.len()));
        if !rows.is_empty() {
            self.encrypt(cx, fp, rows)?;
        }
        Ok(())
    }

    fn encrypt(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        rows: Vec<Unacked>,
    ) -> Result<Departure, StoreError> {
        let Some(contact) = cx.db.contact(fp)? else { return Ok(Departure::Ready(Vec::new())) };
        let first = cx.db.first_unacked(fp)?.unwrap_or_default();
        let mut ready = Vec::with_capacity(rows.len());
        let mut encrypted = false;
        for row in rows {
            let may_leave = match contact.state {
                ContactState::Accepted => true,
                ContactState::Requested => row.kind == Kind::Request,
                ContactState::Incoming | ContactState::Blocked => false,
            };
            if !may_leave || row.seq.0 >= first.0 + MAX_ENCRYPTED_AHEAD {
                break;
            }
            let inner = match row.inner.filter(|_| !planted(Bug::EncryptAgain)) {
                Some(inner) => inner,
                None => {
                    let made = self.make_inner(cx, &contact, row.kind, row.seq, &row.content)?;
                    let Some(inner) = made else { return Ok(Departure::NeedBundle) };
                    keep_inner(cx, &contact, (row.kind, row.seq, &row.content), &inner)?;
                    encrypted = true;
                    inner
                }
            };
            ready.push(Outgoing { seq: row.seq, kind: row.kind, inner });
        }
        if encrypted {
            self.write_speaking_session(cx, fp)?;
        }
        Ok(Departure::Ready(ready))
    }

    /// Encrypts a message outside of the stream; `None` when there is no session.
    pub(crate) fn make_control(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        kind: Kind,
        content: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(contact) = cx.db.contact(fp)? else { return Ok(None) };
        if contact.state != ContactState::Accepted {
            return Ok(None);
        }
        // Behind everything that has been encrypted.
        let place = cx.db.first_without_inner(fp)?.unwrap_or(Seq(contact.next_seq));
        let inner = self.make_inner(cx, &contact, kind, place, content)?;
        if inner.is_some() {
            self.write_speaking_session(cx, fp)?;
        }
        Ok(inner)
    }

    /// Encrypts on the session that speaks. `None` when there is none. The caller writes the
    /// session in the same transaction.
    fn make_inner(
        &mut self,
        cx: &Context<'_>,
        contact: &ContactRow,
        kind: Kind,
        seq: Seq,
        content: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let introduction = match kind {
            Kind::Request | Kind::Accept => Some(self.introduction(cx)?),
            _ => None,
        };
        let Some(them) = party(contact) else { return Ok(None) };
        let parties = Parties { us: self.me(cx)?, them };
        let Some(session) = self.sessions(cx, &contact.fp)?.first_mut() else { return Ok(None) };
        let content = match kind.is_sequenced() {
            true => &in_stream(cx.db.transcript_before(&contact.fp, seq)?, content),
            false => content,
        };
        let inner = session
            .compose(&parties, contact.stream, seq, kind, content, introduction.as_deref())
            .map_err(|_| StoreError::Unreadable("session that cannot encrypt"))?
            .encode();
        Ok(Some(inner))
    }

    fn write_speaking_session(
        &mut self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<(), StoreError> {
        match self.sessions(cx, fp)?.first() {
            Some(session) => cx.db.put_session(fp, &session.id(), &session.to_bytes(), false),
            None => Ok(()),
        }
    }

    /// Where and how envelopes for a contact are left.
    pub(crate) fn mail(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<Option<Mail>, StoreError> {
        let Some(row) = cx.db.contact(fp)? else { return Ok(None) };
        let mut peers = Vec::with_capacity(row.peers.len());
        for hint in &row.peers {
            if let Ok(peer) = PeerHost::new(&hint.host, hint.port) {
                let pin = cx.db.pin(&peer)?;
                peers.push((peer, pin.or(hint.key)));
            }
        }
        let fresh = (row.bundle_at..row.bundle_at + BUNDLE_REFRESH_S).contains(&cx.now.0);
        Ok(Some(Mail {
            peers,
            token: row.cap_theirs.map(|c| ReachCapability::from_bytes(*c).token()),
            device: DeviceId(row.device),
            bundle: if fresh { cx.db.contact_bundle(fp)? } else { None },
            bundle_seq: row.bundle_seq,
        }))
    }

    /// Takes what a look-up found: checks it, keeps it, and begins a session when there is none.
    pub(crate) fn take_bundle(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        found: &Found,
    ) -> Result<(), BundleRefused> {
        self.take_bundle_for(cx, fp, found, false)
    }

    /// Like [`Messenger::take_bundle`], and begins a session in any case.
    pub(super) fn take_bundle_for(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        found: &Found,
        fresh_session: bool,
    ) -> Result<(), BundleRefused> {
        let mut row =
            cx.db.contact(fp)?.ok_or(BundleRefused::Store(StoreError::Unreadable("contact")))?;
        let seen = (row.bundle_seq > 0).then_some(row.bundle_seq);
        let mut bundle = VerifiedBundle::verify(found, fp, DeviceId(row.device), cx.now, seen)?;
        row.bundle_seq = bundle.seq();
        row.bundle_at = cx.now.0;
        let ratchet_key = bundle.party().ratchet_key;
        if row.ratchet_key.is_some_and(|known| known != ratchet_key) {
            // A key that an introduction has proved, also against quantum computers, is replaced
            // by another introduction only: the contact sends one when it begins again.
            if row.introduced {
                return Err(BundleRefused::NotIntroduced);
            }
            cx.db.remove_sessions(fp)?;
            cx.db.clear_inner(fp, Seq(0))?;
            self.sessions.remove(fp);
        }
        row.ratchet_key = Some(ratchet_key);
        cx.db.put_contact(&row)?;
        cx.db.put_contact_bundle(fp, &bundle.to_bytes())?;
        if fresh_session || self.sessions(cx, fp)?.is_empty() {
            let session = RatchetSession::outbound(self.account(cx)?, &mut bundle)
                .map_err(|_| BundleRefused::WeakKeys)?;
            self.save_session(cx, fp, session, Origin::Begun)?;
        }
        Ok(())
    }

    /// Notes that envelopes wait at the contact's peer.
    pub(crate) fn parked(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        left: &[(Outgoing, Receipt)],
    ) -> Result<(), StoreError> {
        for (message, receipt) in left {
            let until = cx.now.0 + u64::from(receipt.ttl_s.clamp(MIN_PARKED_S, MAX_PARKED_S));
            if let Some(id) = cx.db.set_parked(fp, message, receipt.instance, until)? {
                if planted(Bug::BelievePeer) {
                    cx.emit(EventKind::Delivered { to: *fp, id, via: Via::Mailbox })?;
                }
                cx.emit(EventKind::AtPeer { to: *fp, id, until_unix_s: until })?;
            }
        }
        Ok(())
    }

    /// Notes which run of one of our own peers keeps our mailbox. If it is another one than before,
    /// the mailbox was lost, and perhaps a receipt in it that nobody will send again. So the first
    /// unacknowledged message to each contact is left once more: the contact has it, and gives
    /// another receipt.
    pub(crate) fn mailbox_kept_by(
        &mut self,
        cx: &mut Context<'_>,
        peer: &PeerHost,
        instance: InstanceId,
    ) -> Result<(), StoreError> {
        let key = format!("{META_RUN} {peer}");
        let before = cx.db.meta(&key)?;
        if before.as_deref() == Some(&instance.0) {
            return Ok(());
        }
        cx.db.set_meta(&key, &instance.0)?;
        if before.is_some() {
            cx.db.unpark_first()?;
            for contact in cx.db.contacts_with_unacked()? {
                cx.wake(contact);
            }
        }
        Ok(())
    }

    /// Takes a contact's acknowledgement, which the ratchet or TLS has authenticated.
    pub(crate) fn take_ack(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        ack: Ack,
        via: Via,
    ) -> Result<(), StoreError> {
        let Some(row) = cx.db.contact(fp)? else { return Ok(()) };
        match ack.stream.cmp(&row.stream) {
            // Of a stream that is over: everything that was in it is in ours.
            Ordering::Less => return Ok(()),
            Ordering::Equal => {}
            Ordering::Greater => return self.set_back(cx, row, ack.stream),
        }
        let first = cx.db.first_unacked(fp)?.unwrap_or(Seq(row.next_seq));
        let written = match ack.next.cmp(&first) {
            Ordering::Less => return Ok(()),
            // Nothing is new, if it is what we know.
            Ordering::Equal => Some(cx.db.transcript_before(fp, first)?),
            Ordering::Greater => cx.db.transcript(fp, Seq(ack.next.0 - 1))?,
        };
        if written != Some(ack.transcript) {
            let stream = row.stream;
            return self.set_back(cx, row, stream);
        }
        if ack.next == first {
            return Ok(());
        }
        cx.db.set_acked_transcript(fp, ack.transcript)?;
        let acked = cx.db.remove_acked(fp, ack.next)?;
        for Unsent { id, .. } in acked {
            cx.db.set_history_state(&id, DELIVERED)?;
            cx.emit(EventKind::Delivered { to: *fp, id, via })?;
        }
        // The window may have opened.
        cx.wake(*fp);
        Ok(())
    }

    /// The acknowledgement that is due to a contact, if any.
    pub(crate) fn due_ack(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<Option<DueAck>, StoreError> {
        let Some(row) = cx.db.contact(fp)? else { return Ok(None) };
        if row.ack_due == 0 || row.state != ContactState::Accepted {
            return Ok(None);
        }
        Ok(cx.db.incoming(fp)?.map(|Incoming { stream, next, transcript }| DueAck {
            ack: Ack { stream, next, transcript },
            due: row.ack_due,
        }))
    }

    /// Notes that an acknowledgement has left. If it is lost, the sender sends again and a new
    /// one becomes due.
    pub(crate) fn ack_sent(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
        given: DueAck,
    ) -> Result<(), StoreError> {
        cx.db.clear_ack(fp, given.due)
    }

    /// Fails everything that is not delivered to a contact.
    pub(super) fn fail_all(
        &self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        why: FailReason,
    ) -> Result<(), StoreError> {
        for Unsent { id, .. } in cx.db.remove_acked(fp, END)? {
            cx.db.set_history_state(&id, failed_state(why))?;
            cx.emit(EventKind::Failed { to: *fp, id, why })?;
        }
        Ok(())
    }
}

/// Writes the ciphertext of a place. What the stream holds with it is noted when it is encrypted for
/// the first time, which happens in the order of the stream, and stays the same when that is done
/// again.
fn keep_inner(
    cx: &Context<'_>,
    contact: &ContactRow,
    (kind, seq, content): (Kind, Seq, &[u8]),
    inner: &[u8],
) -> Result<(), StoreError> {
    let transcript = match cx.db.transcript(&contact.fp, seq)? {
        Some(known) => known,
        None => {
            let before = cx.db.transcript_before(&contact.fp, seq)?;
            before.then(contact.stream, seq, kind.to_byte(), content)
        }
    };
    cx.db.set_inner(&contact.fp, seq, inner, transcript)
}
