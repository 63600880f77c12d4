//! A world built from a scenario, and its run.

mod build;
mod outcome;

use std::net::IpAddr;
use std::time::Duration;

use crate::net::{BoxId, Happening, HostId, Net};
use crate::node::Node;
use crate::peer::Peer;
use crate::scenario::{Scenario, Step};
use crate::trace::Trace;

pub use self::outcome::{Look, Outcome, Side};

/// A world.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    net: Net,
    nodes: [Node; 2],
    peers: [Peer; 2],
    places: [Place; 2],
    bystander: HostId,
    /// Addresses that were given away.
    given: u8,
    looks: Option<[Look; 2]>,
}

/// Where a node is.
#[derive(Debug, Clone)]
struct Place {
    /// The boxes between it and the internet, the nearest first; a shared one last.
    boxes: Vec<BoxId>,
}

/// Runs a scenario.
pub fn run(scenario: Scenario, trace: Trace) -> Outcome {
    let mut world = World::new(scenario, trace);
    world.run();
    world.outcome()
}

impl World {
    fn run(&mut self) {
        for (i, (at, _)) in self.scenario.steps.iter().enumerate() {
            self.net.schedule(*at, i);
        }
        for node in &mut self.nodes {
            node.start(&mut self.net);
        }
        self.map_ports();
        let end = self.net.at(self.scenario.end);
        while let Some(happening) = self.net.next(end) {
            match happening {
                Happening::Packet(host, packet) => {
                    if let Some(node) = self.nodes.iter_mut().find(|n| n.host() == host) {
                        node.handle(&packet, &mut self.net);
                    } else if let Some(peer) = self.peers.iter_mut().find(|p| p.host() == host) {
                        peer.handle(&packet, &mut self.net);
                    }
                }
                Happening::Wake(host) => {
                    if let Some(node) = self.nodes.iter_mut().find(|n| n.host() == host) {
                        node.handle_timeout(&mut self.net);
                    } else if let Some(peer) = self.peers.iter_mut().find(|p| p.host() == host) {
                        peer.handle_timeout(&mut self.net);
                    }
                }
                Happening::Script(i) => self.step(i),
            }
        }
    }

    fn step(&mut self, i: usize) {
        let step = self.scenario.steps[i].1.clone();
        self.net.log(|| format!("== {step:?}"));
        let (net, now) = (&mut self.net, self.scenario.steps[i].0);
        let now = net.at(now);
        match step {
            Step::Dial(n) => self.nodes[n].dial(net),
            Step::Talk(n, talks) => self.nodes[n].talk(talks, self.scenario.bulk, net),
            Step::Listen(true) => self.nodes.iter_mut().for_each(|n| n.conversation.listen(now)),
            Step::Listen(false) => {
                for node in &mut self.nodes {
                    node.conversation.report.longest_silence = node.conversation.silence(now);
                    node.conversation.stop_listening();
                }
            }
            Step::CutDirect(from) => {
                for a in self.public_ips(from) {
                    for b in self.public_ips(1 - from) {
                        self.net.cut(a, b, true);
                    }
                }
            }
            Step::Heal => net.heal(),
            Step::Flush(site, i) => {
                if let Some(&id) = self.places[site].boxes.get(i) {
                    net.nat(id).flush();
                }
            }
            Step::Renumber(site) => {
                if let Some(&id) = self.places[site].boxes.last() {
                    let ip = self.fresh_ip();
                    self.net.renumber(id, ip);
                }
            }
            Step::Move(n, boxes) => self.move_to(n, &boxes),
            Step::Plug(n, up) => net.link(self.nodes[n].host()).up = up,
            Step::RestartPeer(i) => self.peers[i].restart(),
            Step::Look => self.looks = Some([0, 1].map(|n| self.look(n))),
        }
    }

    /// The addresses from which others see a site.
    fn public_ips(&mut self, site: usize) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.net.ips(self.nodes[site].host());
        all.retain(|ip| crate::nat_box::is_public(*ip));
        if let Some(&id) = self.places[site].boxes.last() {
            all.push(self.net.nat(id).external().into());
        }
        all
    }

    /// Routers that map ports do so when a node starts.
    fn map_ports(&mut self) {
        for n in 0..2 {
            if !self.scenario.sites[n].maps_port {
                continue;
            }
            let Some(&id) = self.places[n].boxes.first() else { continue };
            let (node, now) = (&mut self.nodes[n], self.net.now());
            let Some(ip) = self.net.ips(node.host()).into_iter().find(IpAddr::is_ipv4) else {
                continue;
            };
            let port = self.net.nat(id).forward((ip, node.port()).into(), now);
            let external = self.net.nat(id).external();
            node.port_mapped((external, port).into(), &mut self.net);
        }
    }

    fn look(&self, n: usize) -> Look {
        Look { send_on: self.nodes[n].send_on(), technique: self.nodes[n].technique() }
    }

    /// The time since the beginning of something that has a time.
    fn since(&self, at: Option<std::time::Instant>) -> Option<Duration> {
        at.map(|at| at - self.net.at(Duration::ZERO))
    }
}
