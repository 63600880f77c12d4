//! Which path is used: up when one answers, down when it falls silent.
//!
//! ```text
//!            a probe is heard from an attested address,         answered, and one relay
//!            or an answer from any                              round trip has passed
//!   Relay ------------------------------------------> Trial ------------------------> Direct
//!     ^  ^                                              |                             |    ^
//!     |  '------------ no answer in a second -----------'           silent, or our own|    |
//!     |                                                             network changed,  |    | a path
//!     |                                                             or they doubt     v    | answers
//!     '------------------------ no path answers in time ---------------------------- Doubt-'
//! ```
//!
//! In Trial and Doubt each datagram goes both ways, so neither a path that fails nor one that works
//! costs a message any time.

use std::time::{Duration, Instant};

use halloo_wire::path::{DirectPath, SendOn};

use super::Agent;
use super::pair::Pair;
use crate::output::{AgentEvent, KnockReason, Traffic, WhyRelayed};
use crate::schedule::{Plan, PlanKind};

/// Silence after data was sent on a direct path that makes it doubtful, at least: a QUIC
/// acknowledgement may take 25 ms longer than a round trip.
pub const DOUBT_AFTER: Duration = Duration::from_millis(250);
/// And at least so many smoothed round trips.
pub const DOUBT_AFTER_RTTS: u32 = 3;
/// Silence after which a doubtful path is left for the relay, at least.
pub const RELAY_AFTER: Duration = Duration::from_secs(1);
/// And at least so many smoothed round trips.
pub const RELAY_AFTER_RTTS: u32 = 6;
/// How long a path may stay in doubt when only its keepalive is missing, and no data: a radio that
/// sleeps, or roams, is silent for seconds and then goes on.
pub const RELAY_AFTER_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long an attested path that was heard, and has not answered, is used beside the relay.
pub const TRIAL_LIMIT: Duration = Duration::from_secs(1);
/// Bounds of the time for which a path that answers is used beside the relay: one round trip of
/// the relay, so that what is on its way there arrives first.
pub const OVERLAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long the contact's word that she sends on a path counts.
const SELECTED_LIFE: Duration = Duration::from_secs(30);
/// How long a pair counts as working without having been asked again.
const FRESH: Duration = Duration::from_secs(35);
/// Pairs checked at once when the one in use is in doubt.
pub const CHECKED_PATHS: usize = 6;
/// Bounds of the pause after which relayed datagrams raise another doubt, when the last was
/// unfounded.
const MIRROR_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the side that does not decide waits for the other's knock when a path has died.
const KNOCK_WAIT: Duration = Duration::from_secs(1);

/// Which path is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Using {
    /// None: the relay.
    Relay,
    /// One that is new, beside the relay.
    Trial { path: DirectPath, since: Instant },
    /// One that works.
    Direct { path: DirectPath, since: Instant },
    /// One that worked, beside the relay.
    Doubt { path: DirectPath, since: Instant, gives_up: Instant, cause: Cause },
}

/// Why a path is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Data was sent and nothing came back.
    Silence,
    /// A keepalive was not answered.
    Keepalive,
    /// Our own network changed.
    Moved,
    /// The contact doubts: she says so, or she sends by relay.
    Mirror,
}

impl Using {
    pub(super) fn path(self) -> Option<DirectPath> {
        self.send_on().direct()
    }

    /// Whether our probes on this path say that we doubt it. Not when it is only because the
    /// contact does, or the two would never come to an end.
    pub(super) fn doubts(self, on: DirectPath) -> bool {
        matches!(self, Self::Doubt { path, cause, .. } if path == on && cause != Cause::Mirror)
    }

    pub(super) fn send_on(self) -> SendOn {
        match self {
            Self::Relay => SendOn::Relay,
            Self::Trial { path, .. } | Self::Doubt { path, .. } => SendOn::Both(path),
            Self::Direct { path, .. } => SendOn::Direct(path),
        }
    }
}

/// When datagrams that come by relay are taken for the contact's doubt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mirror {
    /// Not before.
    not_before: Option<Instant>,
    pause: Duration,
}

