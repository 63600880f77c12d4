//! The shell around the hole-punching agents: one task that moves their probes, runs their timers
//! and does what they decide to the routes.
//!
//! The agents (`halloo_nat`) are pure. This task owns all of them, the budget of probes that they
//! share, and what is known about this node's own network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use halloo_identity::Fingerprint;
use halloo_nat::{
    Agent, AgentConfig, AgentEvent, Budget, KnockReason, Local, Output, PunchKeys, Searches,
    Traffic, Transmit, WATCH_INTERVAL, WhyRelayed,
};
use halloo_transport::{Arrived, NewSource, Route};
use halloo_wire::candidate::Card;
use halloo_wire::datagram::Probe;
use halloo_wire::path::{DirectPath, RelayPath, SendOn, SocketId};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{RoundId, Side};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use zeroize::Zeroizing;

use super::lan::Neighbour;
use super::line::Line;
use super::{Net, dial};
use crate::event::{EventKind, Path};
use crate::random;

/// Commands that wait for the task. Those who dial wait when it is full; what a line says when it
/// ends is found out by the sweep if it is lost.
const COMMANDS: usize = 256;
/// Probes that are taken at once.
const BATCH: usize = 64;
/// How often a relay channel is kept while nothing flows in it: below the 30 s after which NATs
/// forget UDP, and far below the lease.
const KEEP: Duration = Duration::from_secs(25);
/// Lines to one contact at a time: both sides may dial, and two may be on their way out.
pub(crate) const MAX_LINES: usize = 4;

/// Nodes of the local network that are asked at a time whether they are a contact.
pub(crate) const MAX_ASKING: usize = 8;
/// How long a node of the local network is asked: a whole schedule of probes.
const ASK_NEARBY: Duration = Duration::from_secs(2);

/// What the task is asked.
pub(crate) enum Command {
    /// Begin to look for paths.
    Start(Start),
    /// A line has ended.
    Forget(SocketAddr),
    /// Something large is about to travel on a line.
    Want(SocketAddr),
    /// Ask these nodes of the local network whether one is the contact.
    Nearby(Nearby),
    /// Contacts may call under these numbers of ours in the local network.
    Callers(Vec<NearbyCaller>),
    /// This node's network has changed.
    Network,
}

/// What is needed to look for paths.
pub(crate) struct Start {
    pub(crate) line: Weak<Line>,
    pub(crate) role: Side,
    pub(crate) keys: PunchKeys,
    pub(crate) relay: Option<RelayPath>,
    /// Where the other side may be; `None` when either policy allows no direct path.
    pub(crate) remote: Option<(Card, Vec<SocketAddr>)>,
    /// Estimated round trip through the relay.
    pub(crate) relay_rtt: Duration,
}

/// A look for a contact in the local network.
pub(crate) struct Nearby {
    pub(crate) line: Weak<Line>,
    /// The secret of the capability that the contact gave us.
    pub(crate) secret: Zeroizing<[u8; 32]>,
    pub(crate) neighbours: Vec<Neighbour>,
}

/// A contact who may find us in the local network.
pub(crate) struct NearbyCaller {
    pub(crate) contact: Fingerprint,
    /// The secret of the capability that we gave.
    pub(crate) secret: Zeroizing<[u8; 32]>,
    /// What we announce.
    pub(crate) nonce: RoundId,
}

/// The handle to the task.
#[derive(Clone)]
pub(crate) struct Paths {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    queue: Mutex<Option<mpsc::Receiver<Command>>>,
    lines: Mutex<HashMap<SocketAddr, Weak<Line>>>,
    /// What is known about our own network; read for cards and agents.
    local: watch::Sender<Local>,
    /// Our port at a router that maps it for us, once that is shown to work.
    mapped: Mutex<Option<SocketAddr>>,
}

impl Paths {
    pub(crate) fn new() -> Self {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let queue = Mutex::new(Some(queue));
        let local = watch::Sender::new(Local::default());
        Self {
            shared: Arc::new(Shared {
                commands,
                queue,
                lines: Mutex::default(),
                local,
                mapped: Mutex::default(),
            }),
        }
    }

