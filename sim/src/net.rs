//! The simulated internet: networks, devices, links between them, and the queue of what happens.

mod build;
mod event;
#[cfg(test)]
mod tests;
mod travel;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use self::event::{Entry, Event};
use crate::link::Link;
use crate::nat_box::NatBox;
use crate::packet::Packet;
use crate::rng::Rng;
use crate::trace::Trace;

pub use self::travel::Unreachable;

/// A network in which every device reaches every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealmId(usize);

/// An end system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

impl HostId {
    /// A number that names the host in an address.
    pub fn number(self) -> u16 {
        u16::try_from(self.0).expect("a world has few hosts")
    }

    /// The host with this number.
    pub fn numbered(number: u16) -> Self {
        Self(usize::from(number))
    }
}

/// A NAT box between two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoxId(usize);

/// What has happened to somebody.
#[derive(Debug)]
pub enum Happening {
    /// A packet has come.
    Packet(HostId, Packet),
    /// The time that was asked for is there.
    Wake(HostId),
    /// A step of the scenario is due.
    Script(usize),
}

/// The simulated internet.
#[derive(Debug)]
pub struct Net {
    origin: Instant,
    now: Instant,
    queue: BinaryHeap<Entry>,
    entries: u64,
    realms: Vec<Realm>,
    hosts: Vec<Host>,
    boxes: Vec<BoxSite>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    rng: Rng,
    /// What happens, in words.
    pub trace: Trace,
}

#[derive(Debug)]
struct Realm {
    attached: BTreeMap<IpAddr, Device>,
    gateway: Option<BoxId>,
    /// Routers that a packet passes on its way through.
    hops: u8,
}

#[derive(Debug, Clone, Copy)]
enum Device {
    Host(HostId),
    Box(BoxId),
}

#[derive(Debug)]
struct Host {
    name: &'static str,
    faces: Vec<Face>,
    link: Link,
    wake: Option<Instant>,
    received: u64,
}

/// An interface of a host.
#[derive(Debug, Clone, Copy)]
struct Face {
    ip: IpAddr,
    realm: RealmId,
}

#[derive(Debug)]
struct BoxSite {
    nat: NatBox,
    inner: RealmId,
    outer: RealmId,
    link: Link,
}

impl Net {
    /// An internet without anybody.
    pub fn new(rng: Rng, trace: Trace) -> Self {
        // The only look at a clock: it gives times their type, and never enters a decision.
        let origin = Instant::now();
        let internet = Realm { attached: BTreeMap::new(), gateway: None, hops: INTERNET_HOPS };
        Self {
            origin,
            now: origin,
            queue: BinaryHeap::new(),
            entries: 0,
            realms: vec![internet],
            hosts: Vec::new(),
            boxes: Vec::new(),
            cuts: BTreeSet::new(),
            rng,
            trace,
        }
    }

    /// The public internet.
    pub const INTERNET: RealmId = RealmId(0);

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.origin
    }

    /// The time at which `after` has passed since the beginning.
    pub fn at(&self, after: Duration) -> Instant {
        self.origin + after
    }

    /// Asks to be woken at a time; an earlier wish of the same host is forgotten.
    pub fn wake(&mut self, host: HostId, at: Option<Instant>) {
        let at = at.map(|at| at.max(self.now));
        if self.hosts[host.0].wake != at {
            self.hosts[host.0].wake = at;
            if let Some(at) = at {
                self.push(at, Event::Wake(host));
            }
        }
    }

    /// Puts a step of the scenario on the queue.
    pub fn schedule(&mut self, after: Duration, step: usize) {
        self.push(self.origin + after, Event::Script(step));
    }

    /// Lets time pass until something happens to somebody, or until `end`.
    pub fn next(&mut self, end: Instant) -> Option<Happening> {
        while self.queue.peek().is_some_and(|e| e.at <= end) {
            let entry = self.queue.pop().expect("it was just seen");
            self.now = entry.at;
            if let Some(happening) = self.handle(entry) {
                return Some(happening);
            }
        }
        self.now = self.now.max(end);
        None
    }

    /// Writes a line into the trace.
    pub fn log(&mut self, line: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.trace.line(at, line);
    }

    /// Stops packets from one public address to another, or lets them pass again. Only this
    /// direction.
    pub fn cut(&mut self, from: IpAddr, to: IpAddr, cut: bool) {
        match cut {
            true => self.cuts.insert((from, to)),
            false => self.cuts.remove(&(from, to)),
        };
    }

    /// Lets everything pass again.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// The link of a host, to change it.
    pub fn link(&mut self, host: HostId) -> &mut Link {
        &mut self.hosts[host.0].link
    }

    /// A box.
    pub fn nat(&mut self, id: BoxId) -> &mut NatBox {
        &mut self.boxes[id.0].nat
    }

    /// Packets that have come to a host.
    pub fn received(&self, host: HostId) -> u64 {
        self.hosts[host.0].received
    }

    /// The addresses of a host.
    pub fn ips(&self, host: HostId) -> Vec<IpAddr> {
        self.hosts[host.0].faces.iter().map(|f| f.ip).collect()
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.entries += 1;
        self.queue.push(Entry { at, number: self.entries, event });
    }

    fn handle(&mut self, entry: Entry) -> Option<Happening> {
        match entry.event {
            Event::Enter(realm, packet) => self.enter(realm, packet),
            Event::AtBox(id, from_inside, packet) => self.at_box(id, from_inside, packet),
            Event::AtHost(host, packet) => return self.at_host(host, packet),
            Event::Tunnel { from, to, src, body } => self.tunnel(from, to, src, body),
            Event::Wake(host) => {
                let host_state = &mut self.hosts[host.0];
                if host_state.wake == Some(entry.at) {
                    host_state.wake = None;
                    return Some(Happening::Wake(host));
                }
            }
            Event::Script(step) => return Some(Happening::Script(step)),
        }
        None
    }
}

/// A packet to an address that is in no network of the simulation.
fn lost(packet: &Packet) -> String {
    format!("nobody is at {} (from {})", packet.dst, packet.src)
}

/// Something that a host has, named for the trace.
fn arrow(src: SocketAddr, dst: SocketAddr) -> String {
    format!("{src} -> {dst}")
}

/// Routers on the way through the public internet: more than the hop limit of a packet that is
/// only meant to open one's own NAT.
const INTERNET_HOPS: u8 = 10;
