//! The certificate that those see at the WebSockets' port who are no nodes, and its renewal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use halloo_transport::websocket::{Certificate, Listener};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::certificate::{CertificateFileError, CertificateFiles, Stamp};

/// How often the files are looked at. Two calls of the system cost nothing.
const LOOK: Duration = Duration::from_secs(60);
/// Seconds of a day.
const DAY: i64 = 86_400;
/// A certificate that ends within so many days should have been renewed: authorities' are, at a third
/// of their time, 30 days of 90.
const SOON: i64 = 14;

/// When a certificate ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateEnd {
    /// In seconds since 1970.
    pub at: i64,
    /// Whole days from now; negative when it is over.
    pub days_left: i64,
}

impl CertificateEnd {
    /// The end at this moment of the clock.
    pub fn of(at: i64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        Self { at, days_left: (at - now).div_euclid(DAY) }
    }

    /// Whether a renewal seems to have failed.
    pub fn is_near(&self) -> bool {
        self.days_left < SOON
    }
}

/// What is shown, and where it is from.
pub(super) struct Certificates {
    /// Not the listener itself: watching keeps no socket open.
    listener: Weak<Listener>,
    files: Mutex<Option<(CertificateFiles, Stamp)>>,
    /// When what is shown ends.
    ends: watch::Sender<Option<i64>>,
}

impl Certificates {
    /// Nothing is shown yet but the peer's own.
    pub(super) fn new(listener: Weak<Listener>) -> Self {
        Self { listener, files: Mutex::default(), ends: watch::Sender::new(None) }
    }

    /// Shows what the files hold from now on; nothing but the peer's own certificate without files.
    ///
    /// # Errors
    /// When they cannot be used; what was shown before is shown on then.
    pub(super) fn use_files(
        &self,
        files: Option<CertificateFiles>,
    ) -> Result<(), CertificateFileError> {
        if files.is_none() && self.lock().is_none() {
            return Ok(());
        }
        // Before they are read, so that a change in between is seen as one.
        let stamp = files.as_ref().map(CertificateFiles::stamp);
        let certificate = files.as_ref().map(CertificateFiles::read).transpose()?;
        let mut state = self.lock();
        *state = files.zip(stamp);
        self.show(certificate);
        Ok(())
    }

    /// Shows this certificate from now on.
    pub(super) fn show(&self, certificate: Option<Certificate>) {
        self.ends_at(certificate.as_ref().and_then(Certificate::not_after));
        if let Some(listener) = self.listener.upgrade() {
            listener.show(certificate);
        }
    }

    /// Notes when what is shown ends.
    pub(super) fn ends_at(&self, ends: Option<i64>) {
        if let Some(end) = ends.map(CertificateEnd::of).filter(CertificateEnd::is_near) {
            tracing::warn!(days_left = end.days_left, "The certificate ends soon, or has ended");
        }
        self.ends.send_replace(ends);
    }

    /// When what is shown ends.
    pub(super) fn ends(&self) -> Option<CertificateEnd> {
        self.ends.borrow().map(CertificateEnd::of)
    }

    /// Hears of each certificate that is shown.
    pub(super) fn changes(&self) -> watch::Receiver<Option<i64>> {
        self.ends.subscribe()
    }

    /// Reads the files again when they have changed. Each change is tried once: who writes one file
    /// after the other makes two. Says whether another certificate is shown.
    fn look(&self) -> bool {
        let Some((files, before)) = self.lock().clone() else { return false };
        let now = files.stamp();
        if now == before {
            return false;
        }
        let read = files.read();
        let mut state = self.lock();
        // SIGHUP may have named others meanwhile.
        if state.as_ref() != Some(&(files.clone(), before)) {
            return false;
        }
        *state = Some((files, now));
        match read {
            Ok(certificate) => {
                self.show(Some(certificate));
                tracing::info!("The certificate's files have changed: it is shown from now on");
                true
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "The certificate's files have changed and cannot be used: the one before is \
                     shown on"
                );
                false
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(CertificateFiles, Stamp)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for renewed files, for ever.
pub(super) async fn look_loop(certificates: Arc<Certificates>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        certificates.look();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Puts a pair that ends in so many days in the place of what is there, as a renewal does.
    fn renew(dir: &Path, days: u64) {
        let mut params = CertificateParams::new(["peer.example".to_owned()]).unwrap();
        params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 600)).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        replace(&dir.join("key.pem"), &key.serialize_pem());
        replace(&dir.join("cert.pem"), &certificate.pem());
    }

    fn replace(path: &Path, text: &str) {
        let draft = path.with_extension("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, Permissions::from_mode(0o640)).unwrap();
        fs::rename(draft, path).unwrap();
    }

    #[test]
    fn renewed_files_are_taken_over_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name| dir.path().join(name);
        let files = CertificateFiles { certificate: file("cert.pem"), key: file("key.pem") };
        let it = Certificates::new(Weak::new());
        assert!(it.use_files(Some(files.clone())).is_err(), "there are none");
        renew(dir.path(), 3);
        it.use_files(Some(files)).unwrap();
        let days = || it.ends().unwrap().days_left;
        assert_eq!((days(), it.ends().unwrap().is_near()), (3, true));
        assert!(!it.look(), "nothing has changed");
        renew(dir.path(), 90);
        assert!(it.look());
        assert_eq!((days(), it.ends().unwrap().is_near()), (90, false));
        replace(&file("cert.pem"), "half a certifi");
        assert!(!it.look());
        assert_eq!(days(), 90, "the one before is shown on");
        renew(dir.path(), 60);
        fs::set_permissions(file("key.pem"), Permissions::from_mode(0o644)).unwrap();
        assert!(!it.look(), "a key that is open to everybody");
        fs::set_permissions(file("key.pem"), Permissions::from_mode(0o600)).unwrap();
        renew(dir.path(), 61);
        assert!(it.look());
        assert_eq!(days(), 61);
        it.use_files(None).unwrap();
        assert!(it.ends().is_none() && !it.look());
    }
}
