//! The relays, each a process of its own.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use halloo_bench_measure::cpu_of;
use tempfile::TempDir;

use crate::program::{Program, beside_me};
use crate::run::{Places, Role};

/// What one end, and one network, may send through the peer: it keeps account and never refuses.
const PEER_RATE: &str = "30Gbit";

/// The relay of one transfer.
pub struct Relay {
    program: Program,
    variables: Vec<(&'static str, String)>,
    /// Keys and homes. It goes with this value.
    _folder: TempDir,
}

impl Relay {
    /// Starts the relay that a stack needs; `None` when it needs none.
    pub fn start(stack: &str, places: &dyn Places, patience: Duration) -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let path = |name| folder.path().join(name).display().to_string();
        let listen = format!("{}:0", places.ip(Role::Relay));
        let begin = |name, arguments: &[&str]| {
            let mut command = Command::new(beside_me(name)?);
            command.args(arguments);
            Program::start(command, places, Role::Relay, patience)
        };
        let (program, variables) = match stack {
            "halloo-relayed" => {
                let data = path("peer");
                let mut peer = begin(
                    "rendezvous-peer",
                    &[
                        "run",
                        "--json",
                        "--listen",
                        &listen,
                        "--websocket",
                        "off",
                        "--relay-rate",
                        PEER_RATE,
                        "--relay-rate-per-network",
                        PEER_RATE,
                        "--data-dir",
                        &data,
                    ],
                )?;
                let line = peer.line().context("rendezvous-peer does not start")?;
                let ready: serde_json::Value = serde_json::from_str(&line)?;
                let address = ready["address"].as_str();
                let address = address.with_context(|| format!("no address in {line}"))?.to_owned();
                (peer, vec![("HALLOO_PEER", address), ("HALLOO_HOMES", path("homes"))])
            }
            "iroh-relayed" => {
                let mut relay = begin("relay-iroh", &["http", &listen])?;
                let url = relay.heard("ready")?.concat();
                (relay, vec![("IROH_RELAY", url)])
            }
            "iroh-relayed-tls" => {
                let certificate = path("certificate.der");
                let mut relay = begin("relay-iroh", &["https", &listen, &certificate])?;
                let url = relay.heard("ready")?.concat();
                (relay, vec![("IROH_RELAY", url), ("IROH_RELAY_CERTIFICATE", certificate)])
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { program, variables, _folder: folder }))
    }

    /// How the sides find it, in their environment.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.program.id())
    }
}
