//! Whether two nodes can reach each other directly, from what stands between them: independent of
//! the code that tries.
//!
//! | | open | by address | by port | each socket another port | no UDP |
//! |---|---|---|---|---|---|
//! | **open** | yes | yes | yes | yes | no |
//! | **by address** | | yes | yes | yes | no |
//! | **by port** | | | yes | if it can be predicted or searched | no |
//! | **each socket another port** | | | | no, or by luck | no |
//!
//! *Open* lets everybody in through a mapping that stays the same; *by address* and *by port* let
//! in who was sent to; behind the fourth, a mapping for the rendezvous peer says little about the
//! mapping for the contact.

use halloo_wire::candidate::Dependence;

use crate::nat_box::{BoxConfig, Hairpin, Ports};
use crate::scenario::{Near, Scenario, Site};

/// What must come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expectation {
    /// A direct path, always.
    Direct,
    /// A direct path nearly always: it takes a guess or a search.
    Likely,
    /// Either: it depends on luck or timing.
    Either,
    /// The relay.
    Relay,
}

/// What lies between a node and the internet, as far as it matters to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Everybody gets in.
    Open,
    /// Who was sent to gets in, from any port.
    ByAddress,
    /// Who was sent to gets in, from the same port.
    ByPort,
    /// The port that the contact must send to is known to nobody.
    Symmetric(Next),
    /// No UDP.
    Blocked,
}

/// What can be said about the port of the next mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A step from the last one.
    Sequential,
    /// In a block of at most 2,048.
    Block,
    /// Nothing.
    Random,
}

/// What must come of the scenario's call, as long as nothing else happens.
pub fn expect(scenario: &Scenario) -> Expectation {
    let [one, two] = &scenario.sites;
    if one.relay_only || two.relay_only {
        return Expectation::Relay;
    }
    let over_v6 = match one.ipv6 && two.ipv6 {
        true => v6(scenario),
        false => Expectation::Relay,
    };
    let over_v4 = match one.ipv4 && two.ipv4 {
        true => v4(scenario),
        false => Expectation::Relay,
    };
    over_v6.min(over_v4)
}

/// The class of a chain of boxes, over IPv4.
pub fn class_of(boxes: &[BoxConfig]) -> Class {
    if boxes.iter().any(|b| b.blocks_udp) {
        return Class::Blocked;
    }
    if let Some(i) = boxes.iter().rposition(is_dependent) {
        // Even one that lets everybody in answers from a port that nobody knows.
        return Class::Symmetric(next_port(&boxes[i..]));
    }
    match strictest(boxes) {
        Dependence::EndpointIndependent => Class::Open,
        Dependence::AddressDependent => Class::ByAddress,
        _ => Class::ByPort,
    }
}

fn v4(scenario: &Scenario) -> Expectation {
    let [one, two] = scenario.sites.each_ref().map(with_mapped_port);
    match scenario.near {
        Near::SameLan => Expectation::Direct,
        Near::Apart => apart(&one, &two, scenario),
        Near::SameCarrier(_) if one.is_empty() && two.is_empty() => Expectation::Direct,
        Near::SameCarrier(carrier) => match carrier.hairpin {
            // Nobody can tell the other an address that works inside.
            Hairpin::None => Expectation::Relay,
            // Inner filters see another source than the one that was sent to.
            Hairpin::InternalSource => Expectation::Either,
            Hairpin::ExternalSource => {
                let behind = |boxes: &[BoxConfig]| [boxes, &[carrier]].concat();
                apart(&behind(&one), &behind(&two), scenario)
            }
        },
    }
}

/// The boxes of a site. One that has mapped a port is open, whatever it does otherwise.
fn with_mapped_port(site: &Site) -> Vec<BoxConfig> {
    let mut boxes = site.boxes.clone();
    if let Some(nearest) = boxes.first_mut().filter(|b| site.maps_port && !b.blocks_udp) {
        *nearest = BoxConfig { hairpin: nearest.hairpin, ..BoxConfig::open() };
    }
    boxes
}

/// Two chains that have nothing in common.
fn apart(one: &[BoxConfig], two: &[BoxConfig], scenario: &Scenario) -> Expectation {
    let [a, b] = [one, two].map(class_of);
    let moody = |boxes: &[BoxConfig]| boxes.iter().any(|b| b.touchy || b.blacklists.is_some());
    let shuts_out = one.iter().chain(two).any(|b| b.blacklists.is_some());
    let met = meet(a, b, scenario);
    match met {
        Expectation::Relay => met,
        _ if shuts_out => Expectation::Either,
        // Early probes make a touchy box change the port, which only an open contact forgives.
        _ if (moody(one) && b != Class::Open) || (moody(two) && a != Class::Open) => {
            Expectation::Either
        }
        _ => met,
    }
}

