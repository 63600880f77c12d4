//! The safety code: six digits that two people compare, and that a man in the middle cannot make
//! equal.
//!
//! A code that is a hash of both public keys is broken: somebody in the middle makes keys until
//! two of them give both people the same six digits, which takes a thousand keys and milliseconds.
//! So the code comes from fresh keys, and one side commits to its key before it sees the other's:
//!
//! ```text
//! 1  A -> B  Start{exchange}            S = H("start", exchange | fingerprint A | fingerprint B)
//! 2  B -> A  Commit = H("commit", S | pB)           pB: fresh X25519 key
//! 3  A -> B  RevealInitiator pA                     pA: fresh X25519 key
//! 4  B -> A  RevealResponder pB                     A stops unless it fits the commitment
//!            T    = H("transcript", S | Commit | pA | pB)
//!            code = HKDF-SHA256(X25519(pA, pB), "halloo 2026 safety code v1" | T), mod 10^6
//! 5  both    Confirm = keyed hash of the sender's role and both fingerprints, once the person has typed the code
//! ```
//!
//! Who sits in the middle must fix both of its keys before it can know either code, so each run is
//! one guess in a million. The messages are ordinary end-to-end messages: the exchange works live
//! and through mailboxes.
//!
//! # Runs count
//!
//! A man in the middle knows both codes when it holds both reveals, and can let a run die that did
//! not go its way. So a run that ends in any way but [`Verified`] after our key was revealed
//! counts as failed, be it cancelled, forgotten or broken off ([`SafetyState::has_revealed`]), and
//! [`Attempts`] locks the exchange after three.
//!
//! # Storing
//!
//! Each state is taken by the step that ends it, and misuse does not compile. A state lives longer
//! than a program, so it has [bytes](SafetyState::to_bytes): store the next state *before* sending
//! the message that came with it, and never go back to an earlier one. Else a restart would reveal
//! one key to two others.
//!
//! # Examples
//! ```
//! use halloo_identity::safety::{Initiator, Responder, TypedCode};
//! use halloo_wire::content::SafetyStep;
//! # use halloo_identity::Fingerprint;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! # let exchange = [7; 16];
//! let (a, _start) = Initiator::start(exchange, alice, bob);
//! let (b, commit) = Responder::on_start(exchange, bob, alice);
//! let SafetyStep::Commit(commit) = commit.step else { unreachable!() };
//! let (a, reveal) = a.on_commit(commit);
//! let SafetyStep::RevealInitiator(key) = reveal.step else { unreachable!() };
//! let (b, reveal) = b.on_reveal(key)?;
//! let SafetyStep::RevealResponder(key) = reveal.step else { unreachable!() };
//! let a = a.on_reveal(key)?;
//!
//! // Both screens show the same digits; each person types what the other one reads out.
//! let typed_by_bob = TypedCode::parse(&a.code().to_string())?;
//! let typed_by_alice = TypedCode::parse(&b.code().to_string())?;
//! let (a, confirm_a) = a.confirm(&typed_by_alice)?;
//! let (b, confirm_b) = b.confirm(&typed_by_bob)?;
//!
//! let (SafetyStep::Confirm(mac_a), SafetyStep::Confirm(mac_b)) = (confirm_a.step, confirm_b.step)
//! else { unreachable!() };
//! assert_eq!(a.on_confirm(mac_b)?.them(), bob);
//! assert_eq!(b.on_confirm(mac_a)?.them(), alice);
//! # Ok(()) }
//! ```
//!
//! There is no code before the reveal:
//! ```compile_fail,E0599
//! # use halloo_identity::{Fingerprint, safety::Initiator};
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! let (a, _) = Initiator::start([7; 16], alice, bob);
//! a.code(); // no method `code` on `AwaitCommit`
//! ```
//! ```compile_fail,E0599
//! # use halloo_identity::{Fingerprint, safety::Initiator};
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! let (a, _) = Initiator::start([7; 16], alice, bob);
//! let (a, _) = a.on_commit([0; 32]);
//! a.code(); // no method `code` on `AwaitReveal`
//! ```
//! The initiator cannot reveal its key before it has a commitment:
//! ```compile_fail,E0599
//! # use halloo_identity::{Fingerprint, safety::Initiator};
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! let (a, _) = Initiator::start([7; 16], alice, bob);
//! a.on_reveal([0; 32]); // no method `on_reveal` on `AwaitCommit`
//! ```
//! One commitment is answered once, so one run is one guess:
//! ```compile_fail,E0382
//! # use halloo_identity::{Fingerprint, safety::Initiator};
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! let (a, _) = Initiator::start([7; 16], alice, bob);
//! let first = a.on_commit([0; 32]);
//! let second = a.on_commit([1; 32]); // `a` was moved
//! ```
//! A wrong code ends the run:
//! ```compile_fail,E0382
//! # use halloo_identity::safety::{Compare, TypedCode};
//! fn guess(compare: Compare, first: &TypedCode, second: &TypedCode) {
//!     let _ = compare.confirm(first);
//!     let _ = compare.confirm(second); // `compare` was moved
//! }
//! ```
//! Nobody is verified without typing, and a `Verified` cannot be made by hand:
//! ```compile_fail,E0599
//! # use halloo_identity::safety::Compare;
//! fn skip(compare: Compare) {
//!     compare.finish(); // no method `finish` on `Compare`
//! }
//! ```
//! ```compile_fail,E0451
//! # use halloo_identity::{Fingerprint, safety::Verified};
//! # let (alice, bob) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
//! let forged = Verified { exchange: [7; 16], me: alice, them: bob };
//! ```

