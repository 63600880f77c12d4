use super::*;

const HOST: &str = "192.168.1.2:40000";
const OTHER: &str = "192.168.1.3:40000";
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

#[test]
fn an_endpoint_independent_mapping_is_the_same_for_every_destination() {
    let mut b = Bench::new(BoxConfig { ports: Ports::Random, ..BoxConfig::home() });
    let first = b.send(HOST, "203.0.113.1:443");
    assert_eq!(b.send(HOST, "203.0.113.1:444"), first);
    assert_eq!(b.send(HOST, "203.0.113.2:443"), first);
    assert_ne!(b.send(OTHER, "203.0.113.1:443"), first);
}

#[test]
fn dependent_mappings_depend_on_what_they_say() {
    let mut by_host = Bench::new(BoxConfig {
        mapping: Dependence::AddressDependent,
        ports: Ports::Random,
        ..BoxConfig::home()
    });
    let first = by_host.send(HOST, "203.0.113.1:443");
    assert_eq!(by_host.send(HOST, "203.0.113.1:444"), first);
    assert_ne!(by_host.send(HOST, "203.0.113.2:443"), first);

    let mut by_socket = Bench::new(BoxConfig::symmetric(Ports::Random));
    let first = by_socket.send(HOST, "203.0.113.1:443");
    assert_eq!(by_socket.send(HOST, "203.0.113.1:443"), first);
    assert_ne!(by_socket.send(HOST, "203.0.113.1:444"), first);
}

#[test]
fn each_filter_lets_in_whom_it_should() {
    // Who sends in after the host has written to 203.0.113.1:443.
    let visitors = ["203.0.113.1:443", "203.0.113.1:500", "203.0.113.9:443"];
    for (filtering, admitted) in [
        (Dependence::EndpointIndependent, [true, true, true]),
        (Dependence::AddressDependent, [true, true, false]),
        (Dependence::AddressAndPortDependent, [true, false, false]),
    ] {
        let mut b = Bench::new(BoxConfig { filtering, ..BoxConfig::home() });
        assert!(b.receive(visitors[0], 40000).is_err(), "nothing is mapped");
        b.send(HOST, visitors[0]);
        for (visitor, admitted) in visitors.into_iter().zip(admitted) {
            assert_eq!(b.receive(visitor, 40000).is_ok(), admitted, "{visitor} at {filtering:?}");
        }
    }
}

#[test]
fn ports_are_preserved_until_they_collide() {
    let mut b = Bench::new(BoxConfig::home());
    assert_eq!(b.send(HOST, "203.0.113.1:443"), 40000);
    assert_ne!(b.send(OTHER, "203.0.113.1:443"), 40000);
}

#[test]
fn linux_gives_one_port_to_flows_that_differ_in_their_destination() {
    let mut b = Bench::new(BoxConfig::symmetric(Ports::Preserving));
    assert_eq!(b.send(HOST, "203.0.113.1:443"), 40000);
    assert_eq!(b.send(HOST, "203.0.113.2:443"), 40000);
    assert_eq!(b.send(OTHER, "203.0.113.3:443"), 40000);
    assert_ne!(b.send(OTHER, "203.0.113.1:443"), 40000, "this flow has the same two ends");
    assert_eq!(b.receive("203.0.113.2:443", 40000), Ok(addr(HOST)));
    assert_eq!(b.receive("203.0.113.3:443", 40000), Ok(addr(OTHER)));
}

#[test]
fn sequential_ports_follow_each_other() {
    let mut b = Bench::new(BoxConfig::symmetric(Ports::Sequential { delta: 2, busy: 0 }));
    let ports: Vec<u16> = (1..6).map(|i| b.send(HOST, &format!("203.0.113.{i}:443"))).collect();
    assert!(ports.windows(2).all(|w| w[1].wrapping_sub(w[0]) == 2 || w[1] < w[0]), "{ports:?}");
}

#[test]
fn a_block_is_never_left_and_runs_out() {
    let mut b = Bench::new(BoxConfig::symmetric(Ports::Block { first: 5000, size: 16 }));
    let mut ports: Vec<u16> =
        (1..=16).map(|i| b.send(HOST, &format!("203.0.113.{i}:443"))).collect();
    ports.sort_unstable();
    assert_eq!(ports, (5000..5016).collect::<Vec<u16>>());
    let (src, dst) = (addr(HOST), addr("203.0.113.99:443"));
    assert_eq!(b.nat.outbound(src, dst, b.now), Outbound::Drop(Why::NoPort));
}

#[test]
fn a_hole_that_nobody_answers_closes_early() {
    let mut b = Bench::new(BoxConfig {
        first_timeout: Duration::from_secs(15),
        timeout: Duration::from_secs(60),
        ..BoxConfig::home()
    });
    b.send(HOST, "203.0.113.1:443");
    b.pass(14);
    assert!(b.receive("203.0.113.1:443", 40000).is_ok());
    b.pass(59);
    assert!(b.receive("203.0.113.1:443", 40000).is_ok(), "it was answered");
    b.send(HOST, "203.0.113.2:443");
    b.pass(16);
    assert!(b.receive("203.0.113.2:443", 40000).is_err());
}

#[test]
fn some_boxes_count_only_what_goes_out() {
    for (inbound_refreshes, open) in [(true, true), (false, false)] {
        let mut b = Bench::new(BoxConfig { inbound_refreshes, ..BoxConfig::home() });
        b.send(HOST, "203.0.113.1:443");
        for _ in 0..3 {
            b.receive("203.0.113.1:443", 40000).ok();
            b.pass(100);
        }
        assert_eq!(b.receive("203.0.113.1:443", 40000).is_ok(), open);
    }
}

