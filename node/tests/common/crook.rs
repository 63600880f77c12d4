//! A rendezvous peer that does what a test wants. Left alone, it is an honest small one.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halloo::{DirectPolicy, Fingerprint, Node, PeerAddress, PeerHost};
use halloo_identity::PeerKey;
use halloo_transport::{Accepted, CloseCode, Endpoint, EndpointRole, ServerConnection};
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{
    Call, DropEnvelope, Found, Knock, KnockMessage, Knocked, Page, PeerError, Publication, Push,
    Receipt, Registered, Response, Waiting,
};
use halloo_wire::{EnvelopeId, InstanceId, SessionId};
use tokio::sync::watch;

/// Longest wait for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first run of a crook.
pub(crate) const INSTANCE: InstanceId = InstanceId([7; 16]);

/// How long a connection lives that ends soon.
const SOON: Duration = Duration::from_millis(30);

/// What a crook does with a request, given the honest answer.
pub(crate) type Twist = dyn Fn(&Call, Response) -> Answer + Send + Sync;

/// What a request gets.
pub(crate) enum Answer {
    Say(Response),
    SayAndPush(Response, Push),
    SayAndHangUp(Response),
    HangUp,
    Nothing,
}

#[derive(Clone)]
pub(crate) struct Crook(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    key: PeerKey,
    twist: Mutex<Option<Arc<Twist>>>,
    welcome: AtomicBool,
    short: AtomicBool,
    hold_back: AtomicBool,
    run: AtomicU8,
    connections: AtomicUsize,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    drops: Mutex<BTreeMap<Fingerprint, usize>>,
    devices: Mutex<HashMap<Fingerprint, Device>>,
    open: Mutex<Vec<Arc<ServerConnection>>>,
    /// Rings when anything has changed.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Device {
    passport: Vec<u8>,
    publication: Option<Publication>,
    mailbox: BTreeMap<u64, Vec<u8>>,
    held_back: Vec<Vec<u8>>,
    acked: Vec<EnvelopeId>,
    next: u64,
    connection: Option<Arc<ServerConnection>>,
}

/// An envelope in a mailbox, and whom to tell.
type Kept = (Option<Arc<ServerConnection>>, Waiting);

/// Somebody at home at a crook, in a temporary folder.
pub(crate) struct Person {
    pub(crate) node: Node,
    _folder: tempfile::TempDir,
}

impl Person {
    /// Starts a node and waits until it is registered.
    pub(crate) async fn new(name: &str, home: &Crook) -> Self {
        let it = Self::start(name, home).await;
        tokio::time::timeout(PATIENCE, it.node.online()).await.unwrap();
        it
    }

    /// Starts a node. It uses mailboxes only.
    pub(crate) async fn start(name: &str, home: &Crook) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::builder()
            .home(folder.path())
            .peer_address(&home.address())
            .name(name)
            .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .direct(DirectPolicy::Never)
            .start()
            .await
            .unwrap();
        Self { node, _folder: folder }
    }
}

