//! The home directory: a key file, the store, and a lock.
//!
//! ```text
//! identity.key   the passport's and the device's secrets (0600); in a locked home, sealed
//! node.db        contacts, messages, ratchets (0600; SQLite, with -wal and -shm beside it)
//! locked.db      the same in a locked home, encrypted
//! node.lock      held while a node runs here
//! restoring.db   a backup's database, while the home is made of it
//! ```
//!
//! The key file says which of the two databases counts. So a home is locked or opened up by one
//! rename: the other database is written as a whole first, and what no longer counts is deleted
//! after it, at the latest when the home is opened again.

pub(crate) mod backup;
mod files;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use halloo_identity::{
    Address, DataKey, HomeKey, Identity, LockedHome, PeerFingerprint, PeerHost, UnlockError,
};
use halloo_wire::Invite;
use zeroize::Zeroizing;

use crate::core::{Context, Messenger};
use crate::error::StartError;
use crate::store::{self, StoreError, read_once};

const KEY_FILE: &str = "identity.key";
const PLAIN_STORE: &str = "node.db";
const LOCKED_STORE: &str = "locked.db";
const LOCK_FILE: &str = "node.lock";

/// A home that belongs to this process for as long as the value lives.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    identity: std::sync::Arc<Identity>,
    /// The key of the store in a locked home.
    data_key: Option<DataKey>,
    /// The lock lives as long as the file is open.
    _lock: File,
}

