//! A NAT box: translation and filtering in the words of RFC 4787, with the habits of real ones.
//!
//! Addresses in, addresses out: the box knows nothing of links and packets. IPv4 from a private
//! address is translated; anything with an address of its own (IPv6, or a public IPv4 address
//! behind the box) only meets the filter, as behind a stateful firewall.

mod config;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_wire::candidate::Dependence;

use self::ports::PortTable;
use crate::rng::Rng;

pub use self::config::{BoxConfig, Hairpin, Ports};

/// What a box does with a packet from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// It goes out from this source.
    Out(SocketAddr),
    /// It is for another device behind the same box.
    Hairpin {
        /// The source that this device sees.
        src: SocketAddr,
        /// The inside address.
        dst: SocketAddr,
    },
    /// It is dropped.
    Drop(Why),
}

/// Why a box drops a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The network lets no UDP through.
    Blocked,
    /// All ports of the subscriber's block are in use.
    NoPort,
    /// The box does not turn packets round.
    NoHairpin,
    /// Nobody inside has asked for it.
    Unsolicited,
    /// Its sender has sent something unsolicited before.
    Blacklisted,
}

/// A NAT box, or a firewall, with its state.
#[derive(Debug)]
pub struct NatBox {
    config: BoxConfig,
    external: Ipv4Addr,
    mappings: BTreeMap<Key, Mapping>,
    ports: PortTable,
    /// Mapped ports: who they lead to.
    forwards: BTreeMap<u16, SocketAddr>,
    /// Filter state of untranslated addresses.
    flows: BTreeMap<SocketAddr, Sessions>,
    /// Ports and remote addresses that a touchy box has entered in its table by itself.
    marks: BTreeMap<(u16, SocketAddr), Instant>,
    /// Until when a remote host is shut out.
    blacklist: BTreeMap<IpAddr, Instant>,
    rng: Rng,
}

/// An inside address, and the part of the destination that the mapping depends on.
type Key = (SocketAddr, Scope);

/// What a mapping is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Everybody,
    Host(IpAddr),
    Socket(SocketAddr),
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    sessions: Sessions,
}

/// Remote addresses that were sent to.
type Sessions = BTreeMap<SocketAddr, Session>;

#[derive(Debug, Clone, Copy)]
struct Session {
    last: Instant,
    answered: bool,
}

impl NatBox {
    /// A box without state.
    pub fn new(config: BoxConfig, external: Ipv4Addr, mut rng: Rng) -> Self {
        Self {
            config,
            external,
            mappings: BTreeMap::new(),
            ports: PortTable::new(config.ports, &mut rng),
            forwards: BTreeMap::new(),
            flows: BTreeMap::new(),
            marks: BTreeMap::new(),
            blacklist: BTreeMap::new(),
            rng,
        }
    }

    /// A packet from inside.
    pub fn outbound(&mut self, src: SocketAddr, dst: SocketAddr, now: Instant) -> Outbound {
        if self.config.blocks_udp {
            return Outbound::Drop(Why::Blocked);
        }
        if is_public(src.ip()) {
            self.flows.entry(src).or_default().insert(dst, Session { last: now, answered: false });
            return Outbound::Out(src);
        }
        let turned = dst.ip() == IpAddr::V4(self.external);
        if turned && self.config.hairpin == Hairpin::None {
            return Outbound::Drop(Why::NoHairpin);
        }
        // A mapped port is one for both directions (RFC 6887, section 1).
        let forwarded = self.forwards.iter().find(|(_, inside)| **inside == src).map(|(p, _)| *p);
        let Some(port) = forwarded.or_else(|| self.map(src, dst, now)) else {
            return Outbound::Drop(Why::NoPort);
        };
        let outside = SocketAddr::new(self.external.into(), port);
        if !turned {
            return Outbound::Out(outside);
        }
        match self.config.hairpin {
            Hairpin::ExternalSource => match self.inbound(outside, dst, now) {
                Ok(inside) => Outbound::Hairpin { src: outside, dst: inside },
                Err(why) => Outbound::Drop(why),
            },
            _ => match self.inside_of(dst.port(), now) {
                Some(inside) => Outbound::Hairpin { src, dst: inside },
                None => Outbound::Drop(Why::Unsolicited),
            },
        }
    }

