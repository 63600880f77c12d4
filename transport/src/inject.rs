//! Datagrams for QUIC that came another way than straight out of a socket's receive buffer.

use std::collections::{HashMap, VecDeque};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta};

/// Datagrams that wait to be read by QUIC: about 3 MB at most. Beyond it the newest are lost, as
/// in any full router.
pub(crate) const QUEUE: usize = 2048;
/// Datagrams of one source among them, so that a flood on one path leaves room for all others.
pub(crate) const QUEUE_PER_SOURCE: usize = 512;

/// A queue that QUIC's receiving drains.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// Of each source in `waiting`.
    per_source: HashMap<SocketAddr, usize>,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Item {
    source: SocketAddr,
    ecn: Option<EcnCodepoint>,
    datagram: Bytes,
}

impl Injected {
    /// Adds a datagram as if it had come from `source`, written as QUIC writes it. Says whether
    /// there was room.
    pub(crate) fn push(
        &self,
        source: SocketAddr,
        ecn: Option<EcnCodepoint>,
        datagram: Bytes,
    ) -> bool {
        let mut queue = self.lock();
        if queue.waiting.len() >= QUEUE || datagram.is_empty() {
            return false;
        }
        let of_source = queue.per_source.entry(source).or_insert(0);
        if *of_source >= QUEUE_PER_SOURCE {
            return false;
        }
        *of_source += 1;
        queue.waiting.push_back(Item { source, ecn, datagram });
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// Remembers whom to wake for the next datagram.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut queue = self.lock();
        match &mut queue.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Wakes the reader for another reason: there is another socket to look at.
    pub(crate) fn wake(&self) {
        let reader = self.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Moves datagrams into receive buffers, and returns how many buffers have something in them.
    /// Neighbours of one source and size share a buffer, as the system does it.
    pub(crate) fn drain(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut queue = self.lock();
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            if !queue.fill(buf, meta) {
                break;
            }
            filled += 1;
        }
        filled
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Fills one buffer, if there is anything.
    fn fill(&mut self, buf: &mut [u8], meta: &mut RecvMeta) -> bool {
        // What is larger than a receive buffer is larger than any datagram of ours.
        let first = loop {
            match self.pop() {
                None => return false,
                Some(item) if item.datagram.len() <= buf.len() => break item,
                Some(_) => {}
            }
        };
        let stride = first.datagram.len();
        buf[..stride].copy_from_slice(&first.datagram);
        let mut len = stride;
        while let Some(next) = self.waiting.front()
            && next.source == first.source
            && next.ecn == first.ecn
            && next.datagram.len() <= stride
            && len + next.datagram.len() <= buf.len()
            && let Some(next) = self.pop()
        {
            let end = len + next.datagram.len();
            buf[len..end].copy_from_slice(&next.datagram);
            len = end;
            if next.datagram.len() < stride {
                break;
            }
        }
        *meta = RecvMeta { addr: first.source, len, stride, ecn: first.ecn, dst_ip: None };
        true
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.waiting.pop_front()?;
        if let Some(of_source) = self.per_source.get_mut(&item.source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.per_source.remove(&item.source);
            }
        }
        Some(item)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(i: u16) -> SocketAddr {
        ([127, 0, 0, 1], i).into()
    }

    fn datagram(first: u8, len: usize) -> Bytes {
        vec![first; len].into()
    }

    fn drain(queue: &Injected, buffers: usize, size: usize) -> Vec<(RecvMeta, Vec<u8>)> {
        let mut memory = vec![vec![0; size]; buffers];
        let mut bufs: Vec<_> = memory.iter_mut().map(|it| IoSliceMut::new(it)).collect();
        let mut meta = vec![RecvMeta::default(); buffers];
        let n = queue.drain(&mut bufs, &mut meta);
        meta.into_iter().zip(memory).take(n).map(|(m, b)| (m, b[..m.len].to_vec())).collect()
    }

    #[test]
    fn neighbours_of_one_source_and_size_share_a_buffer() {
        let queue = Injected::default();
        for (from, len) in [(1, 30), (1, 30), (1, 10), (1, 30), (2, 30), (2, 40)] {
            assert!(queue.push(source(from), None, datagram(len as u8, len)));
        }
        let got: Vec<_> = drain(&queue, 8, 1000)
            .iter()
            .map(|(m, b)| (m.addr.port(), m.stride, b.len()))
            .collect();
        assert_eq!(got, [(1, 30, 70), (1, 30, 30), (2, 30, 30), (2, 40, 40)]);
        assert!(drain(&queue, 8, 1000).is_empty());
    }

    #[test]
    fn buffers_are_never_overfilled() {
        let queue = Injected::default();
        for len in [40, 40, 40, 200, 7] {
            queue.push(source(1), None, datagram(1, len));
        }
        let got: Vec<_> = drain(&queue, 8, 100).iter().map(|(m, _)| m.len).collect();
        assert_eq!(got, [80, 40, 7], "what fits into no buffer is left out");
    }

    #[test]
    fn a_flood_of_one_source_leaves_room_for_another() {
        let queue = Injected::default();
        let taken = (0..QUEUE).filter(|_| queue.push(source(1), None, datagram(1, 20))).count();
        assert_eq!(taken, QUEUE_PER_SOURCE);
        assert!(queue.push(source(2), None, datagram(2, 20)));
        for i in 0..QUEUE as u16 {
            queue.push(source(3 + i), None, datagram(3, 20));
        }
        assert!(!queue.push(source(60_000), None, datagram(4, 20)), "all of it is full");

        let mut got = 0;
        loop {
            let buffers = drain(&queue, 4, 2000);
            if buffers.is_empty() {
                break;
            }
            got += buffers.iter().map(|(m, _)| m.len / m.stride).sum::<usize>();
        }
        assert_eq!(got, QUEUE);
        assert!(queue.lock().per_source.is_empty());
        assert!(queue.push(source(1), None, datagram(1, 20)), "there is room again");
    }
}
