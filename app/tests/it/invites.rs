//! A rendezvous peer that hosts only those whom its operator has invited.

use crate::harness::World;

#[test]
fn an_invite_opens_a_closed_peer_and_without_one_the_person_hears_why() {
    let world = World::with_peer(&["--access", "invite"]);
    let [first, second] = &world.peer.invites(2)[..] else { panic!("two were made") };

    let ben = world.person_with("ben", &["--invite", first]);
    let at_ben = ben.host(&["listen", "--accept-all"]);
    at_ben.wait("online", |e| e["event"] == "online" || e["online"] == true);

    // Anna has none. She is told what is wrong, and what to do.
    let anna = world.person("anna");
    let doctor = anna.run(&["doctor"]);
    assert_eq!(doctor.code(), 4, "{}", doctor.stderr());
    let what = doctor.stdout();
    assert!(what.contains("does not host this node"), "{what}");
    assert!(what.contains("halloo init --invite INVITE"), "{what}");
    let at_anna = anna.host(&["listen"]);
    let told = at_anna.wait("a refusal", |e| e["event"] == "not-admitted");
    assert_eq!(told["code"], "invite-missing");
    assert!(told["why"].as_str().unwrap().contains("an invite from its operator"), "{told}");

    // Somebody else's does not help; one of her own does, while the node runs.
    anna.ok(&["init", "--invite", first]);
    let told = at_anna.wait("another refusal", |e| e["code"] == "invite-taken");
    assert_eq!(told["event"], "not-admitted");
    anna.ok(&["init", "--invite", second]);
    at_anna.wait("online", |e| e["event"] == "online");
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    at_anna.wait("accepted", |e| e["event"] == "accepted");

    let ended = anna.run(&["init", "--invite", &second[1..]]);
    assert_eq!(ended.code(), 2, "{}", ended.stderr());
    assert!(ended.stderr().contains("an invite has 52 characters"), "{}", ended.stderr());
}

#[test]
fn a_command_says_loudly_that_nobody_is_reached_through_the_peer() {
    let world = World::with_peer(&["--access", "invite"]);
    let anna = world.person("anna");
    let doctor = anna.run(&["doctor"]);
    assert!(doctor.stderr().contains("does not host you"), "{}", doctor.stderr());
    assert!(doctor.stderr().contains("try: ask its operator"), "{}", doctor.stderr());
}
