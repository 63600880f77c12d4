//! The key of a rendezvous peer: nodes pin it, and an address can carry it.

use std::fmt;

use ed25519_dalek::SigningKey;
use halloo_wire::limits::MAX_PASSPORT;
use halloo_wire::{PeerFingerprint, Reader};
use zeroize::Zeroizing;

use crate::armour::{KeyFileError, Kind};
use crate::invite_key::InviteKey;
use crate::passport::ChainError;
use crate::random;
use crate::x509::{self, Parsed, Profile};

/// Longest certificate of a rendezvous peer, DER.
pub const MAX_PEER_CERTIFICATE: usize = MAX_PASSPORT;

const FINGERPRINT_CONTEXT: &str = "halloo 2026 peer fingerprint v1";
const KEY_FILE: Kind =
    Kind { label: "HALLOO PEER KEY", context: "halloo 2026 peer key file check v1" };

/// A rendezvous peer's own Ed25519 key with the certificate that it shows in TLS.
pub struct PeerKey {
    key: SigningKey,
    cert_der: Vec<u8>,
}

impl PeerKey {
    /// Makes a key that nobody has had before.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self::from_seed(&random())
    }

    /// Makes the key of this seed. The same seed gives the same key and certificate.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let cert_der = x509::self_signed(&key, &Profile::Peer);
        Self { key, cert_der }
    }

    /// Reads a key file that [`PeerKey::to_key_file`] wrote.
    ///
    /// # Errors
    /// [`KeyFileError`] says whether it is another kind of file, damaged, or from a later program.
    pub fn from_key_file(text: &str) -> Result<Self, KeyFileError> {
        let content = KEY_FILE.unwrap(text)?;
        let mut r = Reader::new(&content);
        let seed = Zeroizing::new(r.array()?);
        r.finish()?;
        Ok(Self::from_seed(&seed))
    }

    /// The self-signed certificate.
    pub fn cert_der(&self) -> &[u8] {
        &self.cert_der
    }

    /// The private key as PKCS#8 DER, for TLS.
    pub fn key_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        x509::pkcs8(&self.key)
    }

    /// The name under which nodes pin the key.
    pub fn fingerprint(&self) -> PeerFingerprint {
        peer_fingerprint(self.key.verifying_key().as_bytes())
    }

    /// What the peer makes its invites with.
    pub fn invite_key(&self) -> InviteKey {
        InviteKey::derive(self.key.as_bytes())
    }

    /// The text of a key file. Who can read it can stand in for the peer.
    pub fn to_key_file(&self) -> Zeroizing<String> {
        KEY_FILE.wrap(self.key.as_bytes())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({}…)", self.fingerprint().short())
    }
}

/// The fingerprint of a rendezvous peer with this Ed25519 public key.
pub fn peer_fingerprint(ed25519_pk: &[u8; 32]) -> PeerFingerprint {
    let hash = blake3::derive_key(FINGERPRINT_CONTEXT, ed25519_pk);
    let mut bits = [0; 30];
    bits.copy_from_slice(&hash[..30]);
    PeerFingerprint::from_bytes(bits)
}

/// Checks the certificate that a rendezvous peer shows and names its key. Its dates are not
/// looked at.
///
/// # Errors
/// [`ChainError`] when it is not a self-signed Ed25519 certificate, or one for a person's
/// passport or device.
pub fn peer_fingerprint_of_cert(der: &[u8]) -> Result<PeerFingerprint, ChainError> {
    let parsed = Parsed::new(der, MAX_PEER_CERTIFICATE)?;
    if parsed.is_ca || parsed.device.is_some() || parsed.ml_dsa_hash.is_some() {
        return Err(ChainError::NotAPeer);
    }
    parsed.verify_self_signed()?;
    Ok(peer_fingerprint(parsed.key.as_bytes()))
}
