//! What is on its way to one site: frames in the order in which they come out.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::link::{Link, Loss};

/// Frames on their way to a site, through the last link before it.
#[derive(Debug)]
pub struct Line {
    link: Link,
    heap: BinaryHeap<Entry>,
    /// The order in which frames were put in: those of one time come out in it.
    next: u64,
    bytes: usize,
}

impl Line {
    /// An empty line that ends in this link.
    pub fn new(link: Link) -> Self {
        Self { link, heap: BinaryHeap::new(), next: 0, bytes: 0 }
    }

    /// Puts in a frame that reaches the last link at `at`. Returns whether it is the first to
    /// come out: whoever waits has to look again.
    ///
    /// # Errors
    /// [`Loss::Queue`] when [`MAX_LINE_BYTES`] are on their way.
    pub fn push(&mut self, at: Instant, frame: Frame) -> Result<bool, Loss> {
        if self.bytes + frame.bytes.len() > MAX_LINE_BYTES {
            return Err(Loss::Queue);
        }
        self.bytes += frame.bytes.len();
        let is_first = self.heap.peek().is_none_or(|head| at < head.at);
        self.insert(at, Stage::BeforeLink, frame);
        Ok(is_first)
    }

    /// The next frame that is out at `now`, or what became of it.
    pub fn pop(&mut self, now: Instant) -> Option<Result<Frame, Loss>> {
        loop {
            if self.heap.peek()?.at > now {
                return None;
            }
            let Entry { at, stage, frame, .. } = self.heap.pop()?;
            if stage == Stage::BeforeLink {
                match self.link.admit(frame.length, at) {
                    Ok(out) if out > now => {
                        self.insert(out, Stage::AfterLink, frame);
                        continue;
                    }
                    Ok(_) => {}
                    Err(loss) => {
                        self.bytes -= frame.bytes.len();
                        return Some(Err(loss));
                    }
                }
            }
            self.bytes -= frame.bytes.len();
            return Some(Ok(frame));
        }
    }

    /// When something is to be done next.
    pub fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|head| head.at)
    }

    /// The last link.
    pub fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    fn insert(&mut self, at: Instant, stage: Stage, frame: Frame) {
        self.heap.push(Entry { at, order: self.next, stage, frame });
        self.next += 1;
    }
}

/// A frame as the interface gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What goes to the other interface, with the header that tells it about merged packets.
    pub bytes: Vec<u8>,
    /// The length of the IP packet in it.
    pub length: usize,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It reaches the last link at its time.
    BeforeLink,
    /// It comes out at its time.
    AfterLink,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    order: u64,
    stage: Stage,
    frame: Frame,
}

impl Ord for Entry {
    /// The earliest is the greatest, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Bytes on their way to one site: 1 Gbit/s for half a second.
pub const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::wire::link::{LinkConfig, Rate};

    const MS: Duration = Duration::from_millis(1);

    fn frame(name: u8) -> Frame {
        Frame { bytes: vec![name; 1_000], length: 1_000 }
    }

    fn names(line: &mut Line, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| line.pop(now)).map(|frame| frame.unwrap().bytes[0]).collect()
    }

    #[test]
    fn frames_come_out_by_time_and_those_of_one_time_in_order() {
        let mut line = Line::new(Link::new(LinkConfig::delay(10 * MS), 1));
        let now = Instant::now();
        assert_eq!(line.push(now + 5 * MS, frame(3)), Ok(true));
        assert_eq!(line.push(now, frame(1)), Ok(true));
        assert_eq!(line.push(now, frame(2)), Ok(false));
        assert_eq!(line.next_at(), Some(now), "a frame reaches the last link first");
        assert!(names(&mut line, now + 9 * MS).is_empty());
        assert_eq!(names(&mut line, now + 10 * MS), [1, 2]);
        assert_eq!(line.next_at(), Some(now + 15 * MS));
        assert_eq!(names(&mut line, now + 15 * MS), [3]);
        assert_eq!(line.next_at(), None);
    }

    #[test]
    fn a_slow_last_link_is_shared_by_all_who_send_to_it() {
        let rate = Rate { bits_per_s: 8_000_000, queue_bytes: 1_500 };
        let mut line = Line::new(Link::new(LinkConfig::delay(Duration::ZERO).with_rate(rate), 1));
        let now = Instant::now();
        for name in 1..=3 {
            line.push(now, frame(name)).unwrap();
        }
        // A millisecond each; the second finds no room behind the first.
        let losses = std::iter::from_fn(|| line.pop(now)).filter(Result::is_err).count();
        assert_eq!(losses, 2);
        assert_eq!(names(&mut line, now + MS), [1]);
    }

    #[test]
    fn a_line_that_is_full_takes_nothing() {
        let mut line = Line::new(Link::new(LinkConfig::delay(MS), 1));
        let now = Instant::now();
        let half = Frame { bytes: vec![0; MAX_LINE_BYTES / 2], length: 1_500 };
        line.push(now, half.clone()).unwrap();
        line.push(now, half.clone()).unwrap();
        assert_eq!(line.push(now, frame(1)), Err(Loss::Queue));
        assert!(line.pop(now + MS).unwrap().is_ok());
        assert!(line.push(now + MS, frame(1)).is_ok());
    }
}
