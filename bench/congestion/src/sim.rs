//! A network in virtual time: quinn's state machines at both ends, one bottleneck between them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::BytesMut;
use quinn_proto::congestion::ControllerFactory;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    ServerConfig, StreamId, TransportConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub type Factory = Arc<dyn ControllerFactory + Send + Sync>;

/// The way from the senders to the receivers. The way back has the same delay and loss and no
/// limit.
#[derive(Clone, Copy)]
pub struct Link {
    /// Bytes a second.
    pub rate: f64,
    /// Bytes that wait at most.
    pub queue: usize,
    /// One way.
    pub delay: Duration,
    /// Share of the datagrams, each way.
    pub loss: f64,
    /// Random extra delay, never reordering, at most.
    pub jitter: Duration,
}

/// A connection that sends without end.
pub struct Flow {
    pub controller: Factory,
    pub start: Duration,
}

/// What became of a flow.
#[derive(Default, Clone)]
pub struct FlowResult {
    bytes_at: Vec<(Duration, u64)>,
    lost: u64,
    sent: u64,
    /// Why the connection ended, if it did.
    ended: Option<String>,
}

/// What became of all.
#[derive(Default)]
pub struct Outcome {
    pub flows: Vec<FlowResult>,
    /// What each packet waited, with the time.
    queue: Vec<(Duration, Duration)>,
}

impl FlowResult {
    /// Bytes a second between two moments.
    pub fn rate(&self, from: Duration, to: Duration) -> f64 {
        let at = |t: Duration| {
            self.bytes_at.iter().take_while(|(x, _)| *x <= t).last().map_or(0, |(_, b)| *b)
        };
        (at(to) - at(from)) as f64 / (to - from).as_secs_f64()
    }

    /// The rate in Mbit/s, or that the connection has ended.
    pub fn said(&self, from: Duration, to: Duration) -> String {
        match &self.ended {
            Some(_) => "**connection lost**".into(),
            None => format!("{:.1}", self.rate(from, to) * 8e-6),
        }
    }

    pub fn lost_percent(&self) -> f64 {
        100.0 * self.lost as f64 / self.sent.max(1) as f64
    }
}

impl Outcome {
    /// Mean and 95th percentile of what packets waited, in milliseconds.
    pub fn queue_ms(&self, from: Duration, to: Duration) -> (f64, f64) {
        let mut all: Vec<f64> = self
            .queue
            .iter()
            .filter(|(t, _)| *t >= from && *t < to)
            .map(|(_, d)| d.as_secs_f64() * 1e3)
            .collect();
        if all.is_empty() {
            return (0.0, 0.0);
        }
        all.sort_by(f64::total_cmp);
        (all.iter().sum::<f64>() / all.len() as f64, all[all.len() * 95 / 100])
    }
}

struct Side {
    endpoint: Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    timer: Option<Instant>,
    addr: SocketAddr,
}

struct State {
    sides: [Side; 2],
    stream: Option<StreamId>,
    read: u64,
    server_stream: Option<StreamId>,
}

enum Event {
    Packet { flow: usize, side: usize, data: Vec<u8> },
    Timer { flow: usize, side: usize },
    Start { flow: usize },
    Sample,
}

