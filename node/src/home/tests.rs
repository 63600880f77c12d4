//! Locked homes: what opens them, what lies on the disk, and what an interruption leaves.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use halloo_identity::{HomeKey, PeerHost};

use super::{Home, KEY_FILE, LOCKED_STORE, PLAIN_STORE, backup, files};
use crate::error::{BackupError, StartError};

/// What a thief looks for.
const NAME: &str = "Somebody Findable";
const TEXT: &str = "meet me at the old lighthouse";

fn key(passphrase: &str) -> HomeKey {
    HomeKey::passphrase(passphrase)
}

/// A home with a name, a contact and a message.
fn filled(path: &Path) -> Home {
    let home = Home::open(path).unwrap();
    fill(&home);
    home
}

fn fill(home: &Home) {
    let peer: PeerHost = "peer.example".parse().unwrap();
    home.set_up(Some((&peer, None)), Some(NAME)).unwrap();
    home.with_store(|_, cx| {
        cx.db.execute(&format!(
            "INSERT INTO contacts (fp, device, name, given_name, note, state, peers, cap_mine, \
             introduced, stream, next_seq, attempts, bundle_seq, bundle_at, ack_due, resend_at, \
             added) VALUES (zeroblob(30), 1, '{NAME}', '{NAME}', '{TEXT}', 2, x'00', zeroblob(32), 0, 1, 1, \
             x'00', 0, 0, 0, 0, 0); \
             INSERT INTO history (contact, outgoing, seq, id, at, body, state) \
             VALUES (zeroblob(30), 1, 1, zeroblob(16), 0, CAST('{TEXT}' AS BLOB), 0)"
        ))
    })
    .unwrap();
}

/// The message comes back.
fn is_whole(home: &Home) {
    let address = home.address().unwrap().unwrap();
    assert_eq!(address.peer.host(), "peer.example");
    let found = home.with_store(|_, cx| {
        cx.db.execute(
            "INSERT OR REPLACE INTO meta SELECT 'found', body FROM history WHERE seq = 1",
        )?;
        let found = cx.db.meta("found")?;
        cx.db.execute("DELETE FROM meta WHERE key = 'found'")?;
        Ok(found)
    });
    assert_eq!(found.unwrap().as_deref(), Some(TEXT.as_bytes()));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Whether anything that a thief looks for lies in a file of the home.
fn shows_something(folder: &Path) -> bool {
    let wanted = [NAME.as_bytes(), TEXT.as_bytes(), b"SQLite format 3", b"HALLOO IDENTITY"];
    names(folder).iter().any(|name| {
        let raw = fs::read(folder.join(name)).unwrap();
        wanted.iter().any(|wanted| raw.windows(wanted.len()).any(|w| w == *wanted))
    })
}

#[test]
fn a_locked_home_opens_with_its_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, key, wrong) in [
        ("passphrase", key("correct horse"), key("correct horse!")),
        ("keychain", HomeKey::from_bytes([1; 32]), HomeKey::from_bytes([2; 32])),
    ] {
        let path = path.join(name);
        let home = Home::unlock(&path, &key).unwrap();
        fill(&home);
        assert!(home.has_key() && Home::is_locked(&path));
        assert!(matches!(Home::unlock(&path, &key), Err(StartError::AlreadyRunning { .. })));
        drop(home);
        assert_eq!(names(&path), [KEY_FILE, LOCKED_STORE, "node.lock"]);
        assert!(!shows_something(&path));
        assert!(matches!(Home::open(&path), Err(StartError::Locked { .. })));
        assert!(matches!(Home::unlock(&path, &wrong), Err(StartError::WrongPassphrase { .. })));
        is_whole(&Home::unlock(&path, &key).unwrap());
    }
}

#[test]
fn a_key_for_a_home_that_takes_none_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()));
    assert!(shows_something(folder.path()) && !Home::is_locked(folder.path()));
    let refused = Home::unlock(folder.path(), &key("correct horse"));
    assert!(matches!(refused, Err(StartError::NotLocked { .. })));
    let mut home = Home::open(folder.path()).unwrap();
    assert!(matches!(home.set_key(Some(&key(""))), Err(StartError::EmptyPassphrase)));
    assert!(matches!(Home::unlock(folder.path(), &key("")), Err(StartError::EmptyPassphrase)));
}

