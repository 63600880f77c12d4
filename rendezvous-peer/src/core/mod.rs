//! The table and its rules, without sockets, clocks or tasks.
//!
//! A [`Core`] is told of connections, requests and the passing of time, and answers with what to
//! send. All calls take `&self`, so that connections on several threads work in parallel.
//!
//! # Locks
//!
//! 1. a shard of `conns`,
//! 2. a shard of `rows`,
//! 3. the small ones: the limits, whom the peer hosts and who uses which invite, the random generator, the ring of incidents, the keys of the tables
//!    of networks, a shard of a table of shares, a shard of the relay's channels, the queue of rings
//!    to be repeated.
//!
//! They are taken in this order only. Registering is the one call that holds a lock of the first
//! kind together with one of the second: so a connection that closes at the same time either is
//! gone before, or clears the presence that the registration leaves. No call holds two shards of
//! one map, and nothing is locked under a lock of the third kind.
//!
//! Relay frames and echo requests take locks of the third kind only.
//!
//! # Mail
//!
//! A connected recipient is pushed its envelopes one by one ([`Core::next_mail`]), as fast as it
//! takes them. What waits to be pushed stays in the mailbox, so a slow reader costs no memory and
//! misses nothing.

mod access;
mod calls;
mod cookie;
mod datagrams;
mod echo;
mod incidents;
mod inspect;
mod knock;
pub mod limits;
mod mailbox;
mod memory;
mod origin;
mod parking;
mod rate;
mod registry;
mod relay;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod time;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dashmap::DashMap;
use halloo_identity::InviteKey;
use halloo_wire::peer::{PeerError, Push, Request, Response};
use halloo_wire::{DecodeError, DeviceId, Fingerprint, InstanceId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::access::Admission;
use self::echo::Echo;
use self::incidents::Incidents;
use self::limits::CONNECTION_COST;
use self::memory::Memory;
use self::parking::Parking;
use self::rate::{Bucket, Prefix, Share, Shares, Sources};
use self::registry::RowKey;
use self::relay::{Relay, RelayKeys};
use self::stats::Counters;
use self::table::Table;
use crate::redacted::Redacted;

pub use self::access::{Access, AllowList, AllowListError};
pub use self::echo::Answer;
pub use self::incidents::{Incident, IncidentKind};
pub use self::inspect::{EnvelopeView, RowView};
pub use self::limits::{Limits, LimitsError, Quota, Rate};
pub use self::origin::Origin;
pub use self::parking::Ring;
pub use self::relay::{RelayDrop, Relayed};
pub use self::stats::Stats;
pub use self::time::Millis;

/// A connection, numbered by the caller; a number is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Who is at the other end of a connection with client certificates: facts that TLS has proved.
#[derive(Debug, Clone)]
pub struct Caller {
    key: Redacted<RowKey>,
    passport: Redacted<Arc<[u8]>>,
}

impl Caller {
    /// The device and the passport certificate that it has shown.
    pub fn new(fingerprint: Fingerprint, device: DeviceId, passport: &[u8]) -> Self {
        Self { key: Redacted((fingerprint, device)), passport: Redacted(passport.into()) }
    }
}

/// What a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For the one who asked.
    pub response: Response,
    /// For other connections.
    pub pushes: Vec<(ConnId, Push)>,
    /// A connection for which mail has come: ask [`Core::next_mail`].
    pub mail_for: Option<ConnId>,
    /// For parked devices. Those that nothing answers are repeated: [`Core::next_repeat`] may be
    /// earlier now.
    pub rings: Vec<Ring>,
    /// Why the connection must be closed after the response.
    pub close: Option<CloseReason>,
}

/// Why a peer closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// It showed a session that is not its own.
    #[error("wrong session")]
    WrongSession,
    /// The peer, or the network of the caller, has as many connections as it may.
    #[error("too many connections")]
    TooManyConnections,
    /// The peer stops.
    #[error("the peer stops")]
    Stopping,
}

/// What [`Core::expire`] has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Envelopes.
    pub envelopes: usize,
    /// Registrations.
    pub registrations: usize,
    /// Relay channels.
    pub channels: usize,
}

/// A connection as the core knows it.
struct Conn {
    /// Where it has proved to come from.
    origin: Origin,
    caller: Option<Caller>,
    registered: bool,
    rate: Bucket,
    share: Share,
}

