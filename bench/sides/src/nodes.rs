//! Halloo's nodes, which know no way to each other but the relay of a rendezvous peer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use halloo::{Address, Cursor, DirectPolicy, EventKind, Fingerprint, Node, Path, PeerAddress};
use halloo_bench_measure::{Orders, Sent, Task};

use crate::{drain, pour};

/// How long it may take until a node is online, and until two are contacts.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn run(task: Task) -> Result<()> {
    let mut orders = Orders::new();
    match task {
        Task::Receive(listen) => {
            let node = start("receiver", listen).await?;
            println!("ready {} {}", node.local_addr()?, node.address().await?);
            orders.next("from").await?;
            println!("open");
            let incoming = node.accept_channel().await.context("the node has stopped")?;
            is_relayed(&node, &incoming.from)?;
            let received = drain(incoming.channel.recv).await;
            is_relayed(&node, &incoming.from)?;
            received.report();
            // The node stays until the sender has heard that everything is here: no more orders.
            let _ = orders.next("end").await;
        }
        Task::Send(from, amount) => {
            let node = start("sender", from).await?;
            println!("from {}", node.local_addr()?);
            let go = orders.next("go").await?;
            let [_, address] = &go[..] else { bail!("go ADDRESS NAME") };
            let contact = befriend(&node, &address.parse()?).await?;
            node.connect(&contact).await?;
            let channel = node.open_channel(&contact, "bench").await?;
            is_relayed(&node, &contact)?;
            let sent = pour(channel.send, Sent::begin(amount)).await?;
            is_relayed(&node, &contact)?;
            sent.report();
            node.shutdown().await;
        }
    }
    Ok(())
}

async fn start(name: &str, listen: SocketAddr) -> Result<Node> {
    let peer: PeerAddress = variable("HALLOO_PEER")?.parse()?;
    let homes = PathBuf::from(variable("HALLOO_HOMES")?);
    let node = Node::builder()
        .home(homes.join(name))
        .peer_address(&peer)
        .listen(listen)
        .direct(DirectPolicy::Never)
        .accept_all(true)
        .start()
        .await?;
    let online = tokio::time::timeout(PATIENCE, node.online());
    online.await.context("the rendezvous peer does not answer")?;
    Ok(node)
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: let `compare relayed` set it"))
}

/// Makes somebody a contact who accepts everybody.
async fn befriend(node: &Node, address: &Address) -> Result<Fingerprint> {
    let mut events = node.events(Cursor::default());
    let contact = node.add_contact(address, None, "").await?.fingerprint;
    let accepted = async {
        while !matches!(events.next().await?.kind, EventKind::Accepted { .. }) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, accepted).await.context("the receiver does not accept")??;
    Ok(contact)
}

/// What is measured is the relay.
fn is_relayed(node: &Node, contact: &Fingerprint) -> Result<()> {
    match node.path(contact) {
        Path::Relayed { .. } => Ok(()),
        other => bail!("not through the relay: {other:?}"),
    }
}
