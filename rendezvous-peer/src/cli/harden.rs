//! Keeps the process's memory out of files.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps, and reading the process's memory to everybody but the superuser.
pub(super) fn no_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Whether the machine has swap, to which memory could be written. `None` when it does not say.
pub(super) fn has_swap() -> Option<bool> {
    let swaps = std::fs::read_to_string("/proc/swaps").ok()?;
    // The first line is the table's head.
    Some(swaps.lines().count() > 1)
}
