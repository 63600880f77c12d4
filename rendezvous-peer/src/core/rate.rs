//! Rate limits: one bucket for each connection, and a table of buckets for networks.
//!
//! A bucket is one number, the moment at which it will be full again (the generic cell rate
//! algorithm), so taking from it is one compare-and-swap. Networks are not kept: the prefix of an
//! address is hashed under a key that changes every hour and picks one of a fixed number of
//! buckets. So the table cannot grow, holds nothing personal, and nobody can aim at the bucket of
//! somebody else. Two networks may share a bucket until the key changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;

use super::limits::Rate;
use super::time::Millis;

/// Buckets for networks: 512 KiB of memory, and 10,000 busy networks seldom meet in one.
pub(super) const SOURCE_BUCKETS: usize = 1 << u16::BITS;
/// How long the key of the table of networks is used.
pub(super) const ROTATION: Duration = Duration::from_secs(3600);

const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_S: u64 = 1_000_000_000;

/// One token bucket. Starts full.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When the bucket is full again, in nanoseconds of the core's time.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes `cost` tokens, or says how many milliseconds to wait for them.
    pub(super) fn take(&self, cost: u32, rate: Rate, now: Millis) -> Result<(), u32> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let now = now.0.saturating_mul(NANOS_PER_MS);
        // Four thousand million tokens and a second in nanoseconds fit together into 64 bits.
        let span = |tokens: u32| u64::from(tokens) * NANOS_PER_S / u64::from(rate.per_second);
        let (room, spend) = (span(rate.burst), span(cost));
        let mut excess = 0;
        let fits = |full_at: u64| {
            let next = full_at.max(now).saturating_add(spend);
            excess = next.saturating_sub(now).saturating_sub(room);
            (excess == 0).then_some(next)
        };
        match self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(u32::try_from(excess.div_ceil(NANOS_PER_MS)).unwrap_or(u32::MAX)),
        }
    }

    /// Whether there are `cost` tokens.
    fn has(&self, cost: u32, rate: Rate, now: Millis) -> bool {
        let copy = Self { full_at: AtomicU64::new(self.full_at.load(Ordering::Relaxed)) };
        copy.take(cost, rate, now).is_ok()
    }

    fn refill(&self) {
        self.full_at.store(0, Ordering::Relaxed);
    }
}

/// The part of an address that stands for whoever is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix([u8; 9]);

impl Prefix {
    /// The network of `address`: /24 of IPv4, /56 of IPv6, which is what a household gets.
    pub(super) fn of(address: SocketAddr) -> Self {
        Self::cut(address, 3, 7)
    }

    /// The machine at `address`, or all that share its IPv4 address: /32 of IPv4, /64 of IPv6,
    /// within which a machine may choose its address.
    pub(super) fn of_host(address: SocketAddr) -> Self {
        Self::cut(address, 4, 8)
    }

    fn cut(address: SocketAddr, v4: usize, v6: usize) -> Self {
        let mut out = [0; 9];
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                out[0] = 4;
                out[1..=v4].copy_from_slice(&ip.octets()[..v4]);
            }
            IpAddr::V6(ip) => {
                out[0] = 6;
                out[1..=v6].copy_from_slice(&ip.octets()[..v6]);
            }
        }
        Self(out)
    }

    /// The prefix as a number that means nothing without `key`.
    pub(super) fn keyed(self, key: &[u8; 32]) -> u64 {
        let hash = blake3::keyed_hash(key, &self.0);
        let (head, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        u64::from_be_bytes(*head)
    }
}

/// The place of a bucket in a table of [`Sources`], for whoever takes from it often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u16);

/// The buckets of all networks.
#[derive(Debug)]
pub(super) struct Sources {
    key: RwLock<[u8; 32]>,
    buckets: Box<[Bucket]>,
    rotate_at: AtomicU64,
}

impl Sources {
    /// A table whose buckets are full.
    pub(super) fn new(key: [u8; 32], now: Millis) -> Self {
        Self {
            key: RwLock::new(key),
            buckets: (0..SOURCE_BUCKETS).map(|_| Bucket::default()).collect(),
            rotate_at: AtomicU64::new(now.after(ROTATION).0),
        }
    }

    /// Takes `cost` tokens from the bucket of `source`, or says how many milliseconds to wait.
    pub(super) fn take(
        &self,
        source: Prefix,
        cost: u32,
        rate: Rate,
        now: Millis,
    ) -> Result<(), u32> {
        self.take_at(self.place(source), cost, rate, now)
    }

    /// Takes `cost` tokens from a bucket, or says how many milliseconds to wait.
    pub(super) fn take_at(
        &self,
        place: Place,
        cost: u32,
        rate: Rate,
        now: Millis,
    ) -> Result<(), u32> {
        self.buckets[usize::from(place.0)].take(cost, rate, now)
    }

    /// Whether there are `cost` tokens in the bucket of `source`.
    pub(super) fn has(&self, source: Prefix, cost: u32, rate: Rate, now: Millis) -> bool {
        self.buckets[usize::from(self.place(source).0)].has(cost, rate, now)
    }

    /// Where the bucket of `source` is, until the key changes. Afterwards it is the bucket of
    /// somebody else, which does no harm for as long as a connection lives.
    pub(super) fn place(&self, source: Prefix) -> Place {
        let key = *self.key.read().unwrap_or_else(PoisonError::into_inner);
        Place(source.keyed(&key) as u16)
    }

