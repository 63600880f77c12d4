//! Contacts with what belongs to each: ratchet sessions and the safety code that is compared.

use halloo_identity::Fingerprint;
use halloo_wire::content::PeerHint;
use halloo_wire::{Seq, StreamId};
use rusqlite::{OptionalExtension, Row, params};
use zeroize::Zeroizing;

use super::StoreError;
use super::db::{Db, Result, array, u64_at};
use crate::contact::{CheckedHow, ContactState, Verification};

/// Ratchet sessions that are kept for each contact. Two suffice when both start at once; vodozemac
/// keeps five chains for the same reason.
const MAX_SESSIONS: i64 = 5;

/// What is read of `contacts`, in the order of [`contact_row`].
macro_rules! contacts {
    ($rest:literal) => {
        concat!(
            "SELECT fp, device, name, given_name, note, state, peers, cap_mine, cap_theirs, \
             ratchet_key, introduced, stream, next_seq, checked_at, checked_how, attempts, \
             bundle_seq, bundle_at, ack_due, resend_at, added FROM contacts ",
            $rest
        )
    };
}

/// A row of `contacts`.
#[derive(Clone)]
pub(crate) struct ContactRow {
    pub(crate) fp: Fingerprint,
    pub(crate) device: u32,
    pub(crate) name: String,
    pub(crate) given_name: String,
    pub(crate) note: String,
    pub(crate) state: ContactState,
    pub(crate) peers: Vec<PeerHint>,
    pub(crate) cap_mine: Zeroizing<[u8; 32]>,
    pub(crate) cap_theirs: Option<Zeroizing<[u8; 32]>>,
    pub(crate) ratchet_key: Option<[u8; 32]>,
    pub(crate) introduced: bool,
    pub(crate) stream: StreamId,
    pub(crate) next_seq: u64,
    pub(crate) verified: Verification,
    pub(crate) attempts: Vec<u8>,
    pub(crate) bundle_seq: u64,
    pub(crate) bundle_at: u64,
    /// How often a receipt has become due since the last one was given; 0 when none is.
    pub(crate) ack_due: u64,
    pub(crate) resend_at: u64,
    pub(crate) added: u64,
}

/// What a contact's row says about sending.
pub(crate) struct Standing {
    pub(crate) state: ContactState,
    pub(crate) verified: Verification,
    /// How many places wait to be acknowledged.
    pub(crate) waiting: u64,
}

/// A row of `safety`.
pub(crate) struct SafetyRow {
    pub(crate) exchange: [u8; 16],
    pub(crate) state: Zeroizing<Vec<u8>>,
}

