//! Targets for the decoders of `halloo-identity`, which checks their promises itself.

use halloo_identity::fuzzing;

/// Passports, device chains and rendezvous peers' certificates.
pub fn identity_certificates(data: &[u8]) {
    fuzzing::certificates(data);
}

/// Contact cards, rotations and moves.
pub fn identity_statements(data: &[u8]) {
    fuzzing::statements(data);
}

/// Stored states of the safety-code exchange.
pub fn identity_safety_states(data: &[u8]) {
    fuzzing::safety_states(data);
}

/// What a person types, pastes or scans: addresses, cards, codes, key files.
pub fn identity_texts(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        fuzzing::texts(text);
    }
}

/// Key files of locked homes, and what is sealed in them.
pub fn identity_locked_homes(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        fuzzing::locked_homes(text);
    }
}
