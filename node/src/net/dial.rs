//! Getting a connection to a contact: one knock at the contact's peer carries everything.
//!
//! The caller opens a [line](super::line), begins the QUIC handshake to its virtual address, and
//! knocks with the handshake's first datagrams, its sealed card and, if one waits, a message. The
//! peer forks: it tells the callee and, in the same instant, answers the caller. So the handshake
//! goes on through a relay channel at once, both sides begin to probe each other at the same
//! time, and nobody waits for anybody. The connection moves to a direct path when there is one.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use halloo_e2ee::{CardDirection, open_card, seal_card};
use halloo_identity::{Fingerprint, ReachCapability};
use halloo_nat::PunchKeys;
use halloo_transport::NodeConnection;
use halloo_wire::candidate::Card;
use halloo_wire::limits::MAX_KNOCK_DATAGRAMS;
use halloo_wire::path::RelayPath;
use halloo_wire::peer::{self, Call, Callee, Knock, KnockMessage, PeerError, Receipt, Response};
use halloo_wire::{CapabilityId, ChannelId, RoundId, Side};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::AbortOnDropHandle;

use super::lan::Neighbour;
use super::line::{Line, Link};
use super::paths::{Command, MAX_ASKING, Nearby, Start};
use super::post::{NoAnswer, Office};
use super::{Net, direct};
use crate::core::{Caller, Calling, Reach};
use crate::error::ConnectError;
use crate::random;

/// A connection that is not there by then will not come.
const DEADLINE: Duration = Duration::from_secs(10);

/// What an acceptance is given to be read, when its sender has knocked already.
const ANSWER: Duration = Duration::from_secs(2);

/// When to ask again for the card of a contact who shows none. After that it is no oversight.
const ASK_FOR_CARD: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(5)];

/// A connection that has begun: its first datagrams wait for a knock.
pub(crate) struct Dial {
    net: Arc<Net>,
    contact: Fingerprint,
    reach: Reach,
    round: RoundId,
    line: Arc<Line>,
    connecting: Connecting,
    first: Vec<Vec<u8>>,
    /// One dial at a time for each contact.
    turn: OwnedMutexGuard<()>,
}

type Connecting = AbortOnDropHandle<Result<NodeConnection, halloo_transport::ConnectError>>;

/// A knock that was answered: the connection is on its way.
pub(crate) struct Reaching {
    net: Arc<Net>,
    contact: Fingerprint,
    line: Arc<Line>,
    connecting: Connecting,
    _turn: OwnedMutexGuard<()>,
}

/// What became of a knock.
pub(crate) struct Answered {
    /// What became of the message that rode along.
    pub(crate) message: Option<Result<Receipt, PeerError>>,
    /// The way on, or why there is none.
    pub(crate) reaching: Result<Reaching, ConnectError>,
}

impl Net {
    /// Makes a connection to a contact unless there is one.
    pub(crate) async fn dial(self: &Arc<Self>, contact: &Fingerprint) -> Result<(), ConnectError> {
        let Some(dial) = Dial::begin(self, contact).await? else { return Ok(()) };
        let to = *contact;
        let mail = self.store.run(move |m, cx| m.mail(cx, &to)).await?;
        let mut why = String::from("no peer is known");
        for (peer, key) in mail.ok_or(ConnectError::UnknownContact)?.peers {
            match self.office(&peer, key, contact).await {
                Ok(office) => return dial.knock(&office, None).await?.reaching?.finish().await,
                Err(e) => why = e.to_string(),
            }
        }
        dial.nearby().await.map_err(|_| ConnectError::NoPeer { why })
    }

    /// Nodes of the local network that may be asked whether they are a contact.
    fn neighbours(&self) -> Vec<Neighbour> {
        self.neighbours.borrow().iter().copied().take(MAX_ASKING).collect()
    }
}