impl Db<'_> {
    pub(crate) fn contact(&self, fp: &Fingerprint) -> Result<Option<ContactRow>> {
        let mut q = self.sql.prepare_cached(contacts!("WHERE fp = ?"))?;
        q.query_row([fp.as_bytes()], |r| Ok(contact_row(r))).optional()?.transpose()
    }

    pub(crate) fn standing(&self, fp: &Fingerprint) -> Result<Option<Standing>> {
        // Places have no holes, so nothing has to be counted.
        let mut q = self.sql.prepare_cached(
            "SELECT state, checked_at, checked_how, coalesce(next_seq - \
             (SELECT min(seq) FROM outbox WHERE contact = ?1), 0) FROM contacts WHERE fp = ?1",
        )?;
        let standing = |r: &Row<'_>| {
            Ok(Standing {
                state: contact_state(r.get(0)?)?,
                verified: verification(r.get(1)?, r.get(2)?)?,
                waiting: u64_at(r, 3)?,
            })
        };
        q.query_row([fp.as_bytes()], |r| Ok(standing(r))).optional()?.transpose()
    }

    pub(crate) fn contacts(&self) -> Result<Vec<ContactRow>> {
        let mut q = self.sql.prepare_cached(contacts!("ORDER BY added, name"))?;
        let rows = q.query_map([], |r| Ok(contact_row(r)))?;
        rows.map(|r| r?).collect()
    }

    pub(crate) fn contact_by_name(&self, name: &str) -> Result<Option<ContactRow>> {
        let mut q = self.sql.prepare_cached(contacts!("WHERE name = ?"))?;
        q.query_row([name], |r| Ok(contact_row(r))).optional()?.transpose()
    }

    pub(crate) fn contacts_in_state(&self, state: ContactState) -> Result<u64> {
        let mut q = self.sql.prepare_cached("SELECT count(*) FROM contacts WHERE state = ?")?;
        Ok(q.query_row([state.to_i64()], |r| u64_at(r, 0))?)
    }

    /// Writes a contact, new or changed.
    pub(crate) fn put_contact(&self, c: &ContactRow) -> Result<()> {
        let peers = postcard::to_stdvec(&c.peers).map_err(|_| StoreError::Unreadable("peers"))?;
        let (checked_at, checked_how) = verification_columns(c.verified);
        self.sql
            .prepare_cached(
                "INSERT INTO contacts (fp, device, name, given_name, note, state, peers, cap_mine, \
                 cap_theirs, ratchet_key, introduced, stream, next_seq, checked_at, checked_how, \
                 attempts, bundle_seq, bundle_at, ack_due, resend_at, added) VALUES (?1,?2,?3,?4,\
                 ?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21) \
                 ON CONFLICT (fp) DO UPDATE SET device=?2, name=?3, given_name=?4, note=?5, \
                 state=?6, peers=?7, cap_mine=?8, cap_theirs=?9, ratchet_key=?10, introduced=?11, \
                 stream=?12, next_seq=?13, checked_at=?14, checked_how=?15, attempts=?16, \
                 bundle_seq=?17, bundle_at=?18, ack_due=?19, resend_at=?20",
            )?
            .execute(params![
                c.fp.as_bytes(),
                c.device,
                c.name,
                c.given_name,
                c.note,
                c.state.to_i64(),
                peers,
                c.cap_mine.as_slice(),
                c.cap_theirs.as_ref().map(|k| k.as_slice()),
                c.ratchet_key.as_ref().map(|k| k.as_slice()),
                c.introduced,
                c.stream.0 as i64,
                c.next_seq as i64,
                checked_at,
                checked_how,
                c.attempts,
                c.bundle_seq as i64,
                c.bundle_at as i64,
                c.ack_due as i64,
                c.resend_at as i64,
                c.added as i64,
            ])?;
        Ok(())
    }

    /// The bundle of a contact that was fetched last.
    pub(crate) fn contact_bundle(&self, fp: &Fingerprint) -> Result<Option<Vec<u8>>> {
        let mut q =
            self.sql.prepare_cached("SELECT bundle FROM contact_bundles WHERE contact = ?")?;
        Ok(q.query_row([fp.as_bytes()], |r| r.get(0)).optional()?)
    }

    pub(crate) fn put_contact_bundle(&self, fp: &Fingerprint, bundle: &[u8]) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT OR REPLACE INTO contact_bundles (contact, bundle) VALUES (?, ?)",
            )?
            .execute(params![fp.as_bytes(), bundle])?;
        Ok(())
    }

    /// Notes that a contact is owed a receipt.
    pub(crate) fn owe_ack(&self, fp: &Fingerprint) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE contacts SET ack_due = ack_due + 1 WHERE fp = ?")?
            .execute([fp.as_bytes()])?;
        Ok(())
    }

    /// Notes that a receipt was given, unless another one has become due since it was `due`.
    pub(crate) fn clear_ack(&self, fp: &Fingerprint, due: u64) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE contacts SET ack_due = 0 WHERE fp = ? AND ack_due = ?")?
            .execute(params![fp.as_bytes(), due as i64])?;
        Ok(())
    }

    /// Takes the next place in our stream to a contact.
    pub(crate) fn take_seq(&self, fp: &Fingerprint) -> Result<Seq> {
        let mut q = self.sql.prepare_cached(
            "UPDATE contacts SET next_seq = next_seq + 1 WHERE fp = ? RETURNING next_seq - 1",
        )?;
        Ok(Seq(q.query_row([fp.as_bytes()], |r| u64_at(r, 0))?))
    }

    /// Ratchet sessions with a contact, the one that speaks first.
    pub(crate) fn sessions(&self, fp: &Fingerprint) -> Result<Vec<Zeroizing<Vec<u8>>>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT state FROM sessions WHERE contact = ? ORDER BY used DESC")?;
        let rows = q.query_map([fp.as_bytes()], |r| Ok(Zeroizing::new(r.get(0)?)))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// Writes a session; with `speak`, or when it is new, it goes to the front.
    pub(crate) fn put_session(
        &self,
        fp: &Fingerprint,
        id: &str,
        state: &[u8],
        speak: bool,
    ) -> Result<()> {
        let changed = self
            .sql
            .prepare_cached(
                "UPDATE sessions SET state = ?1, used = CASE WHEN ?2 AND used < (SELECT max(used) \
                 FROM sessions WHERE contact = ?3) THEN (SELECT max(used) + 1 FROM sessions WHERE \
                 contact = ?3) ELSE used END WHERE contact = ?3 AND id = ?4",
            )?
            .execute(params![state, speak, fp.as_bytes(), id])?;
        if changed == 0 {
            self.sql
                .prepare_cached(
                    "INSERT INTO sessions (contact, id, state, used) SELECT ?1, ?2, ?3, \
                     coalesce(max(used), 0) + 1 FROM sessions WHERE contact = ?1",
                )?
                .execute(params![fp.as_bytes(), id, state])?;
            self.sql
                .prepare_cached(
                    "DELETE FROM sessions WHERE contact = ?1 AND used NOT IN (SELECT used FROM \
                     sessions WHERE contact = ?1 ORDER BY used DESC LIMIT ?2)",
                )?
                .execute(params![fp.as_bytes(), MAX_SESSIONS])?;
        }
        Ok(())
    }

    /// Forgets all sessions with a contact.
    pub(crate) fn remove_sessions(&self, fp: &Fingerprint) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM sessions WHERE contact = ?")?
            .execute([fp.as_bytes()])?;
        Ok(())
    }

    pub(crate) fn safety(&self, fp: &Fingerprint) -> Result<Option<SafetyRow>> {
        let mut q =
            self.sql.prepare_cached("SELECT exchange, state FROM safety WHERE contact = ?")?;
        let row: Option<(Vec<u8>, Vec<u8>)> =
            q.query_row([fp.as_bytes()], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        row.map(|(exchange, state)| {
            Ok(SafetyRow { exchange: array(&exchange, "exchange")?, state: Zeroizing::new(state) })
        })
        .transpose()
    }

    pub(crate) fn put_safety(&self, fp: &Fingerprint, row: &SafetyRow) -> Result<()> {
        self.sql
            .prepare_cached("INSERT OR REPLACE INTO safety VALUES (?, ?, ?)")?
            .execute(params![fp.as_bytes(), row.exchange.as_slice(), row.state.as_slice()])?;
        Ok(())
    }

    pub(crate) fn remove_safety(&self, fp: &Fingerprint) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM safety WHERE contact = ?")?
            .execute([fp.as_bytes()])?;
        Ok(())
    }
}

