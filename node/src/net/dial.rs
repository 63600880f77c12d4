//! Getting a direct connection: knock at the contact's peer, then dial what comes back.
//!
//! Both sides dial: the caller what the answer to its knock says, the callee what the knock says.
//! Behind address translation one of the two may be the only one that gets through (RFC 5128,
//! section 3.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halloo_e2ee::{CardDirection, open_card, seal_card};
use halloo_identity::{Fingerprint, ReachCapability};
use halloo_nat::candidates_to_try;
use halloo_transport::NodeConnection;
use halloo_wire::candidate::{Candidate, CandidateKind, Card};
use halloo_wire::limits::MAX_CANDIDATES;
use halloo_wire::peer::{Call, Knock, Response};
use halloo_wire::{CapabilityId, DeviceId};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::{Net, direct, own_ips};
use crate::contact::Verification;
use crate::error::ConnectError;
use crate::store::StoreError;

/// Between the starts of two dials of one contact: the best candidate gets a head start.
const STAGGER: Duration = Duration::from_millis(30);
/// A dial that has no answer by then will have none.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// The callee lets the caller go first, so that there is one connection where one suffices.
const CALLEE_DELAY: Duration = Duration::from_millis(150);

/// What a dial needs to know of a contact.
struct Callee {
    theirs: Zeroizing<[u8; 32]>,
    device: DeviceId,
}

impl Net {
    /// Makes a direct connection to a contact unless there is one.
    pub(crate) async fn dial(self: &Arc<Self>, contact: &Fingerprint) -> Result<(), ConnectError> {
        let lock = self.dial_lock(contact);
        let _one_at_a_time = lock.lock().await;
        if self.links.current(contact).is_some() {
            return Ok(());
        }
        let callee = self.callee(contact).await?;
        let candidates = self.knock(contact, &callee).await?;
        let tried = candidates.len();
        match self.race(contact, candidates).await {
            Some(connection) => {
                direct::adopt(self, connection).await;
                Ok(())
            }
            // The callee may have got through meanwhile.
            None if self.links.current(contact).is_some() => Ok(()),
            None => Err(ConnectError::Unreachable { tried }),
        }
    }

    async fn callee(&self, contact: &Fingerprint) -> Result<Callee, ConnectError> {
        let contact = *contact;
        self.store
            .run(move |m, cx| {
                let row = cx.db.contact(&contact)?.ok_or(ConnectError::UnknownContact)?;
                if row.verified == Verification::KeyChanged || !m.allows_direct(cx, &contact)? {
                    return Err(ConnectError::NotAllowed);
                }
                let theirs = row.cap_theirs.ok_or(ConnectError::NotAllowed)?;
                Ok(Callee { theirs, device: DeviceId(row.device) })
            })
            .await
    }

    /// Knocks, and returns where the callee may be.
    async fn knock(
        self: &Arc<Self>,
        contact: &Fingerprint,
        callee: &Callee,
    ) -> Result<Vec<Candidate>, ConnectError> {
        let to = *contact;
        let mail = self
            .store
            .run(move |m, cx| m.mail(cx, &to))
            .await?
            .ok_or(ConnectError::UnknownContact)?;
        let capability = ReachCapability::from_bytes(*callee.theirs);
        let card_key = capability.card_key();
        let call = Call::Knock(Knock {
            to,
            device: callee.device,
            token: capability.token(),
            card: seal_card(&card_key, CardDirection::Caller, &self.card()),
        });
        let mut why = String::from("no peer is known");
        for (peer, key) in mail.peers {
            let office = match self.office(&peer, key).await {
                Ok(office) => office,
                Err(e) => {
                    why = e.to_string();
                    continue;
                }
            };
            match office.ask(call.clone()).await {
                Ok(Response::Knocked(knocked)) => {
                    let callee = knocked.callee.ok_or(ConnectError::Away)?;
                    let card = open_card(&card_key, CardDirection::Callee, &callee.card)
                        .map_err(|_| ConnectError::Away)?;
                    return Ok(candidates_to_try(&card, Some(callee.observed), &own_ips()));
                }
                Ok(Response::Refused(e)) => why = e.to_string(),
                Ok(_) => why = "the peer answered another question".into(),
                Err(e) => why = e,
            }
        }
        Err(ConnectError::NoPeer { why })
    }

    /// Dials all candidates, a little apart; the first that proves to be the contact wins.
    async fn race(
        &self,
        contact: &Fingerprint,
        candidates: Vec<Candidate>,
    ) -> Option<NodeConnection> {
        let mut dials = JoinSet::new();
        for (i, candidate) in candidates.into_iter().enumerate() {
            let (endpoint, contact) = (self.endpoint.clone(), *contact);
            dials.spawn(async move {
                tokio::time::sleep(STAGGER * i as u32).await;
                endpoint.connect_node(candidate.addr, &contact).await
            });
        }
        let race = async {
            while let Some(done) = dials.join_next().await {
                match done {
                    Ok(Ok(connection)) => return Some(connection),
                    Ok(Err(e)) => tracing::debug!(reason = %e, "A candidate did not answer"),
                    Err(_) => {}
                }
            }
            None
        };
        tokio::time::timeout(DIAL_DEADLINE, race).await.ok().flatten()
    }
}

/// A contact has knocked: dial back, unless it gets through first. A knock beyond
/// [`MAX_KNOCKS`](super::MAX_KNOCKS) at once, or for a contact that is being dialled, is dropped:
/// neither a peer nor a contact can make this node dial faster.
pub(crate) fn take_knock(
    net: &Arc<Net>,
    capability: CapabilityId,
    observed: SocketAddr,
    card: Vec<u8>,
) {
    if let Ok(permit) = Arc::clone(&net.knocks).try_acquire_owned() {
        let net_of_task = Arc::clone(net);
        net.spawn(async move {
            answer_knock(net_of_task, capability, observed, card).await;
            drop(permit);
        });
    }
}

async fn answer_knock(
    net: Arc<Net>,
    capability: CapabilityId,
    observed: SocketAddr,
    card: Vec<u8>,
) {
    let caller = net
        .store
        .run(move |m, cx| {
            let Some(row) = m.contact_by_capability(cx, &capability)? else { return Ok(None) };
            let allowed = m.allows_direct(cx, &row.fp)?;
            Ok::<_, StoreError>(allowed.then_some((row.fp, row.cap_mine)))
        })
        .await;
    let Ok(Some((caller, secret))) = caller else { return };
    let key = ReachCapability::from_bytes(*secret).card_key();
    let Ok(card) = open_card(&key, CardDirection::Caller, &card) else { return };
    tokio::time::sleep(CALLEE_DELAY).await;
    let lock = net.dial_lock(&caller);
    let Ok(_one_at_a_time) = lock.try_lock() else { return };
    if net.links.current(&caller).is_some() {
        return;
    }
    let candidates = candidates_to_try(&card, Some(observed), &own_ips());
    if let Some(connection) = net.race(&caller, candidates).await {
        direct::adopt(&net, connection).await;
    }
}

/// Adds our address as a peer sees it to our card, in place of the last candidate when it is full.
pub(crate) fn add_reflexive(card: &mut Card, addr: SocketAddr) {
    if card.candidates.iter().any(|c| c.addr == addr) {
        return;
    }
    card.candidates.truncate(MAX_CANDIDATES - 1);
    card.candidates.push(Candidate { kind: CandidateKind::ServerReflexive, addr });
}
