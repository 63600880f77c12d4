//! Addresses at which a node might be reached (RFC 8445), and the card that carries them sealed.
//!
//! ```text
//! card       version 1 | mapping 1 | filtering 1 | count 1 | candidates
//! candidate  kind 1 | family 1 (4 or 6) | address 4 or 16 | port 2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{MAX_CANDIDATES, MAX_SEALED_CARD};

const VERSION: u8 = 1;

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

/// What a node tells a contact about how it can be reached. It travels sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Card {
    /// Mapping behaviour of the NAT in front of the node.
    pub mapping: Dependence,
    /// Filtering behaviour of the NAT in front of the node.
    pub filtering: Dependence,
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
        w.u8(VERSION).u8(dependence_byte(self.mapping)).u8(dependence_byte(self.filtering));
        w.u8(self.candidates.len() as u8);
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
        let mapping = dependence(r.u8()?)?;
        let filtering = dependence(r.u8()?)?;
        let n = usize::from(r.u8()?);
        if n > MAX_CANDIDATES {
            return Err(DecodeError::TooLong);
        }
        let candidates = (0..n).map(|_| read_candidate(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok(Self { mapping, filtering, candidates })
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
