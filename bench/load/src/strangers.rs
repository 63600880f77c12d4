//! Strangers leave contact requests until the peer's memory is full, and go on, while contacts talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use halloo_wire::Fingerprint;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{PeerError, Response};

use crate::contacts::Contacts;
use crate::node::{Node, drop_for, leave};
use crate::parked::park_all;
use crate::peer::{ONE_NETWORK, Peer};

#[derive(clap::Args)]
pub struct Options {
    /// Memory that the peer may take, in MiB
    #[arg(long, default_value_t = 128)]
    cap: usize,
    /// Strangers, each with a connection
    #[arg(long, default_value_t = 64)]
    strangers: usize,
    /// People whose mailboxes they fill
    #[arg(long, default_value_t = 2_000)]
    people: usize,
    /// Seconds before the flood, and seconds of it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub async fn run(options: &Options) -> Result<()> {
    let cap = format!("{}MiB", options.cap);
    let mut peer = Peer::start(
        &[&ONE_NETWORK[..], &["--max-memory", &cap, "--max-connections", "256"]].concat(),
    )?;
    let people = park_all(&peer, options.people, true).await?;
    let people: Arc<[Fingerprint]> = people.iter().map(|it| it.fingerprint).collect();
    let contacts = Contacts::meet(&peer).await?;
    let time = Duration::from_secs(options.seconds);
    contacts.talk(Duration::from_secs(1)).await?;
    let mut quiet = contacts.talk(time).await?;
    let resident = peer.resident()?;

    let nodes = (0..options.strangers).map(|_| Node::new()).collect::<Result<Vec<_>>>()?;
    let connections =
        try_join_all(nodes.iter().map(|it| it.connect(peer.listen, peer.key))).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicU64; 4]> = Arc::default();
    let flood: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(i, connection)| {
            let (stop, counts, people) = (stop.clone(), counts.clone(), people.clone());
            tokio::spawn(async move {
                let mut n = i;
                while !stop.load(Ordering::Relaxed) {
                    let call = drop_for(people[n % people.len()], Lane::Strangers);
                    let which = match leave(&connection, call).await {
                        Ok(Response::Dropped(_)) => 0,
                        Ok(Response::Refused(PeerError::PeerFull)) => 1,
                        Ok(Response::Refused(PeerError::MailboxFull)) => 2,
                        _ => 3,
                    };
                    counts[which].fetch_add(1, Ordering::Relaxed);
                    n += 7;
                }
            })
        })
        .collect();
    let cpu = peer.cpu()?;
    let mut under = contacts.talk(time).await?;
    let cpu = peer.cpu()? - cpu;
    stop.store(true, Ordering::Relaxed);
    for it in flood {
        it.await?;
    }
    peer.check()?;
    let [taken, full, lane, other] = [0, 1, 2, 3].map(|i| counts[i].load(Ordering::Relaxed));
    println!(
        "{} strangers for {} s: {taken} requests taken, {full} refused because the peer's memory was full, {lane} because the lane was, {other} otherwise",
        options.strangers, options.seconds
    );
    quiet.print("before");
    under.print("meanwhile");
    let most = peer.most_resident()? as f64;
    println!(
        "  99 % took {:.2} times as long; the peer took {:.0} % of a core",
        under.times.percentile(99) / quiet.times.percentile(99),
        cpu / time.as_secs_f64() * 100.0
    );
    println!(
        "  {:.1} MB resident at most, which is {:.0} % of the cap of {:.1} MB; {:.1} MB before",
        most / 1e6,
        most / (options.cap << 20) as f64 * 100.0,
        (options.cap << 20) as f64 / 1e6,
        resident as f64 / 1e6
    );
    Ok(())
}
