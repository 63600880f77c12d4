//! Published keys with which a stranger can write first, and the introduction that proves who
//! wrote.
//!
//! Only the encodings are here; signatures are made and checked in the end-to-end crate.

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::{DeviceId, Fingerprint};
use crate::limits::{MAX_BUNDLE, MAX_ONE_TIME_KEYS, MAX_PASSPORT};

const VERSION: u8 = 1;
/// The only suite: Olm version 2, X25519 and ML-KEM-768.
pub const SUITE: u8 = 1;
/// Length of an ML-KEM-768 encapsulation key (FIPS 203).
pub const KEM_EK_LEN: usize = 1184;
/// Length of an Ed25519 signature.
pub const ED25519_SIG_LEN: usize = 64;
/// Length of an ML-DSA-65 public key (FIPS 204).
pub const ML_DSA_PK_LEN: usize = 1952;
/// Length of an ML-DSA-65 signature (FIPS 204).
pub const ML_DSA_SIG_LEN: usize = 3309;

/// A prekey bundle with its signature, 1,500 bytes.
///
/// ```text
/// version 1 | suite 1 | fingerprint 30 | device 4 | passport key 32 | BLAKE3(ML-DSA key) 32
/// | seq 8 | not before 8 | not after 8 | sealing X25519 32 | sealing ML-KEM 1184
/// | Olm identity 32 | Olm fallback 32 | BLAKE3(one-time keys) 32 | Ed25519 signature 64
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrekeyBundle {
    /// Whose keys these are.
    pub fingerprint: Fingerprint,
    /// Which device's.
    pub device: DeviceId,
    /// The passport's Ed25519 key, which signs the bundle.
    pub passport_key: [u8; 32],
    /// BLAKE3 of the passport's ML-DSA-65 key. With the key above it makes the fingerprint.
    pub ml_dsa_hash: [u8; 32],
    /// Counts the owner's bundles; also the key id in envelopes sealed to it.
    pub seq: u64,
    /// First second of validity, Unix time.
    pub not_before: u64,
    /// Last second of validity, Unix time.
    pub not_after: u64,
    /// X25519 key to seal to.
    pub sealing_x25519: [u8; 32],
    /// ML-KEM-768 key to seal to.
    pub sealing_kem: Box<[u8; KEM_EK_LEN]>,
    /// Olm identity key.
    pub olm_identity: [u8; 32],
    /// Olm fallback key, for when the one-time keys are used up.
    pub olm_fallback: [u8; 32],
    /// Hash of the one-time keys published with the bundle ([`one_time_keys_hash`]).
    pub one_time_keys_hash: [u8; 32],
    /// The passport's signature over everything above.
    pub signature: [u8; ED25519_SIG_LEN],
}

impl PrekeyBundle {
    /// What the signature covers: the encoding without the signature.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(1500);
        w.u8(VERSION).u8(SUITE).put(self.fingerprint.as_bytes()).u32(self.device.0);
        w.put(&self.passport_key).put(&self.ml_dsa_hash);
        w.u64(self.seq).u64(self.not_before).u64(self.not_after);
        w.put(&self.sealing_x25519).put(&*self.sealing_kem);
        w.put(&self.olm_identity).put(&self.olm_fallback).put(&self.one_time_keys_hash);
        w.into_vec()
    }

    /// The bundle's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads a bundle. The signature is not checked.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one bundle of this version and suite.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        if r.u8()? != SUITE {
            return Err(DecodeError::Invalid("prekey suite"));
        }
        let it = Self {
            fingerprint: Fingerprint::from_bytes(r.array()?),
            device: DeviceId(r.u32()?),
            passport_key: r.array()?,
            ml_dsa_hash: r.array()?,
            seq: r.u64()?,
            not_before: r.u64()?,
            not_after: r.u64()?,
            sealing_x25519: r.array()?,
            sealing_kem: Box::new(r.array()?),
            olm_identity: r.array()?,
            olm_fallback: r.array()?,
            one_time_keys_hash: r.array()?,
            signature: r.array()?,
        };
        r.finish()?;
        if it.not_before >= it.not_after {
            return Err(DecodeError::Invalid("prekey validity"));
        }
        Ok(it)
    }
}

/// The hash of a list of one-time keys, in the order in which they are published.
///
/// The signed bundle holds it, and a look-up brings the whole list, so a peer cannot slip in a
/// key of its own.
pub fn one_time_keys_hash(keys: &[[u8; 32]]) -> [u8; 32] {
    debug_assert!(keys.len() <= MAX_ONE_TIME_KEYS);
    let mut h = blake3::Hasher::new_derive_key("halloo 2026 one-time keys v1");
    h.update(&(keys.len() as u64).to_be_bytes());
    keys.iter().for_each(|k| {
        h.update(k);
    });
    *h.finalize().as_bytes()
}

/// Who writes, with proof: it travels in the first message of a session, sealed.
///
/// ```text
/// version 1 | passport certificate (16-bit length) | ML-DSA-65 key 1952 | device 4
/// | Olm identity 32 | Ed25519 signature 64 | ML-DSA-65 signature 3309
/// ```
///
/// Both signatures are the passport's, over [`Introduction::signed_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The sender's passport, DER.
    pub passport: Vec<u8>,
    /// The sender's ML-DSA-65 key, to which the fingerprint commits.
    pub ml_dsa_key: Box<[u8; ML_DSA_PK_LEN]>,
    /// The sender's device.
    pub device: DeviceId,
    /// The device's Olm identity key, which the signatures tie to the passport.
    pub olm_identity: [u8; 32],
    /// Signature by the Ed25519 key.
    pub ed25519_signature: [u8; ED25519_SIG_LEN],
    /// Signature by the ML-DSA-65 key.
    pub ml_dsa_signature: Box<[u8; ML_DSA_SIG_LEN]>,
}

impl Introduction {
    /// What both signatures cover: everything before them.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(ML_DSA_PK_LEN + MAX_PASSPORT + 64);
        w.u8(VERSION).bytes16(&self.passport).put(&*self.ml_dsa_key);
        w.u32(self.device.0).put(&self.olm_identity);
        w.into_vec()
    }

    /// The introduction's bytes, about 5.6 kB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&self.ed25519_signature);
        out.extend_from_slice(&*self.ml_dsa_signature);
        out
    }

    /// Reads an introduction. The signatures are not checked.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one introduction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let it = Self {
            passport: r.bytes16(MAX_PASSPORT)?.to_vec(),
            ml_dsa_key: Box::new(r.array()?),
            device: DeviceId(r.u32()?),
            olm_identity: r.array()?,
            ed25519_signature: r.array()?,
            ml_dsa_signature: Box::new(r.array()?),
        };
        r.finish()?;
        Ok(it)
    }
}
