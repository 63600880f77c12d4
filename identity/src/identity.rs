//! The secret half of an identity.

use std::fmt;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_65_SIGNING, PqdsaKeyPair};
use ed25519_dalek::{Signer, SigningKey};
use halloo_wire::limits::MAX_PASSPORT;
use halloo_wire::prekey::{ED25519_SIG_LEN, ML_DSA_PK_LEN, ML_DSA_SIG_LEN};
use halloo_wire::{DeviceId, Fingerprint, Reader, Writer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::armour::{KeyFileError, Kind};
use crate::passport::{
    MAX_DEVICE_CERTIFICATE, Passport, fingerprint, ml_dsa_hash, verify_device_chain,
};
use crate::random;
use crate::signature::SignatureRole;
use crate::x509::{self, Profile};

const KEY_FILE: Kind =
    Kind { label: "HALLOO IDENTITY", context: "halloo 2026 identity file check v1" };

/// What an identity's keys are made from: the whole secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seeds {
    /// Seed of the passport's Ed25519 key.
    pub passport: [u8; 32],
    /// Seed of the passport's ML-DSA-65 key (FIPS 204).
    pub ml_dsa: [u8; 32],
    /// Seed of the device's Ed25519 key.
    pub device: [u8; 32],
}

impl Seeds {
    /// Draws fresh seeds.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self { passport: *random(), ml_dsa: *random(), device: *random() }
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeds(…)")
    }
}

/// An identity with its secret keys: the passport, which signs what the person vouches for, and
/// one device, which shows itself in TLS.
pub struct Identity {
    seeds: Seeds,
    passport: SigningKey,
    device: SigningKey,
    ml_dsa: PqdsaKeyPair,
    ml_dsa_pk: Box<[u8; ML_DSA_PK_LEN]>,
    passport_der: Vec<u8>,
    device_der: Vec<u8>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Makes an identity that nobody has had before.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self::from_seeds(Seeds::generate())
    }

    /// Makes the identity of these seeds. The same seeds give the same keys and certificates.
    pub fn from_seeds(seeds: Seeds) -> Self {
        let keys = Keys::new(&seeds);
        let hash = ml_dsa_hash(&keys.ml_dsa_pk);
        let profile = Profile::Passport(&hash);
        let passport_der = x509::self_signed(&keys.passport, &profile);
        let device_der = x509::issued(
            &keys.device.verifying_key(),
            &Profile::Device(DeviceId::FIRST.0),
            &keys.passport,
            &profile,
        );
        Self::assemble(seeds, keys, passport_der, device_der)
    }

    /// Reads a key file that [`Identity::to_key_file`] wrote.
    ///
    /// # Errors
    /// [`KeyFileError`] says whether it is another kind of file, damaged, or from a later program.
    pub fn from_key_file(text: &str) -> Result<Self, KeyFileError> {
        let content = KEY_FILE.unwrap(text)?;
        let mut r = Reader::new(&content);
        let seeds = Seeds { passport: r.array()?, ml_dsa: r.array()?, device: r.array()? };
        let passport_der = r.bytes16(MAX_PASSPORT)?.to_vec();
        let device_der = r.bytes16(MAX_DEVICE_CERTIFICATE)?.to_vec();
        r.finish()?;

        let keys = Keys::new(&seeds);
        let shown = verify_device_chain(&[&device_der, &passport_der])
            .map_err(|_| KeyFileError::Content)?;
        let fits = shown.passport.public_key() == keys.passport.verifying_key().to_bytes()
            && shown.passport.ml_dsa_hash() == ml_dsa_hash(&keys.ml_dsa_pk)
            && shown.device == DeviceId::FIRST
            && shown.device_key == keys.device.verifying_key().to_bytes();
        if !fits {
            return Err(KeyFileError::Content);
        }
        Ok(Self::assemble(seeds, keys, passport_der, device_der))
    }

    fn assemble(seeds: Seeds, keys: Keys, passport_der: Vec<u8>, device_der: Vec<u8>) -> Self {
        let Keys { passport, device, ml_dsa, ml_dsa_pk } = keys;
        let fingerprint =
            fingerprint(passport.verifying_key().as_bytes(), &ml_dsa_hash(&ml_dsa_pk));
        Self { seeds, passport, device, ml_dsa, ml_dsa_pk, passport_der, device_der, fingerprint }
    }

    /// The identity's name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// This device's number.
    pub fn device_id(&self) -> DeviceId {
        DeviceId::FIRST
    }

    /// The passport certificate.
    pub fn passport_der(&self) -> &[u8] {
        &self.passport_der
    }

    /// The public half, as others see it.
    pub fn passport(&self) -> Passport {
        Passport::verify(&self.passport_der).expect("an identity holds a valid passport")
    }

    /// What the device shows in TLS: its certificate, then the passport.
    pub fn device_chain(&self) -> [Vec<u8>; 2] {
        [self.device_der.clone(), self.passport_der.clone()]
    }

    /// The device's private key as PKCS#8 DER, for TLS.
    pub fn device_key_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        x509::pkcs8(&self.device)
    }

    /// The passport's Ed25519 public key.
    pub fn passport_public_key(&self) -> [u8; 32] {
        self.passport.verifying_key().to_bytes()
    }

    /// The passport's ML-DSA-65 public key.
    pub fn ml_dsa_public_key(&self) -> &[u8; ML_DSA_PK_LEN] {
        &self.ml_dsa_pk
    }

    /// Signs with the passport's Ed25519 key, for one role.
    pub fn sign(&self, role: SignatureRole, bytes: &[u8]) -> [u8; ED25519_SIG_LEN] {
        self.passport.sign(&role.message(bytes)).to_bytes()
    }

    /// Signs with the passport's ML-DSA-65 key, for one role. Signatures of the same bytes
    /// differ: FIPS 204 mixes fresh randomness in.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn sign_ml_dsa(&self, role: SignatureRole, bytes: &[u8]) -> Box<[u8; ML_DSA_SIG_LEN]> {
        let mut signature = Box::new([0; ML_DSA_SIG_LEN]);
        let written = self.ml_dsa.sign(&role.message(bytes), &mut signature[..]);
        assert_eq!(written.ok(), Some(ML_DSA_SIG_LEN), "an ML-DSA-65 key signs any message");
        signature
    }

    /// The text of a key file with everything that makes the identity. Who can read it is the
    /// identity: write it where only its owner can.
    pub fn to_key_file(&self) -> Zeroizing<String> {
        let room = 100 + self.passport_der.len() + self.device_der.len();
        let mut w = Writer::with_capacity(room);
        w.put(&self.seeds.passport).put(&self.seeds.ml_dsa).put(&self.seeds.device);
        w.bytes16(&self.passport_der).bytes16(&self.device_der);
        KEY_FILE.wrap(&Zeroizing::new(w.into_vec()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}…)", self.fingerprint.short())
    }
}

struct Keys {
    passport: SigningKey,
    device: SigningKey,
    ml_dsa: PqdsaKeyPair,
    ml_dsa_pk: Box<[u8; ML_DSA_PK_LEN]>,
}

impl Keys {
    fn new(seeds: &Seeds) -> Self {
        let ml_dsa = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &seeds.ml_dsa)
            .expect("any 32 bytes are a seed (FIPS 204)");
        let mut ml_dsa_pk = Box::new([0; ML_DSA_PK_LEN]);
        ml_dsa_pk.copy_from_slice(ml_dsa.public_key().as_ref());
        Self {
            passport: SigningKey::from_bytes(&seeds.passport),
            device: SigningKey::from_bytes(&seeds.device),
            ml_dsa,
            ml_dsa_pk,
        }
    }
}
