//! Arbitrary sequences of leases, frames, moves and refusals against a model of the relay.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::relay::{CHANNEL_COST, LEASE};
use super::*;

const PEOPLE: u8 = 2;
const TOKENS: u8 = 2;

#[derive(Debug, Clone)]
enum Step {
    Lease {
        to: u8,
        token: u8,
    },
    Frame {
        channel: usize,
        callee: bool,
        moved: bool,
    },
    Keep {
        channel: usize,
        callee: bool,
        moved: bool,
    },
    /// Answers the latest challenge, from the address that was challenged or another.
    Answer {
        channel: usize,
        callee: bool,
        honest: bool,
    },
    Grant {
        to: u8,
        token: u8,
    },
    Revoke {
        to: u8,
        token: u8,
    },
    Return(u8),
    Pass(u64),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let channel = 0..8usize;
    let (to, token) = (1..=PEOPLE, 1..=TOKENS);
    let end = (channel, any::<bool>(), any::<bool>());
    prop_oneof![
        4 => (to.clone(), token.clone()).prop_map(|(to, token)| Step::Lease { to, token }),
        8 => end.clone()
            .prop_map(|(channel, callee, moved)| Step::Frame { channel, callee, moved }),
        3 => end.clone().prop_map(|(channel, callee, moved)| Step::Keep { channel, callee, moved }),
        3 => end.prop_map(|(channel, callee, honest)| Step::Answer { channel, callee, honest }),
        2 => (to.clone(), token.clone()).prop_map(|(to, token)| Step::Grant { to, token }),
        1 => (to.clone(), token).prop_map(|(to, token)| Step::Revoke { to, token }),
        1 => to.prop_map(Step::Return),
        2 => prop_oneof![Just(1), Just(40), Just(119), Just(120)].prop_map(Step::Pass),
        1 => Just(Step::Expire),
    ]
}

/// A channel as it should be.
struct Leased {
    number: ChannelId,
    to: u8,
    token: u8,
    /// Addresses of the caller and the callee.
    at: [SocketAddr; 2],
    heard: [Millis; 2],
    challenge: [Option<(SocketAddr, u64)>; 2],
    /// How often an end has moved.
    moves: u64,
    ended: bool,
}

struct Model {
    w: World,
    caller: ConnId,
    /// Connection and session of each person.
    people: BTreeMap<u8, (ConnId, SessionId)>,
    granted: BTreeMap<(u8, u8), bool>,
    channels: Vec<Leased>,
    counter: u64,
}

impl Model {
    fn new() -> Self {
        let mut w = World::with(|l| l.relay_channels = 6);
        let people = (1..=PEOPLE).map(|n| (n, w.reachable(Who(n), &[]))).collect();
        let caller = w.anonymous();
        Self { w, caller, people, granted: BTreeMap::new(), channels: vec![], counter: 1 }
    }

    fn run(&mut self, step: Step) {
        let now = self.w.now;
        match step {
            Step::Lease { to, token } => self.lease(to, token),
            Step::Frame { channel, callee, moved } => self.frame(channel, callee, moved),
            Step::Keep { channel, callee, moved } => {
                let Some((at, number, source)) = self.end(channel, callee, moved) else { return };
                let keep = PeerDatagram::Keep { channel: number }.encode();
                let answer = self.w.core.peer_datagram(source, false, &keep, now);
                assert!(answer.is_none_or(|a| a.to == source));
                self.heard(at, callee, source, answer.map(|a| a.datagram));
            }
            Step::Answer { channel, callee, honest } => {
                let Some((at, number, _)) = self.end(channel, callee, false) else { return };
                let leased = &self.channels[at];
                let side = usize::from(callee);
                let Some((challenged, cookie)) = leased.challenge[side] else { return };
                let mut source = challenged;
                if !honest {
                    source.set_port(9);
                }
                let answer = PeerDatagram::RelayAnswer { channel: number, cookie };
                assert_eq!(self.w.core.peer_datagram(source, false, &answer.encode(), now), None);
                // A cookie lives for one minute to two: within that, the core decides.
                let known: u64 = self.channels.iter().map(|l| l.moves).sum();
                let moved = self.w.core.stats().relay_moves > known;
                assert!(!moved || (honest && self.is_open(at)));
                if moved {
                    let leased = &mut self.channels[at];
                    leased.moves += 1;
                    (leased.at[side], leased.heard[side]) = (source, now);
                }
            }
            Step::Grant { to, token: n } => {
                let grant = Grant { id: token(n).id(), card: vec![n; 10] };
                self.ask(to, Call::Grant(vec![grant]));
                self.granted.insert((to, n), true);
            }
            Step::Revoke { to, token: n } => {
                self.ask(to, Call::Revoke(vec![token(n).id()]));
                self.granted.insert((to, n), false);
                for leased in self.channels.iter_mut().filter(|l| (l.to, l.token) == (to, n)) {
                    leased.ended = true;
                }
            }
            Step::Return(to) => {
                self.counter += 1;
                let (conn, session) = self.people[&to];
                self.w.core.connection_closed(conn, now);
                let (conn, _) = self.w.register(Who(to), self.counter);
                self.people.insert(to, (conn, session));
            }
            Step::Pass(seconds) => self.w.pass(Duration::from_secs(seconds)),
            Step::Expire => {
                self.w.core.expire(now);
            }
        }
    }

