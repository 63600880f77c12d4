//! Addresses at which a node might be reached (RFC 8445), and the card that carries them sealed.
//!
//! ```text
//! card        version 1 | flags 1 | round 16 (if flagged) | again 16 (if flagged) | mapping 1
//!             | filtering 1 | allocation | port 2 | count 1 | candidates
//! flags       bit 0: a round follows; bit 1: consents to a birthday search; bit 2: again follows
//! allocation  0 unknown | 1 preserving | 2 sequential, step 2 | 3 block, first 2, size 2 | 4 random
//! candidate   kind 1 | family 1 (4 or 6) | address 4 or 16 | port 2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::RoundId;
use crate::limits::{MAX_CANDIDATES, MAX_SEALED_CARD};

const VERSION: u8 = 2;
const FLAG_ROUND: u8 = 1;
const FLAG_BIRTHDAY: u8 = 2;
const FLAG_AGAIN: u8 = 4;

/// Where a candidate comes from. The order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the node's own interfaces.
    Host,
    /// An address that a NAT was asked to map to the node.
    Mapped,
    /// The node's address as a server sees it.
    ServerReflexive,
}

/// An address at which a node might be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// IP address and UDP port.
    pub addr: SocketAddr,
}

/// How a NAT reuses its mappings, or filters what comes in (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Dependence {
    /// Not known yet.
    #[default]
    Unknown,
    /// The same for every destination.
    EndpointIndependent,
    /// Depends on the other side's address.
    AddressDependent,
    /// Depends on the other side's address and port.
    AddressAndPortDependent,
}

/// How a NAT chooses the external port of a new mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Allocation {
    /// Not known yet.
    #[default]
    Unknown,
    /// The internal port, as long as it is free (RFC 4787, 4.2.1).
    Preserving,
    /// The last one and a step.
    Sequential {
        /// From one mapping to the next; never zero.
        delta: i16,
    },
    /// At random within a block of ports that belongs to the subscriber, as carriers do.
    Block {
        /// The lowest port of the block.
        first: u16,
        /// Ports in the block, at least 1; `first + size` is at most 65,536.
        size: u16,
    },
    /// At random in the whole range.
    Random,
}

/// How the NAT in front of a node behaves, in the words of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Verdict {
    /// Whether a mapping is used again for another destination (section 4.1).
    pub mapping: Dependence,
    /// Who may send in through a mapping (section 5).
    pub filtering: Dependence,
    /// Which port a new mapping gets.
    pub allocation: Allocation,
}

/// What a node tells a contact about how it can be reached. It travels sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Card {
    /// The attempt that the card belongs to: in a caller's card, not in a registered one.
    pub round: Option<RoundId>,
    /// The round that opened the connection which the card is about, in the card of a knock for a
    /// connection that is there already: two nodes can have two for a while.
    pub again: Option<RoundId>,
    /// The NAT in front of the node.
    pub verdict: Verdict,
    /// The port of the node's own socket, for NATs that preserve it; 0 when it is not told.
    pub local_port: u16,
    /// Whether the node consents to a birthday search: some hundred probes from either side.
    pub birthday: bool,
    /// At most [`MAX_CANDIDATES`] addresses.
    pub candidates: Vec<Candidate>,
}

