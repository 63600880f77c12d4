//! What is said on the control socket. [`VERSION`] changes when a program of another version could
//! misread it.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use halloo::{Fingerprint, Invite, MessageId};
use serde::{Deserialize, Serialize};

use crate::fact::{Code, ContactCard, Line, Message, PathTo, Ready, Sent, State, Throughput};
use crate::failure::Failure;

/// The version of everything here.
pub(crate) const VERSION: u32 = 1;

/// Longest line: a message of the greatest length in which JSON escapes each byte by six.
pub(crate) const MAX_LINE: usize = 256 * 1024;

/// What a command asks of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the node is.
    Status,
    /// Waits until the node is registered with its peer, but not longer than this.
    Online { within_ms: u64 },
    /// The same, until the node has read what waited there.
    CaughtUp { within_ms: u64 },
    /// All contacts.
    Contacts,
    /// The one that a name, an address or the beginning of a fingerprint means.
    Contact { who: String },
    /// Asks somebody to become a contact.
    Add { address: String, name: Option<String>, note: String },
    /// Accepts who asked.
    Accept { who: Id<Fingerprint>, name: Option<String> },
    /// Does not want to hear from somebody any more.
    Block { who: Id<Fingerprint> },
    /// Sends a text. The same `key` again sends nothing and answers with the first message. It is
    /// taken back when it has not left within a time.
    Send {
        to: Id<Fingerprint>,
        text: String,
        key: Option<String>,
        parent: Option<Id<MessageId>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_ms: Option<u64>,
    },
    /// Takes a message back that has not left.
    Cancel { id: Id<MessageId> },
    /// Waits until everything for somebody is at their peer or arrived, but not longer than this.
    HandedOver { to: Id<Fingerprint>, within_ms: u64 },
    /// Where a message stands.
    Delivery { id: Id<MessageId> },
    /// The last messages of a conversation, oldest first.
    History { with: Id<Fingerprint>, limit: u32 },
    /// Tells what happens, until the connection is closed. The first line is [`Ready`].
    Events { from: From },
    /// Begins to compare a safety code, or joins the comparison that runs; answers when both can
    /// read it.
    SafetyCode { with: Id<Fingerprint> },
    /// The person typed these digits.
    SafetyConfirm { with: Id<Fingerprint>, digits: String },
    /// Waits for the other side's digits.
    SafetyDone { with: Id<Fingerprint> },
    /// The person says that the digits differ.
    SafetyMismatch { with: Id<Fingerprint> },
    /// Not now.
    SafetyCancel { with: Id<Fingerprint> },
    /// The long number.
    SafetyNumber { with: Id<Fingerprint> },
    /// One ping.
    Ping { to: Id<Fingerprint>, within_ms: u64 },
    /// Gets a connection, direct or relayed.
    Connect { to: Id<Fingerprint> },
    /// Checks the network, and the path to a contact when one is named; tells each check.
    Doctor { who: Option<Id<Fingerprint>> },
    /// Writes a backup to a file, given by its whole path.
    BackUp { file: PathBuf, passphrase: Secret, replace: bool },
    /// Keeps an invite for the node's rendezvous peer, and asks the peer again.
    Invite { invite: Id<Invite> },
    /// Measures throughput; tells its progress.
    Perf { to: Id<Fingerprint>, direction: Direction, duration_ms: u32 },
}

/// A passphrase on its way to the node that runs. It does not print, and is wiped when it is
/// dropped.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a passphrase.
    pub(crate) fn new(text: crate::passphrase::Secret) -> Self {
        Self(text.to_string())
    }

    /// The passphrase as what opens a backup.
    pub(crate) fn key(&self) -> halloo::HomeKey {
        halloo::HomeKey::passphrase(self.0.as_str())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Where to begin to tell events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum From {
    /// What happens from here on.
    Now,
    /// Durable events after this place first. 0 is the beginning.
    After(u64),
}

/// Which way `perf` sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From here to the contact.
    Up,
    /// From the contact to here.
    Down,
}

impl Direction {
    /// The word in output.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "with", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Done, nothing to say.
    Done,
    /// To [`Request::Status`], [`Request::Online`] and [`Request::Doctor`].
    Status(Ready),
    /// To [`Request::Contacts`].
    Contacts(Vec<ContactCard>),
    /// To what concerns one contact.
    Contact(ContactCard),
    /// To [`Request::Send`].
    Sent(Sent),
    /// To [`Request::HandedOver`]: whether nothing waits here any more.
    HandedOver(bool),
    /// To [`Request::Delivery`]; `None` when the message is unknown.
    Delivery(Option<State>),
    /// To [`Request::History`].
    History(Vec<Said>),
    /// To [`Request::SafetyCode`]; `None` when the digits were typed here before and only the
    /// other side's are awaited.
    Code(Option<Code>),
    /// To [`Request::SafetyDone`].
    Checked { verified: String, checked: bool },
    /// To [`Request::SafetyNumber`].
    Number(String),
    /// To [`Request::Ping`].
    Pong { rtt_us: u64, via: String },
    /// To [`Request::Connect`].
    Path(PathTo),
    /// To [`Request::Perf`].
    Perf(Throughput),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    /// By them.
    Theirs(Message),
    /// By us.
    Ours {
        /// The message's id.
        id: String,
        /// What we wrote.
        text: String,
        /// Where it stands.
        #[serde(flatten)]
        state: State,
    },
}

