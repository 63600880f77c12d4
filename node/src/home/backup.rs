//! Backups: one file, opened by a passphrase, of everything that cannot be had again: identity,
//! contacts, history, and messages that are not acknowledged.
//!
//! ```text
//! "HALLOO BACKUP 1\n" | length of the key file u32, big endian | key file | database
//!
//! key file   of a locked home: the identity and the key of the database, sealed under the passphrase
//! database   a store, encrypted page by page under that key
//! ```
//!
//! Every backup has a key of its own. None holds a ratchet: two stores with one ratchet would encrypt
//! two messages with one key. So whoever is restored begins again with each contact
//! (`core/again.rs`); messages keep their names, so nothing is told twice.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use halloo_identity::{DataKey, HomeKey, Identity, LockedHome, UnlockError};
use zeroize::Zeroizing;

use super::{Home, KEY_FILE, LOCKED_STORE, PLAIN_STORE, at, files, write_key_file};
use crate::core::Messenger;
use crate::error::{BackupError, StartError};
use crate::store::{self, StoreError};

const MAGIC: &[u8; 16] = b"HALLOO BACKUP 1\n";
/// Longest key file in a backup.
const MAX_KEY_FILE: u32 = 16 * 1024;
/// The database of a backup, while a home is made of it. A home that has it is not finished.
pub(super) const UNFINISHED: &str = "restoring.db";

impl Home {
    /// Writes a backup of this home, which `key` opens. An older file of this name is replaced, if
    /// `replace` says so, when the new one is whole. Blocks for as long as it takes to write the
    /// store twice; a passphrase takes a tenth of a second more.
    ///
    /// # Errors
    /// [`BackupError::Exists`], [`BackupError::EmptyPassphrase`], and [`BackupError::Store`] or
    /// [`BackupError::File`] when the disk refuses. Then an older file is as it was.
    pub fn back_up(&self, file: &Path, key: &HomeKey, replace: bool) -> Result<(), BackupError> {
        let ours = self.store_path()?;
        write(&self.identity, file, key, replace, |to, data_key| {
            store::copy((&ours, self.data_key()), (to, Some(data_key)))
        })
    }

    /// Makes the home at `path` of a backup, which `backup_key` opens, and takes it for this process.
    /// It is locked with `key`, or not at all. Every contact is told to begin again when the node
    /// runs. Interrupted, it can be asked for again. Blocks for as long as it takes to write the
    /// store twice.
    ///
    /// The home that the backup is of must not be used any more: its contacts would hear two.
    ///
    /// # Errors
    /// [`BackupError::HomeInUse`] when there is an identity already, [`BackupError::NotABackup`],
    /// [`BackupError::WrongPassphrase`], [`BackupError::Damaged`], and others when the disk refuses.
    pub fn restore(
        path: &Path,
        backup: &Path,
        backup_key: &HomeKey,
        key: Option<&HomeKey>,
    ) -> Result<Self, BackupError> {
        if key.is_some_and(HomeKey::is_empty) {
            return Err(BackupError::EmptyPassphrase);
        }
        let mut input = File::open(backup).map_err(at(backup))?;
        let locked = read_head(&mut input, backup)?;
        let lock = super::take(path)?;
        let (key_path, unfinished) = (path.join(KEY_FILE), path.join(UNFINISHED));
        let stores = [PLAIN_STORE, LOCKED_STORE].map(|name| path.join(name));
        let used = key_path.exists() || stores.iter().any(|store| store.exists());
        if used && !unfinished.exists() {
            return Err(BackupError::HomeInUse { home: path.to_owned() });
        }
        let (identity, backup_data_key) = locked.unlock(backup_key).map_err(|e| match e {
            UnlockError::WrongKey => BackupError::WrongPassphrase { file: backup.to_owned() },
            other => BackupError::NotABackup { file: backup.to_owned(), why: other.to_string() },
        })?;

        // From here on the home is unfinished, until the end.
        let copied = files::open_private(&unfinished).and_then(|mut database| {
            database.set_len(0)?;
            io::copy(&mut input, &mut database)?;
            database.sync_all()?;
            files::sync_folder(&unfinished)
        });
        copied.map_err(at(&unfinished))?;
        for file in stores.iter().chain([&key_path]) {
            files::wipe_database(file).map_err(at(file))?;
        }
        let data_key = key.map(|_| DataKey::generate());
        let target = path.join(super::store_name(data_key.as_ref()));
        let file = files::open_private(&target).map_err(at(&target))?;
        let from = (unfinished.as_path(), Some(&backup_data_key));
        let identity = std::sync::Arc::new(identity);
        store::copy(from, (&target, data_key.as_ref()))
            .and_then(|()| {
                store::read_once(
                    (&target, data_key.as_ref()),
                    |cx| match Messenger::is_new(cx)? {
                        // A backup that ends before its database.
                        true => Err(StoreError::Corrupt),
                        false => Messenger::load(cx, identity.clone(), false),
                    },
                    |m, cx| m.restored(cx),
                )
            })
            .map_err(|e| match e {
                StoreError::Corrupt | StoreError::NotOurs | StoreError::OtherIdentity => {
                    BackupError::Damaged { file: backup.to_owned() }
                }
                other => other.into(),
            })?;
        file.sync_all().map_err(at(&target))?;
        write_key_file(&key_path, &identity, data_key.as_ref().zip(key))?;
        files::wipe_database(&unfinished).map_err(at(&unfinished))?;
        Ok(Self { path: path.to_owned(), identity, data_key, _lock: lock })
    }
}

