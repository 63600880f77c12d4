//! Echo requests: what is answered, from where, to where, and how often.

use super::*;
use std::time::Duration;

const TXID: u64 = 0x0123_4567_89ab_cdef;

fn node() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

/// Asks and returns the answer, of which it checks what holds for all.
fn ask(w: &World, to_second: bool, cookie: u64, answer: EchoAnswer) -> Option<Answer> {
    let request = PeerDatagram::EchoRequest { txid: TXID, cookie, answer }.encode();
    let answer = w.core.peer_datagram(node(), to_second, &request, w.now)?;
    assert_eq!(answer.to.ip(), node().ip());
    assert!(answer.datagram.encode().len() <= request.len());
    let PeerDatagram::EchoReply { txid, from_second, observed, .. } = answer.datagram else {
        panic!("{answer:?}");
    };
    assert_eq!((txid, from_second, observed), (TXID, answer.from_second, answer.to));
    Some(answer)
}

fn cookie_of(answer: Answer) -> u64 {
    let PeerDatagram::EchoReply { cookie, .. } = answer.datagram else { panic!("{answer:?}") };
    cookie
}

#[test]
fn both_ports_tell_a_node_where_they_see_it() {
    let w = World::new();
    let first = ask(&w, false, 0, EchoAnswer::Here).unwrap();
    let second = ask(&w, true, 0, EchoAnswer::Here).unwrap();
    assert_eq!((first.from_second, first.to), (false, node()));
    assert_eq!((second.from_second, second.to), (true, node()));
    assert_eq!(cookie_of(first), cookie_of(second));
    assert_eq!(w.core.stats().echoes, 2);
}

#[test]
fn the_other_port_speaks_only_to_who_has_a_cookie() {
    let w = World::new();
    let cookie = cookie_of(ask(&w, false, 0, EchoAnswer::Here).unwrap());
    for wrong in [0, cookie ^ 1] {
        assert_eq!(ask(&w, false, wrong, EchoAnswer::FromSecondPort), None);
        assert_eq!(ask(&w, false, wrong, EchoAnswer::ToPort(5000)), None);
    }
    let answer = ask(&w, false, cookie, EchoAnswer::FromSecondPort).unwrap();
    assert_eq!((answer.from_second, answer.to), (true, node()));
    let answer = ask(&w, true, cookie, EchoAnswer::FromSecondPort).unwrap();
    assert!(!answer.from_second);
    assert_eq!(w.core.stats().echoes_refused, 4);
}

#[test]
fn a_cookie_is_worth_nothing_at_another_port_of_the_same_address() {
    let w = World::new();
    let mut neighbour = node();
    neighbour.set_port(4001);
    let cookie = w.cookie(neighbour);
    assert_eq!(ask(&w, false, cookie, EchoAnswer::FromSecondPort), None);
}

#[test]
fn a_mapped_port_is_tried_and_its_cookie_attests_it() {
    let mut w = World::new();
    let cookie = cookie_of(ask(&w, false, 0, EchoAnswer::Here).unwrap());
    let answer = ask(&w, false, cookie, EchoAnswer::ToPort(5000)).unwrap();
    assert_eq!((answer.from_second, answer.to.port()), (false, 5000));

    let (alice, session) = w.reachable(ALICE, &[1]);
    let shown = Attested { addr: answer.to, cookie: cookie_of(answer) };
    w.ask(alice, Some(session), Call::Attest(vec![shown]));
    assert_eq!(w.core.inspect(w.now)[0].attested, [answer.to]);
}

#[test]
fn nothing_is_sent_to_the_ports_of_services() {
    let w = World::new();
    let cookie = cookie_of(ask(&w, false, 0, EchoAnswer::Here).unwrap());
    for port in [1, 53, 123, 1023] {
        assert_eq!(ask(&w, false, cookie, EchoAnswer::ToPort(port)), None);
    }
    assert!(ask(&w, false, cookie, EchoAnswer::ToPort(1024)).is_some());
}

#[test]
fn one_address_hears_a_limited_number_of_answers() {
    let mut w = World::new();
    let answered =
        |w: &World, n| (0..n).filter(|_| ask(w, false, 0, EchoAnswer::Here).is_some()).count();
    assert_eq!(answered(&w, 100), 40);
    w.pass(Duration::from_secs(1));
    assert_eq!(answered(&w, 100), 20);
    let neighbour = "192.0.2.8:4000".parse().unwrap();
    assert_ne!(w.cookie(neighbour), 0, "a neighbour has a bucket of its own");
    assert_eq!(w.core.stats().echoes_refused, 140);
}

#[test]
fn what_is_not_for_a_peer_is_not_answered() {
    let w = World::new();
    let channel = ChannelId(8);
    let odd = [
        PeerDatagram::EchoReply { txid: 1, cookie: 1, from_second: false, observed: node() },
        PeerDatagram::RelayChallenge { channel, cookie: 1 },
    ];
    for datagram in odd {
        assert_eq!(w.core.peer_datagram(node(), false, &datagram.encode(), w.now), None);
    }
    let keep = PeerDatagram::Keep { channel }.encode();
    assert_eq!(w.core.peer_datagram(node(), true, &keep, w.now), None, "not on this port");
    for nonsense in [&[][..], &[6], &[6, 1, 1], &[6; 48], &[0xff; 1472]] {
        assert_eq!(w.core.peer_datagram(node(), false, nonsense, w.now), None);
    }
    assert_eq!(w.core.stats().datagrams_ignored, 8);
}

#[test]
fn an_answer_finds_its_way_back_on_a_local_link() {
    let w = World::new();
    let scoped =
        SocketAddr::V6(std::net::SocketAddrV6::new("fe80::7".parse().unwrap(), 4000, 0, 3));
    let request = PeerDatagram::EchoRequest { txid: 1, cookie: 0, answer: EchoAnswer::Here };
    let answer = w.core.peer_datagram(scoped, false, &request.encode(), w.now).unwrap();
    assert_eq!(answer.to, scoped);
}
