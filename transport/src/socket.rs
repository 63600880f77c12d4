//! The UDP sockets of an endpoint, as QUIC sees them: as one.
//!
//! [`PathSocket`] is the [`AsyncUdpSocket`] under the QUIC endpoint. Everything that has to stand
//! between QUIC and the network has its place here: datagrams of other kinds are taken out, and
//! each contact keeps one [virtual address](crate::virtual_addr) whatever path its datagrams take.
//! The rules that it keeps:
//!
//! - **QUIC always sees an IPv6 socket.** The QUIC endpoint refuses IPv6 destinations otherwise. A
//!   socket of IPv4 therefore shows mapped addresses (`::ffff:a.b.c.d`), translated on the way
//!   in and out, because a client drops packets whose source is not written as it dialled it.
//! - **Sending never fails**, except with `WouldBlock`. Any other error would silently end the
//!   connection's driver; QUIC repairs loss, so an error is a lost datagram, counted. `WouldBlock`
//!   stops all connections until the main socket has room, so nothing else says it: a slow tunnel
//!   or a full queue loses datagrams.
//! - **Receiving never fails.** An error would end the whole endpoint.
//! - **Each poller has its own waker**, so that all connections hear that there is room again.
//! - **Batches stay batches**: segmentation offload both ways is the system's, passed through, for
//!   relayed datagrams too.
//! - **QUIC never learns where it is.** The local address that a contact's datagram came to is
//!   taken off, or QUIC would go on sending from an interface that the path has left.
//! - **Nobody starves.** Each call receives one batch of each socket at most, and reports all of
//!   it, so that QUIC's own measure of work counts what was forwarded too.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use halloo_wire::path::SocketId;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::demux::Demux;
use crate::dialled::Dialled;
use crate::forward::Forward;
use crate::inject::Injected;
use crate::own_addrs::OwnAddrs;
use crate::routes::Routes;
use crate::sockets::Extras;
use crate::tunnel::Tunnels;
pub(crate) use crate::udp::canonical;
use crate::udp::{Udp, mapped};
use crate::virtual_addr::VirtualNet;

/// The sockets under a QUIC endpoint. See the [module](self).
pub(crate) struct PathSocket {
    pub(crate) main: Udp,
    /// A rendezvous peer's second port.
    pub(crate) second: OnceLock<Udp>,
    pub(crate) extras: Extras,
    pub(crate) net: VirtualNet,
    pub(crate) routes: Routes,
    pub(crate) tunnels: Tunnels,
    pub(crate) queue: Injected,
    pub(crate) dialled: Dialled,
    pub(crate) refuse_strangers: AtomicBool,
    pub(crate) forward: OnceLock<Arc<dyn Forward>>,
    /// Kept where there is a forwarder: it is the one who answers.
    pub(crate) own_addrs: OwnAddrs,
    pub(crate) demux: Demux,
    /// Which socket is first when there are several.
    turn: AtomicUsize,
}

impl PathSocket {
    /// Binds `listen`. The unspecified IPv6 address takes IPv4 along where the system allows it,
    /// and stands for IPv4 alone where there is no IPv6.
    pub(crate) fn bind(listen: SocketAddr) -> io::Result<Self> {
        Ok(Self::on(Udp::bind(listen)?))
    }

