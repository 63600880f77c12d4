//! How much may be on its way: a model of the path, made of what arrives and when.
//!
//! Loss alone says little about a wireless or mobile path, so the window does not follow it. It
//! follows what the path carries: the highest rate of delivery of the last rounds times the
//! shortest round trip, with some room above. That is the idea of BBR
//! (draft-ietf-ccwg-bbr); this model differs where quinn needs it or TCP deserves it:
//!
//! - quinn spaces packets by window and round trip alone, so gains act on the window.
//! - Every few rounds the window drops below the path's capacity for a round. What is lost then is
//!   the loss of the path itself, and what is still queued then belongs to others. Loss above the
//!   first makes room, as it does in TCP; a queue of others makes the window as large as theirs.
//! - A stream of quinn ends its connection at more than 1,024 gaps, so no round may add more
//!   packets than that many can be lost.
//!
//! Pure: no clock, no randomness. `bench/` measures it against quinn's controllers.

use std::time::{Duration, Instant};

/// The window before anything is known, in bytes: 32 full packets, as many content networks send.
/// They are paced over a round trip.
pub(crate) const INITIAL_WINDOW: u64 = 32 * 1200;

/// Packets below which a window never falls: enough for an acknowledgement of every second one,
/// and for loss to be seen by the third that follows.
const MIN_PACKETS: u64 = 4;
/// Gaps that a round may cause. quinn's reassembly takes 1,024 (`MAX_CHUNKS`) before it gives the
/// connection up; a queue that overflows is felt one round late and left another round later, and
/// some of what is sent again is lost again.
const MAX_GAPS: u64 = 384;
/// Packets that a round may add however much is lost.
const MIN_GROWTH: u64 = 32;

/// How far startup goes beyond what has been measured: a rate that doubles each round trip is
/// seen one round late, and the estimate is a mean.
const STARTUP_GAIN: f64 = 2.9;
/// A rate that grows less than this in a round has not grown.
const STARTUP_GROWTH: f64 = 1.25;
/// Rounds without growth that end startup.
const STARTUP_STALLS: u8 = 3;
/// Packets in a row that have to come late before a queue is believed.
const LATE_PACKETS: usize = 8;

/// Room above the path's capacity while the path is ours: it covers what waits to be
/// found lost, and lets the estimate grow by as much each round.
const CRUISE_GAIN: f64 = 1.15;
/// The same beside others who keep the queue filled. At 2, a queue as long as the path leaves us
/// our half.
const CONTESTED_GAIN: f64 = 2.0;
/// The same, as a share of the round trip that others' queue makes.
const CONTESTED_ROOM: f64 = 1.1;
/// Below capacity, so that our own part of the queue is gone for a round.
const DRAIN_GAIN: f64 = 0.9;
/// The same when the shortest round trip has to be measured anew.
const DEEP_DRAIN_GAIN: f64 = 0.5;
/// Time that packets wait for other reasons than a queue: receivers collect acknowledgements,
/// schedulers and radios send in bursts. On a LAN it is the larger part of the window.
const SLACK: Duration = Duration::from_millis(2);

/// Rounds of cruising between two drained ones, and how much that varies, so that several
/// connections do not drain in step.
const CRUISE_ROUNDS: u8 = 6;
const CRUISE_VARIES: u32 = 4;
/// Rounds that draining may take.
const DRAIN_ROUNDS: u8 = 4;
/// Rounds over which the highest rate counts: longer than one cycle.
const RATE_ROUNDS: usize = 10;
/// A round is a round trip, and at least this long: shorter ones measure the scheduler.
const MIN_ROUND: Duration = Duration::from_millis(4);
/// After this time the shortest round trip is measured anew.
const MIN_RTT_AGE: Duration = Duration::from_secs(10);

/// Bytes of earlier rounds that count beside a new one when the usual loss is measured: about 1,000
/// packets, of which 2 % are 20, give or take 4.
const USUAL_MEMORY: f64 = 1.2e6;

/// What stays of the window when it was too large: what TCP Cubic keeps.
const REDUCTION: f64 = 0.7;
/// Part of the way back to the last such window that each round goes.
const RECOVERY: f64 = 0.25;
/// Growth beyond it in the first round; it doubles with each.
const BEYOND: f64 = 0.015;
/// Loss in a round, above what is usual, that is too much: with a queue, without one, and whatever
/// is usual. The last one leaves reassembly enough gaps on a path of 12 MB.
const EXCESS_QUEUED: f64 = 0.005;
const EXCESS: f64 = 0.02;
const EXCESS_ANYWAY: f64 = 0.12;

