//! Carries requests out on a node: the one place where commands, near or through the control
//! socket, meet the library.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halloo::{
    Address, Contact, Cursor, EventKind, EventStream, Fingerprint, Node, SafetyCheck, SafetyState,
    SendOptions, TypedCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::checkup;
use crate::control::protocol::{From, Reply, Request, Said};
use crate::fact::{Code, Fact, HostKind, Line, Ready, Sent, State};
use crate::failure::Failure;
use crate::perf;
use crate::tell;

/// Lines that may wait for who asked. A few, so that a slow reader slows the teller down; the
/// node keeps durable events for it.
pub(crate) const LINES_AHEAD: usize = 64;

/// Messages of a conversation in one reply.
const MAX_HISTORY: u32 = 1000;

/// A comparison that a command began.
type Check = Arc<tokio::sync::Mutex<SafetyCheck>>;

/// Carries requests out on a node.
pub(crate) struct Operator {
    node: Node,
    hosted_by: HostKind,
    /// Comparisons that commands began here, by contact: confirming needs the one that showed the
    /// code. At most one for each contact.
    checks: Mutex<HashMap<Fingerprint, Check>>,
    /// Peers that show a changed key at the moment or do not host the node, and what is in the way to contacts, so that a
    /// command that comes later hears it too. At most one entry for each peer and each contact.
    alarms: Arc<Mutex<BTreeMap<String, Fact>>>,
    alarm_watch: JoinHandle<()>,
}

impl Operator {
    /// An operator of `node`, which `hosted_by` runs.
    ///
    /// # Errors
    /// When the node's store cannot be read.
    pub(crate) async fn new(node: Node, hosted_by: HostKind) -> Result<Arc<Self>, Failure> {
        let alarms: Arc<Mutex<BTreeMap<String, Fact>>> = Arc::default();
        let events = node.events_from_now().await?;
        // What was told before that is not told again soon.
        if let Some(why) = node.not_admitted() {
            let peer = node.address().await?.peer;
            let alarm =
                tell::event(&node, EventKind::NotAdmitted { peer: peer.clone(), why }).await;
            lock(&alarms).insert(admission(&peer.to_string()), alarm);
        }
        let alarm_watch = tokio::spawn(watch_keys(node.clone(), events, alarms.clone()));
        Ok(Arc::new(Self { node, hosted_by, checks: Mutex::default(), alarms, alarm_watch }))
    }

