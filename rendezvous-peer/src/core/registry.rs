//! One row of the table: what the peer keeps for one registered device.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use halloo_wire::peer::{Found, Grant, PeerError, Publication, Push};
use halloo_wire::{CapabilityId, ChannelId, DeviceId, EnvelopeId, Fingerprint, SessionId};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::ConnId;
use super::limits::CHANNELS_PER_CAPABILITY;
use super::mailbox::Mailbox;
use super::memory::{Charge, For, Memory, Network};
use super::origin::Origin;
use super::parking::ParkedRow;
use super::relay::Relay;
use super::time::Millis;
use crate::redacted::Redacted;

/// What names a row.
pub(super) type RowKey = (Fingerprint, DeviceId);

/// What a row takes by itself: its bytes, its slot and its entry in the index, both of which may be
/// half empty, its presence, and the allocator's part of what hangs on it.
pub(super) const ROW_COST: usize = size_of::<(RowKey, Row)>() + size_of::<Presence>() + 112;
/// What a capability takes besides its card: its entry in a half-filled tree node.
pub(super) const CAPABILITY_COST: usize = 128;
/// What a published bundle takes besides its bytes.
const PUBLISHED_COST: usize = 32;

/// What the peer keeps for one device.
pub(super) struct Row {
    /// What later requests must show.
    session: SessionId,
    /// The last registration's counter.
    pub(super) counter: u64,
    /// The identity's passport certificate.
    passport: Arc<[u8]>,
    /// Where the device is reached, while it is.
    pub(super) presence: Option<Box<Presence>>,
    /// How the device is rung, when it holds no connection.
    pub(super) parked: Option<Box<ParkedRow>>,
    /// When the device was last heard of.
    pub(super) last_visit: Millis,
    published: Option<Published>,
    capabilities: BTreeMap<CapabilityId, Zeroizing<Box<[u8]>>>,
    pub(super) mailbox: Mailbox,
    /// Relay channels to the device, some of which may have ended. They carry their own charge.
    channels: Vec<(CapabilityId, u64)>,
    /// For everything but the mailbox, which carries its own.
    charge: Charge,
}

/// The connection where a device is reached.
#[derive(Debug)]
pub(super) struct Presence {
    /// The connection that registered last.
    pub(super) conn: ConnId,
    /// Where the device is.
    pub(super) origin: Origin,
    /// Where it has shown that it receives too.
    pub(super) attested: Redacted<Box<[SocketAddr]>>,
    /// The last envelope that was pushed, or that was there at registration.
    pub(super) pushed: EnvelopeId,
}

impl Presence {
    /// The device's addresses of which the peer has made sure, its reflexive one at first.
    pub(super) fn observed(&self) -> Vec<SocketAddr> {
        observed(&self.origin, &self.attested.0)
    }
}

/// The addresses of a node of which the peer has made sure, its reflexive one at first, each once.
pub(super) fn observed(origin: &Origin, attested: &[SocketAddr]) -> Vec<SocketAddr> {
    let reflexive = origin.reflexive();
    let others = attested.iter().copied().filter(|&address| Some(address) != reflexive);
    reflexive.into_iter().chain(others).collect()
}

struct Published {
    seq: u64,
    bundle: Box<[u8]>,
    one_time_keys: Box<[[u8; 32]]>,
    /// Bit n: key n has been given to somebody.
    given: u64,
}

impl Row {
    /// A row for a device that registers for the first time; `None` when the memory is full.
    pub(super) fn new(
        passport: Arc<[u8]>,
        session: SessionId,
        first_envelope: EnvelopeId,
        now: Millis,
        memory: &Arc<Memory>,
        network: Network,
    ) -> Option<Self> {
        let charge = memory.charge(ROW_COST + passport.len(), For::Device(network))?;
        Some(Self {
            session,
            counter: 0,
            passport,
            presence: None,
            parked: None,
            last_visit: now,
            published: None,
            capabilities: BTreeMap::new(),
            mailbox: Mailbox::new(first_envelope, network),
            channels: Vec::new(),
            charge,
        })
    }

    /// Parks the device, in place of where it was parked before.
    pub(super) fn park(&mut self, parked: ParkedRow) -> Result<(), PeerError> {
        self.unpark();
        if !self.charge.resize(self.charge.bytes() + ParkedRow::COST) {
            return Err(PeerError::PeerFull);
        }
        self.parked = Some(Box::new(parked));
        Ok(())
    }

