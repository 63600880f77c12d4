//! The one memory cap.
//!
//! Whatever the table keeps owns a [`Charge`] for its bytes. A charge is taken before the bytes
//! are kept and given back when they are freed, so the sum cannot drift from what is there, and
//! the cap cannot be passed: who finds no room is refused.
//!
//! Two parts of it keep some room for everybody. What strangers left may take a quarter, and what
//! is kept for the devices of one network no more than its share. A network is known by one of
//! [`PLACES`] numbers, a keyed hash of its prefix; two may share one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rate::Prefix;

/// Strangers' envelopes may take this part of the cap: one in so many bytes.
const STRANGERS: usize = 4;
/// Numbers of networks: 32 KiB of memory.
const PLACES: usize = 4_096;

/// Counts the bytes that the table keeps, up to a cap.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    cap: AtomicUsize,
    strangers: AtomicUsize,
    networks: Box<[AtomicUsize]>,
    network_cap: AtomicUsize,
    key: [u8; 32],
}

/// What bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// What has a limit of its own: relay channels, invites in use.
    Bounded,
    /// A device of this network: its row, what contacts left for it.
    Device(Network),
    /// What strangers left for a device of this network.
    Strangers(Network),
}

/// A network, as a number that says no more about it than which other networks it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(u16);

impl Memory {
    /// An empty account with room for `cap` bytes, of which one network may have `network_cap`.
    pub(super) fn new(cap: usize, network_cap: usize, key: [u8; 32]) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            cap: AtomicUsize::new(cap),
            strangers: AtomicUsize::new(0),
            networks: (0..PLACES).map(|_| AtomicUsize::new(0)).collect(),
            network_cap: AtomicUsize::new(network_cap),
            key,
        })
    }

    /// The network with this prefix.
    pub(super) fn network(&self, prefix: Prefix) -> Network {
        // Below 2^16, since there are so many places.
        Network((prefix.keyed(&self.key) % PLACES as u64) as u16)
    }

    /// Takes `bytes` for as long as the charge lives; `None` when there is no room.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize, purpose: For) -> Option<Charge> {
        let charge = || Charge { memory: Arc::clone(self), bytes, purpose };
        self.take(bytes, purpose).then(charge)
    }

    /// Bytes taken.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken.
    pub(super) fn cap(&self) -> usize {
        self.cap.load(Ordering::Relaxed)
    }

    /// Changes the caps. What is taken stays taken.
    pub(super) fn set_caps(&self, cap: usize, network_cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
        self.network_cap.store(network_cap, Ordering::Relaxed);
    }

    /// The counters that bytes for this purpose go into, each with its limit.
    fn counters(&self, purpose: For) -> impl Iterator<Item = (&AtomicUsize, usize)> {
        let cap = self.cap();
        let (network, strangers) = match purpose {
            For::Bounded => (None, false),
            For::Device(network) => (Some(network), false),
            For::Strangers(network) => (Some(network), true),
        };
        let network = network.map(|it| {
            (&self.networks[usize::from(it.0)], self.network_cap.load(Ordering::Relaxed))
        });
        let strangers = strangers.then_some((&self.strangers, cap / STRANGERS));
        [Some((&self.used, cap)), network, strangers].into_iter().flatten()
    }

    // Relaxed is enough: the counters order nothing but themselves.
    fn take(&self, bytes: usize, purpose: For) -> bool {
        for (n, (counter, cap)) in self.counters(purpose).enumerate() {
            let more = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= cap);
            if counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
                for (counter, _) in self.counters(purpose).take(n) {
                    counter.fetch_sub(bytes, Ordering::Relaxed);
                }
                return false;
            }
        }
        true
    }

    fn give_back(&self, bytes: usize, purpose: For) {
        for (counter, _) in self.counters(purpose) {
            let before = counter.fetch_sub(bytes, Ordering::Relaxed);
            debug_assert!(before >= bytes, "a charge is given back once");
        }
    }
}

/// Bytes taken from a [`Memory`], given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
    purpose: For,
}

impl Charge {
    /// Grows or shrinks to `bytes`. Says whether there was room; if not, nothing has changed.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.memory.take(bytes - self.bytes, self.purpose) {
            return false;
        }
        if bytes < self.bytes {
            self.memory.give_back(self.bytes - bytes, self.purpose);
        }
        self.bytes = bytes;
        true
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes, self.purpose);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn memory(cap: usize) -> Arc<Memory> {
        Memory::new(cap, cap, [1; 32])
    }

    #[test]
    fn a_dropped_charge_gives_its_bytes_back() {
        let memory = memory(100);
        let a = memory.charge(60, For::Bounded).unwrap();
        assert!(memory.charge(41, For::Bounded).is_none());
        let b = memory.charge(40, For::Bounded).unwrap();
        assert_eq!(memory.used(), 100);
        drop(a);
        assert_eq!((memory.used(), b.bytes()), (40, 40));
    }

    #[test]
    fn a_lower_cap_throws_nothing_out() {
        let memory = memory(100);
        let a = memory.charge(60, For::Bounded).unwrap();
        memory.set_caps(50, 50);
        assert_eq!((memory.used(), memory.cap()), (60, 50));
        assert!(memory.charge(1, For::Bounded).is_none());
        drop(a);
        assert!(memory.charge(50, For::Bounded).is_some());
    }

    #[test]
    fn a_charge_that_cannot_grow_stays_as_it_is() {
        let memory = memory(100);
        let mut a = memory.charge(60, For::Bounded).unwrap();
        assert!(!a.resize(101));
        assert_eq!((a.bytes(), memory.used()), (60, 60));
        assert!(a.resize(100) && a.resize(10));
        assert_eq!(memory.used(), 10);
    }

    #[test]
    fn the_cap_holds_when_threads_race_for_the_last_bytes() {
        let memory = memory(1000);
        let kept: Vec<Charge> = std::thread::scope(|s| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    s.spawn(|| {
                        (0..1000).filter_map(|_| memory.charge(7, For::Bounded)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        assert_eq!(kept.len(), 1000 / 7);
        drop(kept);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn strangers_leave_room_for_contacts() {
        let memory = memory(100);
        let network = memory.network(Prefix::of("192.0.2.1:1".parse().unwrap()));
        let strangers = memory.charge(25, For::Strangers(network)).unwrap();
        assert!(memory.charge(1, For::Strangers(network)).is_none());
        assert_eq!(memory.used(), 25, "what was refused takes nothing");
        let contacts = memory.charge(75, For::Device(network)).unwrap();
        drop((strangers, contacts));
        assert_eq!(memory.used(), 0);
        assert!(memory.charge(25, For::Strangers(network)).is_some());
    }

    #[test]
    fn one_network_leaves_room_for_the_others() {
        let memory = Memory::new(100, 40, [1; 32]);
        let [one, neighbour, other] = ["192.0.2.1:1", "192.0.2.9:2", "198.51.100.1:1"]
            .map(|it| For::Device(memory.network(Prefix::of(it.parse().unwrap()))));
        assert_eq!(one, neighbour);
        let mut kept = memory.charge(30, one).unwrap();
        assert!(memory.charge(11, neighbour).is_none() && !kept.resize(41));
        assert!(memory.charge(40, other).is_some());
        assert!(kept.resize(40) && kept.resize(10));
        assert!(memory.charge(30, neighbour).is_some());
    }
}
