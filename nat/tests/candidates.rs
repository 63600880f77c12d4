//! What a node dials when a contact's card arrives.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use halloo_nat::limits::MAX_ATTESTED_TARGETS;
use halloo_nat::{
    Candidate, CandidateKind, Card, MAX_CANDIDATES, candidates_to_try, is_probe_target,
};
use proptest::prelude::*;

use CandidateKind::{Host, Mapped, ServerReflexive};

#[test]
fn the_short_way_comes_first_and_the_seen_address_last() {
    let list = candidates_to_try(
        &card(&[
            (ServerReflexive, "203.0.113.5:51000"),
            (Mapped, "203.0.113.5:40000"),
            (Host, "192.168.1.7:40000"),
            (Host, "[2600:db8::7]:40000"),
        ]),
        &["203.0.113.5:51000", "203.0.113.5:40000", "[2600:db8::7]:40000"].map(addr),
        &[ip("192.168.1.2")],
    );
    assert_eq!(
        written(&list),
        ["[2600:db8::7]:40000", "192.168.1.7:40000", "203.0.113.5:40000", "203.0.113.5:51000"]
    );
}

#[test]
fn two_nodes_on_one_machine_meet_on_loopback() {
    let card = card(&[(Host, "127.0.0.1:40001")]);
    let here = candidates_to_try(&card, &[addr("127.0.0.1:40001")], &[ip("127.0.0.1")]);
    assert_eq!(written(&here), ["127.0.0.1:40001"]);
    assert_eq!(here[0].kind, Host);

    let elsewhere = candidates_to_try(&card, &[addr("127.0.0.1:40001")], &[ip("10.0.0.1")]);
    assert!(elsewhere.is_empty());
}

#[test]
fn an_observed_address_is_not_crowded_out_by_a_full_card() {
    let crowd: Vec<(CandidateKind, String)> =
        (1..=MAX_CANDIDATES).map(|i| (Host, format!("10.0.0.{i}:5000"))).collect();
    let crowd: Vec<(CandidateKind, &str)> = crowd.iter().map(|(k, a)| (*k, a.as_str())).collect();
    let list = candidates_to_try(&card(&crowd), &[addr("203.0.113.5:51000")], &[ip("10.9.9.9")]);
    assert_eq!(list.len(), MAX_CANDIDATES);
    assert_eq!(list.last().unwrap().addr, addr("203.0.113.5:51000"));
    assert_eq!(list[0].addr, addr("10.0.0.1:5000"));
}

#[test]
fn a_card_full_of_strangers_reaches_none_of_them() {
    let victims: Vec<String> = (1..=8).map(|i| format!("198.51.100.{i}:5000")).collect();
    let victims: Vec<(CandidateKind, &str)> =
        victims.iter().map(|a| (Mapped, a.as_str())).collect();
    let list = candidates_to_try(&card(&victims), &[addr("203.0.113.5:51000")], &[]);
    assert_eq!(written(&list), ["203.0.113.5:51000"], "only where her peer has seen her");
}

#[test]
fn of_many_attested_addresses_a_few_are_tried() {
    let attested: Vec<SocketAddr> =
        (1..=20).map(|i| addr(&format!("198.51.100.{i}:5000"))).collect();
    let list = candidates_to_try(&Card::default(), &attested, &[]);
    assert_eq!(list.len(), MAX_ATTESTED_TARGETS);
    assert_eq!(list[0].addr, attested[0], "the presence's own is the first");
}

#[test]
fn without_a_card_or_an_observation_there_is_nothing_to_try() {
    assert!(candidates_to_try(&Card::default(), &[], &[ip("10.0.0.1")]).is_empty());
}

proptest! {
    #[test]
    fn every_list_keeps_the_rules(
        candidates in prop::collection::vec(candidate(), 0..=12),
        attested in prop::collection::vec(socket_addr(), 0..6),
        own in prop::collection::vec(own_ip(), 0..4),
    ) {
        let card = Card { candidates, ..Card::default() };
        let list = candidates_to_try(&card, &attested, &own);
        let attested: Vec<SocketAddr> =
            attested.iter().take(MAX_ATTESTED_TARGETS).map(|&a| canonical(a)).collect();

        prop_assert!(list.len() <= MAX_CANDIDATES);
        for (i, c) in list.iter().enumerate() {
            prop_assert!(is_probe_target(c.addr, &own), "{} is no target", c.addr);
            prop_assert!(list[..i].iter().all(|earlier| earlier.addr != c.addr), "twice");
            let claimed = card.candidates.iter().any(|k| canonical(k.addr) == c.addr);
            prop_assert!(claimed || attested.contains(&c.addr), "out of thin air");
            let local = !is_probe_target(c.addr, &[]);
            prop_assert!(local || attested.contains(&c.addr), "{} is not attested", c.addr);
        }
        let order: Vec<_> = list.iter().map(|c| (c.kind, c.addr.is_ipv4())).collect();
        prop_assert!(order.is_sorted(), "{order:?}");
        for &addr in attested.iter().filter(|&&a| is_probe_target(a, &own)) {
            prop_assert!(list.iter().any(|c| c.addr == addr), "what is attested is kept");
        }
    }

    #[test]
    fn more_of_ones_own_networks_never_take_a_target_away(
        target in socket_addr(),
        own in prop::collection::vec(own_ip(), 0..4),
        more in own_ip(),
    ) {
        let with_more: Vec<IpAddr> = own.iter().copied().chain([more]).collect();
        prop_assert!(!is_probe_target(target, &own) || is_probe_target(target, &with_more));
    }
}

/// Addresses that often fall into the same special ranges, so that rules meet each other.
fn socket_addr() -> impl Strategy<Value = SocketAddr> {
    let port = prop_oneof![Just(443u16), 1024..1030u16, any::<u16>()];
    (own_ip(), port).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn own_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        (0..4u8).prop_map(|i| IpAddr::from([127, 0, 0, i])),
        (0..4u8).prop_map(|i| IpAddr::from([10, 0, 0, i])),
        (0..4u8).prop_map(|i| IpAddr::from([203, 0, 113, i])),
        (0..4u8).prop_map(|i| IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, u16::from(i)])),
        (0..4u16).prop_map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i])),
        (0..4u16).prop_map(|i| IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, i])),
        (0..4u16).prop_map(|i| IpAddr::from([0, 0, 0, 0, 0, 0, 0, i])),
        (0..4u16).prop_map(|i| IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, i])),
    ]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (prop::sample::select(vec![Host, Mapped, ServerReflexive]), socket_addr())
        .prop_map(|(kind, addr)| Candidate { kind, addr })
}

fn card(candidates: &[(CandidateKind, &str)]) -> Card {
    let candidates = candidates.iter().map(|&(kind, a)| Candidate { kind, addr: addr(a) });
    Card { candidates: candidates.collect(), ..Card::default() }
}

fn written(list: &[Candidate]) -> Vec<String> {
    list.iter().map(|c| c.addr.to_string()).collect()
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
