//! Who is at the other end: TLS 1.3 with keys instead of names.
//!
//! Nobody here trusts a certificate authority, a date or a host name. A certificate is only the
//! form in which TLS carries a public key, and the key's fingerprint is the identity:
//!
//! | other end | shows | is checked against |
//! |---|---|---|
//! | rendezvous peer | its own self-signed certificate | [`PeerTrust`]: a pinned fingerprint, or first use |
//! | node | device certificate and passport | the contact's fingerprint, when dialling |
//!
//! The check happens inside the handshake, before this side shows its own certificate or sends
//! a byte. The key exchange is X25519 with ML-KEM-768 and nothing else, so a recorded connection
//! stays closed even to who has a quantum computer later. Signatures are Ed25519.
//!
//! TLS can carry a refusal out of a verifier only as a text. [`Refusal`] writes and reads it.

use std::fmt;
use std::sync::Arc;

use halloo_identity::{
    Identity, PeerKey, PresentedDevice, peer_fingerprint_of_cert, verify_device_chain,
};
use halloo_wire::{ALPN_NODE, ALPN_PEER, Fingerprint, PeerFingerprint};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

/// The server name in every handshake. It says nothing, so that nobody on the way learns whom a
/// connection is for.
pub(crate) const SERVER_NAME: &str = "halloo";

/// Sessions that a rendezvous peer remembers for resumption. The oldest are forgotten, and their
/// holders make a full handshake.
const SERVER_SESSIONS: usize = 8192;
/// The longest session that is remembered, in bytes as rustls writes it. An anonymous one has some
/// 100; the chain of a device makes it longer than this.
const LONGEST_SESSION: usize = 256;
/// Tickets per connection. Each is good for one later connection, which brings the next ones, if
/// it lives for the round trip that they take.
const SERVER_TICKETS: usize = 2;

/// How a rendezvous peer is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTrust {
    /// Only the peer with this key will do.
    Pinned(PeerFingerprint),
    /// Whoever answers; its fingerprint is reported, to be pinned from then on. Someone in the
    /// middle of this first connection could stay unnoticed.
    FirstUse,
}

/// A certificate chain with its private key.
pub(crate) type Credentials = Arc<CertifiedKey>;

/// The only cryptography that is offered and accepted.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![kx_group::X25519MLKEM768], ..aws_lc_rs::default_provider() }
}

/// The chain that a node shows: device certificate and passport.
pub(crate) fn node_credentials(identity: &Identity) -> Result<Credentials, Error> {
    credentials(identity.device_chain().into(), &identity.device_key_pkcs8())
}

/// The self-signed certificate that a rendezvous peer shows.
pub(crate) fn peer_credentials(key: &PeerKey) -> Result<Credentials, Error> {
    credentials(vec![key.cert_der().to_vec()], &key.key_pkcs8())
}

