//! A recipient's prekey bundle, checked.

use halloo_identity::{Passport, PassportError, SignatureRole};
use halloo_wire::limits::{MAX_BUNDLE, MAX_ONE_TIME_KEYS, MAX_PASSPORT};
use halloo_wire::peer::Found;
use halloo_wire::prekey::{PrekeyBundle, one_time_keys_hash};
use halloo_wire::{DecodeError, DeviceId, Fingerprint, Reader, Writer};

use crate::prekeys::bundle_hash;
use crate::ratchet::Party;
use crate::time::{DAY, UnixTime};

/// Longest validity that a sender accepts. A longer one would keep old keys in use.
pub const MAX_VALIDITY: u64 = 14 * DAY;

/// A prekey bundle that is proven to belong to an address, and valid when it was checked.
///
/// Only the functions here make one.
pub struct VerifiedBundle {
    bundle: PrekeyBundle,
    hash: [u8; 32],
    passport: Passport,
    one_time_key: Option<[u8; 32]>,
}

/// Why what a peer hands out is not the bundle of the person who was asked for.
///
/// Everything here but [`BundleError::NotYetValid`] and [`BundleError::Expired`] means that the
/// peer, or somebody before it, has changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bundle's bytes are not one.
    #[error("the prekey bundle cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The passport's bytes are not one.
    #[error(transparent)]
    Passport(#[from] PassportError),
    /// The passport, or the bundle, is another identity's.
    #[error("the keys belong to another identity than the address names")]
    WrongIdentity,
    /// The bundle is another device's.
    #[error("the prekey bundle belongs to another device")]
    WrongDevice,
    /// The passport has not signed this bundle.
    #[error("the prekey bundle's signature is wrong")]
    Signature,
    /// The one-time keys are not the ones that the passport signed.
    #[error("the one-time keys are not the ones that belong to the prekey bundle")]
    OneTimeKeys,
    /// The one-time key that is given to us is not in the list.
    #[error("the peer offers a one-time key that is not in its list")]
    NoSuchOneTimeKey,
    /// The bundle begins later than now. One of the two clocks is wrong.
    #[error("the prekey bundle is not valid yet: check this computer's clock")]
    NotYetValid,
    /// The bundle has ended: its owner has not been online for a long time.
    #[error("the prekey bundle has expired: its owner has to come online first")]
    Expired,
    /// The bundle claims to be valid for longer than [`MAX_VALIDITY`].
    #[error("the prekey bundle is valid for too long")]
    TooLong,
    /// A later bundle has been seen before.
    #[error("the prekey bundle number {found} is older than number {seen}, which was seen before")]
    RolledBack {
        /// The highest sequence number seen for this device.
        seen: u64,
        /// This one's.
        found: u64,
    },
}

impl VerifiedBundle {
    /// Checks what a look-up has brought: that the passport makes the expected fingerprint and
    /// has signed the bundle, that the one-time keys belong to it, that it is valid at `now`, not
    /// for too long, and not older than the newest that was ever seen for this device.
    ///
    /// The caller remembers [`VerifiedBundle::seq`] as the highest seen.
    ///
    /// # Errors
    /// [`BundleError`] names the first check that failed.
    pub fn verify(
        found: &Found,
        expected: &Fingerprint,
        device: DeviceId,
        now: UnixTime,
        highest_seq_seen: Option<u64>,
    ) -> Result<Self, BundleError> {
        let passport = Passport::verify(&found.passport)?;
        let mut it =
            Self::verify_parts(passport, &found.bundle, expected, device, now, highest_seq_seen)?;
        let keys = &found.one_time_keys;
        if keys.len() > MAX_ONE_TIME_KEYS
            || one_time_keys_hash(keys) != it.bundle.one_time_keys_hash
        {
            return Err(BundleError::OneTimeKeys);
        }
        it.one_time_key = match found.one_time_key {
            None => None,
            Some(i) => Some(*keys.get(usize::from(i)).ok_or(BundleError::NoSuchOneTimeKey)?),
        };
        Ok(it)
    }

