//! Probes: their keys, what they say, and how they are sealed.
//!
//! ```text
//! datagram   0x04 | version 1 | key id 8 | nonce 12 | ciphertext 28 | tag 16       66 bytes, always
//! nonce      salt 8, drawn by the sender once per round | counter 4, from 0
//! plaintext  kind 1 (1 ping, 2 pong) | flags 1 | txid 8 | IPv6 16 | port 2
//! flags      bit 0: busy; bit 1: selected; bit 2: doubts
//!
//! busy       the sender has had data for the other within the last minute
//! selected   the sender's data goes on this path
//! doubts     so it does, and it hears nothing back, so that it uses the relay as well
//! ```
//!
//! The cipher is ChaCha20-Poly1305 with the first ten bytes as associated data. The key and the key
//! id of each direction are the 40 bytes that BLAKE3 derives from the callee's reach capability
//! secret and the round, in the context `halloo 2026 probe caller to callee v1` or
//! `halloo 2026 probe callee to caller v1`. An IPv4 address stands as `::ffff:a.b.c.d`. Every probe
//! has the same size, so no answer is larger than what it answers.
//!
//! The salt makes a nonce unique even when a hostile peer repeats a knock and so makes a callee
//! derive the same keys twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halloo_wire::datagram::Probe;
use halloo_wire::ids::{RoundId, Side};
use halloo_wire::{DecodeError, Reader, Writer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of every probe.
pub const PROBE_LEN: usize = 66;
/// Senders, told apart by their salts, that are heard under one key. A second one appears when
/// the other side begins the same round again.
const MAX_SENDERS: usize = 4;
/// Counters behind the newest that are still taken: a quarter of a second of a search at 500
/// probes a second may arrive in any order.
const REPLAY_WINDOW: u32 = 128;

const CALLER_TO_CALLEE: &str = "halloo 2026 probe caller to callee v1";
const CALLEE_TO_CALLER: &str = "halloo 2026 probe callee to caller v1";

/// The keys of one round's probes, one for each direction. They do not print, and they are wiped
/// when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PunchKeys {
    send: Half,
    receive: Half,
}

/// The key of one direction, and the number that names it.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Half {
    key: [u8; 32],
    id: u64,
}

impl PunchKeys {
    /// Derives them from the callee's reach capability secret, which both sides have. `role` is
    /// ours in this round.
    pub fn derive(secret: &[u8; 32], round: &RoundId, role: Side) -> Self {
        let to_callee = Half::derive(CALLER_TO_CALLEE, secret, round);
        let to_caller = Half::derive(CALLEE_TO_CALLER, secret, round);
        match role {
            Side::Caller => Self { send: to_callee, receive: to_caller },
            Side::Callee => Self { send: to_caller, receive: to_callee },
        }
    }

    /// The key id of the probes that come to us: by it a driver finds the agent.
    pub fn receive_id(&self) -> u64 {
        self.receive.id
    }
}

impl std::fmt::Debug for PunchKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PunchKeys(…)")
    }
}

impl Half {
    fn derive(context: &str, secret: &[u8; 32], round: &RoundId) -> Self {
        let mut bytes = Zeroizing::new([0; 40]);
        let mut hasher = Zeroizing::new(blake3::Hasher::new_derive_key(context));
        hasher.update(secret).update(&round.0);
        hasher.finalize_xof().fill(&mut *bytes);
        let (key, id) = bytes.split_at(32);
        let mut half = Self { key: [0; 32], id: 0 };
        half.key.copy_from_slice(key);
        half.id = id.iter().fold(0, |acc, &b| acc << 8 | u64::from(b));
        half
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.key))
    }
}

/// What a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The sender has had data for this contact lately, and wants the path kept.
    pub(crate) busy: bool,
    /// The sender's datagrams go on this path.
    pub(crate) selected: bool,
    /// The sender uses the relay as well, because this path seems to have died.
    pub(crate) doubts: bool,
    /// Drawn at random for a ping, repeated in its pong.
    pub(crate) txid: u64,
    /// A ping's: where it is sent. A pong's: where the ping came from.
    pub(crate) you: SocketAddr,
}

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Pong,
}

