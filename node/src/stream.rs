//! The stream of events, with replay.

use std::collections::VecDeque;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::clock::mono_ns;
use crate::error::EventError;
use crate::event::{Cursor, Event, EventKind};
use crate::store::Store;

/// Events that are read from the store at once.
const PORTION: usize = 64;

/// Events of a node, from a cursor on.
///
/// Durable events come each once and in order, also those from before the stream was made or
/// while the program was away: they are read from the store. Passing events come as they happen;
/// a program that is more than about a thousand events behind loses some and is told how many
/// ([`EventKind::Lagged`]). A slow program never slows the node.
#[derive(Debug)]
pub struct EventStream {
    store: Store,
    live: broadcast::Receiver<Event>,
    stop: CancellationToken,
    cursor: Cursor,
    ready: VecDeque<Event>,
    /// Whether the store may have events that this stream has not seen.
    behind: bool,
}

impl EventStream {
    pub(crate) fn new(
        store: Store,
        live: broadcast::Receiver<Event>,
        stop: CancellationToken,
        cursor: Cursor,
    ) -> Self {
        Self { store, live, stop, cursor, ready: VecDeque::new(), behind: true }
    }

    /// The place of the last durable event that was returned. A stream from here on goes on
    /// behind it.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next event.
    ///
    /// # Errors
    /// [`EventError::Stopped`] when the node has stopped, [`EventError::Store`] when the store
    /// cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call loses no event.
    pub async fn next(&mut self) -> Result<Event, EventError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.cursor = event.cursor.unwrap_or(self.cursor);
                return Ok(event);
            }
            if self.behind {
                let cursor = self.cursor;
                let events: Vec<(Cursor, EventKind)> = self
                    .store
                    .run(move |_, cx| cx.db.events(cursor, PORTION))
                    .await
                    .map_err(EventError::from)?;
                self.behind = !events.is_empty();
                let mono_ns = mono_ns();
                self.ready.extend(events.into_iter().map(|(c, kind)| Event {
                    cursor: Some(c),
                    mono_ns,
                    kind,
                }));
                continue;
            }
            let next = tokio::select! {
                biased;
                next = self.live.recv() => next,
                () = self.stop.cancelled() => return Err(EventError::Stopped),
            };
            match next {
                // It has been read from the store.
                Ok(event) if event.cursor.is_some_and(|c| c <= self.cursor) => {}
                Ok(event) => self.ready.push_back(event),
                Err(RecvError::Lagged(dropped)) => {
                    self.behind = true;
                    let kind = EventKind::Lagged { dropped };
                    self.ready.push_back(Event { cursor: None, mono_ns: mono_ns(), kind });
                }
                Err(RecvError::Closed) => return Err(EventError::Stopped),
            }
        }
    }
}
