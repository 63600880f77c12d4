//! A device's own Olm keys: identity, fallback and one-time.

use halloo_wire::limits::MAX_ONE_TIME_KEYS;
use halloo_wire::{DecodeError, Reader, Writer};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm::{Account, PreKeyMessage, Session, SessionConfig, SessionCreationError};
use zeroize::Zeroizing;

use super::DecryptError;
use crate::store::{RestoreError, read_json, write_json};
use crate::time::{DAY, UnixTime};

/// The secret Olm keys of this device.
///
/// The caller stores it after each call that takes it by `&mut`: together with the bundle's
/// secrets after a bundle is made, together with the session after
/// [`RatchetSession::inbound`](super::RatchetSession::inbound).
pub struct RatchetAccount {
    olm: Account,
    /// Oldest first; vodozemac keeps the secrets of two.
    fallbacks: Vec<Fallback>,
    /// Oldest first.
    batches: Vec<Batch>,
}

/// A fallback key: one of a bundle, for everybody who finds no one-time key.
#[derive(Clone)]
struct Fallback {
    public: [u8; 32],
    made: UnixTime,
    /// When nothing that uses it can arrive any more.
    needed_until: UnixTime,
    /// The first ratchet keys of the sessions that were begun with it, oldest first. The sender
    /// draws it for the session and the first message's MAC covers it.
    seen: Vec<[u8; 32]>,
}

/// One-time keys that were published together and are not used yet.
#[derive(Clone)]
struct Batch {
    /// When nothing that uses them can arrive any more.
    needed_until: UnixTime,
    keys: Vec<[u8; 32]>,
}

/// Public keys for one bundle.
pub(crate) struct Offer {
    pub(crate) fallback: [u8; 32],
    pub(crate) one_time_keys: Vec<[u8; 32]>,
}

impl RatchetAccount {
    /// Draws the keys of a device. It has no one-time keys until a bundle is made.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self { olm: Account::new(), fallbacks: Vec::new(), batches: Vec::new() }
    }

    /// Forgets what nobody can use any more at `now`: one-time keys and the previous fallback
    /// key, [`MAILBOX_TTL`](crate::MAILBOX_TTL) after the last bundle that offered them. Returns
    /// whether anything was forgotten.
    pub fn prune(&mut self, now: UnixTime) -> bool {
        let (dead, alive): (Vec<_>, _) =
            self.batches.drain(..).partition(|batch| now > batch.needed_until);
        self.batches = alive;
        let forget_fallback = matches!(&*self.fallbacks, [old, _] if now > old.needed_until);
        if forget_fallback {
            self.fallbacks.remove(0);
            self.olm.forget_fallback_key();
        }
        let any = forget_fallback || !dead.is_empty();
        dead.into_iter().for_each(|batch| self.forget(batch));
        any
    }

    /// The device's Olm identity key.
    pub fn olm_identity(&self) -> [u8; 32] {
        self.olm.curve25519_key().to_bytes()
    }

    /// One-time keys that were published and not used yet, over all bundles.
    pub fn one_time_key_count(&self) -> usize {
        self.olm.stored_one_time_key_count()
    }

    /// The bytes for the store.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(64 + 32 * self.one_time_key_count());
        w.u8(STORE_VERSION).u8(self.fallbacks.len() as u8);
        for f in &self.fallbacks {
            w.put(&f.public).u64(f.made.0).u64(f.needed_until.0);
            write_keys(&mut w, &f.seen);
        }
        w.u16(self.batches.len() as u16);
        for b in &self.batches {
            w.u64(b.needed_until.0);
            write_keys(&mut w, &b.keys);
        }
        let mut out = Zeroizing::new(w.into_vec());
        write_json(&mut out, &self.olm.pickle());
        out
    }

    /// Reads what [`RatchetAccount::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            STORE_VERSION => {}
            other => return Err(DecodeError::UnsupportedVersion(other).into()),
        }
        let mut fallbacks = Vec::new();
        for _ in 0..r.u8()? {
            fallbacks.push(Fallback {
                public: r.array()?,
                made: UnixTime(r.u64()?),
                needed_until: UnixTime(r.u64()?),
                seen: read_keys(&mut r)?,
            });
        }
        let mut batches = Vec::new();
        for _ in 0..r.u16()? {
            batches.push(Batch { needed_until: UnixTime(r.u64()?), keys: read_keys(&mut r)? });
        }
        let olm = Account::from_pickle(read_json(r.rest())?);
        Ok(Self { olm, fallbacks, batches })
    }

    /// Draws one-time keys for a bundle, and a fallback key when it is time for another one.
    /// Their secrets are kept until `needed_until`.
    pub(crate) fn offer(&mut self, now: UnixTime, needed_until: UnixTime) -> Offer {
        self.prune(now);
        let fresh = self.fallbacks.last().is_some_and(|f| now < f.made.plus(FALLBACK_ROTATION));
        if !fresh {
            self.draw_fallback(now);
        }
        let fallback = self.fallbacks.last_mut().expect("one was drawn when there was none");
        fallback.needed_until = fallback.needed_until.max(needed_until);
        let fallback = fallback.public;

        let keys: Vec<_> = self
            .olm
            .generate_one_time_keys(MAX_ONE_TIME_KEYS)
            .created
            .iter()
            .map(Curve25519PublicKey::to_bytes)
            .collect();
        self.olm.mark_keys_as_published();
        if self.batches.len() >= MAX_BATCHES {
            let oldest = self.batches.remove(0);
            self.forget(oldest);
        }
        self.batches.push(Batch { needed_until, keys: keys.clone() });
        Offer { fallback, one_time_keys: keys }
    }

    /// Begins a session with somebody else's keys.
    pub(super) fn begin(
        &self,
        their_identity: [u8; 32],
        their_key: [u8; 32],
    ) -> Result<Session, SessionCreationError> {
        self.olm.create_outbound_session(
            SessionConfig::version_2(),
            Curve25519PublicKey::from_bytes(their_identity),
            Curve25519PublicKey::from_bytes(their_key),
        )
    }

    /// Begins the session that a first message asks for, and gives its plaintext to `check`.
    ///
    /// Only when `check` agrees is the one-time key used up, or the message remembered.
    pub(super) fn answer<T>(
        &mut self,
        their_identity: [u8; 32],
        first: &PreKeyMessage,
        check: impl FnOnce(&[u8]) -> Result<T, DecryptError>,
    ) -> Result<(Session, T), DecryptError> {
        let key = first.one_time_key().to_bytes();
        let first_ratchet_key = first.message().ratchet_key().to_bytes();
        let fallback = self.fallbacks.iter().position(|f| f.public == key);
        if fallback.is_some_and(|i| self.fallbacks[i].seen.contains(&first_ratchet_key)) {
            return Err(DecryptError::Replayed);
        }

        // vodozemac uses the key up as soon as the message decrypts. Putting it back costs a
        // scalar multiplication for each key, so it is done only when the check fails.
        let before = self.olm.pickle();
        let created = self
            .olm
            .create_inbound_session(
                SessionConfig::version_2(),
                Curve25519PublicKey::from_bytes(their_identity),
                first,
            )
            .map_err(creation_error)?;
        let plaintext = Zeroizing::new(created.plaintext);
        let checked = check(&plaintext).inspect_err(|_| self.olm = Account::from_pickle(before))?;

        self.batches.iter_mut().for_each(|batch| batch.keys.retain(|k| *k != key));
        self.batches.retain(|batch| !batch.keys.is_empty());
        if let Some(i) = fallback {
            self.fallbacks[i].remember(first_ratchet_key);
        }
        Ok((created.session, checked))
    }

    fn draw_fallback(&mut self, now: UnixTime) {
        self.olm.generate_fallback_key();
        let public = self.olm.fallback_key().into_values().next();
        let public = public.expect("a fallback key was drawn and is not published").to_bytes();
        if self.fallbacks.len() == FALLBACKS_KEPT {
            self.fallbacks.remove(0);
        }
        self.fallbacks.push(Fallback { public, made: now, needed_until: now, seen: Vec::new() });
    }

    fn forget(&mut self, batch: Batch) {
        for key in batch.keys {
            self.olm.remove_one_time_key(Curve25519PublicKey::from_bytes(key));
        }
    }
}

