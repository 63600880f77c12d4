//! The home directory: a key file, the store, and a lock.
//!
//! ```text
//! identity.key   the passport's and the device's secrets (0600)
//! node.db        contacts, messages, ratchets (0600; SQLite, with -wal and -shm beside it)
//! node.lock      locked while a node runs here
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use halloo_identity::{Address, Identity, PeerFingerprint, PeerHost};

use crate::core::{Context, Messenger};
use crate::error::StartError;
use crate::store::{StoreError, read_once};

const KEY_FILE: &str = "identity.key";
const STORE_FILE: &str = "node.db";
const LOCK_FILE: &str = "node.lock";

/// A home that is locked for this process.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    identity: std::sync::Arc<Identity>,
    /// The lock lives as long as the file is open.
    _lock: File,
}

impl Home {
    /// Opens a home and locks it. What is missing is created: the directory (0700) and an
    /// identity. Blocks for a moment on the disk.
    ///
    /// # Errors
    /// [`StartError::AlreadyRunning`] when another process has it, [`StartError::KeyFile`] when the
    /// key file is damaged, [`StartError::File`] when the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let at = |p: &Path| {
            let path = p.to_owned();
            move |source| StartError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = open_private(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::AlreadyRunning { home: path.to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(at(&lock_path)(e)),
        }
        let key_path = path.join(KEY_FILE);
        if fs::metadata(&key_path).is_ok_and(|m| m.mode() & 0o077 != 0) {
            let why = "other users of this machine can read it (chmod 600 mends that)".into();
            return Err(StartError::KeyFile { path: key_path, why });
        }
        let identity = match fs::read_to_string(&key_path).map(zeroize::Zeroizing::new) {
            Ok(text) => Identity::from_key_file(&text)
                .map_err(|e| StartError::KeyFile { path: key_path, why: e.to_string() })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if path.join(STORE_FILE).exists() {
                    // A new identity would make the old messages unreadable and unreachable.
                    let why = "it is missing, but the store beside it is there".into();
                    return Err(StartError::KeyFile { path: key_path, why });
                }
                let identity = Identity::generate();
                write_new(&key_path, identity.to_key_file().as_bytes()).map_err(at(&key_path))?;
                identity
            }
            Err(e) => return Err(at(&key_path)(e)),
        };
        Ok(Self { path: path.to_owned(), identity: identity.into(), _lock: lock })
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
        let path = self.path.join(STORE_FILE);
        match open_private(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(StartError::File { path, source }),
        }
    }

    fn with_store<T>(
        &self,
        work: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StartError> {
        let path = self.store_path()?;
        let identity = self.identity.clone();
        Ok(read_once(&path, |cx| Messenger::load(cx, identity, false), work)?)
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

/// The address of the store's identity; `None` before a rendezvous peer is set.
pub(crate) fn own_address(m: &Messenger, cx: &Context<'_>) -> Result<Option<Address>, StoreError> {
    let Some(hint) = m.own_peers(cx)?.into_iter().next() else { return Ok(None) };
    let peer =
        PeerHost::new(&hint.host, hint.port).map_err(|_| StoreError::Unreadable("own peers"))?;
    let peer_key = cx.db.pin(&peer)?.or(hint.key);
    Ok(Some(Address { peer, peer_key, fingerprint: m.fingerprint() }))
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Writes a file that is there as a whole or not at all, also after a power loss.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