#[test]
fn locking_changing_and_opening_up_keep_everything_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut home = filled(path);
    let who = home.identity().fingerprint();

    home.set_key(Some(&key("first"))).unwrap();
    is_whole(&home);
    assert!(!shows_something(path));
    drop(home);
    assert_eq!(names(path), [KEY_FILE, LOCKED_STORE, "node.lock"]);

    let mut home = Home::unlock(path, &key("first")).unwrap();
    home.set_key(Some(&HomeKey::from_bytes([9; 32]))).unwrap();
    drop(home);
    assert!(matches!(Home::unlock(path, &key("first")), Err(StartError::WrongPassphrase { .. })));
    let mut home = Home::unlock(path, &HomeKey::from_bytes([9; 32])).unwrap();
    is_whole(&home);
    assert_eq!(home.identity().fingerprint(), who);

    home.set_key(None).unwrap();
    is_whole(&home);
    drop(home);
    assert_eq!(names(path), [KEY_FILE, PLAIN_STORE, "node.lock"]);
    let home = Home::open(path).unwrap();
    is_whole(&home);
    assert_eq!(home.identity().fingerprint(), who);
}

#[test]
fn a_home_without_a_store_can_be_locked() {
    let folder = tempfile::tempdir().unwrap();
    let mut home = Home::open(folder.path()).unwrap();
    home.set_key(Some(&key("first"))).unwrap();
    fill(&home);
    drop(home);
    is_whole(&Home::unlock(folder.path(), &key("first")).unwrap());
    assert!(!shows_something(folder.path()));
}

#[test]
fn a_damaged_key_file_is_not_a_wrong_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    drop(Home::unlock(folder.path(), &key("first")).unwrap());
    let file = folder.path().join(KEY_FILE);
    let text = fs::read_to_string(&file).unwrap();
    let at = text.len() / 2;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    fs::write(&file, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    match Home::unlock(folder.path(), &key("first")) {
        Err(StartError::KeyFile { why, .. }) => assert!(why.contains("damaged"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Two homes with the same in them: one as it was filled, one locked afterwards.
fn plain_and_locked(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    let (plain, locked) = (folder.path().join("plain"), folder.path().join("locked"));
    drop(filled(&plain));
    copy_all(&plain, &locked);
    Home::open(&locked).unwrap().set_key(Some(&key("first"))).unwrap();
    (plain, locked)
}

/// The states in which a kill can leave a home while its key changes: before the key file is
/// replaced it is as it was, afterwards as asked for. Opening it deletes the rest.
#[test]
fn whatever_interrupts_a_change_the_home_is_in_the_old_or_the_new_state() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, locked) = plain_and_locked(&folder);
    let part = |store: &Path, share: usize| {
        let whole = fs::read(store).unwrap();
        whole[..whole.len() * share / 4].to_vec()
    };

    for share in 0..=4 {
        // Locking, before the key file: some of the new store, and perhaps a draft.
        let home = folder.path().join(format!("locking {share}"));
        copy_all(&plain, &home);
        fs::write(home.join(LOCKED_STORE), part(&locked.join(LOCKED_STORE), share)).unwrap();
        fs::copy(locked.join(KEY_FILE), files::draft(&home.join(KEY_FILE))).unwrap();
        is_whole(&Home::open(&home).unwrap());
        assert_eq!(names(&home), [KEY_FILE, PLAIN_STORE, "node.lock"]);

        // After it: some of the old store, overwritten or not, and what lay beside it.
        let home = folder.path().join(format!("locked {share}"));
        copy_all(&locked, &home);
        let mut old = part(&plain.join(PLAIN_STORE), 4);
        let blank = old.len() * share / 4;
        old[..blank].fill(0);
        fs::write(home.join(PLAIN_STORE), &old).unwrap();
        fs::write(home.join("node.db-wal"), &old).unwrap();
        is_whole(&Home::unlock(&home, &key("first")).unwrap());
        assert_eq!(names(&home), [KEY_FILE, LOCKED_STORE, "node.lock"]);
        assert!(!shows_something(&home));

        // Opening up, before the key file: the draft of the new one shows the secrets.
        let home = folder.path().join(format!("opening {share}"));
        copy_all(&locked, &home);
        fs::write(home.join(PLAIN_STORE), part(&plain.join(PLAIN_STORE), share)).unwrap();
        fs::copy(plain.join(KEY_FILE), files::draft(&home.join(KEY_FILE))).unwrap();
        is_whole(&Home::unlock(&home, &key("first")).unwrap());
        assert!(!shows_something(&home));
    }
}

/// A key file from a backup beside a store that it does not fit: nothing is deleted.
#[test]
fn a_store_that_the_key_file_does_not_fit_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, locked) = plain_and_locked(&folder);
    let sealed = fs::read(locked.join(KEY_FILE)).unwrap();
    fs::copy(plain.join(KEY_FILE), locked.join(KEY_FILE)).unwrap();
    assert!(matches!(Home::open(&locked), Err(StartError::KeyFile { .. })));
    fs::write(plain.join(KEY_FILE), sealed).unwrap();
    assert!(matches!(Home::unlock(&plain, &key("first")), Err(StartError::KeyFile { .. })));
    assert!(locked.join(LOCKED_STORE).exists() && plain.join(PLAIN_STORE).exists());
}

