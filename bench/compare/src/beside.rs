//! Beside a TCP connection on one bottleneck.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use halloo_lab::plan::Side;
use halloo_lab::wire::link::{LinkConfig, Rate};
use socket2::SockRef;

use crate::far::Apart;
use crate::run::{Amount, run};
use crate::{Options, tell};

/// Mbit/s, round trip in ms, queue in round trips.
const BOTTLENECKS: [(u64, u64, f64); 4] =
    [(50, 20, 1.0), (50, 20, 4.0), (50, 100, 1.0), (20, 40, 2.0)];

/// The table.
pub fn all(options: &Options) -> Result<()> {
    let stacks = options.stacks(&["halloo", "quinn-cubic", "quinn-bbr", "iroh"]);
    println!("\n**Beside TCP Cubic on one bottleneck**, {} s\n", options.seconds);
    println!(
        "| bottleneck | stack | alone Mbit/s | its queue ms | beside TCP | TCP | TCP's share | queue ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (mbit, rtt, queue) in options.rows(&BOTTLENECKS) {
        for stack in &stacks {
            let alone = measure(options, stack, (mbit, rtt, queue), false)?;
            let beside = measure(options, stack, (mbit, rtt, queue), true)?;
            println!(
                "| {mbit} Mbit/s, {rtt} ms, queue {queue} | {stack} | {:.1} | {:.0} | {:.1} | {:.1} | {:.0} % | {:.0} |",
                alone.quic,
                alone.queue_ms,
                beside.quic,
                beside.tcp,
                100.0 * beside.tcp / (beside.tcp + beside.quic).max(1e-9),
                beside.queue_ms,
            );
        }
    }
    Ok(())
}

#[derive(Default)]
struct Shares {
    /// Mbit/s in the second half.
    quic: f64,
    tcp: f64,
    /// Mean wait in the bottleneck, in the second half.
    queue_ms: f64,
}

fn measure(
    options: &Options,
    stack: &str,
    bottleneck: (u64, u64, f64),
    with_tcp: bool,
) -> Result<Shares> {
    let (mbit, rtt, queue) = bottleneck;
    let delay = Duration::from_millis(rtt) / 4;
    let bits_per_s = mbit * 1_000_000;
    let queue_bytes = (bits_per_s as f64 / 8.0 * rtt as f64 / 1e3 * queue).max(20_000.0) as u64;
    let link = LinkConfig::delay(delay).with_rate(Rate { bits_per_s, queue_bytes });
    let apart = Apart::new(link)?;
    let (a, b) = (apart.0.node(Side::A)?, apart.0.node(Side::B)?);
    let to = |port| SocketAddr::new(IpAddr::V4(Side::B.public_v4()), port);
    let time = Duration::from_secs(options.seconds);
    let stop = Arc::new(AtomicBool::new(false));
    let carried = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();

    if with_tcp {
        let listener = b.tcp_listener(to(9))?;
        let mut sender = a.tcp(listener.local_addr()?)?;
        // Whatever this machine prefers. Only some may choose Cubic; everybody may choose Reno.
        let socket = SockRef::from(&sender);
        if socket.set_tcp_congestion(b"cubic").is_err() {
            eprintln!("TCP is Reno: this system does not let us choose Cubic");
            socket.set_tcp_congestion(b"reno")?;
        }
        let (mut receiver, _) = listener.accept()?;
        threads.push(thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let chunk = vec![0; 64 * 1024];
                while !stop.load(Ordering::Relaxed) && sender.write_all(&chunk).is_ok() {}
            }
        }));
        threads.push(thread::spawn({
            let carried = Arc::clone(&carried);
            move || {
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(n @ 1..) = receiver.read(&mut buffer) {
                    carried.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        }));
    }
    // Probes see the queue that packets of both wait in.
    let echo = b.udp(to(7))?;
    echo.set_read_timeout(Some(Duration::from_millis(200)))?;
    threads.push(thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((n, from)) = echo.recv_from(&mut buffer) {
                    // A lost probe is a lost probe.
                    let _ = echo.send_to(&buffer[..n], from);
                }
            }
        }
    }));
    let probe = a.udp(SocketAddr::new(Side::A.public_v4().into(), 0))?;
    probe.set_read_timeout(Some(Duration::from_millis(20)))?;
    let probing = thread::spawn({
        let stop = Arc::clone(&stop);
        let begun = Instant::now();
        move || {
            let (mut waits, mut buffer) = (Vec::new(), [0; 64]);
            let mut next = begun;
            while !stop.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    let micros = begun.elapsed().as_micros() as u64;
                    let _ = probe.send_to(&micros.to_be_bytes(), to(7));
                    next += Duration::from_millis(20);
                }
                if let Ok(n @ 8..) = probe.recv(&mut buffer) {
                    let _ = n;
                    let mut sent = [0; 8];
                    sent.copy_from_slice(&buffer[..8]);
                    let sent = Duration::from_micros(u64::from_be_bytes(sent));
                    waits.push((begun.elapsed(), begun.elapsed().saturating_sub(sent)));
                }
            }
            waits
        }
    });

    let half = thread::spawn({
        let carried = Arc::clone(&carried);
        // Half of the time is what is waited for.
        #[allow(clippy::disallowed_methods)]
        move || {
            thread::sleep(time / 2);
            (Instant::now(), carried.load(Ordering::Relaxed))
        }
    });
    let outcome = run(stack, Amount { mib: 1 << 20, time }, &apart);
    tell(stack, &outcome);
    let end = (Instant::now(), carried.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    let waits = probing.join().unwrap_or_default();
    let mut shares = Shares::default();
    if let Ok(begin) = half.join() {
        let seconds = (end.0 - begin.0).as_secs_f64();
        shares.tcp = (end.1 - begin.1) as f64 * 8e-6 / seconds;
    }
    shares.quic = outcome.map_or(0.0, |it| it.later * 1024.0 * 1024.0 * 8e-6);
    let late: Vec<f64> = waits
        .iter()
        .filter(|(at, _)| *at > time / 2)
        .map(|(_, wait)| (wait.as_secs_f64() * 1e3 - rtt as f64).max(0.0))
        .collect();
    shares.queue_ms = late.iter().sum::<f64>() / late.len().max(1) as f64;
    Ok(shares)
}
