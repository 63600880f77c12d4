//! What a [`Listener`](super::Listener) shows to those who are no nodes.
//!
//! A node recognises a peer by the peer's own key, and can check nothing but Ed25519; so it is shown
//! the peer's own certificate whatever else there is. Everybody else (a browser, a probe of a
//! network's firewall, an authority that asks whose name this is) gets the certificate of an
//! authority, if the operator has given one.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::Credentials;

/// What is spoken where an authority asks (RFC 8737).
pub(super) const ALPN_CHALLENGE: &[u8] = b"acme-tls/1";

/// Certificates of a chain. Authorities give two to four.
const LONGEST_CHAIN: usize = 10;

/// Why a text is no certificate with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is no certificate in the text.
    #[error("there is no certificate in it (PEM, `-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// A certificate in the text cannot be read.
    #[error("a certificate in it cannot be read")]
    BadCertificate,
    /// More certificates than any chain has.
    #[error("it holds more than {LONGEST_CHAIN} certificates")]
    TooLong,
    /// There is no private key in the text.
    #[error("there is no private key in it (PEM, `-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// The private key is of a kind that cannot be used.
    #[error("the private key in it is of a kind that cannot be used")]
    BadKey,
    /// The key is not that of the first certificate.
    #[error("the private key is not that of the first certificate")]
    Mismatch,
}

/// A certificate of an authority, with its key.
#[derive(Clone)]
pub struct Certificate {
    shown: Shown,
    not_after: Option<i64>,
}

#[derive(Clone)]
enum Shown {
    /// This one.
    One(Credentials),
    /// What somebody else chooses, who answers authorities too.
    Chosen(Arc<dyn ResolvesServerCert>),
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and the private key of that one.
    ///
    /// # Errors
    /// [`CertificateError`]. Dates and names are not looked at: who shows a certificate need not
    /// trust it.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let certificates = CertificateDer::pem_slice_iter(chain).take(LONGEST_CHAIN + 1);
        let certificates: Vec<_> =
            certificates.collect::<Result<_, _>>().map_err(|_| CertificateError::BadCertificate)?;
        if certificates.len() > LONGEST_CHAIN {
            return Err(CertificateError::TooLong);
        }
        let first = certificates.first().ok_or(CertificateError::NoCertificate)?;
        let not_after = not_after(first).ok_or(CertificateError::BadCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        let key =
            aws_lc_rs::sign::any_supported_type(&key).map_err(|_| CertificateError::BadKey)?;
        let certified = CertifiedKey::new(certificates, key);
        match certified.keys_match() {
            // A key that does not say which it is cannot be compared.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(CertificateError::Mismatch),
        }
        Ok(Self { shown: Shown::One(Arc::new(certified)), not_after: Some(not_after) })
    }

    /// Whatever `chooser` chooses at each handshake. It is asked by authorities too, who speak
    /// `acme-tls/1` (RFC 8737). Where it has nothing, the peer's own is shown.
    pub fn chosen_by(chooser: Arc<dyn ResolvesServerCert>) -> Self {
        Self { shown: Shown::Chosen(chooser), not_after: None }
    }

    /// When it ends, in seconds since 1970, if it is one certificate.
    pub fn not_after(&self) -> Option<i64> {
        self.not_after
    }

    /// Whether authorities are answered.
    pub(super) fn takes_challenges(&self) -> bool {
        matches!(self.shown, Shown::Chosen(_))
    }

    fn resolve(&self, hello: ClientHello<'_>) -> Option<Credentials> {
        match &self.shown {
            Shown::One(it) => Some(Arc::clone(it)),
            Shown::Chosen(chooser) => chooser.resolve(hello),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// When a certificate (DER) ends, in seconds since 1970.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Who shows what: the peer's own certificate to nodes, another one to everybody else.
pub(super) fn resolver(
    own: Credentials,
    other: Option<Certificate>,
) -> Arc<dyn ResolvesServerCert> {
    match other {
        None => Arc::new(SingleCertAndKey::from(own)),
        Some(other) => Arc::new(ByClient { own, other }),
    }
}

/// What those may agree on who are no nodes. Nodes offer one key exchange, and get that one.
pub(super) fn provider() -> CryptoProvider {
    let kx_groups =
        vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() }
}

#[derive(Debug)]
struct ByClient {
    own: Credentials,
    other: Certificate,
}

impl ResolvesServerCert for ByClient {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Credentials> {
        let own = || Some(Arc::clone(&self.own));
        if hello.signature_schemes() == [SignatureScheme::ED25519] {
            return own();
        }
        let asked = hello.alpn().is_some_and(|mut names| names.any(|name| name == ALPN_CHALLENGE));
        match self.other.resolve(hello) {
            // An authority that asks gets the answer or none.
            None if asked => None,
            None => own(),
            other => other,
        }
    }
}
