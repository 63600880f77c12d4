//! A node finds out how its NAT behaves.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod world;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_nat::limits::{CHOICE_SOCKETS, COOKIE_LIFE};
use halloo_nat::{
    Allocation, Dependence, Output, Prober, ProberConfig, ProberEvent, SocketId, Verdict,
};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use world::nat::{Nat, dependent, home, open, verdict};

use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent, Unknown};

#[test]
fn every_kind_of_nat_is_recognised() {
    let block = Allocation::Block { first: 20_480, size: 1024 };
    for nat in [
        open(),
        home(),
        verdict(1, 2, Allocation::Random),
        verdict(2, 2, Allocation::Random),
        verdict(2, 3, Allocation::Sequential { delta: 2 }),
        dependent(Allocation::Random),
        dependent(Allocation::Preserving),
        dependent(Allocation::Sequential { delta: 1 }),
        dependent(Allocation::Sequential { delta: -3 }),
        dependent(block),
    ] {
        let mut lab = Lab::new(nat, 1);
        let found = lab.verdict();
        // One that keeps the port looks independent, and is as good, until two hosts have the same.
        let mapping = match nat.allocation {
            Allocation::Preserving => EndpointIndependent,
            _ => nat.mapping,
        };
        assert_eq!(found.mapping, mapping, "{nat:?}");
        // Whether another address would be let in as well cannot be asked for.
        let filtering = match nat.filtering {
            EndpointIndependent => AddressDependent,
            other => other,
        };
        assert_eq!(found.filtering, filtering, "{nat:?}");
        if nat.mapping != EndpointIndependent {
            assert_eq!(found.allocation, nat.allocation, "{nat:?}");
        }
        assert_eq!(lab.sockets.len(), 1, "extra sockets are closed");
    }
}

#[test]
fn a_verdict_takes_a_dozen_datagrams() {
    let mut lab = Lab::new(open(), 2);
    lab.verdict();
    assert!(lab.sent <= 6, "{}", lab.sent);
    let mut lab = Lab::new(dependent(Allocation::Random), 2);
    lab.verdict();
    // The test of the filter is repeated until it is given up.
    assert!(lab.sent <= 8 + u64::from(CHOICE_SOCKETS), "{}", lab.sent);
}

#[test]
fn loss_delays_a_verdict_and_does_not_change_it() {
    for seed in 0..50 {
        let mut lab = Lab::new(verdict(1, 2, Allocation::Random), seed);
        lab.loss = 20;
        assert_eq!(lab.verdict().mapping, EndpointIndependent);
    }
}

#[test]
fn where_udp_is_blocked_it_is_said_and_nothing_is_claimed() {
    let mut lab = Lab::new(home(), 3);
    lab.loss = 100;
    lab.run_for(Duration::from_secs(10));
    assert!(lab.events.contains(&ProberEvent::UdpBlocked), "{:?}", lab.events);
    assert_eq!(lab.prober.verdict(), Verdict::default());
    assert!(lab.prober.attested(lab.now).is_empty());
    assert_eq!(lab.sockets.len(), 1);
}

#[test]
fn without_a_second_port_and_another_peer_mapping_stays_unknown() {
    let mut lab =
        Lab::with(home(), 4, |c| ProberConfig { second_port: None, other_peer: None, ..c });
    lab.run_for(Duration::from_secs(5));
    assert_eq!(lab.prober.verdict().mapping, Unknown);
    assert_eq!(lab.prober.verdict().filtering, Unknown);
    assert_eq!(lab.prober.attested(lab.now).len(), 1);
}

#[test]
fn a_node_without_a_nat_needs_no_second_peer_to_know_it() {
    let mut lab = Lab::with(open(), 5, |c| ProberConfig {
        second_port: None,
        other_peer: None,
        ips: vec!["203.0.113.5".parse().unwrap()],
        ..c
    });
    assert_eq!(lab.verdict().mapping, EndpointIndependent);
}

#[test]
fn attested_addresses_come_with_fresh_cookies() {
    let mut lab = Lab::new(home(), 6);
    lab.verdict();
    let observed = lab.prober.observed().unwrap();
    let attested = lab.prober.attested(lab.now);
    assert_eq!(attested.iter().map(|a| a.addr).collect::<Vec<_>>(), [observed]);
    assert_eq!(attested[0].cookie, cookie(observed));
    assert_eq!(lab.prober.attested_by_other(lab.now).len(), 1);

    lab.run_for(COOKIE_LIFE + Duration::from_secs(1));
    assert!(lab.prober.attested(lab.now).is_empty(), "the peer would not take it any more");
    let now = lab.now;
    lab.prober.refresh(now);
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.prober.attested(lab.now).len(), 1);
}