#[test]
fn a_dead_mapping_gives_its_port_back() {
    let mut b = Bench::new(BoxConfig::home());
    b.send(HOST, "203.0.113.1:443");
    b.pass(300);
    assert_eq!(b.nat.live_mappings(b.now), 0);
    assert_eq!(b.send(OTHER, "203.0.113.1:443"), 40000);
}

#[test]
fn hairpinning_has_three_forms() {
    for (hairpin, expected) in [
        (Hairpin::None, Outbound::Drop(Why::NoHairpin)),
        (Hairpin::InternalSource, Outbound::Hairpin { src: addr(OTHER), dst: addr(HOST) }),
        (
            Hairpin::ExternalSource,
            Outbound::Hairpin { src: addr("198.51.100.1:41000"), dst: addr(HOST) },
        ),
    ] {
        let mut b = Bench::new(BoxConfig { hairpin, ..BoxConfig::open() });
        b.send(HOST, "203.0.113.1:443");
        let other = addr("192.168.1.3:41000");
        let expected = match expected {
            Outbound::Hairpin { src, dst } if src == addr(OTHER) => {
                Outbound::Hairpin { src: other, dst }
            }
            it => it,
        };
        assert_eq!(b.nat.outbound(other, addr("198.51.100.1:40000"), b.now), expected);
    }
}

#[test]
fn a_touchy_box_moves_the_mapping_of_whom_it_heard_too_early() {
    for (touchy, preserved) in [(false, true), (true, false)] {
        let config = BoxConfig { touchy, ..BoxConfig::symmetric(Ports::Preserving) };
        let mut b = Bench::new(config);
        b.send(HOST, "203.0.113.1:443");
        assert_eq!(b.receive("203.0.113.7:5000", 40000), Err(Why::Unsolicited));
        assert_eq!(b.send(HOST, "203.0.113.7:5000") == 40000, preserved);
        assert_eq!(b.send(HOST, "203.0.113.8:5000"), 40000, "others are not meant");
    }
}

#[test]
fn a_blacklisting_box_shuts_its_door_for_a_while() {
    let config = BoxConfig { blacklists: Some(Duration::from_secs(20)), ..BoxConfig::home() };
    let mut b = Bench::new(config);
    b.send(HOST, "203.0.113.1:443");
    assert_eq!(b.receive("203.0.113.7:5000", 40000), Err(Why::Unsolicited));
    b.send(HOST, "203.0.113.7:5000");
    assert_eq!(b.receive("203.0.113.7:5000", 40000), Err(Why::Blacklisted));
    b.pass(20);
    assert!(b.receive("203.0.113.7:5000", 40000).is_ok());
}

#[test]
fn a_mapped_port_is_open_to_everybody() {
    let mut b = Bench::new(BoxConfig::symmetric(Ports::Random));
    let port = b.nat.forward(addr(HOST), b.now);
    assert_eq!(port, 40000);
    assert_eq!(b.receive("203.0.113.1:443", port), Ok(addr(HOST)));
    assert_eq!(b.send(HOST, "203.0.113.1:443"), port, "and what is sent comes from there");
    let other = b.nat.forward(addr(OTHER), b.now);
    assert_ne!(other, port);
    assert_eq!(b.receive("203.0.113.1:443", other), Ok(addr(OTHER)));
}

#[test]
fn public_addresses_are_filtered_but_not_translated() {
    let mut b = Bench::new(BoxConfig::home());
    let (inside, remote) = (addr("[2600:1::2]:40000"), addr("[2600:2::2]:5000"));
    assert_eq!(b.nat.inbound(remote, inside, b.now), Err(Why::Unsolicited));
    assert_eq!(b.nat.outbound(inside, remote, b.now), Outbound::Out(inside));
    assert_eq!(b.nat.inbound(remote, inside, b.now), Ok(inside));
    assert_eq!(b.nat.inbound(addr("[2600:3::2]:5000"), inside, b.now), Err(Why::Unsolicited));
}

#[test]
fn a_network_without_udp_passes_nothing() {
    let mut b = Bench::new(BoxConfig::blocked());
    let out = b.nat.outbound(addr(HOST), addr("203.0.113.1:443"), b.now);
    assert_eq!(out, Outbound::Drop(Why::Blocked));
    assert_eq!(b.receive("203.0.113.1:443", 40000), Err(Why::Blocked));
}

#[test]
fn a_flush_closes_every_hole() {
    let mut b = Bench::new(BoxConfig { ports: Ports::Random, ..BoxConfig::home() });
    let port = b.send(HOST, "203.0.113.1:443");
    b.nat.flush();
    assert_eq!(b.receive("203.0.113.1:443", port), Err(Why::Unsolicited));
    assert_ne!(b.send(HOST, "203.0.113.1:443"), port, "the seed gives another port");
}

struct Bench {
    nat: NatBox,
    now: Instant,
}

impl Bench {
    fn new(config: BoxConfig) -> Self {
        Self { nat: NatBox::new(config, EXTERNAL, Rng::new(7)), now: Instant::now() }
    }

    /// Sends from inside; the external port.
    fn send(&mut self, src: &str, dst: &str) -> u16 {
        match self.nat.outbound(addr(src), addr(dst), self.now) {
            Outbound::Out(outside) => outside.port(),
            other => panic!("{src} to {dst}: {other:?}"),
        }
    }

    fn receive(&mut self, src: &str, port: u16) -> Result<SocketAddr, Why> {
        self.nat.inbound(addr(src), SocketAddr::new(EXTERNAL.into(), port), self.now)
    }

    fn pass(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
