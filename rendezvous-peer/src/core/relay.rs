//! Relay channels: what two nodes send each other when they have no direct path.
//!
//! A channel has two ends. Each sends under its own number, which nobody else knows, and a frame
//! goes on, unchanged, to the address of the other end. That address is one that the peer has made
//! sure of, never one that somebody names: at first the one of the node's connection, later the
//! one from which a challenge has come back.
//!
//! # Leases
//!
//! A channel is leased to the holder of a reach capability and ends with it, or with the callee's
//! registration. It also ends when neither end has been heard for [`LEASE`]; a node whose control
//! connection is lost keeps its channels until then, because it may be back sooner. To an end that alone is silent for as long, nothing
//! goes on until it is heard again: its address may belong to somebody else by then.
//!
//! # Speed
//!
//! A frame costs one look-up and a few atomic operations under a read lock; it allocates nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{ChannelId, Side};

use super::cookie::{Cookies, Purpose};
use super::count_up;
use super::limits::{Limits, Rate};
use super::memory::{Charge, For, Memory};
use super::origin::Origin;
use super::rate::{Bucket, Place, Prefix, Share, Shares, Sources};
use super::time::Millis;

/// Silence after which an end is given up. Nodes break it every 25 s, so that four messages may
/// be lost.
pub(super) const LEASE: Duration = Duration::from_secs(120);
/// Between two challenges on one end. A challenge that is lost is repeated by the next frame
/// after this; nobody can make the peer send more than ten in a second.
const CHALLENGE_GAP: Duration = Duration::from_millis(100);
/// What a channel takes: its place in a hash table that may be half empty, and its entry in the
/// callee's row.
pub(super) const CHANNEL_COST: usize = 2 * size_of::<(u64, Channel)>() + 128;

/// Why a frame does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayDrop {
    /// Nobody has leased the channel, or the lease has ended.
    NoChannel,
    /// The other end has not been heard for too long.
    OtherEndSilent,
    /// The channel, or the sender's network, carries as much as it may.
    OverRate,
}

/// What becomes of a batch of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Where the batch goes.
    pub to: Result<SocketAddr, RelayDrop>,
    /// What to send back to its source.
    pub reply: Option<PeerDatagram>,
}

impl Relayed {
    fn dropped(reason: RelayDrop) -> Self {
        Self { to: Err(reason), reply: None }
    }
}

/// All channels of a peer.
pub(super) struct Relay {
    channels: DashMap<u64, Channel>,
    /// Leased channels; it is counted before one is made.
    count: AtomicUsize,
    shares: Shares,
    /// Bytes that come from each network.
    sources: Sources,
    cookies: Cookies,
}

struct Channel {
    /// The caller's and the callee's.
    ends: [End; 2],
    share: Share,
    _charge: Charge,
}

struct End {
    address: SocketAddr,
    /// When it was last heard, in milliseconds of the core's time.
    heard: AtomicU64,
    /// Bytes that it sends.
    rate: Bucket,
    /// The bucket of its network.
    network: Place,
    /// Challenges for other addresses that claim to be it.
    challenges: Bucket,
}

/// Keys of a [`Relay`], drawn at random for each run.
pub(super) struct RelayKeys {
    /// For the table of shares.
    pub(super) shares: [u8; 32],
    /// For the table of networks.
    pub(super) sources: [u8; 32],
    /// For challenges.
    pub(super) cookies: [u8; 32],
}

impl Relay {
    /// A relay without channels.
    pub(super) fn new(keys: RelayKeys, now: Millis) -> Self {
        Self {
            channels: DashMap::new(),
            count: AtomicUsize::new(0),
            shares: Shares::new(keys.shares),
            sources: Sources::new(keys.sources, now),
            cookies: Cookies::new(keys.cookies),
        }
    }

    /// Leases a channel between a caller and a callee and returns its number; `None` when there
    /// is no room for one more. `number` is random: it is the secret that opens the channel.
    pub(super) fn lease(
        &self,
        number: u64,
        caller: &Origin,
        callee: &Origin,
        memory: &Arc<Memory>,
        limits: &Limits,
        now: Millis,
    ) -> Option<ChannelId> {
        let pair = ChannelId(number).pair();
        if !count_up(&self.count, limits.relay_channels) {
            return None;
        }
        let made = || {
            let source = Prefix::of(caller.address());
            let share = self.shares.take(source, limits.relay_channels_per_source)?;
            let Some(charge) = memory.charge(CHANNEL_COST, For::Bounded) else {
                self.shares.give_back(share);
                return None;
            };
            let ends = [caller, callee].map(|origin| self.end(origin, now));
            Some(Channel { ends, share, _charge: charge })
        };
        let Some(channel) = made() else {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        match self.channels.entry(pair) {
            Entry::Vacant(place) => {
                place.insert(channel);
                Some(ChannelId(pair))
            }
            // One in 2^63. The caller knocks again.
            Entry::Occupied(taken) => {
                drop(taken);
                self.forget(&channel);
                None
            }
        }
    }

    /// Ends a lease.
    pub(super) fn release(&self, pair: u64) {
        if let Some((_, channel)) = self.channels.remove(&pair) {
            self.forget(&channel);
        }
    }

    /// When a channel was last heard of; `None` when its lease has ended.
    pub(super) fn last_heard(&self, pair: u64, now: Millis) -> Option<Millis> {
        self.channels.get(&pair).filter(|it| it.is_leased(now)).map(|it| it.heard())
    }

    /// Ends the leases of channels on which nothing is heard; returns how many.
    pub(super) fn sweep(&self, now: Millis) -> usize {
        let mut silent = Vec::new();
        for channel in &self.channels {
            if now.since(channel.heard()) >= LEASE {
                silent.push(*channel.key());
            }
        }
        for &pair in &silent {
            self.release(pair);
        }
        silent.len()
    }

    /// Whether the key of the table of networks has served its time.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.sources.is_due(now)
    }