/// Why a datagram is not taken as a probe of this contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Not a probe.
    #[error("not a probe")]
    Malformed,
    /// Under a key that this agent does not have, or no longer.
    #[error("the probe's round is not known")]
    UnknownKey,
    /// It does not open: damaged or forged.
    #[error("the probe is not authentic")]
    NotAuthentic,
    /// It came before, or too long after later ones.
    #[error("the probe came before")]
    Replayed,
    /// Through a socket that is not open for this contact, or no longer.
    #[error("the probe came through another socket")]
    UnknownSocket,
    /// Authentic, but from an address that may not be answered.
    #[error("the probe's source may not be answered")]
    Source,
    /// Authentic, but from one address too many.
    #[error("too many sources")]
    TooManySources,
}

/// Seals and opens the probes of one round.
pub(crate) struct Sealer {
    keys: PunchKeys,
    salt: u64,
    counter: u32,
    senders: Vec<(u64, Window)>,
}

impl Sealer {
    /// Draws nothing itself: `salt` is random.
    pub(crate) fn new(keys: PunchKeys, salt: u64) -> Self {
        Self { keys, salt, counter: 0, senders: Vec::new() }
    }

    pub(crate) fn receive_id(&self) -> u64 {
        self.keys.receive_id()
    }

    /// Whether the key id under which we send is the greater of the two: true on one side only.
    pub(crate) fn has_greater_id(&self) -> bool {
        self.keys.send.id > self.keys.receive.id
    }

    /// The datagram, or none when the round has sent all that one key may seal.
    pub(crate) fn seal(&mut self, message: &Message) -> Option<Vec<u8>> {
        let counter = self.counter;
        self.counter = counter.checked_add(1)?;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.salt.to_be_bytes());
        nonce[8..].copy_from_slice(&counter.to_be_bytes());

        let mut probe = Probe { key_id: self.keys.send.id, sealed: Vec::new() };
        let header = probe.encode();
        let payload = Payload { msg: &message.encode(), aad: &header };
        let sealed = self.keys.send.cipher().encrypt(&Nonce::from(nonce), payload);
        probe.sealed = [&nonce[..], &sealed.expect("a short message can be sealed")].concat();
        Some(probe.encode())
    }

    /// Opens a probe whose key id is ours.
    pub(crate) fn open(&mut self, probe: &Probe) -> Result<Message, Reject> {
        let (nonce, sealed) = probe.sealed.split_first_chunk::<12>().ok_or(Reject::Malformed)?;
        let header = Probe { key_id: probe.key_id, sealed: Vec::new() }.encode();
        let payload = Payload { msg: sealed, aad: &header };
        let plain = self.keys.receive.cipher().decrypt(&Nonce::from(*nonce), payload);
        let plain = Zeroizing::new(plain.map_err(|_| Reject::NotAuthentic)?);
        let message = Message::decode(&plain).map_err(|_| Reject::Malformed)?;

        let (salt, counter) = nonce.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b));
        let (salt, counter) = (number(salt), number(counter) as u32);
        let known = self.senders.iter().position(|&(s, _)| s == salt);
        let place = match known {
            Some(place) => place,
            None if self.senders.len() == MAX_SENDERS => return Err(Reject::Replayed),
            None => {
                self.senders.push((salt, Window::default()));
                self.senders.len() - 1
            }
        };
        if self.senders[place].1.take(counter) { Ok(message) } else { Err(Reject::Replayed) }
    }
}

/// Which counters have come.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    /// One more than the highest.
    next: u64,
    /// Bit `i`: `next - 1 - i` has come.
    seen: u128,
}

