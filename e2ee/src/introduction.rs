//! Who writes, with proof: signatures of the passport, classical and post-quantum, over the
//! device's ratchet key.

use halloo_identity::{Identity, Passport, PassportError, SignatureRole};
use halloo_wire::prekey::Introduction;
use halloo_wire::{DecodeError, DeviceId, Fingerprint};

use crate::ratchet::Party;

/// An introduction whose signatures both hold. Only [`verify_introduction`] makes one.
pub struct VerifiedIntroduction {
    passport: Passport,
    device: DeviceId,
    olm_identity: [u8; 32],
}

/// Why an introduction proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntroductionError {
    /// The bytes are not one.
    #[error("the introduction cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The passport inside is not one.
    #[error(transparent)]
    Passport(#[from] PassportError),
    /// One of the two signatures is not the passport's.
    #[error("a signature in the introduction is wrong")]
    Signature,
    /// It introduces somebody else, or another device or key, than the message comes from.
    #[error("the introduction belongs to another sender")]
    WrongSender,
}

/// Makes the introduction of this device with its ratchet key. It can be used again: it names no
/// recipient.
pub fn introduce(identity: &Identity, olm_identity: [u8; 32]) -> Introduction {
    let mut it = Introduction {
        passport: identity.passport_der().to_vec(),
        ml_dsa_key: Box::new(*identity.ml_dsa_public_key()),
        device: identity.device_id(),
        olm_identity,
        ed25519_signature: [0; 64],
        ml_dsa_signature: Box::new([0; 3309]),
    };
    let signed = it.signed_bytes();
    it.ed25519_signature = identity.sign(SignatureRole::Introduction, &signed);
    it.ml_dsa_signature = identity.sign_ml_dsa(SignatureRole::Introduction, &signed);
    it
}

/// Checks an introduction: the passport is one, the post-quantum key is the one to which its
/// fingerprint commits, and both keys have signed.
///
/// # Errors
/// [`IntroductionError`] names the first check that failed.
pub fn verify_introduction(bytes: &[u8]) -> Result<VerifiedIntroduction, IntroductionError> {
    let it = Introduction::decode(bytes)?;
    let passport = Passport::verify(&it.passport)?;
    let signed = it.signed_bytes();
    passport
        .verify_ed25519(SignatureRole::Introduction, &signed, &it.ed25519_signature)
        .map_err(|_| IntroductionError::Signature)?;
    passport
        .verify_ml_dsa(&it.ml_dsa_key, SignatureRole::Introduction, &signed, &it.ml_dsa_signature)
        .map_err(|_| IntroductionError::Signature)?;
    Ok(VerifiedIntroduction { passport, device: it.device, olm_identity: it.olm_identity })
}

impl VerifiedIntroduction {
    /// Who is introduced.
    pub fn fingerprint(&self) -> Fingerprint {
        self.passport.fingerprint()
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The device's ratchet key.
    pub fn olm_identity(&self) -> [u8; 32] {
        self.olm_identity
    }

    /// The passport.
    pub fn passport(&self) -> &Passport {
        &self.passport
    }

    /// The device with its ratchet key.
    pub fn party(&self) -> Party {
        Party {
            fingerprint: self.fingerprint(),
            device: self.device,
            ratchet_key: self.olm_identity,
        }
    }
}
