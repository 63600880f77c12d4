//! The machines behind the names of peers: what the domain name system says, kept as long as it
//! says, and which of them led nowhere lately.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halloo_identity::{Fingerprint, Machines, PeerHost};
use halloo_transport::names::{self, Listing};
use tokio::sync::watch;

use super::Net;
use super::post::Office;
use crate::core::places::PutBack;

/// How often it is looked which names are in use.
const LOOK: Duration = Duration::from_secs(60);
/// Least time between two such looks.
const SOONEST: Duration = Duration::from_secs(1);
/// How long what was known last serves when the domain name system does not answer.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Names that are remembered; when there are more, those that have expired are forgotten.
const MAX_NAMES: usize = 256;

/// What is known about the names of peers.
pub(crate) struct Directory {
    names: Mutex<HashMap<PeerHost, Arc<tokio::sync::Mutex<Option<Known>>>>>,
    put_back: Mutex<PutBack>,
    /// Counts the times that the machines of a name changed.
    pub(crate) changed: watch::Sender<u64>,
}

/// What is known about one name.
#[derive(Clone)]
struct Known {
    /// `None`: it stands for one machine.
    machines: Option<Arc<Machines>>,
    until: Instant,
}

impl Default for Directory {
    fn default() -> Self {
        let changed = watch::Sender::new(0);
        Self { names: Mutex::default(), put_back: Mutex::default(), changed }
    }
}

impl Directory {
    /// The machines of a name, as known or asked for now.
    async fn known(&self, peer: &PeerHost) -> Known {
        let slot = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.len() >= MAX_NAMES {
                let now = Instant::now();
                let has_expired =
                    |known: &Option<Known>| known.as_ref().is_none_or(|known| known.until <= now);
                // Who holds the lock uses it.
                names.retain(|_, slot| !slot.try_lock().is_ok_and(|known| has_expired(&known)));
            }
            Arc::clone(names.entry(peer.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(known) = slot.as_ref().filter(|known| Instant::now() < known.until) {
            return known.clone();
        }
        let asked = names::machines(peer).await;
        let now = Instant::now();
        let known = match (asked, slot.as_ref()) {
            (Ok(Listing { machines, ttl }), _) => {
                Known { machines: machines.map(Arc::new), until: now + ttl }
            }
            (Err(e), before) => {
                tracing::debug!(reason = %e, "The machines of a peer are not known");
                let machines = before.and_then(|known| known.machines.clone());
                Known { machines, until: now + UNANSWERED }
            }
        };
        let has_changed = slot.as_ref().is_some_and(|before| before.machines != known.machines);
        *slot = Some(known.clone());
        drop(slot);
        if has_changed {
            self.changed.send_modify(|n| *n += 1);
        }
        known
    }

    fn put_back(&self) -> MutexGuard<'_, PutBack> {
        self.put_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine did not answer: for a moment, others are asked before it.
    pub(crate) fn is_silent(&self, place: &PeerHost) {
        self.put_back().put(place, None, Instant::now());
    }

    /// Whether a machine did not answer lately.
    pub(crate) fn was_silent(&self, place: &PeerHost) -> bool {
        self.put_back().is_silent(place, Instant::now())
    }

    /// A machine answers.
    pub(crate) fn answers(&self, place: &PeerHost) {
        self.put_back().answers(place);
    }
}

impl Net {
    /// The machines behind the name of a peer, with the one first that serves `who`. A name that
    /// stands for one machine is its place.
    pub(crate) async fn order(&self, peer: &PeerHost, who: &Fingerprint) -> Vec<PeerHost> {
        match self.directory.known(peer).await.machines {
            Some(machines) => machines.order(who).into_iter().map(|m| m.place.clone()).collect(),
            None => vec![peer.clone()],
        }
    }

    /// Where to ask for somebody at a peer, the best first.
    pub(crate) async fn places(&self, peer: &PeerHost, who: &Fingerprint) -> Vec<PeerHost> {
        let order = self.order(peer, who).await;
        self.directory.put_back().order(order, who, Instant::now())
    }

    /// Somebody is not registered where they were asked for: for a moment, the other machines of
    /// their peer are asked first.
    pub(crate) fn not_there(&self, office: &Office, who: &Fingerprint) {
        self.directory.put_back().put(&office.place, Some(*who), Instant::now());
    }

    /// Whether there is a machine of this peer at which somebody was not asked for in vain lately.
    pub(crate) async fn may_be_elsewhere(&self, peer: &PeerHost, who: &Fingerprint) -> bool {
        let places = self.places(peer, who).await;
        let put_back = self.directory.put_back();
        // The best comes first.
        places.len() > 1
            && places.first().is_some_and(|place| !put_back.is_back(place, who, Instant::now()))
    }
}

/// Asks again for the names that are in use when what is known about them has expired, and wakes
/// who waits when something has changed.
pub(crate) async fn run(net: Arc<Net>) {
    let mut changed = net.directory.changed.subscribe();
    loop {
        let names: BTreeSet<PeerHost> =
            net.own_peers.iter().cloned().chain(net.post.peers()).collect();
        let mut next = Instant::now() + LOOK;
        for name in &names {
            next = next.min(net.directory.known(name).await.until);
        }
        let soonest = Instant::now() + SOONEST;
        tokio::select! {
            () = tokio::time::sleep_until(next.max(soonest).into()) => {}
            Ok(()) = changed.changed() => {
                tracing::debug!("The machines of a peer have changed");
                let waiting = net.store.run(|_, cx| cx.db.contacts_with_unacked()).await;
                net.board.wake(waiting.unwrap_or_default());
            }
        }
    }
}