impl Home {
    /// Opens a home that is not locked and takes it for this process. What is missing is created:
    /// the directory (0700) and an identity. Blocks for a moment on the disk.
    ///
    /// # Errors
    /// [`StartError::Locked`] when it takes a key to open it, [`StartError::AlreadyRunning`] when
    /// another process has it, [`StartError::KeyFile`] when the key file is damaged,
    /// [`StartError::File`] when the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        Self::open_as(path, None)
    }

    /// Opens a locked home and takes it for this process. What is missing is created, and locked
    /// from its beginning. Blocks for a moment on the disk; a passphrase takes 64 MiB and about a
    /// tenth of a second, once.
    ///
    /// # Errors
    /// [`StartError::WrongPassphrase`], [`StartError::NotLocked`] when the home takes no key,
    /// [`StartError::EmptyPassphrase`], and those of [`Home::open`].
    pub fn unlock(path: &Path, key: &HomeKey) -> Result<Self, StartError> {
        Self::open_as(path, Some(key))
    }

    pub(crate) fn open_as(path: &Path, key: Option<&HomeKey>) -> Result<Self, StartError> {
        if key.is_some_and(HomeKey::is_empty) {
            return Err(StartError::EmptyPassphrase);
        }
        let lock = take(path)?;
        if path.join(backup::UNFINISHED).exists() {
            return Err(StartError::RestoreUnfinished { home: path.to_owned() });
        }
        let key_path = path.join(KEY_FILE);
        if fs::metadata(&key_path).is_ok_and(|m| m.mode() & 0o077 != 0) {
            let why = "other users of this machine can read it (chmod 600 mends that)".into();
            return Err(StartError::KeyFile { path: key_path, why });
        }
        let (identity, data_key) = match fs::read_to_string(&key_path).map(Zeroizing::new) {
            Ok(text) => read_key_file(path, &key_path, &text, key)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if [PLAIN_STORE, LOCKED_STORE].iter().any(|store| path.join(store).exists()) {
                    // A new identity would make the old messages unreadable and unreachable.
                    let why = "it is missing, but the store beside it is there".into();
                    return Err(StartError::KeyFile { path: key_path, why });
                }
                let identity = Identity::generate();
                let data_key = key.map(|_| DataKey::generate());
                write_key_file(&key_path, &identity, data_key.as_ref().zip(key))?;
                (identity, data_key)
            }
            Err(e) => return Err(at(&key_path)(e)),
        };
        let home = Self { path: path.to_owned(), identity: identity.into(), data_key, _lock: lock };
        home.tidy()?;
        Ok(home)
    }

    /// Locks the home under another key, or opens it up for good with `None`. The first lock copies
    /// the store into an encrypted one, under a random key that `key` then opens; another `key`
    /// seals the same random key again and leaves the store as it is. What the old files held is
    /// overwritten and deleted. Interrupted at any moment, the home is as it was before or as asked
    /// for. Blocks for as long as it takes to write the store once.
    ///
    /// # Errors
    /// [`StartError::EmptyPassphrase`]; [`StartError::Store`] or [`StartError::File`] when the disk
    /// refuses.
    pub fn set_key(&mut self, key: Option<&HomeKey>) -> Result<(), StartError> {
        if key.is_some_and(HomeKey::is_empty) {
            return Err(StartError::EmptyPassphrase);
        }
        let data_key = key.map(|_| self.data_key.clone().unwrap_or_else(DataKey::generate));
        let (old, new) = (self.store_file(), self.path.join(store_name(data_key.as_ref())));
        if old != new && old.exists() {
            files::wipe_database(&new).map_err(at(&new))?;
            let file = files::open_private(&new).map_err(at(&new))?;
            store::copy((&old, self.data_key.as_ref()), (&new, data_key.as_ref()))?;
            file.sync_all().and_then(|()| files::sync_folder(&new)).map_err(at(&new))?;
        }
        write_key_file(&self.path.join(KEY_FILE), &self.identity, data_key.as_ref().zip(key))?;
        self.data_key = data_key;
        self.tidy()
    }

    /// Whether this home is locked when nobody uses it.
    pub fn has_key(&self) -> bool {
        self.data_key.is_some()
    }

    /// Whether it takes a key to open the home at `path`. Takes it for nobody; a home that cannot
    /// be read is not locked.
    pub fn is_locked(path: &Path) -> bool {
        let text = fs::read_to_string(path.join(KEY_FILE)).map(Zeroizing::new);
        text.is_ok_and(|text| LockedHome::is_one(&text))
    }

    /// Whether a home has an identity. Takes no lock.
    pub fn exists(path: &Path) -> bool {
        path.join(KEY_FILE).exists()
    }

    /// Sets the home's rendezvous peer and its owner's name. Blocks for a moment on the disk.
    ///
    /// # Errors
    /// [`StartError::Store`] when the store cannot be used.
    pub fn set_up(
        &self,
        peer: Option<(&PeerHost, Option<PeerFingerprint>)>,
        name: Option<&str>,
    ) -> Result<(), StartError> {
        self.with_store(|m, cx| set_up(m, cx, peer, name))
    }

    /// Keeps the invite that lets the home's rendezvous peer host it. Says whether there is such a
    /// peer; [`Home::set_up`] names it. Blocks for a moment on the disk.
    ///
    /// # Errors
    /// [`StartError::Store`] when the store cannot be used.
    pub fn set_invite(&self, invite: &Invite) -> Result<bool, StartError> {
        self.with_store(|m, cx| set_invite(m, cx, invite)).map(|peer| peer.is_some())
    }

    /// The home's address; `None` before a rendezvous peer is set. Blocks for a moment on the
    /// disk.
    ///
    /// # Errors
    /// [`StartError::Store`] when the store cannot be used.
    pub fn address(&self) -> Result<Option<Address>, StartError> {
        self.with_store(|m, cx| own_address(m, cx))
    }

    pub(crate) fn identity(&self) -> &std::sync::Arc<Identity> {
        &self.identity
    }

    /// The store's file, created private when it is missing.
    pub(crate) fn store_path(&self) -> Result<PathBuf, StartError> {
        let path = self.store_file();
        match files::open_private(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(StartError::File { path, source }),
        }
    }

    pub(crate) fn data_key(&self) -> Option<&DataKey> {
        self.data_key.as_ref()
    }

    fn store_file(&self) -> PathBuf {
        self.path.join(store_name(self.data_key.as_ref()))
    }

    /// Deletes what a change of the key has left behind.
    fn tidy(&self) -> Result<(), StartError> {
        let key_path = self.path.join(KEY_FILE);
        let draft = files::draft(&key_path);
        files::wipe(&draft).map_err(at(&draft))?;
        let stores = [PLAIN_STORE, LOCKED_STORE].map(|name| self.path.join(name));
        let ours = self.store_file();
        for other in stores.iter().filter(|store| **store != ours) {
            if other.exists() && !ours.exists() {
                // Not of our making: no change ends like this.
                let why = match self.data_key {
                    Some(_) => "it is a locked home's, but the store beside it is not locked",
                    None => "it is not locked, but the store beside it is",
                };
                return Err(StartError::KeyFile { path: key_path, why: why.into() });
            }
            files::wipe_database(other).map_err(at(other))?;
        }
        Ok(())
    }

    fn with_store<T>(
        &self,
        work: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StartError> {
        let path = self.store_path()?;
        let identity = self.identity.clone();
        Ok(read_once((&path, self.data_key()), |cx| Messenger::load(cx, identity, false), work)?)
    }
}

