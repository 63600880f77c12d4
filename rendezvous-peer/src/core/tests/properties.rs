//! Arbitrary sequences of calls against a simple model of what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use halloo_wire::peer::Waiting;

/// Small enough for every kind of refusal to happen within a run.
const MEMORY: usize = limits::MIN_MEMORY;
const PEOPLE: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Connect(u8),
    Close(usize),
    Register { conn: usize, counter: u64 },
    Publish { conn: usize, seq: u64, keys: u8 },
    Grant { conn: usize, token: u8, card: usize },
    Revoke { conn: usize, token: u8 },
    Drop { to: u8, token: Option<u8>, strangers: bool },
    Mail(usize),
    Peek(usize),
    Ack { conn: usize, keep: usize },
    LookUp(u8),
    Knock { to: u8, token: u8, message: bool },
    WrongSession(usize),
    Pass(u64),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0..8usize;
    let person = 1..=PEOPLE + 1; // the last one never registers
    let token = 1..4u8;
    prop_oneof![
        3 => (1..=PEOPLE).prop_map(Step::Connect),
        1 => conn.clone().prop_map(Step::Close),
        4 => (conn.clone(), 0..6u64).prop_map(|(conn, counter)| Step::Register { conn, counter }),
        2 => (conn.clone(), 0..4u64, 1..5u8)
            .prop_map(|(conn, seq, keys)| Step::Publish { conn, seq, keys }),
        3 => (conn.clone(), token.clone(), prop_oneof![Just(0), Just(80), Just(512)])
            .prop_map(|(conn, token, card)| Step::Grant { conn, token, card }),
        1 => (conn.clone(), token.clone()).prop_map(|(conn, token)| Step::Revoke { conn, token }),
        8 => (person.clone(), proptest::option::of(token.clone()), any::<bool>())
            .prop_map(|(to, token, strangers)| Step::Drop { to, token, strangers }),
        2 => conn.clone().prop_map(Step::Mail),
        2 => conn.clone().prop_map(Step::Peek),
        2 => (conn.clone(), 0..4usize).prop_map(|(conn, keep)| Step::Ack { conn, keep }),
        2 => person.clone().prop_map(Step::LookUp),
        3 => (person, token, any::<bool>())
            .prop_map(|(to, token, message)| Step::Knock { to, token, message }),
        1 => conn.prop_map(Step::WrongSession),
        1 => prop_oneof![Just(1), Just(3_600), Just(20 * 3_600)].prop_map(Step::Pass),
        1 => Just(Step::Expire),
    ]
}

/// What must be true of one person's row.
#[derive(Default)]
struct Expected {
    session: Option<SessionId>,
    counter: u64,
    present: Option<ConnId>,
    grants: BTreeMap<u8, usize>,
    /// Envelopes accepted, not acknowledged: the unique byte string, and when its time ends.
    waiting: Vec<(Vec<u8>, Millis)>,
    seq: Option<u64>,
    given: BTreeSet<[u8; 32]>,
    seen: BTreeMap<EnvelopeId, Vec<u8>>,
}

struct Model {
    w: World,
    conns: Vec<(ConnId, u8)>,
    anonymous: ConnId,
    people: BTreeMap<u8, Expected>,
    unique: u64,
}

impl Model {
    fn new() -> Self {
        let mut w = World::with(|l| {
            l.memory = MEMORY;
            l.contacts = Quota { envelopes: 12, bytes: 40_000 };
            l.strangers = Quota { envelopes: 3, bytes: 6_000 };
            l.capabilities = 2;
        });
        let anonymous = w.anonymous();
        Self { w, conns: Vec::new(), anonymous, people: BTreeMap::new(), unique: 0 }
    }

    fn person(&mut self, n: u8) -> &mut Expected {
        self.people.entry(n).or_default()
    }

    /// A connection, whose it is, and the session that it may show.
    fn pick(&mut self, n: usize) -> Option<(ConnId, u8, Option<SessionId>)> {
        let &(conn, who) = self.conns.get(n % self.conns.len().max(1))?;
        let session = self.person(who).session;
        Some((conn, who, session))
    }

