//! Knocking, and being knocked at.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_nat::{Agent, AgentConfig, Candidate, CandidateKind, Card, Local, PunchKeys, Role};
use halloo_wire::ChannelId;
use halloo_wire::ids::RoundId;
use halloo_wire::limits::MAX_CANDIDATES;
use halloo_wire::peer::Callee;

use super::{AgentBox, Node};
use crate::bug::Bug;
use crate::control::Message;
use crate::net::Net;

impl Node {
    /// Begins to reach the contact, with a first message in the knock.
    pub fn dial(&mut self, net: &mut Net) {
        self.milestones.knocked = Some(net.now());
        let first = self.conversation.say(net.now());
        self.knock(vec![first], net);
        self.settle(net);
    }

    /// Knocks when that is wanted and allowed.
    pub(super) fn knock_if_due(&mut self, net: &mut Net) {
        if self.knock_due().is_some_and(|at| at <= net.now()) {
            self.knock(Vec::new(), net);
        }
    }

    /// A knock is wanted. It does not follow another at once: after a move, the first goes before
    /// the node knows anything about the new network, and the second had better know the verdict.
    pub(super) fn want_knock(&mut self, now: Instant) {
        self.want_knock = true;
        self.knock_retry = now.max(self.last_knock + KNOCK_GAP);
    }

    /// When the next knock may go, if one is wanted.
    pub(super) fn knock_due(&self) -> Option<Instant> {
        let at = self.knock_free.checked_sub(KNOCK_EACH * (KNOCK_BURST - 1));
        self.want_knock.then(|| at.unwrap_or(self.knock_free).max(self.knock_retry))
    }

    fn knock(&mut self, datagrams: Vec<Vec<u8>>, net: &mut Net) {
        let now = net.now();
        self.want_knock = false;
        self.knocks += 1;
        self.last_knock = now;
        self.knock_free = self.knock_free.max(now) + KNOCK_EACH;
        let round = RoundId(self.rng.bytes());
        let keys = PunchKeys::derive(&self.config.contact_secret, &round, Role::Caller);
        // A search costs, so its caller consents to it only when there is enough to send.
        self.local.birthday = self.config.birthday && self.bulk;
        self.begin_round(Role::Caller, keys, now);
        let card = Card { round: Some(round), birthday: self.local.birthday, ..self.card() };
        let to_other = self.links.len() - 1;
        let attested = self.attested_there(net);
        let message = Message::Knock {
            to: 1 - self.config.index,
            card: card.encode(),
            reveal: !self.config.relay_only,
            attested: if self.config.relay_only { Vec::new() } else { attested },
            datagrams,
        };
        net.log(|| format!("node {} knocks", self.config.index));
        self.say(to_other, message, net);
    }

    /// The answer to a knock.
    pub(super) fn knocked(&mut self, i: usize, callee: Option<&Callee>, net: &mut Net) {
        let now = net.now();
        let Some(callee) = callee else {
            // Nobody is there; perhaps she is about to come back.
            self.want_knock = true;
            self.knock_retry = now + KNOCK_RETRY;
            return;
        };
        self.milestones.told.get_or_insert(now);
        if let Some(channel) = callee.channel {
            self.use_relay(i, channel, net);
        }
        // Whoever does not tell her addresses does not probe: a probe tells where it comes from.
        if let Ok(card) = Card::decode(&callee.card)
            && !self.config.relay_only
        {
            self.set_remote(&card, &callee.observed, net);
        }
    }

    /// Somebody knocks.
    pub(super) fn knocked_at(
        &mut self,
        i: usize,
        observed: &[SocketAddr],
        card: &[u8],
        channel: Option<ChannelId>,
        datagrams: &[Vec<u8>],
        net: &mut Net,
    ) {
        let now = net.now();
        let Ok(card) = Card::decode(card) else { return };
        let Some(round) = card.round else { return };
        self.milestones.told.get_or_insert(now);
        let keys = PunchKeys::derive(&self.config.own_secret, &round, Role::Callee);
        self.local.birthday = self.config.birthday;
        self.begin_round(Role::Callee, keys, now);
        if let Some(channel) = channel {
            self.use_relay(i, channel, net);
        }
        if !self.config.relay_only {
            self.set_remote(&card, observed, net);
        }
        for datagram in datagrams {
            self.hear(datagram, net);
        }
    }

