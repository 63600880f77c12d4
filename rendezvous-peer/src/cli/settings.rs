//! The settings, each in three spellings: `--max-memory`, `RENDEZVOUS_PEER_MAX_MEMORY` and
//! `max_memory` in the file. A flag wins over the environment, the environment over the file, the
//! file over the default.

use std::fmt;
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use halloo_wire::InviteId;
use rendezvous_peer::certificate::CertificateFiles;
use rendezvous_peer::core::limits::{
    CONNECTION_MEMORY, MAX_COST, MAX_RELAY_BATCH, MIN_MEMORY, PROGRAM_MEMORY,
};
use rendezvous_peer::core::{Access, AllowList, Limits, Rate};
use rendezvous_peer::{Acme, Config, EchoPort, PublicHost, WebSocketAddr};
use serde::{Deserialize, Deserializer};
use tracing::level_filters::LevelFilter;

use super::admin::AdminAddr;
use super::failure::{Exit, Failure};
use super::log::LogFormat;
use super::values::{AccessMode, BitRate, ByteSize, Span, Switch};

/// One network may have a quarter of the table.
const NETWORK_SHARE: usize = 4;

/// The file that is read when none is named and this one is there.
const SYSTEM_FILE: &str = "/etc/rendezvous-peer/config.toml";
/// The data directory of a service.
const SYSTEM_DATA: &str = "/var/lib/rendezvous-peer";
/// A burst lasts as long as the rate takes for this many seconds.
const BURST_SECONDS: u32 = 10;
/// Longest list of those who are hosted: as many as there may be, each with a line of comment.
const MAX_ALLOW_LIST: u64 = 128 << 20;

/// A burst through the relay lasts as long as the rate takes for this many seconds.
const RELAY_BURST_SECONDS: u32 = 4;

