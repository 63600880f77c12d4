//! The file: opening, refusing, surviving.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use halloo_e2ee::UnixTime;
use halloo_identity::{Identity, Seeds};
use halloo_wire::content::{Body, Content, Message};
use halloo_wire::{Seq, StreamId};
use rusqlite::Connection;

use super::{Db, Store, StoreError, schema};
use crate::contact::ContactState;
use crate::core::{Context, Departure, Messenger};
use crate::event::{Cursor, Delivery};

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

/// A store that the first version wrote keeps everything: who is known, what was said and what waits.
/// What was encrypted in that version's form is encrypted again. Its owner's seeds are all 7, the contact's 8.
#[test]
fn a_store_of_the_first_version_keeps_everything() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/store-v1.db");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    std::fs::copy(fixture, &path).unwrap();
    let sql = Connection::open(&path).unwrap();
    let bundle: Vec<u8> = sql.query_row("SELECT bundle FROM contacts", [], |r| r.get(0)).unwrap();
    let mut q = sql.prepare("SELECT inner FROM outbox ORDER BY seq").unwrap();
    let inner: Vec<Option<Vec<u8>>> =
        q.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    drop(q);
    assert!(inner.len() > 32 && inner[0].is_some() && inner.last() == Some(&None));
    schema::prepare(&sql).unwrap();

    let identity =
        |n| Identity::from_seeds(Seeds { passport: [n; 32], ml_dsa: [n; 32], device: [n; 32] });
    let ben = identity(8).fingerprint();
    let mut cx = Context::new(Db::new(&sql), UnixTime(1_800_000_000));
    let mut mind = Messenger::load(&mut cx, Arc::new(identity(7)), false).unwrap();
    let contact = cx.db.contact(&ben).unwrap().unwrap();
    assert_eq!((contact.name.as_str(), contact.state), ("Ben", ContactState::Accepted));
    assert_eq!(cx.db.contact_bundle(&ben).unwrap(), Some(bundle.clone()));
    assert_eq!(mind.mail(&cx, &ben).unwrap().unwrap().bundle, Some(bundle));

    let said = cx.db.history(&ben, 100).unwrap();
    let texts: Vec<String> = said
        .iter()
        .map(|h| match Message::decode(&h.content).unwrap().body {
            Body::Text(text) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(texts[..3], ["delivered", "from Ben", "an answer, encrypted"]);
    assert_eq!(texts.len(), 43);
    assert_eq!(mind.delivery(&cx, &said[0].id).unwrap(), Some(Delivery::Delivered));
    assert_eq!(mind.delivery(&cx, &said[2].id).unwrap(), Some(Delivery::Waiting));
    assert_eq!(mind.delivery(&cx, &said[42].id).unwrap(), Some(Delivery::Waiting));
    assert!(cx.db.events(Cursor(0), 100).unwrap().len() >= 4);
    assert!(cx.db.safety(&ben).unwrap().is_some());

    // The session goes on behind what was encrypted.
    let Departure::Ready(ready) = mind.depart(&mut cx, &ben, Seq(0), 100).unwrap() else {
        panic!("the session is there")
    };
    assert_eq!(ready.len(), inner.len());
    for (ready, inner) in ready.iter().zip(&inner) {
        assert!(inner.as_ref().is_none_or(|inner| *inner != ready.inner));
    }
}

/// The third version noted that something was missing, and not where: it is asked for until the
/// stream moves on.
#[test]
fn a_store_of_the_third_version_keeps_what_is_missing() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/store-v1.db");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    std::fs::copy(fixture, &path).unwrap();
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch(include_str!("v2.sql")).unwrap();
    sql.execute_batch(include_str!("v3.sql")).unwrap();
    sql.execute_batch("INSERT INTO missing SELECT fp, 3 FROM contacts; PRAGMA user_version = 3")
        .unwrap();
    schema::prepare(&sql).unwrap();

    let db = Db::new(&sql);
    let (contact, _, asked) = db.missing().unwrap()[0];
    assert_eq!(asked, 3);
    db.no_longer_missing(&contact, (StreamId(1), Seq(1))).unwrap();
    assert!(db.missing().unwrap().is_empty());
}
