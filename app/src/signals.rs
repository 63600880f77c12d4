//! SIGINT and SIGTERM end commands in order; a second one ends them at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;
use crate::failure::Failure;

/// Which signal asked the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// A supervisor, or `kill`.
    Terminate,
}

/// Tells commands when to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Asked>>);

impl Stop {
    /// Begins to catch signals.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, stop) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    _ = interrupt.recv() => Asked::Interrupt,
                    _ = terminate.recv() => Asked::Terminate,
                };
                if tell.send_replace(Some(asked)).is_some() {
                    std::process::exit(i32::from(Exit::Interrupted.number()));
                }
            }
        });
        Ok(Self(stop))
    }

    /// Resolves when the program is asked to end. Cancel safe.
    pub(crate) async fn asked(&self) -> Asked {
        let mut stop = self.0.clone();
        match stop.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(asked)) => asked,
            // The catcher lives as long as the runtime, so this is never reached while it runs.
            _ => std::future::pending().await,
        }
    }

    /// Resolves to the failure of a command that was stopped before its end. Cancel safe.
    pub(crate) async fn interrupted(&self) -> Failure {
        self.asked().await;
        Failure::new("interrupted", "interrupted")
    }
}