#[tokio::test]
async fn a_builder_opens_it_and_does_not_show_the_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || crate::Node::builder().home(folder.path());
    let with = builder().passphrase("correct horse");
    assert!(!format!("{with:?}").contains("correct horse"));
    // The one before gives the home up when its store is closed, which nobody waits for.
    let refused = async |builder: crate::Builder| loop {
        match builder.clone().start().await {
            Err(StartError::AlreadyRunning { .. }) => tokio::task::yield_now().await,
            result => return result.err(),
        }
    };
    // Without a peer it does not run; by then the home is made.
    assert!(matches!(refused(with).await, Some(StartError::NoPeer)));
    assert!(Home::is_locked(folder.path()));
    assert!(matches!(refused(builder()).await, Some(StartError::Locked { .. })));
    let wrong = builder().passphrase("correct hoarse");
    assert!(matches!(refused(wrong).await, Some(StartError::WrongPassphrase { .. })));
}

/// The store that the first version wrote, in a home of today.
#[test]
fn a_released_store_can_be_locked() {
    let folder = tempfile::tempdir().unwrap();
    let fixture: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/store-v1.db"].iter().collect();
    let mut home = Home::open(folder.path()).unwrap();
    fs::copy(fixture, folder.path().join(PLAIN_STORE)).unwrap();
    home.set_key(Some(&key("first"))).unwrap();
    let raw = fs::read(folder.path().join(LOCKED_STORE)).unwrap();
    assert!(!raw.windows(3).any(|w| w == b"Ben") && !raw.starts_with(b"SQLite"));
    home.set_key(None).unwrap();
    let raw = fs::read(folder.path().join(PLAIN_STORE)).unwrap();
    assert!(raw.windows(3).any(|w| w == b"Ben"));
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// A home, a backup of it, and what opens that.
fn backed_up(folder: &Path) -> (Home, PathBuf, HomeKey) {
    let home = filled(&folder.join("home"));
    let (file, key) = (folder.join("the.backup"), key("correct horse"));
    home.back_up(&file, &key, false).unwrap();
    (home, file, key)
}

#[test]
fn a_backup_is_one_file_that_shows_nothing_and_makes_a_home_again() {
    let folder = tempfile::tempdir().unwrap();
    let (home, file, backup_key) = backed_up(folder.path());
    assert_eq!(names(folder.path()), ["home", "the.backup"]);
    let raw = fs::read(&file).unwrap();
    for wanted in [NAME, TEXT, "SQLite format 3", "HALLOO IDENTITY"] {
        assert!(!raw.windows(wanted.len()).any(|w| w == wanted.as_bytes()), "{wanted}");
    }
    for (name, own) in [("plain", None), ("locked", Some(key("its own")))] {
        let path = folder.path().join(name);
        let restored = Home::restore(&path, &file, &backup_key, own.as_ref()).unwrap();
        is_whole(&restored);
        assert_eq!(restored.identity().fingerprint(), home.identity().fingerprint());
        let store = if own.is_some() { LOCKED_STORE } else { PLAIN_STORE };
        assert_eq!(names(&path), [KEY_FILE, store, "node.lock"]);
        assert_eq!(shows_something(&path), own.is_none());
        assert!(matches!(
            Home::restore(&path, &file, &backup_key, None),
            Err(BackupError::Home(e)) if matches!(*e, StartError::AlreadyRunning { .. })
        ));
        drop(restored);
        is_whole(&Home::open_as(&path, own.as_ref()).unwrap());
        let again = Home::restore(&path, &file, &backup_key, None);
        assert!(matches!(again, Err(BackupError::HomeInUse { .. })));
    }
}

#[test]
fn a_backup_is_replaced_as_a_whole_and_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (home, file, backup_key) = backed_up(folder.path());
    let before = fs::read(&file).unwrap();
    let refused = home.back_up(&file, &backup_key, false);
    assert!(matches!(refused, Err(BackupError::Exists { .. })));
    assert!(matches!(home.back_up(&file, &key(""), true), Err(BackupError::EmptyPassphrase)));
    assert_eq!(fs::read(&file).unwrap(), before);
    home.back_up(&file, &backup_key, true).unwrap();
    assert_ne!(fs::read(&file).unwrap(), before, "each has a key of its own");
    assert!(home.back_up(&folder.path().join("no folder/x"), &backup_key, false).is_err());
    assert_eq!(names(folder.path()), ["home", "the.backup"]);
}

