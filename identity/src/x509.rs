//! The few X.509 certificates that Halloo makes and reads: version 3, Ed25519, one signature.
//!
//! Reading is strict. What surrounds the signed part must be the one DER encoding of it, so no
//! byte of a certificate can change without being refused.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    PKCS_ED25519, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use x509_parser::certificate::X509CertificateParser;
use x509_parser::extensions::X509Extension;
use x509_parser::nom::Parser;
use x509_parser::oid_registry::{OID_SIG_ED25519, OID_X509_EXT_BASIC_CONSTRAINTS, Oid};
use x509_parser::x509::{AlgorithmIdentifier, X509Version};
use zeroize::Zeroizing;

/// Private arc of the extensions: 2.25 and the UUID 00000000-0000-0000-8000-68616c6c6f6f, which
/// ends in "halloo". No generator makes a UUID of version 0, so nobody else draws it; an arc of
/// 128 bits is more than the certificate writer takes.
const ARC: u64 = 0x8000_6861_6c6c_6f6f;
/// Extension of a passport: BLAKE3 of the ML-DSA-65 public key, an OCTET STRING of 32 bytes.
pub(crate) const EXT_ML_DSA_HASH: [u64; 4] = [2, 25, ARC, 1];
/// Extension of a device certificate: the device id, an OCTET STRING of 4 bytes, big-endian.
pub(crate) const EXT_DEVICE_ID: [u64; 4] = [2, 25, ARC, 2];

/// `BasicConstraints` of a passport: it issues certificates, and those issue none.
const CA_CONSTRAINTS: &[u8] = &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];
/// `AlgorithmIdentifier` of Ed25519 and the head of a signature's BIT STRING (RFC 8410).
const SIGNATURE_HEAD: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x41, 0x00];
/// PKCS#8 of an Ed25519 seed up to the seed (RFC 8410, section 7).
const PKCS8_HEAD: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why bytes are not a certificate of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Longer than any certificate that Halloo makes.
    #[error("the certificate is longer than its limit")]
    TooLong,
    /// Not the DER encoding of an X.509 certificate of version 3, or with bytes around it.
    #[error("the certificate cannot be read")]
    Malformed,
    /// Signed with, or for, something other than Ed25519.
    #[error("the certificate is not an Ed25519 certificate")]
    Algorithm,
    /// The key is not a point of the curve, or one that anybody can sign for.
    #[error("the certificate's key is not a sound Ed25519 key")]
    Key,
    /// An extension is missing, unknown and critical, doubled, or has a wrong form.
    #[error("the certificate's extensions are wrong")]
    Extension,
    /// The certificate names another issuer.
    #[error("the certificate was issued by somebody else")]
    Issuer,
    /// The signature was not made with the issuer's key over this certificate.
    #[error("the certificate's signature does not fit")]
    Signature,
}

/// A certificate taken apart. Its signature is not checked yet.
pub(crate) struct Parsed<'a> {
    /// The subject's key.
    pub(crate) key: VerifyingKey,
    /// Whether it may issue device certificates.
    pub(crate) is_ca: bool,
    /// The value of [`EXT_ML_DSA_HASH`].
    pub(crate) ml_dsa_hash: Option<[u8; 32]>,
    /// The value of [`EXT_DEVICE_ID`].
    pub(crate) device: Option<u32>,
    issuer: &'a [u8],
    subject: &'a [u8],
    tbs: &'a [u8],
    signature: Signature,
}

impl<'a> Parsed<'a> {
    /// Takes a certificate of at most `limit` bytes apart.
    pub(crate) fn new(der: &'a [u8], limit: usize) -> Result<Self, CertificateError> {
        if der.len() > limit {
            return Err(CertificateError::TooLong);
        }
        let (rest, cert) = X509CertificateParser::new()
            .with_deep_parse_extensions(false)
            .parse(der)
            .map_err(|_| CertificateError::Malformed)?;
        let body = &cert.tbs_certificate;
        let spki = &body.subject_pki;
        if !is_ed25519(&body.signature) || !is_ed25519(&spki.algorithm) {
            return Err(CertificateError::Algorithm);
        }
        let signature = <[u8; 64]>::try_from(&*cert.signature_value.data)
            .map_err(|_| CertificateError::Algorithm)?;
        let tbs = strip_envelope(der, &signature).ok_or(CertificateError::Malformed)?;
        if !rest.is_empty() || tbs != body.as_ref() || body.version != X509Version::V3 {
            return Err(CertificateError::Malformed);
        }
        let key = <&[u8; 32]>::try_from(&*spki.subject_public_key.data)
            .map_err(|_| CertificateError::Key)?;
        let mut it = Self {
            key: sound_key(key).ok_or(CertificateError::Key)?,
            is_ca: false,
            ml_dsa_hash: None,
            device: None,
            issuer: body.issuer.as_raw(),
            subject: body.subject.as_raw(),
            tbs,
            signature: Signature::from_bytes(&signature),
        };
        let mut seen = Vec::new();
        for extension in body.extensions() {
            if seen.contains(&&extension.oid) || it.read_extension(extension).is_none() {
                return Err(CertificateError::Extension);
            }
            seen.push(&extension.oid);
        }
        Ok(it)
    }