    /// Forgets how the device is rung. Returns what it has not heard of yet.
    pub(super) fn unpark(&mut self) -> Option<Push> {
        let mut parked = self.parked.take()?;
        let shrunk = self.charge.resize(self.charge.bytes() - ParkedRow::COST);
        debug_assert!(shrunk, "shrinking needs no room");
        parked.take_knock()
    }

    /// The row's session.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Whether `shown` is the row's session. Takes the same time for every wrong one.
    pub(super) fn is_session(&self, shown: &SessionId) -> bool {
        self.session.0.ct_eq(&shown.0).into()
    }

    /// Replaces what look-ups are given. A key that was given away under the bundle before stays
    /// given away when it is published again.
    pub(super) fn publish(&mut self, publication: Publication) -> Result<(), PeerError> {
        let Publication { seq, bundle, one_time_keys } = publication;
        let mut given = given_twice(&one_time_keys);
        if let Some(old) = &self.published {
            if seq == old.seq && *old.bundle == *bundle && *old.one_time_keys == *one_time_keys {
                return Ok(());
            }
            if seq <= old.seq {
                return Err(PeerError::StaleBundle);
            }
            given |= old.given_among(&one_time_keys);
        }
        let published =
            Published { seq, bundle: bundle.into(), one_time_keys: one_time_keys.into(), given };
        let without = self.charge.bytes() - self.published.as_ref().map_or(0, Published::cost);
        if !self.charge.resize(without + published.cost()) {
            return Err(PeerError::PeerFull);
        }
        self.published = Some(published);
        Ok(())
    }

    /// The passport and prekeys, with a one-time key that nobody else gets while there are some;
    /// `None` when nothing has been published.
    pub(super) fn look_up(&mut self) -> Option<Found> {
        let published = self.published.as_mut()?;
        let one_time_key = published.give();
        Some(Found {
            passport: self.passport.to_vec(),
            bundle: published.bundle.to_vec(),
            one_time_keys: published.one_time_keys.to_vec(),
            one_time_key,
        })
    }

    /// Adds capabilities or replaces their cards: all of them or none.
    pub(super) fn grant(&mut self, grants: Vec<Grant>, limit: usize) -> Result<(), PeerError> {
        let grants: BTreeMap<_, _> = grants.into_iter().map(|g| (g.id, g.card)).collect();
        let (mut count, mut cost) = (self.capabilities.len(), self.charge.bytes());
        for (id, card) in &grants {
            match self.capabilities.get(id) {
                Some(old) => cost -= old.len(),
                None => {
                    count += 1;
                    cost += CAPABILITY_COST;
                }
            }
            cost += card.len();
        }
        if count > limit {
            return Err(PeerError::TooManyCapabilities);
        }
        if !self.charge.resize(cost) {
            return Err(PeerError::PeerFull);
        }
        for (id, card) in grants {
            self.capabilities.insert(id, Zeroizing::new(card.into()));
        }
        Ok(())
    }

    /// Takes capabilities back. Those that are not there are no matter.
    pub(super) fn revoke(&mut self, ids: &[CapabilityId]) {
        for id in ids {
            if let Some(card) = self.capabilities.remove(id) {
                let less = self.charge.bytes() - CAPABILITY_COST - card.len();
                let shrunk = self.charge.resize(less);
                debug_assert!(shrunk, "shrinking needs no room");
            }
        }
    }

    /// Makes room for one more channel under the capability `id`. Says whether there is.
    ///
    /// The holder of a capability who has all of its channels loses the one that was silent the
    /// longest: it is left from an earlier attempt of the same contact.
    pub(super) fn make_room(
        &mut self,
        id: &CapabilityId,
        limit: usize,
        relay: &Relay,
        now: Millis,
    ) -> bool {
        let held = self.channels.iter().filter(|(holder, _)| holder == id).count();
        if held >= CHANNELS_PER_CAPABILITY || self.channels.len() >= limit {
            self.forget_ended(relay, now);
        }
        let own = self.channels.iter().filter(|(holder, _)| holder == id);
        if own.clone().count() >= CHANNELS_PER_CAPABILITY
            && let Some(&(_, oldest)) = own.min_by_key(|(_, pair)| relay.last_heard(*pair, now))
        {
            self.release(relay, |_, pair| pair == oldest);
        }
        self.channels.len() < limit
    }