    /// A packet from outside: the inside address that it goes on to.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn inbound(
        &mut self,
        src: SocketAddr,
        dst: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, Why> {
        if self.config.blocks_udp {
            return Err(Why::Blocked);
        }
        if self.blacklist.get(&src.ip()).is_some_and(|&until| now < until) {
            return Err(Why::Blacklisted);
        }
        let inside = match dst.ip() == IpAddr::V4(self.external) {
            true => self.translate_in(src, dst.port(), now),
            false => self.pass_filter(src, dst, now).then_some(dst),
        };
        if inside.is_none() {
            if self.config.touchy {
                self.marks.insert((dst.port(), src), now);
            }
            if let Some(time) = self.config.blacklists {
                self.blacklist.insert(src.ip(), now + time);
            }
        }
        inside.ok_or(Why::Unsolicited)
    }

    /// Maps an external port to an inside address for everybody, as NAT-PMP, PCP and UPnP do.
    /// Gives the same port if it is free, else another.
    pub fn forward(&mut self, inside: SocketAddr, now: Instant) -> u16 {
        let mut port = inside.port();
        while self.forwards.contains_key(&port) || self.in_use_by_others(port, inside, now) {
            port = self.rng.within(1024..=65535) as u16;
        }
        self.forwards.insert(port, inside);
        port
    }

    /// Forgets everything, as after a restart; mapped ports too.
    pub fn flush(&mut self) {
        self.mappings.clear();
        self.ports = PortTable::new(self.config.ports, &mut self.rng);
        self.forwards.clear();
        self.flows.clear();
        self.marks.clear();
        self.blacklist.clear();
    }

    /// Gives the box another external address; what it had mapped is gone.
    pub fn set_external(&mut self, external: Ipv4Addr) {
        self.flush();
        self.external = external;
    }

    /// The external address.
    pub fn external(&self) -> Ipv4Addr {
        self.external
    }

    /// How the box behaves.
    pub fn config(&self) -> &BoxConfig {
        &self.config
    }

    /// Mappings that are alive.
    pub fn live_mappings(&self, now: Instant) -> usize {
        self.mappings.values().filter(|m| self.is_alive(m, now)).count()
    }

    fn scope(&self, dst: SocketAddr) -> Scope {
        match self.config.mapping {
            Dependence::AddressAndPortDependent => Scope::Socket(dst),
            Dependence::AddressDependent => Scope::Host(dst.ip()),
            _ => Scope::Everybody,
        }
    }

    /// The external port for a packet, from an old mapping or a new one.
    fn map(&mut self, src: SocketAddr, dst: SocketAddr, now: Instant) -> Option<u16> {
        let scope = self.scope(dst);
        let key = (src, scope);
        if self.mappings.get(&key).is_some_and(|m| !self.is_alive(m, now)) {
            self.remove(key);
        }
        if !self.mappings.contains_key(&key) {
            let port = self.allocate(src, dst, scope, now)?;
            self.ports.add(port, key);
            self.mappings.insert(key, Mapping { port, sessions: Sessions::new() });
        }
        let mapping = self.mappings.get_mut(&key).expect("it has just been made");
        let session = mapping.sessions.entry(dst).or_insert(Session { last: now, answered: false });
        session.last = now;
        Some(mapping.port)
    }

    fn allocate(
        &mut self,
        src: SocketAddr,
        dst: SocketAddr,
        scope: Scope,
        now: Instant,
    ) -> Option<u16> {
        for attempt in 0..ports::ATTEMPTS {
            let port = self.ports.propose(src.port(), attempt, &mut self.rng);
            if self.is_free(port, src, dst, scope, now) {
                return Some(port);
            }
        }
        let last = self.ports.range();
        last.into_iter().find(|&port| self.is_free(port, src, dst, scope, now))
    }

    fn is_free(
        &mut self,
        port: u16,
        src: SocketAddr,
        dst: SocketAddr,
        scope: Scope,
        now: Instant,
    ) -> bool {
        // A box that preserves ports, and tells flows apart by their destinations, gives one port
        // to many (Linux). All others give a port once.
        let shares = self.config.ports == Ports::Preserving && scope != Scope::Everybody;
        let marked = self.marks.get(&(port, dst)).is_some_and(|&at| now < at + MARK_LIFE);
        let forwarded = self.forwards.get(&port).is_some_and(|&inside| inside != src);
        let used = self.keys_on(port, now).into_iter().any(|(_, s)| !shares || s == scope);
        let taken = forwarded || used || (shares && marked);
        !taken
    }

