//! What each request does.

use std::sync::atomic::Ordering;

use halloo_wire::envelope::{EnvelopeRef, Lane};
use halloo_wire::peer::{
    Call, DropEnvelope, Knock, LookUp, PeerError, Push, Receipt, Register, Registered, Request,
    Response,
};
use halloo_wire::{EnvelopeId, SessionId};
use rand_chacha::rand_core::Rng;

use super::limits::{BYTES_PER_TOKEN, MAX_COST, PEEK_COST};
use super::mailbox::Full;
use super::origin::Origin;
use super::parking::Ring;
use super::rate::Prefix;
use super::registry::{Presence, Row, RowKey};
use super::time::Millis;
use super::{Caller, ConnId, Core, Outcome, count_up, refusal_of};
use crate::redacted::Redacted;

impl Core {
    pub(super) fn answer(
        &self,
        conn: ConnId,
        seen: Origin,
        request: Request,
        now: Millis,
    ) -> Result<Outcome, PeerError> {
        let Request { session, call } = request;
        let (caller, mut origin) = self.charge_rate(conn, seen, cost(&call), now)?;
        if let Call::Attest(shown) | Call::Knock(Knock { attested: shown, .. }) = &call
            && seen != origin
            && self.is_attested(&seen, shown, now)
        {
            self.move_to(conn, seen);
            origin = seen;
        }
        let device = match session {
            Some(shown) => Some(self.authenticate(conn, origin, caller, shown, now)?),
            None => None,
        };
        if self.is_draining() && adds_state(&call) {
            return Err(PeerError::Draining);
        }
        let own = || device.ok_or(PeerError::NotRegistered);
        match call {
            Call::Register(r) => self.register(conn, origin, r, now),
            Call::Publish(p) => self.on_row(own()?, |row| row.publish(p)).inspect(|_| {
                self.counters.published.add(1);
            }),
            Call::Grant(g) => self.on_row(own()?, |row| row.grant(g, self.limits().capabilities)),
            Call::Revoke(ids) => self.on_row(own()?, |row| {
                row.revoke(&ids);
                row.release_channels_of(&ids, &self.relay);
                Ok(())
            }),
            Call::Peek { after } => self.peek(own()?, after, now),
            Call::Ack(ids) => self.on_row(own()?, |row| {
                let removed = ids.iter().filter(|&&id| row.mailbox.remove(id)).count();
                self.counters.acknowledged.add(removed);
                Ok(())
            }),
            Call::LookUp(l) => self.look_up(l),
            Call::Drop(d) => self.drop_envelope(d, now),
            Call::Knock(k) => Ok(self.knock(k, origin, now)),
            Call::Attest(shown) => self.attest(own()?, &shown, now),
            Call::Leave => self.leave_for_good(own()?),
            // It needs the connection's key: `Core::park`.
            Call::Park => Err(PeerError::Malformed),
        }
    }

    /// Takes tokens from the connection and from the network from which it seems to come; returns
    /// who is at its end, and where it has proved to be.
    pub(super) fn charge_rate(
        &self,
        conn: ConnId,
        seen: Origin,
        cost: u32,
        now: Millis,
    ) -> Result<(Option<Caller>, Origin), PeerError> {
        let limits = self.limits();
        // A request may still be under way when its connection closes.
        let state = self.conns.get(&conn).ok_or(PeerError::NotRegistered)?;
        let limited = |retry_after_ms| PeerError::RateLimited { retry_after_ms };
        state.rate.take(cost, limits.connection_rate, now).map_err(limited)?;
        let who = (state.caller.clone(), state.origin);
        drop(state);
        let source = Prefix::of(seen.address());
        self.sources.take(source, cost, limits.source_rate, now).map_err(limited)?;
        Ok(who)
    }

    /// Believes that a connection is at another address than before.
    fn move_to(&self, conn: ConnId, origin: Origin) {
        if let Some(mut state) = self.conns.get_mut(&conn) {
            state.origin = origin;
        }
        self.counters.connections_moved.add(1);
    }

