//! From a contact's card to the list of addresses to dial.

use std::net::{IpAddr, SocketAddr};

use crate::range::{is_probe_target, is_public};
use crate::{Candidate, CandidateKind, Card, MAX_CANDIDATES};

/// Public addresses tried at one contact that her rendezvous peer has not seen her at. A machine
/// seen over IPv4 has one IPv6 address to offer, sometimes two.
pub const MAX_UNATTESTED: usize = 2;

/// The addresses to dial, best first, at most [`MAX_CANDIDATES`].
///
/// `observed` is where the contact's rendezvous peer sees her; it joins the card's candidates as
/// a server-reflexive one and is never crowded out by them. `own` holds one's own addresses
/// ([`is_probe_target`] says what they decide).
///
/// Host candidates come first, which is the way through the local network, then mapped, then
/// server-reflexive; within a kind IPv6 goes before IPv4, because nothing translates it; the rest
/// keeps the card's order. Each address appears once, under its best kind. Of public addresses
/// that do not have the observed IP address only the first [`MAX_UNATTESTED`] stay.
pub fn candidates_to_try(
    card: &Card,
    observed: Option<SocketAddr>,
    own: &[IpAddr],
) -> Vec<Candidate> {
    let observed = observed.map(canonical);
    let mut all: Vec<Candidate> = card
        .candidates
        .iter()
        .map(|c| Candidate { kind: c.kind, addr: canonical(c.addr) })
        .chain(observed.map(|addr| Candidate { kind: CandidateKind::ServerReflexive, addr }))
        .filter(|c| is_probe_target(c.addr, own))
        .collect();
    // Stable, so the card's own order decides between equals.
    all.sort_by_key(|c| (c.kind, c.addr.is_ipv4()));

    let mut list: Vec<Candidate> = Vec::with_capacity(MAX_CANDIDATES);
    let mut unattested = 0;
    // The observed address sorts last: a place is kept for it until it has come.
    let mut room = MAX_CANDIDATES - usize::from(all.iter().any(|c| Some(c.addr) == observed));
    for c in all {
        let is_observed = Some(c.addr) == observed;
        let attested = observed.is_some_and(|o| o.ip() == c.addr.ip()) || !is_public(c.addr.ip());
        if list.iter().any(|known| known.addr == c.addr)
            || (!attested && unattested == MAX_UNATTESTED)
            || (!is_observed && room == 0)
        {
            continue;
        }
        unattested += usize::from(!attested);
        room -= usize::from(!is_observed);
        list.push(c);
    }
    list
}

/// One spelling for each address: IPv4 as IPv4, without the parts that mean something on one
/// machine only.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
