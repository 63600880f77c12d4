//! The commands. Each is written once, whoever runs the node.

mod backup;
mod chat;
mod contacts;
mod doctor;
mod generate;
mod identity;
mod listen;
mod passphrase;
mod perf;
mod ping;
mod send;
mod verify;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halloo::Home;
use tokio::task::JoinHandle;

use crate::cli::{Command, Global, HostArgs};
use crate::control::protocol::From;
use crate::exit::Exit;
use crate::fact::{Fact, HostKind};
use crate::failure::Failure;
use crate::host::{self, Access, Options};
use crate::output::Out;
use crate::passphrase::Passphrase;
use crate::session::Session;
use crate::signals::{Asked, Stop};
use crate::text::line;

/// How long a command that runs the node itself waits for its peer before it begins, and for its
/// peers before it ends: after that, what is left waits on disk for the next one.
const LINGER: Duration = Duration::from_secs(10);
/// How long a command waits to be registered before it goes on without.
const GET_ONLINE: Duration = Duration::from_secs(3);

/// Carries a command out.
///
/// # Errors
/// Why it failed, with the code that the program ends with.
pub(crate) async fn run(out: Out, global: &Global, command: Command) -> Result<(), Failure> {
    let cx = Context {
        out,
        home: home(global)?,
        passphrase: Passphrase {
            file: global.passphrase_file.clone(),
            command: global.passphrase_command.clone(),
        },
        udp: global.udp,
        stop: Stop::catch()?,
        alarms: Alarms::new(out),
    };
    match command {
        Command::Init(args) => identity::init(&cx, &args).await,
        Command::Passphrase(args) => passphrase::run(&cx, &args).await,
        Command::Backup(args) => backup::write(&cx, args).await,
        Command::Restore(args) => backup::restore(&cx, &args).await,
        Command::Id(args) => identity::id(&cx, &args).await,
        Command::Add(args) => contacts::add(&cx, args).await,
        Command::Contacts => contacts::list(&cx).await,
        Command::Accept(args) => contacts::accept(&cx, args).await,
        Command::Block(args) => contacts::block(&cx, &args.who).await,
        Command::Verify(args) => verify::run(&cx, args).await,
        Command::Send(args) => send::run(&cx, args).await,
        Command::Cancel(args) => send::cancel(&cx, &args).await,
        Command::Listen(args) => listen::listen(&cx, args).await,
        Command::Daemon(args) => listen::daemon(&cx, args).await,
        Command::Ping(args) => ping::run(&cx, args).await,
        Command::Doctor(args) => doctor::run(&cx, args).await,
        Command::Perf(args) => perf::run(&cx, args).await,
        Command::Chat(args) => chat::run(&cx, args).await,
        Command::Demo => tokio::select! {
            result = crate::demo::run(out) => result,
            failure = cx.stop.interrupted() => Err(failure),
        },
        Command::Completions { shell } => generate::completions(&out, shell),
        Command::Man { dir } => generate::man(&out, dir.as_deref()),
    }
}

/// What every command works with.
struct Context {
    out: Out,
    home: PathBuf,
    passphrase: Passphrase,
    udp: Option<SocketAddr>,
    stop: Stop,
    alarms: Alarms,
}

impl Context {
    /// Uses the node of the home, running or started for the purpose, and ends it in order, also
    /// when the command is interrupted.
    async fn with_session<T>(
        &self,
        kind: HostKind,
        args: &HostArgs,
        body: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        identity::require(&self.home)?;
        let options = Options {
            home: self.home.clone(),
            passphrase: self.passphrase.clone(),
            udp: self.udp,
            direct: args.direct,
        };
        let open = tokio::select! {
            open = host::open(&options, kind) => open?,
            failure = self.stop.interrupted() => return Err(failure),
        };
        let watch = self.alarms.watch(open.session.clone());
        let result = tokio::select! {
            result = body(&open.session) => result,
            asked = self.stop.asked() => Err(match (asked, kind) {
                // A supervisor ends what it started: nothing failed.
                (Asked::Terminate, HostKind::Daemon | HostKind::Listen | HostKind::Chat) => {
                    Failure::new("stopped", "stopped")
                }
                _ => Failure::new("interrupted", "interrupted"),
            }),
        };
        let result = result.map_err(|failure| self.alarms.explain(failure));
        drop(watch);
        open.close().await;
        result
    }

