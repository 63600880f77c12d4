//! The key file of a locked home: the identity and the key of the store, sealed under a passphrase
//! or under a key that a keychain keeps.
//!
//! ```text
//! -----BEGIN HALLOO LOCKED HOME-----
//! base64 of: version 1 | head | nonce 24 | sealed | BLAKE3 check 32
//! -----END HALLOO LOCKED HOME-----
//!
//! head     1 | memory u32, KiB | passes u32 | lanes u32 | salt 16     a passphrase, Argon2id
//!          2                                                         32 bytes of a keychain
//! sealed   XChaCha20-Poly1305 of: data key 32 | the identity's key file
//! ```
//!
//! The associated data is a label and the head. Whoever changes the passphrase seals the same data
//! key again, so the store stays as it is. The check finds damage before a passphrase is asked for;
//! what keeps people out is the seal.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use halloo_wire::{Reader, Writer};
use zeroize::Zeroizing;

use crate::armour::{KeyFileError, Kind};
use crate::{Identity, random};

const KEY_FILE: Kind =
    Kind { label: "HALLOO LOCKED HOME", context: "halloo 2026 locked home check v1" };
const SEAL_LABEL: &[u8] = b"halloo 2026 locked home seal v1";
const KEYCHAIN_CONTEXT: &str = "halloo 2026 locked home keychain key v1";

const PASSPHRASE: u8 = 1;
const KEYCHAIN: u8 = 2;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const SALT_LEN: usize = 16;
const DATA_KEY_LEN: usize = 32;

/// What opens a locked home: a passphrase, or 32 bytes that a keychain keeps. It does not print,
/// and it is wiped when it is dropped.
#[derive(Clone)]
pub struct HomeKey(Source);

#[derive(Clone)]
enum Source {
    Passphrase(Zeroizing<String>),
    Keychain(Zeroizing<[u8; 32]>),
}

impl HomeKey {
    /// A passphrase. Its bytes are taken as they are; what it withstands is up to its owner, since
    /// whoever has the key file can try passphrases on machines of their own.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self(Source::Passphrase(Zeroizing::new(passphrase.into())))
    }

    /// A random key that the program keeps in the keychain of its platform. Nothing is stretched:
    /// a passphrase in here would be a weak key.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        Self(Source::Keychain(Zeroizing::new(key)))
    }

    /// Whether it is a passphrase without a single character, which would protect nothing.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Source::Passphrase(p) if p.is_empty())
    }
}

impl fmt::Debug for HomeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HomeKey(…)")
    }
}

/// The random key of a locked home's store. It does not print, and is wiped when it is dropped.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; DATA_KEY_LEN]>);

impl DataKey {
    /// Draws a fresh key.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self(random())
    }

    /// Wraps a key.
    pub fn from_bytes(key: [u8; DATA_KEY_LEN]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The key, for the store.
    pub fn as_bytes(&self) -> &[u8; DATA_KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// What Argon2id costs for each passphrase that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory, KiB.
    memory_kib: u32,
    /// How often the memory is gone through.
    passes: u32,
    /// Parts of the memory that could be filled at once.
    lanes: u32,
}

impl PassphraseCost {
    /// 64 MiB, three passes, four lanes: the second recommended option of RFC 9106.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// Nearly nothing, for tests and fuzzing. Anybody can try a billion passphrases against it.
    #[doc(hidden)]
    pub const NOTHING: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// Most memory that a key file may ask for: 1 GiB.
    const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    const MAX_PASSES: u32 = 16;
    const MAX_LANES: u32 = 16;

    /// Within the limits, and one that Argon2 takes.
    fn is_sound(&self) -> bool {
        self.memory_kib <= Self::MAX_MEMORY_KIB
            && (1..=Self::MAX_PASSES).contains(&self.passes)
            && (1..=Self::MAX_LANES).contains(&self.lanes)
            && self.memory_kib >= 8 * self.lanes
    }
}

/// Why a locked home does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockError {
    /// Another passphrase or key locked it. A damaged file is found before, when it is read.
    #[error("this is not the passphrase or key of the home")]
    WrongKey,
    /// What was sealed is not an identity.
    #[error("the locked key file holds no identity")]
    Content,
    /// There is not as much memory as the passphrase was locked with.
    #[error("there is not enough memory to try a passphrase: {0} KiB are needed")]
    Memory(u32),
}

/// How the key of the seal is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Passphrase { cost: PassphraseCost, salt: [u8; SALT_LEN] },
    Keychain,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(1 + 12 + SALT_LEN);
        match self {
            Self::Passphrase { cost, salt } => {
                w.u8(PASSPHRASE).u32(cost.memory_kib).u32(cost.passes).u32(cost.lanes).put(salt);
            }
            Self::Keychain => {
                w.u8(KEYCHAIN);
            }
        }
        w.into_vec()
    }

    fn associated_data(&self) -> Vec<u8> {
        [SEAL_LABEL, &self.encode()].concat()
    }

    /// The cipher of the seal.
    fn cipher(&self, key: &HomeKey) -> Result<XChaCha20Poly1305, UnlockError> {
        let mut sealing = Zeroizing::new([0; 32]);
        match (self, &key.0) {
            (Self::Passphrase { cost, salt }, Source::Passphrase(passphrase)) => {
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
                    .expect("the cost was looked at");
                let no_memory = UnlockError::Memory(cost.memory_kib);
                let mut memory = Zeroizing::new(Vec::new());
                memory.try_reserve_exact(params.block_count()).map_err(|_| no_memory)?;
                memory.resize(params.block_count(), Block::new());
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into_with_memory(
                        passphrase.as_bytes(),
                        salt,
                        &mut sealing[..],
                        &mut memory[..],
                    )
                    .expect("salt and length are those that Argon2 takes");
            }
            (Self::Keychain, Source::Keychain(bytes)) => {
                *sealing = blake3::derive_key(KEYCHAIN_CONTEXT, &bytes[..]);
            }
            _ => return Err(UnlockError::WrongKey),
        }
        Ok(XChaCha20Poly1305::new(&Key::from(*sealing)))
    }
}

