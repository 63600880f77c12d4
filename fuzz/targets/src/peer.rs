//! A target for the core of `rendezvous-peer`: what comes to it in datagrams and requests, in any
//! order.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use halloo_transport::ParkingKey;
use halloo_wire::parked::{Keepalive, ParkedDatagram, Word};
use halloo_wire::peer::{Call, Control, Grant, Knock, Push, Register, Request, Response};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{
    CapabilityToken, ChannelId, DeviceId, EnvelopeId, Fingerprint, InstanceId, Reader, RowId,
    SessionId,
};
use rendezvous_peer::core::{Answer, Caller, ConnId, Core, Limits, Millis, Origin, Outcome, Ring};

/// Steps of one input: enough for every rule to meet every other, and the input ends in time.
const MAX_STEPS: usize = 256;
const INSTANCE: InstanceId = InstanceId([9; 16]);
const CALLEE: Fingerprint = Fingerprint::from_bytes([1; 30]);
/// Addresses from which datagrams come: the two connections', and others.
const PLACES: u8 = 6;

/// Bytes of a challenge. It may be larger than the keep that it answers, whose number is a secret
/// of the two ends.
const CHALLENGE: usize = 19;

/// Datagrams for the peer, relay frames, requests and the passing of time, against a table with a
/// callee, a caller and a channel between them.
///
/// # Panics
/// When a rule is broken: something is sent to an address that has shown nothing, an answer is
/// larger than it may be, or the memory cap is passed.
pub fn peer_core_datagrams(data: &[u8]) {
    let mut world = World::new();
    let mut input = Reader::new(data);
    for _ in 0..MAX_STEPS {
        if world.step(&mut input).is_err() {
            break;
        }
        world.check();
    }
}

struct World {
    core: Core,
    now: Millis,
    session: SessionId,
    /// Numbers under which somebody might send.
    channels: Vec<ChannelId>,
    /// The latest cookies that the peer has sent.
    cookies: Vec<u64>,
    /// The callee's parked registration, and its last counter.
    row: RowId,
    counter: u64,
    /// What rings have been sealed with.
    sealed: BTreeSet<(RowId, u64)>,
}

/// Steps from this number on concern parked registrations.
const PARKED_STEPS: u8 = 0xe0;

fn parking_key(row: RowId) -> ParkingKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&row.0.to_be_bytes());
    ParkingKey::from_bytes(bytes)
}

const AT_CALLEE: ConnId = ConnId(1);
const AT_CALLER: ConnId = ConnId(2);

impl World {
    fn new() -> Self {
        let limits = Limits { memory: 160 << 10, relay_channels: 5, ..Limits::default() };
        let now = Millis(1_000_000);
        let core = Core::new(limits, INSTANCE, [5; 32], now).expect("limits that work");
        let caller = Caller::new(CALLEE, DeviceId::FIRST, &[7; 400]);
        core.welcome(AT_CALLEE, origin(AT_CALLEE), Some(caller), now).expect("there is room");
        core.welcome(AT_CALLER, origin(AT_CALLER), None, now).expect("there is room");
        let channels = vec![ChannelId(0)];
        let session = SessionId([0; 16]);
        let mut it = Self {
            core,
            now,
            session,
            channels,
            cookies: vec![0],
            row: RowId(0),
            counter: 0,
            sealed: BTreeSet::new(),
        };
        let grants = [(1, 40), (2, 40), (3, 0)]
            .map(|(n, len)| Grant { id: token(n).id(), card: vec![n; len] });
        let register = Register {
            device: DeviceId::FIRST,
            counter: 1,
            instance: Some(INSTANCE),
            grants: grants.into(),
            invite: None,
        };
        let Response::Registered(registered) = it.ask(AT_CALLEE, Call::Register(register)).response
        else {
            unreachable!("the first registration is good");
        };
        it.session = registered.session;
        it.knock(1);
        it
    }

