//! The file: opening, refusing, surviving.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use halloo_identity::Identity;
use rusqlite::Connection;

use super::{Store, StoreError, schema};
use crate::core::Messenger;

fn open(path: &std::path::Path, identity: &Arc<Identity>) -> Result<Store, StoreError> {
    let identity = Arc::clone(identity);
    Store::open(Some((path, None)), |cx| Messenger::load(cx, identity, false), Arc::new(|_| {}), ())
        .map(|(store, _thread)| store)
}

#[test]
fn a_new_file_is_ours_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    let identity = Arc::new(Identity::generate());
    for _ in 0..2 {
        let identity = Arc::clone(&identity);
        let (store, thread) = Store::open(
            Some((&path, None)),
            |cx| Messenger::load(cx, identity, false),
            Arc::new(|_| {}),
            (),
        )
        .unwrap();
        drop(store);
        thread.join();
    }
}

#[test]
fn another_identity_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    let identity = Arc::new(Identity::generate());
    let (store, thread) = Store::open(
        Some((&path, None)),
        |cx| Messenger::load(cx, identity, false),
        Arc::new(|_| {}),
        (),
    )
    .unwrap();
    drop(store);
    thread.join();
    let other = Arc::new(Identity::generate());
    assert!(matches!(open(&path, &other), Err(StoreError::OtherIdentity)));
}

#[test]
fn a_file_of_another_program_or_a_newer_version_or_garbage_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Arc::new(Identity::generate());

    let foreign = folder.path().join("foreign.db");
    let db = Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(db);
    assert!(matches!(open(&foreign, &identity), Err(StoreError::NotOurs)));

    let newer = folder.path().join("newer.db");
    let db = Connection::open(&newer).unwrap();
    schema::prepare(&db).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(open(&newer, &identity), Err(StoreError::TooNew { version: 99, .. })));

    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, vec![7u8; 8192]).unwrap();
    assert!(matches!(open(&garbage, &identity), Err(StoreError::NotOurs)));
    assert_eq!(std::fs::read(&garbage).unwrap(), vec![7u8; 8192]);
}

/// The first version's schema, as it was released: later versions must open it.
#[test]
fn a_store_of_every_released_version_opens() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/store-v1.db");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    std::fs::copy(fixture, &path).unwrap();
    let db = Connection::open(&path).unwrap();
    schema::prepare(&db).unwrap();
    let name: String = db.query_row("SELECT name FROM contacts", [], |r| r.get(0)).unwrap();
    assert_eq!(name, "Ben");
}
