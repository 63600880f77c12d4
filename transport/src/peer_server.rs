//! The rendezvous peer's end of a node's connection.

use std::net::SocketAddr;
use std::sync::Arc;

use halloo_identity::PresentedDevice;
use halloo_wire::peer::{Control, Push, Request, Response};
use halloo_wire::{DecodeError, RowId};
use quinn::{Connection, RecvStream, SendStream, ZeroRttAccepted};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::MESSAGE_DEADLINE;
use crate::error::{
    CloseCode, ConnectionLost, HandshakeError, PushError, RequestFault, RespondError, stream_code,
};
use crate::incoming::{HalfOpen, Source};
use crate::message::{MessageReader, MessageWriter, ReadFault, WriteFault, encode_within_limits};
use crate::node_conn::certificates;
use crate::parking::ParkingKey;
use crate::tls::presented_device;
use crate::udp::canonical;

/// A connection that a node has opened to this rendezvous peer.
///
/// It is closed with [`CloseCode::Done`] when it and every [`Responder`] of it is dropped.
#[derive(Debug)]
pub struct ServerConnection {
    connection: Connection,
    source: Source,
    handshake: watch::Receiver<Handshake>,
    /// Requests whose bytes are still coming: one that comes slowly does not hold up the others.
    /// Their number is limited by the streams that a client may open.
    requests: Mutex<JoinSet<Option<IncomingRequest>>>,
}

/// What the handshake has brought; `None` while it goes on.
type Handshake = Option<Result<Option<Arc<PresentedDevice>>, HandshakeError>>;

/// A request, the way back for its answer, and when it came.
#[derive(Debug)]
pub struct IncomingRequest {
    /// What is asked, or why that cannot be told. An answer is due in both cases.
    pub request: Result<Request, RequestFault>,
    /// Takes the answer.
    pub responder: Responder,
    /// Whether the request came in early data and the handshake is still going on. Then it may be
    /// a replay, and it is [idempotent](halloo_wire::peer::Call::is_idempotent): all others are
    /// kept back until the handshake is done.
    pub early: bool,
}

impl ServerConnection {
    /// Waits until the handshake is done or early data has come. In the second case, a task sees
    /// the handshake to its end, which comes by `deadline`.
    pub(crate) async fn accept(
        connection: Connection,
        source: Source,
        mut confirmed: ZeroRttAccepted,
        half_open: HalfOpen,
        deadline: Instant,
    ) -> Result<Self, HandshakeError> {
        let (sender, handshake) = watch::channel(None);
        let mut requests = JoinSet::new();
        tokio::select! {
            biased;
            // The value says nothing to a server; a handshake that failed has closed the
            // connection.
            _ = &mut confirmed => {
                let device = outcome(&connection)?;
                sender.send_replace(Some(Ok(device)));
            }
            early = connection.accept_bi() => {
                let (send, recv) = early?;
                requests.spawn(read_request(send, recv, handshake.clone()));
                let connection = connection.clone();
                tokio::spawn(async move {
                    let outcome = match timeout_at(deadline, confirmed).await {
                        Ok(_) => outcome(&connection),
                        Err(_) => {
                            connection.close(CloseCode::TooSlow.to_varint(), b"");
                            Err(HandshakeError::TimedOut)
                        }
                    };
                    sender.send_replace(Some(outcome));
                    drop(half_open);
                });
            }
        }
        Ok(Self { connection, source, handshake, requests: Mutex::new(requests) })
    }

    /// Waits for the next request. Requests come in the order in which they are complete.
    ///
    /// Cancel safe: no request is lost. Several callers take turns.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the connection has ended.
    pub async fn accept_request(&self) -> Result<IncomingRequest, ConnectionLost> {
        let mut requests = self.requests.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(read) = requests.join_next() => match read {
                    Ok(Some(request)) => return Ok(request),
                    // The client took the request back.
                    Ok(None) => {}
                    Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                    Err(_) => {}
                },
                stream = self.connection.accept_bi() => {
                    let (send, recv) = stream?;
                    requests.spawn(read_request(send, recv, self.handshake.clone()));
                }
            }
        }
    }

    /// Says something unasked. Returns when QUIC has taken it, not when it has arrived.
    ///
    /// Dropped before that, it is taken back.
    ///
    /// # Errors
    /// [`PushError`]. [`TimedOut`](PushError::TimedOut) means that the node reads too slowly.
    pub async fn push(&self, push: &Push) -> Result<(), PushError> {
        let bytes = encode_within_limits(push).map_err(|_| PushError::TooLarge)?;
        let stream = timeout(MESSAGE_DEADLINE, self.connection.open_uni())
            .await
            .map_err(|_| PushError::TimedOut)?
            .map_err(ConnectionLost::from)?;
        match MessageWriter::new(stream, stream_code::CANCELLED).write(&bytes).await {
            // A node that wants no pushes says so by stopping them.
            Ok(_) | Err(WriteFault::Stopped | WriteFault::EarlyRejected) => Ok(()),
            Err(WriteFault::TooSlow) => Err(PushError::TimedOut),
            Err(WriteFault::Lost(lost)) => Err(lost.into()),
        }
    }

    /// Waits until the handshake is done, which it is from the start unless the connection began
    /// with early data. Cancel safe.
    ///
    /// # Errors
    /// [`HandshakeError`] when it failed. The connection is closed then.
    pub async fn confirmed(&self) -> Result<(), HandshakeError> {
        handshake_done(&mut self.handshake.clone()).await.map(|_| ())
    }

    /// The device that the node has shown. `None` for an anonymous node, and as long as
    /// [`confirmed`](Self::confirmed) waits.
    ///
    /// A request that needs a certificate is handed out after that, so for it the answer is final.
    pub fn device(&self) -> Option<Arc<PresentedDevice>> {
        self.handshake.borrow().as_ref()?.as_ref().ok()?.clone()
    }

    /// The node's address as it is seen from here, or the address of the tunnel that it came
    /// through: where its datagrams come from.
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Whether the node came through a tunnel. Its [`remote_addr`](Self::remote_addr) means
    /// nothing to anybody else then.
    pub fn tunnelled(&self) -> bool {
        self.source.tunnelled
    }

    /// Where the node is in the network, as far as that is known: like
    /// [`remote_addr`](Self::remote_addr), but for a tunnel where that comes from. Good for counting
    /// who asks how much, not for sending to.
    pub fn origin(&self) -> SocketAddr {
        self.source.origin.unwrap_or_else(|| self.remote_addr())
    }

    /// The key of the parked registration with this row: the one that the node has too.
    pub fn parking_key(&self, row: RowId) -> ParkingKey {
        ParkingKey::export(&self.connection, row)
    }

    /// A number that tells this connection from all others of the endpoint, while it lives.
    pub fn stable_id(&self) -> usize {
        self.connection.stable_id()
    }

    /// Closes the connection at once: answers and pushes that have not arrived yet are lost.
    pub fn close(&self, code: CloseCode) {
        self.connection.close(code.to_varint(), b"");
    }

    /// Waits for the connection's end. Cancel safe.
    pub async fn closed(&self) -> ConnectionLost {
        self.connection.closed().await.into()
    }

    /// How the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionLost> {
        self.connection.close_reason().map(Into::into)
    }
}

