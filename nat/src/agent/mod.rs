//! The machine that decides, for one contact, where her datagrams go.

mod hear;
mod keep;
mod pair;
mod punch;
mod rounds;
mod route;
mod search;
mod send;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_wire::candidate::{Card, Verdict};
use halloo_wire::ids::Side;
use halloo_wire::path::{DirectPath, SendOn, SocketId};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::budget::Bucket;
use crate::output::{
    AgentEvent, AgentStats, KnockReason, NetworkPair, Output, Queue, Technique, Traffic, WhyRelayed,
};
use crate::predict::address_dependent;
use crate::probe::PunchKeys;
use crate::targets::canonical;
use keep::Keep;
use pair::{Pair, Pairs};
use punch::{Guess, Punch, Remote};
use rounds::Rounds;
use route::{Mirror, Using};
use search::Search;

pub use keep::{KEEPALIVE, KEEPALIVE_BUSY, SPARE_PATHS, UNUSED_AFTER};
pub use pair::MAX_PAIRS;
pub use punch::FIRST_HOPS;
pub use rounds::MAX_ROUNDS;
pub use route::{
    CHECKED_PATHS, DOUBT_AFTER, DOUBT_AFTER_RTTS, OVERLAP, RELAY_AFTER, RELAY_AFTER_KEEPALIVE,
    RELAY_AFTER_RTTS, TRIAL_LIMIT,
};
pub use search::{SEARCH_AFTER, SEARCH_AFTER_PREDICTION};

/// Probes that one agent may send at once to addresses that no rendezvous peer attests: one round
/// of 8 local candidates. Then one each [`UNATTESTED_EACH`].
pub const UNATTESTED_BURST: u32 = 56;
/// How long it takes until another probe may go to an unattested address.
pub const UNATTESTED_EACH: Duration = Duration::from_secs(1);
/// Addresses from which a contact's datagrams may newly come at once, without being candidates.
/// Then one each [`SOURCES_EACH`].
pub const SOURCES_BURST: u32 = 16;
/// How long it takes until another source may appear: a NAT that has rebooted is one.
pub const SOURCES_EACH: Duration = Duration::from_millis(250);
/// Addresses kept at which mDNS found a contact: two interfaces, each with two families. The
/// latest stay.
pub const MAX_LAN: usize = 4;
/// Rounds with one contact that may follow each other at once. Then one each [`ROUND_EACH`].
pub const ROUND_BURST: u32 = 3;
/// How long it takes until another round may begin.
pub const ROUND_EACH: Duration = Duration::from_secs(5);
/// From one knock about a change of ours to the next: a change of network comes in pieces, and the
/// second knock carries all of them.
pub const CHANGES_EACH: Duration = Duration::from_secs(1);
/// Outputs that wait for the driver. One input makes fewer than half as many; when a driver does
/// not drain, further datagrams are dropped.
pub const MAX_QUEUE: usize = 512;

/// What an agent begins with.
#[derive(Debug)]
pub struct AgentConfig {
    /// Ours in the first round.
    pub role: Side,
    /// The first round's.
    pub keys: PunchKeys,
    /// Random.
    pub seed: [u8; 32],
    /// What we know about ourselves.
    pub local: Local,
    /// Estimate of the round trip through the relay.
    pub relay_rtt: Duration,
}

/// What a node knows about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Local {
    /// The addresses of its interfaces, as far as it wants to be reached there.
    pub ips: Vec<IpAddr>,
    /// The NAT in front of it.
    pub verdict: Verdict,
    /// The port of its main socket.
    pub port: u16,
    /// Where rendezvous peers see it. Empty when they do not see it over UDP.
    pub observed: Vec<SocketAddr>,
    /// Whether it consents to a birthday search: what its card says in this round.
    pub birthday: bool,
}