    fn in_use_by_others(&mut self, port: u16, inside: SocketAddr, now: Instant) -> bool {
        self.keys_on(port, now).into_iter().any(|(src, _)| src != inside)
    }

    /// Live mappings on a port; dead ones are forgotten on the way.
    fn keys_on(&mut self, port: u16, now: Instant) -> Vec<Key> {
        let keys = self.ports.keys(port);
        let (alive, dead): (Vec<Key>, Vec<Key>) = keys
            .into_iter()
            .partition(|k| self.mappings.get(k).is_some_and(|m| self.is_alive(m, now)));
        dead.into_iter().for_each(|key| self.remove(key));
        alive
    }

    fn remove(&mut self, key: Key) {
        if let Some(gone) = self.mappings.remove(&key) {
            self.ports.remove(gone.port, key);
        }
    }

    fn translate_in(&mut self, src: SocketAddr, port: u16, now: Instant) -> Option<SocketAddr> {
        let keys = self.keys_on(port, now);
        let life = Life::of(&self.config);
        let meant = self.scope(src);
        let admitting =
            |k: &&Key| admits(self.config.filtering, &self.mappings[*k].sessions, src, life, now);
        let key = keys
            .iter()
            .find(|(_, scope)| *scope == meant)
            .filter(admitting)
            .or_else(|| keys.iter().find(admitting))
            .copied();
        if let Some(key) = key {
            let mapping = self.mappings.get_mut(&key).expect("the port's keys are mapped");
            answered(&mut mapping.sessions, src, self.config.inbound_refreshes, now);
            return Some(key.0);
        }
        self.forwards.get(&port).copied()
    }

    fn inside_of(&mut self, port: u16, now: Instant) -> Option<SocketAddr> {
        let mapped = self.keys_on(port, now).first().map(|k| k.0);
        mapped.or_else(|| self.forwards.get(&port).copied())
    }

    fn pass_filter(&mut self, src: SocketAddr, dst: SocketAddr, now: Instant) -> bool {
        let life = Life::of(&self.config);
        let none = Sessions::new();
        let sessions = self.flows.get(&dst).unwrap_or(&none);
        let passes = self.config.filtering == Dependence::EndpointIndependent
            || admits(self.config.filtering, sessions, src, life, now);
        if let Some(sessions) = self.flows.get_mut(&dst).filter(|_| passes) {
            answered(sessions, src, self.config.inbound_refreshes, now);
        }
        passes
    }

    fn is_alive(&self, mapping: &Mapping, now: Instant) -> bool {
        let life = Life::of(&self.config);
        mapping.sessions.values().any(|s| life.holds(s, now))
    }
}

/// How long filter state lives.
#[derive(Debug, Clone, Copy)]
struct Life {
    unanswered: Duration,
    answered: Duration,
}

impl Life {
    fn of(config: &BoxConfig) -> Self {
        Self { unanswered: config.first_timeout, answered: config.timeout }
    }

    fn holds(self, session: &Session, now: Instant) -> bool {
        now < session.last + if session.answered { self.answered } else { self.unanswered }
    }
}

fn admits(
    filtering: Dependence,
    sessions: &Sessions,
    src: SocketAddr,
    life: Life,
    now: Instant,
) -> bool {
    match filtering {
        Dependence::AddressAndPortDependent => {
            sessions.get(&src).is_some_and(|s| life.holds(s, now))
        }
        Dependence::AddressDependent => {
            sessions.iter().any(|(to, s)| to.ip() == src.ip() && life.holds(s, now))
        }
        _ => sessions.values().any(|s| life.holds(s, now)),
    }
}

fn answered(sessions: &mut Sessions, src: SocketAddr, refreshes: bool, now: Instant) {
    if let Some(session) = sessions.get_mut(&src) {
        session.answered = true;
        if refreshes {
            session.last = now;
        }
    }
}

/// Whether an address is its owner's own in the whole simulated internet: not RFC 1918, not
/// RFC 6598, not unique local.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !ip.is_private() && !shared
        }
        IpAddr::V6(ip) => ip.segments()[0] & 0xfe00 != 0xfc00,
    }
}

/// How long a touchy box remembers what came unsolicited: the time that Linux gives to a flow
/// without an answer.
const MARK_LIFE: Duration = Duration::from_secs(30);
