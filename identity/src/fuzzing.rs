//! Entry points for fuzzing: each takes anything and panics when a promise does not hold.

use crate::safety::{Attempts, SafetyState, TypedCode};
use crate::{
    Address, ContactCard, Continuity, HomeKey, Identity, LockedHome, Move, Passport, PeerAddress,
    PeerKey, SafetyNumber, peer_fingerprint_of_cert, verify_device_chain,
};

/// Certificates: the first two bytes say where the second of a chain begins.
pub fn certificates(data: &[u8]) {
    let _ = peer_fingerprint_of_cert(data);
    if let Ok(passport) = Passport::verify(data) {
        assert_eq!(passport.der(), data);
    }
    if let Some((at, rest)) = data.split_first_chunk::<2>() {
        let at = usize::from(u16::from_be_bytes(*at)).min(rest.len());
        let (device, passport) = rest.split_at(at);
        let _ = verify_device_chain(&[device, passport]);
    }
}

/// Signed statements: what is read encodes to the same bytes.
pub fn statements(data: &[u8]) {
    if let Ok(card) = ContactCard::decode(data) {
        assert_eq!(card.encode(), data);
        assert_eq!(ContactCard::from_text(&card.to_text()).as_ref(), Ok(&card));
        let _ = card.verify();
    }
    if let Ok(statement) = Continuity::decode(data) {
        assert_eq!(statement.encode(), data);
        let _ = statement.verify();
    }
    if let Ok(statement) = Move::decode(data) {
        assert_eq!(statement.encode(), data);
        let _ = statement.verify();
    }
}

/// States of the safety-code exchange: what is read encodes to the same bytes.
pub fn safety_states(data: &[u8]) {
    if let Ok(state) = SafetyState::from_bytes(data) {
        assert_eq!(&state.to_bytes()[..], data);
    }
    if let Ok(attempts) = Attempts::from_bytes(data) {
        assert_eq!(attempts.to_bytes(), data);
    }
}

/// Everything that a person types, pastes or scans: what is read can be written and read again.
pub fn texts(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_uri().parse(), Ok(address));
    }
    if let Ok(address) = text.parse::<PeerAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(number) = text.parse::<SafetyNumber>() {
        assert_eq!(number.to_string().parse(), Ok(number));
    }
    let _ = TypedCode::parse(text);
    let _ = ContactCard::from_text(text);
    let _ = Identity::from_key_file(text);
    let _ = PeerKey::from_key_file(text);
}

/// Key files of locked homes: what is read encodes to what reads the same, and what costs little is
/// tried.
pub fn locked_homes(text: &str) {
    if let Ok(locked) = LockedHome::from_key_file(text) {
        assert!(LockedHome::is_one(text));
        assert_eq!(LockedHome::from_key_file(&locked.to_key_file()).as_ref(), Ok(&locked));
        if locked.is_cheap() {
            let _ = locked.unlock(&HomeKey::passphrase("correct horse"));
            let _ = locked.unlock(&HomeKey::from_bytes([9; 32]));
        }
    }
}