    /// Notes a channel that has been leased to the holder of the capability `id`.
    pub(super) fn add_channel(&mut self, id: CapabilityId, channel: ChannelId) {
        self.channels.push((id, channel.pair()));
    }

    /// Ends the leases of all channels under the capabilities `ids`.
    pub(super) fn release_channels_of(&mut self, ids: &[CapabilityId], relay: &Relay) {
        self.release(relay, |holder, _| ids.contains(holder));
    }

    /// Ends the leases of all channels to the device.
    pub(super) fn release_all_channels(&mut self, relay: &Relay) {
        self.release(relay, |_, _| true);
    }

    /// Forgets channels whose lease has ended by itself.
    pub(super) fn forget_ended(&mut self, relay: &Relay, now: Millis) {
        self.channels.retain(|(_, pair)| relay.last_heard(*pair, now).is_some());
    }

    fn release(&mut self, relay: &Relay, ends: impl Fn(&CapabilityId, u64) -> bool) {
        self.channels.retain(|(holder, pair)| {
            let ends = ends(holder, *pair);
            if ends {
                relay.release(*pair);
            }
            !ends
        });
    }

    /// The card for the holder of a capability; `None` when the capability is not granted.
    ///
    /// The ids in the map are hashes of what the holder shows, so the time that the search takes
    /// tells nothing about a token that would be valid.
    pub(super) fn card(&self, id: &CapabilityId) -> Option<&[u8]> {
        self.capabilities.get(id).map(|card| &***card)
    }

    /// The bundle's sequence number and the one-time keys left.
    pub(super) fn published(&self) -> Option<(u64, u16)> {
        self.published.as_ref().map(|p| (p.seq, p.left()))
    }

    /// The published bundle; empty when there is none.
    pub(super) fn bundle(&self) -> &[u8] {
        self.published.as_ref().map_or(&[], |p| &p.bundle)
    }

    /// Capabilities granted.
    pub(super) fn capabilities(&self) -> impl ExactSizeIterator<Item = (&CapabilityId, &[u8])> {
        self.capabilities.iter().map(|(id, card)| (id, &***card))
    }

    /// Bytes charged to the row without its mailbox.
    pub(super) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// Bytes charged to a knock that is kept for a parked device.
    pub(super) fn kept_charged(&self) -> usize {
        self.parked.as_ref().map_or(0, |it| it.kept_charged())
    }

    /// The bytes that should be charged, counted from what is there.
    #[cfg(test)]
    pub(super) fn cost(&self) -> usize {
        let cards: usize = self.capabilities.values().map(|c| CAPABILITY_COST + c.len()).sum();
        let parked = self.parked.as_ref().map_or(0, |_| ParkedRow::COST);
        let published = self.published.as_ref().map_or(0, Published::cost);
        ROW_COST + self.passport.len() + cards + published + parked
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.session.0.zeroize();
    }
}

impl Published {
    fn cost(&self) -> usize {
        PUBLISHED_COST + self.bundle.len() + self.one_time_keys.len() * 32
    }

    fn give(&mut self) -> Option<u16> {
        let n = self.given.trailing_ones();
        if n as usize >= self.one_time_keys.len() {
            return None;
        }
        self.given |= 1 << n;
        u16::try_from(n).ok()
    }

    fn left(&self) -> u16 {
        let free = self.one_time_keys.len() as u32 - self.given.count_ones();
        u16::try_from(free).unwrap_or(u16::MAX)
    }

    /// Which of `keys` have been given away under this bundle: they stay given away.
    fn given_among(&self, keys: &[[u8; 32]]) -> u64 {
        let is_given = |key: &[u8; 32]| {
            self.one_time_keys
                .iter()
                .position(|k| k == key)
                .is_some_and(|i| self.given >> i & 1 == 1)
        };
        bits(keys, |_, key| is_given(key))
    }
}

/// Which of `keys` stand in the list before: nobody is given the second copy.
fn given_twice(keys: &[[u8; 32]]) -> u64 {
    bits(keys, |i, key| keys[..i].contains(key))
}

