//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use halloo::{DirectPolicy, Invite, PeerAddress};

use crate::duration;

/// Talk to people and programs directly, end to end encrypted.
///
/// Two people who have only each other's address become contacts, make sure with a six-digit
/// code that nobody stands between them, and talk: directly where they can reach each other,
/// through the other's rendezvous peer where they cannot or where one is away.
#[derive(Debug, Parser)]
#[command(
    name = "halloo",
    version,
    styles = STYLES,
    after_help = format!("Examples:\n{EXAMPLES}\n\n{EXIT_CODES}")
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Shown under the list of commands.
pub(crate) const EXAMPLES: &str = "\
  halloo demo                                      the whole story on this machine, in a minute
  halloo init --peer peer.example.org --name Anna  make an identity; prints its address
  halloo add peer.example.net/k7m2…q4ya --name ben ask Ben to become a contact
  halloo listen                                    show what arrives
  halloo verify ben                                compare a six-digit code with Ben
  halloo send ben \"good morning\"                   send a message
  halloo chat ben                                  talk, line by line
  halloo backup halloo.backup                      everything in one file, to restore elsewhere
  halloo doctor ben                                what works between you, and what does not";

/// The short form; the manual has the table.
const EXIT_CODES: &str = "\
Exit codes: 0 done, 2 usage, 3 not found, 4 unreachable, 5 refused, 6 codes or keys differ,
7 locked, 8 already running, 75 kept for later, 77 not permitted, 78 no usable home.";

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "General options")]
pub(crate) struct Global {
    /// The home directory: keys, contacts and messages [default: $XDG_DATA_HOME/halloo]
    #[arg(long, global = true, env = "HALLOO_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Read the passphrase of a locked home from the first line of a file instead of the terminal
    #[arg(
        long,
        global = true,
        env = "HALLOO_PASSPHRASE_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Read it from the first line that a shell command prints, such as a keychain's
    #[arg(
        long,
        global = true,
        env = "HALLOO_PASSPHRASE_COMMAND",
        value_name = "COMMAND",
        hide_env_values = true,
        conflicts_with = "passphrase_file"
    )]
    pub(crate) passphrase_command: Option<String>,
    /// Print JSON, one object a line, with schema 1; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print data and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log to standard error; twice for more. HALLOO_LOG=debug,quinn=info chooses more finely
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to colour; NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// The UDP address that the node uses [default: [::]:0, any port]
    #[arg(
        long,
        global = true,
        env = "HALLOO_UDP",
        value_name = "ADDR:PORT",
        hide_env_values = true
    )]
    pub(crate) udp: Option<SocketAddr>,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an identity and print its address
    Init(InitArgs),
    /// Print the own address, also as a QR code
    Id(IdArgs),
    /// Lock the home with a passphrase, change it, or remove it
    Passphrase(PassphraseArgs),
    /// Write a backup of everything to one file, opened by a passphrase of its own
    Backup(BackupArgs),
    /// Make a home of a backup
    Restore(RestoreArgs),
    /// Ask somebody to become a contact
    Add(AddArgs),
    /// List contacts
    Contacts,
    /// Accept somebody who asked
    Accept(AcceptArgs),
    /// Do not hear from a contact any more
    Block(WhoArgs),
    /// Make sure that nobody stands between: compare a six-digit code
    Verify(VerifyArgs),
    /// Send a text
    Send(SendArgs),
    /// Take back a message that has not left
    Cancel(CancelArgs),
    /// Show what arrives, until interrupted
    Listen(ListenArgs),
    /// Measure round trips to a contact, and the path they take
    Ping(PingArgs),
    /// Measure throughput to a contact
    Perf(PerfArgs),
    /// Check the network: what works, what does not, and what to do
    Doctor(DoctorArgs),
    /// Talk with a contact, line by line
    Chat(ChatArgs),
    /// Run the node for other commands, until interrupted
    Daemon(HostArgs),
    /// Tell the whole story on this machine: two people, one rendezvous peer
    Demo,
    /// Print completions for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them to a directory
    Man {
        /// Write a page for each command here instead of printing one
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The rendezvous peer where you can be reached: HOST[:PORT] or halloo-peer://HOST[:PORT]/KEY
    #[arg(long, env = "HALLOO_PEER", value_name = "PEER", hide_env_values = true)]
    pub(crate) peer: Option<PeerAddress>,
    /// The invite of the peer's operator, when the peer hosts only those who have one. Also later, and
    /// while the node runs
    #[arg(long, env = "HALLOO_INVITE", value_name = "INVITE", hide_env_values = true)]
    pub(crate) invite: Option<Invite>,
    /// The name that you give yourself when you ask others
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Lock the new home: ask for a passphrase that opens it from then on
    #[arg(long)]
    pub(crate) passphrase: bool,
}

