//! A contact's connection, as its paths see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halloo_wire::datagram::{Class, classify};
use halloo_wire::path::{DirectPath, RelayPath, SendOn};
use tokio::time::timeout;

use crate::route_state::RouteState;
use crate::socket::PathSocket;
use crate::times::{RouteStats, Traffic};

/// How long the first datagram of a connection may take. It is made by the connection's own task
/// in less than a millisecond, unless the machine is busy; and to go without it costs a round trip.
const FIRST_DATAGRAM: Duration = Duration::from_millis(50);
/// How long after it the others may come: they are made in the same turn of that task.
const MORE_DATAGRAMS: Duration = Duration::from_millis(1);

/// Where the datagrams of one contact's connection go, and from where they are taken.
///
/// A route has a virtual address, which is all that QUIC ever sees: dial it with
/// [`Endpoint::connect_node_by`](crate::Endpoint::connect_node_by), or wait for the contact's
/// connection, whose [`route`](crate::NodeConnection::route) it is. What paths there are is said
/// here, and may change at any time without the connection noticing. While there is none, the
/// first 8 datagrams are kept.
///
/// Clones are the same route. Dropping the last closes it: the connection stays, and nothing goes
/// in or out. A route keeps its socket open.
#[derive(Debug, Clone)]
pub struct Route {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: Arc<PathSocket>,
    state: Arc<RouteState>,
}

impl Route {
    pub(crate) fn open(socket: &Arc<PathSocket>) -> Self {
        let (number, addr) = socket.net.new_route();
        let state = socket.routes.add(number, addr);
        Self { inner: Arc::new(Inner { socket: Arc::clone(socket), state }) }
    }

    /// The address by which QUIC knows the contact. It means nothing outside of this endpoint.
    pub fn virtual_addr(&self) -> SocketAddr {
        self.inner.state.addr
    }

    /// Sets or takes away the relayed path. What is sent on it when nothing else is said; frames
    /// of the other end are taken from its rendezvous peer only.
    pub fn set_relay(&self, relay: Option<RelayPath>) {
        self.inner.socket.routes.set_relay(&self.inner.state, relay);
        self.flush();
    }

    /// The relayed path.
    pub fn relay(&self) -> Option<RelayPath> {
        self.inner.state.relay()
    }

    /// Says where datagrams go from now on. A direct path has to be one that the contact has
    /// authenticated: nothing here asks again. When a direct path is not enough any more, what went
    /// out on it in the last half second is sent by relay as well.
    pub fn set_send(&self, send: SendOn) {
        let was_sure = matches!(self.send_on(), SendOn::Direct(_));
        self.inner.state.set_send(send);
        self.flush();
        if was_sure && !matches!(send, SendOn::Direct(_)) {
            self.inner.socket.send_again(&self.inner.state);
        }
    }

    /// Where datagrams go.
    pub fn send_on(&self) -> SendOn {
        self.inner.state.send_on()
    }

    /// From now on, what comes from there is this contact's. At most 16 are kept; the oldest is
    /// forgotten first.
    pub fn add_source(&self, source: DirectPath) {
        self.inner.socket.routes.add_source(&self.inner.state, source);
    }

    /// From now on, what comes from there is a stranger's. When it is where datagrams go, they go
    /// to the relay instead.
    pub fn remove_source(&self, source: DirectPath) {
        self.inner.socket.routes.remove_source(&self.inner.state, source);
    }

    /// Takes a QUIC datagram as if it had come from the contact: what travelled in a knock. Never
    /// waits; one that is not QUIC, or too many of them, is lost and counted.
    pub fn inject(&self, datagram: Bytes) {
        let Inner { socket, state } = &*self.inner;
        if classify(&datagram) == Class::Quic {
            socket.deliver(state, None, datagram);
        } else {
            socket.demux.unknown.add(1);
        }
    }

    /// Takes the datagrams with which the connection begins, at most `max`, to send them in a
    /// knock. Waits 50 ms at most for the first, and 1 ms for each of the others.
    ///
    /// They are here only while the route has no path. Taken, they are not sent in another way;
    /// if they get lost, QUIC sends others by its own clock.
    ///
    /// Cancel safe: nothing is taken.
    pub async fn first_datagrams(&self, max: usize) -> Vec<Bytes> {
        let state = &self.inner.state;
        let mut wait = FIRST_DATAGRAM;
        while let Some(n) = state.kept_count().filter(|n| *n < max)
            && timeout(wait, state.kept(n + 1)).await.is_ok()
        {
            wait = MORE_DATAGRAMS;
        }
        state.take_first(max)
    }

    /// When something was last sent or heard.
    pub fn traffic(&self) -> Traffic {
        self.inner.state.times.traffic()
    }

    /// Waits until something is sent on a direct path that the other side answers at once. So
    /// whoever watches a path for silence can sleep while nothing is asked of it. Cancel safe.
    pub async fn sent(&self) {
        self.inner.state.times.sent().await;
    }

    /// What the route has carried.
    pub fn stats(&self) -> RouteStats {
        self.inner.state.times.stats()
    }

    fn flush(&self) {
        self.inner.socket.flush(&self.inner.state);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.socket.routes.remove(&self.state);
    }
}
