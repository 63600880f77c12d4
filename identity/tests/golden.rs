//! What fixed seeds give. Other programs compute the same, and addresses in the world depend on
//! it: a change here needs a new version, not a new golden value.
#![allow(clippy::unwrap_used)]

mod common;

use common::{alice, bob, hex, peers};
use halloo_identity::{
    Address, ContactCard, Continuity, DataKey, HomeKey, LockedHome, Move, PassphraseCost, PeerKey,
    ReachCapability, SignatureRole, fingerprint, ml_dsa_hash, safety_number,
};
use halloo_wire::content::SafetyStep;

#[test]
fn fingerprint_and_address() {
    let alice = alice();
    assert_eq!(
        hex(&alice.passport_public_key()),
        "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    );
    assert_eq!(
        hex(&ml_dsa_hash(alice.ml_dsa_public_key())),
        "24f6e6fd930a9d10680705972cf647232e1a63d8ce9ad28298b800205185a6b6"
    );
    assert_eq!(
        hex(alice.fingerprint().as_bytes()),
        "40acc438ad4dd152ad2f6d931dcb4b0bdff3358dec871051e888fa41bebd"
    );
    assert_eq!(
        alice.fingerprint().to_string(),
        "82pc8e5d9q8n5b9fdp9hvjtb1ffz6dcdxj3h0mf8h3x43fnxx2tc"
    );
    assert_eq!(
        bob().fingerprint().to_string(),
        "5njeh2atvrdp3e6g9zjfa1szrxvhzffq0212snhnk3xk0y2mvbrg"
    );
    assert_eq!(
        hex(fingerprint(&[0; 32], &[0; 32]).as_bytes()),
        "a180405748ef878f9181afd966b055abec216fa56fa21d1fa823f6f39e0b"
    );

    let address = Address {
        peer: "peer.example".parse().unwrap(),
        peer_key: Some(PeerKey::from_seed(&[7; 32]).fingerprint()),
        fingerprint: alice.fingerprint(),
    };
    assert_eq!(
        address.to_string(),
        "peer.example/82pc8e5d9q8n5b9fdp9hvjtb1ffz6dcdxj3h0mf8h3x43fnxx2tc"
    );
    assert_eq!(
        address.to_uri(),
        "halloo://peer.example/82pc8e5d9q8n5b9fdp9hvjtb1ffz6dcdxj3h0mf8h3x43fnxx2tc?peer=y0p4j0pp01pxftckbdm83qnng39vp3ayx3y4hrqmsyj8cx1cm5za"
    );
}

#[test]
fn certificates() {
    let alice = alice();
    let [device, passport] = alice.device_chain();
    assert_eq!(
        hex(&passport),
        "3082016130820113a003020102021434750f98bd59fcfc946da45aaabe933be154a4b5300506032b6570301a3118301606035504030c0f48616c6c6f6f2070617373706f72743020170d3730303130313030303030305a180f39393939313233313030303030305a301a3118301606035504030c0f48616c6c6f6f2070617373706f7274302a300506032b65700321008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5ca3693067301d0603551d0e04160414fd110d301d2f077de1414b8f99f441b1403fab2030120603551d130101ff040830060101ff0201003032060c698180809a8c96e3b1de6f010422042024f6e6fd930a9d10680705972cf647232e1a63d8ce9ad28298b800205185a6b6300506032b657003410048ccd798fb5981eaa6d460e96b1c1b064d5c28f1c656ac86fc7919073febf71e32b841cd82ab08ba8efbb501ad5140d41a32229101f282fceaa0dabfb82c2704"
    );
    assert_eq!(
        hex(&device),
        "3082010f3081c2a0030201020214362e867fa2f33afe62d5d6b1642e1621d5433078300506032b6570301a3118301606035504030c0f48616c6c6f6f2070617373706f72743020170d3730303130313030303030305a180f39393939313233313030303030305a30183116301406035504030c0d48616c6c6f6f20646576696365302a300506032b6570032100ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1a31a30183016060c698180809a8c96e3b1de6f020406040400000001300506032b6570034100f5d2d2913dd1c1de88cbc41c5f982d62879cc5d9f2ff4ca5faead727748ec8f71364d2eac5f8110bfd59018bf8ced0034fa3b98091db987670d8008c6e201606"
    );
    assert_eq!(
        hex(PeerKey::from_seed(&[7; 32]).cert_der()),
        "308201033081b6a00302010202147e812c12f3ab4ce6ac5db69ac352f906cb1b11ef300506032b65703021311f301d06035504030c1648616c6c6f6f2072656e64657a766f757320706565723020170d3730303130313030303030305a180f39393939313233313030303030305a3021311f301d06035504030c1648616c6c6f6f2072656e64657a766f75732070656572302a300506032b6570032100ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c300506032b6570034100fea5dca519d01900d31052701150ba85bb7e8fdb4dc1e1fe8a51008438d17b66cae60b59354c47bddc3dccff38e1dcef7313d65df56983485b8e1491d1cf650f"
    );
    assert_eq!((passport.len(), device.len()), (357, 275));
}

#[test]
fn key_files() {
    assert_eq!(*PeerKey::from_seed(&[7; 32]).to_key_file(), include_str!("golden/peer-key.pem"));
    assert_eq!(*alice().to_key_file(), include_str!("golden/identity.pem"));
}

#[test]
fn locked_homes() {
    let data_key = DataKey::from_bytes([8; 32]);
    for (key, golden) in [
        (HomeKey::passphrase("correct horse"), include_str!("golden/locked-passphrase.pem")),
        (HomeKey::from_bytes([9; 32]), include_str!("golden/locked-keychain.pem")),
    ] {
        let cost = PassphraseCost::RECOMMENDED;
        let home = LockedHome::lock_with(&alice(), &data_key, &key, cost, [5; 16], [6; 24]);
        assert_eq!(*home.unwrap().to_key_file(), golden);
    }
}

#[test]
fn signatures() {
    let message = SignatureRole::Move.message(b"bytes");
    assert_eq!(message, b"halloo 2026 signature v1: move\0bytes");
    assert_eq!(
        hex(&alice().sign(SignatureRole::Move, b"bytes")),
        "a2154e3cceba210cd82012e4daba960ccde8db4dd857f7235f49a6e55d5f652f0d2b3d94945f6373b947d83a95e1c49f53b045d9a6344f5e14b3290df0ee9807"
    );
    let labels = [
        (SignatureRole::PrekeyBundle, "prekey bundle"),
        (SignatureRole::Introduction, "introduction"),
        (SignatureRole::ContactCard, "contact card"),
        (SignatureRole::Continuity, "continuity"),
        (SignatureRole::Move, "move"),
    ];
    assert!(labels.iter().all(|(role, label)| role.label() == *label));
}

#[test]
fn statements() {
    let card = ContactCard::sign(&alice(), 3, "Alice", peers()).unwrap();
    assert_eq!(
        hex(&card.encode()),
        "01000000000000000301653082016130820113a003020102021434750f98bd59fcfc946da45aaabe933be154a4b5300506032b6570301a3118301606035504030c0f48616c6c6f6f2070617373706f72743020170d3730303130313030303030305a180f39393939313233313030303030305a301a3118301606035504030c0f48616c6c6f6f2070617373706f7274302a300506032b65700321008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5ca3693067301d0603551d0e04160414fd110d301d2f077de1414b8f99f441b1403fab2030120603551d130101ff040830060101ff0201003032060c698180809a8c96e3b1de6f010422042024f6e6fd930a9d10680705972cf647232e1a63d8ce9ad28298b800205185a6b6300506032b657003410048ccd798fb5981eaa6d460e96b1c1b064d5c28f1c656ac86fc7919073febf71e32b841cd82ab08ba8efbb501ad5140d41a32229101f282fceaa0dabfb82c27040005416c69636502000c706565722e6578616d706c6501bb01f02c4902d6006dd7e9935b6881deb580d3bb0d5ee8fc48e2f4cfa486742c000b323030313a6462383a3a3120fb00d63c2bbbc0698e267e4532992ed849977599b2256f9ad600b9fe3b03a34fa96addd5fa122b1ef3057fe3a068ad1973aca4590a29154db7493e6911af5dbb9000"
    );
    let statement = Move::sign(&alice(), peers(), 4, 1_800_000_000).unwrap();
    assert_eq!(
        hex(&statement.encode()),
        "010000000000000004000000006b49d20001653082016130820113a003020102021434750f98bd59fcfc946da45aaabe933be154a4b5300506032b6570301a3118301606035504030c0f48616c6c6f6f2070617373706f72743020170d3730303130313030303030305a180f39393939313233313030303030305a301a3118301606035504030c0f48616c6c6f6f2070617373706f7274302a300506032b65700321008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5ca3693067301d0603551d0e04160414fd110d301d2f077de1414b8f99f441b1403fab2030120603551d130101ff040830060101ff0201003032060c698180809a8c96e3b1de6f010422042024f6e6fd930a9d10680705972cf647232e1a63d8ce9ad28298b800205185a6b6300506032b657003410048ccd798fb5981eaa6d460e96b1c1b064d5c28f1c656ac86fc7919073febf71e32b841cd82ab08ba8efbb501ad5140d41a32229101f282fceaa0dabfb82c270402000c706565722e6578616d706c6501bb01f02c4902d6006dd7e9935b6881deb580d3bb0d5ee8fc48e2f4cfa486742c000b323030313a6462383a3a3120fb00b458db5d5ccf64aede9dee2d185c314ab67f184a4fd53d1302d7314f5e1d59cd96375940ef8da21b0e6bcba90e53aef3a09e097b4d8823252a375b8d2a201105"
    );
}

#[test]
fn rotation() {
    let (alice, bob) = (alice(), bob());
    let bytes = Continuity::sign(&alice, &bob, 4, 1_800_000_000).encode();
    // ML-DSA signatures differ each time; what they sign does not.
    let (signed, signatures) = bytes.split_at(bytes.len() - 2 * (64 + 3309));
    assert_eq!((bytes.len(), signed.len()), (11385, 4639));
    assert_eq!(hex(&signed[..17]), "010000000000000004000000006b49d200");
    assert_eq!(
        hex(blake3::hash(signed).as_bytes()),
        "f34a2b9d9320b0742431fb5013097469852f6d1a8e26ebc0d2c9244954f98d76"
    );
    assert_eq!(signatures[..64], alice.sign(SignatureRole::Continuity, signed));
    assert_eq!(signatures[64 + 3309..][..64], bob.sign(SignatureRole::Continuity, signed));
}

#[test]
fn capability() {
    let capability = ReachCapability::from_bytes([7; 32]);
    assert_eq!(
        hex(&capability.token().0),
        "e48568a2c1badca29770ef8731788fe2aade1a32fd5bb8dd915a619ede63c1cb"
    );
    assert_eq!(
        hex(&capability.id().0),
        "b12fa4048a2353a5c7fc960f7ad27ffbaa5a3ed54ecc621128a7c145fb59b02e"
    );
    assert_eq!(
        hex(&*capability.card_key()),
        "8c2ea23404a1606a3139a98cce055c9892b0d63cd2674adfcb2f3e1571a337ae"
    );
    assert_eq!(capability.id(), capability.token().id());
}

#[test]
fn safety_code() {
    use halloo_identity::safety::{Initiator, Responder, TypedCode};
    let (alice, bob) = (alice().fingerprint(), bob().fingerprint());
    let (a, _) = Initiator::start_with_secret([8; 32].into(), [10; 16], alice, bob);
    let (b, commit) = Responder::on_start_with_secret([9; 32].into(), [10; 16], bob, alice);
    let SafetyStep::Commit(commit) = commit.step else { panic!("a commitment comes second") };
    assert_eq!(hex(&commit), "a74908a0faf4f24af079d540b52909f509f9a48f09987335b88c8d8b41bd8bbf");
    let (a, reveal) = a.on_commit(commit);
    let SafetyStep::RevealInitiator(key) = reveal.step else { panic!("a key comes third") };
    assert_eq!(hex(&key), "31d4ab6aceec961137917037936e60716fac573afe94d9da84a8020448dfc112");
    let (b, reveal) = b.on_reveal(key).unwrap();
    let SafetyStep::RevealResponder(key) = reveal.step else { panic!("a key comes fourth") };
    assert_eq!(hex(&key), "57db4b359f23ae5e146e4e2512056704722506348c150c14753d0c933d04d421");
    let a = a.on_reveal(key).unwrap();
    assert_eq!(a.code().to_string(), "348 981");
    assert_eq!(b.code().to_string(), "348 981");
    let typed = TypedCode::parse("348 981").unwrap();
    let (_, confirm) = a.confirm(&typed).unwrap();
    let SafetyStep::Confirm(mac) = confirm.step else { panic!("a confirmation comes fifth") };
    assert_eq!(hex(&mac), "0e543e7c6153be8f9a658ecfff3a8cdc5cabe87011d2a194f14ff4887b911d1a");
    let (_, confirm) = b.confirm(&typed).unwrap();
    let SafetyStep::Confirm(mac) = confirm.step else { panic!("a confirmation comes fifth") };
    assert_eq!(hex(&mac), "530944d3fc14b94c6168d9c20bb14746e7755a8083787037742dcb8482ee5f20");
}

#[test]
fn the_safety_number() {
    let (alice, bob) = (alice().fingerprint(), bob().fingerprint());
    assert_eq!(
        safety_number(&alice, &bob).to_string(),
        "68026 49626 48357 22292 58915 67170 77136 35986 69717 60349 51691 59764"
    );
}