impl Window {
    fn take(&mut self, counter: u32) -> bool {
        let counter = u64::from(counter);
        if counter >= self.next {
            let ahead = counter + 1 - self.next;
            self.seen = if ahead < 128 { self.seen << ahead } else { 0 } | 1;
            self.next = counter + 1;
            return true;
        }
        let behind = self.next - 1 - counter;
        if behind >= u64::from(REPLAY_WINDOW) || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

impl Message {
    const BUSY: u8 = 1;
    const SELECTED: u8 = 2;
    const DOUBTS: u8 = 4;
    /// Those that this version knows.
    pub(crate) const ALL_FLAGS: u8 = Self::BUSY | Self::SELECTED | Self::DOUBTS;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let ip = match self.you.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut w = Writer::with_capacity(28);
        w.u8(match self.kind {
            Kind::Ping => 1,
            Kind::Pong => 2,
        });
        w.u8(flag(self.busy, Self::BUSY)
            | flag(self.selected, Self::SELECTED)
            | flag(self.doubts, Self::DOUBTS));
        w.u64(self.txid).put(&ip.octets()).u16(self.you.port());
        w.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let kind = match r.u8()? {
            1 => Kind::Ping,
            2 => Kind::Pong,
            other => return Err(DecodeError::UnknownType(other)),
        };
        // Flags that this version does not know may come from a later one.
        let flags = r.u8()?;
        let txid = r.u64()?;
        let ip = Ipv6Addr::from(r.array::<16>()?);
        let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), |ip: Ipv4Addr| ip.into());
        let you = SocketAddr::new(ip, r.u16()?);
        r.finish()?;
        let has = |bit| flags & bit != 0;
        let (busy, selected) = (has(Self::BUSY), has(Self::SELECTED));
        Ok(Self { kind, busy, selected, doubts: has(Self::DOUBTS), txid, you })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are a promise to programs that are already out there.
    #[test]
    fn golden_bytes() {
        let [mut caller, mut callee] = sealers();
        let ping = Message {
            kind: Kind::Ping,
            busy: true,
            selected: false,
            doubts: false,
            txid: 0x0102_0304_0506_0708,
            you: "198.51.100.7:40000".parse().unwrap(),
        };
        assert_eq!(
            hex(&caller.seal(&ping).unwrap()),
            [
                "0401",                                                     // probe, version
                "62f2fb1a6a8e8ff9",                                         // key id
                "a0a1a2a3a4a5a6a700000000",                                 // nonce
                "e9ed43ff1514f01f6d3db5536c4f2fccfedce7fc256752a09a28d794", // ping
                "f808ef52ca5259669f68b0d76a6f7279",                         // tag
            ]
            .concat()
        );
        let pong = Message {
            kind: Kind::Pong,
            busy: false,
            selected: true,
            doubts: true,
            you: "[2001:db8::7]:443".parse().unwrap(),
            ..ping
        };
        assert_eq!(
            hex(&callee.seal(&pong).unwrap()),
            [
                "0401",                                                     // probe, version
                "a0165d42dae1ff92",                                         // key id
                "a0a1a2a3a4a5a6a800000000",                                 // nonce
                "fdbeafe39d65b1ec89199fb60ec3ec94ca5ffd5709b62135a29c805a", // pong
                "e74a0962804a5b91a2f2ea488b677d26",                         // tag
            ]
            .concat()
        );
    }

    /// The example in `docs/protocol/datagrams.md`, which was computed by other means.
    #[test]
    fn the_example_of_the_specification() {
        let round = RoundId(std::array::from_fn(|i| 0xa0 + i as u8));
        let seal = |side, salt, message: &Message| {
            let keys = PunchKeys::derive(&[7; 32], &round, side);
            hex(&Sealer::new(keys, salt).seal(message).unwrap())
        };
        let ping = Message {
            kind: Kind::Ping,
            busy: true,
            selected: false,
            doubts: false,
            txid: 0x1112_1314_1516_1718,
            you: "203.0.113.5:51001".parse().unwrap(),
        };
        assert_eq!(
            seal(Side::Caller, 0x0102_0304_0506_0708, &ping),
            "0401a9f9fb7e961318ce010203040506070800000000\
             86c3fd5016d432386b5aead92ea0efede92038e8f5600eb54700501d\
             72bc41cda96d6038e0dc52edfc1480c8"
        );
        let pong = Message { kind: Kind::Pong, busy: false, selected: true, ..ping };
        assert_eq!(
            seal(Side::Callee, 0x2122_2324_2526_2728, &pong),
            "0401e11a3f19baa0f86f212223242526272800000000\
             9612c47205f46a1190cfe211b55caf31016871130f4bd105db3ab9ad\
             77ff1db20e6e2fdda7c7a6886c6c3444"
        );
    }

