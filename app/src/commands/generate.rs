//! `completions` and `man`.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, EXAMPLES};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Out;

/// Prints completions.
pub(super) fn completions(out: &Out, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "halloo", &mut script);
    out.raw(String::from_utf8_lossy(&script).trim_end())
}

/// Prints the manual page, or writes all of them.
pub(super) fn man(out: &Out, dir: Option<&Path>) -> Result<(), Failure> {
    // Building gives each command its full name, as in halloo-ping.
    let mut command = Cli::command().after_help(None::<&str>);
    command.build();
    let mut general = Vec::new();
    Man::new(command.clone()).render(&mut general)?;
    general_sections().to_writer(&mut general)?;
    let Some(dir) = dir else {
        return out.raw(String::from_utf8_lossy(&general).trim_end());
    };
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("halloo.1"), general)?;
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let mut page = Vec::new();
        let version = env!("CARGO_PKG_VERSION");
        Man::new(sub.clone().version(version)).render(&mut page)?;
        std::fs::write(dir.join(format!("halloo-{}.1", sub.get_name())), page)?;
    }
    Ok(())
}

/// What holds for every command.
fn general_sections() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in EXAMPLES.lines() {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
    roff.control("SH", ["EXIT STATUS"]);
    for (_, number, meaning) in Exit::TABLE {
        roff.control("TP", []);
        roff.text([bold(number.to_string())]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in [
        ("HALLOO_HOME", "the home directory, like --home"),
        ("HALLOO_PEER", "the rendezvous peer for init, like --peer"),
        ("HALLOO_UDP", "the UDP address of the node, like --udp"),
        ("HALLOO_LOG", "what to log to standard error, for example debug,quinn=info"),
        ("NO_COLOR", "no colour, when it is not empty"),
    ] {
        roff.control("TP", []);
        roff.text([bold(variable)]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["FILES"]);
    for (file, meaning) in [
        (
            "$XDG_DATA_HOME/halloo",
            "the home directory: keys, contacts and messages; for its owner alone",
        ),
        (
            "control.sock",
            "in the home directory: how commands use the node that listen, chat or daemon runs",
        ),
        ("listen.cursor", "in the home directory: how far listen has come"),
    ] {
        roff.control("TP", []);
        roff.text([bold(file)]);
        roff.text([roman(meaning)]);
    }
    roff
}
