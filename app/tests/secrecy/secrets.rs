//! What must not be found, and the search for it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use halloo_identity::{Fingerprint, Identity};

/// Sixteen characters that stand nowhere else.
pub(crate) fn canary() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}

/// Byte strings to look for, each with its name.
#[derive(Clone, Default)]
pub(crate) struct Needles {
    needles: Vec<(String, Vec<u8>)>,
    /// The needles by their first two bytes.
    by_start: BTreeMap<u16, Vec<usize>>,
}

impl Needles {
    pub(crate) fn add(&mut self, what: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 6, "{what}: what is so short is found everywhere");
        let start = u16::from_be_bytes([bytes[0], bytes[1]]);
        self.by_start.entry(start).or_default().push(self.needles.len());
        self.needles.push((what.to_owned(), bytes.to_vec()));
    }

    /// A text, as it is.
    pub(crate) fn add_text(&mut self, what: &str, text: &str) {
        self.add(what, text.as_bytes());
    }

    /// Everything that tells who somebody is. Halves, because a part would tell too.
    pub(crate) fn add_person(&mut self, whose: &str, person: &Id) {
        let raw = person.fingerprint.as_bytes();
        let text = person.fingerprint.to_string();
        self.add(&format!("{whose} fingerprint, first half"), &raw[..15]);
        self.add(&format!("{whose} fingerprint, second half"), &raw[15..]);
        self.add_text(&format!("{whose} fingerprint as text, first part"), &text[..16]);
        self.add_text(&format!("{whose} fingerprint as text, last part"), &text[32..48]);
        self.add(&format!("{whose} passport key"), &person.passport_key);
        self.add(&format!("{whose} post-quantum key"), &person.ml_dsa_key);
    }

    pub(crate) fn longest(&self) -> usize {
        self.needles.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    }

    /// Which are in `hay`.
    pub(crate) fn find(&self, hay: &[u8]) -> Vec<String> {
        let mut found = vec![false; self.needles.len()];
        let mut starts = vec![false; 1 << 16];
        for &start in self.by_start.keys() {
            starts[usize::from(start)] = true;
        }
        for at in 1..hay.len() {
            let start = u16::from_be_bytes([hay[at - 1], hay[at]]);
            if starts[usize::from(start)] {
                for &i in &self.by_start[&start] {
                    found[i] |= hay[at - 1..].starts_with(&self.needles[i].1);
                }
            }
        }
        let hit = self.needles.iter().zip(found).filter(|(_, found)| *found);
        hit.map(|((what, _), _)| what.clone()).collect()
    }
}

/// Who somebody is.
pub(crate) struct Id {
    pub(crate) fingerprint: Fingerprint,
    passport_key: [u8; 32],
    ml_dsa_key: [u8; 32],
}

impl Id {
    /// Of the owner of a home.
    pub(crate) fn of(home: &Path) -> Self {
        let file = std::fs::read_to_string(home.join("identity.key")).unwrap();
        let identity = Identity::from_key_file(&file).unwrap();
        Self {
            fingerprint: identity.fingerprint(),
            passport_key: identity.passport_public_key(),
            ml_dsa_key: identity.ml_dsa_public_key()[64..96].try_into().unwrap(),
        }
    }
}

#[test]
fn the_search_finds_what_is_there_and_nothing_else() {
    let mut needles = Needles::default();
    needles.add_text("one", "abcdef");
    needles.add_text("two", "abcxyz");
    needles.add_text("three", "zzzzzz");
    assert_eq!(needles.find(b"..abcdef"), ["one"]);
    assert_eq!(needles.find(b"ababcxyzabcdef"), ["one", "two"]);
    assert!(needles.find(b"abcde").is_empty());
    assert!(needles.find(b"").is_empty());
}
