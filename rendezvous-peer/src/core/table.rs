//! The rows of all registered devices, found by what names them or by the place where they lie.
//!
//! The table has [`SHARDS`] parts with a lock each. In a part, rows lie in numbered slots, and a
//! hash table finds the slot for a name: so a datagram that carries the number of a slot needs no
//! second index. A row takes its own bytes, and some 30 for the slot and the index.

use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use halloo_wire::RowId;
use hashbrown::HashTable;
use slab::Slab;

use super::registry::{Row, RowKey};

/// Parts with a lock each: more than any machine has threads that could wait for one.
const SHARDS: usize = 256;
/// Slots of a part: what 24 bits can say.
const SLOTS: usize = 1 << 24;

/// Rows by name and by place.
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// The part that is swept next.
    hand: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    rows: Slab<Box<Entry>>,
    slots: HashTable<u32>,
}

struct Entry {
    key: RowKey,
    row: Row,
}

/// Where a row lies: 8 bits of its part and 24 of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// A number for the row at this place that nobody can guess.
    pub(super) fn row_id(self, tag: u32) -> RowId {
        RowId(u64::from(self.0) << 32 | u64::from(tag))
    }

    /// The place that a number names.
    pub(super) fn of(row: RowId) -> Self {
        Self((row.0 >> 32) as u32)
    }

    fn shard(self) -> usize {
        (self.0 >> 24) as usize
    }

    fn slot(self) -> usize {
        (self.0 & 0x00ff_ffff) as usize
    }
}

/// A row, with its part locked.
pub(super) struct RowRef<'a> {
    shard: MutexGuard<'a, Shard>,
    place: Place,
}

impl RowRef<'_> {
    /// Where it lies.
    pub(super) fn place(&self) -> Place {
        self.place
    }
}

impl Deref for RowRef<'_> {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.shard.rows[self.place.slot()].row
    }
}

impl DerefMut for RowRef<'_> {
    fn deref_mut(&mut self) -> &mut Row {
        &mut self.shard.rows[self.place.slot()].row
    }
}

