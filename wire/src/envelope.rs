//! The sealed envelope: what a rendezvous peer keeps for somebody who is away.
//!
//! ```text
//! version 1 | suite 1 | lane 1 | key id 8 | KEM ciphertext 1088 | Noise message (48 + padded)
//! ```
//!
//! The first eleven bytes are the header and are authenticated by the Noise prologue. The length
//! of the padded plaintext is one of the size classes, so an envelope's size says little about
//! what is inside.

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{CLASS_LARGE, CLASS_MEDIUM, CLASS_SMALL, MAX_ENVELOPE, MAX_INNER, MAX_PADDED};

/// Version of the envelope.
pub const VERSION: u8 = 1;
/// The only suite: `Noise_Npsk0_25519_ChaChaPoly_BLAKE2s` with a PSK from ML-KEM-768.
pub const SUITE: u8 = 1;
/// Length of the header.
pub const HEADER_LEN: usize = 11;
/// Length of an ML-KEM-768 ciphertext (FIPS 203).
pub const KEM_CT_LEN: usize = 1088;
/// What Noise adds: an X25519 key and a tag.
pub const NOISE_OVERHEAD: usize = 48;
/// Everything in an envelope besides the padded plaintext.
pub const OVERHEAD: usize = HEADER_LEN + KEM_CT_LEN + NOISE_OVERHEAD;
/// The length field in front of the padded plaintext.
const PAD_PREFIX: usize = 2;

/// The two parts of a mailbox. Strangers share a small one, so that they cannot fill it for
/// those whom the recipient knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// For holders of a reach capability.
    Contacts,
    /// For contact requests.
    Strangers,
}

impl Lane {
    /// The lane's byte in the envelope header.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Contacts => 1,
            Self::Strangers => 2,
        }
    }

    fn from_byte(b: u8) -> Result<Self, DecodeError> {
        match b {
            1 => Ok(Self::Contacts),
            2 => Ok(Self::Strangers),
            _ => Err(DecodeError::Invalid("mailbox lane")),
        }
    }
}

/// What an envelope says in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The part of the mailbox that it is for.
    pub lane: Lane,
    /// The sequence number of the prekey bundle to whose keys it is sealed.
    pub key_id: u64,
}

impl Header {
    /// The header's bytes, which the seal authenticates.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = VERSION;
        out[1] = SUITE;
        out[2] = self.lane.to_byte();
        out[3..].copy_from_slice(&self.key_id.to_be_bytes());
        out
    }
}

/// An envelope taken apart, not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeRef<'a> {
    /// The clear header.
    pub header: Header,
    /// The KEM ciphertext.
    pub kem_ct: &'a [u8; KEM_CT_LEN],
    /// The Noise message.
    pub noise: &'a [u8],
}

impl<'a> EnvelopeRef<'a> {
    /// Takes an envelope apart. A peer calls this to refuse what cannot be an envelope.
    ///
    /// # Errors
    /// [`DecodeError`] when a version, suite, lane or size is not one that this version knows.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let suite = r.u8()?;
        if suite != SUITE {
            return Err(DecodeError::Invalid("envelope suite"));
        }
        let lane = Lane::from_byte(r.u8()?)?;
        let key_id = r.u64()?;
        let kem_ct = r.take(KEM_CT_LEN)?.try_into().expect("took exactly this length");
        let noise = r.rest();
        let padded = noise.len().checked_sub(NOISE_OVERHEAD).ok_or(DecodeError::Truncated)?;
        if !is_padded_len(padded) {
            return Err(DecodeError::Invalid("envelope size"));
        }
        Ok(Self { header: Header { lane, key_id }, kem_ct, noise })
    }
}

/// Pads a plaintext to its size class: a 16-bit length, the bytes, zeros.
///
/// # Errors
/// [`DecodeError::TooLong`] beyond [`MAX_INNER`].
pub fn pad(plain: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if plain.len() > MAX_INNER {
        return Err(DecodeError::TooLong);
    }
    let mut w = Writer::with_capacity(padded_len(plain.len() + PAD_PREFIX));
    w.bytes16(plain);
    let mut out = w.into_vec();
    out.resize(padded_len(out.len()), 0);
    Ok(out)
}

/// Takes the padding away.
///
/// # Errors
/// [`DecodeError`] when the length is not a size class, the class is larger than it needs to be,
/// or the padding is not zeros: there is one valid padding for each plaintext.
pub fn unpad(padded: &[u8]) -> Result<&[u8], DecodeError> {
    let mut r = Reader::new(padded);
    let plain = r.bytes16(MAX_INNER)?;
    if padded_len(plain.len() + PAD_PREFIX) != padded.len() || r.rest().iter().any(|&b| b != 0) {
        return Err(DecodeError::Invalid("padding"));
    }
    Ok(plain)
}

/// The size class of `len` bytes: 1, 4 or 16 KiB, then PADME (Nikitin et al., PETS 2019), which
/// keeps the overhead below 12 %.
pub fn padded_len(len: usize) -> usize {
    match len {
        n if n <= CLASS_SMALL => CLASS_SMALL,
        n if n <= CLASS_MEDIUM => CLASS_MEDIUM,
        n if n <= CLASS_LARGE => CLASS_LARGE,
        n => padme(n).min(MAX_PADDED),
    }
}

fn is_padded_len(len: usize) -> bool {
    len <= MAX_PADDED && padded_len(len) == len
}

fn padme(len: usize) -> usize {
    let exponent = len.ilog2();
    let mantissa_bits = exponent.ilog2() + 1;
    let mask = (1usize << (exponent - mantissa_bits)) - 1;
    (len + mask) & !mask
}
