//! A target for a node's store: a file that is damaged, or that somebody made.

use std::sync::OnceLock;

use halloo::fuzzing::store;

/// A store of the first version, with a contact, messages that wait and a comparison of codes.
const FIRST_VERSION: &[u8] = include_bytes!("../../../node/tests/fixtures/store-v1.db");
/// Where a file says that it has a write-ahead log, which one in memory cannot have.
const JOURNAL_VERSIONS: std::ops::Range<usize> = 18..20;

/// The file of a store, which is opened as a node opens it, and read. The first byte of the input
/// chooses: 0 changes a store of the first version, which is brought to the newest, 1 one of the
/// newest, each by steps of four bytes, a place and what is there; the rest of any other input is
/// the file itself.
///
/// # Panics
/// When something in the store makes the node panic, or what is not changed is refused.
pub fn node_store(data: &[u8]) {
    static NEWEST: OnceLock<Vec<u8>> = OnceLock::new();
    let first = || {
        let mut file = FIRST_VERSION.to_vec();
        file[JOURNAL_VERSIONS].fill(1);
        file
    };
    let Some((&kind, rest)) = data.split_first() else { return };
    let mut file = match kind {
        0 => first(),
        1 => NEWEST.get_or_init(|| store(&first()).expect("the fixture is a store")).clone(),
        _ => {
            let _ = store(rest);
            return;
        }
    };
    for step in rest.as_chunks::<4>().0 {
        let [a, b, c, byte] = *step;
        let place = u32::from_be_bytes([0, a, b, c]) as usize % file.len();
        file[place] = byte;
    }
    let opened = store(&file);
    assert!(opened.is_some() || !rest.is_empty(), "a whole store is refused");
}
