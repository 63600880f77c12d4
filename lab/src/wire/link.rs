//! One direction of a site's link: what it does to a frame.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a link is like, in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkConfig {
    /// How long a frame is under way.
    pub delay: Duration,
    /// The share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// How fast the link is and how much waits for it; `None` is as fast as the machine.
    pub rate: Option<Rate>,
    /// The longest IP packet that passes, in bytes. Longer ones are lost without a word, as behind
    /// a router that sends no ICMP.
    pub mtu: usize,
}

/// The speed of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits in a second.
    pub bits_per_s: u64,
    /// Bytes that may wait; a frame for which there is no room is lost (drop tail).
    pub queue_bytes: u64,
}

impl LinkConfig {
    /// A link with this one-way delay and nothing else.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, loss: 0.0, rate: None, mtu: DEFAULT_MTU }
    }

    /// The same link, with this share of frames lost.
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// The same link, of this speed.
    pub fn with_rate(self, rate: Rate) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Whether frames may stay merged: nothing here depends on the single packet.
    pub(crate) fn is_plain(&self) -> bool {
        self.loss == 0.0 && self.rate.is_none() && self.mtu >= DEFAULT_MTU
    }
}

/// Why a frame is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// By chance, as configured.
    Chance,
    /// The link is down.
    Outage,
    /// The queue of a slow link is full.
    Queue,
    /// Longer than the link's MTU.
    Mtu,
}

/// One direction of a link. What it does depends on its configuration, its seed and the times at
/// which frames come, and on nothing else.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    rng: ChaCha8Rng,
    /// When the last byte of what waits has been sent.
    busy_until: Option<Instant>,
    is_down: bool,
}

impl Link {
    /// A link that loses what the seed says.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self { config, rng: ChaCha8Rng::seed_from_u64(seed), busy_until: None, is_down: false }
    }

    /// Takes a frame of `length` bytes in at `now` and says when it comes out.
    ///
    /// # Errors
    /// Why it does not come out.
    pub fn admit(&mut self, length: usize, now: Instant) -> Result<Instant, Loss> {
        if self.is_down {
            return Err(Loss::Outage);
        }
        // Merged frames exist on plain links only, where the MTU is the interface's own business.
        if !self.config.is_plain() {
            if length > self.config.mtu {
                return Err(Loss::Mtu);
            }
            if self.chance() < self.config.loss {
                return Err(Loss::Chance);
            }
        }
        let sent = match self.config.rate {
            Some(rate) => self.queue(rate, length, now)?,
            None => now,
        };
        Ok(sent + self.config.delay)
    }

    /// Cuts the link, or joins it again.
    pub fn set_down(&mut self, is_down: bool) {
        self.is_down = is_down;
    }

    fn queue(&mut self, rate: Rate, length: usize, now: Instant) -> Result<Instant, Loss> {
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let waiting =
            start.duration_since(now).as_nanos() * u128::from(rate.bits_per_s) / (8 * NANOS_PER_S);
        if waiting + length as u128 > u128::from(rate.queue_bytes) {
            return Err(Loss::Queue);
        }
        let nanos = length as u128 * 8 * NANOS_PER_S / u128::from(rate.bits_per_s.max(1));
        let sent = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.busy_until = Some(sent);
        Ok(sent)
    }

    /// A number from 0 to just below 1.
    fn chance(&mut self) -> f64 {
        // 53 bits are what a `f64` holds exactly.
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What Ethernet carries.
pub const DEFAULT_MTU: usize = 1_500;
const NANOS_PER_S: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lost(seed: u64) -> Vec<bool> {
        let config = LinkConfig::delay(Duration::ZERO).with_loss(0.1);
        let mut link = Link::new(config, seed);
        let now = Instant::now();
        (0..10_000).map(|_| link.admit(1_200, now).is_err()).collect()
    }

    #[test]
    fn the_same_seed_loses_the_same_frames() {
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
    }

    #[test]
    fn about_as_many_are_lost_as_was_asked_for() {
        let count = lost(7).iter().filter(|lost| **lost).count();
        assert!((900..1_100).contains(&count), "{count} of 10,000 at 10 %");
    }

    #[test]
    fn a_slow_link_sends_one_after_the_other_and_its_queue_ends() {
        let rate = Rate { bits_per_s: 8_000, queue_bytes: 3_000 };
        let mut link = Link::new(LinkConfig::delay(Duration::from_millis(5)).with_rate(rate), 1);
        let now = Instant::now();
        let after = |millis| Ok(now + Duration::from_millis(millis));
        // 1,000 bytes take a second at 1,000 bytes a second.
        assert_eq!(link.admit(1_000, now), after(1_005));
        assert_eq!(link.admit(1_000, now), after(2_005));
        assert_eq!(link.admit(1_000, now), after(3_005));
        assert_eq!(link.admit(1_000, now), Err(Loss::Queue));
        let later = now + Duration::from_millis(2_500);
        assert_eq!(link.admit(1_000, later), after(4_005));
    }

    #[test]
    fn a_link_that_is_down_carries_nothing_until_it_is_up() {
        let mut link = Link::new(LinkConfig::delay(Duration::ZERO), 1);
        let now = Instant::now();
        link.set_down(true);
        assert_eq!(link.admit(100, now), Err(Loss::Outage));
        link.set_down(false);
        assert_eq!(link.admit(100, now), Ok(now));
    }

    #[test]
    fn what_is_longer_than_the_mtu_is_lost() {
        let config = LinkConfig { mtu: 1_280, ..LinkConfig::delay(Duration::ZERO) };
        let mut link = Link::new(config, 1);
        let now = Instant::now();
        assert_eq!(link.admit(1_280, now), Ok(now));
        assert_eq!(link.admit(1_281, now), Err(Loss::Mtu));
    }
}
