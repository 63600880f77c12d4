//! Who holds a port.

use std::fs;
use std::path::Path;

/// The process that holds a UDP port, as `name (process 123)`. `None` when that cannot be seen,
/// as with processes of other users.
pub(super) fn of_udp(port: u16) -> Option<String> {
    owner(["/proc/net/udp", "/proc/net/udp6"], port)
}

/// The process that holds a TCP port, in the same way.
pub(super) fn of_tcp(port: u16) -> Option<String> {
    owner(["/proc/net/tcp", "/proc/net/tcp6"], port)
}

fn owner(tables: [&str; 2], port: u16) -> Option<String> {
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|l| inode_at(l, port)).collect::<Vec<_>>())
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = holds_any(&process.path().join("fd"), &inodes);
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        holds.then(|| format!("{} (process {pid})", name.trim_end()))
    })
}

/// The inode in a line of the kernel's table of sockets, if its local port is `port`.
fn inode_at(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    (u16::from_str_radix(local, 16) == Ok(port)).then_some(())?;
    fields.nth(7).map(str::to_owned)
}

fn holds_any(fds: &Path, inodes: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(fds) else { return false };
    fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|i| i == inode))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = "  412: 0100007F:01BB 00000000:0000 07 00000000:00000000 00:00000000 00000000 \
                    1000        0 123456 2 0000000000000000 0";
        assert_eq!(inode_at(line, 443).as_deref(), Some("123456"));
        assert_eq!(inode_at(line, 444), None);
        assert_eq!(inode_at("  sl  local_address rem_address", 443), None);
    }

    #[test]
    fn this_process_holds_its_own_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let owner = of_udp(socket.local_addr().unwrap().port()).unwrap();
        assert!(owner.contains(&format!("(process {})", std::process::id())), "{owner}");
    }
}