fn meet(a: Class, b: Class, scenario: &Scenario) -> Expectation {
    use Class::{Blocked, ByAddress, ByPort, Open, Symmetric};
    match (a, b) {
        (Blocked, _) | (_, Blocked) => Expectation::Relay,
        (Open | ByAddress, _) | (_, Open | ByAddress) => Expectation::Direct,
        (ByPort, ByPort) => Expectation::Direct,
        (ByPort, Symmetric(next)) | (Symmetric(next), ByPort) => {
            let searches = scenario.bulk && scenario.sites.iter().all(|s| s.birthday);
            match next {
                Next::Sequential => Expectation::Likely,
                Next::Block | Next::Random if searches => Expectation::Likely,
                // Two dozen of a thousand ports may be tried as a prediction.
                Next::Block => Expectation::Either,
                Next::Random => Expectation::Relay,
            }
        }
        (Symmetric(Next::Random), Symmetric(_)) | (Symmetric(_), Symmetric(Next::Random)) => {
            Expectation::Relay
        }
        (Symmetric(_), Symmetric(_)) => Expectation::Either,
    }
}

/// Over IPv6 nothing is translated; the boxes filter, and both sides know both addresses.
fn v6(scenario: &Scenario) -> Expectation {
    let [one, two] = &scenario.sites;
    let carrier = match &scenario.near {
        Near::SameLan => return Expectation::Direct,
        Near::SameCarrier(carrier) => Some(carrier),
        Near::Apart => None,
    };
    let mut all = one.boxes.iter().chain(&two.boxes).chain(carrier);
    let blocked = all.clone().any(|b| b.blocks_udp);
    let shuts_out = all.any(|b| b.blacklists.is_some());
    match (blocked, shuts_out) {
        (true, _) => Expectation::Relay,
        (false, true) => Expectation::Either,
        (false, false) => Expectation::Direct,
    }
}

/// Whether a box gives another destination another port.
fn is_dependent(b: &BoxConfig) -> bool {
    b.mapping != Dependence::EndpointIndependent && b.ports != Ports::Preserving
}

fn strictest(boxes: &[BoxConfig]) -> Dependence {
    boxes.iter().map(|b| b.filtering).max().unwrap_or(Dependence::EndpointIndependent)
}

/// The next port outside of a box that makes mappings by destination, and of those around it,
/// which make one for each of its.
fn next_port(boxes: &[BoxConfig]) -> Next {
    boxes.iter().fold(Next::Random, |inner, b| match b.ports {
        Ports::Preserving => inner,
        Ports::Sequential { .. } => Next::Sequential,
        Ports::Block { size, .. } if size <= 2048 => Next::Block,
        Ports::Block { .. } | Ports::Random => Next::Random,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_box_of_a_chain_decides() {
        let block = Ports::Block { first: 4096, size: 1024 };
        for (boxes, class) in [
            (vec![], Class::Open),
            (vec![BoxConfig::open()], Class::Open),
            (vec![BoxConfig::open(), BoxConfig::address_restricted()], Class::ByAddress),
            (vec![BoxConfig::home(), BoxConfig::open()], Class::ByPort),
            (vec![BoxConfig::symmetric(Ports::Preserving)], Class::ByPort),
            (vec![BoxConfig::home(), BoxConfig::symmetric(block)], Class::Symmetric(Next::Block)),
            (
                vec![BoxConfig::symmetric(Ports::Random), BoxConfig::home()],
                Class::Symmetric(Next::Random),
            ),
            (
                vec![
                    BoxConfig::symmetric(Ports::Random),
                    BoxConfig { ports: block, ..BoxConfig::home() },
                ],
                Class::Symmetric(Next::Block),
            ),
            (vec![BoxConfig::home(), BoxConfig::blocked()], Class::Blocked),
        ] {
            assert_eq!(class_of(&boxes), class, "{boxes:?}");
        }
    }

    #[test]
    fn the_table_is_as_written() {
        use Expectation::{Direct, Likely, Relay};
        let symmetric = || vec![BoxConfig::symmetric(Ports::Random)];
        let rows = [
            vec![BoxConfig::open()],
            vec![BoxConfig::address_restricted()],
            vec![BoxConfig::home()],
            symmetric(),
            vec![BoxConfig::blocked()],
        ];
        let table = [
            [Direct, Direct, Direct, Direct, Relay],
            [Direct, Direct, Direct, Direct, Relay],
            [Direct, Direct, Direct, Likely, Relay],
            [Direct, Direct, Likely, Relay, Relay],
            [Relay, Relay, Relay, Relay, Relay],
        ];
        for (one, row) in rows.iter().zip(table) {
            for (two, expected) in rows.iter().zip(row) {
                let scenario = Scenario::pair(1, one.clone(), two.clone());
                assert_eq!(expect(&scenario), expected, "{one:?} and {two:?}");
            }
        }
    }
}
