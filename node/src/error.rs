//! Why something could not be done, one type for each operation.
//!
//! Each has `code()`: a stable, short name for programs. The text says what happened and why.

use std::io;
use std::path::PathBuf;

use halloo_e2ee::BundleError;
use halloo_identity::{PeerFingerprint, PeerHost};

pub use crate::store::StoreError;

macro_rules! code {
    ($name:ident { $($variant:ident => $code:literal),* $(,)? } $(, $inner:ident)*) => {
        impl $name {
            /// A stable name for programs.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $code,)*
                    $(Self::$inner(e) => e.code(),)*
                }
            }
        }
    };
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No home directory was given.
    #[error("no home directory was given")]
    NoHome,
    /// The home has no rendezvous peer and none was given.
    #[error("no rendezvous peer is set")]
    NoPeer,
    /// Another node runs on this home.
    #[error("another node runs on {home}")]
    AlreadyRunning {
        /// The home.
        home: PathBuf,
    },
    /// The home is locked and no key was given.
    #[error("the home {home} is locked: it takes its passphrase to open it")]
    Locked {
        /// The home.
        home: PathBuf,
    },
    /// Another passphrase or key locked the home.
    #[error("this is not the passphrase of the home {home}")]
    WrongPassphrase {
        /// The home.
        home: PathBuf,
    },
    /// A key was given for a home that takes none: what was thought to be protected is not.
    #[error("the home {home} is not locked, but a passphrase was given for it")]
    NotLocked {
        /// The home.
        home: PathBuf,
    },
    /// A passphrase without a single character protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A file of the home cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The key file is damaged or not one.
    #[error("the key file {path} cannot be read: {why}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The home was being made of a backup, and that was interrupted.
    #[error("the home {home} is not finished: restoring it was interrupted")]
    RestoreUnfinished {
        /// The home.
        home: PathBuf,
    },
    /// The UDP port cannot be opened.
    #[error("cannot open a UDP port: {why}")]
    Bind {
        /// What the system says.
        why: String,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(StartError {
    NoHome => "no-home", NoPeer => "no-peer", AlreadyRunning => "already-running",
    Locked => "home-locked", WrongPassphrase => "wrong-passphrase", NotLocked => "home-not-locked",
    EmptyPassphrase => "empty-passphrase",
    File => "home-file", KeyFile => "key-file",
    RestoreUnfinished => "restore-unfinished", Bind => "bind",
}, Store);

/// Why a contact cannot be added, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContactError {
    /// Nobody is known by this name or address.
    #[error("no contact is known by this name or address")]
    Unknown,
    /// The address is this node's own.
    #[error("this is your own address")]
    Oneself,
    /// The address is a contact's already.
    #[error("this address is already a contact: {name}")]
    Known {
        /// The name that it has.
        name: String,
    },
    /// Another contact has this name.
    #[error("another contact is named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The name is empty, too long or has control characters.
    #[error("a name has 1 to {limit} bytes and no control characters")]
    BadName {
        /// Longest name, bytes.
        limit: usize,
    },
    /// The note is too long.
    #[error("the note is longer than {limit} bytes")]
    NoteTooLong {
        /// Longest note, bytes.
        limit: usize,
    },
    /// There are too many contacts.
    #[error("there are {limit} contacts, more cannot be kept")]
    TooMany {
        /// How many can be kept.
        limit: usize,
    },
    /// They have not asked, so there is nothing to accept.
    #[error("they have not asked to talk: there is nothing to accept")]
    NotAsked,
    /// The address names another key for its rendezvous peer than the one that is known.
    #[error("the address says that {peer} has the key {}…, but it is known with {}…", given.short(), pinned.short())]
    PeerKeyDiffers {
        /// The peer.
        peer: PeerHost,
        /// The key that is known.
        pinned: PeerFingerprint,
        /// The key in the address.
        given: PeerFingerprint,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(ContactError {
    Unknown => "unknown-contact", Oneself => "own-address", Known => "known-contact",
    NameTaken => "name-taken", BadName => "bad-name", NoteTooLong => "note-too-long",
    TooMany => "too-many-contacts", NotAsked => "not-asked",
    PeerKeyDiffers => "peer-key-differs",
}, Store);

impl ContactError {
    /// The store's part of an error whose other parts cannot happen.
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Store(e) => e,
            _ => StoreError::Unreadable("contact"),
        }
    }
}

