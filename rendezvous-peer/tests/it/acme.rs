//! A certificate that the peer gets by itself, from a real authority's software: Pebble, the one that
//! Let's Encrypt tests clients with. It asks its questions at the peer's own port.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::certificate::{NAME, browse, fetch};
use crate::common::{Node, PATIENCE, Process, command, in_home, names, not_shown, tunnel};
use halloo_transport::Show;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

/// A program that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority, with a name service of its own in which every name is the loopback.
struct Authority {
    directory: SocketAddr,
    management: SocketAddr,
    roots: RootCertStore,
    _running: [Running; 2],
}

fn free_tcp() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Authority {
    /// Starts it. It asks at `port`. `None` where it is not installed.
    fn start(home: &Path, port: u16) -> Option<Self> {
        let programs =
            ["pebble", "pebble-challtestsrv"].map(|name| Path::new("/usr/bin").join(name));
        if programs.iter().any(|program| !program.exists()) {
            not_shown("without pebble (apt-get install pebble), no authority gives a certificate");
            return None;
        }
        // The authority's own server has a certificate that is not of its making.
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &ca_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let own = params.signed_by(&key, &issuer).unwrap();
        let file = |name: &str, text: &str| {
            let path = home.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        file("roots.pem", &ca.pem());
        let (directory, management) = (free_tcp(), free_tcp());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("own.pem", &own.pem()),
            "privateKey": file("own.key", &key.serialize_pem()),
            "httpPort": 1,
            "tlsPort": port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let config = file("pebble.json", &config.to_string());
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let [pebble, names] = programs.map(|program| in_home(Command::new(program), home));
        let mut names = names;
        names.args(["-dns01", &dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-management", &free_tcp().to_string()]);
        let names = names.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut pebble = pebble;
        pebble.args(["-config", &config, "-dnsserver", &dns, "-strict"]);
        // It neither waits nor refuses at random.
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        let mut pebble = pebble.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(pebble.stdout.take().unwrap()).lines();
        let running = [Running(pebble), Running(names)];
        assert!(said.any(|line| line.unwrap().contains("Listening on")), "it ends at once");
        // What nobody reads would hold it up.
        std::thread::spawn(move || said.for_each(drop));
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        Some(Self { directory, management, roots, _running: running })
    }

    /// The root of what it gives.
    async fn root(&self) -> RootCertStore {
        let asked = async {
            loop {
                if let Ok((_, page)) = fetch(self.management, "/roots/0", self.roots.clone()).await
                {
                    break page;
                }
            }
        };
        let page = timeout(PATIENCE, asked).await.unwrap();
        let root = CertificateDer::from_pem_slice(page.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        roots
    }
}

async fn start(home: &Path, authority: &Authority, at: SocketAddr) -> Process {
    let mut run = command(home);
    run.args(["run", "--json", "--listen", "127.0.0.1:0", "--websocket", &at.to_string()]);
    run.args(["--acme", NAME, "--acme-contact", "anna@peer.example", "--acme-cache", "acme"]);
    run.args(["--acme-directory", &format!("https://{}/dir", authority.directory)]);
    run.env("SSL_CERT_FILE", home.join("roots.pem"));
    Process::spawn(run).await
}

#[tokio::test]
async fn an_authority_gives_a_certificate_which_outlives_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let at = free_tcp();
    let Some(authority) = Authority::start(home.path(), at.port()) else { return };
    let mut peer = start(home.path(), &authority, at).await;
    let given = loop {
        let event = peer.event("certificate").await;
        if let Some(ends) = event["ends_s"].as_i64() {
            break ends;
        }
    };
    let roots = authority.root().await;
    let (shown, page) = browse(at, roots.clone()).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    let node = Node::new(&peer);
    let tunnel = tunnel(&node, at).await;
    node.connect_at(tunnel.addr(), Show::Nothing).await;
    let status = crate::admin::status(peer.admin()).await;
    assert_eq!(status["certificate"]["ends_s"], given);

    // What is kept is for this user alone, and beside the peer's key there is nothing else.
    let kept = names(&home.path().join("acme"));
    assert_eq!(kept.len(), 2, "{kept:?}");
    for name in &kept {
        let mode = home.path().join("acme").join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(names(&home.path().join("data")), ["peer.key"]);
    peer.kill().await;
    let mut again = start(home.path(), &authority, at).await;
    assert_eq!(again.event("certificate").await["ends_s"], given);
    let (same, _) = browse(at, roots).await.unwrap();
    assert_eq!(same, shown, "the one that was kept, and no other");
}

#[test]
fn without_a_place_to_keep_it_no_authority_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let refused = command(home.path()).args(["run", "--acme", NAME]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("error[acme-without-cache]"), "{text}");
    assert!(text.contains("gives only some in a week"), "{text}");
}
