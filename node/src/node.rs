//! A running node.

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halloo_identity::safety::TypedCode;
use halloo_identity::{Address, Fingerprint, HomeKey, PeerHost, SafetyNumber, safety_number};
use halloo_transport::CloseCode;
use halloo_wire::content::{Body, Content, Message, Ping};
use halloo_wire::inner::Kind;
use halloo_wire::node::{ChannelName, StreamKind};
use halloo_wire::peer::NotAdmitted;
use halloo_wire::{Invite, MessageId};
use tokio::sync::mpsc;

use crate::builder::Builder;
use crate::channel::{Channel, IncomingChannel};
use crate::check::SafetyCheck;
use crate::contact::{CheckedHow, Contact, DirectPolicy};
use crate::core::{Output, delivery_of};
use crate::error::{
    BackupError, CancelError, ChannelError, ConnectError, ContactError, PingError, SafetyError,
    SendError, StoreError,
};
use crate::event::{Cursor, Delivery, EventKind, Path, Via};
use crate::home::{backup, own_address, set_invite};
use crate::net::{Net, Seen};
use crate::store::{ContactRow, StoreThread};
use crate::stream::EventStream;

/// How long a shutdown waits for each of its steps.
const SHUTDOWN_STEP: Duration = Duration::from_secs(3);
/// How long the receipts that are due get to leave at the end.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the good-byes get to leave. QUIC itself would wait three seconds for a connection whose
/// round trip it does not know yet.
const GOOD_BYE: Duration = Duration::from_millis(300);
/// How often [`Node::handed_over`] looks: a program that is about to end does not notice.
const HANDED_OVER_LOOK: Duration = Duration::from_millis(20);
/// Most messages that one call of [`Node::history`] returns.
pub const MAX_HISTORY: usize = 10_000;

/// A running node. Cheap to clone; all clones are the same node.
///
/// Call [`Node::shutdown`] at the end. When the last clone is dropped without it, the tasks are
/// stopped where they are; nothing that was accepted is lost.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    net: Arc<Net>,
    channels: tokio::sync::Mutex<mpsc::Receiver<IncomingChannel>>,
    /// Joined at shutdown. The thread holds the lock on the home until the store is closed.
    thread: Mutex<Option<StoreThread>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.net.stop.cancel();
        self.net.endpoint.close(CloseCode::ShuttingDown);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({}…)", self.fingerprint().short())
    }
}

/// Settings of one message.
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The program's own name for the message, unique for this contact. Sending twice under one
    /// name sends once, also after a crash between the call and its answer.
    pub client_id: Option<String>,
    /// The message that this one answers.
    pub parent: Option<MessageId>,
    /// How long it may wait here before it leaves, to the second, by this machine's clock. If it
    /// has not left then, it fails as [`FailReason::Expired`](crate::FailReason::Expired). What has
    /// left does not expire. `None` waits for ever.
    pub within: Option<Duration>,
}

/// A message that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// The message's name.
    pub id: MessageId,
    /// Whether we said it.
    pub outgoing: bool,
    /// When it was accepted for sending or arrived, Unix seconds by this machine's clock.
    pub at_unix_s: u64,
    /// The text; `None` for a kind of message that this version does not know.
    pub text: Option<String>,
    /// The message that it answers.
    pub parent: Option<MessageId>,
    /// Where it stands, for a message of ours. That a copy waits at the recipient's peer is told
    /// by [`Node::delivery`] only.
    pub delivery: Option<Delivery>,
}

/// An answer to a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// From asking to the answer.
    pub rtt: Duration,
    /// How both travelled.
    pub via: Via,
}

/// Numbers about a running node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeStats {
    /// Contacts with a connection on a direct path.
    pub direct_connections: usize,
    /// Contacts with a connection through a relay.
    pub relayed_connections: usize,
    /// Peers of ours where we are registered.
    pub peers_online: usize,
    /// Tasks that run.
    pub tasks: usize,
}

