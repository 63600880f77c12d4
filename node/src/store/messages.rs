//! Messages: what waits to leave, what has arrived, what was said, and what the program is told.

use halloo_identity::Fingerprint;
use halloo_wire::inner::Kind;
use halloo_wire::{InstanceId, MessageId, Seq, Transcript};
use rusqlite::{OptionalExtension, Row, params};

use super::StoreError;
use super::db::{Db, Result, array, u64_at};
use crate::contact::ContactState;
use crate::event::{Cursor, EventKind};
use crate::planted::{Bug, planted};

/// Seconds that a peer may say that it keeps something. A longer time would make us wait for
/// nothing.
pub(crate) const MAX_PARKED_S: u32 = 14 * 24 * 3600;
/// Durable events that are kept; the oldest go first. What was said stays in the history.
const MAX_EVENTS: i64 = 100_000;

/// A row of `outbox`.
pub(crate) struct Unacked {
    pub(crate) seq: Seq,
    pub(crate) kind: Kind,
    pub(crate) content: Vec<u8>,
    pub(crate) inner: Option<Vec<u8>>,
    /// When its time is over, unless it is encrypted before.
    pub(crate) expires: Option<u64>,
}

/// A message that is accepted and not acknowledged.
pub(crate) struct Unsent {
    pub(crate) id: MessageId,
    pub(crate) content: Vec<u8>,
    /// Whether it has been encrypted once: it may have left.
    pub(crate) encrypted: bool,
    pub(crate) expires: Option<u64>,
}

/// A message that is ready to leave: its place, kind and bytes.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) seq: Seq,
    pub(crate) kind: Kind,
    pub(crate) inner: Vec<u8>,
}

/// A message to write into the history.
pub(crate) struct NewHistory<'a> {
    pub(crate) outgoing: bool,
    pub(crate) seq: Seq,
    pub(crate) id: MessageId,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) content: &'a [u8],
    pub(crate) state: i64,
    pub(crate) at: u64,
}

/// A message in the history.
pub(crate) struct History {
    pub(crate) outgoing: bool,
    pub(crate) id: MessageId,
    pub(crate) at: u64,
    pub(crate) content: Vec<u8>,
    pub(crate) state: i64,
}

