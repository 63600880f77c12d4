//! Which contact a datagram belongs to, and where a contact's datagrams go.
//!
//! QUIC knows a contact by one virtual address for the whole life of the connection. The table
//! finds the contact behind what comes in:
//!
//! | what came | is found by |
//! |---|---|
//! | a datagram from an address that the contact has authenticated | socket and source |
//! | a relay frame | channel, and the rendezvous peer that it came from |
//! | a datagram from an unknown address | its connection id, learnt from earlier packets |
//!
//! The last is what a NAT that forgot its mapping looks like. QUIC authenticates what is in it, so
//! it may be delivered; but an address that only QUIC packets came from can be a forged one, so
//! nothing is ever sent there until a probe has authenticated it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use halloo_wire::ChannelId;
use halloo_wire::path::{DirectPath, RelayPath, SendOn, SocketId};

use crate::demux::Tap;
use crate::route_state::{RouteState, canonical_path};
use crate::sync::{lock, read, write};
use crate::udp::canonical;

/// Relay channels of a contact whose frames are taken. Both sides may knock again at once, when
/// both have lost a path, and each then sends on the channel that it heard of last.
const MAX_CHANNELS: usize = 4;

/// Addresses that one contact may have authenticated. The oldest is forgotten first: a contact
/// with two interfaces behind a NAT that changes its mind has four or five.
const MAX_SOURCES: usize = 16;
/// Connection ids that are remembered for one contact. It uses one at a time, and one more when
/// its path changes.
const MAX_IDS: usize = 8;
/// Unknown addresses of one contact that are reported in the time of [`REPORT_AGAIN`].
const MAX_REPORTED: usize = 16;
/// How soon an unknown address is reported again, while packets come from it: as often as somebody
/// who lost a probe would try again.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Reports that wait for their reader.
pub(crate) const NEW_SOURCE_QUEUE: usize = 64;

/// QUIC of a contact came from an address that nobody has authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSource {
    /// The contact's route, by its virtual address.
    pub route: SocketAddr,
    /// Which of our sockets it came to.
    pub socket: SocketId,
    /// Where it came from.
    pub source: SocketAddr,
}

/// All routes of a socket.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    table: RwLock<Table>,
    /// How many there are, so that a socket without routes never looks.
    count: AtomicUsize,
    pub(crate) new_sources: Tap<NewSource>,
}

#[derive(Debug, Default)]
struct Table {
    by_number: HashMap<u64, Arc<RouteState>>,
    /// More than one while two nodes have dialled each other at the same time.
    by_source: HashMap<DirectPath, Vec<Arc<RouteState>>>,
    /// By the number under which the other end sends.
    by_channel: HashMap<ChannelId, Arc<RouteState>>,
    by_id: HashMap<[u8; 8], Arc<RouteState>>,
}

/// Who sends from an address.
#[derive(Debug)]
pub(crate) enum Sender {
    Nobody,
    One(Arc<RouteState>),
    Several,
}

impl Routes {
    pub(crate) fn add(&self, number: u64, addr: SocketAddr) -> Arc<RouteState> {
        let route = Arc::new(RouteState::new(number, addr));
        write(&self.table).by_number.insert(number, Arc::clone(&route));
        self.count.fetch_add(1, Ordering::Relaxed);
        route
    }

