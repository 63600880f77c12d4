//! Invites as bytes and as people write them.

use halloo_wire::invite::{INVITE_TEXT_LEN, InviteError, InviteHead};
use halloo_wire::{Fingerprint, Invite, InviteId, PeerFingerprint};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::golden_file::hex;
use crate::strategies::invite;

fn head(bound: bool) -> InviteHead {
    InviteHead { bound, id: InviteId([0x1a; 10]), expires: 2_000_000_000 }
}

#[test]
fn invites_have_one_written_form() {
    for (bound, bytes, text) in [
        (
            false,
            "011a1a1a1a1a1a1a1a1a1a773594007a7a7a7a7a7a7a7a7a7a7a7a7a7a7a",
            "04d1m6gt38d1m6gt39vkb500f9x7myktf9x7myktf9x7myktkr6s",
        ),
        (
            true,
            "021a1a1a1a1a1a1a1a1a1a773594007a7a7a7a7a7a7a7a7a7a7a7a7a7a7a",
            "08d1m6gt38d1m6gt39vkb500f9x7myktf9x7myktf9x7mykttge5",
        ),
    ] {
        let invite = Invite::new(&head(bound), &[0x7a; 15]);
        assert_eq!(hex(invite.as_bytes()), bytes);
        assert_eq!(invite.to_string(), text);
        assert_eq!(text.parse(), Ok(invite));
        assert_eq!(invite.head(), Some(head(bound)));
        assert_eq!(invite.tag(), [0x7a; 15]);
        assert_eq!(hex(&head(bound).encode()), bytes[..30]);
    }
}

#[test]
fn an_id_is_read_from_itself_and_from_its_invite() {
    let id = InviteId(std::array::from_fn(|i| i as u8));
    assert_eq!(id.to_string(), "000g40r40m30e209");
    assert_eq!("000G-4or4-OM30-e209".parse(), Ok(id));
    let invite = Invite::new(&InviteHead { id, ..head(true) }, &[0; 15]);
    assert_eq!(invite.to_string().parse(), Ok(id));
    let parse = |text: &str| text.parse::<InviteId>().unwrap_err();
    assert_eq!(parse("000g40r40m30e20"), InviteError::Length(15));
    assert_eq!(parse("000g40r40m30e20u"), InviteError::Character('u'));
    assert_eq!(parse(&invite.to_string().replacen('0', "1", 1)), InviteError::Checksum);
    // It belongs to a kind whose id may stand elsewhere.
    assert_eq!(parse(&Invite::from_bytes([9; 30]).to_string()), InviteError::Checksum);
}

#[test]
fn an_invite_is_no_fingerprint() {
    let bytes = *Invite::new(&head(false), &[0x7a; 15]).as_bytes();
    for text in
        [Fingerprint::from_bytes(bytes).to_string(), PeerFingerprint::from_bytes(bytes).to_string()]
    {
        assert_eq!(text.parse::<Invite>(), Err(InviteError::Checksum));
    }
    assert!(Invite::from_bytes(bytes).to_string().parse::<Fingerprint>().is_err());
}

#[test]
fn what_is_wrong_with_an_invite_is_told() {
    let right = Invite::new(&head(false), &[0x7a; 15]).to_string();
    let parse = |text: &str| text.parse::<Invite>().unwrap_err();
    assert_eq!(parse(""), InviteError::Length(0));
    assert_eq!(parse(&right[1..]), InviteError::Length(51));
    assert_eq!(parse(&format!("{right}0")), InviteError::Length(53));
    assert_eq!(parse(&format!("{right}u")), InviteError::Character('u'));
    assert_eq!(format!(" {right}\n").to_uppercase().parse(), right.parse::<Invite>());
    assert_eq!(format!("{:?}", right.parse::<Invite>().unwrap()), "Invite(…)");
}

#[test]
fn another_kind_is_read_and_not_understood() {
    for kind in [0, 3, 0xff] {
        assert_eq!(Invite::from_bytes([kind; 30]).head(), None);
    }
}

proptest! {
    #[test]
    fn invites_survive_being_written(invite in invite()) {
        let text = invite.to_string();
        prop_assert_eq!(text.len(), INVITE_TEXT_LEN);
        prop_assert_eq!(text.parse(), Ok(invite));
        if let Some(head) = invite.head() {
            let tag = invite.tag().try_into().unwrap();
            prop_assert_eq!(Invite::new(&head, &tag), invite);
            prop_assert_eq!(head.id.to_string().parse(), Ok(head.id));
        }
    }

    #[test]
    fn one_wrong_character_is_noticed(invite in invite(), at: Index, by in 1..32usize) {
        const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = invite.to_string().into_bytes();
        let at = at.index(text.len());
        let digit = ALPHABET.iter().position(|&a| a == text[at]).unwrap();
        text[at] = ALPHABET[(digit + by) % 32];
        let text = String::from_utf8(text).unwrap();
        // The checksum has 20 bits: a mistake in what it covers may fit once in a million.
        prop_assume!(at >= 48 || text.parse::<Invite>().is_err());
        if at >= 48 {
            prop_assert_eq!(text.parse::<Invite>(), Err(InviteError::Checksum));
        }
    }
}
