//! What the domain name system says about the name of a rendezvous peer: the machines behind it.

use std::time::Duration;

use halloo_identity::{Machines, PeerHost};

/// How long an answer is used at least, whatever its time to live: a record that wants to be asked
/// for again and again does not set the pace.
pub const MIN_TTL: Duration = Duration::from_secs(5);
/// How long it is used at most.
pub const MAX_TTL: Duration = Duration::from_secs(3600);
/// The same for the answer that a name has no such records, when it says nothing else.
pub const PLAIN_TTL: Duration = Duration::from_secs(300);
/// How long the whole question may take: some resolvers never answer questions of this type, and
/// whoever starts waits for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// What is known about a name, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The machines that its SRV records list; `None` when it has no such records, or may not have
    /// any: then it stands for one machine, which has its addresses. Empty when the records say
    /// that nobody serves it.
    pub machines: Option<Machines>,
    /// For how long.
    pub ttl: Duration,
}

impl Listing {
    fn plain(ttl: Duration) -> Self {
        Self { machines: None, ttl: ttl.clamp(MIN_TTL, MAX_TTL) }
    }
}

/// Why nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamesError {
    /// The system has no settings for name look-ups that could be read.
    #[error("how this system looks up names cannot be read: {0}")]
    NoResolver(String),
    /// The resolver does not answer, or with an error.
    #[error("the domain name system does not answer: {0}")]
    NoAnswer(String),
}

/// Asks for the machines behind the name of a peer: its SRV records `_halloo._udp.<name>`, by the
/// system's resolver.
///
/// An address, a name with a port of its own, and a name that this machine's hosts file has are
/// what they say, and are not asked for.
///
/// # Errors
/// [`NamesError`] when the question has no answer. That a name has no such records is one.
pub async fn machines(peer: &PeerHost) -> Result<Listing, NamesError> {
    if !may_be_several(peer) {
        return Ok(Listing::plain(MAX_TTL));
    }
    match tokio::time::timeout(DEADLINE, asked::machines(peer)).await {
        Ok(listing) => listing,
        Err(_) => Err(NamesError::NoAnswer("it is silent".into())),
    }
}

fn may_be_several(peer: &PeerHost) -> bool {
    let host = peer.host();
    let is_ip = host.parse::<std::net::IpAddr>().is_ok();
    // Names of the local network are not in the domain name system (RFC 6762).
    peer.port() == halloo_identity::DEFAULT_PORT && !is_ip && !host.ends_with(".local")
}

#[cfg(not(target_os = "android"))]
mod asked {
    use std::time::{Duration, Instant};

    use halloo_identity::{Machine, Machines, PeerHost};
    use hickory_resolver::net::{DnsError, NetError};
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::{Name, RData, RecordType};
    use hickory_resolver::{Hosts, TokioResolver};

    use super::{DEADLINE, Listing, MAX_TTL, MIN_TTL, NamesError, PLAIN_TTL};

    pub(super) async fn machines(peer: &PeerHost) -> Result<Listing, NamesError> {
        let Ok(name) = Name::from_ascii(format!("{}.", peer.host())) else {
            return Ok(Listing::plain(MAX_TTL));
        };
        let asked = Name::from_ascii(format!("_halloo._udp.{}.", peer.host()));
        // A name that is too long with this in front has no such records.
        let Ok(asked) = asked else { return Ok(Listing::plain(MAX_TTL)) };
        let made = tokio::task::spawn_blocking(move || {
            // Made anew for each question: the network may be another one since.
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.timeout = DEADLINE / 2;
            options.attempts = 2;
            Ok::<_, NetError>((builder.build()?, is_in_hosts_file(&name)))
        });
        let made = made.await.map_err(|e| NamesError::NoResolver(e.to_string()))?;
        let (resolver, is_in_hosts) = made.map_err(|e| NamesError::NoResolver(e.to_string()))?;
        if is_in_hosts {
            return Ok(Listing::plain(PLAIN_TTL));
        }
        match resolver.srv_lookup(asked).await {
            Ok(answer) => {
                let machines = answer.answers().iter().filter_map(|record| match &record.data {
                    // A single dot means that nobody serves the name (RFC 2782).
                    RData::SRV(srv) if !srv.target.is_root() => Some(Machine {
                        place: PeerHost::new(&srv.target.to_ascii(), srv.port).ok()?,
                        priority: srv.priority,
                        weight: srv.weight,
                    }),
                    _ => None,
                });
                let machines = Some(Machines::new(machines));
                let ttl = answer.valid_until().saturating_duration_since(Instant::now());
                Ok(Listing { machines, ttl: ttl.clamp(MIN_TTL, MAX_TTL) })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let ttl = none.negative_ttl.map_or(PLAIN_TTL, |s| Duration::from_secs(s.into()));
                Ok(Listing::plain(ttl))
            }
            Err(e) => Err(NamesError::NoAnswer(e.to_string())),
        }
    }

    fn is_in_hosts_file(name: &Name) -> bool {
        let Ok(hosts) = Hosts::from_system() else { return false };
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .any(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)).is_some())
    }
}

/// Programs there cannot see the system's settings: names stand for one machine.
#[cfg(target_os = "android")]
mod asked {
    use halloo_identity::PeerHost;

    use super::{Listing, NamesError};

    pub(super) async fn machines(_: &PeerHost) -> Result<Listing, NamesError> {
        Err(NamesError::NoResolver("Android does not tell programs".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_says_where_it_is_is_not_asked_for() {
        // No resolver knows these, and none may be asked.
        for peer in ["192.0.2.1", "[2001:db8::1]", "peer.invalid:8443", "peer.local", "localhost"] {
            let listing = machines(&peer.parse().unwrap()).await.unwrap();
            assert_eq!(listing.machines, None, "{peer}");
        }
    }
}
