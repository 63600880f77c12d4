//! One connection: its requests, its pushes, its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use halloo_transport::{
    Accepted, CloseCode, Incoming, IncomingRequest, PushError, RequestFault, ServerConnection,
};
use halloo_wire::DecodeError;
use halloo_wire::peer::{Call, PeerError, Push, Response};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::Instrument;
use zeroize::Zeroize;

use super::{Link, PUSH_QUEUE, Queued, Shared};
use crate::core::{Caller, CloseReason, ConnId, Origin};

/// What a caller whose page finds no room is told to wait.
const PAGE_RETRY_MS: u32 = 500;

/// Serves one connection from its handshake to its end.
pub(super) async fn serve(shared: Arc<Shared>, conn: ConnId, incoming: Incoming) {
    let span = tracing::debug_span!("conn", id = conn.0);
    let stop = shared.stop.clone();
    // The address that the handshake proves. Afterwards, a packet from anywhere may change it.
    let proved = incoming.remote_addr();
    let work = async {
        match incoming.handshake().await {
            Ok(Accepted::PeerClient(connection)) => {
                welcome(shared, conn, connection, proved).await;
            }
            // An endpoint with a peer's role accepts no nodes.
            Ok(Accepted::Node(_)) => {}
            Err(error) => tracing::debug!(%error, "No handshake"),
        }
    };
    tokio::select! {
        // Dropping the connection closes it.
        () = stop.cancelled() => {}
        () = work.instrument(span) => {}
    }
}

async fn welcome(
    shared: Arc<Shared>,
    conn: ConnId,
    connection: ServerConnection,
    proved: SocketAddr,
) {
    let (pushes, queue) = mpsc::channel(PUSH_QUEUE);
    let mail = Arc::new(Notify::new());
    shared.links.insert(conn, Link { pushes, mail: Arc::clone(&mail) });
    let visit = Arc::new(Visit {
        identified: AtomicBool::new(false),
        paging: Semaphore::new(1),
        connection,
        conn,
        shared,
    });
    let caller = visit.caller();
    visit.identified.store(caller.is_some(), Ordering::Relaxed);
    let (origin, now) = (visit.origin(proved), visit.shared.clock.now());
    let greeting = match visit.shared.core.welcome(conn, origin, caller, now) {
        Ok(greeting) => greeting,
        Err(reason) => return visit.connection.close(code(reason)),
    };
    visit.shared.occupancy.send_modify(|n| *n += 1);
    let guest = Guest(Arc::clone(&visit));
    let mut requests = JoinSet::new();
    let why = tokio::select! {
        why = answer_all(&visit, &mut requests) => why,
        why = push_all(&visit, greeting, queue, mail) => why,
    };
    requests.shutdown().await;
    drop(guest);
    tracing::debug!(why, "Connection ended");
}

/// A connection that the core knows.
struct Visit {
    shared: Arc<Shared>,
    conn: ConnId,
    connection: ServerConnection,
    /// Whether the core knows the device that the connection has shown.
    identified: AtomicBool,
    /// A connection gets one page at a time.
    paging: Semaphore,
}

/// Makes the core forget the connection, however its task ends.
struct Guest(Arc<Visit>);

impl Drop for Guest {
    fn drop(&mut self) {
        let Visit { shared, conn, .. } = &*self.0;
        let ring = shared.core.connection_closed(*conn, shared.clock.now());
        shared.ring(ring.as_slice());
        shared.occupancy.send_modify(|n| *n -= 1);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.shared.links.remove(&self.conn);
    }
}

/// Answers requests until the connection ends; says why it did.
async fn answer_all(visit: &Arc<Visit>, requests: &mut JoinSet<()>) -> &'static str {
    loop {
        tokio::select! {
            request = visit.connection.accept_request() => match request {
                // The transport limits how many a client may have under way.
                Ok(request) => {
                    let work = answer(Arc::clone(visit), request).in_current_span();
                    requests.spawn(visit.shared.tasks.track_future(work));
                }
                Err(_) => return "lost",
            },
            Some(done) = requests.join_next() => if done.is_err() {
                return "request failed";
            },
        }
    }
}

