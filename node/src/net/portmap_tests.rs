//! Against a router of our own, on a loopback address. PCP and NAT-PMP have a fixed port, so each
//! test's router has an address of its own; only Linux has them all.
#![cfg(target_os = "linux")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

use super::*;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A router that speaks NAT-PMP and says that it does not know PCP.
struct Router {
    uplink: Uplink,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request for a mapping: the port inside, and the seconds.
type Seen = (u16, u32);

impl Router {
    async fn new(number: u8, external: Ipv4Addr) -> Self {
        let gateway = gateway(number);
        let socket = UdpSocket::bind((gateway, 5351)).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut buffer = [0; 1100];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = answer(&buffer[..n], external, &log);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { uplink: Uplink { ip: HERE, gateway }, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// The answers of RFC 6886, section 3.
fn answer(request: &[u8], external: Ipv4Addr, seen: &Mutex<Vec<Seen>>) -> Vec<u8> {
    let epoch = [0, 0, 1, 0];
    match request {
        [0, 0] => [&[0, 128, 0, 0], &epoch[..], &external.octets()].concat(),
        [0, 1, _, _, inside @ .., _, _, _, _, _, _] if inside.len() == 2 => {
            let port = u16::from_be_bytes(inside.try_into().unwrap());
            let lease = u32::from_be_bytes(request[8..12].try_into().unwrap());
            seen.lock().unwrap().push((port, lease));
            // Another port than the one that was asked for, unless it is given back.
            let outside = if lease == 0 { 0 } else { port + 1 };
            [&[0, 129, 0, 0], &epoch[..], inside, &outside.to_be_bytes(), &request[8..12]].concat()
        }
        // RFC 6887, appendix A: a NAT-PMP router answers PCP with its own version.
        [2, ..] => [&[0, request[1] | 128, 0, 1], &epoch[..]].concat(),
        _ => Vec::new(),
    }
}

/// An address that no other test uses, in this process or in another.
fn gateway(number: u8) -> Ipv4Addr {
    let [low, high, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, high | 0x80, low, number)
}

fn port() -> NonZeroU16 {
    NonZeroU16::new(40_000).unwrap()
}

struct Kept {
    stop: CancellationToken,
    changes: watch::Sender<Vec<IpAddr>>,
    mapped: watch::Receiver<Option<SocketAddr>>,
    uplink: watch::Sender<Option<Uplink>>,
    /// How often the router was looked for.
    looked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

fn keep(uplink: Option<Uplink>) -> Kept {
    let stop = CancellationToken::new();
    let (changes, changes_heard) = watch::channel(vec![IpAddr::V4(HERE)]);
    let (mapped_told, mapped) = watch::channel(None);
    let (uplink, found) = watch::channel(uplink);
    let looked = Arc::new(AtomicUsize::new(0));
    let looking = Arc::clone(&looked);
    let keeper = Keeper {
        port: port(),
        find: move || {
            looking.fetch_add(1, Ordering::Relaxed);
            let found = *found.borrow();
            async move { found }
        },
        stop: stop.clone(),
        changes: changes_heard,
        mapped: mapped_told,
    };
    let task = tokio::spawn(keeper.run());
    Kept { stop, changes, mapped, uplink, looked, task }
}

impl Kept {
    /// Waits until the router was looked for that often.
    async fn looked(&self, times: usize) {
        while self.looked.load(Ordering::Relaxed) < times {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_port_is_mapped_reported_and_given_back() {
    let router = Router::new(1, PUBLIC).await;
    let mut kept = keep(Some(router.uplink));
    let external = *kept.mapped.wait_for(Option::is_some).await.unwrap();
    assert_eq!(external, Some(SocketAddr::new(PUBLIC.into(), 40_001)));
    kept.stop.cancel();
    kept.task.await.unwrap();
    assert_eq!(*kept.mapped.borrow(), None);
    assert_eq!(router.seen(), [(40_000, 7200), (40_000, 0)]);
}

#[tokio::test]
async fn an_address_behind_a_second_nat_is_not_reported() {
    for (number, external) in [(2, [10, 0, 0, 1]), (3, [100, 64, 0, 1]), (4, [192, 168, 0, 1])] {
        let router = Router::new(number, external.into()).await;
        assert!(ask(router.uplink, port()).await.is_none());
        assert_eq!(router.seen(), [(40_000, 7200), (40_000, 0)], "it is given back");
    }
}

#[tokio::test]
async fn another_router_is_asked_when_the_network_changes() {
    let (first, second) = (Router::new(5, PUBLIC).await, Router::new(6, PUBLIC).await);
    let mut kept = keep(Some(first.uplink));
    kept.mapped.wait_for(Option::is_some).await.unwrap();

    kept.uplink.send_replace(Some(second.uplink));
    kept.changes.send_replace(vec![IpAddr::V4(HERE)]);
    kept.mapped.wait_for(Option::is_none).await.unwrap();
    kept.mapped.wait_for(Option::is_some).await.unwrap();
    assert_eq!(first.seen(), [(40_000, 7200), (40_000, 0)]);
    assert_eq!(second.seen(), [(40_000, 7200)]);
    kept.stop.cancel();
    kept.task.await.unwrap();
}

#[tokio::test]
async fn a_change_that_leaves_the_router_where_it_was_costs_nothing() {
    let router = Router::new(9, PUBLIC).await;
    let mut kept = keep(Some(router.uplink));
    kept.mapped.wait_for(Option::is_some).await.unwrap();
    kept.changes.send_replace(vec![]);
    kept.looked(2).await;
    assert!(kept.mapped.borrow_and_update().is_some());
    assert_eq!(router.seen(), [(40_000, 7200)]);
    kept.stop.cancel();
    kept.task.await.unwrap();
}

#[tokio::test]
async fn a_machine_with_a_public_address_asks_nobody() {
    let (unasked, asked) = (Router::new(7, PUBLIC).await, Router::new(10, PUBLIC).await);
    let mut kept = keep(Some(Uplink { ip: PUBLIC, ..unasked.uplink }));
    kept.looked(1).await;
    kept.uplink.send_replace(Some(asked.uplink));
    kept.changes.send_replace(vec![]);
    kept.mapped.wait_for(Option::is_some).await.unwrap();
    assert_eq!(unasked.seen(), []);
    kept.stop.cancel();
    kept.task.await.unwrap();
}

#[tokio::test]
async fn a_silent_router_is_given_up() {
    let nobody = Uplink { ip: HERE, gateway: gateway(8) };
    assert!(ask_pcp(nobody, port()).await.is_none());
}

#[test]
fn renewals_come_at_half_of_the_lease_and_faster_after_failures() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(renewal(minutes(120), 0), minutes(60));
    assert_eq!(renewal(minutes(120), 2), minutes(15));
    assert_eq!(renewal(minutes(1), 0), MIN_RENEWAL);
    assert_eq!(renewal(Duration::ZERO, 0), MIN_RENEWAL);
    assert_eq!(renewal(minutes(100_000), 0), minutes(60));
}

#[test]
fn random_ports_are_dynamic_ones() {
    assert!((0..100).all(|_| random_port() >= 49_152));
}
