//! Somebody in the story: a node, and what it has heard.

use std::path::Path;
use std::time::Duration;

use halloo::{Event, EventKind, EventStream, Fingerprint, Node, PeerAddress};

use super::untrue;
use crate::failure::Failure;

/// How long a step may take. Everything happens on one machine; this is for a very busy one.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody in the story.
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) node: Node,
    pub(super) address: String,
    events: EventStream,
    heard: Vec<Event>,
}

/// Something that was heard, and when.
pub(super) struct Heard<T> {
    pub(super) what: T,
    mono_ns: u64,
}

impl<T> Heard<T> {
    /// How long after `begun_ns` it was.
    pub(super) fn after(&self, begun_ns: u64) -> Duration {
        Duration::from_nanos(self.mono_ns.saturating_sub(begun_ns))
    }
}

impl Person {
    /// Starts the node of `home` and waits until its peer knows it.
    pub(super) async fn arrive(
        name: &'static str,
        full_name: &str,
        home: &Path,
        peer: &PeerAddress,
    ) -> Result<Self, Failure> {
        let node = Node::builder()
            .home(home)
            .peer_address(peer)
            .name(full_name)
            .listen(([127, 0, 0, 1], 0).into())
            .start()
            .await?;
        let events = node.events_from_now().await?;
        if tokio::time::timeout(PATIENCE, node.online()).await.is_err() {
            return Err(untrue("online", &format!("the peer does not answer {name}")));
        }
        let address = node.address().await?.to_string();
        Ok(Self { name, node, address, events, heard: Vec::new() })
    }

    /// The fingerprint.
    pub(super) fn me(&self) -> Fingerprint {
        self.node.fingerprint()
    }

    /// Waits until something was heard, before or from here on.
    ///
    /// # Errors
    /// `demo-untrue` with the name of the step when it does not come.
    pub(super) async fn hear<T>(
        &mut self,
        step: &str,
        what: impl Fn(&EventKind) -> Option<T>,
    ) -> Result<Heard<T>, Failure> {
        let find =
            |event: &Event| what(&event.kind).map(|what| Heard { what, mono_ns: event.mono_ns });
        if let Some(heard) = self.heard.iter().find_map(find) {
            return Ok(heard);
        }
        let listen = async {
            loop {
                let event = self.events.next().await?;
                let found = find(&event);
                self.heard.push(event);
                if let Some(found) = found {
                    return Ok(found);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, listen).await {
            Ok(result) => result,
            Err(_) => Err(untrue(step, &format!("{} waits in vain", self.name))),
        }
    }

    /// How often something was heard, as far as it can be heard without waiting.
    pub(super) async fn count<T>(
        &mut self,
        what: impl Fn(&EventKind) -> Option<T>,
    ) -> Result<usize, Failure> {
        // What has been emitted is there at once; the timeout only says that nothing is left.
        while let Ok(event) =
            tokio::time::timeout(Duration::from_millis(50), self.events.next()).await
        {
            self.heard.push(event?);
        }
        Ok(self.heard.iter().filter_map(|event| what(&event.kind)).count())
    }
}