impl Card {
    /// The card's bytes.
    ///
    /// # Panics
    /// When there are more than [`MAX_CANDIDATES`] candidates.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.candidates.len() <= MAX_CANDIDATES, "the sender limits its candidates");
        let mut w = Writer::with_capacity(MAX_SEALED_CARD);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        w.u8(VERSION);
        let rounds =
            flag(self.round.is_some(), FLAG_ROUND) | flag(self.again.is_some(), FLAG_AGAIN);
        w.u8(rounds | flag(self.birthday, FLAG_BIRTHDAY));
        for round in self.round.iter().chain(&self.again) {
            w.put(&round.0);
        }
        w.u8(dependence_byte(self.verdict.mapping)).u8(dependence_byte(self.verdict.filtering));
        match self.verdict.allocation {
            Allocation::Unknown => w.u8(0),
            Allocation::Preserving => w.u8(1),
            Allocation::Sequential { delta } => w.u8(2).u16(delta as u16),
            Allocation::Block { first, size } => w.u8(3).u16(first).u16(size),
            Allocation::Random => w.u8(4),
        };
        w.u16(self.local_port).u8(self.candidates.len() as u8);
        for c in &self.candidates {
            w.u8(match c.kind {
                CandidateKind::Host => 1,
                CandidateKind::Mapped => 2,
                CandidateKind::ServerReflexive => 3,
            });
            match c.addr.ip() {
                IpAddr::V4(ip) => w.u8(4).put(&ip.octets()),
                IpAddr::V6(ip) => w.u8(6).put(&ip.octets()),
            };
            w.u16(c.addr.port());
        }
        w.into_vec()
    }

    /// Reads a card.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one card with at most [`MAX_CANDIDATES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let flags = r.u8()?;
        if flags & !(FLAG_ROUND | FLAG_BIRTHDAY | FLAG_AGAIN) != 0 {
            return Err(DecodeError::Invalid("card flags"));
        }
        let mut flagged = |bit| match flags & bit {
            0 => Ok(None),
            _ => r.array().map(|id| Some(RoundId(id))),
        };
        let (round, again) = (flagged(FLAG_ROUND)?, flagged(FLAG_AGAIN)?);
        let verdict = Verdict {
            mapping: dependence(r.u8()?)?,
            filtering: dependence(r.u8()?)?,
            allocation: read_allocation(&mut r)?,
        };
        let local_port = r.u16()?;
        let n = usize::from(r.u8()?);
        if n > MAX_CANDIDATES {
            return Err(DecodeError::TooLong);
        }
        let candidates = (0..n).map(|_| read_candidate(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        let birthday = flags & FLAG_BIRTHDAY != 0;
        Ok(Self { round, again, verdict, local_port, birthday, candidates })
    }
}

fn read_allocation(r: &mut Reader<'_>) -> Result<Allocation, DecodeError> {
    match r.u8()? {
        0 => Ok(Allocation::Unknown),
        1 => Ok(Allocation::Preserving),
        2 => match r.u16()? as i16 {
            0 => Err(DecodeError::Invalid("port step")),
            delta => Ok(Allocation::Sequential { delta }),
        },
        3 => match (r.u16()?, r.u16()?) {
            (first, size) if size > 0 && u32::from(first) + u32::from(size) <= 0x1_0000 => {
                Ok(Allocation::Block { first, size })
            }
            _ => Err(DecodeError::Invalid("port block")),
        },
        4 => Ok(Allocation::Random),
        other => Err(DecodeError::UnknownType(other)),
    }
}

fn read_candidate(r: &mut Reader<'_>) -> Result<Candidate, DecodeError> {
    let kind = match r.u8()? {
        1 => CandidateKind::Host,
        2 => CandidateKind::Mapped,
        3 => CandidateKind::ServerReflexive,
        other => return Err(DecodeError::UnknownType(other)),
    };
    let ip: IpAddr = match r.u8()? {
        4 => Ipv4Addr::from(r.array::<4>()?).into(),
        6 => Ipv6Addr::from(r.array::<16>()?).into(),
        _ => return Err(DecodeError::Invalid("address family")),
    };
    match r.u16()? {
        0 => Err(DecodeError::Invalid("port")),
        port => Ok(Candidate { kind, addr: SocketAddr::new(ip, port) }),
    }
}

fn dependence_byte(d: Dependence) -> u8 {
    match d {
        Dependence::Unknown => 0,
        Dependence::EndpointIndependent => 1,
        Dependence::AddressDependent => 2,
        Dependence::AddressAndPortDependent => 3,
    }
}

fn dependence(b: u8) -> Result<Dependence, DecodeError> {
    match b {
        0 => Ok(Dependence::Unknown),
        1 => Ok(Dependence::EndpointIndependent),
        2 => Ok(Dependence::AddressDependent),
        3 => Ok(Dependence::AddressAndPortDependent),
        _ => Err(DecodeError::Invalid("NAT behaviour")),
    }
}
