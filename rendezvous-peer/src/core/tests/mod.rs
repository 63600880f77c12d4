//! The rules of the table, told as stories.

#![allow(clippy::unwrap_used)]

mod access;
mod echo;
mod knocks;
mod mail;
mod parking;
mod properties;
mod reach;
mod refusals;
mod registration;
mod relay;
mod relay_rules;

use super::*;
use halloo_wire::envelope::{HEADER_LEN, Header, KEM_CT_LEN, Lane, NOISE_OVERHEAD};
use halloo_wire::peer::{
    Attested, Call, Callee, Control, DropEnvelope, Found, Grant, Knock, KnockMessage, Knocked,
    LookUp, Page, Publication, Receipt, Register, Registered,
};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use halloo_wire::{CapabilityToken, ChannelId, EnvelopeId, SessionId};

pub(super) const INSTANCE: InstanceId = InstanceId([9; 16]);

/// A table with people around it.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Millis,
    next_conn: u64,
}

/// A person's device: all of them are the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(pub(super) u8);

pub(super) const ALICE: Who = Who(1);
pub(super) const BOB: Who = Who(2);

impl Who {
    pub(super) fn fingerprint(self) -> Fingerprint {
        Fingerprint::from_bytes([self.0; 30])
    }

    fn caller(self) -> Caller {
        Caller::new(self.fingerprint(), DeviceId::FIRST, &[self.0; 400])
    }
}

/// An address in a network of its own for each connection.
pub(super) fn address(conn: ConnId) -> SocketAddr {
    SocketAddr::from(([192, (conn.0 >> 8) as u8, conn.0 as u8, 7], 4000))
}

/// The connection comes from its address.
pub(super) fn origin(conn: ConnId) -> Origin {
    Origin::udp(address(conn))
}

/// Bytes that a peer takes for an envelope.
pub(super) fn envelope(lane: Lane, fill: u8) -> Vec<u8> {
    let mut out = Header { lane, key_id: 1 }.encode().to_vec();
    out.resize(HEADER_LEN + KEM_CT_LEN + NOISE_OVERHEAD + 1024, fill);
    out
}

