//! What a node and a rendezvous peer say to each other (ALPN [`ALPN_PEER`](crate::ALPN_PEER)).
//!
//! A node opens a bidirectional stream for each [`Request`], writes it and finishes; the peer
//! writes one [`Response`] and finishes. So a stream is one exchange, exchanges do not wait for
//! each other, and the end of a stream is the end of a message: nothing needs a length in front.
//! The peer opens a unidirectional stream for each [`Push`].
//!
//! Registration takes a connection with client certificates; everything else may be anonymous, and
//! should be: the peer has no need to know who drops or knocks.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, decode_control, encode_control};
use crate::datagram::{Class, classify};
use crate::envelope::Lane;
use crate::ids::{
    CapabilityId, CapabilityToken, ChannelId, DeviceId, EnvelopeId, Fingerprint, InstanceId, RowId,
    SessionId,
};
use crate::invite::Invite;
use crate::limits::{
    MAX_ACK_IDS, MAX_ATTESTED, MAX_BUNDLE, MAX_DATAGRAM, MAX_ENVELOPE, MAX_GRANT,
    MAX_KNOCK_DATAGRAMS, MAX_ONE_TIME_KEYS, MAX_PASSPORT, MAX_PUSH, MAX_REQUEST, MAX_RESPONSE,
    MAX_SEALED_CARD,
};

/// A request with the session that it belongs to, if any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The session from [`Response::Registered`]. `None` before it and for anonymous calls. A
    /// wrong one ends the connection.
    pub session: Option<SessionId>,
    /// What is asked.
    pub call: Call,
}

/// What a node asks of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Makes this connection the one where the device is reached. Needs client certificates.
    Register(Register),
    /// Replaces what the peer hands to those who look the device up. Needs a session.
    Publish(Publication),
    /// Registers reach capabilities, or replaces their cards. Needs a session.
    Grant(Vec<Grant>),
    /// Takes reach capabilities back. Needs a session.
    Revoke(Vec<CapabilityId>),
    /// Reads waiting envelopes, oldest first. They stay until they are acknowledged. Needs a
    /// session.
    Peek {
        /// Only envelopes after this one.
        after: Option<EnvelopeId>,
    },
    /// Lets the peer forget envelopes. Needs a session.
    Ack(Vec<EnvelopeId>),
    /// Asks for the passport and prekeys of an identity.
    LookUp(LookUp),
    /// Leaves an envelope.
    Drop(DropEnvelope),
    /// Asks a node to open a direct path, and leaves the first message with it.
    Knock(Knock),
    /// Names more addresses at which the device receives. Replaces those named before. Needs a
    /// session.
    Attest(Vec<Attested>),
    /// Asks to be rung by datagrams ([`parked`](crate::parked)) when this connection has ended. Needs
    /// a session, and a connection over UDP.
    Park,
    /// Gives the registration up, with everything that waits: the peer forgets the device at once and
    /// not after two weeks. Needs a session, which ends.
    Leave,
}

impl Call {
    /// Whether it may be repeated without harm, and so may ride in TLS early data, which an
    /// attacker can replay.
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::LookUp(_) | Self::Peek { .. })
    }

    /// Whether it needs a session.
    pub fn needs_session(&self) -> bool {
        match self {
            Self::Publish(_)
            | Self::Grant(_)
            | Self::Revoke(_)
            | Self::Peek { .. }
            | Self::Ack(_)
            | Self::Attest(_)
            | Self::Park
            | Self::Leave => true,
            Self::Register(_) | Self::LookUp(_) | Self::Drop(_) | Self::Knock(_) => false,
        }
    }
}

/// The content of [`Call::Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The device.
    pub device: DeviceId,
    /// Larger than in every earlier registration of the device.
    pub counter: u64,
    /// The run of the peer that the node means, from [`Push::Welcome`]. A node that has not waited
    /// for it means any: TLS shows that the request is no recording.
    pub instance: Option<InstanceId>,
    /// Reach capabilities, as with [`Call::Grant`]: so contacts can knock from this moment on.
    pub grants: Vec<Grant>,
    /// For a peer that hosts only those whom its operator has invited. Others do not look at it.
    pub invite: Option<Invite>,
}

/// The content of [`Call::Publish`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The bundle's sequence number, which must not fall.
    pub seq: u64,
    /// An encoded [`PrekeyBundle`](crate::prekey::PrekeyBundle). The peer does not look inside.
    pub bundle: Vec<u8>,
    /// One-time keys, in the order that the bundle's hash covers.
    pub one_time_keys: Vec<[u8; 32]>,
}

