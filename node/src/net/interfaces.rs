//! The addresses of this machine that others could reach, as they come and go.
//!
//! The system says that something has changed; what there is now is read whole. Changes come in
//! bursts (an address goes, a route goes, another address comes), so reading waits until it has
//! been quiet for [`QUIET`].
//!
//! # Which addresses
//!
//! Those that a contact could send to, for the node's card. Of an interface that makes temporary
//! addresses (RFC 8981), only those: the others follow the machine from network to network, and
//! the ones made from the hardware address (EUI-64) even name it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netdev::Interface;
use netdev::interface::ipv6_addr_flags::Ipv6AddrFlags;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Addresses that are reported. A laptop with Wi-Fi, cable and a VPN has six.
pub(crate) const MAX_IPS: usize = 16;

/// Quiet after which a burst of changes is over. DHCP and duplicate address detection take
/// longer, and make changes of their own.
const QUIET: Duration = Duration::from_millis(250);
/// A burst that does not end is read this often.
const LOUD: Duration = Duration::from_secs(2);
/// How often is looked without being told: some changes, such as a pulled cable, are not told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often is looked where the system does not tell.
const POLL: Duration = Duration::from_secs(5);

/// Interfaces between this machine and programs on it. Their addresses mean the contact's own
/// machine to her.
const INNER: [&str; 13] = [
    "docker", "br-", "veth", "virbr", "vnet", "lxc", "lxdbr", "incusbr", "podman", "cni",
    "flannel", "vmnet", "vboxnet",
];

/// What connects this machine to the rest, as far as IPv4 goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// This machine's address there.
    pub(crate) ip: Ipv4Addr,
    /// The router's.
    pub(crate) gateway: Ipv4Addr,
}

/// Keeps `addresses` up to date until it is told to stop. Nobody is woken when nothing changed.
pub(crate) async fn run(stop: CancellationToken, addresses: watch::Sender<Vec<IpAddr>>) {
    stop.run_until_cancelled(follow(&addresses)).await;
}

async fn follow(addresses: &watch::Sender<Vec<IpAddr>>) {
    let mut changes = Changes::new();
    loop {
        let found = current().await;
        addresses.send_if_modified(|known| {
            let changed = *known != found;
            if changed {
                *known = found;
            }
            changed
        });
        changes.wait().await;
    }
}

/// The addresses at this moment, most useful first; loopback only when there is nothing else.
pub(crate) async fn current() -> Vec<IpAddr> {
    useful(&interfaces().await)
}

/// The way to the router at this moment.
pub(crate) async fn uplink() -> Option<Uplink> {
    find_uplink(&interfaces().await)
}

/// Whether the interface of this name leads to other machines.
pub(crate) fn leads_outside(name: &str) -> bool {
    !INNER.iter().any(|inner| name.starts_with(inner))
}

/// Reads what the system knows. It takes a few milliseconds, of a thread that may block.
async fn interfaces() -> Vec<Interface> {
    // It fails only when the runtime shuts down.
    tokio::task::spawn_blocking(netdev::get_interfaces).await.unwrap_or_default()
}

