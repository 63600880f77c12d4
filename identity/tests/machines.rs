//! Which machine behind a name serves whom.

use std::collections::BTreeMap;

use halloo_identity::{Fingerprint, MAX_MACHINES, Machine, Machines, PeerHost};
use proptest::prelude::*;

/// Some fingerprints, always the same.
fn people(count: u64) -> impl Iterator<Item = Fingerprint> {
    (0..count).map(|n| {
        let mut bytes = [0; 30];
        bytes.copy_from_slice(&blake3::derive_key("test people", &n.to_be_bytes())[..30]);
        Fingerprint::from_bytes(bytes)
    })
}

fn machine(name: &str, priority: u16, weight: u16) -> Machine {
    Machine { place: PeerHost::new(name, 443).expect("a name of a test"), priority, weight }
}

fn some(count: usize) -> Vec<Machine> {
    (0..count).map(|n| machine(&format!("m{n}.example.org"), 0, 1)).collect()
}

fn first<'a>(machines: &'a Machines, who: &Fingerprint) -> &'a Machine {
    machines.order(who)[0]
}

fn names(machines: &Machines, who: &Fingerprint) -> Vec<String> {
    machines.order(who).iter().map(|m| m.place.to_string()).collect()
}

/// The vectors of the protocol's documents.
#[test]
fn golden_orders() {
    let machines = Machines::new([
        machine("a.example.org", 10, 60),
        machine("b.example.org", 10, 20),
        machine("c.example.org", 10, 20),
        Machine { place: PeerHost::new("c.example.org", 8443).unwrap(), priority: 10, weight: 0 },
        machine("d.example.org", 20, 0),
    ]);
    let orders: Vec<String> = [[0; 30], [1; 30], [2; 30], [0xff; 30]]
        .iter()
        .map(|bytes| names(&machines, &Fingerprint::from_bytes(*bytes)).join(" "))
        .collect();
    assert_eq!(orders, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "b.example.org a.example.org c.example.org c.example.org:8443 d.example.org",
    "b.example.org a.example.org c.example.org c.example.org:8443 d.example.org",
    "c.example.org b.example.org a.example.org c.example.org:8443 d.example.org",
    "c.example.org a.example.org b.example.org c.example.org:8443 d.example.org",
];

#[test]
fn shares_follow_the_weights() {
    let weights = [1_u16, 2, 3, 10, 100, 400];
    let machines = Machines::new(
        weights.iter().enumerate().map(|(n, weight)| machine(&format!("m{n}.test"), 0, *weight)),
    );
    let count = 50_000;
    let mut served: BTreeMap<&Machine, u32> = BTreeMap::new();
    for who in people(count) {
        *served.entry(first(&machines, &who)).or_default() += 1;
    }
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let chi_square: f64 = machines
        .all()
        .iter()
        .map(|m| {
            let expected = count as f64 * f64::from(m.weight) / total;
            let seen = f64::from(served.get(m).copied().unwrap_or(0));
            (seen - expected).powi(2) / expected
        })
        .sum();
    // With 5 degrees of freedom a fair draw is above this once in a thousand. The people are always
    // the same, so this is one draw for ever.
    assert!(chi_square < 20.52, "{chi_square}: {served:?}");
}

#[test]
fn who_loses_the_first_goes_evenly_to_all_others() {
    let all = some(5);
    let machines = Machines::new(all.clone());
    let gone = &machines.all()[2];
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    for who in people(20_000).filter(|who| first(&machines, who) == gone) {
        *next.entry(machines.order(&who)[1].place.to_string()).or_default() += 1;
    }
    assert_eq!(next.len(), 4);
    assert!(next.values().all(|n| (800..1_200).contains(n)), "{next:?}");
}

#[test]
fn priorities_come_first_and_no_weight_last_within_one() {
    let machines = Machines::new([
        machine("spare.test", 2, 60_000),
        machine("idle.test", 1, 0),
        machine("busy.test", 1, 1),
    ]);
    for who in people(200) {
        assert_eq!(names(&machines, &who), ["busy.test", "idle.test", "spare.test"]);
    }
}

#[test]
fn twice_is_once_and_more_than_the_limit_are_cut_the_same_way() {
    let twice =
        Machines::new([machine("a.test", 5, 1), machine("a.test", 2, 7), machine("A.test.", 2, 9)]);
    assert_eq!(twice.all(), [machine("a.test", 2, 9)]);

    let mut many = some(MAX_MACHINES + 9);
    many.push(machine("zz.test", 0, 1));
    many[3].priority = 7;
    let cut = Machines::new(many.clone());
    assert_eq!(cut.all().len(), MAX_MACHINES);
    assert!(!cut.all().contains(&many[3]));
    many.reverse();
    assert_eq!(cut, Machines::new(many));
    assert!(Machines::new([]).is_empty());
    assert!(Machines::new([]).order(&Fingerprint::from_bytes([0; 30])).is_empty());
}

fn machine_lists() -> impl Strategy<Value = Vec<Machine>> {
    let one =
        ("[a-f]{1,2}\\.test", 0..3_u16, prop_oneof![Just(0), 1..4_u16, any::<u16>()], 1..3_u16);
    let one = one.prop_map(|(host, priority, weight, port)| Machine {
        place: PeerHost::new(&host, port).expect("a name of a test"),
        priority,
        weight,
    });
    proptest::collection::vec(one, 1..20)
}

fn who() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 30]>().prop_map(Fingerprint::from_bytes)
}

