//! The bytes of an exchange's state, so that it survives a restart.
//!
//! ```text
//! version 1 | state 1 | role 1 | exchange 16 | me 30 | them 30 | what the state has
//! ```

use halloo_wire::{DecodeError, Fingerprint, Reader, Writer};
use zeroize::Zeroizing;

use super::code::SafetyCode;
use super::{AwaitCommit, AwaitInitiatorKey, AwaitReveal, Compare, Confirmed, Parties, Role};

const VERSION: u8 = 1;
const AWAIT_COMMIT: u8 = 1;
const AWAIT_REVEAL: u8 = 2;
const AWAIT_INITIATOR_KEY: u8 = 3;
const COMPARE: u8 = 4;
const CONFIRMED: u8 = 5;

/// Any state of an exchange, for the store.
pub enum SafetyState {
    /// Initiator, before the commitment.
    AwaitCommit(AwaitCommit),
    /// Initiator, before the responder's key.
    AwaitReveal(AwaitReveal),
    /// Responder, before the initiator's key.
    AwaitInitiatorKey(AwaitInitiatorKey),
    /// Either, while the code waits to be typed.
    Compare(Compare),
    /// Either, after our person typed the right digits.
    Confirmed(Confirmed),
}

impl SafetyState {
    /// Reads the bytes of [`SafetyState::to_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] when they are not exactly one state.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let state = r.u8()?;
        let role = match r.u8()? {
            0 => Role::Initiator,
            1 => Role::Responder,
            _ => return Err(DecodeError::Invalid("role")),
        };
        let parties = Parties {
            role,
            exchange: r.array()?,
            me: Fingerprint::from_bytes(r.array()?),
            them: Fingerprint::from_bytes(r.array()?),
        };
        let secret = Zeroizing::new(r.array()?);
        let it = match (state, role) {
            (AWAIT_COMMIT, Role::Initiator) => Self::AwaitCommit(AwaitCommit { parties, secret }),
            (AWAIT_REVEAL, Role::Initiator) => {
                Self::AwaitReveal(AwaitReveal { parties, secret, commitment: r.array()? })
            }
            (AWAIT_INITIATOR_KEY, Role::Responder) => {
                Self::AwaitInitiatorKey(AwaitInitiatorKey { parties, secret })
            }
            (COMPARE, _) => {
                let they_confirmed = read_bool(&mut r)?;
                let code =
                    SafetyCode::from_number(r.u32()?).ok_or(DecodeError::Invalid("safety code"))?;
                Self::Compare(Compare { parties, code, mac_key: secret, they_confirmed })
            }
            (CONFIRMED, _) => {
                let they_confirmed = read_bool(&mut r)?;
                Self::Confirmed(Confirmed { parties, mac_key: secret, they_confirmed })
            }
            (AWAIT_COMMIT | AWAIT_REVEAL | AWAIT_INITIATOR_KEY, _) => {
                return Err(DecodeError::Invalid("role"));
            }
            (other, _) => return Err(DecodeError::UnknownType(other)),
        };
        r.finish()?;
        Ok(it)
    }

    /// The state's bytes. They hold the exchange's secret: they belong into a private store.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::AwaitCommit(s) => s.to_bytes(),
            Self::AwaitReveal(s) => s.to_bytes(),
            Self::AwaitInitiatorKey(s) => s.to_bytes(),
            Self::Compare(s) => s.to_bytes(),
            Self::Confirmed(s) => s.to_bytes(),
        }
    }

    /// The exchange.
    pub fn exchange(&self) -> [u8; 16] {
        self.parties().exchange
    }

    /// With whom.
    pub fn them(&self) -> Fingerprint {
        self.parties().them
    }

    /// Whether our key has been revealed. From then on, a run that ends in any way but
    /// [`Verified`](super::Verified) counts as failed ([`Attempts`](super::Attempts)).
    pub fn has_revealed(&self) -> bool {
        match self {
            Self::AwaitCommit(_) | Self::AwaitInitiatorKey(_) => false,
            Self::AwaitReveal(_) | Self::Compare(_) | Self::Confirmed(_) => true,
        }
    }

    fn parties(&self) -> &Parties {
        match self {
            Self::AwaitCommit(s) => &s.parties,
            Self::AwaitReveal(s) => &s.parties,
            Self::AwaitInitiatorKey(s) => &s.parties,
            Self::Compare(s) => &s.parties,
            Self::Confirmed(s) => &s.parties,
        }
    }
}

macro_rules! storable {
    ($name:ident, $state:expr, |$it:ident, $w:ident| $rest:block) => {
        impl $name {
            /// The state's bytes, to be read by [`SafetyState::from_bytes`]. They hold the
            /// exchange's secret: they belong into a private store.
            pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
                let $it = self;
                let mut $w = head($state, &self.parties);
                $rest
                Zeroizing::new($w.into_vec())
            }
        }

        impl From<$name> for SafetyState {
            fn from(state: $name) -> Self {
                Self::$name(state)
            }
        }
    };
}

storable!(AwaitCommit, AWAIT_COMMIT, |it, w| {
    w.put(&it.secret[..]);
});
storable!(AwaitReveal, AWAIT_REVEAL, |it, w| {
    w.put(&it.secret[..]).put(&it.commitment);
});
storable!(AwaitInitiatorKey, AWAIT_INITIATOR_KEY, |it, w| {
    w.put(&it.secret[..]);
});
storable!(Compare, COMPARE, |it, w| {
    w.put(&it.mac_key[..]).u8(u8::from(it.they_confirmed)).u32(it.code.number());
});
storable!(Confirmed, CONFIRMED, |it, w| {
    w.put(&it.mac_key[..]).u8(u8::from(it.they_confirmed));
});

fn head(state: u8, parties: &Parties) -> Writer {
    // Reserved as a whole, so that growing leaves no copy of the secret behind.
    let mut w = Writer::with_capacity(160);
    w.u8(VERSION).u8(state);
    w.u8(match parties.role {
        Role::Initiator => 0,
        Role::Responder => 1,
    });
    w.put(&parties.exchange).put(parties.me.as_bytes()).put(parties.them.as_bytes());
    w
}

fn read_bool(r: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("flag")),
    }
}
