//! Relay channels of a real peer whose ends are plain sockets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use halloo_identity::{Identity, PeerAddress};
use halloo_transport::{Endpoint, EndpointRole, PeerConnection, PeerTrust, Show};
use halloo_wire::peer::{Call, Grant, Knock, Push, Register, Request, Response};
use halloo_wire::peer_datagram::PeerDatagram;
use halloo_wire::{CapabilityToken, ChannelId, DeviceId};

/// How long the peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A channel and its two ends.
pub struct Channel {
    /// As the caller sends on it.
    pub number: ChannelId,
    pub caller: UdpSocket,
    pub callee: UdpSocket,
}

/// Channels, and what keeps them leased.
pub struct Channels {
    pub list: Vec<Channel>,
    _connections: [PeerConnection; 2],
    _endpoints: [Endpoint; 2],
}

impl Channels {
    /// Leases `n` channels and moves their ends to plain sockets, as a NAT would.
    pub async fn lease(peer: &PeerAddress, at: SocketAddr, n: u8) -> Result<Self> {
        let trust = PeerTrust::Pinned(peer.key.context("the peer's address has no key")?);
        let (ben, anna) = (Identity::generate(), Identity::generate());
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bind = |identity| Endpoint::bind(here, EndpointRole::Node { identity });
        let endpoints = [bind(&ben)?, bind(&anna)?];

        let at_ben = endpoints[0].connect_peer(at, trust, Show::Device).await?;
        let Push::Welcome { instance, .. } = at_ben.next_push().await? else {
            bail!("the peer does not welcome");
        };
        let grants = (0..n).map(|n| Grant { id: token(n).id(), card: vec![n; 60] }).collect();
        let register = Register {
            device: DeviceId::FIRST,
            counter: 1,
            instance: Some(instance),
            grants,
            invite: None,
        };
        match ask(&at_ben, Call::Register(register)).await? {
            Response::Registered(_) => {}
            other => bail!("not registered: {other:?}"),
        }
        let at_anna = endpoints[1].connect_peer(at, trust, Show::Nothing).await?;
        let mut list = Vec::new();
        for n in 0..n {
            let knock = Knock {
                to: ben.fingerprint(),
                device: DeviceId::FIRST,
                token: token(n),
                card: vec![n; 60],
                reveal: true,
                attested: Vec::new(),
                relay: true,
                datagrams: Vec::new(),
                message: None,
            };
            let Response::Knocked(knocked) = ask(&at_anna, Call::Knock(knock)).await? else {
                bail!("the peer answers another question");
            };
            let number = knocked.callee.and_then(|it| it.channel).context("no channel")?;
            let caller = end_of(number, at)?;
            let callee = end_of(number.other(), at)?;
            list.push(Channel { number, caller, callee });
        }
        Ok(Self { list, _connections: [at_ben, at_anna], _endpoints: endpoints })
    }
}

async fn ask(connection: &PeerConnection, call: Call) -> Result<Response> {
    Ok(connection.request(&Request { session: None, call }).await?)
}

fn token(n: u8) -> CapabilityToken {
    CapabilityToken([n; 32])
}

/// A socket that has answered the peer's challenge for one end of a channel.
fn end_of(channel: ChannelId, peer: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(peer)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&PeerDatagram::Keep { channel }.encode())?;
    let mut answer = [0; 64];
    let n = socket.recv(&mut answer).context("the peer does not challenge")?;
    match PeerDatagram::decode(&answer[..n]) {
        Ok(PeerDatagram::RelayChallenge { channel, cookie }) => {
            socket.send(&PeerDatagram::RelayAnswer { channel, cookie }.encode())?;
        }
        other => bail!("no challenge: {other:?}"),
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
