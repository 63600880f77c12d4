//! The controller on a simulated link: one bottleneck, virtual time, a sender that paces and finds
//! losses as quinn does. `bench/` has the same with quinn itself and TCP beside it.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use quinn::congestion::Controller;

use crate::congestion::{PathAware, PathClass, PathSignal};
use crate::rate_model::{INITIAL_WINDOW, RateModel};

const MTU: u16 = 1200;
const PACKET: u64 = MTU as u64;
const MBIT: f64 = 1e6 / 8.0;

#[test]
fn a_path_is_filled_and_hardly_queued() {
    let mut net = Net::new(Link { rate: 100.0 * MBIT, queue: 5_000_000, ..HOME }, 1);
    net.run(secs(2));
    let (before, queued) = (net.delivered(0), net.queued());
    net.run(secs(2));

    assert!(net.share_since(0, before, secs(2)) > 0.9);
    let mean = (net.queued() - queued) / 40;
    assert!(mean < HOME.rtt / 4, "{mean:?} of queue at {:?}", HOME.rtt);
}

#[test]
fn random_loss_costs_what_is_lost_and_no_more() {
    for loss in [0.01, 0.04] {
        let mut net = Net::new(Link { rate: 50.0 * MBIT, loss, ..HOME }, 1);
        net.run(secs(3));
        let before = net.delivered(0);
        net.run(secs(3));
        assert!(net.share_since(0, before, secs(3)) > 0.85, "at a loss of {loss}");
    }
}

#[test]
fn a_shallow_queue_is_not_flooded() {
    let shallow = HOME.rtt.as_secs_f64() / 10.0 * 50.0 * MBIT;
    let mut net = Net::new(Link { rate: 50.0 * MBIT, queue: shallow as u64, ..HOME }, 1);
    net.run(secs(2));
    let (before, dropped) = (net.delivered(0), net.dropped);
    net.run(secs(5));

    assert!(net.share_since(0, before, secs(5)) > 0.8);
    let dropped = (net.dropped - dropped) as f64 * PACKET as f64;
    let delivered = (net.delivered(0) - before) as f64;
    assert!(dropped < 0.03 * delivered, "{:.1} % lost", 100.0 * dropped / delivered);
}

#[test]
fn two_connections_share() {
    let mut net = Net::new(Link { rate: 50.0 * MBIT, ..HOME }, 2);
    net.run(secs(5));
    let before = [net.delivered(0), net.delivered(1)];
    net.run(secs(20));
    for (flow, before) in before.into_iter().enumerate() {
        assert!(net.share_since(flow, before, secs(20)) > 0.25, "flow {flow}");
    }
}

#[test]
fn a_path_that_becomes_slower_is_followed_in_a_second() {
    let mut net = Net::new(Link { rate: 100.0 * MBIT, ..HOME }, 1);
    net.run(secs(2));
    net.link.rate = 10.0 * MBIT;
    net.run(secs(2));
    let (before, dropped) = (net.delivered(0), net.dropped);
    net.run(secs(2));
    assert!(net.share_since(0, before, secs(2)) > 0.8);
    assert!((net.dropped - dropped) * PACKET * 20 < net.delivered(0) - before);
}

#[test]
fn a_path_that_becomes_longer_is_measured_anew() {
    let mut net = Net::new(Link { rate: 20.0 * MBIT, ..HOME }, 1);
    net.run(secs(3));
    net.link.rtt = HOME.rtt * 4;
    net.run(secs(20));
    let before = net.delivered(0);
    net.run(secs(3));
    assert!(net.share_since(0, before, secs(3)) > 0.85);
}

#[test]
fn no_round_adds_more_packets_than_reassembly_takes_gaps() {
    let mut net = Net::new(Link { rate: 900.0 * MBIT, rtt: Duration::from_millis(100), ..HOME }, 1);
    let mut windows = vec![net.window(0)];
    for _ in 0..15 {
        net.run(Duration::from_millis(100));
        windows.push(net.window(0));
    }
    assert!(*windows.last().unwrap() > 4_000_000, "{windows:?}");
    for pair in windows.windows(2) {
        // A step of the test is not a round exactly.
        assert!(pair[1] < pair[0] + 1024 * PACKET, "{pair:?}");
    }
}

#[test]
fn a_blackout_begins_anew_with_the_least_window() {
    let mut net = Net::new(Link { rate: 100.0 * MBIT, ..HOME }, 1);
    net.run(secs(2));
    let now = net.now;
    let model = &mut net.flows[0].model;
    model.on_congestion(now, now, true, 100 * PACKET);
    assert_eq!(model.window(), 4 * PACKET);

    net.run(secs(2));
    let before = net.delivered(0);
    net.run(secs(1));
    assert!(net.share_since(0, before, secs(1)) > 0.85);
}