impl Dial {
    /// Begins a connection to a contact; `None` when there is one.
    pub(crate) async fn begin(
        net: &Arc<Net>,
        contact: &Fingerprint,
    ) -> Result<Option<Self>, ConnectError> {
        let turn = tokio::select! {
            turn = net.dial_lock(contact).lock_owned() => turn,
            () = linked(net, contact) => return Ok(None),
        };
        if net.links.current(contact).is_some() {
            return Ok(None);
        }
        let reach = reach(net, contact).await?;
        let route = net.endpoint.open_route();
        let round = RoundId(random::bytes());
        let line = net.paths.line(*contact, route.clone(), Some(round));
        let line = line.ok_or(ConnectError::TooMany)?;
        let (endpoint, expect) = (net.endpoint.clone(), *contact);
        let connecting = AbortOnDropHandle::new(tokio::spawn({
            let route = route.clone();
            async move { endpoint.connect_node_by(&route, &expect).await }
        }));
        let first = route.first_datagrams(MAX_KNOCK_DATAGRAMS).await;
        let neighbours = if reach.direct { net.neighbours() } else { Vec::new() };
        if !neighbours.is_empty() {
            let (line, secret) = (Arc::downgrade(&line), reach.theirs.clone());
            net.paths.command(Command::Nearby(Nearby { line, secret, neighbours }));
        }
        Ok(Some(Self {
            net: Arc::clone(net),
            contact: *contact,
            reach,
            round,
            line,
            connecting,
            first: first.into_iter().map(Into::into).collect(),
            turn,
        }))
    }

    /// Does without a knock: the contact may be in the local network.
    pub(crate) async fn nearby(self) -> Result<(), ConnectError> {
        let Self { net, contact, line, connecting, turn, .. } = self;
        Reaching { net, contact, line, connecting, _turn: turn }.finish().await
    }

    /// Knocks, with a message for the contact's mailbox if there is one.
    ///
    /// # Errors
    /// [`ConnectError::NoPeer`] when the peer gave no answer: what became of the message is
    /// unknown.
    pub(crate) async fn knock(
        self,
        office: &Office,
        message: Option<KnockMessage>,
    ) -> Result<Answered, ConnectError> {
        let Self { net, contact, reach, round, line, connecting, first, turn } = self;
        let via = office.connection.remote_addr();
        let rounds = (round, None);
        let knock =
            Knock { datagrams: first, message, ..knock(&net, &contact, &reach, rounds, office) };
        let peer::Knocked { callee, message } = knocked(office.ask(Call::Knock(knock)).await)?;
        let reaching = match callee {
            None => Err(ConnectError::Away),
            Some(callee) => {
                if callee.card.is_empty() && reach.direct {
                    net.spawn(ask_for_card(Arc::clone(&net), Arc::downgrade(&line)));
                }
                let begun = begin_paths(&net, &line, &reach, round, via, callee, office).await;
                begun.map(|()| Reaching { net, contact, line, connecting, _turn: turn })
            }
        };
        Ok(Answered { message, reaching })
    }
}

impl Reaching {
    /// Waits for the connection and puts it in use.
    pub(crate) async fn finish(self) -> Result<(), ConnectError> {
        let Self { net, contact, line, mut connecting, _turn } = self;
        tokio::select! {
            biased;
            connected = &mut connecting => match connected {
                Ok(Ok(connection)) => {
                    direct::adopt(&net, connection, line).await;
                    Ok(())
                }
                Ok(Err(e)) => Err(ConnectError::Unreachable { why: e.to_string() }),
                Err(_) => Err(ConnectError::Stopped),
            },
            // The contact got through. Ours goes on: it may be in use at the other end already.
            () = linked(&net, &contact) => {
                let net_of_task = Arc::clone(&net);
                net.spawn(async move {
                    let done = tokio::time::timeout(DEADLINE, connecting).await;
                    if let Ok(Ok(Ok(connection))) = done {
                        direct::adopt(&net_of_task, connection, line).await;
                    }
                });
                Ok(())
            }
            () = tokio::time::sleep(DEADLINE) => {
                Err(ConnectError::Unreachable { why: "no answer in time".into() })
            }
        }
    }
}

/// Waits until there is a connection to a contact.
async fn linked(net: &Net, contact: &Fingerprint) {
    let mut link = net.links.watch(contact);
    let linked = link.wait_for(|link| link.as_ref().is_some_and(Link::is_open)).await.is_ok();
    if !linked {
        // The node stops: nothing will come.
        std::future::pending::<()>().await;
    }
}

async fn reach(net: &Net, contact: &Fingerprint) -> Result<Reach, ConnectError> {
    let contact = *contact;
    net.store.run(move |m, cx| m.reach(cx, &contact)).await
}