mod attempts;
mod code;
mod store;

use halloo_wire::Fingerprint;
use halloo_wire::content::{Safety, SafetyStep};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

pub use attempts::{Attempts, LOCK_SECONDS, Locked, MAX_FAILURES};
pub use code::{SafetyCode, TypedCode, TypedCodeError};
pub use store::SafetyState;

const START_CONTEXT: &str = "halloo 2026 safety start v1";
const COMMIT_CONTEXT: &str = "halloo 2026 safety commit v1";
const TRANSCRIPT_CONTEXT: &str = "halloo 2026 safety transcript v1";
const CODE_INFO: &[u8] = b"halloo 2026 safety code v1";
const MAC_INFO: &[u8] = b"halloo 2026 safety mac v1";

/// Who asks to compare.
#[derive(Debug, Clone, Copy)]
pub struct Initiator;

impl Initiator {
    /// Begins an exchange, named by 16 random bytes. The message goes to `them`.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn start(exchange: [u8; 16], me: Fingerprint, them: Fingerprint) -> (AwaitCommit, Safety) {
        Self::start_with_secret(crate::random(), exchange, me, them)
    }

    /// [`Initiator::start`] with a given X25519 secret, which must be fresh: for tests.
    pub fn start_with_secret(
        secret: Zeroizing<[u8; 32]>,
        exchange: [u8; 16],
        me: Fingerprint,
        them: Fingerprint,
    ) -> (AwaitCommit, Safety) {
        let parties = Parties { exchange, role: Role::Initiator, me, them };
        let message = parties.say(SafetyStep::Start);
        (AwaitCommit { parties, secret }, message)
    }
}

/// Who is asked to compare.
#[derive(Debug, Clone, Copy)]
pub struct Responder;

impl Responder {
    /// Answers a [`SafetyStep::Start`] from `them` with a commitment to a fresh key.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn on_start(
        exchange: [u8; 16],
        me: Fingerprint,
        them: Fingerprint,
    ) -> (AwaitInitiatorKey, Safety) {
        Self::on_start_with_secret(crate::random(), exchange, me, them)
    }

    /// [`Responder::on_start`] with a given X25519 secret, which must be fresh: for tests.
    pub fn on_start_with_secret(
        secret: Zeroizing<[u8; 32]>,
        exchange: [u8; 16],
        me: Fingerprint,
        them: Fingerprint,
    ) -> (AwaitInitiatorKey, Safety) {
        let parties = Parties { exchange, role: Role::Responder, me, them };
        let message = parties.say(SafetyStep::Commit(parties.commitment(&public_key(&secret))));
        (AwaitInitiatorKey { parties, secret }, message)
    }
}

/// Initiator, waiting for the commitment.
pub struct AwaitCommit {
    parties: Parties,
    secret: Zeroizing<[u8; 32]>,
}

impl AwaitCommit {
    /// Takes the responder's commitment and reveals the initiator's key.
    pub fn on_commit(self, commitment: [u8; 32]) -> (AwaitReveal, Safety) {
        let Self { parties, secret } = self;
        let message = parties.say(SafetyStep::RevealInitiator(public_key(&secret)));
        (AwaitReveal { parties, secret, commitment }, message)
    }
}

/// Initiator, waiting for the key behind the commitment.
pub struct AwaitReveal {
    parties: Parties,
    secret: Zeroizing<[u8; 32]>,
    commitment: [u8; 32],
}

