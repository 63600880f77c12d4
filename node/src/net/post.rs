//! Connections to rendezvous peers where something is left for others. They show no certificate:
//! the peer has no need to know who writes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use halloo_identity::{Fingerprint, PeerFingerprint, PeerHost};
use halloo_transport::websocket::{self, TunnelEnd, TunnelError, WebSocketTunnel};
use halloo_transport::{
    CloseCode, ConnectError, PeerConnection, PeerTrust, PushError, RequestError, Show,
};
use halloo_wire::InstanceId;
use halloo_wire::peer::{Call, PeerError, Push, Register, Registered, Request, Response};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Net;
use crate::event::EventKind;
use crate::random;
use crate::store::StoreError;

/// Time in which a peer has to say its first word after the handshake, and how long it may be
/// silent before it answers a registration that came with it.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);

/// Peers of contacts that are connected to before they are needed.
const MAX_WARM: usize = 16;
/// What UDP is given before TCP is tried too: a round trip within a continent, with the handshake.
const HEAD_START: Duration = Duration::from_millis(100);
/// What an address of a peer is given before the next one is tried too (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of a peer that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long a peer may be silent that was asked: many round trips, and a few losses.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// How long it may be when there are signs that it is out of reach, at least.
const MIN_PATIENCE: Duration = Duration::from_millis(600);
/// The same in round trips, which leaves time for two losses.
const PATIENCE_RTTS: u32 = 6;
/// How long a connection is kept for its next use by a node that is parked.
const IDLE: Duration = Duration::from_secs(60);
/// A connection that ends before this was no sound one.
const STEADY: Duration = Duration::from_secs(10);
/// How long who waits for a peer lets it be after such a connection.
const AFTER_SHORT: Duration = Duration::from_secs(1);

/// What a machine is given to answer before the next of the same name is tried.
pub(super) const NEXT_MACHINE: Duration = Duration::from_secs(3);

/// A machine: the name of the peer, and where that machine is. The two are one and the same when
/// the name stands for one machine only.
type Spot = (PeerHost, PeerHost);

/// Anonymous connections by machine.
#[derive(Default)]
pub(crate) struct Post {
    offices: Mutex<HashMap<Spot, Arc<tokio::sync::Mutex<Option<Office>>>>>,
    tunnels: Mutex<HashMap<Spot, Arc<tokio::sync::Mutex<Weak<WebSocketTunnel>>>>>,
    /// Whether a tunnel was faster than UDP the last time.
    pub(crate) udp_blocked: AtomicBool,
}

/// A connection to a peer that has said its first word.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) peer: PeerHost,
    /// Which of the machines behind that name.
    pub(crate) place: PeerHost,
    pub(crate) connection: PeerConnection,
    /// The run of the peer.
    pub(crate) instance: InstanceId,
    _tunnel: Option<Arc<WebSocketTunnel>>,
    /// When somebody asked for it last.
    used: Instant,
    /// Dropped with the last copy: nobody uses the connection any more.
    in_use: Arc<DropGuard>,
}

/// Why a peer cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfficeError {
    #[error("the name {0} is not known to the domain name system")]
    NoSuchHost(PeerHost),
    #[error("its key has changed")]
    KeyChanged { peer: PeerHost, expected: PeerFingerprint, found: PeerFingerprint },
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Tunnel(TunnelError),
    #[error("it did not begin to talk")]
    NoWelcome,
    #[error("it did not answer in time, and is not the only machine of its name")]
    TooSlow,
    #[error("it refused the registration: {0}")]
    Refused(PeerError),
    #[error("it did not answer the registration: {0}")]
    NotRegistered(NoAnswer),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OfficeError {
    /// Whether the peer itself has said no, whichever way it was asked.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused(PeerError::NotAdmitted(_)))
    }
}

impl Office {
    /// Asks the peer something without showing a session. A peer that is silent is connected to
    /// anew: the network may have changed without a word.
    pub(crate) async fn ask(&self, call: Call) -> Result<Response, NoAnswer> {
        self.ask_within(call, ANSWER_DEADLINE).await
    }

