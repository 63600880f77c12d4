//! The peer's key on disk: the only thing that it ever writes.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use halloo_identity::{KeyFileError, PeerKey};
use zeroize::Zeroizing;

/// Name of the key file in the data directory.
pub const KEY_FILE: &str = "peer.key";

/// A key file has a few hundred bytes; something larger is something else.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Why the key could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory {}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The key file cannot be read.
    #[error("cannot read the key file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The key file cannot be written.
    #[error("cannot write the key file {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner can read or write the key file.
    #[error("the key file {} is open to others (mode {mode:04o})", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key file.
    #[error("the key file {} cannot be used", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyFileError,
    },
}

/// Reads the key in `data_dir`; `None` when there is none yet.
///
/// # Errors
/// [`KeyError`] when the file is there and cannot be used. A file that others can read is refused.
pub fn load(data_dir: &Path) -> Result<Option<PeerKey>, KeyError> {
    let path = data_dir.join(KEY_FILE);
    let failed = |source| KeyError::Read { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::OpenToOthers { path, mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(failed)?;
    match PeerKey::from_key_file(&text) {
        Ok(key) => Ok(Some(key)),
        Err(source) => Err(KeyError::Damaged { path, source }),
    }
}

/// Reads the key in `data_dir`, or makes one at the first start. The file comes into being whole
/// and closed to others, or not at all; one that is there is never replaced.
///
/// # Errors
/// [`KeyError`]
pub fn load_or_create(data_dir: &Path) -> Result<PeerKey, KeyError> {
    if let Some(key) = load(data_dir)? {
        return Ok(key);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| KeyError::Directory { path: data_dir.to_owned(), source })?;
    let key = PeerKey::generate();
    let path = data_dir.join(KEY_FILE);
    match write_whole(data_dir, &path, key.to_key_file().as_bytes()) {
        Ok(()) => Ok(key),
        // Another process was first: its key is the peer's.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            load(data_dir)?.ok_or(KeyError::Write { path, source: e })
        }
        Err(source) => Err(KeyError::Write { path, source }),
    }
}

fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix)?;
    let draft = dir.join(format!(".{KEY_FILE}.{:016x}", u64::from_ne_bytes(suffix)));
    let written = write_draft(&draft, bytes).and_then(|()| {
        // A link, unlike a rename, fails when the name is taken.
        std::fs::hard_link(&draft, path)
    });
    let removed = std::fs::remove_file(&draft);
    written?;
    removed?;
    File::open(dir)?.sync_all()
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    // The mode above is cut by the umask, never widened; this makes it exact.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_first_start_makes_a_key_and_later_ones_keep_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("deep/rendezvous-peer");
        assert!(load(&dir).unwrap().is_none());
        let made = load_or_create(&dir).unwrap().fingerprint();
        assert_eq!(load_or_create(&dir).unwrap().fingerprint(), made);
        assert_eq!(load(&dir).unwrap().unwrap().fingerprint(), made);
        assert_eq!(names(&dir), [KEY_FILE]);
        let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(KEY_FILE))), (0o700, 0o600));
    }

    #[test]
    fn those_who_start_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|s| {
            let starts: Vec<_> =
                (0..8).map(|_| s.spawn(|| load_or_create(dir.path()).unwrap())).collect();
            starts.into_iter().map(|t| t.join().unwrap().fingerprint()).collect()
        });
        assert!(keys.iter().all(|k| *k == keys[0]));
        assert_eq!(names(dir.path()), [KEY_FILE]);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let refused = load(dir.path());
        assert!(matches!(refused, Err(KeyError::OpenToOthers { mode: 0o644, .. })));
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        write_draft(&dir.path().join(KEY_FILE), b"not a key").unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(KeyError::Damaged { .. })));
        assert_eq!(std::fs::read(dir.path().join(KEY_FILE)).unwrap(), b"not a key");
    }
}