    /// Changes the key of the table of networks.
    pub(super) fn rotate(&self, key: [u8; 32], now: Millis) {
        self.sources.rotate(key, now);
    }

    /// Leased channels.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Says where `bytes` of frames go that came from `source` under the number `channel`.
    ///
    /// Frames from an address that is not the end's go on too: QUIC proves who sent them, and a
    /// node whose NAT gave it another port loses nothing. But they count for nothing, and the
    /// address has to answer a challenge before it is the end's.
    pub(super) fn forward(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        limits: &Limits,
        now: Millis,
    ) -> Relayed {
        let Some(leased) = self.channels.get(&channel.pair()).filter(|it| it.is_leased(now)) else {
            return Relayed::dropped(RelayDrop::NoChannel);
        };
        let (from, to) = leased.toward(channel.side());
        let reply = if from.address == source {
            from.hear(now);
            None
        } else {
            self.challenge(from, channel, source, now)
        };
        let cost = u32::try_from(bytes).unwrap_or(u32::MAX);
        let within = from.rate.take(cost, limits.relay_rate, now).is_ok()
            && self.sources.take_at(from.network, cost, limits.relay_source_rate, now).is_ok();
        let to = if !within {
            Err(RelayDrop::OverRate)
        } else if to.is_silent(now) {
            Err(RelayDrop::OtherEndSilent)
        } else {
            Ok(to.address)
        };
        Relayed { to, reply }
    }

    /// Hears an end that has nothing to send. From an address that is not the end's, the answer
    /// is a challenge.
    pub(super) fn keep(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        now: Millis,
    ) -> Option<PeerDatagram> {
        let leased = self.channels.get(&channel.pair()).filter(|it| it.is_leased(now))?;
        let (end, _) = leased.toward(channel.side());
        if end.address == source {
            end.hear(now);
            return None;
        }
        self.challenge(end, channel, source, now)
    }

    /// Takes the answer to a challenge: the end is at `source`, if the cookie was made for it.
    /// Says whether it was.
    pub(super) fn answered(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        cookie: u64,
        now: Millis,
    ) -> bool {
        if !self.cookies.is_fresh(cookie, Purpose::Relay(channel), source, now) {
            return false;
        }
        let network = self.sources.place(Prefix::of(source));
        let Some(mut leased) = self.channels.get_mut(&channel.pair()) else { return false };
        if !leased.is_leased(now) {
            return false;
        }
        let end = &mut leased.ends[index(channel.side())];
        end.hear(now);
        end.address = source;
        end.network = network;
        true
    }

    fn challenge(
        &self,
        end: &End,
        channel: ChannelId,
        source: SocketAddr,
        now: Millis,
    ) -> Option<PeerDatagram> {
        end.challenges.take(1, CHALLENGES, now).ok()?;
        let cookie = self.cookies.make(Purpose::Relay(channel), source, now);
        Some(PeerDatagram::RelayChallenge { channel, cookie })
    }

    fn end(&self, origin: &Origin, now: Millis) -> End {
        End {
            address: origin.path(),
            heard: AtomicU64::new(now.0),
            rate: Bucket::default(),
            network: self.sources.place(Prefix::of(origin.address())),
            challenges: Bucket::default(),
        }
    }

    /// Gives back what a channel counted for. It must not be in the table any more.
    fn forget(&self, channel: &Channel) {
        self.shares.give_back(channel.share);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nothing is counted, for tests of the accounts.
    #[cfg(test)]
    pub(super) fn is_clear(&self) -> bool {
        self.channels.is_empty()
            && self.count.load(Ordering::Relaxed) == 0
            && self.shares.is_empty()
    }
}

const CHALLENGES: Rate = Rate { per_second: 1000 / CHALLENGE_GAP.as_millis() as u32, burst: 1 };

impl Channel {
    /// The end that sends as `side`, and the one that receives.
    fn toward(&self, side: Side) -> (&End, &End) {
        (&self.ends[index(side)], &self.ends[index(side.other())])
    }

    fn heard(&self) -> Millis {
        let [a, b] = self.ends.each_ref().map(|end| end.heard.load(Ordering::Relaxed));
        Millis(a.max(b))
    }

    fn is_leased(&self, now: Millis) -> bool {
        now.since(self.heard()) < LEASE
    }
}

impl End {
    fn hear(&self, now: Millis) {
        self.heard.fetch_max(now.0, Ordering::Relaxed);
    }

    fn is_silent(&self, now: Millis) -> bool {
        now.since(Millis(self.heard.load(Ordering::Relaxed))) >= LEASE
    }
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Callee)
}
