//! Our own rendezvous peer: being reachable there.

use std::sync::Arc;
use std::time::Duration;

use halloo_identity::PeerHost;
use halloo_transport::{CloseCode, PeerConnection, PushError, Show};
use halloo_wire::SessionId;
use halloo_wire::limits::{MAX_ACK_IDS, MAX_GRANT};
use halloo_wire::peer::{Call, PeerError, Push, Register, Request, Response, Waiting};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::post::{OfficeError, Welcome};
use super::{Net, dial};
use crate::core::Arrival;
use crate::event::EventKind;
use crate::random;
use crate::store::StoreError;

/// Envelopes that wait for the store; a full queue makes the peer wait, which keeps them.
const QUEUE: usize = 256;
/// Envelopes that are taken in one transaction.
const MAX_BATCH: usize = 64;
/// Waits between attempts: they double from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A registration that held for this long was a sound one: the waits begin at the first again.
const STEADY: Duration = Duration::from_secs(10);
/// How often the bundle's age is looked at.
const UPKEEP: Duration = Duration::from_secs(3600);

/// Why a registration ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the rendezvous peer cannot be reached: {0}")]
    Office(#[from] OfficeError),
    #[error("the rendezvous peer refused: {0}")]
    Refused(PeerError),
    #[error("the connection to the rendezvous peer ended: {0}")]
    Lost(String),
    #[error("another copy of this node has registered")]
    Superseded,
    #[error("the rendezvous peer stops for a while")]
    Draining(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps the node registered with one peer, for ever.
pub(crate) async fn run(net: Arc<Net>, peer: PeerHost) {
    let mut wait = FIRST_RETRY;
    loop {
        let begun = Instant::now();
        let ended = Home { net: &net, peer: &peer }.stay().await;
        let was_online = net.observed.send_if_modified(|o| o.remove(&peer).is_some());
        let Err(why) = ended;
        tracing::info!(reason = %why, "Not registered");
        net.board.tell(EventKind::Offline { peer: peer.clone(), why: why.to_string() });
        // A peer that takes us in and throws us out, again and again, does not set the pace.
        if was_online && begun.elapsed() >= STEADY {
            wait = FIRST_RETRY;
        }
        let pause = match why {
            Ended::Draining(pause) => pause.clamp(wait, LAST_RETRY),
            // Two copies that take the place from each other would never stop.
            Ended::Superseded => LAST_RETRY,
            Ended::Office(OfficeError::KeyChanged { .. }) => LAST_RETRY,
            _ => wait.mul_f64(random::jitter()),
        };
        tokio::time::sleep(pause).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

struct Home<'a> {
    net: &'a Arc<Net>,
    peer: &'a PeerHost,
}

impl Home<'_> {
    /// Registers and serves the registration until it ends.
    async fn stay(&self) -> Result<std::convert::Infallible, Ended> {
        let peer = self.peer.clone();
        let hint = self
            .net
            .store
            .run(move |m, cx| {
                let peers = m.own_peers(cx)?;
                let ours = peers.iter().find(|h| h.host == peer.host() && h.port == peer.port());
                Ok::<_, StoreError>(ours.and_then(|h| h.key))
            })
            .await?;
        let (connection, welcome) = self.net.connect(self.peer, hint, Show::Device).await?;
        let session = Session { net: self.net, connection };
        let mut grants = self.net.board.grants.subscribe();
        let id = session.register(welcome).await?;
        let (envelopes, queue) = mpsc::channel(QUEUE);
        let served = async {
            session.fetch(id, &envelopes).await?;
            self.net.observed.send_modify(|o| {
                o.insert(self.peer.clone(), welcome.observed);
            });
            self.net.board.tell(EventKind::Online { peer: self.peer.clone() });
            session.serve(id, &envelopes, &mut grants).await
        };
        // The queue is served beside the fetching, which waits for it when it is full.
        tokio::select! {
            ended = served => ended,
            failed = session.ingest(id, queue) => Err(failed),
        }
    }
}

struct Session<'a> {
    net: &'a Arc<Net>,
    connection: PeerConnection,
}

impl Session<'_> {
    async fn register(&self, welcome: Welcome) -> Result<SessionId, Ended> {
        let counter = self.net.store.run(|m, cx| m.register(cx)).await?;
        let call = Call::Register(Register {
            device: self.net.identity.device_id(),
            counter,
            instance: welcome.instance,
        });
        let registered = match self.ask(None, call).await? {
            Response::Registered(registered) => registered,
            other => return Err(unexpected(&other)),
        };
        let has = registered.bundle_seq.map(|seq| (seq, registered.one_time_keys_left));
        self.publish(registered.session, has).await?;
        self.grant(registered.session, Some(welcome)).await?;
        Ok(registered.session)
    }

    async fn publish(&self, session: SessionId, has: Option<(u64, u16)>) -> Result<(), Ended> {
        let publication = self.net.store.run(move |m, cx| m.publication(cx, has)).await?;
        if let Some(publication) = publication {
            self.tell(session, Call::Publish(publication)).await?;
        }
        Ok(())
    }

    /// Brings the peer's list of capabilities up to date.
    async fn grant(&self, session: SessionId, welcome: Option<Welcome>) -> Result<(), Ended> {
        let mut card = self.net.card();
        if let Some(welcome) = welcome {
            dial::add_reflexive(&mut card, welcome.observed);
        }
        let (grants, gone) = self
            .net
            .store
            .run(move |m, cx| Ok::<_, StoreError>((m.grants(cx, &card)?, m.revoked(cx)?)))
            .await?;
        for some in grants.chunks(MAX_GRANT) {
            self.tell(session, Call::Grant(some.to_vec())).await?;
        }
        for some in gone.chunks(MAX_GRANT) {
            self.tell(session, Call::Revoke(some.to_vec())).await?;
        }
        Ok(())
    }

    /// Reads everything that waits.
    async fn fetch(
        &self,
        session: SessionId,
        envelopes: &mpsc::Sender<Waiting>,
    ) -> Result<(), Ended> {
        let mut after = None;
        loop {
            match self.ask(Some(session), Call::Peek { after }).await? {
                Response::Page(page) => {
                    let last = page.envelopes.last().map(|w| w.id);
                    for waiting in page.envelopes {
                        let _ = envelopes.send(waiting).await;
                    }
                    if !page.more {
                        return Ok(());
                    }
                    if last <= after {
                        return Err(Ended::Lost("it gave the same page twice".into()));
                    }
                    after = last;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Takes what the peer pushes, and keeps what it has up to date.
    async fn serve(
        &self,
        session: SessionId,
        envelopes: &mpsc::Sender<Waiting>,
        grants: &mut watch::Receiver<u64>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.reset();
        loop {
            tokio::select! {
                push = self.connection.next_push() => match push {
                    Ok(Push::Envelope(waiting)) => {
                        let _ = envelopes.send(waiting).await;
                    }
                    Ok(Push::Knock { capability, observed, card }) => {
                        dial::take_knock(self.net, capability, observed, card);
                    }
                    Ok(Push::Superseded) => {
                        self.connection.close(CloseCode::Superseded);
                        return Err(Ended::Superseded);
                    }
                    Ok(Push::Draining { retry_after_ms }) => {
                        return Err(Ended::Draining(Duration::from_millis(retry_after_ms.into())));
                    }
                    Ok(Push::Welcome { .. }) => {}
                    Err(PushError::Lost(lost)) => return Err(Ended::Lost(lost.to_string())),
                    Err(PushError::Connect(e)) => return Err(Ended::Lost(e.to_string())),
                    Err(e) => tracing::debug!(reason = %e, "A push is not one"),
                },
                // The sender lives as long as the node.
                Ok(()) = grants.changed() => self.grant(session, None).await?,
                _ = upkeep.tick() => {
                    let published = self.net.store.run(|m, cx| m.published(cx)).await?;
                    self.publish(session, published).await?;
                }
            }
        }
    }

    /// Stores envelopes and lets the peer forget them.
    async fn ingest(&self, session: SessionId, mut queue: mpsc::Receiver<Waiting>) -> Ended {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            if queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return Ended::Lost("it was given up".into());
            }
            let envelopes = std::mem::take(&mut batch);
            if let Err(e) = self.ingest_batch(session, envelopes).await {
                return e;
            }
        }
    }

    async fn ingest_batch(&self, session: SessionId, envelopes: Vec<Waiting>) -> Result<(), Ended> {
        let ingested = self
            .net
            .store
            .run(move |m, cx| {
                let mut dead = Vec::new();
                let mut arrivals: Vec<Arrival> = Vec::with_capacity(envelopes.len());
                for w in &envelopes {
                    match m.open_envelope(cx, w.id, &w.envelope)? {
                        Some(arrival) => arrivals.push(arrival),
                        None => dead.push(w.id),
                    }
                }
                let mut ingested = m.ingest(cx, arrivals)?;
                ingested.refused += dead.len() as u64;
                ingested.done.extend(dead);
                Ok::<_, StoreError>(ingested)
            })
            .await?;
        self.net.after_ingest(&ingested);
        for ids in ingested.done.chunks(MAX_ACK_IDS) {
            self.tell(session, Call::Ack(ids.to_vec())).await?;
        }
        Ok(())
    }

    async fn tell(&self, session: SessionId, call: Call) -> Result<(), Ended> {
        match self.ask(Some(session), call).await? {
            Response::Done => Ok(()),
            // The contacts beyond the peer's limit cannot write to us by mailbox; the rest can.
            Response::Refused(PeerError::TooManyCapabilities) => {
                tracing::warn!("The rendezvous peer keeps no more capabilities for this node");
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, session: Option<SessionId>, call: Call) -> Result<Response, Ended> {
        let answer = self.connection.request(&Request { session, call }).await;
        answer.map_err(|e| Ended::Lost(e.to_string()))
    }
}

fn unexpected(response: &Response) -> Ended {
    match response {
        Response::Refused(e) => Ended::Refused(*e),
        _ => Ended::Lost("it gave an answer to another question".into()),
    }
}
