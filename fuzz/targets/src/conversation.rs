//! Two ratchets that hear each other's messages in any order, any number of times, after any pause.
//!
//! Each byte of the input is a step of one of the two, who follow the rules of delivery: messages
//! are encrypted once and decrypted in the order of the stream, what comes before its turn is
//! peeked at, and receipts say how far the stream was encrypted before them. In the end everything
//! is delivered in order, and both must have read exactly what was written.

use std::cell::RefCell;

use halloo_e2ee::{
    Parties, Party, RatchetAccount, RatchetSession, UnixTime, VerifiedBundle, make_bundle,
};
use halloo_identity::{Identity, Seeds};
use halloo_wire::inner::{Inner, Kind};
use halloo_wire::peer::Found;
use halloo_wire::{DeviceId, Seq, StreamId};

const NOW: UnixTime = UnixTime(1_800_000_000);
/// Steps of one input.
const MAX_STEPS: usize = 400;

/// One of the two.
struct Side {
    session: RatchetSession,
    parties: Parties,
    stream: StreamId,
    /// Its messages and receipts, as they were encrypted.
    written: Vec<Inner>,
    /// The next place of its stream.
    place: u64,
    /// How much of the other's stream it has read.
    read: u64,
}

/// Two stored sessions that have heard each other.
struct Acquainted {
    sessions: [Vec<u8>; 2],
    parties: [Parties; 2],
}

thread_local! {
    static ACQUAINTED: RefCell<Option<Acquainted>> = const { RefCell::new(None) };
}

/// A conversation.
pub fn e2ee_conversation(data: &[u8]) {
    ACQUAINTED.with_borrow_mut(|acquainted| {
        let acquainted = acquainted.get_or_insert_with(Acquainted::make);
        let mut sides = [0, 1].map(|i| acquainted.side(i));
        for step in data.iter().take(MAX_STEPS) {
            take(&mut sides, *step);
        }
        for from in 0..2 {
            for n in 0..sides[from].written.len() {
                hear(&mut sides, from, n, false);
            }
            assert_eq!(sides[1 - from].read, sides[from].place - 1, "everything was read");
        }
    });
}

/// The lowest bit says who; the next two what; the rest which.
fn take(sides: &mut [Side; 2], step: u8) {
    let (who, what, which) = (usize::from(step & 1), step >> 1 & 3, usize::from(step >> 3));
    match what {
        0 => sides[who].write(Kind::Message),
        1 => sides[who].write(Kind::Ack),
        _ => {
            let newest = sides[who].written.len();
            if newest > 0 {
                // The newest, or some before it.
                hear(sides, who, newest - 1 - which % newest, what == 3);
            }
        }
    }
    if which == 31 {
        // The process of the other one ends, and starts from what it has stored.
        let side = &mut sides[1 - who];
        side.session = RatchetSession::from_bytes(&side.session.to_bytes()).expect("it was stored");
    }
}

/// The other one gets a message of `from`'s, perhaps changed on the way.
fn hear(sides: &mut [Side; 2], from: usize, n: usize, changed: bool) {
    let mut inner = sides[from].written[n].clone();
    let to = &mut sides[1 - from];
    let sequenced = inner.kind.is_sequenced();
    let next = Seq(to.read + 1);
    if changed {
        let at = n % inner.ratchet.len();
        inner.ratchet[at] ^= 1 << (n % 8);
        let before = to.session.to_bytes();
        assert!(to.session.decrypt_checked(&inner, &to.parties).is_err(), "it was changed");
        assert!(*to.session.to_bytes() == *before, "a refused message leaves no trace");
    } else if inner.route.seq > next {
        let before = to.session.to_bytes();
        let plain = to.session.peek(&inner, &to.parties).expect("what comes early can be read");
        assert_eq!(plain.route(), &inner.route);
        assert!(*to.session.to_bytes() == *before, "peeking moves nothing");
    } else if !sequenced {
        // It may have been read before; then its key is gone.
        let _ = to.session.decrypt_checked(&inner, &to.parties);
    } else if inner.route.seq == next {
        let plain = to.session.decrypt_checked(&inner, &to.parties).expect("it is its turn");
        assert_eq!(plain.content(), inner.route.seq.0.to_be_bytes());
        to.read += 1;
    } else {
        assert!(to.session.decrypt_checked(&inner, &to.parties).is_err(), "nothing is read twice");
    }
}

impl Side {
    fn write(&mut self, kind: Kind) {
        let seq = Seq(self.place);
        let content = seq.0.to_be_bytes();
        let inner = self.session.compose(&self.parties, self.stream, seq, kind, &content, None);
        self.written.push(inner.expect("it is short"));
        self.place += u64::from(kind.is_sequenced());
    }
}

impl Acquainted {
    fn make() -> Self {
        let identities = [1, 2].map(|n| {
            Identity::from_seeds(Seeds { passport: [n; 32], ml_dsa: [n; 32], device: [n; 32] })
        });
        let mut accounts = [RatchetAccount::generate(), RatchetAccount::generate()];
        let party = |i: usize, accounts: &[RatchetAccount; 2]| Party {
            fingerprint: identities[i].fingerprint(),
            device: DeviceId::FIRST,
            ratchet_key: accounts[i].olm_identity(),
        };
        let (bundle, keys, _) = make_bundle(&identities[1], &mut accounts[1], 1, NOW);
        let found = Found {
            passport: identities[1].passport_der().to_vec(),
            bundle: bundle.encode(),
            one_time_keys: keys,
            one_time_key: Some(0),
        };
        let whose = identities[1].fingerprint();
        let mut bundle = VerifiedBundle::verify(&found, &whose, DeviceId::FIRST, NOW, None)
            .expect("it is sound");
        let parties = [
            Parties { us: party(0, &accounts), them: party(1, &accounts) },
            Parties { us: party(1, &accounts), them: party(0, &accounts) },
        ];
        let mut first = RatchetSession::outbound(&accounts[0], &mut bundle).expect("usable keys");
        let hello = first
            .compose(&parties[0], StreamId(9), Seq(1), Kind::Message, b"hello", None)
            .expect("it is short");
        let (mut second, _) =
            RatchetSession::inbound(&mut accounts[1], &hello, &parties[1]).expect("it begins one");
        let answer = second
            .compose(&parties[1], StreamId(9), Seq(1), Kind::Message, b"hello", None)
            .expect("it is short");
        first.decrypt_checked(&answer, &parties[0]).expect("it answers");
        Self { sessions: [first.to_bytes().to_vec(), second.to_bytes().to_vec()], parties }
    }

    fn side(&self, i: usize) -> Side {
        Side {
            session: RatchetSession::from_bytes(&self.sessions[i]).expect("it was stored"),
            parties: self.parties[i],
            stream: StreamId(i as u64 + 1),
            written: Vec::new(),
            place: 1,
            read: 0,
        }
    }
}