/// A knock of a round; with the round that opened the connection, if there is one already.
fn knock(
    net: &Net,
    contact: &Fingerprint,
    reach: &Reach,
    (round, again): (RoundId, Option<RoundId>),
    office: &Office,
) -> Knock {
    let capability = ReachCapability::from_bytes(*reach.theirs);
    let card = if reach.direct { net.card() } else { Card::default() };
    let card = Card { round: Some(round), again, ..card };
    Knock {
        to: *contact,
        device: reach.device,
        token: capability.token(),
        card: seal_card(&capability.card_key(), CardDirection::Caller, &card),
        reveal: reach.direct,
        attested: if reach.direct { net.probing.attested(&office.peer) } else { Vec::new() },
        relay: true,
        datagrams: Vec::new(),
        message: None,
    }
}

/// The answer to a knock.
fn knocked(answer: Result<Response, NoAnswer>) -> Result<peer::Knocked, ConnectError> {
    match answer {
        Ok(Response::Knocked(knocked)) => Ok(knocked),
        Ok(Response::Refused(e)) => Err(ConnectError::NoPeer { why: e.to_string() }),
        Ok(_) => Err(ConnectError::NoPeer { why: "the peer answered another question".into() }),
        Err(e) => Err(ConnectError::NoPeer { why: e.to_string() }),
    }
}

/// Sets the relay of a line, and begins to look for direct paths.
async fn begin_paths(
    net: &Arc<Net>,
    line: &Arc<Line>,
    reach: &Reach,
    round: RoundId,
    via: SocketAddr,
    callee: Callee,
    office: &Office,
) -> Result<(), ConnectError> {
    let key = ReachCapability::from_bytes(*reach.theirs).card_key();
    let card = if callee.card.is_empty() {
        None
    } else {
        let card = open_card(&key, CardDirection::Callee, &callee.card);
        Some(card.map_err(|_| ConnectError::Away)?)
    };
    let relay = callee.channel.map(|channel| RelayPath { via, channel });
    let remote = card.filter(|_| reach.direct).map(|card| (card, callee.observed));
    if relay.is_none() && remote.is_none() {
        return Err(ConnectError::NoPath);
    }
    net.paths
        .start(Start {
            line: Arc::downgrade(line),
            role: Side::Caller,
            keys: PunchKeys::derive(&reach.theirs, &round, Side::Caller),
            relay,
            remote,
            relay_rtt: office.connection.rtt(),
        })
        .await;
    Ok(())
}

/// Knocks again for a card: somebody who has just accepted us may not have left one yet.
async fn ask_for_card(net: Arc<Net>, line: Weak<Line>) {
    for pause in ASK_FOR_CARD {
        tokio::time::sleep(pause).await;
        match line.upgrade() {
            Some(line) if line.is_hidden() => knock_again(Arc::clone(&net), line).await,
            Some(_) | None => return,
        }
    }
}

/// Knocks for a line that has lost its paths, or whose network has changed: another round and
/// another channel for the connection that is there. A peer that does not answer is asked once
/// more on a new connection.
pub(crate) async fn knock_again(net: Arc<Net>, line: Arc<Line>) {
    for _ in 0..2 {
        match try_again(&net, &line).await {
            Err(e @ ConnectError::NoPeer { .. }) => {
                let contact = line.contact.short();
                tracing::debug!(%contact, reason = %e, "Could not knock again");
            }
            _ => return,
        }
    }
}

async fn try_again(net: &Arc<Net>, line: &Arc<Line>) -> Result<(), ConnectError> {
    let contact = line.contact;
    let reach = reach(net, &contact).await?;
    let mail = net.store.run(move |m, cx| m.mail(cx, &contact)).await?;
    let round = RoundId(random::bytes());
    let mut why = String::from("no peer is known");
    for (peer, key) in mail.map(|m| m.peers).unwrap_or_default() {
        let office = match net.office(&peer, key, &contact).await {
            Ok(office) => office,
            Err(e) => {
                why = e.to_string();
                continue;
            }
        };
        let via = office.connection.remote_addr();
        let knock = knock(net, &contact, &reach, (round, line.opened), &office);
        let asked = match office.ask_in_doubt(Call::Knock(knock)).await {
            Err(e) => {
                why = e.to_string();
                continue;
            }
            answer => answer,
        };
        let callee = knocked(asked)?.callee.ok_or(ConnectError::Away)?;
        return begin_paths(net, line, &reach, round, via, callee, &office).await;
    }
    Err(ConnectError::NoPeer { why })
}