fn credentials(chain: Vec<Vec<u8>>, pkcs8: &[u8]) -> Result<Credentials, Error> {
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
    let certified = CertifiedKey::new(chain.into_iter().map(CertificateDer::from).collect(), key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

/// What a node is as a server: both sides show a device certificate, and nothing is resumed, so
/// that each connection proves its keys anew.
pub(crate) fn node_server(credentials: Credentials) -> ServerConfig {
    let mut config = server(credentials, ClientCertificate::Required, ALPN_NODE);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// What a rendezvous peer is as a server: certificates of clients are optional, and early data is
/// taken.
///
/// Sessions of anonymous clients are kept in memory and used once, which is what makes a replay of
/// early data fail while the session is in the table; it is the reason to have no stateless
/// tickets. A client that shows a device gets no ticket.
pub(crate) fn peer_server(credentials: Credentials) -> ServerConfig {
    let mut config = server(credentials, ClientCertificate::Optional, ALPN_PEER);
    config.session_storage =
        Arc::new(AnonymousSessions(ServerSessionMemoryCache::new(SERVER_SESSIONS)));
    config.send_tls13_tickets = SERVER_TICKETS;
    // QUIC knows only this value and 0.
    config.max_early_data_size = u32::MAX;
    config
}

/// Keeps sessions without a certificate. One with it would take ten times the memory, and nodes
/// prove their device anew in every connection.
#[derive(Debug)]
struct AnonymousSessions(Arc<ServerSessionMemoryCache>);

impl StoresServerSessions for AnonymousSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        value.len() <= LONGEST_SESSION && self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key)
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

fn server(credentials: Credentials, client: ClientCertificate, alpn: &[u8]) -> ServerConfig {
    let provider = Arc::new(provider());
    let verifier =
        DeviceVerifier { client, algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials)));
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// What a node is towards another node.
pub(crate) fn node_client(expect: Fingerprint, credentials: Credentials) -> ClientConfig {
    client(Expect::Node(expect), Some(credentials), ALPN_NODE)
}

/// What a node is towards a rendezvous peer. Without credentials it is anonymous.
pub(crate) fn peer_client(trust: PeerTrust, credentials: Option<Credentials>) -> ClientConfig {
    client(Expect::Peer(trust), credentials, ALPN_PEER)
}

/// An anonymous client that keeps tickets and sends early data. The value keeps the tickets, so
/// it serves one peer only: a ticket tells a peer that two connections have the same origin.
pub(crate) fn resuming_peer_client(pinned: PeerFingerprint) -> ClientConfig {
    let mut config = peer_client(PeerTrust::Pinned(pinned), None);
    config.resumption = Resumption::in_memory_sessions(1);
    config.enable_early_data = true;
    config
}

fn client(expect: Expect, credentials: Option<Credentials>, alpn: &[u8]) -> ClientConfig {
    let provider = Arc::new(provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerVerifier { expect, algorithms });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(it) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(it))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// The device behind a verified chain.
pub(crate) fn presented_device(chain: &[CertificateDer<'_>]) -> Option<PresentedDevice> {
    let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    verify_device_chain(&chain).ok()
}

/// The methods that a verifier of servers and one of clients have in common: signatures are made
/// in TLS 1.3, with Ed25519. The verifier has a field `algorithms`.
macro_rules! only_tls13_with_ed25519 {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::Tls12NotOffered.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

/// Accepts the one server that was dialled.
#[derive(Debug)]
struct ServerVerifier {
    expect: Expect,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Who a server has to be.
#[derive(Debug)]
enum Expect {
    Peer(PeerTrust),
    Node(Fingerprint),
}

impl Expect {
    fn check(&self, leaf: &[u8], others: &[CertificateDer<'_>]) -> Result<(), Refusal> {
        match *self {
            Self::Node(expected) => match device_fingerprint(leaf, others)? {
                found if found == expected => Ok(()),
                found => Err(Refusal::NodeKey(found)),
            },
            Self::Peer(_) if !others.is_empty() => Err(Refusal::Certificate),
            Self::Peer(trust) => {
                let found = peer_fingerprint_of_cert(leaf).map_err(|_| Refusal::Certificate)?;
                match trust {
                    PeerTrust::Pinned(pinned) if pinned != found => Err(Refusal::PeerKey(found)),
                    PeerTrust::Pinned(_) | PeerTrust::FirstUse => Ok(()),
                }
            }
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.expect.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    only_tls13_with_ed25519!();
}

/// Whether a client has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    Required,
    Optional,
}

/// Accepts any sound device chain of a client; who may do what is decided above, by fingerprint.
#[derive(Debug)]
struct DeviceVerifier {
    client: ClientCertificate,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for DeviceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client == ClientCertificate::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        device_fingerprint(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    only_tls13_with_ed25519!();
}

fn device_fingerprint(leaf: &[u8], others: &[CertificateDer<'_>]) -> Result<Fingerprint, Refusal> {
    let chain: Vec<&[u8]> = std::iter::once(leaf).chain(others.iter().map(AsRef::as_ref)).collect();
    let device = verify_device_chain(&chain).map_err(|_| Refusal::Certificate)?;
    Ok(device.passport.fingerprint())
}

/// Why a certificate was refused, in the words that survive the way out of TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not a certificate, or chain of certificates, of ours.
    Certificate,
    /// A rendezvous peer with another key than the pinned one.
    PeerKey(PeerFingerprint),
    /// A node with another passport than the expected one.
    NodeKey(Fingerprint),
}

const CERTIFICATE: &str = "halloo: unsound certificate";
const PEER_KEY: &str = "halloo: another peer key: ";
const NODE_KEY: &str = "halloo: another node key: ";

impl Refusal {
    /// Finds a refusal in the reason of a handshake that this side ended.
    pub(crate) fn find(reason: &str) -> Option<Self> {
        let after = |mark: &str| reason.split_once(mark).map(|(_, rest)| rest);
        if let Some(found) = after(PEER_KEY) {
            return fingerprint_text(found).parse().ok().map(Self::PeerKey);
        }
        if let Some(found) = after(NODE_KEY) {
            return fingerprint_text(found).parse().ok().map(Self::NodeKey);
        }
        after(CERTIFICATE).map(|_| Self::Certificate)
    }
}

/// The fingerprint at the front of `text`, which TLS wraps in brackets.
fn fingerprint_text(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate => f.write_str(CERTIFICATE),
            Self::PeerKey(found) => write!(f, "{PEER_KEY}{found}"),
            Self::NodeKey(found) => write!(f, "{NODE_KEY}{found}"),
        }
    }
}

// TLS shows a verifier's own error by its debug form.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}
