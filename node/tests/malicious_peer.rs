//! Rendezvous peers that cheat: the node says so, stays alive, does not run hot, and loses nothing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

mod common;
#[path = "common/crook.rs"]
mod crook;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, wait_for, wait_for_text};
use crook::{Answer, Crook, Person, Twist};
use halloo::{ContactState, Cursor, Delivery, EventKind, Hindrance, Node};
use halloo_wire::peer::{Call, Found, Page, PeerError, Push, Response};
use halloo_wire::{EnvelopeId, InstanceId};
use tokio::task::JoinSet;

/// For how long it is counted what a node does to a peer that cheats.
const WATCHED: Duration = Duration::from_secs(4);
/// What a node may ask in that time: attempts whose waits double, and the calls of each.
const CALLS: usize = 60;
/// Connections that it may make in that time.
const CONNECTIONS: usize = 14;

/// Asks `to` to become a contact, and returns what the node says is in the way.
async fn ask_in_vain(anna: &Node, to: &Node) -> Hindrance {
    let mut events = anna.events_from_now().await.unwrap();
    anna.add_contact(&to.address().await.unwrap(), None, "a note that stays here").await.unwrap();
    wait_for(&mut events, |e| match e {
        EventKind::Undeliverable { why, .. } => Some(why.clone()),
        _ => None,
    })
    .await
}

/// Waits until `ben` has a request of `anna`, and makes sure that there is one only.
async fn one_request(ben: &Node, anna: &Node) {
    let mut events = ben.events(Cursor::default());
    let from = anna.fingerprint();
    wait_for(&mut events, |e| match e {
        EventKind::Request { from: of, .. } if *of == from => Some(()),
        _ => None,
    })
    .await;
    ben.accept(&from, None).await.unwrap();
    let (mut answers, to) = (anna.events(Cursor::default()), ben.fingerprint());
    wait_for(&mut answers, |e| match e {
        EventKind::Accepted { contact } if *contact == to => Some(()),
        _ => None,
    })
    .await;
    // What is told comes in order, so a second request would stand before this text.
    let text = format!("hello from {from}");
    anna.send(&ben.fingerprint(), &text).await.unwrap();
    wait_for(&mut events, |e| match e {
        EventKind::Request { from: of, .. } if *of == from => panic!("asked twice"),
        EventKind::Message { text: of, .. } if *of == text => Some(()),
        _ => None,
    })
    .await;
}

type Tamper = fn(found: Found, mallory: &Found) -> Found;

