//! How two nodes find a way to each other that no peer is part of: pure logic, no sockets, no
//! clock, no randomness.
//!
//! # The life of a connection
//!
//! 1. **Know yourself.** In the background the [`Prober`] asks rendezvous peers where they see this
//!    node, and so finds out how the NAT in front of it *maps*, *filters* and *allocates* ports
//!    (RFC 4787): the [`Verdict`]. The node's *candidates* are the addresses of its interfaces
//!    (host), the ones that a router was asked to map (mapped), and the one that its peer sees
//!    (server-reflexive, RFC 8445). Candidates and verdict go sealed into its [`Card`].
//! 2. **Rendezvous.** The caller draws a *round* and knocks at the callee's rendezvous peer. The
//!    peer hands the caller's card and attested addresses to the callee, and in the same instant
//!    answers with the callee's. First message and first QUIC datagrams go with the knock, and the
//!    connection runs through the relay: nothing of it waits for what follows.
//! 3. **Punch.** Each side has an [`Agent`] for the contact. At the moment in which it learns the
//!    other's addresses it probes them all, at 0, 20, 60, 140, 300, 620 and 1,260 ms. The first
//!    probe opens the own filter; a later one passes the other's.
//! 4. **Hear.** A probe is authenticated by keys that both sides derive from the callee's reach
//!    capability and the round. Its *source* is believed, whatever it is: so a NAT that gives each
//!    destination another port is found by the side that can be reached. Each authentic probe is
//!    answered, and answered by a probe.
//! 5. **Go direct.** A probe heard from an attested address shows that its NAT has a hole for us:
//!    data goes there at once, and by relay too ([`SendOn::Both`]). When the path has answered and
//!    one round trip of the relay has passed, it is used alone ([`SendOn::Direct`]).
//! 6. **Try harder.** Where a NAT counts, its next ports are probed. Where exactly one NAT chooses
//!    ports at random, both sides consent, and a knock says that it is worth it, a birthday search
//!    opens many sockets on the one side and tries many ports from the other. Where both are
//!    random, the relay stays.
//! 7. **Doubt.** Data that nothing answers for 250 ms, or three round trips, sends the following
//!    data both ways and probes the path; after a second of silence it goes by relay alone. A new
//!    network does the same at once, and asks for a new knock.
//! 8. **Rest.** A path that nobody has used for a minute is left to die.
//!
//! # A card is a claim
//!
//! A contact writes her own card, so a hostile one can write a victim's address into it. Addresses
//! in the internet are probed only if a rendezvous peer has seen the contact there, local ones only
//! if we are in such a network ([`is_probe_target`]), and data goes to no address that has not
//! proved itself. [`limits`] counts what can be made of us at worst.
//!
//! # Driving it
//!
//! An agent is a machine without a world: a driver feeds it what happens and does what it says.
//! After each input the driver drains [`Agent::poll_output`] until [`Output::Wait`], and sleeps
//! until that time or the next input. Here the driver is a loop that lets two agents talk without
//! a network in between.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use halloo_nat::{
//!     Agent, AgentConfig, Budget, Card, Local, Output, PunchKeys, Role, SendOn, SocketId,
//! };
//! use halloo_wire::RoundId;
//!
//! let addrs = ["203.0.113.5:51000".parse()?, "198.51.100.9:40000".parse()?];
//! let mut now = Instant::now();
//! let mut agents = [Role::Caller, Role::Callee].map(|role| {
//!     let keys = PunchKeys::derive(&[7; 32], &RoundId([1; 16]), role);
//!     let relay_rtt = Duration::from_millis(50);
//!     let local = Local { observed: vec![addrs[role as usize]], ..Local::default() };
//!     let seed = [role as u8; 32];
//!     Agent::new(AgentConfig { role, keys, seed, local, relay_rtt }, now)
//! });
//! let mut budget = Budget::new(now);
//!
//! // The knock has told each where the other is.
//! agents[0].set_remote(&Card::default(), &[addrs[1]], now);
//! agents[1].set_remote(&Card::default(), &[addrs[0]], now);
//!
//! while !matches!(agents[0].send_on(), SendOn::Direct(_)) {
//!     let mut wake = None;
//!     for us in 0..2 {
//!         loop {
//!             match agents[us].poll_output() {
//!                 Output::Transmit(t) if budget.take(t.purpose, now) => {
//!                     let them = &mut agents[1 - us];
//!                     let _ = them.handle_probe(SocketId::MAIN, addrs[us], &t.datagram, now);
//!                 }
//!                 Output::Transmit(_) => {}
//!                 Output::Event(_) => {} // route, open sockets, knock again: see AgentEvent
//!                 Output::Wait(at) => {
//!                     wake = wake.into_iter().chain(at).min();
//!                     break;
//!                 }
//!             }
//!         }
//!     }
//!     now = wake.expect("something is always awaited").max(now);
//!     agents.iter_mut().for_each(|a| a.handle_timeout(now));
//! }
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # What is left out
//!
//! TCP candidates, ICE's wire format, and searches where both NATs choose at random: 54,000 probes
//! from either side would succeed in half of the cases.

mod agent;
mod birthday;
mod budget;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
mod output;
mod predict;
mod probe;
mod range;
mod schedule;
mod score;
mod targets;
#[cfg(test)]
mod test_clock;
mod verdict;

pub use agent::{Agent, AgentConfig, Local};
pub use budget::{Budget, Searches};
pub use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Card, Dependence, Verdict};
pub use halloo_wire::ids::Side as Role;
pub use halloo_wire::path::{DirectPath, SendOn, SocketId};
pub use limits::{MAX_CANDIDATES, WATCH_INTERVAL};
pub use output::{
    AgentEvent, AgentStats, KnockReason, NetworkPair, Output, Purpose, SearchOutcome, Technique,
    Traffic, Transmit, WhyRelayed,
};
pub use probe::{PunchKeys, Reject};
pub use range::is_probe_target;
pub use targets::candidates_to_try;
pub use verdict::{Prober, ProberConfig, ProberEvent};
