//! A wire that a test can hold: between one client and one server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::loopback;

/// Forwards datagrams both ways. While it is held, what only a client can send that took part in
/// the handshake (Handshake and 1-RTT packets) does not reach the server; early data does.
pub(super) struct Wire {
    addr: SocketAddr,
    held: watch::Sender<bool>,
    seen: Arc<Seen>,
}

/// What went over the wire, both ways.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) datagrams: AtomicUsize,
    pub(super) without_quic_bit: AtomicUsize,
    pub(super) early: AtomicUsize,
    /// What the client sent while the wire was held, and the server got.
    recording: Mutex<Vec<Vec<u8>>>,
}

impl Wire {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let front = UdpSocket::bind(loopback()).await.unwrap();
        let back = UdpSocket::bind(loopback()).await.unwrap();
        back.connect(server).await.unwrap();
        let addr = front.local_addr().unwrap();
        let (held, hold) = watch::channel(false);
        let seen = Arc::<Seen>::default();
        tokio::spawn(forward(front, back, hold, Arc::clone(&seen)));
        Self { addr, held, seen }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(super) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(super) fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    pub(super) fn recording(&self) -> Vec<Vec<u8>> {
        self.seen.recording.lock().unwrap().clone()
    }

    pub(super) fn seen(&self, count: impl Fn(&Seen) -> &AtomicUsize) -> usize {
        count(&self.seen).load(Ordering::Relaxed)
    }
}

async fn forward(
    front: UdpSocket,
    back: UdpSocket,
    mut hold: watch::Receiver<bool>,
    seen: Arc<Seen>,
) {
    let mut client = None;
    let mut kept = Vec::new();
    let (mut up, mut down) = ([0; 2000], [0; 2000]);
    loop {
        tokio::select! {
            Ok((n, source)) = front.recv_from(&mut up) => {
                client = Some(source);
                let datagram = &up[..n];
                note(&seen, datagram);
                let held = *hold.borrow();
                if held && packets(datagram).iter().any(|it| *it >= Packet::Handshake) {
                    kept.push(datagram.to_vec());
                    continue;
                }
                if held {
                    seen.recording.lock().unwrap().push(datagram.to_vec());
                }
                let _ = back.send(datagram).await;
            }
            Ok(n) = back.recv(&mut down) => {
                note(&seen, &down[..n]);
                if let Some(client) = client {
                    let _ = front.send_to(&down[..n], client).await;
                }
            }
            changed = hold.changed() => {
                if changed.is_err() {
                    return;
                }
                if !*hold.borrow_and_update() {
                    for datagram in kept.drain(..) {
                        let _ = back.send(&datagram).await;
                    }
                }
            }
        }
    }
}

fn note(seen: &Seen, datagram: &[u8]) {
    seen.datagrams.fetch_add(1, Ordering::Relaxed);
    if datagram[0] & 0x40 == 0 {
        seen.without_quic_bit.fetch_add(1, Ordering::Relaxed);
    }
    if packets(datagram).contains(&Packet::Early) {
        seen.early.fetch_add(1, Ordering::Relaxed);
    }
}

/// The kinds of QUIC packets (RFC 9000, 17.2 and 17.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Packet {
    Initial,
    Early,
    Handshake,
    OneRtt,
}

/// The packets in a datagram. Their kinds and lengths are not encrypted.
fn packets(mut datagram: &[u8]) -> Vec<Packet> {
    let mut found = Vec::new();
    while let Some(&first) = datagram.first() {
        if first & 0x80 == 0 {
            // Padding is not a packet.
            found.extend((first & 0x40 != 0).then_some(Packet::OneRtt));
            break;
        }
        let kind = match first >> 4 & 3 {
            0 => Packet::Initial,
            1 => Packet::Early,
            2 => Packet::Handshake,
            _ => break,
        };
        found.push(kind);
        let Some(length) = packet_length(datagram, kind) else { break };
        datagram = datagram.get(length..).unwrap_or_default();
    }
    found
}

fn packet_length(packet: &[u8], kind: Packet) -> Option<usize> {
    let mut at = 5;
    at += 1 + usize::from(*packet.get(at)?);
    at += 1 + usize::from(*packet.get(at)?);
    if kind == Packet::Initial {
        let (token, size) = varint(packet.get(at..)?)?;
        at += size + token;
    }
    let (rest, size) = varint(packet.get(at..)?)?;
    Some(at + size + rest)
}

fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let size = 1 << (bytes.first()? >> 6);
    let value = bytes
        .get(1..size)?
        .iter()
        .fold(usize::from(bytes[0] & 0x3f), |acc, b| acc << 8 | usize::from(*b));
    Some((value, size))
}
