//! Devices that hold no connection, and are rung.

use std::time::Duration;

use halloo_transport::ParkingKey;
use halloo_wire::parked::{Keepalive, ParkedDatagram, RING_BYTES, RingPart, Sealed, Word};
use halloo_wire::peer::{Parked, Waiting};
use halloo_wire::{EnvelopeId, RowId};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ELSEWHERE: &str = "198.51.100.9:5000";

fn key(row: RowId) -> ParkingKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&row.0.to_be_bytes());
    ParkingKey::from_bytes(bytes)
}

/// A device that has parked, as it sees itself.
struct Device {
    row: RowId,
    home: SocketAddr,
    counter: u64,
}

impl Device {
    /// Registers, grants `token(n)` for each of `tokens`, parks, and closes the connection.
    fn park(w: &mut World, who: Who, tokens: &[u8]) -> Self {
        let (conn, session) = w.reachable(who, tokens);
        let device = Self::ask_to_park(w, conn, session).unwrap();
        assert_eq!(w.core.connection_closed(conn, w.now), None);
        device
    }

    fn ask_to_park(w: &World, conn: ConnId, session: SessionId) -> Result<Self, PeerError> {
        let request = Request { session: Some(session), call: Call::Park };
        let outcome = w.core.park(conn, origin(conn), &request, key, w.now);
        assert!(outcome.pushes.is_empty() && outcome.rings.is_empty());
        match outcome.response {
            Response::Parked(Parked { row, silence_s }) => {
                assert_eq!(Duration::from_secs(silence_s.into()), w.core.limits().parked_silence);
                Ok(Self { row, home: address(conn), counter: 0 })
            }
            Response::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn seal(&mut self, keepalive: &Keepalive) -> Vec<u8> {
        self.counter += 1;
        key(self.row).seal_keepalive(self.row, self.counter, keepalive)
    }

    fn open(&self, datagram: &[u8]) -> Word {
        match ParkedDatagram::decode(datagram).unwrap() {
            ParkedDatagram::Word(sealed) => key(self.row).open_word(&sealed).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Says something from home; returns what is answered.
    fn say(&mut self, w: &World, rung: u32, taken: &[EnvelopeId]) -> Word {
        let datagram = self.seal(&Keepalive { cookie: 0, rung, taken: taken.to_vec() });
        let answer = w.core.parked_datagram(self.home, &datagram, w.now).unwrap();
        assert!(answer.len() <= datagram.len(), "more comes back than was sent");
        self.open(&answer)
    }

    fn heard(&self, waiting: u16) -> Word {
        Word::Heard { counter: self.counter, waiting }
    }

    /// What a ring brings: its number, what it says that waits, and the push if there is one.
    fn take(&self, ring: &Ring) -> (u32, u16, Option<Push>) {
        assert_eq!(ring.to, self.home);
        let (mut bytes, mut seen) = (Vec::new(), None);
        for (place, datagram) in (0..).zip(&ring.datagrams) {
            let Word::Ring { number, waiting, part } = self.open(datagram) else {
                panic!("a ring rings")
            };
            assert_eq!(part.part, place);
            assert_eq!(usize::from(part.parts.max(1)), ring.datagrams.len());
            assert_eq!(*seen.get_or_insert((number, waiting)), (number, waiting));
            bytes.extend(part.bytes);
        }
        let (number, waiting) = seen.unwrap();
        (number, waiting, (!bytes.is_empty()).then(|| Push::decode(&bytes).unwrap()))
    }
}

/// Leaves an envelope for somebody and returns the ring that this makes.
fn drop_for(w: &mut World, to: Who, fill: u8, shown: u8) -> Option<Ring> {
    let stranger = w.anonymous();
    let call = World::drop_call(to, Lane::Contacts, fill, Some(shown));
    let mut outcome = w.call(stranger, None, call);
    assert!(matches!(outcome.response, Response::Dropped(_)), "{:?}", outcome.response);
    assert_eq!((outcome.pushes.len(), outcome.mail_for), (0, None));
    assert!(outcome.rings.len() <= 1);
    outcome.rings.pop()
}

fn envelope_in(push: Option<Push>) -> Waiting {
    match push {
        Some(Push::Envelope(waiting)) => waiting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_parked_device_is_rung_with_the_envelope_and_needs_no_connection_to_take_it() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    assert_eq!(bob.say(&w, 0, &[]), bob.heard(0));

    let ring = drop_for(&mut w, BOB, 7, 1).unwrap();
    assert_eq!(ring.datagrams.len(), 2, "the smallest envelope has 2,171 bytes");
    let (number, waiting, push) = bob.take(&ring);
    let rung = envelope_in(push);
    assert_eq!((number, waiting, &rung.envelope), (1, 1, &envelope(Lane::Contacts, 7)));

    assert_eq!(bob.say(&w, 1, &[rung.id]), bob.heard(0));
    w.pass(10 * SECOND);
    assert_eq!(w.core.repeat_rings(w.now), []);
    let stats = w.core.stats();
    assert_eq!((stats.acknowledged, stats.rings, stats.rings_repeated), (1, 1, 0));
    assert_eq!((stats.connections, stats.registrations), (1, 1), "the stranger's connection");
}

#[test]
fn when_several_things_wait_the_device_has_to_come() {
    let mut w = World::new();
    let bob = Device::park(&mut w, BOB, &[1]);
    drop_for(&mut w, BOB, 1, 1).unwrap();
    let ring = drop_for(&mut w, BOB, 2, 1).unwrap();
    assert_eq!(bob.take(&ring), (2, 2, None));
    // What has come meanwhile is there when it comes.
    let (conn, registered) = w.register(BOB, 2);
    assert_eq!(registered.waiting, 2);
    assert_eq!(w.peek(conn, registered.session, None).envelopes.len(), 2);
    w.pass(10 * SECOND);
    assert_eq!(w.core.repeat_rings(w.now), [], "it is here");
}

#[test]
fn a_ring_that_nothing_answers_is_repeated_three_times() {
    let mut w = World::new();
    let bob = Device::park(&mut w, BOB, &[1]);
    assert_eq!(w.core.next_repeat(), None);
    drop_for(&mut w, BOB, 7, 1).unwrap();
    let mut at = w.now;
    for wait in [500, 1_000, 2_500] {
        let due = at.after(Duration::from_millis(wait));
        assert_eq!(w.core.next_repeat(), Some(due));
        w.now = Millis(due.0 - 1);
        assert_eq!(w.core.repeat_rings(w.now), []);
        w.now = due;
        let [ring] = &w.core.repeat_rings(w.now)[..] else { panic!("one is due") };
        let (number, waiting, push) = bob.take(ring);
        assert_eq!((number, waiting), (1, 1));
        assert_eq!(envelope_in(push).envelope, envelope(Lane::Contacts, 7));
        at = due;
    }
    assert_eq!(w.core.next_repeat(), None);
    assert_eq!((w.core.stats().rings, w.core.stats().rings_repeated), (1, 3));
}

#[test]
fn what_came_while_the_connection_closed_rings_at_once() {
    let mut w = World::new();
    let (conn, session) = w.reachable(BOB, &[1]);
    let bob = Device::ask_to_park(&w, conn, session).unwrap();
    let stranger = w.anonymous();
    let outcome = w.call(stranger, None, World::drop_call(BOB, Lane::Contacts, 7, Some(1)));
    assert_eq!((outcome.mail_for, outcome.rings.len()), (Some(conn), 0));
    let ring = w.core.connection_closed(conn, w.now).unwrap();
    assert_eq!(bob.take(&ring).1, 1);
}

#[test]
fn at_another_address_it_has_to_answer_a_challenge() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    let elsewhere: SocketAddr = ELSEWHERE.parse().unwrap();
    let first = bob.seal(&Keepalive { cookie: 0, rung: 0, taken: vec![] });
    let answer = w.core.parked_datagram(elsewhere, &first, w.now).unwrap();
    assert!(answer.len() <= first.len());
    let Word::Challenge { cookie } = bob.open(&answer) else { panic!("challenged") };
    // Whoever has copied it gets nothing for it.
    assert_eq!(w.core.parked_datagram(elsewhere, &first, w.now), None);
    let home = bob.home;
    assert_eq!(drop_for(&mut w, BOB, 1, 1).unwrap().to, home);

    let good = bob.seal(&Keepalive { cookie, rung: 0, taken: vec![] });
    let third: SocketAddr = "198.51.100.10:5000".parse().unwrap();
    let stolen = w.core.parked_datagram(third, &good, w.now).unwrap();
    assert!(matches!(bob.open(&stolen), Word::Challenge { .. }), "a cookie is for one address");

    let good = bob.seal(&Keepalive { cookie, rung: 0, taken: vec![] });
    let answer = w.core.parked_datagram(elsewhere, &good, w.now).unwrap();
    assert_eq!(bob.open(&answer), bob.heard(1));
    bob.home = elsewhere;
    assert_eq!(bob.take(&drop_for(&mut w, BOB, 2, 1).unwrap()).1, 2);
    let stats = w.core.stats();
    assert_eq!((stats.parked_challenges, stats.parked_moves), (2, 1));
}

#[test]
fn noise_forgeries_and_repetitions_change_nothing_and_are_not_answered() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    let good = bob.seal(&Keepalive { cookie: 0, rung: 0, taken: vec![] });
    assert!(w.core.parked_datagram(bob.home, &good, w.now).is_some());
    let ignored = w.core.stats().datagrams_ignored;
    let mut forged = bob.seal(&Keepalive { cookie: 0, rung: 9, taken: vec![EnvelopeId(1)] });
    let end = forged.len() - 1;
    forged[end] ^= 1;
    let own_word = key(bob.row).seal_word(bob.row, 100, &Word::Challenge { cookie: 1 });
    for datagram in [&good[..], &forged, &own_word, &good[..40], &[7, 1], &[7], &[]] {
        assert_eq!(w.core.parked_datagram(bob.home, datagram, w.now), None);
    }
    assert_eq!(w.core.stats().datagrams_ignored, ignored + 7);
    // A forged counter has not been taken for the last.
    assert_eq!(bob.say(&w, 0, &[]), bob.heard(0));
}

#[test]
fn a_herd_comes_back_in_single_file_and_only_after_a_restart() {
    let mut w = World::with(|l| {
        l.return_rate = 10;
        l.echo_rate = Rate { per_second: 1_000, burst: 10_000 };
    });
    let asks = |w: &World, n: u64| {
        let row = RowId(0x0102_0304_0000_0000 + n);
        let datagram =
            key(row).seal_keepalive(row, n, &Keepalive { cookie: 0, rung: 0, taken: vec![] });
        let answer = w.core.parked_datagram(address(ConnId(n)), &datagram, w.now).unwrap();
        assert!(answer.len() <= datagram.len());
        match ParkedDatagram::decode(&answer).unwrap() {
            ParkedDatagram::Unknown { row: r, counter, retry_after_ms } => {
                assert_eq!((r, counter), (row, n));
                retry_after_ms
            }
            other => panic!("{other:?}"),
        }
    };
    let first: Vec<_> = (0..5).map(|n| asks(&w, n)).collect();
    assert_eq!(first, [100, 200, 300, 400, 500]);
    w.pass(SECOND);
    assert_eq!(asks(&w, 5), 100, "all of them have come");
    let last = (0..3_000).map(|n| asks(&w, n)).max();
    assert_eq!(last, Some(120_000), "nobody waits for longer");
    w.pass(700 * SECOND);
    assert_eq!(asks(&w, 1), 0);
}

#[test]
fn a_row_that_was_parked_again_has_another_number() {
    let mut w = World::new();
    let mut old = Device::park(&mut w, BOB, &[1]);
    let (conn, registered) = w.register(BOB, 2);
    let mut bob = Device::ask_to_park(&w, conn, registered.session).unwrap();
    assert_ne!(old.row, bob.row);
    let late = old.seal(&Keepalive { cookie: 0, rung: 0, taken: vec![] });
    let answer = w.core.parked_datagram(old.home, &late, w.now).unwrap();
    assert!(matches!(ParkedDatagram::decode(&answer), Ok(ParkedDatagram::Unknown { .. })));
    assert_eq!(bob.say(&w, 0, &[]), bob.heard(0));
    // Parked twice on the same connection: the first number is over.
    let again = Device::ask_to_park(&w, conn, registered.session).unwrap();
    assert_ne!(again.row, bob.row);
    assert_eq!(w.core.inspect(w.now)[0].memory, w.core.memory.used());
}

#[test]
fn a_knock_rings_and_is_repeated_until_it_is_heard() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    let caller = w.anonymous();
    let quic = vec![0xc0; 1_200];
    let knock = Knock { datagrams: vec![quic.clone(), quic], ..World::knock(BOB, 1) };
    let outcome = w.call(caller, None, Call::Knock(knock));
    let Response::Knocked(Knocked { callee: Some(callee), .. }) = outcome.response else {
        panic!("{:?}", outcome.response)
    };
    assert_eq!(callee.observed, [bob.home]);
    let [ring] = &outcome.rings[..] else { panic!("one ring") };
    let (number, waiting, push) = bob.take(ring);
    assert_eq!((number, waiting), (1, 0));
    let Some(Push::Knock { observed, datagrams, .. }) = &push else { panic!("{push:?}") };
    assert_eq!((&observed[..], datagrams.len()), (&[address(caller)][..], 2));
    w.pass(SECOND);
    let repeated = w.core.repeat_rings(w.now);
    assert_eq!(bob.take(&repeated[0]), (1, 0, push));
    assert_eq!(w.core.inspect(w.now)[0].memory, w.core.memory.used());
    assert_eq!(bob.say(&w, 1, &[]), bob.heard(0));
    w.pass(10 * SECOND);
    assert_eq!(w.core.repeat_rings(w.now), []);
    assert_eq!(w.core.inspect(w.now)[0].memory, w.core.memory.used());
}

#[test]
fn a_knock_that_was_not_heard_is_there_when_the_device_comes() {
    let mut w = World::new();
    let _bob = Device::park(&mut w, BOB, &[1]);
    let caller = w.anonymous();
    // Too much for one ring: the beginning of the connection is left out.
    let quic = vec![vec![0xc0; 1_400]; 4];
    assert!(quic.concat().len() > 4 * RING_BYTES);
    w.call(caller, None, Call::Knock(Knock { datagrams: quic, ..World::knock(BOB, 1) }));
    let conn = w.connect(Some(BOB));
    let outcome = w.call(conn, None, World::register_call(2));
    let [(to, Push::Knock { datagrams, .. })] = &outcome.pushes[..] else {
        panic!("{:?}", outcome.pushes)
    };
    assert_eq!((*to, datagrams.len()), (conn, 0));
}

#[test]
fn who_is_silent_for_too_long_is_away() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    w.pass(599 * SECOND);
    assert!(drop_for(&mut w, BOB, 1, 1).is_some());
    w.pass(SECOND);
    assert_eq!(drop_for(&mut w, BOB, 2, 1), None);
    assert_eq!(w.core.repeat_rings(w.now), []);
    let caller = w.anonymous();
    assert_eq!(w.ask(caller, None, World::knock_call(BOB, 1)), nobody());
    // As long as the row is there, it may come back.
    assert_eq!(bob.say(&w, 0, &[]), bob.heard(2));
    assert!(drop_for(&mut w, BOB, 3, 1).is_some());
    w.pass(600 * SECOND);
    w.expire();
    let late = bob.seal(&Keepalive { cookie: 0, rung: 0, taken: vec![] });
    let answer = w.core.parked_datagram(bob.home, &late, w.now).unwrap();
    assert!(matches!(ParkedDatagram::decode(&answer), Ok(ParkedDatagram::Unknown { .. })));
    assert_eq!(w.core.inspect(w.now)[0].memory, w.core.memory.used());
}

#[test]
fn parking_needs_a_registration_over_udp() {
    let mut w = World::new();
    let (conn, session) = w.reachable(BOB, &[1]);
    let other = w.connect(Some(BOB));
    let park = |conn, session, seen| {
        let request = Request { session, call: Call::Park };
        w.core.park(conn, seen, &request, key, w.now).response
    };
    let refused = Response::Refused;
    assert_eq!(park(conn, None, origin(conn)), refused(PeerError::NotRegistered));
    let wrong = Some(SessionId([1; 16]));
    assert_eq!(park(conn, wrong, origin(conn)), refused(PeerError::WrongSession));
    assert_eq!(park(other, Some(session), origin(other)), refused(PeerError::NotRegistered));
    let by_call = w.ask(conn, Some(session), Call::Park);
    assert_eq!(by_call, refused(PeerError::Malformed), "the connection's key is needed");

    let tunnelled = ConnId(500);
    let tunnel = Origin::tunnel(address(tunnelled), "127.0.0.9:1".parse().unwrap());
    w.core.welcome(tunnelled, tunnel, Some(ALICE.caller()), w.now).unwrap();
    let register = Request { session: None, call: World::register_call(1) };
    let Response::Registered(it) = w.core.call(tunnelled, tunnel, register, w.now).response else {
        panic!("not registered")
    };
    let request = Request { session: Some(it.session), call: Call::Park };
    let answer = w.core.park(tunnelled, tunnel, &request, key, w.now).response;
    assert_eq!(answer, refused(PeerError::NotAuthorized));
    w.core.drain(w.now);
    assert_eq!(Device::ask_to_park(&w, conn, session).err(), Some(PeerError::Draining));
}

#[test]
fn a_stopping_peer_tells_parked_devices_when_to_come_back() {
    let mut w = World::with(|l| l.return_rate = 4);
    let devices: Vec<_> = [ALICE, BOB].map(|who| Device::park(&mut w, who, &[])).into();
    let (_, rings) = w.core.drain(w.now);
    let mut waits: Vec<u32> = rings
        .iter()
        .map(|ring| {
            let device = devices.iter().find(|it| it.home == ring.to).unwrap();
            match device.open(&ring.datagrams[0]) {
                Word::Draining { retry_after_ms } => retry_after_ms,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    waits.sort_unstable();
    assert_eq!(waits, [250, 500]);
}

#[test]
fn counters_never_repeat_whatever_is_said() {
    let mut w = World::new();
    let mut bob = Device::park(&mut w, BOB, &[1]);
    let mut seen = std::collections::BTreeSet::new();
    let mut note = |datagrams: &[Vec<u8>]| {
        for datagram in datagrams {
            let Ok(ParkedDatagram::Word(Sealed { counter, .. })) = ParkedDatagram::decode(datagram)
            else {
                panic!("a word")
            };
            assert!(seen.insert(counter), "a nonce is used twice");
        }
    };
    for fill in 0..3 {
        note(&drop_for(&mut w, BOB, fill, 1).unwrap().datagrams);
        w.pass(SECOND);
        w.core.repeat_rings(w.now).iter().for_each(|ring| note(&ring.datagrams));
        let keepalive = bob.seal(&Keepalive { cookie: 0, rung: 0, taken: vec![] });
        note(&[w.core.parked_datagram(bob.home, &keepalive, w.now).unwrap()]);
    }
    assert!(seen.len() >= 9);
    assert_eq!(RingPart::NOTHING.parts, 0);
}
