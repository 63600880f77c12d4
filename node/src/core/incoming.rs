//! Messages that arrive: opened, deduplicated, decrypted, stored, and only then acknowledged.

use std::collections::BTreeMap;

use halloo_e2ee::{
    DecryptError, Parties, RatchetAccount, RatchetSession, VerifiedPlain, open, verify_introduction,
};
use halloo_identity::Fingerprint;
use halloo_wire::content::{
    Ack, Body, Content, Message, Ping, Profile, Resend, Safety, from_stream,
};
use halloo_wire::envelope::Lane;
use halloo_wire::inner::{Inner, Kind, RatchetType, Route};
use halloo_wire::peer::Found;
use halloo_wire::{EnvelopeId, MessageId, Nonce, Seq, StreamId, Transcript};

use super::outgoing::RECEIVED;
use super::prekeys::KEYS_USED;
use super::{Context, Messenger, Output, party};
use crate::contact::ContactState;
use crate::error::BundleRefused;
use crate::event::{EventKind, Via};
use crate::planted::{Bug, planted};
use crate::store::{ContactRow, Incoming, NewHistory, StoreError};

/// Messages that may wait for earlier ones, for each contact. A sender has at most 32 envelopes
/// on the way at once, so an honest one never fills this; what is beyond stays at the peer.
pub(super) const MAX_HELD: usize = 64;
/// Seconds that earlier messages may be missing while later ones have come. Then they are asked for:
/// what was read before this store was set back does not come again by itself.
const MAX_GAP_S: u64 = 300;
/// Seconds between two requests to send again under fresh keys. A contact cannot make us fetch
/// bundles faster.
const RESEND_INTERVAL_S: u64 = 60;

/// Something that arrived.
pub(crate) struct Arrival {
    inner: Inner,
    via: Via,
    /// Whether the sender's right to write was shown: by TLS, or by a capability.
    authorized: bool,
    envelope: Option<EnvelopeId>,
}

/// The wait between two such requests doubles so often while nothing comes of them, to four hours;
/// then they end.
const MAX_DOUBLED: u32 = 8;

/// What has come before its turn from one contact.
pub(super) struct Held {
    /// When the stream last moved on, or the first of these came; Unix seconds.
    since: u64,
    held: BTreeMap<(StreamId, Seq), Arrival>,
}

impl Held {
    fn new(now: u64) -> Self {
        Self { since: now, held: BTreeMap::new() }
    }
}

/// What became of arrivals.
#[derive(Default)]
pub(crate) struct Ingested {
    /// Envelopes that our peer may forget: what they hold is on disk, or can never be read.
    pub(crate) done: Vec<EnvelopeId>,
    /// Contacts whose messages were not readable: they are asked for again under fresh keys.
    pub(crate) unreadable: Vec<Fingerprint>,
    /// Inputs that were refused.
    pub(crate) refused: u64,
    /// An envelope that stayed at our peer because it was too early has its turn: what waits there
    /// is to be fetched again.
    pub(crate) fetch_again: bool,
}

enum Verdict {
    /// The next place of the stream is on disk.
    Read,
    /// A message outside of the stream that was taken, or a duplicate.
    Done,
    /// Waits for earlier ones; nothing is acknowledged.
    Held,
    /// Too early to be held: it, or the one at this place that was held so far, stays where it is;
    /// nothing is acknowledged.
    PassedOver((StreamId, Seq)),
}

/// Why an arrival is refused. It changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotForUs,
    UnknownSender,
    Blocked,
    NotAccepted,
    NoRoom,
    Early,
    /// A request of a stream that is over.
    Over,
    /// The sender has not written what was read in the stream before.
    Forked,
    NoIntroduction,
    BadIntroduction,
    WrongIntroduction,
    /// Read before, and of a kind of which only the newest counts.
    Repeated,
    /// The session that reads it has not got there.
    TooFarAhead,
    Undecryptable,
    BadContent,
}

impl Refusal {
    /// Whether the sender's encrypting it again, under fresh keys, would help.
    fn is_unreadable(self) -> bool {
        matches!(self, Self::Undecryptable | Self::Early | Self::TooFarAhead | Self::Over)
    }
}

