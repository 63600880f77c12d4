//! Tells the datagrams in a receive buffer apart by their first byte, counts them, and hands on
//! what is for readers outside of QUIC.
//!
//! The kernel may deliver several datagrams of one source in one buffer (generic receive offload):
//! equal sizes, and one shorter tail. A probe can be that tail behind a batch of QUIC packets, so
//! the first byte of *every* datagram is looked at.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use halloo_wire::ChannelId;
use halloo_wire::datagram::{Class, RelayFrame, classify};
use halloo_wire::limits::MAX_DATAGRAM;
use halloo_wire::path::SocketId;
use tokio::sync::mpsc;

/// Probes that wait for their reader. A burst of a birthday search is 256; a reader that is
/// further behind loses the newest, which the sender repeats.
pub(crate) const PROBE_QUEUE: usize = 256;
/// Datagrams of rendezvous peers that wait for their reader. A node asks a few dozen questions at
/// a time.
pub(crate) const PEER_QUEUE: usize = 256;
/// Datagrams of parked registrations that wait for their reader. What is lost is rung again.
pub(crate) const PARKED_QUEUE: usize = 256;

/// A datagram for a reader outside of QUIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Which of our sockets it came to; the main one when it came through a tunnel.
    pub socket: SocketId,
    /// Where it came from.
    pub source: SocketAddr,
    /// All of it.
    pub datagram: Bytes,
}

/// How many datagrams of each kind a socket has seen since it was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramStats {
    /// QUIC datagrams, relayed ones included.
    pub quic: u64,
    /// Hole-punching probes.
    pub probe: u64,
    /// Relay frames.
    pub relay: u64,
    /// Small datagrams between node and rendezvous peer.
    pub peer: u64,
    /// Datagrams of parked registrations.
    pub parked: u64,
    /// Datagrams of no known kind, or larger than their kind allows: dropped.
    pub unknown: u64,
    /// QUIC datagrams of strangers that were dropped (see [`Strangers`](crate::Strangers)).
    pub refused: u64,
    /// Probes that were dropped because nobody reads them, or not fast enough.
    pub probe_dropped: u64,
    /// Datagrams of the kind `peer` that were dropped because nobody reads them, or not fast
    /// enough.
    pub peer_dropped: u64,
    /// Datagrams of parked registrations that were dropped because nobody reads them, or not fast
    /// enough.
    pub parked_dropped: u64,
    /// Relay frames that were dropped: on a channel of no route, from somewhere else than the
    /// route's rendezvous peer, or at a rendezvous peer with nowhere to go.
    pub relay_dropped: u64,
    /// Relay frames that a rendezvous peer has sent on.
    pub forwarded: u64,
    /// QUIC datagrams that came in another way than straight from a socket and were dropped,
    /// because too many of them waited.
    pub queue_dropped: u64,
    /// QUIC datagrams that were not sent: through a tunnel that is slow or closed, on a route that
    /// has no path and keeps enough of them, or larger than a relay takes.
    pub send_dropped: u64,
    /// Datagrams, or batches of them, that the system refused to send. A few are ordinary: probes
    /// for a larger packet size end here too.
    pub send_errors: u64,
    /// Errors that the system reported instead of a datagram.
    pub receive_errors: u64,
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Count(pub(crate) AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters and readers of a socket.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    pub(crate) probes: Tap<Arrived>,
    pub(crate) peers: Tap<Arrived>,
    pub(crate) parked: Tap<Arrived>,
    pub(crate) quic: Count,
    pub(crate) relay: Count,
    pub(crate) unknown: Count,
    pub(crate) refused: Count,
    pub(crate) relay_dropped: Count,
    pub(crate) forwarded: Count,
    pub(crate) queue_dropped: Count,
    pub(crate) send_dropped: Count,
    pub(crate) send_errors: Count,
    pub(crate) receive_errors: Count,
}

impl Demux {
    pub(crate) fn stats(&self) -> DatagramStats {
        DatagramStats {
            quic: self.quic.get(),
            probe: self.probes.seen.get(),
            relay: self.relay.get(),
            peer: self.peers.seen.get(),
            parked: self.parked.seen.get(),
            unknown: self.unknown.get(),
            refused: self.refused.get(),
            probe_dropped: self.probes.dropped.get(),
            peer_dropped: self.peers.dropped.get(),
            parked_dropped: self.parked.dropped.get(),
            relay_dropped: self.relay_dropped.get(),
            forwarded: self.forwarded.get(),
            queue_dropped: self.queue_dropped.get(),
            send_dropped: self.send_dropped.get(),
            send_errors: self.send_errors.get(),
            receive_errors: self.receive_errors.get(),
        }
    }
}

