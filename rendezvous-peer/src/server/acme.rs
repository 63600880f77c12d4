//! A certificate that the peer asks an authority for and renews by itself (RFC 8555), proving its name
//! at the WebSockets' port (RFC 8737).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use halloo_transport::websocket::Certificate;
use rustls::{ClientConfig, RootCertStore};
use rustls_acme::{AccountCache, AcmeConfig, AcmeState, CertCache};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::certificate::Certificates;
use super::config::Acme;

/// How long after a failure the authority is asked again: Let's Encrypt allows five failures an hour
/// for one name. Doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);
/// Bytes of a file in the cache: a key and a chain.
const MAX_FILE: u64 = 128 << 10;
/// Letters of a failure that are logged.
const MAX_WORDS: usize = 400;

/// Why no authority can be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The directory for what has to be kept cannot be made or written.
    #[error("cannot write to {}", path.display())]
    Cache {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The machine has no list of the authorities that it trusts.
    #[error("this machine trusts no authority: install its certificates (ca-certificates)")]
    NoRoots,
}

/// Everything for asking.
pub(super) struct Orders {
    state: AcmeState<io::Error>,
    /// When the certificate that went through the cache last ends.
    seen: Arc<Mutex<Option<i64>>>,
    certificates: Arc<Certificates>,
}

impl Orders {
    /// Looks whether it can be asked, and asks nobody yet.
    pub(super) fn new(acme: Acme, certificates: &Arc<Certificates>) -> Result<Self, AcmeError> {
        let seen = Arc::default();
        let cache = Cache { dir: acme.cache, seen: Arc::clone(&seen) };
        cache.prepare().map_err(|source| AcmeError::Cache { path: cache.dir.clone(), source })?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(AcmeError::NoRoots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = AcmeConfig::new_with_client_config(acme.hosts, Arc::new(client))
            .contact(acme.contact)
            .directory(acme.directory)
            .cache(cache);
        Ok(Self { state: config.state(), seen, certificates: Arc::clone(certificates) })
    }

    /// What is shown: the certificate as soon as there is one, and the answer to the authority.
    pub(super) fn certificate(&self) -> Certificate {
        Certificate::chosen_by(self.state.resolver())
    }

    /// Asks, and asks again before the certificate ends, for ever.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while let Some(event) = self.state.next().await {
            // Only now is it shown: it goes through the cache a moment before or after.
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
            if seen.is_some() {
                self.certificates.ends_at(seen);
            }
            match event {
                Ok(done) => {
                    tracing::info!(?done, "ACME");
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    let error: String = error.to_string().chars().take(MAX_WORDS).collect();
                    let minutes = pause.as_secs() / 60;
                    tracing::warn!(error, minutes, "ACME has failed, and is tried again later");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// What has to outlive a restart: the account's key, and the certificate with its key. An authority
/// gives only so many certificates for a name in a week.
struct Cache {
    dir: PathBuf,
    seen: Arc<Mutex<Option<i64>>>,
}

impl Cache {
    /// Makes the directory and sees that it can be written.
    fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let probe = self.dir.join(".probe");
        write_whole(&probe, b"")?;
        std::fs::remove_file(probe)
    }

    /// Notes when the certificate ends.
    fn note(&self, pem: &[u8]) {
        if let Ok(certificate) = Certificate::from_pem(pem, pem) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen = certificate.not_after();
        }
    }

    async fn load(&self, name: String) -> io::Result<Option<Vec<u8>>> {
        let path = self.dir.join(name);
        blocking(move || match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_FILE).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
        .await
    }

    async fn store(&self, name: String, bytes: &[u8]) -> io::Result<()> {
        let (path, bytes) = (self.dir.join(name), bytes.to_owned());
        blocking(move || write_whole(&path, &bytes)).await
    }
}

/// A name for what belongs to these words and to no others.
fn name(kind: &str, words: &[String], directory: &str) -> String {
    let mut hash = blake3::Hasher::new();
    for word in words.iter().map(String::as_str).chain([directory]) {
        hash.update(&(word.len() as u64).to_be_bytes()).update(word.as_bytes());
    }
    format!("{kind}-{}.pem", &hash.finalize().to_hex()[..16])
}

/// Writes a file that only this user can read, whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    match std::fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[async_trait]
impl CertCache for Cache {
    type EC = io::Error;

    async fn load_cert(&self, hosts: &[String], directory: &str) -> io::Result<Option<Vec<u8>>> {
        let found = self.load(name("certificate", hosts, directory)).await?;
        if let Some(pem) = &found {
            self.note(pem);
        }
        Ok(found)
    }

    async fn store_cert(&self, hosts: &[String], directory: &str, pem: &[u8]) -> io::Result<()> {
        self.note(pem);
        self.store(name("certificate", hosts, directory), pem).await
    }
}

#[async_trait]
impl AccountCache for Cache {
    type EA = io::Error;

    async fn load_account(
        &self,
        contact: &[String],
        directory: &str,
    ) -> io::Result<Option<Vec<u8>>> {
        self.load(name("account", contact, directory)).await
    }

    async fn store_account(
        &self,
        contact: &[String],
        directory: &str,
        account: &[u8],
    ) -> io::Result<()> {
        self.store(name("account", contact, directory), account).await
    }
}
