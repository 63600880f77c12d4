//! The sealed envelope.
//!
//! One Noise message of the pattern `Npsk0`: the sender is anonymous, the recipient is known by
//! the X25519 key of its prekey bundle. The pre-shared key comes from a fresh encapsulation to
//! the bundle's ML-KEM-768 key, so a recording is safe unless both X25519 and ML-KEM fall.
//!
//! ```text
//! psk      = BLAKE3.derive_key("halloo 2026 envelope psk v1", shared secret | KEM ciphertext | KEM key | X25519 key)
//! prologue = header | BLAKE3(KEM ciphertext) | recipient's fingerprint | hash of the bundle
//! ```
//!
//! Nothing in the envelope says who has sealed it, and anybody can: what is inside proves its
//! sender itself ([`crate::ratchet`]).

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use halloo_wire::envelope::{
    EnvelopeRef, HEADER_LEN, Header, KEM_CT_LEN, Lane, NOISE_OVERHEAD, OVERHEAD, pad, unpad,
};
use halloo_wire::inner::Inner;
use halloo_wire::limits::MAX_PADDED;
use halloo_wire::prekey::KEM_EK_LEN;
use halloo_wire::{DecodeError, Fingerprint};
use zeroize::Zeroizing;

use crate::bundle::VerifiedBundle;
use crate::prekeys::BundleSecrets;

/// What was inside an envelope that opened.
///
/// It is whole and was sealed for this bundle. Who sealed it is not known.
pub struct OpenedInner {
    header: Header,
    padded: Zeroizing<Vec<u8>>,
    plain: std::ops::Range<usize>,
}

impl OpenedInner {
    /// The part of the mailbox that it was sealed for.
    pub fn lane(&self) -> Lane {
        self.header.lane
    }

    /// The sequence number of the bundle that it was sealed to.
    pub fn key_id(&self) -> u64 {
        self.header.key_id
    }

    /// The bytes, without padding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.padded[self.plain.clone()]
    }

    /// The message that the bytes are.
    ///
    /// # Errors
    /// [`DecodeError`] when they are not exactly one.
    pub fn decode(&self) -> Result<Inner, DecodeError> {
        Inner::decode(self.as_bytes())
    }
}

/// Why something cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Longer than the largest inner message.
    #[error("the message is longer than an envelope can hold")]
    TooLong,
    /// The bundle's owner has published a key that is not one.
    #[error("the recipient's sealing keys are not usable")]
    UnusableKeys,
}

/// Why an envelope does not open. Opening changes nothing, so a failure changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes are not an envelope of a version and suite that this program speaks.
    #[error("the envelope cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// It is sealed to a bundle whose secrets are gone, or never were here.
    #[error("the envelope is sealed to the prekey bundle number {0}, whose keys are not here")]
    UnknownKey(u64),
    /// It is sealed for somebody else or was changed on the way.
    #[error("the envelope is not for these keys or was changed")]
    NotAuthentic,
}

/// Seals the bytes of a message for a bundle's owner, in a padded size class.
///
/// Each call draws fresh keys: sealing the same bytes twice gives unlinkable envelopes.
///
/// # Errors
/// [`SealError`] when `inner` is too long or the recipient's keys are broken.
pub fn seal(bundle: &VerifiedBundle, lane: Lane, inner: &[u8]) -> Result<Vec<u8>, SealError> {
    let keys = bundle.bundle();
    let recipient = Recipient {
        x25519: &keys.sealing_x25519,
        kem: &keys.sealing_kem,
        fingerprint: &keys.fingerprint,
        bundle_hash: bundle.hash(),
    };
    seal_to(&recipient, Header { lane, key_id: keys.seq }, inner)
}

