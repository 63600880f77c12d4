//! What an endpoint offers beside QUIC: routes, tunnels, sockets and datagrams of other kinds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use halloo_wire::path::SocketId;
use tokio::sync::mpsc;

use crate::demux::{Arrived, PARKED_QUEUE, PEER_QUEUE, PROBE_QUEUE};
use crate::endpoint::Endpoint;
use crate::forward::Forward;
use crate::route::Route;
use crate::routes::{NEW_SOURCE_QUEUE, NewSource};
use crate::tunnel::Tunnel;
use crate::udp::Udp;
use crate::virtual_addr::Place;

/// From whom an endpoint takes QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strangers {
    /// From everybody, which is what a rendezvous peer is there for.
    #[default]
    Accept,
    /// From contacts on their routes, from where this endpoint has dialled, and through tunnels.
    /// Everything else is dropped before QUIC sees it: a node that has nobody to answer is silent.
    Refuse,
}

impl Endpoint {
    /// Opens a route to a contact. It has no path yet.
    pub fn open_route(&self) -> Route {
        Route::open(self.socket())
    }

    /// Opens a tunnel: an address that stands for something that carries datagrams and is not UDP.
    pub fn open_tunnel(&self) -> Tunnel {
        Tunnel::open(self.socket(), None)
    }

    /// Opens a tunnel that came in from `source`, an address of another protocol. Connections
    /// through the tunnel tell it as their [`origin`](crate::ServerConnection::origin).
    pub fn open_tunnel_from(&self, source: SocketAddr) -> Tunnel {
        Tunnel::open(self.socket(), Some(source))
    }

    /// Where the tunnel with the address `addr` comes from, if it is open and that was said.
    pub fn tunnel_source(&self, addr: SocketAddr) -> Option<SocketAddr> {
        match self.socket().net.place(addr)? {
            Place::Tunnel(number) => self.socket().tunnels.real_addr(number),
            Place::Route(_) | Place::Nothing => None,
        }
    }

    /// Says whether QUIC from unknown real addresses is taken. It is, when nothing is said.
    pub fn set_strangers(&self, strangers: Strangers) {
        let refuse = strangers == Strangers::Refuse;
        self.socket().refuse_strangers.store(refuse, Ordering::Relaxed);
    }

    /// Gives relay frames and peer datagrams to `forwarder`, which makes this endpoint a relay. A
    /// second forwarder is not taken.
    pub fn set_forwarder(&self, forwarder: Arc<dyn Forward>) {
        let taken = self.socket().forward.set(forwarder);
        debug_assert!(taken.is_ok(), "there is one forwarder");
    }

    /// Opens the second port of a rendezvous peer, on the same address. It takes nothing but peer
    /// datagrams, which go to the forwarder; port 0 lets the system choose. Returns its address.
    ///
    /// # Errors
    /// The system's, or that there is a second port.
    pub fn bind_second(&self, port: u16) -> io::Result<SocketAddr> {
        self.socket().bind_second(port)
    }

    /// Makes a UDP socket that somebody else has opened the second port, as
    /// [`bind_second`](Self::bind_second) does.
    ///
    /// # Errors
    /// The system's, or that there is a second port.
    pub fn take_second(&self, socket: std::net::UdpSocket) -> io::Result<SocketAddr> {
        self.socket().take_second(Udp::from_std(socket)?)
    }

    /// The probes that arrive, 256 at most at a time. `None` when they have been taken; until then
    /// they are dropped.
    pub fn take_probes(&self) -> Option<mpsc::Receiver<Arrived>> {
        self.socket().demux.probes.take(PROBE_QUEUE)
    }

    /// What rendezvous peers say outside of QUIC, 256 datagrams at most at a time. `None` when
    /// they have been taken; until then they are dropped. Nothing comes where there is a
    /// forwarder.
    pub fn take_peer_datagrams(&self) -> Option<mpsc::Receiver<Arrived>> {
        self.socket().demux.peers.take(PEER_QUEUE)
    }

    /// What comes for parked registrations, 256 datagrams at most at a time. `None` when they have
    /// been taken; until then they are dropped. Nothing comes where there is a forwarder.
    pub fn take_parked_datagrams(&self) -> Option<mpsc::Receiver<Arrived>> {
        self.socket().demux.parked.take(PARKED_QUEUE)
    }

    /// From where contacts' QUIC came though nobody has authenticated the address, 64 reports at
    /// most at a time, and each again after a second. `None` when they have been taken; until then
    /// they are dropped.
    pub fn take_new_sources(&self) -> Option<mpsc::Receiver<NewSource>> {
        self.socket().routes.new_sources.take(NEW_SOURCE_QUEUE)
    }

    /// Sends a datagram that is not QUIC through one of the sockets, or a tunnel, at once or not at
    /// all.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when there is no room; `NotConnected` when the socket is closed;
    /// `InvalidInput` for QUIC, what is no datagram of ours, and port 0.
    pub fn send_datagram(
        &self,
        socket: SocketId,
        to: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<()> {
        self.socket().send_datagram(socket, to, datagram, None)
    }

    /// Like [`send_datagram`](Self::send_datagram), for a datagram that is to pass `ttl` routers
    /// at most: it opens this side's NAT and never reaches the other.
    ///
    /// # Errors
    /// As for [`send_datagram`](Self::send_datagram).
    pub fn send_datagram_ttl(
        &self,
        socket: SocketId,
        to: SocketAddr,
        datagram: &[u8],
        ttl: u8,
    ) -> io::Result<()> {
        self.socket().send_datagram(socket, to, datagram, Some(ttl))
    }

    /// Opens `n` sockets beside the main one, on the same address and ports of the system's
    /// choice; all or none.
    ///
    /// # Errors
    /// The system's, or that more than [`MAX_EXTRA_SOCKETS`](crate::MAX_EXTRA_SOCKETS) would be
    /// open.
    pub fn open_sockets(&self, n: usize) -> io::Result<Vec<SocketId>> {
        self.socket().open_extras(n)
    }

    /// Closes a socket that [`open_sockets`](Self::open_sockets) has opened. Routes that used it
    /// go through their relays.
    pub fn close_socket(&self, id: SocketId) {
        self.socket().close_extra(id);
    }

    /// The address of one of the sockets; `None` when it is closed.
    pub fn socket_addr(&self, id: SocketId) -> Option<SocketAddr> {
        if id == SocketId::MAIN {
            return self.local_addr().ok();
        }
        self.socket().extras.get(id)?.bound_addr().ok()
    }
}
