//! How two nodes find an address at which they can reach each other: pure logic, no sockets, no
//! clock.
//!
//! # The life of a connection
//!
//! 1. **Gather.** A node collects its *candidates*: the addresses of its interfaces (host), the
//!    ones that a router was asked to map to it (mapped), and the one that its rendezvous peer
//!    sees (server-reflexive, RFC 8445). They go sealed into its [`Card`], together with what is
//!    known about the NAT in front of it in the words of RFC 4787: how it *maps* and how it
//!    *filters*, each [`Dependence`] on the other side's address.
//! 2. **Rendezvous.** The caller knocks at the callee's rendezvous peer. The peer forwards the
//!    caller's sealed card and observed address, and in the same instant answers with the
//!    callee's. The first message does not wait for any of this: it goes through the peer.
//! 3. **Choose.** Each side turns the other's card and observed address into a short ordered
//!    list: [`candidates_to_try`].
//! 4. **Try.** The node dials the list over QUIC on the one UDP socket that it uses for
//!    everything, because the mapping that its NAT makes belongs to that socket.
//! 5. **Use.** The first candidate that shows the right certificate becomes the direct path.
//!    Until then, and whenever it dies, messages go through the rendezvous peer.
//!
//! # A card is a claim
//!
//! A contact writes her own card, so a hostile one can write a victim's address into it and let
//! us send there. Therefore a list never has more than [`MAX_CANDIDATES`] entries;
//! [`is_probe_target`] refuses everything that cannot be a node of hers (special ranges, private
//! networks that we are not in, ports of well-known services); and at most [`MAX_UNATTESTED`]
//! public addresses are tried that her rendezvous peer has not seen her at.
//!
//! # Limits of this crate
//!
//! Both sides must already be able to receive from each other: on one machine, in one local
//! network, over IPv6 without a filter, behind a mapped port, or where one side's NAT is
//! endpoint-independent in both respects. Hole punching brings the state machine that opens the
//! other cases (authenticated probes, their schedule, peer-reflexive candidates, predicted
//! ports, the choice between paths); its rooms are the datagram type
//! [`Probe`](halloo_wire::datagram::Probe), the card's two verdicts, and this crate.
//!
//! # Example
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use halloo_nat::{Candidate, CandidateKind, Card, candidates_to_try};
//!
//! let lan: SocketAddr = "192.168.1.7:40000".parse()?;
//! let observed: SocketAddr = "203.0.113.5:51000".parse()?;
//! let card = Card {
//!     candidates: vec![Candidate { kind: CandidateKind::Host, addr: lan }],
//!     ..Card::default()
//! };
//!
//! // In the same kind of network, the short way is tried first.
//! let at_home = candidates_to_try(&card, Some(observed), &["192.168.1.2".parse()?]);
//! assert_eq!(at_home.iter().map(|c| c.addr).collect::<Vec<_>>(), [lan, observed]);
//!
//! // Elsewhere the private address would be somebody else's machine.
//! let on_a_server = candidates_to_try(&card, Some(observed), &["198.51.100.9".parse()?]);
//! assert_eq!(on_a_server.iter().map(|c| c.addr).collect::<Vec<_>>(), [observed]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod range;
mod select;

pub use halloo_wire::candidate::{Candidate, CandidateKind, Card, Dependence};
pub use halloo_wire::limits::MAX_CANDIDATES;
pub use range::is_probe_target;
pub use select::{MAX_UNATTESTED, candidates_to_try};
