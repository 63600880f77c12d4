//! How a NAT chooses ports, from a handful of its choices.

use halloo_wire::candidate::Allocation;

/// Choices without which nothing is said.
const FEWEST: usize = 4;
/// Largest step of a NAT that counts: its own, and a few mappings that others made meanwhile.
const LARGEST_STEP: i32 = 32;
/// Sizes of the blocks that carriers give to subscribers.
const BLOCKS: [u32; 4] = [512, 1024, 2048, 4096];

/// One choice: the port inside, and the port that the NAT chose for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) inside: u16,
    pub(super) outside: u16,
}

/// What the choices, in the order in which they were made, have in common.
pub(super) fn classify(choices: &[Choice]) -> Allocation {
    if choices.len() < FEWEST {
        return Allocation::Unknown;
    }
    let kept = choices.iter().filter(|c| c.inside == c.outside).count();
    if kept * 4 >= choices.len() * 3 {
        return Allocation::Preserving;
    }
    let ports: Vec<u16> = choices.iter().map(|c| c.outside).collect();
    if let Some(delta) = step(&ports) {
        return Allocation::Sequential { delta };
    }
    block(&ports).unwrap_or(Allocation::Random)
}

/// The step of a NAT that counts: all go the same way by a little, but one that others disturbed
/// or where counting began again.
fn step(ports: &[u16]) -> Option<i16> {
    let steps: Vec<i32> = ports.windows(2).map(|w| i32::from(w[1]) - i32::from(w[0])).collect();
    let small = |&&s: &&i32| s != 0 && s.abs() <= LARGEST_STEP;
    let up = steps.iter().filter(small).filter(|s| s.is_positive()).count();
    let down = steps.iter().filter(small).filter(|s| s.is_negative()).count();
    let same_way = up.max(down);
    if same_way + 1 < steps.len() || same_way < FEWEST - 1 {
        return None;
    }
    let towards = |s: &&i32| s.is_positive() == (up >= down);
    let least = steps.iter().filter(small).filter(towards).map(|s| s.abs()).min()?;
    let delta = if up >= down { least } else { -least };
    Some(delta as i16)
}

/// The block in which all ports are. Blocks are aligned as a rule; where only a much larger
/// aligned one holds all ports, one is laid around them.
fn block(ports: &[u16]) -> Option<Allocation> {
    let (low, high) = (u32::from(*ports.iter().min()?), u32::from(*ports.iter().max()?));
    let spread = high - low + 1;
    let aligned = BLOCKS.into_iter().find(|&size| high < low / size * size + size);
    // The expected spread of n ports out of N is N (n - 1) / (n + 1).
    let n = ports.len() as u32;
    let likely = spread * (n + 1) / (n - 1);
    let around = BLOCKS.into_iter().find(|&size| size >= likely);
    let (first, size) = match (aligned, around) {
        (Some(size), around) if around.is_none_or(|around| size <= around) => {
            (low / size * size, size)
        }
        (_, size) => {
            let size = size?;
            (low.saturating_sub((size - spread) / 2).min(0x1_0000 - size), size)
        }
    };
    Some(Allocation::Block { first: first as u16, size: size as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    #[test]
    fn a_nat_that_keeps_the_port_may_miss_one() {
        let choices = [(4_000, 4_000), (4_001, 4_001), (4_002, 61_000), (4_003, 4_003)];
        assert_eq!(of(&choices), Allocation::Preserving);
    }

    #[test]
    fn a_nat_that_counts_is_recognised_beside_others_traffic() {
        assert_eq!(outside(&[100, 101, 102, 103, 104]), Allocation::Sequential { delta: 1 });
        assert_eq!(outside(&[100, 102, 108, 110, 112]), Allocation::Sequential { delta: 2 });
        assert_eq!(outside(&[500, 499, 498, 495, 494]), Allocation::Sequential { delta: -1 });
        let around_the_end = [65_533, 65_534, 65_535, 1_024, 1_025, 1_026];
        assert_eq!(outside(&around_the_end), Allocation::Sequential { delta: 1 });
    }

    #[test]
    fn an_aligned_block_is_recognised() {
        let ports = [20_500, 21_400, 20_490, 21_000, 20_900, 21_100, 21_450, 20_600];
        assert_eq!(outside(&ports), Allocation::Block { first: 20_480, size: 1024 });
    }

    #[test]
    fn too_few_choices_say_nothing() {
        assert_eq!(outside(&[100, 101, 102]), Allocation::Unknown);
    }

    /// Eight choices, as the prober sees them.
    #[test]
    fn blocks_are_found_and_hold_most_of_the_real_one() {
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let (mut blocks, mut covered) = (0, 0);
        for _ in 0..1_000 {
            // Somewhere, not aligned.
            let first = 1_024 + rng.next_u32() % 60_000;
            let ports: Vec<u16> = (0..8).map(|_| (first + rng.next_u32() % 1024) as u16).collect();
            if let Allocation::Block { first: found, size } = outside(&ports) {
                blocks += 1;
                let low = u32::from(found).max(first);
                let high = (u32::from(found) + u32::from(size)).min(first + 1024);
                covered += high.saturating_sub(low);
            }
        }
        assert!(blocks >= 990, "{blocks} of 1000");
        assert!(covered / blocks >= 850, "{} ports of 1024", covered / blocks);
    }

    #[test]
    fn random_ports_are_called_random() {
        let mut rng = ChaCha12Rng::from_seed([4; 32]);
        let random = (0..1_000).filter(|_| {
            let ports: Vec<u16> =
                (0..8).map(|_| (1_024 + rng.next_u32() % 64_512) as u16).collect();
            outside(&ports) == Allocation::Random
        });
        assert!(random.count() >= 999);
    }

    fn outside(ports: &[u16]) -> Allocation {
        let choices: Vec<(u16, u16)> = ports.iter().map(|&port| (7, port)).collect();
        of(&choices)
    }

    fn of(choices: &[(u16, u16)]) -> Allocation {
        let choices: Vec<Choice> =
            choices.iter().map(|&(inside, outside)| Choice { inside, outside }).collect();
        classify(&choices)
    }
}
