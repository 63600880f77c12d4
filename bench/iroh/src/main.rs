//! `side-iroh STACK receive ADDRESS` and `… send ADDRESS MIB SECONDS`: iroh 1.4.1 as one side of a
//! transfer. The stack `iroh` is iroh as it comes, directly and without a relay. With `iroh-relayed`
//! and `iroh-relayed-tls` both sides have no UDP but a relay, which `IROH_RELAY` names;
//! `IROH_RELAY_CERTIFICATE` is the file with the only certificate that is trusted then.
//! `IROH_WINDOW` gives iroh other windows than its own, in MiB.

use std::env::var;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use halloo_bench_measure::{Orders, Received, Sent, Task, payload, task};
use iroh::endpoint::{Builder, QuicTransportConfig, presets};
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMode, RelayUrl};

const ALPN: &[u8] = b"bench";

#[tokio::main]
async fn main() -> Result<()> {
    let stack = std::env::args().nth(1).context("which stack?")?;
    let relayed = match stack.as_str() {
        "iroh" => None,
        "iroh-relayed" | "iroh-relayed-tls" => Some(
            var("IROH_RELAY")
                .context("IROH_RELAY is not set: let `compare relayed` set it")?
                .parse::<RelayUrl>()?,
        ),
        other => bail!("there is no stack {other:?}"),
    };
    let mut orders = Orders::new();
    match task(1)? {
        Task::Receive(listen) => {
            let endpoint = bind(listen, &relayed).await?;
            if relayed.is_some() {
                endpoint.online().await;
            }
            println!("ready {} {}", address(&endpoint, listen), endpoint.id());
            orders.next("from").await?;
            println!("open");
            let incoming = endpoint.accept().await.context("the endpoint is closed")?;
            let connection = incoming.await?;
            let mut stream = connection.accept_uni().await?;
            let mut received = Received::begin();
            while let Ok(Some(chunk)) = stream.read_chunk(1 << 20).await {
                received.add(chunk.len());
            }
            received.report();
            connection.closed().await;
            endpoint.close().await;
        }
        Task::Send(from, amount) => {
            let endpoint = bind(from, &relayed).await?;
            println!("from {}", address(&endpoint, from));
            let go = orders.next("go").await?;
            let [addr, name] = &go[..] else { bail!("go ADDRESS NAME") };
            let to = EndpointAddr::new(name.parse::<EndpointId>()?);
            let to = match &relayed {
                Some(relay) => to.with_relay_url(relay.clone()),
                None => to.with_ip_addr(addr.parse()?),
            };
            let connection = endpoint.connect(to, ALPN).await?;
            let mut stream = connection.open_uni().await?;
            let (payload, mut sent) = (payload(), Sent::begin(amount));
            while let Some(piece) = sent.next(&payload) {
                stream.write_all(piece).await?;
            }
            if sent.is_cut() {
                stream.reset(0u32.into())?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            } else {
                stream.finish()?;
                stream.stopped().await?;
            }
            sent.report();
            connection.close(0u32.into(), b"");
            endpoint.close().await;
        }
    }
    Ok(())
}

async fn bind(at: SocketAddr, relayed: &Option<RelayUrl>) -> Result<Endpoint> {
    let builder: Builder = Endpoint::builder(presets::Minimal).alpns(vec![ALPN.to_vec()]);
    let builder = builder.clear_ip_transports();
    let builder = match relayed {
        // It does not tell addresses over QUIC.
        Some(relay) => {
            builder.relay_mode(RelayMode::Custom(RelayConfig::new(relay.clone(), None).into()))
        }
        None => builder.relay_mode(RelayMode::Disabled).bind_addr(at)?,
    };
    let builder = match var("IROH_RELAY_CERTIFICATE") {
        Ok(file) => builder.ca_tls_config(CaTlsConfig::custom_roots([std::fs::read(file)?.into()])),
        Err(_) => builder,
    };
    let builder = match var("IROH_WINDOW") {
        Ok(mib) => builder.transport_config(windows(mib.parse::<u32>()? << 20)),
        Err(_) => builder,
    };
    Ok(builder.bind().await?)
}

fn windows(bytes: u32) -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .stream_receive_window(bytes.into())
        .receive_window(bytes.into())
        .send_window(bytes.into())
        .build()
}

fn address(endpoint: &Endpoint, or: SocketAddr) -> SocketAddr {
    endpoint.bound_sockets().into_iter().find(|it| it.is_ipv4() == or.is_ipv4()).unwrap_or(or)
}