    /// A line to a contact on a route, opened by a round; `None` when the contact has as many as it
    /// may.
    pub(crate) fn line(
        &self,
        contact: Fingerprint,
        route: Route,
        opened: Option<RoundId>,
    ) -> Option<Arc<Line>> {
        let mut lines = self.lines();
        lines.retain(|_, line| line.strong_count() > 0);
        let alive = lines.values().filter_map(Weak::upgrade);
        if alive.filter(|line| line.contact == contact).count() >= MAX_LINES {
            return None;
        }
        let line = Arc::new(Line::new(contact, route, opened, self.clone()));
        lines.insert(line.virtual_addr(), Arc::downgrade(&line));
        Some(line)
    }

    /// The line with a virtual address.
    pub(crate) fn find(&self, virtual_addr: &SocketAddr) -> Option<Arc<Line>> {
        self.lines().get(virtual_addr)?.upgrade()
    }

    /// The line to a contact that a round opened.
    pub(crate) fn opened(&self, contact: &Fingerprint, round: RoundId) -> Option<Arc<Line>> {
        let lines = self.lines();
        let mut alive = lines.values().filter_map(Weak::upgrade);
        alive.find(|line| line.contact == *contact && line.opened == Some(round))
    }

    /// Begins to look for paths of a line.
    pub(crate) async fn start(&self, start: Start) {
        // The task ends with the node only.
        let _ = self.shared.commands.send(Command::Start(start)).await;
    }

    pub(crate) fn command(&self, command: Command) {
        let _ = self.shared.commands.try_send(command);
    }

    fn agent(&self, role: Side, keys: PunchKeys, relay_rtt: Duration, now: Instant) -> Agent {
        let local = self.local();
        Agent::new(AgentConfig { role, keys, seed: random::bytes(), local, relay_rtt }, now)
    }

    /// What is known about this node's own network.
    pub(crate) fn local(&self) -> Local {
        self.shared.local.borrow().clone()
    }

    /// Follows what is known about this node's own network.
    pub(crate) fn watch_local(&self) -> watch::Receiver<Local> {
        self.shared.local.subscribe()
    }

    /// Changes what is known about this node's own network, and tells the agents. Returns whether
    /// it is something else now.
    pub(crate) fn set_local(&self, change: impl FnOnce(&mut Local)) -> bool {
        let changed = self.shared.local.send_if_modified(|local| {
            let before = local.clone();
            change(local);
            *local != before
        });
        if changed {
            self.command(Command::Network);
        }
        changed
    }

    /// Our port at a router that maps it for us.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        *self.shared.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a mapped port; returns whether it is another one.
    pub(crate) fn set_mapped(&self, external: Option<SocketAddr>) -> bool {
        let mut mapped = self.shared.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *mapped, external) != external
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<SocketAddr, Weak<Line>>> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the node stops.
pub(crate) async fn run(net: Arc<Net>) {
    let queue = net.paths.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(mut commands), Some(mut probes), Some(mut sources), Some(mut others)) = (
        queue,
        net.endpoint.take_probes(),
        net.endpoint.take_new_sources(),
        net.endpoint.take_peer_datagrams(),
    ) else {
        // The endpoint belongs to this node alone, and this is its only reader.
        return;
    };
    let mut task = Task {
        budget: Budget::new(Instant::now()),
        searches: Searches::default(),
        net,
        table: HashMap::new(),
        by_key: HashMap::new(),
        callers: HashMap::new(),
        next_nearby: 1,
    };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let due = task.table.values().map(Entry::due).min();
        let pause = async {
            match due {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(command) = commands.recv() => task.command(command),
            n = probes.recv_many(&mut batch, BATCH) => {
                if n == 0 {
                    return;
                }
                for probe in batch.drain(..) {
                    task.probe(&probe);
                }
            }
            Some(source) = sources.recv() => task.new_source(&source),
            Some(datagram) = others.recv() => task.peer_datagram(datagram),
            () = pause => task.timeouts(),
        }
    }
}