fn useful(interfaces: &[Interface]) -> Vec<IpAddr> {
    let up = || interfaces.iter().filter(|it| it.is_up() && it.is_running());
    let mut outer: Vec<_> =
        up().filter(|it| !it.is_loopback() && leads_outside(&it.name)).collect();
    outer.sort_by_key(|it| !it.default);
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in outer {
        let v6 = useful_v6(interface).into_iter().map(IpAddr::V6);
        let v4 = interface.ipv4_addrs().into_iter().filter(useful_v4).map(IpAddr::V4);
        for ip in v6.chain(v4) {
            if !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    if found.is_empty() {
        found = up().filter(|it| it.is_loopback()).flat_map(Interface::ip_addrs).collect();
        found.retain(IpAddr::is_loopback);
    }
    found.truncate(MAX_IPS);
    found
}

fn useful_v4(ip: &Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast())
}

fn useful_v6(interface: &Interface) -> Vec<Ipv6Addr> {
    let flags = interface.ipv6_addr_flags.iter().copied();
    let flags = flags.chain(std::iter::repeat(Ipv6AddrFlags::default()));
    let usable: Vec<(Ipv6Addr, Ipv6AddrFlags)> = (interface.ipv6_addrs().into_iter().zip(flags))
        .filter(|(ip, it)| {
            let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
            let link_local = ip.is_unicast_link_local();
            !(special || link_local || it.deprecated || it.tentative || it.duplicated)
        })
        .collect();
    let temporary =
        |prefix: u64| usable.iter().any(|(ip, it)| it.temporary && prefix_of(ip) == prefix);
    let any_temporary = usable.iter().any(|(_, it)| it.temporary);
    let hidden = |ip: &Ipv6Addr, it: &Ipv6AddrFlags| {
        !it.temporary && (temporary(prefix_of(ip)) || (any_temporary && is_eui64(ip)))
    };
    let mut shown: Vec<_> = usable.iter().filter(|(ip, it)| !hidden(ip, it)).collect();
    shown.sort_by_key(|(ip, _)| is_eui64(ip));
    shown.into_iter().map(|(ip, _)| *ip).collect()
}

/// The network's part of an address.
fn prefix_of(ip: &Ipv6Addr) -> u64 {
    (ip.to_bits() >> 64) as u64
}

/// Whether an address is made from a hardware address (RFC 4291, appendix A).
fn is_eui64(ip: &Ipv6Addr) -> bool {
    ip.octets()[11..13] == [0xff, 0xfe]
}

fn find_uplink(interfaces: &[Interface]) -> Option<Uplink> {
    let interface = interfaces.iter().find(|it| it.default && it.is_up())?;
    let gateway = *interface.gateway.as_ref()?.ipv4.first()?;
    // An interface may have addresses in several networks: the router is in one of them.
    let nets = || interface.ipv4.iter().filter(|net| useful_v4(&net.addr()));
    let net = nets().find(|net| net.contains(&gateway)).or_else(|| nets().next())?;
    Some(Uplink { ip: net.addr(), gateway })
}

/// Waits for changes.
struct Changes {
    events: events::Events,
}

impl Changes {
    fn new() -> Self {
        Self { events: events::Events::new() }
    }

    /// Waits until it is time to look again: a burst of changes is over, or there may have been
    /// changes that are not told.
    async fn wait(&mut self) {
        let look = if self.events.told() { LOOK_AGAIN } else { POLL };
        tokio::select! {
            () = self.events.next() => {}
            () = tokio::time::sleep(look) => return,
        }
        let latest = Instant::now() + LOUD;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            tokio::select! {
                () = self.events.next() => {}
                () = sleep_until(quiet) => return,
            }
            if Instant::now() >= latest {
                return;
            }
        }
    }
}

/// What the system says by itself.
#[cfg(any(target_os = "linux", target_os = "macos", target_os = "ios", target_os = "windows"))]
mod events {
    use std::future::pending;

    use futures_util::StreamExt;
    use if_watch::tokio::IfWatcher;

    /// `None` where the system does not tell, in some sandboxes.
    pub(super) struct Events(Option<IfWatcher>);

    impl Events {
        pub(super) fn new() -> Self {
            let watcher = IfWatcher::new();
            if let Err(e) = &watcher {
                tracing::debug!(kind = ?e.kind(), "Changes of the interfaces are not told");
            }
            Self(watcher.ok())
        }

        pub(super) fn told(&self) -> bool {
            self.0.is_some()
        }

        /// The next change. Cancel safe.
        pub(super) async fn next(&mut self) {
            match &mut self.0 {
                None => pending().await,
                Some(watcher) => {
                    if !matches!(watcher.next().await, Some(Ok(_))) {
                        self.0 = None;
                    }
                }
            }
        }
    }
}

/// What the system says by itself: nothing that a library would pass on.
#[cfg(not(any(
    target_os = "linux",
    target_os = "macos",
    target_os = "ios",
    target_os = "windows"
)))]
mod events {
    pub(super) struct Events;

    impl Events {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) fn told(&self) -> bool {
            false
        }

        pub(super) async fn next(&mut self) {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use netdev::interface::state::OperState;
    use netdev::net::device::NetworkDevice;

    use super::*;

    const UP: u32 = 0x1;
    const LOOPBACK: u32 = 0x8;
    const RUNNING: u32 = 0x40;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let mut it = Interface::dummy();
        it.name = name.to_owned();
        it.flags = UP | RUNNING;
        it.oper_state = OperState::Up;
        for address in addresses {
            match address.parse().unwrap() {
                netdev::ipnet::IpNet::V4(net) => it.ipv4.push(net),
                netdev::ipnet::IpNet::V6(net) => {
                    it.ipv6.push(net);
                    it.ipv6_addr_flags.push(Ipv6AddrFlags::default());
                }
            }
        }
        it
    }