/// One reach capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The hash of its token.
    pub id: CapabilityId,
    /// The node's sealed contact card for its holder; empty when the holder may not learn the
    /// node's addresses. The peer tells the holder no observed address either when it is empty,
    /// and gives out a relay channel only.
    pub card: Vec<u8>,
}

/// The content of [`Call::LookUp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookUp {
    /// Who.
    pub to: Fingerprint,
    /// Which device.
    pub device: DeviceId,
}

/// The content of [`Call::Drop`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropEnvelope {
    /// For whom.
    pub to: Fingerprint,
    /// For which device.
    pub device: DeviceId,
    /// Needed for [`Lane::Contacts`], left out for [`Lane::Strangers`].
    pub token: Option<CapabilityToken>,
    /// The run of the peer that holds the sender's earlier envelopes. The peer refuses when it is
    /// another one, so that nothing is left behind a gap.
    pub instance: Option<InstanceId>,
    /// An encoded envelope.
    pub envelope: Vec<u8>,
}

/// An address at which a node receives, with the cookie that shows it
/// ([`EchoReply`](crate::peer_datagram::PeerDatagram::EchoReply)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The address.
    pub addr: SocketAddr,
    /// The peer's own cookie for it.
    pub cookie: u64,
}

/// The content of [`Call::Knock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knock {
    /// Whom.
    pub to: Fingerprint,
    /// Which device.
    pub device: DeviceId,
    /// Shows that the callee gave the caller a reach capability.
    pub token: CapabilityToken,
    /// The caller's sealed contact card.
    pub card: Vec<u8>,
    /// Whether the callee may learn where the peer sees the caller.
    pub reveal: bool,
    /// More addresses of the caller; those whose cookie is not right are left out. At most
    /// [`MAX_ATTESTED`].
    pub attested: Vec<Attested>,
    /// Whether the caller wants a relay channel.
    pub relay: bool,
    /// The beginning of a QUIC connection, to be handed to the callee: at most
    /// [`MAX_KNOCK_DATAGRAMS`].
    pub datagrams: Vec<Vec<u8>>,
    /// A message to leave in the callee's mailbox, whatever becomes of the knock.
    pub message: Option<KnockMessage>,
}

/// A message that rides in a knock. It is treated as a [`Call::Drop`] with the knock's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnockMessage {
    /// See [`DropEnvelope::instance`].
    pub instance: Option<InstanceId>,
    /// An encoded envelope.
    pub envelope: Vec<u8>,
}

/// What a peer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Call::Register`].
    Registered(Registered),
    /// To publish, grant, revoke, acknowledge and leave.
    Done,
    /// To [`Call::Peek`].
    Page(Page),
    /// To [`Call::LookUp`].
    Found(Found),
    /// To [`Call::Drop`]. It promises nothing: only the recipient's own acknowledgement does.
    Dropped(Receipt),
    /// To [`Call::Knock`].
    Knocked(Knocked),
    /// Refused.
    Refused(PeerError),
    /// To [`Call::Park`].
    Parked(Parked),
}

/// The content of [`Response::Parked`]. Both sides draw the key from TLS
/// ([`PARKING_LABEL`](crate::PARKING_LABEL)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Stands in each datagram of the registration.
    pub row: RowId,
    /// Seconds without a keepalive after which the peer rings no more. What comes then waits for the
    /// next visit.
    pub silence_s: u16,
}

/// The content of [`Response::Registered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// To be shown with each later request.
    pub session: SessionId,
    /// Seconds until the registration is forgotten unless the device comes back.
    pub expires_s: u32,
    /// The sequence number of the bundle that the peer still has.
    pub bundle_seq: Option<u64>,
    /// One-time keys of it that nobody has been given.
    pub one_time_keys_left: u16,
    /// Capabilities that the peer still has.
    pub capabilities: u32,
    /// Envelopes that wait.
    pub waiting: u32,
}

/// The content of [`Response::Page`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Oldest first.
    pub envelopes: Vec<Waiting>,
    /// Whether more wait after the last one.
    pub more: bool,
}

/// One waiting envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// To acknowledge it by.
    pub id: EnvelopeId,
    /// The part of the mailbox where it lies.
    pub lane: Lane,
    /// An encoded envelope.
    pub envelope: Vec<u8>,
}

/// The content of [`Response::Found`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The passport certificate, DER.
    pub passport: Vec<u8>,
    /// An encoded prekey bundle.
    pub bundle: Vec<u8>,
    /// All one-time keys that were published with it, so that the bundle's hash can be checked.
    pub one_time_keys: Vec<[u8; 32]>,
    /// The one that is given to this caller and to nobody else; `None` when all are given away.
    pub one_time_key: Option<u16>,
}

