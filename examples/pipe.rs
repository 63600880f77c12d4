//! Standard input and output, through a channel to somebody else's.
//!
//! ```text
//! cargo run -p halloo-examples --bin pipe -- HOME PEER              # waits; prints its address
//! cargo run -p halloo-examples --bin pipe -- HOME PEER ADDRESS      # connects to it
//! ```
//! What one side reads from its standard input, the other writes to its standard output. It ends
//! when both inputs have ended.

use anyhow::Context;
use halloo::{Address, Channel, Cursor, EventKind, Fingerprint, Node, PeerAddress};
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

/// What the channel is for, so that other programs' channels are told apart.
const NAME: &str = "example.pipe";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: pipe HOME PEER [ADDRESS]";
    let home = args.next().context(usage)?;
    let peer: PeerAddress = args.next().context(usage)?.parse()?;
    let to: Option<Address> = args.next().map(|a| a.parse()).transpose()?;

    let node = Node::builder().home(&home).peer_address(&peer).accept_all(true).start().await?;
    let channel = match to {
        Some(to) => open(&node, &to).await?,
        None => accept(&node).await?,
    };
    carry(channel).await?;
    node.shutdown().await;
    Ok(())
}

async fn open(node: &Node, to: &Address) -> anyhow::Result<Channel> {
    if node.contact(&to.to_string()).await.is_err() {
        node.add_contact(to, None, "a pipe, please").await?;
    }
    accepted(node, &to.fingerprint).await?;
    Ok(node.open_channel(&to.fingerprint, NAME).await?)
}

/// Waits until somebody has accepted us, be it before or from here on.
async fn accepted(node: &Node, who: &Fingerprint) -> anyhow::Result<()> {
    let mut events = node.events(Cursor::default());
    loop {
        match events.next().await?.kind {
            EventKind::Accepted { contact } if contact == *who => return Ok(()),
            _ => {}
        }
    }
}

async fn accept(node: &Node) -> anyhow::Result<Channel> {
    eprintln!("{}", node.address().await?);
    loop {
        let incoming = node.accept_channel().await.context("the node has stopped")?;
        if incoming.name == NAME {
            return Ok(incoming.channel);
        }
    }
}

async fn carry(mut channel: Channel) -> anyhow::Result<()> {
    let there = async {
        copy(&mut stdin(), &mut channel.send).await?;
        channel.send.finish()?;
        // Everything has arrived when the other side has read the end.
        channel.send.stopped().await?;
        anyhow::Ok(())
    };
    let back = async {
        let mut out = stdout();
        copy(&mut channel.recv, &mut out).await?;
        out.flush().await?;
        anyhow::Ok(())
    };
    tokio::try_join!(there, back)?;
    Ok(())
}