enum Failure {
    Refused(Refusal),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Self {
        Self::Refused(r)
    }
}

impl Messenger {
    /// Opens an envelope from our mailbox. `None` when it cannot be one for us: our peer may
    /// forget it.
    pub(crate) fn open_envelope(
        &mut self,
        cx: &Context<'_>,
        id: EnvelopeId,
        envelope: &[u8],
    ) -> Result<Option<Arrival>, StoreError> {
        let me = self.fingerprint();
        let secrets = self.secrets(cx)?;
        let opened = open(envelope, &me, |seq| secrets.iter().find(|s| s.seq() == seq));
        let decoded = opened.map(|o| (o.lane(), o.decode()));
        match decoded {
            Ok((lane, Ok(inner))) => Ok(Some(Arrival {
                inner,
                via: Via::Mailbox,
                authorized: lane == Lane::Contacts,
                envelope: Some(id),
            })),
            Ok((_, Err(e))) => {
                tracing::debug!(reason = %e, "An envelope holds no message");
                Ok(None)
            }
            Err(e) => {
                tracing::debug!(reason = %e, "An envelope cannot be opened");
                Ok(None)
            }
        }
    }

    /// Takes a message from a direct connection whose other end is `from`. `None` when it is not
    /// one, or not from there.
    pub(crate) fn open_frame(&self, from: &Fingerprint, via: Via, bytes: &[u8]) -> Option<Arrival> {
        match Inner::decode(bytes) {
            Ok(inner) if inner.route.from == *from => {
                Some(Arrival { inner, via, authorized: true, envelope: None })
            }
            _ => None,
        }
    }

    /// Takes a message from the mailbox as the simulation has it: without its envelope.
    #[cfg(test)]
    pub(crate) fn open_bare(id: EnvelopeId, bytes: &[u8]) -> Option<Arrival> {
        let inner = Inner::decode(bytes).ok()?;
        Some(Arrival { inner, via: Via::Mailbox, authorized: true, envelope: Some(id) })
    }

    /// Takes what arrived. Everything that it changes is in this transaction.
    pub(crate) fn ingest(
        &mut self,
        cx: &mut Context<'_>,
        arrivals: Vec<Arrival>,
    ) -> Result<Ingested, StoreError> {
        let mut ingested = Ingested::default();
        for arrival in arrivals {
            self.ingest_one(cx, arrival, &mut ingested)?;
        }
        Ok(ingested)
    }

