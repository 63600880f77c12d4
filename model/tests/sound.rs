//! The protocol holds its promises in every small world.

use halloo_model::bounds::{Bounds, Faults};
use halloo_model::delivery::Delivery;
use halloo_model::properties;
use halloo_model::report::{Report, Search, check};
use halloo_model::worlds::{KEYS_KEPT, LOSE_KEYS, small};

fn names(report: &Report) -> Vec<&'static str> {
    report.broken().map(|(name, _)| name).collect()
}

#[test]
fn every_property_holds_in_every_small_world() {
    let (mut copied, mut resent) = (false, false);
    for (name, bounds) in small() {
        let report = check(Delivery::new(bounds), Search::All, 1);
        assert_eq!(names(&report), [""; 0], "{name}");
        assert!(report.has_seen(properties::REACHED), "{name}");
        copied |= report.has_seen(properties::COPIED);
        resent |= report.has_seen(properties::RESENT);
    }
    assert!(copied && resent, "the worlds are too small");
}

/// Whatever happens to nodes, peer and connections: as long as no envelope is lost alone, and no
/// keys, nothing has to wait until a receipt runs out.
#[test]
fn only_a_lost_envelope_needs_a_receipt_to_run_out() {
    let others = Faults { expire: false, ..KEYS_KEPT };
    let one = Bounds::new(1);
    for bounds in [one, Bounds::new(2).by_peer(), one.both([1, 1]).by_peer()] {
        let bounds = Bounds { waits: 0, ..bounds.with(1, others) };
        assert_eq!(names(&check(Delivery::new(bounds), Search::All, 1)), [""; 0], "{bounds}");
        let lost = Bounds { waits: 0, ..bounds.with(1, KEYS_KEPT) };
        let broken = names(&check(Delivery::new(lost), Search::Shortest, 1));
        assert!(broken.contains(&properties::ALL_ENDS_WELL), "{lost}");
        // One pause for one lost envelope.
        let patient = Bounds { waits: 1, ..lost };
        assert_eq!(names(&check(Delivery::new(patient), Search::All, 1)), [""; 0], "{patient}");
    }
}

/// A known weakness: where keys were lost, an acknowledgement can be what nobody could read, and
/// another one comes only when a receipt has run out. With the rules that the model proposes, none
/// has to.
#[test]
fn lost_keys_need_a_receipt_to_run_out() {
    let one = Bounds::new(1);
    for bounds in [one, one.both([1, 1]), Bounds::new(2).pinging([1, 0])] {
        let bounds = Bounds { waits: 0, ..bounds.by_peer().with(1, LOSE_KEYS) };
        let broken = names(&check(Delivery::new(bounds), Search::All, 1));
        assert_eq!(broken, [properties::ALL_ENDS_WELL]);
        let amended = Delivery::new(bounds).amended();
        assert_eq!(names(&check(amended, Search::All, 1)), [""; 0]);
    }
}

/// While a drop is on its way, a resend can make another ciphertext take its place. The receipt
/// then says that the new one waits at the peer, where it does not.
#[test]
fn lost_keys_and_a_late_receipt() {
    let lost = Bounds::new(1).by_peer().with(1, LOSE_KEYS).in_every_order();
    for (waits, is_amended, is_well) in [(2, false, true), (0, false, false), (0, true, true)] {
        let model = Delivery::new(Bounds { waits, ..lost });
        let model = Delivery { amended: is_amended, ..model };
        let broken = names(&check(model, Search::All, 1));
        assert_eq!(broken.is_empty(), is_well, "{waits}, {is_amended}: {broken:?}");
    }
}
