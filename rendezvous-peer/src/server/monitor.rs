//! What a peer does and holds, for those who watch it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use halloo_transport::websocket::{Listener, ListenerStats};

use super::Clock;
use super::certificate::{CertificateEnd, Certificates};
use crate::core::{Core, Incident, Limits, Stats};

/// A view of a [`RunningPeer`](super::RunningPeer) that outlives it, so that one can watch it
/// stop. It keeps no socket open.
#[derive(Clone)]
pub struct Monitor {
    pub(super) core: Arc<Core>,
    pub(super) clock: Clock,
    pub(super) tunnels: Weak<Listener>,
    pub(super) certificates: Arc<Certificates>,
}

impl Monitor {
    /// What the peer has done and holds.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.core.limits()
    }

    /// What has come to the WebSockets' port, while there is one.
    pub fn websocket_stats(&self) -> Option<ListenerStats> {
        self.tunnels.upgrade().map(|tunnels| tunnels.stats())
    }

    /// When the certificate of the WebSockets' port ends, as
    /// [`RunningPeer::certificate_end`](super::RunningPeer::certificate_end).
    pub fn certificate_end(&self) -> Option<CertificateEnd> {
        self.certificates.ends()
    }

    /// The latest incidents, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.core.incidents()
    }

    /// Time since the peer started, as the incidents count it.
    pub fn uptime(&self) -> Duration {
        self.clock.0.elapsed()
    }
}