/// The table of a rendezvous peer.
pub struct Core {
    limits: RwLock<Limits>,
    admission: Admission,
    instance: InstanceId,
    conns: DashMap<ConnId, Conn>,
    rows: Table,
    connections: AtomicUsize,
    registrations: AtomicUsize,
    /// Connections of each network.
    shares: Shares,
    sources: Sources,
    echo: Echo,
    /// The second UDP port, which answers echo requests.
    echo_port: Option<u16>,
    relay: Relay,
    parking: Parking,
    memory: Arc<Memory>,
    rng: Mutex<ChaCha20Rng>,
    incidents: Mutex<Incidents>,
    counters: Counters,
    draining: AtomicBool,
}

impl Core {
    /// An empty table.
    ///
    /// `instance` and `seed` must be drawn at random for each run: whoever knows the seed knows
    /// the session ids.
    ///
    /// # Errors
    /// [`LimitsError`] when the limits cannot work together.
    pub fn new(
        limits: Limits,
        instance: InstanceId,
        seed: [u8; 32],
        now: Millis,
    ) -> Result<Self, LimitsError> {
        limits.check()?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut key = || {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            key
        };
        let (shares, sources) = (Shares::new(key()), Sources::new(key(), now));
        let echo = Echo::new(key(), key(), now);
        let relay = RelayKeys { shares: key(), sources: key(), cookies: key() };
        let parking = Parking::new(key(), now);
        let memory = Memory::new(limits.memory, limits.memory_per_source, key());
        Ok(Self {
            limits: RwLock::new(limits),
            admission: Admission::new(&memory),
            instance,
            conns: DashMap::new(),
            rows: Table::new(),
            connections: AtomicUsize::new(0),
            registrations: AtomicUsize::new(0),
            shares,
            sources,
            echo,
            echo_port: None,
            relay: Relay::new(relay, now),
            parking,
            memory,
            rng: Mutex::new(rng),
            incidents: Mutex::new(Incidents::new(limits.incidents)),
            counters: Counters::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// Names the second UDP port in every welcome.
    #[must_use]
    pub fn with_echo_port(self, echo_port: Option<u16>) -> Self {
        Self { echo_port, ..self }
    }

    /// Knows the invites that were made with a key. Without one, none is good.
    #[must_use]
    pub fn with_invites(mut self, key: InviteKey) -> Self {
        self.admission.set_key(key);
        self
    }

    /// Changes whom the peer hosts; everybody, at first. Registrations that are there stay until they
    /// would be renewed, and it is remembered who has used which invite.
    pub fn set_access(&self, access: Access) {
        self.admission.set(access);
    }

    /// Tells what the clock on the wall says, which only invites are measured by. To be called before
    /// the first registration and every few seconds.
    pub fn tell_time(&self, unix_s: u64) {
        self.admission.tell_time(unix_s);
    }

    /// This run of the peer.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits for all that comes. What is there stays: where there is more of
    /// something than the limits allow, no more of it is accepted until there is less. Envelopes
    /// keep their times; a registration counts the time since the last visit anew. The number of
    /// incidents stays as it was.
    ///
    /// # Errors
    /// [`LimitsError`] when the limits cannot work together; nothing has changed then.
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        limits.check()?;
        self.memory.set_caps(limits.memory, limits.memory_per_source);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        Ok(())
    }

    /// Says whether an address may begin a handshake. To be asked before the handshake, so that a
    /// flood costs little. It takes nothing from the network's bucket: an address that has not
    /// been proved may be somebody else's.
    pub fn admits(&self, remote: SocketAddr, now: Millis) -> bool {
        let limits = self.limits();
        let room = self.connections.load(Ordering::Relaxed) < limits.connections;
        let rate = limits.source_rate;
        let admitted = room && self.sources.has(Prefix::of(remote), CONNECTION_COST, rate, now);
        if !admitted {
            self.record(IncidentKind::TooManyConnections, now);
        }
        admitted
    }

    /// Takes a connection in and returns the first word to it. `origin` is where the handshake came
    /// from, and proves.
    ///
    /// # Errors
    /// The reason for which the connection must be closed; the core then does not know it.
    pub fn welcome(
        &self,
        conn: ConnId,
        origin: Origin,
        caller: Option<Caller>,
        now: Millis,
    ) -> Result<Push, CloseReason> {
        if self.is_draining() {
            return Err(CloseReason::Stopping);
        }
        let Some(share) = self.take_place(Prefix::of(origin.address()), now) else {
            self.record(IncidentKind::TooManyConnections, now);
            return Err(CloseReason::TooManyConnections);
        };
        let state = Conn { origin, caller, registered: false, rate: Bucket::default(), share };
        let earlier = self.conns.insert(conn, state);
        debug_assert!(earlier.is_none(), "connection numbers are used once");
        self.counters.connected.add(1);
        Ok(Push::Welcome {
            instance: self.instance,
            observed: origin.address(),
            echo_port: self.echo_port,
        })
    }

    /// Names the one at the other end of a connection that was welcomed before the handshake had
    /// shown who it is. A name that has been given stays.
    pub fn identify(&self, conn: ConnId, caller: Caller) {
        if let Some(mut state) = self.conns.get_mut(&conn)
            && state.caller.is_none()
        {
            state.caller = Some(caller);
        }
    }

    /// Answers a request from a connection that seems to come from `seen` at the moment.
    ///
    /// When that is another address than before, QUIC may not have made sure of it yet. So it
    /// counts for the limits, and is told nobody, nor sent to, before the node has attested it.
    pub fn call(&self, conn: ConnId, seen: Origin, request: Request, now: Millis) -> Outcome {
        match self.answer(conn, seen, request, now) {
            Ok(outcome) => outcome,
            Err(error) => self.refuse(error, now),
        }
    }

    /// Answers bytes that are no request.
    pub fn malformed(
        &self,
        conn: ConnId,
        seen: Origin,
        error: DecodeError,
        now: Millis,
    ) -> Outcome {
        let refusal = match self.charge_rate(conn, seen, 1, now) {
            Err(limited) => limited,
            Ok(_) => refusal_of(error),
        };
        self.refuse(refusal, now)
    }

    /// The next envelope to push to a connection: after those that it has been pushed, and those
    /// that waited when it registered, which it peeks. `None` when there is none, or when the
    /// device is reached elsewhere.
    pub fn next_mail(&self, conn: ConnId, now: Millis) -> Option<Push> {
        let key = self.conns.get(&conn)?.caller.as_ref()?.key.0;
        let mut row = self.rows.get_mut(&key)?;
        self.counters.expired.add(row.mailbox.purge(now));
        let pushed = row.presence.as_ref().filter(|p| p.conn == conn)?.pushed;
        let waiting = row.mailbox.next_after(Some(pushed))?;
        row.presence.as_mut()?.pushed = waiting.id;
        self.counters.pushed.add(1);
        Some(Push::Envelope(waiting))
    }

    /// Forgets a connection. The registration stays for the device's next visit. A device that has
    /// parked is rung, if something has come that it has not taken.
    pub fn connection_closed(&self, conn: ConnId, now: Millis) -> Option<Ring> {
        let (_, gone) = self.conns.remove(&conn)?;
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.shares.give_back(gone.share);
        let caller = gone.caller.filter(|_| gone.registered)?;
        let mut row = self.rows.get_mut(&caller.key.0)?;
        if row.presence.as_ref().is_none_or(|p| p.conn != conn) {
            return None;
        }
        row.presence = None;
        row.last_visit = row.last_visit.max(now);
        self.counters.expired.add(row.mailbox.purge(now));
        if row.mailbox.len() == 0 { None } else { self.ring(&mut row, None, now) }
    }

    /// Forgets what has had its time: envelopes, registrations without a visit, parked devices that
    /// are silent, relay channels on which nothing is heard, the keys of the tables of networks.
    ///
    /// To be called every few seconds. Each time it looks at a part of the rows, as the hand of a
    /// clock goes round, so that a large table is never held up; [`Core::SWEEPS`] calls look at all.
    /// What has expired is never handed out, even if its memory is not free yet.
    pub fn expire(&self, now: Millis) -> Expired {
        let mut expired = Expired { channels: self.relay.sweep(now), ..Expired::default() };
        let Limits { registration_ttl, parked_silence, .. } = self.limits();
        self.rows.sweep(Table::PARTS.div_ceil(Self::SWEEPS), |row| {
            expired.envelopes += row.mailbox.purge(now);
            row.forget_ended(&self.relay, now);
            if row.parked.as_ref().is_some_and(|it| it.origin(parked_silence, now).is_none()) {
                row.unpark();
            }
            let stays = row.presence.is_some() || now < row.last_visit.after(registration_ttl);
            if !stays {
                expired.envelopes += row.mailbox.len();
                expired.registrations += 1;
                row.release_all_channels(&self.relay);
            }
            stays
        });
        self.registrations.fetch_sub(expired.registrations, Ordering::Relaxed);
        self.counters.expired.add(expired.envelopes);
        self.counters.forgotten.add(expired.registrations);
        self.counters.channels_silent.add(expired.channels);
        self.admission.sweep();
        self.rotate_keys(now);
        expired
    }

    /// Calls of [`Core::expire`] in which all rows are looked at.
    pub const SWEEPS: usize = 8;

    /// Begins to stop: nothing more is accepted, and each connection and each parked device is told
    /// when to come back.
    pub fn drain(&self, now: Millis) -> (Vec<(ConnId, Push)>, Vec<Ring>) {
        self.draining.store(true, Ordering::Relaxed);
        let rings = self.drain_parked(now);
        let conns: Vec<ConnId> = self.conns.iter().map(|c| *c.key()).collect();
        let spread =
            u32::try_from(self.limits().drain_spread.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut rng = self.rng();
        let pushes = conns
            .into_iter()
            .map(|conn| (conn, Push::Draining { retry_after_ms: rng.next_u32() % spread }))
            .collect();
        (pushes, rings)
    }

    /// What the peer has done and holds.
    pub fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.load(Ordering::Relaxed),
            registrations: self.registrations.load(Ordering::Relaxed),
            invites_in_use: self.admission.in_use(),
            channels: self.relay.len(),
            memory_used: self.memory.used(),
            memory_cap: self.memory.cap(),
            draining: self.is_draining(),
            ..self.counters.stats()
        }
    }

    /// The latest incidents, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.lock_incidents().list()
    }