    pub(crate) fn remove(&self, route: &Arc<RouteState>) {
        let mut table = write(&self.table);
        let mut paths = lock(&route.paths);
        if table.by_number.remove(&route.number).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        paths.relay = None;
        for channel in paths.channels.drain(..) {
            table.forget_channel(route, channel);
        }
        for source in paths.sources.drain(..) {
            table.forget_source(route, source);
        }
        for id in paths.ids.drain(..) {
            table.by_id.remove(&id);
        }
        paths.kept.clear();
        paths.closed = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn by_number(&self, number: u64) -> Option<Arc<RouteState>> {
        read(&self.table).by_number.get(&number).cloned()
    }

    pub(crate) fn at(&self, source: DirectPath) -> Sender {
        match read(&self.table).by_source.get(&source).map(Vec::as_slice) {
            None | Some([]) => Sender::Nobody,
            Some([route]) => Sender::One(Arc::clone(route)),
            Some(_) => Sender::Several,
        }
    }

    /// All who send from an address, in the order in which that was found out.
    pub(crate) fn all_at(&self, source: DirectPath) -> Vec<Arc<RouteState>> {
        read(&self.table).by_source.get(&source).cloned().unwrap_or_default()
    }

    /// Whose relay frames come from `via` on `channel`, the other end's number.
    pub(crate) fn on_channel(
        &self,
        channel: ChannelId,
        via: SocketAddr,
    ) -> Option<Arc<RouteState>> {
        let route = read(&self.table).by_channel.get(&channel).cloned()?;
        let taken = |it: &RelayPath| it.via == via && it.channel.other() == channel;
        let from_there = lock(&route.paths).channels.iter().any(taken);
        from_there.then_some(route)
    }

    pub(crate) fn with_id(&self, id: [u8; 8]) -> Option<Arc<RouteState>> {
        read(&self.table).by_id.get(&id).cloned()
    }

    /// Remembers that the contact uses a connection id. What came before stays right: nobody can
    /// take over the id of another contact by using it.
    pub(crate) fn learn(&self, route: &Arc<RouteState>, id: [u8; 8]) {
        let number = u64::from_ne_bytes(id);
        if route.last_id.load(Ordering::Relaxed) == number {
            return;
        }
        route.last_id.store(number, Ordering::Relaxed);
        if read(&self.table).by_id.contains_key(&id) {
            return;
        }
        let mut table = write(&self.table);
        let mut paths = lock(&route.paths);
        if paths.closed || table.by_id.contains_key(&id) {
            return;
        }
        if paths.ids.len() == MAX_IDS
            && let Some(oldest) = paths.ids.pop_front()
        {
            table.by_id.remove(&oldest);
        }
        paths.ids.push_back(id);
        table.by_id.insert(id, Arc::clone(route));
    }

    /// Reports an address that nobody has authenticated, once in a while, and not more of them than
    /// an honest contact can have: somebody on the way can forge any number.
    pub(crate) fn report(&self, route: &RouteState, path: DirectPath, now: Instant) {
        {
            let reported = &mut lock(&route.paths).reported;
            match reported.iter_mut().find(|(it, _)| *it == path) {
                Some((_, at)) if now.saturating_duration_since(*at) < REPORT_AGAIN => return,
                Some((_, at)) => *at = now,
                None => {
                    reported.retain(|(_, at)| now.saturating_duration_since(*at) < REPORT_AGAIN);
                    if reported.len() == MAX_REPORTED {
                        return;
                    }
                    reported.push_back((path, now));
                }
            }
        }
        self.new_sources.hand_on(|| NewSource {
            route: route.addr,
            socket: path.socket,
            source: path.remote,
        });
    }

    pub(crate) fn set_relay(&self, route: &Arc<RouteState>, relay: Option<RelayPath>) {
        let relay = relay.map(|it| RelayPath { via: canonical(it.via), ..it });
        let mut table = write(&self.table);
        let mut paths = lock(&route.paths);
        if !paths.closed {
            paths.relay = relay;
            let known = relay.is_some_and(|it| paths.channels.contains(&it));
            let gone = match relay {
                None => paths.channels.len(),
                Some(_) => (paths.channels.len() + 1).saturating_sub(MAX_CHANNELS),
            };
            if !known {
                for channel in paths.channels.drain(..gone) {
                    table.forget_channel(route, channel);
                }
            }
            if let Some(relay) = relay.filter(|_| !known) {
                paths.channels.push_back(relay);
                table.by_channel.insert(relay.channel.other(), Arc::clone(route));
            }
            if paths.send == SendOn::Relay {
                paths.say_relayed(route, true);
            }
        }
    }

    pub(crate) fn add_source(&self, route: &Arc<RouteState>, source: DirectPath) {
        let source = canonical_path(source);
        let mut table = write(&self.table);
        let mut paths = lock(&route.paths);
        paths.reported.retain(|(it, _)| *it != source);
        if paths.closed || paths.sources.contains(&source) {
            return;
        }
        if paths.sources.len() == MAX_SOURCES {
            // Never the one that is sent to.
            let used = paths.send.direct();
            let oldest = paths.sources.iter().position(|it| Some(*it) != used);
            if let Some(oldest) = oldest.and_then(|at| paths.sources.remove(at)) {
                table.forget_source(route, oldest);
            }
        }
        paths.sources.push_back(source);
        table.by_source.entry(source).or_default().push(Arc::clone(route));
    }

    pub(crate) fn remove_source(&self, route: &Arc<RouteState>, source: DirectPath) {
        let source = canonical_path(source);
        let mut table = write(&self.table);
        let mut paths = lock(&route.paths);
        paths.sources.retain(|it| *it != source);
        table.forget_source(route, source);
        if paths.send.direct() == Some(source) {
            paths.set_send(route, SendOn::Relay);
        }
    }

    /// Takes a closed socket's paths out of all routes.
    pub(crate) fn forget_socket(&self, socket: SocketId) {
        let routes: Vec<_> = read(&self.table).by_number.values().cloned().collect();
        for route in routes {
            let gone: Vec<_> = {
                let paths = lock(&route.paths);
                paths.sources.iter().copied().chain(paths.send.direct()).collect()
            };
            for path in gone.into_iter().filter(|it| it.socket == socket) {
                self.remove_source(&route, path);
            }
        }
    }
}

impl Table {
    fn forget_channel(&mut self, route: &Arc<RouteState>, channel: RelayPath) {
        let number = channel.channel.other();
        if self.by_channel.get(&number).is_some_and(|it| Arc::ptr_eq(it, route)) {
            self.by_channel.remove(&number);
        }
    }

    fn forget_source(&mut self, route: &Arc<RouteState>, source: DirectPath) {
        if let Some(routes) = self.by_source.get_mut(&source) {
            routes.retain(|it| !Arc::ptr_eq(it, route));
            if routes.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }
}
