//! Connections to contacts: which one is used, and what arrives on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halloo_identity::Fingerprint;
use halloo_transport::{CloseCode, NodeConnection, RecvStream, SendStream};
use halloo_wire::DecodeError;
use halloo_wire::limits::{MAX_CHANNEL_NAME, MAX_NODE_FRAME};
use halloo_wire::node::{ChannelName, NodeFrame, StreamKind};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Net;
use super::line::{Line, Link};
use crate::channel::{Channel, IncomingChannel};
use crate::core::{Ingested, Output};
use crate::crash;
use crate::event::{EventKind, Path, Via};
use crate::store::StoreError;

/// Frames of one connection that wait for the store; a full queue stops the reading, and QUIC's
/// flow control stops the sender.
const QUEUE: usize = 256;
/// Frames that are taken in one transaction.
const MAX_BATCH: usize = 128;
/// How long a connection that lost against a better one lives on for the channels in it.
const GRACE: Duration = Duration::from_secs(30);
/// Time in which the head of a stream has to come.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Stream error codes: nobody takes the channel; the bytes are not the protocol.
const NO_TAKER: u32 = 0x10;
const NOT_PROTOCOL: u32 = 0x11;

/// Two connections that are made within this time were dialled at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Connections to one contact at a time. Both sides may dial, and two may be on their way out.
const MAX_CONNECTIONS: usize = 4;

/// The connection in use for each contact.
#[derive(Default)]
pub(crate) struct Links {
    map: Mutex<HashMap<Fingerprint, Slot>>,
}

struct Slot {
    current: watch::Sender<Option<Link>>,
    /// Connections that are served, in use or not. A line has to live as long as its connection, or
    /// the other side would not hear that it ends when this node stops.
    served: Vec<Link>,
    /// When the one in use was put in use.
    since: Instant,
}

impl Default for Slot {
    fn default() -> Self {
        Self { current: watch::Sender::new(None), served: Vec::new(), since: Instant::now() }
    }
}

impl Links {
    /// The connection in use, if one lives.
    pub(crate) fn current(&self, contact: &Fingerprint) -> Option<Link> {
        let map = self.lock();
        let current = map.get(contact)?.current.borrow().clone();
        current.filter(Link::is_open)
    }

    /// Follows the connection in use.
    pub(crate) fn watch(&self, contact: &Fingerprint) -> watch::Receiver<Option<Link>> {
        self.lock().entry(*contact).or_default().current.subscribe()
    }

    /// Ends the connection to a contact that may no longer have one.
    pub(crate) fn disconnect(&self, contact: &Fingerprint) {
        if let Some(link) = self.current(contact) {
            link.close(CloseCode::NotWelcome);
        }
    }

    /// The connections in use.
    pub(crate) fn all(&self) -> Vec<Link> {
        self.lock().values().filter_map(|slot| slot.current.borrow().clone()).collect()
    }

    /// Puts a connection in use, or not; returns the one that is not in use any more.
    ///
    /// When both sides dial at once there are two. Both sides keep the one that the smaller
    /// fingerprint dialled. One that comes [later](AT_ONCE) takes the place of any: who dials again
    /// has lost the other, which may take this side a minute to notice.
    fn offer(&self, ours: &Fingerprint, new: &Link) -> Offer {
        let theirs = new.line.contact;
        let rank = |c: &Link| c.connection.dialed() == (*ours < theirs);
        let mut map = self.lock();
        let slot = map.entry(theirs).or_default();
        if slot.served.len() >= MAX_CONNECTIONS {
            return Offer::TooMany;
        }
        slot.served.push(new.clone());
        let old = slot.current.borrow().clone().filter(Link::is_open);
        match old {
            Some(old) if rank(&old) && !rank(new) && slot.since.elapsed() < AT_ONCE => {
                Offer::KeepsOld
            }
            old => {
                slot.since = Instant::now();
                slot.current.send_replace(Some(new.clone()));
                Offer::Taken(old)
            }
        }
    }