/// One path's model: as large as a few hundred bytes, whatever the path carries.
#[derive(Debug, Clone)]
pub(crate) struct RateModel {
    /// Largest packet, in bytes.
    mtu: u64,
    phase: Phase,
    /// Bytes that the model wants to have on the way.
    window: u64,
    /// What congestion leaves of it.
    ceiling: Option<Ceiling>,
    /// What reassembly at the other side leaves of it.
    gap_limit: u64,
    /// What the path loses while it has no queue.
    usual: UsualLoss,
    /// The round trip while only others' packets wait.
    contested: Option<Duration>,
    /// Delivered bytes a second in the last rounds, in no order.
    rates: [u64; RATE_ROUNDS],
    next_rate: usize,
    shortest: Option<Duration>,
    shortest_seen: Instant,
    round: Round,
    /// Bytes that the window may still grow in this round.
    growth_left: u64,
    /// Bytes acknowledged since the window was set.
    acked: u64,
    in_flight: u64,
    /// Losses of what was sent before have been answered.
    reduced: Option<Instant>,
    late: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Doubles each round trip until the rate stops to grow.
    Startup { best: u64, stalls: u8 },
    /// Waits for our part of the queue to go.
    Drain { gain: f64, rounds: u8 },
    /// Sends one round without a queue of our own.
    Drained { gain: f64 },
    /// Keeps the path busy. In the first round the losses of the drained one show.
    Cruise { rounds: u8, first: bool },
}

#[derive(Debug, Clone, Copy)]
struct Ceiling {
    now: u64,
    /// The window that was too large.
    last: u64,
    /// Growth beyond it.
    beyond: f64,
}

/// Bytes of drained rounds; older rounds count less.
#[derive(Debug, Clone, Copy, Default)]
struct UsualLoss {
    lost: f64,
    all: f64,
    /// There has been a drained round.
    known: bool,
}

#[derive(Debug, Clone)]
struct Round {
    started: Instant,
    /// Something that was sent in it has been acknowledged.
    over: bool,
    acked: u64,
    lost: u64,
    /// A router has marked packets instead of dropping them.
    marked: bool,
    shortest: Duration,
    rtt_sum: Duration,
    packets: u32,
    /// The program had nothing to send at some time.
    idle: bool,
}

