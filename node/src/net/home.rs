//! Our own rendezvous peer: being reachable there.

use std::sync::Arc;
use std::time::Duration;

use halloo_identity::{PeerFingerprint, PeerHost};
use halloo_transport::{CloseCode, PeerConnection, PushError};
use halloo_wire::SessionId;
use halloo_wire::limits::{MAX_ACK_IDS, MAX_GRANT};
use halloo_wire::peer::{Attested, Call, PeerError, Push, Register, Request, Response, Waiting};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::dial::{self, Knocked};
use super::parked::Parked;
use super::post::{self, ANSWER_DEADLINE, Connected, NoAnswer, OfficeError, patience};
use super::{Net, Seen};
use crate::core::places::MAX_TRIED;
use crate::core::schedule::Backoff;
use crate::core::{Arrival, Ingested};
use crate::crash;
use crate::event::EventKind;
use crate::random;
use crate::store::StoreError;

/// Envelopes that wait for the store; a full queue makes the peer wait, which keeps them.
const QUEUE: usize = 256;
/// Items that are taken in one transaction.
const MAX_BATCH: usize = 64;
/// Waits between attempts.
const RETRY: Backoff = Backoff { first: Duration::from_millis(250), last: Duration::from_secs(60) };
/// After a registration that has held, however short, no wait is longer than the one after so many
/// failures, which is 4 s: nobody can write to us until the next.
const FAILURES_AFTER_SHORT: u32 = 6;
/// Waits after a peer has said that it does not host this node: only its operator changes that, or
/// an invite, after which it is asked at once.
const UNWELCOME: Backoff =
    Backoff { first: Duration::from_secs(60), last: Duration::from_secs(3600) };
/// A registration that held for this long was a sound one: the waits begin at the first again.
const STEADY: Duration = Duration::from_secs(10);
/// How often who is not at the first machine of a name tries whether that one answers.
const LOOK_BACK: Duration = Duration::from_secs(120);
/// A peer of which nothing was heard for so long is asked whether it is there. The sign of life that
/// QUIC asks for comes every 20 seconds.
const MAX_SILENCE: Duration = Duration::from_secs(22);
/// How often it is looked whether anything was heard.
const LISTEN: Duration = Duration::from_secs(4);
/// How often the bundle's age is looked at.
pub(super) const UPKEEP: Duration = Duration::from_secs(3600);

/// What waits for the store.
enum Item {
    Envelope(Waiting),
    /// Answered when everything before it has been stored.
    Mark(oneshot::Sender<()>),
}

