//! The laboratory's internet: carries IP packets between sites, in this process.
//!
//! Each site has a TUN interface. What the site's kernel sends into it is read here, looked up by
//! destination, delayed and sometimes lost, and written into another site's interface. TUN has no
//! link layer, so nothing waits for ARP, and the kernel finishes checksums before we see a packet
//! or tells us, in a header that we pass on, that it did not.
//!
//! One task for each site reads, one thread for each site writes: a thread, because the timers
//! of an async runtime are a millisecond coarse.

pub mod line;
pub mod link;
pub mod routes;
pub mod weather;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use self::line::{Frame, Line};
use self::link::{Link, LinkConfig, Loss};
use self::routes::{Prefix, Routes};
use self::weather::{Sky, Weather};
use crate::namespace::Namespace;
use crate::tools;

/// The wire between all sites. It stops when it is dropped.
pub struct Wire {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    /// Reads from all interfaces; an option only so that it can be ended in `drop`.
    runtime: Option<Runtime>,
}

/// A wire that is being laid.
#[derive(Debug)]
pub struct WireBuilder {
    seed: u64,
    weather: Weather,
    runtime: Runtime,
    routes: Routes,
    sites: Vec<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    interface: String,
    up: LinkConfig,
    down: LinkConfig,
}

/// A site, as the wire knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteId(usize);

impl WireBuilder {
    /// A wire whose losses follow from the seed.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(seed: u64, weather: Weather) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(READERS)
            .thread_name("wire-read")
            .enable_io()
            .build()
            .context("cannot start the threads that read from the wire")?;
        Ok(Self { seed, weather, runtime, routes: Routes::default(), sites: Vec::new() })
    }

    /// Adds a site with these prefixes, and one-way links to and from it.
    pub fn site(&mut self, prefixes: Vec<Prefix>, up: LinkConfig, down: LinkConfig) -> SiteId {
        let interface = tools::unique("w");
        self.sites.push(Attachment { interface, up, down });
        SiteId(self.routes.add(prefixes))
    }

    /// Makes the interfaces. They are to be [moved](Wire::plug) to where they belong.
    ///
    /// # Errors
    /// `/dev/net/tun` is missing or not permitted.
    pub fn start(self) -> Result<Wire> {
        // Merged packets cost a tenth, but a link that loses or counts has to see each one.
        let merges = self.weather.is_clear()
            && self.sites.iter().all(|site| site.up.is_plain() && site.down.is_plain());
        let mut ports = Vec::new();
        for (i, site) in self.sites.into_iter().enumerate() {
            let device = {
                let _context = self.runtime.enter();
                device(&site.interface, merges)?
            };
            let seeds = self.seed.wrapping_add(2 * i as u64);
            ports.push(Port {
                interface: site.interface,
                device,
                up: Mutex::new(Link::new(site.up, seeds)),
                line: Mutex::new(Line::new(Link::new(site.down, seeds.wrapping_add(1)))),
                changed: Condvar::new(),
            });
        }
        let header = if merges { tun_rs::VIRTIO_NET_HDR_LEN } else { 0 };
        let shared = Arc::new(Shared {
            ports,
            routes: self.routes,
            header,
            sky: Mutex::new(Sky::new(self.weather, self.seed)),
            stopped: AtomicBool::new(false),
            counts: Counts::default(),
        });
        let mut writers = Vec::new();
        for site in 0..shared.ports.len() {
            let (reads, writes) = (Arc::clone(&shared), Arc::clone(&shared));
            self.runtime.spawn(async move { reads.read(site).await });
            let writer = std::thread::Builder::new()
                .name("wire-write".into())
                .spawn(move || writes.write(site))
                .context("cannot start a thread")?;
            writers.push(writer);
        }
        Ok(Wire { shared, writers, runtime: Some(self.runtime) })
    }
}