/// Writes a backup of the store that `copy` copies into a file, encrypted under a key.
pub(crate) fn write(
    identity: &Identity,
    file: &Path,
    key: &HomeKey,
    replace: bool,
    copy: impl FnOnce(&Path, &DataKey) -> Result<(), StoreError>,
) -> Result<(), BackupError> {
    if key.is_empty() {
        return Err(BackupError::EmptyPassphrase);
    }
    if !replace && file.exists() {
        return Err(BackupError::Exists { file: file.to_owned() });
    }
    let data_key = DataKey::generate();
    let locked =
        LockedHome::lock(identity, &data_key, key).map_err(|e| at(file)(io::Error::other(e)))?;
    let drafts = Drafts::of(file);
    files::wipe_database(&drafts.database).map_err(at(&drafts.database))?;
    files::open_private(&drafts.database).map_err(at(&drafts.database))?;
    copy(&drafts.database, &data_key)?;
    store::strip((&drafts.database, Some(&data_key)))?;
    let whole = drafts.put_together(&locked.to_key_file()).map_err(at(&drafts.whole))?;
    whole.sync_all().map_err(at(&drafts.whole))?;
    fs::rename(&drafts.whole, file).and_then(|()| files::sync_folder(file)).map_err(at(file))?;
    Ok(())
}

/// Files beside a backup that is being written. They go when this is dropped.
struct Drafts {
    database: PathBuf,
    whole: PathBuf,
}

impl Drafts {
    fn of(file: &Path) -> Self {
        let beside = |end: &str| files::with_end(file, end);
        Self { database: beside(".database"), whole: beside(".part") }
    }

    fn put_together(&self, key_file: &str) -> io::Result<File> {
        let _ = fs::remove_file(&self.whole);
        let mut whole = files::open_private(&self.whole)?;
        whole.write_all(MAGIC)?;
        whole.write_all(&(key_file.len() as u32).to_be_bytes())?;
        whole.write_all(key_file.as_bytes())?;
        io::copy(&mut File::open(&self.database)?, &mut whole)?;
        Ok(whole)
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        // Encrypted, and of no use; what cannot be removed now is overwritten the next time.
        let _ = files::wipe_database(&self.database);
        let _ = fs::remove_file(&self.whole);
    }
}

/// Reads a backup up to its database.
fn read_head(input: &mut impl Read, file: &Path) -> Result<LockedHome, BackupError> {
    let refused = |why: &str| BackupError::NotABackup { file: file.to_owned(), why: why.into() };
    let mut head = [0; 20];
    input.read_exact(&mut head).map_err(|_| refused("it is too short"))?;
    let (magic, length) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(refused(match magic.starts_with(&MAGIC[..14]) {
            true => "a newer program wrote it",
            false => "it does not begin like one",
        }));
    }
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    if length > MAX_KEY_FILE {
        return Err(refused("its key file is too long"));
    }
    let mut text = Zeroizing::new(vec![0; length as usize]);
    input.read_exact(&mut text).map_err(|_| refused("it is cut off"))?;
    let text = std::str::from_utf8(&text).map_err(|_| refused("its key file is not text"))?;
    LockedHome::from_key_file(text).map_err(|e| refused(&e.to_string()))
}

impl From<StartError> for BackupError {
    fn from(e: StartError) -> Self {
        match e {
            StartError::File { path, source } => Self::File { path, source },
            StartError::Store(e) => Self::Store(e),
            other => Self::Home(Box::new(other)),
        }
    }
}
