//! What the tests about paths share: a relay, two contacts on it, and a NAT that forgets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use halloo_wire::path::{DirectPath, RelayPath, SocketId};
use halloo_wire::{ChannelId, Side};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// A channel as a rendezvous peer would lease it.
pub(super) const CHANNEL: ChannelId = ChannelId(0x1234_5678_9abc_def0);

/// A rendezvous peer that forwards one channel.
pub(super) struct TestRelay {
    pub(super) peer: TestPeer,
    pub(super) table: Arc<OneChannel>,
}

/// Where the two ends are, and what went through.
#[derive(Default)]
pub(super) struct OneChannel {
    ends: Mutex<[Option<SocketAddr>; 2]>,
    pub(super) frames: AtomicUsize,
    /// How often it was asked: once for a batch.
    pub(super) batches: AtomicUsize,
    pub(super) largest: AtomicUsize,
    /// Frames larger than this are lost on the way; 0 takes all.
    pub(super) carries: AtomicUsize,
    pub(super) broken: AtomicBool,
    /// Another channel than [`CHANNEL`], if it is not 0.
    pub(super) other: AtomicU64,
}

impl OneChannel {
    pub(super) fn set_end(&self, side: Side, addr: SocketAddr) {
        self.ends.lock().unwrap()[side as usize] = Some(addr);
    }

    fn channel(&self) -> ChannelId {
        match self.other.load(Ordering::Relaxed) {
            0 => CHANNEL,
            other => ChannelId(other),
        }
    }
}

impl Forward for OneChannel {
    fn frame(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        datagrams: usize,
    ) -> Forwarded {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(datagrams, Ordering::Relaxed);
        let size = bytes.div_ceil(datagrams);
        self.largest.fetch_max(size, Ordering::Relaxed);
        let carries = self.carries.load(Ordering::Relaxed);
        let lost = self.broken.load(Ordering::Relaxed) || (carries > 0 && size > carries);
        let ends = *self.ends.lock().unwrap();
        let known = channel.pair() == self.channel().pair()
            && ends[channel.side() as usize] == Some(source);
        if lost || !known {
            return Forwarded::default();
        }
        Forwarded { to: ends[channel.side().other() as usize], reply: None }
    }

    fn peer_datagram(&self, source: SocketAddr, from_second: bool, datagram: &[u8]) -> Vec<Reply> {
        // Says it back, so that a test can see what was heard where.
        vec![Reply { via_second: from_second, to: source, datagram: datagram.to_vec() }]
    }
}

impl TestRelay {
    pub(super) fn between(caller: SocketAddr, callee: SocketAddr) -> Self {
        let (peer, table) = (TestPeer::new(), Arc::<OneChannel>::default());
        table.set_end(Side::Caller, caller);
        table.set_end(Side::Callee, callee);
        peer.endpoint.set_forwarder(Arc::clone(&table) as Arc<dyn Forward>);
        Self { peer, table }
    }

    pub(super) fn path(&self, side: Side) -> RelayPath {
        RelayPath { via: self.peer.addr(), channel: self.table.channel().of(side) }
    }

    pub(super) fn frames(&self) -> usize {
        self.table.frames.load(Ordering::Relaxed)
    }
}

/// Two contacts with a connection by their routes, relayed until something else is said.
pub(super) struct Contacts {
    pub(super) alice: TestNode,
    pub(super) bob: TestNode,
    pub(super) relay: TestRelay,
    pub(super) at_alice: Route,
    pub(super) at_bob: Route,
    pub(super) dialed: NodeConnection,
    pub(super) accepted: NodeConnection,
}

impl Contacts {
    pub(super) async fn new() -> Self {
        let (alice, bob) = (TestNode::new(), TestNode::new());
        let relay = TestRelay::between(alice.addr(), bob.addr());
        Self::between(alice, bob, relay).await
    }

    pub(super) async fn between(alice: TestNode, bob: TestNode, relay: TestRelay) -> Self {
        let (at_alice, at_bob) = (alice.endpoint.open_route(), bob.endpoint.open_route());
        for node in [&alice, &bob] {
            node.endpoint.set_strangers(Strangers::Refuse);
        }
        at_alice.set_relay(Some(relay.path(Side::Caller)));
        at_bob.set_relay(Some(relay.path(Side::Callee)));
        let (dialed, accepted) = connect(&alice, &bob, &at_alice).await;
        Self { alice, bob, relay, at_alice, at_bob, dialed, accepted }
    }

    /// Moves both ends to the direct path.
    pub(super) fn go_direct(&self) {
        self.send_on(SendOn::Direct);
    }

    pub(super) fn send_on(&self, how: impl Fn(DirectPath) -> SendOn) {
        for (route, other) in [(&self.at_alice, &self.bob), (&self.at_bob, &self.alice)] {
            let path = direct(other.addr());
            route.add_source(path);
            route.set_send(how(path));
        }
    }

