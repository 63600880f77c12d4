//! Relay channels: who may send what to whom, and for how long.

use super::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Bytes of the frames here, header included.
const FRAME: usize = 1209;

/// A caller and a callee with a channel between them.
struct Pair {
    w: World,
    caller: ConnId,
    callee: ConnId,
    session: SessionId,
    /// The caller's number.
    channel: ChannelId,
}

impl Pair {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut w = World::with(change);
        let (callee, session) = w.reachable(ALICE, &[1, 2]);
        let caller = w.anonymous();
        let channel = w.lease(caller, ALICE, 1).unwrap();
        Self { w, caller, callee, session, channel }
    }

    /// Sends a frame as the caller, from `source`.
    fn call_from(&self, source: SocketAddr) -> Relayed {
        self.w.core.relay(source, self.channel, FRAME, 1, self.w.now)
    }

    fn call(&self) -> Result<SocketAddr, RelayDrop> {
        let relayed = self.call_from(address(self.caller));
        assert_eq!(relayed.reply, None);
        relayed.to
    }

    fn answer(&self) -> Result<SocketAddr, RelayDrop> {
        let from = address(self.callee);
        let relayed = self.w.core.relay(from, self.channel.other(), FRAME, 1, self.w.now);
        assert_eq!(relayed.reply, None);
        relayed.to
    }

    fn send(&self, source: SocketAddr, datagram: PeerDatagram) -> Option<Answer> {
        self.w.core.peer_datagram(source, false, &datagram.encode(), self.w.now)
    }

    fn keep(&self, conn: ConnId, channel: ChannelId) {
        assert_eq!(self.send(address(conn), PeerDatagram::Keep { channel }), None);
    }
}

/// Where the caller's NAT has moved it.
fn elsewhere() -> SocketAddr {
    "198.51.100.99:7777".parse().unwrap()
}

#[test]
fn frames_go_to_the_other_end_both_ways() {
    let p = Pair::new();
    assert_eq!(p.call(), Ok(address(p.callee)));
    assert_eq!(p.answer(), Ok(address(p.caller)));
    let stats = p.w.core.stats();
    assert_eq!((stats.relayed_frames, stats.relayed_bytes), (2, 2 * FRAME as u64));
    assert_eq!((stats.channels, stats.channels_leased), (1, 1));
}

#[test]
fn a_number_that_nobody_has_gets_no_answer() {
    let p = Pair::new();
    let nobody = ChannelId(p.channel.0 ^ 2);
    let relayed = p.w.core.relay(address(p.caller), nobody, FRAME, 3, p.w.now);
    assert_eq!(relayed, Relayed { to: Err(RelayDrop::NoChannel), reply: None });
    assert_eq!(p.send(address(p.caller), PeerDatagram::Keep { channel: nobody }), None);
    assert_eq!(p.w.core.stats().relay_without_channel, 3);
}

#[test]
fn a_moved_end_loses_nothing_and_moves_when_it_answers_the_challenge() {
    let p = Pair::new();
    let relayed = p.call_from(elsewhere());
    assert_eq!(relayed.to, Ok(address(p.callee)), "QUIC knows who it is");
    let Some(PeerDatagram::RelayChallenge { channel, cookie }) = relayed.reply else { panic!() };
    assert_eq!(channel, p.channel);
    assert_eq!(p.answer(), Ok(address(p.caller)), "not before it has answered");

    assert_eq!(p.send(elsewhere(), PeerDatagram::RelayAnswer { channel, cookie }), None);
    assert_eq!(p.answer(), Ok(elsewhere()));
    assert_eq!(p.call_from(elsewhere()).reply, None);
    assert_eq!(p.w.core.stats().relay_moves, 1);
}

#[test]
fn an_idle_end_moves_too() {
    let p = Pair::new();
    let keep = PeerDatagram::Keep { channel: p.channel };
    let Some(Answer { from_second: false, to, datagram }) = p.send(elsewhere(), keep) else {
        panic!("no challenge");
    };
    assert_eq!(to, elsewhere());
    let PeerDatagram::RelayChallenge { channel, cookie } = datagram else { panic!() };
    p.send(elsewhere(), PeerDatagram::RelayAnswer { channel, cookie });
    assert_eq!(p.answer(), Ok(elsewhere()));
}

#[test]
fn an_answer_from_somewhere_else_moves_nothing() {
    let p = Pair::new();
    let Some(PeerDatagram::RelayChallenge { channel, cookie }) = p.call_from(elsewhere()).reply
    else {
        panic!()
    };
    let victim: SocketAddr = "203.0.113.50:53".parse().unwrap();
    let answers = [
        (victim, channel, cookie),
        (elsewhere(), channel.other(), cookie),
        (elsewhere(), channel, cookie ^ 1),
        (elsewhere(), channel, 0),
    ];
    for (source, channel, cookie) in answers {
        assert_eq!(p.send(source, PeerDatagram::RelayAnswer { channel, cookie }), None);
    }
    // An echo's cookie for the same address is no answer to a challenge.
    let echo = p.w.cookie(elsewhere());
    p.send(elsewhere(), PeerDatagram::RelayAnswer { channel, cookie: echo });
    assert_eq!(p.answer(), Ok(address(p.caller)));
    assert_eq!(p.call(), Ok(address(p.callee)));
    assert_eq!(p.w.core.stats().relay_moves, 0);
}

