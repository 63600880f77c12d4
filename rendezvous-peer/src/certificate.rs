//! The files of a certificate that an authority has given for the WebSockets' port. They are the
//! operator's, and read only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use halloo_transport::websocket::{Certificate, CertificateError};
use zeroize::Zeroizing;

/// Bytes of a file. A chain of ten certificates has some 20 KiB.
const MAX_FILE: u64 = 128 << 10;

/// Where a certificate and its key are, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate, and behind it those of the authority.
    pub certificate: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
}

/// Why a certificate cannot be had from its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is larger than a certificate or a key is.
    #[error("{} is too large for what it should be", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Everybody on the machine can read or write the private key.
    #[error("the private key {} is open to everybody (mode {mode:04o})", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{} cannot be used", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
}

/// By what it is seen that files have changed: where they lie, how long they are, and when they were
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl CertificateFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// [`CertificateFileError`]. A certificate that has expired is none.
    pub fn read(&self) -> Result<Certificate, CertificateFileError> {
        let chain = read(&self.certificate, |_| Ok(()))?;
        let key = read(&self.key, |mode| match mode & 0o007 {
            0 => Ok(()),
            _ => Err(CertificateFileError::OpenToOthers { path: self.key.clone(), mode }),
        })?;
        Certificate::from_pem(&chain, &key).map_err(|source| {
            let path = match source {
                CertificateError::NoKey | CertificateError::BadKey | CertificateError::Mismatch => {
                    &self.key
                }
                _ => &self.certificate,
            };
            CertificateFileError::Unusable { path: path.clone(), source }
        })
    }

    /// What the files look like from outside. A link is followed: certbot exchanges links.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp([&self.certificate, &self.key].map(|path| {
            let it = std::fs::metadata(path).ok()?;
            Some((it.ino(), it.len(), it.mtime(), it.mtime_nsec()))
        }))
    }
}

fn read(
    path: &Path,
    may: impl FnOnce(u32) -> Result<(), CertificateFileError>,
) -> Result<Zeroizing<Vec<u8>>, CertificateFileError> {
    let failed = |source| CertificateFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    may(file.metadata().map_err(failed)?.permissions().mode() & 0o777)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(CertificateFileError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
