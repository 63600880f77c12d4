//! Packets that are none: noise, beginnings of QUIC that go nowhere, forged keepalives, frames of
//! relay channels that nobody leased.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use halloo_transport::ParkingKey;
use halloo_wire::datagram::RelayFrame;
use halloo_wire::parked::Keepalive;
use halloo_wire::{ChannelId, RowId};
use rand::{Rng, RngCore};

use crate::contacts::Contacts;
use crate::peer::{ONE_NETWORK, Peer};

/// Packets that are made before the flood begins, and sent again and again.
const PACKETS: usize = 4_096;
const BURST: u64 = 64;

#[derive(clap::Args)]
pub struct Options {
    /// Packets a second
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Seconds before the flood, and seconds of it
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub async fn run(options: &Options) -> Result<()> {
    let mut peer = Peer::start(&ONE_NETWORK)?;
    let contacts = Contacts::meet(&peer).await?;
    let time = Duration::from_secs(options.seconds);
    contacts.talk(Duration::from_secs(1)).await?;
    let mut quiet = contacts.talk(time).await?;
    let (resident, drops) = (peer.resident()?, peer.udp_drops()?);

    let stop = Arc::new(AtomicBool::new(false));
    let (sent, back) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let flood = std::thread::spawn({
        let (stop, sent, back) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&back));
        let (listen, rate) = (peer.listen, options.rate);
        move || flood(listen, rate, &stop, &sent, &back)
    });
    let cpu = peer.cpu()?;
    let mut under = contacts.talk(time).await?;
    let cpu = peer.cpu()? - cpu;
    stop.store(true, Ordering::Relaxed);
    let bytes = flood.join().expect("the flood does not panic")?;
    peer.check()?;
    println!(
        "{} packets a second for {} s",
        sent.load(Ordering::Relaxed) / options.seconds,
        options.seconds
    );
    quiet.print("before");
    under.print("meanwhile");
    println!(
        "  99 % took {:.2} times as long; the peer took {:.0} % of a core",
        under.times.percentile(99) / quiet.times.percentile(99),
        cpu / time.as_secs_f64() * 100.0
    );
    println!(
        "  {} packets were dropped by the kernel; {:.1} MB resident, {:.1} before",
        peer.udp_drops()? - drops,
        peer.resident()? as f64 / 1e6,
        resident as f64 / 1e6
    );
    println!(
        "  bytes back for each byte sent: {:.3}",
        back.load(Ordering::Relaxed) as f64 / bytes as f64
    );
    Ok(())
}

/// Sends until it is told to stop; returns how many bytes.
fn flood(
    peer: std::net::SocketAddr,
    rate: u64,
    stop: &AtomicBool,
    sent: &AtomicU64,
    back: &AtomicU64,
) -> Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    let packets: Vec<Vec<u8>> = (0..PACKETS).map(packet).collect();
    let (begun, mut n, mut bytes) = (Instant::now(), 0, 0);
    let mut answer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        for _ in 0..BURST.min(due - n) {
            let packet = &packets[n as usize % PACKETS];
            if socket.send(packet).is_ok() {
                bytes += packet.len() as u64;
            }
            n += 1;
        }
        sent.store(n, Ordering::Relaxed);
        while let Ok(len) = socket.recv(&mut answer) {
            back.fetch_add(len as u64, Ordering::Relaxed);
        }
    }
    Ok(bytes)
}

fn packet(n: usize) -> Vec<u8> {
    let mut rng = rand::rng();
    let mut noise = vec![0; rng.random_range(20..1_200)];
    rng.fill_bytes(&mut noise);
    match n % 6 {
        // What comes first says what it is, and this is nothing.
        0 => {
            noise[0] = 0x3f;
            noise
        }
        // A long header of QUIC, version 1, whose protection is noise.
        1 => {
            noise.resize(1_200, 0);
            noise[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            noise
        }
        // A version that nobody speaks.
        2 => {
            noise.resize(1_200, 0);
            noise[..6].copy_from_slice(&[0xc3, 0xba, 0xba, 0xba, 0xba, 8]);
            noise
        }
        // A short header of a connection that is not there.
        3 => {
            noise[0] = 0x40 | noise[0] & 0x3f;
            noise
        }
        4 => {
            let keepalive = Keepalive { cookie: 0, rung: 0, taken: Vec::new() };
            ParkingKey::from_bytes([0; 32]).seal_keepalive(RowId(rng.random()), 1, &keepalive)
        }
        _ => {
            noise[0] = 0x40;
            RelayFrame { channel: ChannelId(rng.random()), datagram: &noise }.encode()
        }
    }
}
