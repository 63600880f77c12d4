//! Halloo's transport.

use anyhow::{Context, Result, bail};
use halloo_bench_measure::{Orders, Sent, Task};
use halloo_identity::Identity;
use halloo_transport::{Accepted, Endpoint, EndpointRole};
use halloo_wire::Fingerprint;
use halloo_wire::path::{DirectPath, SendOn, SocketId};

use crate::{drain, pour};

/// How the other side is addressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Address,
    Route,
}

pub async fn run(task: Task, by: By) -> Result<()> {
    let identity = Identity::generate();
    let mut orders = Orders::new();
    match task {
        Task::Receive(listen) => {
            let endpoint = Endpoint::bind(listen, EndpointRole::Node { identity: &identity })?;
            println!("ready {} {}", endpoint.local_addr()?, identity.fingerprint());
            let from = orders.next("from").await?;
            let route = endpoint.open_route();
            if by == By::Route {
                let remote = from.first().context("from where?")?.parse()?;
                let path = DirectPath { socket: SocketId::MAIN, remote };
                route.add_source(path);
                route.set_send(SendOn::Direct(path));
            }
            println!("open");
            let incoming = endpoint.accept().await.context("the endpoint is closed")?;
            let Accepted::Node(connection) = incoming.handshake().await? else {
                bail!("a node dials a node");
            };
            drain(connection.accept_uni().await?).await.report();
            connection.closed().await;
        }
        Task::Send(from, amount) => {
            let endpoint = Endpoint::bind(from, EndpointRole::Node { identity: &identity })?;
            println!("from {}", endpoint.local_addr()?);
            let go = orders.next("go").await?;
            let [addr, name] = &go[..] else { bail!("go ADDRESS NAME") };
            let (remote, name) = (addr.parse()?, name.parse::<Fingerprint>()?);
            let route = endpoint.open_route();
            let connection = match by {
                By::Address => endpoint.connect_node(remote, &name).await?,
                By::Route => {
                    let path = DirectPath { socket: SocketId::MAIN, remote };
                    route.add_source(path);
                    route.set_send(SendOn::Direct(path));
                    endpoint.connect_node_by(&route, &name).await?
                }
            };
            let stream = connection.open_uni().await?;
            pour(stream, Sent::begin(amount)).await?.report();
            let stats = connection.path_stats();
            eprintln!(
                "  {} packets, {} lost, {} rounds of congestion, mtu {}, rtt {:?}",
                stats.sent_packets,
                stats.lost_packets,
                stats.congestion_events,
                stats.current_mtu,
                stats.rtt
            );
        }
    }
    Ok(())
}
