//! One contact's courier: it carries what waits for the contact, as long as something waits.
//!
//! When and which way is decided by [`Schedule`]; this is its shell. Nothing here has to be
//! remembered: what is unacknowledged stands in the store, and what is sent twice arrives once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use halloo_e2ee::{BundleError, VerifiedBundle, seal};
use halloo_identity::{Fingerprint, PeerFingerprint, PeerHost};
use halloo_transport::{CloseCode, SendStream};
use halloo_wire::content::Content;
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::node::{NodeFrame, StreamKind};
use halloo_wire::peer::{
    Call, DropEnvelope, Found, KnockMessage, LookUp, PeerError, Receipt, Response,
};
use halloo_wire::{CapabilityToken, Seq, StreamId};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::Net;
use super::dial::{Answered, Dial};
use super::line::Link;
use super::post::{Office, OfficeError};
use crate::core::Departure;
use crate::core::places::MAX_TRIED;
use crate::core::schedule::{Next, PATIENCE, Schedule, Trust, Work};
use crate::crash;
use crate::error::BundleRefused;
use crate::event::{EventKind, Hindrance};
use crate::random;
use crate::store::{Outgoing, StoreError};

/// A direct connection that does not take one message in this time is not waited for.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Messages that are read from the store at once.
const PORTION: usize = 64;
/// Envelopes on the way to the peer at once. The recipient holds up to 64 that come out of order.
const IN_FLIGHT: usize = 32;
/// Least time between two attempts to get a direct connection.
const DIAL_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked for what was asked for in vain.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(60);

/// Serves one contact until the node stops.
pub(crate) async fn run(net: Arc<Net>, contact: Fingerprint, bell: Arc<Notify>) {
    let mut link = net.links.watch(&contact);
    let mut courier =
        Courier { net, contact, stream: None, schedule: Schedule::new(now()), dialled: None };
    loop {
        let current = link.borrow_and_update().clone();
        let again = courier.round(current).await;
        let pause = async {
            match again {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = bell.notified() => {}
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                // Another path is a new chance.
                courier.schedule.path_changed(now());
            }
            () = pause => {}
        }
    }
}

struct Courier {
    net: Arc<Net>,
    contact: Fingerprint,
    /// The message stream on the direct connection in use.
    stream: Option<Stream>,
    schedule: Schedule,
    dialled: Option<Instant>,
}

struct Stream {
    connection: usize,
    send: SendStream,
    /// The last place that was written, and the stream that it is in.
    written: Option<(StreamId, Seq)>,
}