#[test]
fn challenges_are_few_however_many_frames_come() {
    let mut p = Pair::new();
    let challenged = |p: &Pair| p.call_from(elsewhere()).reply.is_some();
    assert!(challenged(&p));
    assert!((0..100).all(|_| !challenged(&p)));
    p.w.pass(Duration::from_millis(100));
    assert!(challenged(&p) && !challenged(&p));
    assert_eq!(p.w.core.stats().relay_challenges, 2);
}

#[test]
fn a_channel_on_which_nobody_is_heard_ends() {
    let mut p = Pair::new();
    p.w.pass(119 * SECOND);
    assert_eq!(p.w.expire().channels, 0);
    p.w.pass(SECOND);
    assert_eq!(p.call(), Err(RelayDrop::NoChannel), "even before it is swept out");
    p.keep(p.caller, p.channel);
    assert_eq!(p.w.expire().channels, 1);
    let stats = p.w.core.stats();
    assert_eq!((stats.channels, stats.channels_silent), (0, 1));
    assert!(p.w.core.relay.is_clear());
    p.w.core.connection_closed(p.callee, p.w.now);
    p.w.pass(15 * 24 * 3600 * SECOND);
    p.w.expire();
    assert_eq!(p.w.core.stats().memory_used, 0);
}

#[test]
fn ends_that_are_kept_stay() {
    let mut p = Pair::new();
    for _ in 0..20 {
        p.w.pass(25 * SECOND);
        p.keep(p.caller, p.channel);
        p.keep(p.callee, p.channel.other());
        p.w.expire();
    }
    assert_eq!(p.call(), Ok(address(p.callee)));
    assert_eq!(p.answer(), Ok(address(p.caller)));
}

#[test]
fn nothing_goes_on_to_an_end_that_is_silent_until_it_is_heard_again() {
    let mut p = Pair::new();
    p.w.pass(60 * SECOND);
    assert_eq!(p.call(), Ok(address(p.callee)));
    p.w.pass(60 * SECOND);
    assert_eq!(p.call(), Err(RelayDrop::OtherEndSilent));
    assert_eq!(p.w.expire().channels, 0, "the caller is there");
    assert_eq!(p.answer(), Ok(address(p.caller)));
    assert_eq!(p.call(), Ok(address(p.callee)));
    assert_eq!(p.w.core.stats().relay_to_silent, 1);
}

#[test]
fn frames_from_an_address_that_is_not_the_ends_do_not_keep_it() {
    let mut p = Pair::new();
    for _ in 0..3 {
        p.w.pass(50 * SECOND);
        p.call_from(elsewhere());
    }
    assert_eq!(p.call(), Err(RelayDrop::NoChannel));
}

#[test]
fn a_capability_that_is_taken_back_ends_its_channels_and_no_other() {
    let p = Pair::new();
    let other = p.w.lease(p.caller, ALICE, 2).unwrap();
    let revoke = Call::Revoke(vec![token(1).id()]);
    assert_eq!(p.w.ask(p.callee, Some(p.session), revoke), Response::Done);
    assert_eq!(p.call(), Err(RelayDrop::NoChannel));
    let relayed = p.w.core.relay(address(p.caller), other, FRAME, 1, p.w.now);
    assert_eq!(relayed.to, Ok(address(p.callee)));
}

#[test]
fn a_card_that_is_replaced_leaves_the_channel_alone() {
    let p = Pair::new();
    let grant = Call::Grant(vec![Grant { id: token(1).id(), card: vec![9; 40] }]);
    assert_eq!(p.w.ask(p.callee, Some(p.session), grant), Response::Done);
    assert_eq!(p.call(), Ok(address(p.callee)));
}

#[test]
fn a_forgotten_registration_takes_its_channels_along() {
    let mut p = Pair::with(|l| l.registration_ttl = 30 * SECOND);
    p.w.core.connection_closed(p.callee, p.w.now);
    p.w.pass(30 * SECOND);
    assert_eq!(p.w.expire().registrations, 1);
    assert_eq!(p.call(), Err(RelayDrop::NoChannel));
    assert!(p.w.core.relay.is_clear());
    assert_eq!(p.w.core.stats().memory_used, 0);
}

#[test]
fn a_contact_that_knocks_again_and_again_holds_four_channels() {
    let mut p = Pair::new();
    let mut channels = vec![p.channel];
    for _ in 1..limits::CHANNELS_PER_CAPABILITY {
        p.w.pass(SECOND);
        channels.push(p.w.lease(p.caller, ALICE, 1).unwrap());
    }
    p.w.pass(SECOND);
    p.keep(p.caller, channels[0]);
    p.w.pass(SECOND);
    channels.push(p.w.lease(p.caller, ALICE, 1).unwrap());
    let open = |channel| p.w.core.relay(address(p.caller), channel, FRAME, 1, p.w.now).to.is_ok();
    let open: Vec<bool> = channels.iter().map(|&c| open(c)).collect();
    assert_eq!(open, [true, false, true, true, true], "the one that was silent the longest went");
    let distinct: std::collections::BTreeSet<u64> = channels.iter().map(|c| c.pair()).collect();
    assert_eq!(distinct.len(), 5);
}

