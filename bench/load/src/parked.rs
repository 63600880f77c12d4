//! Parked registrations, and the datagrams that keep them: some sockets stand for all nodes.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use halloo_transport::{CloseCode, ParkingKey};
use halloo_wire::parked::{Keepalive, ParkedDatagram, Word};
use halloo_wire::peer::{Call, Response};
use halloo_wire::{Fingerprint, PeerFingerprint, RowId};

use crate::node::Node;
use crate::peer::Peer;

/// How often a node says that it is there.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// Registrations that are under way at once.
const AT_ONCE: usize = 32;
/// Addresses that the nodes share.
const SOCKETS: usize = 8;
/// Keepalives that are sent before what has come is looked at.
const BURST: usize = 32;

/// One parked registration.
pub struct Parked {
    pub fingerprint: Fingerprint,
    key: ParkingKey,
    row: RowId,
    counter: u64,
    cookie: u64,
    /// Whether the last keepalive was heard.
    pub heard: bool,
}

/// Registers a new node, parks it and ends its connection.
pub async fn park(peer: SocketAddr, key: PeerFingerprint, bundle: bool) -> Result<Parked> {
    let node = Node::new()?;
    let registered = node.register(peer, key).await?;
    if bundle {
        registered.publish().await?;
    }
    let Response::Parked(parked) = registered.ask(Call::Park).await? else {
        bail!("not parked");
    };
    let key = registered.connection.parking_key(parked.row);
    registered.connection.close(CloseCode::Done);
    node.leave().await;
    let fingerprint = node.fingerprint;
    Ok(Parked { fingerprint, key, row: parked.row, counter: 0, cookie: 0, heard: false })
}

/// Parks `n` nodes.
pub async fn park_all(peer: &Peer, n: usize, bundle: bool) -> Result<Vec<Parked>> {
    let (listen, key) = (peer.listen, peer.key);
    let begun = Instant::now();
    let mut all = Vec::with_capacity(n);
    let mut coming = stream::iter(0..n)
        .map(|_| async move { tokio::spawn(park(listen, key, bundle)).await? })
        .buffer_unordered(AT_ONCE);
    while let Some(parked) = coming.try_next().await? {
        all.push(parked);
        if all.len() % 50_000 == 0 {
            eprintln!("  {} of {n} parked in {:.0} s", all.len(), begun.elapsed().as_secs_f64());
        }
    }
    Ok(all)
}

/// Keeps parked registrations alive.
pub struct Keeper {
    sockets: Vec<UdpSocket>,
    pub rows: Vec<Parked>,
    places: HashMap<u64, u32>,
    /// Whose turn is next.
    next: usize,
    pub counts: Counts,
    /// Nodes whom the peer does not know, and within what time each is to come back.
    pub unknown: Vec<(usize, Duration)>,
}

/// What was said and heard.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub sent: u64,
    pub heard: u64,
    pub challenged: u64,
    pub rings: u64,
    pub others: u64,
}

impl Keeper {
    pub fn new(rows: Vec<Parked>, peer: SocketAddr) -> Result<Self> {
        let socket = |_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(peer)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets = (0..SOCKETS).map(socket).collect::<Result<_>>()?;
        let places = rows.iter().enumerate().map(|(i, it)| (it.row.0, i as u32)).collect();
        Ok(Self { sockets, rows, places, next: 0, counts: Counts::default(), unknown: Vec::new() })
    }

    /// Lets each node speak once every [`KEEPALIVE`], one after the other, for so long.
    pub fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        let total = self.rows.len() as f64;
        let mut said = 0;
        while begun.elapsed() < time {
            let due = begun.elapsed().as_secs_f64() / KEEPALIVE.as_secs_f64() * total;
            let burst = (due as usize - said).min(BURST);
            for _ in 0..burst {
                self.say(self.next)?;
                self.next = (self.next + 1) % self.rows.len();
            }
            said += burst;
            if self.receive()? == 0 && burst < BURST {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(())
    }

    /// Puts a registration in the place of one that is lost.
    pub fn replace(&mut self, place: usize, new: Parked) {
        self.places.remove(&self.rows[place].row.0);
        self.places.insert(new.row.0, place as u32);
        self.rows[place] = new;
    }

    fn say(&mut self, place: usize) -> Result<()> {
        let it = &mut self.rows[place];
        it.counter += 1;
        it.heard = false;
        let keepalive = Keepalive { cookie: it.cookie, rung: 0, taken: Vec::new() };
        let datagram = it.key.seal_keepalive(it.row, it.counter, &keepalive);
        self.counts.sent += 1;
        match self.sockets[place % SOCKETS].send(&datagram) {
            Ok(_) => Ok(()),
            // Lost here is lost; a peer that is down for a moment refuses.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Takes what has come; returns how much.
    pub fn receive(&mut self) -> Result<usize> {
        let mut n = 0;
        let mut datagram = [0; 2048];
        for socket in 0..SOCKETS {
            for _ in 0..4 * BURST {
                match self.sockets[socket].recv(&mut datagram) {
                    Ok(len) => {
                        n += 1;
                        self.take(&datagram[..len])?;
                    }
                    Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(n)
    }

    fn take(&mut self, datagram: &[u8]) -> Result<()> {
        let place = |row: RowId| self.places.get(&row.0).map(|&it| it as usize);
        match ParkedDatagram::decode(datagram)? {
            ParkedDatagram::Word(sealed) => {
                let Some(place) = place(sealed.row) else { return Ok(()) };
                let it = &mut self.rows[place];
                match it.key.open_word(&sealed)? {
                    Word::Heard { counter, .. } => {
                        self.counts.heard += 1;
                        it.heard |= counter == it.counter;
                    }
                    Word::Challenge { cookie } => {
                        self.counts.challenged += 1;
                        it.cookie = cookie;
                        self.say(place)?;
                    }
                    Word::Ring { .. } => self.counts.rings += 1,
                    Word::Draining { .. } => self.counts.others += 1,
                }
            }
            ParkedDatagram::Unknown { row, retry_after_ms, .. } => {
                self.counts.others += 1;
                if let Some(place) = place(row) {
                    self.unknown.push((place, Duration::from_millis(retry_after_ms.into())));
                }
            }
            ParkedDatagram::Keepalive(_) => self.counts.others += 1,
        }
        Ok(())
    }
}
