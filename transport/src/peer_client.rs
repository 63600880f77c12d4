//! The node's end of a connection to a rendezvous peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halloo_identity::peer_fingerprint_of_cert;
use halloo_wire::peer::{Control, Push, Request, Response};
use halloo_wire::{PeerFingerprint, RowId};
use quinn::{Connection, ZeroRttAccepted};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{HANDSHAKE_DEADLINE, REQUEST_DEADLINE};
use crate::dialled::Acquaintance;
use crate::error::{
    CloseCode, ConnectError, ConnectionLost, Dialled, PushError, RequestError, stream_code,
};
use crate::message::{MessageReader, MessageWriter, ReadFault, WriteFault, encode_within_limits};
use crate::node_conn::certificates;
use crate::parking::ParkingKey;
use crate::tls::PeerTrust;
use crate::udp::canonical;

/// What became of early data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyData {
    /// There was no ticket: an ordinary handshake.
    NotTried,
    /// The peer took it: a request was under way before the first round trip.
    Accepted,
    /// The peer did not take it. Idempotent requests were sent again by themselves.
    Rejected,
}

/// A connection to a rendezvous peer.
///
/// Clones are handles to the same connection, which is closed with [`CloseCode::Done`] when the
/// last one is dropped and its handshake has ended.
///
/// When the endpoint holds a ticket of the peer, the connection exists before the handshake has
/// ended. Then [`request`](Self::request) sends what is idempotent at once and lets everything
/// else wait, and a failed handshake shows as [`RequestError::Connect`]. Only a peer that holds
/// the pinned key can read or answer early data.
#[derive(Debug, Clone)]
pub struct PeerConnection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    peer: PeerFingerprint,
    handshake: watch::Receiver<Handshake>,
    /// The push that is being read, kept here so that a reader may be dropped at any time.
    push: Mutex<Option<MessageReader>>,
    _known: Acquaintance,
}

/// `None` while it goes on.
type Handshake = Option<Result<EarlyData, ConnectError>>;

impl PeerConnection {
    /// Wraps a connection whose handshake is done.
    pub(crate) fn established(
        connection: Connection,
        trust: PeerTrust,
        known: Acquaintance,
    ) -> Result<Self, ConnectError> {
        let peer = check_peer(&connection, trust)?;
        let (_, handshake) = watch::channel(Some(Ok(EarlyData::NotTried)));
        Ok(Self::new(connection, peer, handshake, known))
    }

    /// Wraps a connection that can send early data to the peer with the key `pinned`. A task sees
    /// the handshake to its end, which comes within [`HANDSHAKE_DEADLINE`].
    pub(crate) fn early(
        connection: Connection,
        accepted: ZeroRttAccepted,
        pinned: PeerFingerprint,
        known: Acquaintance,
    ) -> Self {
        let (sender, handshake) = watch::channel(None);
        let it = connection.clone();
        tokio::spawn(async move {
            let outcome = finish_handshake(&it, accepted, pinned).await;
            // Nobody listens when the connection has been dropped.
            let _ = sender.send(Some(outcome));
        });
        Self::new(connection, pinned, handshake, known)
    }

    fn new(
        connection: Connection,
        peer: PeerFingerprint,
        handshake: watch::Receiver<Handshake>,
        known: Acquaintance,
    ) -> Self {
        let push = Mutex::new(None);
        Self { inner: Arc::new(Inner { connection, peer, handshake, push, _known: known }) }
    }

