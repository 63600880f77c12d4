//! Invites: what somebody shows to a rendezvous peer that hosts only those whom its operator has
//! invited.
//!
//! ```text
//! kind 1 | id 10 | expires 4, Unix seconds | tag 15
//! ```
//!
//! The tag is the peer's own: it is made with a key that comes from the peer's key
//! (`halloo_identity::InviteKey`), so that a peer which was restarted knows its invites again
//! without having kept one. Kind 1 is for whoever uses it first, kind 2 for one identity, whose
//! fingerprint is in the tag and not in the bytes. Another kind is one that this program does not
//! know, and which no peer of its age has made.
//!
//! Written, an invite has 52 characters like a fingerprint, with a checksum of its own, so that
//! neither is taken for the other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{
    FINGERPRINT_LEN, FINGERPRINT_TEXT_LEN, FingerprintError, base32_decode, base32_group,
    base32_value, base32_with_checksum,
};

/// Bytes of an invite.
pub const INVITE_LEN: usize = FINGERPRINT_LEN;
/// Bytes of an invite that its tag covers: all that come before it.
pub const INVITE_HEAD_LEN: usize = 15;
/// Characters of a written invite.
pub const INVITE_TEXT_LEN: usize = FINGERPRINT_TEXT_LEN;
/// Bytes of an invite's id.
pub const INVITE_ID_LEN: usize = 10;
/// Characters of a written id.
pub const INVITE_ID_TEXT_LEN: usize = 16;

/// The first byte of an invite for whoever uses it first.
const KIND_FIRST: u8 = 1;
/// The first byte of an invite for one identity.
const KIND_BOUND: u8 = 2;

/// Why a text is not an invite, or not an invite's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Another number of characters after hyphens are taken out.
    #[error(
        "an invite has {INVITE_TEXT_LEN} characters and an invite's id {INVITE_ID_TEXT_LEN}, this has {0}"
    )]
    Length(usize),
    /// A character outside of the alphabet.
    #[error("the character {0:?} cannot stand in an invite")]
    Character(char),
    /// The last four characters do not fit the others: a typing mistake, or something else that has
    /// as many characters.
    #[error("the invite's checksum does not match: a character is wrong, or it is not an invite")]
    Checksum,
}

impl From<FingerprintError> for InviteError {
    fn from(e: FingerprintError) -> Self {
        match e {
            FingerprintError::Length(n) => Self::Length(n),
            FingerprintError::Character(c) => Self::Character(c),
            FingerprintError::Checksum => Self::Checksum,
        }
    }
}

/// What an invite says, and its tag covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InviteHead {
    /// Whether it is for one identity, and not for whoever uses it first.
    pub bound: bool,
    /// Its name, drawn at random.
    pub id: InviteId,
    /// From when on it is worth nothing, Unix seconds: until 2106.
    pub expires: u32,
}

impl InviteHead {
    /// The bytes that the tag covers.
    pub fn encode(&self) -> [u8; INVITE_HEAD_LEN] {
        let mut head = [0; INVITE_HEAD_LEN];
        head[0] = if self.bound { KIND_BOUND } else { KIND_FIRST };
        head[1..11].copy_from_slice(&self.id.0);
        head[11..].copy_from_slice(&self.expires.to_be_bytes());
        head
    }
}

/// An invite. What holds it may be hosted, so it does not print in debug output.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite([u8; INVITE_LEN]);

impl Invite {
    /// Puts a head and its tag together.
    pub fn new(head: &InviteHead, tag: &[u8; INVITE_LEN - INVITE_HEAD_LEN]) -> Self {
        let mut bytes = [0; INVITE_LEN];
        bytes[..INVITE_HEAD_LEN].copy_from_slice(&head.encode());
        bytes[INVITE_HEAD_LEN..].copy_from_slice(tag);
        Self(bytes)
    }

    /// Wraps bytes; whether a peer has made them is for that peer to say.
    pub const fn from_bytes(bytes: [u8; INVITE_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; INVITE_LEN] {
        &self.0
    }

    /// What it says; `None` when it is of a kind that this program does not know. Nobody has checked
    /// its tag yet.
    pub fn head(&self) -> Option<InviteHead> {
        let bound = match self.0[0] {
            KIND_FIRST => false,
            KIND_BOUND => true,
            _ => return None,
        };
        let (mut id, mut expires) = ([0; INVITE_ID_LEN], [0; 4]);
        id.copy_from_slice(&self.0[1..11]);
        expires.copy_from_slice(&self.0[11..INVITE_HEAD_LEN]);
        Some(InviteHead { bound, id: InviteId(id), expires: u32::from_be_bytes(expires) })
    }

    /// What shows that a peer has made it.
    pub fn tag(&self) -> &[u8] {
        &self.0[INVITE_HEAD_LEN..]
    }

    fn checksum(&self) -> u32 {
        let h = blake3::derive_key("halloo 2026 invite checksum v1", &self.0);
        u32::from_be_bytes([0, h[0], h[1], h[2]]) >> 4
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32_with_checksum(&self.0, self.checksum()))
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invite(…)")
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Reads the written form; forgives white space around it, case, `i l o` for `1 1 0`, and
    /// hyphens.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let (bytes, checksum) = base32_decode(text.trim())?;
        let it = Self(bytes);
        if it.checksum() == checksum { Ok(it) } else { Err(InviteError::Checksum) }
    }
}

/// The name of an invite, by which its peer's operator takes it back. Written as 16 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InviteId(pub [u8; INVITE_ID_LEN]);

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chunks_exact(5).try_for_each(|five| f.write_str(&base32_group(five)))
    }
}

impl FromStr for InviteId {
    type Err = InviteError;

    /// Reads the written form, or a whole invite, whose id it is then.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let mut values = [0; INVITE_ID_TEXT_LEN];
        let mut n = 0;
        for c in text.trim().chars().filter(|&c| c != '-') {
            let value = base32_value(c).ok_or(InviteError::Character(c))?;
            if let Some(slot) = values.get_mut(n) {
                *slot = value;
            }
            n += 1;
        }
        if n == INVITE_TEXT_LEN {
            let invite: Invite = text.parse()?;
            return invite.head().map(|head| head.id).ok_or(InviteError::Checksum);
        }
        if n != INVITE_ID_TEXT_LEN {
            return Err(InviteError::Length(n));
        }
        let mut id = [0; INVITE_ID_LEN];
        for (out, group) in id.chunks_exact_mut(5).zip(values.chunks_exact(8)) {
            let bits = group.iter().fold(0u64, |acc, &v| acc << 5 | u64::from(v));
            out.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        Ok(Self(id))
    }
}