    /// Checks that the certificate signs itself.
    pub(crate) fn verify_self_signed(&self) -> Result<(), CertificateError> {
        self.verify_issued_by(self)
    }

    /// Checks that `issuer` names and signs the certificate.
    pub(crate) fn verify_issued_by(&self, issuer: &Parsed<'_>) -> Result<(), CertificateError> {
        if self.issuer != issuer.subject {
            return Err(CertificateError::Issuer);
        }
        issuer.key.verify_strict(self.tbs, &self.signature).map_err(|_| CertificateError::Signature)
    }

    fn read_extension(&mut self, extension: &X509Extension<'_>) -> Option<()> {
        let value = extension.value;
        if is_oid(&extension.oid, &EXT_ML_DSA_HASH) {
            self.ml_dsa_hash = Some(octet_string(value)?);
        } else if is_oid(&extension.oid, &EXT_DEVICE_ID) {
            self.device = Some(u32::from_be_bytes(octet_string(value)?));
        } else if extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS {
            self.is_ca = (value == CA_CONSTRAINTS).then_some(true)?;
        } else if extension.critical {
            return None;
        }
        Some(())
    }
}

/// What a certificate says about its subject.
pub(crate) enum Profile<'a> {
    /// A passport, with the hash of its ML-DSA-65 key.
    Passport(&'a [u8; 32]),
    /// A device, with its id.
    Device(u32),
    /// A rendezvous peer.
    Peer,
}

impl Profile<'_> {
    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        let (name, extension) = match self {
            Self::Passport(hash) => ("Halloo passport", Some((EXT_ML_DSA_HASH, hash.to_vec()))),
            Self::Device(id) => ("Halloo device", Some((EXT_DEVICE_ID, id.to_be_bytes().to_vec()))),
            Self::Peer => ("Halloo rendezvous peer", None),
        };
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        // Identity is the key, and clocks lie: the certificate never expires.
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        params.custom_extensions = extension
            .map(|(oid, value)| {
                let mut content = vec![0x04, value.len() as u8];
                content.extend_from_slice(&value);
                CustomExtension::from_oid_content(&oid, content)
            })
            .into_iter()
            .collect();
        if let Self::Passport(_) = self {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }
        params
    }
}

/// Makes a certificate that signs itself. The serial number is derived from the key, so the same
/// key always gives the same bytes.
pub(crate) fn self_signed(key: &SigningKey, profile: &Profile<'_>) -> Vec<u8> {
    let certificate = profile.params().self_signed(&CertificateKey::new(key));
    certificate.expect("fixed parameters make a certificate").der().to_vec()
}

/// Makes a certificate for `subject` that `issuer`, described by `issuer_profile`, signs.
pub(crate) fn issued(
    subject: &VerifyingKey,
    profile: &Profile<'_>,
    issuer: &SigningKey,
    issuer_profile: &Profile<'_>,
) -> Vec<u8> {
    let issuer = Issuer::new(issuer_profile.params(), CertificateKey::new(issuer));
    let certificate = profile.params().signed_by(&CertificateSubject(*subject), &issuer);
    certificate.expect("fixed parameters make a certificate").der().to_vec()
}

/// The PKCS#8 encoding of an Ed25519 key, for TLS.
pub(crate) fn pkcs8(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(PKCS8_HEAD.len() + 32));
    out.extend_from_slice(PKCS8_HEAD);
    out.extend_from_slice(key.as_bytes());
    out
}

/// Lets the certificate writer sign without a second copy of the key.
struct CertificateKey<'a> {
    key: &'a SigningKey,
    public: VerifyingKey,
}

impl<'a> CertificateKey<'a> {
    fn new(key: &'a SigningKey) -> Self {
        Self { key, public: key.verifying_key() }
    }
}

impl PublicKeyData for CertificateKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateKey<'_> {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(msg).to_bytes().to_vec())
    }
}

struct CertificateSubject(VerifyingKey);

impl PublicKeyData for CertificateSubject {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// The signed part of a certificate, when everything around it is its one DER encoding.
fn strip_envelope<'a>(der: &'a [u8], signature: &[u8; 64]) -> Option<&'a [u8]> {
    let content = match *der {
        [0x30, n @ 0..=0x7f, ref rest @ ..] if usize::from(n) == rest.len() => rest,
        [0x30, 0x81, n @ 0x80..=0xff, ref rest @ ..] if usize::from(n) == rest.len() => rest,
        [0x30, 0x82, hi @ 1..=0xff, lo, ref rest @ ..]
            if usize::from(u16::from_be_bytes([hi, lo])) == rest.len() =>
        {
            rest
        }
        _ => return None,
    };
    content.strip_suffix(signature)?.strip_suffix(SIGNATURE_HEAD)
}

fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none()
}

/// Reads an Ed25519 key that only its owner can sign for: a point of small order is refused.
pub(crate) fn sound_key(bytes: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())
}

fn is_oid(oid: &Oid<'_>, arcs: &[u64]) -> bool {
    Oid::from(arcs).is_ok_and(|known| *oid == known)
}

fn octet_string<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    match *value {
        [0x04, n, ref content @ ..] if usize::from(n) == N => content.try_into().ok(),
        _ => None,
    }
}
