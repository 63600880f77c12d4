//! How a box behaves.

use std::fmt;
use std::time::Duration;

use halloo_wire::candidate::Dependence;

/// How a box chooses the external port of a new mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside port while it is free, else one at random.
    Preserving,
    /// The last one plus a step; other subscribers take up to `busy` between two of ours.
    Sequential {
        /// From one mapping to the next.
        delta: i16,
        /// Mappings of others in between, at most.
        busy: u8,
    },
    /// At random in a block that belongs to the subscriber.
    Block {
        /// The lowest port.
        first: u16,
        /// Ports in the block.
        size: u16,
    },
    /// At random.
    Random,
}

/// What a box does with a packet from inside to its own external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpin {
    /// Drops it.
    None,
    /// Turns it round with the inside source, which RFC 4787, section 6 forbids.
    InternalSource,
    /// Turns it round with the external source.
    ExternalSource,
}

/// How a box behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BoxConfig {
    /// Whether a mapping is used again for another destination.
    pub mapping: Dependence,
    /// Who may send in.
    pub filtering: Dependence,
    /// Which port a new mapping gets.
    pub ports: Ports,
    /// How long an answered flow lives without packets.
    pub timeout: Duration,
    /// How long a flow lives that nobody has answered.
    pub first_timeout: Duration,
    /// Whether packets from outside keep a flow alive; those from inside always do.
    pub inbound_refreshes: bool,
    /// What becomes of packets to the box's own external address.
    pub hairpin: Hairpin,
    /// Whether an unsolicited packet makes state that takes the port from a later mapping, as on
    /// Linux without a filter in front of the router itself. Only with [`Ports::Preserving`] and
    /// an address-and-port-dependent mapping.
    pub touchy: bool,
    /// For how long the sender of an unsolicited packet is shut out.
    pub blacklists: Option<Duration>,
    /// Whether no UDP passes.
    pub blocks_udp: bool,
}

impl BoxConfig {
    /// A common home router: endpoint-independent mapping, address-and-port-dependent filtering,
    /// preserved ports, no hairpinning.
    pub fn home() -> Self {
        Self {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPortDependent,
            ports: Ports::Preserving,
            timeout: Duration::from_secs(120),
            first_timeout: Duration::from_secs(30),
            inbound_refreshes: true,
            hairpin: Hairpin::None,
            touchy: false,
            blacklists: None,
            blocks_udp: false,
        }
    }

    /// A box that lets everybody in through a mapping.
    pub fn open() -> Self {
        Self { filtering: Dependence::EndpointIndependent, ..Self::home() }
    }

    /// A box that lets a host in that was sent to, from whatever port.
    pub fn address_restricted() -> Self {
        Self { filtering: Dependence::AddressDependent, ..Self::home() }
    }

    /// A box with another mapping for each destination.
    pub fn symmetric(ports: Ports) -> Self {
        Self { mapping: Dependence::AddressAndPortDependent, ports, ..Self::home() }
    }

    /// A network without UDP.
    pub fn blocked() -> Self {
        Self { blocks_udp: true, ..Self::home() }
    }
}

impl fmt::Debug for BoxConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blocks_udp {
            return f.write_str("no UDP");
        }
        let word = |d: Dependence| match d {
            Dependence::Unknown => "unknown",
            Dependence::EndpointIndependent => "any",
            Dependence::AddressDependent => "host",
            Dependence::AddressAndPortDependent => "socket",
        };
        write!(f, "maps per {}, lets {} in", word(self.mapping), word(self.filtering))?;
        write!(f, ", ports {:?}, hairpin {:?}", self.ports, self.hairpin)?;
        write!(f, ", {:?}/{:?}", self.first_timeout, self.timeout)?;
        let mut note = |on: bool, what: &str| if on { f.write_str(what) } else { Ok(()) };
        note(!self.inbound_refreshes, ", only outbound refreshes")?;
        note(self.touchy, ", touchy")?;
        note(self.blacklists.is_some(), ", blacklisting")
    }
}