    fn step(&mut self, input: &mut Reader<'_>) -> Result<(), halloo_wire::DecodeError> {
        match input.u8()? {
            step @ PARKED_STEPS.. => self.parked_step(step % 4, input),
            step => self.plain_step(step % 8, input),
        }
    }

    /// What concerns parked registrations.
    fn parked_step(
        &mut self,
        step: u8,
        input: &mut Reader<'_>,
    ) -> Result<(), halloo_wire::DecodeError> {
        match step {
            0 => {
                let request = Request { session: Some(self.session), call: Call::Park };
                let at = origin(AT_CALLEE);
                let outcome = self.core.park(AT_CALLEE, at, &request, parking_key, self.now);
                if let Response::Parked(parked) = outcome.response {
                    (self.row, self.counter) = (parked.row, 0);
                }
            }
            1 => {
                let ring = self.core.connection_closed(AT_CALLEE, self.now);
                self.rung(ring.as_slice());
                let rings = self.core.repeat_rings(self.now);
                self.rung(&rings);
            }
            2 => {
                let (source, datagram) = (place(input.u8()?), input.bytes16(200)?);
                let answer = self.core.parked_datagram(source, datagram, self.now);
                assert!(answer.is_none_or(|it| it.len() <= datagram.len()));
            }
            _ => {
                let source = place(input.u8()?);
                let cookie = self.cookies[usize::from(input.u8()?) % self.cookies.len()];
                let (rung, count) = (u32::from(input.u8()?), input.u8()? % 17);
                let taken =
                    (0..count).map(|_| input.u64().map(EnvelopeId)).collect::<Result<_, _>>()?;
                self.counter += u64::from(input.u8()? % 4);
                let key = parking_key(self.row);
                let keepalive = Keepalive { cookie, rung, taken };
                let datagram = key.seal_keepalive(self.row, self.counter, &keepalive);
                let answer = self.core.parked_datagram(source, &datagram, self.now);
                let Some(answer) = answer else { return Ok(()) };
                assert!(answer.len() <= datagram.len(), "an answer is larger than its question");
                let word = match ParkedDatagram::decode(&answer) {
                    Ok(ParkedDatagram::Word(sealed)) => key.open_word(&sealed),
                    _ => return Ok(()),
                };
                if let Ok(Word::Challenge { cookie }) = word {
                    self.cookies.push(cookie);
                }
            }
        }
        Ok(())
    }

    /// Rings go where somebody is, and each counter is used once.
    fn rung(&mut self, rings: &[Ring]) {
        for Ring { to, datagrams } in rings {
            assert!(is_known(*to), "a ring goes where nobody is");
            for datagram in datagrams {
                let Ok(ParkedDatagram::Word(sealed)) = ParkedDatagram::decode(datagram) else {
                    panic!("a ring is a word");
                };
                assert!(self.sealed.insert((sealed.row, sealed.counter)), "a nonce is used twice");
                assert!(parking_key(sealed.row).open_word(&sealed).is_ok());
            }
        }
    }

