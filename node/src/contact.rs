//! People and devices that the node knows.

use std::fmt;

use halloo_identity::{Address, Fingerprint};
use serde::{Deserialize, Serialize};

use crate::event::Path;

/// Somebody that the node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub fingerprint: Fingerprint,
    /// Where they are reached: their first rendezvous peer.
    pub address: Address,
    /// The name that this node's owner uses; unique.
    pub name: String,
    /// The name that they give themselves; proof of nothing, may be empty.
    pub given_name: String,
    /// The line in their request, if they sent one.
    pub note: String,
    /// Whether messages flow.
    pub state: ContactState,
    /// Whether the two people have compared a code.
    pub verified: Verification,
    /// How something sent to them travels at the moment.
    pub path: Path,
}

/// Whether messages flow between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContactState {
    /// We asked; they have not accepted. Messages wait here.
    Requested,
    /// They asked; we have not accepted.
    Incoming,
    /// Both want to talk.
    Accepted,
    /// We do not want to hear from them.
    Blocked,
}

impl ContactState {
    pub(crate) fn to_i64(self) -> i64 {
        match self {
            Self::Requested => 1,
            Self::Incoming => 2,
            Self::Accepted => 3,
            Self::Blocked => 4,
        }
    }

    pub(crate) fn from_i64(v: i64) -> Option<Self> {
        [Self::Requested, Self::Incoming, Self::Accepted, Self::Blocked]
            .into_iter()
            .find(|s| s.to_i64() == v)
    }
}

impl fmt::Display for ContactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Incoming => "wants to talk",
            Self::Accepted => "accepted",
            Self::Blocked => "blocked",
        })
    }
}

/// Whether the two people have made sure that nobody stands between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verification {
    /// Not yet.
    NotChecked,
    /// They have.
    Checked {
        /// When, Unix seconds.
        at_unix_s: u64,
        /// How.
        how: CheckedHow,
    },
    /// They had, and the contact's key is another one since.
    KeyChanged,
}

impl Verification {
    /// Whether the contact is checked.
    pub fn is_checked(&self) -> bool {
        matches!(self, Self::Checked { .. })
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotChecked => f.write_str("not checked"),
            Self::Checked { at_unix_s, how } => {
                write!(f, "checked {} by {how}", crate::text::date(*at_unix_s))
            }
            Self::KeyChanged => f.write_str("key changed"),
        }
    }
}

/// How two people made sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckedHow {
    /// Each typed the six digits that the other read out.
    Code,
    /// They compared the long number, or scanned it, face to face.
    Number,
}

impl fmt::Display for CheckedHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Number => "number",
        })
    }
}

/// Who may learn this node's addresses and get a direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum DirectPolicy {
    /// Contacts that are checked.
    Verified,
    /// Contacts that are accepted.
    #[default]
    Accepted,
    /// Nobody: everything goes through rendezvous peers.
    Never,
}

impl DirectPolicy {
    /// Whether a contact in this standing may have a direct path.
    pub fn allows(self, state: ContactState, verified: Verification) -> bool {
        state == ContactState::Accepted
            && match self {
                Self::Verified => verified.is_checked(),
                Self::Accepted => verified != Verification::KeyChanged,
                Self::Never => false,
            }
    }
}

impl fmt::Display for DirectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verified => "verified",
            Self::Accepted => "accepted",
            Self::Never => "never",
        })
    }
}

impl std::str::FromStr for DirectPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        [Self::Verified, Self::Accepted, Self::Never]
            .into_iter()
            .find(|p| p.to_string() == text)
            .ok_or(UnknownPolicy)
    }
}

/// The text is not a [`DirectPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the policy is one of: verified, accepted, never")]
pub struct UnknownPolicy;