    /// Checks a session that a connection shows and notes the visit. A session belongs to a
    /// device: all connections with the device's certificate may show it, and no other.
    pub(super) fn authenticate(
        &self,
        conn: ConnId,
        origin: Origin,
        caller: Option<Caller>,
        shown: SessionId,
        now: Millis,
    ) -> Result<RowKey, PeerError> {
        let key = caller.ok_or(PeerError::WrongSession)?.key.0;
        let mut row = self.rows.get_mut(&key).ok_or(PeerError::WrongSession)?;
        if !row.is_session(&shown) {
            return Err(PeerError::WrongSession);
        }
        row.last_visit = row.last_visit.max(now);
        if let Some(presence) = row.presence.as_mut().filter(|p| p.conn == conn) {
            presence.origin = origin;
        }
        Ok(key)
    }

    fn register(
        &self,
        conn: ConnId,
        origin: Origin,
        register: Register,
        now: Millis,
    ) -> Result<Outcome, PeerError> {
        let mut state = self.conns.get_mut(&conn).ok_or(PeerError::NotRegistered)?;
        let caller = state.caller.as_ref().ok_or(PeerError::NoCertificate)?;
        let key = caller.key.0;
        if register.device != key.1 {
            return Err(PeerError::NoCertificate);
        }
        if register.instance.is_some_and(|meant| meant != self.instance) {
            return Err(PeerError::InstanceChanged { instance: self.instance });
        }
        self.admission.ask(&key.0, register.invite.as_ref()).inspect_err(|e| {
            if matches!(e, PeerError::NotAdmitted(_)) {
                self.counters.not_admitted.add(1);
            }
        })?;
        let mut is_new = false;
        let make = || {
            is_new = true;
            self.make_row(caller, origin, now)
        };
        let mut row = self.rows.get_or_make(key, make, PeerError::PeerFull)?;
        if !is_new && register.counter <= row.counter {
            return Err(PeerError::StaleCounter);
        }
        // What does not fit is refused when the node grants it again, which it does with the rest.
        let _ = row.grant(register.grants, self.limits().capabilities);
        row.counter = register.counter;
        row.last_visit = row.last_visit.max(now);
        self.counters.expired.add(row.mailbox.purge(now));
        let presence = Presence {
            conn,
            origin,
            attested: Redacted(Box::default()),
            pushed: row.mailbox.latest(),
        };
        let older = row.presence.replace(Box::new(presence)).map(|p| p.conn).filter(|&c| c != conn);
        let missed = row.unpark().map(|push| (conn, push));
        let published = row.published();
        let registered = Registered {
            session: row.session(),
            expires_s: seconds(self.limits().registration_ttl),
            bundle_seq: published.map(|(seq, _)| seq),
            one_time_keys_left: published.map_or(0, |(_, left)| left),
            capabilities: count(row.capabilities().len()),
            waiting: count(row.mailbox.len()),
        };
        drop(row);
        state.registered = true;
        self.counters.registered.add(1);
        Ok(Outcome {
            pushes: older.map(|c| (c, Push::Superseded)).into_iter().chain(missed).collect(),
            ..Outcome::from(Response::Registered(registered))
        })
    }

    fn make_row(&self, caller: &Caller, origin: Origin, now: Millis) -> Result<Row, PeerError> {
        if !count_up(&self.registrations, self.limits().registrations) {
            return Err(PeerError::PeerFull);
        }
        let (session, first) = {
            let mut rng = self.rng();
            let mut session = SessionId([0; 16]);
            rng.fill_bytes(&mut session.0);
            // 44 bits leave room to count and stay short on the wire.
            (session, EnvelopeId((rng.next_u64() >> 20) + 1))
        };
        let passport = caller.passport.0.clone();
        let network = self.memory.network(Prefix::of(origin.address()));
        Row::new(passport, session, first, now, &self.memory, network).ok_or_else(|| {
            self.registrations.fetch_sub(1, Ordering::Relaxed);
            PeerError::PeerFull
        })
    }

    pub(super) fn on_row(
        &self,
        key: RowKey,
        change: impl FnOnce(&mut Row) -> Result<(), PeerError>,
    ) -> Result<Outcome, PeerError> {
        let mut row = self.rows.get_mut(&key).ok_or(PeerError::NotRegistered)?;
        change(&mut row)?;
        Ok(Response::Done.into())
    }

