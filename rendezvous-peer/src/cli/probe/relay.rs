//! How fast a peer relays: two identities that are thrown away, a channel between them, and as much
//! as goes through it for some seconds. Both ends are here, so it is the slower one of this machine's
//! two directions that is measured, or the peer's limit.
//!
//! A channel takes a registration. The peer is asked to forget it before anything else is said of
//! what was found; whether it can is asked before it is made.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_identity::Identity;
use halloo_transport::{
    Accepted, CloseCode, ConnectError, Endpoint, NodeConnection, PeerConnection, PeerTrust,
    PushError, RelayPath, RequestError, Route, Show,
};
use halloo_wire::peer::{
    Call, Grant, Knock, PeerError, Push, Register, Registered, Request, Response,
};
use halloo_wire::{CapabilityToken, ChannelId, DeviceId, SessionId};
use tokio::signal::ctrl_c;
use tokio::time::timeout;

/// How long each step may take, besides the measurement.
const STEP: Duration = Duration::from_secs(10);
/// QUIC datagrams that ride in a knock.
const FLIGHT: usize = 4;
/// What is written at a time.
const PIECE: usize = 16 << 10;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Bytes of streams that went through in the time that counts.
    pub(super) bytes: u64,
    /// How long that was: the second half of all. In the first one, the peer lets through at once
    /// what is only allowed for a burst.
    pub(super) span: Duration,
    /// From one end to the other and back, through the peer, before anything was sent.
    pub(super) there_and_back: Duration,
}

