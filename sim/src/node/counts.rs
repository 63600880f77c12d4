//! What a node has sent, by kind and by second.

use std::time::Instant;

/// Kinds of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Probes to addresses that have not answered.
    Punch,
    /// Probes of a birthday search.
    Search,
    /// Answers and checks of a path.
    Solicited,
    /// Echo requests.
    Echo,
    /// The conversation, through the relay.
    Relayed,
    /// The conversation, directly.
    Direct,
}

const KINDS: usize = 6;

/// Counters by second.
#[derive(Debug)]
pub struct Counts {
    start: Instant,
    seconds: Vec<[u32; KINDS]>,
    /// Probes for which there was no budget.
    pub refused: u64,
    /// Most outputs that the machines had for one input.
    pub most_outputs: usize,
}

impl Counts {
    /// Counters at zero.
    pub fn new(start: Instant) -> Self {
        Self { start, seconds: Vec::new(), refused: 0, most_outputs: 0 }
    }

    /// Counts a datagram.
    pub fn add(&mut self, kind: Sent, now: Instant) {
        let second = (now - self.start).as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, [0; KINDS]);
        }
        self.seconds[second][kind as usize] += 1;
    }

    /// The most of these kinds together in one second.
    pub fn peak(&self, kinds: &[Sent]) -> u32 {
        let sum = |s: &[u32; KINDS]| kinds.iter().map(|k| s[*k as usize]).sum();
        self.seconds.iter().map(sum).max().unwrap_or(0)
    }

    /// All of a kind.
    pub fn total(&self, kind: Sent) -> u32 {
        self.seconds.iter().map(|s| s[kind as usize]).sum()
    }

    /// All of a kind from one second on.
    pub fn since(&self, kind: Sent, second: usize) -> u32 {
        self.seconds.iter().skip(second).map(|s| s[kind as usize]).sum()
    }
}
