//! Over a wire with delay and loss.

use std::net::IpAddr;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Result;
use halloo_lab::kind::Kind;
use halloo_lab::plan::{SERVER_V4, Side};
use halloo_lab::wire::link::LinkConfig;
use halloo_lab::world::{Distance, Places as Sites, World};

use crate::run::{Amount, Places, Role, run};
use crate::{Options, tell};

/// Round trip in ms, loss on each of the two links and in each direction.
const DISTANCES: [(u64, f64); 5] = [(0, 0.0), (100, 0.0), (100, 0.005), (100, 0.01), (100, 0.02)];

/// Two open nodes, the wire between them, and the relay in the middle of it.
pub struct Apart(pub World);

impl Apart {
    /// Each node's link has half of the delay.
    pub fn new(link: LinkConfig) -> Result<Self> {
        let distance = Distance { node: link, ..Distance::default() };
        Ok(Self(World::new(Sites::Apart(Kind::Open, Kind::Open), &distance)?))
    }
}

impl Places for Apart {
    fn ip(&self, role: Role) -> IpAddr {
        match role {
            Role::Sender => Side::A.public_v4().into(),
            Role::Receiver => Side::B.public_v4().into(),
            Role::Relay => SERVER_V4[0].into(),
        }
    }

    fn spawn(&self, role: Role, command: &mut Command) -> Result<Child> {
        let namespace = match role {
            Role::Sender => self.0.node(Side::A)?,
            Role::Receiver => self.0.node(Side::B)?,
            Role::Relay => self.0.server(),
        };
        Ok(namespace.spawn(command)??)
    }
}

/// The table.
pub fn all(options: &Options) -> Result<()> {
    let stacks = options.stacks(&["halloo", "quinn-cubic", "quinn-bbr", "quinn-default", "iroh"]);
    let amount = Amount { mib: 1 << 20, time: Duration::from_secs(options.seconds) };
    let mut lines = Vec::new();
    for (rtt, loss) in options.rows(&DISTANCES) {
        let mut line = format!("| {rtt} ms, {} % |", loss * 100.0);
        for stack in &stacks {
            let link = LinkConfig::delay(Duration::from_millis(rtt) / 4).with_loss(loss);
            let mut rates = Vec::new();
            for _ in 0..options.runs.unwrap_or(1) {
                let outcome = run(stack, amount, &Apart::new(link.clone())?);
                tell(&format!("{rtt} ms {loss} {stack}"), &outcome);
                rates.extend(outcome.ok().map(|it| (it.rate, it.later)));
            }
            rates.sort_by(|a, b| a.0.total_cmp(&b.0));
            line += &match rates.get(rates.len() / 2) {
                Some((rate, later)) => format!(" {rate:.1} / {later:.1} |"),
                None => " failed |".into(),
            };
        }
        lines.push(line);
    }
    println!(
        "\n**A wire with delay and loss**, {} s, MiB/s: all of it / second half\n",
        options.seconds
    );
    println!("| round trip, loss on each link | {} |", stacks.join(" | "));
    println!("|---{}|", "|---".repeat(stacks.len()));
    for line in lines {
        println!("{line}");
    }
    Ok(())
}
