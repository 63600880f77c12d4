//! What can go wrong, one type for each operation, and how a connection ends.

use std::fmt;
use std::io;

use halloo_wire::{DecodeError, Fingerprint, PeerFingerprint};
use quinn::{ConnectionError, TransportErrorCode, VarInt};

use crate::tls::Refusal;

/// Why a connection is closed, in a number that the other side sees.
///
/// Texts of the other side are not passed on: they would reach logs and terminals unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// Nothing more to say.
    Done,
    /// The program stops.
    ShuttingDown,
    /// Another connection has taken this one's place.
    Superseded,
    /// This side does not talk to that identity.
    NotWelcome,
    /// A request carried a session id that is not this connection's.
    WrongSession,
    /// The other side broke the rules of the protocol.
    Misbehaved,
    /// The handshake took too long.
    TooSlow,
    /// Too much to do.
    Busy,
    /// A number that this version does not know.
    Unknown(u64),
}

/// The numbers on the wire. They never change their meaning.
const CODES: [(CloseCode, u32); 8] = [
    (CloseCode::Done, 0),
    (CloseCode::ShuttingDown, 1),
    (CloseCode::Superseded, 2),
    (CloseCode::NotWelcome, 3),
    (CloseCode::WrongSession, 4),
    (CloseCode::Misbehaved, 5),
    (CloseCode::TooSlow, 6),
    (CloseCode::Busy, 7),
];

impl CloseCode {
    /// The number on the wire.
    pub fn to_u64(self) -> u64 {
        match self {
            Self::Unknown(n) => n,
            known => {
                let found = CODES.iter().find(|(code, _)| *code == known);
                u64::from(found.expect("every known code has its number").1)
            }
        }
    }

    /// The code with this number.
    pub fn from_u64(n: u64) -> Self {
        CODES.iter().find(|(_, c)| u64::from(*c) == n).map_or(Self::Unknown(n), |(code, _)| *code)
    }

    pub(crate) fn to_varint(self) -> VarInt {
        VarInt::from_u64(self.to_u64()).unwrap_or(VarInt::MAX)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "nothing more to say",
            Self::ShuttingDown => "the program stops",
            Self::Superseded => "another connection took its place",
            Self::NotWelcome => "not welcome",
            Self::WrongSession => "wrong session id",
            Self::Misbehaved => "the protocol was broken",
            Self::TooSlow => "too slow",
            Self::Busy => "too busy",
            Self::Unknown(n) => return write!(f, "code {n}"),
        })
    }
}

/// Codes of single streams: why one was reset, or reading it was stopped.
pub(crate) mod stream_code {
    use quinn::VarInt;