    fn temporary() -> Ipv6AddrFlags {
        Ipv6AddrFlags { temporary: true, ..Ipv6AddrFlags::default() }
    }

    fn shown(interfaces: &[Interface]) -> Vec<String> {
        useful(interfaces).iter().map(ToString::to_string).collect()
    }

    fn loopback() -> Interface {
        let mut it = interface("lo", &["127.0.0.1/8", "::1/128"]);
        it.flags |= LOOPBACK;
        it
    }

    #[test]
    fn the_way_to_the_internet_comes_first() {
        let cable = interface("eth0", &["192.168.1.7/24", "fe80::1/64"]);
        let mut wifi = interface("wlan0", &["10.0.0.7/8", "169.254.3.4/16"]);
        wifi.default = true;
        assert_eq!(shown(&[loopback(), cable, wifi]), ["10.0.0.7", "192.168.1.7"]);
    }

    #[test]
    fn loopback_is_for_machines_that_have_nothing_else() {
        assert_eq!(shown(&[loopback()]), ["127.0.0.1", "::1"]);
        let link_local = interface("eth0", &["fe80::1/64", "169.254.3.4/16"]);
        assert_eq!(shown(&[loopback(), link_local]), ["127.0.0.1", "::1"]);
        assert_eq!(shown(&[]), [""; 0]);
    }

    #[test]
    fn bridges_to_programs_on_this_machine_are_left_out() {
        let bridges =
            ["docker0", "br-5f2a", "veth12", "virbr0"].map(|n| interface(n, &["172.17.0.1/16"]));
        assert_eq!(shown(&bridges), [""; 0]);
        assert_eq!(shown(&[interface("br0", &["192.168.1.7/24"])]), ["192.168.1.7"]);
    }

    #[test]
    fn interfaces_that_are_down_are_left_out() {
        let mut down = interface("eth0", &["192.168.1.7/24"]);
        down.flags = 0;
        down.oper_state = OperState::Down;
        assert_eq!(shown(&[down]), [""; 0]);
    }

    #[test]
    fn a_temporary_address_hides_the_ones_that_stay() {
        let mut it = interface(
            "wlan0",
            &[
                "2001:db8:1:2:211:22ff:fe33:4455/64",
                "2001:db8:1:2:1:2:3:4/64",
                "2001:db8:1:2:9:9:9:9/64",
                "2001:db8:1:2:8:8:8:8/64",
                "fd00::211:22ff:fe33:4455/64",
                "fd00::5/64",
            ],
        );
        it.ipv6_addr_flags[2] = temporary();
        it.ipv6_addr_flags[3] = Ipv6AddrFlags { deprecated: true, ..temporary() };
        assert_eq!(shown(&[it]), ["2001:db8:1:2:9:9:9:9", "fd00::5"]);
    }

    #[test]
    fn an_address_made_from_the_hardware_is_the_last_choice() {
        let mut it = interface(
            "eth0",
            &["2001:db8::211:22ff:fe33:4455/64", "2001:db8::7/64", "2001:db8::8/64"],
        );
        it.ipv6_addr_flags[2].tentative = true;
        assert_eq!(shown(&[it]), ["2001:db8::7", "2001:db8::211:22ff:fe33:4455"]);
    }

    #[test]
    fn a_machine_with_many_addresses_shows_a_few() {
        let many: Vec<String> = (1..100).map(|i| format!("10.0.0.{i}/8")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(shown(&[interface("eth0", &many)]).len(), MAX_IPS);
    }

    #[test]
    fn the_router_is_looked_for_in_its_own_network() {
        let mut it = interface("eth0", &["192.168.1.7/24", "10.1.1.7/24"]);
        it.default = true;
        let mut router = NetworkDevice::new();
        router.ipv4.push(Ipv4Addr::new(10, 1, 1, 1));
        it.gateway = Some(router);
        let uplink = find_uplink(&[loopback(), it.clone()]).unwrap();
        assert_eq!(uplink.ip, Ipv4Addr::new(10, 1, 1, 7));
        assert_eq!(uplink.gateway, Ipv4Addr::new(10, 1, 1, 1));
        it.gateway = None;
        assert_eq!(find_uplink(&[it]), None);
    }

    #[tokio::test]
    async fn this_machine_has_addresses_and_the_watch_ends_when_told() {
        let (sender, mut addresses) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(stop.clone(), sender));
        addresses.wait_for(|found| !found.is_empty()).await.unwrap();
        stop.cancel();
        running.await.unwrap();
    }
}