/// Why a registration ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the rendezvous peer cannot be reached: {0}")]
    Office(#[from] OfficeError),
    #[error("the rendezvous peer refused: {0}")]
    Refused(PeerError),
    #[error("the connection to the rendezvous peer ended: {0}")]
    Lost(String),
    #[error("another machine of the rendezvous peer serves this node")]
    Moved,
    /// Our own doubt, because of something that happened here, and not the peer's doing.
    #[error("the rendezvous peer is silent: it {0}")]
    Silent(&'static str),
    #[error("another copy of this node has registered")]
    Superseded,
    #[error("the rendezvous peer stops for a while")]
    Draining(Duration),
    #[error("the rendezvous peer does not know this node any more: it was restarted")]
    Forgotten(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps the node registered with one peer, for ever.
pub(crate) async fn run(net: Arc<Net>, peer: PeerHost) {
    let (mut failures, mut refusals) = (0, 0);
    let mut invited = net.invited.subscribe();
    loop {
        let begun = Instant::now();
        let ended = Home { net: &net, peer: &peer }.stay().await;
        let was_online = net.observed.send_if_modified(|o| o.remove(&peer).is_some());
        let Err(why) = ended;
        tracing::info!(reason = %why, "Not registered");
        net.board.tell(EventKind::Offline { peer: peer.clone(), why: why.to_string() });
        match why {
            Ended::Refused(PeerError::NotAdmitted(why)) => {
                net.not_admitted().insert(peer.clone(), why);
                net.board.tell(EventKind::NotAdmitted { peer: peer.clone(), why });
                let pause = UNWELCOME.after(refusals).mul_f64(random::jitter());
                refusals = refusals.saturating_add(1);
                if tokio::time::timeout(pause, invited.changed()).await.is_ok() {
                    refusals = 0;
                }
                continue;
            }
            _ if was_online => refusals = 0,
            _ => {}
        }
        // A peer that takes us in and throws us out, again and again, does not set the pace.
        if was_online {
            let steady = begun.elapsed() >= STEADY;
            failures = failures.min(if steady { 0 } else { FAILURES_AFTER_SHORT });
        }
        let wait = RETRY.after(failures);
        let pause = match why {
            // It is likely to be there, at the end of a new connection.
            Ended::Silent(_) | Ended::Moved => continue,
            Ended::Draining(pause) => {
                let place = net.home_at.borrow().get(&peer).cloned();
                // Others of its name do not stop.
                if let Some(place) = place.filter(|place| *place != peer) {
                    net.directory.is_silent(&place);
                }
                pause.clamp(wait, RETRY.last)
            }
            // It says when there is room for one more.
            Ended::Forgotten(pause) => pause,
            // Two copies that take the place from each other would never stop.
            Ended::Superseded | Ended::Office(OfficeError::KeyChanged { .. }) => RETRY.last,
            _ => wait.mul_f64(random::jitter()),
        };
        tokio::time::sleep(pause).await;
        failures = failures.saturating_add(1);
    }
}

struct Home<'a> {
    net: &'a Arc<Net>,
    peer: &'a PeerHost,
}

impl<'a> Home<'a> {
    /// Registers and serves the registration until it ends, with a connection while there is use
    /// for one.
    async fn stay(&self) -> Result<std::convert::Infallible, Ended> {
        loop {
            let (parked, place) = self.visit().await?;
            tracing::debug!("Parked");
            self.net.post.forget_idle();
            tokio::select! {
                ended = parked.stay() => ended?,
                () = self.better_than(&place) => return Err(Ended::Moved),
            }
            tracing::debug!("Coming for what waits");
        }
    }

    /// The key that our peer's address carries.
    async fn hint(&self) -> Result<Option<PeerFingerprint>, StoreError> {
        let peer = self.peer.clone();
        self.net
            .store
            .run(move |m, cx| {
                let peers = m.own_peers(cx)?;
                let ours = peers.iter().find(|h| h.host == peer.host() && h.port == peer.port());
                Ok::<_, StoreError>(ours.and_then(|h| h.key))
            })
            .await
    }

    /// Registers at the first machine that answers, of those behind the name of the peer.
    async fn register(&self, register: Register) -> Result<(PeerHost, Connected), Ended> {
        let hint = self.hint().await?;
        let places = self.net.places(self.peer, &self.net.identity.fingerprint()).await;
        let mut why = OfficeError::NoSuchHost(self.peer.clone());
        for (number, place) in places.iter().enumerate() {
            let is_last = number + 1 == places.len();
            let register = Some(register.clone());
            match self.net.connect_in_time(self.peer, place, hint, register, is_last).await {
                Ok(connected) => return Ok((place.clone(), connected)),
                // It answers: others would say the same, or are not to be asked.
                Err(OfficeError::Refused(PeerError::Draining | PeerError::PeerFull))
                    if !is_last =>
                {
                    self.net.directory.is_silent(place);
                }
                Err(OfficeError::Refused(e)) => return Err(Ended::Refused(e)),
                Err(e @ (OfficeError::KeyChanged { .. } | OfficeError::Store(_))) => {
                    return Err(e.into());
                }
                Err(e) => why = e,
            }
        }
        Err(why.into())
    }

    /// Returns when another machine than the one at `place` is the one to be registered at: the
    /// first that serves us, or the next if that does not answer.
    async fn better_than(&self, place: &PeerHost) {
        let mut changed = self.net.directory.changed.subscribe();
        let mut look = Instant::now() + LOOK_BACK.mul_f64(random::jitter());
        loop {
            tokio::select! {
                Ok(()) = changed.changed() => {}
                () = tokio::time::sleep_until(look) => {}
            }
            look = Instant::now() + LOOK_BACK.mul_f64(random::jitter());
            let order = self.net.order(self.peer, &self.net.identity.fingerprint()).await;
            let Ok(hint) = self.hint().await else { continue };
            let better = order.iter().take(MAX_TRIED).take_while(|it| *it != place);
            for it in better {
                let found = self.net.connect_in_time(self.peer, it, hint, None, false).await;
                if let Ok(found) = found {
                    found.connection.close(CloseCode::Done);
                    return;
                }
            }
        }
    }

    /// Registers, and serves the connection until it is parked. Returns where that is, too.
    async fn visit(&self) -> Result<(Parked<'a>, PeerHost), Ended> {
        let card = self.net.card();
        let peer = self.peer.clone();
        let (counter, mut grants, invite) = self
            .net
            .store
            .run(move |m, cx| {
                Ok::<_, StoreError>((m.register(cx)?, m.grants(cx, &card)?, m.invite(cx, &peer)?))
            })
            .await?;
        let mut granted = self.net.board.grants.subscribe();
        if grants.len() <= MAX_GRANT {
            granted.mark_unchanged();
        } else {
            // The rest follows.
            grants.truncate(MAX_GRANT);
            granted.mark_changed();
        }
        let mut attest = self.net.probing.attest.subscribe();
        attest.mark_changed();
        let device = self.net.identity.device_id();
        let register = Register { device, counter, instance: None, grants, invite };
        let (place, connected) = self.register(register).await?;
        self.net.home_at.send_modify(|at| {
            at.insert(self.peer.clone(), place.clone());
        });
        self.net.probing.met(self.peer, &place, &connected);
        let Connected { connection, welcome, tunnel, registered } = connected;
        let Some(registered) = registered else {
            return Err(Ended::Lost("it did not answer the registration".into()));
        };
        let (addr, by_tunnel) = (welcome.observed, tunnel.is_some());
        let before = self.net.observed.borrow().get(self.peer).map(|seen| seen.place.clone());
        let returns = before.as_ref() == Some(&place);
        let seen = Seen { addr, by_tunnel, caught_up: returns, place: place.clone() };
        let session = Session { net: self.net, connection, by_tunnel, again: Notify::new() };
        let id = registered.session;
        let (kept_by, run) = (self.peer.clone(), welcome.instance);
        self.net.store.run(move |m, cx| m.mailbox_kept_by(cx, &kept_by, run)).await?;
        let (envelopes, queue) = mpsc::channel(QUEUE);
        let served = async {
            let has = registered.bundle_seq.map(|seq| (seq, registered.one_time_keys_left));
            let reachable = async {
                // What others need to write to us.
                tokio::try_join!(session.publish(id, has), session.revoke(id))?;
                self.net.not_admitted().remove(self.peer);
                self.net.observed.send_modify(|o| {
                    o.insert(self.peer.clone(), seen);
                });
                // Who was parked was there all the time.
                if !returns {
                    let (peer, machine) = (self.peer.clone(), place.clone());
                    self.net.board.tell(EventKind::Online { peer, machine });
                    self.net.spawn(Arc::clone(self.net).warm_up());
                }
                Ok(())
            };
            // What they have written meanwhile.
            tokio::try_join!(reachable, session.fetch(id, &envelopes))?;
            let (stored, all_stored) = oneshot::channel();
            let _ = envelopes.send(Item::Mark(stored)).await;
            let caught_up = async {
                if all_stored.await.is_ok() {
                    self.net.observed.send_modify(|o| {
                        o.entry(self.peer.clone()).and_modify(|seen| seen.caught_up = true);
                    });
                }
                Ok(())
            };
            let serve = session.serve(id, &envelopes, &mut granted, &mut attest);
            tokio::try_join!(caught_up, serve).map(|((), parked)| parked)
        };
        // The queue is served beside the fetching, which waits for it when it is full.
        tokio::select! {
            ended = served => ended.map(|parked| (parked, place.clone())),
            () = self.better_than(&place) => Err(Ended::Moved),
            end = Connected::tunnel_end(tunnel.as_ref()) => {
                Err(Ended::Lost(format!("the tunnel over TCP: {end}")))
            }
            failed = session.ingest(id, queue) => Err(failed),
        }
    }
}

struct Session<'a> {
    net: &'a Arc<Net>,
    connection: PeerConnection,
    by_tunnel: bool,
    /// Something was too early to be taken, and others have been read since.
    again: Notify,
}

impl<'a> Session<'a> {
    async fn publish(&self, session: SessionId, has: Option<(u64, u16)>) -> Result<(), Ended> {
        let publication = self.net.store.run(move |m, cx| m.publication(cx, has)).await?;
        if let Some(publication) = publication {
            self.tell(session, Call::Publish(publication)).await?;
        }
        Ok(())
    }

    /// Brings the peer's list of capabilities up to date.
    async fn grant(&self, session: SessionId) -> Result<(), Ended> {
        let card = self.net.card();
        let grants = self.net.store.run(move |m, cx| m.grants(cx, &card)).await?;
        for some in grants.chunks(MAX_GRANT) {
            self.tell(session, Call::Grant(some.to_vec())).await?;
        }
        self.revoke(session).await
    }

    async fn revoke(&self, session: SessionId) -> Result<(), Ended> {
        let gone = self.net.store.run(|m, cx| m.revoked(cx)).await?;
        for some in gone.chunks(MAX_GRANT) {
            self.tell(session, Call::Revoke(some.to_vec())).await?;
        }
        Ok(())
    }

    /// Reads everything that waits.
    async fn fetch(&self, session: SessionId, envelopes: &mpsc::Sender<Item>) -> Result<(), Ended> {
        let mut after = None;
        loop {
            match self.ask(Some(session), Call::Peek { after }).await? {
                Response::Page(page) => {
                    let last = page.envelopes.last().map(|w| w.id);
                    for waiting in page.envelopes {
                        let _ = envelopes.send(Item::Envelope(waiting)).await;
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

    /// Takes what the peer pushes, and keeps what it has up to date, until there has been no use for
    /// the connection for so long that it is parked.
    async fn serve(
        &self,
        session: SessionId,
        envelopes: &mpsc::Sender<Item>,
        grants: &mut watch::Receiver<u64>,
        attest: &mut watch::Receiver<Vec<Attested>>,
    ) -> Result<Parked<'a>, Ended> {
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.reset();
        // No datagram finds its way back through a tunnel that has ended.
        let park_after = self.net.park_after.filter(|_| !self.by_tunnel);
        let mut used = Instant::now();
        let mut network = self.net.network.subscribe();
        let mut ended = self.net.ended.subscribe();
        let mut listen = tokio::time::interval(LISTEN);
        listen.reset();
        let mut heard = (self.connection.datagrams_heard(), Instant::now());
        loop {
            let idle = async {
                match park_after {
                    Some(after) => tokio::time::sleep_until(used + after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = idle => match self.park(session).await? {
                    Some(parked) => return Ok(parked),
                    None => used = Instant::now(),
                },
                push = self.connection.next_push() => match push {
                    Ok(Push::Envelope(waiting)) => {
                        used = Instant::now();
                        let _ = envelopes.send(Item::Envelope(waiting)).await;
                    }
                    Ok(Push::Knock { capability, observed, card, channel, datagrams }) => {
                        used = Instant::now();
                        let via = self.connection.remote_addr();
                        let rtt = self.connection.rtt();
                        let knocked = Knocked {
                            capability, observed, card, channel, datagrams, via, rtt,
                        };
                        dial::take_knock(self.net, knocked);
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
                Ok(()) = attest.changed() => {
                    let more = attest.borrow_and_update().clone();
                    if !more.is_empty() {
                        self.tell(session, Call::Attest(more)).await?;
                    }
                }
                () = self.again.notified() => self.fetch(session, envelopes).await?,
                () = self.net.board.forget.notified() => {
                    for ids in self.net.board.take_forgotten().chunks(MAX_ACK_IDS) {
                        self.tell(session, Call::Ack(ids.to_vec())).await?;
                    }
                    // What was passed over for them has its turn.
                    self.again.notify_one();
                }
                // The sender lives as long as the node.
                Ok(()) = grants.changed() => self.grant(session).await?,
                // The peer learns where we are now, or we learn that it is out of reach.
                Ok(()) = network.changed() => {
                    if !self.answers(session).await? {
                        // Our other connections do not know it yet either.
                        self.net.post.forget_all();
                        return Err(Ended::Silent("has not answered since the network changed"));
                    }
                    self.net.spawn(Arc::clone(self.net).warm_up());
                }
                // A connection to a peer has ended. If it was this peer, which was restarted, then
                // so has this one, and would not know it before its next sign of life.
                Ok(()) = ended.changed() => {
                    if !self.answers(session).await? {
                        return Err(Ended::Silent("may have been restarted"));
                    }
                }
                // QUIC asks for a sign of life more often than that.
                _ = listen.tick() => {
                    let (count, at) = heard;
                    if self.connection.datagrams_heard() != count {
                        heard = (self.connection.datagrams_heard(), Instant::now());
                    } else if at.elapsed() >= MAX_SILENCE && !self.answers(session).await? {
                        return Err(Ended::Silent("has not been heard for a while"));
                    }
                }
                _ = upkeep.tick() => {
                    let published = self.net.store.run(|m, cx| m.published(cx)).await?;
                    self.publish(session, published).await?;
                }
            }
        }
    }

    /// Asks to be rung by datagrams, and ends the connection. `None` when the peer does not do that.
    async fn park(&self, session: SessionId) -> Result<Option<Parked<'a>>, Ended> {
        let halloo_wire::peer::Parked { row, silence_s } =
            match self.ask(Some(session), Call::Park).await? {
                Response::Parked(parked) => parked,
                Response::Refused(e) => {
                    tracing::debug!(reason = %e, "Not parked");
                    return Ok(None);
                }
                other => return Err(unexpected(&other)),
            };
        let parked = Parked {
            net: self.net,
            peer: self.connection.remote_addr(),
            rtt: self.connection.rtt(),
            row,
            key: self.connection.parking_key(row),
            silence: Duration::from_secs(silence_s.into()),
        };
        self.connection.close(CloseCode::Done);
        Ok(Some(parked))
    }

    /// Tells the peer where we are, and says whether it has heard that; `false` when it is silent.
    async fn answers(&self, session: SessionId) -> Result<bool, Ended> {
        let more = self.net.probing.attest.borrow().clone();
        let request = Request { session: Some(session), call: Call::Attest(more) };
        match post::ask(&self.connection, &request, patience(&self.connection)).await {
            Ok(response) => done(response).map(|()| true),
            Err(NoAnswer::Silent) => Ok(false),
            Err(NoAnswer::Failed(e)) => Err(Ended::Lost(e.to_string())),
        }
    }

    /// Stores envelopes and lets the peer forget them.
    async fn ingest(&self, session: SessionId, mut queue: mpsc::Receiver<Item>) -> Ended {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            if queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return Ended::Lost("it was given up".into());
            }
            let mut envelopes = Vec::with_capacity(batch.len());
            let mut marks = Vec::new();
            for item in batch.drain(..) {
                match item {
                    Item::Envelope(waiting) => envelopes.push(waiting),
                    Item::Mark(mark) => marks.push(mark),
                }
            }
            if !envelopes.is_empty() {
                match self.ingest_batch(session, envelopes).await {
                    // What has its turn is read, and gone from the mailbox, so this ends.
                    Ok(ingested) if ingested.fetch_again => self.again.notify_one(),
                    Ok(_) => {}
                    Err(e) => return e,
                }
            }
            for mark in marks {
                let _ = mark.send(());
            }
        }
    }

    async fn ingest_batch(
        &self,
        session: SessionId,
        envelopes: Vec<Waiting>,
    ) -> Result<Ingested, Ended> {
        let ingested = ingest(self.net, envelopes).await?;
        for ids in ingested.done.chunks(MAX_ACK_IDS) {
            self.tell(session, Call::Ack(ids.to_vec())).await?;
        }
        Ok(ingested)
    }

    async fn tell(&self, session: SessionId, call: Call) -> Result<(), Ended> {
        done(self.ask(Some(session), call).await?)
    }

    async fn ask(&self, session: Option<SessionId>, call: Call) -> Result<Response, Ended> {
        let request = Request { session, call };
        match post::ask(&self.connection, &request, ANSWER_DEADLINE).await {
            Ok(response) => Ok(response),
            Err(NoAnswer::Silent) => Err(Ended::Silent("does not answer")),
            Err(NoAnswer::Failed(e)) => Err(Ended::Lost(e.to_string())),
        }
    }
}

/// Stores envelopes. What is done with may be forgotten by the peer.
pub(super) async fn ingest(net: &Arc<Net>, envelopes: Vec<Waiting>) -> Result<Ingested, Ended> {
    crash::point("home-before-store");
    let ingested = net
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
    crash::point("home-not-forgotten");
    net.after_ingest(&ingested);
    Ok(ingested)
}

fn done(response: Response) -> Result<(), Ended> {
    match response {
        Response::Done => Ok(()),
        // The contacts beyond the peer's limit cannot write to us by mailbox; the rest can.
        Response::Refused(PeerError::TooManyCapabilities) => {
            tracing::warn!("The rendezvous peer keeps no more capabilities for this node");
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

fn unexpected(response: &Response) -> Ended {
    match response {
        Response::Refused(e) => Ended::Refused(*e),
        _ => Ended::Lost("it gave an answer to another question".into()),
    }
}