    /// Takes a connection that ended out of use and out of the count. Returns whether it was in use.
    fn remove(&self, link: &Link) -> bool {
        let mut map = self.lock();
        let Some(slot) = map.get_mut(&link.line.contact) else { return false };
        slot.served.retain(|it| it.id() != link.id());
        slot.current.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|c| c.id() == link.id());
            if same {
                *current = None;
            }
            same
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Slot>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Offer {
    Taken(Option<Link>),
    KeepsOld,
    TooMany,
}

/// Takes a connection whose other end has proved its fingerprint, if that contact may have one.
pub(crate) async fn adopt(net: &Arc<Net>, connection: NodeConnection, line: Arc<Line>) {
    let contact = connection.fingerprint();
    if contact != line.contact {
        connection.close(CloseCode::NotWelcome);
        return;
    }
    let allowed = net.store.run(move |m, cx| m.allows_link(cx, &contact)).await;
    if !allowed.unwrap_or(false) {
        connection.close(CloseCode::NotWelcome);
        return;
    }
    let link = Link { connection, line };
    match net.links.offer(&net.identity.fingerprint(), &link) {
        Offer::Taken(old) => {
            if let Some(old) = old {
                net.spawn(retire(old));
            }
            let path = link.path();
            if link.line.is_news(&path) {
                net.board.tell(EventKind::Path { contact, path });
            }
            net.board.wake([contact]);
        }
        Offer::KeepsOld => net.spawn(retire(link.clone())),
        Offer::TooMany => {
            link.close(CloseCode::Busy);
            return;
        }
    }
    net.spawn(serve(Arc::clone(net), link));
}

/// Lets a connection that is not used any more run dry.
async fn retire(link: Link) {
    let _ = tokio::time::timeout(GRACE, link.connection.closed()).await;
    link.close(CloseCode::Superseded);
}

/// Serves what arrives on a connection until it ends.
async fn serve(net: Arc<Net>, link: Link) {
    let (contact, connection) = (link.line.contact, &link.connection);
    let streams = async {
        loop {
            tokio::select! {
                stream = connection.accept_uni() => match stream {
                    Ok(stream) => {
                        net.spawn(read_messages(Arc::clone(&net), link.clone(), stream));
                    }
                    Err(_) => return,
                },
                stream = connection.accept_bi() => match stream {
                    Ok((send, recv)) => net.spawn(answer(Arc::clone(&net), contact, send, recv)),
                    Err(_) => return,
                },
            }
        }
    };
    streams.await;
    let why = connection.closed().await;
    tracing::debug!(reason = %why, "A connection ended");
    if net.links.remove(&link) {
        net.board.tell(EventKind::Path { contact, path: Path::Mailbox });
        net.board.wake([contact]);
    }
}

/// Reads a message stream: frames go to the store in batches.
async fn read_messages(net: Arc<Net>, link: Link, mut stream: RecvStream) {
    let (frames, mut queue) = mpsc::channel(QUEUE);
    let read = async move {
        let mut kind = [0];
        stream.read_exact(&mut kind).await.ok()?;
        if StreamKind::from_byte(kind[0]) != Ok(StreamKind::Messages) {
            let _ = stream.stop(NOT_PROTOCOL.into());
            return None;
        }
        loop {
            match read_frame(&mut stream).await {
                Some(Ok(frame)) => frames.send(frame).await.ok()?,
                Some(Err(e)) => {
                    tracing::debug!(reason = %e, "A frame is not one");
                    let _ = stream.stop(NOT_PROTOCOL.into());
                    return None;
                }
                None => return Some(()),
            }
        }
    };
    let store = async {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let frames = std::mem::take(&mut batch);
            let (contact, via) = (link.line.contact, link.via());
            crash::point("direct-before-store");
            match net.store.run(move |m, cx| take_frames(m, cx, &contact, via, frames)).await {
                Ok(ingested) => {
                    crash::point("direct-after-store");
                    net.after_ingest(&ingested);
                    // What had come by mailbox, before its turn.
                    if ingested.fetch_again || !ingested.done.is_empty() {
                        net.board.take(Output::Forget(ingested.done));
                    }
                }
                // Nothing was acknowledged: the sender keeps it and sends it again.
                Err(e) => tracing::error!(error = %e, "Messages could not be stored"),
            }
        }
    };
    tokio::join!(read, store);
}

