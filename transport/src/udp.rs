//! One of the system's UDP sockets: batches in and out, errors passed over.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Sleep, sleep};

/// What is asked of the system for each direction. The usual default of 208 KiB is what a
/// gigabit brings in 2 ms, less than a busy scheduler's pause. The system may grant less.
const BUFFER: usize = 4 * 1024 * 1024;
/// Receive errors in a row before receiving pauses. One ICMP message makes one error.
const MAX_ERRORS_IN_A_ROW: u32 = 16;
/// How long receiving pauses when the system reports nothing but errors, so that a broken
/// interface does not cost a whole core.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A bound UDP socket of the system.
pub(crate) struct Udp {
    pub(crate) io: UdpSocket,
    pub(crate) state: UdpSocketState,
    /// For single datagrams that name the address from which they leave. One that the system does
    /// not like must not cost QUIC its segmentation.
    aside: UdpSocketState,
    family: Family,
    pause: Mutex<Option<Pin<Box<Sleep>>>>,
    /// Taken for writing while the socket's hop limit is not the usual one, so that no other
    /// datagram leaves with it.
    hop_limit: RwLock<()>,
}

/// What the system's socket can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6 { dual_stack: bool },
}

impl Udp {
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
        Self::on(socket.into(), family)
    }

    /// Takes a socket that somebody else has opened.
    pub(crate) fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let family = match socket.local_addr()? {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(at) => {
                let both = !SockRef::from(&socket).only_v6()?;
                Family::V6 { dual_stack: both && at.ip().is_unspecified() }
            }
        };
        Self::on(socket, family)
    }

    fn on(socket: std::net::UdpSocket, family: Family) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let aside = UdpSocketState::new((&socket).into())?;
        for granted in [
            state.set_recv_buffer_size((&socket).into(), BUFFER),
            state.set_send_buffer_size((&socket).into(), BUFFER),
        ] {
            if let Err(e) = granted {
                tracing::debug!(kind = ?e.kind(), "the system keeps its small socket buffer");
            }
        }
        let io = UdpSocket::from_std(socket)?;
        let (pause, hop_limit) = (Mutex::new(None), RwLock::new(()));
        Ok(Self { io, state, aside, family, pause, hop_limit })
    }

    /// Binds another socket like this one, on the same address and `port`; 0 lets the system
    /// choose.
    pub(crate) fn another(&self, port: u16) -> io::Result<Self> {
        Self::bind_exactly(SocketAddr::new(self.bound_addr()?.ip(), port))
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

    /// Sends a batch of QUIC's; `WouldBlock` until the socket is
    /// [writable](tokio::net::UdpSocket::writable).
    pub(crate) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let transmit =
            Transmit { destination: self.to_system(transmit.destination), ..transmit.clone() };
        let _usual = self.hop_limit.read().unwrap_or_else(PoisonError::into_inner);
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit))
    }

    /// Sends a batch at once or not at all, whoever waits for room: a full buffer is `WouldBlock`
    /// and nobody's waker is told.
    pub(crate) fn send_now(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let transmit =
            Transmit { destination: self.to_system(transmit.destination), ..transmit.clone() };
        let _usual = self.hop_limit.read().unwrap_or_else(PoisonError::into_inner);
        self.state.try_send((&self.io).into(), &transmit)
    }

    /// Sends one datagram at once or not at all. An address that the system does not like harms
    /// nothing: QUIC's way of sending would give up segmentation for it.
    pub(crate) fn send_one(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let _usual = self.hop_limit.read().unwrap_or_else(PoisonError::into_inner);
        self.send_alone(to, datagram)
    }

    /// Like [`send_one`](Self::send_one), from one of this machine's addresses: the one to which
    /// something came that this answers.
    pub(crate) fn send_one_from(
        &self,
        from: IpAddr,
        to: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.to_system(to),
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: Some(from),
        };
        let _usual = self.hop_limit.read().unwrap_or_else(PoisonError::into_inner);
        self.aside.try_send((&self.io).into(), &transmit)
    }

    /// Like [`send_one`](Self::send_one), with a hop limit of its own. Everything else that wants
    /// to leave through this socket waits for the three system calls that it takes.
    pub(crate) fn send_one_with_ttl(
        &self,
        to: SocketAddr,
        datagram: &[u8],
        ttl: u8,
    ) -> io::Result<()> {
        let _unusual = self.hop_limit.write().unwrap_or_else(PoisonError::into_inner);
        let socket = SockRef::from(&self.io);
        // The system's own limit comes back afterwards, and if it does not, no datagram does.
        match self.to_system(to) {
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
                let usual = socket.unicast_hops_v6()?;
                socket.set_unicast_hops_v6(ttl.into())?;
                let sent = self.send_alone(to, datagram);
                socket.set_unicast_hops_v6(usual)?;
                sent
            }
            _ => {
                let usual = socket.ttl_v4()?;
                socket.set_ttl_v4(ttl.into())?;
                let sent = self.send_alone(to, datagram);
                socket.set_ttl_v4(usual)?;
                sent
            }
        }
    }

    fn send_alone(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        SockRef::from(&self.io).send_to(datagram, &self.to_system(to).into()).map(drop)
    }

    /// Receives a batch, or arranges to be woken. Errors are counted and passed over.
    pub(crate) fn poll_batch(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        receive_errors: &AtomicU64,
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
                    receive_errors.fetch_add(1, Ordering::Relaxed);
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

impl fmt::Debug for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp").field("family", &self.family).finish_non_exhaustive()
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
    use super::*;

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

    #[tokio::test]
    async fn a_datagram_with_few_hops_changes_nothing_for_the_others() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let socket = Udp::bind(listen.parse().unwrap()).unwrap();
            let port = socket.bound_addr().unwrap().port();
            let to = match listen {
                "[::1]:0" => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
                _ => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            };
            let limit = || {
                let it = SockRef::from(&socket.io);
                if to.is_ipv4() { it.ttl_v4().unwrap() } else { it.unicast_hops_v6().unwrap() }
            };
            let usual = limit();
            socket.send_one_with_ttl(to, b"@few", 3).unwrap();
            assert_eq!(limit(), usual);
            let mut heard = [0; 10];
            assert_eq!(socket.io.recv(&mut heard).await.unwrap(), 4);
        }
    }
}
