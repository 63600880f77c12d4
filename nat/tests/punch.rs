//! Two nodes find a way to each other, through NATs of all kinds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod world;

use halloo_nat::{Allocation, SendOn, SocketId, Technique, WhyRelayed, limits};
use world::nat::{dependent, home, open, verdict};
use world::{DELAY, World, ms};

const BLOCK: Allocation = Allocation::Block { first: 20_000, size: 1024 };

#[test]
fn two_home_routers_are_passed_in_the_time_that_one_datagram_takes() {
    let mut world = World::new(home(), home(), 1);
    world.meet();

    let usable =
        world.run_until(ms(100), |w| w.nodes.iter().all(|n| n.agent.send_on().direct().is_some()));
    assert_eq!(usable, DELAY, "both have heard a probe");
    assert!(world.nodes.iter().all(|n| matches!(n.agent.send_on(), SendOn::Both(_))));

    let alone = world.run_until(ms(500), |w| w.nodes.iter().all(|n| n.is_direct()));
    assert_eq!(alone, DELAY + ms(100), "one round trip of the relay later");
    for node in &world.nodes {
        assert_eq!(node.agent.technique(), Some(Technique::Reflexive));
        assert_eq!(node.agent.rtt(), Some(DELAY * 2));
        assert_eq!(node.agent.why_relayed(), None);
        assert!(node.agent.stats().probes_sent <= 5, "{:?}", node.agent.stats());
    }
}

#[test]
fn a_side_that_learns_later_is_met_by_the_next_probe() {
    for late in [5, 19, 30, 60, 100, 200, 400] {
        let mut world = World::new(home(), home(), 2);
        world.meet_one(1);
        world.run_for(ms(late));
        world.meet_one(0);
        let usable = world
            .run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.agent.send_on().direct().is_some()));
        // The caller hears the callee's next probe, or the callee the caller's first.
        assert!(usable <= ms(late) + DELAY * 2, "{late} ms late: {usable:?}");
        let first = world.nodes.iter().flat_map(|n| n.routes.first()).map(|(at, _)| *at).min();
        assert!(first <= Some(ms(late) + DELAY), "the earlier side hears the first probe");
    }
}

#[test]
fn whoever_can_be_reached_meets_whoever_can_send() {
    for (a, b) in [
        (open(), open()),
        (open(), home()),
        (open(), dependent(Allocation::Random)),
        (open(), dependent(BLOCK)),
        (verdict(1, 2, Allocation::Random), home()),
        (verdict(1, 2, Allocation::Random), dependent(Allocation::Random)),
        (verdict(1, 1, Allocation::Random), dependent(Allocation::Sequential { delta: 1 })),
        (home(), home()),
        (home(), dependent(Allocation::Preserving)),
        (home(), dependent(Allocation::Sequential { delta: 1 })),
        (home(), dependent(Allocation::Sequential { delta: -2 })),
        (dependent(Allocation::Preserving), dependent(Allocation::Preserving)),
    ] {
        for (a, b) in [(a, b), (b, a)] {
            let mut world = World::new(a, b, 3);
            world.meet();
            let took = world.run_until(ms(2_000), |w| w.nodes.iter().all(|n| n.is_direct()));
            assert!(took <= ms(800), "{a:?} and {b:?} took {took:?}");
        }
    }
}

#[test]
fn a_nat_that_counts_is_met_at_its_next_port() {
    let mut world = World::new(home(), dependent(Allocation::Sequential { delta: 3 }), 4);
    world.meet();
    world.run_until(ms(1_000), |w| w.nodes[0].is_direct());
    assert_eq!(world.nodes[0].agent.technique(), Some(Technique::Predicted));
}

