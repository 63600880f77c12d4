//! Parked registrations: devices that hold no connection, and are rung by datagrams.
//!
//! A device parks on its connection, and both sides draw a key from it. Then the connection ends,
//! and what stays is the row with one small box more. The device sends a keepalive now and then,
//! which keeps its NAT open and says that it is there. What comes for it is put into datagrams, as a
//! whole where it fits; otherwise, or when several things wait, the ring says only that the device
//! should come. A ring that nothing answers is repeated a few times. After that, and for a device
//! that has been silent for [`Limits::parked_silence`](super::Limits::parked_silence), everything
//! waits in the mailbox for its next visit.
//!
//! Nothing is sent to an address but a challenge, before the device has sent the challenge's cookie
//! back from there. Nothing is answered by more bytes than it had, and what does not open under the
//! key is not answered. A keepalive for a row that is not here (the peer may have restarted) is told
//! so, with a moment at which to come back: each device gets the next free one, so that a herd comes
//! in single file.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halloo_transport::ParkingKey;
use halloo_wire::parked::{ParkedDatagram, RingPart, Sealed, Word};
use halloo_wire::peer::{Call, Control, Parked, PeerError, Push, Request, Response};
use halloo_wire::{RowId, SessionId};
use rand_chacha::rand_core::Rng;
use zeroize::{Zeroize, Zeroizing};

use super::cookie::{Cookies, Purpose};
use super::memory::{Charge, For, Memory, Network};
use super::origin::{Origin, canonical};
use super::rate::Prefix;
use super::registry::Row;
use super::table::{Place, RowRef};
use super::time::Millis;
use super::{ConnId, Core, Outcome};

/// When a ring that nothing answers is repeated, counted from the time before.
const REPEATS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(2_500)];
/// The furthest moment at which a device is told to come back. Those for whom there is none before
/// it come then, and are refused by the other limits if they must be.
const LAST_RETURN: Duration = Duration::from_secs(120);
/// How long after its start a peer expects those of its earlier run. Afterwards, nobody can make
/// others wait by asking for rows that are not here.
const HERD: Duration = Duration::from_secs(600);
/// What a knock that is kept for a repetition takes besides its bytes.
const KEPT_COST: usize = 64;

/// What a device is rung with.
#[derive(Debug, PartialEq, Eq)]
pub struct Ring {
    /// Where the device is.
    pub to: SocketAddr,
    /// What to send there.
    pub datagrams: Vec<Vec<u8>>,
}

/// What the peer keeps of a parked device besides its row.
pub(super) struct ParkedRow {
    key: ParkingKey,
    id: RowId,
    /// Where the device has shown that it receives.
    address: SocketAddr,
    /// When it was last heard.
    heard: Millis,
    /// Its last counter, and ours.
    theirs: u64,
    ours: u64,
    /// The latest ring, and the latest one that the device has heard.
    ring: u32,
    rung: u32,
    /// Whether a repetition is due some time, and how many there have been.
    repeats: Option<u8>,
    /// The latest knock, until the device has heard of it.
    knock: Option<Kept>,
}

struct Kept {
    push: Zeroizing<Vec<u8>>,
    charge: Charge,
}

impl ParkedRow {
    /// The bytes that are charged to the row for it.
    pub(super) const COST: usize = size_of::<Self>() + 16;

    /// Where the device is, unless it has been silent for too long.
    pub(super) fn origin(&self, silence: Duration, now: Millis) -> Option<Origin> {
        (now.since(self.heard) < silence).then(|| Origin::udp(self.address))
    }

    /// Where the device was last.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes charged to the knock that is kept.
    pub(super) fn kept_charged(&self) -> usize {
        self.knock.as_ref().map_or(0, |it| it.charge.bytes())
    }

    /// The knock that the device has not heard of yet.
    pub(super) fn take_knock(&mut self) -> Option<Push> {
        let kept = self.knock.take()?;
        Push::decode(&kept.push).ok()
    }

