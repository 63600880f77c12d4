//! When a route was last used, and how much it has carried.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::udp::Transmit;
use tokio::sync::Notify;

use crate::demux::Count;

/// From this size on a QUIC datagram counts as one that the other side answers at once.
/// Acknowledgements alone are not answered, and have about 40 bytes; anything that carries a
/// message or a piece of a stream is larger.
const DATA_BEARING: usize = 100;

/// When something was last sent or heard on a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// A datagram that the other side answers at once was sent on a direct path.
    pub sent: Option<Instant>,
    /// Something came on a direct path.
    pub heard_direct: Option<Instant>,
    /// Something came through the relay.
    pub heard_relay: Option<Instant>,
    /// The system said that the direct path's address cannot be reached from here.
    pub unreachable: Option<Instant>,
}

/// What a route has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStats {
    /// Bytes sent on direct paths.
    pub direct_sent: u64,
    /// Bytes that came on direct paths.
    pub direct_heard: u64,
    /// Bytes sent through relays, without what the relay adds.
    pub relay_sent: u64,
    /// Bytes that came through relays, without what the relay adds.
    pub relay_heard: u64,
    /// How often the path for sending changed between relay and direct.
    pub switches: u64,
}

/// Counters and clocks of a route, written for every batch.
pub(crate) struct Times {
    epoch: Instant,
    sent: AtomicU64,
    heard_direct: AtomicU64,
    heard_relay: AtomicU64,
    unreachable: AtomicU64,
    direct_sent: Count,
    direct_heard: Count,
    relay_sent: Count,
    relay_heard: Count,
    pub(crate) switches: Count,
    /// Somebody waits for the next datagram that the other side answers.
    awaited: AtomicBool,
    sent_data: Notify,
}

impl Times {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            sent: AtomicU64::new(0),
            heard_direct: AtomicU64::new(0),
            heard_relay: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            direct_sent: Count::default(),
            direct_heard: Count::default(),
            relay_sent: Count::default(),
            relay_heard: Count::default(),
            switches: Count::default(),
            awaited: AtomicBool::new(false),
            sent_data: Notify::new(),
        }
    }

    pub(crate) fn sent_direct(&self, transmit: &Transmit<'_>) {
        let len = transmit.contents.len();
        self.direct_sent.add(len as u64);
        if transmit.segment_size.unwrap_or(len) > DATA_BEARING {
            self.stamp(&self.sent);
            if self.awaited.swap(false, Ordering::AcqRel) {
                self.sent_data.notify_waiters();
            }
        }
    }

    pub(crate) fn sent_relayed(&self, bytes: usize) {
        self.relay_sent.add(bytes as u64);
    }

    pub(crate) fn heard_direct(&self, bytes: usize) {
        self.direct_heard.add(bytes as u64);
        self.stamp(&self.heard_direct);
    }

    pub(crate) fn heard_relayed(&self, bytes: usize) {
        self.relay_heard.add(bytes as u64);
        self.stamp(&self.heard_relay);
    }

    pub(crate) fn unreachable(&self) {
        self.stamp(&self.unreachable);
    }

    /// Waits until something is sent on a direct path that the other side answers at once.
    pub(crate) async fn sent(&self) {
        let sent = self.sent_data.notified();
        tokio::pin!(sent);
        // Listens before it says so.
        sent.as_mut().enable();
        self.awaited.store(true, Ordering::Release);
        sent.await;
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.at(&self.sent),
            heard_direct: self.at(&self.heard_direct),
            heard_relay: self.at(&self.heard_relay),
            unreachable: self.at(&self.unreachable),
        }
    }

    pub(crate) fn stats(&self) -> RouteStats {
        RouteStats {
            direct_sent: self.direct_sent.get(),
            direct_heard: self.direct_heard.get(),
            relay_sent: self.relay_sent.get(),
            relay_heard: self.relay_heard.get(),
            switches: self.switches.get(),
        }
    }

    /// Microseconds since the route began, and one: zero is never.
    fn stamp(&self, clock: &AtomicU64) {
        let since = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        clock.store(since + 1, Ordering::Relaxed);
    }

    fn at(&self, clock: &AtomicU64) -> Option<Instant> {
        let since = clock.load(Ordering::Relaxed).checked_sub(1)?;
        self.epoch.checked_add(Duration::from_micros(since))
    }
}
