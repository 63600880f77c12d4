//! The mailbox of one device: envelopes in the order in which they came, in two lanes with a
//! quota each.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use halloo_wire::EnvelopeId;
use halloo_wire::envelope::Lane;
use halloo_wire::limits::{MAX_ENVELOPE, MAX_PAGE};
use halloo_wire::peer::{Page, Waiting};
use zeroize::{Zeroize, Zeroizing};

use super::limits::{Limits, Quota};
use super::memory::{Charge, For, Memory, Network};
use super::time::Millis;

/// What an envelope takes besides its bytes: its entry in a half-filled tree node and the
/// allocator's rounding.
pub(super) const ENVELOPE_COST: usize = 160;
/// Bytes of one page. The wire allows four times as much; a page is held in memory until its
/// reader has it, so a smaller one makes slow readers cheaper.
const PAGE: usize = 256 << 10;
const _: () = assert!(MAX_ENVELOPE + WAITING_OVERHEAD <= PAGE && PAGE <= MAX_PAGE);
/// Bytes that an envelope takes on a page besides its own: id, lane and length, each as long as
/// it can get.
const WAITING_OVERHEAD: usize = 16;

/// Why an envelope finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The lane's quota is used up.
    Lane,
    /// The peer's memory is.
    Peer,
}

/// The bytes of an envelope, wiped when they are freed.
struct Sealed(Zeroizing<Box<[u8]>>);

impl Sealed {
    /// Takes the bytes over without leaving a copy behind.
    fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.capacity() == bytes.len() {
            return Self(Zeroizing::new(bytes.into_boxed_slice()));
        }
        let exact: Box<[u8]> = bytes.as_slice().into();
        bytes.zeroize();
        Self(Zeroizing::new(exact))
    }
}

struct Stored {
    lane: Lane,
    envelope: Sealed,
    expires: Millis,
    _charge: Charge,
}

#[derive(Default, Clone, Copy)]
struct Use {
    envelopes: usize,
    bytes: usize,
}

/// Envelopes that wait for one device.
pub(super) struct Mailbox {
    /// Where the device registered first: whose share of the memory it takes.
    network: Network,
    waiting: BTreeMap<EnvelopeId, Stored>,
    contacts: Use,
    strangers: Use,
    next: u64,
}

impl Mailbox {
    /// An empty mailbox whose first envelope gets the id `first`.
    ///
    /// Ids count within a mailbox, not within the peer, so that they do not tell one device how
    /// much all others receive. The random start keeps the ids of a forgotten registration apart
    /// from those of its successor.
    pub(super) fn new(first: EnvelopeId, network: Network) -> Self {
        Self {
            network,
            waiting: BTreeMap::new(),
            contacts: Use::default(),
            strangers: Use::default(),
            next: first.0,
        }
    }

    /// Keeps an envelope until `expires`.
    pub(super) fn push(
        &mut self,
        lane: Lane,
        envelope: Vec<u8>,
        expires: Millis,
        limits: &Limits,
        memory: &Arc<Memory>,
    ) -> Result<EnvelopeId, Full> {
        let len = envelope.len();
        let quota = quota(lane, limits);
        let used = self.lane(lane);
        if used.envelopes >= quota.envelopes || used.bytes.saturating_add(len) > quota.bytes {
            return Err(Full::Lane);
        }
        let purpose = match lane {
            Lane::Contacts => For::Device(self.network),
            Lane::Strangers => For::Strangers(self.network),
        };
        let charge = memory.charge(len + ENVELOPE_COST, purpose).ok_or(Full::Peer)?;
        let used = self.lane(lane);
        used.envelopes += 1;
        used.bytes += len;
        let id = EnvelopeId(self.next);
        self.next += 1;
        let envelope = Sealed::new(envelope);
        self.waiting.insert(id, Stored { lane, envelope, expires, _charge: charge });
        Ok(id)
    }

    /// Forgets an envelope. Says whether it was there.
    pub(super) fn remove(&mut self, id: EnvelopeId) -> bool {
        let Some(stored) = self.waiting.remove(&id) else { return false };
        let used = self.lane(stored.lane);
        used.envelopes -= 1;
        used.bytes -= stored.envelope.0.len();
        true
    }

    /// Forgets what has waited too long. Returns how many.
    pub(super) fn purge(&mut self, now: Millis) -> usize {
        let mut purged = 0;
        while let Some((&id, stored)) = self.waiting.first_key_value()
            && stored.expires <= now
        {
            self.remove(id);
            purged += 1;
        }
        purged
    }

    /// As many envelopes after `after` as fit on a page.
    pub(super) fn page(&self, after: Option<EnvelopeId>) -> Page {
        let mut page = Page { envelopes: Vec::new(), more: false };
        let mut size = 0;
        for (&id, stored) in self.waiting.range(following(after)) {
            size += stored.envelope.0.len() + WAITING_OVERHEAD;
            if size > PAGE {
                page.more = true;
                break;
            }
            page.envelopes.push(stored.copy(id));
        }
        page
    }

    /// The first envelope after `after`.
    pub(super) fn next_after(&self, after: Option<EnvelopeId>) -> Option<Waiting> {
        let (&id, stored) = self.waiting.range(following(after)).next()?;
        Some(stored.copy(id))
    }

    /// Whose share of the memory it takes.
    pub(super) fn network(&self) -> Network {
        self.network
    }