    /// Asks the peer, and waits for its answer, 15 seconds at most. Requests do not wait for each
    /// other.
    ///
    /// [`Response::Refused`] is an answer, not an error.
    ///
    /// Dropped, it takes the request back if the peer has not read all of it yet; whether the peer
    /// has carried it out is unknown.
    ///
    /// # Errors
    /// [`RequestError`]. Of these, [`TooLarge`](RequestError::TooLarge) and
    /// [`Connect`](RequestError::Connect) mean that nothing was carried out.
    pub async fn request(&self, request: &Request) -> Result<Response, RequestError> {
        let bytes = encode_within_limits(request).map_err(|_| RequestError::TooLarge)?;
        let deadline = Instant::now() + REQUEST_DEADLINE;
        let exchange = async {
            if !request.call.is_idempotent() {
                // Early data can be replayed by whoever recorded it.
                self.confirmed().await?;
            }
            match self.exchange(&bytes, deadline).await {
                Err(Failed::EarlyRejected) => {
                    self.confirmed().await?;
                    self.exchange(&bytes, deadline).await
                }
                other => other,
            }
            .map_err(|failed| match failed {
                Failed::Because(e) => e,
                Failed::EarlyRejected => RequestError::Unanswered,
            })
        };
        match timeout_at(deadline, exchange).await {
            Ok(Err(RequestError::Lost(lost))) => Err(self.why_lost(lost).await),
            Ok(other) => other,
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    async fn exchange(&self, request: &[u8], deadline: Instant) -> Result<Response, Failed> {
        let (send, recv) = self.inner.connection.open_bi().await.map_err(ConnectionLost::from)?;
        match MessageWriter::new(send, stream_code::CANCELLED).write(request).await {
            // A peer may answer before it has read everything.
            Ok(_) | Err(WriteFault::Stopped) => {}
            Err(WriteFault::TooSlow) => return Err(RequestError::TimedOut.into()),
            Err(WriteFault::EarlyRejected) => return Err(Failed::EarlyRejected),
            Err(WriteFault::Lost(lost)) => return Err(lost.into()),
        }
        match MessageReader::new::<Response>(recv).until(deadline).read().await {
            Ok(bytes) => Response::decode(&bytes).map_err(|e| RequestError::BadResponse(e).into()),
            Err(ReadFault::TooLarge) => {
                Err(RequestError::BadResponse(halloo_wire::DecodeError::TooLong).into())
            }
            Err(ReadFault::TooSlow) => Err(RequestError::TimedOut.into()),
            Err(ReadFault::Reset) => Err(RequestError::Unanswered.into()),
            Err(ReadFault::EarlyRejected) => Err(Failed::EarlyRejected),
            Err(ReadFault::Lost(lost)) => Err(lost.into()),
        }
    }

    /// Waits for what the peer says unasked, in the order in which it began to say it.
    ///
    /// Cancel safe: a push that has come in part is continued by the next call.
    ///
    /// # Errors
    /// [`PushError`]. After [`TooLarge`](PushError::TooLarge), [`TimedOut`](PushError::TimedOut)
    /// and [`Malformed`](PushError::Malformed) the connection is still there; these mean that the
    /// peer does not keep to the protocol.
    pub async fn next_push(&self) -> Result<Push, PushError> {
        match self.read_push().await {
            Err(PushError::Lost(lost)) => match self.why_lost(lost).await {
                RequestError::Connect(e) => Err(PushError::Connect(e)),
                _ => Err(PushError::Lost(lost)),
            },
            other => other,
        }
    }

    async fn read_push(&self) -> Result<Push, PushError> {
        let mut current = self.inner.push.lock().await;
        loop {
            let reader = match current.as_mut() {
                Some(reader) => reader,
                None => {
                    let stream =
                        self.inner.connection.accept_uni().await.map_err(ConnectionLost::from)?;
                    current.insert(MessageReader::new::<Push>(stream))
                }
            };
            let read = reader.read().await;
            *current = None;
            return match read {
                Ok(bytes) => Push::decode(&bytes).map_err(PushError::Malformed),
                Err(ReadFault::TooLarge) => Err(PushError::TooLarge),
                Err(ReadFault::TooSlow) => Err(PushError::TimedOut),
                Err(ReadFault::Lost(lost)) => Err(lost.into()),
                // The peer took it back.
                Err(ReadFault::Reset | ReadFault::EarlyRejected) => continue,
            };
        }
    }

    /// Waits until the handshake is done, which it is from the start unless the connection began
    /// with early data. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError`] when the handshake failed.
    pub async fn confirmed(&self) -> Result<EarlyData, ConnectError> {
        let mut handshake = self.inner.handshake.clone();
        let done = handshake.wait_for(Option::is_some).await.map(|it| *it);
        // Without an outcome, the runtime is stopping.
        done.ok().flatten().unwrap_or(Err(ConnectError::EndpointClosed))
    }

    /// Tells a handshake that failed from a connection that ended later.
    async fn why_lost(&self, lost: ConnectionLost) -> RequestError {
        match self.confirmed().await {
            Err(e) => RequestError::Connect(e),
            Ok(_) => RequestError::Lost(lost),
        }
    }

    /// Closes the connection at once: what has not arrived yet is lost.
    pub fn close(&self, code: CloseCode) {
        self.inner.connection.close(code.to_varint(), b"");
    }

    /// Waits for the connection's end. Cancel safe.
    pub async fn closed(&self) -> ConnectionLost {
        self.inner.connection.closed().await.into()
    }

    /// How the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionLost> {
        self.inner.connection.close_reason().map(Into::into)
    }

    /// The peer's fingerprint: the pinned one, or the one that was found on first use.
    pub fn peer_fingerprint(&self) -> PeerFingerprint {
        self.inner.peer
    }

    /// Where the peer is: its address, or a tunnel's.
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.inner.connection.remote_address())
    }

    /// The estimated time of a round trip.
    pub fn rtt(&self) -> Duration {
        self.inner.connection.rtt()
    }

    /// The key of the parked registration with this row: the one that the peer has too.
    pub fn parking_key(&self, row: RowId) -> ParkingKey {
        ParkingKey::export(&self.inner.connection, row)
    }

    /// Datagrams that have come on this connection. Whoever waits for an answer sees by it that the
    /// peer is there, and the answer late.
    pub fn datagrams_heard(&self) -> u64 {
        self.inner.connection.stats().udp_rx.datagrams
    }
}

