//! Statements that carry an identity on: to another passport, or to other rendezvous peers.
//!
//! A [`Continuity`] names the heir of an identity, so it must hold even when one of the two
//! signature schemes has fallen: old and new passport sign it with both keys. A [`Move`] changes
//! only where somebody is found; who answers there must still have the passport. It is signed with
//! Ed25519 alone and stays small enough to be published.

use halloo_wire::limits::MAX_PASSPORT;
use halloo_wire::prekey::{ED25519_SIG_LEN, ML_DSA_PK_LEN, ML_DSA_SIG_LEN};
use halloo_wire::{DecodeError, Fingerprint, Reader, Writer};

use crate::address::PeerAddress;
use crate::identity::Identity;
use crate::passport::{Passport, PassportError};
use crate::peers;
use crate::signature::{SignatureError, SignatureRole};

/// Longest encoded [`Continuity`]: two passports, keys and pairs of signatures.
pub const MAX_CONTINUITY: usize = 13 * 1024;
/// Longest encoded [`Move`]: a passport and three peers with the longest host names.
pub const MAX_MOVE: usize = 2 * 1024;

const VERSION: u8 = 1;

/// "My passport is another one." Claimed until [`Continuity::verify`] has looked.
///
/// ```text
/// version 1 | counter 8 | at 8 | old signer | new signer | old signatures | new signatures
/// signer      passport (16-bit length) | ML-DSA-65 key 1952
/// signatures  Ed25519 64 | ML-DSA-65 3309
/// ```
///
/// All four signatures are over everything before the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuity {
    /// Counts the owner's rotations, over all passports.
    pub counter: u64,
    /// When the owner says that it happened: Unix time in seconds, for display.
    pub at: u64,
    /// The passport that ends.
    pub old: Signer,
    /// The passport that begins.
    pub new: Signer,
    /// The old passport's signatures.
    pub old_signatures: Signatures,
    /// The new passport's signatures: they show that the heir agrees.
    pub new_signatures: Signatures,
}

/// A passport with the ML-DSA key to which it commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The passport, DER.
    pub passport: Vec<u8>,
    /// The ML-DSA-65 public key.
    pub ml_dsa_key: Box<[u8; ML_DSA_PK_LEN]>,
}

/// Signatures by both keys of a passport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// By the Ed25519 key.
    pub ed25519: [u8; ED25519_SIG_LEN],
    /// By the ML-DSA-65 key.
    pub ml_dsa: Box<[u8; ML_DSA_SIG_LEN]>,
}

impl Continuity {
    /// Makes the statement that `new` follows `old`. `at` is Unix time in seconds.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn sign(old: &Identity, new: &Identity, counter: u64, at: u64) -> Self {
        let mut message = Writer::with_capacity(6 * 1024);
        let (old_signer, new_signer) = (Signer::of(old), Signer::of(new));
        write_statement(&mut message, counter, at, &old_signer, &new_signer);
        let message = message.into_vec();
        Self {
            counter,
            at,
            old: old_signer,
            new: new_signer,
            old_signatures: Signatures::make(old, &message),
            new_signatures: Signatures::make(new, &message),
        }
    }

    /// The statement's bytes, about 11.5 kB.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(MAX_CONTINUITY);
        write_statement(&mut w, self.counter, self.at, &self.old, &self.new);
        for signatures in [&self.old_signatures, &self.new_signatures] {
            w.put(&signatures.ed25519).put(&signatures.ml_dsa[..]);
        }
        w.into_vec()
    }

    /// Reads a statement. The signatures are not checked.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CONTINUITY {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        check_version(&mut r)?;
        let it = Self {
            counter: r.u64()?,
            at: r.u64()?,
            old: Signer::read(&mut r)?,
            new: Signer::read(&mut r)?,
            old_signatures: Signatures::read(&mut r)?,
            new_signatures: Signatures::read(&mut r)?,
        };
        r.finish()?;
        Ok(it)
    }

    /// Checks both passports and all four signatures.
    ///
    /// # Errors
    /// [`ContinuityError`] names what does not hold.
    pub fn verify(&self) -> Result<VerifiedContinuity, ContinuityError> {
        let old = Passport::verify(&self.old.passport)?;
        let new = Passport::verify(&self.new.passport)?;
        if old.fingerprint() == new.fingerprint() {
            return Err(ContinuityError::SameIdentity);
        }
        let mut w = Writer::with_capacity(6 * 1024);
        write_statement(&mut w, self.counter, self.at, &self.old, &self.new);
        let message = w.into_vec();
        self.old_signatures.verify(&old, &self.old.ml_dsa_key, &message)?;
        self.new_signatures.verify(&new, &self.new.ml_dsa_key, &message)?;
        Ok(VerifiedContinuity { old, new, counter: self.counter, at: self.at })
    }
}

