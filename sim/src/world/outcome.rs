//! What came of a run.

use std::time::Duration;

use halloo_nat::{AgentStats, SendOn, Technique, Verdict, WhyRelayed};

use super::World;
use crate::node::Sent;
use crate::scenario::Scenario;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was to happen.
    pub scenario: Scenario,
    /// The nodes.
    pub sides: [Side; 2],
    /// Packets that came to somebody who has nothing to do with it.
    pub bystander: u64,
    /// Frames that the peers have relayed.
    pub relayed: u64,
    /// What happened, when it was written down.
    pub trace: Vec<String>,
}

/// Where a node's datagrams went at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Where they went.
    pub send_on: SendOn,
    /// How that path was found.
    pub technique: Option<Technique>,
}

/// What came of a run for one node. Times are since the beginning.
#[derive(Debug)]
pub struct Side {
    /// At [`Step::Look`](crate::scenario::Step::Look), or at the end.
    pub look: Look,
    /// Where datagrams went at the end.
    pub at_end: SendOn,
    /// Why the contact was last said to be relayed.
    pub why: Option<WhyRelayed>,
    /// What the node has found out about its NAT.
    pub verdict: Verdict,
    /// When it was told the other side's addresses.
    pub told: Option<Duration>,
    /// When a direct path was first used for sending.
    pub direct: Option<Duration>,
    /// When datagrams first went only directly.
    pub settled: Option<Duration>,
    /// When the first datagram of the conversation came.
    pub first_heard: Option<Duration>,
    /// Datagrams that it has said, and those of the other side that came without a gap.
    pub said: u32,
    /// See [`Side::said`].
    pub heard: u32,
    /// Longest time without a new datagram while silence counted.
    pub silence: Duration,
    /// Most probes in one second to addresses that have not answered.
    pub punch_peak: u32,
    /// Most probes of a search in one second.
    pub search_peak: u32,
    /// Most answers and checks in one second.
    pub solicited_peak: u32,
    /// Most echo requests in one second.
    pub echo_peak: u32,
    /// Probes sent in all.
    pub probes: u32,
    /// Most outputs for one input.
    pub most_outputs: usize,
    /// Knocks sent.
    pub knocks: usize,
    /// Extra sockets that are still open.
    pub extra_sockets: usize,
    /// Counters of the agent.
    pub agent: AgentStats,
}

impl World {
    /// What came of the run.
    pub(super) fn outcome(self) -> Outcome {
        let looks = self.looks.unwrap_or_else(|| [0, 1].map(|n| self.look(n)));
        let sides = [0, 1].map(|n| {
            let node = &self.nodes[n];
            let (said, heard) = node.conversation.counts();
            Side {
                look: looks[n],
                at_end: node.send_on(),
                why: node.relayed,
                verdict: node.verdict(),
                told: self.since(node.milestones.told),
                direct: self.since(node.milestones.direct),
                settled: self.since(node.milestones.settled),
                first_heard: self.since(node.conversation.report.first_heard),
                said,
                heard,
                silence: node.conversation.report.longest_silence,
                punch_peak: node.counts.peak(&[Sent::Punch]),
                search_peak: node.counts.peak(&[Sent::Search]),
                solicited_peak: node.counts.peak(&[Sent::Solicited]),
                echo_peak: node.counts.peak(&[Sent::Echo]),
                probes: node.counts.total(Sent::Punch) + node.counts.total(Sent::Search),
                most_outputs: node.counts.most_outputs,
                knocks: node.knocks(),
                extra_sockets: node.extra_sockets(),
                agent: node.agent().map(|a| a.stats()).unwrap_or_default(),
            }
        });
        Outcome {
            sides,
            bystander: self.net.received(self.bystander),
            relayed: self.peers.iter().map(|p| p.relayed).sum(),
            trace: self.net.trace.lines().to_vec(),
            scenario: self.scenario,
        }
    }
}

impl Outcome {
    /// Whether both nodes sent directly when it was looked.
    pub fn is_direct(&self) -> bool {
        self.sides.iter().all(|s| s.look.send_on.direct().is_some())
    }
}