/// The settings as they are given: on the command line and in the environment, or in a file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Where to listen, UDP
    #[arg(long, env = "RENDEZVOUS_PEER_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The second UDP port, at which nodes learn how their NAT behaves: a number, `next` (after
    /// the first), or `off`
    #[arg(long, env = "RENDEZVOUS_PEER_ECHO_PORT", value_name = "PORT")]
    #[serde(deserialize_with = "echo_port")]
    echo_port: Option<EchoPort>,
    /// Where to take WebSockets, TCP, from nodes whose network blocks UDP: an address, `same` (as
    /// UDP), or `off`
    #[arg(long, env = "RENDEZVOUS_PEER_WEBSOCKET", value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "websocket")]
    websocket: Option<WebSocketAddr>,
    /// A certificate of an authority for the WebSockets' port, PEM, for those who are no nodes
    #[arg(long, env = "RENDEZVOUS_PEER_TLS_CERTIFICATE", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// The private key of that certificate, PEM
    #[arg(long, env = "RENDEZVOUS_PEER_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// A name for which the peer gets such a certificate by itself, from an authority that speaks
    /// ACME; may be repeated
    #[arg(long, env = "RENDEZVOUS_PEER_ACME", value_name = "NAME", value_delimiter = ',')]
    acme: Option<Vec<String>>,
    /// Where the authority may write to: a mail address; may be repeated
    #[arg(long, env = "RENDEZVOUS_PEER_ACME_CONTACT", value_name = "MAIL", value_delimiter = ',')]
    acme_contact: Option<Vec<String>>,
    /// Where the authority begins
    #[arg(long, env = "RENDEZVOUS_PEER_ACME_DIRECTORY", value_name = "URL")]
    acme_directory: Option<String>,
    /// Where the account with the authority and the certificate are kept; needed with `acme`
    #[arg(long, env = "RENDEZVOUS_PEER_ACME_CACHE", value_name = "DIR")]
    acme_cache: Option<PathBuf>,
    /// A name under which nodes reach this peer; may be repeated
    #[arg(
        long,
        env = "RENDEZVOUS_PEER_PUBLIC_HOST",
        value_name = "NAME[:PORT]",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "hosts")]
    public_host: Option<Vec<PublicHost>>,
    /// Where the peer's key is kept, and nothing else
    #[arg(long, env = "RENDEZVOUS_PEER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where this machine may look at the running peer: an address of the loopback for HTTP, or
    /// `off`
    #[arg(long, env = "RENDEZVOUS_PEER_ADMIN", value_name = "ADDR:PORT")]
    admin: Option<AdminAddr>,
    /// Whom the peer hosts: everybody (`open`), those with an invite that `rendezvous-peer invite`
    /// has made (`invite`), or those on a list (`allow-list`). Who writes to those whom it hosts is
    /// not asked
    #[arg(long, env = "RENDEZVOUS_PEER_ACCESS", value_name = "open|invite|allow-list")]
    access: Option<AccessMode>,
    /// A file with the fingerprints of those who are hosted, one in a line, for `access =
    /// "allow-list"`
    #[arg(long, env = "RENDEZVOUS_PEER_ALLOW_LIST", value_name = "FILE")]
    allow_list: Option<PathBuf>,
    /// Invites that are taken back, or their ids
    #[arg(long, env = "RENDEZVOUS_PEER_REVOKED_INVITES", value_name = "ID", value_delimiter = ',')]
    #[serde(deserialize_with = "invite_ids")]
    revoked_invites: Option<Vec<InviteId>>,
    /// A file with settings, TOML
    #[arg(long, env = "RENDEZVOUS_PEER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Prints one JSON object a line
    #[arg(
        long,
        env = "RENDEZVOUS_PEER_JSON",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    json: Option<bool>,
    /// How much to log to stderr: off, error, warn, info, debug, trace. No level logs addresses
    /// or identities
    #[arg(long, env = "RENDEZVOUS_PEER_LOG", value_name = "LEVEL")]
    #[serde(deserialize_with = "level")]
    log: Option<LevelFilter>,
    /// What a line of the log is: text, or a JSON object
    #[arg(long, env = "RENDEZVOUS_PEER_LOG_FORMAT", value_name = "text|json")]
    log_format: Option<LogFormat>,
    /// Memory of the process: the program, its connections, the table and all mailboxes
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_MEMORY", value_name = "SIZE")]
    max_memory: Option<ByteSize>,
    /// Memory for the devices of one network (/24 or /56), their mailboxes included
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_MEMORY_PER_NETWORK", value_name = "SIZE")]
    max_memory_per_network: Option<ByteSize>,
    /// Connections at a time
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Connections at a time from one network (/24 or /56)
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_CONNECTIONS_PER_NETWORK", value_name = "N")]
    max_connections_per_network: Option<usize>,
    /// Registered devices
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_REGISTRATIONS", value_name = "N")]
    max_registrations: Option<usize>,
    /// Requests in a second on one connection; 0 is no limit
    #[arg(long, env = "RENDEZVOUS_PEER_RATE_PER_CONNECTION", value_name = "N")]
    rate_per_connection: Option<u32>,
    /// Requests in a second from one network (/24 or /56); 0 is no limit
    #[arg(long, env = "RENDEZVOUS_PEER_RATE_PER_NETWORK", value_name = "N")]
    rate_per_network: Option<u32>,
    /// Whether to relay what two nodes send each other while they have no direct path
    #[arg(long, env = "RENDEZVOUS_PEER_RELAY", value_name = "on|off")]
    relay: Option<Switch>,
    /// Relay channels at a time, one for each pair of nodes
    #[arg(long, env = "RENDEZVOUS_PEER_MAX_RELAY_CHANNELS", value_name = "N")]
    max_relay_channels: Option<usize>,
    /// What one end of a relay channel may send in a second; 0 is no limit
    #[arg(long, env = "RENDEZVOUS_PEER_RELAY_RATE", value_name = "RATE")]
    relay_rate: Option<BitRate>,
    /// What one network (/24 or /56) may send through the relay in a second; 0 is no limit
    #[arg(long, env = "RENDEZVOUS_PEER_RELAY_RATE_PER_NETWORK", value_name = "RATE")]
    relay_rate_per_network: Option<BitRate>,
    /// How long an envelope waits for its recipient
    #[arg(long, env = "RENDEZVOUS_PEER_ENVELOPE_TTL", value_name = "TIME")]
    envelope_ttl: Option<Span>,
    /// How long a registration outlives the last visit
    #[arg(long, env = "RENDEZVOUS_PEER_REGISTRATION_TTL", value_name = "TIME")]
    registration_ttl: Option<Span>,
    /// How long a device without a connection may be silent before it is rung no more
    #[arg(long, env = "RENDEZVOUS_PEER_PARKED_SILENCE", value_name = "TIME")]
    parked_silence: Option<Span>,
    /// How many devices are told to come back in a second after a restart
    #[arg(long, env = "RENDEZVOUS_PEER_RETURN_RATE", value_name = "N")]
    return_rate: Option<u32>,
    /// How long a stopping peer lets connections fetch what waits
    #[arg(long, env = "RENDEZVOUS_PEER_DRAIN_TIMEOUT", value_name = "TIME")]
    drain_timeout: Option<Span>,
    /// Refuses to run where memory could reach a disk, by swap or by a core dump
    #[arg(
        long,
        env = "RENDEZVOUS_PEER_REQUIRE_MEMORY_PROTECTION",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    require_memory_protection: Option<bool>,
}