/// A rotation whose signatures hold. Only [`Continuity::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedContinuity {
    old: Passport,
    new: Passport,
    counter: u64,
    at: u64,
}

impl VerifiedContinuity {
    /// The passport that ends.
    pub fn old(&self) -> &Passport {
        &self.old
    }

    /// The passport that begins.
    pub fn new_passport(&self) -> &Passport {
        &self.new
    }

    /// Counts the owner's rotations.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// When the owner says that it happened: Unix time in seconds.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The passport to follow, for somebody who knows the contact as `current` and has seen
    /// rotations up to `last_counter`; 0 stands for none.
    ///
    /// # Errors
    /// [`ContinuityError::OtherIdentity`] when it is not about `current`,
    /// [`ContinuityError::StaleCounter`] when it is a replay.
    pub fn follow(
        &self,
        current: &Fingerprint,
        last_counter: u64,
    ) -> Result<&Passport, ContinuityError> {
        if self.old.fingerprint() != *current {
            return Err(ContinuityError::OtherIdentity);
        }
        if self.counter <= last_counter {
            return Err(ContinuityError::StaleCounter);
        }
        Ok(&self.new)
    }
}

/// "I am found at these peers." Claimed until [`Move::verify`] has looked.
///
/// ```text
/// version 1 | counter 8 | at 8 | passport (16-bit length) | peers | Ed25519 signature 64
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Counts the owner's moves.
    pub counter: u64,
    /// When the owner says that it happened: Unix time in seconds, for display.
    pub at: u64,
    /// The owner's passport, DER.
    pub passport: Vec<u8>,
    /// The owner's rendezvous peers in order of preference, 1 to 3.
    pub peers: Vec<PeerAddress>,
    /// The passport's signature over everything above.
    pub signature: [u8; ED25519_SIG_LEN],
}

impl Move {
    /// Makes the statement. `at` is Unix time in seconds.
    ///
    /// # Errors
    /// [`ContinuityError::Peers`] when the list is empty or too long.
    pub fn sign(
        identity: &Identity,
        peers: Vec<PeerAddress>,
        counter: u64,
        at: u64,
    ) -> Result<Self, ContinuityError> {
        if !peers::is_valid(&peers) {
            return Err(ContinuityError::Peers);
        }
        let passport = identity.passport_der().to_vec();
        let mut it = Self { counter, at, passport, peers, signature: [0; _] };
        it.signature = identity.sign(SignatureRole::Move, &it.signed_bytes());
        Ok(it)
    }

    /// The statement's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads a statement. The signature is not checked.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MOVE {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        check_version(&mut r)?;
        let it = Self {
            counter: r.u64()?,
            at: r.u64()?,
            passport: r.bytes16(MAX_PASSPORT)?.to_vec(),
            peers: peers::read(&mut r)?,
            signature: r.array()?,
        };
        r.finish()?;
        Ok(it)
    }

    /// Checks the passport and its signature.
    ///
    /// # Errors
    /// [`ContinuityError`] names what does not hold.
    pub fn verify(&self) -> Result<VerifiedMove, ContinuityError> {
        let passport = Passport::verify(&self.passport)?;
        passport.verify_ed25519(SignatureRole::Move, &self.signed_bytes(), &self.signature)?;
        Ok(VerifiedMove { passport, peers: self.peers.clone(), counter: self.counter, at: self.at })
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(512);
        w.u8(VERSION).u64(self.counter).u64(self.at).bytes16(&self.passport);
        peers::write(&mut w, &self.peers);
        w.into_vec()
    }
}

