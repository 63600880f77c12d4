//! `rendezvous-peer run`

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use halloo_transport::BindError;
use rendezvous_peer::certificate::CertificateFileError;
use rendezvous_peer::core::{Access, Incident, Limits};
use rendezvous_peer::keyfile::{KEY_FILE, KeyError};
use rendezvous_peer::{CertificateEnd, Config, RunningPeer, Sockets, StartError};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::admin::{self, AdminAddr, AdminListener};
use super::audit::Protection;
use super::facts::Facts;
use super::failure::{Exit, Failure};
use super::log::{self, LogLevel};
use super::service::Service;
use super::settings::Effective;
use super::values::{BitRate, ByteSize, Span};
use super::{address, harden, output, port_owner, reload, sockets};

/// How often incidents are printed.
const INCIDENT_TICK: Duration = Duration::from_secs(1);

/// Runs the peer with the settings that `resolve` finds until a signal stops it. SIGHUP finds them
/// again.
pub(super) fn run(resolve: &dyn Fn() -> Result<Effective, Failure>) -> Result<Exit, Failure> {
    let effective = resolve()?;
    let sockets = sockets::handed_over()?;
    let log = log::install(effective.log, effective.log_format);
    harden::harden();
    let protection = Protection::of(&Facts::of_this_process());
    if effective.require_memory_protection && !protection.holds() {
        return Err(protection.refusal());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::of(Exit::Failure, "no-runtime", &e))?;
    runtime.block_on(serve(effective, sockets, resolve, &log, &protection))
}

async fn serve(
    mut effective: Effective,
    sockets: Sockets,
    resolve: &dyn Fn() -> Result<Effective, Failure>,
    level: &LogLevel,
    protection: &Protection,
) -> Result<Exit, Failure> {
    // Before the first word, so that a signal right after it is heard.
    let no_signals = |e: io::Error| Failure::of(Exit::Failure, "no-signals", &e);
    let mut signals = Signals::new().map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    let from_terminal = has_terminal();
    let admin = admin_listener(&effective).await?;
    let handed_over = HandedOver::of(&sockets);
    let mut peer = rendezvous_peer::start_on(effective.config.clone(), sockets)
        .await
        .map_err(|e| start_failure(&e))?;
    let admin_addr = admin.as_ref().map(AdminListener::local_addr);
    let _admin = admin.map(|admin| admin.serve(peer.monitor(), admin::Facts::of(&peer)));
    if effective.json {
        ready_event(&peer, admin_addr, handed_over, protection);
    } else {
        banner(&peer, &effective.config, admin_addr, handed_over, protection);
    }
    let service = Service::new();
    service.ready(&peer);
    let mut sweeps = peer.sweeps();
    let mut certificates = peer.certificate_changes();
    if certificates.borrow().is_some() {
        certificates.mark_changed();
    }
    let mut log = IncidentLog::default();
    let mut tick = interval(INCIDENT_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            _ = hangup.recv() => {
                if from_terminal && !has_terminal() {
                    break "SIGHUP";
                }
                reload::reload(&mut effective, resolve(), &mut peer, level);
            }
            _ = tick.tick() => log.print(&peer, effective.json),
            Ok(()) = certificates.changed() => {
                let ends = *certificates.borrow_and_update();
                if effective.json {
                    output::event("certificate", json!({ "ends_s": ends }));
                }
            }
            Ok(()) = sweeps.changed() => service.alive(&peer),
        }
    };
    service.stopping();
    log.close(&peer, effective.json);
    let drain = Span(effective.config.drain);
    if effective.json {
        output::event("stopping", json!({ "signal": signal, "stats": peer.stats() }));
    } else {
        output::error_line(&format!(
            "{signal}: stopping, connections have {drain} to leave; a second signal stops at once"
        ));
    }
    tokio::select! {
        () = peer.shutdown() => {}
        _ = signals.next() => return Ok(Exit::Interrupted),
    }
    if effective.json {
        output::event("stopped", json!({}));
    }
    Ok(Exit::Ok)
}

/// Opens the admin port. Where nobody has chosen it, the peer goes on without.
async fn admin_listener(effective: &Effective) -> Result<Option<AdminListener>, Failure> {
    let AdminAddr::At(address) = effective.admin else { return Ok(None) };
    match AdminListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if effective.is_given("admin") => Err(admin_failure(address, &error)),
        Err(error) => {
            tracing::warn!(
                port = address.port(), kind = ?error.kind(),
                "No admin listener: `status`, `health` and `top` find nothing; --admin chooses \
                 another port"
            );
            Ok(None)
        }
    }
}

fn admin_failure(address: SocketAddr, error: &io::Error) -> Failure {
    let message = format!("cannot listen on TCP {address} for the admin listener: {error}");
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        io::ErrorKind::AddrInUse => {
            let mut failure = Failure::new(Exit::Conflict, "port-taken", message);
            if let Some(owner) = port_owner::of_tcp(address.port()) {
                failure = failure.try_this(format!("stopping {owner}, which holds the port"));
            }
            return failure.try_this("--admin 127.0.0.1:PORT with a free port, or --admin off");
        }
        io::ErrorKind::AddrNotAvailable => Exit::Config,
        _ => Exit::Failure,
    };
    Failure::new(exit, "cannot-listen", message)
}