impl RateModel {
    pub(crate) fn new(mtu: u16, now: Instant) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            phase: Phase::Startup { best: 0, stalls: 0 },
            window: INITIAL_WINDOW,
            ceiling: None,
            gap_limit: u64::MAX,
            usual: UsualLoss::default(),
            contested: None,
            rates: [0; RATE_ROUNDS],
            next_rate: 0,
            shortest: None,
            shortest_seen: now,
            round: Round::new(now),
            growth_left: MAX_GAPS * mtu,
            acked: 0,
            in_flight: 0,
            reduced: None,
            late: 0,
        }
    }

    /// Begins to use a path again that was left at some earlier time.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.round = Round::new(now);
        self.acked = 0;
        self.late = 0;
        self.reduced = Some(now);
    }

    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    pub(crate) fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            // The time in which nothing was sent says nothing about the path.
            self.round = Round::new(now);
        }
        self.in_flight += bytes;
    }

    /// One packet has arrived.
    pub(crate) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        let rtt = now.saturating_duration_since(sent).max(Duration::from_micros(1));
        let round = &mut self.round;
        round.shortest = round.shortest.min(rtt);
        round.rtt_sum += rtt;
        round.packets += 1;
        round.acked += bytes;
        round.over |= sent >= round.started;
        self.acked += bytes;
        match self.shortest {
            Some(shortest) if rtt > shortest => {
                if rtt <= shortest + shortest / 32 {
                    self.shortest_seen = now;
                }
                // HyStart++ (RFC 9406) takes the same margin.
                let margin =
                    (shortest / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
                self.late = if rtt > shortest + margin { self.late + 1 } else { 0 };
            }
            _ => {
                self.shortest = Some(rtt);
                self.shortest_seen = now;
                self.late = 0;
            }
        }
    }

    /// The acknowledgements that came together have all been told. `idle`: the program has nothing
    /// to send.
    pub(crate) fn on_end_acks(&mut self, now: Instant, in_flight: u64, idle: bool) {
        self.in_flight = in_flight;
        self.round.idle |= idle;
        if self.round.over && now.saturating_duration_since(self.round.started) >= MIN_ROUND {
            self.end_round(now);
        }
        let acked = std::mem::take(&mut self.acked);
        if let Phase::Startup { .. } = self.phase
            && self.late >= LATE_PACKETS
        {
            self.phase = Phase::Drain { gain: DRAIN_GAIN, rounds: 0 };
        }
        let target = match self.phase {
            Phase::Startup { .. } if idle => self.window,
            Phase::Startup { .. } if self.rate() == 0 => u64::MAX,
            Phase::Startup { .. } => {
                self.capacity(STARTUP_GAIN).max(2 * INITIAL_WINDOW).max(self.window)
            }
            Phase::Drain { gain, .. } | Phase::Drained { gain } => self.capacity(gain),
            Phase::Cruise { .. } => self.cruising(),
        };
        let growth = target.saturating_sub(self.window).min(acked).min(self.growth_left);
        self.growth_left -= growth;
        self.window = (self.window + growth).min(target);
    }

    /// Packets are lost, the last of them sent at `sent`; or marked, when `lost` is 0.
    /// `blackout`: everything was lost for several round trips.
    pub(crate) fn on_congestion(&mut self, now: Instant, sent: Instant, blackout: bool, lost: u64) {
        if blackout {
            // Whatever the path was, it is another one.
            let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
            let shortest = self.shortest;
            *self = Self { window: MIN_PACKETS * self.mtu, shortest, ..Self::new(mtu, now) };
            return;
        }
        if self.reduced.is_some_and(|reduced| sent < reduced) {
            return;
        }
        self.round.lost += lost;
        self.round.marked |= lost == 0;
        // Half of the gaps are spent: the end of the round would be too late.
        let usual = self.usual.share() * (self.round.lost + self.round.acked) as f64;
        if self.round.lost > MAX_GAPS / 2 * self.mtu + usual as u64 {
            self.reduce(now);
        }
    }

    /// Bytes that may be on the way.
    pub(crate) fn window(&self) -> u64 {
        let ceiling = self.ceiling.map_or(u64::MAX, |it| it.now);
        self.window.min(ceiling).min(self.gap_limit).max(MIN_PACKETS * self.mtu)
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let Some(shortest) = self.shortest else { return };
        let rate = round.rate(now);
        if !round.idle || rate > self.rate() {
            self.rates[self.next_rate] = rate;
            self.next_rate = (self.next_rate + 1) % RATE_ROUNDS;
        }
        if let Phase::Cruise { first: true, .. } = self.phase {
            self.usual.add(&round);
            self.usual.known = true;
        }

        self.growth_left =
            (MAX_GAPS * self.mtu).saturating_sub(round.lost).max(MIN_GROWTH * self.mtu);
        self.gap_limit = match round.loss() {
            0.0 => u64::MAX,
            loss => ((MAX_GAPS + MAX_GAPS / 2) as f64 * self.mtu as f64 / loss) as u64,
        };
        let queue = shortest + (shortest / 8).max(Duration::from_millis(2));
        if self.congested(&round, round.mean() > queue) {
            self.reduce(now);
        } else {
            self.raise_ceiling();
        }

        let stale = now.saturating_duration_since(self.shortest_seen) > MIN_RTT_AGE;
        match &mut self.phase {
            Phase::Startup { best, stalls } if !round.idle => {
                let rate = self.rates.iter().copied().max().unwrap_or(0);
                if rate as f64 >= *best as f64 * STARTUP_GROWTH {
                    (*best, *stalls) = (rate, 0);
                    self.usual.add(&round);
                } else if *stalls + 1 < STARTUP_STALLS {
                    *stalls += 1;
                } else {
                    self.phase = Phase::Drain { gain: DRAIN_GAIN, rounds: 0 };
                }
            }
            Phase::Startup { .. } => {}
            Phase::Drain { gain, rounds } => {
                let (gain, rounds) = (*gain, *rounds + 1);
                let low = self.capacity(gain + 1.0 / 16.0);
                self.phase = if self.in_flight <= low || rounds >= DRAIN_ROUNDS {
                    Phase::Drained { gain }
                } else {
                    Phase::Drain { gain, rounds }
                };
            }
            Phase::Drained { .. } => {
                if stale {
                    self.set_shortest(round.shortest, now);
                }
                self.contested = (!stale && round.shortest > queue).then(|| round.mean());
                // The low bits of a round trip are as good as dice.
                let varies = (round.shortest.subsec_nanos() >> 7) % CRUISE_VARIES;
                self.phase = Phase::Cruise { rounds: CRUISE_ROUNDS + varies as u8, first: true };
            }
            Phase::Cruise { rounds, first } => {
                *first = false;
                if round.idle && stale {
                    // Who sends little has no queue.
                    self.set_shortest(round.shortest, now);
                } else if !round.idle && *rounds > 0 {
                    *rounds -= 1;
                } else if !round.idle {
                    let gain = if stale { DEEP_DRAIN_GAIN } else { DRAIN_GAIN };
                    self.phase = Phase::Drain { gain, rounds: 0 };
                }
            }
        }
    }

    fn congested(&self, round: &Round, queue: bool) -> bool {
        if round.marked {
            return true;
        }
        let all = (round.acked + round.lost) as f64;
        let (lost, mtu) = (round.lost as f64, self.mtu as f64);
        let share = self.usual.share();
        // A quarter, two standard deviations and a packet above what is usual.
        let usual = share * 1.25 * all + 2.0 * (share * all * mtu).sqrt() + mtu;
        let anyway = lost > usual.max(EXCESS_ANYWAY * all) && lost > 4.0 * mtu;
        // Before the first drained round nobody knows what is usual.
        let excess = self.usual.known
            && (queue && lost > usual + EXCESS_QUEUED * all
                || lost > usual + EXCESS * all + 2.0 * mtu);
        anyway || excess
    }

    fn reduce(&mut self, now: Instant) {
        let last = self.window();
        let reduced = (last as f64 * REDUCTION) as u64;
        self.ceiling = Some(Ceiling { now: reduced, last, beyond: BEYOND });
        self.reduced = Some(now);
        self.round.lost = 0;
        if let Phase::Startup { .. } = self.phase {
            self.phase = Phase::Drain { gain: DRAIN_GAIN, rounds: 0 };
        }
    }

    fn raise_ceiling(&mut self) {
        let enough = 2 * self.capacity(STARTUP_GAIN);
        let Some(ceiling) = &mut self.ceiling else { return };
        let step = if ceiling.now < ceiling.last {
            (ceiling.last - ceiling.now) as f64 * RECOVERY
        } else {
            let step = ceiling.now as f64 * ceiling.beyond;
            ceiling.beyond *= 2.0;
            step
        };
        ceiling.now += (step as u64).clamp(self.mtu, self.growth_left.max(self.mtu));
        if ceiling.now > enough {
            self.ceiling = None;
        }
    }

    fn cruising(&self) -> u64 {
        let gain = match (self.contested, self.shortest) {
            (Some(rtt), Some(shortest)) => {
                CONTESTED_GAIN.max(CONTESTED_ROOM * rtt.as_secs_f64() / shortest.as_secs_f64())
            }
            _ => CRUISE_GAIN,
        };
        self.capacity(gain)
    }

    /// Bytes that the path holds, `gain` times, and what the slack adds.
    fn capacity(&self, gain: f64) -> u64 {
        match (self.shortest, self.rate()) {
            (Some(rtt), rate @ 1..) => {
                let time = rtt.as_secs_f64() * gain + SLACK.as_secs_f64();
                (rate as f64 * time) as u64 + 2 * self.mtu
            }
            _ => INITIAL_WINDOW,
        }
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    fn set_shortest(&mut self, rtt: Duration, now: Instant) {
        self.shortest = Some(rtt);
        self.shortest_seen = now;
    }
}

impl UsualLoss {
    fn add(&mut self, round: &Round) {
        let keep = (USUAL_MEMORY / self.all.max(1.0)).min(1.0);
        self.lost = self.lost * keep + round.lost as f64;
        self.all = self.all * keep + (round.lost + round.acked) as f64;
    }

    fn share(&self) -> f64 {
        if self.all == 0.0 { 0.0 } else { self.lost / self.all }
    }
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            started: now,
            over: false,
            acked: 0,
            lost: 0,
            marked: false,
            shortest: Duration::MAX,
            rtt_sum: Duration::ZERO,
            packets: 0,
            idle: false,
        }
    }

    /// Delivered bytes a second.
    fn rate(&self, now: Instant) -> u64 {
        let length = now.saturating_duration_since(self.started).max(Duration::from_micros(1));
        (self.acked as f64 / length.as_secs_f64()) as u64
    }

    /// Share of what was sent.
    fn loss(&self) -> f64 {
        match self.acked + self.lost {
            0 => 0.0,
            all => self.lost as f64 / all as f64,
        }
    }

    fn mean(&self) -> Duration {
        self.rtt_sum / self.packets.max(1)
    }
}