struct Task {
    net: Arc<Net>,
    budget: Budget,
    searches: Searches,
    table: HashMap<SocketAddr, Entry>,
    /// Whose probes come under which key id.
    by_key: HashMap<u64, Owner>,
    /// Under which key ids a contact would call who finds us in the local network.
    callers: HashMap<u64, NearbyCaller>,
    next_nearby: u32,
}

/// An agent: that of a line, or one that asks in the local network for it.
#[derive(Debug, Clone, Copy)]
struct Owner {
    addr: SocketAddr,
    nearby: Option<u32>,
}

/// An agent that asks one node of the local network whether it is the contact. When it is, this
/// becomes the line's agent.
struct Asking {
    number: u32,
    agent: Agent,
    keys: Vec<u64>,
    valid: Vec<DirectPath>,
    wake: Option<Instant>,
    until: Instant,
}

struct Entry {
    line: Weak<Line>,
    route: Route,
    contact: Fingerprint,
    agent: Option<Agent>,
    /// The key ids under which the contact's probes come.
    keys: Vec<u64>,
    /// Extra sockets that are open for the agent.
    sockets: Vec<SocketId>,
    asking: Vec<Asking>,
    relay: Option<RelayPath>,
    keep_at: Instant,
    wake: Option<Instant>,
    /// When to look at the traffic, while an agent wants to know.
    watch: Option<Instant>,
}

impl NearbyCaller {
    fn keys(&self) -> PunchKeys {
        PunchKeys::derive(&self.secret, &self.nonce, Side::Callee)
    }
}

impl Entry {
    fn new(line: &Arc<Line>, now: Instant) -> Self {
        Self {
            line: Arc::downgrade(line),
            route: line.route.clone(),
            contact: line.contact,
            agent: None,
            keys: Vec::new(),
            sockets: Vec::new(),
            asking: Vec::new(),
            relay: None,
            keep_at: now + KEEP,
            wake: None,
            watch: None,
        }
    }

    /// Notes the key ids that the agent listens to now.
    fn take_keys(&mut self, by_key: &mut HashMap<u64, Owner>) {
        for key in self.keys.drain(..) {
            by_key.remove(&key);
        }
        self.keys = self.agent.as_ref().map(Agent::receive_ids).unwrap_or_default();
        let addr = self.route.virtual_addr();
        by_key.extend(self.keys.iter().map(|key| (*key, Owner { addr, nearby: None })));
    }

    fn due(&self) -> Instant {
        let asking = self.asking.iter().flat_map(|it| [it.wake, Some(it.until)]);
        asking.chain([self.wake, self.watch]).flatten().fold(self.keep_at, Instant::min)
    }
}