    fn ask(&self, conn: ConnId, session: Option<SessionId>, call: Call) -> Outcome {
        let outcome = self.w.call(conn, session, call);
        assert!(outcome.response.encode().len() <= Response::LIMIT);
        assert_eq!(Response::decode(&outcome.response.encode()).as_ref(), Ok(&outcome.response));
        outcome
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Connect(who) => {
                let conn = self.w.connect(Some(Who(who)));
                self.conns.push((conn, who));
            }
            Step::Close(n) => {
                let Some((conn, who, _)) = self.pick(n) else { return };
                self.conns.retain(|&(c, _)| c != conn);
                self.w.core.connection_closed(conn, self.w.now);
                let person = self.person(who);
                person.present = person.present.filter(|&c| c != conn);
            }
            Step::Register { conn, counter } => self.register(conn, counter),
            Step::Publish { conn, seq, keys } => self.publish(conn, seq, keys),
            Step::Grant { conn, token: n, card } => {
                let Some((conn, who, Some(session))) = self.pick(conn) else { return };
                let grant = Grant { id: token(n).id(), card: vec![n; card] };
                let outcome = self.ask(conn, Some(session), Call::Grant(vec![grant]));
                let grants = &mut self.person(who).grants;
                match outcome.response {
                    Response::Done => {
                        grants.insert(n, card);
                    }
                    Response::Refused(PeerError::TooManyCapabilities) => {
                        assert!(grants.len() == 2 && !grants.contains_key(&n));
                    }
                    Response::Refused(PeerError::PeerFull) => {}
                    other => panic!("{other:?}"),
                }
            }
            Step::Revoke { conn, token: n } => {
                let Some((conn, who, Some(session))) = self.pick(conn) else { return };
                let revoke = Call::Revoke(vec![token(n).id()]);
                assert_eq!(self.ask(conn, Some(session), revoke).response, Response::Done);
                self.person(who).grants.remove(&n);
            }
            Step::Drop { to, token, strangers } => self.drop_envelope(to, token, strangers),
            Step::Mail(n) => {
                let Some((conn, who, _)) = self.pick(n) else { return };
                match self.w.core.next_mail(conn, self.w.now) {
                    Some(Push::Envelope(waiting)) => {
                        assert_eq!(self.person(who).present, Some(conn));
                        self.check_known(who, &waiting);
                    }
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
            Step::Peek(n) => {
                self.peek(n);
            }
            Step::Ack { conn, keep } => {
                let Some((who, session, page)) = self.peek(conn) else { return };
                let ids: Vec<_> = page.iter().skip(keep).map(|w| w.id).collect();
                let Some((conn, ..)) = self.pick(conn) else { return };
                let outcome = self.ask(conn, Some(session), Call::Ack(ids));
                assert_eq!(outcome.response, Response::Done);
                self.person(who).waiting.truncate(keep);
            }
            Step::LookUp(who) => self.look_up(who),
            Step::Knock { to, token, message } => self.knock(to, token, message),
            Step::WrongSession(n) => {
                let Some((conn, ..)) = self.pick(n) else { return };
                let wrong = Some(SessionId([0xaa; 16]));
                let outcome = self.ask(conn, wrong, Call::Peek { after: None });
                assert_eq!(outcome.response, Response::Refused(PeerError::WrongSession));
                assert_eq!(outcome.close, Some(CloseReason::WrongSession));
            }
            Step::Pass(seconds) => {
                self.w.pass(Duration::from_secs(seconds));
                let now = self.w.now;
                for person in self.people.values_mut() {
                    person.waiting.retain(|(_, expires)| *expires > now);
                }
            }
            Step::Expire => {
                // Nobody stays away for fourteen days here.
                assert_eq!(self.w.expire().registrations, 0);
            }
        }
    }

    fn register(&mut self, conn: usize, counter: u64) {
        let Some((conn, who, _)) = self.pick(conn) else { return };
        let outcome = self.ask(conn, None, World::register_call(counter));
        let person = self.person(who);
        match outcome.response {
            Response::Registered(registered) => {
                assert!(person.session.is_none() || counter > person.counter);
                assert!(person.session.is_none_or(|s| s == registered.session));
                assert_eq!(registered.waiting as usize, person.waiting.len());
                assert_eq!(registered.capabilities as usize, person.grants.len());
                assert_eq!(registered.bundle_seq, person.seq);
                let older = person.present.filter(|&c| c != conn);
                let told = older.map(|c| (c, Push::Superseded)).into_iter().collect::<Vec<_>>();
                assert_eq!(outcome.pushes, told);
                person.session = Some(registered.session);
                person.counter = counter;
                person.present = Some(conn);
            }
            Response::Refused(PeerError::StaleCounter) => {
                assert!(person.session.is_some() && counter <= person.counter);
            }
            Response::Refused(PeerError::PeerFull) => assert!(person.session.is_none()),
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, conn: usize, seq: u64, keys: u8) {
        let Some((conn, who, Some(session))) = self.pick(conn) else { return };
        // One key that every bundle repeats, and others of its own: those given stay given.
        let key = |k: u8| if k == 0 { [who; 32] } else { [who * 50 + seq as u8 * 8 + k; 32] };
        let publication = Publication {
            seq,
            bundle: vec![seq as u8; 1489],
            one_time_keys: (0..keys).map(key).collect(),
        };
        let outcome = self.ask(conn, Some(session), Call::Publish(publication));
        let person = self.person(who);
        match outcome.response {
            Response::Done => {
                assert!(person.seq.is_none_or(|old| old <= seq));
                person.seq = Some(seq);
            }
            Response::Refused(PeerError::StaleBundle) => {
                assert!(person.seq.is_some_and(|old| old >= seq));
            }
            Response::Refused(PeerError::PeerFull) => {}
            other => panic!("{other:?}"),
        }
    }

    fn drop_envelope(&mut self, to: u8, shown: Option<u8>, strangers: bool) {
        let lane = if strangers { Lane::Strangers } else { Lane::Contacts };
        let bytes = self.unique_envelope(lane);
        let call = Call::Drop(DropEnvelope {
            to: Who(to).fingerprint(),
            device: DeviceId::FIRST,
            token: shown.map(token),
            instance: Some(INSTANCE),
            envelope: bytes.clone(),
        });
        let outcome = self.ask(self.anonymous, None, call);
        let expires = self.w.now.after(self.w.core.limits().envelope_ttl);
        let person = self.person(to);
        match outcome.response {
            Response::Dropped(_) => {
                assert!(strangers || shown.is_some_and(|t| person.grants.contains_key(&t)));
                assert_eq!(outcome.mail_for, person.present);
                person.waiting.push((bytes, expires));
            }
            Response::Refused(PeerError::UnknownRecipient { .. }) => {
                assert!(person.session.is_none());
            }
            Response::Refused(PeerError::NotAuthorized) => {
                assert!(!shown.is_some_and(|t| person.grants.contains_key(&t)));
            }
            Response::Refused(PeerError::MailboxFull | PeerError::PeerFull) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Everything accepted and neither acknowledged nor expired is there, in order.
    fn peek(&mut self, n: usize) -> Option<(u8, SessionId, Vec<Waiting>)> {
        let (conn, who, Some(session)) = self.pick(n)? else { return None };
        let page = self.w.peek(conn, session, None);
        let expected: Vec<_> = self.person(who).waiting.iter().map(|(b, _)| b.clone()).collect();
        let there: Vec<_> = page.envelopes.iter().map(|w| w.envelope.clone()).collect();
        assert!(!page.more && there == expected);
        assert!(page.envelopes.is_sorted_by_key(|w| w.id));
        page.envelopes.iter().for_each(|w| self.check_known(who, w));
        Some((who, session, page.envelopes))
    }

    fn check_known(&mut self, who: u8, waiting: &Waiting) {
        let person = self.person(who);
        assert!(person.waiting.iter().any(|(bytes, _)| *bytes == waiting.envelope));
        let first = person.seen.entry(waiting.id).or_insert_with(|| waiting.envelope.clone());
        assert!(*first == waiting.envelope, "an id names one envelope");
    }

    fn look_up(&mut self, who: u8) {
        let found = self.w.look_up(self.anonymous, Who(who));
        let person = self.person(who);
        let Ok(found) = found else { return assert_eq!(person.seq, None) };
        assert_eq!(found.bundle[0], person.seq.unwrap() as u8);
        if let Some(index) = found.one_time_key {
            let key = found.one_time_keys[usize::from(index)];
            assert!(person.given.insert(key), "a one-time key was given twice");
        }
    }

    fn knock(&mut self, to: u8, shown: u8, message: bool) {
        let envelope = self.unique_envelope(Lane::Contacts);
        let message =
            message.then(|| KnockMessage { instance: Some(INSTANCE), envelope: envelope.clone() });
        let knock = Knock { message, ..World::knock(Who(to), shown) };
        let outcome = self.ask(self.anonymous, None, Call::Knock(knock));
        let expires = self.w.now.after(self.w.core.limits().envelope_ttl);
        let person = self.person(to);
        let granted = person.grants.get(&shown).copied();
        let Response::Knocked(Knocked { callee, message }) = outcome.response else { panic!() };
        match message {
            Some(Ok(_)) => {
                assert!(granted.is_some());
                assert_eq!(outcome.mail_for, person.present);
                person.waiting.push((envelope, expires));
            }
            Some(Err(PeerError::UnknownRecipient { .. })) => assert!(person.session.is_none()),
            Some(Err(PeerError::NotAuthorized)) => assert!(granted.is_none()),
            Some(Err(PeerError::MailboxFull | PeerError::PeerFull)) => assert!(granted.is_some()),
            Some(Err(other)) => panic!("{other:?}"),
            None => assert_eq!(outcome.mail_for, None),
        }
        match (person.present, granted.filter(|&len| len > 0)) {
            (Some(conn), Some(len)) => {
                assert_eq!(callee.unwrap().card.len(), len);
                assert!(matches!(outcome.pushes[..], [(c, Push::Knock { .. })] if c == conn));
            }
            _ => assert!(callee.is_none() && outcome.pushes.is_empty()),
        }
    }

    fn unique_envelope(&mut self, lane: Lane) -> Vec<u8> {
        self.unique += 1;
        let mut bytes = envelope(lane, 0);
        let end = bytes.len();
        bytes[end - 8..].copy_from_slice(&self.unique.to_be_bytes());
        bytes
    }

    fn check(&self) {
        let charged: usize = self.w.core.inspect(self.w.now).iter().map(|r| r.memory).sum();
        assert_eq!(self.w.core.memory.used(), charged);
        assert!(charged <= MEMORY);
        let mut rows = 0;
        self.w.core.rows.each(|_, row| {
            assert_eq!(row.charged(), row.cost());
            rows += 1;
        });
        let stats = self.w.core.stats();
        assert_eq!(stats.registrations, rows);
        assert_eq!(stats.connections, self.conns.len() + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_is_asked(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
            model.check();
        }
    }
}

/// Threads that register, drop, acknowledge and close at the same time leave exact accounts.
#[test]
fn parallel_connections_leave_exact_accounts() {
    let core =
        Core::new(Limits { memory: MEMORY, ..Limits::default() }, INSTANCE, [5; 32], Millis(0));
    let core = core.unwrap();
    let next = std::sync::atomic::AtomicU64::new(1);
    std::thread::scope(|s| {
        for thread in 0..4u8 {
            let (core, next) = (&core, &next);
            s.spawn(move || {
                for round in 0..200u64 {
                    one_visit(core, next, Who(1 + (thread + round as u8) % 3), round);
                }
            });
        }
    });
    assert_eq!(core.connections.load(Ordering::Relaxed), 0);
    assert!(core.shares.is_empty());
    core.rows.each(|_, row| assert!(row.presence.is_none()));
    let charged: usize = core.inspect(Millis(0)).iter().map(|r| r.memory).sum();
    assert_eq!(core.memory.used(), charged);
    expire(&core, Millis(u64::MAX));
    assert_eq!((core.memory.used(), core.stats().registrations), (0, 0));
}

fn one_visit(core: &Core, next: &std::sync::atomic::AtomicU64, who: Who, round: u64) {
    let n = next.fetch_add(1, Ordering::Relaxed);
    let (conn, now) = (ConnId(n), Millis(round));
    core.welcome(conn, origin(conn), Some(who.caller()), now).unwrap();
    let ask = |session, call| core.call(conn, origin(conn), Request { session, call }, now);
    if let Response::Registered(r) = ask(None, World::register_call(n)).response {
        for fill in 0..3 {
            ask(None, World::drop_call(Who(1 + (fill % 3)), Lane::Strangers, fill, None));
        }
        while core.next_mail(conn, now).is_some() {}
        if let Response::Page(page) = ask(Some(r.session), Call::Peek { after: None }).response {
            let ids = page.envelopes.iter().map(|w| w.id).collect();
            ask(Some(r.session), Call::Ack(ids));
        }
    }
    core.connection_closed(conn, now);
}
