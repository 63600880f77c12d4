//! The database inside of a transaction: typed access, so that all SQL stays in this folder.
//! Small facts, peers' keys and our prekey bundles are here.

use halloo_identity::{PeerFingerprint, PeerHost};
use halloo_wire::peer::Publication;
use rusqlite::{Connection, OptionalExtension, Row, params};
use zeroize::Zeroizing;

use super::StoreError;

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// The database inside of a transaction.
#[derive(Clone, Copy)]
pub(crate) struct Db<'a> {
    pub(super) sql: &'a Connection,
}

impl<'a> Db<'a> {
    pub(crate) fn new(sql: &'a Connection) -> Self {
        Self { sql }
    }

    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.sql.execute_batch(sql)?)
    }

    /// Runs one statement without values, which stays compiled.
    pub(crate) fn step(&self, sql: &str) -> Result<()> {
        self.sql.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut q = self.sql.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
        Ok(q.query_row([key], |r| r.get(0)).optional()?)
    }

    pub(crate) fn set_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.sql
            .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)")?
            .execute(params![key, value])?;
        Ok(())
    }

    pub(crate) fn remove_meta(&self, key: &str) -> Result<()> {
        self.sql.prepare_cached("DELETE FROM meta WHERE key = ?")?.execute([key])?;
        Ok(())
    }

    /// Removes all sessions, prekeys, exchanges and ciphertexts.
    pub(crate) fn remove_keys(&self) -> Result<()> {
        self.execute(
            "DELETE FROM sessions; DELETE FROM bundles; DELETE FROM contact_bundles; \
             DELETE FROM safety; UPDATE outbox SET \
             inner = NULL, transcript = NULL, parked_instance = NULL, parked_until = NULL",
        )
    }

    /// Counts up a number in `meta`, to `at_least` or more, and returns it; the first is 1.
    pub(crate) fn count_up(&self, key: &str, at_least: u64) -> Result<u64> {
        let next = at_least.max(self.count(key)? + 1);
        self.set_count(key, next)?;
        Ok(next)
    }

    /// A number in `meta`, 0 at first.
    pub(crate) fn count(&self, key: &str) -> Result<u64> {
        match self.meta(key)? {
            None => Ok(0),
            Some(v) => {
                v.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Unreadable("counter"))
            }
        }
    }

    pub(crate) fn set_count(&self, key: &str, value: u64) -> Result<()> {
        self.set_meta(key, &value.to_be_bytes())
    }

    pub(crate) fn pin(&self, peer: &PeerHost) -> Result<Option<PeerFingerprint>> {
        let mut q = self.sql.prepare_cached("SELECT key FROM pins WHERE host = ? AND port = ?")?;
        let key: Option<Vec<u8>> =
            q.query_row(params![peer.host(), peer.port()], |r| r.get(0)).optional()?;
        key.map(|k| array(&k, "peer key").map(PeerFingerprint::from_bytes)).transpose()
    }

    /// Remembers a peer's key unless one is remembered.
    pub(crate) fn add_pin(&self, peer: &PeerHost, key: &PeerFingerprint) -> Result<()> {
        self.sql
            .prepare_cached("INSERT OR IGNORE INTO pins (host, port, key) VALUES (?, ?, ?)")?
            .execute(params![peer.host(), peer.port(), key.as_bytes()])?;
        Ok(())
    }

    pub(crate) fn replace_pin(&self, peer: &PeerHost, key: &PeerFingerprint) -> Result<()> {
        self.sql
            .prepare_cached("INSERT OR REPLACE INTO pins (host, port, key) VALUES (?, ?, ?)")?
            .execute(params![peer.host(), peer.port(), key.as_bytes()])?;
        Ok(())
    }

    pub(crate) fn add_bundle(
        &self,
        seq: u64,
        secrets: &[u8],
        encoded: &[u8],
        one_time_keys: &[[u8; 32]],
        now: u64,
    ) -> Result<()> {
        self.sql
            .prepare_cached(
                "INSERT INTO bundles (seq, secrets, encoded, one_time_keys, created) \
                 VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                seq as i64,
                secrets,
                encoded,
                one_time_keys.as_flattened(),
                now as i64
            ])?;
        Ok(())
    }

    /// The bundle that was made last.
    pub(crate) fn newest_bundle(&self) -> Result<Option<Publication>> {
        let mut q = self.sql.prepare_cached(
            "SELECT seq, encoded, one_time_keys FROM bundles ORDER BY seq DESC LIMIT 1",
        )?;
        let row = q
            .query_row([], |r| Ok((u64_at(r, 0)?, r.get(1)?, r.get::<_, Vec<u8>>(2)?)))
            .optional()?;
        Ok(row.map(|(seq, bundle, keys)| Publication {
            seq,
            bundle,
            one_time_keys: keys.as_chunks::<32>().0.to_vec(),
        }))
    }

    pub(crate) fn bundle_secrets(&self) -> Result<Vec<(u64, Zeroizing<Vec<u8>>)>> {
        let mut q = self.sql.prepare_cached("SELECT seq, secrets FROM bundles")?;
        let rows = q.query_map([], |r| Ok((u64_at(r, 0)?, Zeroizing::new(r.get(1)?))))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    pub(crate) fn remove_bundle(&self, seq: u64) -> Result<()> {
        self.sql.prepare_cached("DELETE FROM bundles WHERE seq = ?")?.execute([seq as i64])?;
        Ok(())
    }
}

/// SQLite's integers are signed: numbers above 2^63, such as stream ids, keep their bits.
pub(super) fn u64_at(r: &Row<'_>, i: usize) -> rusqlite::Result<u64> {
    r.get::<_, i64>(i).map(|v| v as u64)
}

pub(super) fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| StoreError::Unreadable(what))
}