/// Decides where one contact's datagrams go, and opens direct paths to her.
///
/// The crate's documentation tells the story and has an example of the loop around it. After each
/// call of a method that takes `&mut self`, outputs are drained with
/// [`poll_output`](Self::poll_output).
pub struct Agent {
    role: Side,
    rounds: Rounds,
    rng: ChaCha12Rng,
    local: Local,
    relay_rtt: Duration,
    remote: Option<Remote>,
    pairs: Pairs,
    /// Where mDNS found the contact, the latest last.
    lan: Vec<SocketAddr>,
    using: Using,
    why: WhyRelayed,
    watching: bool,
    /// Since when data has gone out that nothing answered.
    silent_since: Option<Instant>,
    traffic: Traffic,
    mirror: Mirror,
    keep: Keep,
    punch: Option<Punch>,
    guess: Option<Guess>,
    search: Search,
    /// For which networks the driver was asked and has not answered.
    asked: Option<NetworkPair>,
    /// Extra sockets that are open for us.
    extra: Vec<SocketId>,
    /// A round that came too soon after others, and is probed as soon as one may be again.
    put_off: Option<Remote>,
    /// A knock that is asked for unless the other side comes first.
    knock_at: Option<(Instant, KnockReason)>,
    /// When a knock was last asked for because something about us had changed.
    told_change: Option<Instant>,
    /// The last round should have worked and did not: perhaps the far NAT minds datagrams that
    /// come before it has sent any itself.
    careful: bool,
    unattested: Bucket,
    sources: Bucket,
    round_limit: Bucket,
    knock_limit: Bucket,
    queue: Queue<AgentEvent>,
    stats: AgentStats,
}

impl Agent {
    /// An agent on the relay, with its first round's keys. Nothing is sent before
    /// [`set_remote`](Self::set_remote).
    pub fn new(config: AgentConfig, now: Instant) -> Self {
        let mut rng = ChaCha12Rng::from_seed(config.seed);
        let rounds = Rounds::new(config.keys, rng.next_u64());
        Self {
            role: config.role,
            rounds,
            rng,
            local: config.local,
            relay_rtt: config.relay_rtt,
            remote: None,
            pairs: Pairs::default(),
            lan: Vec::new(),
            using: Using::Relay,
            why: WhyRelayed::NotTried,
            watching: false,
            silent_since: None,
            traffic: Traffic::default(),
            mirror: Mirror::default(),
            keep: Keep::new(now),
            punch: None,
            guess: None,
            search: Search::None,
            asked: None,
            extra: Vec::new(),
            put_off: None,
            knock_at: None,
            told_change: None,
            careful: false,
            unattested: Bucket::every(UNATTESTED_BURST, UNATTESTED_EACH, now),
            sources: Bucket::every(SOURCES_BURST, SOURCES_EACH, now),
            round_limit: Bucket::every(ROUND_BURST, ROUND_EACH, now),
            knock_limit: Bucket::every(ROUND_BURST, ROUND_EACH, now),
            queue: VecDeque::new(),
            stats: AgentStats { rounds: 1, ..AgentStats::default() },
        }
    }

    /// Another round begins, because we knock again or are knocked at again. What works goes on
    /// working; earlier rounds' probes are still heard ([`MAX_ROUNDS`]).
    /// [`receive_ids`](Self::receive_ids) has changed.
    pub fn begin_round(&mut self, role: Side, keys: PunchKeys, now: Instant) {
        self.role = role;
        self.rounds.begin(keys, self.rng.next_u64());
        self.stats.rounds += 1;
        // What changed about us may be younger than the card that the other side has.
        self.knock_at = self.knock_at.filter(|&(_, why)| why == KnockReason::InterfaceChanged);
        self.keep.used(now);
    }

    /// The key ids of the probes that are for this agent, at most [`MAX_ROUNDS`].
    pub fn receive_ids(&self) -> Vec<u64> {
        self.rounds.receive_ids().collect()
    }