#[test]
fn a_callee_has_a_limit_and_others_have_theirs() {
    let mut p = Pair::with(|l| l.relay_channels_per_callee = 2);
    let (_, _) = p.w.reachable(BOB, &[1]);
    assert!(p.w.lease(p.caller, ALICE, 2).is_some());
    assert_eq!(p.w.lease(p.caller, ALICE, 2), None);
    assert!(p.w.lease(p.caller, BOB, 1).is_some());
    assert_eq!(p.w.core.stats().channels_refused, 1);
    p.w.pass(120 * SECOND);
    assert!(p.w.lease(p.caller, ALICE, 1).is_some(), "room that is free again is found at once");
}

#[test]
fn the_knock_goes_on_when_no_channel_is_free() {
    let mut p = Pair::with(|l| l.relay_channels = 1);
    let (_, _) = p.w.reachable(BOB, &[1]);
    let knock = Knock { relay: true, ..World::knock(BOB, 1) };
    let (knocked, push) = p.w.knock_as(p.caller, knock);
    assert_eq!(knocked.callee.unwrap().channel, None);
    assert!(matches!(push, Some(Push::Knock { channel: None, .. })));
    assert_eq!(p.w.core.stats().channels, 1);
}

#[test]
fn callers_of_one_network_share_a_limit() {
    let mut p = Pair::with(|l| l.relay_channels_per_source = 1);
    assert_eq!(p.w.lease(p.caller, ALICE, 2), None);
    let neighbour = p.w.anonymous();
    assert!(p.w.lease(neighbour, ALICE, 2).is_some(), "every connection here has its own network");
}

#[test]
fn a_peer_without_a_relay_leases_nothing() {
    let mut w = World::with(|l| l.relay_channels = 0);
    w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    assert_eq!(w.lease(caller, ALICE, 1), None);
    assert!(w.core.relay.is_clear());
}

#[test]
fn channels_pay_for_their_memory() {
    let mut w = World::with(|l| l.memory = limits::MIN_MEMORY);
    let people: Vec<Who> = (1..=50).map(Who).collect();
    for &who in &people {
        w.reachable(who, &[1, 2, 3]);
    }
    let caller = w.anonymous();
    let mut leased = 0;
    for &who in &people {
        for shown in 1..=3 {
            leased += usize::from(w.lease(caller, who, shown).is_some());
        }
    }
    assert!(leased > 0 && leased < 150, "{leased}");
    let stats = w.core.stats();
    assert!(stats.memory_used <= limits::MIN_MEMORY);
    assert_eq!((stats.channels, stats.channels_refused as usize), (leased, 150 - leased));
}

#[test]
fn an_end_sends_a_burst_and_then_its_rate_and_the_other_end_is_not_disturbed() {
    let mut p = Pair::with(|l| l.relay_rate = Rate { per_second: 100_000, burst: 100_000 });
    let batch = |p: &Pair, bytes| {
        p.w.core.relay(address(p.caller), p.channel, bytes, bytes.div_ceil(FRAME), p.w.now).to
    };
    assert_eq!(batch(&p, 60_000), Ok(address(p.callee)));
    assert_eq!(batch(&p, 60_000), Err(RelayDrop::OverRate));
    assert_eq!(batch(&p, 40_000), Ok(address(p.callee)));
    assert_eq!(p.answer(), Ok(address(p.caller)));
    p.w.pass(SECOND / 2);
    assert_eq!(batch(&p, 60_000), Err(RelayDrop::OverRate));
    assert_eq!(batch(&p, 50_000), Ok(address(p.callee)));
    assert_eq!(p.w.core.stats().relay_over_rate, 2 * 50);
}

#[test]
fn the_channels_of_one_network_share_a_rate() {
    let p = Pair::with(|l| l.relay_source_rate = Rate { per_second: 100_000, burst: 100_000 });
    let second = p.w.lease(p.caller, ALICE, 2).unwrap();
    let send = |channel| p.w.core.relay(address(p.caller), channel, 60_000, 50, p.w.now).to;
    assert_eq!(send(p.channel), Ok(address(p.callee)));
    assert_eq!(send(second), Err(RelayDrop::OverRate));
}

#[test]
fn a_rate_of_zero_lets_everything_pass() {
    let off = Rate { per_second: 0, burst: 0 };
    let p = Pair::with(|l| (l.relay_rate, l.relay_source_rate) = (off, off));
    assert!((0..10_000).all(|_| p.call().is_ok()));
}

#[test]
fn a_mapped_address_is_the_same_end() {
    let p = Pair::new();
    let SocketAddr::V4(v4) = address(p.caller) else { unreachable!() };
    let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
    assert_eq!(p.call_from(mapped), Relayed { to: Ok(address(p.callee)), reply: None });
}
