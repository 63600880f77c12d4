//! Two nodes that hear each other on this machine, and what others might announce.

use std::collections::HashSet;

use super::*;

const OWN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 2)),
];
const HEX: &str = "000102030405060708090a0b0c0d0e0f";

fn announcement(name: &str, ips: &[&str], nonce: &str) -> Box<ResolvedService> {
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let properties = [(NONCE, nonce)];
    let info =
        ServiceInfo::new(SERVICE, name, "host.local.", &ips[..], 40_000, &properties[..]).unwrap();
    Box::new(info.as_resolved_service())
}

fn found(ips: &[&str]) -> HashSet<String> {
    let service = announcement("a", ips, HEX);
    neighbours(&service, &OWN).iter().map(|it| it.addr.to_string()).collect()
}

fn hear(known: &mut Known, name: &str, ips: &[&str], nonce: &str) -> bool {
    known.hear(ServiceEvent::ServiceResolved(announcement(name, ips, nonce)), &OWN)
}

#[test]
fn neighbours_are_in_our_own_networks() {
    assert_eq!(
        found(&["192.168.1.7", "2001:db8:1:2::7"]),
        HashSet::from(["192.168.1.7:40000".into(), "[2001:db8:1:2::7]:40000".into()])
    );
}

#[test]
fn an_announcement_cannot_make_us_send_elsewhere() {
    for elsewhere in
        ["198.51.100.1", "2001:db8:1:3::7", "127.0.0.1", "fe80::1", "224.0.0.1", "fd00::1"]
    {
        assert_eq!(found(&[elsewhere]), HashSet::new(), "{elsewhere}");
    }
    let many: Vec<String> = (1..100).map(|i| format!("192.168.1.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(found(&many).len(), MAX_PER_ANNOUNCEMENT);
}

#[test]
fn announcements_without_a_nonce_are_ignored() {
    for nonce in ["", "00", "zz0102030405060708090a0b0c0d0e0f", &HEX.repeat(2)] {
        let service = announcement("a", &["192.168.1.7"], nonce);
        assert_eq!(neighbours(&service, &OWN), []);
    }
}

#[test]
fn our_own_announcements_are_ignored() {
    let mut known = Known::default();
    known.is_ours(RoundId([1; 16]));
    known.is_ours(nonce(HEX).unwrap());
    assert!(!hear(&mut known, "a", &["192.168.1.7"], HEX));
    assert!(!hear(&mut known, "b", &["192.168.1.7"], &"01".repeat(16)));
    assert!(hear(&mut known, "c", &["192.168.1.7"], &"02".repeat(16)));
}

#[test]
fn a_neighbour_with_a_new_nonce_takes_the_place_of_the_old_one() {
    let mut known = Known::default();
    assert!(hear(&mut known, "a", &["192.168.1.7"], HEX));
    assert!(!hear(&mut known, "a", &["192.168.1.7"], HEX), "nothing new");
    assert!(hear(&mut known, "a", &["192.168.1.7"], &"02".repeat(16)));
    assert_eq!(known.neighbours().len(), 1);
    let name = format!("a.{SERVICE}");
    assert!(known.hear(ServiceEvent::ServiceRemoved(SERVICE.to_owned(), name), &OWN));
    assert_eq!(known.neighbours(), []);
}

#[test]
fn a_flood_of_announcements_is_cut_off() {
    let mut known = Known::default();
    for i in 0..2 * MAX_NEIGHBOURS {
        hear(&mut known, &format!("n{i}"), &["192.168.1.7"], HEX);
    }
    assert_eq!(known.neighbours().len(), MAX_NEIGHBOURS);
}

/// A port of its own, so that this machine's real neighbours are not troubled.
const TEST_PORT: u16 = 53_531;

struct Node {
    ours: watch::Receiver<Option<RoundId>>,
    neighbours: watch::Receiver<Vec<Neighbour>>,
    changes: watch::Sender<Vec<IpAddr>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn new(port: u16) -> Self {
        let (changes, changes_heard) = watch::channel(super::super::interfaces::current().await);
        let (ours_told, ours) = watch::channel(None);
        let (neighbours_told, neighbours) = watch::channel(Vec::new());
        let lan = Lan {
            port,
            mdns_port: TEST_PORT,
            changes: changes_heard,
            ours: ours_told,
            neighbours: neighbours_told,
        };
        Self { ours, neighbours, changes, task: tokio::spawn(lan.run()) }
    }

    async fn nonce(&mut self) -> RoundId {
        self.ours.wait_for(Option::is_some).await.unwrap().unwrap()
    }

    /// Waits until this node has found the other under this nonce, and not under the one before.
    async fn finds(&mut self, port: u16, nonce: RoundId, before: Option<RoundId>) {
        let found = |known: &Vec<Neighbour>| {
            known.iter().any(|it| it.addr.port() == port && it.nonce == nonce)
                && known.iter().all(|it| Some(it.nonce) != before)
        };
        self.neighbours.wait_for(found).await.unwrap();
    }
}

#[tokio::test]
async fn two_nodes_in_one_network_find_each_other() {
    let (mut anna, mut ben) = (Node::new(40_001).await, Node::new(40_002).await);
    let (of_anna, of_ben) = (anna.nonce().await, ben.nonce().await);
    anna.finds(40_002, of_ben, None).await;
    ben.finds(40_001, of_anna, None).await;

    // The network changes: nobody can tell that it is the same node.
    ben.changes.send_modify(|_| {});
    ben.ours.wait_for(|it| *it != Some(of_ben)).await.unwrap();
    let again = ben.nonce().await;
    anna.finds(40_002, again, Some(of_ben)).await;
    // Whoever leaves says so.
    ben.finds(40_001, of_anna, None).await;
    anna.changes.send_replace(Vec::new());
    let gone = |known: &Vec<Neighbour>| known.iter().all(|it| it.nonce != of_anna);
    ben.neighbours.wait_for(gone).await.unwrap();
    anna.task.abort();
    ben.task.abort();
}
