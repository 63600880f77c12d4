//! Being reachable without a connection: a parked registration at one of our peers.
//!
//! The registration's task says keepalives and takes rings, as [`Parking`] has it, until a
//! connection is needed again. One task reads what comes for all of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halloo_transport::{Arrived, ParkingKey, SocketId};
use halloo_wire::RowId;
use halloo_wire::parked::ParkedDatagram;
use halloo_wire::peer::Push;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::Net;
use super::dial::{self, Knocked};
use super::home::{Ended, UPKEEP, ingest};
use crate::core::parking::{Gone, Parking, Step};
use crate::random;

/// Datagrams that wait for a registration: a few rings.
const QUEUE: usize = 32;

/// The registrations that are parked, by the number of their row.
#[derive(Default)]
pub(crate) struct Lodgings(Mutex<HashMap<RowId, mpsc::Sender<Arrived>>>);

impl Lodgings {
    fn lock(&self) -> MutexGuard<'_, HashMap<RowId, mpsc::Sender<Arrived>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands what comes for parked registrations to their tasks.
pub(crate) async fn run(net: Arc<Net>) {
    // The endpoint belongs to this node alone, and this is its only reader.
    let Some(mut arrivals) = net.endpoint.take_parked_datagrams() else { return };
    while let Some(arrived) = arrivals.recv().await {
        let row = match ParkedDatagram::decode(&arrived.datagram) {
            Ok(ParkedDatagram::Word(sealed)) => sealed.row,
            Ok(ParkedDatagram::Unknown { row, .. }) => row,
            Ok(ParkedDatagram::Keepalive(_)) | Err(_) => continue,
        };
        if let Some(queue) = net.lodgings.lock().get(&row) {
            // What finds no room is rung again.
            let _ = queue.try_send(arrived);
        }
    }
}

/// A registration without a connection.
pub(super) struct Parked<'a> {
    pub(super) net: &'a Arc<Net>,
    /// Where the peer is.
    pub(super) peer: SocketAddr,
    /// The last known time of a round trip to it.
    pub(super) rtt: Duration,
    pub(super) row: RowId,
    pub(super) key: ParkingKey,
    /// How long after the last keepalive the peer rings.
    pub(super) silence: Duration,
}

/// Takes the registration out of the list, however its task ends.
struct Listed<'a>(&'a Net, RowId);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.lodgings.lock().remove(&self.1);
    }
}

impl Parked<'_> {
    /// Stays until a connection is needed.
    pub(super) async fn stay(&self) -> Result<(), Ended> {
        let (sender, mut arrivals) = mpsc::channel(QUEUE);
        self.net.lodgings.lock().insert(self.row, sender);
        let _listed = Listed(self.net, self.row);
        let mut parking = Parking::new(self.silence, Instant::now());
        let mut network = self.net.network.subscribe();
        let mut ended = self.net.ended.subscribe();
        let mut grants = self.net.board.grants.subscribe();
        let upkeep = tokio::time::sleep(UPKEEP);
        tokio::pin!(upkeep);
        loop {
            let step = tokio::select! {
                Some(arrived) = arrivals.recv() => self.heard(&mut parking, &arrived),
                () = sleep_until(parking.due().into()) => {
                    self.net.post.forget_idle();
                    Some(parking.elapsed())
                }
                // In another network, another row: who watches both could tell by its number that it is
                // the same device.
                Ok(()) = network.changed() => Some(Step::Come),
                // If it was this peer that has ended a connection, it may have been restarted.
                Ok(()) = ended.changed() => {
                    parking.doubt(Instant::now());
                    None
                }
                // What is to be said about them takes a connection.
                Ok(()) = grants.changed() => Some(Step::Come),
                () = &mut upkeep => Some(Step::Come),
                () = self.net.board.forget.notified() => {
                    parking.taken(self.net.board.take_forgotten());
                    Some(Step::Say)
                }
            };
            match step {
                Some(Step::Say) => self.say(&mut parking),
                Some(Step::Take(push)) => self.take(&mut parking, push).await?,
                Some(Step::Come) => return Ok(()),
                Some(Step::Leave(gone)) => return Err(why(gone)),
                None => {}
            }
        }
    }

    fn heard(&self, parking: &mut Parking, arrived: &Arrived) -> Option<Step> {
        match ParkedDatagram::decode(&arrived.datagram).ok()? {
            ParkedDatagram::Word(sealed) => {
                parking.heard(self.key.open_word(&sealed).ok()?, Instant::now())
            }
            // Nobody could seal it; somebody on the way could have written it. A registration more
            // is all that comes of that.
            ParkedDatagram::Unknown { counter, retry_after_ms, .. }
                if arrived.source == self.peer =>
            {
                parking.unknown(counter, retry_after_ms)
            }
            _ => None,
        }
    }

    fn say(&self, parking: &mut Parking) {
        let (counter, keepalive) = parking.say(Instant::now());
        let datagram = self.key.seal_keepalive(self.row, counter, &keepalive);
        // What is not sent is said again.
        let _ = self.net.endpoint.send_datagram(SocketId::MAIN, self.peer, &datagram);
    }

    /// Takes what a ring has brought. The peer forgets an envelope when it is on disk.
    async fn take(&self, parking: &mut Parking, push: Push) -> Result<(), Ended> {
        match push {
            Push::Envelope(waiting) => {
                let ingested = ingest(self.net, vec![waiting]).await?;
                parking.taken(ingested.done);
            }
            Push::Knock { capability, observed, card, channel, datagrams } => {
                let (via, rtt) = (self.peer, self.rtt);
                let knocked = Knocked { capability, observed, card, channel, datagrams, via, rtt };
                dial::take_knock(self.net, knocked);
            }
            Push::Welcome { .. } | Push::Superseded | Push::Draining { .. } => {}
        }
        self.say(parking);
        Ok(())
    }
}

fn why(gone: Gone) -> Ended {
    match gone {
        Gone::Draining(pause) => Ended::Draining(pause),
        // Each has its own moment; a little chance keeps those apart who were told the same.
        Gone::Unknown(pause) => Ended::Forgotten(pause.mul_f64(random::jitter().clamp(0.9, 1.1))),
        Gone::Silent => Ended::Silent("has not answered a keepalive"),
    }
}
