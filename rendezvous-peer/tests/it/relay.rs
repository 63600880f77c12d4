//! Relay channels over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{Line, Node, PATIENCE, envelope, token};
use crate::library::running;
use halloo_transport::{Accepted, NodeConnection, RelayPath, Route, Show};
use halloo_wire::ChannelId;
use halloo_wire::datagram::RelayFrame;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, Knock, KnockMessage, Push, Response};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use quinn::udp::{Transmit, UdpSocketState};
use rendezvous_peer::RunningPeer;
use rendezvous_peer::core::{Rate, Stats};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A node with a route to a contact.
pub(crate) struct Routed<'a> {
    pub(crate) node: &'a Node,
    pub(crate) line: &'a Line,
    /// Where its relay frames go.
    pub(crate) via: SocketAddr,
}

/// Connects a caller to a callee through the relay, as nodes do: the first flight rides in the
/// knock. Both routes have to be kept.
pub(crate) async fn call(
    caller: Routed<'_>,
    callee: Routed<'_>,
) -> ((NodeConnection, Route), (NodeConnection, Route)) {
    let route = caller.node.endpoint.open_route();
    let expect = callee.node.fingerprint();
    let dialling = tokio::spawn({
        let (endpoint, route) = (caller.node.endpoint.clone(), route.clone());
        async move { endpoint.connect_node_by(&route, &expect).await }
    });
    let datagrams: Vec<Vec<u8>> = loop {
        let flight = route.first_datagrams(4).await;
        if !flight.is_empty() {
            break flight.iter().map(|d| d.to_vec()).collect();
        }
    };
    let knock = Knock { datagrams: datagrams.clone(), ..callee.node.knock(1) };
    let channel = caller.line.knock(knock).await.callee.unwrap().channel.unwrap();
    route.set_relay(Some(RelayPath { via: caller.via, channel }));

    let (channel, flight) = loop {
        match callee.line.push().await {
            Push::Knock { channel, datagrams, .. } => break (channel.unwrap(), datagrams),
            Push::Envelope(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(flight, datagrams);
    let answering = callee.node.endpoint.open_route();
    answering.set_relay(Some(RelayPath { via: callee.via, channel }));
    flight.into_iter().for_each(|datagram| answering.inject(datagram.into()));
    let incoming = timeout(PATIENCE, callee.node.endpoint.accept()).await.unwrap().unwrap();
    let Accepted::Node(accepted) = incoming.handshake().await.unwrap() else { panic!() };
    let dialled = dialling.await.unwrap().unwrap();
    ((dialled, route), (accepted, answering))
}

/// Sends some of everything both ways.
pub(crate) async fn converse(a: &NodeConnection, b: &NodeConnection) {
    let said: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let talk = async {
        let (mut send, mut recv) = a.open_bi().await.unwrap();
        send.write_all(&said).await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(said.len()).await.unwrap(), said);
    };
    let echo = async {
        let (mut send, mut recv) = b.accept_bi().await.unwrap();
        let heard = recv.read_to_end(said.len()).await.unwrap();
        send.write_all(&heard).await.unwrap();
        send.finish().unwrap();
    };
    timeout(PATIENCE, async { tokio::join!(talk, echo) }).await.unwrap();
}

#[tokio::test]
async fn two_nodes_speak_through_the_relay() {
    let (_dir, peer) = running(|_| {}).await;
    let (bob, alice) = nodes(&peer);
    let inbox = bob.reachable(&[1]).await;
    let line = alice.connect(Show::Nothing).await;
    let via = peer.local_addr();
    let caller = Routed { node: &alice, line: &line, via };
    let callee = Routed { node: &bob, line: &inbox, via };
    let ((at_alice, _a), (at_bob, _b)) = call(caller, callee).await;
    assert_eq!(at_alice.fingerprint(), bob.fingerprint());
    assert_eq!(at_bob.fingerprint(), alice.fingerprint());
    converse(&at_alice, &at_bob).await;
    let stats = peer.stats();
    assert!(stats.relayed_bytes > 400_000, "{stats:?}");
    assert_eq!((stats.channels, stats.relay_without_channel), (1, 0));
}

#[tokio::test]
async fn a_first_message_rides_in_the_knock() {
    let (_dir, peer) = running(|_| {}).await;
    let (bob, alice) = nodes(&peer);
    let inbox = bob.reachable(&[1]).await;
    let line = alice.connect(Show::Nothing).await;
    let message = KnockMessage { instance: None, envelope: envelope(Lane::Contacts, 9) };
    let knocked = line.knock(Knock { message: Some(message), ..bob.knock(1) }).await;
    assert_eq!(knocked.message.unwrap().unwrap().instance, line.instance);
    let (mut knock, mut mail) = (false, false);
    while !(knock && mail) {
        match inbox.push().await {
            Push::Knock { .. } => knock = true,
            Push::Envelope(it) => mail = it.envelope == envelope(Lane::Contacts, 9),
            other => panic!("{other:?}"),
        }
    }
}

/// A keep that is not answered is sent again after this.
const REPEAT: Duration = Duration::from_millis(50);

/// One end of a channel on a bare socket.
struct End {
    socket: UdpSocket,
    peer: SocketAddr,
    /// The number under which it sends.
    channel: ChannelId,
}

impl End {
    /// A socket that sends under somebody's number without being the end.
    async fn pretend(peer: &RunningPeer, channel: ChannelId) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { socket, peer: peer.local_addr(), channel }
    }

    /// Becomes the end: says that it is, is challenged, answers.
    async fn become_end(peer: &RunningPeer, channel: ChannelId) -> Self {
        let it = Self::pretend(peer, channel).await;
        let moves = peer.stats().relay_moves;
        let cookie = it.challenge().await;
        it.send(&PeerDatagram::RelayAnswer { channel, cookie }.encode()).await;
        until(peer, |stats| stats.relay_moves == moves + 1).await;
        it
    }

    async fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.peer).await.unwrap();
    }

    fn frame(&self, fill: u8, len: usize) -> Vec<u8> {
        RelayFrame { channel: self.channel, datagram: &vec![0x40 | fill; len] }.encode()
    }

    /// The next datagram that is no challenge.
    async fn receive(&self) -> Vec<u8> {
        let waiting = async {
            loop {
                let next = self.receive_any().await;
                let decoded = PeerDatagram::decode(&next);
                if !matches!(decoded, Ok(PeerDatagram::RelayChallenge { .. })) {
                    break next;
                }
            }
        };
        timeout(PATIENCE, waiting).await.unwrap()
    }

    async fn receive_any(&self) -> Vec<u8> {
        let mut buffer = [0; 2000];
        let (n, from) = self.socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from, self.peer);
        buffer[..n].to_vec()
    }

    /// Says that it is the end, again and again as nodes do, until it is challenged.
    async fn challenge(&self) -> u64 {
        let keep = PeerDatagram::Keep { channel: self.channel }.encode();
        let challenged = async {
            loop {
                self.send(&keep).await;
                let Ok(next) = timeout(REPEAT, self.receive_any()).await else { continue };
                match PeerDatagram::decode(&next).unwrap() {
                    PeerDatagram::RelayChallenge { channel, cookie } => {
                        assert_eq!(channel, self.channel);
                        break cookie;
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, challenged).await.unwrap()
    }

    /// Makes sure that nothing waits here: an echo that is asked for is the next to come.
    async fn hears_nothing(&self) {
        let ask = PeerDatagram::EchoRequest { txid: 5, cookie: 0, answer: EchoAnswer::Here };
        self.send(&ask.encode()).await;
        let next = PeerDatagram::decode(&self.receive().await).unwrap();
        assert!(matches!(next, PeerDatagram::EchoReply { .. }), "{next:?}");
    }
}

/// A channel whose two ends are bare sockets, and the callee's line.
async fn ends(peer: &RunningPeer) -> (End, End, Line) {
    let (bob, alice) = nodes(peer);
    let inbox = bob.reachable(&[1]).await;
    let line = alice.connect(Show::Nothing).await;
    let channel = line.knock(bob.knock(1)).await.callee.unwrap().channel.unwrap();
    let caller = End::become_end(peer, channel).await;
    let callee = End::become_end(peer, channel.other()).await;
    (caller, callee, inbox)
}

fn nodes(peer: &RunningPeer) -> (Node, Node) {
    let node = || Node::at(peer.local_addr(), peer.fingerprint());
    (node(), node())
}

/// Waits until the peer's counters say so.
async fn until(peer: &RunningPeer, said: impl Fn(&Stats) -> bool) {
    let waiting = async {
        while !said(&peer.stats()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{:?}", peer.stats()));
}

#[tokio::test]
async fn frames_go_on_unchanged_to_the_other_end() {
    let (_dir, peer) = running(|_| {}).await;
    let (caller, callee, _line) = ends(&peer).await;
    caller.send(&caller.frame(1, 1200)).await;
    assert_eq!(callee.receive().await, caller.frame(1, 1200));
    callee.send(&callee.frame(2, 30)).await;
    assert_eq!(caller.receive().await, callee.frame(2, 30));
}

#[tokio::test]
async fn a_batch_arrives_as_its_frames() {
    let (_dir, peer) = running(|_| {}).await;
    let (caller, callee, _line) = ends(&peer).await;
    let state = UdpSocketState::new((&caller.socket).into()).unwrap();
    let segments = state.max_gso_segments().min(10);
    let mut frames: Vec<Vec<u8>> = (1..segments).map(|n| caller.frame(n as u8, 1191)).collect();
    frames.push(caller.frame(63, 400));
    let batch = Transmit {
        destination: peer.local_addr(),
        ecn: None,
        contents: &frames.concat(),
        segment_size: Some(1200),
        src_ip: None,
    };
    let send = || state.try_send((&caller.socket).into(), &batch);
    caller.socket.async_io(Interest::WRITABLE, send).await.unwrap();
    for frame in frames {
        assert_eq!(callee.receive().await, frame);
    }
}

#[tokio::test]
async fn a_moved_end_is_asked_and_somebody_else_gets_nothing() {
    let (_dir, peer) = running(|_| {}).await;
    let (caller, callee, _line) = ends(&peer).await;
    // Whoever has seen the number can send, for QUIC to refuse, and hears a challenge at most.
    let thief = End::pretend(&peer, caller.channel).await;
    thief.challenge().await;
    thief.send(&thief.frame(3, 100)).await;
    assert_eq!(callee.receive().await, thief.frame(3, 100));
    callee.send(&callee.frame(4, 100)).await;
    assert_eq!(caller.receive().await, callee.frame(4, 100));
    thief.hears_nothing().await;
    // The end itself, at another port, answers and is there.
    let moved = End::become_end(&peer, caller.channel).await;
    callee.send(&callee.frame(5, 100)).await;
    assert_eq!(moved.receive().await, callee.frame(5, 100));
    caller.hears_nothing().await;
}

#[tokio::test]
async fn a_wrong_number_is_not_answered() {
    let (_dir, peer) = running(|_| {}).await;
    let (caller, callee, _line) = ends(&peer).await;
    let stranger = End::pretend(&peer, ChannelId(caller.channel.0 ^ 4)).await;
    stranger.send(&stranger.frame(1, 1200)).await;
    stranger.send(&PeerDatagram::Keep { channel: stranger.channel }.encode()).await;
    until(&peer, |stats| stats.relay_without_channel == 1).await;
    stranger.hears_nothing().await;
    callee.hears_nothing().await;
}

#[tokio::test]
async fn a_capability_that_is_taken_back_ends_the_channel_at_once() {
    let (_dir, peer) = running(|_| {}).await;
    let (caller, callee, line) = ends(&peer).await;
    let revoke = Call::Revoke(vec![token(1).id()]);
    assert_eq!(line.ask(revoke).await, Response::Done);
    caller.send(&caller.frame(1, 1200)).await;
    until(&peer, |stats| stats.relay_without_channel == 1).await;
    callee.hears_nothing().await;
    assert_eq!(peer.stats().channels, 0);
}

#[tokio::test]
async fn what_is_beyond_the_rate_is_dropped() {
    let burst = 64 << 10;
    let (_dir, peer) =
        running(|config| config.limits.relay_rate = Rate { per_second: 1, burst }).await;
    let (caller, callee, _line) = ends(&peer).await;
    let pass = burst as usize / 1209;
    for n in 0..pass + 5 {
        caller.send(&caller.frame(n as u8 % 64, 1200)).await;
        until(&peer, |stats| stats.relayed_frames + stats.relay_over_rate == n as u64 + 1).await;
    }
    assert_eq!(peer.stats().relay_over_rate, 5);
    for n in 0..pass {
        assert_eq!(callee.receive().await, caller.frame(n as u8 % 64, 1200));
    }
    callee.hears_nothing().await;
}

#[tokio::test]
async fn a_peer_whose_relay_is_off_introduces_nodes_all_the_same() {
    let (_dir, peer) = running(|config| config.limits.relay_channels = 0).await;
    let (bob, alice) = nodes(&peer);
    let inbox = bob.reachable(&[1]).await;
    let line = alice.connect(Show::Nothing).await;
    let callee = line.knock(bob.knock(1)).await.callee.unwrap();
    assert_eq!((callee.channel, callee.observed.len()), (None, 1));
    assert!(matches!(inbox.push().await, Push::Knock { channel: None, .. }));
}
