//! What the socket knows of one contact, and where its datagrams go.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use halloo_wire::datagram::RELAY_HEADER;
use halloo_wire::limits::MAX_DATAGRAM;
use halloo_wire::path::{DirectPath, RelayPath, SendOn};
use quinn::udp::{EcnCodepoint, Transmit};
use tokio::sync::Notify;

use crate::congestion::{PathClass, PathSignal};
use crate::sync::lock;
use crate::times::Times;
use crate::udp::canonical;

/// Datagrams that a route without any path keeps: a first flight has two or three, and QUIC sends
/// it again by itself. The newest are dropped.
const MAX_KEPT: usize = 8;
/// Datagrams that are remembered after they were sent directly: what a conversation sends in
/// [`RECENT`]. A transfer, which sends in batches, has its own ways to find out what was lost.
const MAX_RECENT: usize = 64;
/// How long they are remembered: the silence after which a direct path is in doubt, and a little.
const RECENT: Duration = Duration::from_millis(500);
/// Largest QUIC datagram on a relay, until the contact has been reached directly: QUIC's smallest
/// packet size. QUIC tries larger ones by itself, and would keep a size that the relay carries and
/// the direct path may not.
const RELAY_FIRST: usize = 1200;
/// Largest QUIC datagram on a relay afterwards, so that QUIC need not find out first what the
/// relay takes when the direct path is lost.
const RELAY_LATER: usize = MAX_DATAGRAM - RELAY_HEADER;

/// What the socket knows of one contact.
pub(crate) struct RouteState {
    pub(crate) number: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) paths: Mutex<Paths>,
    pub(crate) times: Times,
    /// Tells the connection's congestion controller which path it is on.
    pub(crate) signal: Arc<PathSignal>,
    /// The connection id that was learnt last, so that most datagrams teach nothing.
    pub(crate) last_id: AtomicU64,
    /// Something is kept for want of a path.
    kept: Notify,
    /// What was sent directly a moment ago.
    recent: Mutex<VecDeque<(Instant, Kept)>>,
}

/// What may change about a contact. It is locked after the table of [`Routes`](crate::routes), when
/// both are.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    pub(crate) relay: Option<RelayPath>,
    /// The relay channels whose frames are taken, the oldest first; `relay` is among them.
    pub(crate) channels: VecDeque<RelayPath>,
    pub(crate) send: SendOn,
    pub(crate) sources: VecDeque<DirectPath>,
    pub(crate) kept: VecDeque<Kept>,
    pub(crate) ids: VecDeque<[u8; 8]>,
    pub(crate) reported: VecDeque<(DirectPath, Instant)>,
    /// The direct path that was last used.
    last_direct: Option<DirectPath>,
    /// The rendezvous peer through which datagrams were last sent.
    last_relay: Option<SocketAddr>,
    pub(crate) closed: bool,
}

/// A datagram that waits for a path.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) datagram: Bytes,
    pub(crate) ecn: Option<EcnCodepoint>,
}

/// Where a batch of QUIC's goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) direct: Option<DirectPath>,
    pub(crate) relay: Option<RelayPath>,
    /// Taken when the system says that the direct path cannot be reached.
    pub(crate) instead: Option<RelayPath>,
    /// Largest datagram on the relay.
    pub(crate) relay_limit: usize,
}

impl RouteState {
    pub(crate) fn new(number: u64, addr: SocketAddr) -> Self {
        Self {
            number,
            addr,
            paths: Mutex::default(),
            times: Times::new(),
            // The first datagrams go to the relay, or nowhere.
            signal: PathSignal::new(PathClass::Relayed, Instant::now()),
            last_id: AtomicU64::new(0),
            kept: Notify::new(),
            recent: Mutex::default(),
        }
    }

    /// Whether a connection id is the one that was learnt last.
    pub(crate) fn knows(&self, id: [u8; 8]) -> bool {
        self.last_id.load(Ordering::Relaxed) == u64::from_ne_bytes(id)
    }

    /// Remembers a datagram that was sent on the direct path alone.
    pub(crate) fn remember(&self, transmit: &Transmit<'_>) {
        if transmit.segment_size.is_some() || transmit.contents.len() > MAX_DATAGRAM {
            return;
        }
        let mut recent = lock(&self.recent);
        if recent.len() == MAX_RECENT {
            recent.pop_front();
        }
        let datagram = Bytes::copy_from_slice(transmit.contents);
        recent.push_back((Instant::now(), Kept { datagram, ecn: transmit.ecn }));
    }

    /// Takes what was sent on the direct path alone a moment ago.
    pub(crate) fn take_recent(&self) -> Vec<Kept> {
        let recent = std::mem::take(&mut *lock(&self.recent));
        recent.into_iter().filter(|(at, _)| at.elapsed() < RECENT).map(|(_, it)| it).collect()
    }

