//! `rendezvous-peer self-audit`: what is promised, and whether it holds here.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rendezvous_peer::Config;
use rendezvous_peer::keyfile::KEY_FILE;
use serde_json::{Value, json};

use super::facts::{Facts, IPC_LOCK, NET_BIND_SERVICE};
use super::failure::{Exit, Failure};
use super::settings::Effective;
use super::{harden, output};

/// Prints each promise, whether it holds, why, and what to do where it does not. Without `pid`
/// this process takes the measures that `run` takes, and looks at itself.
pub(super) fn self_audit(effective: &Effective, pid: Option<u32>) -> Result<Exit, Failure> {
    let facts = match pid {
        None => {
            harden::harden();
            Facts::of_this_process()
        }
        Some(pid) => Facts::of(pid).ok_or_else(|| {
            Failure::new(Exit::NotFound, "no-process", format!("there is no process {pid}"))
        })?,
    };
    let promises = promises(&facts, &effective.config);
    let all = promises.iter().all(Promise::holds);
    if effective.json {
        let promises: Vec<Value> = promises.iter().map(Promise::json).collect();
        output::event("self-audit", json!({ "ok": all, "pid": pid, "promises": promises }));
    } else {
        promises.iter().for_each(Promise::print);
    }
    Ok(if all { Exit::Ok } else { Exit::Failure })
}

fn promises(facts: &Facts, config: &Config) -> Vec<Promise> {
    let cache = config.acme.as_ref().map(|acme| acme.cache.as_path());
    let Protection { swap, core_dumps } = Protection::of(facts);
    vec![
        swap,
        core_dumps,
        other_processes(facts),
        data_directory(&config.data_dir, cache),
        open_files(facts),
        user(facts),
        capabilities(facts),
        new_privileges(facts),
    ]
}

/// Whether memory can reach a disk.
pub(super) struct Protection {
    swap: Promise,
    core_dumps: Promise,
}

impl Protection {
    /// What protects the memory of a process.
    pub(super) fn of(facts: &Facts) -> Self {
        Self { swap: swap(facts), core_dumps: core_dumps(facts) }
    }

    /// Whether nothing is open.
    pub(super) fn holds(&self) -> bool {
        self.swap.holds() && self.core_dumps.holds()
    }

    /// What protects, for people.
    pub(super) fn summary(&self) -> String {
        format!("{}; {}", self.swap.how, self.core_dumps.how)
    }

    /// What protects, for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "in_force": self.holds(),
            "swap": self.swap.json(),
            "core_dumps": self.core_dumps.json(),
        })
    }

    /// Why a peer that was told to insist does not start.
    pub(super) fn refusal(&self) -> Failure {
        let broken = || [&self.swap, &self.core_dumps].into_iter().filter(|p| !p.holds());
        let how: Vec<&str> = broken().map(|p| p.how.as_str()).collect();
        let message = format!(
            "memory could reach a disk, and require_memory_protection is set: {}",
            how.join("; ")
        );
        let failure = Failure::new(Exit::Config, "memory-unprotected", message);
        broken().filter_map(|p| p.remedy).fold(failure, Failure::try_this)
    }
}

/// Something that the peer promises to those who use it.
struct Promise {
    name: &'static str,
    state: State,
    how: String,
    remedy: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InForce,
    Broken,
    /// The system does not show it. Nobody can rely on it then.
    Unseen,
}

impl Promise {
    fn new(name: &'static str, state: State, how: impl Into<String>, remedy: &'static str) -> Self {
        let remedy = Some(remedy).filter(|_| state != State::InForce);
        Self { name, state, how: how.into(), remedy }
    }

    fn unseen(name: &'static str, remedy: &'static str) -> Self {
        Self::new(name, State::Unseen, "the system does not show it", remedy)
    }

    fn holds(&self) -> bool {
        self.state == State::InForce
    }

    fn print(&self) {
        let state = match self.state {
            State::InForce => "in force",
            State::Broken => "NOT IN FORCE",
            State::Unseen => "NOT SEEN",
        };
        output::line(&format!("{:<17} {state:<13} {}", self.name, self.how));
        if let Some(remedy) = self.remedy {
            output::line(&format!("{:<31} try: {remedy}", ""));
        }
    }

    fn json(&self) -> Value {
        let state = match self.state {
            State::InForce => "in-force",
            State::Broken => "broken",
            State::Unseen => "unseen",
        };
        json!({ "promise": self.name, "state": state, "how": self.how, "remedy": self.remedy })
    }
}

