//! What a seed stands for: who says what when, and what goes wrong.

use std::time::Duration;

use super::rng::Rng;
use super::world::CALM;
use crate::planted::Bug;

/// Something that goes wrong, or right again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The process dies after so many operations of its disk, in the middle of whatever it does;
    /// at once with 0. Half of the time the machine loses its power.
    Kill {
        node: usize,
        operations: u32,
    },
    RestartPeer {
        peer: usize,
    },
    Connect {
        a: usize,
        b: usize,
    },
    Disconnect {
        a: usize,
        b: usize,
    },
    DiskFull {
        node: usize,
        full: bool,
    },
    /// Syncs fail from here on, until the disk is replaced.
    NoSync {
        node: usize,
    },
    Replaced {
        node: usize,
    },
    Clock {
        node: usize,
        seconds: i64,
    },
    /// Keeps what is on the node's disk, which [`Fault::SetBack`] puts back.
    Remember {
        node: usize,
    },
    SetBack {
        node: usize,
    },
    Calm,
}

/// A program says something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Say {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Seconds within which it has to leave.
    pub(super) within: Option<u64>,
}

/// A world's story.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) peers: usize,
    /// Of 1,000 answers of a peer, so many get lost.
    pub(super) loss: u64,
    /// Whether the peers drop, repeat, change, mix and lie.
    pub(super) malicious: bool,
    /// Seconds for which a peer keeps an envelope.
    pub(super) ttl_s: u32,
    pub(super) says: Vec<(Duration, Say)>,
    /// When a node's program takes something back.
    pub(super) cancels: Vec<(Duration, usize)>,
    pub(super) faults: Vec<(Duration, Fault)>,
}

/// What a burst is: more than Olm keeps skipped keys for.
const BURST: u64 = 110;
const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;

impl Plan {
    /// Draws a story.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let nodes = 2 + rng.below(2);
        let peers = 1 + rng.below(2);
        let when =
            |rng: &mut Rng| Duration::from_millis(rng.within(0, CALM.as_millis() as u64 - 1));
        let (mut says, mut cancels) = (Vec::new(), Vec::new());
        for _ in 0..rng.within(3, 12) {
            // Bursts, as people and programs write.
            let (at, from) = (when(rng), rng.below(nodes));
            let to = (from + 1 + rng.below(nodes - 1)) % nodes;
            let many = if rng.chance(120) { BURST } else { rng.within(1, 5) };
            let hurry = rng.chance(300).then(|| rng.within(0, 30));
            for i in 0..many {
                let within = hurry.filter(|_| rng.chance(500));
                says.push((at + Duration::from_millis(3 * i), Say { from, to, within }));
            }
            for _ in 0..rng.below(4) {
                cancels.push((at + Duration::from_millis(rng.within(0, 3 * many + 20)), from));
            }
        }
        let mut faults = Vec::new();
        for _ in 0..rng.within(2, 14) {
            let (at, node) = (when(rng), rng.below(nodes));
            let other = (node + 1 + rng.below(nodes - 1)) % nodes;
            let until = at + Duration::from_millis(rng.within(500, 40_000));
            match rng.below(12) {
                0..4 => {
                    let operations = if rng.chance(300) { 0 } else { rng.within(1, 60) as u32 };
                    faults.push((at, Fault::Kill { node, operations }));
                }
                4 | 5 => faults.push((at, Fault::RestartPeer { peer: rng.below(peers) })),
                6..9 => {
                    faults.push((at, Fault::Connect { a: node, b: other }));
                    faults.push((until, Fault::Disconnect { a: node, b: other }));
                }
                9 => {
                    faults.push((at, Fault::DiskFull { node, full: true }));
                    faults.push((until, Fault::DiskFull { node, full: false }));
                }
                10 => faults.push((at, Fault::NoSync { node })),
                _ => {
                    let years = [TEN_YEARS, -TEN_YEARS, 3_600, -3_600][rng.below(4)];
                    faults.push((at, Fault::Clock { node, seconds: years }));
                    faults.push((until, Fault::Clock { node, seconds: 0 }));
                }
            }
        }
        // A machine that goes back to a snapshot.
        if rng.chance(200) {
            let node = rng.below(nodes);
            let (a, b) = (when(rng), when(rng));
            faults.push((a.min(b), Fault::Remember { node }));
            faults.push((a.max(b), Fault::SetBack { node }));
        }
        // After the calm two may find each other, or not.
        if rng.chance(500) {
            faults.push((
                CALM + Duration::from_secs(rng.within(1, 60)),
                Fault::Connect { a: 0, b: 1 },
            ));
        }
        let loss = if rng.chance(500) { rng.within(0, 300) } else { 0 };
        // Shorter than the story, or longer, so that nothing but the rules brings a message back.
        let ttl_s = if rng.chance(500) { 90 } else { 3 * 24 * 3600 };
        let malicious = rng.chance(250);
        Self { nodes, peers, loss, malicious, ttl_s, says, cancels, faults }
    }

    /// Adds to a story what a planted fault needs to show itself, so that few seeds are enough.
    pub(super) fn sharpen(&mut self, bug: Bug, rng: &mut Rng) {
        let at = Duration::from_secs(rng.within(60, 160));
        let after = |ms| at + Duration::from_millis(ms);
        match bug {
            Bug::ForgetInstance => {
                (self.malicious, self.ttl_s) = (false, 3 * 24 * 3600);
                self.faults.retain(|(_, fault)| !matches!(fault, Fault::Connect { .. }));
                self.says.push((at, Say { from: 0, to: 1, within: None }));
                for peer in 0..self.peers {
                    self.faults.push((after(rng.within(50, 500)), Fault::RestartPeer { peer }));
                }
            }
            Bug::ControlsFirst => {
                // Both write a lot on a connection that dies, and then by mailbox.
                self.malicious = false;
                self.faults.push((at, Fault::Connect { a: 0, b: 1 }));
                self.faults.push((after(1_050), Fault::Disconnect { a: 0, b: 1 }));
                for i in 0..BURST {
                    let say = |from, to| Say { from, to, within: None };
                    self.says.push((after(1_000 + i), say(0, 1)));
                    self.says.push((after(900 + 40 * i), say(1, 0)));
                }
            }
            _ => {}
        }
    }
}
