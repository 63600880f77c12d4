//! What this node's own network does to UDP: found out in the background, never while somebody
//! waits for a connection.
//!
//! The machine that asks and judges is [`Prober`]; this task gives it a socket and a clock, and
//! carries what it finds to where it is used: the card that contacts get, the agents, and our
//! rendezvous peer, which is told the addresses that it has attested.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halloo_identity::PeerHost;
use halloo_nat::{Local, Output, Prober, ProberConfig, ProberEvent, Transmit};
use halloo_transport::Arrived;
use halloo_wire::path::SocketId;
use halloo_wire::peer::Attested;
use halloo_wire::peer_datagram::PeerDatagram;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::post::{Connected, resolve};
use super::{Net, interfaces, lan, own_ips, portmap};
use crate::random;

/// Inputs that wait. Replies beyond it are lost, and asked for again.
const INPUTS: usize = 64;
/// How often what may be attested is asked for again: cookies hold for a minute at least.
const REFRESH: Duration = Duration::from_secs(45);

/// Signs of a move within this time are signs of the same one.
const MOVE_ONCE: Duration = Duration::from_secs(5);
/// Without a peer for this long, this node looks for contacts in the local network all the same.
const ALONE: Duration = Duration::from_secs(10);

/// The handle to the task.
pub(crate) struct Probing {
    inputs: mpsc::Sender<Input>,
    queue: Mutex<Option<mpsc::Receiver<Input>>>,
    /// Addresses of ours beside the observed one, with the cookies of each peer.
    attested: Mutex<HashMap<PeerHost, Fresh>>,
    /// What our own peer is to be told.
    pub(crate) attest: watch::Sender<Vec<Attested>>,
}

struct Fresh {
    attested: Vec<Attested>,
    at: Instant,
}

enum Input {
    Met(Met),
    Reply(Arrived),
    Moved,
}

/// A peer that was connected to.
struct Met {
    peer: PeerHost,
    /// Which of the machines behind that name.
    place: PeerHost,
    addr: SocketAddr,
    echo_port: Option<u16>,
    observed: SocketAddr,
    by_udp: bool,
}

impl Default for Probing {
    fn default() -> Self {
        let (inputs, queue) = mpsc::channel(INPUTS);
        Self {
            inputs,
            queue: Mutex::new(Some(queue)),
            attested: Mutex::default(),
            attest: watch::Sender::new(Vec::new()),
        }
    }
}

impl Probing {
    /// A peer has been connected to, which is a chance to ask it.
    pub(crate) fn met(&self, peer: &PeerHost, place: &PeerHost, connected: &Connected) {
        self.tell(Input::Met(Met {
            peer: peer.clone(),
            place: place.clone(),
            addr: connected.connection.remote_addr(),
            echo_port: connected.welcome.echo_port,
            observed: connected.welcome.observed,
            by_udp: connected.tunnel.is_none(),
        }));
    }

    /// An answer of a peer.
    pub(crate) fn take_reply(&self, arrived: Arrived) {
        self.tell(Input::Reply(arrived));
    }

    /// Datagrams of ours reach a peer from another address than before: a NAT has forgotten us, or
    /// stands somewhere else.
    pub(crate) fn moved(&self) {
        self.tell(Input::Moved);
    }

    /// Our addresses beside the one that `peer` sees, with its cookies.
    pub(crate) fn attested(&self, peer: &PeerHost) -> Vec<Attested> {
        let attested = self.attested.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = attested.get(peer).filter(|fresh| fresh.at.elapsed() < 2 * REFRESH);
        fresh.map(|fresh| fresh.attested.clone()).unwrap_or_default()
    }

    fn tell(&self, input: Input) {
        // What is lost is asked for again.
        let _ = self.inputs.try_send(input);
    }

    fn keep(&self, peer: &PeerHost, attested: Vec<Attested>) {
        let fresh = Fresh { attested, at: Instant::now() };
        let mut all = self.attested.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, fresh| fresh.at.elapsed() < 2 * REFRESH);
        all.insert(peer.clone(), fresh);
    }
}