#[test]
fn a_mark_counts_as_loss_and_once_in_a_round() {
    let mut net = Net::new(Link { rate: 100.0 * MBIT, ..HOME }, 1);
    net.run(secs(2));
    let now = net.now;
    let before = net.window(0);
    for _ in 0..3 {
        net.flows[0].model.on_congestion(now, now, false, 0);
    }
    net.run(HOME.rtt * 2);
    let after = net.window(0);
    assert!(after < before * 8 / 10 && after > before * 5 / 10, "{before} to {after}");
}

#[test]
fn who_sends_little_does_not_widen_the_window() {
    let start = Instant::now();
    let mut model = RateModel::new(MTU, start);
    for step in 1..1000 {
        let now = start + Duration::from_millis(100) * step;
        model.on_sent(now, PACKET);
        model.on_ack(now + HOME.rtt, now, PACKET);
        model.on_end_acks(now + HOME.rtt, 0, true);
    }
    assert_eq!(model.window(), INITIAL_WINDOW);
}

#[test]
fn each_class_of_path_keeps_its_own_model() {
    let mut on = Switching::new(PathClass::Relayed);
    on.fill(20, Duration::from_millis(50));
    let relayed = on.cc.window();
    assert!(relayed > 3 * INITIAL_WINDOW);

    on.signal.switch(PathClass::Direct, on.now);
    assert_eq!(on.cc.window(), INITIAL_WINDOW, "before anything else is called");
    on.fill(3, Duration::from_millis(5));
    let direct = on.cc.window();
    assert!(direct < relayed);

    on.signal.switch(PathClass::Relayed, on.now);
    assert_eq!(on.cc.window(), direct, "no more than either takes");
    on.follow();
    assert_eq!(on.cc.window(), relayed);

    on.signal.switch(PathClass::Direct, on.now);
    on.follow();
    assert_eq!(on.cc.window(), direct);
}

#[test]
fn nothing_is_known_about_a_new_path() {
    let mut on = Switching::new(PathClass::Direct);
    on.fill(20, Duration::from_millis(50));
    on.signal.switch_to_new(PathClass::Direct, on.now);
    on.follow();
    assert_eq!(on.cc.window(), INITIAL_WINDOW);

    // The same, when the controller has slept through a relayed time between two direct paths.
    on.fill(20, Duration::from_millis(50));
    on.signal.switch(PathClass::Relayed, on.now);
    on.signal.switch(PathClass::Direct, on.now);
    on.follow();
    assert_eq!(on.cc.window(), INITIAL_WINDOW);
}

#[test]
fn a_path_left_long_ago_begins_anew() {
    let mut on = Switching::new(PathClass::Relayed);
    on.fill(20, Duration::from_millis(50));
    on.signal.switch(PathClass::Direct, on.now);
    on.follow();
    on.now += Duration::from_secs(121);
    on.signal.switch(PathClass::Relayed, on.now);
    on.follow();
    assert_eq!(on.cc.window(), INITIAL_WINDOW);
}

#[test]
fn what_was_sent_on_the_former_path_counts_for_neither() {
    let mut on = Switching::new(PathClass::Direct);
    on.fill(20, Duration::from_millis(50));
    let sent = on.now;
    on.now += Duration::from_millis(10);
    on.signal.switch(PathClass::Relayed, on.now);
    on.follow();
    let before = on.cc.window();

    on.cc.on_congestion_event(on.now, sent, true, 10_000_000);
    on.cc.acknowledged(on.now + Duration::from_millis(1), sent, 10_000_000);
    on.cc.on_end_acks(on.now + Duration::from_millis(1), 0, false, None);
    assert_eq!(on.cc.window(), before);

    // What is lost on the new path does count.
    on.cc.on_congestion_event(on.now, on.now, true, 10_000_000);
    assert!(on.cc.window() < before);
}

#[test]
fn a_controller_is_small() {
    assert!(size_of::<PathAware>() <= 1024, "{}", size_of::<PathAware>());
}

/// A path-aware controller that is fed by hand.
struct Switching {
    signal: std::sync::Arc<PathSignal>,
    cc: PathAware,
    now: Instant,
}

impl Switching {
    fn new(class: PathClass) -> Self {
        let now = Instant::now();
        let signal = PathSignal::new(class, now);
        Self { cc: PathAware::new(std::sync::Arc::clone(&signal), now, MTU), signal, now }
    }

    /// Fills the window for some round trips, and gets everything acknowledged.
    fn fill(&mut self, rounds: u32, rtt: Duration) {
        for _ in 0..rounds {
            let sent = self.now;
            let packets = self.cc.window() / PACKET;
            for number in 0..packets {
                self.cc.on_sent(sent, PACKET, number);
            }
            self.now += rtt;
            for _ in 0..packets {
                self.cc.acknowledged(self.now, sent, PACKET);
            }
            self.cc.on_end_acks(self.now, 0, false, None);
        }
        self.now += Duration::from_millis(1);
    }

