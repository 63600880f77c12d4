//! The program `rendezvous-peer`. `rendezvous-peer --help` says what it can do.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

mod cli;

/// Wipes all memory when it is freed, also what QUIC and TLS have used: what has had its time is
/// not found by who takes the machine.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> std::process::ExitCode {
    cli::main()
}
