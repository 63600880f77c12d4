//! What comes from the contact, or says that it does.

use std::net::SocketAddr;
use std::time::Instant;

use halloo_wire::path::{DirectPath, SocketId};

use super::pair::main_path;
use super::{Agent, MAX_LAN};
use crate::output::{AgentEvent, Technique};
use crate::probe::{Kind, Reject};
use crate::range::{is_answerable, is_probe_target, is_public};
use crate::schedule::{Plan, PlanKind};
use crate::targets::canonical;

impl Agent {
    /// The contact was found in our local network, by mDNS. Nobody attests it, so the address must
    /// be one that only this network can mean.
    pub fn add_lan(&mut self, addr: SocketAddr, now: Instant) {
        let addr = canonical(addr);
        if is_public(addr.ip())
            || !is_probe_target(addr, &self.local.ips)
            || !self.sources.take(now)
        {
            return;
        }
        if !self.lan.contains(&addr) {
            if self.lan.len() == MAX_LAN {
                self.lan.remove(0);
            }
            self.lan.push(addr);
        }
        let path = main_path(addr);
        if self.pairs.get(path).is_none() {
            self.add_pair(path, Technique::Lan);
        }
        let pair = self.pairs.get_mut(path).expect("it is there or was added");
        if pair.plan.is_none_or(|plan| plan.due().is_none()) && !pair.is_confirmed() {
            pair.plan = Some(Plan::new(PlanKind::Punch, now));
            self.send_due(now);
        }
    }

    /// A datagram of class [`Probe`](halloo_wire::datagram::Class::Probe) came whose key id is one
    /// of [`receive_ids`](Self::receive_ids).
    ///
    /// # Errors
    /// [`Reject`] says why it is not taken. Nothing is answered then, and nothing changes but a
    /// counter.
    pub fn handle_probe(
        &mut self,
        socket: SocketId,
        source: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Reject> {
        let path = DirectPath { socket, remote: canonical(source) };
        let taken = self.take_probe(path, datagram, now);
        match taken {
            Ok(()) => self.stats.probes_heard += 1,
            Err(_) => self.stats.rejected += 1,
        }
        taken
    }

    /// QUIC datagrams of this contact come from an address that is not known. They may be forged,
    /// so it is probed, and nothing else is sent there before it has answered.
    pub fn new_source(&mut self, socket: SocketId, source: SocketAddr, now: Instant) {
        let path = DirectPath { socket, remote: canonical(source) };
        if !self.has_socket(socket) || !is_probe_target(path.remote, &self.local.ips) {
            return;
        }
        if self.pairs.get(path).is_none() {
            if !self.sources.take(now) {
                return;
            }
            let technique = self.technique_of(path);
            self.add_pair(path, technique);
        }
        let pair = self.pairs.get_mut(path).expect("it is there or was added");
        if pair.plan.is_none_or(|plan| plan.due().is_none()) && !pair.is_confirmed() {
            pair.plan = Some(Plan::new(PlanKind::Check, now));
            self.send_due(now);
        }
    }

    fn take_probe(
        &mut self,
        path: DirectPath,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Reject> {
        if !self.has_socket(path.socket) {
            return Err(Reject::UnknownSocket);
        }
        let (round, message) = self.rounds.open(datagram)?;
        if !is_answerable(path.remote) {
            return Err(Reject::Source);
        }
        if self.pairs.get(path).is_none() {
            if !self.sources.take(now) {
                return Err(Reject::TooManySources);
            }
            let technique = self.technique_of(path);
            self.add_pair(path, technique);
        }
        if message.busy {
            self.keep.used(now);
        }
        let pair = self.pairs.get_mut(path).expect("it is there or was added");
        let first = pair.heard.is_none();
        pair.heard = Some(now);
        if message.selected {
            pair.selected_by_them = Some(now);
        }
        let mut answered = false;
        if message.kind == Kind::Pong {
            answered = pair.pong_came(message.txid, now);
            if answered && pair.plan.is_some_and(|plan| plan.kind() != PlanKind::Punch) {
                pair.plan = None;
            }
        }
        let technique = pair.technique;
        if first {
            self.event(AgentEvent::Valid { path, technique });
        }
        if message.kind == Kind::Ping {
            self.answer(path, round, message.txid, now);
        }
        if message.doubts {
            self.doubted_by_them(path, now);
        }
        self.heard(path, answered, now);
        self.trigger(path, now);
        self.send_due(now);
        Ok(())
    }

    /// A probe from a path that has not answered us asks for a ping of our own, once.
    fn trigger(&mut self, path: DirectPath, now: Instant) {
        let Some(pair) = self.pairs.get_mut(path) else { return };
        if pair.is_confirmed() || pair.triggered {
            return;
        }
        pair.triggered = true;
        match pair.plan.and_then(|plan| plan.due()) {
            Some(_) => self.ping(path, None, now),
            None => pair.plan = Some(Plan::new(PlanKind::Check, now)),
        }
    }

    /// Whether we use this socket: what comes through one that we had closed came too late.
    fn has_socket(&self, id: SocketId) -> bool {
        id == SocketId::MAIN || self.extra.contains(&id)
    }
}
