//! The program `rendezvous-peer`. `rendezvous-peer --help` says what it can do.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
