//! Beginning again with a contact: another stream, other sessions, the same messages.
//!
//! Three stores need it: an emptied one, whose owner asks again; a restored one, which has no
//! ratchet sessions; and one that was set back or copied, whose owner does not know. The last one
//! shows when a contact acknowledges what this store has never written
//! ([`Messenger::take_ack`]): then the ratchet here is behind, too, and what was sent since cannot
//! be relied on. Everything that is not acknowledged goes into the new stream. Messages keep their
//! names, so what the contact has already is not told twice.

use halloo_wire::inner::Kind;
use halloo_wire::{Seq, StreamId, Transcript};

use super::outgoing::END;
use super::{Context, META_ACCOUNT, Messenger};
use crate::contact::ContactState;
use crate::event::EventKind;
use crate::store::{ContactRow, StoreError};

/// Seconds between two new streams to a contact who knows more of ours than we do. Somebody who
/// claims that without an end costs no more than this.
const AGAIN_INTERVAL_S: u64 = 60;

impl Messenger {
    /// A contact has read in our stream what we have not written, or knows a later stream: this
    /// store is an old one, or has a copy.
    pub(super) fn set_back(
        &mut self,
        cx: &mut Context<'_>,
        mut row: ContactRow,
        known: StreamId,
    ) -> Result<(), StoreError> {
        if !matches!(row.state, ContactState::Accepted | ContactState::Requested) {
            return Ok(());
        }
        let again_at = cx.db.again_at(&row.fp)?;
        // A time to come was noted by a clock that was wrong.
        if (again_at..again_at.saturating_add(AGAIN_INTERVAL_S)).contains(&cx.now.0) {
            return Ok(());
        }
        tracing::warn!(
            contact = %row.fp.short(),
            "This store was set back or copied: a contact has read what it has not written"
        );
        cx.db.set_again_at(&row.fp, cx.now.0)?;
        cx.emit(EventKind::SetBack { contact: row.fp })?;
        self.ask_again(cx, &mut row, known)
    }

    /// Begins again with a request, which tells the contact to do the same.
    fn ask_again(
        &mut self,
        cx: &mut Context<'_>,
        row: &mut ContactRow,
        known: StreamId,
    ) -> Result<(), StoreError> {
        // The first request may hold a note.
        let request = match cx.db.unacked(&row.fp, Seq(0), 1)?.pop() {
            Some(first) if first.kind == Kind::Request => first.content,
            _ => self.own_profile(cx, row)?,
        };
        self.begin_stream(cx, row, (Kind::Request, &request), known)
    }

    /// Begins another stream, later than ours and than `known`, with `first`, followed by the
    /// messages that are not acknowledged.
    pub(super) fn begin_stream(
        &mut self,
        cx: &mut Context<'_>,
        row: &mut ContactRow,
        first: (Kind, &[u8]),
        known: StreamId,
    ) -> Result<(), StoreError> {
        let fp = row.fp;
        let after = row.stream.max(known);
        let Some(stream) = new_stream(cx, Some(after)) else {
            tracing::warn!(contact = %fp.short(), "A contact names a stream that none can follow");
            return Ok(());
        };
        let messages = cx.db.remove_acked(&fp, END)?;
        cx.db.remove_sessions(&fp)?;
        self.sessions.remove(&fp);
        row.stream = stream;
        row.next_seq = 1;
        cx.db.put_contact(row)?;
        cx.db.set_acked_transcript(&fp, Transcript::START)?;
        let seq = cx.db.take_seq(&fp)?;
        cx.db.enqueue(&fp, seq, first.0, first.1, None)?;
        for message in messages {
            let seq = cx.db.take_seq(&fp)?;
            cx.db.enqueue_again(&fp, seq, &message)?;
        }
        cx.wake(fp);
        Ok(())
    }

    /// Makes this store, which is a backup's, one that can be used: a new ratchet account, and
    /// with each contact a beginning of its own.
    pub(crate) fn restored(&mut self, cx: &mut Context<'_>) -> Result<(), StoreError> {
        for mut row in cx.db.contacts()? {
            row.forget_keys();
            row.ack_due = 0;
            match row.state {
                ContactState::Accepted | ContactState::Requested => {
                    let known = row.stream;
                    self.ask_again(cx, &mut row, known)?;
                    cx.db.set_again_at(&row.fp, cx.now.0)?;
                }
                ContactState::Incoming | ContactState::Blocked => cx.db.put_contact(&row)?,
            }
        }
        Ok(())
    }
}

/// What a backup must not hold: everything of the ratchets, and what only this store can open.
pub(crate) fn strip_for_backup(db: crate::store::Db<'_>) -> Result<(), StoreError> {
    db.remove_keys()?;
    db.remove_meta(META_ACCOUNT)?;
    for mut row in db.contacts()? {
        row.forget_keys();
        db.put_contact(&row)?;
    }
    Ok(())
}

impl ContactRow {
    /// Forgets what belongs to the ratchets of a device and its contact's.
    fn forget_keys(&mut self) {
        self.ratchet_key = None;
        self.introduced = false;
        self.bundle_at = 0;
    }
}

/// The number of a stream that begins now; `None` when none is left.
pub(super) fn new_stream(cx: &Context<'_>, after: Option<StreamId>) -> Option<StreamId> {
    StreamId::after(after, cx.now.0, crate::random::u64() as u32)
}
