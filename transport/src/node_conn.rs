//! A direct connection between two nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halloo_identity::PresentedDevice;
use halloo_wire::{DeviceId, Fingerprint};
use quinn::{Connection, PathStats, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

use crate::dialled::Acquaintance;
use crate::error::{CloseCode, ConnectionLost};
use crate::tls::presented_device;
use crate::udp::canonical;

/// A connection to another node, both sides of which have shown their device certificates.
///
/// What it carries is described in [`halloo_wire::node`]; this type only gives the streams. Clones
/// are handles to the same connection, which is closed with [`CloseCode::Done`] when the last
/// handle and the last stream are dropped.
///
/// TLS lets the dialling side finish first: [`Endpoint::connect_node`](crate::Endpoint::connect_node)
/// may succeed and the other side refuse this node's certificate afterwards, which is then heard
/// as the connection's end.
#[derive(Debug, Clone)]
pub struct NodeConnection {
    connection: Connection,
    device: Arc<PresentedDevice>,
    route: Option<SocketAddr>,
    /// Of the address that was dialled; `None` when the other side has dialled.
    dialled: Option<Arc<Acquaintance>>,
}

impl NodeConnection {
    /// A connection that this side has dialled. `None` when the other side's certificates cannot
    /// be read, which the handshake excludes.
    pub(crate) fn dialled(
        connection: Connection,
        route: Option<SocketAddr>,
        known: Acquaintance,
    ) -> Option<Self> {
        Self::new(connection, route, Some(Arc::new(known)))
    }

    /// A connection that the other side has dialled. See [`dialled`](Self::dialled).
    pub(crate) fn accepted(connection: Connection, route: Option<SocketAddr>) -> Option<Self> {
        Self::new(connection, route, None)
    }

    fn new(
        connection: Connection,
        route: Option<SocketAddr>,
        dialled: Option<Arc<Acquaintance>>,
    ) -> Option<Self> {
        let device = Arc::new(presented_device(&certificates(&connection)?)?);
        Some(Self { connection, device, route, dialled })
    }

    /// Opens a stream that both sides write. The other side hears of it with the first byte.
    ///
    /// Waits while the other side allows no more streams. Cancel safe: nothing is opened.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the connection has ended.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionLost> {
        Ok(self.connection.open_bi().await?)
    }

    /// Opens a stream that only this side writes. See [`open_bi`](Self::open_bi).
    ///
    /// Cancel safe: nothing is opened.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the connection has ended.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionLost> {
        Ok(self.connection.open_uni().await?)
    }

    /// Waits for the next stream that the other side opens and both sides write.
    ///
    /// Cancel safe: no stream is lost.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the connection has ended.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionLost> {
        Ok(self.connection.accept_bi().await?)
    }

    /// Waits for the next stream that only the other side writes.
    ///
    /// Cancel safe: no stream is lost.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the connection has ended.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionLost> {
        Ok(self.connection.accept_uni().await?)
    }

    /// Closes the connection at once: what has not arrived yet is lost.
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

    /// Who is at the other end.
    pub fn fingerprint(&self) -> Fingerprint {
        self.device.passport.fingerprint()
    }

    /// Which of its devices is at the other end.
    pub fn device(&self) -> DeviceId {
        self.device.device
    }

    /// What the other side has shown.
    pub fn presented(&self) -> &PresentedDevice {
        &self.device
    }

    /// The virtual address of the [route](crate::Route) that the connection takes, if it takes one.
    pub fn route(&self) -> Option<SocketAddr> {
        self.route
    }

    /// Where the other side is, as QUIC knows it: a real address, or the [`route`](Self::route)'s.
    /// It never changes.
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// The estimated time of a round trip.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// What QUIC knows of its path: packet size, losses, congestion. It does not notice when the
    /// route takes another path.
    pub fn path_stats(&self) -> PathStats {
        self.connection.stats().path
    }

    /// A number that tells this connection from all others of the endpoint, while it lives.
    pub fn stable_id(&self) -> usize {
        self.connection.stable_id()
    }

    /// Whether this side has dialled.
    pub fn dialed(&self) -> bool {
        self.dialled.is_some()
    }
}

/// The certificates that the other side has shown, if any.
pub(crate) fn certificates(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    let identity = connection.peer_identity()?;
    identity.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}