    fn seal(&mut self, word: &Word) -> Vec<u8> {
        self.ours += 1;
        self.key.seal_word(self.id, self.ours, word)
    }
}

/// What all parked rows share.
pub(super) struct Parking {
    cookies: Cookies,
    /// When which row is rung again; each is in here once at most.
    repeats: Mutex<BinaryHeap<Reverse<(Millis, u64)>>>,
    /// The last moment that was given to somebody to come back, in microseconds.
    returns: AtomicU64,
    started: Millis,
}

impl Parking {
    /// `cookies` is a key, drawn at random for each run.
    pub(super) fn new(cookies: [u8; 32], started: Millis) -> Self {
        Self {
            cookies: Cookies::new(cookies),
            repeats: Mutex::default(),
            returns: AtomicU64::new(0),
            started,
        }
    }

    fn repeats(&self) -> MutexGuard<'_, BinaryHeap<Reverse<(Millis, u64)>>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next moment at which one more device may come back, as milliseconds from now.
    fn next_return(&self, per_second: u32, now: Millis) -> u32 {
        let now_us = now.0.saturating_mul(1_000);
        let gap = 1_000_000 / u64::from(per_second.max(1));
        let last = u64::try_from(LAST_RETURN.as_micros()).unwrap_or(u64::MAX);
        let next = |given: u64| Some((given.max(now_us) + gap).min(now_us + last));
        let given = self.returns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let at = given.ok().and_then(next).unwrap_or(now_us);
        u32::try_from((at - now_us) / 1_000).unwrap_or(u32::MAX)
    }
}

impl Core {
    /// Parks a device: from the end of its connection on it is rung by datagrams. `key` draws the
    /// key for the row's number from the connection.
    ///
    /// A request that is not [`Call::Park`] is refused.
    pub fn park(
        &self,
        conn: ConnId,
        seen: Origin,
        request: &Request,
        key: impl FnOnce(RowId) -> ParkingKey,
        now: Millis,
    ) -> Outcome {
        let parked = match request {
            Request { session: Some(session), call: Call::Park } => {
                self.try_park(conn, seen, *session, key, now)
            }
            Request { session: None, call: Call::Park } => Err(PeerError::NotRegistered),
            _ => Err(PeerError::Malformed),
        };
        match parked {
            Ok(parked) => Response::Parked(parked).into(),
            Err(error) => self.refuse(error, now),
        }
    }

    fn try_park(
        &self,
        conn: ConnId,
        seen: Origin,
        session: SessionId,
        key: impl FnOnce(RowId) -> ParkingKey,
        now: Millis,
    ) -> Result<Parked, PeerError> {
        let (caller, origin) = self.charge_rate(conn, seen, 1, now)?;
        let name = self.authenticate(conn, origin, caller, session, now)?;
        if self.is_draining() {
            return Err(PeerError::Draining);
        }
        // Through a tunnel no datagram comes back when it has ended.
        let address = origin.reflexive().ok_or(PeerError::NotAuthorized)?;
        let tag = self.rng().next_u32();
        let mut row = self.rows.get_mut(&name).ok_or(PeerError::NotRegistered)?;
        if row.presence.as_ref().is_none_or(|it| it.conn != conn) {
            return Err(PeerError::NotRegistered);
        }
        let id = row.place().row_id(tag);
        let parked = ParkedRow {
            key: key(id),
            id,
            address,
            heard: now,
            theirs: 0,
            ours: 0,
            ring: 0,
            rung: 0,
            repeats: None,
            knock: None,
        };
        row.park(parked)?;
        self.counters.parked.add(1);
        let silence_s = u16::try_from(self.limits().parked_silence.as_secs()).unwrap_or(u16::MAX);
        Ok(Parked { row: id, silence_s })
    }

