//! The command line: reads it, runs the command, turns failures into words and exit codes.

mod address;
mod admin;
mod audit;
mod check;
mod facts;
mod failure;
mod generate;
mod harden;
mod invite;
mod log;
mod output;
mod port_owner;
mod probe;
mod reload;
mod run;
mod service;
mod settings;
mod show;
mod sockets;
mod status;
mod top;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use halloo_identity::PeerAddress;

use self::failure::{Exit, Failure};
use self::settings::Settings;
use self::values::Span;

/// Introduces people to each other and keeps their sealed mail for a while, in memory only.
///
/// Without a command it runs, which needs nothing: a key is made at the first start, and the
/// address to give away is printed.
#[derive(Debug, Parser)]
#[command(name = "rendezvous-peer", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  rendezvous-peer                                      listens on port 443, UDP and TCP
  rendezvous-peer run --public-host peer.example.org   prints an address with that name
  rendezvous-peer run --listen [::]:8443               needs no privileges
  rendezvous-peer status                               what the running peer does and holds
  rendezvous-peer config check                         shows every setting and where it is from

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 nothing answers, 6 another key answers, 8 the port is taken, 77 permission, \
78 configuration, 130 interrupted";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the peer until it is told to stop (SIGTERM or SIGINT; a second one stops at once).
    /// SIGHUP makes it read its settings again
    Run(Settings),
    /// Prints the address to give to `halloo init --peer`
    Address(Settings),
    /// Makes invites, for a peer that hosts only those who have one (`access = "invite"`). The peer
    /// need not run: it knows them by its key
    Invite {
        #[command(flatten)]
        wanted: invite::Wanted,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Prints what the peer that runs on this machine does and holds
    Status(Settings),
    /// Says whether the peer that runs on this machine takes connections (exit code 0), is about
    /// to stop (1), or does not answer (4)
    Health(Settings),
    /// Shows what the peer that runs on this machine does, each second; `q` leaves
    Top(Settings),
    /// Tries a peer from here, as a node would: QUIC, WebSocket, its key, the speed of its relay
    Probe {
        /// The peer's address, with its key
        address: PeerAddress,
        /// Does not measure the relay, which takes a registration that is given up again
        #[arg(long)]
        no_relay: bool,
        /// How long the relay is measured, a minute at most
        #[arg(long, value_name = "TIME", default_value = "6s", conflicts_with = "no_relay")]
        relay_time: Span,
        /// Prints a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Looks whether what the peer promises holds here: nothing on a disk, little in its power
    SelfAudit {
        /// A running peer to look at, in place of this process
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Looks at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Writes documentation and completions for packagers
    #[command(hide = true)]
    Generate {
        #[command(subcommand)]
        command: GenerateCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Checks flags, environment and file, prints each setting with its source, and warns of what
    /// is allowed and seldom wise
    Check {
        /// The file to check, in place of --config
        file: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Prints the settings in force, as a file with them would look
    Show(Box<Settings>),
    /// Prints a file with every setting, its meaning and its default, all commented out
    Example,
}

#[derive(Debug, Subcommand)]
enum GenerateCommand {
    /// Man pages
    Man {
        /// Where to
        dir: PathBuf,
    },
    /// Completions for bash, elvish, fish, PowerShell and zsh
    Completions {
        /// Where to
        dir: PathBuf,
    },
}

/// Runs the program with the process's arguments.
pub(super) fn main() -> ExitCode {
    let args = with_default_command(std::env::args_os().collect());
    let json = args.iter().any(|a| a == "--json" || a == "--json=true");
    let exit = match parse(&args) {
        Ok(None) => Exit::Ok,
        Ok(Some((cli, matches))) => match execute(cli, &matches) {
            Ok(exit) => exit,
            Err(failure) => failure.report(json),
        },
        Err(failure) => failure.report(json),
    };
    exit.into()
}

fn execute(cli: Cli, matches: &ArgMatches) -> Result<Exit, Failure> {
    // The settings' own matches say which value came from where.
    let inner = innermost(matches);
    match cli.command {
        Command::Run(settings) => run::run(&|| settings.resolve(inner, None)?.with_access()),
        Command::Address(settings) => address::address(&settings.resolve(inner, None)?),
        Command::Invite { wanted, settings } => {
            invite::invite(&settings.resolve(inner, None)?, &wanted)
        }
        Command::Status(settings) => status::status(&settings.resolve(inner, None)?),
        Command::Health(settings) => status::health(&settings.resolve(inner, None)?),
        Command::Top(settings) => top::top(&settings.resolve(inner, None)?),
        Command::Probe { address, no_relay, relay_time, json } => {
            probe::probe(&address, (!no_relay).then_some(relay_time.0), json)
        }
        Command::SelfAudit { pid, settings } => {
            audit::self_audit(&settings.resolve(inner, None)?, pid)
        }
        Command::Config { command: ConfigCommand::Check { file, settings } } => {
            check::check(&settings.resolve(inner, file)?.with_access()?)
        }
        Command::Config { command: ConfigCommand::Show(settings) } => {
            show::show(&settings.resolve(inner, None)?)
        }
        Command::Config { command: ConfigCommand::Example } => show::example(),
        Command::Generate { command: GenerateCommand::Man { dir } } => {
            generate::man(Cli::command(), &dir)
        }
        Command::Generate { command: GenerateCommand::Completions { dir } } => {
            generate::completions(Cli::command(), &dir)
        }
    }
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

/// Puts `run` in where no command is named.
fn with_default_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let names_none = match args.get(1).and_then(|a| a.to_str()) {
        None => args.len() < 2,
        Some("-h" | "--help" | "-V" | "--version") => false,
        Some(first) => first.starts_with('-'),
    };
    if names_none {
        args.insert(args.len().min(1), "run".into());
    }
    args
}

/// `None` when there was nothing to do but to print help.
fn parse(args: &[OsString]) -> Result<Option<(Cli, ArgMatches)>, Failure> {
    let parsed = Cli::command().try_get_matches_from(args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    match parsed {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // When nobody reads it any more, there is nobody to tell.
            let _ = e.print();
            Ok(None)
        }
        Err(e) => Err(parse_failure(&e, args)),
    }
}

fn parse_failure(e: &clap::Error, args: &[OsString]) -> Failure {
    let text = e.render().to_string();
    if let Some(variable) = variable_at_fault(e, args) {
        let value = match e.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let why = std::error::Error::source(e).map_or_else(|| text.clone(), |s| s.to_string());
        let message =
            format!("the environment variable {variable}={value:?} cannot be used: {why}");
        return Failure::new(Exit::Config, "config-invalid", message);
    }
    let message = text.trim_start_matches("error: ").trim_end().to_owned();
    Failure::new(Exit::Usage, "usage", message)
}

/// The environment variable that holds the value that clap could not use, if it was not a flag.
fn variable_at_fault(e: &clap::Error, args: &[OsString]) -> Option<String> {
    if !matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let Some(ContextValue::String(arg)) = e.get(ContextKind::InvalidArg) else { return None };
    let flag = arg.split([' ', '[', '=']).next()?;
    let given = args
        .iter()
        .filter_map(|a| a.to_str())
        .any(|a| a.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')));
    let name = flag.strip_prefix("--")?;
    (!given).then(|| settings::variable(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filled(args: &[&str]) -> Vec<String> {
        let args = std::iter::once("rendezvous-peer").chain(args.iter().copied());
        let filled = with_default_command(args.map(OsString::from).collect());
        filled.into_iter().skip(1).map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn no_command_means_run() {
        assert_eq!(filled(&[]), ["run"]);
        assert_eq!(filled(&["--listen", "x"]), ["run", "--listen", "x"]);
        assert_eq!(filled(&["address"]), ["address"]);
        assert_eq!(filled(&["--help"]), ["--help"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
