//! Keeps the process's memory out of files. What holds afterwards is read back from the system
//! ([`super::facts`]), not assumed: much of this may have been done, or forbidden, by who started
//! the process.

use std::fs;
use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::set_no_new_privs;

use super::facts::Facts;

/// Takes every measure that the system allows.
pub(super) fn harden() {
    // First, since the file belongs to the superuser once the process cannot be dumped.
    note("An empty core dump filter", fs::write("/proc/self/coredump_filter", "0"));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    note("A core limit of 0", setrlimit(Resource::Core, none));
    // Stops also the dumps that go to a program, which know no limit, and keeps other processes of
    // the same user from the memory.
    note("Not dumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable));
    note("No new privileges", set_no_new_privs(true));
    note("Locked memory", lock_memory());
}

/// Locks all memory, as it comes into use.
///
/// Only where nothing limits how much: the system counts what is reserved, not what is used, and
/// an allocation beyond a limit would fail and end the process long after its start.
fn lock_memory() -> io::Result<()> {
    let limit = getrlimit(Resource::Memlock);
    if limit.maximum.is_none() && limit.current.is_some() {
        setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    }
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    if !unlimited && !Facts::of_this_process().may_lock_without_limit() {
        return Err(io::Error::other("the limit of locked memory is not unlimited"));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

fn note<E: Into<io::Error>>(what: &str, done: Result<(), E>) {
    if let Err(error) = done.map_err(Into::into) {
        tracing::debug!(%error, "{what} could not be had");
    }
}
