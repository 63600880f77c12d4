//! Three processes, thousands of messages, and `kill -9` in the middle.

use crate::flow::{Listening, Sender, Wrong, compare};
use crate::harness::World;

/// Messages each way.
const MESSAGES: usize = 1000;
/// Where the peer is killed, and where Ben's node is.
const PEER_DIES_AT: usize = 250;
const BEN_DIES_AT: usize = 600;

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let mut world = World::new();
    let (anna, ben, at_anna, at_ben) = world.friends();
    let at_anna = Listening::new(&anna, at_anna);
    let mut at_ben = Listening::new(&ben, at_ben);

    let mut from_anna = Sender::start(&anna, "ben", "a", MESSAGES);
    let mut from_ben = Sender::start(&ben, "anna", "b", MESSAGES);

    at_ben.wait("a", PEER_DIES_AT);
    world.peer.kill();
    world.peer.restart();

    at_ben.wait("a", BEN_DIES_AT);
    at_ben.restart();
    from_ben.resume_if_it_failed();

    let sent_by_anna = from_anna.end();
    let sent_by_ben = from_ben.end();
    at_ben.wait("a", MESSAGES);
    at_anna.wait("b", MESSAGES);
    // What was sent last has arrived, so anything that came twice would have come before it.
    for (from, to, at) in [(&anna, "ben", &at_ben), (&ben, "anna", &at_anna)] {
        from.ok(&["send", to, "the end", "--wait", "delivered", "--timeout", "200s"]);
        at.process.wait("the end", |e| e["text"] == "the end");
    }

    // Every message that was sent arrived once, under its id, in order.
    for (sent, at, prefix) in [(sent_by_anna, &at_ben, "a"), (sent_by_ben, &at_anna, "b")] {
        assert_eq!(sent.len(), MESSAGES);
        assert_eq!(compare(&sent, at, prefix), Wrong::default());
    }
}