/// What became of leaving everything at the contact's peer.
enum Left {
    /// It is there. A receipt goes later.
    All { receipt: Option<Instant> },
    /// There is a connection now, which is the better way.
    BetterWay,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the direct connection ended")]
    LinkLost,
    #[error("the contact's peer cannot be reached: {0}")]
    Office(#[from] OfficeError),
    #[error("the contact's peer did not answer: {0}")]
    NoAnswer(String),
    #[error("the contact's peer refused: {0}")]
    Refused(PeerError),
    #[error("the contact's keys are not sound: {0}")]
    Bundle(#[from] BundleRefused),
    #[error("an envelope cannot be sealed")]
    Seal,
    #[error("no peer of the contact is known")]
    NoPeer,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Trouble {
    /// What the program hears; `None` for what it hears otherwise, or need not know.
    fn hindrance(&self) -> Option<Hindrance> {
        match self {
            Self::LinkLost
            | Self::Store(_)
            | Self::Bundle(BundleRefused::Store(_))
            | Self::Office(OfficeError::KeyChanged { .. })
            | Self::Refused(PeerError::RateLimited { .. } | PeerError::InstanceChanged { .. }) => {
                None
            }
            Self::Refused(PeerError::UnknownRecipient { .. }) => Some(Hindrance::UnknownAtPeer),
            // A clock that is wrong, or a contact that has been away for long: nobody cheats.
            Self::Bundle(BundleRefused::Bundle(
                e @ (BundleError::NotYetValid | BundleError::Expired),
            )) => Some(Hindrance::Other { why: e.to_string() }),
            Self::Bundle(e) => Some(Hindrance::KeysRefused { why: e.to_string() }),
            other => Some(Hindrance::Other { why: other.to_string() }),
        }
    }
}

impl Courier {
    /// Carries what can be carried. Returns when to look again, unless something happens before.
    async fn round(&mut self, link: Option<Link>) -> Option<Instant> {
        self.hear();
        let link = link.filter(Link::is_open);
        let trust = match &link {
            Some(link) => match self.by_link(link).await {
                Ok(first) => self.schedule.written(now(), first),
                Err(Trouble::LinkLost) => Trust::None,
                Err(e) => return self.failed(&e),
            },
            None => {
                self.stream = None;
                Trust::None
            }
        };
        if let Some(Next::Wait(again)) = self.schedule.link_suffices(trust) {
            return again;
        }
        let (mut work, may_link) = match self.work().await {
            Ok(work) => work,
            Err(e) => return self.failed(&Trouble::Store(e)),
        };
        if let Next::Wait(again) = self.schedule.next(now(), trust, &mut work) {
            return again;
        }
        let wants_link = may_link && (work.first.is_some() || work.controls);
        let mut left = self.by_peer(&work, wants_link, link.as_ref()).await;
        for _ in 1..MAX_TRIED {
            // Whoever is not at the machine that serves them may have found another of that name.
            match &left {
                Err(Trouble::Refused(PeerError::UnknownRecipient { .. }))
                    if self.may_be_elsewhere().await =>
                {
                    left = self.by_peer(&work, wants_link, link.as_ref()).await;
                }
                _ => break,
            }
        }
        match left {
            Ok(Left::All { receipt }) => {
                self.schedule.left(now(), trust, &work, receipt, random::jitter())
            }
            Ok(Left::BetterWay) => Some(now()),
            Err(e) => self.failed(&e),
        }
    }

    /// Whether the contact's peer has another machine that was not asked for the contact lately.
    async fn may_be_elsewhere(&self) -> bool {
        let contact = self.contact;
        let Ok(Some(mail)) = self.net.store.run(move |m, cx| m.mail(cx, &contact)).await else {
            return false;
        };
        for (peer, _) in &mail.peers {
            if self.net.may_be_elsewhere(peer, &contact).await {
                return true;
            }
        }
        false
    }

    /// Takes note if the contact was heard through the mailbox. To be asked after the receipt that
    /// is due has been read: what makes one due is told before.
    fn hear(&mut self) {
        if self.net.board.take_by_mailbox(&self.contact) {
            self.schedule.heard_by_mailbox(now());
        }
    }

    /// What waits for the contact, and whether it may have a connection.
    async fn work(&self) -> Result<(Work, bool), StoreError> {
        let contact = self.contact;
        let controls = self.net.board.has_controls(&contact);
        self.net
            .store
            .run(move |m, cx| {
                let first = cx.db.first_unacked(&contact)?;
                let ack = m.due_ack(cx, &contact)?.is_some();
                let work = Work { first, ack, controls };
                Ok((work, m.allows_link(cx, &contact)?))
            })
            .await
    }

    /// Puts off the next attempt.
    fn failed(&mut self, why: &Trouble) -> Option<Instant> {
        tracing::debug!(contact = %self.contact.short(), reason = %why, "Not carried yet");
        self.tell(why);
        let retry_after = match why {
            Trouble::Refused(PeerError::RateLimited { retry_after_ms }) => {
                Some(Duration::from_millis((*retry_after_ms).into()))
            }
            _ => None,
        };
        Some(self.schedule.failed(now(), retry_after, random::jitter()))
    }

    /// Tells the program what is in the way, at each attempt: whoever begins to listen hears it too.
    fn tell(&self, why: &Trouble) {
        let Some(hindrance) = why.hindrance() else { return };
        if matches!(hindrance, Hindrance::KeysRefused { .. }) {
            tracing::warn!("A rendezvous peer gives out keys that are not the contact's");
        }
        self.net.board.tell(EventKind::Undeliverable { to: self.contact, why: hindrance });
    }

    /// Begins a connection beside everything else, unless that was tried a moment ago.
    fn dial_beside(&mut self) -> Option<Dialling> {
        if self.dialled.is_some_and(|at| at.elapsed() < DIAL_INTERVAL) {
            return None;
        }
        self.dialled = Some(Instant::now());
        let (net, contact) = (Arc::clone(&self.net), self.contact);
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match Dial::begin(&net, &contact).await {
                Ok(dial) => dial,
                Err(e) => {
                    tracing::debug!(contact = %contact.short(), reason = %e, "No connection");
                    None
                }
            }
        })))
    }

    /// Writes on the direct connection. Returns the first place that is not acknowledged.
    async fn by_link(&mut self, link: &Link) -> Result<Option<Seq>, Trouble> {
        if self.stream.as_ref().is_none_or(|s| s.connection != link.id()) {
            let mut send = link.connection.open_uni().await.map_err(|_| Trouble::LinkLost)?;
            let kind = [StreamKind::Messages.to_byte()];
            send.write_all(&kind).await.map_err(|_| Trouble::LinkLost)?;
            self.stream = Some(Stream { connection: link.id(), send, written: None });
            self.schedule.link_began();
        }
        let written = self.write_all().await;
        if written.is_err() {
            self.stream = None;
        }
        written
    }

    /// Writes everything that can leave. Returns the first place that is not acknowledged.
    async fn write_all(&mut self) -> Result<Option<Seq>, Trouble> {
        let (net, contact) = (Arc::clone(&self.net), self.contact);
        loop {
            let Some(written) = self.stream.as_ref().map(|s| s.written) else { return Ok(None) };
            let by_link = net
                .store
                .run(move |m, cx| m.depart_by_link(cx, &contact, written, PORTION))
                .await?;
            self.hear();
            let Some(stream) = &mut self.stream else { return Ok(None) };
            if let Some(due) = by_link.ack {
                write(&mut stream.send, &NodeFrame::Ack(due.ack)).await?;
                crash::point("link-receipt-not-noted");
                if self.schedule.receipt_by_link_suffices() {
                    net.store.run(move |m, cx| m.ack_sent(cx, &contact, due)).await?;
                    net.receipt_given.notify_one();
                    self.schedule.receipt_given(false);
                }
            }
            match by_link.departure {
                Departure::Ready(ready) => {
                    let all = ready.len() < PORTION;
                    for message in ready {
                        crash::point("link-before-write");
                        write(&mut stream.send, &NodeFrame::Inner(message.inner)).await?;
                        crash::point("link-after-write");
                        stream.written = Some((by_link.stream, message.seq));
                    }
                    if all {
                        // Behind what is in the stream: each was encrypted after it.
                        for inner in net.board.take_controls(&contact) {
                            write(&mut stream.send, &NodeFrame::Inner(inner)).await?;
                        }
                        return Ok(by_link.first);
                    }
                }
                Departure::NeedBundle => fetch_bundle(&net, &contact).await?,
            }
        }
    }

    /// Leaves everything at the contact's peer that does not wait there.
    /// With `dial`, it knocks as well, and the first message rides in the knock. `tried` is the
    /// connection that could not carry it.
    async fn by_peer(
        &mut self,
        work: &Work,
        dial: bool,
        tried: Option<&Link>,
    ) -> Result<Left, Trouble> {
        let net = Arc::clone(&self.net);
        let mut dialling = if dial { self.dial_beside() } else { None };
        let mut carrier = match Carrier::open(&net, self.contact).await {
            Ok(carrier) => carrier,
            Err(e) => {
                if let Some(dialling) = dialling {
                    net.spawn(async move {
                        // Without their peer they may still be nearby.
                        if let Ok(Some(dial)) = dialling.await {
                            let _ = dial.nearby().await;
                        }
                    });
                }
                return Err(e);
            }
        };
        let begun = Instant::now();
        while work.first.is_some() {
            // Whoever writes without a pause would never give a receipt.
            self.leave_ack(&mut carrier).await?;
            // There is a connection now, or it can be tried again, which is the better way.
            // Whoever writes without a pause would keep this going for ever.
            let better = match tried {
                Some(link) if link.is_open() && self.link_id() == Some(link.id()) => {
                    begun.elapsed() >= PATIENCE && link.is_heard()
                }
                _ => self.link_id().is_some(),
            };
            if better {
                return Ok(Left::BetterWay);
            }
            let instance = carrier.office.instance;
            let contact = self.contact;
            let departure = self
                .net
                .store
                .run(move |m, cx| m.depart_to_peer(cx, &contact, instance, IN_FLIGHT))
                .await?;
            match departure {
                Departure::NeedBundle => carrier.renew().await?,
                Departure::Ready(ready) if ready.is_empty() => break,
                Departure::Ready(ready) => carrier.leave(ready, dialling.take()).await?,
            }
        }
        if let Some(dialling) = dialling {
            carrier.knock(dialling, None);
        }
        // Messages outside of the stream go after what is in it, so that a peer that has just
        // restarted never gets them behind a gap.
        for inner in self.net.board.take_controls(&self.contact) {
            carrier.leave_control(&inner).await?;
        }
        Ok(Left::All { receipt: self.leave_ack(&mut carrier).await? })
    }

    /// The connection in use at the moment.
    fn link_id(&self) -> Option<usize> {
        self.net.links.current(&self.contact).map(|link| link.id())
    }

    /// Leaves the receipt that is due, when its time has come. Returns when that will be.
    async fn leave_ack(&mut self, carrier: &mut Carrier<'_>) -> Result<Option<Instant>, Trouble> {
        let contact = self.contact;
        let due = self.net.store.run(move |m, cx| m.due_ack(cx, &contact)).await?;
        let Some(due) = due else {
            self.schedule.receipt_given(true);
            return Ok(None);
        };
        let later = self.schedule.receipt_at(now(), random::jitter() - 0.5);
        if later.is_some() && !self.net.leaving.load(Ordering::Relaxed) {
            return Ok(later);
        }
        let made = self
            .net
            .store
            .run(move |m, cx| m.make_control(cx, &contact, Kind::Ack, &due.ack.encode()))
            .await?;
        let Some(inner) = made else { return Ok(None) };
        carrier.leave_control(&inner).await?;
        crash::point("mailbox-receipt-not-noted");
        self.schedule.receipt_given(true);
        self.net.store.run(move |m, cx| m.ack_sent(cx, &contact, due)).await?;
        self.net.receipt_given.notify_one();
        Ok(None)
    }
}

