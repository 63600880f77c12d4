//! Whom a running peer hosts: everybody, those with an invite, or those on a list.

use std::path::Path;
use std::process::Output;

use crate::common::{Node, Process, command};
use halloo_transport::Show;
use halloo_wire::Invite;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, NotAdmitted, PeerError, Register, Response};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn start(home: &Path, text: &str) -> Process {
    write(home, text);
    Process::start(home, &["--config", config(home).to_str().unwrap()]).await
}

fn config(home: &Path) -> std::path::PathBuf {
    home.join("config.toml")
}

fn write(home: &Path, text: &str) {
    std::fs::write(config(home), text).unwrap();
}

async fn reload(peer: &mut Process, home: &Path, text: &str) -> Value {
    write(home, text);
    peer.signal(Signal::HUP);
    peer.event("reloaded").await["changed"].clone()
}

/// Runs `rendezvous-peer invite` in the peer's home.
fn run(home: &Path, args: &[&str]) -> Output {
    command(home).arg("invite").args(args).output().unwrap()
}

/// Invites that it prints.
fn invites(home: &Path, args: &[&str]) -> Vec<Invite> {
    let output = run(home, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Comes to the peer and registers.
async fn come(node: &Node, counter: u64, invite: Option<Invite>) -> Result<(), NotAdmitted> {
    let line = node.connect(Show::Device).await;
    let Call::Register(register) = line.register_call(counter) else { unreachable!() };
    match line.ask(Call::Register(Register { invite, ..register })).await {
        Response::Registered(_) => Ok(()),
        Response::Refused(PeerError::NotAdmitted(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_invite_lets_one_in_and_survives_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert_eq!(run(home, &[]).status.code(), Some(3), "no key, no invites");
    let mut peer = start(home, "access = \"invite\"\n").await;
    let (anna, ben) = (Node::new(&peer), Node::new(&peer));
    let whom = ben.fingerprint().to_string();
    let [open, second] = invites(home, &["--count", "2"])[..] else { panic!() };
    let [bound] = invites(home, &["--for", &whom, "--expires", "1d"])[..] else { panic!() };
    assert_ne!(open, second);

    assert_eq!(come(&anna, 1, None).await, Err(NotAdmitted::InviteMissing));
    assert_eq!(come(&anna, 2, Some(bound)).await, Err(NotAdmitted::InviteInvalid));
    assert_eq!(come(&anna, 3, Some(open)).await, Ok(()));
    assert_eq!(come(&ben, 1, Some(open)).await, Err(NotAdmitted::InviteTaken));
    assert_eq!(come(&ben, 2, Some(bound)).await, Ok(()));

    // Writing to them takes no invite.
    let stranger = Node::new(&peer).connect(Show::Nothing).await;
    let left = stranger.ask(anna.drop_call(Lane::Strangers, 7, None)).await;
    assert!(matches!(left, Response::Dropped(_)), "{left:?}");

    peer.signal(Signal::TERM);
    assert!(peer.wait().await.success());
    let peer = start(home, "access = \"invite\"\n").await;
    let again = |node: Node| Node { target: (peer.listen(), peer.key()), ..node };
    let (anna, ben) = (again(anna), again(ben));
    assert_eq!(come(&ben, 3, Some(bound)).await, Ok(()), "the key knows its invites");
    // Who had used the other one is forgotten, as the manual says.
    assert_eq!(come(&ben, 4, Some(second)).await, Ok(()));
    assert_eq!(come(&anna, 4, Some(second)).await, Err(NotAdmitted::InviteTaken));
    assert_eq!(come(&anna, 5, Some(open)).await, Ok(()));
}

#[tokio::test]
async fn an_invite_ends_and_can_be_taken_back() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut peer = start(home, "access = \"invite\"\n").await;
    let output = run(home, &["--json", "--for", &format!("peer.example/{}", somebody())]);
    let event: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&event["event"], &event["for"]), (&json!("invite"), &json!(somebody())));
    let invite: Invite = event["invite"].as_str().unwrap().parse().unwrap();
    let head = invite.head().unwrap();
    assert_eq!(event["id"], head.id.to_string());
    assert_eq!(event["expires_unix_s"], head.expires);

    // Made by the peer's key, and over since 1970.
    let key = std::fs::read_to_string(home.join("data/peer.key")).unwrap();
    let key = halloo_identity::PeerKey::from_key_file(&key).unwrap().invite_key();
    let anna = Node::new(&peer);
    let old = key.issue(head.id, 1, None);
    assert_eq!(come(&anna, 1, Some(old)).await, Err(NotAdmitted::InviteExpired));

    let [given] = invites(home, &[])[..] else { panic!() };
    assert_eq!(come(&anna, 2, Some(given)).await, Ok(()));
    let id = given.head().unwrap().id.to_string();
    // The id takes it back, and so does the invite itself.
    for revoked in [id.clone(), given.to_string()] {
        let text = format!("access = \"invite\"\nrevoked_invites = [\"{revoked}\"]\n");
        assert_eq!(reload(&mut peer, home, &text).await, json!({ "revoked_invites": id }));
        assert_eq!(come(&anna, 3, Some(given)).await, Err(NotAdmitted::InviteRevoked));
        reload(&mut peer, home, "access = \"invite\"\n").await;
    }
    assert_eq!(come(&anna, 4, Some(given)).await, Ok(()));
}

#[tokio::test]
async fn a_list_is_read_again() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let list = home.join("friends");
    let text = format!("access = \"allow-list\"\nallow_list = \"{}\"\n", list.display());
    std::fs::write(&list, "# nobody yet\n").unwrap();
    let mut peer = start(home, &text).await;
    let (anna, ben) = (Node::new(&peer), Node::new(&peer));
    assert_eq!(come(&anna, 1, None).await, Err(NotAdmitted::NotListed));

    std::fs::write(&list, format!("{} # Anna\n", anna.fingerprint())).unwrap();
    assert_eq!(reload(&mut peer, home, &text).await, json!({ "allow_list": "a list of 1" }));
    assert_eq!(come(&anna, 2, None).await, Ok(()));
    assert_eq!(come(&ben, 1, None).await, Err(NotAdmitted::NotListed));
    assert_eq!(reload(&mut peer, home, &text).await, json!({}));

    // A list that cannot be read leaves the one that there is.
    std::fs::write(&list, format!("{}\n\nben\n", ben.fingerprint())).unwrap();
    peer.signal(Signal::HUP);
    let failed = peer.event("reload_failed").await;
    assert_eq!(failed["error"]["code"], "allow-list-invalid");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("friends: line 3: "), "{message}");
    assert_eq!(come(&anna, 3, None).await, Ok(()));
    assert_eq!(come(&ben, 2, None).await, Err(NotAdmitted::NotListed));

    assert_eq!(reload(&mut peer, home, "").await, json!({ "access": "open", "allow_list": "" }));
    assert_eq!(come(&ben, 3, None).await, Ok(()));
}

