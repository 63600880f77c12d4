//! The keys that a node publishes, so that anybody can write to it first, and their secret halves.

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use halloo_identity::{Identity, SignatureRole, ml_dsa_hash};
use halloo_wire::prekey::{KEM_EK_LEN, PrekeyBundle, one_time_keys_hash};
use halloo_wire::{Reader, Writer};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::ratchet::RatchetAccount;
use crate::store::RestoreError;
use crate::time::{DAY, HOUR, UnixTime};

/// How long a bundle can be used after it is made: a node that was away for a week can still be
/// written to by somebody who looks it up.
pub const BUNDLE_VALIDITY: u64 = 7 * DAY;
/// How far before its making a bundle is valid: senders' clocks may be this far behind.
pub const CLOCK_SKEW: u64 = DAY;
/// Age at which a node that is online replaces its sealing keys. What was sealed to them becomes
/// unreadable for everybody when their secrets are forgotten.
pub const SEALING_ROTATION: u64 = DAY;
/// How long a peer keeps an envelope: secrets outlive their bundle by this.
pub const MAILBOX_TTL: u64 = 72 * HOUR;

/// The secret halves of a bundle's sealing keys.
///
/// Kept until nothing that was sealed to them can arrive any more ([`BundleSecrets::expires_at`]);
/// then the caller deletes them, and with them every recorded envelope's readability. Zeroized
/// when dropped.
pub struct BundleSecrets {
    seq: u64,
    not_after: UnixTime,
    bundle_hash: [u8; 32],
    sealing: SealingSecrets,
}

/// An X25519 and an ML-KEM-768 key pair.
#[derive(Clone)]
pub(crate) struct SealingSecrets {
    x25519: StaticSecret,
    x25519_public: [u8; 32],
    /// The decapsulation key of FIPS 203, which contains the encapsulation key.
    kem: Zeroizing<Vec<u8>>,
}

impl BundleSecrets {
    /// The bundle's sequence number, which names these keys in envelopes.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When nothing sealed to these keys can arrive any more: the bundle's last second plus the
    /// mailboxes' time to live.
    pub fn expires_at(&self) -> UnixTime {
        self.not_after.plus(MAILBOX_TTL)
    }

    /// Whether these keys are to be deleted at `now`.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now > self.expires_at()
    }

    /// Whether a node that is online should make a bundle with other sealing keys at `now`.
    pub fn rotation_due(&self, now: UnixTime) -> bool {
        now >= self.not_after.minus(BUNDLE_VALIDITY - SEALING_ROTATION)
    }

    /// The bytes for the store.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(STORED_LEN);
        w.u8(STORE_VERSION).u64(self.seq).u64(self.not_after.0).put(&self.bundle_hash);
        w.put(self.sealing.x25519.as_bytes()).put(&self.sealing.kem);
        Zeroizing::new(w.into_vec())
    }

    /// Reads what [`BundleSecrets::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            STORE_VERSION => {}
            other => return Err(halloo_wire::DecodeError::UnsupportedVersion(other).into()),
        }
        let seq = r.u64()?;
        let not_after = UnixTime(r.u64()?);
        let bundle_hash = r.array()?;
        let x25519 = Zeroizing::new(r.array()?);
        let kem = Zeroizing::new(r.take(KEM_DK_LEN)?.to_vec());
        r.finish()?;
        Ok(Self { seq, not_after, bundle_hash, sealing: SealingSecrets::new(&x25519, kem) })
    }

    pub(crate) fn bundle_hash(&self) -> &[u8; 32] {
        &self.bundle_hash
    }

    pub(crate) fn sealing(&self) -> &SealingSecrets {
        &self.sealing
    }
}

impl SealingSecrets {
    fn new(x25519: &[u8; 32], kem: Zeroizing<Vec<u8>>) -> Self {
        let x25519 = StaticSecret::from(*x25519);
        let x25519_public = PublicKey::from(&x25519).to_bytes();
        Self { x25519, x25519_public, kem }
    }

