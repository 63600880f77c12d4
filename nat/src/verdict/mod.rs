//! Finding out how the NAT in front of a node behaves: the prober.
//!
//! The idea is RFC 5780's, with echoes at the node's own rendezvous peer, which has two UDP ports,
//! and at one peer more.
//!
//! | question | answer |
//! |---|---|
//! | Do both ports of the peer see the main socket at one address? | no: address-and-port-dependent mapping |
//! | Does another peer see it there too? | no: address-dependent mapping; yes: endpoint-independent |
//! | Does the second port's answer reach a socket that has only spoken to the first? | yes: address-dependent filtering, or none; no: address-and-port-dependent |
//! | Which ports do six more sockets get? | how ports are allocated; asked only when mapping is dependent |
//!
//! It runs when a node starts and when its network changes, in the background: two round trips and
//! a dozen datagrams when nothing is lost. A connection that is opened meanwhile uses the verdict
//! of before. What is found belongs to the network, not to the device; and a NAT may behave better
//! than it will under load.
//!
//! The same echoes give *attested addresses*: each answer carries a cookie with which the peer
//! recognises, for a minute, that this node can receive there.

mod allocation;
mod ask;
mod conclude;
mod config;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_wire::candidate::{Allocation, Dependence, Verdict};
use halloo_wire::path::SocketId;
use halloo_wire::peer::Attested;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::output::{Output, Purpose, Queue, Transmit};
use crate::targets::canonical;
use allocation::Choice;
use ask::{Ask, Question};

pub use ask::ECHO_SCHEDULE_MS;
pub use config::{ProberConfig, ProberEvent};

/// Sockets opened to see which ports a NAT chooses.
pub const CHOICE_SOCKETS: u16 = 6;
/// How long a cookie counts here. Peers take it for 60 seconds at least.
pub const COOKIE_LIFE: Duration = Duration::from_secs(50);

/// Who attests an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Home,
    OtherPeer,
}

/// An address with a cookie.
#[derive(Debug, Clone, Copy)]
struct Proof {
    question: Question,
    by: By,
    attested: Attested,
    since: Instant,
}

/// What sockets are opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Fresh,
    Choices,
    /// Nothing any more.
    Stale,
}

/// How far the question of ports is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// Whether it matters is not known.
    Later,
    Asking,
    Known(Allocation),
}

/// Finds out how a NAT maps, filters and allocates ports. Driven like an [`Agent`](crate::Agent).
#[derive(Debug)]
pub struct Prober {
    config: ProberConfig,
    rng: ChaCha12Rng,
    asks: Vec<Ask>,
    proofs: Vec<Proof>,
    filtering: Dependence,
    /// By the place in which the sockets were opened.
    choices: Vec<(usize, Choice)>,
    ports: Ports,
    /// Requests for sockets that have not been answered, in order.
    opening: VecDeque<Opening>,
    fresh: Option<SocketId>,
    choosers: Vec<SocketId>,
    mapped: Option<u16>,
    told: Option<Verdict>,
    queue: Queue<ProberEvent>,
}

impl Prober {
    /// A prober that has begun to ask.
    pub fn new(config: ProberConfig, now: Instant) -> Self {
        let config = ProberConfig {
            home: canonical(config.home),
            home_other_family: config.home_other_family.map(canonical),
            other_peer: config.other_peer.map(canonical),
            ..config
        };
        let rng = ChaCha12Rng::from_seed(config.seed);
        let mut it = Self {
            config,
            rng,
            asks: Vec::new(),
            proofs: Vec::new(),
            filtering: Dependence::Unknown,
            choices: Vec::new(),
            ports: Ports::Later,
            opening: VecDeque::new(),
            fresh: None,
            choosers: Vec::new(),
            mapped: None,
            told: None,
            queue: VecDeque::new(),
        };
        it.begin(now);
        it
    }