#[tokio::test]
async fn closing_an_open_peer_puts_nobody_out() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut peer = start(home, "").await;
    let (anna, ben) = (Node::new(&peer), Node::new(&peer));
    let inbox = anna.reachable(&[1]).await;
    assert_eq!(
        reload(&mut peer, home, "access = \"invite\"\n").await,
        json!({ "access": "invite" })
    );
    assert_eq!(come(&ben, 1, None).await, Err(NotAdmitted::InviteMissing));
    inbox.grant(&[2]).await;
    let caller = ben.connect(Show::Nothing).await;
    assert!(caller.knock(anna.knock(2)).await.callee.is_some());
    let status = command(home)
        .args(["status", "--json", "--admin", &peer.admin().to_string()])
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["counters"]["not_admitted"], 1);
    assert_eq!(come(&anna, 2, None).await, Err(NotAdmitted::InviteMissing), "when she comes again");
}

#[test]
fn what_cannot_be_hosted_is_said_before_the_start() {
    let home = tempfile::tempdir().unwrap();
    let check = |args: &[&str]| {
        let output = command(home.path()).args(["config", "check"]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, why) = check(&["--access", "allow-list"]);
    assert!(code == Some(78) && why.contains("needs allow_list"), "{why}");
    let (code, why) = check(&["--access", "allow-list", "--allow-list", "/nowhere/list"]);
    assert!(code == Some(78) && why.contains("cannot read the list /nowhere/list"), "{why}");
    let (code, why) = check(&["--allow-list", "/nowhere/list"]);
    assert!(code == Some(0) && why.contains("allow_list has no use"), "{why}");
}

fn somebody() -> String {
    halloo_wire::Fingerprint::from_bytes([9; 30]).to_string()
}
