//! Who is who: keys, the certificate that binds them, the name made from them, and the ways in
//! which people assure themselves that a name belongs to a person.
//!
//! # Names are keys
//!
//! An [`Identity`] is three secrets. Two make its passport: an Ed25519 key, and an ML-DSA-65 key
//! for the day on which Ed25519 falls. The third is the key of one device. The passport's public
//! half is a self-signed X.509 certificate, the [`Passport`]: it holds the Ed25519 key and the hash
//! of the ML-DSA key, so that it stays small. The device has a certificate of its own, issued by
//! the passport. In a TLS handshake a node shows both, signs with the device's key, and
//! [`verify_device_chain`] tells who it is. The passport's own keys never sign handshakes. They
//! sign what the person vouches for, each thing in a [`SignatureRole`] that cannot be mistaken for
//! another.
//!
//! The [`Fingerprint`] is 240 bits of a hash over both passport keys. It is the identity's name:
//! nobody assigns it and nobody else can answer to it. Written, it has 52 characters, of which the
//! last four are a checksum against slips. It is never cut short where it is looked up. With the
//! rendezvous peer where its owner can be found it is an [`Address`], which is all that somebody
//! needs to write first.
//!
//! Certificates never expire and their dates are not looked at. An identity is a key, and clocks
//! lie. The certificate of a seed is always the same bytes, and of those bytes none can change
//! without being refused.
//!
//! # Names are not people
//!
//! That a message comes from a fingerprint is certain. That the fingerprint is Bob's is not: an
//! address that came through somebody else may be somebody else's. Two checks close the gap.
//!
//! * [`safety`]: six digits, compared by voice. Short, and sound all the same, because both sides
//!   fix their fresh keys before either knows the code. A plain hash of both keys with six digits
//!   falls in milliseconds; `tests/brute_force.rs` shows it.
//! * [`safety_number()`]: sixty digits or a QR code, compared in person. Long enough to be static.
//!
//! # What is signed, and what is secret
//!
//! A [`ContactCard`] carries a passport with a name and peers. A [`Continuity`] statement hands an
//! identity on to another passport, a [`Move`] to other peers. What merely arrived and what was
//! verified are different types: [`Passport`], [`PresentedDevice`], [`VerifiedCard`],
//! [`VerifiedContinuity`], [`VerifiedMove`] and [`safety::Verified`] come only from the functions
//! that check.
//!
//! A [`ReachCapability`] is what a person gives to a contact so that the contact may write and
//! knock. A rendezvous peer has a [`PeerKey`] of its own, which nodes pin under its
//! [`PeerFingerprint`].
//!
//! Secrets are wiped when they are dropped, do not print, and leave through named doors only: the
//! PKCS#8 of the device key for TLS, and the key file, which a [`HomeKey`] can lock. Nothing here reads a clock or a socket; the
//! operating system's random numbers are drawn in the functions called `generate` or `start` and in
//! ML-DSA signing, and each of the former has a twin that takes a seed.
//!
//! # Examples
//! ```
//! use halloo_identity::{Address, Identity, verify_device_chain};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let alice = Identity::generate();
//! let address = Address {
//!     peer: "peer.example.org".parse()?,
//!     peer_key: None,
//!     fingerprint: alice.fingerprint(),
//! };
//! // peer.example.org/ and 52 characters: what Alice hands out.
//! let written = address.to_string();
//!
//! // Bob connects to her device and looks at the certificates that it shows.
//! let expected: Address = written.parse()?;
//! let chain = alice.device_chain();
//! let shown = verify_device_chain(&[&chain[0], &chain[1]])?;
//! assert_eq!(shown.passport.fingerprint(), expected.fingerprint);
//! # Ok(()) }
//! ```

mod address;
mod armour;
mod capability;
mod card;
mod continuity;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod invite_key;
mod locked;
mod machines;
mod passport;
mod peer_key;
mod peers;
pub mod safety;
mod safety_number;
mod signature;
mod x509;

pub use address::{
    Address, AddressError, DEFAULT_PORT, HostError, PeerAddress, PeerAddressError, PeerHost,
};
pub use armour::KeyFileError;
pub use capability::ReachCapability;
pub use card::{CardError, ContactCard, MAX_CARD, VerifiedCard};
pub use continuity::{
    Continuity, ContinuityError, MAX_CONTINUITY, MAX_MOVE, Move, Signatures, Signer,
    VerifiedContinuity, VerifiedMove,
};
pub use halloo_wire::ids::FingerprintError;
pub use halloo_wire::{DeviceId, Fingerprint, PeerFingerprint};
pub use identity::{Identity, Seeds};
pub use invite_key::InviteKey;
pub use locked::{DataKey, HomeKey, LockedHome, PassphraseCost, UnlockError};
pub use machines::{MAX_MACHINES, Machine, Machines};
pub use passport::{
    ChainError, MAX_DEVICE_CERTIFICATE, Passport, PassportError, PresentedDevice, fingerprint,
    ml_dsa_hash, verify_device_chain,
};
pub use peer_key::{MAX_PEER_CERTIFICATE, PeerKey, peer_fingerprint, peer_fingerprint_of_cert};
pub use safety_number::{SafetyNumber, SafetyNumberError, safety_number};
pub use signature::{SignatureError, SignatureRole};
pub use x509::CertificateError;

use zeroize::Zeroizing;

/// Random bytes from the operating system.
fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut bytes[..]).expect("the operating system gives random bytes");
    bytes
}