/// Opens an envelope for `me`. `secrets` finds the secrets of a bundle by its sequence number.
///
/// # Errors
/// [`OpenError`] when any bit of it is not what was sealed for `me` and that bundle.
pub fn open<'s>(
    envelope: &[u8],
    me: &Fingerprint,
    secrets: impl Fn(u64) -> Option<&'s BundleSecrets>,
) -> Result<OpenedInner, OpenError> {
    let envelope = EnvelopeRef::decode(envelope)?;
    let header = envelope.header;
    let secrets = secrets(header.key_id).ok_or(OpenError::UnknownKey(header.key_id))?;
    let sealing = secrets.sealing();

    let shared = DecapsulationKey::new(&ML_KEM_768, sealing.kem_dk())
        .expect("stored decapsulation keys have their length")
        .decapsulate(Ciphertext::from(envelope.kem_ct.as_slice()))
        .map_err(|_| OpenError::NotAuthentic)?;
    let recipient = Recipient {
        x25519: sealing.x25519_public(),
        kem: sealing.kem_ek(),
        fingerprint: me,
        bundle_hash: secrets.bundle_hash(),
    };
    let psk = recipient.psk(shared.as_ref(), envelope.kem_ct);
    let prologue = recipient.prologue(header, envelope.kem_ct);

    let mut noise = noise(&psk, &prologue)
        .and_then(|b| b.local_private_key(sealing.x25519().as_bytes()))
        .and_then(snow::Builder::build_responder)
        .expect("the Noise pattern has all of its keys");
    let mut padded = Zeroizing::new(vec![0; envelope.noise.len()]);
    let n = noise.read_message(envelope.noise, &mut padded).map_err(|_| OpenError::NotAuthentic)?;
    padded.truncate(n);
    let len = unpad(&padded)?.len();
    Ok(OpenedInner { header, padded, plain: PAD_PREFIX..PAD_PREFIX + len })
}

/// The public keys that an envelope is sealed to, and what it is bound to besides.
struct Recipient<'a> {
    x25519: &'a [u8; 32],
    kem: &'a [u8; KEM_EK_LEN],
    fingerprint: &'a Fingerprint,
    bundle_hash: &'a [u8; 32],
}

impl Recipient<'_> {
    fn psk(&self, shared: &[u8], kem_ct: &[u8; KEM_CT_LEN]) -> Zeroizing<[u8; 32]> {
        let mut h = Zeroizing::new(blake3::Hasher::new_derive_key("halloo 2026 envelope psk v1"));
        h.update(shared).update(kem_ct).update(self.kem).update(self.x25519);
        Zeroizing::new(*h.finalize().as_bytes())
    }

    fn prologue(&self, header: Header, kem_ct: &[u8; KEM_CT_LEN]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 32 + 30 + 32);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(blake3::hash(kem_ct).as_bytes());
        out.extend_from_slice(self.fingerprint.as_bytes());
        out.extend_from_slice(self.bundle_hash);
        out
    }
}

fn seal_to(to: &Recipient<'_>, header: Header, inner: &[u8]) -> Result<Vec<u8>, SealError> {
    let padded = Zeroizing::new(pad(inner).map_err(|_| SealError::TooLong)?);
    let (kem_ct, shared) = EncapsulationKey::new(&ML_KEM_768, to.kem)
        .ok()
        .and_then(|key| key.encapsulate().ok())
        .ok_or(SealError::UnusableKeys)?;
    let kem_ct: &[u8; KEM_CT_LEN] =
        kem_ct.as_ref().try_into().expect("ML-KEM-768 ciphertexts have one length");
    let psk = to.psk(shared.as_ref(), kem_ct);
    let prologue = to.prologue(header, kem_ct);

    let mut noise = noise(&psk, &prologue)
        .and_then(|b| b.remote_public_key(to.x25519))
        .and_then(snow::Builder::build_initiator)
        .expect("the Noise pattern has all of its keys");
    let mut out = Vec::with_capacity(OVERHEAD + padded.len());
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(kem_ct);
    let start = out.len();
    out.resize(start + NOISE_OVERHEAD + padded.len(), 0);
    let n = noise.write_message(&padded, &mut out[start..]).map_err(|_| SealError::UnusableKeys)?;
    out.truncate(start + n);
    Ok(out)
}

fn noise<'a>(psk: &'a [u8; 32], prologue: &'a [u8]) -> Result<snow::Builder<'a>, snow::Error> {
    snow::Builder::new(NOISE.parse()?).psk(0, psk)?.prologue(prologue)
}

const NOISE: &str = "Noise_Npsk0_25519_ChaChaPoly_BLAKE2s";
/// The length field in front of what is padded.
const PAD_PREFIX: usize = 2;
/// A Noise message has at most 65,535 bytes.
const _: () = assert!(MAX_PADDED + NOISE_OVERHEAD <= 65_535);