#[test]
fn a_mapped_port_is_checked_before_it_is_believed() {
    let mut lab = Lab::new(home(), 7);
    lab.mapped = Some(51_820);
    lab.verdict();
    let now = lab.now;
    lab.prober.check_mapping(51_820, now);
    lab.run_for(Duration::from_secs(5));
    assert!(lab.events.contains(&ProberEvent::Mapped { port: 51_820, reachable: true }));
    let attested = lab.prober.attested(lab.now);
    assert!(attested.iter().any(|a| a.addr.port() == 51_820), "{attested:?}");

    // The router said yes and did nothing.
    let mut lab = Lab::new(home(), 8);
    lab.verdict();
    let now = lab.now;
    lab.prober.check_mapping(51_820, now);
    lab.run_for(Duration::from_secs(5));
    assert!(lab.events.contains(&ProberEvent::Mapped { port: 51_820, reachable: false }));
    assert_eq!(lab.prober.attested(lab.now).len(), 1);

    let now = lab.now;
    lab.prober.check_mapping(0, now);
    lab.drain();
    assert!(lab.events.contains(&ProberEvent::Mapped { port: 0, reachable: false }));
}

#[test]
fn a_new_network_is_noticed_and_asked_again() {
    let mut lab = Lab::new(home(), 9);
    lab.verdict();
    lab.nat = Nat::new("198.51.100.9", dependent(Allocation::Sequential { delta: 1 }), 9);
    lab.events.clear();
    let now = lab.now;
    lab.prober.refresh(now);
    lab.run_for(Duration::from_secs(10));
    assert_eq!(lab.prober.verdict().mapping, AddressAndPortDependent);
    assert_eq!(lab.prober.verdict().allocation, Allocation::Sequential { delta: 1 });
    let ips: Vec<IpAddr> = lab.prober.attested(lab.now).iter().map(|a| a.addr.ip()).collect();
    assert!(ips.iter().all(|ip| ip.to_string() == "198.51.100.9"), "{ips:?}");
    assert_eq!(lab.sockets.len(), 1);
}

#[test]
fn answers_from_elsewhere_are_not_believed() {
    let mut lab = Lab::new(home(), 10);
    let mut txids = Vec::new();
    while let Output::Transmit(t) = lab.prober.poll_output() {
        if let Ok(PeerDatagram::EchoRequest { txid, .. }) = PeerDatagram::decode(&t.datagram) {
            txids.push(txid);
        }
    }
    let observed = "8.8.8.8:5000".parse().unwrap();
    for txid in txids {
        for from_second in [false, true] {
            let reply = PeerDatagram::EchoReply { txid, cookie: 7, from_second, observed };
            let liar = "9.9.9.9:443".parse().unwrap();
            lab.prober.handle_datagram(SocketId::MAIN, liar, &reply, lab.now);
        }
    }
    assert_eq!(lab.prober.observed(), None);
}

#[test]
fn sockets_that_cannot_be_opened_leave_questions_open() {
    let mut lab = Lab::new(dependent(Allocation::Random), 11);
    lab.opens = false;
    let found = lab.verdict();
    assert_eq!(found.mapping, AddressAndPortDependent);
    assert_eq!(found.filtering, Unknown);
    assert_eq!(found.allocation, Allocation::Unknown);
}

proptest! {
    /// Whatever peers say and the driver does, the prober stays bounded and comes to rest.
    #[test]
    fn any_order_of_events_is_survived(
        operations in prop::collection::vec((0..7u8, any::<u8>(), any::<u16>()), 0..120),
        seed in any::<u8>(),
    ) {
        let mut lab = Lab::new(dependent(Allocation::Random), seed);
        for (what, a, b) in operations {
            let now = lab.now;
            match what {
                0 => lab.run_for(Duration::from_millis(b.into())),
                1 => lab.prober.refresh(now),
                2 => lab.prober.check_mapping(b, now),
                3 => lab.nat = Nat::new("198.51.100.9", [home(), open()][usize::from(a % 2)], a),
                4 => lab.loss = u32::from(a % 101),
                5 => lab.prober.handle_timeout(now + Duration::from_secs(b.into())),
                _ => lab.opens = a % 2 == 0,
            }
            lab.drain();
            prop_assert!(lab.sockets.len() <= 2 + 2 * usize::from(CHOICE_SOCKETS));
        }
        lab.run_for(Duration::from_secs(70_000));
        let before = lab.sent;
        lab.run_for(Duration::from_secs(3_600));
        prop_assert_eq!(lab.sent, before);
        prop_assert_eq!(lab.sockets.len(), 1, "extra sockets are closed");
    }
}

/// A prober behind a NAT, its peer with two ports, and another peer.
struct Lab {
    prober: Prober,
    nat: Nat,
    now: Instant,
    sockets: BTreeMap<SocketId, u16>,
    next_socket: u16,
    /// The port that a router has mapped to the main socket.
    mapped: Option<u16>,
    /// Per cent of datagrams that are lost.
    loss: u32,
    random: ChaCha12Rng,
    opens: bool,
    sent: u64,
    events: Vec<ProberEvent>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, u16, PeerDatagram)>,
}

