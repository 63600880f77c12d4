//! What the program's exit code means: one table for the code, the man page and the tests.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exit {
    /// What was asked for is done.
    Ok,
    /// Anything that has no code of its own.
    Failure,
    /// The command line cannot be understood.
    Usage,
    /// No such contact or message.
    NotFound,
    /// Nobody answers, or not in time.
    Unreachable,
    /// The other side said no, or a quota is used up.
    Refused,
    /// Codes differ, or a key is not the one that was known.
    Mismatch,
    /// Locked for a while, or by a passphrase.
    Locked,
    /// Something else already runs or exists here.
    Conflict,
    /// Not yet: it is kept and can be asked again.
    Temporary,
    /// The system does not permit it.
    Permission,
    /// The home directory is missing or unusable.
    Config,
    /// Stopped by a signal.
    Interrupted,
}

impl Exit {
    /// Every way to end, its number, and what it says in the man page.
    pub(crate) const TABLE: [(Self, u8, &'static str); 13] = [
        (Self::Ok, 0, "done"),
        (Self::Failure, 1, "failure without a code of its own"),
        (Self::Usage, 2, "the command line cannot be understood"),
        (Self::NotFound, 3, "no such contact or message"),
        (Self::Unreachable, 4, "nobody answers, or not in time"),
        (Self::Refused, 5, "refused by the other side, by its peer, or by a quota"),
        (Self::Mismatch, 6, "the codes differ, or a key has changed"),
        (Self::Locked, 7, "locked, for example after three failed comparisons"),
        (Self::Conflict, 8, "another node runs on this home, or the thing exists already"),
        (Self::Temporary, 75, "not yet: kept here, try again later"),
        (Self::Permission, 77, "the system does not permit it"),
        (Self::Config, 78, "the home directory is missing or unusable"),
        (Self::Interrupted, 130, "interrupted"),
    ];

    /// The number that the shell sees.
    pub(crate) fn number(self) -> u8 {
        let row = Self::TABLE.iter().find(|(exit, ..)| *exit == self);
        row.expect("every way to end stands in the table").1
    }

    /// Whether the same command may succeed later.
    pub(crate) fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Temporary | Self::Locked | Self::Conflict)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_promise_to_scripts() {
        let numbers: Vec<u8> = Exit::TABLE.iter().map(|row| row.1).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 75, 77, 78, 130]);
        for (exit, number, meaning) in Exit::TABLE {
            assert_eq!(exit.number(), number);
            assert!(!meaning.is_empty());
        }
    }
}
