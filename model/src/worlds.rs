//! The worlds that are checked, by their names.

use crate::bounds::{Bounds, Faults};
use crate::bug::Bug;
use crate::delivery::Delivery;
use crate::properties;

const ALL: Faults = Faults::ALL;
/// Everything but lost keys.
pub const KEYS_KEPT: Faults = Faults { lose_keys: false, ..ALL };
/// Nothing that needs a peer.
const ON_LINK: Faults = Faults { crash: true, cut: true, ..Faults::NONE };
const CRASH: Faults = Faults { crash: true, ..Faults::NONE };
const RESTART: Faults = Faults { restart: true, ..Faults::NONE };
/// Lost keys only.
pub const LOSE_KEYS: Faults = Faults { lose_keys: true, ..Faults::NONE };

/// Worlds of a size for each change of the code.
pub fn small() -> Vec<(&'static str, Bounds)> {
    vec![
        ("1 message, both paths", Bounds::new(1).with(1, ALL)),
        ("2 messages, both paths", Bounds::new(2)),
        ("1 message, both paths, every order", Bounds::new(1).with(1, ALL).in_every_order()),
        ("1 message, both paths, told", Bounds::new(1).telling().with(1, ALL)),
        ("1 message, peer, 2 faults", Bounds::new(1).by_peer().with(2, ALL)),
        ("3 messages, peer", Bounds::new(3).by_peer().with(1, ALL)),
        ("2 messages and a ping, peer", Bounds::new(2).pinging([1, 0]).by_peer().with(1, ALL)),
        ("3 messages, connection, 3 faults", Bounds::new(3).by_link().with(3, ON_LINK)),
        ("1 message each way, peer", Bounds::new(1).both([1, 1]).by_peer().with(1, ALL)),
    ]
}

/// Worlds that take minutes.
pub fn large() -> Vec<(&'static str, Bounds)> {
    vec![
        ("3 messages, both paths", Bounds::new(3)),
        ("1 message, both paths, 2 faults", Bounds::new(1).with(2, ALL)),
        ("2 messages, both paths, 1 fault", Bounds::new(2).with(1, ALL)),
        ("2 messages, peer, 2 faults", Bounds::new(2).by_peer().with(2, ALL)),
        ("3 messages and a ping, peer", Bounds::new(3).pinging([1, 0]).by_peer().with(1, ALL)),
        ("3 messages and 2 pings, connection", link_with_pings()),
        (
            "2 messages one way, 1 the other, peer",
            Bounds::new(2).both([2, 1]).by_peer().with(1, ALL),
        ),
        ("1 message each way, both paths", Bounds::new(1).both([1, 1])),
    ]
}

const fn link_with_pings() -> Bounds {
    Bounds::new(3).pinging([2, 0]).by_link().with(3, ON_LINK)
}

/// A small world in which a planted fault does harm, and the property that it breaks first.
pub fn planted(bug: Bug) -> (Delivery, &'static str) {
    let one = Bounds::new(1);
    let (bounds, property) = match bug {
        Bug::None => (one, properties::ROOM),
        Bug::AcceptBeforeCommit => (one.by_peer().with(1, CRASH), properties::KEPT),
        Bug::TellBeforeCommit => (one.telling().by_peer().with(1, CRASH), properties::TOLD),
        Bug::AckBeforeCommit => (one.by_link().with(1, CRASH), properties::COMMIT_FIRST),
        Bug::DeliveredOnReceipt => (one.by_peer(), properties::DELIVERED),
        Bug::EncryptAgain => (one.by_peer().with(1, RESTART), properties::ENCRYPTED_ONCE),
        Bug::SendBeforeCommit => {
            (one.pinging([1, 0]).by_peer().with(1, CRASH), properties::RATCHET_FIRST)
        }
        Bug::ForgetInstance => (one.by_peer().with(1, RESTART), properties::ALL_ENDS_WELL),
        Bug::DedupInMemory => (one.by_peer().with(1, CRASH), properties::ONCE),
        Bug::OrderIgnored => (Bounds::new(2).by_peer(), properties::IN_ORDER),
        Bug::ControlMovesRatchet => {
            (Bounds::new(2).pinging([1, 0]).by_peer(), properties::NO_KEY_LOST)
        }
        Bug::ResendOnCopy => {
            (one.both([1, 1]).by_peer().with(1, LOSE_KEYS), properties::ALL_ENDS_WELL)
        }
    };
    // Those that go on get time to show that it is not only a matter of time.
    let patient = Delivery::new(Bounds { waits: 2, ..bounds }).with(bug);
    match bug {
        // Another resend would save it.
        Bug::ResendOnCopy => {
            (Delivery::new(Bounds { waits: 0, ..bounds }).amended().with(bug), property)
        }
        _ => (patient, property),
    }
}
