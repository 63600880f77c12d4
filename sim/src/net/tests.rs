use std::rc::Rc;

use super::*;
use crate::nat_box::{BoxConfig, Hairpin, Ports};
use crate::packet::{Body, DEFAULT_TTL};

#[test]
fn a_packet_takes_the_time_of_both_links() {
    let mut t = Bench::new();
    let (a, b) = (t.public("a", "203.0.113.1", 25), t.public("b", "203.0.113.2", 40));
    t.send(a, 1000, "203.0.113.2:2000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(b, addr("203.0.113.1:1000"))]);
    assert_eq!(t.net.elapsed(), Duration::from_millis(65));
}

#[test]
fn two_boxes_in_a_row_both_translate() {
    let mut t = Bench::new();
    let server = t.public("s", "203.0.113.1", 0);
    let (_, carrier) = t.net.add_box(
        Net::INTERNET,
        [198, 51, 100, 1].into(),
        BoxConfig::symmetric(Ports::Block { first: 5000, size: 1 }),
        wire(10),
    );
    let (_, home) = t.net.add_box(carrier, [100, 64, 0, 2].into(), BoxConfig::home(), wire(1));
    let host = t.host("h", home, "192.168.1.2");
    t.send(host, 1000, "203.0.113.1:2000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(server, addr("198.51.100.1:5000"))]);
    t.send(server, 2000, "198.51.100.1:5000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(host, addr("203.0.113.1:2000"))]);
}

#[test]
fn subscribers_of_one_carrier_meet_by_its_hairpin() {
    for (hairpin, arrives) in [(Hairpin::None, false), (Hairpin::ExternalSource, true)] {
        let mut t = Bench::new();
        let server = t.public("s", "203.0.113.1", 0);
        let config = BoxConfig { hairpin, ..BoxConfig::open() };
        let (_, carrier) = t.net.add_box(Net::INTERNET, [198, 51, 100, 1].into(), config, wire(10));
        let (_, one) = t.net.add_box(carrier, [100, 64, 0, 2].into(), BoxConfig::open(), wire(1));
        let (_, two) = t.net.add_box(carrier, [100, 64, 0, 3].into(), BoxConfig::open(), wire(1));
        let (a, b) = (t.host("a", one, "192.168.1.2"), t.host("b", two, "192.168.1.2"));
        t.send(b, 1001, "203.0.113.1:2000", DEFAULT_TTL);
        assert_eq!(t.received(), vec![(server, addr("198.51.100.1:1001"))]);
        t.send(a, 1000, "198.51.100.1:1001", DEFAULT_TTL);
        let expected = arrives.then_some((b, addr("198.51.100.1:1000")));
        assert_eq!(t.received(), expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_short_lived_packet_opens_its_own_box_and_dies_before_the_other() {
    let mut t = Bench::new();
    let server = t.public("s", "203.0.113.1", 0);
    let (nat, home) =
        t.net.add_box(Net::INTERNET, [198, 51, 100, 1].into(), BoxConfig::home(), wire(10));
    let host = t.host("h", home, "192.168.1.2");
    t.send(host, 1000, "203.0.113.1:2000", 5);
    assert_eq!(t.received(), vec![]);
    let now = t.net.now();
    assert_eq!(t.net.nat(nat).live_mappings(now), 1);
    t.send(server, 2000, "198.51.100.1:1000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(host, addr("203.0.113.1:2000"))]);
}

#[test]
fn a_cut_has_one_direction() {
    let mut t = Bench::new();
    let (a, b) = (t.public("a", "203.0.113.1", 1), t.public("b", "203.0.113.2", 1));
    t.net.cut("203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap(), true);
    t.send(a, 1000, "203.0.113.2:2000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![]);
    t.send(b, 2000, "203.0.113.1:1000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(a, addr("203.0.113.2:2000"))]);
    t.net.heal();
    t.send(a, 1000, "203.0.113.2:2000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(b, addr("203.0.113.1:1000"))]);
}

#[test]
fn ipv6_goes_through_a_box_untranslated() {
    let mut t = Bench::new();
    let server = t.public("s", "2001:db8::1", 0);
    let (_, home) =
        t.net.add_box(Net::INTERNET, [198, 51, 100, 1].into(), BoxConfig::home(), wire(10));
    let host = t.host("h", home, "2001:db8:1::2");
    t.send(server, 2000, "[2001:db8:1::2]:1000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![], "nobody asked for it");
    t.send(host, 1000, "[2001:db8::1]:2000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(server, addr("[2001:db8:1::2]:1000"))]);
    t.send(server, 2000, "[2001:db8:1::2]:1000", DEFAULT_TTL);
    assert_eq!(t.received(), vec![(host, addr("[2001:db8::1]:2000"))]);
}

#[test]
fn who_has_moved_hears_nothing_at_the_old_place() {
    let mut t = Bench::new();
    let (a, b) = (t.public("a", "203.0.113.1", 1), t.public("b", "203.0.113.2", 1));
    t.send(a, 1000, "203.0.113.2:2000", DEFAULT_TTL);
    t.net.unplug(b);
    t.net.plug(b, Net::INTERNET, "203.0.113.3".parse().unwrap());
    assert_eq!(t.received(), vec![]);
    t.send(a, 1000, "203.0.113.3:2000", DEFAULT_TTL);
    assert_eq!(t.received().len(), 1);
}

#[test]
fn a_stream_waits_for_the_link() {
    let mut t = Bench::new();
    let (a, b) = (t.public("a", "203.0.113.1", 1), t.public("b", "203.0.113.2", 1));
    t.net.link(a).up = false;
    t.net.tunnel(a, b, addr("[fd00::1]:1"), body());
    t.net.schedule(Duration::from_secs(1), 0);
    assert!(matches!(t.net.next(t.net.at(Duration::from_secs(2))), Some(Happening::Script(0))));
    t.net.link(a).up = true;
    assert_eq!(t.received(), vec![(b, addr("[fd00::1]:1"))]);
}

struct Bench {
    net: Net,
}

impl Bench {
    fn new() -> Self {
        Self { net: Net::new(Rng::new(1), Trace::off()) }
    }

    fn public(&mut self, name: &'static str, ip: &str, ms: u64) -> HostId {
        let host = self.net.add_host(name, wire(ms));
        self.net.plug(host, Net::INTERNET, ip.parse().unwrap());
        host
    }

    fn host(&mut self, name: &'static str, realm: RealmId, ip: &str) -> HostId {
        let host = self.net.add_host(name, wire(1));
        self.net.plug(host, realm, ip.parse().unwrap());
        host
    }

    fn send(&mut self, from: HostId, port: u16, dst: &str, ttl: u8) {
        self.net.send(from, port, addr(dst), ttl, body()).unwrap();
    }

    /// Who receives from whom, until nothing more happens.
    fn received(&mut self) -> Vec<(HostId, SocketAddr)> {
        let mut all = Vec::new();
        // Time stands still when the queue is empty, so this sees the time of the last arrival.
        while let Some(entry) = self.net.queue.pop() {
            self.net.now = entry.at;
            if let Some(Happening::Packet(host, packet)) = self.net.handle(entry) {
                all.push((host, packet.src));
            }
        }
        all
    }
}

fn wire(ms: u64) -> Link {
    Link::perfect(Duration::from_millis(ms))
}

fn body() -> Body {
    Body::Datagram(Rc::new([0x40; 30]))
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