pub(super) fn token(n: u8) -> CapabilityToken {
    CapabilityToken([n; 32])
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let now = Millis(1_000_000);
        Self { core: Core::new(limits, INSTANCE, [5; 32], now).unwrap(), now, next_conn: 0 }
    }

    pub(super) fn pass(&mut self, span: std::time::Duration) {
        self.now = self.now.after(span);
    }

    /// Forgets everything that has had its time.
    pub(super) fn expire(&self) -> Expired {
        expire(&self.core, self.now)
    }

    pub(super) fn anonymous(&mut self) -> ConnId {
        self.connect(None)
    }

    pub(super) fn connect(&mut self, who: Option<Who>) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let welcome = self.core.welcome(conn, origin(conn), who.map(Who::caller), self.now);
        let expected =
            Push::Welcome { instance: INSTANCE, observed: address(conn), echo_port: None };
        assert_eq!(welcome, Ok(expected));
        conn
    }

    pub(super) fn call(&self, conn: ConnId, session: Option<SessionId>, call: Call) -> Outcome {
        self.core.call(conn, origin(conn), Request { session, call }, self.now)
    }

    /// A call whose answer is all that it does.
    pub(super) fn ask(&self, conn: ConnId, session: Option<SessionId>, call: Call) -> Response {
        let outcome = self.call(conn, session, call);
        assert_eq!((&outcome.pushes, outcome.mail_for, outcome.close), (&vec![], None, None));
        outcome.response
    }

    pub(super) fn register_call(counter: u64) -> Call {
        Call::Register(Register {
            device: DeviceId::FIRST,
            counter,
            instance: Some(INSTANCE),
            grants: Vec::new(),
            invite: None,
        })
    }

    pub(super) fn register(&mut self, who: Who, counter: u64) -> (ConnId, Registered) {
        let conn = self.connect(Some(who));
        match self.call(conn, None, Self::register_call(counter)).response {
            Response::Registered(r) => (conn, r),
            other => panic!("not registered: {other:?}"),
        }
    }

    /// Registers, and grants `token(n)` for each of `tokens` with a card of that byte.
    pub(super) fn reachable(&mut self, who: Who, tokens: &[u8]) -> (ConnId, SessionId) {
        let (conn, registered) = self.register(who, 1);
        let grants = tokens.iter().map(|&n| Grant { id: token(n).id(), card: vec![n; 50] });
        let grant = Call::Grant(grants.collect());
        assert_eq!(self.ask(conn, Some(registered.session), grant), Response::Done);
        (conn, registered.session)
    }

    pub(super) fn drop_call(to: Who, lane: Lane, fill: u8, shown: Option<u8>) -> Call {
        Call::Drop(DropEnvelope {
            to: to.fingerprint(),
            device: DeviceId::FIRST,
            token: shown.map(token),
            instance: None,
            envelope: envelope(lane, fill),
        })
    }

    pub(super) fn knock_call(to: Who, shown: u8) -> Call {
        Call::Knock(Self::knock(to, shown))
    }

    /// A knock that wants a direct path and nothing else.
    pub(super) fn knock(to: Who, shown: u8) -> Knock {
        Knock {
            to: to.fingerprint(),
            device: DeviceId::FIRST,
            token: token(shown),
            card: b"caller's card".to_vec(),
            reveal: true,
            attested: vec![],
            relay: false,
            datagrams: vec![],
            message: None,
        }
    }

    /// Knocks and returns the answer and the push.
    pub(super) fn knock_as(&self, conn: ConnId, knock: Knock) -> (Knocked, Option<Push>) {
        let mut outcome = self.call(conn, None, Call::Knock(knock));
        let push = outcome.pushes.pop().map(|(_, push)| push);
        assert!(outcome.pushes.is_empty() && outcome.close.is_none());
        match outcome.response {
            Response::Knocked(knocked) => (knocked, push),
            other => panic!("{other:?}"),
        }
    }

    /// Leases a channel from `conn` to a callee that has granted `token(shown)`, and returns the
    /// caller's number.
    pub(super) fn lease(&self, conn: ConnId, to: Who, shown: u8) -> Option<ChannelId> {
        let knock = Knock { relay: true, ..Self::knock(to, shown) };
        self.knock_as(conn, knock).0.callee.and_then(|callee| callee.channel)
    }

    /// Asks where the peer sees `source`; returns the cookie for it.
    pub(super) fn cookie(&self, source: SocketAddr) -> u64 {
        let request = PeerDatagram::EchoRequest { txid: 1, cookie: 0, answer: EchoAnswer::Here };
        let answer = self.core.peer_datagram(source, false, &request.encode(), self.now);
        match answer.map(|a| a.datagram) {
            Some(PeerDatagram::EchoReply { cookie, .. }) => cookie,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn attested(&self, addr: SocketAddr) -> Attested {
        Attested { addr, cookie: self.cookie(addr) }
    }

    pub(super) fn look_up(&self, conn: ConnId, who: Who) -> Result<Found, PeerError> {
        let call = LookUp { to: who.fingerprint(), device: DeviceId::FIRST };
        match self.ask(conn, None, Call::LookUp(call)) {
            Response::Found(found) => Ok(found),
            Response::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn peek(&self, conn: ConnId, session: SessionId, after: Option<EnvelopeId>) -> Page {
        match self.ask(conn, Some(session), Call::Peek { after }) {
            Response::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn count(&self, kind: IncidentKind) -> u64 {
        let stats = self.core.stats();
        stats.incidents.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n)
    }
}

/// Goes round the whole table.
pub(super) fn expire(core: &Core, now: Millis) -> Expired {
    (0..Core::SWEEPS).fold(Expired::default(), |sum, _| {
        let Expired { envelopes, registrations, channels } = core.expire(now);
        Expired {
            envelopes: sum.envelopes + envelopes,
            registrations: sum.registrations + registrations,
            channels: sum.channels + channels,
        }
    })
}

pub(super) fn nobody() -> Response {
    Response::Knocked(Knocked { callee: None, message: None })
}

pub(super) fn publication(seq: u64, keys: &[u8]) -> Publication {
    let one_time_keys = keys.iter().map(|&k| [k; 32]).collect();
    Publication { seq, bundle: vec![seq as u8; 1489], one_time_keys }
}
