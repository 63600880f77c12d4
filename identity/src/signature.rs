//! What the passport's two keys sign.

/// What a signature is for. Each role prefixes what is signed with a text of its own, so that a
/// signature made for one purpose is worth nothing for another.
///
/// Certificates begin with the DER byte `0x30` and TLS signs with the device's key, so neither can
/// be mistaken for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureRole {
    /// A prekey bundle.
    PrekeyBundle,
    /// The introduction in the first message of a session.
    Introduction,
    /// A contact card.
    ContactCard,
    /// A rotation of the passport.
    Continuity,
    /// A move to other rendezvous peers.
    Move,
}

impl SignatureRole {
    /// The role's word in the signed prefix.
    pub fn label(self) -> &'static str {
        match self {
            Self::PrekeyBundle => "prekey bundle",
            Self::Introduction => "introduction",
            Self::ContactCard => "contact card",
            Self::Continuity => "continuity",
            Self::Move => "move",
        }
    }

    /// What is really signed: `"halloo 2026 signature v1: " | label | 0x00 | bytes`.
    pub fn message(self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX.len() + 16 + bytes.len());
        out.extend_from_slice(PREFIX);
        out.extend_from_slice(self.label().as_bytes());
        out.push(0);
        out.extend_from_slice(bytes);
        out
    }
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The Ed25519 signature was not made by the passport over these bytes in this role.
    #[error("the Ed25519 signature does not fit")]
    Ed25519,
    /// The ML-DSA-65 key is not the one to which the passport commits.
    #[error("the ML-DSA key is not the passport's")]
    MlDsaKey,
    /// The ML-DSA-65 signature was not made by that key over these bytes in this role.
    #[error("the ML-DSA signature does not fit")]
    MlDsa,
}

const PREFIX: &[u8] = b"halloo 2026 signature v1: ";
