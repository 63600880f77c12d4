//! Streams, ours and the contacts': how far they are, and what they held.

use halloo_identity::Fingerprint;
use halloo_wire::{Seq, StreamId, Transcript};
use rusqlite::{OptionalExtension, params};

use super::db::{Db, Result, array, u64_at};

/// What has arrived of a contact's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) stream: StreamId,
    /// The first place that has not arrived. Everything below it is in the history, for ever.
    pub(crate) next: Seq,
    /// Of the places below `next`.
    pub(crate) transcript: Transcript,
}

impl Db<'_> {
    /// The contact's stream that began last.
    pub(crate) fn incoming(&self, fp: &Fingerprint) -> Result<Option<Incoming>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT stream, next, transcript FROM incoming WHERE contact = ?")?;
        let row: Option<(u64, u64, Vec<u8>)> = q
            .query_row([fp.as_bytes()], |r| Ok((u64_at(r, 0)?, u64_at(r, 1)?, r.get(2)?)))
            .optional()?;
        row.map(|(stream, next, transcript)| {
            let transcript = Transcript(array(&transcript, "transcript")?);
            Ok(Incoming { stream: StreamId(stream), next: Seq(next), transcript })
        })
        .transpose()
    }

    /// Notes what has arrived. A stream that was there before is forgotten.
    pub(crate) fn put_incoming(&self, fp: &Fingerprint, new: &Incoming) -> Result<()> {
        self.sql.prepare_cached("INSERT OR REPLACE INTO incoming VALUES (?, ?, ?, ?)")?.execute(
            params![
                fp.as_bytes(),
                new.stream.0 as i64,
                new.next.0 as i64,
                new.transcript.0.as_slice()
            ],
        )?;
        Ok(())
    }

    /// What our stream held up to a place that is not acknowledged; `None` when it has never been
    /// encrypted.
    pub(crate) fn transcript(&self, fp: &Fingerprint, seq: Seq) -> Result<Option<Transcript>> {
        let mut q = self
            .sql
            .prepare_cached("SELECT transcript FROM outbox WHERE contact = ? AND seq = ?")?;
        let row: Option<Option<Vec<u8>>> =
            q.query_row(params![fp.as_bytes(), seq.0 as i64], |r| r.get(0)).optional()?;
        row.flatten().map(|t| array(&t, "transcript").map(Transcript)).transpose()
    }

    /// What our stream held before a place, all of which has been encrypted.
    pub(crate) fn transcript_before(&self, fp: &Fingerprint, seq: Seq) -> Result<Transcript> {
        if let Some(t) = self.transcript(fp, Seq(seq.0.saturating_sub(1)))? {
            return Ok(t);
        }
        let mut q = self.sql.prepare_cached("SELECT transcript FROM outgoing WHERE contact = ?")?;
        let row: Option<Vec<u8>> = q.query_row([fp.as_bytes()], |r| r.get(0)).optional()?;
        row.map_or(Ok(Transcript::START), |t| array(&t, "transcript").map(Transcript))
    }

    /// Notes what our stream held in all that is acknowledged.
    pub(crate) fn set_acked_transcript(&self, fp: &Fingerprint, t: Transcript) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO outgoing VALUES (?1, ?2, 0) \
                 ON CONFLICT (contact) DO UPDATE SET transcript = ?2",
            )?
            .execute(params![fp.as_bytes(), t.0.as_slice()])?;
        Ok(())
    }

    /// When we last began again because the contact knew more of our stream than we do, Unix
    /// seconds; 0 for never.
    pub(crate) fn again_at(&self, fp: &Fingerprint) -> Result<u64> {
        let mut q = self.sql.prepare_cached("SELECT again_at FROM outgoing WHERE contact = ?")?;
        Ok(q.query_row([fp.as_bytes()], |r| u64_at(r, 0)).optional()?.unwrap_or(0))
    }

    pub(crate) fn set_again_at(&self, fp: &Fingerprint, at: u64) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO outgoing VALUES (?1, ?2, ?3) \
                 ON CONFLICT (contact) DO UPDATE SET again_at = ?3",
            )?
            .execute(params![fp.as_bytes(), Transcript::START.0.as_slice(), at as i64])?;
        Ok(())
    }

    /// Notes that something of a contact's streams could not be read: this place, perhaps among
    /// others.
    pub(crate) fn add_missing(&self, fp: &Fingerprint, place: (StreamId, Seq)) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO missing (contact, asked, stream, seq) VALUES (?1, 0, ?2, ?3) \
                 ON CONFLICT (contact) DO UPDATE SET stream = ?2, seq = ?3 \
                 WHERE (stream, seq) < (?2, ?3)",
            )?
            .execute(params![fp.as_bytes(), place.0.0 as i64, place.1.0 as i64])?;
        Ok(())
    }

    /// A place has been read. Nothing is missing any more when it is the last that could not be.
    pub(crate) fn no_longer_missing(&self, fp: &Fingerprint, place: (StreamId, Seq)) -> Result<()> {
        self.sql
            .prepare_cached(
                "DELETE FROM missing WHERE contact = ? AND receipt = 0 AND (stream, seq) <= (?, ?)",
            )?
            .execute(params![fp.as_bytes(), place.0.0 as i64, place.1.0 as i64])?;
        self.sql
            .prepare_cached(
                "UPDATE missing SET stream = 0, seq = 0 \
                 WHERE contact = ? AND receipt > 0 AND (stream, seq) <= (?, ?)",
            )?
            .execute(params![fp.as_bytes(), place.0.0 as i64, place.1.0 as i64])?;
        Ok(())
    }

    /// Notes that a receipt of a contact could not be read. It cannot be about more than our places
    /// up to `last`.
    pub(crate) fn add_missing_receipt(&self, fp: &Fingerprint, last: Seq) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO missing (contact, asked, receipt) VALUES (?1, 0, ?2) \
                 ON CONFLICT (contact) DO UPDATE SET receipt = ?2",
            )?
            .execute(params![fp.as_bytes(), last.0 as i64])?;
        Ok(())
    }

    /// No receipt is missing where everything is acknowledged that it could have been about.
    pub(crate) fn forget_receipts_that_came(&self) -> Result<()> {
        let waited = "receipt > 0 AND NOT EXISTS (SELECT 1 FROM outbox \
                      WHERE outbox.contact = missing.contact AND outbox.seq <= receipt)";
        self.sql
            .prepare_cached(&format!("DELETE FROM missing WHERE seq = 0 AND {waited}"))?
            .execute([])?;
        self.sql
            .prepare_cached(&format!("UPDATE missing SET receipt = 0 WHERE {waited}"))?
            .execute([])?;
        Ok(())
    }

    /// Nothing more is asked for.
    pub(crate) fn remove_missing(&self, fp: &Fingerprint) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM missing WHERE contact = ?")?
            .execute([fp.as_bytes()])?;
        Ok(())
    }

    /// Contacts of whose stream something is missing, when it was asked for last (Unix seconds),
    /// and how often since.
    pub(crate) fn missing(&self) -> Result<Vec<(Fingerprint, u64, u32)>> {
        let mut q = self.sql.prepare_cached(
            "SELECT fp, resend_at, asked FROM missing JOIN contacts ON fp = contact",
        )?;
        let rows = q.query_map([], |r| Ok((r.get::<_, Vec<u8>>(0)?, u64_at(r, 1)?, r.get(2)?)))?;
        rows.map(|row| {
            let (fp, at, asked) = row?;
            Ok((Fingerprint::from_bytes(array(&fp, "fingerprint")?), at, asked))
        })
        .collect()
    }

    /// Notes that it is asked for once more.
    pub(crate) fn asked_for_missing(&self, fp: &Fingerprint, now: u64) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE missing SET asked = asked + 1 WHERE contact = ?")?
            .execute([fp.as_bytes()])?;
        self.sql
            .prepare_cached("UPDATE contacts SET resend_at = ? WHERE fp = ?")?
            .execute(params![now as i64, fp.as_bytes()])?;
        Ok(())
    }
}