/// `passphrase`.
#[derive(Debug, Args)]
pub(crate) struct PassphraseArgs {
    #[command(subcommand)]
    pub(crate) change: PassphraseChange,
}

/// What happens to the passphrase.
#[derive(Debug, Subcommand)]
pub(crate) enum PassphraseChange {
    /// Encrypt the home: keys, contacts and messages
    Set {
        #[command(flatten)]
        new: NewPassphrase,
    },
    /// Have another passphrase open the home
    Change {
        #[command(flatten)]
        new: NewPassphrase,
    },
    /// Decrypt the home: whoever can read its files has what is in them
    Remove,
}

/// Where a new passphrase comes from.
#[derive(Debug, Args)]
pub(crate) struct NewPassphrase {
    /// Read the new passphrase from the first line of a file instead of the terminal
    #[arg(id = "new_passphrase_file", long = "new-passphrase-file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) new: NewPassphrase,
    /// Replace the file if it is there, once the new one is whole
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    pub(crate) file: PathBuf,
    /// Leave the home unlocked: whoever can read its files has what is in them. Without this, the
    /// backup's passphrase opens the home
    #[arg(long)]
    pub(crate) unlocked: bool,
}

/// `id`.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Leave the QR code out
    #[arg(long)]
    pub(crate) no_qr: bool,
}

/// `add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Their address: HOST[:PORT]/FINGERPRINT or halloo://…
    pub(crate) address: String,
    /// Your name for them
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A line for them to read before they accept
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) note: String,
}

/// `accept`.
#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// Their name, address or the beginning of their fingerprint
    #[arg(value_name = "NAME|FP")]
    pub(crate) who: String,
    /// Your name for them
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// Commands about one contact.
#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// Their name, address or the beginning of their fingerprint
    #[arg(value_name = "NAME")]
    pub(crate) who: String,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    /// The digits that the other person read out, for scripts
    #[arg(long, value_name = "DIGITS")]
    pub(crate) digits: Option<String>,
    /// Show the 60-digit number instead, to compare face to face
    #[arg(long, conflicts_with = "digits")]
    pub(crate) number: bool,
    /// How long to wait for the other side
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
}

/// `send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    /// The text; - reads it from standard input
    pub(crate) text: String,
    /// Each line of the input is a message of its own
    #[arg(long)]
    pub(crate) lines: bool,
    /// Names this sending: repeated with the same key, nothing is sent twice
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Wait until it is at their peer, or delivered
    #[arg(long, value_enum, default_value_t = Until::Kept, hide_default_value = true, value_name = "STATE")]
    pub(crate) wait: Until,
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// Give up what has not left after this time, for example 10m; else it waits for ever
    #[arg(long, value_parser = duration::parse, value_name = "TIME")]
    pub(crate) within: Option<Duration>,
}

/// `cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The message's id, as send prints it with --json
    pub(crate) id: halloo::MessageId,
}

/// How far a message is to come before `send` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// On disk here.
    Kept,
    /// Left our hands: at the recipient's peer, or delivered.
    Peer,
    /// On disk there.
    Delivered,
}

/// What commands that host a node take.
#[derive(Debug, Args, Default)]
pub(crate) struct HostArgs {
    /// Who may have a direct path and so learn your IP address: verified, accepted or never; kept
    #[arg(long, value_name = "POLICY")]
    pub(crate) direct: Option<DirectPolicy>,
}

