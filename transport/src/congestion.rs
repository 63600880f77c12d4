//! Congestion control that knows when the path below QUIC changes.
//!
//! QUIC sees one virtual address per contact and never hears that its packets take another path.
//! So the path socket says it to a [`PathSignal`], and the connection's controller follows: it
//! keeps one [`RateModel`] for the direct path and one for the relayed path, and what was sent
//! before a switch counts for neither.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use crate::rate_model::{INITIAL_WINDOW, RateModel};

/// How long a path's model is worth keeping while another path is used. Later it starts anew.
const MODEL_AGE: Duration = Duration::from_secs(120);

/// What kind of path a connection uses. Each kind has a model of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathClass {
    /// From address to address.
    Direct,
    /// Through a rendezvous peer.
    Relayed,
}

/// Where the path socket says which path a connection uses, and its controller reads it: one
/// atomic number.
#[derive(Debug)]
pub(crate) struct PathSignal {
    /// From the lowest bit: the class (1), whether the path is a new one (1), a count of switches
    /// (14), and the time of the last, in microseconds after `born` (48, nine years).
    state: AtomicU64,
    born: Instant,
}

const RELAYED: u64 = 1;
const UNKNOWN_PATH: u64 = 2;
const COUNT_SHIFT: u32 = 2;
const COUNT_MASK: u64 = (1 << 14) - 1;
const TIME_SHIFT: u32 = 16;

impl PathSignal {
    /// A connection that begins on a path of `class`.
    pub(crate) fn new(class: PathClass, now: Instant) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(class.bit()), born: now })
    }

    /// From `now` on, the path is the one of `class` that was last used: what is known about it
    /// holds.
    pub(crate) fn switch(&self, class: PathClass, now: Instant) {
        self.set(class, 0, now);
    }

    /// From `now` on, the path is one of `class` about which nothing is known.
    pub(crate) fn switch_to_new(&self, class: PathClass, now: Instant) {
        self.set(class, UNKNOWN_PATH, now);
    }

    fn set(&self, class: PathClass, unknown: u64, now: Instant) {
        let micros = now.saturating_duration_since(self.born).as_micros() as u64;
        let next = |state: u64| {
            let count = (state >> COUNT_SHIFT).wrapping_add(1) & COUNT_MASK;
            Some(micros << TIME_SHIFT | count << COUNT_SHIFT | unknown | class.bit())
        };
        // Nothing else is published with it, so no order is needed.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn read(&self) -> Switch {
        Switch(self.state.load(Ordering::Relaxed))
    }
}

impl PathClass {
    fn bit(self) -> u64 {
        match self {
            Self::Direct => 0,
            Self::Relayed => RELAYED,
        }
    }
}

/// One state of a [`PathSignal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Switch(u64);

impl Switch {
    fn class(self) -> PathClass {
        if self.0 & RELAYED == 0 { PathClass::Direct } else { PathClass::Relayed }
    }

    /// Whether nothing is known about the path, seen from the state `before`. Of a direct path
    /// that was changed several times in between, nothing is.
    fn is_to_new(self, before: Self) -> bool {
        let steps = (self.0 >> COUNT_SHIFT).wrapping_sub(before.0 >> COUNT_SHIFT) & COUNT_MASK;
        self.0 & UNKNOWN_PATH != 0 || (steps > 1 && self.class() == PathClass::Direct)
    }

    fn at(self, signal: &PathSignal) -> Instant {
        signal.born + Duration::from_micros(self.0 >> TIME_SHIFT)
    }
}

/// Makes a [`PathAware`] controller for the connection that the signal is about.
#[derive(Debug)]
pub(crate) struct PathAwareConfig {
    signal: Arc<PathSignal>,
}

impl PathAwareConfig {
    pub(crate) fn new(signal: Arc<PathSignal>) -> Arc<Self> {
        Arc::new(Self { signal })
    }
}

impl ControllerFactory for PathAwareConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(PathAware::new(Arc::clone(&self.signal), now, mtu))
    }
}

/// A connection's controller: the model of the path in use, and that of the other class.
#[derive(Debug, Clone)]
pub(crate) struct PathAware {
    signal: Arc<PathSignal>,
    seen: Switch,
    /// What was sent earlier took another path.
    since: Option<Instant>,
    model: RateModel,
    /// The model of the other class and when it was left.
    left: Option<(RateModel, Instant)>,
    mtu: u16,
}

impl PathAware {
    pub(crate) fn new(signal: Arc<PathSignal>, now: Instant, mtu: u16) -> Self {
        let seen = signal.read();
        Self { signal, seen, since: None, model: RateModel::new(mtu, now), left: None, mtu }
    }

    /// Follows the signal.
    fn follow(&mut self, now: Instant) {
        let state = self.signal.read();
        if state == self.seen {
            return;
        }
        let before = std::mem::replace(&mut self.seen, state);
        self.since = Some(state.at(&self.signal));
        let known = self.known(before, state, now).cloned();
        let model = known.map_or_else(
            || RateModel::new(self.mtu, now),
            |mut model| {
                model.set_mtu(self.mtu);
                model.resume(now);
                model
            },
        );
        let old = std::mem::replace(&mut self.model, model);
        if before.class() != state.class() {
            self.left = Some((old, now));
        }
    }

    /// What is known about the path to which the signal has gone.
    fn known(&self, before: Switch, state: Switch, now: Instant) -> Option<&RateModel> {
        if state.is_to_new(before) {
            return None;
        }
        if before.class() == state.class() {
            return Some(&self.model);
        }
        let (model, left) = self.left.as_ref()?;
        (now.saturating_duration_since(*left) <= MODEL_AGE).then_some(model)
    }

    pub(crate) fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.follow(now);
        if self.is_of_this_path(sent) {
            self.model.on_ack(now, sent, bytes);
        }
    }

    fn is_of_this_path(&self, sent: Instant) -> bool {
        self.since.is_none_or(|since| sent >= since)
    }
}

impl Controller for PathAware {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.follow(now);
        self.model.on_sent(now, bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        // quinn's estimate of the round trip spans all paths; the model measures its own.
        self.acknowledged(now, sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.follow(now);
        self.model.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.follow(now);
        if self.is_of_this_path(sent) {
            self.model.on_congestion(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.model.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        let state = self.signal.read();
        if state == self.seen {
            return self.model.window();
        }
        // Asked before the switch was followed: no more than either path takes.
        let next = if state.is_to_new(self.seen) {
            INITIAL_WINDOW
        } else if state.class() == self.seen.class() {
            self.model.window()
        } else {
            self.left.as_ref().map_or(INITIAL_WINDOW, |(model, _)| model.window())
        };
        next.min(self.model.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