/// Runs until the node stops.
pub(crate) async fn run(net: Arc<Net>) {
    let queue = net.probing.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut inputs) = queue else { return };
    let (addresses, mut changes) = watch::channel(interfaces::current().await);
    let ips = changes.borrow_and_update().clone();
    let (mapped, mut mappings) = watch::channel(None);
    net.tasks.spawn(interfaces::run(net.stop.clone(), addresses));
    let local_peer = net.own_peers.iter().all(is_on_this_machine);
    let mut task = Task {
        net,
        ips,
        changes: changes.clone(),
        mapped_by: Some(mapped),
        home: None,
        other: None,
        prober: None,
        wake: None,
        moved: None,
        sockets: Vec::new(),
        mapped: None,
    };
    task.take_ips();
    let mut refresh = tokio::time::interval(REFRESH);
    let alone = tokio::time::sleep(ALONE);
    tokio::pin!(alone);
    loop {
        let wake = task.wake;
        let pause = async {
            match wake {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(input) = inputs.recv() => task.take(input).await,
            Ok(()) = changes.changed() => {
                task.ips = changes.borrow_and_update().clone();
                task.take_ips();
                task.net.network_changed();
                task.begin().await;
            }
            Ok(()) = mappings.changed() => {
                let external = *mappings.borrow_and_update();
                task.router_mapped(external);
            }
            () = pause => task.with(|prober, now| prober.handle_timeout(now)),
            _ = refresh.tick() => task.with(|prober, now| prober.refresh(now)),
            () = &mut alone, if task.mapped_by.is_some() && !local_peer => task.look_around(),
        }
    }
}

/// Whether a peer is named by a loopback address.
fn is_on_this_machine(peer: &PeerHost) -> bool {
    let ip: Result<IpAddr, _> = peer.host().parse();
    ip.map_or(peer.host() == "localhost", |ip| ip.is_loopback())
}

struct Task {
    net: Arc<Net>,
    ips: Vec<IpAddr>,
    changes: watch::Receiver<Vec<IpAddr>>,
    /// For the task that asks the router, until it has begun.
    mapped_by: Option<watch::Sender<Option<SocketAddr>>>,
    home: Option<Met>,
    /// Another peer in another network.
    other: Option<Met>,
    prober: Option<Prober>,
    wake: Option<Instant>,
    /// When we last found ourselves at another address.
    moved: Option<Instant>,
    /// Extra sockets that are open for the prober.
    sockets: Vec<SocketId>,
    /// What a router has promised.
    mapped: Option<SocketAddr>,
}

impl Task {
    async fn take(&mut self, input: Input) {
        match input {
            Input::Met(met) => self.met(met).await,
            Input::Moved => {
                if self.moved.is_none_or(|at| at.elapsed() > MOVE_ONCE) {
                    self.moved = Some(Instant::now());
                    // Our peer learns it from the next packet.
                    self.net.look_after_home();
                    self.begin().await;
                }
            }
            Input::Reply(arrived) => {
                if let Ok(reply) = PeerDatagram::decode(&arrived.datagram) {
                    self.with(|prober, now| {
                        prober.handle_datagram(arrived.socket, arrived.source, &reply, now);
                    });
                }
            }
        }
    }

    /// Begins what is of use on a real network only: asking the router for a port, and looking
    /// for contacts nearby.
    fn look_around(&mut self) {
        let Some(mapped) = self.mapped_by.take() else { return };
        let Some(port) = NonZeroU16::new(self.net.paths.local().port) else { return };
        let net = &self.net;
        net.tasks.spawn(portmap::run(port, net.stop.clone(), self.changes.clone(), mapped));
        net.tasks.spawn(lan::run(
            port.get(),
            net.stop.clone(),
            self.changes.clone(),
            net.nonce.clone(),
            net.neighbours.clone(),
        ));
    }

    fn router_mapped(&mut self, external: Option<SocketAddr>) {
        self.mapped = external;
        self.set_mapped(None);
        if let Some(external) = external {
            self.with(|prober, now| prober.check_mapping(external.port(), now));
        }
    }

    async fn met(&mut self, met: Met) {
        let is_home = self.net.is_home(&met.peer, &met.place);
        let known = if is_home { &self.home } else { &self.other };
        let same = known.as_ref().is_some_and(|k| {
            k.addr == met.addr && k.observed == met.observed && k.echo_port == met.echo_port
        });
        let elsewhere = self.home.as_ref().is_some_and(|home| home.addr.ip() != met.addr.ip());
        if is_home {
            let observed = met.by_udp.then_some(met.observed);
            self.net.paths.set_local(|local| {
                // Another connection from where we are known to be says nothing new.
                if observed.is_none_or(|addr| !local.observed.contains(&addr)) {
                    local.observed = observed.into_iter().collect();
                }
            });
            if !met.observed.ip().is_loopback() {
                self.look_around();
            }
            self.home = Some(met);
        } else if elsewhere && self.other.is_none() && met.by_udp {
            self.other = Some(met);
        } else {
            return;
        }
        self.take_ips();
        if !same {
            self.begin().await;
        }
    }