/// The runtime's time, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn write(send: &mut SendStream, frame: &NodeFrame) -> Result<(), Trouble> {
    let bytes = frame.encode();
    match tokio::time::timeout(WRITE_DEADLINE, send.write_all(&bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Trouble::LinkLost),
    }
}

/// A connection that is being begun; `None` when there is one already, or cannot be.
type Dialling = AbortOnDropHandle<Option<Dial>>;

/// A way to leave envelopes for a contact.
struct Carrier<'a> {
    net: &'a Arc<Net>,
    contact: Fingerprint,
    office: Office,
    token: Option<CapabilityToken>,
    look_up: LookUp,
    bundle: VerifiedBundle,
}

impl<'a> Carrier<'a> {
    async fn open(net: &'a Arc<Net>, contact: Fingerprint) -> Result<Self, Trouble> {
        let mail =
            net.store.run(move |m, cx| m.mail(cx, &contact)).await?.ok_or(Trouble::NoPeer)?;
        let office = first_office(net, mail.peers, &contact).await?;
        let look_up = LookUp { to: contact, device: mail.device };
        let seen = (mail.bundle_seq > 0).then_some(mail.bundle_seq);
        let cached = mail.bundle.and_then(|bytes| {
            let now = crate::clock::unix_now();
            VerifiedBundle::from_bytes(&bytes, &contact, mail.device, now, seen).ok()
        });
        let bundle = match cached {
            Some(bundle) => bundle,
            None => look_up_and_take(net, &office, look_up).await?,
        };
        Ok(Self { net, contact, office, token: mail.token, look_up, bundle })
    }

