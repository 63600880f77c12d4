//! Which ports a NAT will choose next.
//!
//! A NAT that gives each destination another port may still be orderly: it keeps the internal
//! port, or it counts. Then the port that it will choose for us can be said, and a probe to it
//! opens our own filter for the datagrams that will come from there.

use halloo_wire::candidate::{Allocation, Card, Dependence, Verdict};

/// Ports tried at each attested IPv4 address of a NAT that counts: between its last port that we
/// know and the one that we get, the contact probes up to 8 targets and others use the NAT too.
pub const PREDICTED_PORTS: usize = 20;
/// How often they are tried: the second time for what was lost, and for a contact that begins
/// later.
pub const PREDICTION_PASSES: usize = 2;

/// Whether a NAT gives each destination a mapping of its own.
pub(crate) fn address_dependent(verdict: &Verdict) -> bool {
    matches!(verdict.mapping, Dependence::AddressDependent | Dependence::AddressAndPortDependent)
}

/// The ports that the NAT in front of the owner of `card` will probably choose, likeliest first,
/// at most [`PREDICTED_PORTS`]. `seen` is the port that it chose last, as far as is known.
pub(crate) fn predicted_ports(card: &Card, seen: u16) -> Vec<u16> {
    if !address_dependent(&card.verdict) {
        return Vec::new();
    }
    match card.verdict.allocation {
        Allocation::Sequential { delta } => (1..=PREDICTED_PORTS as i32)
            .map(|k| i32::from(seen) + k * i32::from(delta))
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|&port| port >= FIRST_PORT)
            .collect(),
        // Unknown: keeping the port is the commonest way.
        Allocation::Preserving | Allocation::Unknown if card.local_port >= FIRST_PORT => {
            vec![card.local_port]
        }
        _ => Vec::new(),
    }
}

/// NATs choose from here on (RFC 4787, 4.2.2), and so may nodes.
pub(crate) const FIRST_PORT: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nat_that_counts_is_followed() {
        let card = card(Allocation::Sequential { delta: 2 });
        let ports = predicted_ports(&card, 50_000);
        assert_eq!(ports.len(), PREDICTED_PORTS);
        assert_eq!(ports[..3], [50_002, 50_004, 50_006]);
    }

    #[test]
    fn counting_ends_at_the_edge_of_the_range() {
        let up = card(Allocation::Sequential { delta: 10_000 });
        assert_eq!(predicted_ports(&up, 40_000), [50_000, 60_000]);
        let down = card(Allocation::Sequential { delta: -1 });
        assert_eq!(predicted_ports(&down, 1026), [1025, 1024]);
    }

    #[test]
    fn a_nat_that_keeps_the_port_is_believed() {
        assert_eq!(predicted_ports(&card(Allocation::Preserving), 50_000), [7_000]);
        assert_eq!(predicted_ports(&card(Allocation::Unknown), 50_000), [7_000]);
    }

    #[test]
    fn nothing_is_guessed_where_it_is_known_or_where_it_is_hopeless() {
        assert!(predicted_ports(&card(Allocation::Random), 50_000).is_empty());
        let mut known = card(Allocation::Preserving);
        known.verdict.mapping = Dependence::EndpointIndependent;
        assert!(predicted_ports(&known, 50_000).is_empty());
    }

    fn card(allocation: Allocation) -> Card {
        let verdict = Verdict {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
            allocation,
        };
        Card { verdict, local_port: 7_000, ..Card::default() }
    }
}