    /// Takes a datagram of a parked registration that came from `source`, and says what to send back
    /// there.
    pub fn parked_datagram(
        &self,
        source: SocketAddr,
        datagram: &[u8],
        now: Millis,
    ) -> Option<Vec<u8>> {
        let source = canonical(source);
        let answer = match ParkedDatagram::decode(datagram) {
            Ok(ParkedDatagram::Keepalive(sealed)) => self.keepalive(source, &sealed, now),
            _ => None,
        };
        if answer.is_none() {
            self.counters.datagrams_ignored.add(1);
        }
        answer
    }

    fn keepalive(&self, source: SocketAddr, sealed: &Sealed<'_>, now: Millis) -> Option<Vec<u8>> {
        let id = sealed.row;
        let mut row = match self.rows.at(Place::of(id)) {
            Some(row) if row.parked.as_ref().is_some_and(|it| it.id == id) => row,
            found => {
                drop(found);
                return self.unknown_row(source, sealed, now);
            }
        };
        let row = &mut *row;
        let parked = row.parked.as_mut()?;
        // What was heard before is not even opened.
        if sealed.counter <= parked.theirs {
            return None;
        }
        let said = parked.key.open_keepalive(sealed).ok()?;
        parked.theirs = sealed.counter;
        let taken = said.taken.iter().filter(|&&id| row.mailbox.remove(id)).count();
        self.counters.acknowledged.add(taken);
        // Numbers of rings that there have not been are no news.
        if said.rung > parked.rung && said.rung <= parked.ring {
            parked.rung = said.rung;
        }
        if parked.rung == parked.ring {
            parked.knock = None;
        }
        if source != parked.address {
            let shown =
                self.parking.cookies.is_fresh(said.cookie, Purpose::Parked(id), source, now);
            if !shown {
                let cookie = self.parking.cookies.make(Purpose::Parked(id), source, now);
                self.counters.parked_challenges.add(1);
                return Some(parked.seal(&Word::Challenge { cookie }));
            }
            parked.address = source;
            self.counters.parked_moves.add(1);
        }
        parked.heard = now;
        row.last_visit = row.last_visit.max(now);
        self.counters.keepalives.add(1);
        self.counters.expired.add(row.mailbox.purge(now));
        let waiting = count16(row.mailbox.len());
        let parked = row.parked.as_mut()?;
        Some(parked.seal(&Word::Heard { counter: sealed.counter, waiting }))
    }

    /// Tells somebody whose row is not here when to come back.
    fn unknown_row(&self, source: SocketAddr, sealed: &Sealed<'_>, now: Millis) -> Option<Vec<u8>> {
        self.echo.take(Prefix::of_host(source), self.limits().echo_rate, now).ok()?;
        let retry_after_ms = match now.since(self.parking.started) < HERD {
            true => self.parking.next_return(self.limits().return_rate, now),
            false => 0,
        };
        self.counters.parked_unknown.add(1);
        let Sealed { row, counter, .. } = *sealed;
        Some(ParkedDatagram::Unknown { row, counter, retry_after_ms }.encode())
    }

    /// Rings a parked device because something has come for it: a knock, or what is in its mailbox.
    /// `None` when it is not parked, or has been silent for too long.
    pub(super) fn ring(&self, row: &mut Row, knock: Option<Push>, now: Millis) -> Option<Ring> {
        let network = row.mailbox.network();
        row.parked.as_ref()?.origin(self.limits().parked_silence, now)?;
        let parked = row.parked.as_mut()?;
        parked.ring = parked.ring.wrapping_add(1);
        if let Some(push) = knock {
            parked.knock = keep(&push, &self.memory, network);
        }
        let rings = parked.repeats.replace(0).is_none();
        let id = parked.id;
        if rings {
            self.parking.repeats().push(Reverse((now.after(REPEATS[0]), id.0)));
        }
        self.counters.rings.add(1);
        ring_with(row)
    }