/// The key file of a locked home, as it is read. Nothing in it is secret without the [`HomeKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedHome {
    head: Head,
    nonce: [u8; NONCE_LEN],
    sealed: Vec<u8>,
}

impl LockedHome {
    /// Whether a key file is a locked home's. One that is damaged may be all the same.
    pub fn is_one(text: &str) -> bool {
        text.contains(&format!("-----BEGIN {}-----", KEY_FILE.label))
    }

    /// Seals an identity and the key of its store, with a random salt and nonce. With a passphrase
    /// this takes 64 MiB and about a tenth of a second.
    ///
    /// # Errors
    /// [`UnlockError::Memory`].
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn lock(
        identity: &Identity,
        data_key: &DataKey,
        key: &HomeKey,
    ) -> Result<Self, UnlockError> {
        Self::lock_with(identity, data_key, key, PassphraseCost::RECOMMENDED, *random(), *random())
    }

    /// [`LockedHome::lock`] with everything given, for tests.
    #[doc(hidden)]
    pub fn lock_with(
        identity: &Identity,
        data_key: &DataKey,
        key: &HomeKey,
        cost: PassphraseCost,
        salt: [u8; SALT_LEN],
        nonce: [u8; NONCE_LEN],
    ) -> Result<Self, UnlockError> {
        let head = match key.0 {
            Source::Passphrase(_) => Head::Passphrase { cost, salt },
            Source::Keychain(_) => Head::Keychain,
        };
        let file = identity.to_key_file();
        let mut plain = Zeroizing::new(Vec::with_capacity(DATA_KEY_LEN + file.len()));
        plain.extend_from_slice(data_key.as_bytes());
        plain.extend_from_slice(file.as_bytes());
        let payload = Payload { msg: &plain, aad: &head.associated_data() };
        let sealed = head
            .cipher(key)?
            .encrypt(&XNonce::from(nonce), payload)
            .expect("an identity is far below the cipher's limit");
        Ok(Self { head, nonce, sealed })
    }

    /// Opens the seal. With a passphrase this takes the memory and the time of locking it.
    ///
    /// # Errors
    /// [`UnlockError::WrongKey`] when `key` is not the one that it was locked with.
    pub fn unlock(&self, key: &HomeKey) -> Result<(Identity, DataKey), UnlockError> {
        let payload = Payload { msg: &self.sealed, aad: &self.head.associated_data() };
        let plain = self.head.cipher(key)?.decrypt(&XNonce::from(self.nonce), payload);
        let plain = Zeroizing::new(plain.map_err(|_| UnlockError::WrongKey)?);
        let (data_key, file) =
            plain.split_first_chunk::<DATA_KEY_LEN>().ok_or(UnlockError::Content)?;
        let file = std::str::from_utf8(file).map_err(|_| UnlockError::Content)?;
        let identity = Identity::from_key_file(file).map_err(|_| UnlockError::Content)?;
        Ok((identity, DataKey::from_bytes(*data_key)))
    }

    /// Reads a key file that [`LockedHome::to_key_file`] wrote. What a passphrase costs has limits:
    /// 1 GiB, 16 passes, 16 lanes.
    ///
    /// # Errors
    /// [`KeyFileError`] says whether it is another kind of file, damaged, or from a later program.
    pub fn from_key_file(text: &str) -> Result<Self, KeyFileError> {
        let content = KEY_FILE.unwrap(text)?;
        let mut r = Reader::new(&content);
        let head = match r.u8()? {
            PASSPHRASE => {
                let cost =
                    PassphraseCost { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
                if !cost.is_sound() {
                    return Err(KeyFileError::Content);
                }
                Head::Passphrase { cost, salt: r.array()? }
            }
            KEYCHAIN => Head::Keychain,
            _ => return Err(KeyFileError::Content),
        };
        let nonce = r.array()?;
        let sealed = r.rest().to_vec();
        if sealed.len() < DATA_KEY_LEN + TAG_LEN {
            return Err(KeyFileError::Content);
        }
        Ok(Self { head, nonce, sealed })
    }

    /// The text of the key file.
    pub fn to_key_file(&self) -> Zeroizing<String> {
        KEY_FILE.wrap(&[&self.head.encode()[..], &self.nonce, &self.sealed].concat())
    }

    /// Whether trying a passphrase costs next to nothing: what fuzzing may try.
    pub(crate) fn is_cheap(&self) -> bool {
        match self.head {
            Head::Passphrase { cost, .. } => cost == PassphraseCost::NOTHING,
            Head::Keychain => true,
        }
    }
}
