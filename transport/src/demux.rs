//! Tells QUIC, probes, relay frames and noise apart by the first byte, and hands on what is not
//! QUIC.
//!
//! The kernel may deliver several datagrams of one source in one buffer (generic receive offload):
//! equal sizes, and one shorter tail. A probe can be that tail behind a batch of QUIC packets, so
//! the first byte of *every* datagram is looked at. What is not QUIC is copied out and left where
//! it is, because cutting it out would move the others; the QUIC endpoint drops it unanswered, as
//! its fixed bit is not set.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use halloo_wire::datagram::{Class, classify};
use halloo_wire::limits::{MAX_DATAGRAM, MAX_PROBE};
use tokio::sync::mpsc;

/// Probes that wait for their reader. A burst of a birthday search is 256; a reader that is
/// further behind loses the newest, which the sender repeats.
pub(crate) const PROBE_QUEUE: usize = 256;
/// Relay frames that wait for their reader: about 1.5 MB at most. The newest are lost beyond it,
/// as in any full router.
pub(crate) const RELAY_QUEUE: usize = 1024;

/// How many datagrams of each kind a socket has seen since it was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramStats {
    /// QUIC datagrams, handed to the QUIC endpoint.
    pub quic: u64,
    /// Hole-punching probes.
    pub probe: u64,
    /// Relay frames.
    pub relay: u64,
    /// Datagrams of no known kind, or larger than their kind allows: dropped.
    pub unknown: u64,
    /// Probes that were dropped because nobody reads them, or not fast enough.
    pub probe_dropped: u64,
    /// Relay frames that were dropped because nobody reads them, or not fast enough.
    pub relay_dropped: u64,
    /// Datagrams, or batches of them, that the system refused to send. A few are ordinary: probes
    /// for a larger packet size end here too.
    pub send_errors: u64,
    /// Errors that the system reported instead of a datagram.
    pub receive_errors: u64,
}

/// The reader's end of a tap: who sent it, and the whole datagram.
pub type Datagrams = mpsc::Receiver<(SocketAddr, Bytes)>;

/// Sorts incoming datagrams and counts them.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    probes: Tap,
    relays: Tap,
    quic: AtomicU64,
    unknown: AtomicU64,
    pub(crate) send_errors: AtomicU64,
    pub(crate) receive_errors: AtomicU64,
}

impl Demux {
    /// The reader of probes; `None` when it has been taken.
    pub(crate) fn take_probes(&self) -> Option<Datagrams> {
        self.probes.open(PROBE_QUEUE)
    }

    /// The reader of relay frames; `None` when it has been taken.
    pub(crate) fn take_relays(&self) -> Option<Datagrams> {
        self.relays.open(RELAY_QUEUE)
    }

    /// Sorts one receive buffer, which holds datagrams of `stride` bytes and perhaps a shorter
    /// tail. Says whether any of it is for QUIC.
    pub(crate) fn sort(&self, source: SocketAddr, buffer: &[u8], stride: usize) -> bool {
        let mut quic = 0;
        let mut unknown = u64::from(buffer.is_empty());
        for datagram in split(buffer, stride) {
            match classify(datagram) {
                Class::Quic => quic += 1,
                Class::Probe if datagram.len() <= MAX_PROBE => {
                    self.probes.hand_on(source, datagram)
                }
                Class::Relay if datagram.len() <= MAX_DATAGRAM => {
                    self.relays.hand_on(source, datagram);
                }
                Class::Probe | Class::Relay | Class::Unknown => unknown += 1,
            }
        }
        self.quic.fetch_add(quic, Ordering::Relaxed);
        if unknown > 0 {
            self.unknown.fetch_add(unknown, Ordering::Relaxed);
        }
        quic > 0
    }

    pub(crate) fn stats(&self) -> DatagramStats {
        DatagramStats {
            quic: self.quic.load(Ordering::Relaxed),
            probe: self.probes.seen.load(Ordering::Relaxed),
            relay: self.relays.seen.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            probe_dropped: self.probes.dropped.load(Ordering::Relaxed),
            relay_dropped: self.relays.dropped.load(Ordering::Relaxed),
            send_errors: self.send_errors.load(Ordering::Relaxed),
            receive_errors: self.receive_errors.load(Ordering::Relaxed),
        }
    }
}

/// Where datagrams of one kind leave the socket. It never waits: QUIC must not stall because a
/// reader of something else is slow.
#[derive(Debug, Default)]
struct Tap {
    reader: OnceLock<mpsc::Sender<(SocketAddr, Bytes)>>,
    seen: AtomicU64,
    dropped: AtomicU64,
}

impl Tap {
    fn open(&self, limit: usize) -> Option<Datagrams> {
        let (sender, receiver) = mpsc::channel(limit);
        self.reader.set(sender).ok().map(|()| receiver)
    }