/// The content of [`Response::Dropped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The run of the peer that holds the envelope. When it changes, the envelope is gone.
    pub instance: InstanceId,
    /// Seconds until the envelope is forgotten.
    pub ttl_s: u32,
}

/// The content of [`Response::Knocked`].
///
/// Unknown, offline, not consenting and a wrong capability all answer with `callee: None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knocked {
    /// How to reach the callee, when it is there and consents.
    pub callee: Option<Callee>,
    /// What became of the message that rode along.
    pub message: Option<Result<Receipt, PeerError>>,
}

/// How to reach a callee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callee {
    /// Its addresses that the peer has made sure of, at first the one that the peer sees it at.
    /// Empty when it does not show them to this caller.
    pub observed: Vec<SocketAddr>,
    /// Its sealed contact card; empty when it does not show its addresses to this caller.
    pub card: Vec<u8>,
    /// The caller's number of the relay channel; `None` when it wanted none, or none is free.
    pub channel: Option<ChannelId>,
}

/// What a peer says unasked, each on a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    /// The first word on every connection.
    Welcome {
        /// This run of the peer.
        instance: InstanceId,
        /// The node's address as the peer sees it: its server-reflexive address.
        observed: SocketAddr,
        /// The second UDP port, which answers echo requests, if the peer has one.
        echo_port: Option<u16>,
    },
    /// An envelope has come. It stays in the mailbox until it is acknowledged.
    Envelope(Waiting),
    /// Somebody with a capability wants a direct path.
    Knock {
        /// Which capability the caller holds; it tells the node, and only it, who calls.
        capability: CapabilityId,
        /// The caller's addresses that the peer has made sure of; empty when it does not show
        /// them.
        observed: Vec<SocketAddr>,
        /// The caller's sealed contact card.
        card: Vec<u8>,
        /// The callee's number of the relay channel.
        channel: Option<ChannelId>,
        /// The beginning of the caller's QUIC connection.
        datagrams: Vec<Vec<u8>>,
    },
    /// Another connection of the same device has registered; this one hears nothing any more.
    Superseded,
    /// The peer is about to stop.
    Draining {
        /// Milliseconds after which to come back; spread so that not all come at once.
        retry_after_ms: u32,
    },
}

/// Why a peer refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The request is not one.
    #[error("the peer could not read the request")]
    Malformed,
    /// The request, or a part of it, is larger than it may be.
    #[error("the request is larger than the peer allows")]
    TooLarge,
    /// It needs a session that this connection does not have.
    #[error("this connection has no registration")]
    NotRegistered,
    /// The session id is not this connection's. The connection is closed.
    #[error("the session id does not belong to this connection")]
    WrongSession,
    /// The connection shows no certificate, so it cannot register.
    #[error("registering needs a client certificate")]
    NoCertificate,
    /// The registration's counter has been used: a replay, or an old copy of the node.
    #[error("the registration is older than the one that the peer has")]
    StaleCounter,
    /// The publication's sequence number is below the one that the peer has.
    #[error("the prekey bundle is older than the one that the peer has")]
    StaleBundle,
    /// The peer has restarted since.
    #[error("the peer has restarted")]
    InstanceChanged {
        /// Its run now.
        instance: InstanceId,
    },
    /// The peer does not know the recipient: never registered here, or not since its restart.
    #[error("the peer does not know this recipient: it has not been online since the peer started")]
    UnknownRecipient {
        /// Its run now.
        instance: InstanceId,
    },
    /// The contacts' lane needs a capability that the recipient gave and did not take back.
    #[error("the recipient has not given permission")]
    NotAuthorized,
    /// The recipient's mailbox has no room in this lane.
    #[error("the recipient's mailbox is full")]
    MailboxFull,
    /// The peer's memory has no room.
    #[error("the peer's memory is full")]
    PeerFull,
    /// Too many requests from this connection or network.
    #[error("too many requests: try again in {retry_after_ms} ms")]
    RateLimited {
        /// Milliseconds to wait.
        retry_after_ms: u32,
    },
    /// The device holds as many capabilities as the peer allows.
    #[error("the peer keeps no more capabilities for this device")]
    TooManyCapabilities,
    /// The peer is about to stop.
    #[error("the peer is about to stop")]
    Draining,
    /// The peer does not host this identity. Writing to those whom it hosts is open to all.
    #[error("{0}")]
    NotAdmitted(NotAdmitted),
}

