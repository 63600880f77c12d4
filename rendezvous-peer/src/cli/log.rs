//! What the program logs, and how.

use std::fmt;
use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as lines, reload};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// For programs: a JSON object.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// How much is logged; it may change.
pub(super) struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// Logs so much from now on.
    pub(super) fn set(&self, level: LevelFilter) {
        // The log lives as long as the process.
        let _ = self.0.reload(own(level));
    }
}

/// Begins to log to stderr.
pub(super) fn install(level: LevelFilter, format: LogFormat) -> LogLevel {
    let (own, handle) = reload::Layer::new(own(level));
    let lines = lines::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(own).with(lines).init();
    LogLevel(handle)
}

/// This project's crates only: what others log at a low level holds the addresses of nodes.
fn own(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target("rendezvous_peer", level)
        .with_target("halloo_transport", level.min(LevelFilter::WARN))
}
