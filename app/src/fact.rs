//! What the program tells: every line on standard output is one [`Line`], for people or as JSON.

use serde::{Deserialize, Serialize};

/// The version of the JSON lines.
pub(crate) const SCHEMA: u32 = 1;

/// One line of output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// What is told.
    #[serde(flatten)]
    pub(crate) fact: Fact,
    /// `CLOCK_MONOTONIC` when it happened.
    pub(crate) mono_ns: u64,
    /// The place among a node's durable events, to go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<u64>,
}

impl Line {
    /// A fact, told as it happens.
    pub(crate) fn of(fact: Fact) -> Self {
        Self { schema: SCHEMA, fact, mono_ns: halloo::mono_ns(), cursor: None }
    }
}

/// What can be told. The JSON name of each stands in its `event` field; `via` is how something
/// travelled: `direct`, `relay` or `mailbox`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Fact {
    /// Who we are, and where.
    Identity(Identity),
    /// Whether it takes a passphrase to open the home.
    Home { locked: bool },
    /// A backup is written.
    Backup { file: String, bytes: u64 },
    /// The node runs.
    Ready(Ready),
    /// Registered with the peer.
    Online { peer: String, machine: String },
    /// The peer is lost.
    Offline { peer: String, why: String },
    /// A peer shows another key than before.
    PeerKeyChanged { peer: String, expected: String, found: String },
    /// The node's own peer does not host it.
    NotAdmitted { peer: String, code: String, why: String },
    /// Somebody wants to talk.
    Request { from: String, fingerprint: String, given_name: String, note: String },
    /// A contact is accepted, by us or by them.
    Accepted { contact: String, fingerprint: String },
    /// A message arrived.
    Message(Message),
    /// A message waits at the recipient's peer.
    AtPeer { to: String, id: String, until_unix_s: u64, via: String },
    /// The recipient has a message.
    Delivered { to: String, id: String, via: String },
    /// What waits for a contact cannot be left at their peer for now; it is tried again.
    Undeliverable { to: String, code: String, why: String },
    /// A message will not be delivered.
    Failed { to: String, id: String, why: String },
    /// A message of ours is taken back before it could leave.
    Cancelled { id: String },
    /// The path to a contact.
    Path(PathTo),
    /// A safety-code exchange moved on. The code itself is shown by `verify` only.
    Safety { contact: String, state: String },
    /// A message could not be read; it was asked for again.
    Undecryptable { from: String },
    /// A contact has begun again, with an emptied, restored, old or copied home.
    BeganAgain { contact: String, fingerprint: String },
    /// A contact knows more of us than this home: it is an old one, or has a copy.
    SetBack { contact: String, fingerprint: String },
    /// Passing events were dropped because they were read too slowly.
    Lagged { dropped: u64 },
    /// Something that this version of the program has no words for.
    Other { what: String },
    /// A contact as it stands.
    Contact(ContactCard),
    /// A message is kept and on its way.
    Sent(Sent),
    /// The six digits to compare.
    Code(Code),
    /// Where a comparison stands at its end.
    Checked { contact: String, checked: bool, verified: String },
    /// The long number to compare face to face.
    SafetyNumber { contact: String, number: String },
    /// An answer to a ping.
    Pong { seq: u32, contact: String, rtt_ms: f64, via: String },
    /// A ping without an answer.
    Lost { seq: u32, contact: String, why: String },
    /// How a transfer goes on.
    Progress(Throughput),
    /// One truth of the demo.
    Step(Step),
    /// One thing that `doctor` looked at.
    Check(Check),
    /// The end of a command that measures.
    Summary(Summary),
}

/// Who we are, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// `host[:port]/fingerprint`.
    pub(crate) address: String,
    /// The same for links, with the peer's key when it is known.
    pub(crate) uri: String,
    /// The fingerprint alone.
    pub(crate) fingerprint: String,
    /// The rendezvous peer.
    pub(crate) peer: String,
}

/// A running node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Who it is.
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Whether it is registered with its peer.
    pub(crate) online: bool,
    /// Where it is registered: the machines of its peers.
    #[serde(default)]
    pub(crate) online_at: Vec<String>,
    /// The process that hosts it.
    pub(crate) pid: u32,
    /// The command that hosts it.
    pub(crate) hosted_by: HostKind,
}

/// The commands that run a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostKind {
    /// `halloo daemon`.
    Daemon,
    /// `halloo listen`.
    Listen,
    /// `halloo chat`.
    Chat,
    /// Any other, for as long as it needs one.
    Command,
}

impl HostKind {
    /// The word in `halloo <word>`.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Daemon => "halloo daemon",
            Self::Listen => "halloo listen",
            Self::Chat => "halloo chat",
            Self::Command => "another halloo command",
        }
    }
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// The contact's name here.
    pub(crate) from: String,
    /// The contact's fingerprint.
    pub(crate) fingerprint: String,
    /// The message's id.
    pub(crate) id: String,
    /// What they wrote.
    pub(crate) text: String,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// How it came; empty when that is not remembered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) via: String,
}