fn bits(keys: &[[u8; 32]], holds: impl Fn(usize, &[u8; 32]) -> bool) -> u64 {
    let set = keys.iter().enumerate().filter(|(i, key)| holds(*i, key));
    set.fold(0, |bits, (i, _)| bits | 1 << i)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(memory: &Arc<Memory>) -> Row {
        let passport: Arc<[u8]> = Arc::from(&b"passport"[..]);
        let network =
            memory.network(super::super::rate::Prefix::of("192.0.2.1:1".parse().unwrap()));
        Row::new(passport, SessionId([1; 16]), EnvelopeId(7), Millis(0), memory, network).unwrap()
    }

    fn publication(seq: u64, keys: &[u8]) -> Publication {
        let one_time_keys = keys.iter().map(|&k| [k; 32]).collect();
        Publication { seq, bundle: vec![seq as u8; 100], one_time_keys }
    }

    fn drain(row: &mut Row) -> Vec<u8> {
        let next = || {
            let found = row.look_up().unwrap();
            found.one_time_key.map(|i| found.one_time_keys[usize::from(i)][0])
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_one_time_key_is_given_once() {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let mut row = row(&memory);
        assert!(row.look_up().is_none());
        row.publish(publication(1, &[1, 2, 3])).unwrap();
        assert_eq!(row.published(), Some((1, 3)));
        assert_eq!(drain(&mut row), [1, 2, 3]);
        assert_eq!(row.published(), Some((1, 0)));
        assert_eq!(row.look_up().unwrap().one_time_key, None);
    }

    #[test]
    fn a_repeated_publication_gives_no_key_again() {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let mut row = row(&memory);
        row.publish(publication(1, &[1, 2])).unwrap();
        row.look_up().unwrap();
        row.publish(publication(1, &[1, 2])).unwrap();
        assert_eq!(drain(&mut row), [2]);
        row.publish(publication(2, &[2, 3, 1, 3])).unwrap();
        assert_eq!(drain(&mut row), [3]);
        assert_eq!(row.charged(), row.cost());
    }

    #[test]
    fn an_older_or_altered_bundle_is_stale() {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let mut row = row(&memory);
        row.publish(publication(5, &[1])).unwrap();
        assert_eq!(row.publish(publication(4, &[2])), Err(PeerError::StaleBundle));
        assert_eq!(row.publish(publication(5, &[2])), Err(PeerError::StaleBundle));
        assert_eq!(row.published(), Some((5, 1)));
    }

    #[test]
    fn a_full_list_of_one_time_keys_is_given_to_the_end() {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let mut row = row(&memory);
        let keys: Vec<u8> = (1..=50).collect();
        row.publish(publication(1, &keys)).unwrap();
        assert_eq!(drain(&mut row), keys);
    }

    #[test]
    fn grants_are_made_as_a_whole_or_not_at_all() {
        let memory = Memory::new(1 << 20, 1 << 20, [1; 32]);
        let mut row = row(&memory);
        let grant = |n: u8, len| Grant { id: CapabilityId([n; 32]), card: vec![n; len] };
        row.grant(vec![grant(1, 10), grant(2, 20)], 3).unwrap();
        let before = memory.used();
        let two_more = vec![grant(3, 10), grant(4, 10)];
        assert_eq!(row.grant(two_more, 3), Err(PeerError::TooManyCapabilities));
        assert_eq!((memory.used(), row.capabilities().len()), (before, 2));
        row.grant(vec![grant(2, 5), grant(2, 0), grant(3, 1)], 3).unwrap();
        assert_eq!(row.card(&CapabilityId([2; 32])), Some(&[][..]));
        assert_eq!(row.charged(), row.cost());
        row.revoke(&[CapabilityId([1; 32]), CapabilityId([9; 32]), CapabilityId([1; 32])]);
        assert_eq!(row.card(&CapabilityId([1; 32])), None);
        assert_eq!(row.charged(), row.cost());
    }

    #[test]
    fn what_finds_no_room_changes_nothing() {
        let memory = Memory::new(ROW_COST + 8 + 200, usize::MAX, [1; 32]);
        let mut row = row(&memory);
        row.publish(publication(1, &[1])).unwrap();
        assert_eq!(row.publish(publication(2, &[1, 2, 3])), Err(PeerError::PeerFull));
        let large = Grant { id: CapabilityId([1; 32]), card: vec![0; 300] };
        assert_eq!(row.grant(vec![large], 9), Err(PeerError::PeerFull));
        assert_eq!(row.published(), Some((1, 1)));
        assert_eq!((row.charged(), memory.used()), (row.cost(), row.cost()));
    }
}