impl Table {
    /// An empty table.
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), hand: AtomicUsize::new(0) }
    }

    /// The row with a name.
    pub(super) fn get_mut(&self, key: &RowKey) -> Option<RowRef<'_>> {
        let hash = self.hasher.hash_one(key);
        let number = Self::number(hash);
        let shard = self.lock(number);
        let slot = *shard.slots.find(hash, |&slot| shard.rows[slot as usize].key == *key)?;
        Some(RowRef { place: place(number, slot), shard })
    }

    /// The row with a name, made when there is none.
    ///
    /// # Errors
    /// Those of `make`; `full` when the part has no slot left.
    pub(super) fn get_or_make<E>(
        &self,
        key: RowKey,
        make: impl FnOnce() -> Result<Row, E>,
        full: E,
    ) -> Result<RowRef<'_>, E> {
        let hash = self.hasher.hash_one(key);
        let number = Self::number(hash);
        let mut shard = self.lock(number);
        let found = shard.slots.find(hash, |&slot| shard.rows[slot as usize].key == key).copied();
        let slot = match found {
            Some(slot) => slot,
            None if shard.rows.len() >= SLOTS => return Err(full),
            None => {
                let row = make()?;
                let Shard { rows, slots } = &mut *shard;
                let slot = rows.insert(Box::new(Entry { key, row })) as u32;
                slots.insert_unique(hash, slot, |&slot| {
                    self.hasher.hash_one(rows[slot as usize].key)
                });
                slot
            }
        };
        Ok(RowRef { place: place(number, slot), shard })
    }

    /// Takes the row with a name out.
    pub(super) fn remove(&self, key: &RowKey) -> Option<Row> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.lock(Self::number(hash));
        let Shard { rows, slots } = &mut *shard;
        let found = slots.find_entry(hash, |&slot| rows[slot as usize].key == *key).ok()?;
        let (slot, _) = found.remove();
        Some(rows.remove(slot as usize).row)
    }

    /// The row at a place, which may be another one than it was.
    pub(super) fn at(&self, place: Place) -> Option<RowRef<'_>> {
        let shard = self.lock(place.shard());
        shard.rows.contains(place.slot()).then_some(RowRef { shard, place })
    }

    /// Looks at the rows of the next `parts` parts and forgets those for which `keep` says no.
    /// After [`Table::PARTS`] of them, each row has been looked at.
    pub(super) fn sweep(&self, parts: usize, mut keep: impl FnMut(&mut Row) -> bool) {
        for _ in 0..parts.min(SHARDS) {
            let number = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let mut shard = self.lock(number);
            let Shard { rows, slots } = &mut *shard;
            let before = rows.len();
            rows.retain(|slot, entry| {
                let stays = keep(&mut entry.row);
                if !stays {
                    let hash = self.hasher.hash_one(entry.key);
                    if let Ok(found) = slots.find_entry(hash, |&it| it as usize == slot) {
                        found.remove();
                    }
                }
                stays
            });
            // A part that has become much smaller gives its room back.
            if rows.len() < before && rows.capacity() > 4 * rows.len() + 64 {
                rows.shrink_to_fit();
                slots.shrink_to_fit(|&slot| self.hasher.hash_one(rows[slot as usize].key));
            }
        }
    }

    /// Parts of the table.
    pub(super) const PARTS: usize = SHARDS;

    /// Looks at every row, one part after the other.
    pub(super) fn each(&self, mut look: impl FnMut(&RowKey, &Row)) {
        for number in 0..SHARDS {
            for (_, entry) in &self.lock(number).rows {
                look(&entry.key, &entry.row);
            }
        }
    }

    fn number(hash: u64) -> usize {
        // Other bits than those by which the hash table finds its place.
        (hash >> 48) as usize % SHARDS
    }

    fn lock(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(shard: usize, slot: u32) -> Place {
    Place((shard as u32) << 24 | slot)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use halloo_wire::{DeviceId, EnvelopeId, Fingerprint, SessionId};
    use proptest::prelude::*;

    use super::super::rate::Prefix;
    use super::*;
    use crate::core::memory::Memory;
    use crate::core::time::Millis;

    fn key(n: u16) -> RowKey {
        let mut bytes = [0; 30];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        (Fingerprint::from_bytes(bytes), DeviceId::FIRST)
    }

    fn row(counter: u64) -> Row {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let network = memory.network(Prefix::of("192.0.2.1:1".parse().unwrap()));
        let mut row =
            Row::new([].into(), SessionId([0; 16]), EnvelopeId(1), Millis(0), &memory, network)
                .unwrap();
        row.counter = counter;
        row
    }

    fn make(table: &Table, n: u16, counter: u64) -> Place {
        table.get_or_make(key(n), || Ok(row(counter)), ()).unwrap().place()
    }

    #[test]
    fn a_row_is_found_by_its_name_and_at_its_place() {
        let table = Table::new();
        let place = make(&table, 1, 5);
        assert_eq!(make(&table, 1, 6), place);
        assert_eq!(table.get_mut(&key(1)).unwrap().counter, 5);
        assert_eq!(Place::of(place.row_id(u32::MAX)), place);
        assert_eq!(table.at(place).unwrap().counter, 5);
        assert!(table.get_mut(&key(2)).is_none());
        assert_eq!(table.get_or_make(key(2), || Err(7), 8).err(), Some(7));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(
            steps in proptest::collection::vec((0u16..300, any::<u64>(), 0u8..4), 0..600),
        ) {
            let (table, mut model) = (Table::new(), BTreeMap::new());
            let mut places = BTreeMap::new();
            for (n, counter, step) in steps {
                if step == 3 {
                    let removed = table.remove(&key(n)).map(|row| row.counter);
                    prop_assert_eq!(removed, model.remove(&n));
                    places.remove(&n);
                } else if step == 2 {
                    let odd = counter % 2;
                    table.sweep(Table::PARTS, |row| row.counter % 2 == odd);
                    model.retain(|_, it: &mut u64| *it % 2 == odd);
                    places.retain(|n, _| model.contains_key(n));
                } else {
                    let place = make(&table, n, counter);
                    model.entry(n).or_insert(counter);
                    prop_assert_eq!(*places.entry(n).or_insert(place), place);
                }
                let mut all = 0;
                table.each(|_, _| all += 1);
                prop_assert_eq!(all, model.len());
            }
            for n in 0..300 {
                let found = table.get_mut(&key(n)).map(|it| it.counter);
                prop_assert_eq!(found, model.get(&n).copied());
            }
            for (n, place) in places {
                prop_assert_eq!(table.at(place).map(|it| it.counter), model.get(&n).copied());
            }
        }
    }
}