/// The path to a contact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PathTo {
    /// The contact's name here.
    pub(crate) contact: String,
    /// How something sent to them travels.
    pub(crate) via: String,
    /// Their address, on a direct path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) addr: Option<String>,
    /// The round trip, when it has been measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_ms: Option<f64>,
    /// How a direct path was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) technique: Option<String>,
    /// Why the path is relayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// A contact as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContactCard {
    /// Our name for them, unique.
    pub(crate) name: String,
    /// `host[:port]/fingerprint`.
    pub(crate) address: String,
    /// The fingerprint alone.
    pub(crate) fingerprint: String,
    /// `requested`, `incoming`, `accepted` or `blocked`.
    pub(crate) state: String,
    /// `not checked`, `checked <date> by <how>` or `key changed`.
    pub(crate) verified: String,
    /// Whether it is checked.
    pub(crate) checked: bool,
    /// Their name for themselves; proof of nothing.
    pub(crate) given_name: String,
    /// The line in their request.
    pub(crate) note: String,
    /// How something sent to them travels.
    pub(crate) via: String,
}

impl ContactCard {
    /// The contact's fingerprint.
    pub(crate) fn id(&self) -> Result<halloo::Fingerprint, crate::failure::Failure> {
        crate::control::protocol::read(&self.fingerprint)
    }
}

/// A message of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The contact's name here.
    pub(crate) to: String,
    /// The message's id.
    pub(crate) id: String,
    /// Where it stands.
    #[serde(flatten)]
    pub(crate) state: State,
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum State {
    /// Kept here.
    Waiting,
    /// A copy waits at the recipient's peer.
    AtPeer { until_unix_s: u64 },
    /// The recipient has it.
    Delivered,
    /// It will not be delivered.
    Failed { why: String },
}

/// The six digits to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// With whom.
    pub(crate) contact: String,
    /// Six digits, without the gap.
    pub(crate) code: String,
    /// Who reads first: us, or them.
    pub(crate) read_first: bool,
}

/// What moved through a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Throughput {
    /// With whom.
    pub(crate) contact: String,
    /// `up` (from here) or `down` (to here).
    pub(crate) direction: String,
    /// For how long.
    pub(crate) seconds: f64,
    /// How much.
    pub(crate) bytes: u64,
    /// How fast.
    pub(crate) mib_per_s: f64,
    /// On which path.
    pub(crate) path: String,
}

/// One truth of the demo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The chapter's number.
    pub(crate) chapter: u32,
    /// A stable name for the step.
    pub(crate) step: String,
    /// What was found true, or not.
    pub(crate) what: String,
    /// Whether it is true.
    pub(crate) ok: bool,
    /// The figures behind it.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) figures: serde_json::Map<String, serde_json::Value>,
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// A stable name: `socket`, `name`, `key`, `udp`, `tcp`, `machine`, `registered`, `nat`,
    /// `mapped-port`, `ipv6` or `path`.
    pub(crate) check: String,
    /// The rendezvous peer or the contact that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    /// Whether it is as it should be; `null` when it is neither good nor bad, or not known.
    pub(crate) ok: Option<bool>,
    /// What was found, for people.
    pub(crate) what: String,
    /// What to do.
    #[serde(rename = "try", default, skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
    /// What was found, for programs.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) figures: serde_json::Map<String, serde_json::Value>,
}

/// The last line of a command that measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Summary {
    /// Of `ping`.
    Ping(PingSummary),
    /// Of `perf`.
    Perf(Throughput),
    /// Of `demo`.
    Demo {
        /// Truths told.
        steps: u32,
        /// Whether all of them held.
        ok: bool,
        /// How long it took.
        seconds: f64,
    },
    /// Of `doctor`.
    Doctor {
        /// Whether the node is registered with its peer.
        online: bool,
        /// Things looked at.
        checks: u32,
        /// Of those, how many are not as they should be.
        failed: u32,
    },
}

/// What `ping` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PingSummary {
    /// Whom.
    pub(crate) contact: String,
    /// Pings sent.
    pub(crate) sent: u32,
    /// Answers.
    pub(crate) received: u32,
    /// From the first ping to the first answer; `null` when none came.
    pub(crate) first_reply_ms: Option<f64>,
    /// From the first ping to the first sign of a direct path; `null` when there was none.
    pub(crate) direct_ms: Option<f64>,
    /// The path at the end: `direct`, `relay` or `mailbox`; `null` when nothing answered.
    pub(crate) path: Option<String>,
    /// The quickest answer.
    pub(crate) min_ms: Option<f64>,
    /// The middle answer.
    pub(crate) median_ms: Option<f64>,
    /// The slowest answer.
    pub(crate) max_ms: Option<f64>,
}