    /// Everything around this socket.
    pub(crate) fn on(main: Udp) -> Self {
        Self {
            main,
            second: OnceLock::new(),
            extras: Extras::new(),
            net: VirtualNet::new(),
            routes: Routes::default(),
            tunnels: Tunnels::default(),
            queue: Injected::default(),
            dialled: Dialled::default(),
            refuse_strangers: AtomicBool::new(false),
            forward: OnceLock::new(),
            own_addrs: OwnAddrs::default(),
            demux: Demux::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The address that the system gave.
    pub(crate) fn bound_addr(&self) -> io::Result<SocketAddr> {
        self.main.bound_addr()
    }

    /// Whether a datagram to `addr` can leave through this socket at all.
    pub(crate) fn can_reach(&self, addr: SocketAddr) -> bool {
        self.main.can_reach(addr)
    }

    /// Opens sockets beside the main one, and lets them be received from.
    pub(crate) fn open_extras(&self, n: usize) -> io::Result<Vec<SocketId>> {
        let ids = self.extras.open(&self.main, n)?;
        self.queue.wake();
        Ok(ids)
    }

    pub(crate) fn close_extra(&self, id: SocketId) {
        self.extras.close(id);
        self.routes.forget_socket(id);
    }

    /// Binds a rendezvous peer's second port.
    pub(crate) fn bind_second(&self, port: u16) -> io::Result<SocketAddr> {
        self.take_second(self.main.another(port)?)
    }

    /// Makes this socket the second port.
    pub(crate) fn take_second(&self, second: Udp) -> io::Result<SocketAddr> {
        let addr = second.bound_addr()?;
        self.second
            .set(second)
            .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "there is a second port"))?;
        self.queue.wake();
        Ok(addr)
    }

    /// Receives a batch of each socket, one after the other, as far as there are buffers. Returns
    /// how many were used; when it is none, all sockets will wake the task.
    fn poll_sockets(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        turn: usize,
    ) -> usize {
        let extras = self.extras.list();
        let extras = extras.as_deref().unwrap_or_default();
        let second = self.second.get();
        let count = 1 + usize::from(second.is_some()) + extras.len();
        let mut used = 0;
        for i in 0..count {
            if used == bufs.len() {
                break;
            }
            let (bufs, meta) = (&mut bufs[used..], &mut meta[used..]);
            let place = (turn + i) % count;
            let (socket, id) = match (place, extras.get(place.wrapping_sub(1)), second) {
                (0, _, _) => (&self.main, Some(SocketId::MAIN)),
                (_, Some((id, socket)), _) => (&**socket, Some(*id)),
                (_, None, Some(second)) => (second, None),
                (_, None, None) => continue,
            };
            let Poll::Ready(n) = socket.poll_batch(cx, bufs, meta, &self.demux.receive_errors.0)
            else {
                continue;
            };
            for (meta, buf) in meta.iter_mut().zip(bufs).take(n) {
                match id {
                    Some(id) => self.sort(id, buf, meta),
                    None => self.sort_second(buf, meta),
                }
            }
            used += n;
        }
        used
    }
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket").field("main", &self.main).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send_quic(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before looking, so that nothing comes unnoticed in between.
        self.queue.register(cx);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // Half of the buffers for what was queued; a single one goes to either in turn.
        let half = if bufs.len() > 1 { bufs.len() / 2 } else { turn % 2 };
        let mut used = self.queue.drain(&mut bufs[..half], &mut meta[..half]);
        used += self.poll_sockets(cx, &mut bufs[used..], &mut meta[used..], turn);
        if used == 0 {
            used = self.queue.drain(bufs, meta);
        }
        if used == 0 { Poll::Pending } else { Poll::Ready(Ok(used)) }
    }

    /// Always IPv6: see the module's first rule.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.bound_addr().map(mapped)
    }

    fn max_transmit_segments(&self) -> usize {
        self.main.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.main.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.main.state.may_fragment()
    }
}