    /// Carries a request out; what is told on the way goes to `emit`. May be dropped at any
    /// point: what was committed stays committed.
    pub(crate) async fn execute(
        &self,
        request: Request,
        emit: mpsc::Sender<Line>,
    ) -> Result<Reply, Failure> {
        match request {
            Request::Status => Ok(Reply::Status(self.ready().await?)),
            Request::Online { within_ms } => {
                // Not online in time is an answer too.
                let _ = tokio::time::timeout(ms(within_ms), self.node.online()).await;
                Ok(Reply::Status(self.ready().await?))
            }
            Request::CaughtUp { within_ms } => {
                let _ = tokio::time::timeout(ms(within_ms), self.node.caught_up()).await;
                Ok(Reply::Status(self.ready().await?))
            }
            Request::Events { from } => self.events(from, emit).await,
            Request::Contacts => {
                let contacts = self.node.contacts().await?;
                Ok(Reply::Contacts(contacts.iter().map(tell::contact).collect()))
            }
            Request::Contact { who } => Ok(card(&self.node.contact(&who).await?)),
            Request::Add { address, name, note } => {
                let address: Address =
                    address.parse().map_err(|e| Failure::new("address", format!("{e}")))?;
                Ok(card(&self.node.add_contact(&address, name.as_deref(), &note).await?))
            }
            Request::Accept { who, name } => {
                self.node.accept(&who.0, name.as_deref()).await?;
                self.card(&who.0).await
            }
            Request::Block { who } => {
                self.node.block(&who.0).await?;
                self.card(&who.0).await
            }
            Request::Send { to, text, key, parent, within_ms } => {
                let options = SendOptions {
                    client_id: key,
                    parent: parent.map(|id| id.0),
                    within: within_ms.map(ms),
                };
                let id = self.node.send_with(&to.0, &text, options).await?;
                let state = self.node.delivery(&id).await?;
                Ok(Reply::Sent(Sent {
                    to: self.name(&to.0).await,
                    id: id.to_string(),
                    state: state.map_or(State::Waiting, tell::state),
                }))
            }
            Request::Cancel { id } => {
                self.node.cancel(&id.0).await?;
                Ok(Reply::Done)
            }
            Request::HandedOver { to, within_ms } => {
                let waited =
                    tokio::time::timeout(ms(within_ms), self.node.handed_over(&to.0)).await;
                Ok(Reply::HandedOver(match waited {
                    Ok(result) => result.map(|()| true)?,
                    Err(_) => false,
                }))
            }
            Request::Delivery { id } => {
                Ok(Reply::Delivery(self.node.delivery(&id.0).await?.map(tell::state)))
            }
            Request::History { with, limit } => self.history(&with.0, limit).await,
            Request::SafetyCode { with } => self.safety_code(&with.0).await,
            Request::SafetyConfirm { with, digits } => {
                let typed = TypedCode::parse(&digits)
                    .map_err(|e| Failure::new("not-a-code", format!("{e}")))?;
                self.check(&with.0).await?.lock().await.confirm(&typed).await?;
                Ok(Reply::Done)
            }
            Request::SafetyDone { with } => {
                let verified = self.check(&with.0).await?.lock().await.done().await?;
                self.forget_check(&with.0);
                Ok(Reply::Checked {
                    verified: verified.to_string(),
                    checked: verified.is_checked(),
                })
            }
            Request::SafetyMismatch { with } => {
                self.check(&with.0).await?.lock().await.mismatch().await?;
                self.forget_check(&with.0);
                Ok(Reply::Done)
            }
            Request::SafetyCancel { with } => {
                self.check(&with.0).await?.lock().await.cancel().await?;
                self.forget_check(&with.0);
                Ok(Reply::Done)
            }
            Request::SafetyNumber { with } => {
                Ok(Reply::Number(self.node.safety_number(&with.0).to_string()))
            }
            Request::Ping { to, within_ms } => {
                let pong = self.node.ping(&to.0, ms(within_ms)).await?;
                let rtt_us = u64::try_from(pong.rtt.as_micros()).unwrap_or(u64::MAX);
                Ok(Reply::Pong { rtt_us, via: pong.via.to_string() })
            }
            Request::Connect { to } => {
                let path = self.node.connect(&to.0).await?;
                Ok(Reply::Path(tell::path(self.name(&to.0).await, &path)))
            }
            Request::Doctor { who } => {
                checkup::run(&self.node, who.as_ref().map(|who| &who.0), emit).await?;
                Ok(Reply::Status(self.ready().await?))
            }
            Request::BackUp { file, passphrase, replace } => {
                self.node.back_up(&file, &passphrase.key(), replace).await?;
                Ok(Reply::Done)
            }
            Request::Invite { invite } => {
                self.node.set_invite(&invite.0).await?;
                Ok(Reply::Done)
            }
            Request::Perf { to, direction, duration_ms } => {
                let contact = self.name(&to.0).await;
                perf::measure(&self.node, &to.0, contact, direction, duration_ms, emit)
                    .await
                    .map(Reply::Perf)
            }
        }
    }

    async fn events(&self, from: From, emit: mpsc::Sender<Line>) -> Result<Reply, Failure> {
        let mut events = match from {
            From::Now => self.node.events_from_now().await?,
            From::After(place) => self.node.events(Cursor(place)),
        };
        let alarms: Vec<Fact> = lock(&self.alarms).values().cloned().collect();
        // Each attempt tells again what is in the way; once is enough for a listener.
        let mut hindrances: HashMap<String, Fact> = HashMap::new();
        for fact in &alarms {
            if let Fact::Undeliverable { to, .. } = fact {
                hindrances.insert(to.clone(), fact.clone());
            }
        }
        let first = std::iter::once(Fact::Ready(self.ready().await?)).chain(alarms).map(Line::of);
        for line in first {
            if emit.send(line).await.is_err() {
                return Ok(Reply::Done);
            }
        }
        loop {
            let event = events.next().await?;
            let fact = tell::event(&self.node, event.kind).await;
            match &fact {
                Fact::Undeliverable { to, .. } => {
                    let before = hindrances.insert(to.clone(), fact.clone());
                    if before.as_ref() == Some(&fact) {
                        continue;
                    }
                }
                Fact::AtPeer { to, .. } | Fact::Delivered { to, .. } => drop(hindrances.remove(to)),
                _ => {}
            }
            let cursor = event.cursor.map(|c| c.0);
            let line = Line { mono_ns: event.mono_ns, cursor, ..Line::of(fact) };
            if emit.send(line).await.is_err() {
                return Ok(Reply::Done);
            }
        }
    }