impl Db<'_> {
    pub(crate) fn enqueue(
        &self,
        fp: &Fingerprint,
        seq: Seq,
        kind: Kind,
        content: &[u8],
        id: Option<&MessageId>,
    ) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO outbox (contact, seq, kind, content, id) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                fp.as_bytes(),
                seq.0 as i64,
                kind.to_byte(),
                content,
                id.map(|id| id.0.as_slice())
            ])?;
        Ok(())
    }

    /// Puts a message at a place of another stream.
    pub(crate) fn enqueue_again(&self, fp: &Fingerprint, seq: Seq, message: &Unsent) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO outbox (contact, seq, kind, content, id, encrypted, expires) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                fp.as_bytes(),
                seq.0 as i64,
                Kind::Message.to_byte(),
                message.content,
                message.id.0.as_slice(),
                message.encrypted,
                message.expires.map(|at| at as i64)
            ])?;
        self.set_history_seq(&message.id, seq)
    }

    /// Notes when a message's time is over.
    pub(crate) fn set_expiry(&self, fp: &Fingerprint, seq: Seq, at: u64) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE outbox SET expires = ? WHERE contact = ? AND seq = ?")?
            .execute(params![at as i64, fp.as_bytes(), seq.0 as i64])?;
        Ok(())
    }

    /// The messages whose time is over, in the order of their streams.
    pub(crate) fn expired(&self, now: u64) -> Result<Vec<(Fingerprint, Seq, MessageId)>> {
        let mut q = self.sql.prepare_cached(
            "SELECT contact, seq, id FROM outbox WHERE expires IS NOT NULL AND expires < ? \
             AND NOT encrypted AND id IS NOT NULL ORDER BY contact, seq",
        )?;
        let rows = q.query_map([now as i64], |r| {
            Ok((r.get::<_, Vec<u8>>(0)?, u64_at(r, 1)?, r.get::<_, Vec<u8>>(2)?))
        })?;
        rows.map(|r| {
            let (fp, seq, id) = r?;
            let fp = Fingerprint::from_bytes(array(&fp, "fingerprint")?);
            Ok((fp, Seq(seq), MessageId(array(&id, "message id")?)))
        })
        .collect()
    }

    /// When the next message's time is over.
    pub(crate) fn next_expiry(&self) -> Result<Option<u64>> {
        let mut q =
            self.sql.prepare_cached("SELECT min(expires) FROM outbox WHERE expires IS NOT NULL")?;
        let next: Option<i64> = q.query_row([], |r| r.get(0))?;
        Ok(next.map(|at| at as u64))
    }

    /// Replaces a message that has never been encrypted by something that has no name. Returns
    /// whether it was one.
    pub(crate) fn withdraw(
        &self,
        fp: &Fingerprint,
        seq: Seq,
        id: &MessageId,
        content: &[u8],
    ) -> Result<bool> {
        let changed = self
            .sql
            .prepare_cached(
                "UPDATE outbox SET content = ?, id = NULL, expires = NULL WHERE contact = ? \
                 AND seq = ? AND id = ? AND NOT encrypted",
            )?
            .execute(params![content, fp.as_bytes(), seq.0 as i64, id.0.as_slice()])?;
        Ok(changed > 0)
    }

    /// Moves a message of ours to another place.
    pub(crate) fn set_history_seq(&self, id: &MessageId, seq: Seq) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE history SET seq = ? WHERE id = ?")?
            .execute(params![seq.0 as i64, id.0.as_slice()])?;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn outbox_len(&self, fp: &Fingerprint) -> Result<u64> {
        // Places have no holes, so nothing has to be counted.
        let mut q = self.sql.prepare_cached(
            "SELECT coalesce((SELECT next_seq FROM contacts WHERE fp = ?1) - min(seq), 0) \
             FROM outbox WHERE contact = ?1",
        )?;
        Ok(q.query_row([fp.as_bytes()], |r| u64_at(r, 0))?)
    }

    /// Contacts to whom something is unacknowledged.
    pub(crate) fn contacts_with_unacked(&self) -> Result<Vec<Fingerprint>> {
        let mut q = self.sql.prepare_cached(
            "SELECT fp FROM contacts WHERE ack_due OR EXISTS \
             (SELECT 1 FROM outbox WHERE outbox.contact = contacts.fp)",
        )?;
        let rows = q.query_map([], |r| r.get::<_, Vec<u8>>(0))?;
        rows.map(|fp| Ok(Fingerprint::from_bytes(array(&fp?, "fingerprint")?))).collect()
    }

    /// Contacts who have not been told what we have of theirs.
    pub(crate) fn contacts_with_due_ack(&self) -> Result<Vec<Fingerprint>> {
        let mut q =
            self.sql.prepare_cached("SELECT fp FROM contacts WHERE ack_due AND state = ?")?;
        let accepted = ContactState::Accepted.to_i64();
        let rows = q.query_map([accepted], |r| r.get::<_, Vec<u8>>(0))?;
        rows.map(|fp| Ok(Fingerprint::from_bytes(array(&fp?, "fingerprint")?))).collect()
    }

    /// The oldest unacknowledged place, if any.
    pub(crate) fn first_unacked(&self, fp: &Fingerprint) -> Result<Option<Seq>> {
        let mut q = self.sql.prepare_cached("SELECT min(seq) FROM outbox WHERE contact = ?")?;
        let min: Option<i64> = q.query_row([fp.as_bytes()], |r| r.get(0))?;
        Ok(min.map(|s| Seq(s as u64)))
    }

    /// Unacknowledged messages after a place, in order.
    pub(crate) fn unacked(
        &self,
        fp: &Fingerprint,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Unacked>> {
        let mut q = self.sql.prepare_cached(
            "SELECT seq, kind, content, inner, expires FROM outbox WHERE contact = ? AND seq > ? \
             ORDER BY seq LIMIT ?",
        )?;
        let rows = q.query_map(params![fp.as_bytes(), after.0 as i64, limit as i64], |r| {
            Ok(unacked_row(r))
        })?;
        rows.map(|r| r?).collect()
    }

    /// Unacknowledged messages that do not wait in run `instance` of the recipient's peer, or
    /// whose time there ends before `now`, in order. A time that is too far ahead was noted by a
    /// clock that was wrong.
    pub(crate) fn unparked(
        &self,
        fp: &Fingerprint,
        instance: InstanceId,
        now: u64,
        limit: usize,
    ) -> Result<Vec<Unacked>> {
        let mut q = self.sql.prepare_cached(
            "SELECT seq, kind, content, inner, expires FROM outbox WHERE contact = ?1 AND \
             (parked_instance IS NULL OR parked_instance <> ?2 AND NOT ?5 OR parked_until <= ?3 \
             OR parked_until > ?3 + ?6) ORDER BY seq LIMIT ?4",
        )?;
        let rows = q.query_map(
            params![
                fp.as_bytes(),
                instance.0.as_slice(),
                now as i64,
                limit as i64,
                planted(Bug::ForgetInstance),
                MAX_PARKED_S as i64
            ],
            |r| Ok(unacked_row(r)),
        )?;
        rows.map(|r| r?).collect()
    }

    /// Whether something for a contact waits here only: a request when `requests_only`, else
    /// anything.
    pub(crate) fn waits_here(
        &self,
        fp: &Fingerprint,
        now: u64,
        requests_only: bool,
    ) -> Result<bool> {
        let mut q = self.sql.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM outbox WHERE contact = ? AND \
             coalesce(parked_until, 0) <= ? AND (kind = ? OR NOT ?))",
        )?;
        let request = Kind::Request.to_byte();
        Ok(q.query_row(params![fp.as_bytes(), now as i64, request, requests_only], |r| r.get(0))?)
    }

    /// Unacknowledged messages before a place that are not encrypted, in order.
    pub(crate) fn without_inner(&self, fp: &Fingerprint, before: Seq) -> Result<Vec<Unacked>> {
        let mut q = self.sql.prepare_cached(
            "SELECT seq, kind, content, NULL, expires FROM outbox WHERE contact = ? AND seq < ? \
             AND inner IS NULL ORDER BY seq",
        )?;
        let rows = q.query_map(params![fp.as_bytes(), before.0 as i64], |r| Ok(unacked_row(r)))?;
        rows.map(|r| r?).collect()
    }

    /// The first place that is not encrypted, if something waits for that.
    pub(crate) fn first_without_inner(&self, fp: &Fingerprint) -> Result<Option<Seq>> {
        let mut q = self.sql.prepare_cached(
            "SELECT seq FROM outbox WHERE contact = ? AND inner IS NULL ORDER BY seq LIMIT 1",
        )?;
        Ok(q.query_row([fp.as_bytes()], |r| u64_at(r, 0)).optional()?.map(Seq))
    }

    /// Writes a ciphertext, and what the stream holds with it.
    pub(crate) fn set_inner(
        &self,
        fp: &Fingerprint,
        seq: Seq,
        inner: &[u8],
        transcript: Transcript,
    ) -> Result<()> {
        self.sql
            .prepare_cached(
                "UPDATE outbox SET inner = ?, transcript = ?, encrypted = 1, expires = NULL \
                 WHERE contact = ? AND seq = ?",
            )?
            .execute(params![inner, transcript.0.as_slice(), fp.as_bytes(), seq.0 as i64])?;
        Ok(())
    }

    /// Forgets the ciphertexts from a place on: they will be made again under another session.
    pub(crate) fn clear_inner(&self, fp: &Fingerprint, from: Seq) -> Result<()> {
        self.sql
            .prepare_cached(
                "UPDATE outbox SET inner = NULL, parked_instance = NULL, parked_until = NULL \
                 WHERE contact = ? AND seq >= ?",
            )?
            .execute(params![fp.as_bytes(), from.0 as i64])?;
        Ok(())
    }

    /// Notes that something waits at the recipient's peer, in this ciphertext. Returns the message's
    /// name, if it is a message, unacknowledged, and not encrypted again meanwhile.
    pub(crate) fn set_parked(
        &self,
        fp: &Fingerprint,
        message: &Outgoing,
        instance: InstanceId,
        until: u64,
    ) -> Result<Option<MessageId>> {
        let mut q = self.sql.prepare_cached(
            "UPDATE outbox SET parked_instance = ?, parked_until = ? \
             WHERE contact = ? AND seq = ? AND inner = ? RETURNING id",
        )?;
        let id: Option<Option<Vec<u8>>> = q
            .query_row(
                params![
                    instance.0.as_slice(),
                    until as i64,
                    fp.as_bytes(),
                    message.seq.0 as i64,
                    message.inner
                ],
                |r| r.get(0),
            )
            .optional()?;
        id.flatten().map(|id| array(&id, "message id").map(MessageId)).transpose()
    }

    /// Forgets for each contact that the first unacknowledged message waits at a peer.
    pub(crate) fn unpark_first(&self) -> Result<()> {
        self.sql
            .prepare_cached(
                "UPDATE outbox SET parked_instance = NULL, parked_until = NULL WHERE seq = \
             (SELECT min(seq) FROM outbox AS same WHERE same.contact = outbox.contact)",
            )?
            .execute([])?;
        Ok(())
    }

    pub(crate) fn parked_until(&self, fp: &Fingerprint, seq: Seq) -> Result<Option<u64>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT parked_until FROM outbox WHERE contact = ? AND seq = ?")?;
        let until: Option<Option<i64>> =
            q.query_row(params![fp.as_bytes(), seq.0 as i64], |r| r.get(0)).optional()?;
        Ok(until.flatten().map(|u| u as u64))
    }

    /// Removes what is below `next`. The messages among it, in order, with their content.
    pub(crate) fn remove_acked(&self, fp: &Fingerprint, next: Seq) -> Result<Vec<Unsent>> {
        let mut q = self.sql.prepare_cached(
            "DELETE FROM outbox WHERE contact = ? AND seq < ? \
             RETURNING seq, id, content, encrypted, expires",
        )?;
        let rows = q.query_map(params![fp.as_bytes(), next.0 as i64], |r| {
            let expires: Option<i64> = r.get(4)?;
            let rest = (r.get(2)?, r.get(3)?, expires.map(|at| at as u64));
            Ok((u64_at(r, 0)?, r.get::<_, Option<Vec<u8>>>(1)?, rest))
        })?;
        let mut removed = rows.collect::<std::result::Result<Vec<_>, _>>()?;
        removed.sort_by_key(|(seq, ..)| *seq);
        removed
            .into_iter()
            .filter_map(|(_, id, rest)| id.map(|id| (id, rest)))
            .map(|(id, (content, encrypted, expires))| {
                let id = MessageId(array(&id, "message id")?);
                Ok(Unsent { id, content, encrypted, expires })
            })
            .collect()
    }

    /// Writes a message into the history. Returns whether it is new: a name is there once, for
    /// ever.
    pub(crate) fn add_history(&self, fp: &Fingerprint, new: &NewHistory<'_>) -> Result<bool> {
        let added = self
            .sql
            .prepare_cached(
                "INSERT OR IGNORE INTO history (contact, outgoing, seq, id, client_id, at, body, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                fp.as_bytes(),
                new.outgoing,
                new.seq.0 as i64,
                new.id.0.as_slice(),
                new.client_id,
                new.at as i64,
                new.content,
                new.state
            ])?;
        Ok(added > 0)
    }

    pub(crate) fn message_by_client_id(
        &self,
        fp: &Fingerprint,
        client_id: &str,
    ) -> Result<Option<MessageId>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT id FROM history WHERE contact = ? AND client_id = ?")?;
        let id: Option<Vec<u8>> =
            q.query_row(params![fp.as_bytes(), client_id], |r| r.get(0)).optional()?;
        id.map(|id| array(&id, "message id").map(MessageId)).transpose()
    }

    /// Whether a message has arrived here.
    #[cfg(test)]
    pub(crate) fn has_received(&self, id: &MessageId) -> Result<bool> {
        let mut q =
            self.sql.prepare_cached("SELECT EXISTS (SELECT 1 FROM history WHERE id = ?)")?;
        Ok(q.query_row([id.0.as_slice()], |r| r.get(0))?)
    }

    pub(crate) fn set_history_state(&self, id: &MessageId, state: i64) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE history SET state = ? WHERE id = ?")?
            .execute(params![state, id.0.as_slice()])?;
        Ok(())
    }

    /// Where an outgoing message stands: to whom, its place and its state's number.
    pub(crate) fn history_state(&self, id: &MessageId) -> Result<Option<(Fingerprint, Seq, i64)>> {
        let mut q = self.sql.prepare_cached(
            "SELECT contact, seq, state FROM history WHERE id = ? AND outgoing = 1",
        )?;
        let row: Option<(Vec<u8>, u64, i64)> = q
            .query_row([id.0.as_slice()], |r| Ok((r.get(0)?, u64_at(r, 1)?, r.get(2)?)))
            .optional()?;
        row.map(|(fp, seq, state)| {
            Ok((Fingerprint::from_bytes(array(&fp, "fingerprint")?), Seq(seq), state))
        })
        .transpose()
    }

    /// The last `limit` messages with a contact, oldest first.
    pub(crate) fn history(&self, fp: &Fingerprint, limit: usize) -> Result<Vec<History>> {
        let mut q = self.sql.prepare_cached(
            "SELECT outgoing, id, at, body, state FROM history WHERE contact = ? \
             ORDER BY no DESC LIMIT ?",
        )?;
        let rows = q.query_map(params![fp.as_bytes(), limit as i64], |r| {
            let id: Vec<u8> = r.get(1)?;
            Ok((r.get(0)?, id, u64_at(r, 2)?, r.get(3)?, r.get(4)?))
        })?;
        let mut all = rows
            .map(|r| {
                let (outgoing, id, at, content, state) = r?;
                let id = MessageId(array(&id, "message id")?);
                Ok(History { outgoing, id, at, content, state })
            })
            .collect::<Result<Vec<_>>>()?;
        all.reverse();
        Ok(all)
    }

    pub(crate) fn add_event(&self, event: &EventKind) -> Result<Cursor> {
        let body = postcard::to_stdvec(event).map_err(|_| StoreError::Unreadable("event"))?;
        self.sql.prepare_cached("INSERT INTO events (body) VALUES (?)")?.execute([body])?;
        let no = self.sql.last_insert_rowid();
        if no % 1024 == 0 {
            self.sql
                .prepare_cached("DELETE FROM events WHERE no <= ?")?
                .execute([no - MAX_EVENTS])?;
        }
        Ok(Cursor(no as u64))
    }

    /// Events after a cursor, in order.
    pub(crate) fn events(&self, after: Cursor, limit: usize) -> Result<Vec<(Cursor, EventKind)>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT no, body FROM events WHERE no > ? ORDER BY no LIMIT ?")?;
        let rows = q.query_map(params![after.0 as i64, limit as i64], |r| {
            Ok((u64_at(r, 0)?, r.get::<_, Vec<u8>>(1)?))
        })?;
        rows.map(|r| {
            let (no, body) = r?;
            let event = postcard::from_bytes(&body).map_err(|_| StoreError::Unreadable("event"))?;
            Ok((Cursor(no), event))
        })
        .collect()
    }

    pub(crate) fn last_event(&self) -> Result<Cursor> {
        let mut q = self.sql.prepare_cached("SELECT coalesce(max(no), 0) FROM events")?;
        Ok(Cursor(q.query_row([], |r| u64_at(r, 0))?))
    }
}

fn unacked_row(r: &Row<'_>) -> Result<Unacked> {
    Ok(Unacked {
        seq: Seq(u64_at(r, 0)?),
        kind: Kind::from_byte(r.get(1)?).map_err(|_| StoreError::Unreadable("kind"))?,
        content: r.get(2)?,
        inner: r.get(3)?,
        expires: r.get::<_, Option<i64>>(4)?.map(|at| at as u64),
    })
}