    /// The id of the latest envelope that came, whether or not it is still there.
    pub(super) fn latest(&self) -> EnvelopeId {
        EnvelopeId(self.next - 1)
    }

    /// Envelopes that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of envelopes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.contacts.bytes + self.strangers.bytes
    }

    /// Bytes charged to the memory cap.
    pub(super) fn charged(&self) -> usize {
        self.bytes() + self.len() * ENVELOPE_COST
    }

    /// What is there, oldest first: id, lane, bytes, end of its time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EnvelopeId, Lane, &[u8], Millis)> {
        self.waiting.iter().map(|(&id, s)| (id, s.lane, &*s.envelope.0 as &[u8], s.expires))
    }

    fn lane(&mut self, lane: Lane) -> &mut Use {
        match lane {
            Lane::Contacts => &mut self.contacts,
            Lane::Strangers => &mut self.strangers,
        }
    }
}

impl Stored {
    fn copy(&self, id: EnvelopeId) -> Waiting {
        Waiting { id, lane: self.lane, envelope: self.envelope.0.to_vec() }
    }
}

fn quota(lane: Lane, limits: &Limits) -> Quota {
    match lane {
        Lane::Contacts => limits.contacts,
        Lane::Strangers => limits.strangers,
    }
}

fn following(after: Option<EnvelopeId>) -> (Bound<EnvelopeId>, Bound<EnvelopeId>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::rate::Prefix;
    use super::*;
    use halloo_wire::peer::{Control, Response};

    const LATER: Millis = Millis(1000);

    fn mailbox() -> (Mailbox, Limits, Arc<Memory>) {
        let memory = Memory::new(16 << 20, 16 << 20, [1; 32]);
        let network = memory.network(Prefix::of("192.0.2.1:1".parse().unwrap()));
        (Mailbox::new(EnvelopeId(100), network), Limits::default(), memory)
    }

    #[test]
    fn envelopes_come_back_in_order_and_stay_until_removed() {
        let (mut m, limits, memory) = mailbox();
        let ids: Vec<_> = (0..5u8)
            .map(|n| m.push(Lane::Contacts, vec![n; 10], LATER, &limits, &memory).unwrap())
            .collect();
        for _ in 0..2 {
            let page = m.page(None);
            assert_eq!(page.envelopes.iter().map(|w| w.id).collect::<Vec<_>>(), ids);
            assert!(!page.more);
        }
        assert_eq!(m.page(Some(ids[2])).envelopes.len(), 2);
        assert!(m.remove(ids[0]) && !m.remove(ids[0]));
        assert_eq!(m.next_after(None).unwrap().id, ids[1]);
        assert_eq!(memory.used(), 4 * (10 + ENVELOPE_COST));
        drop(m);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_full_strangers_lane_leaves_the_contacts_lane_alone() {
        let (mut m, mut limits, memory) = mailbox();
        limits.strangers = Quota { envelopes: 2, bytes: 100 };
        let mut push = |lane, len| m.push(lane, vec![0; len], LATER, &limits, &memory);
        push(Lane::Strangers, 60).unwrap();
        assert_eq!(push(Lane::Strangers, 41), Err(Full::Lane));
        push(Lane::Strangers, 40).unwrap();
        assert_eq!(push(Lane::Strangers, 0), Err(Full::Lane));
        push(Lane::Contacts, 60).unwrap();
    }

    #[test]
    fn a_full_peer_refuses_and_evicts_nothing() {
        let (mut m, limits, _) = mailbox();
        let memory = Memory::new(ENVELOPE_COST + 50, usize::MAX, [1; 32]);
        let kept = m.push(Lane::Contacts, vec![1; 50], LATER, &limits, &memory).unwrap();
        assert_eq!(m.push(Lane::Contacts, vec![2], LATER, &limits, &memory), Err(Full::Peer));
        assert_eq!(m.next_after(None).unwrap().id, kept);
        assert_eq!((m.len(), m.bytes()), (1, 50));
    }

    #[test]
    fn envelopes_are_forgotten_at_the_end_of_their_time() {
        let (mut m, limits, memory) = mailbox();
        m.push(Lane::Contacts, vec![1], Millis(10), &limits, &memory).unwrap();
        m.push(Lane::Contacts, vec![2], Millis(20), &limits, &memory).unwrap();
        assert_eq!(m.purge(Millis(9)), 0);
        assert_eq!(m.purge(Millis(10)), 1);
        assert_eq!(m.next_after(None).unwrap().envelope, [2]);
        assert_eq!(m.latest(), EnvelopeId(101));
    }

    #[test]
    fn a_page_of_large_envelopes_fits_into_an_answer() {
        let (mut m, limits, memory) = mailbox();
        while m.push(Lane::Contacts, vec![7; 50_000], LATER, &limits, &memory).is_ok() {}
        let page = m.page(None);
        assert!(page.more && page.envelopes.len() == 5);
        let mut seen = page.envelopes.len();
        let mut last = page.envelopes.last().unwrap().id;
        assert!(Response::decode(&Response::Page(page).encode()).is_ok());
        loop {
            let page = m.page(Some(last));
            seen += page.envelopes.len();
            last = page.envelopes.last().unwrap().id;
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, m.len());
    }

    #[test]
    fn bytes_with_spare_room_are_kept_exactly() {
        let mut roomy = Vec::with_capacity(1000);
        roomy.extend_from_slice(b"envelope");
        assert_eq!(&**Sealed::new(roomy).0, b"envelope");
    }
}