/// A line from a client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// [`VERSION`].
    pub(crate) v: u32,
    /// What is asked.
    pub(crate) request: Request,
}

/// A line from the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// [`VERSION`].
    pub(crate) v: u32,
    /// What is said.
    #[serde(flatten)]
    pub(crate) body: AnswerBody,
}

/// What the server says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerBody {
    /// Something on the way.
    Line(Line),
    /// The end: it worked.
    Ok(Reply),
    /// The end: it failed.
    Error(Failure),
}

/// Reads a client's line.
///
/// # Errors
/// `control-version` for another version, `control-request` for anything else that is not a
/// request.
pub(crate) fn decode_ask(line: &[u8]) -> Result<Request, Failure> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let bad = |e: serde_json::Error| Failure::new("control-request", format!("not a request: {e}"));
    let Version { v } = serde_json::from_slice(line).map_err(bad)?;
    if v != VERSION {
        return Err(Failure::new(
            "control-version",
            format!("the running node speaks control version {VERSION}, the command version {v}"),
        ));
    }
    serde_json::from_slice::<Ask>(line).map(|ask| ask.request).map_err(bad)
}

/// Encodes one line with its line feed.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line =
        serde_json::to_vec(value).expect("our own types have text keys and no bad floats");
    line.push(b'\n');
    line
}

/// A value that travels as the text that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id<T>(pub(crate) T);

impl<T: Display> Serialize for Id<T> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Id<T> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Reads a value that a node wrote.
pub(crate) fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|e| Failure::new("control-reply", format!("{text:?}: {e}")))
}

/// Whole milliseconds, for the wire.
pub(crate) fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fact::Fact;

    fn someone() -> Fingerprint {
        Fingerprint::from_bytes([7; 30])
    }

    #[test]
    fn a_request_is_one_readable_line() {
        let request = Request::Send {
            to: Id(someone()),
            text: "two\nlines".to_owned(),
            key: None,
            parent: Some(Id(MessageId([1; 16]))),
            within_ms: None,
        };
        let line = encode(&Ask { v: VERSION, request: request.clone() });
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            format!(
                "{{\"v\":1,\"request\":{{\"op\":\"send\",\"to\":\"{}\",\"text\":\"two\\nlines\",\
                 \"key\":null,\"parent\":\"{}\"}}}}\n",
                someone(),
                "01".repeat(16)
            )
        );
        assert_eq!(decode_ask(&line).unwrap(), request);
    }

    #[test]
    fn requests_come_back_as_they_were() {
        for request in [
            Request::Status,
            Request::Contact { who: "anna".to_owned() },
            Request::Events { from: From::Now },
            Request::Events { from: From::After(17) },
            Request::Doctor { who: None },
            Request::Doctor { who: Some(Id(someone())) },
            Request::Perf { to: Id(someone()), direction: Direction::Down, duration_ms: 5000 },
            Request::SafetyConfirm { with: Id(someone()), digits: "481 907".to_owned() },
            Request::Invite { invite: Id(Invite::from_bytes([1; 30])) },
        ] {
            let line = encode(&Ask { v: VERSION, request: request.clone() });
            assert_eq!(decode_ask(&line).unwrap(), request);
        }
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense() {
        let code = |line: &str| decode_ask(line.as_bytes()).unwrap_err().code;
        assert_eq!(code(r#"{"v":2,"request":{"op":"teleport"}}"#), "control-version");
        assert_eq!(code(r#"{"v":1,"request":{"op":"teleport"}}"#), "control-request");
        assert_eq!(code(r#"{"v":1,"request":{"op":"status"}} x"#), "control-request");
        assert_eq!(code("GET / HTTP/1.1"), "control-request");
        assert_eq!(code(""), "control-request");
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let said = Said::Ours {
            id: "x".into(),
            text: "hi".into(),
            state: State::AtPeer { until_unix_s: 9 },
        };
        let line =
            Line::of(Fact::Delivered { to: "anna".into(), id: "x".into(), via: "direct".into() });
        for body in [
            AnswerBody::Line(line),
            AnswerBody::Ok(Reply::Done),
            AnswerBody::Ok(Reply::History(vec![said])),
            AnswerBody::Ok(Reply::Delivery(None)),
            AnswerBody::Ok(Reply::Checked { verified: "not checked".into(), checked: false }),
            AnswerBody::Error(Failure::new("not-found", "nobody is called anna")),
        ] {
            let written = format!("{body:?}");
            let line = encode(&Answer { v: VERSION, body });
            let back: Answer = serde_json::from_slice(&line).unwrap();
            assert_eq!(format!("{:?}", back.body), written);
        }
    }
}
