//! Runs a node for a command: alone, or open for other commands through the control socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo::error::StartError;
use halloo::{DirectPolicy, Home, HomeKey, Node};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::control::client::ControlClient;
use crate::control::protocol::{Reply, Request};
use crate::control::server::ControlServer;
use crate::control::socket_path;
use crate::fact::HostKind;
use crate::failure::Failure;
use crate::operate::Operator;
use crate::passphrase::Passphrase;
use crate::perf;
use crate::session::Session;

/// How long a command waits for another one that uses the home for a moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a graceful end may take: telling peers good-bye is a courtesy.
const GOOD_BYE: Duration = Duration::from_secs(5);

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// The home directory.
    pub(crate) home: PathBuf,
    /// Where its passphrase comes from, if it is locked.
    pub(crate) passphrase: Passphrase,
    /// The UDP address to use.
    pub(crate) udp: Option<SocketAddr>,
    /// Who may have a direct path, from here on.
    pub(crate) direct: Option<DirectPolicy>,
}

/// A session and, when this process runs the node, what runs it.
pub(crate) struct Open {
    /// The session.
    pub(crate) session: Session,
    host: Option<Host>,
}

impl Open {
    /// Ends the session, and the node when it is ours.
    pub(crate) async fn close(self) {
        if let Some(host) = self.host {
            host.stop().await;
        }
    }
}

/// Uses the node that runs on the home, or starts one.
///
/// # Errors
/// `already-running` when a node runs there that `kind` does not share; whatever starting one can
/// fail with.
pub(crate) async fn open(options: &Options, kind: HostKind) -> Result<Open, Failure> {
    let mut give_up = Instant::now() + PATIENCE;
    let mut key = None;
    loop {
        if let Some(client) = ControlClient::connect(socket_path(&options.home)).await? {
            match attach(client, kind).await {
                // It stopped in this moment.
                Err(gone) if gone.code == "node-gone" && Instant::now() < give_up => {}
                result => return result.map(|session| Open { session, host: None }),
            }
        }
        // Asked for once, and only when no node runs that has the home open.
        let key = match &key {
            Some(key) => key,
            None => {
                let asked = options.passphrase.for_home(&options.home).await?;
                give_up = Instant::now() + PATIENCE;
                key.insert(asked)
            }
        };
        match start(options, key.clone()).await {
            // A command that has no control socket, or that has not opened it yet.
            Err(StartError::AlreadyRunning { .. }) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(StartError::AlreadyRunning { .. }) => {
                return Err(already_running(HostKind::Command, None));
            }
            Err(e) => return Err(e.into()),
            Ok(node) => {
                let host = Host::new(options, node, kind).await?;
                let session = Session::Local(host.operator.clone());
                return Ok(Open { session, host: Some(host) });
            }
        }
    }
}

/// A home in use.
pub(crate) enum Access {
    /// It is locked by this process.
    Ours(Home),
    /// A node runs on it.
    Running(ControlClient),
}

/// Gets at a home without starting a node.
///
/// # Errors
/// `already-running` when a command without control socket keeps it; whatever opening it can fail
/// with.
pub(crate) async fn access(home: &Path, passphrase: &Passphrase) -> Result<Access, Failure> {
    if let Some(client) = ControlClient::connect(socket_path(home)).await? {
        return Ok(Access::Running(client));
    }
    let key = passphrase.for_home(home).await?;
    access_with(home, key.as_ref()).await
}

/// The same with what opens the home; `None` opens one that is not locked.
pub(crate) async fn access_with(home: &Path, key: Option<&HomeKey>) -> Result<Access, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(client) = ControlClient::connect(socket_path(home)).await? {
            return Ok(Access::Running(client));
        }
        let opened = match key {
            Some(key) => Home::unlock(home, key),
            None => Home::open(home),
        };
        match opened {
            Err(StartError::AlreadyRunning { .. }) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            result => return Ok(Access::Ours(result?)),
        }
    }
}

/// Uses the node that another command hosts, if the two may share it.
async fn attach(client: ControlClient, kind: HostKind) -> Result<Session, Failure> {
    let (emit, _) = tokio::sync::mpsc::channel(1);
    let Reply::Status(running) = client.execute(Request::Status, emit).await? else {
        return Err(Failure::new("control-reply", "the running node does not say how it is"));
    };
    let shares = match kind {
        HostKind::Daemon => false,
        // Two of them would both print, and with --echo both answer, every message.
        HostKind::Listen => running.hosted_by != HostKind::Listen,
        HostKind::Chat | HostKind::Command => true,
    };
    match shares {
        true => Ok(Session::Remote(client)),
        false => Err(already_running(running.hosted_by, Some(running.pid))),
    }
}

/// A node runs on the home already.
pub(crate) fn already_running(by: HostKind, pid: Option<u32>) -> Failure {
    let pid = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
    let by = by.command();
    Failure::new("already-running", format!("a node runs on this home already: {by}{pid}"))
}

async fn start(options: &Options, key: Option<HomeKey>) -> Result<Node, StartError> {
    let mut node = Node::builder().home(&options.home);
    if let Some(key) = key {
        node = node.key(key);
    }
    if let Some(udp) = options.udp {
        node = node.listen(udp);
    }
    if let Some(direct) = options.direct {
        node = node.direct(direct);
    }
    node.start().await
}

/// A node that this process runs.
struct Host {
    node: Node,
    operator: Arc<Operator>,
    control: Option<ControlServer>,
    channels: JoinHandle<()>,
}

impl Host {
    async fn new(options: &Options, node: Node, kind: HostKind) -> Result<Self, Failure> {
        let operator = Operator::new(node.clone(), kind).await?;
        let socket = socket_path(&options.home);
        let control = match kind {
            HostKind::Command => {
                // The home is locked by us, so whoever listened there has died.
                let _ = std::fs::remove_file(&socket);
                None
            }
            _ => match ControlServer::bind(socket, operator.clone()) {
                Ok(control) => Some(control),
                Err(failure) => {
                    node.shutdown().await;
                    return Err(failure);
                }
            },
        };
        let channels = tokio::spawn(answer_channels(node.clone()));
        Ok(Self { node, operator, control, channels })
    }

    async fn stop(self) {
        drop(self.control);
        self.channels.abort();
        if tokio::time::timeout(GOOD_BYE, self.node.shutdown()).await.is_err() {
            tracing::debug!("The node did not end in time");
        }
    }
}

/// Answers measurements. Channels of other names are for other programs: dropping one refuses it.
async fn answer_channels(node: Node) {
    let places = Arc::new(Semaphore::new(perf::MAX_AT_ONCE));
    let mut answering = JoinSet::new();
    while let Some(incoming) = node.accept_channel().await {
        while answering.try_join_next().is_some() {}
        if incoming.name != perf::CHANNEL {
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        answering.spawn(async move {
            if let Err(failure) = perf::answer(incoming.channel).await {
                tracing::debug!(error = failure.message, "Measurement ended early");
            }
            drop(place);
        });
    }
}
