//! The database's shape and its migrations.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::StoreError;

/// Each entry takes the database from its index to the next version. An entry that has been
/// released is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("v1.sql"),
    include_str!("v2.sql"),
    include_str!("v3.sql"),
    include_str!("v4.sql"),
    include_str!("v5.sql"),
];

/// Marks the file as a Halloo node's (`PRAGMA application_id`): "Hloo".
const APPLICATION_ID: i64 = 0x486c_6f6f;

/// Statements that stay compiled: all that there are.
const STATEMENTS: usize = 128;

/// Brings to the disk what a process that was killed has left in the operating system's memory:
/// commits that are there to be read, and that a power loss would take back. What is promised
/// because of them, such as a receipt or the `Ok` of a `send` that is repeated, has to outlive that.
fn settle(db: &Connection) -> Result<(), StoreError> {
    let checkpoint = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    match checkpoint.map_err(StoreError::from) {
        // The log is synced before it is copied, and only the copy needs room.
        Err(StoreError::DiskFull) => Ok(()),
        other => other,
    }
}

/// Prepares a connection and brings the database to the newest version.
///
/// # Errors
/// [`StoreError::NotOurs`] for another program's file, [`StoreError::TooNew`] for one that a newer
/// version wrote, [`StoreError::Corrupt`] when SQLite finds the file damaged.
pub(crate) fn prepare(db: &Connection) -> Result<(), StoreError> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // A plan does not depend on the values: else statements are compiled again for each.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Before WAL, so that its index stays in this process's memory: one process has the store.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit is on disk before `send` returns. NORMAL may roll back at a power loss,
    // which would reuse message keys.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "secure_delete", true)?;

    let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    let application: i64 = db.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(StoreError::NotOurs);
    }
    let from = usize::try_from(version).map_err(|_| StoreError::NotOurs)?;
    if from > MIGRATIONS.len() {
        return Err(StoreError::TooNew { version: from, known: MIGRATIONS.len() });
    }
    settle(db)?;
    let check: String = db.pragma_query_value(None, "quick_check", |r| r.get(0))?;
    if check != "ok" {
        return Err(StoreError::Corrupt);
    }
    for (i, sql) in MIGRATIONS.iter().enumerate().skip(from) {
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {sql}; PRAGMA application_id = {APPLICATION_ID}; \
             PRAGMA user_version = {}; COMMIT;",
            i + 1
        ))?;
    }
    Ok(())
}