    /// The same, when there are signs that the peer is out of reach.
    pub(crate) async fn ask_in_doubt(&self, call: Call) -> Result<Response, NoAnswer> {
        self.ask_within(call, patience(&self.connection)).await
    }

    async fn ask_within(&self, call: Call, silence: Duration) -> Result<Response, NoAnswer> {
        let answer = ask(&self.connection, &Request { session: None, call }, silence).await;
        if let Err(NoAnswer::Silent | NoAnswer::Failed(RequestError::TimedOut)) = &answer {
            self.connection.close(CloseCode::Done);
        }
        answer
    }
}

/// Why a peer gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("it is silent")]
    Silent,
    #[error("{0}")]
    Failed(#[from] RequestError),
}

/// Asks a peer, as long as it is not silent for longer than that. On a bad wire an answer may be
/// late by many round trips, and a new connection would be no better.
pub(crate) async fn ask(
    connection: &PeerConnection,
    request: &Request,
    silence: Duration,
) -> Result<Response, NoAnswer> {
    let answer = connection.request(request);
    tokio::pin!(answer);
    loop {
        let heard = connection.datagrams_heard();
        match tokio::time::timeout(silence, &mut answer).await {
            Ok(answer) => return answer.map_err(NoAnswer::Failed),
            Err(_) if connection.datagrams_heard() == heard => return Err(NoAnswer::Silent),
            Err(_) => {}
        }
    }
}

impl Post {
    /// Forgets connections that nobody has used for a while.
    pub(crate) fn forget_idle(&self) {
        let is_idle = |office: &Office| {
            Arc::strong_count(&office.in_use) == 1 && office.used.elapsed() >= IDLE
        };
        let mut offices = self.offices.lock().unwrap_or_else(PoisonError::into_inner);
        offices.retain(|_, slot| {
            // Who holds the lock uses it.
            !slot.try_lock().is_ok_and(|slot| slot.as_ref().is_some_and(is_idle))
        });
    }

    /// Forgets all connections, which end when nobody uses them any more. The next to the same
    /// peer begins with early data.
    pub(crate) fn forget_all(&self) {
        self.offices.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.udp_blocked.store(false, Ordering::Relaxed);
    }

    /// The peers to which there are connections, once for each of their machines.
    pub(crate) fn peers(&self) -> Vec<PeerHost> {
        let offices = self.offices.lock().unwrap_or_else(PoisonError::into_inner);
        // Who holds the lock is about to have one.
        let is_there = |slot: &Arc<tokio::sync::Mutex<Option<Office>>>| {
            slot.try_lock().map_or(true, |office| office.is_some())
        };
        let in_use = offices.iter().filter(|(_, slot)| is_there(slot));
        in_use.map(|((peer, _), _)| peer.clone()).collect()
    }
}

impl Net {
    /// A connection to the machine of a peer that serves `who`, or the next of that name which
    /// answers; kept or made.
    ///
    /// `hint` is a key that an address or contact gave; a key that was seen before weighs more.
    pub(crate) async fn office(
        self: &Arc<Self>,
        peer: &PeerHost,
        hint: Option<PeerFingerprint>,
        who: &Fingerprint,
    ) -> Result<Office, OfficeError> {
        let places = self.places(peer, who).await;
        let mut why = OfficeError::NoSuchHost(peer.clone());
        for (number, place) in places.iter().enumerate() {
            let is_last = number + 1 == places.len();
            match self.office_at(peer, place, hint, is_last).await {
                Err(e @ OfficeError::KeyChanged { .. }) => return Err(e),
                Err(e) => why = e,
                found => return found,
            }
        }
        Err(why)
    }

