//! What happened in a run, in words.

use std::time::Duration;

/// Lines with times, or nothing when nobody wants to read them.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its lines.
    pub fn on() -> Self {
        Self { lines: Some(Vec::new()) }
    }

    /// A trace that keeps nothing, and costs nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn line(&mut self, at: Duration, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:10.3} ms  {}", at.as_secs_f64() * 1e3, line()));
        }
    }

    /// All lines.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
