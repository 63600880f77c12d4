//! The real program, and nodes that talk to it over real sockets.

pub(crate) mod raw;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use halloo_identity::{Identity, PeerAddress};
use halloo_transport::websocket::{self, WebSocketTunnel};
use halloo_transport::{Endpoint, EndpointRole, PeerConnection, PeerTrust, Show};
use halloo_wire::envelope::{HEADER_LEN, Header, KEM_CT_LEN, Lane, NOISE_OVERHEAD};
use halloo_wire::peer::{
    Call, DropEnvelope, Grant, Knock, Knocked, LookUp, PeerError, Push, Register, Registered,
    Request, Response,
};
use halloo_wire::{CapabilityToken, DeviceId, Fingerprint, InstanceId, PeerFingerprint, SessionId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Longer than anything here takes, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_rendezvous-peer");

/// Says that something could not be shown on this machine. Where everything is there to show it,
/// which HALLOO_CI_TOOLS says, that is a failure.
pub(crate) fn not_shown(why: &str) {
    assert!(std::env::var_os("HALLOO_CI_TOOLS").is_none(), "not shown: {why}");
    // Not `println!`: what that writes is kept back while tests pass.
    let _ = writeln!(std::io::stderr(), "NOT SHOWN: {why}");
}

/// A running `rendezvous-peer`. Dropped, it is killed.
pub(crate) struct Process {
    pid: Pid,
    events: mpsc::UnboundedReceiver<Value>,
    log: oneshot::Receiver<String>,
    end: Option<oneshot::Receiver<ExitStatus>>,
    /// The events that were waited for or passed over, as text.
    said: String,
    pub(crate) ready: Value,
}

impl Process {
    /// Starts it on a free port of the loopback, with its key in `home`, and waits until it is
    /// ready.
    pub(crate) async fn start(home: &Path, args: &[&str]) -> Self {
        Self::start_at(home, "127.0.0.1:0", args).await
    }

    pub(crate) async fn start_at(home: &Path, listen: &str, args: &[&str]) -> Self {
        Self::start_with(home, listen, args, Stdio::null()).await
    }

    /// Starts it with this input.
    pub(crate) async fn start_with(home: &Path, listen: &str, args: &[&str], stdin: Stdio) -> Self {
        let mut command = command(home);
        command.args(["run", "--json", "--listen", listen]).args(args).stdin(stdin);
        Self::spawn(command).await
    }

    /// Runs `command`, which becomes the program or is it, and waits until it is ready.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let mut child = command
            .env("RENDEZVOUS_PEER_DRAIN_TIMEOUT", "1s")
            .env("RENDEZVOUS_PEER_ADMIN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, events) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(event["schema"], 1);
                assert!(event["mono_ns"].is_u64());
                let _ = sender.send(event);
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let (sender, log) = oneshot::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            let _ = sender.send(text);
        });
        let pid = Pid::from_child(&child);
        let (sender, end) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = sender.send(child.wait().unwrap());
        });
        let mut it =
            Self { pid, events, log, end: Some(end), said: String::new(), ready: Value::Null };
        it.ready = it.event("ready").await;
        it
    }

    /// Waits for the next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap();
            self.said += &format!("{event}\n");
            if event["event"] == name {
                return event;
            }
        }
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.ready["listen"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn websocket(&self) -> SocketAddr {
        self.ready["websocket"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.ready["admin"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn key(&self) -> PeerFingerprint {
        let address: PeerAddress = self.ready["address"].as_str().unwrap().parse().unwrap();
        address.key.unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.end.take().unwrap()).await.unwrap().unwrap()
    }

    /// What it has said on stdout up to the latest event that was waited for.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Stops it at once and returns what it has logged.
    pub(crate) async fn kill(mut self) -> String {
        self.signal(Signal::KILL);
        self.wait().await;
        self.log().await
    }

    /// What it has logged, when it has ended.
    pub(crate) async fn log(&mut self) -> String {
        (&mut self.log).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until somebody has waited for its end, the number is the process's own.
        if self.end.as_mut().is_some_and(|end| end.try_recv().is_err()) {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// The program, in an empty environment of its own.
pub(crate) fn command(home: &Path) -> Command {
    in_home(Command::new(PROGRAM), home)
}

/// A command in an empty environment of its own, with its data in `home`.
pub(crate) fn in_home(mut command: Command, home: &Path) -> Command {
    command.env_clear().env("HOME", home).current_dir(home);
    command.env("RENDEZVOUS_PEER_DATA_DIR", home.join("data"));
    command
}

/// A person's node, as far as a rendezvous peer sees one.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) target: (SocketAddr, PeerFingerprint),
}

impl Node {
    pub(crate) fn new(peer: &Process) -> Self {
        Self::at(peer.listen(), peer.key())
    }

    pub(crate) fn at(peer: SocketAddr, key: PeerFingerprint) -> Self {
        Self::between("127.0.0.1:0", peer, key)
    }

    /// A node that sends from `here`.
    pub(crate) fn here(peer: &Process, here: &str) -> Self {
        Self::between(here, peer.listen(), peer.key())
    }

    fn between(here: &str, peer: SocketAddr, key: PeerFingerprint) -> Self {
        let identity = Identity::generate();
        let here = here.parse().unwrap();
        let endpoint = Endpoint::bind(here, EndpointRole::Node { identity: &identity }).unwrap();
        Self { identity, endpoint, target: (peer, key) }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    pub(crate) async fn connect(&self, show: Show) -> Line {
        let (peer, key) = self.target;
        let trust = PeerTrust::Pinned(key);
        let connection = self.endpoint.connect_peer(peer, trust, show).await.unwrap();
        let line = Line::welcomed(connection).await;
        assert_eq!(line.observed, self.endpoint.local_addr().unwrap());
        line
    }

    /// Connects to the peer at `address`, which may stand for a tunnel.
    pub(crate) async fn connect_at(&self, address: SocketAddr, show: Show) -> Line {
        let trust = PeerTrust::Pinned(self.target.1);
        Line::welcomed(self.endpoint.connect_peer(address, trust, show).await.unwrap()).await
    }

    /// Connects and registers with `counter`.
    pub(crate) async fn register(&self, counter: u64) -> (Line, Registered) {
        let mut line = self.connect(Show::Device).await;
        let registered = line.register(counter).await;
        (line, registered)
    }

    /// Registers and grants `token(n)` with a card for each of `tokens`.
    pub(crate) async fn reachable(&self, tokens: &[u8]) -> Line {
        let (line, _) = self.register(1).await;
        line.grant(tokens).await;
        line
    }

    /// A knock at this node that wants everything and brings nothing.
    pub(crate) fn knock(&self, shown: u8) -> Knock {
        Knock {
            to: self.fingerprint(),
            device: DeviceId::FIRST,
            token: token(shown),
            card: b"caller's card".to_vec(),
            reveal: true,
            attested: vec![],
            relay: true,
            datagrams: vec![],
            message: None,
        }
    }

    /// An envelope for this node.
    pub(crate) fn drop_call(&self, lane: Lane, fill: u8, shown: Option<u8>) -> Call {
        Call::Drop(DropEnvelope {
            to: self.fingerprint(),
            device: DeviceId::FIRST,
            token: shown.map(token),
            instance: None,
            envelope: envelope(lane, fill),
        })
    }

    pub(crate) fn look_up_call(&self) -> Call {
        Call::LookUp(LookUp { to: self.fingerprint(), device: DeviceId::FIRST })
    }
}

/// A connection to the peer.
pub(crate) struct Line {
    pub(crate) connection: PeerConnection,
    pub(crate) instance: InstanceId,
    /// What the welcome said.
    pub(crate) observed: SocketAddr,
    pub(crate) echo_port: Option<u16>,
    pub(crate) session: Option<SessionId>,
}

impl Line {
    async fn welcomed(connection: PeerConnection) -> Self {
        let Push::Welcome { instance, observed, echo_port } = next_push(&connection).await else {
            panic!("the first word is a welcome");
        };
        Self { connection, instance, observed, echo_port, session: None }
    }

    /// Registers with `counter`.
    pub(crate) async fn register(&mut self, counter: u64) -> Registered {
        match self.ask(self.register_call(counter)).await {
            Response::Registered(registered) => {
                self.session = Some(registered.session);
                registered
            }
            other => panic!("not registered: {other:?}"),
        }
    }

    /// Grants `token(n)` with a card for each of `tokens`.
    pub(crate) async fn grant(&self, tokens: &[u8]) {
        let grants = tokens.iter().map(|&n| Grant { id: token(n).id(), card: vec![n; 60] });
        assert_eq!(self.ask(Call::Grant(grants.collect())).await, Response::Done);
    }

    /// Knocks and returns the answer.
    pub(crate) async fn knock(&self, knock: Knock) -> Knocked {
        match self.ask(Call::Knock(knock)).await {
            Response::Knocked(knocked) => knocked,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ask(&self, call: Call) -> Response {
        self.ask_as(self.session, call).await
    }

    pub(crate) async fn ask_as(&self, session: Option<SessionId>, call: Call) -> Response {
        self.connection.request(&Request { session, call }).await.unwrap()
    }

    pub(crate) async fn refused(&self, call: Call) -> PeerError {
        match self.ask(call).await {
            Response::Refused(error) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn register_call(&self, counter: u64) -> Call {
        Call::Register(Register {
            device: DeviceId::FIRST,
            counter,
            instance: Some(self.instance),
            grants: Vec::new(),
            invite: None,
        })
    }

    pub(crate) async fn push(&self) -> Push {
        next_push(&self.connection).await
    }
}

async fn next_push(connection: &PeerConnection) -> Push {
    timeout(PATIENCE, connection.next_push()).await.unwrap().unwrap()
}

/// Opens a tunnel of a node to the peer's TCP port.
pub(crate) async fn tunnel(node: &Node, peer: SocketAddr) -> WebSocketTunnel {
    let host = peer.ip().to_string();
    let trust = PeerTrust::Pinned(node.target.1);
    let opening = websocket::connect_by(&node.endpoint, peer, &host, trust, None);
    Box::pin(opening).await.unwrap()
}

pub(crate) fn token(n: u8) -> CapabilityToken {
    CapabilityToken([n; 32])
}

/// Bytes that a peer takes for an envelope.
pub(crate) fn envelope(lane: Lane, fill: u8) -> Vec<u8> {
    let mut out = Header { lane, key_id: 1 }.encode().to_vec();
    out.resize(HEADER_LEN + KEM_CT_LEN + NOISE_OVERHEAD + 1024, fill);
    out
}

/// The names in a directory, sorted; none when it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
