//! A bot that answers everybody with their own words.
//!
//! ```text
//! cargo run -p halloo-examples --bin echo_bot -- HOME PEER [COUNT]
//! ```
//! It keeps its identity in HOME and is reached at the rendezvous peer PEER (`host[:port]`). With
//! COUNT it ends after so many answers have been delivered.

use std::num::NonZeroU64;

use anyhow::Context;
use halloo::{Cursor, EventKind, Node, PeerAddress, SendOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: echo_bot HOME PEER [COUNT]";
    let home = args.next().context(usage)?;
    let peer: PeerAddress = args.next().context(usage)?.parse()?;
    let count: Option<NonZeroU64> = args.next().map(|n| n.parse()).transpose()?;

    let bot = Node::builder().home(&home).peer_address(&peer).name("Echo").accept_all(true).start();
    let bot = bot.await?;
    println!("{}", bot.address().await?);

    // From the first event on: what arrived while the bot was down is answered too, and what was
    // answered before is not answered again, because the answer's name stays the same.
    let mut events = bot.events(Cursor::default());
    let mut delivered = 0;
    while count.is_none_or(|count| delivered < count.get()) {
        match events.next().await?.kind {
            EventKind::Message { from, id, text, .. } => {
                let client_id = Some(format!("echo {id}"));
                let options = SendOptions { client_id, parent: Some(id), ..SendOptions::default() };
                bot.send_with(&from, &text, options).await?;
            }
            EventKind::Delivered { .. } => delivered += 1,
            _ => {}
        }
    }
    bot.shutdown().await;
    Ok(())
}
