//! What a peer is started with, and why it may not start.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use halloo_identity::HostError;
use halloo_transport::BindError;

use super::PublicHost;
use crate::certificate::{CertificateFileError, CertificateFiles};
use crate::core::{Access, Limits, LimitsError};
use crate::keyfile::KeyError;

/// What a rendezvous peer is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, UDP. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The second UDP port, at which nodes learn how their NAT behaves. Without one, the peer
    /// works, and nodes learn less.
    pub echo_port: EchoPort,
    /// Where to take WebSockets, TCP, from nodes whose network blocks UDP.
    pub websocket: WebSocketAddr,
    /// The certificate of an authority, shown at the WebSockets' port to those who are no nodes.
    /// Without one they see the peer's own, as nodes do.
    pub certificate: Option<CertificateFiles>,
    /// The authority that is asked for such a certificate, in place of files with one.
    pub acme: Option<Acme>,
    /// Names under which nodes reach the peer. When there are none, its address is the machine's.
    pub public_hosts: Vec<PublicHost>,
    /// Where the key is kept, and nothing else.
    pub data_dir: PathBuf,
    /// The table's limits.
    pub limits: Limits,
    /// How long a stopping peer lets its connections fetch what waits and leave by themselves.
    pub drain: Duration,
    /// Whom the peer hosts.
    pub access: Access,
}

impl Config {
    /// A peer on UDP and TCP port 443 of every address, which keeps its key in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443)),
            echo_port: EchoPort::Next,
            websocket: WebSocketAddr::Same,
            certificate: None,
            acme: None,
            public_hosts: Vec::new(),
            data_dir: data_dir.into(),
            limits: Limits::default(),
            drain: Duration::from_secs(3),
            access: Access::Open,
        }
    }
}

/// An authority that speaks ACME (RFC 8555), and what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The names in the certificate. The authority connects to each at TCP port 443.
    pub hosts: Vec<String>,
    /// Where the authority may write to: `mailto:somebody@example.org`. It may be empty.
    pub contact: Vec<String>,
    /// Where the authority begins.
    pub directory: String,
    /// Where the account's key and the certificate are kept. Without them each start would ask for a
    /// new certificate, and the authority would soon refuse.
    pub cache: PathBuf,
}

impl Acme {
    /// Let's Encrypt.
    pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
}

/// Sockets that somebody else has opened, a service manager for example. For those that are not
/// there, the peer opens its own as the configuration says.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The main one, for everything.
    pub udp: Option<UdpSocket>,
    /// The second UDP port, at which nodes learn how their NAT behaves.
    pub second: Option<UdpSocket>,
    /// For WebSockets.
    pub tcp: Option<TcpListener>,
}

/// The second UDP port. When it cannot be opened, the peer goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoPort {
    /// The one after the first, or any when the system chooses the first.
    Next,
    /// This one; 0 lets the system choose.
    At(u16),
    /// None.
    Off,
}

impl EchoPort {
    /// Which port to ask the system for, for a peer that was told to listen on `listen`.
    pub(super) fn port(self, listen: u16) -> Option<u16> {
        match self {
            // The port after the last one is none.
            Self::Next if listen == 0 => Some(0),
            Self::Next => listen.checked_add(1),
            Self::At(port) => Some(port),
            Self::Off => None,
        }
    }
}

/// Where a peer takes WebSockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebSocketAddr {
    /// Where it listens, with the same port number. When that cannot be opened, the peer goes on
    /// without: it may belong to a web server.
    Same,
    /// Here. Nodes find it only when something forwards the peer's own TCP port to it.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// Why a text is no port or address of these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// For [`EchoPort`].
    #[error("a port number is expected, or `next`, or `off`")]
    EchoPort,
    /// For [`WebSocketAddr`].
    #[error("an address with a port is expected, or `same`, or `off`")]
    WebSocket,
}

impl FromStr for EchoPort {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text {
            "next" => Ok(Self::Next),
            "off" => Ok(Self::Off),
            port => port.parse().map(Self::At).map_err(|_| ListenError::EchoPort),
        }
    }
}

impl fmt::Display for EchoPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next => f.write_str("next"),
            Self::At(port) => write!(f, "{port}"),
            Self::Off => f.write_str("off"),
        }
    }
}

impl FromStr for WebSocketAddr {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text {
            "same" => Ok(Self::Same),
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At).map_err(|_| ListenError::WebSocket),
        }
    }
}

impl fmt::Display for WebSocketAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::At(address) => write!(f, "{address}"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// Why a peer did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The limits cannot work together.
    #[error("the limits cannot work together: {0}")]
    Limits(#[from] LimitsError),
    /// The key could not be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The socket could not be opened.
    #[error("cannot listen on UDP {listen}")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: BindError,
    },
    /// The WebSocket's own address could not be opened.
    #[error("cannot listen on TCP {listen}")]
    BindTcp {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: BindError,
    },
    /// The place under which nodes would reach the peer is none.
    #[error("the peer's address cannot be written: {0}")]
    Host(#[from] HostError),
    /// The certificate of an authority cannot be used.
    #[error("the certificate for the WebSockets' port: {0}")]
    Certificate(#[source] CertificateFileError),
    /// No authority can be asked for a certificate.
    #[cfg(feature = "acme")]
    #[error("no certificate can be asked for")]
    Acme(#[from] super::AcmeError),
    /// This program cannot ask for a certificate: it was built without the feature `acme`.
    #[cfg(not(feature = "acme"))]
    #[error("this program was built without ACME (the feature `acme`)")]
    NoAcme,
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_port_follows_the_first() {
        assert_eq!(EchoPort::Next.port(443), Some(444));
        assert_eq!(EchoPort::Next.port(0), Some(0));
        assert_eq!(EchoPort::Next.port(u16::MAX), None);
        assert_eq!(EchoPort::At(9).port(443), Some(9));
        assert_eq!(EchoPort::Off.port(443), None);
    }

    #[test]
    fn ports_and_addresses_read_back() {
        for text in ["next", "off", "444", "0"] {
            assert_eq!(text.parse::<EchoPort>().unwrap().to_string(), text);
        }
        for text in ["same", "off", "[::]:443", "127.0.0.1:8443"] {
            assert_eq!(text.parse::<WebSocketAddr>().unwrap().to_string(), text);
        }
        assert_eq!("65536".parse::<EchoPort>(), Err(ListenError::EchoPort));
        assert_eq!("443".parse::<WebSocketAddr>(), Err(ListenError::WebSocket));
    }
}
