//! The examples do what they say, as programs of their own.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use halloo::{EventKind, Node};
use rendezvous_peer::RunningPeer;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn hello_is_heard() {
    let output = Command::new(env!("CARGO_BIN_EXE_hello")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Ben heard: hello, Ben\n");
}

#[test]
fn hello_fits_on_a_slide() {
    let lines = include_str!("../hello.rs").lines().count();
    assert!(lines <= 25, "{lines} lines");
}

#[tokio::test]
async fn the_bot_answers_each_message_once() {
    let dir = tempfile::tempdir().unwrap();
    let peer = start_peer(dir.path()).await;
    let mut bot = Command::new(env!("CARGO_BIN_EXE_echo_bot"))
        .arg(dir.path().join("bot"))
        .arg(peer.address().to_string())
        .arg("3")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = first_line(bot.stdout.take().unwrap());

    let anna = Node::builder()
        .home(dir.path().join("anna"))
        .peer_address(peer.address())
        .start()
        .await
        .unwrap();
    let mut events = anna.events_from_now().await.unwrap();
    let echo = anna.add_contact(&address.parse().unwrap(), Some("echo"), "").await.unwrap();
    for text in ["one", "two", "three"] {
        anna.send(&echo.fingerprint, text).await.unwrap();
    }
    let answers = tokio::time::timeout(DEADLINE, async {
        let mut answers = Vec::new();
        while answers.len() < 3 {
            if let EventKind::Message { text, .. } = events.next().await.unwrap().kind {
                answers.push(text);
            }
        }
        answers
    });
    assert_eq!(answers.await.unwrap(), ["one", "two", "three"]);
    let ended = tokio::task::spawn_blocking(move || ends(bot));
    assert!(ended.await.unwrap(), "the bot ends after three answers");
}

#[tokio::test]
async fn the_pipe_carries_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let peer = start_peer(dir.path()).await;
    let address = peer.address().to_string();
    let pipe = |home: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
        command.arg(dir.path().join(home)).arg(&address);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut ben = pipe("ben").stderr(Stdio::piped()).spawn().unwrap();
    let bens_address = first_line(ben.stderr.take().unwrap());
    let anna = pipe("anna").arg(bens_address).spawn().unwrap();

    let there = vec![b'a'; 1 << 20];
    let back = b"and back".to_vec();
    let (there_, back_) = (there.clone(), back.clone());
    let at_anna = tokio::task::spawn_blocking(move || talk(anna, &there_));
    let at_ben = tokio::task::spawn_blocking(move || talk(ben, &back_));
    let both =
        tokio::time::timeout(DEADLINE, async { (at_anna.await.unwrap(), at_ben.await.unwrap()) });
    let (anna_heard, ben_heard) = both.await.unwrap();
    assert_eq!(anna_heard, back);
    assert!(ben_heard == there, "a mebibyte arrives as it was");
}

async fn start_peer(dir: &Path) -> RunningPeer {
    let mut config = rendezvous_peer::Config::new(dir.join("peer"));
    config.listen = ([127, 0, 0, 1], 0).into();
    rendezvous_peer::start(config).await.unwrap()
}

fn first_line(from: impl Read + Send + 'static) -> String {
    let mut reader = BufReader::new(from);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    // The rest is read away, so that the program never waits for a full pipe.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    line.trim().to_owned()
}

/// Writes everything, closes, reads everything, waits for the end.
fn talk(mut program: Child, say: &[u8]) -> Vec<u8> {
    let mut stdin = program.stdin.take().unwrap();
    let mut stdout = program.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut heard = Vec::new();
        stdout.read_to_end(&mut heard).unwrap();
        heard
    });
    stdin.write_all(say).unwrap();
    drop(stdin);
    let heard = reader.join().unwrap();
    assert!(ends(program));
    heard
}

fn ends(mut program: Child) -> bool {
    program.wait().unwrap().success()
}