    /// The contact's card came, with the addresses at which rendezvous peers have seen her, the
    /// presence's own first. They are probed at once.
    ///
    /// Of more than [`ROUND_BURST`] rounds at once the last is probed as soon as a round may begin
    /// again; they are counted ([`AgentStats::rounds_refused`]).
    pub fn set_remote(&mut self, card: &Card, attested: &[SocketAddr], now: Instant) {
        let remote = Remote::new(card, attested, self.rounds.newest());
        // A peer may push the same thing twice.
        if self.remote.as_ref() == Some(&remote) && self.punch.is_some() {
            return;
        }
        self.keep.used(now);
        if self.round_limit.take(now) {
            self.take_remote(remote, now);
        } else {
            self.stats.rounds_refused += 1;
            self.put_off = Some(remote);
        }
    }

    fn take_remote(&mut self, remote: Remote, now: Instant) {
        self.put_off = None;
        self.remote = Some(remote);
        self.start_punch(now);
        self.send_due(now);
    }

    /// What we know about ourselves changed. When it is our addresses, everything is in doubt: the
    /// relay is used as well, paths are checked at once, and a new knock is asked for. When it is
    /// how our NAT behaves, and no path was found without knowing that, a knock tells the contact.
    /// Such knocks follow each other as [`CHANGES_EACH`] says.
    pub fn local_changed(&mut self, local: Local, now: Instant) {
        let moved = self.local.ips != local.ips
            || self.local.observed != local.observed
            || self.local.port != local.port;
        let judged = self.local.verdict != local.verdict;
        self.local = local;
        if moved {
            self.stop_search(crate::SearchOutcome::Stopped);
            self.doubt_all(now);
        } else {
            self.consider_search(now);
        }
        if self.remote.is_some() && (moved || judged && self.verdict_helps()) {
            let at = self.told_change.map_or(now, |told| now.max(told + CHANGES_EACH));
            if at > now {
                self.knock_at = Some((at, KnockReason::InterfaceChanged));
            } else {
                self.knock(KnockReason::InterfaceChanged, now);
            }
        }
        self.send_due(now);
    }

    /// Whether the contact could find a path with our verdict and has not without.
    fn verdict_helps(&self) -> bool {
        let needed = address_dependent(&self.local.verdict) || self.search_role().is_some();
        self.using == Using::Relay && self.why != WhyRelayed::Unused && needed
    }

    /// A better estimate of the round trip through the relay.
    pub fn set_relay_rtt(&mut self, rtt: Duration) {
        self.relay_rtt = rtt;
    }

    /// The driver reports what it saw, every [`WATCH_INTERVAL`](crate::WATCH_INTERVAL) while
    /// [`AgentEvent::Watch`] says so.
    pub fn traffic(&mut self, traffic: Traffic, now: Instant) {
        self.take_traffic(traffic, now);
        self.send_due(now);
    }

    /// The system refuses to send to this path: it is unreachable from here.
    pub fn send_failed(&mut self, path: DirectPath, now: Instant) {
        let path = DirectPath { remote: canonical(path.remote), ..path };
        match self.pairs.get_mut(path) {
            Some(pair) => {
                pair.failed = Some(now);
                pair.plan = None;
                pair.give_up_pings();
                if self.using.path() == Some(path) {
                    self.path_failed(now);
                }
            }
            None => self.search_send_failed(now),
        }
        self.send_due(now);
    }