#[test]
fn loss_costs_a_step_of_the_schedule() {
    for seed in 0..40 {
        let mut world = World::new(home(), home(), seed);
        world.loss = 300;
        world.meet();
        world.run_until(ms(2_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    }
}

#[test]
fn two_random_nats_stay_on_the_relay_and_say_why() {
    let mut world = World::new(dependent(Allocation::Random), dependent(BLOCK), 5);
    world.nodes.iter_mut().for_each(|n| n.consent(true, n.last_got));
    world.meet();
    world.run_until(ms(5_000), |w| w.nodes.iter().all(|n| !n.relayed.is_empty()));
    for node in &world.nodes {
        assert_eq!(node.relayed, [WhyRelayed::BothAddressDependent]);
        assert_eq!(node.agent.why_relayed(), Some(WhyRelayed::BothAddressDependent));
        assert_eq!(node.agent.stats().search_probes_sent, 0);
    }
}

#[test]
fn a_random_nat_and_a_home_router_need_the_consent_of_both() {
    for (a, b) in [(false, false), (true, false), (false, true)] {
        let mut world = World::new(home(), dependent(Allocation::Random), 6);
        let now = world.now;
        world.nodes[0].consent(a, now);
        world.nodes[1].consent(b, now);
        world.meet();
        world.run_until(ms(5_000), |w| w.nodes.iter().all(|n| !n.relayed.is_empty()));
        for node in &world.nodes {
            assert_eq!(node.relayed, [WhyRelayed::SearchNotAllowed]);
            assert_eq!(node.agent.stats().search_probes_sent, 0);
        }
    }
}

#[test]
fn a_search_in_a_known_block_takes_a_fraction_of_a_second() {
    let mut times = Vec::new();
    for seed in 0..40 {
        let mut world = searching(dependent(BLOCK), seed);
        let took = world.run_until(ms(3_000), |w| w.nodes.iter().all(|n| n.is_direct()));
        times.push(took);
        assert_eq!(world.nodes[0].agent.technique(), Some(Technique::Birthday));
        assert!(world.nodes[1].agent.stats().search_probes_sent <= 128);
        let sockets = world.nodes[1].sockets.len();
        assert!(sockets <= 2, "{sockets} sockets are left: the main one and the one that won");
    }
    times.sort();
    assert!(times[20] <= ms(350), "half of them: {:?}", times[20]);
    assert!(times[38] <= ms(600), "nearly all: {:?}", times[38]);
}

#[test]
fn a_search_of_the_whole_range_mostly_succeeds() {
    let mut found = 0;
    for seed in 0..40 {
        let mut world = searching(dependent(Allocation::Random), seed);
        world.run_for(ms(8_000));
        found += usize::from(world.nodes.iter().all(|n| n.is_direct()));
        for node in &world.nodes {
            let sent = node.agent.stats().search_probes_sent;
            assert!(sent <= limits::MAX_SEARCH_PROBES as u64, "{sent} probes");
            assert!(node.sockets.len() <= 2);
        }
    }
    assert!(found >= 36, "{found} of 40");
}

#[test]
fn a_search_that_finds_nothing_ends_and_says_so() {
    let mut world = searching(dependent(Allocation::Random), 7);
    world.direct_works = [false; 2];
    world.run_until(ms(10_000), |w| w.nodes.iter().all(|n| !n.relayed.is_empty()));
    for node in &world.nodes {
        assert_eq!(node.relayed, [WhyRelayed::SearchFailed]);
        assert_eq!(node.sockets.keys().collect::<Vec<_>>(), [&SocketId::MAIN]);
    }
}

#[test]
fn without_sockets_there_is_no_search() {
    let mut world = World::new(home(), dependent(Allocation::Random), 8);
    world.nodes[1].opens_sockets = false;
    let now = world.now;
    world.nodes.iter_mut().for_each(|n| n.consent(true, now));
    world.meet();
    world.run_until(ms(10_000), |w| w.nodes.iter().all(|n| !n.relayed.is_empty()));
    assert!(world.nodes.iter().all(|n| n.is_relayed()));
}

#[test]
fn where_nothing_answers_the_relay_stays() {
    let mut world = World::new(home(), home(), 9);
    world.direct_works = [false; 2];
    world.meet();
    world.run_for(ms(60_000));
    for node in &world.nodes {
        assert_eq!(node.relayed, [WhyRelayed::NoAnswer]);
        assert!(node.routes.is_empty());
        assert_eq!(node.agent.stats().probes_sent, 7, "one round, and no more without a new fact");
    }
}

#[test]
fn a_contact_that_can_send_and_not_receive_is_tried_and_left() {
    let mut world = World::new(open(), open(), 10);
    world.direct_works = [true, false];
    world.meet();
    world.run_for(ms(20_000));
    assert!(world.nodes.iter().all(|n| n.is_relayed()));
    let routes: Vec<_> =
        world.nodes[1].routes.iter().map(|(_, to)| to.direct().is_some()).collect();
    assert_eq!(routes, [true, false], "used beside the relay for a second, once");
    assert!(world.nodes[0].routes.is_empty());
}

#[test]
fn after_a_round_that_should_have_worked_the_next_begins_carefully() {
    let mut world = World::new(home(), home(), 11);
    world.direct_works = [false; 2];
    world.meet();
    world.run_for(ms(10_000));
    world.direct_works = [true; 2];
    let before = world.since_start();
    world.knock(0);
    let took = world.run_until(ms(2_000), |w| w.nodes.iter().all(|n| n.is_direct())) - before;
    assert!(took >= ms(60) + DELAY, "the first two probes only open the own NAT: {took:?}");
}

#[test]
fn a_search_ends_when_the_network_refuses_it() {
    let mut world = searching(dependent(Allocation::Random), 12);
    world.direct_works = [false; 2];
    world.run_for(ms(200));
    let path = halloo_nat::DirectPath {
        socket: SocketId::MAIN,
        remote: "198.51.100.7:2000".parse().unwrap(),
    };
    let now = world.now;
    for _ in 0..32 {
        world.nodes[0].agent.send_failed(path, now);
    }
    world.drain(0);
    let sent = world.nodes[0].agent.stats().search_probes_sent;
    assert!(sent > 0);
    world.run_for(ms(3_000));
    assert_eq!(world.nodes[0].agent.stats().search_probes_sent, sent);
}

#[test]
fn an_agent_that_is_closed_gives_everything_back() {
    let mut world = searching(dependent(Allocation::Random), 13);
    world.direct_works = [false; 2];
    world.run_for(ms(200));
    assert!(world.nodes[1].sockets.len() > 200, "a search is under way");
    let now = world.now;
    for us in 0..2 {
        world.nodes[us].agent.close(now);
        world.drain(us);
        let pair = halloo_nat::NetworkPair {
            own: "192.0.2.3".parse().unwrap(),
            theirs: "192.0.2.4".parse().unwrap(),
        };
        assert!(world.nodes[us].searches.begin(pair, now), "another search may begin");
    }
    assert_eq!(world.nodes[1].sockets.len(), 1);
    let sent = world.nodes.each_ref().map(|n| n.agent.stats().probes_sent);
    world.run_for(ms(60_000));
    assert_eq!(world.nodes.each_ref().map(|n| n.agent.stats().probes_sent), sent);
}

#[test]
fn bulk_asks_for_a_knock_that_consents_to_a_search() {
    let mut world = World::new(home(), dependent(BLOCK), 14);
    let now = world.now;
    world.nodes[1].consent(true, now);
    world.meet();
    world.run_for(ms(5_000));
    let now = world.now;
    world.nodes[0].agent.want(false, now);
    world.drain(0);
    assert!(world.nodes[0].knocks.is_empty());
    world.nodes[0].agent.want(true, now);
    world.drain(0);
    assert_eq!(world.nodes[0].knocks, [halloo_nat::KnockReason::Search]);
    world.nodes[0].consent(true, now);
    world.knock(0);
    world.run_until(ms(2_000), |w| w.nodes.iter().all(|n| n.is_direct()));
}

fn searching(b: halloo_nat::Verdict, seed: u8) -> World {
    let mut world = World::new(home(), b, seed);
    let now = world.now;
    world.nodes.iter_mut().for_each(|n| n.consent(true, now));
    world.meet();
    world
}