impl Wire {
    /// Moves the site's interface into a namespace, under a new name. It is down there.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn plug(&self, site: SiteId, into: &Namespace, name: &str) -> Result<()> {
        let interface = &self.shared.ports[site.0].interface;
        let pid = into.pid();
        let lines = format!(
            "link set {interface} txqueuelen {QUEUE_FRAMES}\nlink set {interface} netns {pid} name {name}"
        );
        tools::ip(None, &lines)
    }

    /// Cuts both directions of a site's link, or joins them again.
    pub fn set_down(&self, site: SiteId, is_down: bool) {
        let port = &self.shared.ports[site.0];
        lock(&port.up).set_down(is_down);
        lock(&port.line).link_mut().set_down(is_down);
    }

    /// Changes what happens to packets from here on. A wire that began with clear weather carries
    /// merged frames, to each of which it happens as a whole.
    pub fn set_weather(&self, weather: Weather) {
        lock(&self.shared.sky).set(weather);
    }

    /// What the wire did so far.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for port in &self.shared.ports {
            // With the lock, so that no writer misses it between looking and waiting.
            let _line = lock(&port.line);
            port.changed.notify_all();
        }
        for writer in self.writers.drain(..) {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a wire did, in frames. A frame can hold several packets that the kernel has merged.
#[derive(Debug, Default)]
pub struct Counts {
    /// Given to a site.
    pub delivered: AtomicU64,
    /// Lost by chance, by an outage, in a full queue, or for their length.
    pub lost: AtomicU64,
    /// For nobody, or from an address that is not the site's.
    pub unroutable: AtomicU64,
    /// Refused by the site's interface, because it is down or full.
    pub refused: AtomicU64,
}

/// What readers and writers share.
struct Shared {
    ports: Vec<Port>,
    routes: Routes,
    /// Bytes before each IP packet.
    header: usize,
    sky: Mutex<Sky>,
    stopped: AtomicBool,
    counts: Counts,
}

/// A site's place on the wire.
struct Port {
    interface: String,
    device: AsyncDevice,
    up: Mutex<Link>,
    line: Mutex<Line>,
    /// The line's head has changed, or the wire stops.
    changed: Condvar,
}

impl Shared {
    /// Carries what a site sends, until the runtime ends.
    async fn read(&self, site: usize) {
        let device = &self.ports[site].device;
        let mut buffer = vec![0; self.header + MAX_FRAME];
        while !self.stopped.load(Ordering::Relaxed) {
            if device.readable().await.is_err() {
                return;
            }
            for _ in 0..BATCH {
                match device.try_recv(&mut buffer) {
                    Ok(length) => self.carry(site, &buffer[..length]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    // The interface is gone with its namespace.
                    Err(_) => return,
                }
            }
        }
    }

    fn carry(&self, site: usize, bytes: &[u8]) {
        let now = Instant::now();
        let packet = bytes.get(self.header..).unwrap_or_default();
        let Some(to) = self.routes.route(site, packet) else {
            self.counts.unroutable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut frame = Frame { bytes: bytes.to_vec(), length: packet.len() };
        let fate = lock(&self.sky).look();
        if fate.is_lost {
            return self.count_loss();
        }
        if let Some(where_) = fate.corrupt {
            weather::corrupt(&mut frame.bytes[self.header..], where_);
        }
        for _ in 1..fate.copies {
            self.push(site, to, frame.clone(), now, fate.hurries);
        }
        self.push(site, to, frame, now, fate.hurries);
    }

    fn push(&self, from: usize, to: usize, frame: Frame, now: Instant, hurries: bool) {
        let port = &self.ports[to];
        let pushed = lock(&self.ports[from].up)
            .admit(frame.length, now)
            .and_then(|at| lock(&port.line).push(if hurries { now } else { at }, frame));
        match pushed {
            Ok(true) => port.changed.notify_one(),
            Ok(false) => {}
            Err(_) => self.count_loss(),
        }
    }

    /// Gives a site what is for it, until the wire stops.
    fn write(&self, site: usize) {
        let port = &self.ports[site];
        let mut line = lock(&port.line);
        while !self.stopped.load(Ordering::Relaxed) {
            let now = Instant::now();
            let mut due = Vec::new();
            while due.len() < BATCH
                && let Some(frame) = line.pop(now)
            {
                due.push(frame);
            }
            if !due.is_empty() {
                drop(line);
                for frame in due {
                    self.give(port, frame);
                }
                line = lock(&port.line);
                continue;
            }
            line = match line.next_at() {
                None => port.changed.wait(line).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    let woken = port.changed.wait_timeout(line, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn give(&self, port: &Port, frame: Result<Frame, Loss>) {
        let Ok(frame) = frame else { return self.count_loss() };
        let count = match port.device.try_send(&frame.bytes) {
            Ok(_) => &self.counts.delivered,
            Err(_) => &self.counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn count_loss(&self) {
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
    }
}

fn device(name: &str, merges: bool) -> Result<AsyncDevice> {
    DeviceBuilder::new()
        .name(name)
        .layer(Layer::L3)
        .packet_information(false)
        .offload(merges)
        .inherit_enable_state()
        .build_async()
        .context("cannot make a TUN interface: is /dev/net/tun there, and permitted?")
}

/// A lock that a panic elsewhere does not spoil: all values stay consistent between calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that read. One keeps up with what two cores can send.
const READERS: usize = 2;
/// Frames that are read or written before others have their turn.
const BATCH: usize = 64;
/// The longest frame: a whole merged packet.
const MAX_FRAME: usize = 65_536;
/// Frames that the kernel keeps for us while we do not run, so that it is the wire that loses
/// frames and not the scheduler: 40 ms at 1 Gbit/s.
const QUEUE_FRAMES: u32 = 4_096;
