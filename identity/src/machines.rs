//! Several machines behind one name: which of them serves whom.
//!
//! The name of a rendezvous peer may stand for several machines, which know nothing of each other.
//! SRV records (RFC 2782) list them, and everybody who looks for somebody computes from these
//! records and that fingerprint alone where to ask: [`Machines::order`]. The recipient computes the
//! same and registers there. Nothing is shared, nothing is remembered.
//!
//! The order is that of weighted rendezvous hashing: Thaler and Ravishankar's highest random weight,
//! with the weights of Schindelhauer and Schomaker. A machine that is added takes its share from all
//! others and moves nobody else; one that is removed moves only those whom it served.
//!
//! No floating point: a logarithm that is rounded otherwise on another processor would let two
//! people miss each other.

use std::cmp::Ordering;

use halloo_wire::Fingerprint;

use crate::PeerHost;

/// Machines of one name that are looked at. As many fit into an answer of the domain name system.
pub const MAX_MACHINES: usize = 32;

const CONTEXT: &str = "halloo 2026 machine of a peer v1";
/// Bits of a logarithm behind the point.
const FRACTION: u32 = 32;

/// One machine behind a name, as an SRV record lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine {
    /// Where it is: the target and the port of the record.
    pub place: PeerHost,
    /// Machines of a higher number serve when none of a lower one can be reached.
    pub priority: u16,
    /// Its share among those of the same priority. With 0 it serves when the others cannot.
    pub weight: u16,
}

/// The machines behind one name, each once, in an order that does not depend on that of the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machines(Vec<Machine>);

impl Machines {
    /// Takes the records of a name. A machine that is listed twice counts once, with the lower
    /// priority and then the higher weight. Of more than [`MAX_MACHINES`] the first are taken, by
    /// priority and then by name and port.
    pub fn new(records: impl IntoIterator<Item = Machine>) -> Self {
        let mut machines: Vec<Machine> = records.into_iter().collect();
        machines.sort_by(|a, b| {
            let by_place = || a.place.cmp(&b.place);
            by_place().then(a.priority.cmp(&b.priority)).then(b.weight.cmp(&a.weight))
        });
        machines.dedup_by(|next, kept| next.place == kept.place);
        // The sort is stable: within a priority they stay in the order of their places.
        machines.sort_by_key(|machine| machine.priority);
        machines.truncate(MAX_MACHINES);
        Self(machines)
    }

    /// All of them, by priority, name and port.
    pub fn all(&self) -> &[Machine] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The machines in the order in which they serve somebody: who is registered is at the first, or
    /// at the next that could be reached then.
    ///
    /// # Examples
    /// ```
    /// use halloo_identity::{Fingerprint, Machine, Machines};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = |host: &str| -> Result<_, halloo_identity::HostError> {
    ///     Ok(Machine { place: host.parse()?, priority: 10, weight: 1 })
    /// };
    /// let two = Machines::new([machine("a.example.org")?, machine("b.example.org")?]);
    /// let order = two.order(&Fingerprint::from_bytes([7; 30]));
    /// assert_eq!(order.len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn order(&self, who: &Fingerprint) -> Vec<&Machine> {
        let mut order: Vec<_> = self.0.iter().map(|m| (cost(&m.place, who), m)).collect();
        order.sort_by(|(a_cost, a), (b_cost, b)| {
            let by_share = || by_share((*a_cost, a.weight), (*b_cost, b.weight));
            a.priority.cmp(&b.priority).then_with(by_share).then_with(|| a.place.cmp(&b.place))
        });
        order.into_iter().map(|(_, machine)| machine).collect()
    }
}

/// Whose cost is lower for its weight. Those without a weight come last, as if all had the same.
fn by_share((a, a_weight): (u64, u16), (b, b_weight): (u64, u16)) -> Ordering {
    match (a_weight, b_weight) {
        (0, 0) => a.cmp(&b),
        (0, _) => Ordering::Greater,
        (_, 0) => Ordering::Less,
        // a / a_weight against b / b_weight. A cost has at most 39 bits, a weight 16.
        _ => (a * u64::from(b_weight)).cmp(&(b * u64::from(a_weight))),
    }
}

/// What it costs a machine to serve somebody, before its weight: the negative binary logarithm of
/// a number that is uniform between 0 and 1, in units of 2^-32.
fn cost(place: &PeerHost, who: &Fingerprint) -> u64 {
    let mut bytes = Vec::with_capacity(who.as_bytes().len() + 2 + place.host().len());
    bytes.extend_from_slice(who.as_bytes());
    bytes.extend_from_slice(&place.port().to_be_bytes());
    bytes.extend_from_slice(place.host().as_bytes());
    let hash = blake3::derive_key(CONTEXT, &bytes);
    let first = hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    // Odd, so neither 0 nor 1 when it is divided by 2^64.
    (64 << FRACTION) - log2(first | 1)
}

/// The binary logarithm of a number that is not 0, in units of 2^-32: the bits behind the point
/// come one by one, from squaring. What this computes is the definition.
fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    // Between 1 and 2, in units of 2^-63.
    let mut rest = number << (63 - whole);
    let mut log = u64::from(whole);
    for _ in 0..FRACTION {
        // Between 1 and 4, in units of 2^-126.
        let square = u128::from(rest) * u128::from(rest);
        let is_two = square >> 127 == 1;
        rest = (square >> if is_two { 64 } else { 63 }) as u64;
        log = log << 1 | u64::from(is_two);
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1 << 63), 63 << FRACTION);
        // log2(3) = 1.584962500721156…
        assert_eq!(log2(3), (1.584_962_500_721_156_f64 * (1_u64 << FRACTION) as f64) as u64);
        for number in [5, 1_000_003, u64::MAX, u64::MAX / 3, 0xdead_beef_0bad_f00d] {
            let (exact, ours) = ((number as f64).log2(), log2(number) as f64 / 2_f64.powi(32));
            assert!((exact - ours).abs() < 1e-9, "{number}: {exact} {ours}");
        }
        // No cost is nothing.
        assert!(log2(u64::MAX) < 64 << FRACTION);
    }

    /// The vectors of the protocol's documents.
    #[test]
    fn golden_costs() {
        let cost =
            |host: &str, byte| cost(&host.parse().unwrap(), &Fingerprint::from_bytes([byte; 30]));
        assert_eq!(cost("a.example.org", 0), 13_333_508_276);
        assert_eq!(cost("a.example.org:8443", 0), 3_224_160_064);
        assert_eq!(cost("b.example.org", 0xff), 10_156_978_363);
    }

    #[test]
    fn shares_decide_and_no_weight_comes_last() {
        assert_eq!(by_share((30, 3), (20, 2)), Ordering::Equal);
        assert_eq!(by_share((30, 3), (21, 2)), Ordering::Less);
        assert_eq!(by_share((30, 0), (u64::MAX >> 25, 1)), Ordering::Greater);
        assert_eq!(by_share((30, 0), (31, 0)), Ordering::Less);
        // The largest of both does not overflow.
        assert_eq!(
            by_share((64 << FRACTION, u16::MAX), (64 << FRACTION, u16::MAX)),
            Ordering::Equal
        );
    }
}