/// Where things of one kind leave the socket. It never waits: QUIC must not stall because a reader
/// of something else is slow.
#[derive(Debug)]
pub(crate) struct Tap<T> {
    reader: OnceLock<mpsc::Sender<T>>,
    pub(crate) seen: Count,
    pub(crate) dropped: Count,
}

impl<T> Default for Tap<T> {
    fn default() -> Self {
        Self { reader: OnceLock::new(), seen: Count::default(), dropped: Count::default() }
    }
}

impl<T> Tap<T> {
    /// The reader; `None` when it has been taken.
    pub(crate) fn take(&self, limit: usize) -> Option<mpsc::Receiver<T>> {
        let (sender, receiver) = mpsc::channel(limit);
        self.reader.set(sender).ok().map(|()| receiver)
    }

    /// Hands on what `make` makes. It is made only when there is room for it, so that a flood
    /// costs no memory.
    pub(crate) fn hand_on(&self, make: impl FnOnce() -> T) {
        self.seen.add(1);
        match self.reader.get().and_then(|reader| reader.try_reserve().ok()) {
            Some(room) => room.send(make()),
            None => self.dropped.add(1),
        }
    }
}

/// What a whole receive buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// QUIC datagrams and nothing else; how many.
    Quic(usize),
    /// Relay frames of one channel and nothing else; how many.
    Relay(ChannelId, usize),
    /// Anything else.
    Mixed,
}

impl Batch {
    /// Looks at every datagram of a buffer of datagrams of `stride` bytes and perhaps a shorter
    /// tail.
    pub(crate) fn of(buffer: &[u8], stride: usize) -> Self {
        let mut datagrams = buffer.chunks(stride);
        let Some(first) = datagrams.next() else { return Self::Mixed };
        let rest = datagrams.len();
        match classify(first) {
            Class::Quic if datagrams.all(|it| classify(it) == Class::Quic) => Self::Quic(1 + rest),
            Class::Relay => match channel_of(first) {
                Some(channel) if datagrams.all(|it| channel_of(it) == Some(channel)) => {
                    Self::Relay(channel, 1 + rest)
                }
                _ => Self::Mixed,
            },
            _ => Self::Mixed,
        }
    }
}

/// The channel of a sound relay frame.
pub(crate) fn channel_of(datagram: &[u8]) -> Option<ChannelId> {
    RelayFrame::decode(datagram).ok().map(|frame| frame.channel)
}

/// Whether a datagram of a kind other than QUIC has a size that its kind can have.
pub(crate) fn fits(datagram: &[u8], limit: usize) -> bool {
    datagram.len() <= limit.min(MAX_DATAGRAM)
}

/// The connection id to which a QUIC datagram is sent: its first 8 bytes, which is all that our own
/// ids have. `None` when there are fewer. (RFC 9000, 17.2 and 17.3; RFC 8999 promises the long
/// header's layout for every version.)
pub(crate) fn connection_id(datagram: &[u8]) -> Option<[u8; 8]> {
    let first = *datagram.first()?;
    let at = if first & 0x80 == 0 {
        1
    } else if *datagram.get(5)? >= 8 {
        6
    } else {
        return None;
    };
    datagram.get(at..)?.first_chunk().copied()
}

/// The connection id that the sender of a QUIC datagram with a long header has chosen for itself,
/// if it has 8 bytes, as ours have.
pub(crate) fn own_connection_id(datagram: &[u8]) -> Option<[u8; 8]> {
    if datagram.first()? & 0x80 == 0 {
        return None;
    }
    let at = 6 + usize::from(*datagram.get(5)?);
    if *datagram.get(at)? != 8 {
        return None;
    }
    datagram.get(at + 1..)?.first_chunk().copied()
}

