//! End-to-end encryption: what only the two ends can read.
//!
//! Three layers, each with one job:
//!
//! | layer | module | what it is for |
//! |---|---|---|
//! | prekey bundle | [`prekeys`], [`bundle`] | lets a stranger write to somebody who is away, with keys that the address proves |
//! | ratchet | [`ratchet`] | proves the sender; a key for each message, gone after it |
//! | sealed envelope | [`envelope`] | hides the sender from the rendezvous peer; safe against a recording that a quantum computer opens later |
//!
//! A message is encrypted by the **ratchet** (vodozemac's Olm, unchanged) once and kept as those
//! bytes ([`Inner`](halloo_wire::inner::Inner)). On a direct connection they travel bare, since
//! TLS hides them there. For the mailbox they are **sealed** to the recipient's current bundle
//! and may be sealed again, to a later bundle, as often as it takes. The first message of each
//! side carries an **introduction** ([`introduction`]): the passport's classical and post-quantum
//! signatures over the ratchet key. Small contact cards are sealed under a shared secret
//! ([`card`]).
//!
//! Post-quantum secrecy holds for every sealed message and is renewed when the bundle is. The
//! ratchet's own healing is classical.
//!
//! # State
//!
//! This crate has no clock, no sockets and no store. [`RatchetAccount`], [`RatchetSession`] and
//! [`BundleSecrets`] go to the caller's store as bytes. Three rules keep them right:
//!
//! 1. What a call changes is stored before what it returns leaves the process. An inbound
//!    session and its account are stored together.
//! 2. A refused message changes nothing, so there is nothing to store.
//! 3. Olm keeps the keys of 40 skipped messages of a chain, and of five chains. So either at most
//!    [`IN_FLIGHT`] messages of a session are on their way unacknowledged, or what comes before its
//!    turn is only peeked at ([`RatchetSession::peek`]) and decrypted in its turn. What the other
//!    side cannot read any more is composed again under another session; the inbox, which takes
//!    each (stream, seq) once, sorts out the rest.
//!
//! Time makes things expire: [`BundleSecrets::is_expired`] and [`RatchetAccount::prune`] say what
//! to forget.
//!
//! # Examples
//!
//! Bob publishes a bundle. Alice, who knows his address, writes; Bob answers.
//!
//! ```
//! use halloo_e2ee::*;
//! use halloo_identity::Identity;
//! use halloo_wire::envelope::Lane;
//! use halloo_wire::inner::Kind;
//! use halloo_wire::peer::Found;
//! use halloo_wire::{DeviceId, Seq, StreamId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = UnixTime(1_800_000_000);
//!
//! // Bob: keys, a bundle for his rendezvous peer, its secrets for his store.
//! let bob = Identity::generate();
//! let mut bob_account = RatchetAccount::generate();
//! let (bundle, one_time_keys, secrets) = make_bundle(&bob, &mut bob_account, 1, now);
//!
//! // Bob's peer answers Alice's look-up. She trusts nothing in it before it is checked.
//! let found = Found {
//!     passport: bob.passport_der().to_vec(),
//!     bundle: bundle.encode(),
//!     one_time_keys,
//!     one_time_key: Some(0),
//! };
//! let mut bundle =
//!     VerifiedBundle::verify(&found, &bob.fingerprint(), DeviceId::FIRST, now, None)?;
//!
//! // Alice: begins a session, encrypts, seals.
//! let alice = Identity::generate();
//! let alice_account = RatchetAccount::generate();
//! let us = Party {
//!     fingerprint: alice.fingerprint(),
//!     device: alice.device_id(),
//!     ratchet_key: alice_account.olm_identity(),
//! };
//! let alice_sees = Parties { us, them: bundle.party() };
//! let mut alice_session = RatchetSession::outbound(&alice_account, &mut bundle)?;
//! let introduction = introduce(&alice, alice_account.olm_identity()).encode();
//! let inner = alice_session.compose(
//!     &alice_sees, StreamId(7), Seq(1), Kind::Message, b"hello", Some(&introduction),
//! )?;
//! let envelope = seal(&bundle, Lane::Strangers, &inner.encode())?;
//!
//! // Bob: opens, verifies who introduces herself, begins the session.
//! let opened = open(&envelope, &bob.fingerprint(), |id| (id == 1).then_some(&secrets))?;
//! let inner = opened.decode()?;
//! let sender = verify_introduction(inner.introduction.as_deref().unwrap_or_default())?;
//! let us = Party {
//!     fingerprint: bob.fingerprint(),
//!     device: bob.device_id(),
//!     ratchet_key: bob_account.olm_identity(),
//! };
//! let bob_sees = Parties { us, them: sender.party() };
//! let (mut bob_session, heard) = RatchetSession::inbound(&mut bob_account, &inner, &bob_sees)?;
//! assert_eq!(heard.content(), b"hello");
//! assert_eq!(heard.route().from, alice.fingerprint());
//!
//! // Bob answers, here over a direct connection: the message travels bare.
//! let answer = bob_session.compose(
//!     &bob_sees, StreamId(9), Seq(1), Kind::Message, b"hello yourself", None,
//! )?;
//! let heard = alice_session.decrypt_checked(&answer, &alice_sees)?;
//! assert_eq!(heard.content(), b"hello yourself");
//! # Ok(())
//! # }
//! ```

pub mod bundle;
pub mod card;
pub mod envelope;
pub mod introduction;
pub mod prekeys;
pub mod ratchet;
mod store;
mod time;

pub use bundle::{BundleError, MAX_VALIDITY, VerifiedBundle};
pub use card::{CardDirection, CardError, open_card, seal_card};
pub use envelope::{OpenError, OpenedInner, SealError, open, seal};
pub use introduction::{IntroductionError, VerifiedIntroduction, introduce, verify_introduction};
pub use prekeys::{
    BUNDLE_VALIDITY, BundleSecrets, CLOCK_SKEW, MAILBOX_TTL, SEALING_ROTATION, make_bundle,
    refresh_bundle,
};
pub use ratchet::{
    ComposeError, DecryptError, IN_FLIGHT, Parties, Party, RatchetAccount, RatchetSession,
    SessionError, VerifiedPlain,
};
pub use store::RestoreError;
pub use time::UnixTime;