    fn generate() -> Self {
        let mut x25519 = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *x25519).expect("the operating system gives random bytes");
        let kem = DecapsulationKey::generate(&ML_KEM_768)
            .and_then(|key| Ok(Zeroizing::new(key.key_bytes()?.as_ref().to_vec())))
            .expect("ML-KEM key generation fails only without random bytes");
        debug_assert_eq!(kem.len(), KEM_DK_LEN);
        Self::new(&x25519, kem)
    }

    pub(crate) fn x25519(&self) -> &StaticSecret {
        &self.x25519
    }

    pub(crate) fn x25519_public(&self) -> &[u8; 32] {
        &self.x25519_public
    }

    pub(crate) fn kem_dk(&self) -> &[u8] {
        &self.kem
    }

    pub(crate) fn kem_ek(&self) -> &[u8; KEM_EK_LEN] {
        // FIPS 203, algorithm 16: dk = dk_pke (1152) | ek (1184) | H(ek) (32) | z (32).
        self.kem[KEM_EK_OFFSET..]
            .first_chunk()
            .expect("a decapsulation key holds its encapsulation key")
    }
}

/// Makes a bundle with fresh sealing keys and fresh one-time keys.
///
/// Returns the signed bundle, its one-time keys in the order of publication, and its secrets. The
/// caller stores `account` and the secrets in one transaction before it publishes the rest. `seq`
/// is larger than in every earlier bundle of the device. The account's fallback key is replaced
/// when it is old enough.
///
/// # Panics
/// When the operating system gives no random bytes.
pub fn make_bundle(
    identity: &Identity,
    account: &mut RatchetAccount,
    seq: u64,
    now: UnixTime,
) -> (PrekeyBundle, Vec<[u8; 32]>, BundleSecrets) {
    publish(identity, account, SealingSecrets::generate(), seq, now, now.plus(BUNDLE_VALIDITY))
}

/// Makes a bundle with the sealing keys of `current` and fresh one-time keys, for a peer that has
/// restarted or has given all one-time keys away.
///
/// The secrets of `current` are still needed for what is already sealed to it. `None` when
/// `current`'s bundle has ended: then it is time for [`make_bundle`]. Otherwise like
/// [`make_bundle`].
///
/// # Panics
/// When the operating system gives no random bytes.
pub fn refresh_bundle(
    identity: &Identity,
    account: &mut RatchetAccount,
    current: &BundleSecrets,
    seq: u64,
    now: UnixTime,
) -> Option<(PrekeyBundle, Vec<[u8; 32]>, BundleSecrets)> {
    let not_after = current.not_after;
    (now < not_after)
        .then(|| publish(identity, account, current.sealing.clone(), seq, now, not_after))
}

fn publish(
    identity: &Identity,
    account: &mut RatchetAccount,
    sealing: SealingSecrets,
    seq: u64,
    now: UnixTime,
    not_after: UnixTime,
) -> (PrekeyBundle, Vec<[u8; 32]>, BundleSecrets) {
    let offer = account.offer(now, not_after.plus(MAILBOX_TTL));
    let mut bundle = PrekeyBundle {
        fingerprint: identity.fingerprint(),
        device: identity.device_id(),
        passport_key: identity.passport_public_key(),
        ml_dsa_hash: ml_dsa_hash(identity.ml_dsa_public_key()),
        seq,
        not_before: now.minus(CLOCK_SKEW).0,
        not_after: not_after.0,
        sealing_x25519: *sealing.x25519_public(),
        sealing_kem: Box::new(*sealing.kem_ek()),
        olm_identity: account.olm_identity(),
        olm_fallback: offer.fallback,
        one_time_keys_hash: one_time_keys_hash(&offer.one_time_keys),
        signature: [0; 64],
    };
    bundle.signature = identity.sign(SignatureRole::PrekeyBundle, &bundle.signed_bytes());
    let bundle_hash = bundle_hash(&bundle.encode());
    (bundle, offer.one_time_keys, BundleSecrets { seq, not_after, bundle_hash, sealing })
}

/// Names one exact bundle. Envelopes are bound to it.
pub(crate) fn bundle_hash(encoded: &[u8]) -> [u8; 32] {
    blake3::derive_key("halloo 2026 prekey bundle v1", encoded)
}

const STORE_VERSION: u8 = 1;
/// Length of an ML-KEM-768 decapsulation key (FIPS 203).
const KEM_DK_LEN: usize = 2400;
const KEM_EK_OFFSET: usize = 1152;
const STORED_LEN: usize = 1 + 8 + 8 + 32 + 32 + KEM_DK_LEN;