fn contact_row(r: &Row<'_>) -> Result<ContactRow> {
    let secret = |bytes: &[u8]| array(bytes, "capability").map(Zeroizing::new);
    let blob = |i: usize| -> Result<&[u8]> {
        r.get_ref(i)?.as_blob().map_err(|_| StoreError::Unreadable("contact"))
    };
    let optional = |i: usize| -> Result<Option<&[u8]>> {
        r.get_ref(i)?.as_blob_or_null().map_err(|_| StoreError::Unreadable("contact"))
    };
    Ok(ContactRow {
        fp: Fingerprint::from_bytes(array(blob(0)?, "fingerprint")?),
        device: r.get(1)?,
        name: r.get(2)?,
        given_name: r.get(3)?,
        note: r.get(4)?,
        state: contact_state(r.get(5)?)?,
        peers: postcard::from_bytes(blob(6)?).map_err(|_| StoreError::Unreadable("peers"))?,
        cap_mine: secret(blob(7)?)?,
        cap_theirs: optional(8)?.map(secret).transpose()?,
        ratchet_key: optional(9)?.map(|k| array(k, "ratchet key")).transpose()?,
        introduced: r.get(10)?,
        stream: StreamId(u64_at(r, 11)?),
        next_seq: u64_at(r, 12)?,
        verified: verification(r.get(13)?, r.get(14)?)?,
        attempts: r.get(15)?,
        bundle_seq: u64_at(r, 16)?,
        bundle_at: u64_at(r, 17)?,
        ack_due: u64_at(r, 18)?,
        resend_at: u64_at(r, 19)?,
        added: u64_at(r, 20)?,
    })
}

fn contact_state(number: i64) -> Result<ContactState> {
    ContactState::from_i64(number).ok_or(StoreError::Unreadable("contact state"))
}

fn verification(at: Option<i64>, how: Option<i64>) -> Result<Verification> {
    match (at, how) {
        (None, None) => Ok(Verification::NotChecked),
        (Some(_), Some(0)) => Ok(Verification::KeyChanged),
        (Some(at), Some(how @ (1 | 2))) => Ok(Verification::Checked {
            at_unix_s: at as u64,
            how: if how == 1 { CheckedHow::Code } else { CheckedHow::Number },
        }),
        _ => Err(StoreError::Unreadable("verification")),
    }
}

fn verification_columns(v: Verification) -> (Option<i64>, Option<i64>) {
    match v {
        Verification::NotChecked => (None, None),
        Verification::KeyChanged => (Some(0), Some(0)),
        Verification::Checked { at_unix_s, how } => {
            (Some(at_unix_s as i64), Some(if how == CheckedHow::Code { 1 } else { 2 }))
        }
    }
}
