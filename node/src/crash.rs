//! Named points where a process can be made to die, to show that nothing is lost there. In a
//! release they do not exist.
//!
//! `HALLOO_CRASH=NAME:K` kills the process at the K-th passing of the point NAME, as `kill -9`
//! would: nothing is flushed, nothing is dropped.

/// The points.
#[cfg(debug_assertions)]
pub(crate) const POINTS: [&str; 15] = [
    // The store, around a transaction.
    "store-before-begin",
    "store-before-commit",
    "store-after-commit",
    "store-before-replies",
    // The courier, on a connection.
    "link-before-write",
    "link-after-write",
    "link-receipt-not-noted",
    // The courier, at the contact's peer.
    "peer-before-drop",
    "peer-receipt-not-noted",
    "mailbox-receipt-not-noted",
    // What arrives.
    "home-before-store",
    "home-not-forgotten",
    "direct-before-store",
    "direct-after-store",
    // The program: the message is kept, and nobody was told.
    "app-sent-not-told",
];

/// Passes a point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &'static str) {}

/// Passes a point, and dies there if that is asked for.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static AT: OnceLock<Option<(&'static str, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| std::env::var("HALLOO_CRASH").ok().and_then(|text| parse(&text)));
    let Some((_, which)) = at.filter(|(asked, _)| *asked == name) else { return };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == which {
        let _ = kill_process(getpid(), Signal::KILL);
        // Never goes on from here.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<(&'static str, u64)> {
    let (name, which) = text.split_once(':')?;
    let point = POINTS.into_iter().find(|point| *point == name)?;
    Some((point, which.parse().ok()?))
}

#[cfg(all(test, debug_assertions))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::{POINTS, parse};

    #[test]
    fn a_point_and_a_count_are_read() {
        assert_eq!(parse("store-before-begin:3"), Some(("store-before-begin", 3)));
        for wrong in ["", "store-before-begin", "store-before-begin:", "nowhere:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names = POINTS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len());
    }

    #[test]
    fn every_point_is_passed_at_one_place_and_tested() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut sources = String::new();
        read(&root.join("node/src"), &mut sources);
        read(&root.join("app/src"), &mut sources);
        let kills = std::fs::read_to_string(root.join("app/tests/it/kills.rs")).unwrap();
        for name in POINTS {
            let places = sources.matches(&format!("point(\"{name}\")")).count();
            assert_eq!(places, 1, "{name}");
            assert!(kills.contains(&format!("\"{name}")), "nobody dies at {name}");
        }
    }

    fn read(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