/// Why a peer does not host somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotAdmitted {
    /// It hosts only those with an invite, and none was shown.
    #[error("the peer hosts only those who have an invite from its operator")]
    InviteMissing,
    /// The peer has not made it, or has made it for somebody else.
    #[error("the invite is not from this peer, or is for somebody else")]
    InviteInvalid,
    /// Its time is over.
    #[error("the invite has expired")]
    InviteExpired,
    /// The operator has taken it back.
    #[error("the invite was taken back")]
    InviteRevoked,
    /// Somebody else was the first to use it.
    #[error("somebody else has used the invite")]
    InviteTaken,
    /// It hosts only those on the operator's list.
    #[error("the peer hosts only those whom its operator has put on a list")]
    NotListed,
}

impl NotAdmitted {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::InviteMissing,
        Self::InviteInvalid,
        Self::InviteExpired,
        Self::InviteRevoked,
        Self::InviteTaken,
        Self::NotListed,
    ];
}

/// A control message: its limit on the wire, and the limits of its parts.
pub trait Control: Serialize + serde::de::DeserializeOwned {
    /// Largest encoding.
    const LIMIT: usize;

    /// Checks the limits of the parts.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] when one is beyond its limit.
    fn check(&self) -> Result<(), DecodeError>;

    /// The message's bytes.
    fn encode(&self) -> Vec<u8> {
        encode_control(self)
    }

    /// Reads a message and checks its limits.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one message within its limits.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let it: Self = decode_control(bytes, Self::LIMIT)?;
        it.check()?;
        Ok(it)
    }
}

impl Control for Request {
    const LIMIT: usize = MAX_REQUEST;

    fn check(&self) -> Result<(), DecodeError> {
        let fits = match &self.call {
            Call::Publish(p) => {
                p.bundle.len() <= MAX_BUNDLE && p.one_time_keys.len() <= MAX_ONE_TIME_KEYS
            }
            Call::Grant(g) | Call::Register(Register { grants: g, .. }) => {
                g.len() <= MAX_GRANT && g.iter().all(|g| g.card.len() <= MAX_SEALED_CARD)
            }
            Call::Revoke(r) => r.len() <= MAX_GRANT,
            Call::Ack(ids) => ids.len() <= MAX_ACK_IDS,
            Call::Drop(d) => d.envelope.len() <= MAX_ENVELOPE,
            Call::Knock(k) => {
                k.card.len() <= MAX_SEALED_CARD
                    && k.attested.len() <= MAX_ATTESTED
                    && are_few_and_quic(&k.datagrams)
                    && k.message.as_ref().is_none_or(|m| m.envelope.len() <= MAX_ENVELOPE)
            }
            Call::Attest(a) => a.len() <= MAX_ATTESTED,
            Call::Peek { .. } | Call::LookUp(_) | Call::Park | Call::Leave => true,
        };
        if fits { Ok(()) } else { Err(DecodeError::TooLong) }
    }
}

impl Control for Response {
    const LIMIT: usize = MAX_RESPONSE;

    fn check(&self) -> Result<(), DecodeError> {
        let fits = match self {
            Self::Page(p) => p.envelopes.iter().all(|w| w.envelope.len() <= MAX_ENVELOPE),
            Self::Found(f) => {
                f.passport.len() <= MAX_PASSPORT
                    && f.bundle.len() <= MAX_BUNDLE
                    && f.one_time_keys.len() <= MAX_ONE_TIME_KEYS
            }
            Self::Knocked(k) => k.callee.as_ref().is_none_or(|c| {
                c.card.len() <= MAX_SEALED_CARD && c.observed.len() <= 1 + MAX_ATTESTED
            }),
            _ => true,
        };
        if fits { Ok(()) } else { Err(DecodeError::TooLong) }
    }
}

impl Control for Push {
    const LIMIT: usize = MAX_PUSH;

    fn check(&self) -> Result<(), DecodeError> {
        let fits = match self {
            Self::Envelope(w) => w.envelope.len() <= MAX_ENVELOPE,
            Self::Knock { card, observed, datagrams, .. } => {
                card.len() <= MAX_SEALED_CARD
                    && observed.len() <= 1 + MAX_ATTESTED
                    && are_few_and_quic(datagrams)
            }
            _ => true,
        };
        if fits { Ok(()) } else { Err(DecodeError::TooLong) }
    }
}

fn are_few_and_quic(datagrams: &[Vec<u8>]) -> bool {
    datagrams.len() <= MAX_KNOCK_DATAGRAMS
        && datagrams.iter().all(|d| d.len() <= MAX_DATAGRAM && classify(d) == Class::Quic)
}
