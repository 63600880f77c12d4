//! `relay-iroh http ADDRESS` and `relay-iroh https ADDRESS FILE`: iroh's relay server 1.4.1 as its
//! own program starts it, without limits. It says `ready URL`. With TLS, the certificate is its own
//! and is written to the file.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use iroh_relay::server::{CertConfig, RelayConfig, Server, ServerConfig, TlsConfig};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (listen, file) = match words[..] {
        ["http", listen] => (listen, None),
        ["https", listen, file] => (listen, Some(file)),
        _ => bail!("relay-iroh http ADDRESS | https ADDRESS FILE"),
    };
    let listen: SocketAddr = listen.parse()?;
    let mut relay = RelayConfig::new(listen);
    relay.tls = file.map(|file| tls(listen, file)).transpose()?;
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    let mut server = Server::spawn(config).await?;
    let (scheme, at) = match server.https_addr() {
        Some(at) => ("https", at),
        None => ("http", server.http_addr().context("it listens nowhere")?),
    };
    println!("ready {scheme}://{at}");
    server.join().await??;
    Ok(())
}

fn tls(listen: SocketAddr, file: &str) -> Result<TlsConfig> {
    let made = rcgen::generate_simple_self_signed([listen.ip().to_string()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    std::fs::write(file, made.cert.der()).with_context(|| format!("cannot write {file}"))?;
    let server_config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    Ok(TlsConfig::new(listen, CertConfig::Manual { server_config }))
}