    /// Somebody wants to send to the contact. A path that was left to die is opened again; with
    /// `bulk`, what is to be sent is worth a birthday search, and a knock that says so is asked for
    /// where nothing else can help.
    pub fn want(&mut self, bulk: bool, now: Instant) {
        self.keep.used(now);
        if let Using::Relay = self.using {
            if self.why == WhyRelayed::Unused {
                if self.knock(KnockReason::Wanted, now) {
                    self.check_paths(now);
                }
            } else if bulk && self.search_needs_consent() {
                self.knock(KnockReason::Search, now);
            }
        }
        self.send_due(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.send_due(now);
        self.route_timeout(now);
        self.keep_timeout(now);
        self.punch_timeout(now);
        self.search_timeout(now);
        if let Some(remote) = self.put_off.take_if(|_| self.round_limit.take(now)) {
            self.take_remote(remote, now);
        }
        if self.knock_at.is_some_and(|(at, _)| at <= now)
            && let Some((_, reason)) = self.knock_at.take()
        {
            self.knock(reason, now);
        }
        self.send_due(now);
    }

    /// The contact's connection is over, or nothing may be sent to her directly any more: she is
    /// relayed, no path is hers, extra sockets are closed, and a search is given up. Outputs are
    /// drained once more.
    pub fn close(&mut self, now: Instant) {
        self.remote = None;
        self.punch = None;
        self.guess = None;
        self.lan.clear();
        self.put_off = None;
        self.knock_at = None;
        self.use_relay(now);
        for pair in self.pairs.remove_unless(|_| false) {
            self.pair_gone(&pair);
        }
        self.stop_search(crate::SearchOutcome::Stopped);
        self.why = WhyRelayed::NotTried;
    }

    /// The next thing to do. After [`Output::Wait`] there is nothing more until the next input.
    pub fn poll_output(&mut self) -> Output {
        self.queue.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    /// Where the contact's datagrams go.
    pub fn send_on(&self) -> SendOn {
        self.using.send_on()
    }

    /// The smoothed round trip of the direct path in use.
    pub fn rtt(&self) -> Option<Duration> {
        self.used_pair()?.rtt()
    }

    /// How the direct path in use was found.
    pub fn technique(&self) -> Option<Technique> {
        Some(self.used_pair()?.technique)
    }

    /// Why there is no direct path in use, when there is none.
    pub fn why_relayed(&self) -> Option<WhyRelayed> {
        self.using.path().is_none().then_some(self.why)
    }

    /// Our side in the newest round.
    pub fn role(&self) -> Side {
        self.role
    }

    /// Counters since the agent began.
    pub fn stats(&self) -> AgentStats {
        self.stats
    }

    fn used_pair(&self) -> Option<&Pair> {
        self.pairs.get(self.using.path()?)
    }

    fn event(&mut self, event: AgentEvent) {
        self.queue.push_back(Output::Event(event));
    }

    /// Asks for a knock. False when there were too many: it follows as soon as one may.
    fn knock(&mut self, reason: KnockReason, now: Instant) -> bool {
        self.knock_at = None;
        let allowed = self.knock_limit.take(now);
        if allowed {
            if reason == KnockReason::InterfaceChanged {
                self.told_change = Some(now);
            }
            self.event(AgentEvent::Knock(reason));
        } else {
            self.knock_at = Some((self.knock_limit.next(), reason));
        }
        allowed
    }

    fn add_pair(&mut self, path: DirectPath, technique: Technique) {
        let attested = self.remote.as_ref().is_some_and(|r| r.attests(path.remote.ip()));
        if let Some(gone) = self.pairs.add(path, technique, attested, self.using.path()) {
            self.pair_gone(&gone);
        }
    }

    fn pair_gone(&mut self, pair: &Pair) {
        if pair.heard.is_some() {
            self.event(AgentEvent::Invalid { path: pair.path });
        }
    }

    /// When something is due without another input.
    fn deadline(&self) -> Option<Instant> {
        let knock = self.knock_at.map(|(at, _)| at);
        let put_off = self.put_off.as_ref().map(|_| self.round_limit.next());
        [
            self.pairs.due(),
            self.route_due(),
            self.keep_due(),
            self.punch_due(),
            self.search_due(),
            knock,
            put_off,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl fmt::Debug for Agent {
    /// Says where datagrams go, and no keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("role", &self.role)
            .field("using", &self.using)
            .field("pairs", &self.pairs.iter().count())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