impl Fallback {
    fn remember(&mut self, first_ratchet_key: [u8; 32]) {
        if self.seen.len() == MAX_SEEN {
            self.seen.remove(0);
        }
        self.seen.push(first_ratchet_key);
    }
}

fn creation_error(e: SessionCreationError) -> DecryptError {
    match e {
        SessionCreationError::MissingOneTimeKey(_) => DecryptError::UnknownOneTimeKey,
        SessionCreationError::MismatchedIdentityKey(..) => DecryptError::WrongRatchetKey,
        SessionCreationError::MismatchedSessionConfig { .. } => DecryptError::UnsupportedVersion,
        SessionCreationError::Decryption(e) => e.into(),
        SessionCreationError::NonContributoryKey => DecryptError::NotAuthentic,
    }
}

fn write_keys(w: &mut Writer, keys: &[[u8; 32]]) {
    w.u16(keys.len() as u16);
    keys.iter().for_each(|key| {
        w.put(key);
    });
}

fn read_keys(r: &mut Reader<'_>) -> Result<Vec<[u8; 32]>, DecodeError> {
    (0..r.u16()?).map(|_| r.array()).collect()
}

const STORE_VERSION: u8 = 1;
/// Age at which the fallback key is replaced. vodozemac keeps the previous one, so a key's secret
/// lives for twice this: its last bundle may be made at ten days, be used for seven more and
/// wait in a mailbox for three.
const FALLBACK_ROTATION: u64 = 10 * DAY;
/// Fallback keys whose secrets vodozemac keeps.
const FALLBACKS_KEPT: usize = 2;
/// Publications whose one-time keys are kept: daily rotation for the ten days that a bundle's
/// keys are needed, and thirty restarts of the rendezvous peer. Beyond it the oldest are
/// forgotten, so that a peer that claims to restart all the time cannot fill the store; a
/// message to a forgotten key is asked for again.
const MAX_BATCHES: usize = 40;
/// Remembered sessions for each fallback key. A flood of requests beyond it makes room for a
/// replay of the oldest, which the inbox then refuses as a duplicate.
const MAX_SEEN: usize = 4096;
