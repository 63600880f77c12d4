//! Whether the time that an answer takes says more than the answer: knocks at somebody who is
//! unknown, at somebody who is away, and at somebody who is there and has not consented.
//!
//! The three are asked in turn on one connection, in an order that chance decides. Two of them are
//! told apart by the Kolmogorov-Smirnov statistic: the largest distance between the two
//! distributions. By chance it is above the critical value once in a hundred runs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use halloo_transport::CloseCode;
use halloo_wire::peer::{Call, Knock, Knocked, Request, Response};
use halloo_wire::{CapabilityToken, DeviceId, Fingerprint};
use rand::seq::SliceRandom;

use crate::node::{Node, token};
use crate::peer::{ONE_NETWORK, Peer};

/// The factor of the critical value for one in a hundred (Smirnov 1948).
const ONE_IN_A_HUNDRED: f64 = 1.628;

#[derive(clap::Args)]
pub struct Options {
    /// Knocks of each kind
    #[arg(long, default_value_t = 20_000)]
    knocks: usize,
}

pub async fn run(options: &Options) -> Result<()> {
    let peer = Peer::start(&ONE_NETWORK)?;
    let (away, there) = (Node::new()?, Node::new()?);
    let left = away.register(peer.listen, peer.key).await?;
    left.connection.close(CloseCode::Done);
    away.leave().await;
    let _present = there.register(peer.listen, peer.key).await?;
    let asker = Node::new()?;
    let connection = asker.connect(peer.listen, peer.key).await?;
    let unknown = Fingerprint::from_bytes([0x77; 30]);
    let kinds = [
        ("unknown", unknown, token()),
        ("away", away.fingerprint, token()),
        ("not consenting", there.fingerprint, CapabilityToken([8; 32])),
    ];
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut order = [0, 1, 2];
    // The first hundred are for warming up.
    for round in 0..options.knocks + 100 {
        order.shuffle(&mut rand::rng());
        for kind in order {
            let (_, to, ref token) = kinds[kind];
            let knock = Knock {
                to,
                device: DeviceId::FIRST,
                token: CapabilityToken(token.0),
                card: vec![7; 60],
                reveal: true,
                attested: Vec::new(),
                relay: true,
                datagrams: Vec::new(),
                message: None,
            };
            let begun = Instant::now();
            let request = Request { session: None, call: Call::Knock(knock) };
            let answer = connection.request(&request).await?;
            let took = begun.elapsed();
            let nobody = Response::Knocked(Knocked { callee: None, message: None });
            ensure!(answer == nobody, "{}: another answer: {answer:?}", kinds[kind].0);
            if round >= 100 {
                times[kind].push(took);
            }
        }
    }
    times.iter_mut().for_each(|it| it.sort_unstable());
    println!("{} knocks of each kind, all answered alike", options.knocks);
    for (kind, times) in kinds.iter().zip(&times) {
        println!(
            "  {:<15} half within {:.1} µs",
            kind.0,
            times[times.len() / 2].as_secs_f64() * 1e6
        );
    }
    let critical = ONE_IN_A_HUNDRED * (2.0 / options.knocks as f64).sqrt();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let distance = distance(&times[a], &times[b]);
        let verdict = if distance < critical { "not told apart" } else { "TOLD APART" };
        println!("  {} and {}: {distance:.4} of {critical:.4}: {verdict}", kinds[a].0, kinds[b].0);
    }
    Ok(())
}

/// The largest distance between two distributions, whose samples are sorted.
fn distance(a: &[Duration], b: &[Duration]) -> f64 {
    let share =
        |of: &[Duration], at: &Duration| of.partition_point(|it| it <= at) as f64 / of.len() as f64;
    a.iter().chain(b).map(|at| (share(a, at) - share(b, at)).abs()).fold(0.0, f64::max)
}
