//! A disk of which one sync takes at least as long as one wants: the real files, and a wait.

use std::borrow::Cow;
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenOptions, Vfs, WalDisabled};

/// The file system of SQLite, with slow syncs.
pub struct SlowDisk {
    sync: Duration,
}

impl SlowDisk {
    /// Makes it the file system of every database that is opened from now on.
    ///
    /// # Errors
    /// When it was made so before.
    pub fn install(sync: Duration) -> anyhow::Result<()> {
        sqlite_vfs::register("slow", Self { sync }, true)?;
        Ok(())
    }
}

/// Syncs a file, and waits until that has taken its time.
pub fn sync(file: &File, takes: Duration) -> Result<()> {
    let begun = Instant::now();
    file.sync_data()?;
    std::thread::sleep(takes.saturating_sub(begun.elapsed()));
    Ok(())
}

pub struct Handle {
    file: File,
    sync: Duration,
    lock: LockKind,
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn sync(&mut self, _data_only: bool) -> Result<()> {
        sync(&self.file, self.sync)
    }

    fn set_len(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size)
    }

    // One process has a store: `node.lock` sees to that.
    fn lock(&mut self, lock: LockKind) -> Result<bool> {
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn current_lock(&self) -> Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled> {
        Ok(WalDisabled)
    }
}

impl Vfs for SlowDisk {
    type Handle = Handle;

    fn open(&self, db: &str, opts: OpenOptions) -> Result<Handle> {
        let write = opts.access != OpenAccess::Read;
        let mut options = FileOptions::new();
        options.read(true).write(write);
        match opts.access {
            OpenAccess::Create => options.create(true),
            OpenAccess::CreateNew => options.create_new(true),
            _ => &mut options,
        };
        Ok(Handle { file: options.open(db)?, sync: self.sync, lock: LockKind::None })
    }

    fn delete(&self, db: &str) -> Result<()> {
        match std::fs::remove_file(db) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn exists(&self, db: &str) -> Result<bool> {
        Ok(std::fs::exists(db)?)
    }

    fn temporary_name(&self) -> String {
        "temporary".into()
    }

    fn random(&self, buffer: &mut [i8]) {
        // SQLite salts its log with this.
        let mut state = Instant::now().elapsed().as_nanos() as u64 | 1;
        for byte in buffer {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as i8;
        }
    }

    fn sleep(&self, duration: Duration) -> Duration {
        std::thread::sleep(duration);
        duration
    }

    fn full_pathname<'a>(&self, db: &'a str) -> Result<Cow<'a, str>> {
        Ok(db.into())
    }
}
