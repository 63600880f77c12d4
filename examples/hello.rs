//! Two people and a rendezvous peer in one program; one says hello, the other hears it.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = rendezvous_peer::Config::new(dir.path().join("peer"));
    config.listen = "127.0.0.1:0".parse()?;
    let peer = rendezvous_peer::start(config).await?;
    let person =
        |name| halloo::Node::builder().home(dir.path().join(name)).peer_address(peer.address());

    let anna = person("anna").start().await?;
    let ben = person("ben").accept_all(true).start().await?;
    let mut heard = ben.events_from_now().await?;
    anna.add_contact(&ben.address().await?, Some("ben"), "It's Anna").await?;
    anna.send(&ben.fingerprint(), "hello, Ben").await?;

    let text = loop {
        if let halloo::EventKind::Message { text, .. } = heard.next().await?.kind {
            break text;
        }
    };
    println!("Ben heard: {text}");
    Ok(())
}
