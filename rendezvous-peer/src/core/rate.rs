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

use super::limits::Rate;
use super::time::Millis;

/// Buckets for networks: 512 KiB of memory, and 10,000 busy networks seldom meet in one.
pub(super) const SOURCE_BUCKETS: usize = 1 << 16;
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
        let interval = NANOS_PER_S / u64::from(rate.per_second);
        let room = interval.saturating_mul(u64::from(rate.burst));
        let spend = interval.saturating_mul(u64::from(cost));
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

/// The part of an address that stands for one network: /24 of IPv4, /56 of IPv6, which is what
/// a household gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix([u8; 8]);

impl Prefix {
    /// The network of `address`.
    pub(super) fn of(address: SocketAddr) -> Self {
        let mut out = [0; 8];
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                out[0] = 4;
                out[1..4].copy_from_slice(&ip.octets()[..3]);
            }
            IpAddr::V6(ip) => {
                out[0] = 6;
                out[1..].copy_from_slice(&ip.octets()[..7]);
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

    /// Takes `cost` tokens from the bucket of `address`, or says how many milliseconds to wait.
    pub(super) fn take(
        &self,
        address: SocketAddr,
        cost: u32,
        rate: Rate,
        now: Millis,
    ) -> Result<(), u32> {
        self.bucket(address).take(cost, rate, now)
    }

    /// Whether there are `cost` tokens in the bucket of `address`.
    pub(super) fn has(&self, address: SocketAddr, cost: u32, rate: Rate, now: Millis) -> bool {
        self.bucket(address).has(cost, rate, now)
    }

    fn bucket(&self, address: SocketAddr) -> &Bucket {
        let key = *self.key.read().unwrap_or_else(PoisonError::into_inner);
        &self.buckets[Prefix::of(address).keyed(&key) as usize % SOURCE_BUCKETS]
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
    fn neighbours_share_a_bucket_and_strangers_do_not() {
        let sources = Sources::new([7; 32], Millis(0));
        let take = |a: &str| sources.take(a.parse().unwrap(), 3, RATE, Millis(0));
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
        let a: SocketAddr = "192.0.2.1:1".parse().unwrap();
        assert!(sources.take(a, 3, RATE, Millis(0)).is_ok());
        assert!(!sources.is_due(Millis(1)) && sources.is_due(Millis(0).after(ROTATION)));
        sources.rotate([8; 32], Millis(1));
        assert!(sources.take(a, 3, RATE, Millis(1)).is_ok());
    }
}
