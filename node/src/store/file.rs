//! The database's file: plain, or encrypted page by page under the key of a locked home.
//!
//! Keys enter SQLite here and nowhere else. They are in the text of what is executed, and SQLite
//! puts that text into its errors, so errors leave without it.

use std::fmt::Write;
use std::path::Path;

use data_encoding::HEXLOWER;
use halloo_identity::DataKey;
// SQLite itself, which `rusqlite` calls.
use halloo_sqlite as _;
use rusqlite::Connection;
use zeroize::Zeroizing;

use super::StoreError;
use super::db::Db;
use crate::core::strip_for_backup;

/// A file and the key of its pages; `None` for a plain one.
pub(crate) type Keyed<'a> = (&'a Path, Option<&'a DataKey>);

/// Opens a database. A wrong key shows when it is first read: [`StoreError::NotOurs`].
pub(super) fn open((path, key): Keyed<'_>) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    if let Some(key) = key {
        connection.pragma_update(None, "key", secret(key).as_str()).map_err(without_text)?;
    }
    Ok(connection)
}

/// Copies a database into a file that is empty, under another key, and reads the copy through. No
/// page, journal or temporary file of the copy is ever written under another key than its own.
/// What is in the copy may not be on the disk yet.
///
/// # Errors
/// [`StoreError`] when the source cannot be read, the copy cannot be written, or is not whole.
pub(crate) fn copy(from: Keyed<'_>, to: Keyed<'_>) -> Result<(), StoreError> {
    copy_open(&open(from)?, to)
}

/// The same of a database that is open, between two transactions.
pub(super) fn copy_open(source: &Connection, to: Keyed<'_>) -> Result<(), StoreError> {
    source.execute("VACUUM INTO ?", [uri(to).as_str()]).map_err(without_text)?;
    check(&open(to)?)
}

/// Takes out of a copy what a backup must not hold. Nothing of it is left in free pages.
///
/// # Errors
/// [`StoreError`] when the disk refuses or the copy cannot be read.
pub(crate) fn strip(copy: Keyed<'_>) -> Result<(), StoreError> {
    let connection = open(copy)?;
    connection.pragma_update(None, "secure_delete", true)?;
    let transaction = connection.unchecked_transaction()?;
    strip_for_backup(Db::new(&transaction))?;
    transaction.commit()?;
    connection.execute_batch("VACUUM")?;
    check(&connection)
}

fn check(connection: &Connection) -> Result<(), StoreError> {
    let check: String = connection.pragma_query_value(None, "quick_check", |r| r.get(0))?;
    match check.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt),
    }
}

/// A key as SQLite takes it: used as it is, not stretched.
fn secret(key: &DataKey) -> Zeroizing<String> {
    let hex = Zeroizing::new(HEXLOWER.encode(key.as_bytes()));
    let mut text = Zeroizing::new(String::with_capacity(4 + hex.len()));
    text.push_str("raw:");
    text.push_str(&hex);
    text
}

/// A file and its key as one name. An empty key makes the file plain.
fn uri((path, key): Keyed<'_>) -> Zeroizing<String> {
    let path = path.as_os_str().as_encoded_bytes();
    let mut uri = Zeroizing::new(String::with_capacity(3 * path.len() + 100));
    uri.push_str("file:");
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            other => {
                // Writing to a string does not fail.
                let _ = write!(uri, "%{other:02x}");
            }
        }
    }
    uri.push_str("?key=");
    if let Some(key) = key {
        uri.push_str(&secret(key));
    }
    uri
}

/// An error without what SQLite says about it, which may quote a key.
fn without_text(e: rusqlite::Error) -> StoreError {
    match e.sqlite_error() {
        Some(code) => rusqlite::Error::SqliteFailure(*code, None).into(),
        None => rusqlite::Error::InvalidQuery.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(path: &Path, key: Option<&DataKey>) {
        let db = open((path, key)).unwrap();
        db.execute_batch(
            "CREATE TABLE t (no INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT);
             INSERT INTO t (x) VALUES ('a word to find'), ('deleted later');
             DELETE FROM t WHERE no = 2; PRAGMA user_version = 7; PRAGMA application_id = 8;",
        )
        .unwrap();
    }

    fn state(path: &Path, key: Option<&DataKey>) -> Result<(String, i64, i64, i64), StoreError> {
        Ok(open((path, key))?.query_row(
            "SELECT x, u.user_version, a.application_id, s.seq FROM t, pragma_user_version u, \
             pragma_application_id a, sqlite_sequence s",
            [],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
        )?)
    }

    #[test]
    fn a_copy_is_whole_under_any_key() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (DataKey::generate(), DataKey::generate());
        for (no, (from, to)) in
            [(None, Some(&a)), (Some(&a), Some(&b)), (Some(&b), None)].into_iter().enumerate()
        {
            // Names that a URI has other uses for.
            let source = folder.path().join(format!("from {no}?x=%41#&.db"));
            let target = folder.path().join(format!("to {no} ü?key=.db"));
            filled(&source, from);
            copy((&source, from), (&target, to)).unwrap();
            assert_eq!(state(&target, to).unwrap(), ("a word to find".into(), 7, 8, 2));
            let raw = std::fs::read(&target).unwrap();
            let found = raw.windows(14).any(|w| w == b"a word to find");
            assert_eq!(found, to.is_none());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "nothing else is left");
    }

    #[test]
    fn a_wrong_key_or_none_reads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        filled(&path, Some(&DataKey::generate()));
        for key in [None, Some(&DataKey::generate())] {
            assert!(matches!(state(&path, key), Err(StoreError::NotOurs)));
        }
    }

    #[test]
    fn a_page_that_is_changed_or_moved_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let key = DataKey::generate();
        filled(&path, Some(&key));
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(509) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let check = open((&path, Some(&key)))
                .and_then(|db| Ok(db.pragma_query_value(None, "quick_check", |r| r.get(0))?));
            assert_ne!(check.ok(), Some("ok".to_owned()), "byte {at}");
        }
        let mut moved = whole.clone();
        moved[4096..8192].copy_from_slice(&whole[8192..12288]);
        moved[8192..12288].copy_from_slice(&whole[4096..8192]);
        std::fs::write(&path, &moved).unwrap();
        assert!(state(&path, Some(&key)).is_err());
    }

    #[test]
    fn no_error_quotes_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let (source, key) = (folder.path().join("t.db"), DataKey::from_bytes([0xab; 32]));
        filled(&source, None);
        let target = folder.path().join("no such folder/t.db");
        let error = copy((&source, None), (&target, Some(&key))).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("abab") && !said.contains("raw:"), "{said}");
    }
}
