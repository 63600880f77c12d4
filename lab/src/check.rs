//! What a NAT does, measured from outside: some UDP sockets behind it, some in the internet.
//!
//! That something does *not* arrive is shown without a clock: what is sent after it, on the same
//! way and allowed, has arrived, and the wire keeps the order.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::kind::{Allocation, Behaviour, Dependence, Kind, Translation};
use crate::namespace::{Namespace, PATIENCE};
use crate::plan::{HOME_ROUTER, SERVER_V4, SERVER_V6, Side};
use crate::world::{Distance, Places, World};
use crate::{rules, tools, trouble};

/// What was found out about a NAT.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The NAT that was built.
    pub kind: Kind,
    /// What it was found to do.
    pub behaviour: Behaviour,
    /// The node's port, and the ports that one server port after the other saw.
    pub ports: Option<(u16, Vec<u16>)>,
    /// Whether a packet to the own address outside came back in.
    pub hairpins: bool,
    /// Whether strangers get in through a port that the node asked the router to map.
    pub maps: bool,
}

impl Finding {
    /// Whether the NAT does what its kind says.
    pub fn is_as_expected(&self) -> bool {
        self.behaviour == self.kind.expected() && self.maps == (self.kind == Kind::PortMapping)
    }
}

/// Builds a NAT and measures it.
///
/// # Errors
/// The lab cannot be built, or does not work at all.
pub fn measure(kind: Kind) -> Result<Finding> {
    // Without delay: what is measured here are no times.
    let world = World::new(Places::Alone(kind), &Distance::with_delay(Duration::ZERO))?;
    let bench = Bench::new(&world, kind)?;
    if !bench.udp_passes()? {
        bench.tcp_passes().context("neither UDP nor TCP passes: the lab is broken")?;
        let behaviour = Behaviour::Blocked;
        return Ok(Finding { kind, behaviour, ports: None, hairpins: false, maps: false });
    }
    let (mapping, allocation, ports) = bench.mapping()?;
    let translation = Translation {
        mapping,
        filtering: bench.filtering()?,
        allocation,
        is_touchy: mapping == Dependence::Endpoint
            && allocation == Allocation::Preserving
            && bench.is_touchy()?,
    };
    let behaviour = Behaviour::Passes(translation);
    let hairpins = bench.hairpins()?;
    // Asking a router that maps nothing would only be waiting.
    let maps = kind == Kind::PortMapping && bench.maps_ports()?;
    Ok(Finding { kind, behaviour, ports: Some(ports), hairpins, maps })
}

/// Finds out whether the troubles of `lab events` are what they say, at a home router.
///
/// # Errors
/// One is not, or the lab cannot be built.
pub fn troubles() -> Result<()> {
    let kind = Kind::EimApdf;
    let world = World::new(Places::Alone(kind), &Distance::with_delay(Duration::ZERO))?;
    let (bench, router) = (Bench::new(&world, kind)?, trouble::router(&world, Side::A)?);
    let (node, server) = (bench.socket()?, &bench.servers[0][0]);
    let first = bench.observe(&node, server)?;

    trouble::remap(router)?;
    let remapped = bench.observe(&node, server)?;
    ensure!(remapped.port() != first.port(), "a router that starts again gives the same port");

    trouble::readdress(router, Side::A.public_v4(), Side::A.next_public_v4())?;
    let moved = bench.observe(&node, server)?;
    ensure!(moved.ip() == Side::A.next_public_v4(), "the address outside does not change");

    trouble::change_place(world.node(Side::A)?, Side::A)?;
    let after = bench.observe(&bench.socket()?, server)?;
    ensure!(after.ip() == Side::A.next_public_v4(), "who has moved has no network");

    tools::nft(router, rules::BEGIN_TO_DROP_UDP)?;
    ensure!(!bench.udp_passes()?, "UDP that is dropped passes");
    Ok(())
}

/// The sockets in the internet, and where the node is.
struct Bench<'a> {
    node: &'a Namespace,
    world: &'a World,
    /// For each server address, sockets on [`FIRST_PORT`] and after.
    servers: Vec<Vec<UdpSocket>>,
    any: IpAddr,
    server_ip: IpAddr,
}

