//! Replays the committed corpora: what once went through, or once broke something, goes through.

use std::fs;
use std::path::{Path, PathBuf};

use halloo_fuzz_targets::TARGETS;

#[test]
fn every_input_of_every_corpus_goes_through_its_target() {
    for target in TARGETS {
        let inputs = files(&fuzz().join("corpus").join(target.name));
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for input in inputs {
            let data = fs::read(&input).expect("an input can be read");
            let outcome = std::panic::catch_unwind(|| (target.run)(&data));
            assert!(outcome.is_ok(), "{} fails on {}", target.name, input.display());
        }
    }
}

#[test]
fn every_target_has_a_program_and_every_corpus_a_target() {
    let mut expected: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    expected.sort_unstable();
    let names = |folder: &str| -> Vec<String> {
        files(&fuzz().join(folder))
            .iter()
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names("fuzz_targets"), expected, "programs in fuzz/fuzz_targets");
    assert_eq!(names("corpus"), expected, "folders in fuzz/corpus");

    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} in fuzz/Cargo.toml");
    }
}

#[test]
fn targets_survive_the_inputs_that_decoders_forget() {
    for target in TARGETS {
        (target.run)(&[]);
        for byte in 0..=u8::MAX {
            (target.run)(&[byte]);
            (target.run)(&[byte; 70_000]);
        }
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What is in a folder, sorted by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.sort();
    files
}