    async fn history(&self, with: &Fingerprint, limit: u32) -> Result<Reply, Failure> {
        let limit = limit.min(MAX_HISTORY) as usize;
        let name = self.name(with).await;
        let mut said: Vec<Said> = Vec::new();
        for item in self.node.history(with, limit).await? {
            let state = match item.outgoing {
                true => self.node.delivery(&item.id).await?.map(tell::state),
                false => None,
            };
            said.push(tell::said(&name, with, item, state));
        }
        Ok(Reply::History(said))
    }

    async fn safety_code(&self, with: &Fingerprint) -> Result<Reply, Failure> {
        let check = self.begin_check(with).await?;
        let mut check = check.lock().await;
        if *check.state() == SafetyState::WaitingForThem {
            return Ok(Reply::Code(None));
        }
        let code = check.code().await?;
        Ok(Reply::Code(Some(Code {
            contact: self.name(with).await,
            code: code.chars().filter(char::is_ascii_digit).collect(),
            // Both sides compare the same two names, so exactly one of them reads first.
            read_first: self.node.fingerprint() < *with,
        })))
    }

    async fn begin_check(&self, with: &Fingerprint) -> Result<Check, Failure> {
        let check = Arc::new(tokio::sync::Mutex::new(self.node.check_safety(with).await?));
        lock(&self.checks).insert(*with, check.clone());
        Ok(check)
    }

    /// The comparison that showed its code here, or the one that the store remembers.
    async fn check(&self, with: &Fingerprint) -> Result<Check, Failure> {
        let known = lock(&self.checks).get(with).cloned();
        match known {
            Some(check) => Ok(check),
            None => self.begin_check(with).await,
        }
    }

    fn forget_check(&self, with: &Fingerprint) {
        lock(&self.checks).remove(with);
    }

    async fn ready(&self) -> Result<Ready, Failure> {
        Ok(Ready {
            identity: tell::identity(&self.node.address().await?),
            online: self.node.is_online(),
            online_at: self.node.online_at().iter().map(ToString::to_string).collect(),
            pid: std::process::id(),
            hosted_by: self.hosted_by,
        })
    }

    async fn card(&self, who: &Fingerprint) -> Result<Reply, Failure> {
        Ok(card(&self.node.contact(&who.to_string()).await?))
    }

    async fn name(&self, who: &Fingerprint) -> String {
        tell::name(&self.node, who).await
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.alarm_watch.abort();
    }
}

/// Keeps what peers show a changed key, until they are reached again, and to whom nothing gets
/// through, until something does.
async fn watch_keys(
    node: Node,
    mut events: EventStream,
    alarms: Arc<Mutex<BTreeMap<String, Fact>>>,
) {
    while let Ok(event) = events.next().await {
        match tell::event(&node, event.kind).await {
            Fact::Online { peer, .. } => {
                let mut alarms = lock(&alarms);
                alarms.remove(&admission(&peer));
                alarms.remove(&peer);
            }
            alarm @ Fact::NotAdmitted { .. } => {
                if let Fact::NotAdmitted { peer, .. } = &alarm {
                    lock(&alarms).insert(admission(peer), alarm.clone());
                }
            }
            Fact::AtPeer { to, .. } | Fact::Delivered { to, .. } => {
                lock(&alarms).remove(&about(&to));
            }
            Fact::Accepted { contact, .. } => {
                lock(&alarms).remove(&about(&contact));
            }
            hindrance @ Fact::Undeliverable { .. } => {
                if let Fact::Undeliverable { to, .. } = &hindrance {
                    lock(&alarms).insert(about(to), hindrance.clone());
                }
            }
            alarm @ Fact::PeerKeyChanged { .. } => {
                if let Fact::PeerKeyChanged { peer, .. } = &alarm {
                    lock(&alarms).insert(peer.clone(), alarm.clone());
                }
            }
            _ => {}
        }
    }
}

/// The key of what a peer says that does not host us. No peer is named like this.
fn admission(peer: &str) -> String {
    format!("at {peer}")
}

/// The key of what is in the way to a contact. No peer is named like this.
fn about(contact: &str) -> String {
    format!("to {contact}")
}

fn card(contact: &Contact) -> Reply {
    Reply::Contact(tell::contact(contact))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are whole after each statement, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