    fn lease(&mut self, to: u8, shown: u8) {
        let granted = self.granted.get(&(to, shown)) == Some(&true);
        let Some(number) = self.w.lease(self.caller, Who(to), shown) else {
            let taken = self.w.core.stats().channels;
            return assert!(!granted || taken == 6, "{taken} channels");
        };
        assert!(granted && self.channels.iter().all(|l| l.number != number));
        let holder = |l: &&mut Leased| (l.to, l.token) == (to, shown) && !l.ended;
        let now = self.w.now;
        let mut held: Vec<_> = self.channels.iter_mut().filter(holder).collect();
        held.retain(|l| now.since(l.heard[0].max(l.heard[1])) < LEASE);
        if held.len() == limits::CHANNELS_PER_CAPABILITY {
            let oldest = held.iter_mut().min_by_key(|l| l.heard[0].max(l.heard[1])).unwrap();
            oldest.ended = true;
        }
        self.channels.push(Leased {
            number,
            to,
            token: shown,
            at: [address(self.caller), address(self.people[&to].0)],
            heard: [now; 2],
            challenge: [None; 2],
            moves: 0,
            ended: false,
        });
    }

    fn frame(&mut self, channel: usize, callee: bool, moved: bool) {
        let Some((at, number, source)) = self.end(channel, callee, moved) else { return };
        let now = self.w.now;
        let relayed = self.w.core.relay(source, number, 1209, 1, now);
        let (open, other) = (self.is_open(at), usize::from(!callee));
        let leased = &self.channels[at];
        let expected = if !open {
            Err(RelayDrop::NoChannel)
        } else if now.since(leased.heard[other]) >= LEASE {
            Err(RelayDrop::OtherEndSilent)
        } else {
            Ok(leased.at[other])
        };
        assert_eq!(relayed.to, expected);
        self.heard(at, callee, source, relayed.reply);
    }

    /// What a frame or a keep does to the end that sent it.
    fn heard(&mut self, at: usize, callee: bool, source: SocketAddr, reply: Option<PeerDatagram>) {
        let open = self.is_open(at);
        let now = self.w.now;
        let (leased, side) = (&mut self.channels[at], usize::from(callee));
        let is_the_end = leased.at[side] == source;
        if open && is_the_end {
            leased.heard[side] = now;
        }
        match reply {
            Some(PeerDatagram::RelayChallenge { channel, cookie }) => {
                assert!(open && !is_the_end && channel == number_of(leased, callee));
                leased.challenge[side] = Some((source, cookie));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    /// A channel, one side's number, and an address of that side: its own or another.
    fn end(&self, n: usize, callee: bool, moved: bool) -> Option<(usize, ChannelId, SocketAddr)> {
        let at = n % self.channels.len().max(1);
        let leased = self.channels.get(at)?;
        let mut source = leased.at[usize::from(callee)];
        if moved {
            source.set_port(source.port() + 1);
        }
        Some((at, number_of(leased, callee), source))
    }

    fn is_open(&self, at: usize) -> bool {
        let leased = &self.channels[at];
        !leased.ended && self.w.now.since(leased.heard[0].max(leased.heard[1])) < LEASE
    }

    fn ask(&self, who: u8, call: Call) {
        let (conn, session) = self.people[&who];
        assert_eq!(self.w.ask(conn, Some(session), call), Response::Done);
    }

    fn check(&mut self) {
        // What is over stays over, however late it is swept out.
        for at in 0..self.channels.len() {
            self.channels[at].ended |= !self.is_open(at);
        }
        let open = self.channels.iter().filter(|l| !l.ended).count();
        let stats = self.w.core.stats();
        assert!(stats.channels >= open && stats.channels <= 6);
        let rows: usize = self.w.core.inspect(self.w.now).iter().map(|r| r.memory).sum();
        assert_eq!(stats.memory_used, rows + stats.channels * CHANNEL_COST);
    }
}

fn number_of(leased: &Leased, callee: bool) -> ChannelId {
    if callee { leased.number.other() } else { leased.number }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn frames_go_where_the_rules_say(steps in proptest::collection::vec(step(), 1..100)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
            model.check();
        }
    }
}
