//! What a rendezvous peer makes its invites with.

use std::fmt;

use halloo_wire::Fingerprint;
use halloo_wire::invite::{INVITE_HEAD_LEN, INVITE_LEN, Invite, InviteHead};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a tag.
const TAG_LEN: usize = INVITE_LEN - INVITE_HEAD_LEN;
const KEY_CONTEXT: &str = "halloo 2026 invite key v1";

/// Makes invites, and knows them again. It comes from the peer's key, so a peer that was restarted
/// knows those that it made before, and one with another key does not.
///
/// A tag is keyed BLAKE3 over the head and, for an invite that is bound, the fingerprint, cut to 120
/// bits.
#[derive(Clone)]
pub struct InviteKey(Zeroizing<[u8; 32]>);

impl InviteKey {
    pub(crate) fn derive(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(KEY_CONTEXT, seed)))
    }

    /// Makes an invite that is not bound, or one for an identity.
    ///
    /// `id` is drawn at random. `expires` is in Unix seconds.
    pub fn issue(
        &self,
        id: halloo_wire::InviteId,
        expires: u32,
        for_whom: Option<&Fingerprint>,
    ) -> Invite {
        let head = InviteHead { bound: for_whom.is_some(), id, expires };
        Invite::new(&head, &self.tag(&head, for_whom))
    }

    /// What an invite says, if this key has made it, and for `who` when it is bound. Takes the same
    /// time for every wrong tag. Nobody has looked at the time that it says.
    pub fn open(&self, invite: &Invite, who: &Fingerprint) -> Option<InviteHead> {
        let head = invite.head()?;
        let right = self.tag(&head, head.bound.then_some(who));
        bool::from(right.ct_eq(invite.tag())).then_some(head)
    }

    /// A name for an identity that means nothing without this key.
    pub fn alias(&self, who: &Fingerprint) -> [u8; 16] {
        // One byte longer than what a tag of a bound invite covers, and so another input than any.
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[0; INVITE_HEAD_LEN + 1]).update(who.as_bytes());
        let mut alias = [0; 16];
        alias.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        alias
    }

    fn tag(&self, head: &InviteHead, for_whom: Option<&Fingerprint>) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&head.encode());
        if let Some(who) = for_whom {
            hasher.update(who.as_bytes());
        }
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
        tag
    }
}

impl fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteKey(…)")
    }
}