/// Whether a QUIC datagram begins with the first packet of a connection (RFC 9000, 17.2.2).
pub(crate) fn is_initial(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xc0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quic(len: usize) -> Vec<u8> {
        let mut it = vec![0; len];
        it[0] = 0x41;
        it
    }

    fn probe(len: usize) -> Vec<u8> {
        let mut it = vec![7; len];
        it[0] = 0x04;
        it
    }

    fn frame(channel: u64, len: usize) -> Vec<u8> {
        RelayFrame { channel: ChannelId(channel), datagram: &quic(len) }.encode()
    }

    #[test]
    fn a_buffer_of_one_kind_is_known_as_such() {
        let three = [quic(1200), quic(1200), quic(70)].concat();
        assert_eq!(Batch::of(&three, 1200), Batch::Quic(3));
        let two = [frame(9, 1200), frame(9, 30)].concat();
        assert_eq!(Batch::of(&two, 1209), Batch::Relay(ChannelId(9), 2));
        assert_eq!(Batch::of(&quic(5), 5), Batch::Quic(1));
    }

    #[test]
    fn gro_tails_of_another_kind_are_found() {
        for tail in [probe(80), frame(9, 71), vec![0x06; 80], vec![0; 80]] {
            let buffer = [quic(1200), quic(1200), tail.clone()].concat();
            assert_eq!(Batch::of(&buffer, 1200), Batch::Mixed, "{:02x}", tail[0]);
        }
        // Another channel, a frame around something else, a cut frame: each alone in the tail.
        for tail in [frame(8, 1200), [&[0x05; 9][..], &probe(10)].concat(), vec![0x05; 5]] {
            let buffer = [frame(9, 1200), tail].concat();
            assert_eq!(Batch::of(&buffer, 1209), Batch::Mixed);
        }
    }

    #[test]
    fn connection_ids_are_where_the_header_says() {
        let id = [1, 2, 3, 4, 5, 6, 7, 8];
        let short = [&[0x40][..], &id, &[0xaa; 30]].concat();
        assert_eq!(connection_id(&short), Some(id));
        let long = [&[0xc3, 0, 0, 0, 1, 8][..], &id, &[0xaa; 30]].concat();
        assert_eq!(connection_id(&long), Some(id));
        let first = [&[0xc3, 0, 0, 0, 1, 20][..], &id, &[0xaa; 30]].concat();
        assert_eq!(connection_id(&first), Some(id), "a first packet's id is longer");
        let none = [&[0xc3, 0, 0, 0, 1, 4][..], &id, &[0xaa; 30]].concat();
        assert_eq!(connection_id(&none), None);
        for n in 0..9 {
            assert_eq!(connection_id(&short[..n]), None);
        }
        for n in 0..14 {
            assert_eq!(connection_id(&long[..n]), None);
        }
        let own = [&[0xe3, 0, 0, 0, 1, 2, 0xaa, 0xaa, 8][..], &id].concat();
        assert_eq!(own_connection_id(&own), Some(id));
        for n in 0..own.len() {
            assert_eq!(own_connection_id(&own[..n]), None);
        }
        assert_eq!(own_connection_id(&short), None);
        assert!(is_initial(&long) && !is_initial(&own) && !is_initial(&short) && !is_initial(&[]));
    }

    #[test]
    fn a_slow_reader_loses_the_newest_and_it_is_counted() {
        let tap = Tap::default();
        tap.hand_on(|| 0);
        let mut reader = tap.take(10).unwrap();
        assert!(tap.take(10).is_none(), "there is one reader");
        for i in 1..=13 {
            tap.hand_on(|| i);
        }
        assert_eq!((tap.seen.get(), tap.dropped.get()), (14, 4));
        for i in 1..=10 {
            assert_eq!(reader.try_recv().unwrap(), i);
        }
        assert!(reader.try_recv().is_err());
    }

    proptest! {
        #[test]
        fn a_batch_is_never_called_pure_when_it_is_not(
            buffer in proptest::collection::vec(any::<u8>(), 1..300),
            stride in 1usize..70,
        ) {
            let classes: Vec<_> = buffer.chunks(stride).map(classify).collect();
            match Batch::of(&buffer, stride) {
                Batch::Quic(n) => {
                    prop_assert_eq!(n, classes.len());
                    prop_assert!(classes.iter().all(|it| *it == Class::Quic));
                }
                Batch::Relay(_, n) => {
                    prop_assert_eq!(n, classes.len());
                    prop_assert!(classes.iter().all(|it| *it == Class::Relay));
                }
                Batch::Mixed => prop_assert!(classes.iter().any(|it| *it != Class::Quic)),
            }
        }

        #[test]
        fn connection_ids_of_noise_never_panic(datagram: Vec<u8>) {
            let _ = (connection_id(&datagram), own_connection_id(&datagram));
        }
    }
}