impl Node {
    /// Begins to describe a node.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(
        net: Arc<Net>,
        thread: StoreThread,
        channels: mpsc::Receiver<IncomingChannel>,
    ) -> Self {
        let thread = Mutex::new(Some(thread));
        let channels = tokio::sync::Mutex::new(channels);
        Self { inner: Arc::new(Inner { net, channels, thread }) }
    }

    pub(crate) fn net(&self) -> &Arc<Net> {
        &self.inner.net
    }

    /// Stops the node: gives the receipts that are due, says good-bye to everybody, ends all tasks,
    /// closes the store and gives up the home. What was accepted and not delivered goes on at the
    /// next start.
    ///
    /// # Cancel safety
    /// Cancel safe: call it again to wait further.
    pub async fn shutdown(&self) {
        let net = &self.inner.net;
        if self.is_online() {
            let _ = tokio::time::timeout(FAREWELL, net.give_receipts()).await;
        }
        net.stop.cancel();
        net.tasks.close();
        net.endpoint.close(CloseCode::ShuttingDown);
        let _ = tokio::time::timeout(SHUTDOWN_STEP, net.tasks.wait()).await;
        let _ = tokio::time::timeout(GOOD_BYE, net.endpoint.wait_idle()).await;
        net.store.close().await;
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            let _ = tokio::time::timeout(SHUTDOWN_STEP, joined).await;
        }
    }

    // Oneself.

    /// This identity's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.net.identity.fingerprint()
    }

    /// The address to give to others. It carries the peer's key as soon as that is known.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn address(&self) -> Result<Address, StoreError> {
        let address = self.inner.net.store.run(|m, cx| own_address(m, cx)).await?;
        address.ok_or(StoreError::Unreadable("own peers"))
    }

    /// Gives the node an invite for its rendezvous peer, which is kept, and has it register at once
    /// if it is not registered.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be stored.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn set_invite(&self, invite: &Invite) -> Result<(), StoreError> {
        let (net, invite) = (&self.inner.net, *invite);
        net.store.run(move |m, cx| set_invite(m, cx, &invite)).await?;
        net.invited.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Why the node's rendezvous peer does not host it, if that is so: what the peer answered the
    /// last time.
    pub fn not_admitted(&self) -> Option<NotAdmitted> {
        self.inner.net.not_admitted().values().next().copied()
    }

    /// Where the node's UDP port is open on this machine.
    ///
    /// # Errors
    /// What the system says when it does not know.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.net.endpoint.local_addr()
    }

    /// Whether the node is registered with a peer.
    pub fn is_online(&self) -> bool {
        !self.inner.net.observed.borrow().is_empty()
    }

    /// The machines at which the node is registered: one for each of its peers that takes it. It is
    /// the peer itself where that name stands for one machine.
    pub fn online_at(&self) -> Vec<PeerHost> {
        self.inner.net.observed.borrow().values().map(|seen| seen.place.clone()).collect()
    }

    /// Waits until the node is registered with a peer.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn online(&self) {
        let mut observed = self.inner.net.observed.subscribe();
        // The sender lives in this node.
        let _ = observed.wait_for(|o| !o.is_empty()).await;
    }

    /// Waits until the node is registered with a peer and has stored what waited there: requests
    /// and messages that came while it was away.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn caught_up(&self) {
        let mut observed = self.inner.net.observed.subscribe();
        // The sender lives in this node.
        let caught_up = |seen: &Seen| seen.caught_up;
        let _ = observed.wait_for(|o| !o.is_empty() && o.values().all(caught_up)).await;
    }

    /// Numbers about the running node.
    pub fn stats(&self) -> NodeStats {
        let net = &self.inner.net;
        let links = net.links.all();
        let direct = links.iter().filter(|l| l.via() == Via::Direct).count();
        NodeStats {
            direct_connections: direct,
            relayed_connections: links.len() - direct,
            peers_online: net.observed.borrow().len(),
            tasks: net.tasks.len(),
        }
    }

    /// Who may learn this node's addresses.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn direct_policy(&self) -> Result<DirectPolicy, StoreError> {
        self.inner.net.store.run(|m, cx| m.policy(cx)).await
    }

    /// Changes who may learn this node's addresses. Connections that are not allowed any more end.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be stored.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn set_direct_policy(&self, policy: DirectPolicy) -> Result<(), StoreError> {
        self.inner.net.store.run(move |m, cx| m.set_policy(cx, policy)).await
    }

    // Contacts.

    /// Asks somebody to become a contact, with a line to them. If they have asked already, this
    /// accepts.
    ///
    /// # Errors
    /// [`ContactError`] says what is wrong with the address or the name.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn add_contact(
        &self,
        address: &Address,
        name: Option<&str>,
        note: &str,
    ) -> Result<Contact, ContactError> {
        let (address, name, note) = (address.clone(), name.map(str::to_owned), note.to_owned());
        let row = self
            .inner
            .net
            .store
            .run(move |m, cx| m.add_contact(cx, &address, name.as_deref(), &note))
            .await?;
        self.contact_of(row).await.map_err(ContactError::from)
    }

    /// All contacts, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        let rows = self.inner.net.store.run(|_, cx| cx.db.contacts()).await?;
        let mut contacts = Vec::with_capacity(rows.len());
        for row in rows {
            contacts.push(self.contact_of(row).await?);
        }
        Ok(contacts)
    }

    /// Finds a contact by name, address, fingerprint, or the first eight or more characters of a
    /// fingerprint.
    ///
    /// # Errors
    /// [`ContactError::Unknown`] when there is none, or more than one.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn contact(&self, text: &str) -> Result<Contact, ContactError> {
        let text = text.to_owned();
        let row = self.inner.net.store.run(move |m, cx| m.find_contact(cx, &text)).await?;
        self.contact_of(row).await.map_err(ContactError::from)
    }

    /// The contact with a fingerprint, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn contact_by_fingerprint(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Contact>, StoreError> {
        let fp = *fingerprint;
        match self.inner.net.store.run(move |_, cx| cx.db.contact(&fp)).await? {
            Some(row) => self.contact_of(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Accepts a request, giving the contact a name if one is given.
    ///
    /// # Errors
    /// [`ContactError::NotAsked`] when there is no request.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn accept(
        &self,
        contact: &Fingerprint,
        name: Option<&str>,
    ) -> Result<(), ContactError> {
        let (fp, name) = (*contact, name.map(str::to_owned));
        self.inner.net.store.run(move |m, cx| m.accept(cx, &fp, name.as_deref())).await
    }

    /// Stops hearing from somebody. What is not delivered to them fails; they are not told.
    ///
    /// # Errors
    /// [`ContactError::Unknown`] when there is no such contact.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn block(&self, contact: &Fingerprint) -> Result<(), ContactError> {
        let fp = *contact;
        self.inner.net.store.run(move |m, cx| m.block(cx, &fp)).await
    }

    /// Gives a contact another name.
    ///
    /// # Errors
    /// [`ContactError::NameTaken`], [`ContactError::BadName`], [`ContactError::Unknown`].
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn rename(&self, contact: &Fingerprint, name: &str) -> Result<(), ContactError> {
        let (fp, name) = (*contact, name.to_owned());
        self.inner.net.store.run(move |m, cx| m.rename(cx, &fp, &name)).await
    }

    // Messages.

    /// Accepts a text for sending. When this returns, the message is on disk and will be tried
    /// until it is delivered; events tell how it goes on.
    ///
    /// # Errors
    /// [`SendError`]: nothing was kept.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still send. Use [`SendOptions::client_id`] to be able
    /// to ask again.
    pub async fn send(&self, to: &Fingerprint, text: &str) -> Result<MessageId, SendError> {
        self.send_with(to, text, SendOptions::default()).await
    }

    /// Like [`Node::send`], with settings.
    ///
    /// # Errors
    /// [`SendError`]: nothing was kept.
    ///
    /// # Cancel safety
    /// Like [`Node::send`].
    pub async fn send_with(
        &self,
        to: &Fingerprint,
        text: &str,
        options: SendOptions,
    ) -> Result<MessageId, SendError> {
        let (to, text) = (*to, text.to_owned());
        self.inner
            .net
            .store
            .run(move |m, cx| {
                let SendOptions { client_id, parent, within } = options;
                m.send(cx, &to, &text, client_id.as_deref(), parent, within)
            })
            .await
    }

    /// Writes a backup of the home while the node runs, like [`Home::back_up`](crate::Home::back_up).
    /// Everything that was accepted before this is called is in it. Nothing is accepted or read
    /// while the store is copied: about a second for 100 MB.
    ///
    /// # Errors
    /// Those of [`Home::back_up`](crate::Home::back_up).
    ///
    /// # Cancel safety
    /// A dropped call goes on, and may still write the file.
    pub async fn back_up(
        &self,
        file: &FilePath,
        key: &HomeKey,
        replace: bool,
    ) -> Result<(), BackupError> {
        let (net, file, key) = (Arc::clone(&self.inner.net), file.to_owned(), key.clone());
        let written = tokio::task::spawn_blocking(move || {
            backup::write(&net.identity, &file, &key, replace, |to, data_key| {
                net.store.copy(to, data_key)
            })
        });
        written.await.unwrap_or(Err(BackupError::Store(StoreError::Stopped)))
    }

    /// Takes a message of ours back that has not left: while the recipient has not accepted us,
    /// while neither they nor their peer could be reached, or while many wait before it. It fails
    /// as [`FailReason::Cancelled`](crate::FailReason::Cancelled), and the recipient hears nothing
    /// of it. Cancelling it again is Ok.
    ///
    /// # Errors
    /// [`CancelError::TooLate`] once it has been encrypted, also when it has not arrived yet.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect. Call it again to know.
    pub async fn cancel(&self, id: &MessageId) -> Result<(), CancelError> {
        let id = *id;
        self.inner.net.store.run(move |m, cx| m.cancel(cx, &id)).await
    }

    /// Where a message of ours stands; `None` when it is not one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn delivery(&self, id: &MessageId) -> Result<Option<Delivery>, StoreError> {
        let id = *id;
        self.inner.net.store.run(move |m, cx| m.delivery(cx, &id)).await
    }

    /// Waits until a message of ours is delivered or has failed for good.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the node stops before; [`StoreError::Unreadable`] when it is
    /// not a message of ours.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_delivery(&self, id: &MessageId) -> Result<Delivery, StoreError> {
        // Listening begins before looking, so that nothing falls between.
        let mut live = self.inner.net.board.subscribe();
        loop {
            match self.delivery(id).await? {
                Some(delivery) if delivery.is_final() => return Ok(delivery),
                Some(_) => {}
                None => return Err(StoreError::Unreadable("message that is not ours")),
            }
            loop {
                tokio::select! {
                    event = live.recv() => match event {
                        Ok(event) => match event.kind {
                            EventKind::Delivered { id: of, .. } | EventKind::Failed { id: of, .. }
                                if of == *id => break,
                            _ => {}
                        },
                        // Some were missed: look again.
                        Err(_) => break,
                    },
                    () = self.inner.net.stop.cancelled() => return Err(StoreError::Stopped),
                }
            }
        }
    }

    /// Waits until nothing for a contact waits here only: everything that may leave, also a
    /// contact request or its answer, has been left at the contact's peer or has arrived. For
    /// programs that run for a moment and should not end too early.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the node stops before, [`StoreError`] when the store cannot be
    /// read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn handed_over(&self, contact: &Fingerprint) -> Result<(), StoreError> {
        let net = &self.inner.net;
        let fp = *contact;
        while net.store.run(move |m, cx| m.waits_here(cx, &fp)).await? {
            tokio::select! {
                () = tokio::time::sleep(HANDED_OVER_LOOK) => {}
                () = net.stop.cancelled() => return Err(StoreError::Stopped),
            }
        }
        Ok(())
    }

    /// The last messages with a contact, at most `limit` and [`MAX_HISTORY`], oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn history(
        &self,
        contact: &Fingerprint,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, StoreError> {
        let fp = *contact;
        let limit = limit.min(MAX_HISTORY);
        let rows = self.inner.net.store.run(move |_, cx| cx.db.history(&fp, limit)).await?;
        let items = rows.into_iter().map(|row| {
            let message = Message::decode(&row.content).ok();
            let (text, parent) = match message {
                Some(Message { parent, body: Body::Text(text), .. }) => (Some(text), parent),
                _ => (None, None),
            };
            HistoryItem {
                id: row.id,
                outgoing: row.outgoing,
                at_unix_s: row.at,
                text,
                parent,
                delivery: delivery_of(row.state),
            }
        });
        Ok(items.collect())
    }

    // Events.

    /// Events from a cursor on: first the durable ones after it, then what happens. Use
    /// `Cursor::default()` for all that are kept.
    pub fn events(&self, after: Cursor) -> EventStream {
        let net = &self.inner.net;
        EventStream::new(net.store.clone(), net.board.subscribe(), net.stop.clone(), after)
    }

    /// Events from this moment on.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn events_from_now(&self) -> Result<EventStream, StoreError> {
        let live = self.inner.net.board.subscribe();
        let cursor = self.inner.net.store.run(|_, cx| cx.db.last_event()).await?;
        let net = &self.inner.net;
        Ok(EventStream::new(net.store.clone(), live, net.stop.clone(), cursor))
    }

    // Making sure.

    /// Begins to compare a code with a contact, or joins the comparison that runs.
    ///
    /// # Errors
    /// [`SafetyError::Locked`] after three failed runs, [`SafetyError::NotAccepted`].
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still begin the comparison.
    pub async fn check_safety(&self, contact: &Fingerprint) -> Result<SafetyCheck, SafetyError> {
        let events = self.events_from_now().await?;
        let fp = *contact;
        let (_, state) = self.inner.net.store.run(move |m, cx| m.check_safety(cx, &fp)).await?;
        Ok(SafetyCheck::new(self.clone(), fp, events, state))
    }

    /// The 60 digits that are the same at both ends and never change: for comparing face to face.
    pub fn safety_number(&self, contact: &Fingerprint) -> SafetyNumber {
        safety_number(&self.fingerprint(), contact)
    }

    /// Notes that two people have compared the 60 digits, or scanned them, face to face.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be stored.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn mark_number_compared(&self, contact: &Fingerprint) -> Result<(), StoreError> {
        let fp = *contact;
        self.inner.net.store.run(move |m, cx| m.set_checked(cx, &fp, CheckedHow::Number)).await
    }

    pub(crate) async fn confirm_safety(
        &self,
        contact: &Fingerprint,
        typed: &TypedCode,
    ) -> Result<(), SafetyError> {
        let (fp, typed) = (*contact, *typed);
        self.inner.net.store.run(move |m, cx| m.confirm_safety(cx, &fp, &typed)).await?
    }

    pub(crate) async fn give_up_safety(
        &self,
        contact: &Fingerprint,
        differ: bool,
    ) -> Result<(), SafetyError> {
        let fp = *contact;
        Ok(self.inner.net.store.run(move |m, cx| m.give_up_safety(cx, &fp, differ)).await?)
    }

    // Paths and channels.

    /// How something sent to a contact travels at this moment.
    pub fn path(&self, contact: &Fingerprint) -> Path {
        match self.inner.net.links.current(contact) {
            Some(link) => link.path(),
            None => Path::Mailbox,
        }
    }

    /// Gets a connection to a contact unless there is one. It begins on a relay, when the contact's
    /// peer has one, and moves to a direct path as soon as there is one: events tell.
    ///
    /// # Errors
    /// [`ConnectError`] says why there is none.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(&self, contact: &Fingerprint) -> Result<Path, ConnectError> {
        if self.inner.net.stop.is_cancelled() {
            return Err(ConnectError::Stopped);
        }
        self.inner.net.dial(contact).await?;
        Ok(self.path(contact))
    }

    /// Waits until the path to a contact is direct, which it may never be: put a time limit on it.
    /// It makes no connection itself: see [`Node::connect`].
    ///
    /// # Errors
    /// [`ConnectError::Stopped`] when the node stops before.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_direct(&self, contact: &Fingerprint) -> Result<Path, ConnectError> {
        let net = &self.inner.net;
        // Listening begins before looking, so that nothing falls between.
        let mut live = net.board.subscribe();
        let mut link = net.links.watch(contact);
        loop {
            let path = self.path(contact);
            if matches!(path, Path::Direct { .. }) {
                return Ok(path);
            }
            tokio::select! {
                // Any event is a reason to look again, and so is having missed some.
                _ = live.recv() => {}
                _ = link.changed() => {}
                () = net.stop.cancelled() => return Err(ConnectError::Stopped),
            }
        }
    }

    /// Opens a channel to a contact, on the connection, which is made when there is none. It is
    /// direct where it can be and relayed where it cannot, and moves between the two unseen.
    /// The name says what the channel is for.
    ///
    /// # Errors
    /// [`ChannelError`] says why it did not open. Whether the contact's program takes it shows in
    /// the streams: a channel that nobody takes is reset.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call may leave a channel that the contact sees reset.
    pub async fn open_channel(
        &self,
        contact: &Fingerprint,
        name: &str,
    ) -> Result<Channel, ChannelError> {
        let name = ChannelName::new(name).map_err(|_| ChannelError::BadName)?;
        self.connect(contact).await?;
        let link = self.inner.net.links.current(contact).ok_or(ChannelError::Lost)?;
        link.line.want_direct();
        let (mut send, recv) = link.connection.open_bi().await.map_err(|_| ChannelError::Lost)?;
        let mut head = vec![StreamKind::Channel.to_byte()];
        head.extend_from_slice(&name.encode());
        send.write_all(&head).await.map_err(|_| ChannelError::Lost)?;
        Ok(Channel { send, recv })
    }

    /// The next channel that a contact opens. `None` when the node has stopped. At most 64 wait;
    /// more are refused.
    ///
    /// # Cancel safety
    /// Cancel safe: no channel is lost.
    pub async fn accept_channel(&self) -> Option<IncomingChannel> {
        let mut channels = self.inner.channels.lock().await;
        tokio::select! {
            channel = channels.recv() => channel,
            () = self.inner.net.stop.cancelled() => None,
        }
    }

    /// Sends a few bytes to a contact and back: on the direct connection when there is one, else
    /// through both rendezvous peers.
    ///
    /// # Errors
    /// [`PingError::Timeout`] when no answer came in `timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ping(&self, contact: &Fingerprint, timeout: Duration) -> Result<Pong, PingError> {
        let net = &self.inner.net;
        if let Some(link) = net.links.current(contact) {
            let via = link.via();
            let echo = tokio::time::timeout(timeout, net.echo(&link.connection)).await;
            return match echo.ok().flatten() {
                Some(rtt) => Ok(Pong { rtt, via }),
                None => Err(PingError::Timeout),
            };
        }
        let begun = tokio::time::Instant::now();
        let nonce = crate::random::u64();
        let fp = *contact;
        let answer = net.board.await_pong(fp, nonce).ok_or(PingError::Timeout)?;
        let inner = net
            .store
            .run(move |m, cx| {
                let row = cx.db.contact(&fp)?.ok_or(PingError::UnknownContact)?;
                if row.state != crate::contact::ContactState::Accepted {
                    return Err(PingError::NotAccepted);
                }
                Ok(m.make_control(cx, &fp, Kind::Ping, &Ping { nonce }.encode())?)
            })
            .await?;
        if let Some(inner) = inner {
            net.board.take(Output::Control(fp, inner));
        }
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(())) => Ok(Pong { rtt: begun.elapsed(), via: Via::Mailbox }),
            _ => Err(PingError::Timeout),
        }
    }

    async fn contact_of(&self, row: ContactRow) -> Result<Contact, StoreError> {
        let peers = row.peers.clone();
        let address = self
            .inner
            .net
            .store
            .run(move |_, cx| {
                let hint = peers.first().ok_or(StoreError::Unreadable("peers"))?;
                let peer = PeerHost::try_from(hint).map_err(|_| StoreError::Unreadable("peers"))?;
                let peer_key = cx.db.pin(&peer)?.or(hint.key);
                Ok::<_, StoreError>(Address { peer, peer_key, fingerprint: row.fp })
            })
            .await?;
        Ok(Contact {
            fingerprint: row.fp,
            address,
            name: row.name,
            given_name: row.given_name,
            note: row.note,
            state: row.state,
            verified: row.verified,
            path: self.path(&row.fp),
        })
    }
}
