//! From a scenario to a world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Place, World};
use crate::link::Link;
use crate::nat_box::BoxConfig;
use crate::net::{HostId, Net, RealmId};
use crate::node::{Node, NodeConfig, PeerAddr};
use crate::peer::Peer;
use crate::rng::Rng;
use crate::scenario::{CARRIER_DELAY, LAN_DELAY, Near, Scenario};
use crate::trace::Trace;

/// First UDP port of the rendezvous peers.
const PEER_PORT: u16 = 4433;
/// Port of the first node's main socket; the second one's follows.
const NODE_PORT: u16 = 40_000;

impl World {
    /// A world in which nothing has happened.
    pub fn new(scenario: Scenario, trace: Trace) -> Self {
        let mut rng = Rng::new(scenario.seed ^ 0x51D0_71E5);
        let mut net = Net::new(rng.fork(), trace);
        let peer_link = Link::perfect(scenario.peer_delay);
        let addrs = [0, 1].map(|i| add_peer(&mut net, i, peer_link));
        let peers = addrs.map(|a| Peer::new(a.host, PEER_PORT, rng.fork()));
        let bystander = net.add_host("bystander", Link::perfect(Duration::from_millis(5)));
        let lies = BYSTANDER.map(|text| text.parse::<SocketAddr>().expect("an address"));
        net.plug(bystander, Net::INTERNET, lies[0].ip());
        net.plug(bystander, Net::INTERNET, lies[1].ip());

        let mut given = 10;
        let mut fresh = || {
            given += 1;
            Ipv4Addr::new(198, 51, 100, given)
        };
        let shared = match scenario.near {
            Near::SameCarrier(carrier) => {
                Some(net.add_box(Net::INTERNET, fresh(), carrier, Link::perfect(CARRIER_DELAY)))
            }
            _ => None,
        };
        let mut places: Vec<Place> = Vec::new();
        let mut hosts: Vec<HostId> = Vec::new();
        let mut lan = Net::INTERNET;
        for (i, site) in scenario.sites.iter().enumerate() {
            let same = i == 1 && scenario.near == Near::SameLan;
            let link = faulty(&scenario, scenario.sites[if same { 0 } else { i }].delay);
            if !same {
                let outer = shared.map_or(Net::INTERNET, |(_, realm)| realm);
                let mut place = Place { boxes: shared.iter().map(|s| s.0).collect() };
                lan = outer;
                for (depth, config) in site.boxes.iter().rev().enumerate() {
                    let ip = match lan == Net::INTERNET {
                        true => fresh(),
                        false => Ipv4Addr::new(100, 64, 1 + depth as u8, 2 + i as u8),
                    };
                    // The outermost box of a site has its access link.
                    let outer_link = if depth == 0 { link } else { Link::perfect(Duration::ZERO) };
                    let (id, inner) = net.add_box(lan, ip, *config, outer_link);
                    place.boxes.insert(0, id);
                    lan = inner;
                }
                places.push(place);
            } else {
                places.push(places[0].clone());
            }
            let own_link = match site.boxes.is_empty() && !same {
                true => link,
                false if scenario.near == Near::SameLan => Link::perfect(LAN_DELAY),
                false => Link::perfect(Duration::ZERO),
            };
            let host = net.add_host(["alice", "bob"][i], own_link);
            let place = Spot { node: i, realm: lan, behind_shared: shared.is_some() };
            plug(&mut net, host, place, site.ipv4, site.ipv6, site.boxes.is_empty());
            hosts.push(host);
        }

        let secrets: [[u8; 32]; 2] = [rng.bytes(), rng.bytes()];
        let connection = rng.u64();
        let homes = [0, usize::from(scenario.two_homes)];
        let nodes = [0, 1].map(|i| {
            let site = &scenario.sites[i];
            let config = NodeConfig {
                index: i,
                host: hosts[i],
                port: NODE_PORT + i as u16,
                home: addrs[homes[i]],
                contact_home: addrs[homes[1 - i]],
                other_peer: addrs[1 - homes[i]],
                own_secret: secrets[i],
                contact_secret: secrets[1 - i],
                connection,
                birthday: site.birthday,
                relay_only: site.relay_only,
                lies: if site.lies { lies.to_vec() } else { Vec::new() },
                bug: site.bug,
            };
            Node::new(config, rng.fork(), &mut net)
        });
        let places = places.try_into().expect("there are two sites");
        Self { scenario, net, nodes, peers, places, bystander, given, looks: None }
    }

    /// Puts a node into another network, with these boxes in front of it.
    pub(super) fn move_to(&mut self, n: usize, boxes: &[BoxConfig]) {
        let host = self.nodes[n].host();
        self.net.unplug(host);
        let mut realm = Net::INTERNET;
        let link = faulty(&self.scenario, self.scenario.sites[n].delay);
        let mut place = Place { boxes: Vec::new() };
        for config in boxes.iter().rev() {
            let ip = self.fresh_ip();
            let (id, inner) = self.net.add_box(realm, ip, *config, link);
            place.boxes.insert(0, id);
            realm = inner;
        }
        let ip = match boxes.is_empty() {
            true => self.fresh_ip(),
            false => Ipv4Addr::new(192, 168, 50 + n as u8, 2),
        };
        *self.net.link(host) = if boxes.is_empty() { link } else { Link::perfect(Duration::ZERO) };
        self.net.plug(host, realm, ip.into());
        self.places[n] = place;
        self.nodes[n].network_changed(&mut self.net);
    }

    /// An address that nobody has had.
    pub(super) fn fresh_ip(&mut self) -> Ipv4Addr {
        self.given += 1;
        Ipv4Addr::new(198, 51, 100, self.given)
    }
}

/// Where a node is plugged in.
struct Spot {
    node: usize,
    realm: RealmId,
    behind_shared: bool,
}

fn plug(net: &mut Net, host: HostId, spot: Spot, ipv4: bool, ipv6: bool, bare: bool) {
    let i = spot.node as u8;
    if ipv4 {
        let ip = match bare {
            // Straight at the carrier, or in the internet.
            true if spot.behind_shared => Ipv4Addr::new(100, 64, 0, 2 + i),
            true => Ipv4Addr::new(203, 0, 113, 10 + i),
            // Both sites use the same private range, as homes do.
            false => Ipv4Addr::new(192, 168, 1, 2 + i),
        };
        net.plug(host, spot.realm, ip.into());
    }
    if ipv6 {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, 1 + u16::from(i), 0, 0, 0, 0, 2);
        net.plug(host, spot.realm, ip.into());
    }
}

fn add_peer(net: &mut Net, i: u8, link: Link) -> PeerAddr {
    let host = net.add_host(["peer 1", "peer 2"][usize::from(i)], link);
    let v4: IpAddr = Ipv4Addr::new(203, 0, 113, 1 + i).into();
    let v6: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1 + u16::from(i)).into();
    net.plug(host, Net::INTERNET, v4);
    net.plug(host, Net::INTERNET, v6);
    PeerAddr {
        host,
        v4: SocketAddr::new(v4, PEER_PORT),
        v6: SocketAddr::new(v6, PEER_PORT),
        second_port: PEER_PORT + 1,
    }
}

fn faulty(scenario: &Scenario, delay: Duration) -> Link {
    Link {
        loss: scenario.faults.loss,
        duplicate: scenario.faults.duplicate,
        reorder: scenario.faults.reorder,
        ..Link::perfect(delay)
    }
}

/// Addresses of somebody who has nothing to do with it.
const BYSTANDER: [&str; 2] = ["203.0.113.66:41000", "[2001:db8:66::66]:41000"];
