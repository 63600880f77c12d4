//! The `halloo` program: talk to people and programs directly, end to end encrypted.
//!
//! ```text
//! cli ──> commands ──> session ──┬──> operate ──> the halloo library
//!             │                  └──> control client ··socket··> control server ──> operate
//!             └──> output <── human, fact <── tell
//! ```
//!
//! A command is written once, against a [`session`]: a node of its own, or the one that `listen`,
//! `chat` or `daemon` hosts for the home. Every request of a session is carried out by
//! [`operate`], in this process or behind the [`control`] socket. What a command tells is a
//! [`fact`], printed in one place ([`output`]) in words or as JSON.

mod checkup;
mod cli;
mod commands;
mod control;
mod demo;
mod duration;
mod exit;
mod fact;
mod failure;
mod host;
mod human;
mod input;
mod operate;
mod output;
mod passphrase;
mod perf;
mod session;
mod signals;
mod tell;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Out;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let out = Out::new(&cli.global);
    log(&cli.global, out);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            out.failure(&e.into());
            return Exit::Failure.into();
        }
    };
    let result = runtime.block_on(commands::run(out, &cli.global, cli.command));
    // Nothing is left to do; a task that hangs does not keep the program.
    runtime.shutdown_timeout(Duration::from_millis(500));
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are data; anything else that the parser says is a usage error.
fn usage(e: &clap::Error) -> ExitCode {
    let is_error = e.use_stderr();
    let wants_json = std::env::args_os().any(|arg| arg == "--json");
    if is_error && wants_json {
        let text = e.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Out::json().failure(&Failure::new("usage", message));
    } else {
        // A closed pipe is nobody's problem.
        let _ = e.print();
    }
    if is_error { Exit::Usage.into() } else { Exit::Ok.into() }
}

fn log(global: &Global, out: Out) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        // What the library warns of, the commands say in their own words.
        (_, 0) => "warn,halloo=error",
        (_, 1) => "info,halloo=debug",
        (_, 2) => "debug",
        _ => "trace",
    };
    let filter = std::env::var("HALLOO_LOG")
        .ok()
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(out.talks_in_color())
        .init();
}