    /// A connection to one machine. Unless it is the last that is tried, it has to answer soon.
    async fn office_at(
        self: &Arc<Self>,
        peer: &PeerHost,
        place: &PeerHost,
        hint: Option<PeerFingerprint>,
        is_last: bool,
    ) -> Result<Office, OfficeError> {
        let slot = {
            let mut offices = self.post.offices.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(offices.entry((peer.clone(), place.clone())).or_default())
        };
        let was_silent = self.directory.was_silent(place);
        let mut slot = slot.lock().await;
        if let Some(office) = slot.as_mut().filter(|o| o.connection.close_reason().is_none()) {
            office.used = Instant::now();
            return Ok(office.clone());
        }
        // Whoever held the lock has just tried.
        if !is_last && !was_silent && self.directory.was_silent(place) {
            return Err(OfficeError::TooSlow);
        }
        let connected = self.connect_in_time(peer, place, hint, None, is_last).await?;
        self.probing.met(peer, place, &connected);
        let Connected { connection, welcome, tunnel, .. } = connected;
        // Watching must not keep a connection that is forgotten: it would stay for ever, here and
        // at the peer.
        let in_use = CancellationToken::new();
        let tunnel_end = Connected::tunnel_end(tunnel.as_ref());
        let office = Office {
            peer: peer.clone(),
            place: place.clone(),
            connection: connection.clone(),
            instance: welcome.instance,
            _tunnel: tunnel,
            used: Instant::now(),
            in_use: Arc::new(in_use.clone().drop_guard()),
        };
        *slot = Some(office.clone());
        self.spawn(watch(Arc::clone(self), connection, tunnel_end, in_use));
        Ok(office)
    }

    /// Connects to the peers of contacts before there is something to leave there, so that the
    /// first message takes one way and no handshake.
    pub(crate) async fn warm_up(self: Arc<Self>) {
        let contacts = self.store.run(|m, cx| {
            let mut peers: Vec<(PeerHost, Option<PeerFingerprint>, Vec<Fingerprint>)> = Vec::new();
            for contact in cx.db.contacts()? {
                if m.allows_link(cx, &contact.fp)?
                    && let Some(mail) = m.mail(cx, &contact.fp)?
                    && let Some((peer, key)) = mail.peers.into_iter().next()
                {
                    let has_room = peers.len() < MAX_WARM;
                    match peers.iter_mut().find(|(known, ..)| *known == peer) {
                        Some((.., contacts)) => contacts.push(contact.fp),
                        None if has_room => {
                            peers.push((peer, key, vec![contact.fp]));
                        }
                        None => {}
                    }
                }
            }
            Ok::<_, StoreError>(peers)
        });
        let mut connecting = JoinSet::new();
        for (peer, key, contacts) in contacts.await.unwrap_or_default() {
            let net = Arc::clone(&self);
            connecting.spawn(async move {
                let mut machines = HashSet::new();
                for contact in contacts {
                    let first = net.places(&peer, &contact).await.into_iter().next();
                    // One connection serves all contacts of a machine.
                    if machines.len() >= MAX_WARM || !first.is_some_and(|it| machines.insert(it)) {
                        continue;
                    }
                    if let Err(e) = net.office(&peer, key, &contact).await {
                        tracing::debug!(reason = %e, "A contact's peer cannot be reached");
                    }
                }
            });
        }
        while connecting.join_next().await.is_some() {}
    }

    /// The same as [`Self::connect`], which has to be done soon when another machine is to be tried
    /// after this one. Remembers whether it answered.
    pub(super) async fn connect_in_time(
        self: &Arc<Self>,
        peer: &PeerHost,
        place: &PeerHost,
        hint: Option<PeerFingerprint>,
        register: Option<Register>,
        is_last: bool,
    ) -> Result<Connected, OfficeError> {
        let connecting = self.connect(peer, place, hint, register);
        let connected = match is_last {
            true => connecting.await,
            false => {
                let in_time = tokio::time::timeout(NEXT_MACHINE, connecting).await;
                in_time.unwrap_or(Err(OfficeError::TooSlow))
            }
        };
        match &connected {
            Ok(_) => self.directory.answers(place),
            // It answers, and says no; or we are to blame.
            Err(
                OfficeError::Refused(_) | OfficeError::KeyChanged { .. } | OfficeError::Store(_),
            ) => {}
            Err(_) if peer != place => self.directory.is_silent(place),
            Err(_) => {}
        }
        connected
    }