/// Takes the answer to one request. Dropped without one, the node hears that there is none.
#[derive(Debug)]
pub struct Responder {
    writer: MessageWriter,
}

impl Responder {
    /// Answers. Returns when QUIC has taken the answer, not when it has arrived.
    ///
    /// Dropped before that, the node hears that there is no answer.
    ///
    /// # Errors
    /// [`RespondError`]
    pub async fn send(self, response: &Response) -> Result<(), RespondError> {
        self.write(response).await.map(|_| ())
    }

    /// Answers and waits until the node has the answer, 10 seconds at most: the connection may be
    /// closed after that without losing it.
    ///
    /// Dropped while it waits, the answer is still on its way.
    ///
    /// # Errors
    /// [`RespondError`]
    pub async fn send_acknowledged(self, response: &Response) -> Result<(), RespondError> {
        let stream = self.write(response).await?;
        match timeout(MESSAGE_DEADLINE, stream.stopped()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(_)) | Err(quinn::StoppedError::ZeroRttRejected)) => {
                Err(RespondError::NotWanted)
            }
            Ok(Err(quinn::StoppedError::ConnectionLost(e))) => Err(RespondError::Lost(e.into())),
            Err(_) => Err(RespondError::TimedOut),
        }
    }

    async fn write(self, response: &Response) -> Result<SendStream, RespondError> {
        let bytes = encode_within_limits(response).map_err(|_| RespondError::TooLarge)?;
        self.writer.write(&bytes).await.map_err(|fault| match fault {
            WriteFault::Stopped | WriteFault::EarlyRejected => RespondError::NotWanted,
            WriteFault::TooSlow => RespondError::TimedOut,
            WriteFault::Lost(lost) => lost.into(),
        })
    }
}

/// Reads one request. `None` when the client took it back or the connection ended.
async fn read_request(
    send: SendStream,
    recv: RecvStream,
    mut handshake: watch::Receiver<Handshake>,
) -> Option<IncomingRequest> {
    let mut early = recv.is_0rtt();
    let responder = Responder { writer: MessageWriter::new(send, stream_code::UNANSWERED) };
    let request = match MessageReader::new::<Request>(recv).read().await {
        Ok(bytes) => Request::decode(&bytes).map_err(|e| match e {
            DecodeError::TooLong => RequestFault::TooLarge,
            other => RequestFault::Malformed(other),
        }),
        Err(ReadFault::TooLarge) => Err(RequestFault::TooLarge),
        Err(ReadFault::TooSlow) => Err(RequestFault::TooSlow),
        Err(ReadFault::Reset | ReadFault::EarlyRejected | ReadFault::Lost(_)) => return None,
    };
    if early {
        // Early data can be a recording. Whoever replays it cannot end the handshake.
        if !request.as_ref().is_ok_and(|it| it.call.is_idempotent()) {
            handshake_done(&mut handshake).await.ok()?;
        }
        early = handshake.borrow().is_none();
    }
    Some(IncomingRequest { request, responder, early })
}

async fn handshake_done(
    handshake: &mut watch::Receiver<Handshake>,
) -> Result<Option<Arc<PresentedDevice>>, HandshakeError> {
    let done = handshake.wait_for(Option::is_some).await.map(|it| it.clone());
    // Without an outcome, the runtime is stopping.
    done.ok().flatten().unwrap_or(Err(HandshakeError::Lost(ConnectionLost::ClosedHere)))
}

/// What a handshake that has ended has brought.
fn outcome(connection: &Connection) -> Result<Option<Arc<PresentedDevice>>, HandshakeError> {
    if let Some(e) = connection.close_reason() {
        return Err(e.into());
    }
    let Some(chain) = certificates(connection) else { return Ok(None) };
    let device = presented_device(&chain).ok_or(HandshakeError::BadCertificate)?;
    Ok(Some(Arc::new(device)))
}