const HOME: &str = "192.0.2.1:443";
const SECOND: u16 = 3478;
const OTHER: &str = "198.51.100.1:443";

impl Lab {
    fn new(nat: Verdict, seed: u8) -> Self {
        Self::with(nat, seed, |config| config)
    }

    fn with(nat: Verdict, seed: u8, change: impl Fn(ProberConfig) -> ProberConfig) -> Self {
        let now = Instant::now();
        let config = change(ProberConfig {
            seed: [seed; 32],
            ips: vec!["10.0.0.5".parse().unwrap()],
            port: 5_000,
            home: HOME.parse().unwrap(),
            second_port: Some(SECOND),
            home_other_family: None,
            other_peer: Some(OTHER.parse().unwrap()),
        });
        Self {
            prober: Prober::new(config, now),
            nat: Nat::new("203.0.113.5", nat, seed),
            now,
            sockets: BTreeMap::from([(SocketId::MAIN, 5_000)]),
            next_socket: 1,
            mapped: None,
            loss: 0,
            random: ChaCha12Rng::from_seed([seed; 32]),
            opens: true,
            sent: 0,
            events: Vec::new(),
            flying: BTreeMap::new(),
        }
    }

    /// The last verdict, when all is asked.
    fn verdict(&mut self) -> Verdict {
        self.run_for(Duration::from_secs(20));
        let told = self.events.iter().rev().find_map(|e| match e {
            ProberEvent::Verdict(verdict) => Some(*verdict),
            _ => None,
        });
        assert_eq!(told, Some(self.prober.verdict()), "{:?}", self.events);
        self.prober.verdict()
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = self.drain();
            let arrival = self.flying.keys().next().map(|&(at, _)| at);
            let Some(next) = wake.into_iter().chain(arrival).min().filter(|&at| at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (from, port, datagram)) = self.flying.pop_first().unwrap();
                let mapped = (Some(port) == self.mapped).then_some(SocketId::MAIN);
                let to = mapped.or(self.nat.inbound(port, from));
                if let Some(socket) = to.filter(|id| self.sockets.contains_key(id)) {
                    self.prober.handle_datagram(socket, from, &datagram, self.now);
                }
            }
            self.prober.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn drain(&mut self) -> Option<Instant> {
        let mut outputs = 0;
        loop {
            outputs += 1;
            assert!(outputs < 1_000, "one input makes few outputs");
            match self.prober.poll_output() {
                Output::Wait(at) => return at,
                Output::Transmit(t) => self.transmit(t.socket, t.to, &t.datagram),
                Output::Event(ProberEvent::OpenSockets(n)) => {
                    let n = if self.opens { n } else { 0 };
                    let opened: Vec<(SocketId, u16)> = (0..n)
                        .map(|i| (SocketId(self.next_socket + i), 6_000 + self.next_socket + i))
                        .collect();
                    self.next_socket += n;
                    self.sockets.extend(opened.iter().copied());
                    self.prober.sockets_opened(&opened, self.now);
                }
                Output::Event(ProberEvent::CloseSockets(ids)) => {
                    for id in ids {
                        self.sockets.remove(&id).expect("only open sockets are closed");
                    }
                }
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// The NAT, the peers, and the way back to the NAT.
    fn transmit(&mut self, socket: SocketId, to: SocketAddr, datagram: &[u8]) {
        self.sent += 1;
        let inside = self.sockets[&socket];
        let source = self.nat.outbound(socket, inside, to);
        let home: SocketAddr = HOME.parse().unwrap();
        let second = SocketAddr::new(home.ip(), SECOND);
        assert!([home, second, OTHER.parse().unwrap()].contains(&to), "asks peers only");
        let Ok(PeerDatagram::EchoRequest { txid, cookie: shown, answer }) =
            PeerDatagram::decode(datagram)
        else {
            panic!("a prober sends echo requests");
        };
        let fresh = shown == cookie(source);
        let (from, observed) = match answer {
            EchoAnswer::Here => (to, source),
            EchoAnswer::FromSecondPort if fresh => (second, source),
            EchoAnswer::ToPort(port) if fresh => (to, SocketAddr::new(source.ip(), port)),
            _ => return,
        };
        if self.random.next_u32() % 100 < self.loss {
            return;
        }
        let from_second = from == second;
        let reply =
            PeerDatagram::EchoReply { txid, cookie: cookie(observed), from_second, observed };
        let at = self.now + Duration::from_millis(50);
        self.flying.insert((at, self.sent), (from, observed.port(), reply));
    }
}

/// What stands for the peer's authentication code.
fn cookie(addr: SocketAddr) -> u64 {
    u64::from(addr.port()) << 8 | 1
}
