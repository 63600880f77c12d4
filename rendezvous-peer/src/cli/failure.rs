//! Failures as people and scripts see them: what happened, why, what to do.

use std::error::Error;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::output;

/// The program's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All is well.
    Ok,
    /// Something failed.
    Failure,
    /// The command line is wrong.
    Usage,
    /// What was asked for is not there.
    NotFound,
    /// Nothing answers.
    Unreachable,
    /// Another key answers.
    Mismatch,
    /// Something else is in the place.
    Conflict,
    /// Permission is missing.
    Permission,
    /// The configuration is wrong.
    Config,
    /// Stopped at once by a second signal.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Unreachable => 4,
            Exit::Mismatch => 6,
            Exit::Conflict => 8,
            Exit::Permission => 77,
            Exit::Config => 78,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    hints: Vec<String>,
}

impl Failure {
    /// A failure with a stable code for scripts and a message for people.
    pub(super) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), hints: Vec::new() }
    }

    /// A failure whose message is an error and everything that led to it.
    pub(super) fn of(exit: Exit, code: &'static str, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors already say what their cause is.
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self::new(exit, code, message)
    }

    /// What happened, for people.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Adds what to do.
    pub(super) fn try_this(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The failure for programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "code": self.code,
            "message": self.message,
            "retryable": matches!(self.exit, Exit::Conflict | Exit::Unreachable),
            "help": self.hints,
        })
    }

    /// Writes the failure to stderr.
    pub(super) fn report(&self, json: bool) -> Exit {
        if json {
            let object = json!({ "schema": output::SCHEMA, "error": self.to_json() });
            output::error_line(&object.to_string());
        } else if self.code == "usage" {
            output::error_line(&format!("error: {}", self.message));
        } else {
            output::error_line(&format!("error[{}]: {}", self.code, self.message));
            self.hints.iter().for_each(|hint| output::error_line(&format!("  try: {hint}")));
        }
        self.exit
    }
}