impl Crook {
    #[allow(clippy::unused_async, reason = "the endpoint needs the runtime")]
    pub(crate) async fn start() -> Self {
        let key = PeerKey::generate();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = Endpoint::bind(listen, EndpointRole::Peer { key: &key }).unwrap();
        let it = Self(Arc::new(Inner {
            endpoint: endpoint.clone(),
            key,
            twist: Mutex::default(),
            welcome: AtomicBool::new(true),
            short: AtomicBool::new(false),
            hold_back: AtomicBool::new(false),
            run: AtomicU8::new(INSTANCE.0[0]),
            connections: AtomicUsize::new(0),
            calls: Mutex::default(),
            drops: Mutex::default(),
            devices: Mutex::default(),
            open: Mutex::default(),
            changed: watch::Sender::new(0),
        }));
        let server = it.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Ok(Accepted::PeerClient(client)) = incoming.handshake().await {
                        server.serve(Arc::new(client)).await;
                    }
                });
            }
        });
        it
    }

    /// What nodes are given to find it.
    pub(crate) fn address(&self) -> PeerAddress {
        let addr = self.0.endpoint.local_addr().unwrap();
        let host = PeerHost::new(&addr.ip().to_string(), addr.port()).unwrap();
        PeerAddress { host, key: Some(self.0.key.fingerprint()) }
    }

    /// Cheats from here on.
    pub(crate) fn twist(&self, twist: impl Fn(&Call, Response) -> Answer + Send + Sync + 'static) {
        self.twist_with(Arc::new(twist));
    }

    pub(crate) fn twist_with(&self, twist: Arc<Twist>) {
        *self.0.twist.lock().unwrap() = Some(twist);
    }

    pub(crate) fn be_honest(&self) {
        *self.0.twist.lock().unwrap() = None;
    }

    pub(crate) fn say_welcome(&self, say: bool) {
        self.0.welcome.store(say, Ordering::SeqCst);
    }

    /// Whether anonymous connections end soon after their first word.
    pub(crate) fn end_connections_soon(&self, end: bool) {
        self.0.short.store(end, Ordering::SeqCst);
    }

    /// Whether what is dropped stays with the peer.
    pub(crate) fn hold_back(&self, hold: bool) {
        self.0.hold_back.store(hold, Ordering::SeqCst);
    }

    /// Another run, which knows nothing: all connections end.
    pub(crate) fn begin_again(&self) {
        self.0.run.fetch_add(1, Ordering::SeqCst);
        self.0.devices.lock().unwrap().clear();
        for connection in self.0.open.lock().unwrap().drain(..) {
            connection.close(CloseCode::Done);
        }
    }

    pub(crate) fn forget(&self, who: &Fingerprint) {
        self.0.devices.lock().unwrap().remove(who);
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.calls.lock().unwrap().values().sum()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.0.calls.lock().unwrap().get(call).copied().unwrap_or(0)
    }

    /// Envelopes that were brought for somebody.
    pub(crate) fn drops_for(&self, who: &Fingerprint) -> usize {
        self.0.drops.lock().unwrap().get(who).copied().unwrap_or(0)
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.0.calls.lock().unwrap().clone()
    }

    /// Waits for the first call of a kind.
    pub(crate) async fn first(&self, call: &str) {
        self.until(|| (self.count(call) > 0).then_some(())).await;
    }

    /// What is given out for somebody.
    pub(crate) fn found(&self, who: &Fingerprint) -> Found {
        self.0.devices.lock().unwrap()[who].found().unwrap()
    }

    /// The envelopes for somebody that are held back.
    pub(crate) fn held_for(&self, who: &Fingerprint) -> Vec<Vec<u8>> {
        self.0.devices.lock().unwrap()[who].held_back.clone()
    }

    /// Pushes an envelope as if somebody had dropped it.
    pub(crate) async fn push_raw(&self, to: &Fingerprint, envelope: Vec<u8>) -> EnvelopeId {
        let (connection, waiting) = {
            let mut devices = self.0.devices.lock().unwrap();
            devices.get_mut(to).unwrap().keep(envelope)
        };
        let id = waiting.id;
        connection.unwrap().push(&Push::Envelope(waiting)).await.unwrap();
        id
    }

    /// Waits until somebody has acknowledged all of these.
    pub(crate) async fn acked(&self, who: &Fingerprint, ids: &[EnvelopeId]) {
        self.until(|| {
            let devices = self.0.devices.lock().unwrap();
            let acked = &devices.get(who)?.acked;
            ids.iter().all(|id| acked.contains(id)).then_some(())
        })
        .await;
    }

    async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look() {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("it happens in time")
    }

    fn instance(&self) -> InstanceId {
        InstanceId([self.0.run.load(Ordering::SeqCst); 16])
    }

    async fn serve(&self, client: Arc<ServerConnection>) {
        self.0.connections.fetch_add(1, Ordering::SeqCst);
        self.0.open.lock().unwrap().push(Arc::clone(&client));
        if self.0.welcome.load(Ordering::SeqCst) {
            let welcome = Push::Welcome {
                instance: self.instance(),
                observed: client.remote_addr(),
                echo_port: None,
            };
            let _ = client.push(&welcome).await;
        }
        if self.0.short.load(Ordering::SeqCst) && client.device().is_none() {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                tokio::time::sleep(SOON).await;
                client.close(CloseCode::Done);
            });
        }
        while let Ok(request) = client.accept_request().await {
            let call = request.request.unwrap().call;
            let (call, rode) = without_knock(call);
            *self.0.calls.lock().unwrap().entry(name(&call)).or_default() += 1;
            if let Call::Drop(envelope) = &call {
                *self.0.drops.lock().unwrap().entry(envelope.to).or_default() += 1;
            }
            let twist = self.0.twist.lock().unwrap().clone();
            let (answer, push) = self.answer(&client, &call);
            let answer = match twist {
                Some(twist) => twist(&call, answer),
                None => Answer::Say(answer),
            };
            let answer = if rode { answer.into_knock() } else { answer };
            match answer {
                Answer::Say(answer) => {
                    let _ = request.responder.send(&answer).await;
                }
                Answer::SayAndPush(answer, push) => {
                    let _ = request.responder.send_acknowledged(&answer).await;
                    let _ = client.push(&push).await;
                }
                Answer::SayAndHangUp(answer) => {
                    let _ = request.responder.send_acknowledged(&answer).await;
                    client.close(CloseCode::Done);
                }
                Answer::HangUp => client.close(CloseCode::Done),
                Answer::Nothing => {}
            }
            if let Some((Some(connection), waiting)) = push {
                let _ = connection.push(&Push::Envelope(waiting)).await;
            }
            self.0.changed.send_modify(|n| *n += 1);
        }
    }

    /// The honest answer, and what it makes the peer push to whom.
    fn answer(&self, client: &Arc<ServerConnection>, call: &Call) -> (Response, Option<Kept>) {
        let instance = self.instance();
        let mut devices = self.0.devices.lock().unwrap();
        let shown = client.device();
        let me = shown.as_ref().map(|shown| shown.passport.fingerprint());
        let mut mine = me.and_then(|me| devices.get_mut(&me));
        let answer = match (call, &mut mine) {
            (Call::Register(r), _) if r.instance.is_some_and(|meant| meant != instance) => {
                Response::Refused(PeerError::InstanceChanged { instance })
            }
            (Call::Register(_), _) => {
                let (shown, me) = (shown.unwrap(), me.unwrap());
                let device = devices.entry(me).or_default();
                device.passport = shown.passport.der().to_vec();
                device.connection = Some(Arc::clone(client));
                Response::Registered(Registered {
                    session: SessionId([3; 16]),
                    expires_s: 3600,
                    bundle_seq: device.publication.as_ref().map(|p| p.seq),
                    one_time_keys_left: 50,
                    capabilities: 0,
                    waiting: 0,
                })
            }
            (Call::Publish(publication), Some(mine)) => {
                mine.publication = Some(publication.clone());
                Response::Done
            }
            (Call::Peek { after }, Some(mine)) => {
                let after = after.map_or(0, |id| id.0);
                let envelopes = mine
                    .mailbox
                    .range(after + 1..)
                    .map(|(&id, envelope)| waiting(id, envelope.clone()))
                    .collect();
                Response::Page(Page { envelopes, more: false })
            }
            (Call::Ack(ids), Some(mine)) => {
                ids.iter().for_each(|id| drop(mine.mailbox.remove(&id.0)));
                mine.acked.extend(ids);
                Response::Done
            }
            (Call::Grant(_) | Call::Revoke(_) | Call::Attest(_), Some(_)) => Response::Done,
            (Call::LookUp(look_up), _) => match devices.get(&look_up.to).and_then(Device::found) {
                Some(found) => Response::Found(found),
                None => Response::Refused(PeerError::UnknownRecipient { instance }),
            },
            (Call::Drop(drop), _) => match devices.get_mut(&drop.to) {
                Some(_) if drop.instance.is_some_and(|meant| meant != instance) => {
                    Response::Refused(PeerError::InstanceChanged { instance })
                }
                Some(device) => {
                    let receipt = Response::Dropped(Receipt { instance, ttl_s: 3600 });
                    if self.0.hold_back.load(Ordering::SeqCst) {
                        device.held_back.push(drop.envelope.clone());
                        return (receipt, None);
                    }
                    return (receipt, Some(device.keep(drop.envelope.clone())));
                }
                None => Response::Refused(PeerError::UnknownRecipient { instance }),
            },
            (Call::Knock(_), _) => Response::Knocked(Knocked { callee: None, message: None }),
            // It rings nobody.
            (Call::Park, _) => Response::Refused(PeerError::Malformed),
            // No node leaves yet.
            (Call::Leave, _) => Response::Refused(PeerError::Malformed),
            (_, None) => Response::Refused(PeerError::NotRegistered),
        };
        (answer, None)
    }
}

