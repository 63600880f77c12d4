//! What happens to packets in the middle of the internet, whichever link they came on.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Shares of packets, 0 to 1, to which something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Lost.
    pub loss: f64,
    /// Not delayed by the link they came on, so that they overtake those before them.
    pub reorder: f64,
    /// There twice.
    pub duplicate: f64,
    /// With one bit changed, and a UDP checksum that fits: the kernel lets it through, as it lets
    /// through what a router with bad memory spoils.
    pub corrupt: f64,
}

impl Weather {
    /// Nothing happens.
    pub const CLEAR: Self = Self { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0 };

    /// Whether nothing happens.
    pub fn is_clear(&self) -> bool {
        *self == Self::CLEAR
    }
}

/// The weather and the dice.
#[derive(Debug)]
pub(crate) struct Sky {
    weather: Weather,
    rng: ChaCha8Rng,
}

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) is_lost: bool,
    pub(crate) hurries: bool,
    pub(crate) copies: usize,
    /// A random number that says which bit.
    pub(crate) corrupt: Option<u64>,
}

impl Sky {
    pub(crate) fn new(weather: Weather, seed: u64) -> Self {
        // Not the dice of a link, which begin with the seed.
        Self { weather, rng: ChaCha8Rng::seed_from_u64(!seed) }
    }

    pub(crate) fn set(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// What happens to the next packet.
    pub(crate) fn look(&mut self) -> Fate {
        let Weather { loss, reorder, duplicate, corrupt } = self.weather;
        Fate {
            is_lost: self.happens(loss),
            hurries: self.happens(reorder),
            copies: if self.happens(duplicate) { 2 } else { 1 },
            corrupt: self.happens(corrupt).then(|| self.rng.next_u64()),
        }
    }

    fn happens(&mut self, share: f64) -> bool {
        // 53 bits are what a `f64` holds exactly.
        share > 0.0 && (self.rng.next_u64() >> 11) as f64 / ((1u64 << 53) as f64) < share
    }
}

/// Changes one bit of what an IP packet carries. The checksum of UDP is made to fit.
pub(crate) fn corrupt(packet: &mut [u8], dice: u64) {
    let (header, protocol) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => (usize::from(packet[0] & 15) * 4, packet.get(9)),
        Some(6) => (40, packet.get(6)),
        _ => return,
    };
    let is_udp = protocol == Some(&UDP);
    let begin = if is_udp { header + UDP_HEADER } else { header };
    let Some(bits) = packet.len().checked_sub(begin).filter(|length| *length > 0) else { return };
    let bit = usize::try_from(dice % (bits as u64 * 8)).unwrap_or(0);
    let at = begin + bit / 8;
    let before = packet[at];
    packet[at] ^= 1 << (bit % 8);
    if !is_udp {
        return;
    }
    let (sum, is_high) = (header + 6, (at - header).is_multiple_of(2));
    let word = |byte: u8| if is_high { u32::from(byte) << 8 } else { u32::from(byte) };
    let old = u32::from(u16::from_be_bytes([packet[sum], packet[sum + 1]]));
    if old == 0 {
        // Nobody looks.
        return;
    }
    // RFC 1624: HC' = ~(~HC + ~m + m').
    let mut new = (!old & 0xffff) + (!word(before) & 0xffff) + word(packet[at]);
    while new > 0xffff {
        new = (new & 0xffff) + (new >> 16);
    }
    let new = u16::try_from(!new & 0xffff).unwrap_or(0);
    // Zero would say that there is none.
    let new = if new == 0 { 0xffff } else { new };
    packet[sum..sum + 2].copy_from_slice(&new.to_be_bytes());
}

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet with a sum that fits, without the pseudo header: it changes with neither bit.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 20 + UDP_HEADER + 33];
        packet[0] = 0x45;
        packet[9] = UDP;
        for (i, byte) in packet.iter_mut().enumerate().skip(28) {
            *byte = u8::try_from(i * 37 % 256).unwrap();
        }
        let sum = !folded(&packet[20..]);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn folded(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn what_is_spoiled_has_a_checksum_that_fits() {
        assert_eq!(folded(&packet()[20..]), 0xffff);
        for dice in 0..33 * 8 {
            let mut spoiled = packet();
            corrupt(&mut spoiled, dice);
            assert_eq!(folded(&spoiled[20..]), 0xffff, "bit {dice}");
            let bits: u32 =
                spoiled[28..].iter().zip(&packet()[28..]).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1);
        }
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for length in 0..28 {
            let mut short = packet()[..length].to_vec();
            let before = short.clone();
            corrupt(&mut short, 7);
            assert_eq!(short.get(..20), before.get(..20));
        }
    }

    #[test]
    fn shares_are_about_what_was_asked_for() {
        let weather = Weather { loss: 0.3, reorder: 0.5, duplicate: 0.2, corrupt: 0.01 };
        let mut sky = Sky::new(weather, 7);
        let fates: Vec<Fate> = (0..10_000).map(|_| sky.look()).collect();
        let share = |test: fn(&Fate) -> bool| fates.iter().filter(|fate| test(fate)).count();
        assert!((2_800..3_200).contains(&share(|f| f.is_lost)));
        assert!((4_800..5_200).contains(&share(|f| f.hurries)));
        assert!((1_800..2_200).contains(&share(|f| f.copies == 2)));
        assert!((70..130).contains(&share(|f| f.corrupt.is_some())));
        sky.set(Weather::CLEAR);
        let calm = Fate { is_lost: false, hurries: false, copies: 1, corrupt: None };
        assert_eq!(sky.look(), calm);
    }
}
