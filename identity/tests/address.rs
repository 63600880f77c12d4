//! Addresses and fingerprints as people write them.
#![allow(clippy::unwrap_used)]

use halloo_identity::{
    Address, AddressError, Fingerprint, FingerprintError, HostError, PeerAddress, PeerAddressError,
    PeerFingerprint, PeerHost,
};
use proptest::prelude::*;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn somebody() -> Fingerprint {
    Fingerprint::from_bytes(std::array::from_fn(|i| 7 * i as u8 + 1))
}

fn peer_key() -> PeerFingerprint {
    PeerFingerprint::from_bytes([0xa5; 30])
}

#[test]
fn written_fingerprints_are_a_promise() {
    let text = |bytes| Fingerprint::from_bytes(bytes).to_string();
    assert_eq!(text([0; 30]), "00000000000000000000000000000000000000000000000084gd");
    assert_eq!(text([0xff; 30]), "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzht6c");
    assert_eq!(somebody().to_string(), "0440y5gx4gnk4ea08x75aq33d9rqgzw6hpa9q8n9p2vvxheck1fn");
    assert_eq!(peer_key().to_string(), "mpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5my36");
}

#[test]
fn a_place_has_one_spelling() {
    for (written, canonical) in [
        ("peer.example.org", "peer.example.org"),
        ("  Peer.Example.ORG.  ", "peer.example.org"),
        ("peer.example.org:443", "peer.example.org"),
        ("peer.example.org:8443", "peer.example.org:8443"),
        ("localhost:1", "localhost:1"),
        ("my_peer.lan", "my_peer.lan"),
        ("203.0.113.7:65535", "203.0.113.7:65535"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:DB8:0:0::1]:8443", "[2001:db8::1]:8443"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("::1", "[::1]"),
    ] {
        let host: PeerHost = written.parse().unwrap();
        assert_eq!(host.to_string(), canonical, "{written}");
        assert_eq!(PeerHost::try_from(&host.to_hint(None)), Ok(host));
    }
}

#[test]
fn what_is_no_place_is_refused_with_the_reason() {
    let long_label = "a".repeat(64);
    let long_name = ["abcdefg"; 32].join(".");
    for (written, why) in [
        ("", HostError::Empty),
        (":443", HostError::Empty),
        ("peer example", HostError::Character(' ')),
        ("péer.example", HostError::Character('é')),
        ("fe80::1%eth0", HostError::Port),
        ("peer..example", HostError::Label),
        ("-peer.example", HostError::Label),
        (&long_label, HostError::Label),
        (&long_name, HostError::TooLong),
        ("256.0.0.1", HostError::Ipv4),
        ("1.2.3", HostError::Ipv4),
        ("[2001:db8::1", HostError::Bracket),
        ("[peer.example]:1", HostError::Bracket),
        ("[::1]443", HostError::Bracket),
        ("peer.example:0", HostError::Port),
        ("peer.example:65536", HostError::Port),
        ("peer.example:+1", HostError::Port),
        ("peer.example:", HostError::Port),
    ] {
        assert_eq!(written.parse::<PeerHost>(), Err(why), "{written:?}");
    }
}