    pub(super) fn go_relayed(&self) {
        for route in [&self.at_alice, &self.at_bob] {
            route.set_send(SendOn::Relay);
        }
    }

    /// What must not have happened, whatever the paths did.
    pub(super) fn assert_quic_noticed_nothing(&self) {
        assert_eq!(self.dialed.remote_addr(), self.at_alice.virtual_addr());
        assert_eq!(self.accepted.remote_addr(), self.at_bob.virtual_addr());
        assert_eq!((self.dialed.close_reason(), self.accepted.close_reason()), (None, None));
    }
}

pub(super) async fn connect(
    alice: &TestNode,
    bob: &TestNode,
    route: &Route,
) -> (NodeConnection, NodeConnection) {
    let fingerprint = bob.fingerprint();
    let (dialed, accepted) =
        tokio::join!(alice.endpoint.connect_node_by(route, &fingerprint), bob.accept());
    (dialed.unwrap(), accepted)
}

pub(super) fn direct(remote: SocketAddr) -> DirectPath {
    DirectPath { socket: SocketId::MAIN, remote }
}

/// Sends `len` bytes one way and makes sure that they are the same at the other end. How far it is
/// can be watched.
pub(super) fn transfer(
    from: &NodeConnection,
    to: &NodeConnection,
    len: usize,
) -> (JoinHandle<()>, watch::Receiver<usize>) {
    let (from, to) = (from.clone(), to.clone());
    let (progress, watched) = watch::channel(0);
    let task = tokio::spawn(async move {
        let send = async {
            let mut stream = from.open_uni().await.unwrap();
            let mut at = 0;
            while at < len {
                let piece: Vec<u8> = (at..len.min(at + 16_384)).map(content).collect();
                stream.write_all(&piece).await.unwrap();
                at += piece.len();
            }
            stream.finish().unwrap();
            // The other side has all of it.
            stream.stopped().await.unwrap();
        };
        let receive = async {
            let mut stream = to.accept_uni().await.unwrap();
            let mut buffer = vec![0; 65_536];
            let mut at = 0;
            while let Some(n) = stream.read(&mut buffer).await.unwrap() {
                assert!(buffer[..n].iter().enumerate().all(|(i, &b)| b == content(at + i)));
                at += n;
                progress.send_replace(at);
            }
            assert_eq!(at, len);
        };
        tokio::join!(send, receive);
    });
    (task, watched)
}

/// What stands at each place of a transfer.
fn content(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// A NAT in front of one node: what goes to its inside address comes out of its outside socket,
/// and back. It may forget that socket and take another.
pub(super) struct Nat {
    inside: Arc<UdpSocket>,
    near: SocketAddr,
    outside: watch::Sender<Arc<UdpSocket>>,
    /// Datagrams that came to each outside socket from the far side, oldest socket first.
    heard: Arc<Mutex<Vec<usize>>>,
}

impl Nat {
    /// Between `near`, which sends to the inside address, and `far`.
    pub(super) async fn between(near: SocketAddr, far: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        let first = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        let (outside, mut current) = watch::channel(Arc::clone(&first));
        let it = Self { inside: Arc::clone(&inside), near, outside, heard: Arc::default() };
        it.listen(first);
        tokio::spawn(async move {
            let mut buffer = [0; 2000];
            while let Ok((n, _)) = inside.recv_from(&mut buffer).await {
                let outside = Arc::clone(&current.borrow_and_update());
                let _ = outside.send_to(&buffer[..n], far).await;
            }
        });
        it
    }

    fn listen(&self, outside: Arc<UdpSocket>) {
        let (heard, inside, near) = (Arc::clone(&self.heard), Arc::clone(&self.inside), self.near);
        let number = {
            let mut heard = heard.lock().unwrap();
            heard.push(0);
            heard.len() - 1
        };
        tokio::spawn(async move {
            let mut buffer = [0; 2000];
            while let Ok((n, _)) = outside.recv_from(&mut buffer).await {
                heard.lock().unwrap()[number] += 1;
                let _ = inside.send_to(&buffer[..n], near).await;
            }
        });
    }

    /// The address that the near side sees.
    pub(super) fn inside(&self) -> SocketAddr {
        self.inside.local_addr().unwrap()
    }

    /// The address that the far side sees.
    pub(super) fn outside(&self) -> SocketAddr {
        self.outside.borrow().local_addr().unwrap()
    }

    /// Takes another outside socket. What comes to the old one still goes in.
    pub(super) async fn rebind(&self) {
        let next = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        self.listen(Arc::clone(&next));
        self.outside.send_replace(next);
    }

    pub(super) fn heard(&self) -> Vec<usize> {
        self.heard.lock().unwrap().clone()
    }
}
