//! What a node keeps: one SQLite file, one thread that writes it.
//!
//! [`Store::run`] sends a closure to the thread, where it works on the `Messenger` inside of a
//! transaction. Closures that wait together share one commit (group commit). A reply leaves only
//! after the commit is on disk, and so do the outputs (events, wake-ups): nothing is promised
//! before it is persisted, in one place and for everything.

mod contacts;
mod db;
mod file;
mod messages;
mod schema;
mod streams;
#[cfg(test)]
mod tests;
mod thread;

use std::path::PathBuf;

pub(crate) use contacts::{ContactRow, SafetyRow};
pub(crate) use db::Db;
pub(crate) use file::{copy, strip};
pub(crate) use messages::{MAX_PARKED_S, NewHistory, Outgoing, Unacked, Unsent};
pub(crate) use schema::prepare as prepare_schema;
pub(crate) use streams::Incoming;
pub(crate) use thread::{Store, StoreThread, read_once};
#[cfg(test)]
pub(crate) use {thread::prepare, thread::run_batch};

/// Why the store could not do what was asked. What was asked for did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk has no room.
    #[error("the disk is full: nothing was stored")]
    DiskFull,
    /// The disk refuses to be read or written.
    #[error("the disk cannot be read or written, it may be full: nothing was stored")]
    DiskFailed,
    /// The file is another program's.
    #[error("the file is not a Halloo store")]
    NotOurs,
    /// The file was written by a newer version.
    #[error(
        "the store has version {version}, this program knows up to {known}: use a newer program"
    )]
    TooNew {
        /// The file's version.
        version: usize,
        /// The newest version that this program knows.
        known: usize,
    },
    /// The file is damaged.
    #[error("the store is damaged: restore a backup into a new home")]
    Corrupt,
    /// The store belongs to another identity.
    #[error("the store belongs to another identity than the key file beside it")]
    OtherIdentity,
    /// Something in the store cannot be read back.
    #[error("the store holds something that cannot be read: {0}")]
    Unreadable(&'static str),
    /// The node is shutting down.
    #[error("the node has stopped")]
    Stopped,
    /// The file cannot be opened, read or written.
    #[error("cannot use the store {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the store failed: {0}")]
    Sqlite(rusqlite::Error),
}

impl StoreError {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DiskFull => "disk-full",
            Self::DiskFailed => "disk-failed",
            Self::NotOurs => "store-not-ours",
            Self::TooNew { .. } => "store-too-new",
            Self::Corrupt => "store-corrupt",
            Self::OtherIdentity => "store-other-identity",
            Self::Unreadable(_) => "store-unreadable",
            Self::Stopped => "node-stopped",
            Self::File { .. } => "store-file",
            Self::Sqlite(_) => "store-failed",
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::SystemIoFailure) => Self::DiskFailed,
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt,
            Some(ErrorCode::NotADatabase) => Self::NotOurs,
            _ => Self::Sqlite(e),
        }
    }
}

/// Brings an empty database to the newest version.
#[cfg(test)]
pub(crate) fn prepare_for_tests(db: &rusqlite::Connection) {
    schema::prepare(db).expect("an empty database can be prepared");
}
