//! Reach capabilities: the permission to write to somebody and to knock.

use std::fmt;

use halloo_wire::{CapabilityId, CapabilityToken};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::random;

const TOKEN_CONTEXT: &str = "halloo 2026 capability token v1";
const CARD_CONTEXT: &str = "halloo 2026 capability card key v1";

/// The secret that an identity gives to one accepted contact, end to end.
///
/// Two things are derived from it. The token opens the contacts' lane of the mailbox and lets its
/// holder knock; the recipient's peer keeps only the token's hash. The card key seals network
/// addresses between the two contacts, and the peer never sees it: whoever learns a token still
/// cannot read a card.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReachCapability([u8; 32]);

impl ReachCapability {
    /// Draws a fresh secret.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self(*random::<32>())
    }

    /// Wraps a secret that was received or stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret, to be given end to end or stored.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What its holder shows to the recipient's peer.
    pub fn token(&self) -> CapabilityToken {
        CapabilityToken(blake3::derive_key(TOKEN_CONTEXT, &self.0))
    }

    /// The hash under which the recipient registers it.
    pub fn id(&self) -> CapabilityId {
        self.token().id()
    }

    /// The key of the contact cards that its giver and its holder exchange through the peer.
    pub fn card_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(CARD_CONTEXT, &self.0))
    }
}

impl fmt::Debug for ReachCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReachCapability(…)")
    }
}
