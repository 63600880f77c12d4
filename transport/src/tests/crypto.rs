//! What is negotiated, and what is not.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, ServerConnection,
    SignatureScheme,
};

use super::*;
use crate::config::Tokens;

/// Takes every certificate, as an attacker would.
#[derive(Debug)]
pub(super) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.2 is not there")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A client like this crate's, except for its key exchange.
fn client_with(group: &'static dyn rustls::crypto::SupportedKxGroup) -> ClientConfig {
    let provider = CryptoProvider { kx_groups: vec![group], ..tls::provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![halloo_wire::ALPN_PEER.to_vec()];
    config
}

#[tokio::test]
async fn a_client_without_the_post_quantum_exchange_is_refused() {
    let peer = TestPeer::new();
    let raw = raw_endpoint(None);
    let dial = |group| {
        let config = config::peer_client(client_with(group), Tokens::Refuse);
        raw.connect_with(config, peer.addr(), tls::SERVER_NAME).unwrap()
    };

    for group in [kx_group::X25519, kx_group::SECP256R1] {
        let (dialed, accepted) = tokio::join!(dial(group), peer.try_accept());
        assert_eq!(accepted.unwrap_err(), HandshakeError::Incompatible);
        let quinn::ConnectionError::ConnectionClosed(close) = dialed.unwrap_err() else {
            panic!("the peer ends the handshake")
        };
        // handshake_failure
        assert_eq!(u64::from(close.error_code), 0x100 + 40);
    }

    let (dialed, accepted) = tokio::join!(dial(kx_group::X25519MLKEM768), peer.try_accept());
    assert!(dialed.is_ok() && accepted.is_ok());
}

/// Runs the handshake of the configurations in memory.
fn shake_hands(
    client: ClientConfig,
    server: rustls::ServerConfig,
) -> (ClientConnection, ServerConnection) {
    let name = ServerName::try_from(tls::SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut &flight[..]).unwrap();
        server.process_new_packets().unwrap();
        flight.clear();
        server.write_tls(&mut flight).unwrap();
        client.read_tls(&mut &flight[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    (client, server)
}

#[test]
fn what_is_negotiated_is_hybrid_tls_1_3_on_both_kinds_of_connection() {
    let (alice, bob, key) = (Identity::generate(), Identity::generate(), PeerKey::generate());
    let (alice_own, bob_own) =
        (tls::node_credentials(&alice).unwrap(), tls::node_credentials(&bob).unwrap());
    let to_peer = shake_hands(
        tls::resuming_peer_client(key.fingerprint()),
        tls::peer_server(tls::peer_credentials(&key).unwrap()),
    );
    let to_node =
        shake_hands(tls::node_client(bob.fingerprint(), alice_own), tls::node_server(bob_own));
    for ((client, server), alpn, certificates) in
        [(to_peer, halloo_wire::ALPN_PEER, 0), (to_node, halloo_wire::ALPN_NODE, 2)]
    {
        let group = client.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(client.alpn_protocol(), Some(alpn));
        assert_eq!(server.server_name(), Some(tls::SERVER_NAME));
        assert_eq!(server.peer_certificates().map_or(0, <[_]>::len), certificates);
    }
}

#[test]
fn the_hello_offers_tls_1_3_and_the_hybrid_group_alone() {
    let client = tls::peer_client(PeerTrust::FirstUse, None);
    let name = ServerName::try_from(tls::SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();

    let contains = |bytes: &[u8]| hello.windows(bytes.len()).any(|w| w == bytes);
    // supported_versions (43): one version, 0x0304.
    assert!(contains(&[0, 43, 0, 3, 2, 3, 4]));
    // supported_groups (10): one group, X25519MLKEM768 (0x11ec).
    assert!(contains(&[0, 10, 0, 4, 0, 2, 0x11, 0xec]));
    // signature_algorithms (13): one scheme, Ed25519 (0x0807).
    assert!(contains(&[0, 13, 0, 4, 0, 2, 8, 7]));
}

#[tokio::test]
async fn the_two_protocols_do_not_mix() {
    let (alice, bob, peer) = (TestNode::new(), TestNode::new(), TestPeer::new());

    // A node is dialled as if it were a peer.
    let fingerprint = PeerKey::generate().fingerprint();
    let (dialed, accepted) = tokio::join!(
        alice.endpoint.connect_peer(bob.addr(), PeerTrust::Pinned(fingerprint), Show::Device),
        bob.try_accept()
    );
    assert_eq!(dialed.unwrap_err(), ConnectError::Incompatible);
    assert_eq!(accepted.unwrap_err(), HandshakeError::Incompatible);

    // A peer is dialled as if it were a node.
    let fingerprint = bob.fingerprint();
    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node(peer.addr(), &fingerprint), peer.try_accept());
    assert_eq!(dialed.unwrap_err(), ConnectError::Incompatible);
    assert_eq!(accepted.unwrap_err(), HandshakeError::Incompatible);
}

#[tokio::test]
async fn another_version_or_none_is_refused() {
    let peer = TestPeer::new();
    let raw = raw_endpoint(None);
    for alpn in [vec![b"halloo-peer/1".to_vec()], vec![b"h3".to_vec()], vec![]] {
        let mut tls = client_with(kx_group::X25519MLKEM768);
        tls.alpn_protocols = alpn;
        let config = config::peer_client(tls, Tokens::Refuse);
        let dial = raw.connect_with(config, peer.addr(), tls::SERVER_NAME).unwrap();
        let (dialed, accepted) = tokio::join!(dial, peer.try_accept());
        assert!(dialed.is_err());
        assert_eq!(accepted.unwrap_err(), HandshakeError::Incompatible);
    }
}

#[test]
fn a_refusal_survives_its_way_out_of_tls() {
    let peer = tls::Refusal::PeerKey(PeerKey::generate().fingerprint());
    let node = tls::Refusal::NodeKey(Identity::generate().fingerprint());
    for refusal in [peer, node, tls::Refusal::Certificate] {
        let reason = Error::from(refusal).to_string();
        assert!(tls::Refusal::find(&reason) == Some(refusal), "{reason}");
    }
    assert!(tls::Refusal::find("invalid peer certificate: BadEncoding").is_none());
}