    fn hand_on(&self, source: SocketAddr, datagram: &[u8]) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let handed = self.reader.get().and_then(|reader| {
            // The room is claimed before the copy, so that a flood costs no memory.
            let room = reader.try_reserve().ok()?;
            room.send((source, Bytes::copy_from_slice(datagram)));
            Some(())
        });
        if handed.is_none() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The datagrams in a receive buffer. A stride of zero, which some systems report for a single
/// datagram, means the whole buffer.
fn split(buffer: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let stride = if stride == 0 { buffer.len().max(1) } else { stride };
    buffer.chunks(stride)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

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

    #[test]
    fn a_probe_in_the_tail_of_a_quic_batch_is_found() {
        let demux = Demux::default();
        let mut probes = demux.take_probes().unwrap();
        let buffer = [quic(1200), quic(1200), quic(1200), probe(80)].concat();

        assert!(demux.sort(SOURCE, &buffer, 1200), "the batch still goes to QUIC");

        let (source, datagram) = probes.try_recv().unwrap();
        assert_eq!((source, &datagram[..]), (SOURCE, &probe(80)[..]));
        let stats = demux.stats();
        assert_eq!((stats.quic, stats.probe, stats.unknown), (3, 1, 0));
    }

    #[test]
    fn a_batch_of_probes_with_a_quic_tail_is_taken_apart() {
        let demux = Demux::default();
        let mut probes = demux.take_probes().unwrap();
        let buffer = [probe(60), probe(60), quic(40)].concat();

        assert!(demux.sort(SOURCE, &buffer, 60));

        assert_eq!(probes.try_recv().unwrap().1.len(), 60);
        assert_eq!(probes.try_recv().unwrap().1.len(), 60);
        assert!(probes.try_recv().is_err());
        assert_eq!(demux.stats().quic, 1);
    }

    #[test]
    fn a_buffer_without_quic_is_kept_from_quic() {
        let demux = Demux::default();
        assert!(!demux.sort(SOURCE, &probe(30), 30));
        assert!(!demux.sort(SOURCE, &[0x80; 1300], 1300));
        assert!(!demux.sort(SOURCE, &[], 0));
        let stats = demux.stats();
        assert_eq!((stats.probe, stats.probe_dropped, stats.unknown), (1, 1, 2));
    }

    #[test]
    fn datagrams_larger_than_their_kind_are_unknown() {
        let demux = Demux::default();
        demux.sort(SOURCE, &probe(MAX_PROBE + 1), MAX_PROBE + 1);
        let mut relay = vec![0; MAX_DATAGRAM + 1];
        relay[0] = 0x05;
        demux.sort(SOURCE, &relay, relay.len());
        let stats = demux.stats();
        assert_eq!((stats.probe, stats.relay, stats.unknown), (0, 0, 2));
    }

    #[test]
    fn a_slow_reader_loses_the_newest_and_it_is_counted() {
        let demux = Demux::default();
        let mut relays = demux.take_relays().unwrap();
        assert!(demux.take_relays().is_none(), "there is one reader");
        for i in 0..RELAY_QUEUE + 3 {
            let frame = [&[0x05], &(i as u32).to_be_bytes()[..], &[0x40]].concat();
            demux.sort(SOURCE, &frame, frame.len());
        }
        let stats = demux.stats();
        assert_eq!((stats.relay, stats.relay_dropped), (RELAY_QUEUE as u64 + 3, 3));
        for i in 0..RELAY_QUEUE {
            assert_eq!(relays.try_recv().unwrap().1[1..5], (i as u32).to_be_bytes());
        }
        assert!(relays.try_recv().is_err());
    }

    proptest! {
        #[test]
        fn every_datagram_is_counted_once(
            firsts in proptest::collection::vec(any::<u8>(), 1..12),
            stride in 1usize..70,
            tail in 0usize..70,
        ) {
            let tail = tail % stride + 1;
            let mut buffer = Vec::new();
            for (i, &first) in firsts.iter().enumerate() {
                let len = if i + 1 == firsts.len() { tail } else { stride };
                buffer.push(first);
                buffer.resize(buffer.len() + len - 1, 0x55);
            }
            let demux = Demux::default();
            let is_quic = demux.sort(SOURCE, &buffer, stride);
            let stats = demux.stats();
            let quic = firsts.iter().filter(|&b| b & 0x40 != 0).count() as u64;
            prop_assert_eq!(stats.quic, quic);
            prop_assert_eq!(is_quic, quic > 0);
            prop_assert_eq!(stats.quic + stats.probe + stats.relay + stats.unknown, firsts.len() as u64);
        }

        #[test]
        fn no_stride_makes_the_walk_endless(buffer: Vec<u8>, stride in 0usize..100) {
            prop_assert!(split(&buffer, stride).count() <= buffer.len());
            prop_assert_eq!(split(&buffer, stride).map(<[u8]>::len).sum::<usize>(), buffer.len());
        }
    }
}