async fn answer(visit: Arc<Visit>, incoming: IncomingRequest) {
    let Visit { shared, conn, connection, .. } = &*visit;
    let IncomingRequest { request, responder, early } = incoming;
    if !early {
        visit.identify();
    }
    let seen = visit.origin(connection.remote_addr());
    let (mut outcome, _page) = match request {
        Ok(request) => {
            let page = match request.call {
                Call::Peek { .. } => {
                    let own = visit.paging.acquire().await;
                    match shared.pages.try_acquire() {
                        Ok(page) => Some((own, page)),
                        Err(_) => {
                            let refusal = PeerError::RateLimited { retry_after_ms: PAGE_RETRY_MS };
                            // The node comes back; there is nothing to clean up if it does not hear.
                            let _ = responder.send(&Response::Refused(refusal)).await;
                            return;
                        }
                    }
                }
                _ => None,
            };
            let now = shared.clock.now();
            let outcome = match request.call {
                Call::Park => {
                    let key = |row| connection.parking_key(row);
                    shared.core.park(*conn, seen, &request, key, now)
                }
                _ => shared.core.call(*conn, seen, request, now),
            };
            (outcome, page)
        }
        Err(fault) => {
            let error = match fault {
                RequestFault::TooLarge => DecodeError::TooLong,
                RequestFault::Malformed(error) => error,
                _ => DecodeError::Truncated,
            };
            (shared.core.malformed(*conn, seen, error, shared.clock.now()), None)
        }
    };
    shared.route(&mut outcome);
    if let Response::Refused(refusal) = &outcome.response {
        tracing::debug!(%refusal, "Refused");
    }
    match outcome.close {
        None => {
            // A client that does not want the answer has nothing to hear about it.
            let _ = responder.send(&outcome.response).await;
        }
        Some(reason) => {
            let _ = responder.send_acknowledged(&outcome.response).await;
            connection.close(code(reason));
        }
    }
    if let Response::Page(page) = &mut outcome.response {
        page.envelopes.iter_mut().for_each(|w| w.envelope.zeroize());
    }
}

/// Pushes until the connection ends or reads too slowly; says why it stopped.
async fn push_all(
    visit: &Visit,
    greeting: Push,
    mut queue: mpsc::Receiver<Queued>,
    mail: Arc<Notify>,
) -> &'static str {
    let Visit { shared, conn, connection, .. } = visit;
    let unlimited = |push| Queued { push, room: None };
    let mut next = Some(unlimited(greeting));
    loop {
        if let Some(Queued { mut push, room }) = next.take() {
            let pushed = connection.push(&push).await;
            drop(room);
            if let Push::Envelope(waiting) = &mut push {
                waiting.envelope.zeroize();
            }
            match pushed {
                Ok(()) => {}
                Err(PushError::TimedOut) => {
                    // What it has missed waits in the mailbox for when it comes back.
                    connection.close(CloseCode::TooSlow);
                    return "reads too slowly";
                }
                Err(_) => return "lost",
            }
        }
        next = match queue.try_recv() {
            Ok(it) => Some(it),
            Err(_) => shared.core.next_mail(*conn, shared.clock.now()).map(unlimited),
        };
        if next.is_none() {
            tokio::select! {
                it = queue.recv() => match it {
                    Some(it) => next = Some(it),
                    None => return "unlinked",
                },
                () = mail.notified() => {}
            }
        }
    }
}

impl Visit {
    /// Where a node is whose datagrams come from `address`.
    fn origin(&self, address: SocketAddr) -> Origin {
        match self.connection.tunnelled() {
            true => Origin::tunnel(self.connection.origin(), address),
            false => Origin::udp(address),
        }
    }

    fn caller(&self) -> Option<Caller> {
        let device = self.connection.device()?;
        let passport = &device.passport;
        Some(Caller::new(passport.fingerprint(), device.device, passport.der()))
    }

    /// Tells the core who is here, once the handshake has shown it.
    fn identify(&self) {
        if self.identified.load(Ordering::Acquire) {
            return;
        }
        if let Some(caller) = self.caller() {
            self.shared.core.identify(self.conn, caller);
        }
        // The core is told before anybody may skip telling it.
        self.identified.store(true, Ordering::Release);
    }
}

fn code(reason: CloseReason) -> CloseCode {
    match reason {
        CloseReason::WrongSession => CloseCode::WrongSession,
        CloseReason::TooManyConnections => CloseCode::Busy,
        CloseReason::Stopping => CloseCode::ShuttingDown,
    }
}