impl AwaitReveal {
    /// Takes the responder's key; the code can be shown.
    ///
    /// # Errors
    /// [`SafetyError::CommitmentMismatch`] when it is not the key that was committed to, and
    /// [`SafetyError::WeakKey`] when it is none. The run has failed; tell the other side with
    /// [`mismatch`].
    pub fn on_reveal(self, their_key: [u8; 32]) -> Result<Compare, SafetyError> {
        if !same(&self.parties.commitment(&their_key), &self.commitment) {
            return Err(SafetyError::CommitmentMismatch);
        }
        let keys = RevealedKeys { initiator: public_key(&self.secret), responder: their_key };
        Compare::new(self.parties, &self.secret, &self.commitment, &keys)
    }
}

/// Responder, waiting for the initiator's key.
pub struct AwaitInitiatorKey {
    parties: Parties,
    secret: Zeroizing<[u8; 32]>,
}

impl AwaitInitiatorKey {
    /// Takes the initiator's key and reveals the responder's; the code can be shown.
    ///
    /// # Errors
    /// [`SafetyError::WeakKey`] when it is no key. The run has failed; tell the other side with
    /// [`mismatch`].
    pub fn on_reveal(self, their_key: [u8; 32]) -> Result<(Compare, Safety), SafetyError> {
        let mine = public_key(&self.secret);
        let commitment = self.parties.commitment(&mine);
        let message = self.parties.say(SafetyStep::RevealResponder(mine));
        let keys = RevealedKeys { initiator: their_key, responder: mine };
        let compare = Compare::new(self.parties, &self.secret, &commitment, &keys)?;
        Ok((compare, message))
    }
}

/// Either side: the code stands on the screen and waits to be typed.
pub struct Compare {
    parties: Parties,
    code: SafetyCode,
    mac_key: Zeroizing<[u8; 32]>,
    they_confirmed: bool,
}

impl Compare {
    fn new(
        parties: Parties,
        secret: &[u8; 32],
        commitment: &[u8; 32],
        keys: &RevealedKeys,
    ) -> Result<Self, SafetyError> {
        let theirs = match parties.role {
            Role::Initiator => keys.responder,
            Role::Responder => keys.initiator,
        };
        let shared = StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return Err(SafetyError::WeakKey);
        }
        let mut hasher = blake3::Hasher::new_derive_key(TRANSCRIPT_CONTEXT);
        hasher.update(&parties.start_hash()).update(commitment);
        hasher.update(&keys.initiator).update(&keys.responder);
        let transcript = *hasher.finalize().as_bytes();

        let hkdf = Hkdf::<Sha256>::new(None, shared.as_bytes());
        let mut code = [0; 8];
        let mut mac_key = Zeroizing::new([0; 32]);
        hkdf.expand_multi_info(&[CODE_INFO, &transcript], &mut code)
            .and_then(|()| hkdf.expand_multi_info(&[MAC_INFO, &transcript], &mut mac_key[..]))
            .expect("8 and 32 bytes are within what HKDF gives");
        let code = SafetyCode::from_bits(u64::from_be_bytes(code));
        Ok(Self { parties, code, mac_key, they_confirmed: false })
    }

    /// The digits to show and to read out.
    pub fn code(&self) -> SafetyCode {
        self.code
    }

    /// Takes the digits that the person typed, and tells the other side that they are right.
    ///
    /// # Errors
    /// [`SafetyError::WrongCode`] when they differ. The run has failed; tell the other side with
    /// [`mismatch`].
    pub fn confirm(self, typed: &TypedCode) -> Result<(Confirmed, Safety), SafetyError> {
        if !self.code.matches(typed) {
            return Err(SafetyError::WrongCode);
        }
        let Self { parties, mac_key, they_confirmed, .. } = self;
        let mac = parties.confirmation(&mac_key, parties.role);
        let message = parties.say(SafetyStep::Confirm(mac));
        Ok((Confirmed { parties, mac_key, they_confirmed }, message))
    }

    /// Takes the other side's confirmation when it comes before our person has typed. It does not
    /// replace the typing.
    ///
    /// # Errors
    /// [`SafetyError::WrongConfirmation`] when it does not fit. The run has failed; tell the other
    /// side with [`mismatch`].
    pub fn on_confirm(self, mac: [u8; 32]) -> Result<Self, SafetyError> {
        self.parties.check_confirmation(&self.mac_key, &mac)?;
        Ok(Self { they_confirmed: true, ..self })
    }
}