    /// Whether the key has served its time.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        now.0 >= self.rotate_at.load(Ordering::Relaxed)
    }

    /// Changes the key and fills all buckets: which one belonged to whom is forgotten.
    pub(super) fn rotate(&self, key: [u8; 32], now: Millis) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        self.buckets.iter().for_each(Bucket::refill);
        self.rotate_at.store(now.after(ROTATION).0, Ordering::Relaxed);
    }
}

/// How many things of one kind each network has, up to a limit. Networks without any take no
/// room, and so the table grows no larger than the number of things.
#[derive(Debug)]
pub(super) struct Shares {
    key: [u8; 32],
    counts: DashMap<Share, usize>,
}

/// A network in a table of [`Shares`]: a number that means nothing outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Share(u64);

impl Shares {
    /// Nobody has anything. `key` keeps the names of the networks out of memory.
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, counts: DashMap::new() }
    }

    /// Counts one more for `source`; `None` when it has `limit` already. What is counted has to be
    /// [given back](Self::give_back).
    pub(super) fn take(&self, source: Prefix, limit: usize) -> Option<Share> {
        let share = Share(source.keyed(&self.key));
        let mut count = self.counts.entry(share).or_insert(0);
        let room = *count < limit;
        *count += usize::from(room);
        drop(count);
        self.counts.remove_if(&share, |_, count| *count == 0);
        room.then_some(share)
    }

    /// Counts one less.
    pub(super) fn give_back(&self, share: Share) {
        if let Some(mut count) = self.counts.get_mut(&share) {
            *count -= 1;
        }
        self.counts.remove_if(&share, |_, count| *count == 0);
    }

    /// Whether nobody has anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_bucket_allows_a_burst_and_then_the_rate() {
        let bucket = Bucket::default();
        let now = Millis(5_000);
        for _ in 0..3 {
            assert_eq!(bucket.take(1, RATE, now), Ok(()));
        }
        assert_eq!(bucket.take(1, RATE, now), Err(100));
        assert_eq!(bucket.take(1, RATE, Millis(5_099)), Err(1));
        assert_eq!(bucket.take(1, RATE, Millis(5_100)), Ok(()));
        assert_eq!(bucket.take(1, RATE, Millis(5_100)), Err(100));
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(2, RATE, Millis(0)), Ok(()));
        assert_eq!(bucket.take(2, RATE, Millis(0)), Err(100));
        assert_eq!(bucket.take(1, RATE, Millis(0)), Ok(()));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let bucket = Bucket::default();
        let none = Rate { per_second: 0, burst: 0 };
        assert!((0..10_000).all(|_| bucket.take(1000, none, Millis(0)).is_ok()));
    }

    #[test]
    fn a_bucket_counts_bytes_as_exactly_as_requests() {
        let bucket = Bucket::default();
        // 3 tokens in a nanosecond: no whole number of nanoseconds for one.
        let rate = Rate { per_second: 3_000_000_000, burst: 3_000_000 };
        assert_eq!(bucket.take(3_000_000, rate, Millis(0)), Ok(()));
        assert_eq!(bucket.take(3_000_000, rate, Millis(0)), Err(1));
        assert_eq!(bucket.take(3_000_000, rate, Millis(1)), Ok(()));
    }

    #[test]
    fn shares_are_counted_up_to_the_limit_and_given_back() {
        let shares = Shares::new([7; 32]);
        let at = |a: &str| Prefix::of(a.parse().unwrap());
        let first = shares.take(at("192.0.2.1:1"), 1).unwrap();
        assert_eq!(shares.take(at("192.0.2.2:1"), 1), None);
        let other = shares.take(at("198.51.100.1:1"), 1).unwrap();
        shares.give_back(first);
        assert_eq!(shares.take(at("192.0.2.2:1"), 1), Some(first));
        assert_eq!(shares.take(at("203.0.113.1:1"), 0), None);
        shares.give_back(first);
        shares.give_back(other);
        assert!(shares.is_empty());
    }

    #[test]
    fn neighbours_share_a_bucket_and_strangers_do_not() {
        let sources = Sources::new([7; 32], Millis(0));
        let take = |a: &str| sources.take(Prefix::of(a.parse().unwrap()), 3, RATE, Millis(0));
        assert!(take("192.0.2.1:1").is_ok());
        assert!(take("192.0.2.250:9").is_err());
        assert!(take("[::ffff:192.0.2.3]:9").is_err());
        assert!(take("198.51.100.1:1").is_ok());
        assert!(take("[2001:db8:0:100::1]:1").is_ok());
        assert!(take("[2001:db8:0:1ff::2]:1").is_err());
        assert!(take("[2001:db8:0:200::1]:1").is_ok());
    }

    #[test]
    fn rotation_forgets_who_was_where() {
        let sources = Sources::new([7; 32], Millis(0));
        let a = Prefix::of("192.0.2.1:1".parse().unwrap());
        assert!(sources.take(a, 3, RATE, Millis(0)).is_ok());
        assert!(!sources.is_due(Millis(1)) && sources.is_due(Millis(0).after(ROTATION)));
        sources.rotate([8; 32], Millis(1));
        assert!(sources.take(a, 3, RATE, Millis(1)).is_ok());
    }
}
