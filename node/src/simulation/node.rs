//! A machine with a node on it: the real mind on the real store, on a disk that forgets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_e2ee::UnixTime;
use halloo_identity::{Address, Fingerprint, Identity, PeerHost, Seeds};
use halloo_wire::content::PeerHint;
use halloo_wire::peer::Found;
use halloo_wire::{InstanceId, Seq, StreamId};
use rusqlite::{Connection, OpenFlags};

use super::disk::{Disk, Image};
use crate::core::schedule::{Schedule, Trust, Work};
use crate::core::{Context, Departure, DueAck, Messenger, Output};
use crate::event::{Cursor, EventKind, Via};
use crate::planted::{Bug, planted};
use crate::store::{Db, StoreError, prepare, prepare_schema, run_batch};

/// The wall clock when a world begins.
pub(super) const BEGIN: u64 = 1_800_000_000;

/// A machine.
pub(super) struct Node {
    pub(super) identity: Arc<Identity>,
    pub(super) disk: Disk,
    vfs: String,
    pub(super) running: Option<Running>,
    /// Counts the starts: what was meant for an earlier one does not reach this one.
    pub(super) life: u32,
    /// How wrong the clock is, in seconds.
    pub(super) clock: i64,
    /// What peers hand out of it.
    pub(super) found: Found,
    pub(super) one_time_keys_used: u16,
}

/// What ends with the process.
pub(super) struct Running {
    sql: Connection,
    mind: Messenger,
    pub(super) couriers: BTreeMap<usize, Courier>,
    /// The runs of the peers that it is connected to, by peer.
    pub(super) offices: BTreeMap<usize, InstanceId>,
    /// The run of the own peer that it is registered with.
    pub(super) registered: Option<InstanceId>,
    /// When it looks whether a deadline has passed.
    pub(super) expire_at: Option<Duration>,
}

/// One contact's courier, as `net::courier` has it.
pub(super) struct Courier {
    pub(super) schedule: Schedule,
    /// The connection that it writes on, and how far it has written.
    pub(super) writing: Option<(u64, Option<(StreamId, Seq)>)>,
    pub(super) wake_at: Option<Duration>,
    pub(super) carrying: Option<(Trust, Work)>,
    /// Woken while it was carrying.
    pub(super) again: bool,
    pub(super) controls: Vec<Vec<u8>>,
    pub(super) heard_by_mailbox: bool,
    /// The receipt that is on its way to the contact's peer.
    pub(super) ack: Option<DueAck>,
    /// When the receipt that is due goes there.
    pub(super) receipt_later: Option<Instant>,
}

impl Courier {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            schedule: Schedule::new(now),
            writing: None,
            wake_at: None,
            carrying: None,
            again: false,
            controls: Vec::new(),
            heard_by_mailbox: false,
            ack: None,
            receipt_later: None,
        }
    }
}

impl Node {
    /// A machine with an empty disk and no process.
    pub(super) fn new(identity: Arc<Identity>, disk: Disk, vfs: String) -> Self {
        let found = Found {
            passport: Vec::new(),
            bundle: Vec::new(),
            one_time_keys: Vec::new(),
            one_time_key: None,
        };
        Self { identity, disk, vfs, running: None, life: 0, clock: 0, found, one_time_keys_used: 0 }
    }