#[test]
fn an_address_is_read_in_both_forms() {
    let (who, key) = (somebody(), peer_key());
    let plain =
        Address { peer: "peer.example:8443".parse().unwrap(), peer_key: None, fingerprint: who };
    let keyed = Address { peer_key: Some(key), ..plain.clone() };
    assert_eq!(plain.to_string(), format!("peer.example:8443/{who}"));
    assert_eq!(plain.to_uri(), format!("halloo://peer.example:8443/{who}"));
    assert_eq!(keyed.to_uri(), format!("halloo://peer.example:8443/{who}?peer={key}"));

    for text in [
        format!("peer.example:8443/{who}"),
        format!("\t peer.example:8443/{who}/\n"),
        format!("HALLOO://PEER.example:8443/{who}"),
        format!("halloo://peer.example:8443/{who}?later=1"),
    ] {
        assert_eq!(text.parse(), Ok(plain.clone()), "{text}");
    }
    for text in [
        format!("halloo://peer.example:8443/{who}?later=1&peer={key}"),
        format!("peer.example:8443/{who}?peer={}", key.to_string().to_uppercase()),
    ] {
        assert_eq!(text.parse(), Ok(keyed.clone()), "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_the_reason() {
    let (who, key) = (somebody(), peer_key());
    for (text, why) in [
        (String::new(), AddressError::NoFingerprint),
        ("peer.example".to_owned(), AddressError::NoFingerprint),
        ("peer.example/".to_owned(), AddressError::NoFingerprint),
        (who.to_string(), AddressError::NoHost),
        (format!("/{who}"), AddressError::NoHost),
        (format!("https://peer.example/{who}"), AddressError::Scheme),
        (format!("halloo-peer://peer.example/{key}"), AddressError::RendezvousPeer),
        (format!("peer.example:x/{who}"), AddressError::Host(HostError::Port)),
        (
            format!("peer.example/{}", who.short()),
            AddressError::Fingerprint(FingerprintError::Length(8)),
        ),
        // The key of a rendezvous peer does not pass for a person, nor a person for a peer.
        (format!("peer.example/{key}"), AddressError::Fingerprint(FingerprintError::Checksum)),
        (
            format!("peer.example/{who}?peer={who}"),
            AddressError::PeerKey(FingerprintError::Checksum),
        ),
        (format!("peer.example/{who}?peer={key}&peer={key}"), AddressError::TwoPeerKeys),
    ] {
        assert_eq!(text.parse::<Address>(), Err(why), "{text:?}");
    }
}

#[test]
fn a_rendezvous_peer_has_an_address_too() {
    let key = peer_key();
    let bare = PeerAddress { host: "peer.example".parse().unwrap(), key: None };
    let keyed = PeerAddress { key: Some(key), ..bare.clone() };
    assert_eq!(bare.to_string(), "halloo-peer://peer.example");
    assert_eq!(keyed.to_string(), format!("halloo-peer://peer.example/{key}"));
    for (text, address) in [
        ("peer.example".to_owned(), &bare),
        ("halloo-peer://peer.example/".to_owned(), &bare),
        (format!("peer.example:443/{key}"), &keyed),
        (keyed.to_string(), &keyed),
    ] {
        assert_eq!(text.parse().as_ref(), Ok(address), "{text}");
    }
    assert_eq!("halloo://peer.example".parse::<PeerAddress>(), Err(PeerAddressError::Scheme));
    assert_eq!(
        format!("peer.example/{}", somebody()).parse::<PeerAddress>(),
        Err(PeerAddressError::Key(FingerprintError::Checksum)),
    );
}

#[test]
fn every_single_wrong_character_is_noticed() {
    // 20 bits of checksum let one wrong text in a million pass; these 12,896 have no such one.
    for n in 0..8u8 {
        let right = Fingerprint::from_bytes([n.wrapping_mul(37); 30]).to_string();
        for at in 0..right.len() {
            for &other in ALPHABET.iter().filter(|&&c| c != right.as_bytes()[at]) {
                let mut wrong = right.clone().into_bytes();
                wrong[at] = other;
                let wrong = String::from_utf8(wrong).unwrap();
                assert_eq!(wrong.parse::<Fingerprint>(), Err(FingerprintError::Checksum));
            }
        }
    }
}

#[test]
fn swapped_neighbours_are_noticed() {
    for n in 0..64u8 {
        let right =
            Fingerprint::from_bytes(std::array::from_fn(|i| n ^ (i as u8).wrapping_mul(29)))
                .to_string();
        for at in 0..right.len() - 1 {
            let mut wrong = right.clone().into_bytes();
            wrong.swap(at, at + 1);
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(wrong == right || wrong.parse::<Fingerprint>().is_err());
        }
    }
}

#[test]
fn every_truncation_of_an_address_is_noticed() {
    let uri = format!("halloo://peer.example/{}?peer={}", somebody(), peer_key());
    let whole: Address = uri.parse().unwrap();
    for n in 0..uri.len() {
        // What ends in front of the key is the same address without its key.
        if let Ok(it) = uri[..n].parse::<Address>() {
            assert_eq!(it.fingerprint, whole.fingerprint);
            assert!(it.peer_key.is_none() && n < uri.len() - 52, "{n}");
        }
    }
    let plain = whole.to_string();
    assert!((0..plain.len()).all(|n| plain[..n].parse::<Address>().is_err()));
}

#[test]
fn a_fingerprint_in_a_log_is_short() {
    assert_eq!(
        format!("{:?}", somebody()),
        format!("Fingerprint({}…)", &somebody().to_string()[..8])
    );
}

proptest! {
    #[test]
    fn addresses_survive_writing_and_reading(address in any_address()) {
        prop_assert_eq!(address.to_uri().parse(), Ok(address.clone()));
        let without_key = Address { peer_key: None, ..address.clone() };
        prop_assert_eq!(address.to_string().parse(), Ok(without_key));
    }

    #[test]
    fn peer_addresses_survive_writing_and_reading(address in any_address()) {
        let address = PeerAddress { host: address.peer, key: address.peer_key };
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn sloppy_spelling_is_forgiven(
        address in any_address(),
        choices in prop::collection::vec(any::<u8>(), 52),
    ) {
        let fingerprint = address.fingerprint.to_string();
        let sloppy: String =
            fingerprint.chars().zip(choices).flat_map(|(c, choice)| spell(c, choice)).collect();
        let text = format!(" \t{}/{sloppy}\n", address.peer.to_string().to_uppercase());
        let read: Address = text.parse().unwrap();
        prop_assert_eq!(read.fingerprint, address.fingerprint);
        prop_assert_eq!(read.peer, address.peer);
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in ".{0,200}") {
        halloo_identity::fuzzing::texts(&text);
    }
}

fn any_address() -> impl Strategy<Value = Address> {
    let name = "([a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?\\.){0,3}[a-z]([a-z0-9-]{0,20}[a-z0-9])?";
    let host = prop_oneof![
        name,
        any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
        any::<[u8; 16]>().prop_map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
    ];
    let port = prop_oneof![Just(443), 1..=u16::MAX];
    (host, port, any::<Option<[u8; 30]>>(), any::<[u8; 30]>()).prop_map(
        |(host, port, key, fingerprint)| Address {
            peer: PeerHost::new(&host, port).unwrap(),
            peer_key: key.map(PeerFingerprint::from_bytes),
            fingerprint: Fingerprint::from_bytes(fingerprint),
        },
    )
}

/// One of the spellings of a character that a person might use.
fn spell(c: char, choice: u8) -> Vec<char> {
    let twin = match (c, choice % 4) {
        ('0', 0) => 'o',
        ('0', 1) => 'O',
        ('1', 0) => 'l',
        ('1', 1) => 'I',
        (c, 2) => c.to_ascii_uppercase(),
        (c, _) => c,
    };
    if choice & 0x40 == 0 { vec![twin] } else { vec![twin, '-'] }
}
