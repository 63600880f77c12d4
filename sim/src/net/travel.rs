//! The way of a packet from one host to another.

use std::net::SocketAddr;
use std::time::Duration;

use super::event::Event;
use super::{BoxId, Device, Happening, HostId, Net, RealmId, arrow, lost};
use crate::link::Link;
use crate::nat_box::Outbound;
use crate::packet::{Body, DEFAULT_TTL, Packet};

/// A host has no interface for this kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable;

impl Net {
    /// Sends a packet from a port of a host.
    ///
    /// # Errors
    /// [`Unreachable`] when the host has no interface of the destination's family.
    pub fn send(
        &mut self,
        from: HostId,
        port: u16,
        dst: SocketAddr,
        ttl: u8,
        body: Body,
    ) -> Result<(), Unreachable> {
        let host = &self.hosts[from.0];
        let face = host
            .faces
            .iter()
            .find(|f| f.ip.is_ipv4() == dst.is_ipv4())
            .copied()
            .ok_or(Unreachable)?;
        let packet = Packet { src: SocketAddr::new(face.ip, port), dst, ttl, body };
        let link = host.link;
        self.cross(&link, &packet, |packet| Event::Enter(face.realm, packet));
        Ok(())
    }

    /// Brings a piece of a reliable stream (TCP) from one host to another, past all NATs: late
    /// when a link is down, but always. The receiver sees it come from `src`.
    pub fn tunnel(&mut self, from: HostId, to: HostId, src: SocketAddr, body: Body) {
        let delay = match (self.stream_delay(from), self.stream_delay(to)) {
            (Some(up), Some(down)) => up + down,
            _ => {
                let later = self.now + STREAM_RETRY;
                return self.push(later, Event::Tunnel { from, to, src, body });
            }
        };
        let dst = self.hosts[to.0].faces.first().map_or(src, |f| SocketAddr::new(f.ip, 0));
        let packet = Packet { src, dst, ttl: DEFAULT_TTL, body };
        self.push(self.now + delay, Event::AtHost(to, packet));
    }

    /// One-way delay between a host and the middle of the internet, while all links are up.
    fn stream_delay(&self, host: HostId) -> Option<Duration> {
        let host = &self.hosts[host.0];
        let mut realm = host.faces.first()?.realm;
        let mut delay = host.link.up.then_some(host.link.delay)?;
        while let Some(gateway) = self.realms[realm.0].gateway {
            let site = &self.boxes[gateway.0];
            delay += site.link.up.then_some(site.link.delay)?;
            realm = site.outer;
        }
        Some(delay)
    }

    /// A packet is in a network: on to the device that has its destination, or to the gateway.
    pub(super) fn enter(&mut self, realm: RealmId, mut packet: Packet) {
        if realm == Self::INTERNET && self.cuts.contains(&(packet.src.ip(), packet.dst.ip())) {
            return self.log(|| format!("cut: {}", arrow(packet.src, packet.dst)));
        }
        let state = &self.realms[realm.0];
        let Some(ttl) = packet.ttl.checked_sub(state.hops) else {
            return self.log(|| format!("too many hops: {}", arrow(packet.src, packet.dst)));
        };
        packet.ttl = ttl;
        match (state.attached.get(&packet.dst.ip()), state.gateway) {
            (Some(&Device::Host(host)), _) => {
                let link = self.hosts[host.0].link;
                self.cross(&link, &packet, |packet| Event::AtHost(host, packet));
            }
            (Some(&Device::Box(id)), _) => {
                let link = self.boxes[id.0].link;
                self.cross(&link, &packet, |packet| Event::AtBox(id, false, packet));
            }
            (None, Some(gateway)) => self.push(self.now, Event::AtBox(gateway, true, packet)),
            (None, None) => self.log(|| lost(&packet)),
        }
    }

    /// A packet has reached a box.
    pub(super) fn at_box(&mut self, id: BoxId, from_inside: bool, mut packet: Packet) {
        let Some(ttl) = packet.ttl.checked_sub(1) else {
            return self.log(|| format!("too many hops: {}", arrow(packet.src, packet.dst)));
        };
        packet.ttl = ttl;
        let now = self.now;
        let site = &mut self.boxes[id.0];
        let (inner, outer, link) = (site.inner, site.outer, site.link);
        if !from_inside {
            return match site.nat.inbound(packet.src, packet.dst, now) {
                Ok(inside) => {
                    packet.dst = inside;
                    self.push(now, Event::Enter(inner, packet));
                }
                Err(why) => {
                    self.log(|| {
                        format!("box {}: {why:?}: {}", id.0, arrow(packet.src, packet.dst))
                    });
                }
            };
        }
        match site.nat.outbound(packet.src, packet.dst, now) {
            Outbound::Out(src) => {
                packet.src = src;
                self.cross(&link, &packet, |packet| Event::Enter(outer, packet));
            }
            Outbound::Hairpin { src, dst } => {
                (packet.src, packet.dst) = (src, dst);
                self.push(now, Event::Enter(inner, packet));
            }
            Outbound::Drop(why) => {
                self.log(|| format!("box {}: {why:?}: {}", id.0, arrow(packet.src, packet.dst)));
            }
        }
    }

    pub(super) fn at_host(&mut self, host: HostId, packet: Packet) -> Option<Happening> {
        let state = &mut self.hosts[host.0];
        // Whoever has moved away hears nothing of what was sent to the old place.
        let here = state.faces.iter().any(|f| f.ip == packet.dst.ip());
        state.received += u64::from(here);
        here.then_some(Happening::Packet(host, packet))
    }

    /// The name of a host.
    pub fn name(&self, host: HostId) -> &'static str {
        self.hosts[host.0].name
    }

    fn cross(&mut self, link: &Link, packet: &Packet, event: impl Fn(Packet) -> Event) {
        let crossings = link.cross(packet.body.len(), &mut self.rng);
        if crossings[0].is_none() {
            self.log(|| format!("lost: {}", arrow(packet.src, packet.dst)));
        }
        for delay in crossings.into_iter().flatten() {
            self.push(self.now + delay, event(packet.clone()));
        }
    }
}

/// How long a stream waits before it sends again while a link is down.
const STREAM_RETRY: Duration = Duration::from_millis(200);
