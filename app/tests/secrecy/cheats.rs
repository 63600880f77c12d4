//! Somebody cheats, or is not who was meant: the program stops with a clear message, and sends
//! nothing that others could read.

use halloo::{Cursor, EventKind, Fingerprint};
use halloo_wire::peer::{Call, Response};
use serde_json::Value;

use crate::crook::{self, Answer, Crook};
use crate::harness::{Ended, Person};
use crate::peer::TappedPeer;
use crate::secrets::{Needles, canary};

fn error(ended: &Ended) -> Value {
    let line: Value = serde_json::from_str(ended.stderr().lines().last().unwrap()).unwrap();
    line["error"].clone()
}

fn person(dir: &tempfile::TempDir, name: &str, peer: &str) -> Person {
    let person = Person { home: dir.path().join(name) };
    person.ok(&["init", "--peer", peer, "--name", name]);
    person
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_bundle_stops_the_command_and_nothing_leaves() {
    let crook = Crook::start().await;
    let ben = crook::Person::new("Ben", &crook).await;
    let mallory = crook::Person::new("Mallory", &crook).await;
    let swapped = crook.found(&mallory.node.fingerprint());
    crook.twist(move |call, answer| match call {
        Call::LookUp(_) => Answer::Say(Response::Found(swapped.clone())),
        _ => Answer::Say(answer),
    });
    let (address, peer) =
        (ben.node.address().await.unwrap().to_string(), crook.address().to_string());
    let dir = tempfile::tempdir().unwrap();
    let anna = tokio::task::spawn_blocking(move || {
        let anna = person(&dir, "anna", &peer);
        for args in [
            &["add", &address, "--name", "ben", "--note", "for Ben alone"][..],
            &["send", "ben", "for Ben alone", "--wait", "delivered"],
        ] {
            let ended = anna.run(&[args, &["--json"]].concat());
            assert_eq!(ended.code(), 6, "{args:?}: {}", ended.stderr());
            let error = error(&ended);
            assert_eq!((&error["code"], &error["exit"]), (&"keys-refused".into(), &6.into()));
            let why = error["message"].as_str().unwrap();
            assert!(why.contains("another identity") && why.contains("kept here"), "{why}");
            assert!(error["help"].is_string());
        }
        // People read the same.
        let ended = anna.run(&["send", "ben", "for Ben alone", "--wait", "delivered"]);
        assert!(
            ended.stderr().contains("error[keys-refused]: nothing is sent to ben"),
            "{}",
            ended.stderr()
        );
        assert!(ended.stderr().contains("  try: "), "{}", ended.stderr());
        // A node that runs goes on, says it in data, and a command that comes later hears it too.
        let listening = anna.host(&["listen"]);
        let said = listening.wait("alarm", |e| e["event"] == "undeliverable");
        assert_eq!((&said["to"], &said["code"]), (&"ben".into(), &"keys-refused".into()));
        let ended = anna.run(&["send", "ben", "for Ben alone", "--wait", "delivered", "--json"]);
        assert_eq!((ended.code(), &error(&ended)["code"]), (6, &"keys-refused".into()));
        (anna, listening, dir)
    })
    .await
    .unwrap();
    assert_eq!(crook.count("drop"), 0, "nothing was sealed to Mallory");

    // Honest again: what was kept goes to Ben, once.
    crook.be_honest();
    let mut events = ben.node.events(Cursor::default());
    let mut requests = 0;
    let mut next = async || {
        tokio::time::timeout(crate::harness::DEADLINE, events.next()).await.unwrap().unwrap()
    };
    loop {
        if let EventKind::Request { from, note, .. } = next().await.kind {
            assert_eq!(note, "for Ben alone");
            requests += 1;
            ben.node.accept(&from, None).await.unwrap();
            break;
        }
    }
    // Each command had kept its message before it stopped.
    let mut messages = 0;
    while messages < 3 {
        match next().await.kind {
            EventKind::Request { .. } => requests += 1,
            EventKind::Message { text, .. } => {
                assert_eq!(text, "for Ben alone");
                messages += 1;
            }
            _ => {}
        }
    }
    assert_eq!(requests, 1);
    assert!(mallory.node.contacts().await.unwrap().is_empty());
    tokio::task::spawn_blocking(move || drop(anna)).await.unwrap();
}

#[test]
fn an_address_of_nobody_is_explained_and_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let peer = TappedPeer::start(&dir.path().join("peer"));
    let anna = person(&dir, "anna", &peer.address);
    let nobody = Fingerprint::from_bytes([42; 30]);
    let note = canary();
    let address = format!("127.0.0.1:{}/{nobody}", peer.tap.port);
    let added = anna.run(&["add", &address, "--name", "ben", "--note", &note]);
    assert_eq!(added.code(), 0, "it is kept: they may come online. {}", added.stderr());
    assert!(added.stderr().contains("their peer does not know them"), "{}", added.stderr());
    let sent =
        anna.run(&["send", "ben", &note, "--wait", "delivered", "--timeout", "5s", "--json"]);
    assert_eq!(sent.code(), 75, "{}", sent.stderr());
    let why = error(&sent)["message"].as_str().unwrap().to_owned();
    assert!(why.contains("their peer does not know them"), "{why}");
    assert!(sent.lines().iter().any(|e| e["code"] == "unknown-at-peer"), "{}", sent.stdout());
    let mut needles = Needles::default();
    needles.add_text("the note", &note);
    needles.add("the fingerprint", nobody.as_bytes());
    for datagram in peer.tap.up.lock().unwrap().iter() {
        assert!(needles.find(datagram).is_empty());
    }
    if let Some(scan) = peer.scan(&needles) {
        assert!(!scan.found.contains("the note"));
    }
}

#[test]
fn a_contacts_peer_with_another_key_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = TappedPeer::start(&dir.path().join("peer-a"));
    let there = TappedPeer::start(&dir.path().join("peer-b"));
    let (anna, ben) = (person(&dir, "anna", &home.address), person(&dir, "ben", &there.address));
    let at_ben = ben.host(&["listen", "--accept-all"]);
    let at_anna = anna.host(&["listen"]);
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    at_anna.wait("acceptance", |e| e["event"] == "accepted");
    at_ben.kill();
    at_anna.kill();

    let there = there.replace(&dir.path().join("peer-c"));
    let secret = canary();
    let sent = anna.run(&["send", "ben", &secret, "--wait", "delivered", "--timeout", "30s"]);
    assert_eq!(sent.code(), 6, "{}", sent.stderr());
    assert!(sent.stderr().contains("SHOWS ANOTHER KEY THAN BEFORE"), "{}", sent.stderr());
    assert!(sent.stderr().contains("error[peer-key-changed]"), "{}", sent.stderr());
    // Her own peer is the same: only what is for Ben waits.
    let mut needles = Needles::default();
    needles.add_text("the message", &secret);
    needles.add("Ben's fingerprint", ben_of(&ben).as_bytes());
    if let Some(scan) = there.scan(&needles) {
        assert!(scan.found.is_empty(), "the impostor learned {:?}", scan.found);
    }
}

fn ben_of(person: &Person) -> Fingerprint {
    crate::secrets::Id::of(&person.home).fingerprint
}
