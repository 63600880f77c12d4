//! Olm sessions between two devices: 3DH, then the double ratchet, by vodozemac.
//!
//! Olm is used as it is, in its second version, whose MACs are whole. Three things are added
//! around it, because Olm has no associated data and leaves a few bytes unauthenticated:
//!
//! - What is encrypted repeats who writes to whom, the place in the stream, and both devices' Olm
//!   identity keys ([`Plain`]). The reader compares all of it with the outside of the message and
//!   with what it knows about the sender ([`Parties`]).
//! - A ratchet message has exactly one valid encoding. Bytes that vodozemac would read but not
//!   write, and keys that are other names for the same point, are refused.
//! - A first message to the fallback key, which is not used up, is accepted once.
//!
//! Whatever is refused changes nothing, neither the session nor the account.

mod account;
mod message;
mod session;

pub use account::RatchetAccount;
pub use session::{
    ComposeError, DecryptError, IN_FLIGHT, RatchetSession, SessionError, VerifiedPlain,
};

use halloo_wire::inner::{Kind, Plain, Route};
use halloo_wire::{DeviceId, Fingerprint, Seq, StreamId};

/// A device with the Olm identity key that is proven to be its own, by a
/// [`VerifiedBundle`](crate::VerifiedBundle) or a
/// [`VerifiedIntroduction`](crate::VerifiedIntroduction), or because it is this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Whose device it is.
    pub fingerprint: Fingerprint,
    /// Which of their devices.
    pub device: DeviceId,
    /// The device's Olm identity key.
    pub ratchet_key: [u8; 32],
}

/// The two ends of a session. One value serves for writing and for reading, so that the ends
/// cannot be swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// This device.
    pub us: Party,
    /// The other device.
    pub them: Party,
}

impl Parties {
    /// The route of what we write to them.
    pub fn outgoing(&self, stream: StreamId, seq: Seq) -> Route {
        route(&self.us, &self.them, stream, seq)
    }

    /// Whether `it` is a route from them to us.
    pub fn is_incoming(&self, it: &Route) -> bool {
        *it == route(&self.them, &self.us, it.stream, it.seq)
    }
}

fn route(from: &Party, to: &Party, stream: StreamId, seq: Seq) -> Route {
    Route {
        from: from.fingerprint,
        from_device: from.device,
        to: to.fingerprint,
        to_device: to.device,
        stream,
        seq,
    }
}

/// The plaintext that repeats what the outside of a message says.
fn plain(parties: &Parties, route: Route, kind: Kind, content: &[u8]) -> Plain {
    Plain {
        route,
        kind,
        from_ratchet_key: parties.us.ratchet_key,
        to_ratchet_key: parties.them.ratchet_key,
        content: content.to_vec(),
    }
}
