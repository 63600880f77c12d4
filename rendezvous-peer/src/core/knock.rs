//! Knocks: passed on to the callee, and answered in the same instant.

use std::net::SocketAddr;

use halloo_wire::peer::{
    Attested, Callee, DropEnvelope, Knock, KnockMessage, Knocked, PeerError, Push, Receipt,
    Response,
};
use halloo_wire::{CapabilityId, ChannelId, Side};
use rand_chacha::rand_core::Rng;

use super::calls::Told;
use super::origin::Origin;
use super::registry::{self, Row, RowKey};
use super::time::Millis;
use super::{ConnId, Core, Outcome};
use crate::redacted::Redacted;

impl Core {
    /// Leaves the message that rides along, passes the knock on, and tells the caller in the same
    /// instant where the callee is. Whatever stands against the knock, the answer to it is the
    /// same.
    pub(super) fn knock(&self, knock: Knock, origin: Origin, now: Millis) -> Outcome {
        self.counters.knocks.add(1);
        let Knock { to, device, token, card, reveal, attested, relay, datagrams, message } = knock;
        let capability = token.id();
        let message = message.map(|KnockMessage { instance, envelope }| {
            let token = Some(token);
            self.leave_in_knock(DropEnvelope { to, device, token, instance, envelope }, now)
        });
        let (message, mail_for, mut rings) = match message {
            Some(Ok((receipt, Told::At(conn)))) => (Some(Ok(receipt)), Some(conn), Vec::new()),
            Some(Ok((receipt, Told::Rung(ring)))) => (Some(Ok(receipt)), None, vec![ring]),
            Some(Ok((receipt, Told::Nobody))) => (Some(Ok(receipt)), None, Vec::new()),
            Some(Err(error)) => (Some(Err(error)), None, Vec::new()),
            None => (None, None, Vec::new()),
        };
        let mut pushes = Vec::new();
        let callee = self.rows.get_mut(&(to, device)).and_then(|mut row| {
            let (conn, callee) =
                self.callee(&mut row, capability, relay.then_some(&origin), now)?;
            let observed = match reveal {
                true => registry::observed(&origin, &self.echo.attested(&attested, now)),
                false => Vec::new(),
            };
            let channel = callee.channel.map(ChannelId::other);
            let push = Push::Knock { capability, observed, card, channel, datagrams };
            match conn {
                Some(conn) => pushes.push((conn, push)),
                None => rings.extend(self.ring(&mut row, Some(push), now)),
            }
            Some(callee)
        });
        if callee.is_some() {
            self.counters.knocks_forwarded.add(1);
        }
        let answer = Response::Knocked(Knocked { callee, message });
        Outcome { pushes, mail_for, rings, ..answer.into() }
    }

    /// Keeps the addresses for which a device has shown a good cookie, in place of those before.
    pub(super) fn attest(
        &self,
        key: RowKey,
        shown: &[Attested],
        now: Millis,
    ) -> Result<Outcome, PeerError> {
        let attested = self.echo.attested(shown, now);
        self.on_row(key, |row| {
            let presence = row.presence.as_mut().ok_or(PeerError::NotRegistered)?;
            presence.attested = Redacted(attested.into());
            Ok(())
        })
    }

    /// Whether one of `shown` is a good cookie for where a connection seems to be.
    pub(super) fn is_attested(&self, seen: &Origin, shown: &[Attested], now: Millis) -> bool {
        seen.reflexive().is_some_and(|address| self.echo.attested(shown, now).contains(&address))
    }

    fn leave_in_knock(
        &self,
        drop: DropEnvelope,
        now: Millis,
    ) -> Result<(Receipt, Told), PeerError> {
        self.leave(drop, now).inspect_err(|error| self.note_refusal(error, now))
    }

    /// How the holder of `capability` reaches a device, and the connection to tell it, if it is not
    /// parked; `None` when it is not there or does not consent. A channel is leased for a caller
    /// that wants one.
    ///
    /// An empty card lets the holder relay and nothing else. So without a channel, it is a no.
    fn callee(
        &self,
        row: &mut Row,
        capability: CapabilityId,
        caller: Option<&Origin>,
        now: Millis,
    ) -> Option<(Option<ConnId>, Callee)> {
        let card = row.card(&capability)?.to_vec();
        let (conn, origin, observed) = match (&row.presence, &row.parked) {
            (Some(it), _) => (Some(it.conn), it.origin, it.observed()),
            (None, Some(it)) => {
                let origin = it.origin(self.limits().parked_silence, now)?;
                (None, origin, registry::observed(&origin, &[]))
            }
            (None, None) => return None,
        };
        let observed: Vec<SocketAddr> = if card.is_empty() { Vec::new() } else { observed };
        let channel = caller.and_then(|caller| self.lease(row, capability, [caller, &origin], now));
        if card.is_empty() && channel.is_none() {
            return None;
        }
        Some((conn, Callee { observed, card, channel }))
    }

    fn lease(
        &self,
        row: &mut Row,
        capability: CapabilityId,
        [caller, callee]: [&Origin; 2],
        now: Millis,
    ) -> Option<ChannelId> {
        let limits = self.limits();
        let limit = limits.relay_channels_per_callee;
        let leased = if row.make_room(&capability, limit, &self.relay, now) {
            let number = self.rng().next_u64();
            self.relay.lease(number, caller, callee, &self.memory, &limits, now)
        } else {
            None
        };
        match leased {
            Some(channel) => {
                row.add_channel(capability, channel);
                self.counters.channels_leased.add(1);
                Some(channel.of(Side::Caller))
            }
            None => {
                self.counters.channels_refused.add(1);
                None
            }
        }
    }
}
