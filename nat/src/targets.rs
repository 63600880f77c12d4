//! From a contact's card to the list of addresses to probe.

use std::net::{IpAddr, SocketAddr};

use crate::range::{is_probe_target, is_public};
use crate::{Candidate, CandidateKind, Card, MAX_CANDIDATES};

/// Attested addresses of one contact that are used: the one that her rendezvous peer sees, and
/// those that she proved to it.
pub const MAX_ATTESTED_TARGETS: usize = 1 + halloo_wire::limits::MAX_ATTESTED;

/// The addresses to probe, best first, at most [`MAX_CANDIDATES`].
///
/// `attested` are the addresses at which rendezvous peers have seen the contact; the first
/// [`MAX_ATTESTED_TARGETS`] join the card's candidates as server-reflexive ones and are never
/// crowded out by them. A candidate in the internet is tried only if it is one of them. One in a
/// local range is tried if we are in such a range (`own`, see [`is_probe_target`]).
///
/// Host candidates come first, which is the way through the local network, then mapped, then
/// server-reflexive; within a kind IPv6 goes before IPv4, because nothing translates it; the rest
/// keeps the card's order. Each address appears once, under its best kind.
pub fn candidates_to_try(card: &Card, attested: &[SocketAddr], own: &[IpAddr]) -> Vec<Candidate> {
    let attested: Vec<SocketAddr> =
        attested.iter().take(MAX_ATTESTED_TARGETS).map(|&a| canonical(a)).collect();
    let is_attested = |addr: SocketAddr| attested.contains(&addr);
    let mut all: Vec<Candidate> = card
        .candidates
        .iter()
        .map(|c| Candidate { kind: c.kind, addr: canonical(c.addr) })
        .filter(|c| is_attested(c.addr) || !is_public(c.addr.ip()))
        .chain(
            attested.iter().map(|&addr| Candidate { kind: CandidateKind::ServerReflexive, addr }),
        )
        .filter(|c| is_probe_target(c.addr, own))
        .collect();
    // Stable, so the card's own order decides between equals.
    all.sort_by_key(|c| (c.kind, c.addr.is_ipv4()));
    let mut list: Vec<Candidate> = Vec::with_capacity(all.len());
    for c in all {
        if list.iter().all(|known| known.addr != c.addr) {
            list.push(c);
        }
    }
    // What nobody attests goes first when there are too many, the last named first of all.
    while list.len() > MAX_CANDIDATES {
        let last = list.iter().rposition(|c| !is_attested(c.addr));
        list.remove(last.expect("fewer are attested than fit"));
    }
    list
}

/// One spelling for each address: IPv4 as IPv4, without the parts that mean something on one
/// machine only.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
