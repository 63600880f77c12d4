//! Why a command failed, in the form that every command shares: a stable code, what happened, and
//! what to do.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// A stable name for programs, in kebab case.
    pub(crate) code: Cow<'static, str>,
    /// What happened and why, for people.
    pub(crate) message: String,
    /// What to do.
    #[serde(rename = "try", default, skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<Cow<'static, str>>,
    /// How the program ends.
    pub(crate) exit: Exit,
}

impl Failure {
    /// A failure with the exit and advice that [`CODES`] has for `code`.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let row = CODES.iter().find(|(known, ..)| *known == code);
        let (exit, advice) = row.map_or((Exit::Failure, ""), |(_, exit, advice)| (*exit, *advice));
        Self {
            code: Cow::Borrowed(code),
            message: message.into(),
            advice: (!advice.is_empty()).then_some(Cow::Borrowed(advice)),
            exit,
        }
    }

    /// There is nothing to say: nobody reads any more, or somebody asked the program to end.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.exit, Exit::Ok | Exit::Interrupted)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind;
        match e.kind() {
            ErrorKind::BrokenPipe => Self::new(BROKEN_PIPE, "nobody reads the output any more"),
            ErrorKind::PermissionDenied => Self::new("permission", e.to_string()),
            _ => Self::new("io", e.to_string()),
        }
    }
}

/// The code of a closed standard output.
const BROKEN_PIPE: &str = "broken-pipe";