proptest! {
    #[test]
    fn the_order_of_records_does_not_matter(
        (list, shuffled) in machine_lists().prop_flat_map(|list| {
            (Just(list.clone()), Just(list).prop_shuffle())
        }),
        who in who(),
    ) {
        let (a, b) = (Machines::new(list), Machines::new(shuffled));
        prop_assert_eq!(a.order(&who), b.order(&who));
    }

    /// So adding one moves people only to it, and removing one only its own: all others stay in
    /// the order in which they were.
    #[test]
    fn others_stay_as_they_are_without_one(
        list in machine_lists(),
        gone in any::<prop::sample::Index>(),
        who in who(),
    ) {
        let all = Machines::new(list);
        let gone = gone.get(all.all()).clone();
        let fewer = Machines::new(all.all().iter().filter(|m| **m != gone).cloned());
        let mut left = all.order(&who);
        left.retain(|m| **m != gone);
        prop_assert_eq!(left, fewer.order(&who));
    }

    #[test]
    fn another_weight_moves_people_only_to_or_from_that_machine(
        list in machine_lists(),
        changed in any::<prop::sample::Index>(),
        weight in any::<u16>(),
        who in who(),
    ) {
        let before = Machines::new(list);
        let place = changed.get(before.all()).place.clone();
        let mut machines = before.all().to_vec();
        machines.iter_mut().filter(|m| m.place == place).for_each(|m| m.weight = weight);
        let after = Machines::new(machines);
        let others = |machines: &Machines| {
            let mut places: Vec<_> =
                machines.order(&who).into_iter().map(|m| m.place.clone()).collect();
            places.retain(|p| *p != place);
            places
        };
        prop_assert_eq!(others(&before), others(&after));
    }
}

/// About a quarter when the fourth comes, and all of them to it.
#[test]
fn one_more_takes_its_share_only() {
    let before = Machines::new(some(3));
    let after = Machines::new(some(4));
    let moved: Vec<_> = people(8_000)
        .filter(|who| first(&before, who) != first(&after, who))
        .map(|who| first(&after, &who).place.to_string())
        .collect();
    assert!((1_850..2_150).contains(&moved.len()), "{}", moved.len());
    assert!(moved.iter().all(|place| place == "m3.example.org"));
}