impl Agent {
    /// An authenticated probe was heard from `path`; `answered` when it was the answer to a ping.
    pub(super) fn heard(&mut self, path: DirectPath, answered: bool, now: Instant) {
        if answered {
            self.keep.answered(path);
        }
        let pair = self.pairs.get(path);
        match self.using {
            // Nobody needs a path that both have stopped to use.
            Using::Relay
                if (self.why != WhyRelayed::Unused || self.keep.in_use(now))
                    && pair.is_some_and(|p| may_try(p, answered)) =>
            {
                self.enter(Using::Trial { path, since: now }, now);
                self.stats.upgrades += 1;
                if let Some(punch) = self.punch {
                    let took = now.saturating_duration_since(punch.started);
                    self.stats.time_to_path = Some(took);
                }
            }
            Using::Doubt { path: doubted, since, .. }
                if pair.is_some_and(|p| p.whole >= Some(since)) =>
            {
                if doubted != path {
                    // However good it was: it has to answer before it is chosen again.
                    self.pair_failed(doubted, now);
                }
                self.enter(Using::Direct { path, since: now }, now);
            }
            _ => {}
        }
        if answered {
            self.punch_succeeded(path, now);
            self.search_succeeded(path);
        }
        self.choose(now);
    }

    /// Goes to a better path if there is one, and ends a trial that has succeeded.
    fn choose(&mut self, now: Instant) {
        match self.using {
            Using::Trial { path, since } => {
                let path = self.better_than(path, now).unwrap_or(path);
                let confirmed = self.pairs.get(path).is_some_and(Pair::is_confirmed);
                if confirmed && now >= since + self.overlap() {
                    self.enter(Using::Direct { path, since: now }, now);
                } else {
                    self.enter(Using::Trial { path, since }, now);
                }
            }
            Using::Direct { path, .. } => {
                if let Some(path) = self.better_than(path, now) {
                    self.enter(Using::Direct { path, since: now }, now);
                }
            }
            Using::Relay | Using::Doubt { .. } => {}
        }
    }

    /// The pair to be used instead of `current`, if there is a better one.
    fn better_than(&self, current: DirectPath, now: Instant) -> Option<DirectPath> {
        let used = self.pairs.get(current)?;
        let works = |p: &Pair| p.path != current && p.is_fresh(now, FRESH);
        // The contact has gone over to another path: she decides, or her address has changed.
        let selected = |p: &Pair| {
            let at = p.selected_by_them?;
            (now.saturating_duration_since(at) <= SELECTED_LIFE).then_some(at)
        };
        let theirs = self.pairs.iter().filter(|p| works(p) || p.path == current);
        let theirs = theirs.filter(|p| selected(p).is_some()).max_by_key(|p| selected(p));
        let decides = self.rounds.decides();
        if let Some(theirs) = theirs
            && (!decides || used.selected_by_them.is_some())
        {
            let switch = theirs.path != current && (!decides || moved(used, theirs));
            if switch {
                return Some(theirs.path);
            }
            if !decides {
                return None;
            }
        }
        let best = self.pairs.best(works)?;
        let better = match used.score().filter(|_| used.is_confirmed()) {
            Some(score) => best.score()?.beats(&score),
            None => true,
        };
        better.then_some(best.path)
    }

    /// The one place where the path in use changes.
    fn enter(&mut self, using: Using, now: Instant) {
        let before = std::mem::replace(&mut self.using, using);
        if before == using {
            return;
        }
        self.silent_since = None;
        match using {
            Using::Relay => {}
            Using::Trial { .. } => self.knock_at = None,
            Using::Direct { path, .. } => {
                self.knock_at = None;
                self.keep.check_at_once(path);
                let unfounded = matches!(before, Using::Doubt { cause: Cause::Mirror, .. });
                self.mirror.direct(now, self.relay_rtt, unfounded);
            }
            Using::Doubt { .. } => {}
        }
        if before.send_on() != using.send_on() {
            self.event(AgentEvent::Route(using.send_on()));
        }
        let watch = using.path().is_some();
        if self.watching != watch {
            self.watching = watch;
            self.event(AgentEvent::Watch(watch));
        }
    }

    pub(super) fn use_relay(&mut self, now: Instant) {
        self.enter(Using::Relay, now);
    }

