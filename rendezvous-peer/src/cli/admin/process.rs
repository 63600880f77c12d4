//! What the process takes of the machine, as far as the system says.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a process takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Process {
    /// Memory that it has in RAM.
    pub(in crate::cli) rss_bytes: Option<u64>,
    /// Open files and sockets.
    pub(in crate::cli) open_fds: Option<u64>,
    /// How many there may be.
    pub(in crate::cli) max_fds: Option<u64>,
    /// Processor time since the start.
    pub(in crate::cli) cpu_ms: u64,
}

impl Process {
    /// This process, at this moment.
    pub(super) fn this() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
        Self {
            rss_bytes: resident(),
            // The directory that is being read is open too.
            open_fds: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|d| d.count().saturating_sub(1) as u64),
            max_fds: getrlimit(Resource::Nofile).current,
            cpu_ms: seconds * 1000 + u64::try_from(cpu.tv_nsec).unwrap_or(0) / 1_000_000,
        }
    }
}

/// What `status` calls the resident set.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_files() {
        let it = Process::this();
        assert!(it.rss_bytes.unwrap() > 1 << 20);
        assert!(it.open_fds.unwrap() > 2);
        assert!(it.max_fds.unwrap() >= it.open_fds.unwrap());
    }
}