/// Why an exchange came to nothing.
enum Failed {
    EarlyRejected,
    Because(RequestError),
}

impl From<RequestError> for Failed {
    fn from(e: RequestError) -> Self {
        Self::Because(e)
    }
}

impl From<ConnectionLost> for Failed {
    fn from(lost: ConnectionLost) -> Self {
        Self::Because(lost.into())
    }
}

async fn finish_handshake(
    connection: &Connection,
    accepted: ZeroRttAccepted,
    pinned: PeerFingerprint,
) -> Result<EarlyData, ConnectError> {
    let Ok(accepted) = timeout(HANDSHAKE_DEADLINE, accepted).await else {
        connection.close(CloseCode::TooSlow.to_varint(), b"");
        return Err(ConnectError::TimedOut);
    };
    if let Some(e) = connection.close_reason() {
        return Err(ConnectError::from_quic(e, Dialled::Peer(Some(pinned))));
    }
    check_peer(connection, PeerTrust::Pinned(pinned))?;
    Ok(if accepted { EarlyData::Accepted } else { EarlyData::Rejected })
}

/// The fingerprint of the certificate that the handshake has verified. A resumed session gives
/// the one of its first handshake.
fn check_peer(connection: &Connection, trust: PeerTrust) -> Result<PeerFingerprint, ConnectError> {
    let found = certificates(connection)
        .and_then(|chain| peer_fingerprint_of_cert(chain.first()?).ok())
        .ok_or(ConnectError::BadCertificate)?;
    match trust {
        PeerTrust::Pinned(expected) if expected != found => {
            connection.close(CloseCode::Misbehaved.to_varint(), b"");
            Err(ConnectError::PeerKeyChanged { expected, found })
        }
        PeerTrust::Pinned(_) | PeerTrust::FirstUse => Ok(found),
    }
}