    fn ingest_one(
        &mut self,
        cx: &mut Context<'_>,
        arrival: Arrival,
        ingested: &mut Ingested,
    ) -> Result<(), StoreError> {
        let from = arrival.inner.route.from;
        let mut next = Some(arrival);
        while let Some(arrival) = next.take() {
            let envelope = arrival.envelope;
            let (authorized, via) = (arrival.authorized, arrival.via);
            let kind = arrival.inner.kind;
            let place = (arrival.inner.route.stream, arrival.inner.route.seq);
            match self.take(cx, arrival) {
                Ok(Verdict::Read) => {
                    ingested.done.extend(envelope);
                    next = self.held_next(cx, &from, &mut ingested.done)?;
                    ingested.fetch_again |= self.has_turn(cx, &from)?;
                }
                Ok(Verdict::Done) => ingested.done.extend(envelope),
                Ok(Verdict::Held) => {}
                Ok(Verdict::PassedOver(place)) => {
                    let first = self.passed_over.entry(from).or_insert(place);
                    *first = place.min(*first);
                }
                Err(Failure::Store(e)) => return Err(e),
                Err(Failure::Refused(reason)) => {
                    tracing::debug!(?reason, from = %from.short(), "A message is refused");
                    ingested.refused += 1;
                    ingested.done.extend(envelope);
                    let asks = authorized || reason == Refusal::Over;
                    if reason == Refusal::Forked {
                        // A receipt shows the sender what was read.
                        receipt_due(cx, from, via)?;
                    }
                    if !reason.is_unreadable() || !asks {
                        continue;
                    }
                    if kind.is_sequenced() && reason != Refusal::Over {
                        cx.db.add_missing(&from, place)?;
                    }
                    // Its sender believes that we have it, and does not give another by itself.
                    if kind == Kind::Ack
                        && cx.db.first_unacked(&from)?.is_some()
                        && let Some(row) = cx.db.contact(&from)?
                    {
                        cx.db.add_missing_receipt(&from, Seq(row.next_seq - 1))?;
                    }
                    if self.may_ask_again(cx, &from)? {
                        ingested.unreadable.push(from);
                        cx.emit(EventKind::Undecryptable { from })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, cx: &mut Context<'_>, arrival: Arrival) -> Result<Verdict, Failure> {
        let route = arrival.inner.route;
        let from = route.from;
        if route.to != self.fingerprint() || route.to_device != self.identity.device_id() {
            return Err(Refusal::NotForUs.into());
        }
        let contact = cx.db.contact(&from)?;
        match &contact {
            Some(c) if c.state == ContactState::Blocked => return Err(Refusal::Blocked.into()),
            Some(c) if c.state == ContactState::Incoming && arrival.inner.kind != Kind::Request => {
                return Err(Refusal::NotAccepted.into());
            }
            Some(_) => {}
            None if arrival.inner.kind != Kind::Request => {
                return Err(Refusal::UnknownSender.into());
            }
            None if !self.has_room_for_request(cx)? => return Err(Refusal::NoRoom.into()),
            None => {}
        }
        let incoming = cx.db.incoming(&from)?;
        if arrival.inner.kind.is_sequenced() && incoming.is_some_and(|i| route.stream < i.stream) {
            // Over: everything that was in it is in a later one. A sender who does not know that
            // has an old store.
            if arrival.inner.kind == Kind::Request {
                return Err(Refusal::Over.into());
            }
            receipt_due(cx, from, arrival.via)?;
            return Ok(Verdict::Done);
        }
        let next = next_place(incoming, route.stream);
        if arrival.inner.kind.is_sequenced() {
            if route.seq < next {
                // It is on disk: the acknowledgement must have been lost.
                receipt_due(cx, from, arrival.via)?;
                return Ok(Verdict::Done);
            }
            if route.seq > next {
                return self.hold(cx, contact.as_ref(), arrival);
            }
        }
        // Reading it would skip the keys of messages that were encrypted before and have not come.
        // A resend is the first message of its session, so it skips none.
        let early =
            route.seq > next && arrival.inner.kind != Kind::Resend && !planted(Bug::ControlsFirst);
        match self.decrypt_and_apply(cx, contact, &arrival, early) {
            Ok(()) if arrival.inner.kind.is_sequenced() => Ok(Verdict::Read),
            Ok(()) => Ok(Verdict::Done),
            Err(Failure::Refused(Refusal::TooFarAhead)) if early && arrival.authorized => {
                Ok(Verdict::PassedOver((route.stream, route.seq)))
            }
            Err(e) => Err(e),
        }
    }

    /// Keeps a message until its turn. Only one that can be read: the session is not moved, so that
    /// it moves in the order of the stream.
    fn hold(
        &mut self,
        cx: &Context<'_>,
        contact: Option<&ContactRow>,
        arrival: Arrival,
    ) -> Result<Verdict, Failure> {
        let from = arrival.inner.route.from;
        let them = contact.and_then(party).ok_or(Refusal::Early)?;
        let place = (arrival.inner.route.stream, arrival.inner.route.seq);
        if let Some(Held { held, .. }) = self.held.get_mut(&from) {
            // Those whose turn comes first are kept. Trying to read takes longest, so it is last.
            let last = held.last_key_value().is_some_and(|(k, _)| *k <= place);
            if arrival.authorized && held.len() >= MAX_HELD && last {
                return Ok(Verdict::PassedOver(place));
            }
            if let Some(same) = held.get_mut(&place).filter(|h| h.inner == arrival.inner) {
                *same = arrival;
                return Ok(Verdict::Held);
            }
        }
        let parties = Parties { us: self.me(cx)?, them };
        match self.peek(cx, &arrival.inner, &parties) {
            Ok(_) => {}
            Err(Failure::Store(e)) => return Err(e.into()),
            Err(Failure::Refused(Refusal::TooFarAhead)) if arrival.authorized => {
                return Ok(Verdict::PassedOver(place));
            }
            Err(Failure::Refused(_)) => return Err(Refusal::Early.into()),
        }
        let now = cx.now.0;
        let Held { held, .. } = self.held.entry(from).or_insert(Held::new(now));
        held.insert(place, arrival);
        if held.len() > MAX_HELD
            && let Some((last, _)) = held.pop_last()
        {
            return Ok(Verdict::PassedOver(last));
        }
        Ok(Verdict::Held)
    }

    /// Whether something of a contact that was passed over has its turn, or is of no use any more.
    fn has_turn(&mut self, cx: &Context<'_>, from: &Fingerprint) -> Result<bool, StoreError> {
        let Some(first) = self.passed_over.get(from) else { return Ok(false) };
        let incoming = cx.db.incoming(from)?;
        let has_turn = incoming.is_some_and(|i| (i.stream, i.next) >= *first);
        if has_turn {
            self.passed_over.remove(from);
        }
        Ok(has_turn)
    }

    /// Takes nothing more that a contact has sent before. Our peer may forget it.
    pub(super) fn let_go(&mut self, cx: &mut Context<'_>, from: &Fingerprint) {
        self.passed_over.remove(from);
        let held = self.held.remove(from).into_iter().flat_map(|it| it.held.into_values());
        let envelopes: Vec<_> = held.filter_map(|arrival| arrival.envelope).collect();
        cx.outputs.push(Output::Forget(envelopes));
    }

    /// The held message whose turn it is, after another was read. Envelopes of which nothing is
    /// needed are `done`.
    fn held_next(
        &mut self,
        cx: &Context<'_>,
        from: &Fingerprint,
        done: &mut Vec<EnvelopeId>,
    ) -> Result<Option<Arrival>, StoreError> {
        let Some(Held { since, held }) = self.held.get_mut(from) else { return Ok(None) };
        let Some(Incoming { stream, next, .. }) = cx.db.incoming(from)? else { return Ok(None) };
        *since = cx.now.0;
        // What has arrived by another way meanwhile is of no use here, nor what is over.
        let later = held.split_off(&(stream, next));
        let earlier = std::mem::replace(held, later);
        done.extend(earlier.into_values().filter_map(|arrival| arrival.envelope));
        let arrival = held.remove(&(stream, next));
        if held.is_empty() {
            self.held.remove(from);
        }
        Ok(arrival)
    }

    fn decrypt_and_apply(
        &mut self,
        cx: &mut Context<'_>,
        contact: Option<ContactRow>,
        arrival: &Arrival,
        early: bool,
    ) -> Result<(), Failure> {
        let inner = &arrival.inner;
        let route = inner.route;
        let them = match &inner.introduction {
            Some(bytes) => {
                let introduction =
                    verify_introduction(bytes).map_err(|_| Refusal::BadIntroduction)?;
                if introduction.fingerprint() != route.from
                    || introduction.device() != route.from_device
                {
                    return Err(Refusal::WrongIntroduction.into());
                }
                introduction.party()
            }
            None => contact.as_ref().and_then(party).ok_or(Refusal::NoIntroduction)?,
        };
        if matches!(inner.kind, Kind::Request | Kind::Accept) && inner.introduction.is_none() {
            return Err(Refusal::NoIntroduction.into());
        }
        let parties = Parties { us: self.me(cx)?, them };
        let incoming = cx.db.incoming(&route.from)?.filter(|i| i.stream == route.stream);
        let transcript = incoming.map_or(Transcript::START, |i| i.transcript);
        let (moved, plain) = if early {
            (None, self.peek(cx, inner, &parties)?)
        } else {
            let (session, origin, plain) = self.decrypt(cx, inner, &parties)?;
            (Some((session, origin)), plain)
        };
        let read = read(inner.kind, &plain).and_then(|(before, content)| {
            let said = said(inner.kind, content)?;
            match before.is_none_or(|before| before == transcript) {
                true => Ok((said, content)),
                false => Err(Refusal::Forked),
            }
        });
        let (said, content) = read.inspect_err(|_| {
            // Nothing of this is written: read again what the decryption moved on in memory.
            self.account = None;
            self.sessions.remove(&route.from);
        })?;

        // From here on everything is written; a failure rolls the whole transaction back.
        match said {
            Said::Request(profile) => self.take_request(
                cx,
                route.from,
                route.from_device,
                parties.them.ratchet_key,
                &profile,
            )?,
            Said::Accept(profile) => {
                let mut row = contact.ok_or(Refusal::UnknownSender)?;
                row.device = route.from_device.0;
                row.ratchet_key = Some(parties.them.ratchet_key);
                row.introduced = true;
                self.take_accept(cx, row, &profile)?;
            }
            Said::Message((nonce, message)) => {
                self.take_message(cx, &route, nonce, message, content, arrival.via)?;
            }
            Said::Safety(safety) => self.take_safety(cx, &route.from, &safety)?,
            Said::Ack(ack) => self.take_ack(cx, &route.from, ack, arrival.via)?,
            Said::Resend(resend) => self.take_resend(cx, &route.from, resend, arrival.via)?,
            Said::Ping(ping) => {
                // The session is written first, so that the answer continues it.
                self.keep_session(cx, &route.from, moved)?;
                if let Some(pong) =
                    self.make_control(cx, &route.from, Kind::Pong, &ping.encode())?
                {
                    cx.outputs.push(Output::Control(route.from, pong));
                }
                return Ok(());
            }
            Said::Unknown => {
                tracing::info!("A step that this version does not know is passed over")
            }
            Said::Pong(pong) => cx.outputs.push(Output::Pong(route.from, pong.nonce)),
        }
        self.keep_session(cx, &route.from, moved)?;
        if inner.kind.is_sequenced() {
            let kind = inner.kind.to_byte();
            let transcript = transcript.then(route.stream, route.seq, kind, content);
            let (stream, next) = (route.stream, Seq(route.seq.0 + 1));
            cx.db.put_incoming(&route.from, &Incoming { stream, next, transcript })?;
            cx.db.no_longer_missing(&route.from, (route.stream, route.seq))?;
            receipt_due(cx, route.from, arrival.via)?;
        }
        Ok(())
    }

    /// Decrypts on a session that is taken out of the cache, or begins one. Nothing is written.
    fn decrypt(
        &mut self,
        cx: &Context<'_>,
        inner: &Inner,
        parties: &Parties,
    ) -> Result<(RatchetSession, Origin, VerifiedPlain), Failure> {
        let sessions = self.sessions(cx, &inner.route.from)?;
        let matching = sessions.iter().position(|s| s.matches(inner));
        let candidates = match (inner.ratchet_type, matching) {
            (RatchetType::PreKey, Some(i)) => i..i + 1,
            (RatchetType::PreKey, None) => 0..0,
            (RatchetType::Normal, _) => 0..sessions.len(),
        };
        let mut whys = Vec::new();
        for i in candidates {
            // A refused message leaves the session as it was.
            match sessions[i].decrypt_checked(inner, parties) {
                Ok(plain) => return Ok((sessions.remove(i), Origin::Known(i), plain)),
                Err(e) => whys.push(e),
            }
        }
        if inner.ratchet_type == RatchetType::PreKey && matching.is_none() {
            match RatchetSession::inbound(self.account(cx)?, inner, parties) {
                Ok((session, plain)) => return Ok((session, Origin::Begun, plain)),
                Err(e) => whys.push(e),
            }
        }
        Err(unreadable(inner.kind, &whys).into())
    }

    /// Decrypts like [`Messenger::decrypt`], and moves nothing.
    fn peek(
        &mut self,
        cx: &Context<'_>,
        inner: &Inner,
        parties: &Parties,
    ) -> Result<VerifiedPlain, Failure> {
        let mut whys = Vec::new();
        let mut begun = false;
        for session in self.sessions(cx, &inner.route.from)?.iter() {
            match session.peek(inner, parties) {
                Ok(plain) => return Ok(plain),
                Err(e) => whys.push(e),
            }
            begun = begun || session.matches(inner);
        }
        if inner.ratchet_type == RatchetType::PreKey && !begun {
            let copy = RatchetAccount::from_bytes(&self.account(cx)?.to_bytes());
            let mut copy = copy.map_err(|_| StoreError::Unreadable("account"))?;
            match RatchetSession::inbound(&mut copy, inner, parties) {
                Ok((_, plain)) => return Ok(plain),
                Err(e) => whys.push(e),
            }
        }
        Err(unreadable(inner.kind, &whys).into())
    }

    /// Writes the session that decrypted a message; it is the one that we speak on.
    fn keep_session(
        &mut self,
        cx: &Context<'_>,
        from: &Fingerprint,
        moved: Option<(RatchetSession, Origin)>,
    ) -> Result<(), StoreError> {
        let Some((session, origin)) = moved else { return Ok(()) };
        if origin == Origin::Begun {
            // Its one-time key is gone from the account.
            self.account(cx)?;
            self.save_account(cx)?;
            cx.db.count_up(KEYS_USED, 0)?;
        }
        self.save_session(cx, from, session, origin)
    }

    fn take_message(
        &mut self,
        cx: &mut Context<'_>,
        route: &Route,
        nonce: Nonce,
        message: Option<Message>,
        content: &[u8],
        via: Via,
    ) -> Result<(), StoreError> {
        if matches!(message, Some(Message { body: Body::Withdrawn, .. })) {
            return Ok(());
        }
        let from = route.from;
        let id = MessageId::derive(&from, &route.to, nonce);
        let is_new = cx.db.add_history(
            &from,
            &NewHistory {
                outgoing: false,
                seq: route.seq,
                id,
                client_id: None,
                content,
                state: RECEIVED,
                at: cx.now.0,
            },
        )?;
        if !is_new {
            return Ok(());
        }
        match message {
            Some(Message { parent, body: Body::Text(text), .. }) => {
                cx.emit(EventKind::Message { from, id, text, parent, via })
            }
            _ => {
                tracing::info!("A message of a kind that this version does not know is kept");
                Ok(())
            }
        }
    }

    /// The contact could not read our messages from a place on: they are encrypted again on the
    /// session that carried this.
    fn take_resend(
        &mut self,
        cx: &mut Context<'_>,
        from: &Fingerprint,
        resend: Resend,
        via: Via,
    ) -> Result<(), StoreError> {
        let Some(mut row) = cx.db.contact(from)? else { return Ok(()) };
        let first = cx.db.first_unacked(from)?.unwrap_or(Seq(row.next_seq));
        // Who knows an earlier stream, or none, has nothing of ours.
        let next = if resend.stream == Some(row.stream) { resend.next } else { Seq(1) };
        match resend.stream {
            Some(stream) if stream > row.stream => self.set_back(cx, row, stream)?,
            _ if next < first => {
                // They have acknowledged it: it is their store that was set back.
                let (profile, ours) = (self.own_profile(cx, &row)?, row.stream);
                self.begin_stream(cx, &mut row, (Kind::Accept, &profile), ours)?;
            }
            _ => cx.db.clear_inner(from, next)?,
        }
        // What could not be read may have been a receipt.
        receipt_due(cx, *from, via)
    }

    /// The contacts who are to be asked for what is missing of their streams: because it has not come
    /// while later messages wait for it, or because it was asked for and has not come. The request
    /// may have been lost with a peer.
    pub(crate) fn due_resends(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Fingerprint>, StoreError> {
        let now = cx.now.0;
        for (contact, held) in &mut self.held {
            // A time to come was noted by a clock that was wrong.
            if !(held.since..held.since.saturating_add(MAX_GAP_S)).contains(&now)
                && let Some((last, _)) = held.held.last_key_value()
            {
                cx.db.add_missing(contact, *last)?;
                // They come again with what is missing, for which there may be no room beside them.
                let held = std::mem::take(&mut held.held).into_values();
                let kept = held.filter_map(|arrival| arrival.envelope);
                cx.outputs.push(Output::Forget(kept.collect()));
            }
        }
        cx.db.forget_receipts_that_came()?;
        let mut due = Vec::new();
        for (contact, at, asked) in cx.db.missing()? {
            let wait = RESEND_INTERVAL_S << asked.min(MAX_DOUBLED);
            // A time to come was noted by a clock that was wrong.
            if (at..at.saturating_add(wait)).contains(&now) {
                continue;
            }
            // Nobody has it: it was tampered with, or its sender has forgotten it.
            if asked > MAX_DOUBLED {
                cx.db.remove_missing(&contact)?;
                continue;
            }
            cx.db.asked_for_missing(&contact, now)?;
            due.push(contact);
        }
        Ok(due)
    }

    fn may_ask_again(&self, cx: &Context<'_>, fp: &Fingerprint) -> Result<bool, StoreError> {
        let Some(mut row) = cx.db.contact(fp)? else { return Ok(false) };
        if row.state != ContactState::Accepted
            // A time to come was noted by a clock that was wrong.
            || (row.resend_at..row.resend_at.saturating_add(RESEND_INTERVAL_S))
                .contains(&cx.now.0)
        {
            return Ok(false);
        }
        row.resend_at = cx.now.0;
        cx.db.put_contact(&row)?;
        Ok(true)
    }

    /// Begins a fresh session from a fetched bundle and asks on it for everything that is missing.
    pub(crate) fn make_resend(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        found: &Found,
    ) -> Result<Option<Vec<u8>>, BundleRefused> {
        self.take_bundle_for(cx, fp, found, true)?;
        let incoming = cx.db.incoming(fp)?;
        let resend = Resend {
            stream: incoming.map(|i| i.stream),
            next: incoming.map_or(Seq(1), |i| i.next),
        };
        Ok(self.make_control(cx, fp, Kind::Resend, &resend.encode())?)
    }
}

/// The first place of a contact's stream that has not arrived.
fn next_place(incoming: Option<Incoming>, stream: StreamId) -> Seq {
    incoming.filter(|i| i.stream == stream).map_or(Seq(1), |i| i.next)
}

/// Notes that a contact is owed a receipt, and which way it needs to go.
fn receipt_due(cx: &mut Context<'_>, to: Fingerprint, heard: Via) -> Result<(), StoreError> {
    cx.db.owe_ack(&to)?;
    if heard == Via::Mailbox {
        cx.outputs.push(Output::HeardByMailbox(to));
    }
    cx.wake(to);
    Ok(())
}

/// Why no session reads a message, in one word.
fn unreadable(kind: Kind, whys: &[DecryptError]) -> Refusal {
    tracing::debug!(?kind, ?whys, "No session reads a message");
    let is = |e: &[DecryptError]| whys.iter().any(|why| e.contains(why));
    if !kind.is_sequenced() && is(&[DecryptError::KeyGone, DecryptError::Replayed]) {
        Refusal::Repeated
    } else if is(&[DecryptError::TooFarAhead]) {
        Refusal::TooFarAhead
    } else {
        Refusal::Undecryptable
    }
}

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was in the store, behind so many others.
    Known(usize),
    /// It has just begun.
    Begun,
}

/// Content that is within its limits.
enum Said {
    Request(Profile),
    Accept(Profile),
    Message((Nonce, Option<Message>)),
    Safety(Safety),
    Ack(Ack),
    Resend(Resend),
    Ping(Ping),
    Pong(Ping),
    /// From a newer version. Its place is passed, so that the stream goes on.
    Unknown,
}

/// What is said, and what the stream held before it, for kinds in the stream.
fn read(kind: Kind, plain: &VerifiedPlain) -> Result<(Option<Transcript>, &[u8]), Refusal> {
    if !kind.is_sequenced() {
        return Ok((None, plain.content()));
    }
    let (before, content) = from_stream(plain.content()).map_err(|_| Refusal::BadContent)?;
    Ok((Some(before), content))
}

fn said(kind: Kind, bytes: &[u8]) -> Result<Said, Refusal> {
    match kind {
        Kind::Request => Profile::decode(bytes).map(Said::Request),
        Kind::Accept => Ok(Profile::decode(bytes).map_or(Said::Unknown, Said::Accept)),
        // What a newer version writes is kept as it is.
        Kind::Message => Message::nonce_in(bytes)
            .map(|nonce| Said::Message((nonce, Message::decode(bytes).ok()))),
        Kind::Safety => Ok(Safety::decode(bytes).map_or(Said::Unknown, Said::Safety)),
        Kind::Ack => Ack::decode(bytes).map(Said::Ack),
        Kind::Resend => Resend::decode(bytes).map(Said::Resend),
        Kind::Ping => Ping::decode(bytes).map(Said::Ping),
        Kind::Pong => Ping::decode(bytes).map(Said::Pong),
    }
    .map_err(|_| Refusal::BadContent)
}
