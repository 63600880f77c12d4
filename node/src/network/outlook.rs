//! What a network means for direct paths, in plain words.

use std::fmt;

use halloo_nat::{Allocation, Dependence, Verdict};
use serde::Serialize;

/// What a network means for direct paths. [`Display`](fmt::Display) says it in plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outlook {
    /// Not found out yet.
    Unknown,
    /// Nothing translates the node's address.
    Open,
    /// A router keeps a port open for the node.
    Mapped,
    /// The router uses one port for all destinations.
    OnePort,
    /// The router uses a port for each destination, which can be guessed.
    Predictable,
    /// The router uses a port for each destination, chosen at random.
    Random,
    /// The network lets no UDP through.
    UdpBlocked,
}

impl Outlook {
    /// Whether direct paths can be expected with most contacts; `None` when that is not known.
    pub fn is_good(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Open | Self::Mapped | Self::OnePort | Self::Predictable => Some(true),
            Self::Random | Self::UdpBlocked => Some(false),
        }
    }

    /// What a person can do about it, if anything.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Unknown => Some(
                "look again in a few seconds: a peer that answers over UDP and has a second port \
                 tells it",
            ),
            Self::Open | Self::Mapped | Self::OnePort => None,
            Self::Predictable | Self::Random => Some(
                "turn on UPnP, NAT-PMP or PCP in the router, or use a network with IPv6; messages \
                 arrive in any case",
            ),
            Self::UdpBlocked => Some(
                "let UDP out in the firewall, at least to your peer's port, or use another \
                 network; messages arrive in any case",
            ),
        }
    }

    pub(super) fn of(
        verdict: &Verdict,
        untranslated: bool,
        mapped: bool,
        udp_blocked: bool,
    ) -> Self {
        if udp_blocked {
            return Self::UdpBlocked;
        }
        if mapped {
            return Self::Mapped;
        }
        match (verdict.mapping, verdict.allocation) {
            (Dependence::Unknown | Dependence::EndpointIndependent, _) if untranslated => {
                Self::Open
            }
            (Dependence::Unknown, _) => Self::Unknown,
            (Dependence::EndpointIndependent, _) => Self::OnePort,
            (
                _,
                Allocation::Preserving | Allocation::Sequential { .. } | Allocation::Block { .. },
            ) => Self::Predictable,
            (_, Allocation::Unknown | Allocation::Random) => Self::Random,
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "what your router does to direct paths is not known yet",
            Self::Open => "nothing translates your address: direct paths work with almost everyone",
            Self::Mapped => {
                "your router keeps a port open for this node: direct paths work with almost \
                 everyone"
            }
            Self::OnePort => {
                "your router keeps one port for everybody: direct paths work with almost everyone"
            }
            Self::Predictable => {
                "your router takes another port for each contact, but one that can be guessed: \
                 direct paths work with most contacts"
            }
            Self::Random => {
                "your router takes another port for each contact, at random: direct paths work \
                 with contacts whose router does not do the same, the others are relayed"
            }
            Self::UdpBlocked => {
                "this network lets no UDP through: there are no direct paths, everything is \
                 relayed"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(mapping: Dependence, allocation: Allocation, untranslated: bool) -> Outlook {
        let verdict = Verdict { mapping, filtering: Dependence::Unknown, allocation };
        Outlook::of(&verdict, untranslated, false, false)
    }

    #[test]
    fn each_kind_of_network_has_its_outlook() {
        use Allocation as A;
        use Dependence as D;
        let block = A::Block { first: 1024, size: 512 };
        for (mapping, allocation, untranslated, expected) in [
            (D::Unknown, A::Unknown, false, Outlook::Unknown),
            (D::Unknown, A::Unknown, true, Outlook::Open),
            (D::EndpointIndependent, A::Preserving, true, Outlook::Open),
            (D::EndpointIndependent, A::Unknown, false, Outlook::OnePort),
            (D::AddressDependent, A::Sequential { delta: 2 }, false, Outlook::Predictable),
            (D::AddressAndPortDependent, block, false, Outlook::Predictable),
            (D::AddressAndPortDependent, A::Random, false, Outlook::Random),
        ] {
            assert_eq!(outlook(mapping, allocation, untranslated), expected, "{mapping:?}");
        }
    }

    #[test]
    fn a_mapped_port_mends_the_worst_router_but_not_a_network_without_udp() {
        let verdict = Verdict {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
            allocation: Allocation::Random,
        };
        assert_eq!(Outlook::of(&verdict, false, true, false), Outlook::Mapped);
        assert_eq!(Outlook::of(&verdict, false, true, true), Outlook::UdpBlocked);
        assert_eq!(Outlook::UdpBlocked.is_good(), Some(false));
        assert!(Outlook::UdpBlocked.advice().is_some());
    }
}
