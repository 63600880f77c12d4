//! A backup, another machine, and the same conversation.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Person, World, text};

#[test]
fn a_conversation_goes_on_from_a_backup_with_nothing_lost_and_nothing_twice() {
    let world = World::new();
    let (anna, ben, at_anna, at_ben) = world.friends();
    fs::write(world.path("word"), "correct horse\n").unwrap();
    fs::write(world.path("other"), "another horse\n").unwrap();
    let path = |name: &str| world.path(name).into_os_string().into_string().unwrap();
    let (word, other, file) = (path("word"), path("other"), path("anna.backup"));
    anna.ok(&["send", "ben", "before", "--wait", "delivered"]);
    ben.ok(&["send", "anna", "hello", "--wait", "delivered"]);

    // Ben is away: this waits, and is in the backup, which the running node writes.
    at_ben.kill();
    let waits = text(&anna.ok(&["send", "ben", "waits"])[0]["id"]);
    let written = anna.ok(&["backup", &file, "--new-passphrase-file", &word]);
    assert_eq!(written[0]["event"], "backup");
    let again = anna.run(&["backup", &file, "--new-passphrase-file", &word, "--json"]);
    assert_eq!((again.code(), again.error().as_str()), (8, "backup-exists"));
    at_anna.signal(Signal::TERM);
    at_anna.end();
    // And without a running node.
    anna.ok(&["backup", &file, "--replace", "--new-passphrase-file", &word]);

    // The machine is lost with everything on it.
    fs::remove_dir_all(&anna.home).unwrap();
    let anna = Person { home: world.path("new machine") };
    let wrong = anna.run(&["restore", &file, "--json", "--passphrase-file", &other]);
    assert_eq!((wrong.code(), wrong.error().as_str()), (7, "wrong-passphrase"));
    let told = anna.ok(&["restore", &file, "--passphrase-file", &word]);
    assert_eq!(told[0]["event"], "identity");
    let twice = anna.run(&["restore", &file, "--json", "--passphrase-file", &word]);
    assert_eq!((twice.code(), twice.error().as_str()), (8, "home-in-use"));
    let locked = anna.run(&["contacts", "--json"]);
    assert_eq!((locked.code(), locked.error().as_str()), (7, "home-locked"));

    let at_anna = anna.host(&["listen", "--passphrase-file", &word]);
    let at_ben = ben.host(&["listen", "--accept-all"]);
    at_ben.wait("the beginning", |e| e["event"] == "began-again" && e["contact"] == "anna");
    at_ben.wait("what waited", |e| e["event"] == "message" && e["text"] == "waits");
    at_anna.wait("delivery", |e| e["event"] == "delivered" && e["id"] == waits);
    anna.ok(&["send", "ben", "after", "--wait", "delivered"]);
    ben.ok(&["send", "anna", "welcome back", "--wait", "delivered"]);
    at_anna.wait("answer", |e| e["event"] == "message" && e["text"] == "welcome back");
    at_ben.signal(Signal::TERM);
    at_ben.end();
    let heard = at_ben.messages();
    assert_eq!(heard.iter().filter(|t| *t == "waits").count(), 1, "{heard:?}");
    assert!(!heard.contains(&"before".to_owned()), "{heard:?}");
    assert_eq!(heard.last().unwrap(), "after");
}