/// `listen`.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Answer each message with its own text
    #[arg(long)]
    pub(crate) echo: bool,
    /// Accept everybody who asks
    #[arg(long)]
    pub(crate) accept_all: bool,
    /// Where to begin
    #[arg(long, value_enum, default_value_t = Since::Last, value_name = "WHEN")]
    pub(crate) since: Since,
}

/// Where `listen` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Since {
    /// Where the last one stopped, so that nothing is left out
    Last,
    /// At what happens from here on
    Now,
    /// At the oldest event that is kept
    Start,
}

/// `ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// Their name, address or the beginning of their fingerprint
    #[arg(value_name = "NAME|ADDRESS")]
    pub(crate) who: String,
    /// How many
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// How long from one to the next
    #[arg(short, long, default_value = "1s", value_parser = duration::parse)]
    pub(crate) interval: Duration,
    /// How long to wait for each answer
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A contact whose path to check too: their name, address or the beginning of their fingerprint
    #[arg(value_name = "NAME")]
    pub(crate) who: Option<String>,
}

/// `perf`.
#[derive(Debug, Args)]
pub(crate) struct PerfArgs {
    /// Their name, address or the beginning of their fingerprint
    #[arg(value_name = "NAME|ADDRESS")]
    pub(crate) who: String,
    /// For how long, at most 60s
    #[arg(short, long, default_value = "5s", value_parser = duration::parse)]
    pub(crate) duration: Duration,
    /// From them to here
    #[arg(short, long)]
    pub(crate) reverse: bool,
}

/// `chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// How many earlier messages to show
    #[arg(long, default_value_t = 10)]
    pub(crate) history: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_every_command_stand_anywhere() {
        for line in ["halloo --json --home /h contacts", "halloo contacts --home /h --json"] {
            let cli = parse(line).unwrap();
            assert!(cli.global.json);
            assert_eq!(cli.global.home.unwrap(), PathBuf::from("/h"));
        }
    }

    #[test]
    fn ping_takes_the_options_of_the_manual() {
        let cli = parse("halloo ping ben --count 20 --interval 100ms --json").unwrap();
        let Command::Ping(ping) = cli.command else { panic!("not a ping") };
        assert_eq!((ping.count, ping.interval), (20, Duration::from_millis(100)));
    }

    #[test]
    fn peers_are_named_in_two_forms() {
        for peer in ["peer.example.org", "127.0.0.1:4433", "[::1]:4433", "halloo-peer://p.example"]
        {
            parse(&format!("halloo init --peer {peer}")).unwrap();
        }
        assert!(parse("halloo init --peer halloo://p.example/abc").is_err());
        assert!(parse("halloo init --peer p.example:0").is_err());
    }

    #[test]
    fn a_text_may_begin_with_a_dash_after_two() {
        let cli = parse("halloo send ben -").unwrap();
        assert!(matches!(cli.command, Command::Send(SendArgs { text, .. }) if text == "-"));
        assert!(parse("halloo send ben -- --wait").is_ok());
        assert!(parse("halloo send ben").is_err());
    }

    #[test]
    fn messages_are_taken_back_by_id_or_by_time() {
        let cli = parse("halloo send ben hello --within 10m").unwrap();
        let Command::Send(send) = cli.command else { panic!("not a send") };
        assert_eq!(send.within, Some(Duration::from_secs(600)));
        let id = halloo::MessageId([7; 16]);
        let cli = parse(&format!("halloo cancel {id}")).unwrap();
        assert!(matches!(cli.command, Command::Cancel(args) if args.id == id));
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "halloo cancel 12",
            "halloo send ben hello --within soon",
            "halloo",
            "halloo fly",
            "halloo ping ben --count 0",
            "halloo verify a --number --digits 1",
        ] {
            assert_ne!(parse(line).map(|_| 0).unwrap_or_else(|e| e.exit_code()), 0, "{line}");
        }
    }
}
