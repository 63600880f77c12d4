//! The kinds of access that the laboratory builds, in the words of RFC 4787.

use std::fmt;

use clap::ValueEnum;

/// How a node is connected to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A public address and no NAT.
    Open,
    /// Endpoint-independent mapping and filtering ("full cone").
    #[value(alias = "full-cone")]
    EimEif,
    /// Endpoint-independent mapping, address-dependent filtering ("address-restricted cone").
    #[value(alias = "address-restricted")]
    EimAdf,
    /// Endpoint-independent mapping, address-and-port-dependent filtering, the port preserved: the
    /// common home router ("port-restricted cone").
    #[value(alias = "port-restricted")]
    EimApdf,
    /// As the home router, but each mapping has another port than the node.
    #[value(alias = "port-changing")]
    EimApdfOtherPort,
    /// A home router that lets an unsolicited packet take the port, so that the node's own next
    /// packet gets another one.
    Touchy,
    /// Address-and-port-dependent mapping, ports in sequence ("symmetric").
    #[value(alias = "symmetric-sequential")]
    ApdmSequential,
    /// Address-and-port-dependent mapping, random ports of a block of 1,024.
    #[value(alias = "symmetric-block")]
    ApdmBlock,
    /// Address-and-port-dependent mapping, random ports of all.
    #[value(alias = "symmetric-random")]
    ApdmRandom,
    /// A home router behind a carrier's NAT, both endpoint-independent in mapping and
    /// address-and-port-dependent in filtering.
    Cgn,
    /// A home router behind a carrier's NAT that maps as `apdm-block`.
    CgnBlock,
    /// A home router that maps ports when the node asks it to (PCP, NAT-PMP, UPnP IGD).
    PortMapping,
    /// A home router for IPv4, and IPv6 with a stateful firewall.
    DualStack,
    /// IPv6 only, with a stateful firewall.
    V6Only,
    /// A home router that drops all UDP; TCP works.
    UdpBlocked,
}

impl Kind {
    /// All kinds, from the most to the least open.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is, in a sentence.
    pub fn help(self) -> String {
        self.to_possible_value()
            .and_then(|v| v.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Whether nodes have IPv4.
    pub fn has_v4(self) -> bool {
        self != Self::V6Only
    }

    /// Whether nodes have IPv6.
    pub fn has_v6(self) -> bool {
        matches!(self, Self::DualStack | Self::V6Only)
    }

    /// The carrier's NAT in front of the home router.
    pub fn carrier(self) -> Option<Self> {
        match self {
            Self::Cgn => Some(Self::EimApdf),
            Self::CgnBlock => Some(Self::ApdmBlock),
            _ => None,
        }
    }

    /// What `lab check` has to find.
    pub fn expected(self) -> Behaviour {
        use {Allocation as A, Dependence as D};
        let (mapping, filtering, allocation) = match self {
            Self::Open => (D::Endpoint, D::Endpoint, A::Preserving),
            Self::EimEif => (D::Endpoint, D::Endpoint, A::Preserving),
            Self::EimAdf => (D::Endpoint, D::Address, A::Preserving),
            Self::EimApdf | Self::Touchy | Self::Cgn => {
                (D::Endpoint, D::AddressAndPort, A::Preserving)
            }
            // The firewall of IPv6 does not translate: mapping is trivially independent.
            Self::PortMapping | Self::DualStack | Self::V6Only => {
                (D::Endpoint, D::AddressAndPort, A::Preserving)
            }
            Self::EimApdfOtherPort => (D::Endpoint, D::AddressAndPort, A::Random),
            Self::ApdmSequential => (D::AddressAndPort, D::AddressAndPort, A::Sequential),
            Self::ApdmBlock | Self::CgnBlock => (D::AddressAndPort, D::AddressAndPort, A::Block),
            Self::ApdmRandom => (D::AddressAndPort, D::AddressAndPort, A::Random),
            Self::UdpBlocked => return Behaviour::Blocked,
        };
        let is_touchy = self == Self::Touchy;
        Behaviour::Passes(Translation { mapping, filtering, allocation, is_touchy })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// What a NAT does with UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Drops it.
    Blocked,
    /// Translates it.
    Passes(Translation),
}

/// How a NAT translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// On what the external port depends (RFC 4787, 4.1).
    pub mapping: Dependence,
    /// From whom packets are let in (RFC 4787, 5).
    pub filtering: Dependence,
    /// How external ports are chosen (RFC 4787, 4.2).
    pub allocation: Allocation,
    /// Whether an unsolicited packet changes the mapping of what the node sends next.
    pub is_touchy: bool,
}

/// On what something depends, besides the node's own address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing: endpoint-independent.
    Endpoint,
    /// On the address of the other side.
    Address,
    /// On the address and port of the other side.
    AddressAndPort,
}

/// How external ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// The node's own.
    Preserving,
    /// Each near the one before.
    Sequential,
    /// Random within a block of 1,024.
    Block,
    /// Random.
    Random,
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("UDP does not pass"),
            Self::Passes(t) => {
                let (mapping, filtering, allocation) = (t.mapping, t.filtering, t.allocation);
                write!(f, "mapping {mapping}, filtering {filtering}, ports {allocation}")?;
                if t.is_touchy {
                    f.write_str(", touchy")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Endpoint => "endpoint-independent",
            Self::Address => "address-dependent",
            Self::AddressAndPort => "address-and-port-dependent",
        })
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preserving => "preserved",
            Self::Sequential => "in sequence",
            Self::Block => "random in a block of 1,024",
            Self::Random => "random",
        })
    }
}