    /// Begins to ask, from the first question.
    async fn begin(&mut self) {
        let Some(home) = &self.home else { return };
        if !home.by_udp {
            self.close_sockets();
            self.prober = None;
            // A time that has come and that nobody looks at would come again at once, for ever.
            self.wake = None;
            return;
        }
        let v4 = home.addr.is_ipv4();
        let local = self.net.paths.local();
        let config = ProberConfig {
            seed: random::bytes(),
            ips: local.ips,
            port: local.port,
            home: home.addr,
            second_port: home.echo_port,
            home_other_family: resolve(&home.place)
                .await
                .into_iter()
                .find(|addr| addr.is_ipv4() != v4),
            other_peer: self.other.as_ref().map(|other| other.addr),
        };
        self.close_sockets();
        self.prober = Some(Prober::new(config, Instant::now()));
        if let Some(external) = self.mapped {
            self.with(|prober, now| prober.check_mapping(external.port(), now));
        }
        self.drive();
    }

    fn close_sockets(&mut self) {
        for socket in self.sockets.drain(..) {
            self.net.endpoint.close_socket(socket);
        }
    }

    fn with(&mut self, tell: impl FnOnce(&mut Prober, Instant)) {
        if let Some(prober) = &mut self.prober {
            tell(prober, Instant::now());
            self.drive();
        }
    }

    /// Carries out everything that the prober has decided.
    fn drive(&mut self) {
        while let Some(prober) = &mut self.prober {
            match prober.poll_output() {
                Output::Transmit(Transmit { socket, to, datagram, .. }) => {
                    if let Err(e) = self.net.endpoint.send_datagram(socket, to, &datagram) {
                        tracing::trace!(kind = ?e.kind(), "An echo request was not sent");
                    }
                }
                Output::Event(event) => self.event(event),
                Output::Wait(at) => {
                    self.wake = at;
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: ProberEvent) {
        let now = Instant::now();
        let Some(prober) = &mut self.prober else { return };
        match event {
            ProberEvent::OpenSockets(n) => {
                let opened: Vec<(SocketId, u16)> = self
                    .net
                    .endpoint
                    .open_sockets(n.into())
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|id| Some((id, self.net.endpoint.socket_addr(id)?.port())))
                    .collect();
                self.sockets.extend(opened.iter().map(|(id, _)| *id));
                prober.sockets_opened(&opened, now);
            }
            ProberEvent::CloseSockets(sockets) => {
                self.sockets.retain(|open| !sockets.contains(open));
                for socket in sockets {
                    self.net.endpoint.close_socket(socket);
                }
            }
            ProberEvent::Verdict(verdict) => {
                self.change(|local| local.verdict = verdict);
            }
            ProberEvent::Attested(attested) => {
                let by_other = prober.attested_by_other(now);
                if let Some(other) = &self.other {
                    self.net.probing.keep(&other.peer, by_other);
                }
                if let Some(home) = &self.home {
                    // Our peer knows the address that it welcomed us at. When we have moved since,
                    // the new one has to be shown to it like any other.
                    let observed = prober.observed().unwrap_or(home.observed);
                    let more: Vec<Attested> =
                        attested.iter().filter(|a| a.addr != home.observed).copied().collect();
                    self.net.probing.keep(&home.peer, more.clone());
                    let addrs: Vec<SocketAddr> = more.iter().map(|a| a.addr).collect();
                    self.net.probing.attest.send_if_modified(|told| {
                        let same = told.iter().map(|a| a.addr).eq(addrs.iter().copied());
                        *told = more;
                        !same
                    });
                    self.change(|local| {
                        let others = addrs.into_iter().filter(|addr| *addr != observed);
                        local.observed = std::iter::once(observed).chain(others).collect();
                    });
                }
            }
            ProberEvent::Mapped { port, reachable } => {
                self.set_mapped(self.mapped.filter(|m| m.port() == port && reachable));
            }
            ProberEvent::UdpBlocked => self.change(|local| local.observed.clear()),
        }
    }

    /// Changes what is known, and lets the cards follow.
    fn change(&self, change: impl FnOnce(&mut Local)) {
        if self.net.paths.set_local(change) {
            self.net.board.grants.send_modify(|n| *n += 1);
        }
    }

    /// Offers a mapped port to contacts once a datagram has come through it.
    fn set_mapped(&self, external: Option<SocketAddr>) {
        if self.net.paths.set_mapped(external) {
            self.net.board.grants.send_modify(|n| *n += 1);
        }
    }

    fn take_ips(&self) {
        let port = self.net.endpoint.local_addr().map_or(0, |a| a.port());
        self.change(|local| {
            // Another program on this machine can use a loopback address; nobody else can.
            let here = local.observed.iter().any(|a| a.ip().is_loopback());
            local.ips = match here {
                true => own_ips(),
                false => self.ips.iter().copied().filter(|ip| !ip.is_loopback()).collect(),
            };
            local.port = port;
            local.birthday = true;
        });
    }
}