/// One of three is enough: no swap, a control group without swap, locked memory.
fn swap(facts: &Facts) -> Promise {
    let mut ways = Vec::new();
    if facts.locked() {
        ways.push("all memory is locked".to_owned());
    }
    if let Some(group) = &facts.swapless_group {
        ways.push(format!("the control group {group} allows no swap"));
    }
    if facts.swap == Some(false) {
        ways.push("this machine has no swap".to_owned());
    }
    let remedy = "MemorySwapMax=0 and LimitMEMLOCK=infinity in the systemd unit; or `ulimit -l \
                  unlimited`; or a machine without swap (`swapoff -a`, and no swap in /etc/fstab)";
    if let Some(bytes) = facts.swapped.filter(|&bytes| bytes > 0) {
        let how = format!("{bytes} bytes of the memory are in swap");
        return Promise::new("swap", State::Broken, how, remedy);
    }
    if !ways.is_empty() {
        return Promise::new("swap", State::InForce, ways.join(", "), remedy);
    }
    let (state, how) = match facts.swap {
        Some(_) => (State::Broken, "this machine has swap, to which memory can be written"),
        None => (State::Unseen, "whether this machine has swap could not be seen"),
    };
    Promise::new("swap", state, how, remedy)
}

/// A process that cannot be dumped leaves nothing, wherever core files go. A limit of 0 stops
/// files, but not a program that takes them.
fn core_dumps(facts: &Facts) -> Promise {
    let remedy = "LimitCORE=0 and CoredumpFilter=0 in the systemd unit; or `ulimit -H -c 0`";
    let mut ways = Vec::new();
    if facts.dumpable == Some(false) {
        ways.push("not dumpable");
    }
    if facts.core_limit == Some(0) && facts.core_piped == Some(false) {
        ways.push("limit 0");
    }
    if !ways.is_empty() {
        // Alone it is not enough: registers are in every core file.
        if facts.core_filter == Some(0) {
            ways.push("nothing passes the filter");
        }
        let how = format!("no core dumps ({})", ways.join(", "));
        return Promise::new("core dumps", State::InForce, how, remedy);
    }
    let seen = facts.dumpable.is_some() && facts.core_limit.is_some();
    let state = if seen { State::Broken } else { State::Unseen };
    Promise::new("core dumps", state, "a crash may write memory to a core file", remedy)
}

fn other_processes(facts: &Facts) -> Promise {
    let name = "other processes";
    let remedy = "a user of its own, whose other processes there are none of (DynamicUser=yes)";
    match facts.dumpable {
        Some(false) => {
            let how = "only the superuser's can read the memory";
            Promise::new(name, State::InForce, how, remedy)
        }
        Some(true) => {
            let how = "those of the same user can read the memory";
            Promise::new(name, State::Broken, how, remedy)
        }
        None => Promise::unseen(name, remedy),
    }
}

/// What an authority's certificate needs may lie in `cache`, below the data directory, where the operator
/// has asked for one.
fn data_directory(dir: &Path, cache: Option<&Path>) -> Promise {
    let name = "data directory";
    let at = dir.display();
    let mode = match fs::metadata(dir) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Promise::new(name, State::InForce, format!("{at} is not there yet"), "");
        }
        Err(_) => return Promise::unseen(name, "running this as the peer's user, or as root"),
    };
    if mode & 0o077 != 0 {
        let how = format!("{at} is open to others (mode {mode:04o})");
        return Promise::new(name, State::Broken, how, "chmod 700, for the data directory");
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return Promise::unseen(name, "running this as the peer's user, or as root");
    };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let is_cache = |name: &str| cache.is_some_and(|cache| dir.join(name) == cache);
    let others: Vec<String> = names.filter(|name| name != KEY_FILE && !is_cache(name)).collect();
    if !others.is_empty() {
        let how = format!("{at} holds more than the key: {}", others.join(", "));
        let remedy = "a directory of its own for the key (--data-dir)";
        return Promise::new(name, State::Broken, how, remedy);
    }
    match fs::metadata(dir.join(KEY_FILE)).map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => {
            let how = format!("the key in {at} is open to others (mode {mode:04o})");
            Promise::new(name, State::Broken, how, "chmod 600, for the key")
        }
        Ok(_) if cache.is_some_and(|cache| cache.starts_with(dir)) => {
            let how = format!("{at} holds the key, and what acme_cache is for");
            Promise::new(name, State::InForce, how, "")
        }
        Ok(_) => Promise::new(name, State::InForce, format!("{at} holds the key only"), ""),
        Err(_) => Promise::new(name, State::InForce, format!("{at} is empty"), ""),
    }
}

/// Standard output and standard error may be files: what is written there holds no addresses and
/// no identities.
fn open_files(facts: &Facts) -> Promise {
    let name = "open files";
    let Some(written) = &facts.written else {
        return Promise::unseen(name, "running this as root");
    };
    let (output, others): (Vec<_>, Vec<_>) =
        written.iter().partition(|(descriptor, _)| *descriptor <= 2);
    let list = |files: &[&(u32, String)]| {
        let mut names: Vec<&str> = files.iter().map(|(_, path)| path.as_str()).collect();
        names.dedup();
        names.join(", ")
    };
    if !others.is_empty() {
        let how = format!("open for writing: {}", list(&others));
        let remedy = "closing them in what starts the peer; it opens none itself";
        return Promise::new(name, State::Broken, how, remedy);
    }
    let how = match output.is_empty() {
        true => "none is open for writing".to_owned(),
        false => format!("none is open for writing but its output, {}", list(&output)),
    };
    Promise::new(name, State::InForce, how, "")
}

