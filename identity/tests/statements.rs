//! Contact cards, rotations and moves.
#![allow(clippy::unwrap_used)]

mod common;

use common::{alice, bob, peers};
use halloo_identity::{
    CardError, ContactCard, Continuity, ContinuityError, Move, PeerAddress, PeerFingerprint,
    PeerHost, SignatureError, Signatures, Signer,
};
use halloo_wire::DecodeError;
use proptest::prelude::*;

#[test]
fn a_card_says_who_and_where() {
    let card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap();
    let read = ContactCard::from_text(&card.to_text()).unwrap();
    assert_eq!(read, card);
    let verified = read.verify().unwrap();
    assert_eq!(verified.fingerprint(), alice().fingerprint());
    assert_eq!((verified.name(), verified.seq()), ("Alice", 3));
    assert_eq!(verified.peers(), peers());
    let addresses: Vec<_> = verified.addresses().map(|a| a.to_string()).collect();
    let fingerprint = alice().fingerprint();
    assert_eq!(
        addresses,
        [format!("peer.example/{fingerprint}"), format!("[2001:db8::1]:8443/{fingerprint}")],
    );
}

#[test]
fn a_card_survives_line_breaks() {
    let text = ContactCard::sign(&alice(), 1, "", peers()).unwrap().to_text();
    let (head, tail) = text.split_at(40);
    assert!(ContactCard::from_text(&format!(" {head}\r\n {tail}\n")).is_ok());
    for wrong in ["", "halloo-card", "halloo-card:!", "mailto:alice", &text[..text.len() - 1]] {
        assert!(ContactCard::from_text(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_card_keeps_its_limits() {
    let sign = |name: &str, peers| ContactCard::sign(&alice(), 1, name, peers).unwrap_err();
    assert_eq!(sign(&"x".repeat(65), peers()), CardError::Name);
    assert_eq!(sign("Al\u{1b}[2Jice", peers()), CardError::Name);
    assert_eq!(sign("Alice", Vec::new()), CardError::Peers);
    assert_eq!(sign("Alice", [peers(), peers()].concat()), CardError::Peers);
    let longest = PeerHost::new(&["abcdefghijklmno"; 15].join("."), 1).unwrap();
    let longest = PeerAddress { host: longest, key: peers()[0].key };
    let card = ContactCard::sign(&alice(), 1, &"x".repeat(64), vec![longest; 3]).unwrap();
    assert_eq!(ContactCard::decode(&card.encode()), Ok(card));
}

#[test]
fn every_changed_bit_of_a_card_or_move_is_refused() {
    let card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap().encode();
    for changed in flips(&card) {
        assert!(!ContactCard::decode(&changed).is_ok_and(|card| card.verify().is_ok()));
    }
    let statement = Move::sign(&alice(), peers(), 4, 1_800_000_000).unwrap().encode();
    for changed in flips(&statement) {
        assert!(!Move::decode(&changed).is_ok_and(|it| it.verify().is_ok()));
    }
}

#[test]
fn changed_bits_of_a_rotation_are_refused() {
    let statement = Continuity::sign(&alice(), &bob(), 1, 5).encode();
    // One bit in every seventh byte: all of its 93,000 would take a minute.
    for at in (0..statement.len()).step_by(7) {
        let mut changed = statement.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!Continuity::decode(&changed).is_ok_and(|it| it.verify().is_ok()), "{at}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap().encode();
    assert!((0..card.len()).all(|n| ContactCard::decode(&card[..n]).is_err()));
    let statement = Move::sign(&alice(), peers(), 4, 5).unwrap().encode();
    assert!((0..statement.len()).all(|n| Move::decode(&statement[..n]).is_err()));
    let statement = Continuity::sign(&alice(), &bob(), 1, 5).encode();
    assert!((0..statement.len()).all(|n| Continuity::decode(&statement[..n]).is_err()));
    for mut longer in [card, statement] {
        longer.push(0);
        assert!(ContactCard::decode(&longer).is_err() && Continuity::decode(&longer).is_err());
    }
}

#[test]
fn a_card_is_not_a_move() {
    // The bytes of one never pass for the other: each is signed in a role of its own.
    let card = ContactCard::sign(&alice(), 3, "", peers()).unwrap();
    let statement = Move {
        counter: 3,
        at: 0,
        passport: card.passport.clone(),
        peers: card.peers.clone(),
        signature: card.signature,
    };
    assert_eq!(statement.verify(), Err(ContinuityError::Signature(SignatureError::Ed25519)),);
}

#[test]
fn a_card_signed_by_another_is_refused() {
    let mut card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap();
    card.passport = bob().passport_der().to_vec();
    assert_eq!(card.verify(), Err(CardError::Signature(SignatureError::Ed25519)));
}

#[test]
fn a_rotation_is_followed_once() {
    let (alice, heir) = (alice(), bob());
    let statement = Continuity::sign(&alice, &heir, 1, 1_800_000_000);
    let statement = Continuity::decode(&statement.encode()).unwrap();
    let verified = statement.verify().unwrap();
    assert_eq!((verified.counter(), verified.at()), (1, 1_800_000_000));
    assert_eq!(verified.old().fingerprint(), alice.fingerprint());

    let passport = verified.follow(&alice.fingerprint(), 0).unwrap();
    assert_eq!(passport.fingerprint(), heir.fingerprint());
    assert_eq!(verified.follow(&alice.fingerprint(), 1), Err(ContinuityError::StaleCounter),);
    assert_eq!(verified.follow(&heir.fingerprint(), 0), Err(ContinuityError::OtherIdentity));
}

#[test]
fn a_rotation_needs_all_four_signatures() {
    let statement = Continuity::sign(&alice(), &bob(), 1, 5);
    let stranger = Continuity::sign(&bob(), &alice(), 1, 5);
    let break_one: [fn(&mut Continuity, &Continuity); 4] = [
        |s, other| s.old_signatures.ed25519 = other.old_signatures.ed25519,
        |s, other| s.old_signatures.ml_dsa = other.old_signatures.ml_dsa.clone(),
        |s, other| s.new_signatures.ed25519 = other.new_signatures.ed25519,
        |s, other| s.new_signatures.ml_dsa = other.new_signatures.ml_dsa.clone(),
    ];
    for change in break_one {
        let mut changed = statement.clone();
        change(&mut changed, &stranger);
        assert!(matches!(changed.verify(), Err(ContinuityError::Signature(_))));
    }
    let change_one: [fn(&mut Continuity); 4] = [
        |s| s.counter += 1,
        |s| s.at += 1,
        |s| std::mem::swap(&mut s.old, &mut s.new),
        |s| s.new.ml_dsa_key[0] ^= 1,
    ];
    for change in change_one {
        let mut changed = statement.clone();
        change(&mut changed);
        assert!(matches!(changed.verify(), Err(ContinuityError::Signature(_))));
    }
    let same = Continuity::sign(&alice(), &alice(), 1, 5);
    assert_eq!(same.verify(), Err(ContinuityError::SameIdentity));
}

#[test]
fn a_move_is_followed_once() {
    let statement = Move::sign(&alice(), peers(), 4, 1_800_000_000).unwrap();
    let verified = Move::decode(&statement.encode()).unwrap().verify().unwrap();
    assert_eq!(verified.follow(&alice().fingerprint(), 3), Ok(&peers()[..]));
    assert_eq!(verified.follow(&alice().fingerprint(), 4), Err(ContinuityError::StaleCounter),);
    assert_eq!(verified.follow(&bob().fingerprint(), 0), Err(ContinuityError::OtherIdentity),);
    assert_eq!(Move::sign(&alice(), Vec::new(), 1, 1), Err(ContinuityError::Peers));
}

#[test]
fn other_versions_are_named() {
    let mut card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap().encode();
    card[0] = 2;
    assert_eq!(ContactCard::decode(&card), Err(DecodeError::UnsupportedVersion(2)));
    assert_eq!(Move::decode(&card), Err(DecodeError::UnsupportedVersion(2)));
    assert_eq!(Continuity::decode(&card), Err(DecodeError::UnsupportedVersion(2)));
}

proptest! {
    #[test]
    fn cards_survive_encoding(card in any_card()) {
        prop_assert_eq!(ContactCard::decode(&card.encode()), Ok(card.clone()));
        prop_assert_eq!(ContactCard::from_text(&card.to_text()), Ok(card));
    }

    #[test]
    fn moves_survive_encoding(card in any_card(), at in any::<u64>()) {
        let ContactCard { passport, seq, peers, signature, .. } = card;
        let statement = Move { counter: seq, at, passport, peers, signature };
        prop_assert_eq!(Move::decode(&statement.encode()), Ok(statement));
    }

    #[test]
    fn rotations_survive_encoding(card in any_card(), at in any::<u64>(), fill in any::<[u8; 4]>()) {
        let signer = |fill, passport| Signer { passport, ml_dsa_key: Box::new([fill; 1952]) };
        let signatures = |fill, ed25519| Signatures { ed25519, ml_dsa: Box::new([fill; 3309]) };
        let statement = Continuity {
            counter: card.seq,
            at,
            old: signer(fill[0], card.passport),
            new: signer(fill[1], vec![fill[1]; usize::from(fill[0])]),
            old_signatures: signatures(fill[2], card.signature),
            new_signatures: signatures(fill[3], [fill[3]; 64]),
        };
        prop_assert_eq!(Continuity::decode(&statement.encode()), Ok(statement));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        halloo_identity::fuzzing::statements(&bytes);
    }
}

fn any_card() -> impl Strategy<Value = ContactCard> {
    let peer = ("[a-z]{1,9}(\\.[a-z]{2,9}){0,3}", 1..=u16::MAX, any::<Option<[u8; 30]>>())
        .prop_map(|(host, port, key)| PeerAddress {
            host: PeerHost::new(&host, port).unwrap(),
            key: key.map(PeerFingerprint::from_bytes),
        });
    let name = "[^\\p{Cc}]{0,16}";
    let passport = prop::collection::vec(any::<u8>(), 0..300);
    let signature = (any::<[u8; 32]>(), any::<[u8; 32]>());
    (passport, any::<u64>(), name, prop::collection::vec(peer, 1..=3), signature).prop_map(
        |(passport, seq, name, peers, (r, s))| {
            let signature = [r, s].concat().try_into().unwrap();
            ContactCard { passport, seq, name, peers, signature }
        },
    )
}

fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..8 * bytes.len()).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    })
}
