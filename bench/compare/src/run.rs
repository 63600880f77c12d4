//! One transfer between two processes.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::program::{Program, beside_me};
use crate::relay::Relay;

/// How much is sent. It ends with whichever comes first.
#[derive(Clone, Copy)]
pub struct Amount {
    pub mib: u64,
    pub time: Duration,
}

/// What a transfer came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// MiB a second.
    pub rate: f64,
    /// The same, in the second half of the time.
    pub later: f64,
    /// CPU seconds for each GiB.
    pub send_cpu: f64,
    pub receive_cpu: f64,
    /// Of the relay, where there is one.
    pub relay_cpu: Option<f64>,
}

/// A process of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Sender,
    Receiver,
    Relay,
}

/// Where the processes run.
pub trait Places {
    fn ip(&self, role: Role) -> IpAddr;
    fn spawn(&self, role: Role, command: &mut Command) -> Result<Child>;
}

/// All on this machine.
pub struct Here;

impl Places for Here {
    fn ip(&self, _role: Role) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn spawn(&self, _role: Role, command: &mut Command) -> Result<Child> {
        Ok(command.spawn()?)
    }
}

/// Runs one transfer.
pub fn run(stack: &str, amount: Amount, places: &dyn Places) -> Result<Outcome> {
    let patience = amount.time * 2 + Duration::from_secs(20);
    let relay = Relay::start(stack, places, patience)?;
    let begin = |role, task: &[&str]| {
        let mut command = side(stack, relay.as_ref())?;
        command.args(task);
        Program::start(command, places, role, patience)
    };
    let listen = format!("{}:0", places.ip(Role::Receiver));
    let mut receiver = begin(Role::Receiver, &["receive", &listen])?;
    let ready = receiver.heard("ready")?;
    let from = format!("{}:0", places.ip(Role::Sender));
    let (mib, seconds) = (amount.mib.to_string(), amount.time.as_secs().to_string());
    let mut sender = begin(Role::Sender, &["send", &from, &mib, &seconds])?;
    let from = sender.heard("from")?;
    receiver.tell(&format!("from {}", from.join(" ")))?;
    receiver.heard("open")?;
    let relay_before = relay.as_ref().map(Relay::cpu).transpose()?;
    sender.tell(&format!("go {}", ready.join(" ")))?;
    let sent = numbers(&sender.heard("sent")?)?;
    let received = numbers(&receiver.heard("received")?)?;
    let relay_after = relay.as_ref().map(Relay::cpu).transpose()?;
    let ([_, _, send_cpu], [bytes, seconds, receive_cpu, later]) = (&sent[..], &received[..])
    else {
        bail!("a side counts differently");
    };
    const MIB: f64 = 1024.0 * 1024.0;
    let gib = bytes / (1024.0 * MIB);
    Ok(Outcome {
        rate: bytes / MIB / seconds,
        later: later / MIB,
        send_cpu: send_cpu / gib,
        receive_cpu: receive_cpu / gib,
        relay_cpu: relay_before.zip(relay_after).map(|(before, after)| (after - before) / gib),
    })
}

/// The program of a stack's side, which knows the relay.
fn side(stack: &str, relay: Option<&Relay>) -> Result<Command> {
    let program = if stack.starts_with("iroh") { "side-iroh" } else { "side" };
    let mut command = Command::new(beside_me(program)?);
    command.arg(stack);
    if let Some(relay) = relay {
        command.envs(relay.variables());
    }
    Ok(command)
}

fn numbers(words: &[String]) -> Result<Vec<f64>> {
    words.iter().map(|it| it.parse().context("no number")).collect()
}
