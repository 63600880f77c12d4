//! A rendezvous peer that shows another key than before.

use crate::harness::World;

#[test]
fn a_changed_key_is_said_loudly_and_can_be_approved() {
    let mut world = World::new();
    let (anna, _ben, at_anna, at_ben) = world.friends();
    at_anna.kill();
    at_ben.kill();
    world.peer.kill();
    world.peer.restart_as_another();

    let ended = anna.run(&["send", "ben", "hi", "--wait", "delivered", "--timeout", "20s"]);
    assert_eq!(ended.code(), 6, "{}", ended.stderr());
    assert!(ended.stderr().contains("SHOWS ANOTHER KEY THAN BEFORE"), "{}", ended.stderr());
    assert!(ended.stderr().contains("error[peer-key-changed]"), "{}", ended.stderr());

    // A node that runs goes on, and says it once, in data too.
    let listening = anna.host(&["listen"]);
    let told = listening.wait("alarm", |e| e["event"] == "peer-key-changed");
    assert_ne!(told["expected"], told["found"]);
    let found = told["found"].as_str().unwrap().to_owned();
    assert!(world.peer.address.ends_with(&found), "{}", world.peer.address);
    listening.kill();

    // The operator says that the new key is right.
    let approved = anna.run(&["init", "--peer", &world.peer.address]);
    assert_eq!(approved.code(), 0, "{}", approved.stderr());
    let listening = anna.host(&["listen"]);
    listening.wait("online", |e| e["event"] == "ready" && e["online"] == true);
}
