//! How much passes: through the wire itself, by one TCP connection, and between two people.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kind::Kind;
use crate::pair::Plan;
use crate::people::{Peer, Person, is, path};
use crate::plan::Side;
use crate::world::{Distance, Places, World};

/// What two people reached with `halloo perf`.
#[derive(Debug, Clone, PartialEq)]
pub struct Throughput {
    /// In MiB a second.
    pub mib_per_s: f64,
    /// On which path.
    pub path: String,
}

/// Lets Anna send to Ben for `time`, once they have a direct path or it is clear that there will
/// be none.
///
/// # Errors
/// The lab cannot be built, or `halloo perf` fails.
pub fn between_people(places: Places, plan: &Plan, time: Duration) -> Result<Throughput> {
    let world = World::new(places, &plan.distance)?;
    let peer = Peer::start(&world, &plan.programs)?;
    let mut anna = Person::new(&world, Side::A, &plan.programs, &peer)?;
    let mut ben = Person::new(&world, Side::B, &plan.programs, &peer)?;
    anna.arrive()?;
    ben.arrive()?;
    anna.befriend(&ben)?;
    let is_direct = |line: &serde_json::Value| is("path")(line) && path(line) == Some("direct");
    anna.listening()?.said().wait_for(0, plan.patience, is_direct);
    let duration = format!("{}s", time.as_secs());
    let said = anna.halloo(&["perf", Side::B.name(), "--duration", &duration])?;
    let end = said.iter().find(|line| is("summary")(line)).context("halloo perf says nothing")?;
    Ok(Throughput {
        mib_per_s: end["mib_per_s"].as_f64().context("halloo perf measures nothing")?,
        path: path(end).unwrap_or_default().to_owned(),
    })
}

/// Sends for `time` and returns the rate at which it arrived, in Gbit/s.
///
/// # Errors
/// The lab cannot be built.
pub fn measure(distance: &Distance, time: Duration) -> Result<f64> {
    let world = World::new(Places::Apart(Kind::Open, Kind::Open), distance)?;
    let ip = Side::B.public_v4().into();
    let listener = world.node(Side::B)?.tcp_listener(SocketAddr::new(ip, 0))?;
    let mut sender = world.node(Side::A)?.tcp(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let sending = std::thread::spawn(move || {
        let (begin, chunk) = (Instant::now(), vec![0; 256 * 1024]);
        while begin.elapsed() < time && sender.write_all(&chunk).is_ok() {}
    });
    let (begin, mut bytes, mut buffer) = (Instant::now(), 0, vec![0; 1024 * 1024]);
    loop {
        match receiver.read(&mut buffer).context("the connection breaks")? {
            0 => break,
            length => bytes += length,
        }
    }
    let rate = bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9;
    // It ends with the connection.
    let _ = sending.join();
    Ok(rate)
}