impl From<halloo::error::StartError> for Failure {
    fn from(e: halloo::error::StartError) -> Self {
        use halloo::error::{StartError, StoreError};
        match &e {
            StartError::File { source, .. }
            | StartError::Store(StoreError::File { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::new("permission", e.to_string())
            }
            _ => Self::new(e.code(), e.to_string()),
        }
    }
}

/// Makes failures of the library's errors, each of which knows its code.
macro_rules! from_library {
    ($($error:ident),+ $(,)?) => {
        $(impl From<halloo::error::$error> for Failure {
            fn from(e: halloo::error::$error) -> Self {
                Self::new(e.code(), e.to_string())
            }
        })+
    };
}

from_library!(
    StoreError,
    ContactError,
    SendError,
    CancelError,
    SafetyError,
    BackupError,
    ChannelError,
    ConnectError,
    PingError,
    EventError,
);

/// Codes of this program and of the library: how the program ends, and what to do. A code that
/// does not stand here ends with 1, and its text says everything.
const CODES: &[(&str, Exit, &str)] = &[
    // The program itself.
    (BROKEN_PIPE, Exit::Ok, ""),
    ("stopped", Exit::Ok, ""),
    ("interrupted", Exit::Interrupted, ""),
    ("usage", Exit::Usage, "halloo help"),
    ("address", Exit::Usage, "ask them for what halloo id prints: peer-host/fingerprint"),
    ("peer-address", Exit::Usage, "write host[:port], or what rendezvous-peer address prints"),
    ("not-a-code", Exit::Usage, "give the six digits that the other person read out"),
    ("not-text", Exit::Usage, "send UTF-8 text; other data goes through a channel"),
    ("text-too-long", Exit::Usage, "send it in parts; a message takes 32 KiB"),
    ("permission", Exit::Permission, "make the directory yours, or name another with --home"),
    ("no-identity", Exit::Config, "halloo init --peer HOST"),
    ("already-set-up", Exit::Conflict, "use another --home for another identity"),
    ("timeout", Exit::Unreachable, ""),
    ("perf-broken", Exit::Unreachable, "halloo ping NAME"),
    ("perf-version", Exit::Refused, "use the same version of halloo on both sides"),
    ("kept-for-later", Exit::Temporary, "leave halloo daemon running: it goes on trying"),
    ("message-failed", Exit::Refused, "halloo contacts"),
    ("not-checked-yet", Exit::Temporary, "halloo verify NAME, when you are both there"),
    (
        "safety-mismatch",
        Exit::Mismatch,
        "do not go on over this network; meet, and compare halloo verify NAME --number",
    ),
    (
        "peer-key-changed",
        Exit::Mismatch,
        "ask the peer's operator by another way; if the new key is right and the peer is yours: \
         halloo init --peer halloo-peer://HOST/KEY",
    ),
    (
        "keys-refused",
        Exit::Mismatch,
        "compare the address with them by another way; if it is right, their rendezvous peer, or \
         somebody in front of it, does not play fair: they should use another one",
    ),
    ("control-socket", Exit::Failure, "use a --home with a shorter path on a local disk"),
    ("control-busy", Exit::Temporary, "let other commands end"),
    ("control-version", Exit::Conflict, "restart halloo daemon with the installed version"),
    ("node-gone", Exit::Temporary, "start halloo daemon again, then repeat the command"),
    ("demo-untrue", Exit::Failure, "run it again with -v, and report what it shows"),
    // Starting a node, and its store.
    ("no-home", Exit::Config, "name a directory with --home"),
    ("no-peer", Exit::Config, "halloo init --peer HOST"),
    (
        "home-locked",
        Exit::Locked,
        "type the passphrase at a terminal, or give --passphrase-file FILE",
    ),
    ("wrong-passphrase", Exit::Locked, "try again; without the passphrase nothing opens the home"),
    ("home-not-locked", Exit::Config, "halloo passphrase set, or leave --passphrase-file out"),
    ("home-is-locked", Exit::Conflict, "halloo passphrase change"),
    ("empty-passphrase", Exit::Usage, "choose a passphrase: several words that nobody guesses"),
    ("passphrases-differ", Exit::Usage, "repeat the command"),
    ("passphrase-command", Exit::Usage, "run the command by itself: its first line is taken"),
    ("passphrase-file", Exit::Usage, "give a file whose first line is the passphrase"),
    ("already-running", Exit::Conflict, "use the node that runs, or stop it first"),
    ("home-file", Exit::Config, "make the home directory usable, or name another with --home"),
    ("key-file", Exit::Config, "halloo restore FILE --home NEW-DIR, from a backup"),
    ("restore-unfinished", Exit::Config, "halloo restore FILE, once more"),
    ("backup-exists", Exit::Conflict, "name another file, or add --replace"),
    ("home-in-use", Exit::Conflict, "name another directory with --home"),
    ("not-a-backup", Exit::Usage, "give a file that halloo backup has written"),
    ("backup-damaged", Exit::Failure, "use another backup"),
    ("backup-file", Exit::Failure, "make the file readable, or name another place"),
    ("bind", Exit::Failure, "choose another address with --udp, or leave it out"),
    ("disk-full", Exit::Failure, "make room, then repeat the command"),
    ("disk-failed", Exit::Failure, "check the disk, then repeat the command; keep a backup"),
    ("store-not-ours", Exit::Config, "name another directory with --home"),
    ("store-too-new", Exit::Config, "install the newest halloo"),
    ("store-corrupt", Exit::Config, "halloo restore FILE --home NEW-DIR, from a backup"),
    ("store-other-identity", Exit::Config, "put the right identity.key back"),
    ("store-file", Exit::Config, "make the home directory usable, or name another with --home"),
    ("node-stopped", Exit::Temporary, "repeat the command"),
    // Contacts and messages.
    ("unknown-contact", Exit::NotFound, "halloo contacts, or: halloo add ADDRESS --name NAME"),
    ("own-address", Exit::Usage, "give the address of somebody else"),
    ("known-contact", Exit::Conflict, "halloo contacts"),
    ("name-taken", Exit::Conflict, "choose another --name"),
    ("bad-name", Exit::Usage, "choose another --name"),
    ("note-too-long", Exit::Usage, "shorten --note"),
    ("too-many-contacts", Exit::Refused, ""),
    ("not-asked", Exit::NotFound, "halloo add ADDRESS asks them"),
    ("peer-key-differs", Exit::Mismatch, "ask them by another way for their address"),
    (
        "not-accepted",
        Exit::Temporary,
        "halloo contacts shows who has to accept: halloo accept NAME",
    ),
    ("blocked", Exit::Refused, "halloo accept NAME, if they have asked"),
    ("key-changed", Exit::Mismatch, "meet them, then: halloo verify NAME"),
    ("too-long", Exit::Usage, "send it in parts"),
    ("outbox-full", Exit::Refused, "wait until they come back"),
    ("unknown-message", Exit::NotFound, "halloo send --json prints each message's id"),
    ("too-late", Exit::Refused, "write to them: it may arrive, or has arrived"),
    ("failed-before", Exit::Refused, ""),
    // Comparing codes.
    ("wrong-code", Exit::Mismatch, "call again and compare once more: halloo verify NAME"),
    (
        "mismatch",
        Exit::Mismatch,
        "do not go on over this network; meet, and compare halloo verify NAME --number",
    ),
    ("cancelled", Exit::Temporary, "halloo verify NAME, when you are both there"),
    ("no-exchange", Exit::Temporary, "halloo verify NAME"),
    ("no-code-yet", Exit::Temporary, "halloo verify NAME"),
    ("safety-locked", Exit::Locked, "wait, or meet and compare halloo verify NAME --number"),
    // Paths.
    ("away", Exit::Unreachable, "messages reach them nevertheless: halloo send NAME TEXT"),
    (
        "no-path",
        Exit::Refused,
        "halloo daemon --direct accepted, on both sides; messages reach them nevertheless",
    ),
    ("too-many-connections", Exit::Temporary, "repeat the command in a few seconds"),
    ("no-peer-connection", Exit::Unreachable, "halloo doctor NAME; their peer may be down"),
    (
        "unreachable",
        Exit::Unreachable,
        "halloo doctor NAME; messages go through their peer: halloo send NAME TEXT",
    ),
    ("not-online", Exit::Unreachable, "what the lines with ✗ say, then: halloo doctor"),
    ("connection-lost", Exit::Unreachable, "repeat the command"),
    ("no-answer", Exit::Unreachable, "their node may be off: halloo send NAME TEXT leaves word"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_to_end_and_what_to_do() {
        let failure = Failure::new("unknown-contact", "no contact is known by this name");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.advice.is_some_and(|advice| advice.contains("halloo contacts")));
    }

    #[test]
    fn an_unknown_code_is_a_plain_failure() {
        let failure = Failure::new("moon-phase", "the moon is full");
        assert_eq!((failure.exit, failure.advice), (Exit::Failure, None));
    }

    #[test]
    fn each_code_stands_once() {
        let mut codes: Vec<&str> = CODES.iter().map(|row| row.0).collect();
        codes.sort_unstable();
        let all = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    #[test]
    fn whoever_gets_no_connection_is_told_what_to_do() {
        use halloo::error::{ConnectError, StoreError};
        let why = String::new;
        for e in [
            ConnectError::UnknownContact,
            ConnectError::NotAllowed,
            ConnectError::Away,
            ConnectError::NoPath,
            ConnectError::TooMany,
            ConnectError::NoPeer { why: why() },
            ConnectError::Unreachable { why: why() },
            ConnectError::Stopped,
            ConnectError::Store(StoreError::DiskFailed),
        ] {
            let failure = Failure::from(e);
            assert!(failure.advice.is_some(), "{}", failure.code);
        }
    }

    #[test]
    fn the_library_s_errors_keep_their_codes() {
        use halloo::error::{ContactError, SafetyError, SendError, StartError};
        let exits = [
            Failure::from(ContactError::Unknown).exit,
            Failure::from(SafetyError::WrongCode).exit,
            Failure::from(SafetyError::Locked { until_unix_s: 0 }).exit,
            Failure::from(SendError::OutboxFull { limit: 1 }).exit,
            Failure::from(StartError::AlreadyRunning { home: "/h".into() }).exit,
            Failure::from(StartError::NoPeer).exit,
        ];
        assert_eq!(
            exits,
            [
                Exit::NotFound,
                Exit::Mismatch,
                Exit::Locked,
                Exit::Refused,
                Exit::Conflict,
                Exit::Config
            ]
        );
    }
}
