//! Which of the machines behind a name is asked first. Pure: the time comes in.
//!
//! The order of somebody's machines follows from their fingerprint ([`Machines::order`]). This only
//! remembers, for a moment, which of them led nowhere, so that the next is asked before it. After
//! that moment the first is the first again: who is registered comes back to it, too.
//!
//! [`Machines::order`]: halloo_identity::Machines::order

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_identity::{Fingerprint, PeerHost};

/// Machines of a name that are tried in one go.
pub(crate) const MAX_TRIED: usize = 4;
/// How long a machine is put behind the others after it led nowhere.
pub(crate) const PUT_BACK: Duration = Duration::from_secs(20);
/// What is remembered at once. Beyond, a machine that leads nowhere is asked again too early.
const MAX_PUT_BACK: usize = 1_024;

/// What led nowhere, and until when that counts.
#[derive(Debug, Default)]
pub(crate) struct PutBack(HashMap<(PeerHost, Option<Fingerprint>), Instant>);

impl PutBack {
    /// A machine did not answer, or `who` is not registered there.
    pub(crate) fn put(&mut self, place: &PeerHost, who: Option<Fingerprint>, now: Instant) {
        self.0.retain(|_, until| now < *until);
        if self.0.len() < MAX_PUT_BACK {
            self.0.insert((place.clone(), who), now + PUT_BACK);
        }
    }

    /// A machine answers.
    pub(crate) fn answers(&mut self, place: &PeerHost) {
        self.0.remove(&(place.clone(), None));
    }

    /// Whether a machine did not answer lately.
    pub(crate) fn is_silent(&self, place: &PeerHost, now: Instant) -> bool {
        self.0.get(&(place.clone(), None)).is_some_and(|until| now < *until)
    }

    /// Whether a machine led nowhere lately, on the way to somebody.
    pub(crate) fn is_back(&self, place: &PeerHost, who: &Fingerprint, now: Instant) -> bool {
        let of_who = self.0.get(&(place.clone(), Some(*who)));
        self.is_silent(place, now) || of_who.is_some_and(|until| now < *until)
    }

    /// The same places, with those behind that led nowhere; otherwise in the same order.
    pub(crate) fn order(
        &self,
        mut places: Vec<PeerHost>,
        who: &Fingerprint,
        now: Instant,
    ) -> Vec<PeerHost> {
        // The sort is stable.
        places.sort_by_key(|place| self.is_back(place, who, now));
        places.truncate(MAX_TRIED);
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: [&str; 3]) -> Vec<PeerHost> {
        names.map(|name| name.parse().unwrap()).to_vec()
    }

    #[test]
    fn what_led_nowhere_comes_last_for_a_moment() {
        let (anna, ben) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
        let (now, all) = (Instant::now(), places(["a.test", "b.test", "c.test"]));
        let mut back = PutBack::default();
        back.put(&all[0], None, now);
        back.put(&all[1], Some(anna), now);
        assert_eq!(back.order(all.clone(), &anna, now), places(["c.test", "a.test", "b.test"]));
        assert_eq!(back.order(all.clone(), &ben, now), places(["b.test", "c.test", "a.test"]));
        assert!(back.is_silent(&all[0], now) && !back.is_silent(&all[1], now));
        back.answers(&all[0]);
        assert_eq!(back.order(all.clone(), &ben, now), all);
        assert_eq!(back.order(all.clone(), &anna, now + PUT_BACK), all);
    }

    #[test]
    fn when_nothing_leads_anywhere_the_first_is_first() {
        let (now, all) = (Instant::now(), places(["a.test", "b.test", "c.test"]));
        let mut back = PutBack::default();
        for place in &all {
            back.put(place, None, now);
        }
        assert_eq!(back.order(all.clone(), &Fingerprint::from_bytes([1; 30]), now), all);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut back = PutBack::default();
        let place: PeerHost = "a.test".parse().unwrap();
        for n in 0..MAX_PUT_BACK as u32 + 10 {
            let mut who = [0; 30];
            who[..4].copy_from_slice(&n.to_be_bytes());
            back.put(&place, Some(Fingerprint::from_bytes(who)), now);
        }
        assert_eq!(back.0.len(), MAX_PUT_BACK);
        back.put(&place, None, now + PUT_BACK);
        assert_eq!(back.0.len(), 1);
    }
}
