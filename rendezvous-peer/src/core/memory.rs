//! The one memory cap.
//!
//! Whatever the table keeps owns a [`Charge`] for its bytes. A charge is taken before the bytes
//! are kept and given back when they are freed, so the sum cannot drift from what is there, and
//! the cap cannot be passed: who finds no room is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that the table keeps, up to a cap.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    cap: AtomicUsize,
}

impl Memory {
    /// An empty account with room for `cap` bytes.
    pub(super) fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), cap: AtomicUsize::new(cap) })
    }

    /// Takes `bytes` for as long as the charge lives; `None` when the cap leaves no room.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.take(bytes).then(|| Charge { memory: Arc::clone(self), bytes })
    }

    /// Bytes taken.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken.
    pub(super) fn cap(&self) -> usize {
        self.cap.load(Ordering::Relaxed)
    }

    /// Changes the cap. What is taken stays taken.
    pub(super) fn set_cap(&self, cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    // Relaxed is enough: the counter orders nothing but itself.
    fn take(&self, bytes: usize) -> bool {
        let cap = self.cap();
        let more = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= cap);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "a charge is given back once");
    }
}

/// Bytes taken from a [`Memory`], given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Charge {
    /// Grows or shrinks to `bytes`. Says whether there was room; if not, nothing has changed.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.memory.take(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.memory.give_back(self.bytes - bytes);
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
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_charge_gives_its_bytes_back() {
        let memory = Memory::new(100);
        let a = memory.charge(60).unwrap();
        assert!(memory.charge(41).is_none());
        let b = memory.charge(40).unwrap();
        assert_eq!(memory.used(), 100);
        drop(a);
        assert_eq!((memory.used(), b.bytes()), (40, 40));
    }

    #[test]
    fn a_lower_cap_throws_nothing_out() {
        let memory = Memory::new(100);
        let a = memory.charge(60).unwrap();
        memory.set_cap(50);
        assert_eq!((memory.used(), memory.cap()), (60, 50));
        assert!(memory.charge(1).is_none());
        drop(a);
        assert!(memory.charge(50).is_some());
    }

    #[test]
    fn a_charge_that_cannot_grow_stays_as_it_is() {
        let memory = Memory::new(100);
        let mut a = memory.charge(60).unwrap();
        assert!(!a.resize(101));
        assert_eq!((a.bytes(), memory.used()), (60, 60));
        assert!(a.resize(100) && a.resize(10));
        assert_eq!(memory.used(), 10);
    }

    #[test]
    fn the_cap_holds_when_threads_race_for_the_last_bytes() {
        let memory = Memory::new(1000);
        let kept: Vec<Charge> = std::thread::scope(|s| {
            let workers: Vec<_> = (0..4)
                .map(|_| s.spawn(|| (0..1000).filter_map(|_| memory.charge(7)).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        assert_eq!(kept.len(), 1000 / 7);
        drop(kept);
        assert_eq!(memory.used(), 0);
    }
}
