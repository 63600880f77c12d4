//! The whole story of two people, with everything recorded that others could see.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Person, Process, text};
use crate::memory::Scan;
use crate::peer::TappedPeer;
use crate::secrets::{Id, Needles, canary};
use crate::wire::Recorder;

/// Names of what is looked for as a proof that the search works.
const REQUEST: &str = "an envelope in the strangers' lane";
const MAIL: &str = "an envelope in the contacts' lane";

/// The first bytes of envelopes (version, suite, lane, number of the recipient's bundle), for
/// every bundle that can have been made by now. Bundles are numbered by the clock.
fn envelopes(what: &str, lane: u8, begun: u64) -> Needles {
    let mut needles = Needles::default();
    for seq in begun..=now() + 60 {
        needles.add(what, &[&[1, 1, lane][..], &seq.to_be_bytes()].concat());
    }
    needles
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Told {
    /// What nobody but the two may see.
    private: Needles,
    anna: Id,
    ben: Id,
}

impl Told {
    fn needles(&self, whose: &[(&str, &Id)]) -> Needles {
        let mut needles = self.private.clone();
        whose.iter().for_each(|(name, id)| needles.add_person(name, id));
        needles
    }

    /// Looks through a peer's memory: who is at home there must be found, which shows that the
    /// search works, and else nobody and nothing.
    fn check(
        &self,
        moment: &str,
        peer: &TappedPeer,
        at_home: &Id,
        code: Option<(&str, &Scan)>,
    ) -> Option<Scan> {
        let needles = self.needles(&[("Anna's", &self.anna), ("Ben's", &self.ben)]);
        let scan = peer.scan(&needles)?;
        let own = if at_home.fingerprint == self.anna.fingerprint { "Anna's" } else { "Ben's" };
        let first = format!("{own} fingerprint, first half");
        assert!(
            scan.found.contains(&first),
            "{moment}: the search of {} bytes is blind",
            scan.bytes
        );
        let key = format!("{own} passport key");
        assert!(scan.found.contains(&key), "{moment}: the passport is there for who looks it up");
        let others: Vec<&String> = scan.found.iter().filter(|f| !f.starts_with(own)).collect();
        assert!(others.is_empty(), "{moment}: the peer's memory holds {others:?}");
        if let Some((code, before)) = code {
            // Six digits can stand anywhere by chance: those that were there before are no sign.
            let is_news =
                |digits: &[u8]| scan.digits.contains(digits) && !before.digits.contains(digits);
            assert!(!is_news(code.as_bytes()), "{moment}: the peer's memory holds the safety code");
        }
        println!("{moment}: {} bytes of memory looked at", scan.bytes);
        Some(scan)
    }
}

#[test]
fn neither_the_wire_nor_the_peers_learn_what_is_said_or_who_says_it() {
    let begun = now();
    let dir = tempfile::tempdir().unwrap();
    let at_a = TappedPeer::start(&dir.path().join("peer-a"));
    let at_b = TappedPeer::start(&dir.path().join("peer-b"));
    let (port_anna, port_ben) = (lasting_port(), lasting_port());
    let ports: BTreeSet<u16> =
        [at_a.tap.port, at_a.port, at_b.tap.port, at_b.port, port_anna, port_ben].into();
    let recorder = match Recorder::start(ports) {
        Ok(recorder) => Some(recorder),
        Err(e) => {
            println!("NOT LOOKED AT: the loopback interface, which takes the superuser: {e}");
            None
        }
    };

    let mut private = Needles::default();
    let mut secret = |what: &str| {
        let canary = canary();
        private.add_text(what, &canary);
        canary
    };
    let (name_anna, name_ben) = (secret("Anna's name"), secret("Ben's name"));
    let (ben_to_anna, note) = (secret("Anna's name for Ben"), secret("the note"));
    let (to_ben, to_anna) = (secret("a message to Ben"), secret("a message to Anna"));
    let (mail_to_ben, mail_to_anna) = (secret("mail to Ben"), secret("mail to Anna"));

    let person = |name: &str, peer: &TappedPeer| {
        let person = Person { home: dir.path().join(name) };
        person.ok(&["init", "--peer", &peer.address, "--name", name]);
        person
    };
    let (anna, ben) = (person(&name_anna, &at_a), person(&name_ben, &at_b));
    let told = Told { private, anna: Id::of(&anna.home), ben: Id::of(&ben.home) };

    // Ben has been online once, so that his peer knows him. Then he is away, and Anna asks.
    leave(&listen(&ben, port_ben));
    anna.ok(&["add", &ben.address(), "--name", &ben_to_anna, "--note", &note]);
    at_b.scan_until(REQUEST, &envelopes(REQUEST, 2, begun));
    let quiet_b = told.check("a request waits for Ben", &at_b, &told.ben, None);

    // Both are there: they become contacts, compare the code, and talk directly.
    let at_ben = listen(&ben, port_ben);
    let request = at_ben.wait("request", |e| e["event"] == "request");
    assert_eq!(
        (&request["note"], &request["given_name"]),
        (&note.clone().into(), &name_anna.clone().into())
    );
    let at_anna = listen(&anna, port_anna);
    let quiet_a = told.check("Anna is there", &at_a, &told.anna, None);
    ben.ok(&["accept", &name_anna]);
    at_anna.wait("acceptance", |e| e["event"] == "accepted");
    talk_directly(&anna, &ben_to_anna, &to_ben, &at_ben);
    talk_directly(&ben, &name_anna, &to_anna, &at_anna);
    let code = compare((&anna, &ben_to_anna), (&ben, &name_anna));

    // Ben is away: mail waits for him.
    leave(&at_ben);
    let sent = anna.ok(&["send", &ben_to_anna, &mail_to_ben, "--wait", "peer"]);
    assert_eq!(sent.last().unwrap()["event"], "at-peer");
    at_b.scan_until(MAIL, &envelopes(MAIL, 1, begun));
    told.check("mail waits for Ben", &at_b, &told.ben, quiet_b.as_ref().map(|s| (&*code, s)));

    // He comes back while she is away, so that it is the mailbox that he has it from.
    leave(&at_anna);
    let at_ben = listen(&ben, port_ben);
    receive(&at_ben, &mail_to_ben, "mailbox");
    let at_anna = listen(&anna, port_anna);
    at_anna.wait("delivery", |e| e["event"] == "delivered" && e["id"] == sent[0]["id"]);
    told.check("Ben has his mail", &at_b, &told.ben, quiet_b.as_ref().map(|s| (&*code, s)));

    // The same the other way round.
    leave(&at_anna);
    let sent = ben.ok(&["send", &name_anna, &mail_to_anna, "--wait", "peer"]);
    at_a.scan_until(MAIL, &envelopes(MAIL, 1, begun));
    told.check("mail waits for Anna", &at_a, &told.anna, quiet_a.as_ref().map(|s| (&*code, s)));
    leave(&at_ben);
    let at_anna = listen(&anna, port_anna);
    receive(&at_anna, &mail_to_anna, "mailbox");
    let at_ben = listen(&ben, port_ben);
    at_ben.wait("delivery", |e| e["event"] == "delivered" && e["id"] == sent[0]["id"]);
    told.check("Anna has her mail", &at_a, &told.anna, quiet_a.as_ref().map(|s| (&*code, s)));
    leave(&at_anna);
    leave(&at_ben);

    // And on the wire there was nothing of all this.
    let mut hidden = told.needles(&[("Anna's", &told.anna), ("Ben's", &told.ben)]);
    hidden.add_text("the safety code", &code);
    hidden.add_text("the safety code", &format!("{} {}", &code[..3], &code[3..]));
    let (mut datagrams, mut handshakes) = (0, 0);
    for tape in [&at_a.tap.up, &at_a.tap.down, &at_b.tap.up, &at_b.tap.down] {
        for datagram in tape.lock().unwrap().iter() {
            let found = hidden.find(datagram);
            assert!(found.is_empty(), "a datagram between a node and a peer holds {found:?}");
            datagrams += 1;
            // QUIC says its version in the clear (RFC 9000, 17.2).
            handshakes += usize::from(datagram[0] & 0x80 != 0 && datagram[1..5] == [0, 0, 0, 1]);
        }
    }
    assert!(datagrams > 100 && handshakes > 10, "{datagrams} datagrams, {handshakes} handshakes");
    println!("{datagrams} datagrams between nodes and peers looked at");
    if let Some(recorder) = recorder {
        the_whole_interface(recorder, [&at_a, &at_b], (port_anna, port_ben), &hidden);
    }
}

/// Looks through everything that went over the loopback interface.
fn the_whole_interface(
    recorder: Recorder,
    peers: [&TappedPeer; 2],
    (anna, ben): (u16, u16),
    hidden: &Needles,
) {
    // The recorder is complete: it has what the taps have.
    let end = Instant::now() + DEADLINE;
    for peer in peers {
        let bytes = peer.tap.bytes_up();
        while recorder.bytes_to(peer.tap.port) < bytes {
            assert!(Instant::now() < end, "the recorder lost packets");
            std::thread::yield_now();
        }
    }
    let packets = recorder.end();
    let direct = packets.iter().filter(|p| [(anna, ben), (ben, anna)].contains(&(p.from, p.to)));
    let direct: usize = direct.map(|p| p.payload.len()).sum();
    assert!(direct > 5_000, "{direct} bytes went directly");
    for packet in &packets {
        let found = hidden.find(&packet.payload);
        assert!(found.is_empty(), "a packet from {} to {} holds {found:?}", packet.from, packet.to);
    }
    println!(
        "{} packets on the loopback interface looked at, {direct} bytes of them between the nodes",
        packets.len()
    );
}

/// Hosts a node at a port that is known, and waits until it is registered.
fn listen(person: &Person, port: u16) -> Process {
    let process = person.host(&["listen", "--udp", &format!("127.0.0.1:{port}")]);
    process.wait("registration", |e| {
        e["event"] == "online" || (e["event"] == "ready" && e["online"] == true)
    });
    process
}

/// A UDP port that is free, and stays it while its node is away: the system gives out others.
fn lasting_port() -> u16 {
    let is_free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let random = || 20_000 + u16::from_str_radix(&canary()[..3], 16).unwrap() * 3;
    std::iter::repeat_with(random).find(is_free).unwrap()
}

fn leave(process: &Process) {
    process.signal(Signal::TERM);
    assert_eq!(process.end(), 0, "{}", process.stderr());
}

fn receive(at: &Process, text: &str, via: &str) {
    let message = at.wait("message", |e| e["event"] == "message" && e["text"] == text);
    assert_eq!(message["via"], via);
}

/// Says it until it goes directly: the first words may be quicker than the path.
fn talk_directly(from: &Person, to: &str, words: &str, at: &Process) {
    let end = Instant::now() + DEADLINE;
    loop {
        let sent = from.ok(&["send", to, words, "--wait", "delivered"]);
        let id = sent[0]["id"].clone();
        let message = at.wait("message", |e| e["event"] == "message" && e["id"] == id);
        assert_eq!(message["text"], words);
        if message["via"] == "direct" {
            return;
        }
        assert!(Instant::now() < end, "there is no direct path");
        from.run(&["ping", to, "--count", "1"]);
    }
}

/// Both look at the code, and each types what the other reads out.
fn compare((anna, to_ben): (&Person, &str), (ben, to_anna): (&Person, &str)) -> String {
    let (at_anna, at_ben) = (anna.start(&["verify", to_ben]), ben.start(&["verify", to_anna]));
    let code = |at: &Process| text(&at.wait("code", |e: &Value| e["event"] == "code")["code"]);
    let (hers, his) = (code(&at_anna), code(&at_ben));
    assert_eq!(hers, his);
    at_anna.say(&his);
    at_ben.say(&hers);
    assert_eq!((at_anna.end(), at_ben.end()), (0, 0), "{}{}", at_anna.stderr(), at_ben.stderr());
    hers
}