impl Device {
    fn found(&self) -> Option<Found> {
        let publication = self.publication.clone()?;
        Some(Found {
            passport: self.passport.clone(),
            bundle: publication.bundle,
            one_time_keys: publication.one_time_keys,
            one_time_key: None,
        })
    }

    fn keep(&mut self, envelope: Vec<u8>) -> Kept {
        self.next += 1;
        self.mailbox.insert(self.next, envelope.clone());
        (self.connection.clone(), waiting(self.next, envelope))
    }
}

/// A message that rides in a knock is dropped: a knock that nobody answers is of no interest.
/// Returns whether it rode.
fn without_knock(call: Call) -> (Call, bool) {
    match call {
        Call::Knock(Knock { to, device, token, message: Some(message), .. }) => {
            let KnockMessage { instance, envelope } = message;
            (Call::Drop(DropEnvelope { to, device, token: Some(token), instance, envelope }), true)
        }
        other => (other, false),
    }
}

impl Answer {
    /// The answer to a drop as the answer to the knock in which it rode.
    fn into_knock(self) -> Self {
        let knocked = |said| match said {
            Response::Dropped(receipt) => {
                Response::Knocked(Knocked { callee: None, message: Some(Ok(receipt)) })
            }
            Response::Refused(e) => {
                Response::Knocked(Knocked { callee: None, message: Some(Err(e)) })
            }
            other => other,
        };
        match self {
            Self::Say(said) => Self::Say(knocked(said)),
            Self::SayAndPush(said, push) => Self::SayAndPush(knocked(said), push),
            Self::SayAndHangUp(said) => Self::SayAndHangUp(knocked(said)),
            other => other,
        }
    }
}

fn waiting(id: u64, envelope: Vec<u8>) -> Waiting {
    Waiting { id: EnvelopeId(id), lane: Lane::Contacts, envelope }
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Register(_) => "register",
        Call::Publish(_) => "publish",
        Call::Grant(_) => "grant",
        Call::Revoke(_) => "revoke",
        Call::Peek { .. } => "peek",
        Call::Ack(_) => "ack",
        Call::LookUp(_) => "look-up",
        Call::Drop(_) => "drop",
        Call::Knock(_) => "knock",
        Call::Attest(_) => "attest",
        Call::Park => "park",
        Call::Leave => "leave",
    }
}
