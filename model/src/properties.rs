//! What must hold in every state, and what must happen in some, so that the rest is not empty talk.

use stateright::Property;

use crate::delivery::Delivery;
use crate::message::{Content, Inner, other};
use crate::world::World;

/// What is accepted survives every crash.
pub const KEPT: &str = "I1: accepted messages survive";
/// Each message ends once.
pub const ENDS_ONCE: &str = "I1: a message ends once";
/// Delivered means on the recipient's disk.
pub const DELIVERED: &str = "I2: delivered is in the inbox";
/// Nothing comes twice.
pub const ONCE: &str = "I3: the inbox has a place once";
/// Nothing comes out of order.
pub const IN_ORDER: &str = "I4: the inbox has no holes";
/// Ciphertexts leave after their ratchet is on disk.
pub const RATCHET_FIRST: &str = "I5: the ratchet is on disk before a ciphertext leaves";
/// No message key encrypts two messages.
pub const KEY_ONCE: &str = "I6: a key encrypts one message";
/// No place has two ciphertexts on one session, where no resend asked for them.
pub const ENCRYPTED_ONCE: &str = "I6: a place is encrypted once for a session";
/// Acknowledgements leave after what they acknowledge is on disk.
pub const COMMIT_FIRST: &str = "I7: the commit is before the acknowledgement";
/// The program hears of what is on disk.
pub const TOLD: &str = "I7: the commit is before the program hears";
/// When faults end, everything is delivered.
pub const ALL_ENDS_WELL: &str = "I9: when nothing more can happen, all is delivered";
/// No key of a message that is on its way is forgotten.
pub const NO_KEY_LOST: &str = "R: no key of a missing message is skipped away";
/// While nobody loses keys, nothing is asked for again.
pub const UNASKED: &str = "R: everything is readable unless keys were lost";
/// The model's own bounds are wide enough.
pub const ROOM: &str = "the model has room";
/// Everything can be delivered.
pub const REACHED: &str = "seen: everything delivered";
/// A control message can be read on a copy.
pub const COPIED: &str = "seen: a control message read on a copy";
/// A resend can be asked for.
pub const RESENT: &str = "seen: a resend";

/// All properties of the model.
pub fn all() -> Vec<Property<Delivery>> {
    vec![
        Property::always(KEPT, |_: &Delivery, w: &World| {
            [0, 1].into_iter().all(|n| w.seen.promised[n] <= w.nodes[n].mem.accepted)
        }),
        Property::always(ENDS_ONCE, |_: &Delivery, w: &World| {
            w.nodes.iter().all(|node| node.disk.ends.iter().all(|ends| *ends <= 1))
        }),
        Property::always(DELIVERED, |_: &Delivery, w: &World| {
            [0, 1].into_iter().all(|n| {
                let inbox = &w.nodes[other(n)].disk;
                (1..w.nodes[n].disk.first).all(|place| inbox.has(place))
            })
        }),
        Property::always(ONCE, |_: &Delivery, w: &World| {
            inboxes(w, |inbox, i| !inbox[..i].contains(&inbox[i]))
        }),
        Property::always(IN_ORDER, |_: &Delivery, w: &World| {
            inboxes(w, |inbox, i| (1..inbox[i]).all(|below| inbox[..i].contains(&below)))
        }),
        Property::always(RATCHET_FIRST, |_: &Delivery, w: &World| !w.seen.broken.left_early),
        Property::always(KEY_ONCE, |_: &Delivery, w: &World| {
            pairs(w, |a, b| a.from != b.from || a.key != b.key || a.content == b.content)
        }),
        Property::always(ENCRYPTED_ONCE, |_: &Delivery, w: &World| {
            pairs(w, |a, b| {
                let same = a.from == b.from
                    && a.content == b.content
                    && a.content.is_sequenced()
                    && a.key.session == b.key.session;
                !same || asked(w)
            })
        }),
        Property::always(COMMIT_FIRST, |_: &Delivery, w: &World| !w.seen.broken.acked_early),
        Property::always(TOLD, |_: &Delivery, w: &World| {
            let told = |n: usize| usize::from(w.seen.told[n]);
            [0, 1].into_iter().all(|n| told(n) <= w.nodes[n].mem.arrived().count())
        }),
        Property::always(ALL_ENDS_WELL, |model: &Delivery, w: &World| {
            let mut steps = Vec::new();
            model.is_done(w) || w.seen.broken.no_room || {
                model.steps(w, &mut steps);
                !steps.is_empty()
            }
        }),
        Property::always(NO_KEY_LOST, |_: &Delivery, w: &World| !w.seen.broken.key_lost),
        Property::always(UNASKED, |model: &Delivery, w: &World| {
            model.bounds.kinds.lose_keys || !asked(w)
        }),
        Property::always(ROOM, |_: &Delivery, w: &World| !w.seen.broken.no_room),
        Property::sometimes(REACHED, |model: &Delivery, w: &World| model.is_done(w)),
        Property::sometimes(COPIED, |_: &Delivery, w: &World| w.seen.read_on_copy),
        Property::sometimes(RESENT, |_: &Delivery, w: &World| asked(w)),
    ]
}

/// Whether something holds of each message in each inbox.
fn inboxes(world: &World, holds: impl Fn(&[u8], usize) -> bool) -> bool {
    world.nodes.iter().all(|node| {
        let len = node.disk.arrived().count();
        (0..len).all(|i| holds(&node.disk.inbox[..len], i))
    })
}

/// Whether something holds of each two messages that have left.
fn pairs(world: &World, holds: impl Fn(&Inner, &Inner) -> bool) -> bool {
    let left = &world.seen.left;
    left.iter().enumerate().all(|(i, a)| left[i + 1..].iter().all(|b| holds(a, b)))
}

/// Whether a resend has left.
fn asked(world: &World) -> bool {
    world.seen.left.iter().any(|inner| matches!(inner.content, Content::Resend(_)))
}