    /// Connects to a machine of a peer over UDP or, where that is blocked, through a tunnel;
    /// remembers its key, and waits for its first word. Registers in the same breath, when that is
    /// wanted.
    async fn connect(
        self: &Arc<Self>,
        peer: &PeerHost,
        place: &PeerHost,
        hint: Option<PeerFingerprint>,
        register: Option<Register>,
    ) -> Result<Connected, OfficeError> {
        let of = peer.clone();
        let pinned = self.store.run(move |_, cx| cx.db.pin(&of)).await?.or(hint);
        let trust = pinned.map_or(PeerTrust::FirstUse, PeerTrust::Pinned);
        match self.first_address(peer, place, trust, register).await {
            Ok(connected) => {
                let (of, key) = (peer.clone(), connected.connection.peer_fingerprint());
                self.store.run(move |_, cx| cx.db.add_pin(&of, &key)).await?;
                Ok(connected)
            }
            Err(e) => Err(self.told(peer, e)),
        }
    }

    /// Tries the addresses of a peer, each a moment after the one before, or as soon as that has
    /// failed (RFC 8305). Whichever talks first is used: a family that leads nowhere costs a
    /// moment only.
    async fn first_address(
        self: &Arc<Self>,
        peer: &PeerHost,
        place: &PeerHost,
        trust: PeerTrust,
        register: Option<Register>,
    ) -> Result<Connected, OfficeError> {
        let mut addrs = in_turn(resolve(place).await).into_iter().take(MAX_ADDRESSES).peekable();
        let mut why = OfficeError::NoSuchHost(place.clone());
        let mut attempts: JoinSet<Result<Connected, OfficeError>> = JoinSet::new();
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(connected)) => return Ok(connected),
                    // The peer has said no: it is not asked again elsewhere.
                    Ok(Err(e)) if e.is_final() => return Err(e),
                    Ok(Err(e)) => {
                        // A key that has changed is what the person has to hear.
                        let is_key = |e: &OfficeError| {
                            matches!(e, OfficeError::Connect(ConnectError::PeerKeyChanged { .. }))
                        };
                        if !is_key(&why) {
                            why = e;
                        }
                        wait = Duration::ZERO;
                    }
                    Err(_) => {}
                },
                () = tokio::time::sleep(wait), if addrs.peek().is_some() => {
                    if let Some(addr) = addrs.next() {
                        let (net, register) = (Arc::clone(self), register.clone());
                        let spot = (peer.clone(), place.clone());
                        attempts.spawn(async move {
                            net.race(&spot, addr, trust, register.as_ref()).await
                        });
                    }
                    wait = NEXT_ADDRESS;
                }
                else => return Err(why),
            }
        }
    }

    /// Tries UDP and, a moment later, a tunnel: whichever talks first is used. Where the tunnel won
    /// the last time, both begin at once.
    async fn race(
        &self,
        spot: &Spot,
        addr: SocketAddr,
        trust: PeerTrust,
        register: Option<&Register>,
    ) -> Result<Connected, OfficeError> {
        let show = if register.is_some() { Show::Device } else { Show::Nothing };
        let udp = async {
            let connection = self.endpoint.connect_peer(addr, trust, show).await?;
            Connected::greet(connection, None, register).await
        };
        let tunnelled = async {
            if !self.post.udp_blocked.load(Ordering::Relaxed) {
                tokio::time::sleep(HEAD_START).await;
            }
            let tunnel = self.tunnel(spot, addr, trust).await?;
            let connection = self.endpoint.connect_peer(tunnel.addr(), trust, show).await?;
            Connected::greet(connection, Some(tunnel), register).await
        };
        tokio::pin!(udp, tunnelled);
        let won = tokio::select! {
            won = &mut udp => match won {
                Ok(connected) => Ok(connected),
                // A key that is not the pinned one is no reason to ask again by TCP.
                Err(e @ OfficeError::Connect(ConnectError::PeerKeyChanged { .. })) => Err(e),
                Err(e) if e.is_final() => Err(e),
                Err(e) => tunnelled.await.map_err(|by_tcp| if by_tcp.is_final() { by_tcp } else { e }),
            },
            won = &mut tunnelled => match won {
                Ok(connected) => Ok(connected),
                Err(e) if e.is_final() => Err(e),
                Err(_) => udp.await,
            },
        };
        if let Ok(connected) = &won {
            self.post.udp_blocked.store(connected.tunnel.is_some(), Ordering::Relaxed);
        }
        won
    }

    /// A tunnel to a machine: one for all connections to it.
    async fn tunnel(
        &self,
        spot: &Spot,
        addr: SocketAddr,
        trust: PeerTrust,
    ) -> Result<Arc<WebSocketTunnel>, OfficeError> {
        let slot = {
            let mut tunnels = self.post.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tunnels.entry(spot.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(tunnel) = slot.upgrade()
            && !tunnel.has_ended()
        {
            return Ok(tunnel);
        }
        let tunnel = websocket::connect(&self.endpoint, addr, spot.0.host(), trust).await;
        let tunnel = Arc::new(tunnel.map_err(OfficeError::Tunnel)?);
        *slot = Arc::downgrade(&tunnel);
        Ok(tunnel)
    }

    /// Says loudly that a peer's key is another one.
    fn told(&self, peer: &PeerHost, e: OfficeError) -> OfficeError {
        let OfficeError::Connect(ConnectError::PeerKeyChanged { expected, found }) = e else {
            return e;
        };
        tracing::warn!("A rendezvous peer shows another key than before: not talking to it");
        self.board.tell(EventKind::PeerKeyChanged { peer: peer.clone(), expected, found });
        OfficeError::KeyChanged { peer: peer.clone(), expected, found }
    }
}

/// How long a peer may be silent when there are signs that it is out of reach. Being wrong costs a
/// round trip, for a new connection.
pub(crate) fn patience(connection: &PeerConnection) -> Duration {
    (connection.rtt() * PATIENCE_RTTS).clamp(MIN_PATIENCE, ANSWER_DEADLINE)
}

/// What a peer says first.
#[derive(Clone, Copy)]
pub(crate) struct Welcome {
    pub(crate) instance: InstanceId,
    pub(crate) observed: SocketAddr,
    /// Its second UDP port.
    pub(crate) echo_port: Option<u16>,
}

/// A connection to a peer that has said its first word.
pub(crate) struct Connected {
    pub(crate) connection: PeerConnection,
    pub(crate) welcome: Welcome,
    /// What the connection runs through when it is not UDP. It has to live as long.
    pub(crate) tunnel: Option<Arc<WebSocketTunnel>>,
    /// What the registration gave, if it was wanted.
    pub(crate) registered: Option<Registered>,
}

impl Connected {
    /// Waits until the tunnel that a connection runs through ends, which the connection would not
    /// hear of before its idle timeout. Without a tunnel, for ever.
    pub(crate) fn tunnel_end(
        tunnel: Option<&Arc<WebSocketTunnel>>,
    ) -> impl Future<Output = TunnelEnd> + Send + use<> {
        let ended = tunnel.map(|tunnel| tunnel.ended());
        async move {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        }
    }

    pub(crate) async fn greet(
        connection: PeerConnection,
        tunnel: Option<Arc<WebSocketTunnel>>,
        register: Option<&Register>,
    ) -> Result<Self, OfficeError> {
        let pushes = async {
            loop {
                match connection.next_push().await {
                    Ok(Push::Welcome { instance, observed, echo_port }) => {
                        return Ok(Welcome { instance, observed, echo_port });
                    }
                    Ok(_) => {}
                    Err(PushError::Connect(e)) => return Err(OfficeError::Connect(e)),
                    Err(_) => return Err(OfficeError::NoWelcome),
                }
            }
        };
        let welcome = tokio::time::timeout(WELCOME_DEADLINE, pushes);
        let registered = async {
            let Some(register) = register else { return Ok(None) };
            let call = Call::Register(register.clone());
            match ask(&connection, &Request { session: None, call }, WELCOME_DEADLINE).await {
                Ok(Response::Registered(registered)) => Ok(Some(registered)),
                // Another attempt at the same moment may have been the first to get there, and
                // its answer is on the way: whoever tries several goes on waiting for that.
                Ok(Response::Refused(e)) => Err(OfficeError::Refused(e)),
                Ok(_) => Err(OfficeError::NotRegistered(RequestError::Unanswered.into())),
                Err(e) => Err(OfficeError::NotRegistered(e)),
            }
        };
        let (welcome, registered) = tokio::join!(welcome, registered);
        // A handshake that failed says why.
        let welcome = welcome.unwrap_or(Err(OfficeError::NoWelcome))?;
        Ok(Self { connection, welcome, tunnel, registered: registered? })
    }
}

/// When a connection ends, the peer may have restarted and forgotten what was left there: everybody
/// with something unacknowledged looks again.
async fn watch(
    net: Arc<Net>,
    connection: PeerConnection,
    tunnel_end: impl Future<Output = TunnelEnd>,
    in_use: CancellationToken,
) {
    let begun = Instant::now();
    let ended = async {
        // Nothing else is pushed to an anonymous connection but that the peer is about to stop.
        while connection.next_push().await.is_ok() {}
        connection.closed().await;
    };
    tokio::select! {
        () = ended => {}
        _ = tunnel_end => connection.close(CloseCode::Done),
        // Forgotten. What ended at the same moment counts as ended.
        () = in_use.cancelled() => if connection.close_reason().is_none() {
            return;
        },
    }
    net.ended.send_modify(|n| *n += 1);
    // Whoever is woken connects again: a peer that ends every connection must not set the pace.
    if begun.elapsed() < STEADY {
        tokio::time::sleep(AFTER_SHORT.mul_f64(random::jitter())).await;
    }
    let waiting = net.store.run(|_, cx| cx.db.contacts_with_unacked()).await;
    net.board.wake(waiting.unwrap_or_default());
}

/// Addresses in the resolver's order, but the two families by turns.
fn in_turn(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (mut list, mut places) = (Vec::with_capacity(addrs.len()), [0, 1]);
    for addr in addrs {
        let place = &mut places[usize::from(addr.is_ipv6() != first)];
        list.push((*place, addr));
        *place += 2;
    }
    list.sort_by_key(|(place, _)| *place);
    list.into_iter().map(|(_, addr)| addr).collect()
}

/// The addresses of a machine, by the system's resolver.
pub(crate) async fn resolve(place: &PeerHost) -> Vec<SocketAddr> {
    match tokio::net::lookup_host((place.host(), place.port())).await {
        Ok(addrs) => addrs.collect(),
        Err(e) => {
            tracing::debug!(reason = %e, "A peer's name was not resolved");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addrs = |list: [&str; 5]| list.map(|a| format!("{a}:1").parse::<SocketAddr>().unwrap());
        let resolved =
            addrs(["[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]", "1.1.1.1", "2.2.2.2"]);
        let wanted =
            addrs(["[2001:db8::1]", "1.1.1.1", "[2001:db8::2]", "2.2.2.2", "[2001:db8::3]"]);
        assert_eq!(in_turn(resolved.to_vec()), wanted);
        let reversed: Vec<_> = resolved.into_iter().rev().collect();
        assert_eq!(in_turn(reversed)[1], wanted[4]);
        assert!(in_turn(Vec::new()).is_empty());
    }
}
