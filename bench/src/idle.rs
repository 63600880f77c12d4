//! What an idle node costs its rendezvous peer: the table of a peer with so many parked
//! registrations, in this process, without sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use halloo_transport::ParkingKey;
use halloo_wire::parked::Keepalive;
use halloo_wire::peer::{Call, Publication, Register, Request, Response};
use halloo_wire::{DeviceId, Fingerprint, InstanceId, RowId};
use rendezvous_peer::core::{Caller, ConnId, Core, Limits, Millis, Origin};

const INSTANCE: InstanceId = InstanceId([9; 16]);
/// What a passport and a prekey bundle have.
const PASSPORT: usize = 357;
const BUNDLE: usize = 1_489;
const ONE_TIME_KEYS: usize = 50;

/// Prints a table for `nodes` nodes.
pub fn measure(nodes: usize) -> Result<()> {
    println!("{nodes} parked registrations in one table, without sockets");
    for (what, keys) in [
        ("without a bundle", None),
        ("with a bundle", Some(0)),
        ("with a bundle and 50 one-time keys", Some(ONE_TIME_KEYS)),
    ] {
        // Each in a process of its own: what the one before has freed would be used again.
        let me = std::env::current_exe()?;
        let keys = keys.map_or("none".to_owned(), |n| n.to_string());
        let mut run = std::process::Command::new(me);
        let output = run.args(["idle-one", &nodes.to_string(), &keys]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("  {what:<36}{}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
    Ok(())
}

/// One line of it.
pub fn measure_one(nodes: usize, keys: Option<usize>) -> Result<()> {
    let limits = Limits {
        memory: usize::MAX / 2,
        memory_per_source: usize::MAX / 2,
        registrations: nodes,
        connections: 16,
        source_rate: rendezvous_peer::core::Rate { per_second: 0, burst: 0 },
        connection_rate: rendezvous_peer::core::Rate { per_second: 0, burst: 0 },
        ..Limits::default()
    };
    let core = Core::new(limits, INSTANCE, [7; 32], Millis(0))?;
    let before = resident()?;
    let begun = Instant::now();
    let mut rows = Vec::with_capacity(nodes);
    let own = nodes * size_of::<RowId>();
    for n in 0..nodes {
        rows.push(park(&core, n, keys)?);
    }
    let parking = begun.elapsed();
    let resident = resident()?.saturating_sub(before + own);
    let charged = core.stats().memory_used;

    let begun = Instant::now();
    let mut answered = 0;
    for (n, row) in rows.iter().enumerate() {
        let keepalive = Keepalive { cookie: 0, rung: 0, taken: Vec::new() };
        let datagram = key(*row).seal_keepalive(*row, 1, &keepalive);
        answered += usize::from(core.parked_datagram(address(n), &datagram, Millis(1)).is_some());
    }
    ensure!(answered == nodes, "keepalives are not answered");
    let keepalives = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..Core::SWEEPS {
        core.expire(Millis(2));
    }
    let sweep = begun.elapsed();
    let each = |time: Duration| time.as_nanos() / nodes as u128;
    println!(
        "{:>6} B resident, {:>6} B charged; parked in {} ns, keepalive sealed and answered in {} ns, \
         swept in {} ns",
        resident / nodes,
        charged / nodes,
        each(parking),
        each(keepalives),
        each(sweep)
    );
    Ok(())
}

fn park(core: &Core, n: usize, keys: Option<usize>) -> Result<RowId> {
    let now = Millis(0);
    let (conn, origin) = (ConnId(n as u64), Origin::udp(address(n)));
    let mut name = [0; 30];
    name[..8].copy_from_slice(&n.to_be_bytes());
    let fingerprint = Fingerprint::from_bytes(name);
    let caller = Caller::new(fingerprint, DeviceId::FIRST, &[n as u8; PASSPORT]);
    core.welcome(conn, origin, Some(caller), now)?;
    let register = Register {
        device: DeviceId::FIRST,
        counter: 1,
        instance: Some(INSTANCE),
        grants: Vec::new(),
        invite: None,
    };
    let ask = |session, call| core.call(conn, origin, Request { session, call }, now).response;
    let Response::Registered(registered) = ask(None, Call::Register(register)) else {
        anyhow::bail!("not registered");
    };
    let session = Some(registered.session);
    if let Some(keys) = keys {
        let bundle = vec![n as u8; BUNDLE];
        let one_time_keys = (0..keys).map(|k| [k as u8; 32]).collect();
        let publication = Publication { seq: 1, bundle, one_time_keys };
        ensure!(ask(session, Call::Publish(publication)) == Response::Done, "not published");
    }
    let request = Request { session, call: Call::Park };
    let Response::Parked(parked) = core.park(conn, origin, &request, key, now).response else {
        anyhow::bail!("not parked");
    };
    core.connection_closed(conn, now);
    Ok(parked.row)
}

fn key(row: RowId) -> ParkingKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&row.0.to_be_bytes());
    ParkingKey::from_bytes(bytes)
}

fn address(n: usize) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + n as u32), 4_000).into()
}

/// Resident memory of this process, in bytes.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok());
    Ok(kib.context("the kernel does not tell")? * 1024)
}