/// How many sockets the service manager has handed over.
#[derive(Clone, Copy)]
struct HandedOver(usize);

impl HandedOver {
    fn of(sockets: &Sockets) -> Self {
        let Sockets { udp, second, tcp } = sockets;
        let given = [udp.is_some(), second.is_some(), tcp.is_some()];
        Self(given.into_iter().filter(|&is| is).count())
    }
}

fn ready_event(
    peer: &RunningPeer,
    admin: Option<SocketAddr>,
    handed_over: HandedOver,
    protection: &Protection,
) {
    let addresses: Vec<String> = peer.addresses().iter().map(ToString::to_string).collect();
    output::event(
        "ready",
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "address": addresses.first(),
            "addresses": addresses,
            "fingerprint": peer.fingerprint().to_string(),
            "listen": peer.local_addr().to_string(),
            "echo_port": peer.echo_port(),
            "websocket": peer.websocket_addr().map(|a| a.to_string()),
            "certificate_ends_s": peer.certificate_end().map(|end| end.at),
            "admin": admin.map(|a| a.to_string()),
            "sockets_handed_over": handed_over.0,
            "pid": std::process::id(),
            "memory_protection": protection.json(),
        }),
    );
}

fn banner(
    peer: &RunningPeer,
    config: &Config,
    admin: Option<SocketAddr>,
    handed_over: HandedOver,
    protection: &Protection,
) {
    let limits = &config.limits;
    output::line(&format!("rendezvous-peer {}", env!("CARGO_PKG_VERSION")));
    for address in peer.addresses() {
        output::line(&format!("  address     {address}"));
    }
    output::line(&format!("  listening   {}", listening(peer)));
    if handed_over.0 > 0 {
        let n = handed_over.0;
        output::line(&format!("  sockets     {n} of these handed over by the service manager"));
    }
    let admin = admin.map_or("off".to_owned(), |a| format!("http://{a}/, for this machine only"));
    output::line(&format!("  admin       {admin}"));
    output::line(&format!("  hosts       {}", hosts(&config.access)));
    output::line(&format!("  relay       {}", relay(limits)));
    output::line(&format!(
        "  memory      up to {}; an envelope waits up to {}",
        ByteSize(limits.process_memory()),
        Span(limits.envelope_ttl)
    ));
    if let Some(end) = peer.certificate_end() {
        output::line(&format!("  certificate {}", certificate(end)));
    }
    if let Some(acme) = &config.acme {
        let (hosts, cache) = (acme.hosts.join(", "), acme.cache.display());
        output::line(&format!("  acme        for {hosts}; keeps its account and keys in {cache}"));
    }
    output::line(&format!("  secrecy     {}", protection.summary()));
    output::line(&format!(
        "  on disk     {} and nothing else{}; logs hold no addresses and no identities",
        config.data_dir.join(KEY_FILE).display(),
        if config.acme.is_some() { " of its own" } else { "" }
    ));
    if let Some(note) = address::host_note(config, Some(peer.address())) {
        output::line(&format!("  note        {note}"));
    }
    let invite = match config.access {
        Access::Invite { .. } => " --invite INVITE",
        Access::Open | Access::AllowList(_) => "",
    };
    output::line(&format!("ready: people join with `halloo init --peer ADDRESS{invite}`"));
}

fn listening(peer: &RunningPeer) -> String {
    let mut text = format!("UDP {} (QUIC)", peer.local_addr());
    match peer.echo_port() {
        Some(port) => text += &format!(", UDP port {port} (NAT tests)"),
        None => text += ", no second UDP port",
    }
    match peer.websocket_addr() {
        Some(address) => text += &format!(", TCP {address} (WebSocket)"),
        None => text += ", no WebSocket",
    }
    text
}

fn hosts(access: &Access) -> String {
    match access {
        Access::Open => "everybody who has its address".to_owned(),
        Access::Invite { .. } => "those with an invite: rendezvous-peer invite".to_owned(),
        Access::AllowList(list) => format!("a list of {}", list.len()),
    }
}

/// Until when a certificate is good.
fn certificate(end: CertificateEnd) -> String {
    match end.days_left {
        ..0 => "of an authority, which has EXPIRED: renew it, the peer takes it over".to_owned(),
        days => format!("of an authority, for those who are no nodes; {days} days left"),
    }
}

fn relay(limits: &Limits) -> String {
    if limits.relay_channels == 0 {
        return "off: nodes that find no direct path have their mailboxes only".to_owned();
    }
    let rate = match limits.relay_rate.per_second {
        0 => "without a limit".to_owned(),
        bytes => format!("up to {} a second each way", BitRate::of_bytes(bytes)),
    };
    format!("for pairs of nodes without a direct path, {rate}")
}

