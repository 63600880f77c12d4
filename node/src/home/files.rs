//! Files of a home: private, whole or not there, and overwritten before they are deleted.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What SQLite puts beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Opens a file that only its owner can read, and creates it when it is missing.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Writes a file that is there as a whole or not at all, also after a power loss. What stood there
/// before is overwritten.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let before = match OpenOptions::new().write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        before => Some(before?),
    };
    fs::rename(&draft, path)?;
    sync_folder(path)?;
    before.map_or(Ok(()), |before| blank(&before))
}

/// Where [`write_whole`] writes first.
pub(super) fn draft(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Has what happened in a file's folder on the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Overwrites and deletes a database and what lies beside it, if it is there.
pub(super) fn wipe_database(path: &Path) -> io::Result<()> {
    BESIDE.iter().try_for_each(|end| wipe(&with_end(path, end)))?;
    wipe(path)
}

/// Overwrites a file with zeros and deletes it, if it is there.
pub(super) fn wipe(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => blank(&file)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    fs::remove_file(path)?;
    sync_folder(path)
}

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

fn blank(mut file: &File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    let zeros = [0; 64 * 1024];
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        file.write_all(&zeros[..n as usize])?;
        left -= n;
    }
    file.sync_all()
}