    /// A datagram of class [`Peer`](halloo_wire::datagram::Class::Peer) came. Whatever does not
    /// answer a question of ours is ignored.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        source: SocketAddr,
        datagram: &PeerDatagram,
        now: Instant,
    ) {
        let PeerDatagram::EchoReply { txid, cookie, from_second, observed } = *datagram else {
            return;
        };
        let source = canonical(source);
        let observed = canonical(observed);
        let place = self.asks.iter().position(|a| {
            a.txid == txid
                && a.socket == socket
                && a.answers_from == source
                && from_second
                    == (a.question == Question::Filter || a.question == Question::SecondPort)
        });
        let Some(place) = place else { return };
        if let Question::Mapping(port) = self.asks[place].question
            && observed.port() != port
        {
            return;
        }
        let ask = self.asks.swap_remove(place);
        self.answered(&ask, Attested { addr: observed, cookie }, now);
        self.settle();
    }

    /// The driver opened sockets, with these local ports; fewer than asked for, or none, when it
    /// could not.
    pub fn sockets_opened(&mut self, sockets: &[(SocketId, u16)], now: Instant) {
        let opening = self.opening.pop_front().unwrap_or(Opening::Stale);
        let wanted = match opening {
            Opening::Stale => 0,
            Opening::Fresh => 1,
            Opening::Choices => usize::from(CHOICE_SOCKETS),
        };
        let (used, spare) = sockets.split_at(wanted.min(sockets.len()));
        self.close(spare.iter().map(|&(id, _)| id).collect());
        match opening {
            Opening::Stale => {}
            Opening::Fresh => {
                if let Some(&(id, _)) = used.first() {
                    self.fresh = Some(id);
                    self.ask(Question::FreshSocket, id, self.config.home, now);
                }
            }
            Opening::Choices => {
                self.choosers.extend(used.iter().map(|&(id, _)| id));
                for (place, &(id, inside)) in used.iter().enumerate() {
                    self.ask(Question::Choice { inside, place }, id, self.config.home, now);
                }
            }
        }
        self.send_due(now);
        self.settle();
    }

    /// Checks whether a port that a router was asked to map leads to the main socket.
    pub fn check_mapping(&mut self, port: u16, now: Instant) {
        // Routers have said that they mapped this.
        if port == 0 {
            let event = ProberEvent::Mapped { port, reachable: false };
            self.queue.push_back(Output::Event(event));
            return;
        }
        self.mapped = Some(port);
        self.ask_mapping(now);
        self.send_due(now);
    }

    /// Asks again for what is attested, so that the cookies are fresh: before a knock, and when a
    /// presence is renewed. Where it turns out that the network has changed, everything begins
    /// again.
    pub fn refresh(&mut self, now: Instant) {
        self.ask_attesters(now);
        if self.mapped.is_some() {
            self.ask_mapping(now);
        }
        self.send_due(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.send_due(now);
        self.settle();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output<ProberEvent> {
        let due = || self.asks.iter().map(Ask::due).min();
        self.queue.pop_front().unwrap_or_else(|| Output::Wait(due()))
    }

    /// What is known so far.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            mapping: self.mapping(),
            filtering: self.filtering,
            allocation: match self.ports {
                Ports::Known(allocation) => allocation,
                Ports::Later | Ports::Asking => Allocation::Unknown,
            },
        }
    }

    /// Where our rendezvous peer sees the main socket.
    pub fn observed(&self) -> Option<SocketAddr> {
        self.seen(Question::Home)
    }

    /// What our rendezvous peer attests, with cookies that it still takes: the main socket, its
    /// address of the other family, the mapped port.
    pub fn attested(&self, now: Instant) -> Vec<Attested> {
        self.proven(By::Home, now)
    }

    /// What the other peer attests: for a knock there.
    pub fn attested_by_other(&self, now: Instant) -> Vec<Attested> {
        self.proven(By::OtherPeer, now)
    }

    fn begin(&mut self, now: Instant) {
        self.ask_attesters(now);
        self.ask_behaviour(now);
        self.send_due(now);
    }

    fn ask_behaviour(&mut self, now: Instant) {
        if let Some(second) = self.second() {
            self.ask(Question::SecondPort, SocketId::MAIN, second, now);
            self.open(Opening::Fresh, 1);
        }
    }

    fn ask_attesters(&mut self, now: Instant) {
        self.ask(Question::Home, SocketId::MAIN, self.config.home, now);
        if let Some(other) = self.config.home_other_family {
            self.ask(Question::OtherFamily, SocketId::MAIN, other, now);
        }
        if let Some(other) = self.config.other_peer {
            self.ask(Question::OtherPeer, SocketId::MAIN, other, now);
        }
    }

    /// Begins again, because the network is another one. What was just seen of it stays.
    fn restart(&mut self, now: Instant) {
        let sockets = self.choosers.drain(..).chain(self.fresh.take()).collect();
        self.close(sockets);
        let kept = [Question::OtherFamily, Question::OtherPeer];
        self.asks.retain(|a| kept.contains(&a.question));
        self.proofs.retain(|p| p.question == Question::Home);
        self.filtering = Dependence::Unknown;
        self.choices.clear();
        self.ports = Ports::Later;
        self.told = None;
        self.opening.iter_mut().for_each(|o| *o = Opening::Stale);
        self.ask_behaviour(now);
        if let Some(other) = self.config.other_peer {
            self.ask(Question::OtherPeer, SocketId::MAIN, other, now);
        }
        self.ask_mapping(now);
    }

    fn ask(&mut self, question: Question, socket: SocketId, to: SocketAddr, now: Instant) {
        let ask = Ask::new(question, socket, to, self.rng.next_u64(), now);
        self.put(ask);
    }

    fn put(&mut self, ask: Ask) {
        // Each question is asked once at a time.
        self.asks.retain(|a| a.question != ask.question);
        self.asks.push(ask);
    }

    /// Asks for the mapped port, as soon as there is a cookie to ask with.
    fn ask_mapping(&mut self, now: Instant) {
        let Some(port) = self.mapped else { return };
        let proof = self.proofs.iter().find(|p| p.question == Question::Home);
        match proof.filter(|p| now.saturating_duration_since(p.since) < COOKIE_LIFE) {
            Some(proof) => {
                let txid = self.rng.next_u64();
                let cookie = proof.attested.cookie;
                let question = Question::Mapping(port);
                let ask = Ask::new(question, SocketId::MAIN, self.config.home, txid, now);
                self.asks.retain(|a| !matches!(a.question, Question::Mapping(_)));
                self.put(ask.with(cookie, EchoAnswer::ToPort(port)));
            }
            None if self.asks.iter().all(|a| a.question != Question::Home) => {
                self.ask(Question::Home, SocketId::MAIN, self.config.home, now);
            }
            None => {}
        }
    }

    fn answered(&mut self, ask: &Ask, attested: Attested, now: Instant) {
        let before = self.seen(ask.question);
        let by = match ask.question {
            Question::OtherPeer => By::OtherPeer,
            _ => By::Home,
        };
        match ask.question {
            Question::Home
            | Question::SecondPort
            | Question::OtherFamily
            | Question::OtherPeer
            | Question::Mapping(_) => {
                let question = ask.question;
                self.proofs.retain(|p| match question {
                    Question::Mapping(_) => !matches!(p.question, Question::Mapping(_)),
                    _ => p.question != question,
                });
                self.proofs.push(Proof { question, by, attested, since: now });
            }
            Question::FreshSocket => {
                if let Some(second) = self.second() {
                    let txid = self.rng.next_u64();
                    let ask = Ask::new(Question::Filter, ask.socket, self.config.home, txid, now);
                    let ask = ask.with(attested.cookie, EchoAnswer::FromSecondPort);
                    self.put(ask.answered_from(second));
                }
            }
            Question::Filter => {
                self.filtering = Dependence::AddressDependent;
                self.close_fresh();
            }
            Question::Choice { inside, place } => {
                self.choices.push((place, Choice { inside, outside: attested.addr.port() }));
            }
        }
        match ask.question {
            Question::Home if before.is_some_and(|b| b != attested.addr) => self.restart(now),
            Question::Home if self.mapped.is_some() && self.mapping_unknown() => {
                self.ask_mapping(now);
            }
            Question::Mapping(port) => {
                let event = ProberEvent::Mapped { port, reachable: true };
                self.queue.push_back(Output::Event(event));
            }
            _ => {}
        }
        if matches!(ask.question, Question::Home | Question::OtherFamily | Question::Mapping(_)) {
            let attested = self.attested(now);
            self.queue.push_back(Output::Event(ProberEvent::Attested(attested)));
        }
        self.send_due(now);
    }

    fn mapping_unknown(&self) -> bool {
        !self.asks.iter().any(|a| matches!(a.question, Question::Mapping(_)))
            && !self.proofs.iter().any(|p| matches!(p.question, Question::Mapping(_)))
    }

    /// Sends what is due, and gives up what was asked often enough.
    fn send_due(&mut self, now: Instant) {
        let mut lost = Vec::new();
        self.asks.retain_mut(|ask| {
            if ask.due() > now {
                return true;
            }
            if !ask.ask(now) {
                lost.push(ask.question);
                return false;
            }
            self.queue.push_back(Output::Transmit(Transmit {
                socket: ask.socket,
                to: ask.to,
                datagram: ask.datagram(),
                ttl: None,
                purpose: Purpose::Answer,
            }));
            true
        });
        for question in lost {
            self.unanswered(question);
        }
    }

    fn unanswered(&mut self, question: Question) {
        match question {
            Question::Home => self.queue.push_back(Output::Event(ProberEvent::UdpBlocked)),
            Question::Filter => {
                self.filtering = Dependence::AddressAndPortDependent;
                self.close_fresh();
            }
            Question::FreshSocket => self.close_fresh(),
            Question::Mapping(port) => {
                self.proofs.retain(|p| !matches!(p.question, Question::Mapping(_)));
                self.mapped = None;
                let event = ProberEvent::Mapped { port, reachable: false };
                self.queue.push_back(Output::Event(event));
            }
            _ => {}
        }
    }

    fn second(&self) -> Option<SocketAddr> {
        self.config.second_port.map(|port| SocketAddr::new(self.config.home.ip(), port))
    }

    fn seen(&self, question: Question) -> Option<SocketAddr> {
        self.proofs.iter().find(|p| p.question == question).map(|p| p.attested.addr)
    }

    fn proven(&self, by: By, now: Instant) -> Vec<Attested> {
        let fresh = |p: &&Proof| now.saturating_duration_since(p.since) < COOKIE_LIFE;
        let counts = |p: &&Proof| p.by == by && p.question != Question::SecondPort;
        let mut list: Vec<Attested> = Vec::new();
        for proof in self.proofs.iter().filter(fresh).filter(counts) {
            if list.iter().all(|a| a.addr != proof.attested.addr) {
                list.push(proof.attested);
            }
        }
        list.truncate(halloo_wire::limits::MAX_ATTESTED);
        list
    }

    fn open(&mut self, opening: Opening, n: u16) {
        self.opening.push_back(opening);
        self.queue.push_back(Output::Event(ProberEvent::OpenSockets(n)));
    }

    fn close_fresh(&mut self) {
        let fresh = self.fresh.take();
        self.close(fresh.into_iter().collect());
    }

    fn close(&mut self, sockets: Vec<SocketId>) {
        if !sockets.is_empty() {
            self.queue.push_back(Output::Event(ProberEvent::CloseSockets(sockets)));
        }
    }
}