/// Whether this program speaks to a terminal. When it did and does no more, SIGHUP means that the
/// terminal was closed.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let term = signal(SignalKind::terminate())?;
        Ok(Self { term, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it. Cancel safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Prints incidents once their second is over, so that each is one line.
#[derive(Default)]
struct IncidentLog {
    /// Seconds before this one have been printed.
    printed: u64,
}

impl IncidentLog {
    fn print(&mut self, peer: &RunningPeer, json: bool) {
        self.print_before(peer, peer.uptime().as_secs(), json);
    }

    fn close(&mut self, peer: &RunningPeer, json: bool) {
        self.print_before(peer, u64::MAX, json);
    }

    fn print_before(&mut self, peer: &RunningPeer, end: u64, json: bool) {
        let due = self.printed..end;
        for Incident { kind, second, count } in peer.incidents() {
            if !due.contains(&second) {
                continue;
            }
            if json {
                output::event(
                    "incident",
                    json!({ "kind": kind, "second": second, "count": count }),
                );
            } else {
                tracing::info!(?kind, count, "Incident");
            }
        }
        self.printed = end;
    }
}

fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Key(e) => key_failure(e),
        StartError::Limits(_) | StartError::Host(_) => {
            Failure::of(Exit::Config, "config-invalid", error)
        }
        #[cfg(feature = "acme")]
        StartError::Acme(_) => Failure::of(Exit::Config, "acme-unusable", error)
            .try_this("--acme-cache with a directory that this user may write"),
        StartError::Certificate(e) => certificate_failure(e),
        StartError::Bind { listen, source: BindError::Socket(e) } => {
            listen_failure(error, e, "--listen", port_owner::of_udp(listen.port()))
        }
        StartError::BindTcp { source: BindError::Socket(e), .. } => {
            listen_failure(error, e, "--websocket", None)
        }
        _ => Failure::of(Exit::Failure, "cannot-start", error),
    }
}

/// The failure that an address is, given with `flag`, at which the peer cannot listen.
fn listen_failure(
    error: &StartError,
    system: &io::Error,
    flag: &str,
    owner: Option<String>,
) -> Failure {
    match system.kind() {
        io::ErrorKind::PermissionDenied => {
            let program = std::env::current_exe().unwrap_or_else(|_| "rendezvous-peer".into());
            Failure::of(Exit::Permission, "port-not-permitted", error)
                .try_this(format!("sudo setcap cap_net_bind_service=+ep {}", program.display()))
                .try_this(format!("{flag} [::]:8443, which needs no privileges"))
        }
        io::ErrorKind::AddrInUse => {
            let mut failure = Failure::of(Exit::Conflict, "port-taken", error);
            if let Some(owner) = owner {
                failure = failure.try_this(format!("stopping {owner}, which holds the port"));
            }
            failure.try_this(format!("{flag} [::]:8443 or another free port"))
        }
        io::ErrorKind::AddrNotAvailable => Failure::of(Exit::Config, "address-not-here", error)
            .try_this(format!("{flag} with an address of this machine, or [::]:443 for all")),
        _ => Failure::of(Exit::Failure, "cannot-listen", error),
    }
}

/// The failure that a key is which cannot be had.
pub(super) fn key_failure(error: &KeyError) -> Failure {
    let denied = |e: &io::Error| {
        matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    };
    match error {
        KeyError::Directory { source, .. }
        | KeyError::Read { source, .. }
        | KeyError::Write { source, .. } => {
            let exit = if denied(source) { Exit::Permission } else { Exit::Failure };
            Failure::of(exit, "key-inaccessible", error)
                .try_this("--data-dir with a directory that this user may write")
        }
        KeyError::OpenToOthers { path, .. } => {
            Failure::of(Exit::Permission, "key-open-to-others", error)
                .try_this(format!("chmod 600 {}", path.display()))
        }
        _ => Failure::of(Exit::Config, "key-damaged", error)
            .try_this("restoring it from a copy; a fresh key is one that nodes do not know"),
    }
}

/// The failure that a certificate is which cannot be had.
pub(super) fn certificate_failure(error: &CertificateFileError) -> Failure {
    match error {
        CertificateFileError::Read { source, .. } => {
            let (exit, hint) = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    (Exit::Permission, "a group that the peer is in, and `chmod 640` on the file")
                }
                _ => (Exit::Config, "--tls-certificate and --tls-key with the paths of the files"),
            };
            Failure::of(exit, "certificate-unreadable", error).try_this(hint)
        }
        CertificateFileError::OpenToOthers { path, .. } => {
            Failure::of(Exit::Permission, "certificate-key-open-to-others", error)
                .try_this(format!("chmod o= {}", path.display()))
        }
        _ => Failure::of(Exit::Config, "certificate-unusable", error)
            .try_this("the file that your authority calls `fullchain.pem`, and its `privkey.pem`"),
    }
}