    /// Where a batch goes; without any path it is kept, as far as there is room, and how many
    /// datagrams found none is the error.
    pub(crate) fn plan(&self, transmit: &Transmit<'_>) -> Result<Plan, usize> {
        let mut paths = lock(&self.paths);
        let relay_limit = if paths.last_direct.is_some() { RELAY_LATER } else { RELAY_FIRST };
        let (direct, relay, instead) = match (paths.send, paths.relay) {
            (SendOn::Direct(path), relay) => (Some(path), None, relay),
            (SendOn::Both(path), relay) => (Some(path), relay, None),
            (SendOn::Relay, Some(relay)) => (None, Some(relay), None),
            (SendOn::Relay, None) => {
                let dropped = paths.keep(transmit);
                drop(paths);
                self.kept.notify_one();
                return Err(dropped);
            }
        };
        Ok(Plan { direct, relay, instead, relay_limit })
    }

    pub(crate) fn set_send(&self, send: SendOn) {
        let send = match send {
            SendOn::Relay => send,
            SendOn::Both(path) => SendOn::Both(canonical_path(path)),
            SendOn::Direct(path) => SendOn::Direct(canonical_path(path)),
        };
        lock(&self.paths).set_send(self, send);
    }

    pub(crate) fn send_on(&self) -> SendOn {
        lock(&self.paths).send
    }

    pub(crate) fn relay(&self) -> Option<RelayPath> {
        lock(&self.paths).relay
    }

    /// Takes what was kept, if there is a path for it.
    pub(crate) fn take_kept(&self) -> VecDeque<Kept> {
        let mut paths = lock(&self.paths);
        match (paths.send, paths.relay) {
            (SendOn::Relay, None) => VecDeque::new(),
            _ => std::mem::take(&mut paths.kept),
        }
    }

    /// Waits until at least `n` datagrams are kept. Cancel safe.
    pub(crate) async fn kept(&self, n: usize) {
        while lock(&self.paths).kept.len() < n {
            // A datagram that is kept in between leaves a permit.
            self.kept.notified().await;
        }
    }

    /// Takes up to `max` kept datagrams, oldest first, whether there is a path or not.
    pub(crate) fn take_first(&self, max: usize) -> Vec<Bytes> {
        let mut paths = lock(&self.paths);
        let n = paths.kept.len().min(max);
        paths.kept.drain(..n).map(|it| it.datagram).collect()
    }

    /// How many datagrams are kept; `None` when there is a path and no more will be.
    pub(crate) fn kept_count(&self) -> Option<usize> {
        let paths = lock(&self.paths);
        (paths.send == SendOn::Relay && paths.relay.is_none()).then_some(paths.kept.len())
    }
}

impl fmt::Debug for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses stay out.
        f.debug_struct("Route").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Paths {
    /// Keeps a batch as far as there is room, and returns how many datagrams found none.
    fn keep(&mut self, transmit: &Transmit<'_>) -> usize {
        let mut dropped = 0;
        for datagram in segments(transmit) {
            if self.kept.len() < MAX_KEPT && !self.closed {
                let datagram = Bytes::copy_from_slice(datagram);
                self.kept.push_back(Kept { datagram, ecn: transmit.ecn });
            } else {
                dropped += 1;
            }
        }
        dropped
    }

    pub(crate) fn set_send(&mut self, route: &RouteState, send: SendOn) {
        let was_direct = self.send.direct().is_some();
        if was_direct != send.direct().is_some() {
            route.times.switches.add(1);
        }
        self.send = send;
        match send.direct() {
            Some(path) => {
                let now = Instant::now();
                // Another port at the same address is a NAT's new mapping on the same way
                // (RFC 9000, 9.4).
                let is_known =
                    self.last_direct.is_some_and(|it| it.remote.ip() == path.remote.ip());
                if !is_known {
                    route.signal.switch_to_new(PathClass::Direct, now);
                } else if !was_direct {
                    route.signal.switch(PathClass::Direct, now);
                }
                self.last_direct = Some(path);
            }
            None => self.say_relayed(route, !was_direct),
        }
    }

    /// Tells the congestion controller that the relay is used, if that is news.
    pub(crate) fn say_relayed(&mut self, route: &RouteState, was_relayed: bool) {
        let Some(relay) = self.relay else { return };
        let now = Instant::now();
        match self.last_relay.replace(relay.via) {
            Some(last) if last != relay.via => {
                route.signal.switch_to_new(PathClass::Relayed, now);
            }
            _ if !was_relayed => route.signal.switch(PathClass::Relayed, now),
            _ => {}
        }
    }
}

pub(crate) fn canonical_path(path: DirectPath) -> DirectPath {
    DirectPath { remote: canonical(path.remote), ..path }
}

/// The datagrams of a batch.
pub(crate) fn segments<'a>(transmit: &Transmit<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    transmit.contents.chunks(transmit.segment_size.unwrap_or(transmit.contents.len()).max(1))
}
