//! The QUIC connection between a node and a rendezvous peer, as far as it matters here: messages
//! that arrive once, whatever is lost, and an address that moves when the node's does.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use halloo_wire::ChannelId;
use halloo_wire::peer::{Attested, Callee};

/// Time after which what has not been acknowledged is sent again; it grows with each try.
const RETRY: Duration = Duration::from_millis(250);
/// Longest time between two tries.
const MAX_RETRY: Duration = Duration::from_secs(2);
/// Numbers of received messages that are remembered.
const MAX_SEEN: usize = 64;

/// A packet of a control connection.
#[derive(Debug, Clone)]
pub struct Control {
    /// The connection.
    pub conn: u64,
    /// Grows with each packet that an end sends, so that a late one changes no address.
    pub packet: u64,
    /// A message that has come.
    pub ack: Option<u64>,
    /// A message with its number.
    pub message: Option<(u64, Rc<Message>)>,
    /// The peer does not know the connection: it has restarted.
    pub reset: bool,
}

/// What a node and a peer say.
#[derive(Debug, Clone)]
pub enum Message {
    /// From a node: who it is, and the card that the holders of its capability get. A visitor, who
    /// only wants to knock, sends none.
    Register {
        /// The node.
        node: usize,
        /// The card's bytes; empty when the node wants to be relayed only.
        card: Option<Vec<u8>>,
        /// Addresses that the node has shown to be its own.
        attested: Vec<Attested>,
    },
    /// From a peer: where it sees the node.
    Welcome(SocketAddr),
    /// From a node: to another node.
    Knock {
        /// To whom.
        to: usize,
        /// The caller's card.
        card: Vec<u8>,
        /// Whether the callee may learn where the peer sees the caller.
        reveal: bool,
        /// Addresses that the caller has shown to be its own.
        attested: Vec<Attested>,
        /// The first datagrams of the conversation.
        datagrams: Vec<Vec<u8>>,
    },
    /// From a peer: the answer to a knock. Without a callee nobody is there.
    Knocked(Option<Callee>),
    /// From a peer: somebody knocks.
    Knocking {
        /// Where the peer sees the caller.
        observed: Vec<SocketAddr>,
        /// The caller's card.
        card: Vec<u8>,
        /// The number under which the callee sends.
        channel: Option<ChannelId>,
        /// As in the knock.
        datagrams: Vec<Vec<u8>>,
    },
    /// Keeps the connection alive.
    Ping,
}

/// One end of a control connection.
#[derive(Debug)]
pub struct ControlEnd {
    conn: u64,
    packets: u64,
    numbers: u64,
    unacknowledged: Vec<Pending>,
    seen: BTreeSet<u64>,
    /// The newest packet that has come.
    newest: u64,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    message: Rc<Message>,
    due: Instant,
    wait: Duration,
}

impl ControlEnd {
    /// An end of the connection with this number.
    pub fn new(conn: u64) -> Self {
        Self {
            conn,
            packets: 0,
            numbers: 0,
            unacknowledged: Vec::new(),
            seen: BTreeSet::new(),
            newest: 0,
        }
    }

    /// The number of the connection.
    pub fn conn(&self) -> u64 {
        self.conn
    }

    /// Sends a message, and again until it is acknowledged.
    pub fn send(&mut self, message: Message, now: Instant) -> Control {
        self.numbers += 1;
        let (number, message) = (self.numbers, Rc::new(message));
        let pending = Pending { number, message: message.clone(), due: now + RETRY, wait: RETRY };
        self.unacknowledged.push(pending);
        self.packet(None, Some((number, message)))
    }

    /// Takes a packet in. Returns the message, when there is one that has not come before, and the
    /// acknowledgement to send.
    pub fn receive(&mut self, control: &Control) -> (Option<Rc<Message>>, Option<Control>) {
        self.newest = self.newest.max(control.packet);
        if let Some(ack) = control.ack {
            self.unacknowledged.retain(|p| p.number != ack);
        }
        let Some((number, message)) = &control.message else { return (None, None) };
        let fresh = self.seen.insert(*number);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_first();
        }
        (fresh.then(|| message.clone()), Some(self.packet(Some(*number), None)))
    }

    /// Whether a packet is the newest of those that have come.
    pub fn is_newest(&self, control: &Control) -> bool {
        control.packet > self.newest
    }

    /// What is due to be sent again.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Control> {
        let mut due = Vec::new();
        for pending in self.unacknowledged.iter_mut().filter(|p| p.due <= now) {
            pending.wait = (pending.wait * 2).min(MAX_RETRY);
            pending.due = now + pending.wait;
            due.push((pending.number, pending.message.clone()));
        }
        due.into_iter().map(|message| self.packet(None, Some(message))).collect()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn next_timeout(&self) -> Option<Instant> {
        self.unacknowledged.iter().map(|p| p.due).min()
    }

    fn packet(&mut self, ack: Option<u64>, message: Option<(u64, Rc<Message>)>) -> Control {
        self.packets += 1;
        Control { conn: self.conn, packet: self.packets, ack, message, reset: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_sent_until_it_is_acknowledged_and_counts_once() {
        let mut now = Instant::now();
        let (mut node, mut peer) = (ControlEnd::new(7), ControlEnd::new(7));
        node.send(Message::Ping, now);
        let mut fresh = 0;
        for _ in 0..3 {
            now = node.next_timeout().expect("it waits for an acknowledgement");
            let again = node.handle_timeout(now);
            assert_eq!(again.len(), 1);
            // The acknowledgement is lost.
            fresh += usize::from(peer.receive(&again[0]).0.is_some());
        }
        assert_eq!(fresh, 1);
        let ack = peer.receive(&node.handle_timeout(node.next_timeout().unwrap())[0]).1;
        node.receive(&ack.unwrap());
        assert_eq!(node.next_timeout(), None);
    }
}
