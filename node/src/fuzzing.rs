//! An entry point for fuzzing: it takes anything and panics when a promise does not hold.

use std::sync::{Arc, OnceLock};

use halloo_e2ee::UnixTime;
use halloo_identity::{Identity, Seeds};
// SQLite itself, which `rusqlite` calls.
use halloo_sqlite as _;
use halloo_wire::Seq;
use rusqlite::{Connection, MAIN_DB};

use crate::core::{Context, Messenger};
use crate::event::Cursor;
use crate::store::{Db, StoreError, prepare_schema};

/// Rows of a kind that are read.
const ROWS: usize = 64;

/// Opens a store from the bytes of its file, as a node does that starts, and reads everything in
/// it. The file belongs to the identity whose seeds are all 7. Returns the file as it is then, or
/// `None` when it was refused.
pub fn store(file: &[u8]) -> Option<Vec<u8>> {
    let mut db = Connection::open_in_memory().ok()?;
    db.deserialize_read_exact(MAIN_DB, file, file.len(), false).ok()?;
    read(&db).ok()?;
    db.serialize(MAIN_DB).ok().map(|bytes| bytes.to_vec())
}

fn read(db: &Connection) -> Result<(), StoreError> {
    static OWNER: OnceLock<Arc<Identity>> = OnceLock::new();
    let owner = OWNER.get_or_init(|| {
        let seeds = Seeds { passport: [7; 32], ml_dsa: [7; 32], device: [7; 32] };
        Arc::new(Identity::from_seeds(seeds))
    });
    prepare_schema(db)?;
    let mut cx = Context::new(Db::new(db), UnixTime(1_800_000_000));
    let mut mind = Messenger::load(&mut cx, Arc::clone(owner), false)?;
    // One that cannot be read does not hide the others.
    let _ = (cx.db.events(Cursor(0), ROWS), cx.db.missing(), cx.db.next_expiry());
    let _ = (mind.publication(&cx, None), mind.due_resends(&mut cx));
    for contact in cx.db.contacts()? {
        let fp = &contact.fp;
        let _ = (cx.db.history(fp, ROWS), cx.db.safety(fp), cx.db.incoming(fp));
        let _ = (mind.mail(&cx, fp), mind.due_ack(&cx, fp));
        let _ = mind.depart(&mut cx, fp, Seq(0), ROWS);
    }
    Ok(())
}