    fn begin_round(&mut self, role: Role, keys: PunchKeys, now: Instant) {
        match &mut self.agent {
            Some(AgentBox(agent)) => {
                agent.local_changed(self.local.clone(), now);
                agent.begin_round(role, keys, now);
            }
            None => {
                let config = AgentConfig {
                    role,
                    keys,
                    seed: self.rng.bytes(),
                    local: self.local.clone(),
                    relay_rtt: RELAY_RTT,
                };
                let mut agent = Agent::new(config, now);
                if self.bulk {
                    agent.want(true, now);
                }
                self.agent = Some(AgentBox(agent));
            }
        }
    }

    fn set_remote(&mut self, card: &Card, attested: &[SocketAddr], net: &mut Net) {
        let Some(AgentBox(agent)) = &mut self.agent else { return };
        agent.set_remote(card, attested, net.now());
        if self.bulk {
            agent.want(true, net.now());
        }
        if self.config.bug == Bug::TrustsCards {
            for candidate in &card.candidates {
                let bytes = halloo_wire::datagram::Probe { key_id: 0, sealed: vec![0; 30] };
                self.send_datagram(halloo_nat::SocketId::MAIN, candidate.addr, bytes.encode(), net);
            }
        }
    }

    /// What the holders of the node's capability get from its peer.
    pub(super) fn registered_card(&self) -> Vec<u8> {
        match self.config.relay_only {
            true => Vec::new(),
            false => self.card().encode(),
        }
    }

    fn card(&self) -> Card {
        let verdict = self.local.verdict;
        let birthday = self.config.birthday;
        if self.config.relay_only {
            return Card { verdict, ..Card::default() };
        }
        let kind = |kind| move |addr| Candidate { kind, addr };
        let hosts = self.local.ips.iter().map(|&ip| SocketAddr::new(ip, self.config.port));
        let mapped = self.mapped.filter(|m| m.1).map(|m| m.0);
        let reflexive = self.local.observed.iter().copied();
        let mut candidates: Vec<Candidate> = hosts
            .map(kind(CandidateKind::Host))
            .chain(mapped.map(kind(CandidateKind::Mapped)))
            .chain(reflexive.map(kind(CandidateKind::ServerReflexive)))
            .chain(self.config.lies.iter().copied().map(kind(CandidateKind::ServerReflexive)))
            .collect();
        candidates.truncate(MAX_CANDIDATES);
        Card {
            round: None,
            again: None,
            verdict,
            local_port: self.config.port,
            birthday,
            candidates,
        }
    }

    /// Tells the agent, and the peer by the card, when something about the node has changed.
    pub(super) fn tell_local(&mut self, net: &mut Net) {
        let mut observed: Vec<SocketAddr> = Vec::new();
        let seen = self.links.iter().filter_map(|l| l.observed());
        for addr in seen.chain(self.shown.iter().copied()) {
            if !observed.contains(&addr) {
                observed.push(addr);
            }
        }
        let local = Local {
            ips: net.ips(self.config.host),
            verdict: self.prober.verdict(),
            observed,
            ..self.local.clone()
        };
        if local != self.local {
            self.local = local.clone();
            if let Some(AgentBox(agent)) = &mut self.agent {
                agent.local_changed(local, net.now());
            }
        }
        self.update_card(net);
    }
}

/// Knocks at one contact that may follow each other at once.
const KNOCK_BURST: u32 = 3;
/// How long it takes until another knock may go.
const KNOCK_EACH: Duration = Duration::from_secs(5);
/// Shortest time between two knocks.
const KNOCK_GAP: Duration = Duration::from_secs(1);
/// How long a node waits before it knocks again where nobody was.
const KNOCK_RETRY: Duration = Duration::from_secs(1);
/// Estimate of the round trip through the relay, before anything was measured.
const RELAY_RTT: Duration = Duration::from_millis(100);