    /// The caller gave up before it had written all.
    pub(crate) const CANCELLED: VarInt = VarInt::from_u32(1);
    /// The message is larger than its kind may be.
    pub(crate) const TOO_LARGE: VarInt = VarInt::from_u32(2);
    /// The message did not come in time.
    pub(crate) const TOO_SLOW: VarInt = VarInt::from_u32(3);
    /// The request was dropped without an answer.
    pub(crate) const UNANSWERED: VarInt = VarInt::from_u32(4);
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The system refused the socket.
    #[error("cannot open the UDP socket")]
    Socket(#[source] io::Error),
    /// There is no tokio runtime to run on.
    #[error("an endpoint needs a tokio runtime")]
    NoRuntime,
    /// The key and its certificate do not fit each other.
    #[error("the key cannot be used for TLS")]
    Key,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionLost {
    /// The other side closed it.
    #[error("closed by the other side: {0}")]
    Closed(CloseCode),
    /// This side closed it.
    #[error("closed by this side")]
    ClosedHere,
    /// Nothing was heard for too long.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The other side has forgotten the connection: it was restarted.
    #[error("the other side was restarted")]
    Reset,
    /// The other side's QUIC ended it, by this transport error code.
    #[error("ended by the other side's transport (code {0:#x})")]
    Ended(u64),
    /// The other side broke QUIC, by this transport error code.
    #[error("the other side broke the transport protocol (code {0:#x})")]
    Misbehaved(u64),
}

impl From<ConnectionError> for ConnectionLost {
    fn from(e: ConnectionError) -> Self {
        match e {
            ConnectionError::ApplicationClosed(close) => {
                Self::Closed(CloseCode::from_u64(close.error_code.into_inner()))
            }
            ConnectionError::ConnectionClosed(close) => Self::Ended(close.error_code.into()),
            ConnectionError::TransportError(e) => Self::Misbehaved(e.code.into()),
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => Self::ClosedHere,
            ConnectionError::VersionMismatch => Self::Misbehaved(0),
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The rendezvous peer has another key than the pinned one: its operator made a new one, or
    /// somebody else answers.
    #[error("the rendezvous peer's key has changed: expected {expected}, found {found}")]
    PeerKeyChanged {
        /// The pinned fingerprint.
        expected: PeerFingerprint,
        /// The fingerprint of who answered.
        found: PeerFingerprint,
    },
    /// Another node than the expected one answered.
    #[error("another node answered: expected {expected}, found {found}")]
    WrongFingerprint {
        /// Who was dialled.
        expected: Fingerprint,
        /// Who answered.
        found: Fingerprint,
    },
    /// What answered shows no certificate of Halloo's.
    #[error("what answered shows no sound certificate")]
    BadCertificate,
    /// The two sides share no version of the protocol, or no cryptography.
    #[error("the other side speaks no version of the protocol that this program speaks")]
    Incompatible,
    /// The other side refused this side's certificate.
    #[error("the other side refused this node's certificate")]
    CertificateRefused,
    /// The other side takes no connections.
    #[error("the other side takes no more connections")]
    Refused,
    /// Nobody answered in time.
    #[error("nobody answered in time")]
    TimedOut,
    /// The address cannot be dialled from this socket.
    #[error("the address cannot be reached from this socket")]
    Unreachable,
    /// A rendezvous peer's endpoint has no device certificate to show.
    #[error("this endpoint has no identity to show")]
    NoIdentity,
    /// The endpoint is closed.
    #[error("the endpoint is closed")]
    EndpointClosed,
    /// The connection was made and ended at once.
    #[error("the connection ended at once: {0}")]
    Lost(ConnectionLost),
}

/// Whom a connection was meant for, to name it in an error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dialled {
    Peer(Option<PeerFingerprint>),
    Node(Fingerprint),
}

/// What a TLS alert is about.
enum Alert {
    Certificate,
    Incompatible,
}

/// Reads a TLS alert (RFC 8446, section 6) out of a QUIC error code (RFC 9001, 4.8).
fn alert(code: u64) -> Option<Alert> {
    match code.checked_sub(0x100)? {
        // bad, unsupported, revoked, expired, unknown certificate; unknown issuer; access denied;
        // bad signature; certificate required
        42..=46 | 48 | 49 | 51 | 116 => Some(Alert::Certificate),
        // handshake failure, illegal parameter, version, too weak, extension missing, no ALPN
        40 | 47 | 70 | 71 | 109 | 120 => Some(Alert::Incompatible),
        _ => None,
    }
}

impl ConnectError {
    pub(crate) fn from_quic(e: ConnectionError, dialled: Dialled) -> Self {
        match e {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::VersionMismatch => Self::Incompatible,
            ConnectionError::TransportError(e) => match (Refusal::find(&e.reason), dialled) {
                (Some(Refusal::PeerKey(found)), Dialled::Peer(Some(expected))) => {
                    Self::PeerKeyChanged { expected, found }
                }
                (Some(Refusal::NodeKey(found)), Dialled::Node(expected)) => {
                    Self::WrongFingerprint { expected, found }
                }
                (Some(_), _) => Self::BadCertificate,
                (None, _) => match alert(e.code.into()) {
                    Some(Alert::Certificate) => Self::BadCertificate,
                    Some(Alert::Incompatible) => Self::Incompatible,
                    None => Self::Lost(ConnectionLost::Misbehaved(e.code.into())),
                },
            },
            ConnectionError::ConnectionClosed(close) => {
                match (alert(close.error_code.into()), close) {
                    (Some(Alert::Certificate), _) => Self::CertificateRefused,
                    (Some(Alert::Incompatible), _) => Self::Incompatible,
                    (None, close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                        Self::Refused
                    }
                    (None, close) => Self::Lost(ConnectionLost::Ended(close.error_code.into())),
                }
            }
            other => Self::Lost(other.into()),
        }
    }
}

/// Why a client's handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It was not done in time.
    #[error("the handshake was not done in time")]
    TimedOut,
    /// The client showed no sound certificate, or none where one is needed.
    #[error("the client shows no sound certificate")]
    BadCertificate,
    /// The two sides share no version of the protocol, or no cryptography.
    #[error("the client speaks no version of the protocol that this program speaks")]
    Incompatible,
    /// The connection ended during the handshake.
    #[error("the connection ended: {0}")]
    Lost(ConnectionLost),
}

impl From<ConnectionError> for HandshakeError {
    fn from(e: ConnectionError) -> Self {
        match e {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::TransportError(e) => match alert(e.code.into()) {
                Some(Alert::Certificate) => Self::BadCertificate,
                Some(Alert::Incompatible) => Self::Incompatible,
                None => Self::Lost(ConnectionLost::Misbehaved(e.code.into())),
            },
            other => Self::Lost(other.into()),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The handshake, which was still going on, failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended. The peer may have carried the request out.
    #[error("the connection ended: {0}")]
    Lost(#[from] ConnectionLost),
    /// No answer came in time. The peer may have carried the request out.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The request is beyond its limits: it was not sent.
    #[error("the request is larger than a request may be")]
    TooLarge,
    /// The peer gave the request up without an answer.
    #[error("the peer gave no answer")]
    Unanswered,
    /// The answer is not one.
    #[error("the peer's answer cannot be read: {0}")]
    BadResponse(#[source] DecodeError),
}

/// Why a push could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The handshake, which was still going on, failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Lost(#[from] ConnectionLost),
    /// The other side did not read or write in time. The connection stays.
    #[error("the push was not done in time")]
    TimedOut,
    /// The push is beyond its limits.
    #[error("the push is larger than a push may be")]
    TooLarge,
    /// The bytes are not a push. The connection stays.
    #[error("the push cannot be read: {0}")]
    Malformed(#[source] DecodeError),
}

/// Why what came on a request's stream is not a request. The stream still takes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestFault {
    /// Larger than a request may be. Reading stopped at the limit.
    #[error("the request is larger than a request may be")]
    TooLarge,
    /// Not all of it came in time.
    #[error("the request did not come in time")]
    TooSlow,
    /// The bytes are not a request.
    #[error("the request cannot be read: {0}")]
    Malformed(#[source] DecodeError),
}

/// Why an answer could not be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Lost(#[from] ConnectionLost),
    /// The client does not want the answer any more.
    #[error("the client does not want the answer")]
    NotWanted,
    /// The client did not read in time.
    #[error("the client did not read the answer in time")]
    TimedOut,
    /// The answer is larger than an answer may be.
    #[error("the answer is larger than an answer may be")]
    TooLarge,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_keep_their_numbers() {
        let numbers: Vec<_> = (0..8).map(CloseCode::from_u64).collect();
        use CloseCode::*;
        assert_eq!(
            numbers,
            [Done, ShuttingDown, Superseded, NotWelcome, WrongSession, Misbehaved, TooSlow, Busy]
        );
        for n in (0..20).chain([u64::MAX >> 2]) {
            assert_eq!(CloseCode::from_u64(n).to_u64(), n);
            assert_eq!(CloseCode::from_u64(n).to_varint().into_inner(), n);
        }
        assert_eq!(Unknown(u64::MAX).to_varint(), VarInt::MAX);
    }
}
