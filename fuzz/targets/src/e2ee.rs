//! Targets for `halloo-e2ee`, against the recorded keys of its golden tests: whatever is refused
//! leaves no trace.

use std::cell::RefCell;

use halloo_e2ee::{
    BundleSecrets, CardDirection, Parties, Party, RatchetAccount, RatchetSession, UnixTime,
    VerifiedBundle, open, open_card, verify_introduction,
};
use halloo_identity::{Identity, Seeds};
use halloo_wire::DeviceId;
use halloo_wire::inner::Inner;
use halloo_wire::peer::{Control, Response};

/// A sealed envelope from anybody, and all that is inside of it.
pub fn e2ee_envelope(data: &[u8]) {
    BOB.with(|bob| {
        let opened = open(data, &bob.parties.us.fingerprint, |_| Some(&bob.secrets));
        if let Ok(inner) =
            opened.map(|opened| opened.decode()).unwrap_or_else(|_| Inner::decode(&[]))
        {
            bob.hear(&inner);
        }
    });
}

/// A message as it stands in an envelope or on a direct connection.
pub fn e2ee_message(data: &[u8]) {
    if let Ok(inner) = Inner::decode(data) {
        BOB.with(|bob| bob.hear(&inner));
    }
}

/// An introduction.
pub fn e2ee_introduction(data: &[u8]) {
    if let Ok(introduction) = verify_introduction(data) {
        assert_eq!(introduction.party().fingerprint, introduction.passport().fingerprint());
    }
}

/// A prekey bundle as a peer hands it out and as the cache keeps it.
pub fn e2ee_bundle(data: &[u8]) {
    BOB.with(|bob| {
        let whose = bob.parties.us.fingerprint;
        if let Ok(Response::Found(found)) = Response::decode(data) {
            let verified = VerifiedBundle::verify(&found, &whose, DeviceId::FIRST, NOW, None);
            assert!(verified.is_err() || found.bundle == bob.bundle, "a forged bundle");
        }
        let cached = VerifiedBundle::from_bytes(data, &whose, DeviceId::FIRST, NOW, None);
        if let Ok(verified) = cached {
            assert_eq!(verified.to_bytes(), data);
        }
    });
}

/// What the store keeps, and sealed contact cards.
pub fn e2ee_storage(data: &[u8]) {
    if let Ok(secrets) = BundleSecrets::from_bytes(data) {
        assert_eq!(secrets.to_bytes()[..], *data);
    }
    if let Ok(account) = RatchetAccount::from_bytes(data) {
        assert!(RatchetAccount::from_bytes(&account.to_bytes()).is_ok());
    }
    if let Ok(session) = RatchetSession::from_bytes(data) {
        assert!(RatchetSession::from_bytes(&session.to_bytes()).is_ok());
    }
    let _ = open_card(&CARD_KEY, CardDirection::Callee, data);
}

/// The recipient of the recorded conversation.
struct Bob {
    bundle: Vec<u8>,
    secrets: BundleSecrets,
    /// Bob's account before the recorded envelope, alive and as stored.
    account: (RefCell<RatchetAccount>, Vec<u8>),
    /// Bob's end of the session that the envelope begins, alive and as stored.
    session: (RefCell<RatchetSession>, Vec<u8>),
    parties: Parties,
}

thread_local! {
    static BOB: Bob = Bob::recorded();
}

impl Bob {
    fn recorded() -> Self {
        let identity =
            Identity::from_seeds(Seeds { passport: [4; 32], ml_dsa: [5; 32], device: [6; 32] });
        let secrets = BundleSecrets::from_bytes(&recorded::bundle_secrets()).expect(RECORDED);
        let opened = open(&recorded::envelope(), &identity.fingerprint(), |_| Some(&secrets));
        let inner = opened.expect(RECORDED).decode().expect(RECORDED);
        let introduction = inner.introduction.as_deref().expect(RECORDED);
        let sender = verify_introduction(introduction).expect(RECORDED);

        let account = RatchetAccount::from_bytes(&recorded::account()).expect(RECORDED);
        let us = Party {
            fingerprint: identity.fingerprint(),
            device: identity.device_id(),
            ratchet_key: account.olm_identity(),
        };
        let parties = Parties { us, them: sender.party() };
        let mut used = RatchetAccount::from_bytes(&recorded::account()).expect(RECORDED);
        let (session, _) = RatchetSession::inbound(&mut used, &inner, &parties).expect(RECORDED);
        let stored = (account.to_bytes().to_vec(), session.to_bytes().to_vec());
        Self {
            bundle: recorded::bundle(),
            secrets,
            account: (account.into(), stored.0),
            session: (session.into(), stored.1),
            parties,
        }
    }

    /// Reads a message in the recorded session, and as the beginning of another one. What it
    /// changes is put back.
    fn hear(&self, inner: &Inner) {
        let (session, stored) = &self.session;
        let mut session = session.borrow_mut();
        match session.decrypt_checked(inner, &self.parties) {
            Ok(_) => *session = RatchetSession::from_bytes(stored).expect("stored by itself"),
            Err(_) => assert!(session.to_bytes()[..] == *stored, "a refused message left a trace"),
        }
        let (account, stored) = &self.account;
        let mut account = account.borrow_mut();
        match RatchetSession::inbound(&mut account, inner, &self.parties) {
            Ok(_) => *account = RatchetAccount::from_bytes(stored).expect("stored by itself"),
            Err(_) => assert!(account.to_bytes()[..] == *stored, "a refused message left a trace"),
        }
    }
}

/// The files of `e2ee/tests/golden`.
pub mod recorded {
    /// The envelope that Alice sealed for Bob.
    pub fn envelope() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/envelope.hex"))
    }

    /// Bob's bundle.
    pub fn bundle() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/bundle.hex"))
    }

    /// The secrets of Bob's bundle.
    pub fn bundle_secrets() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/bundle_secrets.hex"))
    }

    /// The one-time keys of Bob's bundle.
    pub fn one_time_keys() -> Vec<[u8; 32]> {
        let keys = hex(include_str!("../../../e2ee/tests/golden/one_time_keys.hex"));
        keys.as_chunks().0.to_vec()
    }

    /// Bob's passport.
    pub fn passport() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/passport.hex"))
    }

    /// The message in the envelope.
    pub fn opened() -> Vec<u8> {
        super::BOB.with(|bob| {
            let opened =
                super::open(&envelope(), &bob.parties.us.fingerprint, |_| Some(&bob.secrets));
            opened.expect(super::RECORDED).as_bytes().to_vec()
        })
    }

    /// Bob's ratchet account, before the envelope.
    pub fn account() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/ratchet_account.hex"))
    }

    /// Alice's session, after the envelope.
    pub fn session() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/ratchet_session.hex"))
    }

    /// A sealed contact card.
    pub fn card() -> Vec<u8> {
        hex(include_str!("../../../e2ee/tests/golden/card.hex"))
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect()
    }
}

const RECORDED: &str = "the golden tests of halloo-e2ee hold";

/// When the recorded bundle was made.
const NOW: UnixTime = UnixTime(1_800_000_000);

/// The key of the recorded card.
const CARD_KEY: [u8; 32] = [7; 32];