fn take_frames(
    m: &mut crate::core::Messenger,
    cx: &mut crate::core::Context<'_>,
    contact: &Fingerprint,
    via: Via,
    frames: Vec<NodeFrame>,
) -> Result<Ingested, StoreError> {
    let mut arrivals = Vec::with_capacity(frames.len());
    for frame in frames {
        match frame {
            NodeFrame::Inner(bytes) => arrivals.extend(m.open_frame(contact, via, &bytes)),
            NodeFrame::Ack(ack) => m.take_ack(cx, contact, ack, via)?,
        }
    }
    m.ingest(cx, arrivals)
}

/// Reads a frame; `None` at the end of the stream.
async fn read_frame(stream: &mut RecvStream) -> Option<Result<NodeFrame, DecodeError>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.ok()?;
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_NODE_FRAME {
        return Some(Err(DecodeError::TooLong));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(NodeFrame::decode(&bytes))
}

/// Answers a bidirectional stream: a ping, or a channel for the program.
async fn answer(net: Arc<Net>, contact: Fingerprint, mut send: SendStream, mut recv: RecvStream) {
    let head = tokio::time::timeout(HEAD_DEADLINE, read_head(&mut recv)).await;
    match head.ok().flatten() {
        Some(Head::Ping(bytes)) => {
            // The other side may have gone; its ping is not ours to save.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
        }
        Some(Head::Channel(name)) => {
            let channel = Channel { send, recv };
            let incoming = IncomingChannel { from: contact, name, channel };
            if let Err(refused) = net.channels.try_send(incoming) {
                let mut channel = refused.into_inner().channel;
                let _ = channel.send.reset(NO_TAKER.into());
                let _ = channel.recv.stop(NO_TAKER.into());
            }
        }
        None => {
            let _ = send.reset(NOT_PROTOCOL.into());
            let _ = recv.stop(NOT_PROTOCOL.into());
        }
    }
}

enum Head {
    Ping([u8; 8]),
    Channel(String),
}

async fn read_head(recv: &mut RecvStream) -> Option<Head> {
    let mut kind = [0];
    recv.read_exact(&mut kind).await.ok()?;
    match StreamKind::from_byte(kind[0]).ok()? {
        StreamKind::Ping => {
            let mut bytes = [0; 8];
            recv.read_exact(&mut bytes).await.ok()?;
            Some(Head::Ping(bytes))
        }
        StreamKind::Channel => {
            let mut len = [0; 2];
            recv.read_exact(&mut len).await.ok()?;
            let len = usize::from(u16::from_be_bytes(len));
            if len > MAX_CHANNEL_NAME {
                return None;
            }
            let mut name = vec![0; len];
            recv.read_exact(&mut name).await.ok()?;
            Some(Head::Channel(ChannelName::decode(&name).ok()?.as_str().to_owned()))
        }
        StreamKind::Messages => None,
    }
}

impl Net {
    /// Follows up on what arrived: asks again for what could not be read.
    pub(crate) fn after_ingest(self: &Arc<Self>, ingested: &Ingested) {
        for contact in &ingested.unreadable {
            self.spawn(super::courier::ask_again(Arc::clone(self), *contact));
        }
    }

    /// Sends eight bytes to a contact and back on the direct connection.
    pub(crate) async fn echo(&self, connection: &NodeConnection) -> Option<Duration> {
        let begun = Instant::now();
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        let nonce = crate::random::bytes::<8>();
        let mut ping = vec![StreamKind::Ping.to_byte()];
        ping.extend_from_slice(&nonce);
        send.write_all(&ping).await.ok()?;
        let _ = send.finish();
        let mut answer = [0; 8];
        recv.read_exact(&mut answer).await.ok()?;
        (answer == nonce).then(|| begun.elapsed())
    }
}
