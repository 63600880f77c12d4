//! How many sockets a birthday search opens, and in which order it tries ports.
//!
//! One side is behind a NAT that gives each destination a port at random; the other is not. The
//! first opens many sockets and sends from each to the other's one address, so that its NAT has
//! many ports open for it. The other sends to many distinct ports. With `m` ports open out of `n`,
//! `k` probes hit with probability `1 - C(n-m, k) / C(n, k)`: 256 sockets and 1,024 probes find
//! each other in 98 of 100 cases in the whole range, and 64 sockets and 59 probes do when the ports
//! come from a known block of 1,024.

use halloo_wire::candidate::{Allocation, Card};
use rand_chacha::rand_core::Rng;

use crate::predict::FIRST_PORT;

/// Sockets opened when the block is known from which the NAT takes ports. A carrier's subscriber
/// often owns 512 or 1,024 ports in all, so that more would take away the user's own.
pub const MAX_SOCKETS_IN_BLOCK: u16 = 64;
/// Sockets opened otherwise.
pub const MAX_SOCKETS: u16 = 256;
/// Probes that either side sends in one search: 68 kB.
pub const MAX_SEARCH_PROBES: usize = 1024;
/// Steps to either side of the observed port that are tried first.
const NEIGHBOURS: i32 = 8;

/// How many sockets to open behind a NAT that allocates like this.
pub(crate) fn sockets(allocation: Allocation) -> u16 {
    match allocation {
        Allocation::Block { .. } | Allocation::Sequential { .. } => MAX_SOCKETS_IN_BLOCK,
        _ => MAX_SOCKETS,
    }
}

/// The ports to try at the contact's address, likeliest first: those next to the observed one, the
/// contact's own, the block shuffled, the rest shuffled. Each once, at most
/// [`MAX_SEARCH_PROBES`].
pub(crate) fn ports(card: &Card, seen: u16, rng: &mut impl Rng) -> Vec<u16> {
    let mut chosen = Chosen::default();
    let delta = match card.verdict.allocation {
        Allocation::Sequential { delta } => i32::from(delta),
        _ => 1,
    };
    // A NAT that counts goes on counting while 64 sockets are opened.
    let (before, after) = match card.verdict.allocation {
        Allocation::Sequential { .. } => (NEIGHBOURS, 2 * i32::from(MAX_SOCKETS_IN_BLOCK)),
        _ => (NEIGHBOURS, NEIGHBOURS),
    };
    for k in (1..=after).chain((-before..0).rev()) {
        if let Ok(port) = u16::try_from(i32::from(seen) + k * delta) {
            chosen.add(port);
        }
    }
    chosen.add(card.local_port);
    if let Allocation::Block { first, size } = card.verdict.allocation {
        let last = u32::from(first) + u32::from(size) - 1;
        chosen.add_shuffled(first..=last.min(u32::from(u16::MAX)) as u16, rng);
    }
    chosen.add_shuffled(FIRST_PORT..=u16::MAX, rng);
    chosen.list
}

#[derive(Default)]
struct Chosen {
    list: Vec<u16>,
    is_in: Option<Box<[bool]>>,
}

impl Chosen {
    fn add(&mut self, port: u16) {
        let is_in = self.is_in.get_or_insert_with(|| vec![false; 1 << 16].into());
        let place = &mut is_in[usize::from(port)];
        if port >= FIRST_PORT && !*place && self.list.len() < MAX_SEARCH_PROBES {
            *place = true;
            self.list.push(port);
        }
    }

    fn add_shuffled(&mut self, range: std::ops::RangeInclusive<u16>, rng: &mut impl Rng) {
        if self.list.len() >= MAX_SEARCH_PROBES {
            return;
        }
        let mut ports: Vec<u16> = range.collect();
        // Fisher and Yates, from the front, as far as is needed. The bias of a remainder of 2^32
        // by 65,536 or less is of no importance here.
        for i in 0..ports.len() {
            if self.list.len() >= MAX_SEARCH_PROBES {
                break;
            }
            let left = (ports.len() - i) as u32;
            ports.swap(i, i + (rng.next_u32() % left) as usize);
            self.add(ports[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_wire::candidate::Verdict;
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_port_is_tried_once_and_never_too_many() {
        for allocation in [
            Allocation::Unknown,
            Allocation::Random,
            Allocation::Preserving,
            Allocation::Sequential { delta: -3 },
            Allocation::Block { first: 65_000, size: 536 },
            Allocation::Block { first: 0, size: u16::MAX },
        ] {
            let mut ports = order(allocation, 50_000);
            assert_eq!(ports.len(), MAX_SEARCH_PROBES, "{allocation:?}");
            assert!(ports.iter().all(|&p| p >= FIRST_PORT), "{allocation:?}");
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), MAX_SEARCH_PROBES, "{allocation:?}");
        }
    }

    #[test]
    fn a_known_block_is_tried_as_a_whole_before_anything_else() {
        let ports = order(Allocation::Block { first: 20_000, size: 512 }, 20_100);
        let in_block = ports.iter().take(530).filter(|p| (20_000..20_512).contains(*p)).count();
        assert_eq!(in_block, 512);
    }

    #[test]
    fn the_order_is_another_one_for_each_seed() {
        let block = Allocation::Block { first: 20_000, size: 1024 };
        let card = Card {
            verdict: Verdict { allocation: block, ..Verdict::default() },
            ..Card::default()
        };
        let order = |seed| ports(&card, 20_100, &mut ChaCha12Rng::from_seed([seed; 32]));
        assert_ne!(order(1), order(2));
        assert_eq!(order(1), order(1));
    }

    /// The formula above, by trying it: ports drawn by the one side and tried by the other.
    #[test]
    fn searches_hit_as_often_as_computed() {
        let mut rng = ChaCha12Rng::from_seed([7; 32]);
        let mut tries = |allocation, low: u32, size: u32, sockets: usize| -> Vec<usize> {
            let card =
                Card { verdict: Verdict { allocation, ..Verdict::default() }, ..Card::default() };
            let mut hits: Vec<usize> = (0..200)
                .map(|_| {
                    let mut open = std::collections::BTreeSet::new();
                    while open.len() < sockets {
                        open.insert((low + rng.next_u32() % size) as u16);
                    }
                    let seen = (low + rng.next_u32() % size) as u16;
                    let order = ports(&card, seen, &mut rng);
                    order.iter().position(|p| open.contains(p)).unwrap_or(usize::MAX)
                })
                .collect();
            hits.sort_unstable();
            hits
        };
        let block = tries(Allocation::Block { first: 30_000, size: 1024 }, 30_000, 1024, 64);
        assert!(block[195] < 100, "97 of 100 searches in a block need fewer: {}", block[195]);
        let full = tries(Allocation::Random, 1024, 64_512, 256);
        let found = full.iter().filter(|&&n| n < MAX_SEARCH_PROBES).count();
        assert!(found >= 190, "{found} of 200 searches of the whole range find something");
    }

    fn order(allocation: Allocation, seen: u16) -> Vec<u16> {
        let card = Card {
            verdict: Verdict { allocation, ..Verdict::default() },
            local_port: 4_000,
            ..Card::default()
        };
        ports(&card, seen, &mut ChaCha12Rng::from_seed([1; 32]))
    }
}