    fn plain_step(
        &mut self,
        step: u8,
        input: &mut Reader<'_>,
    ) -> Result<(), halloo_wire::DecodeError> {
        match step {
            0 => {
                let (source, channel) = (place(input.u8()?), self.channel(input)?);
                let (bytes, frames) = (usize::from(input.u16()?), usize::from(input.u8()?));
                let relayed = self.core.relay(source, channel, bytes, frames, self.now);
                if let Ok(to) = relayed.to {
                    assert!(is_known(to), "a frame goes where nobody is");
                }
                let reply = |datagram| Answer { from_second: false, to: source, datagram };
                self.take(source, CHALLENGE, relayed.reply.map(reply));
            }
            1 => {
                let (source, second) = (place(input.u8()?), input.u8()? & 1 == 1);
                let datagram = input.bytes16(100)?;
                let answer = self.core.peer_datagram(source, second, datagram, self.now);
                self.take(source, datagram.len().max(CHALLENGE), answer);
            }
            2 => {
                let (source, channel) = (place(input.u8()?), self.channel(input)?);
                let cookie = self.cookies[usize::from(input.u8()?) % self.cookies.len()];
                let datagram = match input.u8()? % 2 {
                    0 => PeerDatagram::RelayAnswer { channel, cookie },
                    _ => PeerDatagram::Keep { channel },
                };
                let answer = self.core.peer_datagram(source, false, &datagram.encode(), self.now);
                self.take(source, CHALLENGE, answer);
            }
            3 => {
                let conn = if input.u8()? & 1 == 0 { AT_CALLEE } else { AT_CALLER };
                let Ok(request) = Request::decode(input.bytes16(u16::MAX.into())?) else {
                    return Ok(());
                };
                self.ask(conn, request.call);
            }
            4 => self.knock(input.u8()? % 4),
            5 => self.now = self.now.after(Duration::from_millis(u64::from(input.u16()?) * 10)),
            6 => {
                self.core.expire(self.now);
            }
            _ => while self.core.next_mail(AT_CALLEE, self.now).is_some() {},
        }
        Ok(())
    }

    fn knock(&mut self, shown: u8) {
        let outcome = self.ask(
            AT_CALLER,
            Call::Knock(Knock {
                to: CALLEE,
                device: DeviceId::FIRST,
                token: token(shown),
                card: vec![8; 40],
                reveal: shown != 2,
                attested: vec![],
                relay: true,
                datagrams: vec![vec![0xc0; 1200]],
                message: None,
            }),
        );
        let Response::Knocked(knocked) = outcome.response else { return };
        if let Some(channel) = knocked.callee.and_then(|callee| callee.channel) {
            self.channels.push(channel);
        }
    }

    /// Asks as the connection may: the callee's shows its session.
    fn ask(&mut self, conn: ConnId, call: Call) -> Outcome {
        let session =
            (conn == AT_CALLEE && !matches!(call, Call::Register(_))).then_some(self.session);
        let outcome = self.core.call(conn, origin(conn), Request { session, call }, self.now);
        let response = &outcome.response;
        assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(response));
        for (_, push) in &outcome.pushes {
            assert_eq!(Push::decode(&push.encode()).as_ref(), Ok(push));
        }
        self.rung(&outcome.rings);
        outcome
    }

    /// Checks an answer to a datagram and learns from it.
    fn take(&mut self, source: SocketAddr, most: usize, answer: Option<Answer>) {
        let Some(Answer { to, datagram, .. }) = answer else { return };
        assert_eq!(to.ip(), source.ip(), "an answer goes back");
        assert!(datagram.encode().len() <= most, "an answer is larger than its question");
        match datagram {
            PeerDatagram::EchoReply { cookie, .. }
            | PeerDatagram::RelayChallenge { cookie, .. } => {
                self.cookies.push(cookie);
            }
            other => panic!("a peer says {other:?}"),
        }
    }

    /// A number that was leased, of either side, or any.
    fn channel(&self, input: &mut Reader<'_>) -> Result<ChannelId, halloo_wire::DecodeError> {
        let n = input.u8()?;
        if n == u8::MAX {
            return Ok(ChannelId(input.u64()?));
        }
        let channel = self.channels[usize::from(n >> 1) % self.channels.len()];
        Ok(if n & 1 == 0 { channel } else { channel.other() })
    }

    fn check(&self) {
        let stats = self.core.stats();
        assert!(stats.memory_used <= stats.memory_cap && stats.channels <= 5);
    }
}

fn place(n: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, n % PLACES, 7), 4000).into()
}

fn is_known(address: SocketAddr) -> bool {
    (0..PLACES).any(|n| place(n) == address)
}

fn origin(conn: ConnId) -> Origin {
    Origin::udp(place(conn.0 as u8))
}

fn token(n: u8) -> CapabilityToken {
    CapabilityToken([n; 32])
}