/// What a peer can do to the keys that it gives out, and the words for it.
const FORGERIES: [(&str, Tamper, &str); 8] = [
    ("another person's keys", |_, m| m.clone(), "another identity"),
    (
        "another person's passport",
        |f, m| Found { passport: m.passport.clone(), ..f },
        "another identity",
    ),
    ("another person's bundle", |f, m| Found { bundle: m.bundle.clone(), ..f }, "another identity"),
    (
        "one changed bit",
        |mut f, _| {
            let middle = f.bundle.len() / 2;
            f.bundle[middle] ^= 1;
            f
        },
        "signature",
    ),
    (
        "a one-time key of its own",
        |mut f, _| {
            f.one_time_keys[0] = [9; 32];
            f
        },
        "one-time keys",
    ),
    (
        "a one-time key from nowhere",
        |f, _| Found { one_time_key: Some(999), ..f },
        "not in its list",
    ),
    ("a passport that is none", |f, _| Found { passport: vec![0x30; 400], ..f }, ""),
    ("a bundle that is none", |f, _| Found { bundle: vec![7; 100], ..f }, "cannot be read"),
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_the_contacts_are_refused_with_a_reason() {
    let crook = Crook::start().await;
    let (ben, mallory) = (Person::new("Ben", &crook).await, Person::new("Mallory", &crook).await);
    let of_mallory = crook.found(&mallory.node.fingerprint());
    for (what, tamper, words) in FORGERIES {
        let anna = Person::new("Anna", &crook).await;
        let of_mallory = of_mallory.clone();
        crook.twist(move |call, answer| match (call, answer) {
            (Call::LookUp(_), Response::Found(found)) => {
                Answer::Say(Response::Found(tamper(found, &of_mallory)))
            }
            (_, answer) => Answer::Say(answer),
        });
        let dropped = crook.drops_for(&ben.node.fingerprint());
        match ask_in_vain(&anna.node, &ben.node).await {
            Hindrance::KeysRefused { why } => assert!(why.contains(words), "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
        let now = crook.drops_for(&ben.node.fingerprint());
        assert_eq!(now, dropped, "{what}: something was sealed and sent");
        crook.be_honest();
        one_request(&ben.node, &anna.node).await;
        anna.node.shutdown().await;
    }
    assert!(mallory.node.contacts().await.unwrap().is_empty());
    assert_eq!(ben.node.contacts().await.unwrap().len(), FORGERIES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_peer_does_not_know_is_said() {
    let crook = Crook::start().await;
    let (anna, ben) = (Person::new("Anna", &crook).await, Person::new("Ben", &crook).await);
    crook.forget(&ben.node.fingerprint());
    assert_eq!(ask_in_vain(&anna.node, &ben.node).await, Hindrance::UnknownAtPeer);
    assert_eq!(crook.count("drop"), 0);
}

/// What a peer can do to who writes to somebody there.
fn bad_post_offices() -> Vec<(&'static str, Arc<Twist>)> {
    fn on_drop(say: impl Fn() -> Answer + Send + Sync + 'static) -> Arc<Twist> {
        Arc::new(move |call, answer| match call {
            Call::Drop(_) => say(),
            _ => Answer::Say(answer),
        })
    }
    fn everything(say: fn() -> Answer) -> Arc<Twist> {
        Arc::new(move |call, answer| match call {
            Call::LookUp(_) | Call::Drop(_) | Call::Knock(_) => say(),
            _ => Answer::Say(answer),
        })
    }
    let refuse = |e| on_drop(move || Answer::Say(Response::Refused(e)));
    let receipt = |instance, ttl_s| {
        on_drop(move || {
            Answer::Say(Response::Dropped(halloo_wire::peer::Receipt { instance, ttl_s }))
        })
    };
    vec![
        ("a receipt for no time", receipt(crook::INSTANCE, 0)),
        ("a receipt for ever", receipt(crook::INSTANCE, u32::MAX)),
        ("a receipt of another run", receipt(InstanceId([1; 16]), 3600)),
        ("an answer to another question", on_drop(|| Answer::Say(Response::Done))),
        ("no answer", on_drop(|| Answer::Nothing)),
        ("no answer to anything", everything(|| Answer::Nothing)),
        ("wrong answers to everything", everything(|| Answer::Say(Response::Done))),
        ("the connection closed at each request", everything(|| Answer::HangUp)),
        (
            "the connection closed after each receipt",
            Arc::new(|call, answer| match call {
                Call::Drop(_) => Answer::SayAndHangUp(answer),
                _ => Answer::Say(answer),
            }),
        ),
        (
            "always another run",
            refuse(PeerError::InstanceChanged { instance: InstanceId([2; 16]) }),
        ),
        ("come back at once", refuse(PeerError::RateLimited { retry_after_ms: 0 })),
        ("a full mailbox", refuse(PeerError::MailboxFull)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cheats_writers_is_not_flooded_and_loses_them_nothing() {
    let mut cases = JoinSet::new();
    for (what, twist) in bad_post_offices() {
        cases.spawn(async move {
            let (crook, honest) = (Crook::start().await, Crook::start().await);
            let ben = Person::new("Ben", &crook).await;
            let anna = Person::new("Anna", &honest).await;
            crook.twist_with(twist);
            let before = (crook.calls(), crook.connections());
            anna.node.add_contact(&ben.node.address().await.unwrap(), None, "").await.unwrap();
            tokio::time::sleep(WATCHED).await;
            let (calls, connections) = (crook.calls() - before.0, crook.connections() - before.1);
            assert!(
                calls <= CALLS && connections <= CONNECTIONS,
                "{what}: {calls} calls, {connections} connections: {:?}",
                crook.counts()
            );
            assert!(connections >= 1, "{what}: it tried");
            crook.be_honest();
            crook.begin_again();
            one_request(&ben.node, &anna.node).await;
            (what, calls, connections)
        });
    }
    while let Some(done) = cases.join_next().await {
        let (what, calls, connections) = done.unwrap();
        println!("{what}: {calls} calls on {connections} connections in {WATCHED:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_ends_every_connection_is_not_flooded() {
    let (crook, honest) = (Crook::start().await, Crook::start().await);
    let (ben, anna) = (Person::new("Ben", &crook).await, Person::new("Anna", &honest).await);
    crook.hold_back(true);
    crook.end_connections_soon(true);
    anna.node.add_contact(&ben.node.address().await.unwrap(), None, "").await.unwrap();
    crook.first("drop").await;
    let before = crook.connections();
    tokio::time::sleep(WATCHED).await;
    let connections = crook.connections() - before;
    println!("every connection ended: {connections} connections in {WATCHED:?}");
    assert!(connections <= CONNECTIONS, "{connections} connections");
    crook.end_connections_soon(false);
    crook.hold_back(false);
    crook.begin_again();
    one_request(&ben.node, &anna.node).await;
}

/// What a peer can do to who is registered there.
fn bad_homes() -> Vec<(&'static str, Arc<Twist>)> {
    let on = |is: fn(&Call) -> bool, say: fn(Response) -> Answer| -> Arc<Twist> {
        Arc::new(move |call, answer| if is(call) { say(answer) } else { Answer::Say(answer) })
    };
    let register = |c: &Call| matches!(c, Call::Register(_));
    let peek = |c: &Call| matches!(c, Call::Peek { .. });
    vec![
        ("registrations without an answer", on(register, |_| Answer::Nothing)),
        ("registrations answered wrongly", on(register, |_| Answer::Say(Response::Done))),
        (
            "registrations refused",
            on(register, |_| Answer::Say(Response::Refused(PeerError::StaleCounter))),
        ),
        (
            "no one-time keys left, each time",
            on(register, |answer| match answer {
                Response::Registered(mut r) => {
                    (r.bundle_seq, r.one_time_keys_left) = (Some(1), 0);
                    Answer::SayAndHangUp(Response::Registered(r))
                }
                other => Answer::Say(other),
            }),
        ),
        (
            "publications refused",
            on(
                |c| matches!(c, Call::Publish(_)),
                |_| Answer::Say(Response::Refused(PeerError::StaleBundle)),
            ),
        ),
        (
            "more and more mail, and none of it",
            on(peek, |_| Answer::Say(Response::Page(Page { envelopes: Vec::new(), more: true }))),
        ),
        (
            "the same page for ever",
            on(peek, |_| {
                let envelope = halloo_wire::peer::Waiting {
                    id: EnvelopeId(5),
                    lane: halloo_wire::envelope::Lane::Contacts,
                    envelope: vec![1; 2000],
                };
                Answer::Say(Response::Page(Page { envelopes: vec![envelope], more: true }))
            }),
        ),
        ("closed when the mail is read", on(peek, Answer::SayAndHangUp)),
        (
            "about to stop, back at once",
            on(peek, |answer| Answer::SayAndPush(answer, Push::Draining { retry_after_ms: 0 })),
        ),
        (
            "another copy of the node",
            on(peek, |answer| Answer::SayAndPush(answer, Push::Superseded)),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cheats_those_at_home_there_is_not_flooded() {
    let mut cases = JoinSet::new();
    for (what, twist) in bad_homes() {
        cases.spawn(async move {
            let crook = Crook::start().await;
            crook.twist_with(twist);
            let ben = Person::start("Ben", &crook).await;
            crook.first("register").await;
            tokio::time::sleep(WATCHED).await;
            let (calls, connections) = (crook.calls(), crook.connections());
            assert!(
                calls <= CALLS && connections <= CONNECTIONS,
                "{what}: {calls} calls, {connections} connections: {:?}",
                crook.counts()
            );
            crook.be_honest();
            let anna = Person::new("Anna", &crook).await;
            anna.node.add_contact(&ben.node.address().await.unwrap(), None, "").await.unwrap();
            // A node that was told of another copy of itself keeps away for a minute or so.
            if what != "another copy of the node" {
                tokio::time::timeout(PATIENCE, ben.node.online()).await.unwrap();
                one_request(&ben.node, &anna.node).await;
            }
            (what, calls, connections)
        });
    }
    while let Some(done) = cases.join_next().await {
        let (what, calls, connections) = done.unwrap();
        println!("{what}: {calls} calls on {connections} connections in {WATCHED:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_says_welcome_is_waited_for_and_left() {
    let crook = Crook::start().await;
    crook.say_welcome(false);
    let ben = Person::start("Ben", &crook).await;
    let mut events = ben.node.events_from_now().await.unwrap();
    let why = wait_for(&mut events, |e| match e {
        EventKind::Offline { why, .. } => Some(why.clone()),
        _ => None,
    })
    .await;
    assert!(why.contains("did not begin to talk"), "{why}");
    let registrations = crook.count("register");
    assert_eq!(crook.calls(), registrations, "nothing else is asked of it");
    assert!(crook.connections() <= 2);
    crook.say_welcome(true);
    tokio::time::timeout(PATIENCE, ben.node.online()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_foreign_and_repeated_envelopes_do_no_harm() {
    let crook = Crook::start().await;
    let (anna, ben) = (Person::new("Anna", &crook).await, Person::new("Ben", &crook).await);
    let eve = Person::new("Eve", &crook).await;
    for other in [&ben, &eve] {
        anna.node.add_contact(&other.node.address().await.unwrap(), None, "").await.unwrap();
        one_request(&other.node, &anna.node).await;
    }
    let (to_ben, to_eve) = (ben.node.fingerprint(), eve.node.fingerprint());

    // The peer keeps everything back, so that it can choose what to push.
    crook.hold_back(true);
    let mut at_anna = anna.node.events_from_now().await.unwrap();
    let (mut ids, mut left) = (Vec::new(), BTreeSet::new());
    for i in 0..5 {
        let id = anna.node.send(&to_ben, &format!("message {i}")).await.unwrap();
        ids.push(id);
        left.extend([id, anna.node.send(&to_eve, "for Eve alone").await.unwrap()]);
    }
    while !left.is_empty() {
        let id = wait_for(&mut at_anna, |e| match e {
            EventKind::AtPeer { id, .. } => Some(*id),
            _ => None,
        })
        .await;
        left.remove(&id);
    }
    // Receipts of hers may be among them.
    let (kept, foreign) = (crook.held_for(&to_ben), crook.held_for(&to_eve));
    assert!(kept.len() >= 5 && foreign.len() >= 5);

    let mut at_ben = ben.node.events_from_now().await.unwrap();
    let mut wrong = vec![Vec::new(), vec![0; 1], vec![0xff; 2171], vec![7; 50_000]];
    wrong.extend(foreign);
    for whole in &kept {
        for at in [0, 1, 2, 3, 11, 600, 1099, 1131, whole.len() - 1] {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            wrong.push(bent);
        }
        wrong.push(whole[..whole.len() - 1].to_vec());
        wrong.push([whole.as_slice(), &[0]].concat());
    }
    let wrong_ones = wrong.len();
    let mut ids_of_wrong = Vec::new();
    for envelope in wrong {
        ids_of_wrong.push(crook.push_raw(&to_ben, envelope).await);
    }
    // Each three times, the last first.
    for _ in 0..3 {
        for envelope in kept.iter().rev() {
            crook.push_raw(&to_ben, envelope.clone()).await;
        }
    }
    for i in 0..5 {
        let text = wait_for(&mut at_ben, |e| match e {
            EventKind::Message { text, .. } => Some(text.clone()),
            _ => None,
        })
        .await;
        assert_eq!(text, format!("message {i}"));
    }
    // What can never be read may be forgotten, and Ben says so.
    crook.acked(&to_ben, &ids_of_wrong).await;
    assert_eq!(ids_of_wrong.len(), wrong_ones);

    crook.hold_back(false);
    crook.begin_again();
    for id in ids {
        let delivery =
            tokio::time::timeout(PATIENCE, anna.node.wait_delivery(&id)).await.unwrap().unwrap();
        assert_eq!(delivery, Delivery::Delivered);
    }
    anna.node.send(&to_ben, "the end").await.unwrap();
    wait_for(&mut at_ben, |e| match e {
        EventKind::Message { text, .. } if text == "the end" => Some(()),
        EventKind::Message { text, .. } => panic!("{text:?} came twice"),
        _ => None,
    })
    .await;
    let mut at_eve = eve.node.events(Cursor::default());
    for _ in 0..5 {
        wait_for_text(&mut at_eve, "for Eve alone").await;
    }
    let contact = ben.node.contact_by_fingerprint(&anna.node.fingerprint()).await.unwrap().unwrap();
    assert_eq!(contact.state, ContactState::Accepted);
    assert_eq!(ben.node.history(&anna.node.fingerprint(), 100).await.unwrap().len(), 7);
}
