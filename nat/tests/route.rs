//! What happens to a conversation when its path gets better, worse, or goes away.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod world;

use std::time::Duration;

use halloo_nat::{
    Allocation, CandidateKind, Dependence, KnockReason, SendOn, Technique, Verdict, WhyRelayed,
    limits,
};
use world::nat::{home, open};
use world::{DELAY, World, ms};

#[test]
fn nothing_is_lost_and_nobody_waits_while_a_path_opens() {
    let world = talking(1);
    for node in &world.nodes {
        assert!(node.longest_silence <= ms(60), "{:?}", node.longest_silence);
        let kinds: Vec<_> = node.routes.iter().map(|(_, to)| kind(*to)).collect();
        assert_eq!(kinds, ["both", "direct"]);
    }
}

#[test]
fn a_path_that_dies_under_traffic_costs_less_than_half_a_second() {
    let mut world = talking(2);
    world.direct_works = [false; 2];
    let died = world.since_start();
    world.run_for(ms(5_000));
    for node in &world.nodes {
        assert!(node.longest_silence < ms(500), "{:?}", node.longest_silence);
        let changes: Vec<_> = node.routes.iter().filter(|(at, _)| *at > died).collect();
        assert_eq!(kind(changes[0].1), "both");
        assert!(changes[0].0 - died <= ms(420), "{:?}", changes[0].0 - died);
        assert_eq!(kind(changes[1].1), "relay");
        assert!(changes[1].0 - died <= ms(1_200), "{:?}", changes[1].0 - died);
        assert_eq!(node.agent.why_relayed(), Some(WhyRelayed::PathLost));
    }
    let knocks: Vec<_> = world.nodes.iter().flat_map(|n| &n.knocks).collect();
    assert!(knocks.contains(&&KnockReason::PathLost), "{knocks:?}");
}

