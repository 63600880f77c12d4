//! A world drawn from a seed.

use std::time::Duration;

use halloo_wire::candidate::Dependence;

use super::{DIAL_AT, Faults, Near, Scenario, Site, Step};
use crate::nat_box::{BoxConfig, Hairpin, Ports};
use crate::rng::Rng;

impl Scenario {
    /// The world of a seed: two sites with any boxes, any delays, perhaps faults, and a call.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (one, two) = (site(&mut rng), site(&mut rng));
        let mut it = Self::pair(seed, Vec::new(), Vec::new());
        it.sites = [one, two];
        it.near = match rng.below(10) {
            0 => Near::SameLan,
            1 => Near::SameCarrier(carrier(&mut rng)),
            _ => Near::Apart,
        };
        if it.near == Near::SameLan && it.sites[0].boxes.is_empty() {
            it.near = Near::Apart;
        }
        if it.near == Near::SameLan {
            let lan = it.sites[0].clone();
            it.sites[1] = Site { bug: Default::default(), ..lan };
        }
        it.two_homes = rng.chance(500);
        it.peer_delay = rng.millis(0..=40);
        it.bulk = rng.chance(700);
        if rng.chance(400) {
            it.faults = Faults {
                loss: rng.within(0..=30) as u16,
                duplicate: rng.within(0..=20) as u16,
                reorder: rng.within(0..=50) as u16,
            };
        }
        // In faulty worlds there is more to do.
        let talk = if it.is_clean() { 4 } else { 8 };
        let until = DIAL_AT + Duration::from_secs(talk);
        for (at, step) in &mut it.steps {
            if !matches!(step, Step::Dial(_) | Step::Talk(_, true)) {
                *at = until;
            }
        }
        it.end = until + Duration::from_secs(4);
        it
    }
}

impl Scenario {
    /// The world of a seed in which up to four things happen while the two talk.
    pub fn random_storm(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5702);
        let mut base = Self::random(seed);
        for b in base.sites.iter_mut().flat_map(|s| &mut s.boxes) {
            // It would shut out the peers as well, for longer than a run.
            b.blacklists = None;
        }
        let mut events = Vec::new();
        for _ in 0..=rng.below(4) {
            let at = rng.millis(500..=10_000);
            let later = at + rng.millis(200..=5_000);
            let n = rng.below(2);
            match rng.below(6) {
                0 => {
                    events.push((at, Step::CutDirect(n)));
                    events.push((later, Step::Heal));
                }
                1 => events.push((at, Step::Flush(n, 0))),
                2 => events.push((at, Step::Renumber(n))),
                3 => {
                    let boxes = if rng.chance(100) {
                        Vec::new()
                    } else {
                        vec![BoxConfig { blacklists: None, ..any_box(&mut rng) }]
                    };
                    events.push((at, Step::Move(n, boxes)));
                }
                4 => {
                    events.push((at, Step::Plug(n, false)));
                    events.push((later, Step::Plug(n, true)));
                }
                _ => events.push((at, Step::RestartPeer(n))),
            }
        }
        // A link that was taken away for the second time comes back with the last of all.
        events.extend([0, 1].map(|n| (Duration::from_secs(16), Step::Plug(n, true))));
        let mut it = base.with_events(Duration::from_secs(17), &events);
        it.end += Duration::from_secs(10);
        it
    }
}

fn site(rng: &mut Rng) -> Site {
    let boxes = match rng.below(10) {
        0 => Vec::new(),
        1 => vec![home(rng), carrier(rng)],
        2 => vec![BoxConfig::blocked()],
        _ => vec![any_box(rng)],
    };
    let ipv6 = rng.chance(250);
    Site {
        delay: rng.millis(1..=100),
        ipv4: !(ipv6 && boxes.is_empty() && rng.chance(300)),
        ipv6,
        relay_only: rng.chance(40),
        birthday: rng.chance(850),
        maps_port: boxes.len() == 1 && rng.chance(100),
        lies: rng.chance(300),
        ..Site::behind(boxes)
    }
}

fn any_box(rng: &mut Rng) -> BoxConfig {
    let mut it = match rng.below(3) {
        0 => carrier(rng),
        _ => home(rng),
    };
    it.touchy = it.ports == Ports::Preserving
        && it.mapping == Dependence::AddressAndPortDependent
        && rng.chance(200);
    it.blacklists = rng.chance(30).then(|| rng.millis(10_000..=60_000));
    it
}

/// What stands in homes.
fn home(rng: &mut Rng) -> BoxConfig {
    let linux = BoxConfig::symmetric(Ports::Preserving);
    let filtering = rng.pick(&FILTERS);
    let base = match rng.below(10) {
        0..5 => BoxConfig { filtering, ..BoxConfig::home() },
        5..8 => BoxConfig { filtering: Dependence::AddressAndPortDependent, ..linux },
        8 => BoxConfig { ports: Ports::Random, filtering, ..BoxConfig::home() },
        _ => BoxConfig::symmetric(sequential(rng)),
    };
    habits(base, rng)
}

/// What stands at carriers.
fn carrier(rng: &mut Rng) -> BoxConfig {
    let size = rng.pick(&[512, 1024, 2048]);
    let block =
        Ports::Block { first: size * rng.within(2..=(65536 / u64::from(size) - 1)) as u16, size };
    let filtering = rng.pick(&FILTERS);
    let base = match rng.below(10) {
        0..4 => {
            BoxConfig { ports: rng.pick(&[block, Ports::Random]), filtering, ..BoxConfig::home() }
        }
        4..7 => BoxConfig::symmetric(block),
        7 => BoxConfig::symmetric(sequential(rng)),
        8 => BoxConfig {
            mapping: Dependence::AddressDependent,
            ..BoxConfig::symmetric(Ports::Random)
        },
        _ => BoxConfig::symmetric(Ports::Random),
    };
    habits(base, rng)
}

fn sequential(rng: &mut Rng) -> Ports {
    Ports::Sequential { delta: rng.pick(&[1, 1, 2, -1]), busy: rng.pick(&[0, 0, 1]) }
}

fn habits(base: BoxConfig, rng: &mut Rng) -> BoxConfig {
    BoxConfig {
        timeout: rng.millis(30_000..=180_000),
        first_timeout: rng.millis(15_000..=30_000),
        inbound_refreshes: rng.chance(700),
        hairpin: rng.pick(&[
            Hairpin::None,
            Hairpin::None,
            Hairpin::InternalSource,
            Hairpin::ExternalSource,
        ]),
        ..base
    }
}

const FILTERS: [Dependence; 3] = [
    Dependence::EndpointIndependent,
    Dependence::AddressDependent,
    Dependence::AddressAndPortDependent,
];