impl<'a> Bench<'a> {
    fn new(world: &'a World, kind: Kind) -> Result<Self> {
        let ips: [IpAddr; 2] = match kind.has_v6() {
            // The router for IPv4 of a dual-stack home is measured as a kind of its own.
            true => SERVER_V6.map(IpAddr::from),
            false => SERVER_V4.map(IpAddr::from),
        };
        let any = match kind.has_v6() {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        let bind = |ip| {
            (FIRST_PORT..FIRST_PORT + PORTS)
                .map(|port| world.server().udp(SocketAddr::new(ip, port)))
                .collect::<Result<Vec<_>>>()
        };
        let servers = ips.into_iter().map(bind).collect::<Result<_>>()?;
        Ok(Self { node: world.node(Side::A)?, world, servers, any, server_ip: ips[0] })
    }

    /// A fresh socket at the node.
    fn socket(&self) -> Result<UdpSocket> {
        self.node.udp(SocketAddr::new(self.any, 0))
    }

    /// Sends from the node to a server socket, and says from where it came.
    fn observe(&self, from: &UdpSocket, to: &UdpSocket) -> Result<SocketAddr> {
        from.send_to(b"to server", to.local_addr()?)?;
        let (_, source) = to.recv_from(&mut [0; 64]).context("nothing arrives at the server")?;
        Ok(source)
    }

    fn udp_passes(&self) -> Result<bool> {
        let (node, server) = (self.socket()?, &self.servers[0][0]);
        for _ in 0..3 {
            node.send_to(b"to server", server.local_addr()?)?;
        }
        // TCP goes the same way and is slower: what UDP brings is there before its answer.
        self.tcp_passes()?;
        server.set_nonblocking(true)?;
        let mut count = 0;
        while server.recv_from(&mut [0; 64]).is_ok() {
            count += 1;
        }
        server.set_nonblocking(false)?;
        Ok(count > 0)
    }

    fn tcp_passes(&self) -> Result<()> {
        let listener = self.world.server().tcp_listener(SocketAddr::new(self.server_ip, 0))?;
        let mut near = self.node.tcp(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        near.set_read_timeout(Some(PATIENCE))?;
        far.write_all(b"x")?;
        near.read_exact(&mut [0; 1]).context("TCP connects and carries nothing")
    }

    fn mapping(&self) -> Result<(Dependence, Allocation, (u16, Vec<u16>))> {
        let node = self.socket()?;
        let own = node.local_addr()?.port();
        let [first, second] = &self.servers[..] else { bail!("the server has two addresses") };
        let mut seen = Vec::new();
        for server in first.iter().chain(second) {
            seen.push(self.observe(&node, server)?.port());
        }
        let (of_first, of_second) = seen.split_at(first.len());
        let distinct = |ports: &[u16]| ports.iter().collect::<BTreeSet<_>>().len();
        let mapping = match (distinct(of_first), distinct(of_second), distinct(&seen)) {
            (_, _, 1) => Dependence::Endpoint,
            (1, 1, _) => Dependence::Address,
            _ => Dependence::AddressAndPort,
        };
        Ok((mapping, allocation(own, &seen), (own, seen)))
    }

    fn filtering(&self) -> Result<Dependence> {
        let node = self.socket()?;
        let asked = &self.servers[0][0];
        let (same_ip, other_ip) = (&self.servers[0][1], &self.servers[1][0]);
        let outside = self.observe(&node, asked)?;
        other_ip.send_to(b"other address", outside)?;
        same_ip.send_to(b"other port", outside)?;
        asked.send_to(b"asked", outside)?;
        let mut heard = BTreeSet::new();
        loop {
            let mut buffer = [0; 64];
            let (length, _) = node.recv_from(&mut buffer).context("not even the answer arrives")?;
            if &buffer[..length] == b"asked" {
                break;
            }
            heard.insert(buffer[..length].to_vec());
        }
        let hears = |what: &[u8]| heard.contains(what);
        Ok(match (hears(b"other address"), hears(b"other port")) {
            (true, true) => Dependence::Endpoint,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
            (true, false) => bail!("it lets strangers in and keeps the server's other port out"),
        })
    }

    /// Whether a packet that comes before anything was sent to its source changes the mapping.
    fn is_touchy(&self) -> Result<bool> {
        let node = self.socket()?;
        let (asked, eager) = (&self.servers[0][0], &self.servers[0][1]);
        let outside = self.observe(&node, asked)?;
        eager.send_to(b"early", outside)?;
        asked.send_to(b"fence", outside)?;
        let mut buffer = [0; 64];
        loop {
            let (length, _) = node.recv_from(&mut buffer).context("no answer arrives")?;
            match &buffer[..length] {
                b"fence" => break,
                // It was let in, so it took nothing.
                _ => continue,
            }
        }
        Ok(self.observe(&node, eager)? != outside)
    }

    /// Asks the router for a port, in the words of NAT-PMP (RFC 6886), and lets a stranger try it.
    fn maps_ports(&self) -> Result<bool> {
        let (node, asking) = (self.socket()?, self.socket()?);
        let own = node.local_addr()?.port();
        let mut request = vec![0, 1, 0, 0];
        request.extend(own.to_be_bytes());
        request.extend(own.to_be_bytes());
        request.extend(120u32.to_be_bytes());
        asking.send_to(&request, SocketAddr::new(HOME_ROUTER.into(), 5_351))?;
        let mut answer = [0; 16];
        asking.recv_from(&mut answer).context("the router does not answer NAT-PMP")?;
        let [_, _, failed, reason, _, _, _, _, _, _, high, low, ..] = answer;
        ensure!((failed, reason) == (0, 0), "the router refuses to map a port: {reason}");
        let outside = SocketAddr::new(Side::A.public_v4().into(), u16::from_be_bytes([high, low]));
        self.servers[1][0].send_to(b"stranger", outside)?;
        self.observe(&node, &self.servers[0][0])?;
        self.servers[0][0].send_to(b"fence", outside)?;
        let mut buffer = [0; 64];
        let (length, _) = node.recv_from(&mut buffer).context("no answer arrives")?;
        Ok(&buffer[..length] == b"stranger")
    }

    fn hairpins(&self) -> Result<bool> {
        let (a, b) = (self.socket()?, self.socket()?);
        let outside = self.observe(&a, &self.servers[0][0])?;
        b.send_to(b"around", outside)?;
        // A round trip to the server is longer than one to the router.
        self.observe(&b, &self.servers[0][0])?;
        self.servers[0][0].send_to(b"fence", outside)?;
        let mut buffer = [0; 64];
        let (length, _) = a.recv_from(&mut buffer).context("no answer arrives")?;
        Ok(&buffer[..length] == b"around")
    }
}

fn allocation(own: u16, seen: &[u16]) -> Allocation {
    let steps = || seen.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
    let (low, high) = (seen.iter().min(), seen.iter().max());
    let span = high.zip(low).map_or(0, |(high, low)| high - low);
    let distinct = seen.iter().collect::<BTreeSet<_>>().len();
    if seen.iter().all(|port| *port == own) {
        Allocation::Preserving
    } else if distinct > 1 && steps().all(|step| step <= MAX_STEP) {
        Allocation::Sequential
    } else if distinct > 1 && span < BLOCK {
        Allocation::Block
    } else {
        Allocation::Random
    }
}

/// The first port of the server's test sockets.
const FIRST_PORT: u16 = 7_000;
/// Test sockets on each address. Twice as many random ports are within one block by chance once
/// in 10^50.
const PORTS: u16 = 16;
/// The longest step from one port to the next that counts as a sequence.
const MAX_STEP: u16 = 10;
/// The size of the blocks of which carriers give each subscriber one.
const BLOCK: u16 = 1_024;

/// Measures each kind, or all, and tells.
///
/// # Errors
/// A NAT is not what it should be, or cannot be built.
pub fn run(kinds: &[Kind], mut tell: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut wrong = 0;
    for kind in kinds {
        let finding = measure(*kind).with_context(|| format!("{kind} cannot be measured"))?;
        let verdict = if finding.is_as_expected() { "ok" } else { "WRONG" };
        tell(&format!("{verdict:<6}{kind:<20}{}", finding.behaviour))?;
        if let Some((own, seen)) = &finding.ports {
            let seen: Vec<String> = seen.iter().take(6).map(u16::to_string).collect();
            let hairpin = if finding.hairpins { "hairpins" } else { "no hairpinning" };
            let maps = if finding.maps { ", maps ports when asked" } else { "" };
            tell(&format!("{:26}port {own} seen as {}…, {hairpin}{maps}", "", seen.join(" ")))?;
        }
        if !finding.is_as_expected() {
            wrong += 1;
            tell(&format!("{:26}should be: {}", "", kind.expected()))?;
        }
    }
    troubles().context("what is to happen to NATs does not")?;
    ensure!(wrong == 0, "{wrong} of {} are not what they should be", kinds.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_tell_how_they_were_chosen() {
        assert_eq!(allocation(5_000, &[5_000, 5_000]), Allocation::Preserving);
        assert_eq!(allocation(5_000, &[6_000, 6_001, 6_003]), Allocation::Sequential);
        assert_eq!(allocation(5_000, &[20_480, 21_503, 20_900]), Allocation::Block);
        assert_eq!(allocation(5_000, &[20_480, 21_504, 20_900]), Allocation::Random);
        // One other port for everything: which one the next gets is not known.
        assert_eq!(allocation(5_000, &[6_000, 6_000]), Allocation::Random);
    }
}