/// Why a message is not accepted for sending. Nothing was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nobody is known by this fingerprint.
    #[error("no contact has this fingerprint")]
    UnknownContact,
    /// They asked to talk and wait for an answer.
    #[error("they have asked to talk and wait for your answer")]
    NotAccepted,
    /// The contact is blocked.
    #[error("the contact is blocked")]
    Blocked,
    /// The contact's key changed since it was checked.
    #[error("the contact's key is another one than the one that was checked")]
    KeyChanged,
    /// The text is too long.
    #[error("the text has {len} bytes, a message takes {limit}")]
    TooLong {
        /// Longest text, bytes.
        limit: usize,
        /// Its length, bytes.
        len: usize,
    },
    /// Too many messages wait for this contact.
    #[error("{limit} messages wait for this contact already")]
    OutboxFull {
        /// How many can wait.
        limit: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(SendError {
    UnknownContact => "unknown-contact", NotAccepted => "not-accepted", Blocked => "blocked",
    KeyChanged => "key-changed", TooLong => "too-long", OutboxFull => "outbox-full",
}, Store);

/// Why a message is not cancelled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// No message of ours has this name.
    #[error("no message of ours has this id")]
    Unknown,
    /// It has been encrypted: the recipient or a peer may have it.
    #[error("it is too late: the message may have left")]
    TooLate,
    /// It has failed for another reason.
    #[error("the message has failed before: {why}")]
    Failed {
        /// Why.
        why: crate::event::FailReason,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(CancelError {
    Unknown => "unknown-message", TooLate => "too-late", Failed => "failed-before",
}, Store);

/// Why a safety code is not to be had or did not match.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetyError {
    /// Nobody is known by this fingerprint.
    #[error("no contact has this fingerprint")]
    UnknownContact,
    /// Codes are compared between accepted contacts.
    #[error("the contact is not accepted on both sides yet")]
    NotAccepted,
    /// No exchange runs.
    #[error("no code is being compared")]
    NoExchange,
    /// The other side has not answered yet.
    #[error("the code is not known yet")]
    NoCodeYet,
    /// The digits are not this exchange's: a slip, or somebody in the middle.
    #[error("the digits differ: somebody may stand between you, or a digit was mistyped")]
    WrongCode,
    /// The other side says that the digits differ, or the exchange was tampered with.
    #[error("the other side saw other digits: somebody may stand between you")]
    Mismatch,
    /// The exchange was given up.
    #[error("the comparison was given up")]
    Cancelled,
    /// Three runs failed: locked for an hour.
    #[error("too many comparisons failed: locked until {}", crate::text::utc(*until_unix_s))]
    Locked {
        /// Until when, Unix seconds.
        until_unix_s: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(SafetyError {
    UnknownContact => "unknown-contact", NotAccepted => "not-accepted",
    NoExchange => "no-exchange", NoCodeYet => "no-code-yet", WrongCode => "wrong-code",
    Mismatch => "mismatch", Cancelled => "cancelled", Locked => "safety-locked",
}, Store);

/// Why there is no backup, or no home made of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is a file of this name.
    #[error("there is a file {file} already: name another one, or say that it may be replaced")]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// The passphrase is empty.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A home is restored into an empty directory only.
    #[error("there is a home in {home} already: restore into another directory")]
    HomeInUse {
        /// The directory.
        home: PathBuf,
    },
    /// The file is something else.
    #[error("{file} is not a backup that this program reads: {why}")]
    NotABackup {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another passphrase opens the backup.
    #[error("this is not the passphrase of {file}")]
    WrongPassphrase {
        /// The file.
        file: PathBuf,
    },
    /// The passphrase fits, but the content is damaged or cut off.
    #[error("{file} is damaged: use another backup")]
    Damaged {
        /// The file.
        file: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The home cannot be used.
    #[error(transparent)]
    Home(Box<StartError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(BackupError {
    Exists => "backup-exists", EmptyPassphrase => "empty-passphrase", HomeInUse => "home-in-use",
    NotABackup => "not-a-backup", WrongPassphrase => "wrong-passphrase",
    Damaged => "backup-damaged", File => "backup-file",
}, Home, Store);

/// Why there is no direct connection to a contact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody is known by this fingerprint.
    #[error("no contact has this fingerprint")]
    UnknownContact,
    /// The contact is not accepted on both sides, or shows another key than before.
    #[error("the contact is not accepted on both sides, or its key has changed")]
    NotAllowed,
    /// The contact's peer does not know the contact as online, or as consenting.
    #[error("the contact is away")]
    Away,
    /// Neither a direct path nor a relay is allowed.
    #[error("their peer relays nothing, and the policies allow no direct path")]
    NoPath,
    /// As many connections to the contact are being made or ended as may be.
    #[error("too many connections to this contact at a time")]
    TooMany,
    /// The contact's peer cannot be reached.
    #[error("the contact's rendezvous peer cannot be reached: {why}")]
    NoPeer {
        /// Why.
        why: String,
    },
    /// The contact did not answer on any path.
    #[error("the contact did not answer: {why}")]
    Unreachable {
        /// Why, for people.
        why: String,
    },
    /// The node is shutting down.
    #[error("the node has stopped")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(ConnectError {
    UnknownContact => "unknown-contact", NotAllowed => "not-accepted", Away => "away",
    NoPath => "no-path", TooMany => "too-many-connections", NoPeer => "no-peer-connection", Unreachable => "unreachable", Stopped => "node-stopped",
}, Store);

/// Why a channel did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// There is no direct connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A channel's name has 1 to 64 bytes.
    #[error("a channel's name has 1 to 64 bytes")]
    BadName,
    /// The connection ended.
    #[error("the connection ended while the channel opened")]
    Lost,
}

code!(ChannelError { BadName => "bad-channel-name", Lost => "connection-lost" }, Connect);

/// Why a ping had no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// Nobody is known by this fingerprint.
    #[error("no contact has this fingerprint")]
    UnknownContact,
    /// Pings go to accepted contacts.
    #[error("the contact is not accepted on both sides yet")]
    NotAccepted,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

code!(PingError {
    UnknownContact => "unknown-contact", NotAccepted => "not-accepted", Timeout => "no-answer",
}, Store);

/// Why events end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for EventError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Stopped => Self::Stopped,
            e => Self::Store(e),
        }
    }
}

code!(EventError { Stopped => "node-stopped" }, Store);

/// Why what a peer gave out as a contact's keys is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleRefused {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the contact's ratchet keys are not usable")]
    WeakKeys,
    #[error("the contact's ratchet key is another one than the one that was proved")]
    NotIntroduced,
    #[error(transparent)]
    Store(#[from] StoreError),
}