/// The settings in force.
#[derive(Debug)]
pub(super) struct Effective {
    /// What the peer is started with.
    pub(super) config: Config,
    /// Where the operator looks at it.
    pub(super) admin: AdminAddr,
    /// Whom the peer hosts. [`Effective::with_access`] makes it part of `config`.
    access: AccessSettings,
    /// Whether output is JSON.
    pub(super) json: bool,
    /// How much is logged.
    pub(super) log: LevelFilter,
    /// How a line of it looks.
    pub(super) log_format: LogFormat,
    /// Whether the peer runs only where its memory cannot reach a disk.
    pub(super) require_memory_protection: bool,
    /// Every setting, for printing.
    pub(super) rows: Vec<Row>,
}

/// The settings of whom the peer hosts.
#[derive(Debug)]
struct AccessSettings {
    mode: AccessMode,
    allow_list: PathBuf,
    revoked: Vec<InviteId>,
}

impl Effective {
    /// Reads the list of those who are hosted, if there is one. Most commands have no use for it.
    pub(super) fn with_access(mut self) -> Result<Self, Failure> {
        let AccessSettings { mode, allow_list, revoked } = &self.access;
        self.config.access = match mode {
            AccessMode::Open => Access::Open,
            AccessMode::Invite => {
                Access::Invite { revoked: Arc::new(revoked.iter().copied().collect()) }
            }
            AccessMode::AllowList => Access::AllowList(read_allow_list(allow_list)?),
        };
        Ok(self)
    }

    /// Whether people need an invite.
    pub(super) fn wants_invites(&self) -> bool {
        self.access.mode == AccessMode::Invite
    }

    /// Whether somebody has chosen the value of this setting.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.name == name && row.source != Source::Default)
    }
}

/// One setting with where it is from.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name in a file.
    pub(super) name: &'static str,
    /// Its value, for people.
    pub(super) value: String,
    /// Its value, as it is written in a file.
    pub(super) written: toml::Value,
    /// Its source.
    pub(super) source: Source,
}

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment(String),
    /// A file.
    File(PathBuf),
    /// Nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The environment variable for a flag or a key.
pub(super) fn variable(name: &str) -> String {
    format!("RENDEZVOUS_PEER_{}", name.replace('-', "_").to_uppercase())
}

impl Settings {
    /// Joins what was given here with the file (`file`, or the one that these settings name, or
    /// the system's) and the defaults. `matches` knows which of the values here are flags.
    pub(super) fn resolve(
        &self,
        matches: &ArgMatches,
        file: Option<PathBuf>,
    ) -> Result<Effective, Failure> {
        let named = file.or_else(|| self.config.clone());
        let path = named.or_else(|| Some(SYSTEM_FILE.into()).filter(|p: &PathBuf| p.exists()));
        let file = path.as_deref().map(read).transpose()?.unwrap_or_default();
        self.join(matches, path, &file)
    }

