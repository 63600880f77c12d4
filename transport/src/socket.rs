//! The one UDP socket, as QUIC sees it.
//!
//! [`PathSocket`] is the [`AsyncUdpSocket`] under the QUIC endpoint. Everything that has to stand
//! between QUIC and the network has its place here: datagrams of other kinds are taken out
//! ([`Demux`]), and addresses are translated. The rules that it keeps:
//!
//! - **QUIC always sees an IPv6 socket.** The QUIC endpoint refuses IPv6 destinations otherwise. A
//!   socket of IPv4 therefore shows mapped addresses (`::ffff:a.b.c.d`), translated on the way
//!   in and out, because a client drops packets whose source is not written as it dialled it.
//! - **Sending never fails**, except with `WouldBlock`. Any other error would silently end the
//!   connection's driver; QUIC repairs loss, so an error is a lost datagram, counted.
//! - **Receiving never fails.** An error would end the whole endpoint.
//! - **Each poller has its own waker**, so that all connections hear that there is room again.
//! - **Batches stay batches**: segmentation offload both ways is the system's, passed through.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Sleep, sleep};

use crate::demux::Demux;

/// What is asked of the system for each direction. The usual default of 208 KiB is what a
/// gigabit brings in 2 ms, less than a busy scheduler's pause. The system may grant less.
const BUFFER: usize = 4 * 1024 * 1024;
/// Receive errors in a row before receiving pauses. One ICMP message makes one error.
const MAX_ERRORS_IN_A_ROW: u32 = 16;
/// How long receiving pauses when the system reports nothing but errors, so that a broken
/// interface does not cost a whole core.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// The socket under a QUIC endpoint. See the [module](self).
pub(crate) struct PathSocket {
    io: UdpSocket,
    state: UdpSocketState,
    family: Family,
    pub(crate) demux: Demux,
    pause: Mutex<Option<Pin<Box<Sleep>>>>,
}

/// What the system's socket can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6 { dual_stack: bool },
}

impl PathSocket {
    /// Binds `listen`. The unspecified IPv6 address takes IPv4 along where the system allows it,
    /// and stands for IPv4 alone where there is no IPv6.
    pub(crate) fn bind(listen: SocketAddr) -> io::Result<Self> {
        match Self::bind_exactly(listen) {
            Err(e) if lacks_ipv6(&e) && listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                tracing::debug!("no IPv6 on this machine: listening on IPv4 alone");
                Self::bind_exactly((Ipv4Addr::UNSPECIFIED, listen.port()).into())
            }
            other => other,
        }
    }

    fn bind_exactly(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        let family = match listen {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => {
                // Not every system can do both.
                let both = socket.set_only_v6(false).is_ok();
                Family::V6 { dual_stack: both && listen.ip().is_unspecified() }
            }
        };
        socket.bind(&listen.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        for granted in [
            state.set_recv_buffer_size((&socket).into(), BUFFER),
            state.set_send_buffer_size((&socket).into(), BUFFER),
        ] {
            if let Err(e) = granted {
                tracing::debug!(kind = ?e.kind(), "the system keeps its small socket buffer");
            }
        }
        let io = UdpSocket::from_std(socket)?;
        Ok(Self { io, state, family, demux: Demux::default(), pause: Mutex::new(None) })
    }

    /// The address that the system gave.
    pub(crate) fn bound_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Whether a datagram to `addr` can leave through this socket at all.
    pub(crate) fn can_reach(&self, addr: SocketAddr) -> bool {
        match (self.family, canonical(addr)) {
            (Family::V4, SocketAddr::V4(_)) | (Family::V6 { .. }, SocketAddr::V6(_)) => true,
            (Family::V6 { dual_stack }, SocketAddr::V4(_)) => dual_stack,
            (Family::V4, SocketAddr::V6(_)) => false,
        }
    }

    /// The address as the system's socket wants it.
    fn to_system(&self, addr: SocketAddr) -> SocketAddr {
        match self.family {
            Family::V4 => canonical(addr),
            Family::V6 { .. } => mapped(addr),
        }
    }

    /// Receives a batch, or arranges to be woken. Errors are counted and passed over.
    fn poll_batch(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        ready!(self.poll_pause(cx));
        let mut errors = 0;
        loop {
            if ready!(self.io.poll_recv_ready(cx)).is_err() {
                // Only when the runtime shuts down: there is nothing to wake for.
                return Poll::Pending;
            }
            let received = self
                .io
                .try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Ok(n) => return Poll::Ready(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    self.demux.receive_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::trace!(kind = ?e.kind(), "receive error");
                    errors += 1;
                    if errors == MAX_ERRORS_IN_A_ROW {
                        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(Box::pin(sleep(ERROR_PAUSE)));
                        ready!(self.poll_pause(cx));
                        errors = 0;
                    }
                }
            }
        }
    }

    fn poll_pause(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sleep) = pause.as_mut() {
            ready!(sleep.as_mut().poll(cx));
            *pause = None;
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket").field("family", &self.family).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let transmit =
            Transmit { destination: self.to_system(transmit.destination), ..transmit.clone() };
        let sent = self
            .io
            .try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
        match sent {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                self.demux.send_errors.fetch_add(1, Ordering::Relaxed);
                tracing::trace!(kind = ?e.kind(), "send error");
                Ok(())
            }
            other => other,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_batch(cx, bufs, meta));
        for (meta, buf) in meta.iter_mut().zip(bufs.iter()).take(n) {
            if !self.demux.sort(canonical(meta.addr), &buf[..meta.len], meta.stride) {
                meta.len = 0;
            }
            if meta.stride == 0 {
                // The QUIC endpoint cuts the buffer by the stride: zero would never end.
                meta.stride = meta.len.max(1);
            }
            meta.addr = mapped(meta.addr);
        }
        Poll::Ready(Ok(n))
    }

    /// Always IPv6: see the module's first rule.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.bound_addr().map(mapped)
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
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
            Box::pin(async move { socket.io.writable().await })
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

/// The address as people know it: IPv4 as IPv4, even when it came mapped.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// The address as QUIC knows it: always IPv6.
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => addr,
    }
}

/// Whether binding failed because the machine has no IPv6, rather than for a reason that IPv4
/// shares.
fn lacks_ipv6(e: &io::Error) -> bool {
    !matches!(e.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

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
        socket.io.connect(there).await.unwrap();
        socket.io.writable().await.unwrap();
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
        socket.io.writable().await.unwrap();
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
    async fn every_poller_hears_that_there_is_room_again() {
        let socket = Arc::new(PathSocket::bind(LOOPBACK).unwrap());
        socket.io.writable().await.unwrap();
        let full = socket.io.try_io(Interest::WRITABLE, || -> io::Result<()> {
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
        socket.state.try_send((&socket.io).into(), &transmit(own)).unwrap();

        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
    }

    #[test]
    fn addresses_are_canonical_outside_and_mapped_inside() {
        let v4: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let as_v6: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        let link_local: SocketAddr = "[fe80::1%3]:7".parse().unwrap();
        assert_eq!((mapped(v4), canonical(as_v6)), (as_v6, v4));
        assert_eq!((mapped(v6), canonical(v6)), (v6, v6));
        assert_eq!((mapped(link_local), canonical(link_local)), (link_local, link_local));
    }
}