    pub(super) fn fp(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    pub(super) fn address(&self) -> Address {
        let peer = PeerHost::new("peer.example", 443).expect("it is a name");
        Address { peer, peer_key: None, fingerprint: self.fp() }
    }

    /// Starts the process.
    pub(super) fn start(&mut self) -> Result<(), StoreError> {
        self.life += 1;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = Connection::open_with_flags_and_vfs("node.db", flags, self.vfs.as_str())?;
        prepare_schema(&sql)?;
        // Often, so that crashes meet it.
        sql.pragma_update(None, "wal_autocheckpoint", 30)?;
        sql.execute_batch("BEGIN")?;
        let mut cx = Context::new(Db::new(&sql), UnixTime(BEGIN));
        if planted(Bug::ForgetPlaces) {
            cx.db.execute("DELETE FROM incoming")?;
        }
        let mind = Messenger::load(&mut cx, Arc::clone(&self.identity), false)?;
        sql.execute_batch("COMMIT")?;
        self.running = Some(Running {
            sql,
            mind,
            couriers: BTreeMap::new(),
            offices: BTreeMap::new(),
            registered: None,
            expire_at: None,
        });
        Ok(())
    }

    /// Runs work in a transaction of the real store. Returns what leaves after the commit with it.
    pub(super) fn run<T, E, F>(&mut self, now: Duration, work: F) -> (Result<T, E>, Vec<Output>)
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E> + Send + 'static,
    {
        let unix = BEGIN.saturating_add(now.as_secs()).saturating_add_signed(self.clock);
        let Some(running) = &mut self.running else {
            return (Err(E::from(StoreError::Stopped)), Vec::new());
        };
        let outputs = RefCell::new(Vec::new());
        let (job, mut answer) = prepare(work);
        let tell = |output| outputs.borrow_mut().push(output);
        // What became of it is in the answer.
        let _ = run_batch(&running.sql, &mut running.mind, vec![job], UnixTime(unix), &tell);
        let result = answer.try_recv().unwrap_or_else(|_| Err(E::from(StoreError::Stopped)));
        if self.disk.is_dead() {
            // The machine died before anything could leave.
            return (Err(E::from(StoreError::Stopped)), Vec::new());
        }
        (result, outputs.into_inner())
    }

    /// What a peer hands out at a look-up: each one-time key once.
    pub(super) fn look_up(&mut self) -> Found {
        let mut found = self.found.clone();
        let left = usize::from(self.one_time_keys_used) < found.one_time_keys.len();
        found.one_time_key = left.then_some(self.one_time_keys_used);
        self.one_time_keys_used += 1;
        found
    }

    /// Everything that the program was told, in order.
    pub(super) fn events(&mut self) -> Vec<EventKind> {
        let (all, _) = self.run(Duration::ZERO, |_, cx| cx.db.events(Cursor(0), 1_000_000));
        let all: Vec<(Cursor, EventKind)> = all.unwrap_or_default();
        all.into_iter().map(|(_, kind)| kind).collect()
    }
}

/// Identities that are contacts of each other, with their disks. Made once: the signatures take
/// their time.
pub(super) struct Friends {
    pub(super) people: Vec<(Arc<Identity>, Image, Found)>,
}

impl Friends {
    /// Makes `n` people acquainted. `vfs` names a file system for the time being.
    pub(super) fn make(n: usize) -> Self {
        let mut nodes: Vec<Node> = (1..=n as u8)
            .map(|n| {
                let disk = Disk::default();
                let vfs = format!("friends-{}", crate::random::u64());
                sqlite_vfs::register(&vfs, disk.clone(), false).expect("the name is free");
                // The same people each time: the order of fingerprints decides who comes first.
                let seeds = Seeds { passport: [n; 32], ml_dsa: [n; 32], device: [n; 32] };
                let mut node = Node::new(Arc::new(Identity::from_seeds(seeds)), disk, vfs);
                node.start().expect("the disk is sound");
                let hint = PeerHint { host: "peer.example".into(), port: 443, key: None };
                now(&mut node, move |m, cx| m.set_own_peers(cx, &[hint]));
                let made = now(&mut node, |m, cx| m.publication(cx, None)).expect("there is none");
                node.found = Found {
                    passport: node.identity.passport_der().to_vec(),
                    bundle: made.bundle,
                    one_time_keys: made.one_time_keys,
                    one_time_key: None,
                };
                node
            })
            .collect();
        for a in 0..n {
            for b in a + 1..n {
                let (left, right) = nodes.split_at_mut(b);
                befriend(&mut left[a], &mut right[0]);
            }
        }
        let people = nodes.into_iter().map(|mut node| {
            node.running = None;
            (node.identity, node.disk.image(), node.found)
        });
        Self { people: people.collect() }
    }
}

fn now<T: Send + 'static, E: From<StoreError> + Send + std::fmt::Debug + 'static>(
    node: &mut Node,
    work: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E> + Send + 'static,
) -> T {
    node.run(Duration::ZERO, work).0.expect("nothing goes wrong here")
}

fn befriend(a: &mut Node, b: &mut Node) {
    let (address, fa) = (b.address(), a.fp());
    now(a, move |m, cx| m.add_contact(cx, &address, None, "").map(drop));
    carry(a, b);
    now(b, move |m, cx| m.accept(cx, &fa, None).map(drop));
    for _ in 0..3 {
        carry(b, a);
        carry(a, b);
    }
}

/// Everything of `from` reaches `to`, and its receipt comes back.
fn carry(from: &mut Node, to: &mut Node) {
    let (ff, ft) = (from.fp(), to.fp());
    loop {
        match now(from, move |m, cx| m.depart(cx, &ft, Seq(0), 100)) {
            Departure::NeedBundle => {
                let found = to.look_up();
                now(from, move |m, cx| m.take_bundle(cx, &ft, &found));
            }
            Departure::Ready(ready) => {
                for one in ready {
                    now(to, move |m, cx| {
                        let arrivals = m.open_frame(&ff, Via::Direct, &one.inner);
                        m.ingest(cx, arrivals.into_iter().collect()).map(drop)
                    });
                }
                break;
            }
        }
    }
    if let Some(due) = now(to, move |m, cx| m.due_ack(cx, &ff)) {
        now(from, move |m, cx| m.take_ack(cx, &ft, due.ack, Via::Direct));
        now(to, move |m, cx| m.ack_sent(cx, &ff, due));
    }
}