/// A move whose signature holds. Only [`Move::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedMove {
    passport: Passport,
    peers: Vec<PeerAddress>,
    counter: u64,
    at: u64,
}

impl VerifiedMove {
    /// Who moves.
    pub fn fingerprint(&self) -> Fingerprint {
        self.passport.fingerprint()
    }

    /// Counts the owner's moves.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// When the owner says that it happened: Unix time in seconds.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The peers to use, for somebody who knows the contact as `current` and has seen moves up to
    /// `last_counter`; 0 stands for none.
    ///
    /// # Errors
    /// [`ContinuityError::OtherIdentity`] when it is not about `current`,
    /// [`ContinuityError::StaleCounter`] when it is a replay.
    pub fn follow(
        &self,
        current: &Fingerprint,
        last_counter: u64,
    ) -> Result<&[PeerAddress], ContinuityError> {
        if self.fingerprint() != *current {
            return Err(ContinuityError::OtherIdentity);
        }
        if self.counter <= last_counter {
            return Err(ContinuityError::StaleCounter);
        }
        Ok(&self.peers)
    }
}

/// Why a statement cannot be made or followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContinuityError {
    /// None, or too many.
    #[error("a move lists one to three rendezvous peers")]
    Peers,
    /// A passport is not valid.
    #[error(transparent)]
    Passport(#[from] PassportError),
    /// The old and the new passport are the same.
    #[error("the rotation leads to the same identity")]
    SameIdentity,
    /// The statement was changed, or not signed by whom it names.
    #[error("the statement's signature does not hold: {0}")]
    Signature(#[from] SignatureError),
    /// It is about somebody else.
    #[error("the statement is about another identity")]
    OtherIdentity,
    /// It is not newer than what is known.
    #[error("the statement is older than what is known")]
    StaleCounter,
}

impl Signer {
    fn of(identity: &Identity) -> Self {
        Self {
            passport: identity.passport_der().to_vec(),
            ml_dsa_key: Box::new(*identity.ml_dsa_public_key()),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let passport = r.bytes16(MAX_PASSPORT)?.to_vec();
        Ok(Self { passport, ml_dsa_key: Box::new(r.array()?) })
    }
}

impl Signatures {
    fn make(identity: &Identity, message: &[u8]) -> Self {
        Self {
            ed25519: identity.sign(SignatureRole::Continuity, message),
            ml_dsa: identity.sign_ml_dsa(SignatureRole::Continuity, message),
        }
    }

    fn verify(
        &self,
        passport: &Passport,
        ml_dsa_key: &[u8; ML_DSA_PK_LEN],
        message: &[u8],
    ) -> Result<(), SignatureError> {
        let role = SignatureRole::Continuity;
        passport.verify_ed25519(role, message, &self.ed25519)?;
        passport.verify_ml_dsa(ml_dsa_key, role, message, &self.ml_dsa)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { ed25519: r.array()?, ml_dsa: Box::new(r.array()?) })
    }
}

fn write_statement(w: &mut Writer, counter: u64, at: u64, old: &Signer, new: &Signer) {
    w.u8(VERSION).u64(counter).u64(at);
    for signer in [old, new] {
        w.bytes16(&signer.passport).put(&signer.ml_dsa_key[..]);
    }
}

fn check_version(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    let version = r.u8()?;
    if version == VERSION { Ok(()) } else { Err(DecodeError::UnsupportedVersion(version)) }
}