#[test]
fn a_backup_that_is_damaged_cut_off_or_something_else_makes_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let (_home, file, backup_key) = backed_up(folder.path());
    let whole = fs::read(&file).unwrap();
    let refuses = |bytes: &[u8], key: &HomeKey| {
        let (path, file) = (folder.path().join("new"), folder.path().join("changed"));
        fs::write(&file, bytes).unwrap();
        let refused = Home::restore(&path, &file, key, None).unwrap_err();
        assert!(!path.join(KEY_FILE).exists());
        let opened = Home::open(&path);
        let unfinished = matches!(opened, Err(StartError::RestoreUnfinished { .. }));
        drop(opened);
        fs::remove_dir_all(&path).unwrap_or_default();
        (refused, unfinished)
    };
    let (refused, unfinished) = refuses(&whole, &key("wrong"));
    assert!(matches!(refused, BackupError::WrongPassphrase { .. }) && !unfinished);
    for bytes in [&b""[..], b"something else that is long enough", b"HALLOO BACKUP 2\n\0\0\0\0"] {
        let (refused, unfinished) = refuses(bytes, &backup_key);
        assert!(matches!(refused, BackupError::NotABackup { .. }) && !unfinished);
    }
    let database = whole.len() - 4096 * (whole.len() / 4096);
    for at in [17, 21, 700, database + 20, database + 5000, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let (refused, _) = refuses(&changed, &backup_key);
        let right = matches!(refused, BackupError::NotABackup { .. } | BackupError::Damaged { .. });
        assert!(right, "byte {at}: {refused}");
    }
    for length in [10, 100, database, database + 4096, whole.len() - 4096, whole.len() - 1] {
        let (refused, _) = refuses(&whole[..length], &backup_key);
        let right = matches!(refused, BackupError::NotABackup { .. } | BackupError::Damaged { .. });
        assert!(right, "{length} bytes: {refused}");
    }
}

#[test]
fn a_restore_that_was_interrupted_is_refused_until_it_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let (home, file, backup_key) = backed_up(folder.path());
    let path = folder.path().join("new");
    fs::create_dir(&path).unwrap();
    // As it is before the last step: everything is there, and so is the mark.
    fs::write(path.join(backup::UNFINISHED), "half a database").unwrap();
    fs::copy(home.path.join(KEY_FILE), path.join(KEY_FILE)).unwrap();
    fs::write(path.join(PLAIN_STORE), "half a store").unwrap();
    assert!(matches!(Home::open(&path), Err(StartError::RestoreUnfinished { .. })));
    is_whole(&Home::restore(&path, &file, &backup_key, None).unwrap());
    assert_eq!(names(&path), [KEY_FILE, PLAIN_STORE, "node.lock"]);
}