    fn refuse(&self, error: PeerError, now: Millis) -> Outcome {
        self.note_refusal(&error, now);
        Outcome {
            close: (error == PeerError::WrongSession).then_some(CloseReason::WrongSession),
            ..Outcome::from(Response::Refused(error))
        }
    }

    fn note_refusal(&self, error: &PeerError, now: Millis) {
        self.counters.refused.add(1);
        if let Some(kind) = IncidentKind::of(error) {
            self.record(kind, now);
        }
    }

    fn record(&self, kind: IncidentKind, now: Millis) {
        self.counters.incidents[kind as usize].add(1);
        self.lock_incidents().record(kind, now);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn rng(&self) -> MutexGuard<'_, ChaCha20Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_incidents(&self) -> MutexGuard<'_, Incidents> {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection in, unless a limit stands against it.
    fn take_place(&self, source: Prefix, now: Millis) -> Option<Share> {
        let limits = self.limits();
        self.sources.take(source, CONNECTION_COST, limits.source_rate, now).ok()?;
        if !count_up(&self.connections, limits.connections) {
            return None;
        }
        let share = self.shares.take(source, limits.connections_per_source);
        if share.is_none() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        share
    }

    fn rotate_keys(&self, now: Millis) {
        let key = || {
            let mut key = [0; 32];
            self.rng().fill_bytes(&mut key);
            key
        };
        if self.sources.is_due(now) {
            self.sources.rotate(key(), now);
        }
        if self.echo.is_due(now) {
            self.echo.rotate(key(), now);
        }
        if self.relay.is_due(now) {
            self.relay.rotate(key(), now);
        }
    }
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        Self { response, pushes: Vec::new(), mail_for: None, rings: Vec::new(), close: None }
    }
}

/// Counts up to `limit`; says whether there was room.
fn count_up(count: &AtomicUsize, limit: usize) -> bool {
    let more = |n: usize| (n < limit).then_some(n + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

fn refusal_of(error: DecodeError) -> PeerError {
    match error {
        DecodeError::TooLong => PeerError::TooLarge,
        _ => PeerError::Malformed,
    }
}
