//! A certificate of an authority at the WebSockets' port: nodes see the peer's own key as before,
//! everybody else the certificate.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::common::{Node, PATIENCE, Process, command, tunnel};
use halloo_transport::Show;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The name in the certificates.
pub(crate) const NAME: &str = "peer.example";

/// A certificate and a key in files.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn in_dir(dir: &Path) -> Self {
        Self { certificate: dir.join("fullchain.pem"), key: dir.join("privkey.pem") }
    }

    /// Writes a pair that ends in so many days. Returns the certificate.
    fn write(&self, days: u64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 600)).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(&self.certificate, certificate.pem()).unwrap();
        fs::write(&self.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&self.key, Permissions::from_mode(0o600)).unwrap();
        certificate.der().clone()
    }

    fn args(&self) -> [String; 4] {
        let [certificate, key] = [&self.certificate, &self.key].map(|p| p.display().to_string());
        ["--tls-certificate".into(), certificate, "--tls-key".into(), key]
    }
}

async fn start(home: &Path, pair: &Pair) -> Process {
    let args = pair.args();
    let mut all = vec!["--websocket", "127.0.0.1:0"];
    all.extend(args.iter().map(String::as_str));
    Process::start(home, &all).await
}

/// Asks for `/` as a browser does that trusts `roots`. Returns the server's certificate and the page.
pub(crate) async fn browse(
    at: SocketAddr,
    roots: RootCertStore,
) -> std::io::Result<(CertificateDer<'static>, String)> {
    fetch(at, "/", roots).await
}

/// Asks for `path` as [`browse`] does.
pub(crate) async fn fetch(
    at: SocketAddr,
    path: &str,
    roots: RootCertStore,
) -> std::io::Result<(CertificateDer<'static>, String)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(at).await?;
    let name = ServerName::try_from(NAME).unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    timeout(PATIENCE, tls.read_to_string(&mut page)).await??;
    Ok((shown, page))
}

fn trusting(certificate: &CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    roots
}

async fn health(peer: &Process, home: &Path) -> Value {
    let mut health = command(home);
    health.args(["health", "--json", "--admin", &peer.admin().to_string()]);
    let output = tokio::task::spawn_blocking(move || health.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_browser_sees_the_authoritys_certificate_and_a_node_the_peers_own() {
    let home = tempfile::tempdir().unwrap();
    let pair = Pair::in_dir(home.path());
    let certificate = pair.write(80);
    let peer = start(home.path(), &pair).await;
    assert!(peer.ready["certificate_ends_s"].is_i64(), "{}", peer.ready);
    let (shown, page) = browse(peer.websocket(), trusting(&certificate)).await.unwrap();
    assert_eq!(shown, certificate);
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    // A node pins the peer's key, and finds it.
    let node = Node::new(&peer);
    let tunnel = tunnel(&node, peer.websocket()).await;
    node.connect_at(tunnel.addr(), Show::Nothing).await;
    assert_eq!(health(&peer, home.path()).await["warnings"], json!([]));
    let metrics = crate::admin::get(peer.admin(), "/metrics").await.body;
    assert!(metrics.contains("\nrdv_certificate_end_time_seconds "), "{metrics}");
    let status = crate::admin::status(peer.admin()).await;
    assert_eq!(status["certificate"]["days_left"], 80);
}

#[tokio::test]
async fn without_a_certificate_everybody_sees_the_peers_own() {
    let home = tempfile::tempdir().unwrap();
    let pair = Pair::in_dir(home.path());
    let certificate = pair.write(80);
    let peer = Process::start(home.path(), &["--websocket", "127.0.0.1:0"]).await;
    assert!(browse(peer.websocket(), trusting(&certificate)).await.is_err());
    let status = crate::admin::status(peer.admin()).await;
    assert_eq!(status["certificate"], Value::Null);
}

#[tokio::test]
async fn sighup_takes_over_a_renewed_pair_and_leaves_a_broken_one() {
    let home = tempfile::tempdir().unwrap();
    let pair = Pair::in_dir(home.path());
    let first = pair.write(5);
    let mut peer = start(home.path(), &pair).await;
    let warnings = health(&peer, home.path()).await["warnings"].to_string();
    assert!(warnings.contains("ends in 5 days"), "{warnings}");
    fs::write(&pair.certificate, "half a certifi").unwrap();
    peer.signal(Signal::HUP);
    let failed = peer.event("reload_failed").await;
    assert_eq!(failed["error"]["code"], "certificate-unusable", "{failed}");
    let (shown, _) = browse(peer.websocket(), trusting(&first)).await.unwrap();
    assert_eq!(shown, first, "the one before is shown on");
    let second = pair.write(90);
    peer.signal(Signal::HUP);
    peer.event("reloaded").await;
    let (shown, _) = browse(peer.websocket(), trusting(&second)).await.unwrap();
    assert_eq!(shown, second);
    assert_eq!(health(&peer, home.path()).await["warnings"], json!([]));
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_is_a_reason_not_to_start() {
    let home = tempfile::tempdir().unwrap();
    let (pair, other) = (Pair::in_dir(home.path()), tempfile::tempdir().unwrap());
    let refused = async || {
        let mut run = command(home.path());
        run.args(["run", "--listen", "127.0.0.1:0", "--admin", "off"]).args(pair.args());
        let output = tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let says = |(code, text): (Option<i32>, String), exit, what: &[&str]| {
        assert_eq!(code, Some(exit), "{text}");
        what.iter().for_each(|what| assert!(text.contains(what), "{what}: {text}"));
    };
    says(refused().await, 78, &["error[certificate-unreadable]", "fullchain.pem"]);
    pair.write(1);
    fs::write(&pair.certificate, "no certificate").unwrap();
    says(refused().await, 78, &["error[certificate-unusable]", "there is no certificate in it"]);
    pair.write(1);
    fs::write(&pair.key, "no key").unwrap();
    says(refused().await, 78, &["error[certificate-unusable]", "there is no private key in it"]);
    pair.write(1);
    let another = Pair { certificate: other.path().join("x"), ..Pair::in_dir(home.path()) };
    another.write(1);
    says(refused().await, 78, &["the private key is not that of the first certificate"]);
    pair.write(1);
    fs::set_permissions(&pair.key, Permissions::from_mode(0o644)).unwrap();
    says(refused().await, 77, &["error[certificate-key-open-to-others]", "chmod o= "]);
}