/// What a peer pushes when somebody knocks.
pub(crate) struct Knocked {
    pub(crate) capability: CapabilityId,
    pub(crate) observed: Vec<SocketAddr>,
    pub(crate) card: Vec<u8>,
    pub(crate) channel: Option<ChannelId>,
    pub(crate) datagrams: Vec<Vec<u8>>,
    /// Where the peer is that pushed it.
    pub(crate) via: SocketAddr,
    /// Round trip to it.
    pub(crate) rtt: Duration,
}

/// Tells the paths task who may call in the local network, whenever our announcement or our
/// contacts change.
pub(crate) async fn expect_nearby(net: Arc<Net>) {
    let mut nonce = net.nonce.subscribe();
    let mut contacts = net.board.grants.subscribe();
    loop {
        let announced = *nonce.borrow_and_update();
        contacts.mark_unchanged();
        if let Some(nonce) = announced
            && let Ok(callers) = net.store.run(move |m, cx| m.nearby_callers(cx, nonce)).await
        {
            net.paths.command(Command::Callers(callers));
        }
        tokio::select! {
            Ok(()) = nonce.changed() => {}
            Ok(()) = contacts.changed() => {}
        }
    }
}

/// A contact has knocked. A knock beyond [`MAX_KNOCKS`](super::MAX_KNOCKS) at once is dropped:
/// neither a peer nor a contact sets the pace.
pub(crate) fn take_knock(net: &Arc<Net>, knocked: Knocked) {
    if let Ok(permit) = Arc::clone(&net.knocks).try_acquire_owned() {
        let net_of_task = Arc::clone(net);
        net.spawn(async move {
            let line = answer_knock(&net_of_task, knocked).await;
            drop(permit);
            if let Some(line) = line {
                hold(line).await;
            }
        });
    }
}

/// Keeps a line for whoever called: she has this long to finish the handshake. After that, the
/// connection holds the line, or nobody does.
pub(crate) async fn hold(line: Arc<Line>) {
    tokio::time::sleep(DEADLINE).await;
    drop(line);
}

/// The contact who holds a capability that we gave. Somebody whom we have asked is waited for a
/// little: her answer and her first knock come together, and the answer takes a moment to read.
async fn caller(net: &Net, capability: CapabilityId) -> Option<Caller> {
    let mut events = net.board.subscribe();
    let look = || net.store.run(move |m, cx| m.caller(cx, &capability));
    let welcome = async {
        loop {
            match look().await.ok()? {
                Calling::Welcome(caller) => return Some(caller),
                Calling::Nobody => return None,
                Calling::NotYet => {}
            }
            // Any event is a reason to look again, and so is having missed some.
            let _ = events.recv().await;
        }
    };
    tokio::time::timeout(ANSWER, welcome).await.ok().flatten()
}

/// Lets the caller in: opens a line for a new connection, or finds the line of the one that is
/// there, and begins to look for paths. Returns a line that waits for its connection.
async fn answer_knock(net: &Arc<Net>, knocked: Knocked) -> Option<Arc<Line>> {
    let Caller { contact, ours, direct } = caller(net, knocked.capability).await?;
    let key = ReachCapability::from_bytes(*ours).card_key();
    let card = open_card(&key, CardDirection::Caller, &knocked.card).ok()?;
    let round = card.round?;
    let (line, is_new) = if !knocked.datagrams.is_empty() {
        (net.paths.line(contact, net.endpoint.open_route(), Some(round))?, true)
    } else {
        // Both may have dialled, and each side may use another connection for a moment. One that
        // was found in the local network has no name that both know.
        let named = card.again.and_then(|opened| net.paths.opened(&contact, opened));
        let current = || net.links.current(&contact).map(|it| it.line);
        let unnamed = || current().filter(|it| card.again.is_none() || it.opened.is_none());
        (named.or_else(unnamed)?, false)
    };
    let relay = knocked.channel.map(|channel| RelayPath { via: knocked.via, channel });
    net.paths
        .start(Start {
            line: Arc::downgrade(&line),
            role: Side::Callee,
            keys: PunchKeys::derive(&ours, &round, Side::Callee),
            relay,
            // A caller who hides shows no address at all.
            remote: (direct && !knocked.observed.is_empty()).then_some((card, knocked.observed)),
            relay_rtt: knocked.rtt,
        })
        .await;
    for datagram in knocked.datagrams {
        line.route.inject(datagram.into());
    }
    is_new.then_some(line)
}