    #[test]
    fn what_one_side_seals_the_other_opens_once() {
        let [mut caller, mut callee] = sealers();
        for message in messages() {
            let datagram = caller.seal(&message).unwrap();
            assert_eq!(datagram.len(), PROBE_LEN, "all have one size");
            let probe = Probe::decode(&datagram).unwrap();
            assert_eq!(probe.key_id, callee.receive_id());
            assert_eq!(callee.open(&probe), Ok(message));
            assert_eq!(callee.open(&probe), Err(Reject::Replayed));
            assert_eq!(caller.open(&probe), Err(Reject::NotAuthentic), "keys have a direction");
        }
    }

    #[test]
    fn a_changed_probe_does_not_open() {
        let [mut caller, mut callee] = sealers();
        let datagram = caller.seal(&messages()[0]).unwrap();
        for i in 10..datagram.len() {
            let mut changed = datagram.clone();
            changed[i] ^= 1;
            let probe = Probe::decode(&changed).unwrap();
            assert_eq!(callee.open(&probe), Err(Reject::NotAuthentic), "byte {i}");
        }
        for len in 0..datagram.len() {
            let opened = Probe::decode(&datagram[..len]).map(|probe| callee.open(&probe));
            assert!(!matches!(opened, Ok(Ok(_))), "{len} bytes");
        }
    }

    #[test]
    fn probes_may_overtake_each_other() {
        let [mut caller, mut callee] = sealers();
        let mut probes: Vec<Probe> = (0..100)
            .map(|_| Probe::decode(&caller.seal(&messages()[0]).unwrap()).unwrap())
            .collect();
        probes.reverse();
        assert!(probes.iter().all(|p| callee.open(p).is_ok()));
        assert!(probes.iter().all(|p| callee.open(p) == Err(Reject::Replayed)));
    }

    #[test]
    fn old_probes_and_senders_without_end_are_refused() {
        let [mut caller, mut callee] = sealers();
        let old = Probe::decode(&caller.seal(&messages()[0]).unwrap()).unwrap();
        for _ in 0..REPLAY_WINDOW {
            let probe = Probe::decode(&caller.seal(&messages()[0]).unwrap()).unwrap();
            assert!(callee.open(&probe).is_ok());
        }
        assert_eq!(callee.open(&old), Err(Reject::Replayed));
        for salt in 0..100 {
            let keys = PunchKeys::derive(&[7; 32], &RoundId([8; 16]), Side::Caller);
            let probe = Sealer::new(keys, salt).seal(&messages()[0]).unwrap();
            let taken = callee.open(&Probe::decode(&probe).unwrap()).is_ok();
            assert_eq!(taken, salt < MAX_SENDERS as u64 - 1);
        }
    }

    #[test]
    fn keys_do_not_print() {
        let keys = PunchKeys::derive(&[7; 32], &RoundId([8; 16]), Side::Caller);
        assert_eq!(format!("{keys:?}"), "PunchKeys(…)");
    }

    fn sealers() -> [Sealer; 2] {
        [Side::Caller, Side::Callee].map(|side| {
            let keys = PunchKeys::derive(&[7; 32], &RoundId([8; 16]), side);
            Sealer::new(keys, 0xa0a1_a2a3_a4a5_a6a7 + side as u64)
        })
    }

    fn messages() -> [Message; 2] {
        let ping = Message {
            kind: Kind::Ping,
            busy: false,
            selected: true,
            doubts: false,
            txid: u64::MAX,
            you: "203.0.113.5:65535".parse().unwrap(),
        };
        let you = "[2001:db8::1]:1".parse().unwrap();
        [ping, Message { kind: Kind::Pong, busy: true, doubts: true, you, ..ping }]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
