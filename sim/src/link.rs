//! One end of a cable: what happens to a packet between a device and the network that it is in.

use std::time::Duration;

use crate::rng::Rng;

/// A link, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// One-way delay.
    pub delay: Duration,
    /// Packets of 1,000 that are lost.
    pub loss: u16,
    /// Packets of 1,000 that arrive twice.
    pub duplicate: u16,
    /// Packets of 1,000 that others overtake.
    pub reorder: u16,
    /// How much later, at most, a packet is that others overtake.
    pub jitter: Duration,
    /// Largest packet, in bytes of UDP payload; larger ones vanish.
    pub mtu: usize,
    /// Whether the cable is plugged in.
    pub up: bool,
}

impl Link {
    /// A link without faults.
    pub fn perfect(delay: Duration) -> Self {
        Self {
            delay,
            loss: 0,
            duplicate: 0,
            reorder: 0,
            jitter: Duration::from_millis(30),
            mtu: 1472,
            up: true,
        }
    }

    /// After what time each copy of a packet arrives: none when it is lost.
    pub fn cross(&self, bytes: usize, rng: &mut Rng) -> [Option<Duration>; 2] {
        if !self.up || bytes > self.mtu || rng.chance(self.loss) {
            return [None, None];
        }
        let first = self.one_delay(rng);
        let second = rng.chance(self.duplicate).then(|| self.one_delay(rng));
        [Some(first), second]
    }

    fn one_delay(&self, rng: &mut Rng) -> Duration {
        let late = match rng.chance(self.reorder) {
            true => rng.millis(0..=self.jitter.as_millis() as u64),
            false => Duration::ZERO,
        };
        self.delay + late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_link_delivers_each_packet_once_and_in_time() {
        let link = Link::perfect(Duration::from_millis(25));
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            assert_eq!(link.cross(1200, &mut rng), [Some(link.delay), None]);
        }
    }

    #[test]
    fn faults_come_as_often_as_written() {
        let link = Link { loss: 100, duplicate: 50, reorder: 200, ..Link::perfect(Duration::ZERO) };
        let mut rng = Rng::new(2);
        let runs: Vec<_> = (0..10_000).map(|_| link.cross(100, &mut rng)).collect();
        let share = |is: &dyn Fn(&[Option<Duration>; 2]) -> bool| {
            runs.iter().filter(|c| is(c)).count() / 100
        };
        assert!((8..=12).contains(&share(&|c| c[0].is_none())), "lost");
        assert!((3..=6).contains(&share(&|c| c[1].is_some())), "twice");
        let late = share(&|c| c[0].is_some_and(|d| d > Duration::ZERO));
        assert!((14..=20).contains(&late), "late: {late}");
    }

    #[test]
    fn what_is_too_large_or_meets_an_unplugged_cable_vanishes() {
        let mut link = Link { mtu: 1280, ..Link::perfect(Duration::ZERO) };
        let mut rng = Rng::new(3);
        assert_eq!(link.cross(1281, &mut rng), [None, None]);
        assert!(link.cross(1280, &mut rng)[0].is_some());
        link.up = false;
        assert_eq!(link.cross(1, &mut rng), [None, None]);
    }
}
