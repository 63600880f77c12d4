//! The loop: what the machines want is done until they want nothing.

use std::time::Duration;

use halloo_nat::{Agent, AgentEvent, Output, ProberEvent, Purpose, SendOn, SocketId, Transmit};

use super::{AgentBox, Node, Sent};
use crate::bug::Bug;
use crate::net::Net;
use crate::packet::{Body, DEFAULT_TTL};

/// Outputs for one input, at most: above it a machine would never stop.
const ENDLESS: usize = 20_000;
/// How long [`Bug::Slow`] thinks.
const SLOWNESS: Duration = Duration::from_millis(200);

impl Node {
    /// Does what the machines want, and asks to be woken when they want something again.
    ///
    /// # Panics
    /// When a machine does not stop.
    pub(super) fn settle(&mut self, net: &mut Net) {
        let mut outputs = 0;
        loop {
            let mut idle = true;
            match self.prober.poll_output() {
                Output::Wait(at) => self.prober_wait = at,
                Output::Transmit(transmit) => {
                    idle = false;
                    self.transmit(transmit, true, net);
                }
                Output::Event(event) => {
                    idle = false;
                    self.prober_event(event, net);
                }
            }
            match self.agent.as_mut().map(|a| a.0.poll_output()) {
                None => {}
                Some(Output::Wait(at)) => self.agent_wait = at,
                Some(Output::Transmit(transmit)) => {
                    idle = false;
                    self.transmit(transmit, false, net);
                }
                Some(Output::Event(event)) => {
                    idle = false;
                    self.agent_event(event, net);
                }
            }
            if idle {
                break;
            }
            outputs += 1;
            assert!(outputs < ENDLESS, "node {} never comes to rest", self.config.index);
        }
        self.counts.most_outputs = self.counts.most_outputs.max(outputs);
        self.knock_if_due(net);
        self.set_wake(net);
    }

    fn set_wake(&self, net: &mut Net) {
        let waits = [
            self.prober_wait,
            self.agent_wait,
            self.watch,
            self.links_wait(),
            self.conversation.next_timeout(),
            Some(self.refresh_at),
        ];
        net.wake(self.config.host, waits.into_iter().flatten().min());
    }

    fn transmit(&mut self, transmit: Transmit, echo: bool, net: &mut Net) {
        let now = net.now();
        let Transmit { socket, to, datagram, ttl, purpose } = transmit;
        if !self.budget.take(purpose, now) {
            self.counts.refused += 1;
            return;
        }
        let Some(&port) = self.sockets.get(&socket) else { return };
        let thinks = self.milestones.told.is_some_and(|told| now < told + SLOWNESS);
        if self.config.bug == Bug::Slow && thinks && purpose == Purpose::Punch {
            return;
        }
        let kind = match purpose {
            _ if echo => Sent::Echo,
            Purpose::Punch => Sent::Punch,
            Purpose::Search => Sent::Search,
            Purpose::Answer | Purpose::Check => Sent::Solicited,
        };
        let times = if self.config.bug == Bug::Storms { 100 } else { 1 };
        let name = net.name(self.config.host);
        net.log(|| format!("{name} {kind:?} to {to} from socket {} ttl {ttl:?}", socket.0));
        for _ in 0..times {
            self.counts.add(kind, now);
            let body = Body::Datagram(datagram.as_slice().into());
            let sent = net.send(self.config.host, port, to, ttl.unwrap_or(DEFAULT_TTL), body);
            if sent.is_err()
                && !echo
                && let Some(AgentBox(agent)) = &mut self.agent
            {
                agent.send_failed(halloo_nat::DirectPath { socket, remote: to }, now);
            }
        }
    }

    fn prober_event(&mut self, event: ProberEvent, net: &mut Net) {
        let name = net.name(self.config.host);
        net.log(|| format!("{name} prober: {event:?}"));
        match event {
            ProberEvent::OpenSockets(n) => {
                let opened = self.open_sockets(n);
                self.prober.sockets_opened(&opened, net.now());
            }
            ProberEvent::CloseSockets(ids) => self.close_sockets(&ids),
            ProberEvent::Verdict(_) | ProberEvent::UdpBlocked => self.tell_local(net),
            ProberEvent::Attested(attested) => {
                self.shown = attested.iter().map(|a| a.addr).collect();
                self.tell_local(net);
            }
            ProberEvent::Mapped { port, reachable } => {
                if let Some(mapped) = self.mapped.as_mut().filter(|m| m.0.port() == port) {
                    mapped.1 = reachable;
                }
                self.tell_local(net);
            }
        }
    }

    fn agent_event(&mut self, event: AgentEvent, net: &mut Net) {
        let now = net.now();
        let name = net.name(self.config.host);
        net.log(|| format!("{name} agent: {event:?}"));
        match event {
            AgentEvent::Route(send_on) => self.route_changed(send_on, net),
            AgentEvent::Valid { path, technique } => {
                self.route.add_source(path);
                self.found.push((path, technique));
            }
            AgentEvent::Invalid { path } => self.route.remove_source(path),
            AgentEvent::OpenSockets(n) => {
                let opened: Vec<SocketId> =
                    self.open_sockets(n).into_iter().map(|(id, _)| id).collect();
                self.with_agent(|agent| agent.sockets_opened(&opened, now));
            }
            AgentEvent::CloseSockets(ids) => self.close_sockets(&ids),
            AgentEvent::Watch(on) => {
                self.watch = on.then(|| now + halloo_nat::WATCH_INTERVAL);
            }
            AgentEvent::Knock(_) => self.want_knock(now),
            AgentEvent::WantBirthday(pair) => {
                let allowed = self.searches.begin(pair, now);
                self.with_agent(|agent| agent.allow_birthday(allowed, now));
            }
            AgentEvent::BirthdayOver { pair, outcome } => self.searches.over(pair, outcome, now),
            AgentEvent::Relayed(why) => self.relayed = Some(why),
        }
    }

    fn route_changed(&mut self, send_on: SendOn, net: &mut Net) {
        let now = net.now();
        let falls_back = !matches!(send_on, SendOn::Direct(_));
        let was_direct = matches!(self.route.send_on(), SendOn::Direct(_));
        if self.config.bug == Bug::NeverFallsBack && falls_back && was_direct {
            return;
        }
        if send_on.direct().is_some() {
            self.milestones.direct.get_or_insert(now);
        }
        if !falls_back {
            self.milestones.settled.get_or_insert(now);
        }
        let kept = self.route.set_send(send_on, now);
        self.send_all(kept, net);
        if falls_back && was_direct {
            self.touch_peers(net);
        }
    }

    fn with_agent(&mut self, what: impl FnOnce(&mut Agent)) {
        if let Some(AgentBox(agent)) = &mut self.agent {
            what(agent);
        }
    }
}
