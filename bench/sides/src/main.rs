//! `side STACK receive ADDRESS` and `side STACK send ADDRESS MIB SECONDS`: one side of a transfer.
//!
//! | stack | |
//! |---|---|
//! | `halloo` | Halloo's transport between two identities, address to address |
//! | `halloo-route` | the same over virtual addresses, as contacts talk |
//! | `halloo-relayed` | two of Halloo's nodes and nothing but a relay: `HALLOO_PEER` is its address, `HALLOO_HOMES` a folder for both |
//! | `quinn` | bare quinn with Halloo's windows, MTU and congestion control |
//! | `quinn-cubic`, `quinn-bbr` | the same with quinn's own congestion control |
//! | `quinn-default` | bare quinn as it comes |

mod bare;
#[allow(dead_code, unused_imports)]
#[path = "../../../transport/src/congestion.rs"]
mod congestion;
mod nodes;
mod ours;
#[allow(dead_code)]
#[path = "../../../transport/src/rate_model.rs"]
mod rate_model;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use halloo_bench_measure::{Received, Sent, payload, task};
use quinn::{RecvStream, SendStream};

#[tokio::main]
async fn main() -> Result<()> {
    let stack = std::env::args().nth(1).context("which stack?")?;
    let task = task(1)?;
    match stack.as_str() {
        "halloo" => ours::run(task, ours::By::Address).await,
        "halloo-route" => ours::run(task, ours::By::Route).await,
        "halloo-relayed" => nodes::run(task).await,
        "quinn" => bare::run(task, bare::Settings::Ours).await,
        "quinn-cubic" => bare::run(task, bare::Settings::Cubic).await,
        "quinn-bbr" => bare::run(task, bare::Settings::Bbr).await,
        "quinn-default" => bare::run(task, bare::Settings::Default).await,
        other => bail!("there is no stack {other:?}"),
    }
}

/// Sends everything and says how it went.
async fn pour(mut stream: SendStream, mut sent: Sent) -> Result<Sent> {
    let payload = payload();
    while let Some(piece) = sent.next(&payload) {
        stream.write_all(piece).await?;
    }
    if sent.is_cut() {
        stream.reset(0u32.into())?;
        // Until the other side has heard it.
        tokio::time::sleep(Duration::from_secs(1)).await;
    } else {
        stream.finish()?;
        // Until everything has arrived.
        stream.stopped().await?;
    }
    Ok(sent)
}

/// Reads to the end and says how it went.
async fn drain(mut stream: RecvStream) -> Received {
    let mut received = Received::begin();
    // An error is the end of the sender's time.
    while let Ok(Some(chunk)) = stream.read_chunk(1 << 20, true).await {
        received.add(chunk.bytes.len());
    }
    received
}
