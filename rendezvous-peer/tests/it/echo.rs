//! Where a node is told that it is, over real sockets.

use std::net::SocketAddr;

use crate::common::{Node, PATIENCE};
use crate::library::running;
use halloo_transport::Show;
use halloo_wire::peer::{Attested, Call, Knock, Push, Response};
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use rendezvous_peer::EchoPort;
use tokio::net::UdpSocket;
use tokio::time::timeout;

const TXID: u64 = 7;

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn ask(socket: &UdpSocket, peer: SocketAddr, cookie: u64, answer: EchoAnswer) {
    let request = PeerDatagram::EchoRequest { txid: TXID, cookie, answer };
    socket.send_to(&request.encode(), peer).await.unwrap();
}

/// The next reply: from where, what address it says, and the cookie for it.
async fn reply(socket: &UdpSocket) -> (SocketAddr, SocketAddr, u64) {
    let mut buffer = [0; 100];
    let (n, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    match PeerDatagram::decode(&buffer[..n]).unwrap() {
        PeerDatagram::EchoReply { txid: TXID, cookie, observed, .. } => (from, observed, cookie),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_ports_answer_and_the_second_speaks_first_only_with_a_cookie() {
    let (_dir, peer) = running(|_| {}).await;
    let first = peer.local_addr();
    let second = SocketAddr::new(first.ip(), peer.echo_port().unwrap());
    let node = socket().await;
    let here = node.local_addr().unwrap();
    ask(&node, first, 0, EchoAnswer::Here).await;
    let (from, observed, cookie) = reply(&node).await;
    assert_eq!((from, observed), (first, here));
    // Without a cookie nothing comes: the next answer is to the next question.
    ask(&node, first, 0, EchoAnswer::FromSecondPort).await;
    ask(&node, first, cookie, EchoAnswer::FromSecondPort).await;
    let (from, observed, _) = reply(&node).await;
    assert_eq!((from, observed), (second, here));
    ask(&node, second, 0, EchoAnswer::Here).await;
    assert_eq!(reply(&node).await.0, second);
    assert_eq!((peer.stats().echoes, peer.stats().echoes_refused), (3, 1));
    peer.shutdown().await;
}

#[tokio::test]
async fn a_mapped_port_is_tried_attested_and_told_to_contacts() {
    let (_dir, peer) = running(|_| {}).await;
    let (bob, alice) = (
        Node::at(peer.local_addr(), peer.fingerprint()),
        Node::at(peer.local_addr(), peer.fingerprint()),
    );
    let inbox = bob.reachable(&[1]).await;
    assert_eq!(inbox.echo_port, peer.echo_port());
    let (node, mapped) = (socket().await, socket().await);
    let there = mapped.local_addr().unwrap();
    ask(&node, peer.local_addr(), 0, EchoAnswer::Here).await;
    let (_, _, own) = reply(&node).await;
    ask(&node, peer.local_addr(), own, EchoAnswer::ToPort(there.port())).await;
    let (from, observed, cookie) = reply(&mapped).await;
    assert_eq!((from, observed), (peer.local_addr(), there));

    let shown = Attested { addr: there, cookie };
    let wrong = Attested { addr: there, cookie: own };
    assert_eq!(inbox.ask(Call::Attest(vec![wrong, shown])).await, Response::Done);
    let caller = alice.connect(Show::Nothing).await;
    let callee = caller.knock(Knock { attested: vec![shown], ..bob.knock(1) }).await.callee;
    assert_eq!(callee.unwrap().observed, [bob.endpoint.local_addr().unwrap(), there]);
    let Push::Knock { observed, .. } = inbox.push().await else { panic!() };
    assert_eq!(observed, [alice.endpoint.local_addr().unwrap(), there]);
}

#[tokio::test]
async fn a_peer_without_a_second_port_goes_on() {
    let holder = socket().await;
    let taken = holder.local_addr().unwrap().port();
    for echo_port in [EchoPort::Off, EchoPort::At(taken)] {
        let (_dir, peer) = running(|config| config.echo_port = echo_port).await;
        assert_eq!(peer.echo_port(), None);
        let node = Node::at(peer.local_addr(), peer.fingerprint());
        assert_eq!(node.connect(Show::Nothing).await.echo_port, None);
        let socket = socket().await;
        ask(&socket, peer.local_addr(), 0, EchoAnswer::Here).await;
        assert_eq!(reply(&socket).await.1, socket.local_addr().unwrap());
        peer.shutdown().await;
    }
}
