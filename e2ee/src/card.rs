//! Contact cards, sealed under a reach capability.
//!
//! A rendezvous peer stores or forwards them and must not learn the addresses inside.
//!
//! ```text
//! sealed card   nonce 12 | ChaCha20-Poly1305(card) + 16
//! ```
//!
//! The key comes from the capability's secret. Both ends hold it, so the associated data says who
//! speaks: a card that the caller sealed cannot be sent back to it as the callee's.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halloo_wire::DecodeError;
use halloo_wire::candidate::Card;
use halloo_wire::limits::MAX_SEALED_CARD;
use zeroize::Zeroizing;

/// Who sealed a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardDirection {
    /// Who knocks; it holds the capability.
    Caller,
    /// Who is knocked at; it gave the capability.
    Callee,
}

impl CardDirection {
    fn associated_data(self) -> &'static [u8] {
        match self {
            Self::Caller => b"halloo 2026 contact card v1 caller",
            Self::Callee => b"halloo 2026 contact card v1 callee",
        }
    }
}

/// Why a sealed card cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// Longer than [`MAX_SEALED_CARD`], or too short to be one.
    #[error("the sealed card has an impossible length")]
    Length,
    /// Sealed under another key, in the other direction, or changed on the way.
    #[error("the sealed card is not authentic")]
    NotAuthentic,
    /// What was sealed is not a card.
    #[error("the sealed card holds no card: {0}")]
    Decode(#[from] DecodeError),
}

/// Seals a card under a capability's card key, with a random nonce.
///
/// A key seals a card for each knock: at a million a day, 96 random bits repeat with a chance
/// of 1 in 10^11 within a year.
///
/// # Panics
/// When the card has more candidates than a card may have, or the system gives no random bytes.
pub fn seal_card(key: &[u8; 32], direction: CardDirection, card: &Card) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
    let plain = Zeroizing::new(card.encode());
    let payload = Payload { msg: &plain, aad: direction.associated_data() };
    let sealed = cipher(key)
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a card is far below the cipher's limit");
    let mut out = Vec::with_capacity(NONCE_LEN + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    debug_assert!(out.len() <= MAX_SEALED_CARD);
    out
}

/// Opens a card.
///
/// # Errors
/// [`CardError`] when it was not sealed under `key` by the side that `direction` names.
pub fn open_card(
    key: &[u8; 32],
    direction: CardDirection,
    sealed: &[u8],
) -> Result<Card, CardError> {
    if sealed.len() > MAX_SEALED_CARD {
        return Err(CardError::Length);
    }
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CardError::Length)?;
    let payload = Payload { msg: sealed, aad: direction.associated_data() };
    let plain = cipher(key)
        .decrypt(&Nonce::from(*nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| CardError::NotAuthentic)?;
    Ok(Card::decode(&plain)?)
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(*key))
}

const NONCE_LEN: usize = 12;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use halloo_wire::RoundId;
    use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Dependence, Verdict};

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn both_directions_open_at_the_other_side() {
        for direction in [CardDirection::Caller, CardDirection::Callee] {
            let sealed = seal_card(&KEY, direction, &card());
            assert_eq!(open_card(&KEY, direction, &sealed), Ok(card()));
        }
    }

    #[test]
    fn the_largest_card_fits_its_limit() {
        let full = Card { candidates: vec![card().candidates[1]; 8], ..card() };
        assert!(seal_card(&KEY, CardDirection::Caller, &full).len() <= MAX_SEALED_CARD);
    }

    #[test]
    fn a_card_cannot_be_reflected_to_its_sealer() {
        let sealed = seal_card(&KEY, CardDirection::Caller, &card());
        let reflected = open_card(&KEY, CardDirection::Callee, &sealed);
        assert_eq!(reflected, Err(CardError::NotAuthentic));
    }

    #[test]
    fn another_capability_does_not_open_it() {
        let sealed = seal_card(&KEY, CardDirection::Caller, &card());
        let wrong = open_card(&[8; 32], CardDirection::Caller, &sealed);
        assert_eq!(wrong, Err(CardError::NotAuthentic));
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_refused() {
        let sealed = seal_card(&KEY, CardDirection::Callee, &card());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open_card(&KEY, CardDirection::Callee, &changed).is_err(), "bit {bit}");
        }
        for n in 0..sealed.len() {
            assert!(open_card(&KEY, CardDirection::Callee, &sealed[..n]).is_err(), "length {n}");
        }
        let long = vec![0; MAX_SEALED_CARD + 1];
        assert_eq!(open_card(&KEY, CardDirection::Callee, &long), Err(CardError::Length));
    }

    fn card() -> Card {
        Card {
            round: Some(RoundId([9; 16])),
            again: None,
            verdict: Verdict {
                mapping: Dependence::EndpointIndependent,
                filtering: Dependence::AddressAndPortDependent,
                allocation: Allocation::Block { first: 1024, size: 2048 },
            },
            local_port: 4000,
            birthday: true,
            candidates: vec![
                Candidate { kind: CandidateKind::Host, addr: "192.0.2.7:4000".parse().unwrap() },
                Candidate {
                    kind: CandidateKind::ServerReflexive,
                    addr: "[2001:db8::7]:4001".parse().unwrap(),
                },
            ],
        }
    }
}
