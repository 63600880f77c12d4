//! Connections to rendezvous peers where something is left for others. They show no certificate:
//! the peer has no need to know who writes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halloo_identity::{PeerFingerprint, PeerHost};
use halloo_transport::{ConnectError, PeerConnection, PeerTrust, PushError, Show};
use halloo_wire::InstanceId;
use halloo_wire::peer::{Call, Push, Request, Response};
use tokio::time::Instant;

use super::Net;
use crate::event::EventKind;
use crate::random;
use crate::store::StoreError;

/// Time in which a peer has to say its first word after the handshake.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);

/// A connection that ends before this was no sound one.
const STEADY: Duration = Duration::from_secs(10);
/// How long who waits for a peer lets it be after such a connection.
const AFTER_SHORT: Duration = Duration::from_secs(1);

/// Anonymous connections by peer.
#[derive(Default)]
pub(crate) struct Post {
    offices: Mutex<HashMap<PeerHost, Arc<tokio::sync::Mutex<Option<Office>>>>>,
}

/// A connection to a peer that has said its first word.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) connection: PeerConnection,
    /// The run of the peer.
    pub(crate) instance: InstanceId,
}

/// Why a peer cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfficeError {
    #[error("the name {0} is not known to the domain name system")]
    NoSuchHost(PeerHost),
    #[error("its key has changed")]
    KeyChanged { peer: PeerHost, expected: PeerFingerprint, found: PeerFingerprint },
    #[error("{0}")]
    Connect(ConnectError),
    #[error("it did not begin to talk")]
    NoWelcome,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Office {
    /// Asks the peer something without showing a session.
    pub(crate) async fn ask(&self, call: Call) -> Result<Response, String> {
        let request = Request { session: None, call };
        self.connection.request(&request).await.map_err(|e| e.to_string())
    }
}

impl Net {
    /// A connection to a peer, kept or made.
    ///
    /// `hint` is a key that an address or contact gave; a key that was seen before weighs more.
    pub(crate) async fn office(
        self: &Arc<Self>,
        peer: &PeerHost,
        hint: Option<PeerFingerprint>,
    ) -> Result<Office, OfficeError> {
        let slot = {
            let mut offices = self.post.offices.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(offices.entry(peer.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(office) = slot.as_ref().filter(|o| o.connection.close_reason().is_none()) {
            return Ok(office.clone());
        }
        let (connection, welcome) = self.connect(peer, hint, Show::Nothing).await?;
        let office = Office { connection, instance: welcome.instance };
        *slot = Some(office.clone());
        self.spawn(watch(Arc::clone(self), office.connection.clone()));
        Ok(office)
    }

    /// Connects to a peer, remembers its key, and waits for its first word.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        peer: &PeerHost,
        hint: Option<PeerFingerprint>,
        show: Show,
    ) -> Result<(PeerConnection, Welcome), OfficeError> {
        let of = peer.clone();
        let pinned = self.store.run(move |_, cx| cx.db.pin(&of)).await?.or(hint);
        let trust = pinned.map_or(PeerTrust::FirstUse, PeerTrust::Pinned);
        let mut last = OfficeError::NoSuchHost(peer.clone());
        for addr in resolve(peer).await {
            match self.endpoint.connect_peer(addr, trust, show).await {
                Ok(connection) => {
                    let welcome = first_word(&connection).await.map_err(|e| self.told(peer, e))?;
                    let (of, key) = (peer.clone(), connection.peer_fingerprint());
                    self.store.run(move |_, cx| cx.db.add_pin(&of, &key)).await?;
                    return Ok((connection, welcome));
                }
                Err(e) => last = OfficeError::Connect(e),
            }
        }
        Err(self.told(peer, last))
    }

    /// Says loudly that a peer's key is another one.
    fn told(&self, peer: &PeerHost, e: OfficeError) -> OfficeError {
        let OfficeError::Connect(ConnectError::PeerKeyChanged { expected, found }) = e else {
            return e;
        };
        tracing::warn!("A rendezvous peer shows another key than before: not talking to it");
        self.board.tell(EventKind::PeerKeyChanged { peer: peer.clone(), expected, found });
        OfficeError::KeyChanged { peer: peer.clone(), expected, found }
    }
}

/// What a peer says first.
#[derive(Clone, Copy)]
pub(crate) struct Welcome {
    pub(crate) instance: InstanceId,
    pub(crate) observed: SocketAddr,
}

async fn first_word(connection: &PeerConnection) -> Result<Welcome, OfficeError> {
    let pushes = async {
        loop {
            match connection.next_push().await {
                Ok(Push::Welcome { instance, observed }) => {
                    return Ok(Welcome { instance, observed });
                }
                Ok(_) => {}
                Err(PushError::Connect(e)) => return Err(OfficeError::Connect(e)),
                Err(_) => return Err(OfficeError::NoWelcome),
            }
        }
    };
    tokio::time::timeout(WELCOME_DEADLINE, pushes).await.unwrap_or(Err(OfficeError::NoWelcome))
}

/// When a connection ends, the peer may have restarted and forgotten what was left there: everybody
/// with something unacknowledged looks again.
async fn watch(net: Arc<Net>, connection: PeerConnection) {
    let begun = Instant::now();
    // Nothing else is pushed to an anonymous connection but that the peer is about to stop.
    while connection.next_push().await.is_ok() {}
    connection.closed().await;
    // Whoever is woken connects again: a peer that ends every connection must not set the pace.
    if begun.elapsed() < STEADY {
        tokio::time::sleep(AFTER_SHORT.mul_f64(random::jitter())).await;
    }
    let waiting = net.store.run(|_, cx| cx.db.contacts_with_unacked()).await;
    net.board.wake(waiting.unwrap_or_default());
}

/// The addresses of a peer, by the system's resolver.
pub(crate) async fn resolve(peer: &PeerHost) -> Vec<SocketAddr> {
    match tokio::net::lookup_host((peer.host(), peer.port())).await {
        Ok(addrs) => addrs.collect(),
        Err(e) => {
            tracing::debug!(reason = %e, "A peer's name was not resolved");
            Vec::new()
        }
    }
}
