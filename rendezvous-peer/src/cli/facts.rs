//! What the system says about a process, as far as it decides who can read the process's memory
//! and what it can do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::{DumpableBehavior, dumpable_behavior};

/// The capability to listen on ports below 1024.
pub(super) const NET_BIND_SERVICE: u32 = 10;
/// The capability to lock memory without a limit.
pub(super) const IPC_LOCK: u32 = 14;
/// Mappings of the kernel's own are never locked and hold nothing of ours. They take some tens of
/// kilobytes.
const NEVER_LOCKED: u64 = 1 << 20;

/// What can be seen of a process. `None` is what cannot.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Whether the machine has swap.
    pub(super) swap: Option<bool>,
    /// The control group that lets none of its processes swap.
    pub(super) swapless_group: Option<String>,
    /// Bytes of the process's memory, and how many of them are locked.
    pub(super) memory: Option<(u64, u64)>,
    /// Bytes that are in swap at this moment.
    pub(super) swapped: Option<u64>,
    /// The hard limit of a core file; `u64::MAX` where there is none.
    pub(super) core_limit: Option<u64>,
    /// Whether the process can be dumped, and read by others of its user.
    pub(super) dumpable: Option<bool>,
    /// Which kinds of memory go into a core file; 0 is none.
    pub(super) core_filter: Option<u64>,
    /// Whether core files go to a program, which knows no limit.
    pub(super) core_piped: Option<bool>,
    /// The effective user.
    pub(super) user: Option<u32>,
    /// Whether user 0 is the machine's superuser, and not somebody's in a namespace.
    pub(super) first_namespace: bool,
    /// The effective capabilities, a bit each.
    pub(super) capabilities: Option<u64>,
    /// Whether the process can gain no privileges by starting another program.
    pub(super) no_new_privileges: Option<bool>,
    /// Files that are open for writing, with their descriptor.
    pub(super) written: Option<Vec<(u32, String)>>,
}

impl Facts {
    /// Looks at this process.
    pub(super) fn of_this_process() -> Self {
        let dumpable = dumpable_behavior().ok().map(|d| d != DumpableBehavior::NotDumpable);
        Self { dumpable, ..Self::read(Path::new("/"), Path::new("proc/self")) }
    }

    /// Looks at another process; `None` when there is none.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let proc = PathBuf::from(format!("proc/{pid}"));
        let dir = Path::new("/").join(&proc);
        let facts = Self::read(Path::new("/"), &proc);
        // The files of a process that cannot be dumped belong to the superuser. Those of the
        // superuser's processes do so anyway.
        let owner = fs::metadata(dir.join("status")).ok()?.uid();
        let dumpable = facts.user.filter(|&user| user != 0).map(|_| owner != 0);
        Some(Self { dumpable, ..facts })
    }

    /// Reads what stands in files. Tests give another `root`.
    fn read(root: &Path, process: &Path) -> Self {
        let text = |path: &Path| fs::read_to_string(root.join(path)).ok();
        let of_process = |name: &str| text(&process.join(name)).unwrap_or_default();
        let status = of_process("status");
        let number = |key: &str| field(&status, key)?.split_whitespace().next()?.parse().ok();
        let kib = |key: &str| number(key).map(|n: u64| n * 1024);
        let bits = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
        let pattern = text(Path::new("proc/sys/kernel/core_pattern"));
        let ids = field(&status, "Uid").map(str::split_whitespace);
        Self {
            // The first line is the table's head.
            swap: text(Path::new("proc/swaps")).map(|t| t.lines().count() > 1),
            swapless_group: swapless_group(root, &of_process("cgroup"), &of_process("mounts")),
            memory: kib("VmSize").zip(kib("VmLck")),
            swapped: kib("VmSwap"),
            core_limit: hard_limit(&of_process("limits"), "Max core file size"),
            dumpable: None,
            core_filter: bits(&of_process("coredump_filter")),
            core_piped: pattern.map(|p| p.starts_with('|')),
            user: ids.and_then(|mut ids| ids.nth(1)?.parse().ok()),
            // A system without namespaces has no map.
            first_namespace: text(&process.join("uid_map"))
                .is_none_or(|map| map.split_whitespace().eq(["0", "0", "4294967295"])),
            capabilities: field(&status, "CapEff").and_then(bits),
            no_new_privileges: number("NoNewPrivs").map(|n| n == 1),
            written: written(&root.join(process)),
        }
    }

    /// Whether all memory is locked.
    pub(super) fn locked(&self) -> bool {
        self.memory.is_some_and(|(all, locked)| locked > 0 && locked + NEVER_LOCKED >= all)
    }

    /// Whether the process may lock memory beyond any limit.
    pub(super) fn may_lock_without_limit(&self) -> bool {
        self.first_namespace && self.capabilities.is_some_and(|c| c >> IPC_LOCK & 1 == 1)
    }
}

/// The value of `key` in lines of the form `key: value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let of_key = |line: &'a str| line.strip_prefix(key)?.strip_prefix(':');
    text.lines().find_map(of_key).map(str::trim)
}