    /// The home itself, for a command that no node may run beside.
    async fn home_with(&self, passphrase: &Passphrase) -> Result<Home, Failure> {
        let access = self.interruptible(host::access(&self.home, passphrase)).await?;
        self.ours(access).await
    }

    async fn ours(&self, access: Access) -> Result<Home, Failure> {
        match access {
            Access::Ours(home) => Ok(home),
            Access::Running(client) => {
                let running = Session::Remote(client).status().await?;
                Err(host::already_running(running.hosted_by, Some(running.pid)))
            }
        }
    }

    /// What may wait for a person, until it is interrupted.
    async fn interruptible<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            failure = self.stop.interrupted() => Err(failure),
        }
    }

    /// [`Context::with_session`] for a command that needs a node for a while.
    async fn with_node<T>(
        &self,
        body: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_session(HostKind::Command, &HostArgs::default(), body).await
    }
}

/// Sounds the alarm when a peer shows another key than before, and remembers it as the reason of
/// what fails.
#[derive(Clone)]
struct Alarms {
    out: Out,
    /// Peers and the keys that they show. Each attempt to reach a peer finds it again; said once
    /// is enough.
    said: Arc<Mutex<BTreeSet<(String, String)>>>,
    /// Peers that do not host this node, and why. That explains no failure by itself: others can
    /// be written to.
    refused: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Alarms {
    fn new(out: Out) -> Self {
        Self { out, said: Arc::default(), refused: Arc::default() }
    }

    /// Passes on what `session` hears until the handle is dropped.
    fn watch(&self, session: Session) -> Watch {
        let alarms = self.clone();
        Watch(tokio::spawn(async move {
            let Ok((_, mut events)) = session.events(From::Now).await else { return };
            while let Some(line) = events.next().await {
                alarms.hear(&line.fact);
            }
        }))
    }

    /// Sounds the alarm if this is one, and the first of its kind.
    fn hear(&self, fact: &Fact) {
        let (said, what) = match fact {
            Fact::PeerKeyChanged { peer, found, .. } => (&self.said, (peer, found)),
            Fact::NotAdmitted { peer, code, .. } => (&self.refused, (peer, code)),
            _ => return,
        };
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert((what.0.clone(), what.1.clone())) {
            self.out.alarm(fact);
        }
    }

    /// Nobody could be reached because a key has changed: that is what to say.
    fn explain(&self, failure: Failure) -> Failure {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_about_reaching = matches!(failure.exit, Exit::Unreachable | Exit::Temporary);
        match is_about_reaching && !said.is_empty() {
            true => key_changed(&failure.message),
            false => failure,
        }
    }
}

/// A task that ends when this is dropped.
struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A changed key stopped the command.
fn key_changed(consequence: &str) -> Failure {
    let why = format!("a rendezvous peer shows another key than before: {consequence}");
    Failure::new("peer-key-changed", why)
}

/// What a peer gave out as a contact's keys stopped the command.
fn keys_refused(contact: &str, why: &str) -> Failure {
    let why = format!("nothing is sent to {}, it is kept here: {why}", line(contact));
    Failure::new("keys-refused", why)
}

/// The peer's part of a contact's address.
fn peer_of(address: &str) -> &str {
    address.split_once('/').map_or(address, |(peer, _)| peer)
}

/// The home directory: the option or variable, or the place where data of programs goes.
fn home(global: &Global) -> Result<PathBuf, Failure> {
    let absolute = |var: &str| std::env::var_os(var).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(home) = &global.home {
        return Ok(home.clone());
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|data| data.join("halloo"))
        .ok_or_else(|| {
            Failure::new("no-home", "neither HOME nor XDG_DATA_HOME says where to keep data")
        })
}