fn user(facts: &Facts) -> Promise {
    let remedy = "a user of its own: the packaged unit has one. For ports below 1024 it takes \
                  CAP_NET_BIND_SERVICE, not root";
    match facts.user {
        Some(0) if facts.first_namespace => {
            Promise::new("user", State::Broken, "it runs as root", remedy)
        }
        Some(0) => {
            let how = "root of a namespace, somebody else outside of it";
            Promise::new("user", State::InForce, how, remedy)
        }
        Some(user) => Promise::new("user", State::InForce, format!("user {user}"), remedy),
        None => Promise::unseen("user", remedy),
    }
}

fn capabilities(facts: &Facts) -> Promise {
    let name = "capabilities";
    let remedy = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE in the systemd unit, and no root";
    let Some(held) = facts.capabilities else {
        return Promise::unseen(name, remedy);
    };
    let needed = [(NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"), (IPC_LOCK, "CAP_IPC_LOCK")];
    if !facts.first_namespace {
        return Promise::new(name, State::InForce, "those of a namespace at most", remedy);
    }
    let has = |capability: u32| held >> capability & 1 == 1;
    let names: Vec<&str> = needed.iter().filter(|(c, _)| has(*c)).map(|(_, n)| *n).collect();
    let more = held & !needed.iter().fold(0, |all, (c, _)| all | 1 << c);
    if more != 0 {
        let count = more.count_ones();
        let how = format!("{count} more than it can use ({more:#x})");
        return Promise::new(name, State::Broken, how, remedy);
    }
    let how = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Promise::new(name, State::InForce, how, remedy)
}

fn new_privileges(facts: &Facts) -> Promise {
    let name = "new privileges";
    let remedy = "NoNewPrivileges=yes in the systemd unit";
    match facts.no_new_privileges {
        Some(true) => Promise::new(name, State::InForce, "none by starting a program", remedy),
        Some(false) => {
            let how = "starting a program could give some";
            Promise::new(name, State::Broken, how, remedy)
        }
        None => Promise::unseen(name, remedy),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_way_is_enough_against_swap() {
        let swapping = || Facts { swap: Some(true), ..Facts::default() };
        assert_eq!(swap(&swapping()).state, State::Broken);
        assert_eq!(swap(&Facts::default()).state, State::Unseen, "what is unseen is not promised");
        for facts in [
            Facts { swap: Some(false), ..Facts::default() },
            Facts { swapless_group: Some("/a".into()), ..swapping() },
            Facts { memory: Some((20 << 20, 20 << 20)), ..swapping() },
        ] {
            assert_eq!(swap(&facts).state, State::InForce);
        }
        let already = Facts { swap: Some(false), swapped: Some(4096), ..Facts::default() };
        assert_eq!(swap(&already).state, State::Broken);
    }

    #[test]
    fn a_limit_does_not_stop_a_program_that_takes_core_dumps() {
        let of = |piped| Facts {
            core_limit: Some(0),
            core_piped: Some(piped),
            dumpable: Some(true),
            ..Facts::default()
        };
        assert_eq!(core_dumps(&of(false)).state, State::InForce);
        assert_eq!(core_dumps(&of(true)).state, State::Broken);
        let undumpable = Facts { dumpable: Some(false), ..of(true) };
        assert_eq!(core_dumps(&undumpable).state, State::InForce);
    }

    #[test]
    fn what_lies_beside_the_key_is_named() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        assert_eq!(data_directory(&dir, None).state, State::InForce);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let key = dir.join(KEY_FILE);
        fs::write(&key, "").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(data_directory(&dir, None).state, State::InForce);
        fs::write(dir.join("queue.db"), "").unwrap();
        let found = data_directory(&dir, None);
        assert!(found.state == State::Broken && found.how.contains("queue.db"), "{}", found.how);
        // What the operator has asked for is no surprise.
        let cache = dir.join("queue.db");
        assert_eq!(data_directory(&dir, Some(&cache)).state, State::InForce);
        assert_eq!(data_directory(&dir, Some(&dir.join("other"))).state, State::Broken);
    }

    #[test]
    fn roots_powers_are_named() {
        let root = Facts {
            user: Some(0),
            first_namespace: true,
            capabilities: Some(0x1ff_ffff_ffff),
            ..Facts::default()
        };
        assert_eq!((user(&root).state, capabilities(&root).state), (State::Broken, State::Broken));
        let service = Facts {
            first_namespace: true,
            user: Some(61_000),
            capabilities: Some(1 << NET_BIND_SERVICE),
            ..Facts::default()
        };
        assert_eq!(user(&service).state, State::InForce);
        assert_eq!(capabilities(&service).how, "CAP_NET_BIND_SERVICE");
    }
}
