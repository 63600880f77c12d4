//! Reading ratchet messages strictly.

use halloo_wire::inner::{Inner, RatchetType};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm::{OlmMessage, PreKeyMessage};

use super::DecryptError;

/// Reads the ratchet message in `inner`.
///
/// Olm authenticates what vodozemac reads from a message, and vodozemac's reader skips protobuf
/// fields that it does not know. So only bytes that it would write again are let through.
/// X25519 ignores the highest bit of a public key; a key with that bit set would be a second name
/// for the same key, and the keys of a first message stand outside of its MAC.
pub(super) fn decode(inner: &Inner) -> Result<OlmMessage, DecryptError> {
    let kind = match inner.ratchet_type {
        RatchetType::PreKey => 0,
        RatchetType::Normal => 1,
    };
    let message =
        OlmMessage::from_parts(kind, &inner.ratchet).map_err(|_| DecryptError::Malformed)?;
    let (version, canonical_keys) = match &message {
        OlmMessage::Normal(m) => (m.version(), is_canonical(m.ratchet_key())),
        OlmMessage::PreKey(m) => (m.message().version(), keys(m).into_iter().all(is_canonical)),
    };
    if version != MESSAGE_VERSION {
        return Err(DecryptError::UnsupportedVersion);
    }
    if !canonical_keys || message.to_parts().1 != inner.ratchet {
        return Err(DecryptError::Malformed);
    }
    Ok(message)
}

fn keys(m: &PreKeyMessage) -> [Curve25519PublicKey; 4] {
    [m.identity_key(), m.base_key(), m.one_time_key(), m.message().ratchet_key()]
}

fn is_canonical(key: Curve25519PublicKey) -> bool {
    key.as_bytes()[31] & 0x80 == 0
}

/// The version byte of Olm messages with a whole MAC.
const MESSAGE_VERSION: u8 = 4;
