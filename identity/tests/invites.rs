//! Invites: who can make one, and for whom.
#![allow(clippy::unwrap_used)]

use halloo_identity::{Fingerprint, InviteKey, PeerKey};
use halloo_wire::invite::InviteHead;
use halloo_wire::{Invite, InviteId};
use proptest::prelude::*;

const ID: InviteId = InviteId([0x1a; 10]);
const EXPIRES: u32 = 2_000_000_000;

fn key() -> InviteKey {
    PeerKey::from_seed(&[7; 32]).invite_key()
}

fn somebody(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 30])
}

#[test]
fn the_invites_of_a_key_never_change() {
    for (whom, written) in [
        (None, "04d1m6gt38d1m6gt39vkb5004g4bp3ftth1j9ymvg3fekgt8z125"),
        (Some(somebody(9)), "08d1m6gt38d1m6gt39vkb50028ct03eqypjwtgpax41edspybbcm"),
    ] {
        assert_eq!(key().issue(ID, EXPIRES, whom.as_ref()).to_string(), written);
    }
}

#[test]
fn an_invite_is_good_for_whoever_has_it_or_for_one() {
    let open = key().issue(ID, EXPIRES, None);
    let bound = key().issue(ID, EXPIRES, Some(&somebody(1)));
    let head = |bound| Some(InviteHead { bound, id: ID, expires: EXPIRES });
    assert_eq!(key().open(&open, &somebody(1)), head(false));
    assert_eq!(key().open(&open, &somebody(2)), head(false));
    assert_eq!(key().open(&bound, &somebody(1)), head(true));
    assert_eq!(key().open(&bound, &somebody(2)), None);
    let other = PeerKey::from_seed(&[8; 32]).invite_key();
    assert_eq!(other.open(&open, &somebody(1)), None);
    assert_ne!(other.alias(&somebody(1)), key().alias(&somebody(1)));
}

proptest! {
    #[test]
    fn nothing_of_an_invite_can_be_changed(
        id: [u8; 10],
        expires: u32,
        whom in proptest::option::of(any::<[u8; 30]>()),
        at in 0..30usize,
        by in 1..=u8::MAX,
    ) {
        let who = Fingerprint::from_bytes(whom.unwrap_or([3; 30]));
        let invite = key().issue(InviteId(id), expires, whom.is_some().then_some(&who));
        let head = InviteHead { bound: whom.is_some(), id: InviteId(id), expires };
        prop_assert_eq!(key().open(&invite, &who), Some(head));
        let mut bytes = *invite.as_bytes();
        bytes[at] ^= by;
        prop_assert_eq!(key().open(&Invite::from_bytes(bytes), &who), None);
    }

    #[test]
    fn what_is_guessed_is_no_invite(bytes: [u8; 30], who: [u8; 30]) {
        let who = Fingerprint::from_bytes(who);
        prop_assert_eq!(key().open(&Invite::from_bytes(bytes), &who), None);
    }
}