/// Takes a home for this process: the lock lasts as long as the file is open. A directory that is
/// missing is created.
fn take(path: &Path) -> Result<File, StartError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
    let lock_path = path.join(LOCK_FILE);
    let lock = files::open_private(&lock_path).map_err(at(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StartError::AlreadyRunning { home: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(at(&lock_path)(e)),
    }
}

/// Sets what a home is told at its beginning.
pub(crate) fn set_up(
    m: &Messenger,
    cx: &Context<'_>,
    peer: Option<(&PeerHost, Option<PeerFingerprint>)>,
    name: Option<&str>,
) -> Result<(), StoreError> {
    if let Some((peer, key)) = peer {
        m.set_own_peers(cx, &[peer.to_hint(key)])?;
        if let Some(key) = key {
            // The owner says so, which weighs more than what was seen.
            cx.db.replace_pin(peer, &key)?;
        }
    }
    match name {
        Some(name) => m.set_own_name(cx, name),
        None => Ok(()),
    }
}

/// Keeps an invite for the first of the own peers, which it returns.
pub(crate) fn set_invite(
    m: &Messenger,
    cx: &Context<'_>,
    invite: &Invite,
) -> Result<Option<PeerHost>, StoreError> {
    let Some(address) = own_address(m, cx)? else { return Ok(None) };
    m.set_invite(cx, &address.peer, invite)?;
    Ok(Some(address.peer))
}

/// The address of the store's identity; `None` before a rendezvous peer is set.
pub(crate) fn own_address(m: &Messenger, cx: &Context<'_>) -> Result<Option<Address>, StoreError> {
    let Some(hint) = m.own_peers(cx)?.into_iter().next() else { return Ok(None) };
    let peer =
        PeerHost::new(&hint.host, hint.port).map_err(|_| StoreError::Unreadable("own peers"))?;
    let peer_key = cx.db.pin(&peer)?.or(hint.key);
    Ok(Some(Address { peer, peer_key, fingerprint: m.fingerprint() }))
}

/// What a key file holds: the identity, and the key of the store when the home is locked.
fn read_key_file(
    home: &Path,
    path: &Path,
    text: &str,
    key: Option<&HomeKey>,
) -> Result<(Identity, Option<DataKey>), StartError> {
    let refused = |why: String| StartError::KeyFile { path: path.to_owned(), why };
    let home = home.to_owned();
    match (LockedHome::is_one(text), key) {
        (false, None) => {
            let identity = Identity::from_key_file(text).map_err(|e| refused(e.to_string()))?;
            Ok((identity, None))
        }
        (true, Some(key)) => {
            let locked = LockedHome::from_key_file(text).map_err(|e| refused(e.to_string()))?;
            let (identity, data_key) = locked.unlock(key).map_err(|e| match e {
                UnlockError::WrongKey => StartError::WrongPassphrase { home },
                other => refused(other.to_string()),
            })?;
            Ok((identity, Some(data_key)))
        }
        (true, None) => Err(StartError::Locked { home }),
        (false, Some(_)) => Err(StartError::NotLocked { home }),
    }
}

fn write_key_file(
    path: &Path,
    identity: &Identity,
    lock: Option<(&DataKey, &HomeKey)>,
) -> Result<(), StartError> {
    let text = match lock {
        Some((data_key, key)) => LockedHome::lock(identity, data_key, key)
            .map_err(|e| StartError::KeyFile { path: path.to_owned(), why: e.to_string() })?
            .to_key_file(),
        None => identity.to_key_file(),
    };
    files::write_whole(path, text.as_bytes()).map_err(at(path))
}

fn store_name(data_key: Option<&DataKey>) -> &'static str {
    match data_key {
        Some(_) => LOCKED_STORE,
        None => PLAIN_STORE,
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { path: path.clone(), source }
}