impl Task {
    fn command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(start),
            Command::Forget(addr) => self.forget(&addr),
            Command::Want(addr) => self.with(addr, |agent, now| agent.want(true, now)),
            Command::Nearby(nearby) => self.ask_nearby(nearby),
            Command::Callers(callers) => {
                let id = |it: &NearbyCaller| it.keys().receive_id();
                self.callers = callers.into_iter().map(|it| (id(&it), it)).collect();
            }
            Command::Network => {
                let local = self.net.paths.local();
                for addr in self.table.keys().copied().collect::<Vec<_>>() {
                    self.with(addr, |agent, now| agent.local_changed(local.clone(), now));
                }
            }
        }
    }

    fn start(&mut self, start: Start) {
        let Some(line) = start.line.upgrade() else { return };
        let (addr, now) = (line.virtual_addr(), Instant::now());
        line.route.set_relay(start.relay);
        let entry = self.table.entry(addr).or_insert_with(|| Entry::new(&line, now));
        entry.relay = start.relay;
        if let Some(relay) = start.relay {
            // The peer knows where our connections are, which may have moved: it finds out by this.
            let keep = PeerDatagram::Keep { channel: relay.channel };
            self.send(SocketId::MAIN, relay.via, &keep.encode(), None);
        }
        let Some(entry) = self.table.get_mut(&addr) else { return };
        match start.remote {
            None => line.state().why = Some(WhyRelayed::Hidden),
            Some((card, attested)) => {
                line.state().why = None;
                match &mut entry.agent {
                    Some(agent) => agent.begin_round(start.role, start.keys, now),
                    None => {
                        let Start { role, keys, relay_rtt, .. } = start;
                        entry.agent = Some(self.net.paths.agent(role, keys, relay_rtt, now));
                    }
                }
                let agent = entry.agent.as_mut().expect("made above when it was missing");
                agent.set_remote(&card, &attested, now);
                entry.take_keys(&mut self.by_key);
            }
        }
        self.drive(addr);
    }

    /// Asks nodes of the local network whether they are the contact of a line.
    fn ask_nearby(&mut self, nearby: Nearby) {
        let Some(line) = nearby.line.upgrade() else { return };
        let (addr, now) = (line.virtual_addr(), Instant::now());
        let entry = self.table.entry(addr).or_insert_with(|| Entry::new(&line, now));
        let mut numbers = Vec::new();
        for neighbour in nearby.neighbours {
            if entry.asking.len() >= MAX_ASKING {
                break;
            }
            let keys = PunchKeys::derive(&nearby.secret, &neighbour.nonce, Side::Caller);
            let mut agent = self.net.paths.agent(Side::Caller, keys, Duration::ZERO, now);
            agent.add_lan(neighbour.addr, now);
            let (number, keys) = (self.next_nearby, agent.receive_ids());
            self.next_nearby = self.next_nearby.wrapping_add(1);
            for key in &keys {
                self.by_key.insert(*key, Owner { addr, nearby: Some(number) });
            }
            let until = now + ASK_NEARBY;
            let valid = Vec::new();
            entry.asking.push(Asking { number, agent, keys, valid, wake: None, until });
            numbers.push(number);
        }
        for number in numbers {
            self.drive_nearby(addr, number);
        }
    }

    /// A probe of a contact who has found us in the local network: a call without a knock.
    fn nearby_call(&mut self, key_id: u64, arrived: &Arrived) {
        let Some(caller) = self.callers.get(&key_id) else { return };
        let current = self.net.links.current(&caller.contact).map(|link| link.line);
        let (line, is_new) = match current {
            Some(line) => (line, false),
            None => {
                let route = self.net.endpoint.open_route();
                let Some(line) = self.net.paths.line(caller.contact, route, None) else { return };
                (line, true)
            }
        };
        let (addr, now) = (line.virtual_addr(), Instant::now());
        let entry = self.table.entry(addr).or_insert_with(|| Entry::new(&line, now));
        let keys = caller.keys();
        match &mut entry.agent {
            Some(agent) => agent.begin_round(Side::Callee, keys, now),
            None => {
                let agent = self.net.paths.agent(Side::Callee, keys, Duration::ZERO, now);
                entry.agent = Some(agent);
            }
        }
        entry.take_keys(&mut self.by_key);
        if is_new {
            // The caller's handshake follows, or nothing does.
            self.net.spawn(dial::hold(line));
        }
        self.with(addr, |agent, now| {
            agent.add_lan(arrived.source, now);
            let heard = agent.handle_probe(arrived.socket, arrived.source, &arrived.datagram, now);
            if let Err(reason) = heard {
                tracing::trace!(%reason, "A probe was refused");
            }
        });
    }

    /// Carries out what an agent that asks in the local network has decided.
    fn drive_nearby(&mut self, addr: SocketAddr, number: u32) {
        loop {
            let Some(entry) = self.table.get_mut(&addr) else { return };
            let Some(i) = entry.asking.iter().position(|it| it.number == number) else { return };
            let asking = &mut entry.asking[i];
            match asking.agent.poll_output() {
                Output::Transmit(Transmit { socket, to, datagram, ttl, purpose }) => {
                    if self.budget.take(purpose, Instant::now()) {
                        self.send(socket, to, &datagram, ttl);
                    }
                }
                Output::Event(AgentEvent::Valid { path, .. }) => asking.valid.push(path),
                Output::Event(AgentEvent::Route(send_on)) if send_on.direct().is_some() => {
                    return self.found_nearby(addr, i, send_on);
                }
                Output::Event(_) => {}
                Output::Wait(at) => {
                    asking.wake = at;
                    return;
                }
            }
        }
    }

    /// One of those who were asked is the contact.
    fn found_nearby(&mut self, addr: SocketAddr, i: usize, send_on: SendOn) {
        let Some(entry) = self.table.get_mut(&addr) else { return };
        let found = entry.asking.swap_remove(i);
        for other in entry.asking.drain(..) {
            for key in &other.keys {
                self.by_key.remove(key);
            }
        }
        for path in found.valid {
            entry.route.add_source(path);
        }
        let before = entry.agent.replace(found.agent);
        entry.take_keys(&mut self.by_key);
        if let Some(before) = before {
            self.end(before);
        }
        self.event(addr, AgentEvent::Route(send_on));
        self.drive(addr);
    }

    fn forget(&mut self, addr: &SocketAddr) {
        let Some(entry) = self.table.remove(addr) else { return };
        for key in entry.keys.iter().chain(entry.asking.iter().flat_map(|it| &it.keys)) {
            self.by_key.remove(key);
        }
        if let Some(agent) = entry.agent {
            self.end(agent);
        }
        for socket in entry.sockets {
            self.net.endpoint.close_socket(socket);
        }
    }

    /// Ends an agent, and with it a search that it may be making: another may begin then.
    fn end(&mut self, mut agent: Agent) {
        let now = Instant::now();
        agent.close(now);
        loop {
            match agent.poll_output() {
                Output::Event(AgentEvent::BirthdayOver { pair, outcome }) => {
                    self.searches.over(pair, outcome, now);
                }
                Output::Wait(_) => return,
                Output::Event(_) | Output::Transmit(_) => {}
            }
        }
    }

    /// Tells an agent something, and does what it decides.
    fn with(&mut self, addr: SocketAddr, tell: impl FnOnce(&mut Agent, Instant)) {
        if let Some(agent) = self.table.get_mut(&addr).and_then(|entry| entry.agent.as_mut()) {
            tell(agent, Instant::now());
            self.drive(addr);
        }
    }

    fn probe(&mut self, arrived: &Arrived) {
        let Ok(probe) = Probe::decode(&arrived.datagram) else { return };
        let Some(&Owner { addr, nearby }) = self.by_key.get(&probe.key_id) else {
            return self.nearby_call(probe.key_id, arrived);
        };
        let hear = |agent: &mut Agent, now| {
            if let Err(reason) =
                agent.handle_probe(arrived.socket, arrived.source, &arrived.datagram, now)
            {
                tracing::trace!(%reason, "A probe was refused");
            }
        };
        match nearby {
            None => self.with(addr, hear),
            Some(number) => {
                let entry = self.table.get_mut(&addr);
                let asking =
                    entry.and_then(|it| it.asking.iter_mut().find(|it| it.number == number));
                if let Some(asking) = asking {
                    hear(&mut asking.agent, Instant::now());
                    self.drive_nearby(addr, number);
                }
            }
        }
    }

    fn new_source(&mut self, new: &NewSource) {
        self.with(new.route, |agent, now| agent.new_source(new.socket, new.source, now));
    }

    fn peer_datagram(&mut self, arrived: Arrived) {
        match PeerDatagram::decode(&arrived.datagram) {
            Ok(PeerDatagram::RelayChallenge { channel, cookie }) => {
                let ours = self.table.values().any(|entry| {
                    entry.relay.is_some_and(|r| r.channel == channel && r.via == arrived.source)
                });
                if ours {
                    self.net.probing.moved();
                    let answer = PeerDatagram::RelayAnswer { channel, cookie };
                    self.send(SocketId::MAIN, arrived.source, &answer.encode(), None);
                }
            }
            Ok(PeerDatagram::EchoReply { .. }) => self.net.probing.take_reply(arrived),
            Ok(_) | Err(_) => {}
        }
    }

    fn timeouts(&mut self) {
        let now = Instant::now();
        let due: Vec<SocketAddr> =
            self.table.iter().filter(|(_, e)| e.due() <= now).map(|(addr, _)| *addr).collect();
        for addr in due {
            let Some(entry) = self.table.get_mut(&addr) else { continue };
            if entry.line.strong_count() == 0 {
                self.forget(&addr);
                continue;
            }
            if entry.keep_at <= now {
                entry.keep_at = now + KEEP;
                if let Some(relay) = entry.relay {
                    let keep = PeerDatagram::Keep { channel: relay.channel };
                    self.send(SocketId::MAIN, relay.via, &keep.encode(), None);
                }
            }
            self.nearby_timeouts(addr, now);
            let Some(entry) = self.table.get_mut(&addr) else { continue };
            let Some(agent) = &mut entry.agent else { continue };
            if entry.watch.is_some_and(|at| at <= now) {
                entry.watch = Some(now + WATCH_INTERVAL);
                let seen = entry.route.traffic();
                let traffic = Traffic {
                    sent: seen.sent,
                    heard_direct: seen.heard_direct,
                    heard_relay: seen.heard_relay,
                };
                let fresh = |at: Instant| now.saturating_duration_since(at) <= WATCH_INTERVAL * 2;
                if seen.unreachable.is_some_and(fresh)
                    && let Some(path) = entry.route.send_on().direct()
                {
                    agent.send_failed(path, now);
                }
                agent.traffic(traffic, now);
            }
            if entry.wake.is_some_and(|at| at <= now) {
                agent.handle_timeout(now);
            }
            self.drive(addr);
        }
    }

    fn nearby_timeouts(&mut self, addr: SocketAddr, now: Instant) {
        let Some(entry) = self.table.get_mut(&addr) else { return };
        let by_key = &mut self.by_key;
        entry.asking.retain(|it| {
            let goes_on = it.until > now;
            for key in it.keys.iter().filter(|_| !goes_on) {
                by_key.remove(key);
            }
            goes_on
        });
        let mut due = Vec::new();
        for asking in entry.asking.iter_mut().filter(|it| it.wake.is_some_and(|at| at <= now)) {
            asking.agent.handle_timeout(now);
            due.push(asking.number);
        }
        for number in due {
            self.drive_nearby(addr, number);
        }
    }

    /// Carries out everything that an agent has decided.
    fn drive(&mut self, addr: SocketAddr) {
        loop {
            let Some(entry) = self.table.get_mut(&addr) else { return };
            let Some(agent) = &mut entry.agent else { return };
            match agent.poll_output() {
                Output::Transmit(Transmit { socket, to, datagram, ttl, purpose }) => {
                    if self.budget.take(purpose, Instant::now()) {
                        self.send(socket, to, &datagram, ttl);
                    }
                }
                Output::Event(event) => self.event(addr, event),
                Output::Wait(at) => {
                    entry.wake = at;
                    return;
                }
            }
        }
    }

    fn event(&mut self, addr: SocketAddr, event: AgentEvent) {
        let now = Instant::now();
        let Some(entry) = self.table.get_mut(&addr) else { return };
        let Some(agent) = &mut entry.agent else { return };
        match event {
            AgentEvent::Route(send_on) => {
                let was_sure = matches!(entry.route.send_on(), SendOn::Direct(_));
                entry.route.set_send(send_on);
                let in_doubt = was_sure && !matches!(send_on, SendOn::Direct(_));
                if let Some(relay) = entry.relay.filter(|_| in_doubt) {
                    // What broke the path may have moved us: the relay and our peer find out now.
                    let keep = PeerDatagram::Keep { channel: relay.channel };
                    self.send(SocketId::MAIN, relay.via, &keep.encode(), None);
                    self.net.look_after_home();
                }
                self.tell(addr, send_on);
            }
            AgentEvent::Valid { path, .. } => entry.route.add_source(path),
            AgentEvent::Invalid { path } => entry.route.remove_source(path),
            AgentEvent::OpenSockets(n) => {
                let opened = self.net.endpoint.open_sockets(n.into()).unwrap_or_else(|e| {
                    tracing::debug!(kind = ?e.kind(), "No sockets for a birthday search");
                    Vec::new()
                });
                entry.sockets.extend(&opened);
                agent.sockets_opened(&opened, now);
            }
            AgentEvent::CloseSockets(sockets) => {
                entry.sockets.retain(|open| !sockets.contains(open));
                for socket in sockets {
                    self.net.endpoint.close_socket(socket);
                }
            }
            AgentEvent::Watch(on) => entry.watch = on.then_some(now + WATCH_INTERVAL),
            AgentEvent::Knock(reason) => {
                tracing::debug!(contact = %entry.contact.short(), ?reason, "Knocking again");
                if reason == KnockReason::BothSilent {
                    // Our own peer may be out of reach too, without having said so.
                    self.net.look_after_home();
                }
                // A second one, which both had dialled, goes without: it ends soon.
                if let Some(link) = self.net.links.current(&entry.contact)
                    && link.line.virtual_addr() == addr
                {
                    self.net.spawn(dial::knock_again(Arc::clone(&self.net), link.line));
                }
            }
            AgentEvent::WantBirthday(pair) => {
                agent.allow_birthday(self.searches.begin(pair, now), now);
            }
            AgentEvent::BirthdayOver { pair, outcome } => {
                tracing::debug!(contact = %entry.contact.short(), ?outcome, "A search is over");
                self.searches.over(pair, outcome, now);
            }
            AgentEvent::Relayed(why) => {
                tracing::debug!(contact = %entry.contact.short(), ?why, "Relayed");
                if let Some(line) = entry.line.upgrade() {
                    line.state().why = Some(why);
                }
            }
        }
    }

    /// Notes the path of a line, and tells the program when it is another kind.
    fn tell(&self, addr: SocketAddr, send_on: SendOn) {
        let Some(entry) = self.table.get(&addr) else { return };
        let (Some(line), Some(agent)) = (entry.line.upgrade(), &entry.agent) else { return };
        {
            let mut state = line.state();
            state.send_on = send_on;
            state.rtt = agent.rtt();
            state.technique = agent.technique();
            state.why = agent.why_relayed();
        }
        let current = self.net.links.current(&entry.contact);
        let ours = current.filter(|link| link.line.virtual_addr() == addr);
        let path = line.path(ours.as_ref().map(|link| link.connection.rtt()));
        // A relay is worth a word only when a connection uses it; a direct path is, because the
        // connection follows at once.
        let counts = ours.is_some() || matches!(path, Path::Direct { .. });
        if counts && line.is_news(&path) {
            self.net.board.tell(EventKind::Path { contact: entry.contact, path });
        }
    }

    fn send(&self, socket: SocketId, to: SocketAddr, datagram: &[u8], ttl: Option<u8>) {
        let sent = match ttl {
            None => self.net.endpoint.send_datagram(socket, to, datagram),
            Some(ttl) => self.net.endpoint.send_datagram_ttl(socket, to, datagram, ttl),
        };
        if let Err(e) = sent {
            tracing::trace!(kind = ?e.kind(), "A datagram was not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use halloo_identity::Identity;
    use halloo_transport::{Endpoint, EndpointRole};

    use super::*;

    /// Both may have dialled: a knock for one of the two connections must not begin a round on the
    /// other, whose far end is another line.
    #[tokio::test]
    async fn a_line_is_found_by_the_round_that_opened_it() {
        let identity = Identity::generate();
        let listen = "127.0.0.1:0".parse().unwrap();
        let endpoint = Endpoint::bind(listen, EndpointRole::Node { identity: &identity }).unwrap();
        let paths = Paths::new();
        let (anna, ben) = (Fingerprint::from_bytes([1; 30]), Fingerprint::from_bytes([2; 30]));
        let [first, second] = [RoundId([1; 16]), RoundId([2; 16])];
        let dialled = paths.line(anna, endpoint.open_route(), Some(first)).unwrap();
        let called = paths.line(anna, endpoint.open_route(), Some(second)).unwrap();
        let _nearby = paths.line(anna, endpoint.open_route(), None).unwrap();
        let found = |contact, round| paths.opened(contact, round).map(|it| it.virtual_addr());
        assert_eq!(found(&anna, first), Some(dialled.virtual_addr()));
        assert_eq!(found(&anna, second), Some(called.virtual_addr()));
        assert_eq!(found(&ben, first), None, "another contact's");
        drop(called);
        assert_eq!(found(&anna, second), None, "it has ended");
    }
}