    /// Forgets a device that wants to be forgotten.
    fn leave_for_good(&self, key: RowKey) -> Result<Outcome, PeerError> {
        let mut row = self.rows.remove(&key).ok_or(PeerError::NotRegistered)?;
        row.release_all_channels(&self.relay);
        self.counters.expired.add(row.mailbox.len());
        self.counters.left.add(1);
        self.registrations.fetch_sub(1, Ordering::Relaxed);
        Ok(Response::Done.into())
    }

    fn peek(
        &self,
        key: RowKey,
        after: Option<EnvelopeId>,
        now: Millis,
    ) -> Result<Outcome, PeerError> {
        let mut row = self.rows.get_mut(&key).ok_or(PeerError::NotRegistered)?;
        self.counters.expired.add(row.mailbox.purge(now));
        Ok(Response::Page(row.mailbox.page(after)).into())
    }

    fn look_up(&self, LookUp { to, device }: LookUp) -> Result<Outcome, PeerError> {
        let found = self.rows.get_mut(&(to, device)).and_then(|mut row| row.look_up());
        let found = found.ok_or_else(|| self.unknown())?;
        self.counters.looked_up.add(1);
        Ok(Response::Found(found).into())
    }

    fn drop_envelope(&self, drop: DropEnvelope, now: Millis) -> Result<Outcome, PeerError> {
        let (receipt, told) = self.leave(drop, now)?;
        let outcome = Outcome::from(Response::Dropped(receipt));
        Ok(match told {
            Told::At(conn) => Outcome { mail_for: Some(conn), ..outcome },
            Told::Rung(ring) => Outcome { rings: vec![ring], ..outcome },
            Told::Nobody => outcome,
        })
    }

    /// Leaves an envelope. Returns the receipt, and how the recipient hears of it.
    pub(super) fn leave(
        &self,
        drop: DropEnvelope,
        now: Millis,
    ) -> Result<(Receipt, Told), PeerError> {
        let lane = EnvelopeRef::decode(&drop.envelope).map_err(refusal_of)?.header.lane;
        if drop.instance.is_some_and(|i| i != self.instance) {
            return Err(PeerError::InstanceChanged { instance: self.instance });
        }
        let id = drop.token.as_ref().map(|token| token.id());
        let mut row = self.rows.get_mut(&(drop.to, drop.device)).ok_or_else(|| self.unknown())?;
        let allowed = match lane {
            Lane::Contacts => id.is_some_and(|id| row.card(&id).is_some()),
            Lane::Strangers => true,
        };
        if !allowed {
            return Err(PeerError::NotAuthorized);
        }
        self.counters.expired.add(row.mailbox.purge(now));
        let limits = self.limits();
        let expires = now.after(limits.envelope_ttl);
        row.mailbox.push(lane, drop.envelope, expires, &limits, &self.memory).map_err(|full| {
            match full {
                Full::Lane => PeerError::MailboxFull,
                Full::Peer => PeerError::PeerFull,
            }
        })?;
        self.counters.dropped.add(1);
        let receipt = Receipt { instance: self.instance, ttl_s: seconds(limits.envelope_ttl) };
        let told = match &row.presence {
            Some(presence) => Told::At(presence.conn),
            None => self.ring(&mut row, None, now).map_or(Told::Nobody, Told::Rung),
        };
        Ok((receipt, told))
    }

    fn unknown(&self) -> PeerError {
        PeerError::UnknownRecipient { instance: self.instance }
    }
}

/// How a device hears that something has come.
pub(super) enum Told {
    /// On its connection.
    At(ConnId),
    /// It is parked, and rung.
    Rung(Ring),
    /// It is away.
    Nobody,
}

/// Tokens that a request costs.
fn cost(call: &Call) -> u32 {
    let of_bytes = |n: usize| u32::try_from(n / BYTES_PER_TOKEN).unwrap_or(MAX_COST);
    match call {
        Call::Drop(d) => 1 + of_bytes(d.envelope.len()),
        Call::Knock(k) => {
            let message = k.message.as_ref().map_or(0, |m| m.envelope.len());
            1 + of_bytes(message + k.datagrams.iter().map(Vec::len).sum::<usize>())
        }
        Call::Peek { .. } => PEEK_COST,
        _ => 1,
    }
}

/// Whether a stopping peer refuses it. What lets devices fetch what is there goes on.
fn adds_state(call: &Call) -> bool {
    !matches!(call, Call::Peek { .. } | Call::Ack(_) | Call::Revoke(_) | Call::Leave)
}

fn seconds(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
