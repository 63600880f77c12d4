//! A line: what a connection to a contact runs on, whatever paths it takes.
//!
//! QUIC dials one virtual address for a contact; the transport's [`Route`] carries its datagrams
//! through a relay channel or directly, and the [`paths`](super::paths) task decides which. A
//! line is the handle to all of that. When its last holder lets go, the paths are forgotten.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halloo_identity::Fingerprint;
use halloo_nat::{Technique, WhyRelayed};
use halloo_transport::{CloseCode, NodeConnection, Route};
use halloo_wire::RoundId;
use halloo_wire::path::SendOn;

use super::paths::{Command, Paths};
use crate::event::{Path, Via};

/// A connection that is in use is heard more often than this, unless it is lost.
const LATELY: Duration = Duration::from_millis(500);

/// See the [module](self).
pub(crate) struct Line {
    pub(crate) contact: Fingerprint,
    pub(crate) route: Route,
    /// The round of the knock that opened it, by which both ends name it; `None` when it was found
    /// in the local network without one.
    pub(crate) opened: Option<RoundId>,
    state: Mutex<State>,
    paths: Paths,
}

/// The paths of a line at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    pub(crate) send_on: SendOn,
    pub(crate) rtt: Option<Duration>,
    pub(crate) technique: Option<Technique>,
    pub(crate) why: Option<WhyRelayed>,
    /// What the program was told last.
    told: Option<Via>,
}

impl Line {
    pub(super) fn new(
        contact: Fingerprint,
        route: Route,
        opened: Option<RoundId>,
        paths: Paths,
    ) -> Self {
        Self { contact, route, opened, state: Mutex::default(), paths }
    }

    /// The address that QUIC knows.
    pub(crate) fn virtual_addr(&self) -> SocketAddr {
        self.route.virtual_addr()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path that data takes, given what QUIC has measured.
    pub(crate) fn path(&self, measured: Option<Duration>) -> Path {
        let state = *self.state();
        match state.send_on.direct() {
            Some(direct) => Path::Direct {
                addr: direct.remote,
                rtt: state.rtt.or(measured).unwrap_or_default(),
                technique: state.technique.unwrap_or(Technique::Reflexive),
            },
            None => Path::Relayed {
                rtt: measured.unwrap_or_default(),
                why: state.why.unwrap_or(WhyRelayed::StillTrying),
            },
        }
    }

    /// Whether one of the two shows no addresses.
    pub(crate) fn is_hidden(&self) -> bool {
        self.state().why == Some(WhyRelayed::Hidden)
    }

    /// Whether this path is another kind than the program was told last; it counts as told then.
    pub(crate) fn is_news(&self, path: &Path) -> bool {
        self.state().told.replace(path.via()) != Some(path.via())
    }

    /// Says that something large is about to travel: techniques that cost hundreds of datagrams
    /// are worth it now.
    pub(crate) fn want_direct(&self) {
        self.paths.command(Command::Want(self.virtual_addr()));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.paths.command(Command::Forget(self.virtual_addr()));
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("state", &*self.state()).finish_non_exhaustive()
    }
}

/// A connection to a contact and the line under it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) connection: NodeConnection,
    pub(crate) line: Arc<Line>,
}

impl Link {
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether anything has come on it lately, by whatever path.
    pub(crate) fn is_heard(&self) -> bool {
        let traffic = self.line.route.traffic();
        traffic.heard_direct.max(traffic.heard_relay).is_some_and(|at| at.elapsed() < LATELY)
    }

    pub(crate) fn id(&self) -> usize {
        self.connection.stable_id()
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.connection.close(code);
    }

    pub(crate) fn path(&self) -> Path {
        self.line.path(Some(self.connection.rtt()))
    }

    pub(crate) fn via(&self) -> Via {
        self.path().via()
    }
}