    pub(super) fn take_traffic(&mut self, traffic: Traffic, now: Instant) {
        if let Some(sent) = traffic.sent
            && Some(sent) > self.traffic.sent
        {
            self.keep.sent(sent);
        }
        self.traffic = traffic;
        match self.using {
            Using::Relay => {}
            Using::Trial { path, since } => {
                // She sends there only because she has heard us, so both directions work.
                if traffic.heard_direct > Some(since) && now >= since + self.overlap() {
                    self.enter(Using::Direct { path, since: now }, now);
                }
            }
            Using::Direct { path, .. } => {
                let silence = self.silence(path, now);
                let (doubt_after, relay_after) = self.patience(path);
                if silence >= doubt_after {
                    let gives_up = now + relay_after.saturating_sub(silence);
                    self.doubt(path, Cause::Silence, gives_up, now);
                } else if self.mirror.doubts(traffic.heard_relay) {
                    self.doubt(path, Cause::Mirror, now + relay_after, now);
                }
            }
            Using::Doubt { .. } => {}
        }
    }

    /// For how long data has gone out on `path` while nothing came back.
    fn silence(&mut self, path: DirectPath, now: Instant) -> Duration {
        let probe = self.pairs.get(path).and_then(|p| p.heard);
        let heard = self.traffic.heard_direct.max(probe);
        let unanswered = self.traffic.sent.filter(|&sent| Some(sent) > heard && sent <= now);
        self.silent_since = match self.silent_since {
            Some(since) if Some(since) > heard => Some(since),
            _ => unanswered,
        };
        self.silent_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// After which silence a path is in doubt, and after which it is left.
    fn patience(&self, path: DirectPath) -> (Duration, Duration) {
        let rtt = self.pairs.get(path).and_then(Pair::rtt).unwrap_or(self.relay_rtt);
        (DOUBT_AFTER.max(rtt * DOUBT_AFTER_RTTS), RELAY_AFTER.max(rtt * RELAY_AFTER_RTTS))
    }

    /// Uses the relay as well, and asks all paths that may work.
    fn doubt(&mut self, path: DirectPath, cause: Cause, gives_up: Instant, now: Instant) {
        self.enter(Using::Doubt { path, since: now, gives_up, cause }, now);
        self.check_paths(now);
        if cause == Cause::Keepalive
            && let Some(pair) = self.pairs.get_mut(path)
        {
            pair.plan = Some(Plan::new(PlanKind::Recovery, now));
        }
    }

    /// The contact says that she hears nothing on this path.
    pub(super) fn doubted_by_them(&mut self, path: DirectPath, now: Instant) {
        if matches!(self.using, Using::Direct { path: used, .. } if used == path) {
            let (_, relay_after) = self.patience(path);
            self.doubt(path, Cause::Mirror, now + relay_after, now);
        }
    }

    /// A keepalive was not answered.
    pub(super) fn keepalive_missed(&mut self, path: DirectPath, now: Instant) {
        match self.using {
            Using::Direct { path: used, .. } if used == path => {
                self.doubt(path, Cause::Keepalive, now + RELAY_AFTER_KEEPALIVE, now);
            }
            _ => {
                if let Some(pair) = self.pairs.get_mut(path) {
                    pair.failed = Some(now);
                    pair.plan = None;
                }
            }
        }
    }

    /// Our own addresses have changed: whatever worked may not.
    pub(super) fn doubt_all(&mut self, now: Instant) {
        match self.using.path() {
            Some(path) => {
                let (_, relay_after) = self.patience(path);
                self.doubt(path, Cause::Moved, now + relay_after, now);
            }
            None => self.check_paths(now),
        }
    }

    /// Probes the paths that have worked, the best first.
    pub(super) fn check_paths(&mut self, now: Instant) {
        let used = self.using.path();
        let mut worked: Vec<&mut Pair> =
            self.pairs.iter_mut().filter(|p| p.answered.is_some()).collect();
        worked.sort_by_key(|p| (Some(p.path) != used, p.failed.is_some(), p.score()));
        for pair in worked.into_iter().take(CHECKED_PATHS) {
            pair.plan = Some(Plan::new(PlanKind::Check, now));
        }
    }

    /// The path in use does not work: another, or the relay.
    pub(super) fn path_failed(&mut self, now: Instant) {
        let Some(path) = self.using.path() else { return };
        let doubt = match self.using {
            Using::Doubt { since, cause, .. } => Some((since, cause)),
            _ => None,
        };
        self.keep.path_lost(path, matches!(doubt, Some((_, Cause::Keepalive))));
        self.pair_failed(path, now);
        if doubt.is_none() {
            // Nobody has asked the others yet.
            if let Some(other) = self.pairs.best(|p| p.is_fresh(now, FRESH)).map(|p| p.path) {
                let (_, relay_after) = self.patience(other);
                self.doubt(other, Cause::Moved, now + relay_after, now);
                return;
            }
        }
        let others: Vec<DirectPath> =
            self.pairs.iter().filter(|p| p.is_confirmed()).map(|p| p.path).collect();
        for other in others {
            self.pair_failed(other, now);
        }
        let since = doubt.map_or(now, |(since, _)| since);
        let relay_works = doubt.is_none() || self.traffic.heard_relay > Some(since);
        let reason = if relay_works { KnockReason::PathLost } else { KnockReason::BothSilent };
        self.stats.downgrades += 1;
        self.enter(Using::Relay, now);
        self.relayed(WhyRelayed::PathLost);
        if self.keep.in_use(now) {
            let wait = if self.rounds.decides() { Duration::ZERO } else { KNOCK_WAIT };
            self.knock_at = Some((now + wait, reason));
        }
    }

    /// Only an answer makes up for it, for which the pair is asked less and less often.
    fn pair_failed(&mut self, path: DirectPath, now: Instant) {
        if let Some(pair) = self.pairs.get_mut(path) {
            pair.failed = Some(now);
            pair.triggered = false;
            pair.plan = Some(Plan::new(PlanKind::Recovery, now));
        }
    }

    /// Both sides have stopped to use the path: it is left to die.
    pub(super) fn unused(&mut self, now: Instant) {
        for pair in self.pairs.iter_mut() {
            pair.plan = None;
        }
        self.stats.downgrades += 1;
        self.enter(Using::Relay, now);
        self.relayed(WhyRelayed::Unused);
        self.close_unused_sockets();
    }

    pub(super) fn route_due(&self) -> Option<Instant> {
        match self.using {
            Using::Trial { path, since } => match self.pairs.get(path) {
                Some(pair) if pair.is_confirmed() => Some(since + self.overlap()),
                _ => Some(since + self.trial_limit()),
            },
            Using::Doubt { gives_up, .. } => Some(gives_up),
            Using::Relay | Using::Direct { .. } => None,
        }
    }

    pub(super) fn route_timeout(&mut self, now: Instant) {
        if self.route_due().is_none_or(|due| due > now) {
            return;
        }
        match self.using {
            Using::Trial { path, .. } => match self.pairs.get_mut(path) {
                Some(pair) if pair.is_confirmed() => self.choose(now),
                Some(pair) => {
                    // Heard, and deaf to us. Only an answer makes up for it.
                    pair.failed = Some(now);
                    self.stats.downgrades += 1;
                    self.enter(Using::Relay, now);
                    if self.punch.is_none() {
                        self.relayed(WhyRelayed::NoAnswer);
                    }
                }
                None => self.enter(Using::Relay, now),
            },
            Using::Doubt { .. } => self.path_failed(now),
            Using::Relay | Using::Direct { .. } => {}
        }
    }

    fn overlap(&self) -> Duration {
        self.relay_rtt.clamp(OVERLAP.0, OVERLAP.1)
    }

    fn trial_limit(&self) -> Duration {
        TRIAL_LIMIT.max(self.overlap() * 3)
    }
}

impl Mirror {
    fn direct(&mut self, now: Instant, relay_rtt: Duration, unfounded: bool) {
        self.pause = match unfounded {
            true => (self.pause * 2).clamp(MIRROR_PAUSE.0, MIRROR_PAUSE.1),
            false => MIRROR_PAUSE.0,
        };
        // The contact may begin to use the path later than we do, by her own round trips.
        self.not_before = Some(now + self.pause + relay_rtt.min(OVERLAP.1) * 2);
    }

    fn doubts(&self, heard_relay: Option<Instant>) -> bool {
        self.not_before.is_some() && heard_relay > self.not_before
    }
}

/// Whether data may go to a pair from which something was just heard, while the relay is in use.
/// Only an address that rendezvous peers attest is trusted before it has answered: the source of a
/// datagram can be forged, by the contact too.
fn may_try(pair: &Pair, answered: bool) -> bool {
    answered || (pair.attested && pair.failed.is_none())
}

/// Whether the contact has left `used` for `other` because her own address changed: she said that
/// she sends on the one, and then on the other.
fn moved(used: &Pair, other: &Pair) -> bool {
    used.selected_by_them.is_some_and(|at| other.selected_by_them > Some(at))
}
