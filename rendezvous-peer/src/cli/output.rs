//! What the program prints: data to stdout, the rest to stderr.

use std::io::Write;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value};

/// Version of the shape of `--json` output.
pub(super) const SCHEMA: u32 = 1;

/// Prints a text as it is. When nobody reads it any more, there is nobody to tell.
pub(super) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line.
pub(super) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Prints a line to stderr.
pub(super) fn error_line(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints one event as a JSON object on a line of its own.
pub(super) fn event(name: &str, fields: Value) {
    let mut object = Map::new();
    object.insert("schema".into(), SCHEMA.into());
    object.insert("event".into(), name.into());
    object.insert("mono_ns".into(), monotonic_ns().into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    line(&Value::Object(object).to_string());
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