    /// Like [`VerifiedBundle::verify`] for a bundle without its one-time keys.
    ///
    /// # Errors
    /// [`BundleError`] names the first check that failed.
    pub fn verify_parts(
        passport: Passport,
        bundle: &[u8],
        expected: &Fingerprint,
        device: DeviceId,
        now: UnixTime,
        highest_seq_seen: Option<u64>,
    ) -> Result<Self, BundleError> {
        let hash = bundle_hash(bundle);
        let bundle = PrekeyBundle::decode(bundle)?;
        let same_keys = bundle.passport_key == passport.public_key()
            && bundle.ml_dsa_hash == passport.ml_dsa_hash();
        if passport.fingerprint() != *expected || bundle.fingerprint != *expected || !same_keys {
            return Err(BundleError::WrongIdentity);
        }
        if bundle.device != device {
            return Err(BundleError::WrongDevice);
        }
        passport
            .verify_ed25519(SignatureRole::PrekeyBundle, &bundle.signed_bytes(), &bundle.signature)
            .map_err(|_| BundleError::Signature)?;
        if now.0 < bundle.not_before {
            return Err(BundleError::NotYetValid);
        }
        if now.0 > bundle.not_after {
            return Err(BundleError::Expired);
        }
        if bundle.not_after - bundle.not_before > MAX_VALIDITY {
            return Err(BundleError::TooLong);
        }
        match highest_seq_seen {
            Some(seen) if bundle.seq < seen => {
                Err(BundleError::RolledBack { seen, found: bundle.seq })
            }
            _ => Ok(Self { bundle, hash, passport, one_time_key: None }),
        }
    }

    /// The bytes for a cache. The one-time key is left out: it is for one session only.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(MAX_BUNDLE + MAX_PASSPORT);
        w.u8(CACHE_VERSION).bytes16(self.passport.der()).bytes16(&self.bundle.encode());
        w.into_vec()
    }

    /// Reads what [`VerifiedBundle::to_bytes`] wrote and checks all of it again, at `now`.
    ///
    /// # Errors
    /// [`BundleError`] names the first check that failed.
    pub fn from_bytes(
        bytes: &[u8],
        expected: &Fingerprint,
        device: DeviceId,
        now: UnixTime,
        highest_seq_seen: Option<u64>,
    ) -> Result<Self, BundleError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != CACHE_VERSION {
            return Err(DecodeError::UnsupportedVersion(version).into());
        }
        let passport = Passport::verify(r.bytes16(MAX_PASSPORT)?)?;
        let bundle = r.bytes16(MAX_BUNDLE)?;
        r.finish()?;
        Self::verify_parts(passport, bundle, expected, device, now, highest_seq_seen)
    }

    /// Takes the one-time key, if there is one. It is good for one session: a second session
    /// with it could not be read.
    pub fn take_one_time_key(&mut self) -> Option<[u8; 32]> {
        self.one_time_key.take()
    }

    /// The one-time key, if there is one and it has not been taken.
    pub fn one_time_key(&self) -> Option<[u8; 32]> {
        self.one_time_key
    }

    /// Counts the owner's bundles.
    pub fn seq(&self) -> u64 {
        self.bundle.seq
    }

    /// Whether it may still be used at `now`.
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        (self.bundle.not_before..=self.bundle.not_after).contains(&now.0)
    }

    /// Whose it is.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.bundle.fingerprint
    }

    /// The owner's passport.
    pub fn passport(&self) -> &Passport {
        &self.passport
    }

    /// The owner's device with its ratchet key.
    pub fn party(&self) -> Party {
        Party {
            fingerprint: self.bundle.fingerprint,
            device: self.bundle.device,
            ratchet_key: self.bundle.olm_identity,
        }
    }

    /// The key for a session when there is no one-time key.
    pub(crate) fn fallback_key(&self) -> [u8; 32] {
        self.bundle.olm_fallback
    }

    pub(crate) fn bundle(&self) -> &PrekeyBundle {
        &self.bundle
    }

    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

const CACHE_VERSION: u8 = 1;
