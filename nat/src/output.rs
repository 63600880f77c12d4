//! What the machines of this crate ask their driver to do.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_wire::path::{DirectPath, SendOn, SocketId};

/// The next thing to do, in order. A driver asks for outputs after each input, until there is
/// nothing but to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<E = AgentEvent> {
    /// Send a datagram.
    Transmit(Transmit),
    /// Something happened that the driver acts upon.
    Event(E),
    /// Nothing more: call `handle_timeout` at this time, or feed another input before. `None`
    /// means that no time is awaited.
    Wait(Option<Instant>),
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From which of our sockets.
    pub socket: SocketId,
    /// To whom.
    pub to: SocketAddr,
    /// The bytes.
    pub datagram: Vec<u8>,
    /// Hop limit, when it is not the system's: a few hops open our own NAT without touching the
    /// far one.
    pub ttl: Option<u8>,
    /// What it is for, which decides what budget it takes from
    /// ([`Budget::take`](crate::Budget::take)).
    pub purpose: Purpose,
}

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// An answer to an authenticated probe, or an echo at one's own rendezvous peer.
    Answer,
    /// A probe on a path from which an authenticated answer has come.
    Check,
    /// A probe to an address that has not answered yet.
    Punch,
    /// A probe of a birthday search.
    Search,
}

/// What an [`Agent`](crate::Agent) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The contact's datagrams go here from now on.
    Route(SendOn),
    /// An authenticated probe came over this path: what comes from there is this contact's.
    Valid {
        /// The path.
        path: DirectPath,
        /// How it was found.
        technique: Technique,
    },
    /// The path is gone: what comes from there is nobody's.
    Invalid {
        /// The path.
        path: DirectPath,
    },
    /// Open this many extra sockets, then call
    /// [`sockets_opened`](crate::Agent::sockets_opened) with those that could be opened.
    OpenSockets(u16),
    /// Close these extra sockets.
    CloseSockets(Vec<SocketId>),
    /// While true: call [`traffic`](crate::Agent::traffic) every
    /// [`WATCH_INTERVAL`](crate::WATCH_INTERVAL).
    Watch(bool),
    /// Knock again with a new round ([`begin_round`](crate::Agent::begin_round)).
    Knock(KnockReason),
    /// A birthday search would help: ask [`Searches`](crate::Searches) and answer with
    /// [`allow_birthday`](crate::Agent::allow_birthday).
    WantBirthday(NetworkPair),
    /// The search that was allowed is over: tell [`Searches`](crate::Searches).
    BirthdayOver {
        /// As in [`AgentEvent::WantBirthday`].
        pair: NetworkPair,
        /// How it ended.
        outcome: SearchOutcome,
    },
    /// Nothing more is being tried: the contact stays relayed until there is a new fact.
    Relayed(WhyRelayed),
}

/// The two networks of a birthday search, by the addresses that the world sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkPair {
    /// Ours.
    pub own: IpAddr,
    /// The contact's.
    pub theirs: IpAddr,
}

/// How a birthday search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SearchOutcome {
    /// A path was found, by this search or otherwise.
    Found,
    /// All probes were sent and nothing answered.
    Missed,
    /// It was given up for another reason: a new round, a new network, the end of the agent.
    Stopped,
}

/// Why an agent asks for a new knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KnockReason {
    /// Our own addresses changed, or what is known about our NAT.
    InterfaceChanged,
    /// The direct path died.
    PathLost,
    /// Nothing comes by relay or directly though data is being sent.
    BothSilent,
    /// The path was left to die in a pause and is wanted again.
    Wanted,
    /// A birthday search is wanted: our card must say so.
    Search,
}

/// How a path was found. The order is that of cost.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Technique {
    /// A host candidate, or mDNS, in the same local network or on the same machine.
    Lan,
    /// An IPv6 address: a filter perhaps, but no translation.
    Ipv6,
    /// A port that a router was asked to map.
    Mapped,
    /// The address that a rendezvous peer sees.
    Reflexive,
    /// An address that nobody had named: the source of an authenticated probe.
    PeerReflexive,
    /// A port that a NAT was expected to choose next.
    Predicted,
    /// A port found by a birthday search.
    Birthday,
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Ipv6 => "ipv6",
            Self::Mapped => "mapped",
            Self::Reflexive => "reflexive",
            Self::PeerReflexive => "peer-reflexive",
            Self::Predicted => "predicted",
            Self::Birthday => "birthday",
        })
    }
}

/// Why a contact's datagrams go through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum WhyRelayed {
    /// The contact's card has not come.
    NotTried,
    /// One of the two does not show its addresses: the driver runs no agent then.
    Hidden,
    /// Probes are under way.
    StillTrying,
    /// The contact's addresses are not told to us, or none of them can be reached from here.
    NoCandidates,
    /// No rendezvous peer has seen us over UDP: this network blocks it.
    UdpBlocked,
    /// Both NATs give each destination another port.
    BothAddressDependent,
    /// Only a birthday search could help, and one side does not consent to it.
    SearchNotAllowed,
    /// A birthday search found nothing.
    SearchFailed,
    /// Probes were sent and nothing came back.
    NoAnswer,
    /// There was a direct path, and it died.
    PathLost,
    /// There was a direct path, and it was not used for a while.
    Unused,
}

impl fmt::Display for WhyRelayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTried => "the contact's addresses have not come yet",
            Self::Hidden => "one of the two does not show its addresses",
            Self::StillTrying => "a direct path is being tried",
            Self::NoCandidates => "the contact has no address that can be tried from here",
            Self::UdpBlocked => "this network lets no UDP through",
            Self::BothAddressDependent => "both routers choose another port for each destination",
            Self::SearchNotAllowed => "only a port search could help, and it is not allowed",
            Self::SearchFailed => "a port search found nothing",
            Self::NoAnswer => "nothing answered at the contact's addresses",
            Self::PathLost => "the direct path broke",
            Self::Unused => "the direct path was not used for a while",
        })
    }
}

/// What the driver saw on the contact's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// When a datagram that carries data last went out on the direct path (alone or also by
    /// relay). A datagram that only acknowledges, or keeps a connection alive, does not count.
    pub sent: Option<Instant>,
    /// When a QUIC datagram of this contact last came over any direct path.
    pub heard_direct: Option<Instant>,
    /// When one last came by relay.
    pub heard_relay: Option<Instant>,
}

/// Counters of an agent since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentStats {
    /// Rounds that began.
    pub rounds: u64,
    /// Rounds that came too fast and were not probed.
    pub rounds_refused: u64,
    /// Probes sent on our own account, those of a search included.
    pub probes_sent: u64,
    /// Of those, probes of a birthday search.
    pub search_probes_sent: u64,
    /// Answers sent.
    pub answers_sent: u64,
    /// Authenticated probes and answers that came.
    pub probes_heard: u64,
    /// Datagrams refused, for whatever [`Reject`](crate::Reject).
    pub rejected: u64,
    /// Probes held back because of a limit on unattested addresses.
    pub held_back: u64,
    /// Changes from the relay to a direct path.
    pub upgrades: u64,
    /// Changes from a direct path to the relay.
    pub downgrades: u64,
    /// From the beginning of the last round that opened a path until something was heard there.
    pub time_to_path: Option<Duration>,
}

/// The queue behind `poll_output`.
pub(crate) type Queue<E> = VecDeque<Output<E>>;
