//! Worlds in which links, boxes, addresses and peers come and go while two nodes talk.

mod common;

use halloo_sim::story::named;

#[test]
fn everything_is_heard_whatever_happens() {
    common::run_all(&named("storms"), 1..=300, |_| ());
}
