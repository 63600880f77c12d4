//! The public half of an identity: its passport, and the device that shows it.

use std::fmt;

use aws_lc_rs::signature::{ML_DSA_65, UnparsedPublicKey};
use ed25519_dalek::{Signature, VerifyingKey};
use halloo_wire::limits::MAX_PASSPORT;
use halloo_wire::prekey::{ED25519_SIG_LEN, ML_DSA_PK_LEN, ML_DSA_SIG_LEN};
use halloo_wire::{DeviceId, Fingerprint};

use crate::signature::{SignatureError, SignatureRole};
use crate::x509::{CertificateError, Parsed};

/// Longest device certificate, DER. It holds less than a passport.
pub const MAX_DEVICE_CERTIFICATE: usize = MAX_PASSPORT;

const FINGERPRINT_CONTEXT: &str = "halloo 2026 fingerprint v1";

/// The fingerprint of an identity with these two public keys; the second is given by its BLAKE3
/// hash ([`ml_dsa_hash`]).
///
/// It commits to both keys, so an address keeps its meaning when one of the two signature
/// schemes falls.
pub fn fingerprint(ed25519_pk: &[u8; 32], ml_dsa_hash: &[u8; 32]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new_derive_key(FINGERPRINT_CONTEXT);
    hasher.update(ed25519_pk).update(ml_dsa_hash);
    let mut bits = [0; 30];
    bits.copy_from_slice(&hasher.finalize().as_bytes()[..30]);
    Fingerprint::from_bytes(bits)
}

/// The hash of an ML-DSA-65 public key that stands in a passport.
pub fn ml_dsa_hash(ml_dsa_pk: &[u8; ML_DSA_PK_LEN]) -> [u8; 32] {
    *blake3::hash(ml_dsa_pk).as_bytes()
}

/// A passport whose signature has been checked. Only [`Passport::verify`] makes one.
///
/// That it is *whose* passport one expects is another question: compare its fingerprint.
#[derive(Clone, PartialEq, Eq)]
pub struct Passport {
    der: Vec<u8>,
    key: VerifyingKey,
    ml_dsa_hash: [u8; 32],
    fingerprint: Fingerprint,
}

impl Passport {
    /// Reads and checks a passport certificate. Its dates are not looked at.
    ///
    /// # Errors
    /// [`PassportError`] when it is not a self-signed Ed25519 certificate of at most
    /// [`MAX_PASSPORT`] bytes that may issue device certificates and holds the hash of an ML-DSA
    /// key.
    pub fn verify(der: &[u8]) -> Result<Self, PassportError> {
        let parsed = Parsed::new(der, MAX_PASSPORT)?;
        Self::from_parsed(der, &parsed)
    }

    fn from_parsed(der: &[u8], parsed: &Parsed<'_>) -> Result<Self, PassportError> {
        let ml_dsa_hash = parsed.ml_dsa_hash.ok_or(PassportError::NotAPassport)?;
        if !parsed.is_ca || parsed.device.is_some() {
            return Err(PassportError::NotAPassport);
        }
        parsed.verify_self_signed()?;
        let fingerprint = fingerprint(parsed.key.as_bytes(), &ml_dsa_hash);
        Ok(Self { der: der.to_vec(), key: parsed.key, ml_dsa_hash, fingerprint })
    }

    /// The identity's name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// BLAKE3 of the ML-DSA-65 public key.
    pub fn ml_dsa_hash(&self) -> [u8; 32] {
        self.ml_dsa_hash
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Checks an Ed25519 signature that the passport made in `role`.
    ///
    /// # Errors
    /// [`SignatureError::Ed25519`] when it did not.
    pub fn verify_ed25519(
        &self,
        role: SignatureRole,
        bytes: &[u8],
        signature: &[u8; ED25519_SIG_LEN],
    ) -> Result<(), SignatureError> {
        self.key
            .verify_strict(&role.message(bytes), &Signature::from_bytes(signature))
            .map_err(|_| SignatureError::Ed25519)
    }

    /// Checks an ML-DSA-65 signature that the passport made in `role`. The public key travels
    /// beside the signature and is checked against the passport first.
    ///
    /// # Errors
    /// [`SignatureError::MlDsaKey`] when the key is not the passport's, [`SignatureError::MlDsa`]
    /// when the signature is not that key's.
    pub fn verify_ml_dsa(
        &self,
        ml_dsa_pk: &[u8; ML_DSA_PK_LEN],
        role: SignatureRole,
        bytes: &[u8],
        signature: &[u8; ML_DSA_SIG_LEN],
    ) -> Result<(), SignatureError> {
        if ml_dsa_hash(ml_dsa_pk) != self.ml_dsa_hash {
            return Err(SignatureError::MlDsaKey);
        }
        UnparsedPublicKey::new(&ML_DSA_65, ml_dsa_pk)
            .verify(&role.message(bytes), signature)
            .map_err(|_| SignatureError::MlDsa)
    }
}

impl fmt::Debug for Passport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passport({}…)", self.fingerprint.short())
    }
}

/// Why bytes are not a passport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassportError {
    /// Not a sound certificate, or not signed by its own key.
    #[error("the passport is not valid: {0}")]
    Certificate(#[from] CertificateError),
    /// A certificate, but for something else.
    #[error("the certificate is not a passport")]
    NotAPassport,
}

/// A device whose certificate chain has been checked. Only [`verify_device_chain`] makes one
/// from bytes.
///
/// The chain alone proves nothing about who is at the other end: that takes a signature by the
/// device key over the handshake, which TLS brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedDevice {
    /// The identity that the device belongs to.
    pub passport: Passport,
    /// The device's number.
    pub device: DeviceId,
    /// The device's Ed25519 public key.
    pub device_key: [u8; 32],
}

/// Checks a chain as TLS presents it: the device certificate, then the passport that issued it.
///
/// Certificate dates are not looked at: identity is the key, and clocks lie.
///
/// # Errors
/// [`ChainError`] when it is not exactly such a pair.
pub fn verify_device_chain(chain: &[&[u8]]) -> Result<PresentedDevice, ChainError> {
    let &[device_der, passport_der] = chain else {
        return Err(ChainError::Length(chain.len()));
    };
    let issuer =
        Parsed::new(passport_der, MAX_PASSPORT).map_err(|e| ChainError::Passport(e.into()))?;
    let passport = Passport::from_parsed(passport_der, &issuer).map_err(ChainError::Passport)?;
    let device = Parsed::new(device_der, MAX_DEVICE_CERTIFICATE)?;
    let id = device.device.ok_or(ChainError::NotADevice)?;
    // Device ids count from 1, and the root key does not sign handshakes.
    if id == 0 || device.is_ca || device.ml_dsa_hash.is_some() || device.key == issuer.key {
        return Err(ChainError::NotADevice);
    }
    device.verify_issued_by(&issuer)?;
    Ok(PresentedDevice { passport, device: DeviceId(id), device_key: device.key.to_bytes() })
}

/// Why a certificate chain proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not as many certificates as there must be.
    #[error("{0} certificates stand in the chain")]
    Length(usize),
    /// The passport is not valid.
    #[error(transparent)]
    Passport(PassportError),
    /// The device's or rendezvous peer's certificate is not valid, or somebody else's.
    #[error("the certificate is not valid: {0}")]
    Certificate(#[from] CertificateError),
    /// The first certificate is not for a device.
    #[error("the certificate is not a device's")]
    NotADevice,
    /// The certificate is not a rendezvous peer's.
    #[error("the certificate is not a rendezvous peer's")]
    NotAPeer,
}
