//! Small datagrams between a node and a rendezvous peer, outside of QUIC.
//!
//! With an *echo* a node learns its server-reflexive address (RFC 8445), from either of the peer's
//! two ports, and so how its NAT maps and filters. No answer is larger than what asked for it, so
//! that nothing can be amplified. With a *challenge* the peer makes sure that the end of a relay
//! channel is where its frames come from.
//!
//! ```text
//! all               0x06 | version 1 | kind 1 | ...
//! 1 echo request    txid 8 | cookie 8 | answer 1 | port 2 | zeros up to 48 bytes in all
//! 2 echo reply      txid 8 | cookie 8 | from second port 1 | family 1 | address 4 or 16 | port 2
//! 3 relay challenge channel 8 | cookie 8
//! 4 relay answer    channel 8 | cookie 8
//! 5 keep            channel 8
//! ```
//!
//! The address and port of a reply are XORed with the transaction id, repeated: some NATs rewrite
//! whatever looks like an address (as RFC 8489, 14.2 has it).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codec::{DecodeError, Reader, Writer};
use crate::datagram::TYPE_PEER;
use crate::ids::ChannelId;

const VERSION: u8 = 1;
/// Size of an echo request; a reply has 39 bytes at most.
const REQUEST_LEN: usize = 48;

/// From where, and to where, a peer answers an echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EchoAnswer {
    /// From the port that was asked, to where the request came from.
    Here,
    /// From the peer's other port: arrives only where the NAT does not filter by port. Needs a
    /// fresh cookie.
    FromSecondPort,
    /// From the port that was asked, to this port at the address where the request came from:
    /// arrives only when a NAT maps it. Never port 0. Needs a fresh cookie.
    ToPort(u16),
}

/// A small datagram between a node and a rendezvous peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerDatagram {
    /// From a node: where do you see me?
    EchoRequest {
        /// Comes back in the reply; random.
        txid: u64,
        /// From an earlier reply; 0 when there is none.
        cookie: u64,
        /// Which answer.
        answer: EchoAnswer,
    },
    /// From a peer.
    EchoReply {
        /// The request's.
        txid: u64,
        /// Shows for a minute or two that the node can receive at `observed`.
        cookie: u64,
        /// Whether the reply left from the second port.
        from_second: bool,
        /// Where the reply was sent: the node's address as the peer sees it, or with the port that
        /// it named.
        observed: SocketAddr,
    },
    /// From a peer: are you, at this new address, the end of this channel?
    RelayChallenge {
        /// The number under which the frame came.
        channel: ChannelId,
        /// To be sent back.
        cookie: u64,
    },
    /// From a node, back to the challenge's source.
    RelayAnswer {
        /// The challenge's.
        channel: ChannelId,
        /// The challenge's.
        cookie: u64,
    },
    /// From a node: keep my end of this channel, though nothing flows.
    Keep {
        /// The number under which this end sends.
        channel: ChannelId,
    },
}

impl PeerDatagram {
    /// Largest encoding.
    pub const MAX: usize = REQUEST_LEN;

    /// The datagram.
    ///
    /// # Panics
    /// When an echo is to be answered to port 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(REQUEST_LEN);
        w.u8(TYPE_PEER).u8(VERSION);
        match *self {
            Self::EchoRequest { txid, cookie, answer } => {
                w.u8(1).u64(txid).u64(cookie);
                match answer {
                    EchoAnswer::Here => w.u8(0).u16(0),
                    EchoAnswer::FromSecondPort => w.u8(1).u16(0),
                    EchoAnswer::ToPort(port) => {
                        assert_ne!(port, 0, "nobody listens on port 0");
                        w.u8(2).u16(port)
                    }
                };
                let mut bytes = w.into_vec();
                bytes.resize(REQUEST_LEN, 0);
                return bytes;
            }
            Self::EchoReply { txid, cookie, from_second, observed } => {
                w.u8(2).u64(txid).u64(cookie).u8(u8::from(from_second));
                match observed.ip() {
                    IpAddr::V4(ip) => w.u8(4).put(&masked(ip.octets(), txid)),
                    IpAddr::V6(ip) => w.u8(6).put(&masked(ip.octets(), txid)),
                };
                w.put(&masked(observed.port().to_be_bytes(), txid));
            }
            Self::RelayChallenge { channel, cookie } => {
                w.u8(3).u64(channel.0).u64(cookie);
            }
            Self::RelayAnswer { channel, cookie } => {
                w.u8(4).u64(channel.0).u64(cookie);
            }
            Self::Keep { channel } => {
                w.u8(5).u64(channel.0);
            }
        }
        w.into_vec()
    }

    /// Reads a datagram of class [`Class::Peer`](crate::datagram::Class::Peer).
    ///
    /// # Errors
    /// [`DecodeError`] when it is anything but exactly one.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(datagram);
        match r.u8()? {
            TYPE_PEER => {}
            other => return Err(DecodeError::UnknownType(other)),
        }
        match r.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnsupportedVersion(other)),
        }
        let it = match r.u8()? {
            1 => {
                let (txid, cookie) = (r.u64()?, r.u64()?);
                let answer = match (r.u8()?, r.u16()?) {
                    (0, 0) => EchoAnswer::Here,
                    (1, 0) => EchoAnswer::FromSecondPort,
                    (2, port) if port != 0 => EchoAnswer::ToPort(port),
                    _ => return Err(DecodeError::Invalid("echo answer")),
                };
                let padding = r.rest();
                return match datagram.len() {
                    0..REQUEST_LEN => Err(DecodeError::Truncated),
                    REQUEST_LEN if padding.iter().all(|&b| b == 0) => {
                        Ok(Self::EchoRequest { txid, cookie, answer })
                    }
                    REQUEST_LEN => Err(DecodeError::Invalid("padding")),
                    _ => Err(DecodeError::TrailingBytes),
                };
            }
            2 => {
                let (txid, cookie) = (r.u64()?, r.u64()?);
                let from_second = match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Invalid("echo reply")),
                };
                let ip: IpAddr = match r.u8()? {
                    4 => Ipv4Addr::from(masked(r.array::<4>()?, txid)).into(),
                    6 => Ipv6Addr::from(masked(r.array::<16>()?, txid)).into(),
                    _ => return Err(DecodeError::Invalid("address family")),
                };
                let port = u16::from_be_bytes(masked(r.array::<2>()?, txid));
                Self::EchoReply { txid, cookie, from_second, observed: SocketAddr::new(ip, port) }
            }
            3 => Self::RelayChallenge { channel: ChannelId(r.u64()?), cookie: r.u64()? },
            4 => Self::RelayAnswer { channel: ChannelId(r.u64()?), cookie: r.u64()? },
            5 => Self::Keep { channel: ChannelId(r.u64()?) },
            other => return Err(DecodeError::UnknownType(other)),
        };
        r.finish()?;
        Ok(it)
    }
}

fn masked<const N: usize>(mut bytes: [u8; N], txid: u64) -> [u8; N] {
    for (b, mask) in bytes.iter_mut().zip(txid.to_be_bytes().into_iter().cycle()) {
        *b ^= mask;
    }
    bytes
}
