//! Moves datagrams between a tunnel and its WebSocket.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::tunnel::{Tunnel, TunnelInjector, TunnelOutgoing};

use super::{CLOSE_DEADLINE, IDLE, MAX_MESSAGE, QUEUE, Stream, TunnelEnd};

/// Moves datagrams both ways until the WebSocket ends, or `stopped` is told or dropped. With
/// `ping` it breaks the silence that often.
pub(super) async fn run<S: Stream>(
    socket: WebSocketStream<S>,
    tunnel: Tunnel,
    ping: Option<Duration>,
    stopped: oneshot::Receiver<()>,
) -> TunnelEnd {
    let (sink, stream) = socket.split();
    let (outgoing, injector) = tunnel.split();
    let mut writer = Writer { sink, queue: VecDeque::new(), ping_due: false, unflushed: false };
    let end = tokio::select! {
        end = read(stream, &injector) => end,
        end = writer.run(outgoing, ping.map(pings)) => end,
        _ = stopped => TunnelEnd::ClosedHere,
    };
    if end != TunnelEnd::Closed {
        // A courtesy: the other side finds out anyway.
        let _ = timeout(CLOSE_DEADLINE, writer.sink.close()).await;
    }
    end
}

async fn read<S: Stream>(
    mut stream: SplitStream<WebSocketStream<S>>,
    injector: &TunnelInjector,
) -> TunnelEnd {
    loop {
        match timeout(IDLE, stream.next()).await {
            Err(_) => return TunnelEnd::Idle,
            Ok(Some(Ok(Message::Binary(datagram)))) => {
                if !datagram.is_empty() && datagram.len() <= MAX_MESSAGE {
                    injector.inject(datagram);
                }
            }
            // The library answers pings and closes.
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)))) => {}
            Ok(Some(Ok(Message::Text(_) | Message::Frame(_)))) => return TunnelEnd::Misbehaved,
            Ok(Some(Err(e))) => return end(&e),
            Ok(None) => return TunnelEnd::Closed,
        }
    }
}

struct Writer<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    /// What waits for TCP, oldest first; [`QUEUE`] at most.
    queue: VecDeque<Bytes>,
    ping_due: bool,
    unflushed: bool,
}

impl<S: Stream> Writer<S> {
    async fn run(
        &mut self,
        mut outgoing: TunnelOutgoing,
        mut pings: Option<Interval>,
    ) -> TunnelEnd {
        loop {
            let waiting = self.ping_due || !self.queue.is_empty();
            // Every arm either only waits or is done at once, so that none loses anything by being
            // dropped.
            let written = tokio::select! {
                datagram = outgoing.recv() => match datagram {
                    None => return TunnelEnd::ClosedHere,
                    Some(datagram) => {
                        self.put(datagram);
                        // All that has come, so that the queue holds the newest.
                        while let Some(datagram) = outgoing.try_recv() {
                            self.put(datagram);
                        }
                        Ok(())
                    }
                },
                progress = poll_fn(|cx| match waiting {
                    true => self.sink.poll_ready_unpin(cx),
                    false => self.sink.poll_flush_unpin(cx),
                }), if waiting || self.unflushed => match progress {
                    Ok(()) if waiting => self.write_one(),
                    other => {
                        self.unflushed = false;
                        other
                    }
                },
                () = tick(pings.as_mut()) => {
                    self.ping_due = true;
                    Ok(())
                }
            };
            if let Err(e) = written {
                return end(&e);
            }
        }
    }

    fn put(&mut self, datagram: Bytes) {
        if self.queue.len() == QUEUE {
            self.queue.pop_front();
        }
        self.queue.push_back(datagram);
    }

    fn write_one(&mut self) -> Result<(), tungstenite::Error> {
        let message = if std::mem::take(&mut self.ping_due) {
            Message::Ping(Bytes::new())
        } else if let Some(datagram) = self.queue.pop_front() {
            Message::Binary(datagram)
        } else {
            return Ok(());
        };
        self.unflushed = true;
        self.sink.start_send_unpin(message)
    }
}

fn pings(every: Duration) -> Interval {
    let mut pings = interval(every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    pings
}

async fn tick(pings: Option<&mut Interval>) {
    match pings {
        Some(pings) => {
            pings.tick().await;
        }
        None => pending().await,
    }
}

fn end(e: &tungstenite::Error) -> TunnelEnd {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match e {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Io(_)
        | tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => TunnelEnd::Closed,
        _ => TunnelEnd::Misbehaved,
    }
}
