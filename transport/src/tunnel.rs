//! Datagrams through something that is not UDP, where UDP does not get through.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::demux::Count;
use crate::socket::PathSocket;
use crate::sync::{read, write};

/// Datagrams that wait to leave through one tunnel: about 750 kB at most. A stream that is slower
/// than QUIC sends fills it; then the newest are lost, which is how QUIC learns of it.
pub const TUNNEL_QUEUE: usize = 512;

/// A way for datagrams that is not UDP, such as a WebSocket.
///
/// It has a virtual address. [`Endpoint::connect_peer`](crate::Endpoint::connect_peer) can dial
/// it, a [`RelayPath`](halloo_wire::path::RelayPath) can lead through it, and what comes in through
/// it has it as its source. Whoever holds the two halves moves the bytes. Dropping both halves
/// closes it: what is sent to its address from then on is lost.
#[derive(Debug)]
pub struct Tunnel {
    outgoing: TunnelOutgoing,
    injector: TunnelInjector,
}

/// The datagrams that leave through a tunnel.
#[derive(Debug)]
pub struct TunnelOutgoing {
    queue: mpsc::Receiver<Bytes>,
    _open: Arc<Open>,
}

/// Where the datagrams that came through a tunnel go in. Clones are handles to the same tunnel.
#[derive(Debug, Clone)]
pub struct TunnelInjector {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<PathSocket>,
    number: u64,
    addr: SocketAddr,
}

impl Tunnel {
    pub(crate) fn open(socket: &Arc<PathSocket>, real: Option<SocketAddr>) -> Self {
        let (number, addr) = socket.net.new_tunnel();
        let (sender, queue) = mpsc::channel(TUNNEL_QUEUE);
        socket.tunnels.add(number, Entry { sender, real });
        let open = Arc::new(Open { socket: Arc::clone(socket), number, addr });
        Self {
            outgoing: TunnelOutgoing { queue, _open: Arc::clone(&open) },
            injector: TunnelInjector { open },
        }
    }

    /// The address that stands for it.
    pub fn addr(&self) -> SocketAddr {
        self.injector.addr()
    }

    /// The two directions.
    pub fn split(self) -> (TunnelOutgoing, TunnelInjector) {
        (self.outgoing, self.injector)
    }
}

impl TunnelOutgoing {
    /// Waits for the next datagram that is to leave. `None` never comes while this half lives.
    /// Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.queue.recv().await
    }

    /// The next datagram that is to leave, if one waits.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.queue.try_recv().ok()
    }
}

impl TunnelInjector {
    /// The address that stands for the tunnel.
    pub fn addr(&self) -> SocketAddr {
        self.open.addr
    }

    /// Takes a datagram that came through the tunnel, of any kind. Never waits: when too many
    /// wait, it is lost and counted.
    pub fn inject(&self, datagram: Bytes) {
        self.open.socket.arrived_by_tunnel(self.open.addr, datagram);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.socket.tunnels.remove(self.number);
    }
}

/// The open tunnels of a socket.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    open: RwLock<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    sender: mpsc::Sender<Bytes>,
    real: Option<SocketAddr>,
}

impl Tunnels {
    fn add(&self, number: u64, entry: Entry) {
        write(&self.open).insert(number, entry);
    }

    fn remove(&self, number: u64) {
        write(&self.open).remove(&number);
    }

    /// Sends datagrams through a tunnel: `contents` cut into `segment` bytes each.
    pub(crate) fn send(&self, number: u64, contents: Bytes, segment: usize, dropped: &Count) {
        let open = read(&self.open);
        let mut rest = contents;
        while !rest.is_empty() {
            let datagram = rest.split_to(segment.clamp(1, rest.len()));
            let sent = open.get(&number).is_some_and(|it| it.sender.try_send(datagram).is_ok());
            if !sent {
                dropped.add(1);
            }
        }
    }

    /// Where the stream under a tunnel comes from, if that was said.
    pub(crate) fn real_addr(&self, number: u64) -> Option<SocketAddr> {
        read(&self.open).get(&number)?.real
    }
}
