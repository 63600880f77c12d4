//! A disk that forgets what was not synced, for SQLite.
//!
//! Each file has what is safe, and the writes since the last sync. Reading sees both, as with an
//! operating system's cache. At a power loss each unsynced write is kept, lost, or torn at a sector,
//! by chance and independently of the others: a disk may write in any order. Killing a process
//! loses nothing. A disk can be told to fail: at the n-th operation from now, at each sync, or for
//! want of room.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenOptions, Vfs, WalDisabled};

use super::rng::Rng;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct File {
    safe: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Self::SetLen(len) => to.resize(*len, 0),
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trouble {
    /// Everything fails from this many operations on.
    pub(super) dies_in: Option<u32>,
    /// There is no room.
    pub(super) full: bool,
    /// Syncs fail.
    pub(super) no_sync: bool,
    /// Syncs do nothing, and say that all is well: a planted fault.
    pub(super) lies: bool,
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, File>,
    trouble: Trouble,
    draws: u64,
}

/// A machine's disk. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

/// All that is on a disk, to begin another one with.
#[derive(Clone)]
pub(super) struct Image(HashMap<String, File>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn image(&self) -> Image {
        Image(self.lock().files.clone())
    }

    /// Replaces everything by what an image has.
    pub(super) fn begin(&self, image: &Image) {
        *self.lock() = Inner { files: image.0.clone(), ..Inner::default() };
    }

    pub(super) fn trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.lock().trouble);
    }

    /// Whether it has died.
    pub(super) fn is_dead(&self) -> bool {
        self.lock().trouble.dies_in == Some(0)
    }

    /// Whether it does not sync.
    pub(super) fn syncs_fail(&self) -> bool {
        self.lock().trouble.no_sync
    }

    /// The machine starts again after its power was lost, or its process was killed.
    pub(super) fn restart(&self, power_lost: Option<&mut Rng>) {
        let mut it = self.lock();
        it.trouble.dies_in = None;
        let Some(rng) = power_lost else { return };
        let mut files: Vec<_> = it.files.iter_mut().collect();
        files.sort_by(|a, b| a.0.cmp(b.0));
        for (_, file) in files {
            let mut left = std::mem::take(&mut file.safe);
            for change in file.unsynced.drain(..) {
                match change {
                    _ if rng.chance(400) => {}
                    Change::Write { at, mut bytes } if rng.chance(300) => {
                        let sectors = bytes.len() / SECTOR;
                        bytes.truncate(rng.below(sectors + 1) * SECTOR);
                        Change::Write { at, bytes }.apply(&mut left);
                    }
                    change => change.apply(&mut left),
                }
            }
            file.seen.clone_from(&left);
            file.safe = left;
        }
    }

    /// One more operation.
    fn operate(&self) -> Result<MutexGuard<'_, Inner>> {
        let mut it = self.lock();
        match &mut it.trouble.dies_in {
            Some(0) => return Err(Error::other("the machine is dead")),
            Some(n) => *n -= 1,
            None => {}
        }
        Ok(it)
    }

    fn change(&self, name: &str, change: Change) -> Result<()> {
        let mut it = self.operate()?;
        if it.trouble.full && matches!(change, Change::Write { .. }) {
            // What the crate tells SQLite as "full".
            return Err(ErrorKind::WriteZero.into());
        }
        let file = it.files.entry(name.to_owned()).or_default();
        change.apply(&mut file.seen);
        file.unsynced.push(change);
        Ok(())
    }
}

/// An open file.
pub(super) struct Handle {
    disk: Disk,
    name: String,
    lock: LockKind,
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64> {
        Ok(self.disk.lock().files.get(&self.name).map_or(0, |f| f.seen.len() as u64))
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let it = self.disk.lock();
        let file = it.files.get(&self.name).ok_or(ErrorKind::UnexpectedEof)?;
        let at = usize::try_from(offset).map_err(Error::other)?;
        let bytes = file.seen.get(at..at + buf.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<()> {
        let at = usize::try_from(offset).map_err(Error::other)?;
        self.disk.change(&self.name, Change::Write { at, bytes: buf.to_vec() })
    }

    fn sync(&mut self, _data_only: bool) -> Result<()> {
        let mut it = self.disk.operate()?;
        if it.trouble.no_sync {
            return Err(Error::other("the disk does not answer"));
        }
        if it.trouble.lies {
            return Ok(());
        }
        let file = it.files.entry(self.name.clone()).or_default();
        for change in std::mem::take(&mut file.unsynced) {
            change.apply(&mut file.safe);
        }
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> Result<()> {
        let len = usize::try_from(size).map_err(Error::other)?;
        self.disk.change(&self.name, Change::SetLen(len))
    }

    fn lock(&mut self, lock: LockKind) -> Result<bool> {
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> Result<bool> {
        Ok(matches!(self.lock, LockKind::Reserved | LockKind::Pending | LockKind::Exclusive))
    }

    fn current_lock(&self) -> Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled> {
        Ok(WalDisabled)
    }
}

impl Vfs for Disk {
    type Handle = Handle;

    fn open(&self, db: &str, opts: OpenOptions) -> Result<Handle> {
        let mut it = self.operate()?;
        if opts.access == OpenAccess::Create || opts.access == OpenAccess::CreateNew {
            it.files.entry(db.to_owned()).or_default();
        } else if !it.files.contains_key(db) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Handle { disk: self.clone(), name: db.to_owned(), lock: LockKind::None })
    }

    fn delete(&self, db: &str) -> Result<()> {
        self.operate()?.files.remove(db);
        Ok(())
    }

    fn exists(&self, db: &str) -> Result<bool> {
        Ok(self.lock().files.contains_key(db))
    }

    fn temporary_name(&self) -> String {
        "temporary".into()
    }

    fn random(&self, buffer: &mut [i8]) {
        // SQLite salts its log with this: two logs must not have the same.
        let mut it = self.lock();
        for byte in buffer {
            it.draws = it.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (it.draws >> 56) as i8;
        }
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }

    fn full_pathname<'a>(&self, db: &'a str) -> Result<Cow<'a, str>> {
        Ok(db.into())
    }
}
