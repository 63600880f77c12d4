//! What is told to systemd, when it has started the program.

use std::time::Duration;

use rendezvous_peer::RunningPeer;
use sd_notify::NotifyState;

use super::values::ByteSize;

/// The shortest watchdog that can be kept: three sweeps.
const SHORTEST_WATCHDOG: Duration = Duration::from_secs(15);

/// The service manager, if there is one.
pub(super) struct Service;

impl Service {
    /// The manager that the environment names.
    pub(super) fn new() -> Self {
        if let Some(watchdog) = sd_notify::watchdog_enabled()
            && watchdog < SHORTEST_WATCHDOG
        {
            tracing::warn!(
                seconds = watchdog.as_secs(),
                "The watchdog is too short: the peer shows every five seconds that it lives"
            );
        }
        Self
    }

    /// The peer answers requests.
    pub(super) fn ready(&self, peer: &RunningPeer) {
        tell(&[NotifyState::Ready, NotifyState::Status(&status(peer))]);
    }

    /// The peer's table was swept: all its locks can be had, and the runtime runs tasks. Said after
    /// each sweep and at no other time, so that a peer that hangs is started again.
    pub(super) fn alive(&self, peer: &RunningPeer) {
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status(peer))]);
    }

    /// The peer lets connections end.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("Connections have time to leave")]);
    }
}

fn status(peer: &RunningPeer) -> String {
    let stats = peer.stats();
    format!(
        "{} connections, {} registrations, {} of {} in use",
        stats.connections,
        stats.registrations,
        ByteSize(stats.memory_used >> 10 << 10),
        ByteSize(stats.memory_cap)
    )
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a manager, there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "The service manager did not hear");
    }
}
