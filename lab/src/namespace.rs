//! Network namespaces without names.
//!
//! A namespace lives as long as a process is in it. [`Namespace`] keeps one there that does
//! nothing but wait for the end of its input, so it is gone when the lab is gone, however that
//! ends. Nothing is written to `/run/netns`, so labs that run at the same time do not meet.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace. It and everything in it end when this is dropped, but for programs that
/// still run in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    holder: Child,
    /// What the kernel knows it by.
    handle: File,
}

impl Namespace {
    /// A namespace with nothing but loopback. The name is for messages.
    ///
    /// # Errors
    /// The system permits no namespaces.
    pub fn new(name: &str) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let stdout = holder.stdout.take().context("the pipe was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read from unshare")?;
        if line.is_empty() {
            // It has said why on standard error, which is ours.
            let _ = holder.wait();
        }
        ensure!(!line.is_empty(), "cannot make a network namespace for {name}");
        let path = format!("/proc/{}/ns/net", holder.id());
        let handle = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { name: name.to_owned(), holder, handle })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A process that is in it.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a function in the namespace, on a thread of its own. Sockets that it opens and
    /// programs that it starts stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// The function does.
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter the namespace of {}", self.name))?;
                Ok(function())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered; inside, that the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<io::Result<Child>> {
        self.enter(|| command.spawn())
    }

    /// Opens a UDP socket that waits no longer than [`PATIENCE`] for a datagram.
    ///
    /// # Errors
    /// The address is taken or not of this namespace.
    pub fn udp(&self, addr: SocketAddr) -> Result<UdpSocket> {
        let socket = self
            .enter(|| UdpSocket::bind(addr))?
            .with_context(|| format!("cannot bind {addr} at {}", self.name))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Listens for TCP connections.
    ///
    /// # Errors
    /// The address is taken or not of this namespace.
    pub fn tcp_listener(&self, addr: SocketAddr) -> Result<TcpListener> {
        self.enter(|| TcpListener::bind(addr))?
            .with_context(|| format!("cannot listen on {addr} at {}", self.name))
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// Nobody answers in [`PATIENCE`].
    pub fn tcp(&self, addr: SocketAddr) -> Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?
            .with_context(|| format!("no TCP connection from {} to {addr}", self.name))
    }

    /// Sets kernel parameters of the namespace, named as in `/proc/sys/net`.
    ///
    /// # Errors
    /// One is unknown or not permitted.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// How long a test socket waits before it is clear that nothing comes. Everything that is waited
/// for either comes within some round trips or never; only a broken lab waits this long.
pub const PATIENCE: Duration = Duration::from_secs(3);