/// The hard limit in the kernel's table: name, soft limit, hard limit, unit.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The innermost control group (version 2) of the process, or of its parents, that allows no swap.
fn swapless_group(root: &Path, groups: &str, mounts: &str) -> Option<String> {
    let group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    // A group outside of what this process can see begins with `..`.
    if group.components().any(|c| c == Component::ParentDir) {
        return None;
    }
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mount.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    let mount = root.join(mount.get(1)?.trim_start_matches('/'));
    group.ancestors().find_map(|group| {
        let inside = group.strip_prefix("/").ok()?;
        let most = fs::read_to_string(mount.join(inside).join("memory.swap.max")).ok()?;
        (most.trim() == "0").then(|| group.display().to_string())
    })
}

/// Files with a path, outside of /dev and /proc, that the process has open for writing.
fn written(process: &Path) -> Option<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(process.join("fd")).ok()? {
        let number: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let info = process.join("fdinfo").join(number.to_string());
        // A descriptor may be closed while this goes on: that of the directory is.
        let Ok(info) = fs::read_to_string(info) else { continue };
        let Ok(target) = fs::read_link(process.join("fd").join(number.to_string())) else {
            continue;
        };
        let flags = field(&info, "flags").and_then(|f| u32::from_str_radix(f, 8).ok())?;
        let target = target.to_string_lossy();
        let device = ["/dev/", "/proc/"].iter().any(|dir| target.starts_with(dir));
        // Reading only is 0; sockets and pipes have no path.
        if flags & 0o3 != 0 && target.starts_with('/') && !device {
            found.push((number, target.into_owned()));
        }
    }
    found.sort();
    Some(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A root directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Facts {
        Facts::read(root(files).path(), Path::new("proc/7"))
    }

    const MOUNTS: (&str, &str) = (
        "proc/7/mounts",
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
    );

    #[test]
    fn swap_is_seen_in_the_table_of_swaps() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(read(&[("proc/swaps", head)]).swap, Some(false));
        let file = format!("{head}/swapfile file 1048572 0 -2\n");
        assert_eq!(read(&[("proc/swaps", &file)]).swap, Some(true));
        assert_eq!(read(&[]).swap, None);
    }

    #[test]
    fn a_group_that_may_not_swap_counts_for_those_inside_it() {
        let group = ("proc/7/cgroup", "4:memory:/other\n0::/a.slice/b.service\n");
        let at = |path, most| read(&[MOUNTS, group, (path, most)]).swapless_group;
        let own = "sys/fs/cgroup/unified/a.slice/b.service/memory.swap.max";
        let parent = "sys/fs/cgroup/unified/a.slice/memory.swap.max";
        assert_eq!(at(own, "0\n").as_deref(), Some("/a.slice/b.service"));
        assert_eq!(at(parent, "0\n").as_deref(), Some("/a.slice"));
        assert_eq!(at("sys/fs/cgroup/unified/memory.swap.max", "0\n").as_deref(), Some("/"));
        assert_eq!(at(own, "max\n"), None);
        assert_eq!(at("sys/fs/cgroup/unified/c.slice/memory.swap.max", "0\n"), None);
        let outside = ("proc/7/cgroup", "0::/../b.service\n");
        assert_eq!(read(&[MOUNTS, outside, (own, "0\n")]).swapless_group, None);
    }

    #[test]
    fn memory_is_locked_when_all_of_it_is() {
        let locked = |status| read(&[("proc/7/status", status)]).locked();
        assert!(locked("VmSize:\t   20000 kB\nVmLck:\t   19968 kB\n"));
        assert!(!locked("VmSize:\t   20000 kB\nVmLck:\t    8192 kB\n"));
        assert!(!locked("VmSize:\t     900 kB\nVmLck:\t       0 kB\n"));
        assert!(!locked(""));
    }

    #[test]
    fn status_limits_and_filter_are_read() {
        let facts = read(&[
            (
                "proc/7/status",
                "Uid:\t1\t65534\t1\t1\nCapEff:\t0000000000000400\nNoNewPrivs:\t1\nVmSwap:\t 4 kB\n",
            ),
            (
                "proc/7/limits",
                "Limit    Soft Limit   Hard Limit   Units\nMax core file size   0   unlimited   bytes\n",
            ),
            ("proc/7/coredump_filter", "00000033\n"),
            ("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n"),
        ]);
        assert_eq!((facts.user, facts.capabilities), (Some(65534), Some(1 << NET_BIND_SERVICE)));
        assert_eq!((facts.no_new_privileges, facts.swapped), (Some(true), Some(4096)));
        assert_eq!((facts.core_limit, facts.core_filter), (Some(u64::MAX), Some(0x33)));
        assert_eq!(facts.core_piped, Some(true));
    }

    #[test]
    fn root_in_a_namespace_has_the_limits_of_who_made_it() {
        let status = ("proc/7/status", "CapEff:\t000001ffffffffff\n");
        let of = |map| read(&[status, ("proc/7/uid_map", map)]).may_lock_without_limit();
        assert!(of("         0          0 4294967295\n"));
        assert!(!of("         0       1000          1\n"));
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("written");
        let _open = fs::File::create(&path).unwrap();
        let reading = fs::File::open("/proc/self/status").unwrap();
        let written = Facts::of_this_process().written.unwrap();
        assert!(written.iter().any(|(_, target)| Path::new(target) == path), "{written:?}");
        assert!(!written.iter().any(|(_, target)| target.contains("status")), "{written:?}");
        drop(reading);
    }
}