    /// Fetches the bundle again; the store begins a session with its one-time key.
    async fn renew(&mut self) -> Result<(), Trouble> {
        self.bundle = look_up_and_take(self.net, &self.office, self.look_up).await?;
        Ok(())
    }

    /// Leaves messages, several at once, and notes which the peer has. The first rides in a knock
    /// when one is due.
    async fn leave(
        &mut self,
        ready: Vec<Outgoing>,
        mut dialling: Option<Dialling>,
    ) -> Result<(), Trouble> {
        let mut drops = JoinSet::new();
        for message in ready {
            let drop = self.envelope(message.kind, &message.inner)?;
            let office = self.office.clone();
            crash::point("peer-before-drop");
            if let Some(dialling) = dialling.take().filter(|_| message.kind != Kind::Request) {
                let answer = self.knock(dialling, Some(drop));
                drops.spawn(async move {
                    let gone = || Err("the node stops".into());
                    (message, answer.await.unwrap_or_else(|_| gone()))
                });
            } else {
                drops.spawn(async move {
                    let answer = office.ask(Call::Drop(drop)).await;
                    (message, answer.map_err(|e| e.to_string()))
                });
            }
        }
        let mut left: Vec<(Outgoing, Receipt)> = Vec::new();
        let mut trouble = None;
        while let Some(done) = drops.join_next().await {
            match done {
                Ok((message, Ok(Response::Dropped(receipt))))
                    if receipt.instance == self.office.instance =>
                {
                    crash::point("peer-receipt-not-noted");
                    left.push((message, receipt));
                }
                Ok((_, Ok(Response::Refused(e)))) => trouble = Some(self.refused(e)),
                Ok((_, Ok(_))) => trouble = Some(Trouble::NoAnswer("another answer".into())),
                Ok((_, Err(e))) => trouble = Some(Trouble::NoAnswer(e)),
                Err(_) => trouble = Some(Trouble::NoAnswer("the node stops".into())),
            }
        }
        left.sort_by_key(|(message, _)| message.seq);
        let contact = self.contact;
        self.net.store.run(move |m, cx| m.parked(cx, &contact, &left)).await?;
        trouble.map_or(Ok(()), Err)
    }