#[test]
fn a_path_that_comes_back_is_used_again() {
    let mut world = talking(3);
    world.direct_works = [false; 2];
    world.run_for(ms(5_000));
    assert!(world.nodes.iter().all(|n| n.is_relayed()));
    world.direct_works = [true; 2];
    world.run_until(ms(16_000), |w| w.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn a_short_hiccup_does_not_demote() {
    let mut world = talking(4);
    world.direct_works = [false; 2];
    world.run_for(ms(600));
    world.direct_works = [true; 2];
    world.run_for(ms(1_000));
    for node in &world.nodes {
        assert!(node.is_direct());
        assert!(node.routes.iter().skip(1).all(|(_, to)| *to != SendOn::Relay));
    }
}

#[test]
fn loss_alone_does_not_demote() {
    let mut world = talking(5);
    world.loss = 100;
    world.run_for(ms(60_000));
    for node in &world.nodes {
        assert!(node.routes.iter().all(|(_, to)| *to != SendOn::Relay), "{:?}", node.routes);
    }
}

#[test]
fn when_one_direction_dies_both_sides_leave_the_path() {
    for dead in [0, 1] {
        let mut world = talking(6);
        world.direct_works[dead] = false;
        world.run_for(ms(10_000));
        for node in &world.nodes {
            assert!(node.is_relayed(), "{dead} cannot send: {:?}", node.routes);
            assert!(node.longest_silence < ms(500), "{dead}: {:?}", node.longest_silence);
        }
    }
}

#[test]
fn a_path_on_which_only_one_side_talks_is_watched_by_both() {
    for talker in [0, 1] {
        let mut world = direct(7);
        let now = world.now;
        world.nodes[talker].talks(ms(20), now);
        world.run_for(ms(1_000));
        world.direct_works[1 - talker] = false;
        world.run_for(ms(2_000));
        assert!(world.nodes[1 - talker].longest_silence < ms(500));
        assert!(world.nodes[talker].is_relayed(), "no acknowledgement comes");
    }
}

#[test]
fn a_rebooted_nat_is_met_at_its_new_port() {
    // Behind an open NAT the other side can be reached from anywhere.
    let mut world = World::new(home(), open(), 8);
    world.meet();
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    let now = world.now;
    world.nodes.iter_mut().for_each(|n| n.talks(ms(20), now));
    world.run_for(ms(1_000));
    let old = world.nodes[1].agent.send_on();
    world.nodes[0].nat.reboot();
    world.run_for(ms(2_000));
    let now = world.nodes[1].agent.send_on();
    assert!(world.nodes.iter().all(|n| n.is_direct()), "{now:?}");
    assert_ne!(old, now);
    assert!(world.nodes.iter().all(|n| n.longest_silence < ms(500)));
}

#[test]
fn two_home_routers_need_a_knock_after_a_reboot() {
    let mut world = talking(9);
    world.nodes[0].nat.reboot();
    world.run_until(ms(3_000), |w| w.nodes.iter().any(|n| !n.knocks.is_empty()));
    world.knock(0);
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    assert!(world.nodes.iter().all(|n| n.longest_silence < ms(500)));
}

#[test]
fn a_new_network_is_answered_at_once() {
    let mut world = talking(10);
    let mut local = world.nodes[0].local.clone();
    local.observed = vec!["203.0.113.99:4000".parse().unwrap()];
    let now = world.now;
    world.nodes[0].agent.local_changed(local, now);
    world.drain(0);
    assert!(matches!(world.nodes[0].agent.send_on(), SendOn::Both(_)));
    assert_eq!(world.nodes[0].knocks, [KnockReason::InterfaceChanged]);
    // The old path still works in this test, so it is used again.
    world.run_until(ms(500), |w| w.nodes[0].is_direct());
}

#[test]
fn a_change_in_pieces_asks_for_a_second_knock_that_carries_them_all() {
    let mut world = talking(13);
    world.direct_works = [false; 2];
    let mut local = world.nodes[0].local.clone();
    for port in 4_000..4_010 {
        local.observed = vec![([203, 0, 113, 99], port).into()];
        let now = world.now;
        world.nodes[0].agent.local_changed(local.clone(), now);
        world.drain(0);
        world.run_for(ms(20));
    }
    let count = |w: &World| {
        let changed = |k: &&KnockReason| **k == KnockReason::InterfaceChanged;
        w.nodes[0].knocks.iter().filter(changed).count()
    };
    assert_eq!(count(&world), 1);
    world.run_for(limits::CHANGES_EACH);
    assert_eq!(count(&world), 2);
    world.run_for(limits::CHANGES_EACH * 5);
    assert_eq!(count(&world), 2);
}

#[test]
fn a_round_that_comes_too_soon_is_probed_as_soon_as_it_may() {
    let mut world = talking(14);
    world.direct_works = [false; 2];
    world.run_for(ms(2_000));
    assert!(world.nodes.iter().all(|n| n.is_relayed()));
    for _ in 0..limits::ROUND_BURST {
        world.knock(0);
    }
    // Nothing of before is of use: only the last round names the right addresses.
    world.direct_works = [true; 2];
    world.nodes.iter_mut().for_each(|n| n.nat.reboot());
    world.knock(0);
    assert!(world.nodes.iter().all(|n| n.agent.stats().rounds_refused > 0));
    world.run_until(limits::ROUND_EACH + ms(500), |w| w.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn a_verdict_that_comes_late_is_told_where_it_helps() {
    for (ours, theirs, knocks) in [(dependent(), home(), 1), (home(), home(), 0)] {
        let mut world = World::new(ours, theirs, 15);
        let mut local = world.nodes[0].local.clone();
        local.verdict = Verdict::default();
        let now = world.now;
        world.nodes[0].agent.local_changed(local.clone(), now);
        world.direct_works = [false; 2];
        world.meet();
        world.run_for(ms(3_000));
        local.verdict = ours;
        let now = world.now;
        world.nodes[0].agent.local_changed(local, now);
        world.drain(0);
        assert_eq!(world.nodes[0].knocks.len(), knocks);
    }
}

fn dependent() -> Verdict {
    let dependence = Dependence::AddressAndPortDependent;
    let allocation = Allocation::Sequential { delta: 1 };
    Verdict { mapping: dependence, filtering: dependence, allocation }
}

#[test]
fn an_unreachable_path_is_left_at_once() {
    let mut world = talking(11);
    let path = world.nodes[0].agent.send_on().direct().unwrap();
    let now = world.now;
    world.nodes[0].agent.send_failed(path, now);
    world.drain(0);
    assert!(world.nodes[0].is_relayed());
    world.run_until(ms(3_000), |w| w.nodes[0].is_direct());
}

#[test]
fn an_idle_path_is_kept_for_a_minute_and_then_left_to_die() {
    let mut world = direct(12);
    let sent = |w: &World| w.nodes[0].agent.stats().probes_sent;
    let before = sent(&world);
    world.run_for(ms(50_000));
    assert!(world.nodes.iter().all(|n| n.is_direct()));
    let pings = sent(&world) - before;
    assert!((3..=4).contains(&pings), "{pings} pings in 50 s");

    world.run_for(ms(30_000));
    for node in &world.nodes {
        assert_eq!(node.agent.why_relayed(), Some(WhyRelayed::Unused));
    }
    let before = sent(&world);
    world.run_for(Duration::from_secs(3_600));
    assert_eq!(sent(&world), before, "nothing is sent for a path that nobody wants");

    let now = world.now;
    world.nodes[0].agent.want(false, now);
    world.drain(0);
    assert_eq!(world.nodes[0].knocks, [KnockReason::Wanted]);
    world.knock(0);
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn a_path_in_use_is_not_left_to_die() {
    let mut world = direct(13);
    let now = world.now;
    world.nodes[1].talks(ms(20_000), now);
    world.run_for(Duration::from_secs(600));
    assert!(world.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn a_keepalive_that_is_not_answered_is_no_reason_to_leave_for_a_few_seconds() {
    let mut world = direct(14);
    let now = world.now;
    world.nodes[0].talks(ms(40_000), now);
    world.run_for(ms(2_000));
    world.direct_works = [false; 2];
    // The next ping of a quiet path is unanswered, and so is it for two seconds more.
    world.run_until(ms(20_000), |w| w.nodes.iter().any(|n| !n.is_direct()));
    world.run_for(ms(1_500));
    assert!(world.nodes.iter().all(|n| !n.is_relayed()), "used beside the relay");
    world.direct_works = [true; 2];
    world.run_until(ms(4_000), |w| w.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn simultaneous_knocks_make_two_rounds_that_both_understand() {
    let mut world = World::new(home(), home(), 15);
    world.knock(0);
    world.run_for(ms(10));
    world.knock(1);
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    assert!(world.nodes.iter().all(|n| n.agent.receive_ids().len() <= limits::MAX_ROUNDS));
}

#[test]
fn a_path_survives_a_knock_of_which_the_other_side_does_not_hear() {
    let mut world = talking(16);
    let keys = halloo_nat::PunchKeys::derive(
        &[9; 32],
        &halloo_wire::RoundId([77; 16]),
        halloo_nat::Role::Caller,
    );
    let now = world.now;
    world.nodes[0].agent.begin_round(halloo_nat::Role::Caller, keys, now);
    world.run_for(ms(60_000));
    for node in &world.nodes {
        assert!(node.is_direct());
        assert!(node.routes.iter().skip(2).all(|(_, to)| *to != SendOn::Relay));
    }
}

#[test]
fn the_path_outlives_the_rounds_after_it() {
    let mut world = talking(17);
    for _ in 0..6 {
        world.run_for(ms(6_000));
        world.knock(1);
    }
    world.run_for(ms(2_000));
    for node in &world.nodes {
        assert!(node.is_direct());
        assert!(node.routes.iter().all(|(_, to)| *to != SendOn::Relay), "{:?}", node.routes);
        assert_eq!(node.agent.receive_ids().len(), limits::MAX_ROUNDS);
    }
}

#[test]
fn a_mapped_port_is_named_as_such() {
    let mut world = World::new(home(), open(), 18);
    let observed = world.nodes[1].observed().to_string();
    world.nodes[1].candidate(CandidateKind::Mapped, &observed);
    world.meet();
    world.run_until(ms(1_000), |w| w.nodes[0].is_direct());
    assert_eq!(world.nodes[0].agent.technique(), Some(Technique::Mapped));
}

#[test]
fn pauses_become_shorter_where_a_pause_killed_the_path() {
    let mut world = direct(19);
    let now = world.now;
    world.nodes.iter_mut().for_each(|n| n.talks(ms(30_000), now));
    world.run_for(ms(8_000));
    world.nodes[0].nat.reboot();
    world.run_until(ms(30_000), |w| w.nodes.iter().all(|n| n.is_relayed()));
    world.knock(0);
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    world.nodes.iter_mut().for_each(|n| n.talks_every = None);
    let before = world.nodes[0].agent.stats().probes_sent;
    world.run_for(ms(45_000));
    let pings = world.nodes[0].agent.stats().probes_sent - before;
    assert!(pings >= 5, "{pings} pings in 45 s are more than one each 15 s");
}

#[test]
fn a_contact_that_says_by_relay_that_it_hears_nothing_is_believed() {
    // Only node 0 talks, and its datagrams are lost; node 1 notices nothing by itself.
    let mut world = talking(20);
    world.direct_works[0] = false;
    world.run_until(ms(600), |w| !w.nodes[0].is_direct());
    world.direct_works[0] = true;
    world.run_until(ms(2_000), |w| w.nodes.iter().all(|n| n.is_direct()));
}

#[test]
fn the_path_in_the_local_network_is_preferred() {
    // One host with two ways to it: the second is made shorter by what the test says of it.
    let mut world = World::new(open(), open(), 21);
    let observed = world.nodes[1].observed();
    world.nodes[0].agent.add_lan(observed, world.now);
    world.drain(0);
    assert!(world.nodes[0].sent_to.is_empty(), "an address in the internet is not local");
    let mut local = world.nodes[0].local.clone();
    local.ips = vec!["10.0.0.2".parse().unwrap()];
    let now = world.now;
    world.nodes[0].agent.local_changed(local, now);
    world.nodes[0].agent.add_lan("10.0.0.3:5000".parse().unwrap(), now);
    world.run_for(ms(2_000));
    let sent: Vec<_> = world.nodes[0].sent_to.values().collect();
    assert_eq!(sent, [&7], "a whole schedule, without a knock");
}

/// Both sides talk every 20 ms, and are direct.
fn talking(seed: u8) -> World {
    let mut world = World::new(home(), home(), seed);
    let now = world.now;
    world.nodes.iter_mut().for_each(|n| n.talks(ms(20), now));
    world.meet();
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    world.run_for(ms(2_000));
    assert!(world.nodes.iter().all(|n| n.is_direct() && n.agent.rtt() == Some(DELAY * 2)));
    world
}

fn direct(seed: u8) -> World {
    let mut world = World::new(home(), home(), seed);
    world.meet();
    world.run_until(ms(1_000), |w| w.nodes.iter().all(|n| n.is_direct()));
    world
}

fn kind(to: SendOn) -> &'static str {
    match to {
        SendOn::Relay => "relay",
        SendOn::Both(_) => "both",
        SendOn::Direct(_) => "direct",
    }
}