/// Runs the flows for this long. Everything follows from the arguments.
pub fn run(link: Link, flows: &[Flow], length: Duration, seed: u64) -> Result<Outcome> {
    let base = Instant::now();
    let mut dice = StdRng::seed_from_u64(seed);
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pk = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let mut server_tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], pk.into())?;
    server_tls.alpn_protocols = vec![b"x".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone())?;
    let mut client_tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client_tls.alpn_protocols = vec![b"x".to_vec()];
    let server_crypto =
        Arc::new(quinn_proto::crypto::rustls::QuicServerConfig::try_from(server_tls)?);
    let client_crypto =
        Arc::new(quinn_proto::crypto::rustls::QuicClientConfig::try_from(client_tls)?);

    let mut states = Vec::new();
    let mut heap: BinaryHeap<Reverse<(Instant, u64, usize)>> = BinaryHeap::new();
    let mut events: Vec<Option<Event>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut seq = 0u64;
    macro_rules! push {
        ($t:expr, $e:expr) => {{
            let slot = match free.pop() {
                Some(s) => {
                    events[s] = Some($e);
                    s
                }
                None => {
                    events.push(Some($e));
                    events.len() - 1
                }
            };
            seq += 1;
            heap.push(Reverse(($t, seq, slot)));
        }};
    }
    for (i, flow) in flows.iter().enumerate() {
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(VarInt::from_u32(64 << 20))
            .receive_window(VarInt::from_u32(64 << 20))
            .send_window(64 << 20)
            .congestion_controller_factory(flow.controller.clone());
        let mut m = quinn_proto::MtuDiscoveryConfig::default();
        m.upper_bound(1400);
        transport.mtu_discovery_config(Some(m));
        let transport = Arc::new(transport);
        let mut server = ServerConfig::with_crypto(server_crypto.clone());
        server.transport_config(transport.clone());
        let mut cfg = EndpointConfig::default();
        cfg.rng_seed(Some([i as u8 + seed as u8; 32]));
        let cfg = Arc::new(cfg);
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let client = Side {
            endpoint: Endpoint::new(cfg.clone(), None, true, Some([i as u8; 32])),
            conn: None,
            timer: None,
            addr: addr(1000 + i as u16),
        };
        let server = Side {
            endpoint: Endpoint::new(cfg, Some(Arc::new(server)), true, Some([i as u8 + 1; 32])),
            conn: None,
            timer: None,
            addr: addr(2000 + i as u16),
        };
        let mut client_config = ClientConfig::new(client_crypto.clone());
        client_config.transport_config(transport);
        states.push((
            State { sides: [client, server], stream: None, read: 0, server_stream: None },
            client_config,
        ));
        push!(base + flow.start, Event::Start { flow: i });
    }
    let mut outcome =
        Outcome { flows: vec![FlowResult::default(); flows.len()], ..Outcome::default() };
    push!(base, Event::Sample);
    let mut link_free = base;
    let mut last_arrival = [base; 2];
    let end = base + length;
    let chunk = vec![7u8; 1 << 20];
    let mut buf = Vec::new();

    while let Some(Reverse((now, _, slot))) = heap.pop() {
        if now > end {
            break;
        }
        let event = events[slot].take().expect("slot");
        free.push(slot);
        let touched: Option<(usize, usize)>;
        match event {
            Event::Sample => {
                let t = now - base;
                for (i, (s, _)) in states.iter().enumerate() {
                    outcome.flows[i].bytes_at.push((t, s.read));
                    if let Some((_, c)) = &s.sides[0].conn {
                        let st = c.stats();
                        outcome.flows[i].lost = st.path.lost_packets;
                        outcome.flows[i].sent = st.path.sent_packets;
                    }
                }
                push!(now + Duration::from_millis(50), Event::Sample);
                continue;
            }
            Event::Start { flow } => {
                let (s, config) = &mut states[flow];
                let remote = s.sides[1].addr;
                let c = s.sides[0].endpoint.connect(now, config.clone(), remote, "localhost")?;
                s.sides[0].conn = Some(c);
                touched = Some((flow, 0));
            }
            Event::Timer { flow, side } => {
                let s = &mut states[flow].0.sides[side];
                if s.timer != Some(now) {
                    continue;
                }
                s.timer = None;
                if let Some((_, c)) = &mut s.conn {
                    c.handle_timeout(now);
                }
                touched = Some((flow, side));
            }
            Event::Packet { flow, side, data } => {
                let from = states[flow].0.sides[1 - side].addr;
                let s = &mut states[flow].0.sides[side];
                buf.clear();
                let got =
                    s.endpoint.handle(now, from, None, None, BytesMut::from(&data[..]), &mut buf);
                match got {
                    Some(DatagramEvent::ConnectionEvent(_, e)) => {
                        if let Some((_, c)) = &mut s.conn {
                            c.handle_event(e);
                        }
                    }
                    Some(DatagramEvent::NewConnection(incoming)) => {
                        let mut b = Vec::new();
                        if s.conn.is_none() {
                            s.conn = s.endpoint.accept(incoming, now, &mut b, None).ok();
                        }
                    }
                    _ => {}
                }
                touched = Some((flow, side));
            }
        }
        let Some((flow, side)) = touched else { continue };
        let s = &mut states[flow].0;
        // The program.
        {
            let State { sides, stream, read, server_stream } = s;
            let Side { endpoint, conn, timer, .. } = &mut sides[side];
            let Some((handle, c)) = conn else { continue };
            loop {
                let mut more = false;
                while let Some(e) = c.poll() {
                    more = true;
                    if let quinn_proto::Event::ConnectionLost { reason } = e {
                        outcome.flows[flow].ended.get_or_insert(reason.to_string());
                    }
                }
                while let Some(e) = c.poll_endpoint_events() {
                    more = true;
                    if let Some(e) = endpoint.handle_event(*handle, e) {
                        c.handle_event(e);
                    }
                }
                if !more {
                    break;
                }
            }
            if side == 0 {
                if stream.is_none() && !c.is_handshaking() {
                    *stream = c.streams().open(Dir::Uni);
                }
                if let Some(id) = *stream {
                    while c.send_stream(id).write(&chunk).is_ok() {}
                }
            }
            if side == 1 {
                if server_stream.is_none() {
                    *server_stream = c.streams().accept(Dir::Uni);
                }
                if let Some(id) = *server_stream {
                    let mut r = c.recv_stream(id);
                    if let Ok(mut chunks) = r.read(true) {
                        while let Ok(Some(x)) = chunks.next(usize::MAX) {
                            *read += x.bytes.len() as u64;
                        }
                        let _ = chunks.finalize();
                    }
                }
            }
            // The wire.
            loop {
                buf.clear();
                let Some(t) = c.poll_transmit(now, 10, &mut buf) else { break };
                let seg = t.segment_size.unwrap_or(t.size);
                for part in buf[..t.size].chunks(seg) {
                    if dice.random::<f64>() < link.loss {
                        continue;
                    }
                    let jitter = link.jitter.mul_f64(dice.random::<f64>());
                    let mut at = if side == 0 {
                        let waiting = link_free.saturating_duration_since(now);
                        outcome.queue.push((now - base, waiting));
                        let wire = part.len() + 28;
                        if waiting.as_secs_f64() * link.rate + wire as f64 > link.queue as f64 {
                            continue;
                        }
                        link_free =
                            link_free.max(now) + Duration::from_secs_f64(wire as f64 / link.rate);
                        link_free + link.delay + jitter
                    } else {
                        now + link.delay + jitter
                    };
                    if !link.jitter.is_zero() {
                        at = at.max(last_arrival[side] + Duration::from_nanos(1));
                        last_arrival[side] = at;
                    }
                    push!(at, Event::Packet { flow, side: 1 - side, data: part.to_vec() });
                }
            }
            let next = c.poll_timeout();
            if next != *timer {
                *timer = next;
                if let Some(t) = next {
                    let t = t.max(now);
                    *timer = Some(t);
                    push!(t, Event::Timer { flow, side });
                }
            }
        }
    }
    Ok(outcome)
}
