//! The queue's entries.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Instant;

use super::{BoxId, HostId, RealmId};
use crate::packet::{Body, Packet};

/// Something that will happen.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Instant,
    /// Decides between things of the same time: what was put first happens first.
    pub(super) number: u64,
    pub(super) event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    /// A packet enters a network, having crossed a link.
    Enter(RealmId, Packet),
    /// A packet has reached a box, from inside or from outside.
    AtBox(BoxId, bool, Packet),
    /// A packet has reached a host.
    AtHost(HostId, Packet),
    /// A piece of a reliable stream is to be brought from one host to another.
    Tunnel {
        from: HostId,
        to: HostId,
        src: SocketAddr,
        body: Body,
    },
    Wake(HostId),
    Script(usize),
}

impl Ord for Entry {
    /// The earliest is the greatest, because the queue hands out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}
