//! Which external port a mapping gets, and which mappings are on a port.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Key, Ports};
use crate::rng::Rng;

/// Proposals before a box looks through all its ports.
pub(super) const ATTEMPTS: usize = 8;
/// Ports below are never given away.
const LOWEST: u16 = 1024;

/// The ports of a box.
#[derive(Debug)]
pub(super) struct PortTable {
    how: Ports,
    next: u16,
    used: BTreeMap<u16, Vec<Key>>,
}

impl PortTable {
    /// A table without mappings.
    pub(super) fn new(how: Ports, rng: &mut Rng) -> Self {
        let next = rng.within(u64::from(LOWEST)..=65535) as u16;
        Self { how, next, used: BTreeMap::new() }
    }

    /// A port to try.
    pub(super) fn propose(&mut self, inside: u16, attempt: usize, rng: &mut Rng) -> u16 {
        match self.how {
            Ports::Preserving if attempt == 0 => inside,
            Ports::Sequential { delta, busy } => {
                let steps = 1 + rng.below(usize::from(busy) + 1) as i32;
                self.next = step(self.next, i32::from(delta) * steps);
                self.next
            }
            Ports::Block { first, size } => first + rng.below(usize::from(size)) as u16,
            Ports::Preserving | Ports::Random => rng.within(u64::from(LOWEST)..=65535) as u16,
        }
    }

    /// All ports that a mapping may get.
    pub(super) fn range(&self) -> RangeInclusive<u16> {
        match self.how {
            Ports::Block { first, size } => first..=first + (size - 1),
            _ => LOWEST..=65535,
        }
    }

    /// Mappings on a port.
    pub(super) fn keys(&self, port: u16) -> Vec<Key> {
        self.used.get(&port).cloned().unwrap_or_default()
    }

    /// Enters a mapping.
    pub(super) fn add(&mut self, port: u16, key: Key) {
        self.used.entry(port).or_default().push(key);
    }

    /// Forgets a mapping.
    pub(super) fn remove(&mut self, port: u16, key: Key) {
        if let Some(keys) = self.used.get_mut(&port) {
            keys.retain(|k| *k != key);
            if keys.is_empty() {
                self.used.remove(&port);
            }
        }
    }
}

/// `port` moved by `delta`, round the range of ports.
fn step(port: u16, delta: i32) -> u16 {
    let size = 65536 - i32::from(LOWEST);
    let at = i32::from(port) - i32::from(LOWEST) + delta;
    (at.rem_euclid(size) + i32::from(LOWEST)) as u16
}