    /// Knocks in a task of its own, which goes on until there is a connection. Returns what became
    /// of the message, as if it had been dropped.
    fn knock(
        &self,
        dialling: Dialling,
        message: Option<DropEnvelope>,
    ) -> oneshot::Receiver<Result<Response, String>> {
        let (answer, answered) = oneshot::channel();
        let (office, contact) = (self.office.clone(), self.contact);
        self.net.spawn(async move {
            let Some(dial) = dialling.await.ok().flatten() else {
                if let Some(drop) = message {
                    let dropped = office.ask(Call::Drop(drop)).await;
                    let _ = answer.send(dropped.map_err(|e| e.to_string()));
                }
                return;
            };
            let message = message
                .map(|drop| KnockMessage { instance: drop.instance, envelope: drop.envelope });
            let reaching = match dial.knock(&office, message).await {
                Ok(Answered { message, reaching }) => {
                    let response = match message {
                        Some(Ok(receipt)) => Ok(Response::Dropped(receipt)),
                        Some(Err(e)) => Ok(Response::Refused(e)),
                        None => Err("it said nothing of the message".into()),
                    };
                    // Nobody listens when no message rode along.
                    let _ = answer.send(response);
                    reaching
                }
                Err(e) => {
                    let _ = answer.send(Err(e.to_string()));
                    return;
                }
            };
            let reached = match reaching {
                Ok(reaching) => reaching.finish().await,
                Err(e) => Err(e),
            };
            if let Err(e) = reached {
                tracing::debug!(contact = %contact.short(), reason = %e, "No connection");
            }
        });
        answered
    }

    async fn leave_control(&mut self, inner: &[u8]) -> Result<(), Trouble> {
        // The kind of a control message is inside; for the lane only "not a request" counts.
        let drop = self.envelope(Kind::Ack, inner)?;
        match self.office.ask(Call::Drop(drop)).await {
            Ok(Response::Dropped(_)) => Ok(()),
            Ok(Response::Refused(e)) => Err(self.refused(e)),
            Ok(_) => Err(Trouble::NoAnswer("another answer".into())),
            Err(e) => Err(Trouble::NoAnswer(e.to_string())),
        }
    }

    fn refused(&self, e: PeerError) -> Trouble {
        if matches!(e, PeerError::InstanceChanged { .. }) {
            // The connection believes in a run that is over.
            self.office.connection.close(CloseCode::Done);
        }
        if matches!(e, PeerError::UnknownRecipient { .. }) {
            self.net.not_there(&self.office, &self.contact);
        }
        Trouble::Refused(e)
    }