    /// Joins what was given here with what was read from the file at `path`.
    fn join(
        &self,
        matches: &ArgMatches,
        path: Option<PathBuf>,
        file: &Self,
    ) -> Result<Effective, Failure> {
        let mut pick = Pick { matches, path, rows: Vec::new() };
        let limits = Limits::default();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443));
        macro_rules! pick {
            ($name:ident, $default:expr) => {
                pick.value(stringify!($name), &self.$name, &file.$name, || $default)?
            };
        }
        let listen = pick!(listen, Ok(any));
        let echo_port = pick!(echo_port, Ok(EchoPort::Next));
        let websocket = pick!(websocket, Ok(WebSocketAddr::Same));
        let tls_certificate = pick!(tls_certificate, Ok(PathBuf::new()));
        let tls_key = pick!(tls_key, Ok(PathBuf::new()));
        let acme = pick!(acme, Ok(Vec::new()));
        let acme_contact = pick!(acme_contact, Ok(Vec::new()));
        let acme_directory = pick!(acme_directory, Ok(Acme::LETS_ENCRYPT.to_owned()));
        let acme_cache = pick!(acme_cache, Ok(PathBuf::new()));
        let public_hosts = pick!(public_host, Ok(Vec::new()));
        let data_dir = pick!(data_dir, default_data_dir());
        let admin = pick!(admin, Ok(AdminAddr::default()));
        let access = AccessSettings {
            mode: pick!(access, Ok(AccessMode::Open)),
            allow_list: pick!(allow_list, Ok(PathBuf::new())),
            revoked: pick!(revoked_invites, Ok(Vec::new())),
        };
        let json = pick!(json, Ok(false));
        let log = pick!(log, Ok(LevelFilter::INFO));
        let log_format = pick!(log_format, Ok(LogFormat::Text));
        let process = pick!(max_memory, Ok(ByteSize(limits.process_memory()))).0;
        let connections = pick!(max_connections, Ok(limits.connections));
        let memory = table_memory(process, connections)?;
        let share = ByteSize((memory / NETWORK_SHARE).max(MIN_MEMORY));
        let memory_per_source = pick!(max_memory_per_network, Ok(share)).0;
        let connections_per_source =
            pick!(max_connections_per_network, Ok(limits.connections_per_source));
        let registrations = pick!(max_registrations, Ok(limits.registrations));
        let per_connection = pick!(rate_per_connection, Ok(limits.connection_rate.per_second));
        let rate_per_network = pick!(rate_per_network, Ok(limits.source_rate.per_second));
        let relay = pick!(relay, Ok(Switch::On));
        let channels = pick!(max_relay_channels, Ok(limits.relay_channels));
        let of = |rate: Rate| Ok(BitRate::of_bytes(rate.per_second));
        let relay_rate = pick!(relay_rate, of(limits.relay_rate));
        let relay_per_network = pick!(relay_rate_per_network, of(limits.relay_source_rate));
        let envelope_ttl = pick!(envelope_ttl, Ok(Span(limits.envelope_ttl))).0;
        let registration_ttl = pick!(registration_ttl, Ok(Span(limits.registration_ttl))).0;
        let parked_silence = pick!(parked_silence, Ok(Span(limits.parked_silence))).0;
        let return_rate = pick!(return_rate, Ok(limits.return_rate));
        let drain = pick!(drain_timeout, Ok(Span(Config::new("").drain))).0;
        let require_memory_protection = pick!(require_memory_protection, Ok(false));
        let limits = Limits {
            memory,
            memory_per_source,
            connections,
            connections_per_source,
            registrations,
            connection_rate: rate(per_connection),
            source_rate: rate(rate_per_network),
            relay_channels: if relay == Switch::On { channels } else { 0 },
            relay_rate: relay_bucket(relay_rate),
            relay_source_rate: relay_bucket(relay_per_network),
            envelope_ttl,
            registration_ttl,
            parked_silence,
            return_rate,
            ..limits
        };
        limits.check().map_err(|e| Failure::of(Exit::Config, "config-invalid", &e))?;
        let certificate = certificate_files(tls_certificate, tls_key)?;
        let acme = of_acme(acme, acme_contact, acme_directory, acme_cache)?;
        if acme.is_some() && (certificate.is_some() || websocket == WebSocketAddr::Off) {
            let message = "acme is for the WebSockets' port, in place of tls_certificate";
            return Err(Failure::new(Exit::Config, "config-invalid", message));
        }
        let config = Config {
            listen,
            echo_port,
            websocket,
            certificate,
            acme,
            public_hosts,
            data_dir,
            limits,
            drain,
            access: Access::Open,
        };
        Ok(Effective {
            config,
            admin,
            access,
            json,
            log,
            log_format,
            require_memory_protection,
            rows: pick.rows,
        })
    }
}

/// What is left for the table of a process that may take `process` bytes.
fn table_memory(process: usize, connections: usize) -> Result<usize, Failure> {
    let beside = Limits::beside_the_table(connections);
    match process.checked_sub(beside).filter(|&it| it >= MIN_MEMORY) {
        Some(table) => Ok(table),
        None => {
            let message = format!(
                "max_memory = {} is too small: the program takes {}, max_connections = {connections} \
                 take {} each, and the table wants {} at least",
                ByteSize(process),
                ByteSize(PROGRAM_MEMORY),
                ByteSize(CONNECTION_MEMORY),
                ByteSize(MIN_MEMORY),
            );
            Err(Failure::new(Exit::Config, "config-invalid", message))
        }
    }
}

/// Chooses values and notes where they are from.
struct Pick<'a> {
    matches: &'a ArgMatches,
    path: Option<PathBuf>,
    rows: Vec<Row>,
}

impl Pick<'_> {
    fn value<T: Clone + Written>(
        &mut self,
        name: &'static str,
        given: &Option<T>,
        file: &Option<T>,
        default: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (value, source) = match (given, file) {
            (Some(value), _) => {
                let by_flag = self.matches.value_source(name) == Some(ValueSource::CommandLine);
                let source =
                    if by_flag { Source::Flag } else { Source::Environment(variable(name)) };
                (value.clone(), source)
            }
            (None, Some(value)) => {
                let path = self.path.clone().unwrap_or_default();
                (value.clone(), Source::File(path))
            }
            (None, None) => (default()?, Source::Default),
        };
        let written = value.written();
        self.rows.push(Row { name, value: shown(&written), written, source });
        Ok(value)
    }
}

