//! Taps: forwarders that stand in front of peers, and a recorder of the loopback interface.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};

/// How soon a thread that hears nothing looks whether it should end.
const TICK: Duration = Duration::from_millis(50);
const MAX_DATAGRAM: usize = 65_536;

/// Datagrams in the order in which they came.
pub(crate) type Tape = Arc<Mutex<Vec<Vec<u8>>>>;

/// Threads that end with this.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Passes datagrams on between clients and one server, and keeps a copy of each. To the server,
/// each client has an address of its own.
pub(crate) struct Forwarder {
    pub(crate) port: u16,
    /// Where datagrams of further clients go.
    server: Arc<Mutex<Option<SocketAddr>>>,
    /// What clients said.
    pub(crate) up: Tape,
    /// What the server said.
    pub(crate) down: Tape,
    stop: Stop,
}

impl Forwarder {
    pub(crate) fn start() -> Self {
        let socket = Arc::new(bind());
        let port = socket.local_addr().unwrap().port();
        let it = Self {
            port,
            server: Arc::default(),
            up: Tape::default(),
            down: Tape::default(),
            stop: Stop::default(),
        };
        let (server, up) = (it.server.clone(), it.up.clone());
        let (down, stop) = (it.down.clone(), it.stop.clone());
        std::thread::spawn(move || {
            let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = [0; MAX_DATAGRAM];
            while !stop.asked() {
                let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
                let Some(server) = *server.lock().unwrap() else { continue };
                let upstream = clients.entry(client).or_insert_with(|| {
                    let upstream = Arc::new(bind());
                    upstream.connect(server).unwrap();
                    let (from, to, down, stop) =
                        (upstream.clone(), socket.clone(), down.clone(), stop.clone());
                    std::thread::spawn(move || bring_back(&from, &to, client, &down, &stop));
                    upstream
                });
                up.lock().unwrap().push(buffer[..len].to_vec());
                // A server that is away loses datagrams, as a network does.
                let _ = upstream.send(&buffer[..len]);
            }
        });
        it
    }

    /// Sends what further clients say to `server`.
    pub(crate) fn serve(&self, server: SocketAddr) {
        *self.server.lock().unwrap() = Some(server);
    }

    /// Bytes that clients have said.
    pub(crate) fn bytes_up(&self) -> usize {
        self.up.lock().unwrap().iter().map(Vec::len).sum()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
    }
}

fn bring_back(from: &UdpSocket, to: &UdpSocket, client: SocketAddr, down: &Tape, stop: &Stop) {
    let mut buffer = [0; MAX_DATAGRAM];
    while !stop.asked() {
        let Ok(len) = from.recv(&mut buffer) else { continue };
        down.lock().unwrap().push(buffer[..len].to_vec());
        let _ = to.send_to(&buffer[..len], client);
    }
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    socket
}

/// A UDP packet on the loopback interface.
pub(crate) struct Packet {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) payload: Vec<u8>,
}

/// Records what goes over IPv4 and UDP from or to some ports of this machine.
pub(crate) struct Recorder {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// # Errors
    /// When the system does not let us: it takes the superuser.
    pub(crate) fn start(ports: BTreeSet<u16>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let raw = SocketType::RAW;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, raw, flags, Some(eth::IP))?;
        // Nothing is lost while this process waits for its turn.
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(TICK))?;
        let packets: Arc<Mutex<Vec<Packet>>> = Arc::default();
        let stop = Stop::default();
        let (to, asked) = (packets.clone(), stop.clone());
        let thread = std::thread::spawn(move || record(&socket, &ports, &to, &asked));
        Ok(Self { packets, stop, thread: Some(thread) })
    }

    /// Bytes that went to a port so far.
    pub(crate) fn bytes_to(&self, port: u16) -> usize {
        let packets = self.packets.lock().unwrap();
        packets.iter().filter(|p| p.to == port).map(|p| p.payload.len()).sum()
    }

    /// Ends, and returns everything.
    pub(crate) fn end(mut self) -> Vec<Packet> {
        self.stop.0.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.packets.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
    }
}

fn record(socket: &OwnedFd, ports: &BTreeSet<u16>, to: &Mutex<Vec<Packet>>, stop: &Stop) {
    // Offloading makes packets that are larger than any network's.
    let mut buffer = vec![0; 1 << 17];
    while !stop.asked() {
        let Ok((_, len)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) else {
            continue;
        };
        if let Some(packet) = udp(&buffer[..len.min(buffer.len())])
            && (ports.contains(&packet.from) || ports.contains(&packet.to))
        {
            to.lock().unwrap().push(packet);
        }
    }
}

/// Reads an Ethernet frame with IPv4 and UDP from loopback to loopback.
fn udp(frame: &[u8]) -> Option<Packet> {
    const ETHERNET: usize = 14;
    const UDP: u8 = 17;
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let is_loopback = *ip.get(12)? == 127 && *ip.get(16)? == 127;
    if ip[0] >> 4 != 4 || *ip.get(9)? != UDP || !is_loopback {
        return None;
    }
    let udp = ip.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    Some(Packet { from: port(0)?, to: port(2)?, payload: udp.get(8..)?.to_vec() })
}