    /// Any call will do.
    fn follow(&mut self) {
        self.cc.on_sent(self.now, 0, 0);
    }
}

#[derive(Clone, Copy)]
struct Link {
    /// Bytes a second.
    rate: f64,
    /// Bytes.
    queue: u64,
    rtt: Duration,
    loss: f64,
}

const HOME: Link = Link { rate: 0.0, queue: 500_000, rtt: Duration::from_millis(40), loss: 0.0 };

struct Net {
    link: Link,
    now: Instant,
    busy_until: Instant,
    flows: Vec<Flow>,
    /// When, whose, and which packet's acknowledgement; or that the flow may send, if none.
    events: BinaryHeap<Reverse<(Instant, usize, Option<u64>)>>,
    dropped: u64,
    /// The queue, added up every 50 ms.
    queued: Duration,
    next_look: Instant,
    dice: u64,
}

struct Flow {
    model: RateModel,
    next: u64,
    in_flight: BTreeMap<u64, Instant>,
    delivered: u64,
    rtt: Duration,
    may_send: Instant,
    /// An event is on its way that lets it send.
    waits: bool,
}

impl Net {
    fn new(link: Link, flows: usize) -> Self {
        let now = Instant::now();
        let flow = || Flow {
            model: RateModel::new(MTU, now),
            next: 0,
            in_flight: BTreeMap::new(),
            delivered: 0,
            rtt: link.rtt,
            may_send: now,
            waits: false,
        };
        Self {
            link,
            now,
            busy_until: now,
            flows: (0..flows).map(|_| flow()).collect(),
            events: (0..flows).map(|flow| Reverse((now, flow, None))).collect(),
            dropped: 0,
            queued: Duration::ZERO,
            next_look: now,
            dice: 1,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, flow, packet))) = self.events.pop() {
            if at > end {
                self.events.push(Reverse((at, flow, packet)));
                break;
            }
            self.now = at;
            while self.next_look <= at {
                self.queued += self.busy_until.saturating_duration_since(self.next_look);
                self.next_look += Duration::from_millis(50);
            }
            match packet {
                Some(packet) => self.acknowledge(flow, packet),
                None => self.flows[flow].waits = false,
            }
            self.send(flow);
        }
        self.now = end;
    }

    fn acknowledge(&mut self, flow: usize, packet: u64) {
        let now = self.now;
        let flow = &mut self.flows[flow];
        let Some(sent) = flow.in_flight.remove(&packet) else { return };
        flow.delivered += PACKET;
        flow.rtt = now - sent;
        flow.model.on_ack(now, sent, PACKET);
        // Three later ones have arrived.
        let later = flow.in_flight.split_off(&packet.saturating_sub(2));
        let lost = std::mem::replace(&mut flow.in_flight, later);
        flow.model.on_end_acks(now, flow.in_flight.len() as u64 * PACKET, false);
        if let Some(sent) = lost.values().next_back() {
            flow.model.on_congestion(now, *sent, false, lost.len() as u64 * PACKET);
        }
    }

    fn send(&mut self, number: usize) {
        loop {
            let flow = &mut self.flows[number];
            let window = flow.model.window();
            if (flow.in_flight.len() as u64 + 1) * PACKET > window {
                return;
            }
            if flow.may_send > self.now {
                if !std::mem::replace(&mut flow.waits, true) {
                    self.events.push(Reverse((flow.may_send, number, None)));
                }
                return;
            }
            // quinn's pacer.
            let gap = flow.rtt.mul_f64(PACKET as f64 / (1.25 * window as f64));
            flow.may_send = flow.may_send.max(self.now - Duration::from_millis(2)) + gap;
            let packet = flow.next;
            flow.next += 1;
            flow.in_flight.insert(packet, self.now);
            flow.model.on_sent(self.now, PACKET);

            let waiting = self.busy_until.saturating_duration_since(self.now);
            self.dice =
                self.dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let lost = (self.dice >> 11) as f64 / ((1u64 << 53) as f64) < self.link.loss;
            if waiting.as_secs_f64() * self.link.rate > self.link.queue as f64 {
                self.dropped += 1;
            } else if !lost {
                let time = Duration::from_secs_f64(PACKET as f64 / self.link.rate);
                self.busy_until = self.busy_until.max(self.now) + time;
                let at = self.busy_until + self.link.rtt;
                self.events.push(Reverse((at, number, Some(packet))));
            }
        }
    }

    fn window(&self, flow: usize) -> u64 {
        self.flows[flow].model.window()
    }

    fn delivered(&self, flow: usize) -> u64 {
        self.flows[flow].delivered
    }

    fn queued(&self) -> Duration {
        self.queued
    }

    /// Share of the link's rate that a flow has had.
    fn share_since(&self, flow: usize, before: u64, time: Duration) -> f64 {
        (self.delivered(flow) - before) as f64 / time.as_secs_f64() / self.link.rate
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
