//! What the prober says about a box is what the box does.

use halloo_sim::nat_box::{BoxConfig, Ports};
use halloo_sim::scenario::Scenario;
use halloo_sim::trace::Trace;
use halloo_sim::world::run;
use halloo_wire::candidate::{Allocation, Dependence, Verdict};

const ANY: Dependence = Dependence::EndpointIndependent;
const HOST: Dependence = Dependence::AddressDependent;
const SOCKET: Dependence = Dependence::AddressAndPortDependent;

#[test]
fn mapping_and_filtering_are_told_as_they_are() {
    for (config, mapping, filtering) in [
        (BoxConfig::open(), ANY, ANY),
        (BoxConfig::address_restricted(), ANY, HOST),
        (BoxConfig::home(), ANY, SOCKET),
        (BoxConfig::symmetric(Ports::Random), SOCKET, SOCKET),
        (BoxConfig { mapping: HOST, ..BoxConfig::symmetric(Ports::Random) }, HOST, SOCKET),
    ] {
        for seed in 1..=20 {
            let verdict = verdict(config, seed);
            assert_eq!(verdict.mapping, mapping, "{config:?}, seed {seed}");
            // Only who is asked by another address could tell hosts from everybody.
            let is_close = verdict.filtering == filtering
                || (filtering != SOCKET && [ANY, HOST].contains(&verdict.filtering));
            assert!(is_close, "{config:?}, seed {seed}: {:?}", verdict.filtering);
        }
    }
}

#[test]
fn the_allocation_of_ports_is_told_as_it_is() {
    let block = Ports::Block { first: 4096, size: 1024 };
    let mut whole = 0;
    for seed in 1..=50 {
        let told = |ports| verdict(BoxConfig::symmetric(ports), seed).allocation;
        let step = told(Ports::Sequential { delta: 2, busy: 0 });
        assert_eq!(step, Allocation::Sequential { delta: 2 }, "seed {seed}");
        match told(block) {
            // The aligned window that the few ports seen are in: most often all of the block.
            Allocation::Block { first, size } => {
                let (first, end) = (u32::from(first), u32::from(first) + u32::from(size));
                assert!(first < 5120 && end > 4096 && size <= 4096, "seed {seed}: {first} {end}");
                whole += u32::from(first <= 4096 && end >= 5120);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
        let random = told(Ports::Random);
        assert_eq!(random, Allocation::Random, "seed {seed}");
    }
    assert!(whole >= 45, "the whole block in {whole} of 50");
    let linux = verdict(BoxConfig::symmetric(Ports::Preserving), 1);
    assert_eq!((linux.mapping, linux.allocation), (ANY, Allocation::Preserving));
}

#[test]
fn the_worse_of_two_boxes_is_told() {
    let boxes = vec![BoxConfig::home(), BoxConfig::symmetric(Ports::Random)];
    let outcome = run(Scenario::pair(1, boxes, vec![]), Trace::off());
    assert_eq!(outcome.sides[0].verdict.mapping, SOCKET);
    assert_eq!(outcome.sides[1].verdict.mapping, ANY, "a public host");
}

fn verdict(config: BoxConfig, seed: u64) -> Verdict {
    run(Scenario::pair(seed, vec![config], vec![]), Trace::off()).sides[0].verdict
}