    fn envelope(&self, kind: Kind, inner: &[u8]) -> Result<DropEnvelope, Trouble> {
        let token = self.token.clone().filter(|_| kind != Kind::Request);
        let lane = if token.is_some() { Lane::Contacts } else { Lane::Strangers };
        Ok(DropEnvelope {
            to: self.contact,
            device: self.look_up.device,
            token,
            instance: Some(self.office.instance),
            envelope: seal(&self.bundle, lane, inner).map_err(|_| Trouble::Seal)?,
        })
    }
}

async fn first_office(
    net: &Arc<Net>,
    peers: Vec<(PeerHost, Option<PeerFingerprint>)>,
    contact: &Fingerprint,
) -> Result<Office, Trouble> {
    let mut trouble = Trouble::NoPeer;
    for (peer, key) in peers {
        match net.office(&peer, key, contact).await {
            Ok(office) => return Ok(office),
            Err(e) => trouble = Trouble::Office(e),
        }
    }
    Err(trouble)
}

async fn look_up(net: &Net, office: &Office, who: LookUp) -> Result<Found, Trouble> {
    match office.ask(Call::LookUp(who)).await {
        Ok(Response::Found(found)) => Ok(found),
        Ok(Response::Refused(e)) => {
            if matches!(e, PeerError::UnknownRecipient { .. }) {
                net.not_there(office, &who.to);
            }
            Err(Trouble::Refused(e))
        }
        Ok(_) => Err(Trouble::NoAnswer("another answer".into())),
        Err(e) => Err(Trouble::NoAnswer(e.to_string())),
    }
}

async fn look_up_and_take(
    net: &Arc<Net>,
    office: &Office,
    who: LookUp,
) -> Result<VerifiedBundle, Trouble> {
    let found = look_up(net, office, who).await?;
    let (contact, device) = (who.to, who.device);
    let bundle = net
        .store
        .run(move |m, cx| {
            m.take_bundle(cx, &contact, &found)?;
            VerifiedBundle::verify(&found, &contact, device, cx.now, None)
                .map_err(BundleRefused::from)
        })
        .await?;
    Ok(bundle)
}

/// Fetches a contact's bundle from the contact's peer.
async fn fetch_bundle(net: &Arc<Net>, contact: &Fingerprint) -> Result<(), Trouble> {
    let contact = *contact;
    let mail = net.store.run(move |m, cx| m.mail(cx, &contact)).await?.ok_or(Trouble::NoPeer)?;
    let office = first_office(net, mail.peers, &contact).await?;
    look_up_and_take(net, &office, LookUp { to: contact, device: mail.device }).await?;
    Ok(())
}

/// Asks again and again for what could not be read and does not come.
pub(crate) async fn ask_for_missing(net: Arc<Net>) {
    loop {
        tokio::time::sleep(LOOK_FOR_MISSING.mul_f64(random::jitter())).await;
        match net.store.run(|m, cx| m.due_resends(cx)).await {
            Ok(due) => {
                for contact in due {
                    net.spawn(ask_again(Arc::clone(&net), contact));
                }
            }
            Err(StoreError::Stopped) => return,
            Err(e) => tracing::debug!(reason = %e, "Could not look for what is missing"),
        }
    }
}

/// Asks a contact to send again what could not be read, under fresh keys.
pub(crate) async fn ask_again(net: Arc<Net>, contact: Fingerprint) {
    let asked: Result<(), Trouble> = async {
        let mail =
            net.store.run(move |m, cx| m.mail(cx, &contact)).await?.ok_or(Trouble::NoPeer)?;
        let office = first_office(&net, mail.peers, &contact).await?;
        let found = look_up(&net, &office, LookUp { to: contact, device: mail.device }).await?;
        let made = net.store.run(move |m, cx| m.make_resend(cx, &contact, &found)).await?;
        if let Some(inner) = made {
            net.board.take(crate::core::Output::Control(contact, inner));
        }
        Ok(())
    }
    .await;
    if let Err(e) = asked {
        tracing::debug!(contact = %contact.short(), reason = %e, "Could not ask again");
    }
}