/// A value that can be written in a file.
trait Written {
    fn written(&self) -> toml::Value;
}

macro_rules! written_as_text {
    ($($name:ty)+) => {$(
        impl Written for $name {
            fn written(&self) -> toml::Value {
                toml::Value::String(self.to_string())
            }
        }
    )+};
}

written_as_text! {
    AccessMode AdminAddr BitRate ByteSize EchoPort LevelFilter LogFormat SocketAddr Span Switch WebSocketAddr
}

impl Written for bool {
    fn written(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Written for u32 {
    fn written(&self) -> toml::Value {
        toml::Value::Integer((*self).into())
    }
}

impl Written for usize {
    fn written(&self) -> toml::Value {
        toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Written for PathBuf {
    fn written(&self) -> toml::Value {
        toml::Value::String(self.display().to_string())
    }
}

impl Written for Vec<InviteId> {
    fn written(&self) -> toml::Value {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }
}

impl Written for String {
    fn written(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl Written for Vec<String> {
    fn written(&self) -> toml::Value {
        self.clone().into()
    }
}

impl Written for Vec<PublicHost> {
    fn written(&self) -> toml::Value {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }
}

/// A value for people: without the quotes that a file needs, as on the command line.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The settings where nothing is given, for a service.
pub(super) fn defaults() -> Result<Effective, Failure> {
    let service = Settings { data_dir: Some(SYSTEM_DATA.into()), ..Settings::default() };
    Settings::default().join(&ArgMatches::default(), None, &service)
}

/// The settings where a file with this text is all that is given.
#[cfg(test)]
pub(super) fn of_text(text: &str) -> Result<Effective, toml::de::Error> {
    let file = toml::from_str(text)?;
    let effective = Settings::default().join(&ArgMatches::default(), None, &file);
    Ok(effective.expect("settings that work together"))
}

fn read(path: &Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let message = format!("cannot read the configuration file {}: {e}", path.display());
        Failure::new(Exit::Config, "config-unreadable", message)
    })?;
    toml::from_str(&text).map_err(|e| {
        let before = &text[..e.span().map_or(0, |s| s.start.min(text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        let what = meant(e.message()).unwrap_or_else(|| e.message().to_owned());
        let message = format!("{}:{line}:{column}: {what}", path.display());
        Failure::new(Exit::Config, "config-invalid", message)
            .try_this("rendezvous-peer config check, after mending it")
    })
}

fn read_allow_list(path: &Path) -> Result<AllowList, Failure> {
    if path.as_os_str().is_empty() {
        let message = "access = \"allow-list\" needs allow_list, a file with fingerprints";
        return Err(Failure::new(Exit::Config, "config-invalid", message)
            .try_this("--allow-list FILE, or allow_list in the configuration file"));
    }
    let unreadable = |why: &dyn fmt::Display| {
        let message = format!("cannot read the list {}: {why}", path.display());
        Failure::new(Exit::Config, "allow-list-unreadable", message)
    };
    let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
    let mut text = String::new();
    file.take(MAX_ALLOW_LIST + 1).read_to_string(&mut text).map_err(|e| unreadable(&e))?;
    if text.len() as u64 > MAX_ALLOW_LIST {
        return Err(unreadable(&format_args!("it has more than {MAX_ALLOW_LIST} bytes")));
    }
    AllowList::parse(&text).map_err(|e| {
        let message = format!("{}: {e}", path.display());
        Failure::new(Exit::Config, "allow-list-invalid", message)
            .try_this("one fingerprint in a line, as `halloo id` prints it behind the last /")
    })
}

/// What to say of a name that is none, when it is close to one.
fn meant(message: &str) -> Option<String> {
    let (unknown, _) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let command = Settings::augment_args(Command::new("settings"));
    let names = command.get_arguments().map(|arg| arg.get_id().to_string());
    let near = |name: &String| strsim::damerau_levenshtein(name, unknown);
    let name = names.filter(|name| name != "config").min_by_key(near)?;
    // A mistake in every third letter is none.
    let close = near(&name) <= unknown.len() / 3;
    close.then(|| format!("unknown field `{unknown}`; is `{name}` meant?"))
}

/// Both files of a certificate, or neither. An empty path is none.
fn certificate_files(
    certificate: PathBuf,
    key: PathBuf,
) -> Result<Option<CertificateFiles>, Failure> {
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(CertificateFiles { certificate, key })),
        (given, _) => {
            let (has, lacks) = match given {
                false => ("tls_certificate", "tls_key"),
                true => ("tls_key", "tls_certificate"),
            };
            let message = format!("{has} is of no use without {lacks}");
            Err(Failure::new(Exit::Config, "config-invalid", message))
        }
    }
}

/// What is asked of an authority, if anything.
fn of_acme(
    hosts: Vec<String>,
    contact: Vec<String>,
    directory: String,
    cache: PathBuf,
) -> Result<Option<Acme>, Failure> {
    if hosts.is_empty() {
        return Ok(None);
    }
    if cache.as_os_str().is_empty() {
        let message = "acme needs acme_cache: a peer that kept neither its account nor its \
                       certificate would ask for new ones at each start, and an authority gives \
                       only some in a week";
        return Err(Failure::new(Exit::Config, "acme-without-cache", message)
            .try_this("--acme-cache /var/lib/rendezvous-peer/acme"));
    }
    let mail = |it: String| if it.contains(':') { it } else { format!("mailto:{it}") };
    let contact = contact.into_iter().map(mail).collect();
    Ok(Some(Acme { hosts, contact, directory, cache }))
}

fn rate(per_second: u32) -> Rate {
    Rate { per_second, burst: per_second.saturating_mul(BURST_SECONDS).max(MAX_COST) }
}

fn relay_bucket(rate: BitRate) -> Rate {
    let per_second = rate.bytes();
    let burst = per_second.saturating_mul(RELAY_BURST_SECONDS).max(MAX_RELAY_BATCH);
    Rate { per_second, burst }
}

/// The service's directory for who may write there, a directory of the user's own otherwise.
fn default_data_dir() -> Result<PathBuf, Failure> {
    use rustix::fs::{Access, access};
    let system = PathBuf::from(SYSTEM_DATA);
    if rustix::process::geteuid().is_root() || access(&system, Access::WRITE_OK).is_ok() {
        return Ok(system);
    }
    let absolute = |name: &str, rest: &str| {
        let dir = PathBuf::from(std::env::var_os(name)?);
        dir.is_absolute().then(|| dir.join(rest))
    };
    absolute("XDG_DATA_HOME", "rendezvous-peer")
        .or_else(|| absolute("HOME", ".local/share/rendezvous-peer"))
        .ok_or_else(|| {
            let message = "no place for the peer's key: neither HOME nor XDG_DATA_HOME is set";
            Failure::new(Exit::Config, "no-data-dir", message).try_this("--data-dir DIR")
        })
}

fn invite_ids<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<InviteId>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let ids = texts.iter().map(|t| t.parse().map_err(serde::de::Error::custom));
    ids.collect::<Result<_, _>>().map(Some)
}

fn hosts<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<PublicHost>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let hosts = texts.iter().map(|t| t.parse().map_err(serde::de::Error::custom));
    hosts.collect::<Result<_, _>>().map(Some)
}

/// A number, or a word.
fn echo_port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<EchoPort>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a port number is expected, or `next`, or `off`")]
    enum Given {
        Number(u16),
        Word(String),
    }
    match Given::deserialize(d)? {
        Given::Number(port) => Ok(Some(EchoPort::At(port))),
        Given::Word(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

fn websocket<'de, D: Deserializer<'de>>(d: D) -> Result<Option<WebSocketAddr>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn level<'de, D: Deserializer<'de>>(d: D) -> Result<Option<LevelFilter>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    /// One value for each setting, as it is written on the command line and in a file.
    const SAMPLES: [(&str, &str, &str); 35] = [
        ("listen", "127.0.0.1:1", "\"127.0.0.1:1\""),
        ("echo_port", "9", "9"),
        ("websocket", "127.0.0.1:2", "\"127.0.0.1:2\""),
        ("tls_certificate", "/c.pem", "\"/c.pem\""),
        ("tls_key", "/k.pem", "\"/k.pem\""),
        ("acme", "a.example,b.example", "[\"a.example\", \"b.example\"]"),
        ("acme_contact", "a@a.example", "[\"a@a.example\"]"),
        ("acme_directory", "https://x/", "\"https://x/\""),
        ("acme_cache", "/acme", "\"/acme\""),
        ("public_host", "a.example,b.example:9", "[\"a.example\", \"b.example:9\"]"),
        ("data_dir", "/x", "\"/x\""),
        ("admin", "[::1]:3", "\"[::1]:3\""),
        ("access", "allow-list", "\"allow-list\""),
        ("allow_list", "/list", "\"/list\""),
        (
            "revoked_invites",
            "000g40r40m30e209,0000000000000000",
            "[\"000g40r40m30e209\", \"0000000000000000\"]",
        ),
        ("json", "true", "true"),
        ("log", "debug", "\"debug\""),
        ("log_format", "json", "\"json\""),
        ("max_memory", "1GiB", "\"1GiB\""),
        ("max_memory_per_network", "1MiB", "\"1MiB\""),
        ("max_connections", "5", "5"),
        ("max_connections_per_network", "4", "4"),
        ("max_registrations", "3", "3"),
        ("rate_per_connection", "7", "7"),
        ("rate_per_network", "8", "8"),
        ("relay", "off", "\"off\""),
        ("max_relay_channels", "6", "6"),
        ("relay_rate", "1Mbit", "\"1Mbit\""),
        ("relay_rate_per_network", "2Mbit", "\"2Mbit\""),
        ("envelope_ttl", "1h", "\"1h\""),
        ("registration_ttl", "2d", "\"2d\""),
        ("parked_silence", "2m", "\"2m\""),
        ("return_rate", "9", "9"),
        ("drain_timeout", "0s", "\"0s\""),
        ("require_memory_protection", "true", "true"),
    ];

    fn command() -> Command {
        Settings::augment_args(Command::new("test"))
    }

    fn resolve(args: &[&str], file: &str) -> Result<Effective, Failure> {
        let args = std::iter::once("test").chain(args.iter().copied());
        let matches = command().get_matches_from(args);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        Settings::from_arg_matches(&matches).unwrap().resolve(&matches, Some(path))
    }

    fn failure(file: &str) -> String {
        format!("{:?}", resolve(&[], file).unwrap_err())
    }

    #[test]
    fn every_setting_has_its_three_spellings() {
        let names: Vec<String> = command()
            .get_arguments()
            .map(|arg| {
                let name = arg.get_id().to_string();
                assert_eq!(arg.get_long().unwrap(), name.replace('_', "-"));
                assert_eq!(arg.get_env().unwrap().to_str().unwrap(), variable(&name));
                name
            })
            .filter(|name| name != "config")
            .collect();
        assert_eq!(names, SAMPLES.map(|(name, ..)| name));
        for (name, flag, toml) in SAMPLES {
            let flag = format!("--{}={flag}", name.replace('_', "-"));
            // Of two that need each other, the other one stands in the file.
            let with = match name {
                "tls_certificate" => "tls_key = \"/k.pem\"\n",
                "acme" => "acme_cache = \"/acme\"\n",
                "tls_key" => "tls_certificate = \"/c.pem\"\n",
                _ => "",
            };
            let by_flag = resolve(&[&flag], with).unwrap();
            let by_file = resolve(&[], &format!("{with}{name} = {toml}\n")).unwrap();
            let row = |e: &Effective| {
                let row = e.rows.iter().find(|r| r.name == name).unwrap();
                (row.value.clone(), row.source.clone())
            };
            assert_eq!(row(&by_flag).0, row(&by_file).0);
            assert_eq!(row(&by_flag).1, Source::Flag);
            assert!(matches!(row(&by_file).1, Source::File(_)), "{name}");
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "max_memory = \"1GiB\"\nmax_connections = 7\n";
        let effective = resolve(&["--max-connections", "9"], file).unwrap();
        let limits = effective.config.limits;
        assert_eq!((limits.process_memory(), limits.connections), (1 << 30, 9));
        assert_eq!(limits.registrations, Limits::default().registrations);
        assert_eq!(effective.config.listen.port(), 443);
    }

    #[test]
    fn the_printed_defaults_are_those_of_the_library() {
        let effective = resolve(&[], "").unwrap();
        assert_eq!(effective.config.limits, Limits::default());
        assert!(effective.rows.iter().all(|r| r.source == Source::Default));
    }

    #[test]
    fn the_relay_can_be_switched_off_and_paced() {
        let limits = |args: &[&str], file| resolve(args, file).unwrap().config.limits;
        assert_eq!(limits(&["--relay", "off"], "").relay_channels, 0);
        assert_eq!(limits(&[], "relay = \"off\"\nmax_relay_channels = 9\n").relay_channels, 0);
        assert_eq!(limits(&["--relay=on"], "max_relay_channels = 9\n").relay_channels, 9);
        let slow = limits(&["--relay-rate", "8kbit"], "").relay_rate;
        assert_eq!((slow.per_second, slow.burst), (1_000, MAX_RELAY_BATCH));
        assert_eq!(limits(&["--relay-rate", "0"], "").relay_rate.per_second, 0);
    }

    #[test]
    fn ports_can_be_words() {
        let config = |file| resolve(&[], file).unwrap().config;
        assert_eq!(config("echo_port = \"off\"\n").echo_port, EchoPort::Off);
        assert_eq!(config("echo_port = \"444\"\n").echo_port, EchoPort::At(444));
        assert_eq!(config("websocket = \"off\"\n").websocket, WebSocketAddr::Off);
        assert!(failure("echo_port = 70000\n").contains("a port number is expected"));
        assert!(failure("admin = \"0.0.0.0:9464\"\n").contains("ssh -L"));
        assert!(failure("websocket = \"443\"\n").contains("an address with a port is expected"));
    }

    #[test]
    fn who_is_hosted_is_read_from_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let access = |mode: &str| {
            let list = format!("--allow-list={}", path.display());
            resolve(&[&format!("--access={mode}"), &list], "").unwrap().with_access()
        };
        assert!(matches!(access("open").unwrap().config.access, Access::Open));
        assert!(matches!(access("invite").unwrap().config.access, Access::Invite { .. }));
        let why = |mode| format!("{:?}", access(mode).unwrap_err());
        assert!(why("allow-list").contains("cannot read the list"), "{}", why("allow-list"));
        let somebody = halloo_wire::Fingerprint::from_bytes([7; 30]);
        std::fs::write(&path, format!("# friends\n\n{somebody} # Anna\n{somebody}\n")).unwrap();
        let Access::AllowList(list) = access("allow-list").unwrap().config.access else { panic!() };
        assert!(list.contains(&somebody) && list.len() == 1);
        std::fs::write(&path, format!("{somebody}\n# but\nnobody\n")).unwrap();
        assert!(why("allow-list").contains("list: line 3: "), "{}", why("allow-list"));
        let without = resolve(&["--access=allow-list"], "").unwrap().with_access();
        assert!(format!("{:?}", without.unwrap_err()).contains("needs allow_list"));
    }

    #[test]
    fn a_mistyped_invite_is_not_taken_back_in_silence() {
        assert!(failure("revoked_invites = [\"000g\"]\n").contains("an invite's id 16"));
        assert!(failure("access = \"closed\"\n").contains("allow-list"));
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let config = |file| resolve(&[], file).unwrap().config;
        let both = config("tls_certificate = \"/c\"\ntls_key = \"/k\"\n").certificate.unwrap();
        assert_eq!((both.certificate, both.key), ("/c".into(), "/k".into()));
        assert!(config("tls_certificate = \"\"\ntls_key = \"\"\n").certificate.is_none());
        assert!(failure("tls_certificate = \"/c\"\n").contains("without tls_key"));
        assert!(failure("tls_key = \"/k\"\n").contains("without tls_certificate"));
    }

    #[test]
    fn an_authority_is_asked_only_where_its_answers_can_be_kept() {
        let file = "acme = [\"a.example\"]\nacme_contact = [\"a@a.example\"]\n";
        assert!(failure(file).contains("acme-without-cache"));
        let cache = "acme_cache = \"/acme\"\n";
        let acme = resolve(&[], &format!("{file}{cache}")).unwrap().config.acme.unwrap();
        assert_eq!(acme.contact, ["mailto:a@a.example"]);
        assert_eq!(acme.directory, Acme::LETS_ENCRYPT);
        assert!(resolve(&[], cache).unwrap().config.acme.is_none());
        let both = format!("{file}{cache}tls_certificate = \"/c\"\ntls_key = \"/k\"\n");
        assert!(failure(&both).contains("in place of tls_certificate"));
        assert!(failure(&format!("{file}{cache}websocket = \"off\"\n")).contains("WebSockets"));
    }

    #[test]
    fn mistakes_in_a_file_are_shown_with_their_place() {
        assert!(failure("listen = \"[::]:1\"\n\nmax_memroy = \"1GiB\"\n").contains(".toml:3:1: "));
        assert!(failure("max_memroy = 1\n").contains("is `max_memory` meant?"));
        assert!(failure("max-memory = 1\n").contains("is `max_memory` meant?"));
        assert!(failure("jsn = true\n").contains("is `json` meant?"));
        assert!(failure("foo = 1\n").contains("expected one of `listen`"));
        assert!(failure("max_memory = \"lots\"\n").contains(".toml:1:14: "));
        assert!(failure("public_host = [\"no spaces\"]\n").contains(".toml:1:"));
        assert!(failure("max_memory = \"1KiB\"\n").contains("max_memory = 1KiB is too small"));
        assert!(failure("config = \"x\"\n").contains("unknown field"));
    }
}
