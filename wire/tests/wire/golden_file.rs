//! Reads the vectors in `tests/golden`, whose form the head of `peer-request.hex` explains.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use halloo_wire::DecodeError;

/// The vectors of a file by name.
pub(crate) fn read(file: &str) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    parse(&std::fs::read_to_string(&path).unwrap())
}

/// The vectors in the text of a file by name.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut vectors: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        let line = line.split('#').next().unwrap().trim();
        if let Some(title) = line.strip_prefix('[') {
            let title = title.strip_suffix(']').unwrap().to_owned();
            assert!(!vectors.contains_key(&title), "[{title}] stands twice");
            vectors.insert(title.clone(), Vec::new());
            name = Some(title);
        } else if !line.is_empty() {
            let name = name.as_ref().expect("bytes follow a name");
            let bytes = line.split_whitespace().flat_map(run);
            vectors.get_mut(name).unwrap().extend(bytes);
        }
    }
    vectors
}

/// Checks a family: each value has exactly its vector's bytes, each vector reads back as its
/// value, and neither list has one that the other lacks.
pub(crate) fn check<T: PartialEq + Debug>(
    file: &str,
    family: &str,
    values: &[(&str, T)],
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    let vectors = read(file);
    let in_family = |name: &&String| name.split('/').next() == Some(family) || family.is_empty();
    let written: Vec<&String> = vectors.keys().filter(in_family).collect();
    let mut names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(names, written, "{file}: names of the values, and of the vectors");

    for (name, value) in values {
        let bytes = &vectors[*name];
        assert_eq!(hex(&encode(value)), hex(bytes), "{file}: encoding of [{name}]");
        assert!(decode(bytes).as_ref() == Ok(value), "{file}: decoding of [{name}]");
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `0a0b` or `ab*16`.
fn run(word: &str) -> Vec<u8> {
    let (digits, times) = match word.split_once('*') {
        Some((digits, times)) => (digits, times.parse().unwrap()),
        None => (word, 1),
    };
    assert!(digits.len().is_multiple_of(2), "{word} has half a byte");
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect();
    bytes.repeat(times)
}
