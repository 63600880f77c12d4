//! Bare quinn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo_bench_measure::{Orders, Sent, Task};
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::congestion::{PathAwareConfig, PathClass, PathSignal};
use crate::{drain, pour};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// As Halloo's nodes have them.
    Ours,
    Cubic,
    Bbr,
    Default,
}

pub async fn run(task: Task, settings: Settings) -> Result<()> {
    let mut orders = Orders::new();
    match task {
        Task::Receive(listen) => {
            let endpoint = quinn::Endpoint::server(server(settings)?, listen)?;
            println!("ready {} -", endpoint.local_addr()?);
            orders.next("from").await?;
            println!("open");
            let incoming = endpoint.accept().await.context("the endpoint is closed")?;
            let connection = incoming.await?;
            drain(connection.accept_uni().await?).await.report();
            connection.closed().await;
        }
        Task::Send(from, amount) => {
            let endpoint = quinn::Endpoint::client(from)?;
            println!("from {}", endpoint.local_addr()?);
            let go = orders.next("go").await?;
            let Some(addr) = go.first() else { bail!("go ADDRESS NAME") };
            let connection =
                endpoint.connect_with(client(settings)?, addr.parse()?, "bench")?.await?;
            let stream = connection.open_uni().await?;
            pour(stream, Sent::begin(amount)).await?.report();
            let stats = connection.stats().path;
            eprintln!(
                "  {} packets, {} lost, {} rounds of congestion, mtu {}, rtt {:?}",
                stats.sent_packets,
                stats.lost_packets,
                stats.congestion_events,
                stats.current_mtu,
                stats.rtt
            );
        }
    }
    Ok(())
}

fn transport(settings: Settings) -> Arc<TransportConfig> {
    const MIB: u32 = 1 << 20;
    let mut transport = TransportConfig::default();
    if settings == Settings::Default {
        return Arc::new(transport);
    }
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(1400).interval(Duration::from_secs(20));
    transport
        .stream_receive_window(VarInt::from_u32(32 * MIB))
        .receive_window(VarInt::from_u32(48 * MIB))
        .send_window(u64::from(32 * MIB))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None);
    match settings {
        Settings::Cubic => {
            transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
        }
        Settings::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
        _ => {
            let signal = PathSignal::new(PathClass::Direct, Instant::now());
            transport.congestion_controller_factory(PathAwareConfig::new(signal))
        }
    };
    Arc::new(transport)
}

fn server(settings: Settings) -> Result<quinn::ServerConfig> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let certificate = rcgen::CertificateParams::new(vec!["bench".into()])?.self_signed(&key)?;
    let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], pkcs8.into())?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport(settings));
    Ok(config)
}

fn client(settings: Settings) -> Result<quinn::ClientConfig> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(settings));
    Ok(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Takes every certificate: the bench asks for speed, not for names.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