impl Speed {
    /// Bits in a second.
    pub(super) fn bits_per_second(&self) -> u64 {
        let millis = self.span.as_millis().max(1);
        u64::try_from(u128::from(self.bytes) * 8 * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the peer answers no more: {0}")]
    Request(#[from] RequestError),
    #[error("the peer says no more: {0}")]
    Push(#[from] PushError),
    #[error("the peer refuses: {0}")]
    Refused(PeerError),
    #[error("not tried: this peer is of a version that would keep the registration for two weeks")]
    KeepsRegistrations,
    #[error("the peer gives no relay channel: it does not relay, or is full")]
    NoChannel,
    #[error("the peer answers what was not asked")]
    Unexpected,
    #[error("nothing came through the channel")]
    NothingThrough,
    #[error("nobody answered in time")]
    TimedOut,
    #[error("stopped")]
    Stopped,
    #[error("the operating system gives no random bytes")]
    Random,
    #[error("measured, but the peer did not say that it has forgotten the registration")]
    NotForgotten,
}

/// Two nodes on sockets of their own.
pub(super) struct Ends<'a> {
    pub(super) callee: (&'a Identity, &'a Endpoint),
    pub(super) caller: &'a Endpoint,
}

/// Measures for so long, and leaves nothing at the peer.
pub(super) async fn measure(
    ends: Ends<'_>,
    peer: SocketAddr,
    trust: PeerTrust,
    time: Duration,
) -> Result<Speed, RelayError> {
    let (identity, endpoint) = ends.callee;
    let home = endpoint.connect_peer(peer, trust, Show::Device).await?;
    // A peer that knows the call wants a session for it; another one cannot read it.
    match ask(&home, None, Call::Leave).await? {
        Response::Refused(PeerError::NotRegistered) => {}
        Response::Refused(PeerError::Malformed) => return Err(RelayError::KeepsRegistrations),
        other => return Err(refused(other)),
    }
    let mut token = CapabilityToken([0; 32]);
    getrandom::fill(&mut token.0).map_err(|_| RelayError::Random)?;
    let register = Register {
        device: DeviceId::FIRST,
        counter: 1,
        instance: None,
        grants: vec![Grant { id: token.id(), card: Vec::new() }],
        invite: None,
    };
    let session = match ask(&home, None, Call::Register(register)).await? {
        Response::Registered(Registered { session, .. }) => session,
        other => return Err(refused(other)),
    };
    let measured = tokio::select! {
        measured = between(&ends, identity, &home, peer, trust, token, time) => measured,
        _ = ctrl_c() => Err(RelayError::Stopped),
    };
    let left = ask(&home, Some(session), Call::Leave).await;
    home.close(CloseCode::Done);
    match (measured, left) {
        (Err(error), _) => Err(error),
        (Ok(speed), Ok(Response::Done)) => Ok(speed),
        (Ok(_), _) => Err(RelayError::NotForgotten),
    }
}

/// Connects the two through the relay, and measures.
async fn between(
    ends: &Ends<'_>,
    callee: &Identity,
    home: &PeerConnection,
    peer: SocketAddr,
    trust: PeerTrust,
    token: CapabilityToken,
    time: Duration,
) -> Result<Speed, RelayError> {
    let line = ends.caller.connect_peer(peer, trust, Show::Nothing).await?;
    let route = ends.caller.open_route();
    let dialled = async {
        let expect = callee.fingerprint();
        Ok::<_, RelayError>(ends.caller.connect_node_by(&route, &expect).await?)
    };
    let met = async {
        let datagrams = first_flight(&route).await;
        let to = callee.fingerprint();
        let knock = Knock {
            to,
            device: DeviceId::FIRST,
            token,
            card: Vec::new(),
            reveal: false,
            attested: Vec::new(),
            relay: true,
            datagrams,
            message: None,
        };
        let channel = match ask(&line, None, Call::Knock(knock)).await? {
            Response::Knocked(knocked) => {
                knocked.callee.and_then(|it| it.channel).ok_or(RelayError::NoChannel)?
            }
            other => return Err(refused(other)),
        };
        route.set_relay(Some(RelayPath { via: peer, channel }));
        let (channel, datagrams) = knocked(home).await?;
        let answering = ends.callee.1.open_route();
        answering.set_relay(Some(RelayPath { via: peer, channel }));
        datagrams.into_iter().for_each(|datagram| answering.inject(datagram.into()));
        let incoming = ends.callee.1.accept().await.ok_or(RelayError::NothingThrough)?;
        match incoming.handshake().await {
            Ok(Accepted::Node(accepted)) => Ok((accepted, answering)),
            _ => Err(RelayError::NothingThrough),
        }
    };
    let both = async { tokio::try_join!(dialled, met) };
    let (dialled, (accepted, _answering)) =
        timeout(STEP, both).await.map_err(|_| RelayError::TimedOut)??;
    let speed = stream(&dialled, &accepted, time).await;
    dialled.close(CloseCode::Done);
    accepted.close(CloseCode::Done);
    line.close(CloseCode::Done);
    speed
}

/// Sends from one end to the other for so long.
async fn stream(
    from: &NodeConnection,
    to: &NodeConnection,
    time: Duration,
) -> Result<Speed, RelayError> {
    let lost = |_| RelayError::NothingThrough;
    let there_and_back = from.rtt();
    let mut sending = from.open_uni().await.map_err(lost)?;
    let begun = Instant::now();
    let send = async {
        let piece = vec![0; PIECE];
        while begun.elapsed() < time {
            if sending.write_all(&piece).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    let receive = async {
        let mut receiving = to.accept_uni().await.map_err(lost)?;
        let mut buffer = vec![0; PIECE];
        let (mut bytes, mut counted_from) = (0u64, None);
        while begun.elapsed() < time {
            let n = match receiving.read(&mut buffer).await {
                Ok(Some(n)) => n,
                _ => return Err(RelayError::NothingThrough),
            };
            match counted_from {
                Some(_) => bytes += n as u64,
                None if begun.elapsed() >= time / 2 => counted_from = Some(Instant::now()),
                None => {}
            }
        }
        let span = counted_from.ok_or(RelayError::NothingThrough)?.elapsed();
        Ok(Speed { bytes, span, there_and_back })
    };
    let both = async {
        tokio::select! {
            received = receive => received,
            never = send => never,
        }
    };
    timeout(time + STEP, both).await.map_err(|_| RelayError::NothingThrough)?
}

/// The beginning of the connection that is being made on `route`.
async fn first_flight(route: &Route) -> Vec<Vec<u8>> {
    loop {
        let flight = route.first_datagrams(FLIGHT).await;
        if !flight.is_empty() {
            return flight.iter().map(|datagram| datagram.to_vec()).collect();
        }
    }
}

/// Waits for the knock, and returns what it brings.
async fn knocked(home: &PeerConnection) -> Result<(ChannelId, Vec<Vec<u8>>), RelayError> {
    loop {
        if let Push::Knock { channel, datagrams, .. } = home.next_push().await? {
            return Ok((channel.ok_or(RelayError::NoChannel)?, datagrams));
        }
    }
}

async fn ask(
    connection: &PeerConnection,
    session: Option<SessionId>,
    call: Call,
) -> Result<Response, RelayError> {
    let request = Request { session, call };
    let answer = timeout(STEP, connection.request(&request)).await;
    Ok(answer.map_err(|_| RelayError::TimedOut)??)
}

fn refused(response: Response) -> RelayError {
    match response {
        Response::Refused(error) => RelayError::Refused(error),
        _ => RelayError::Unexpected,
    }
}
