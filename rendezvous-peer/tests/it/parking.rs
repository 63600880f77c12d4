//! Parked registrations over real sockets.

use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::{Line, Node, PATIENCE, Process, envelope};
use halloo_transport::{Arrived, CloseCode, ParkingKey, Show, SocketId};
use halloo_wire::envelope::Lane;
use halloo_wire::parked::{Keepalive, ParkedDatagram, Word};
use halloo_wire::peer::{Call, Control, Parked, Push, Response};
use halloo_wire::{EnvelopeId, RowId};
use rustix::process::Signal;

/// A node that holds no connection to its peer.
struct ParkedNode<'a> {
    node: &'a Node,
    key: ParkingKey,
    row: RowId,
    counter: u64,
    incoming: mpsc::Receiver<Arrived>,
}

impl<'a> ParkedNode<'a> {
    /// Parks on a connection and ends that.
    async fn park(node: &'a Node, line: Line) -> Self {
        let incoming = node.endpoint.take_parked_datagrams().unwrap();
        let Response::Parked(Parked { row, .. }) = line.ask(Call::Park).await else {
            panic!("not parked")
        };
        let key = line.connection.parking_key(row);
        line.connection.close(CloseCode::Done);
        Self { node, key, row, counter: 0, incoming }
    }

    fn say(&mut self, rung: u32, taken: &[EnvelopeId]) {
        self.counter += 1;
        let keepalive = Keepalive { cookie: 0, rung, taken: taken.to_vec() };
        let datagram = self.key.seal_keepalive(self.row, self.counter, &keepalive);
        self.node.endpoint.send_datagram(SocketId::MAIN, self.node.target.0, &datagram).unwrap();
    }

    async fn datagram(&mut self) -> Arrived {
        let arrived = timeout(PATIENCE, self.incoming.recv()).await.unwrap().unwrap();
        assert_eq!(arrived.source, self.node.target.0);
        arrived
    }

    async fn word(&mut self) -> Word {
        let arrived = self.datagram().await;
        match ParkedDatagram::decode(&arrived.datagram).unwrap() {
            ParkedDatagram::Word(sealed) => self.key.open_word(&sealed).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a whole ring; returns its number and what it brings.
    async fn ring(&mut self) -> (u32, Push) {
        let mut bytes = Vec::new();
        loop {
            match self.word().await {
                Word::Ring { number, part, .. } => {
                    bytes.extend(part.bytes);
                    if part.part + 1 == part.parts {
                        return (number, Push::decode(&bytes).unwrap());
                    }
                }
                Word::Heard { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_node_without_a_connection_is_rung_and_takes_what_came() {
    let home = tempdir().unwrap();
    let peer = Process::start(home.path(), &[]).await;
    let (bob, alice) = (Node::new(&peer), Node::new(&peer));
    let mut parked = ParkedNode::park(&bob, bob.reachable(&[1]).await).await;
    parked.say(0, &[]);
    assert_eq!(parked.word().await, Word::Heard { counter: 1, waiting: 0 });

    let sender = alice.connect(Show::Nothing).await;
    sender.ask(bob.drop_call(Lane::Contacts, 0xc5, Some(1))).await;
    let (number, push) = parked.ring().await;
    let Push::Envelope(waiting) = push else { panic!("{push:?}") };
    assert_eq!(waiting.envelope, envelope(Lane::Contacts, 0xc5));
    parked.say(number, &[waiting.id]);
    assert_eq!(parked.word().await, Word::Heard { counter: 2, waiting: 0 });

    let knocked = sender.knock(bob.knock(1)).await;
    assert_eq!(knocked.callee.unwrap().observed, [bob.endpoint.local_addr().unwrap()]);
    let (_, push) = parked.ring().await;
    assert!(matches!(push, Push::Knock { channel: Some(_), .. }));

    // Back with a connection, nothing is left.
    let (_line, registered) = bob.register(2).await;
    assert_eq!((registered.waiting, registered.capabilities), (0, 1));
}

#[tokio::test]
async fn a_parked_node_hears_that_its_peer_stops_and_that_another_run_does_not_know_it() {
    let home = tempdir().unwrap();
    let mut peer = Process::start(home.path(), &[]).await;
    let bob = Node::new(&peer);
    let mut parked = ParkedNode::park(&bob, bob.reachable(&[1]).await).await;
    parked.say(0, &[]);
    assert!(matches!(parked.word().await, Word::Heard { .. }));
    peer.signal(Signal::TERM);
    assert!(matches!(parked.word().await, Word::Draining { .. }));
    peer.wait().await;

    let listen = bob.target.0.to_string();
    let _again = Process::start_at(home.path(), &listen, &[]).await;
    parked.say(0, &[]);
    let arrived = parked.datagram().await;
    let unknown = ParkedDatagram::decode(&arrived.datagram).unwrap();
    assert!(
        matches!(unknown, ParkedDatagram::Unknown { row, counter: 2, .. } if row == parked.row)
    );
}