/// Waits for room to send, for one task.
struct Poller {
    socket: Arc<PathSocket>,
    /// A future of its own, because the socket itself remembers one waker only.
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let writable = this.writable.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.main.io.writable().await })
        });
        let result = ready!(writable.as_mut().poll(cx));
        this.writable = None;
        match result {
            Ok(()) => Poll::Ready(Ok(())),
            // Only when the runtime shuts down.
            Err(_) => Poll::Pending,
        }
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use tokio::io::Interest;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn transmit(destination: SocketAddr) -> Transmit<'static> {
        Transmit { destination, ecn: None, contents: b"@quic", segment_size: None, src_ip: None }
    }

    /// Receives the length and source of the next buffer.
    async fn receive(socket: &PathSocket) -> (usize, SocketAddr) {
        let mut buffer = vec![0; 2048];
        let mut meta = [RecvMeta::default()];
        let mut bufs = [IoSliceMut::new(&mut buffer)];
        let n = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
        assert_eq!(n, 1);
        (meta[0].len, meta[0].addr)
    }

    #[tokio::test]
    async fn what_the_system_reports_instead_of_a_datagram_is_passed_over() {
        let socket = PathSocket::bind(LOOPBACK).unwrap();
        let vacant = std::net::UdpSocket::bind(LOOPBACK).unwrap();
        let there = vacant.local_addr().unwrap();
        drop(vacant);
        // A connected socket hears that nobody listens where it sent to.
        socket.main.io.connect(there).await.unwrap();
        socket.main.io.writable().await.unwrap();
        socket.try_send(&transmit(there)).unwrap();

        let somebody = std::net::UdpSocket::bind(there).unwrap();
        somebody.send_to(b"@hello", socket.bound_addr().unwrap()).unwrap();

        assert_eq!(receive(&socket).await, (6, mapped(there)));
        assert_eq!(socket.demux.stats().receive_errors, 1);
    }

    #[tokio::test]
    async fn what_is_not_quic_leaves_an_empty_buffer_for_quic() {
        let socket = PathSocket::bind(LOOPBACK).unwrap();
        let other = std::net::UdpSocket::bind(LOOPBACK).unwrap();
        other.send_to(&[0x04; 40], socket.bound_addr().unwrap()).unwrap();
        assert_eq!(receive(&socket).await.0, 0);
        assert_eq!(socket.demux.stats().probe, 1);
    }

    #[tokio::test]
    async fn a_batch_that_quic_sends_at_once_arrives_as_its_datagrams() {
        let socket = PathSocket::bind(LOOPBACK).unwrap();
        let other = PathSocket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), other.bound_addr().unwrap().port());
        let segments = socket.max_transmit_segments().min(4);
        let mut contents = vec![0x40; 1200 * segments];
        contents.truncate(1200 * segments - 100);
        let batch = Transmit { contents: &contents, segment_size: Some(1200), ..transmit(to) };
        socket.main.io.writable().await.unwrap();
        socket.try_send(&batch).unwrap();

        let mut received = 0;
        while received < contents.len() {
            let mut buffer = vec![0; 64 * 1024];
            let mut meta = [RecvMeta::default()];
            let mut bufs = [IoSliceMut::new(&mut buffer)];
            poll_fn(|cx| other.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
            assert!(meta[0].stride <= 1200);
            assert_eq!(meta[0].addr, mapped(socket.bound_addr().unwrap()));
            received += meta[0].len;
        }
        assert_eq!(received, contents.len());
        assert_eq!(other.demux.stats().quic, segments as u64);
    }

    #[tokio::test]
    async fn one_waker_per_poller() {
        let socket = Arc::new(PathSocket::bind(LOOPBACK).unwrap());
        socket.main.io.writable().await.unwrap();
        let full = socket.main.io.try_io(Interest::WRITABLE, || -> io::Result<()> {
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(full.is_err());
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let mut poller = Arc::clone(&socket).create_io_poller();
            let waiting = Arc::clone(&waiting);
            tasks.spawn(async move {
                poll_fn(|cx| {
                    let polled = poller.as_mut().poll_writable(cx);
                    waiting.fetch_add(usize::from(polled.is_pending()), Ordering::Relaxed);
                    polled
                })
                .await
            });
        }
        while waiting.load(Ordering::Relaxed) < 5 {
            tokio::task::yield_now().await;
        }

        // A datagram that leaves makes room.
        let own = socket.bound_addr().unwrap();
        socket.main.state.try_send((&socket.main.io).into(), &transmit(own)).unwrap();

        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
    }
}
