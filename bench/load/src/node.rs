//! A node, as far as a rendezvous peer sees one.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use halloo_identity::Identity;
use halloo_transport::{Endpoint, EndpointRole, PeerConnection, PeerTrust, Show};
use halloo_wire::envelope::{HEADER_LEN, Header, KEM_CT_LEN, Lane, NOISE_OVERHEAD};
use halloo_wire::peer::{
    Call, DropEnvelope, Grant, Publication, Push, Register, Request, Response,
};
use halloo_wire::{CapabilityToken, DeviceId, Fingerprint, PeerFingerprint, SessionId};

/// The plaintext of the smallest class of envelopes.
const PLAINTEXT: usize = 1024;
/// What a prekey bundle has.
const BUNDLE: usize = 1_489;

pub struct Node {
    pub endpoint: Endpoint,
    pub fingerprint: Fingerprint,
}

/// A registration and the connection that it was made on.
pub struct Registered {
    pub connection: PeerConnection,
    pub session: SessionId,
}

impl Node {
    pub fn new() -> Result<Self> {
        let identity = Identity::generate();
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = Endpoint::bind(here, EndpointRole::Node { identity: &identity })?;
        Ok(Self { endpoint, fingerprint: identity.fingerprint() })
    }

    /// Connects without saying who it is.
    pub async fn connect(&self, peer: SocketAddr, key: PeerFingerprint) -> Result<PeerConnection> {
        let trust = PeerTrust::Pinned(key);
        Ok(self.endpoint.connect_peer(peer, trust, Show::Nothing).await?)
    }

    /// Waits until the peer has heard that connections are closed.
    pub async fn leave(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Registers, with a capability for whoever holds [`token`].
    pub async fn register(&self, peer: SocketAddr, key: PeerFingerprint) -> Result<Registered> {
        let trust = PeerTrust::Pinned(key);
        let connection = self.endpoint.connect_peer(peer, trust, Show::Device).await?;
        let Push::Welcome { instance, .. } = connection.next_push().await? else {
            bail!("the peer does not welcome");
        };
        let grants = vec![Grant { id: token().id(), card: vec![7; 60] }];
        let counter = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
        let register = Register {
            device: DeviceId::FIRST,
            counter,
            instance: Some(instance),
            grants,
            invite: None,
        };
        match connection.request(&Request { session: None, call: Call::Register(register) }).await?
        {
            Response::Registered(it) => Ok(Registered { connection, session: it.session }),
            other => bail!("not registered: {other:?}"),
        }
    }
}

impl Registered {
    pub async fn ask(&self, call: Call) -> Result<Response> {
        let session = call.needs_session().then_some(self.session);
        Ok(self.connection.request(&Request { session, call }).await?)
    }

    /// Publishes bytes as long as a prekey bundle.
    pub async fn publish(&self) -> Result<()> {
        let publication = Publication { seq: 1, bundle: vec![9; BUNDLE], one_time_keys: vec![] };
        match self.ask(Call::Publish(publication)).await? {
            Response::Done => Ok(()),
            other => bail!("not published: {other:?}"),
        }
    }
}

/// What all nodes of a load give to their contacts.
pub fn token() -> CapabilityToken {
    CapabilityToken([3; 32])
}

/// An envelope of the smallest class in the contacts' lane or, without a capability, the strangers'.
pub fn drop_for(to: Fingerprint, lane: Lane) -> Call {
    let mut envelope = Header { lane, key_id: 1 }.encode().to_vec();
    envelope.resize(HEADER_LEN + KEM_CT_LEN + NOISE_OVERHEAD + PLAINTEXT, 0x5a);
    Call::Drop(DropEnvelope {
        to,
        device: DeviceId::FIRST,
        token: (lane == Lane::Contacts).then(token),
        instance: None,
        envelope,
    })
}

/// Leaves an envelope on an anonymous connection.
pub async fn leave(connection: &PeerConnection, call: Call) -> Result<Response> {
    let answer = connection.request(&Request { session: None, call }).await;
    answer.context("no answer to a drop")
}