    /// The rings that are due to be repeated. To be called at [`Core::next_repeat`].
    pub fn repeat_rings(&self, now: Millis) -> Vec<Ring> {
        let mut rings = Vec::new();
        loop {
            let id = {
                let mut repeats = self.parking.repeats();
                match repeats.peek() {
                    Some(&Reverse((at, id))) if at <= now => {
                        repeats.pop();
                        RowId(id)
                    }
                    _ => return rings,
                }
            };
            let Some(mut row) = self.rows.at(Place::of(id)) else { continue };
            rings.extend(self.repeat(&mut row, id, now));
        }
    }

    fn repeat(&self, row: &mut RowRef<'_>, id: RowId, now: Millis) -> Option<Ring> {
        let parked = row.parked.as_mut().filter(|it| it.id == id)?;
        let times = parked.repeats.take()?;
        let answered = parked.rung == parked.ring;
        if answered || parked.origin(self.limits().parked_silence, now).is_none() {
            return None;
        }
        if let Some(&wait) = REPEATS.get(usize::from(times) + 1) {
            parked.repeats = Some(times + 1);
            self.parking.repeats().push(Reverse((now.after(wait), id.0)));
        } else {
            // It will hear of the mailbox with its next keepalive, if it sends one.
            parked.knock = None;
        }
        self.counters.rings_repeated.add(1);
        ring_with(row)
    }

    /// When a ring is to be repeated next.
    pub fn next_repeat(&self) -> Option<Millis> {
        self.parking.repeats().peek().map(|Reverse((at, _))| *at)
    }

    /// Tells parked devices that the peer stops, each with its own moment to come back: those too
    /// whose connection is still there, since its end may just not have come.
    pub(super) fn drain_parked(&self, now: Millis) -> Vec<Ring> {
        let mut rings = Vec::new();
        self.rows.sweep(super::table::Table::PARTS, |row| {
            if let Some(parked) = row.parked.as_mut()
                && parked.origin(self.limits().parked_silence, now).is_some()
            {
                let retry_after_ms = self.parking.next_return(self.limits().return_rate, now);
                let datagrams = vec![parked.seal(&Word::Draining { retry_after_ms })];
                rings.push(Ring { to: parked.address, datagrams });
            }
            true
        });
        rings
    }
}

/// The datagrams of a ring: with the knock, or with the only envelope that waits, or with nothing.
fn ring_with(row: &mut Row) -> Option<Ring> {
    let mail = || {
        let mut push = Push::Envelope(row.mailbox.next_after(None)?);
        let encoded = Zeroizing::new(push.encode());
        if let Push::Envelope(waiting) = &mut push {
            waiting.envelope.zeroize();
        }
        RingPart::split(&encoded)
    };
    let parts = match &row.parked.as_ref()?.knock {
        Some(kept) => RingPart::split(&kept.push),
        None if row.mailbox.len() == 1 => mail(),
        None => None,
    };
    let waiting = count16(row.mailbox.len());
    let parked = row.parked.as_mut()?;
    let number = parked.ring;
    let datagrams = parts
        .unwrap_or_else(|| vec![RingPart::NOTHING])
        .into_iter()
        .map(|part| {
            let mut word = Word::Ring { number, waiting, part };
            let datagram = parked.seal(&word);
            if let Word::Ring { part, .. } = &mut word {
                part.bytes.zeroize();
            }
            datagram
        })
        .collect();
    Some(Ring { to: parked.address, datagrams })
}

/// A knock that fits in a ring, without the beginning of the QUIC connection if need be: QUIC sends
/// that again. `None` when there is no room for it.
fn keep(push: &Push, memory: &std::sync::Arc<Memory>, network: Network) -> Option<Kept> {
    let mut encoded = Zeroizing::new(push.encode());
    if RingPart::split(&encoded).is_none() {
        let mut push = push.clone();
        if let Push::Knock { datagrams, .. } = &mut push {
            datagrams.clear();
        }
        encoded = Zeroizing::new(push.encode());
    }
    let charge = memory.charge(encoded.len() + KEPT_COST, For::Device(network))?;
    Some(Kept { push: encoded, charge })
}

fn count16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