/// Either side: our person typed the right digits.
pub struct Confirmed {
    parties: Parties,
    mac_key: Zeroizing<[u8; 32]>,
    they_confirmed: bool,
}

impl Confirmed {
    /// Takes the other side's confirmation.
    ///
    /// # Errors
    /// [`SafetyError::WrongConfirmation`] when it does not fit. The run has failed; tell the other
    /// side with [`mismatch`].
    pub fn on_confirm(self, mac: [u8; 32]) -> Result<Verified, SafetyError> {
        self.parties.check_confirmation(&self.mac_key, &mac)?;
        Ok(self.parties.verified())
    }

    /// Ends the exchange when the other side's confirmation came before ours
    /// ([`Compare::on_confirm`]).
    ///
    /// # Errors
    /// Gives the state back when it has not come yet.
    pub fn finish(self) -> Result<Verified, Self> {
        if self.they_confirmed { Ok(self.parties.verified()) } else { Err(self) }
    }
}

/// Both people typed the right digits: the fingerprint is really the other person's. Only the
/// exchange makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a verification is worth recording"]
pub struct Verified {
    exchange: [u8; 16],
    me: Fingerprint,
    them: Fingerprint,
}

impl Verified {
    /// The exchange.
    pub fn exchange(&self) -> [u8; 16] {
        self.exchange
    }

    /// Our own fingerprint, as it was when it was checked.
    pub fn me(&self) -> Fingerprint {
        self.me
    }

    /// Whose fingerprint was checked.
    pub fn them(&self) -> Fingerprint {
        self.them
    }
}

/// The message that ends an exchange whose digits differ or which broke.
pub fn mismatch(exchange: [u8; 16]) -> Safety {
    Safety { exchange, step: SafetyStep::Mismatch }
}

/// The message that ends an exchange because the person does not want it at this moment.
pub fn cancel(exchange: [u8; 16]) -> Safety {
    Safety { exchange, step: SafetyStep::Cancel }
}

/// Why a run of the exchange has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SafetyError {
    /// The responder revealed another key than the one that it committed to: somebody tampers.
    #[error("the other side revealed another key than it had promised")]
    CommitmentMismatch,
    /// The revealed key is one with which every shared secret is zero: somebody tampers.
    #[error("the other side revealed a key that is none")]
    WeakKey,
    /// The person typed other digits: a slip, or somebody in the middle.
    #[error("the digits differ")]
    WrongCode,
    /// The other side's confirmation does not belong to this exchange.
    #[error("the other side's confirmation does not fit")]
    WrongConfirmation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }

    fn label(self) -> &'static [u8] {
        match self {
            Self::Initiator => b"initiator",
            Self::Responder => b"responder",
        }
    }
}

#[derive(Clone, Copy)]
struct Parties {
    exchange: [u8; 16],
    role: Role,
    me: Fingerprint,
    them: Fingerprint,
}

impl Parties {
    fn by_role(&self) -> (&Fingerprint, &Fingerprint) {
        match self.role {
            Role::Initiator => (&self.me, &self.them),
            Role::Responder => (&self.them, &self.me),
        }
    }

    fn start_hash(&self) -> [u8; 32] {
        let (initiator, responder) = self.by_role();
        let mut hasher = blake3::Hasher::new_derive_key(START_CONTEXT);
        hasher.update(&self.exchange).update(initiator.as_bytes()).update(responder.as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn commitment(&self, responder_key: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(COMMIT_CONTEXT);
        hasher.update(&self.start_hash()).update(responder_key);
        *hasher.finalize().as_bytes()
    }

    /// The transcript is in the key; the role keeps a confirmation from being sent back.
    fn confirmation(&self, mac_key: &[u8; 32], role: Role) -> [u8; 32] {
        let (initiator, responder) = self.by_role();
        let mut hasher = blake3::Hasher::new_keyed(mac_key);
        hasher.update(role.label());
        hasher.update(initiator.as_bytes()).update(responder.as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn check_confirmation(&self, key: &[u8; 32], mac: &[u8; 32]) -> Result<(), SafetyError> {
        if same(&self.confirmation(key, self.role.other()), mac) {
            Ok(())
        } else {
            Err(SafetyError::WrongConfirmation)
        }
    }

    fn verified(&self) -> Verified {
        Verified { exchange: self.exchange, me: self.me, them: self.them }
    }

    fn say(&self, step: SafetyStep) -> Safety {
        Safety { exchange: self.exchange, step }
    }
}

/// Both public keys, told apart by role.
struct RevealedKeys {
    initiator: [u8; 32],
    responder: [u8; 32],
}

fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}
