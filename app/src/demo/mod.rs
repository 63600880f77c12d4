//! `halloo demo`: the whole story on one machine, over real sockets, each step checked.

mod memory;
mod person;
mod story;

use std::time::{Duration, Instant};

use halloo::{Address, ContactState, EventKind, Fingerprint, MessageId, Path, TypedCode, Via};
use rendezvous_peer::RunningPeer;

use self::memory::{contains, everything, who_saw_what};
use self::person::Person;
use self::story::{Story, way};
use crate::duration::{human, millis};
use crate::failure::Failure;
use crate::output::Out;

/// How long a ping may take that only makes sure that nothing else comes.
const PING: Duration = Duration::from_secs(10);

/// The names that they give themselves. Long enough that chance does not write them into random
/// bytes, where they are searched for.
const ANNA: &str = "Anna Winter";
const BEN: &str = "Ben Sommer";
const REQUEST_NOTE: &str = "Hi Ben, it's Anna from the choir";
const TO_BEN: &str = "Hi Ben, can you hear me?";
const TO_ANNA: &str = "Loud and clear, Anna!";
const WHILE_AWAY: &str = "Dinner at eight? The blue door, second floor.";

/// Tells the story.
///
/// # Errors
/// `demo-untrue`, naming the step, when something is not as it should be.
pub(crate) async fn run(out: Out) -> Result<(), Failure> {
    let mut story = Story::begin(out)?;
    let folder = tempfile::tempdir()?;
    let result = tell(&mut story, folder.path()).await;
    let ended = story.end(result.is_ok());
    result.and(ended)
}

async fn tell(story: &mut Story, folder: &std::path::Path) -> Result<(), Failure> {
    let peer = start_peer(story, folder).await?;
    let (mut anna, mut ben) = meet_people(story, folder, &peer).await?;
    become_contacts(story, &peer, &mut anna, &mut ben).await?;
    compare_code(story, &mut anna, &mut ben).await?;
    talk(story, &peer, &mut anna, &mut ben).await?;
    let left = leave_word(story, &peer, &mut anna, ben).await?;
    let ben = come_back(story, folder, &peer, &mut anna, left).await?;
    story.messages()?;
    anna.node.shutdown().await;
    ben.node.shutdown().await;
    peer.shutdown().await;
    Ok(())
}

async fn start_peer(story: &mut Story, folder: &std::path::Path) -> Result<RunningPeer, Failure> {
    story.chapter(
        "A rendezvous peer",
        "A small server where people can be found and where sealed mail waits for those who are \
         away. Anybody can run one. Its disk holds its own key; the rest is in memory.",
    )?;
    let mut config = rendezvous_peer::Config::new(folder.join("peer"));
    config.listen = ([127, 0, 0, 1], 0).into();
    let peer = rendezvous_peer::start(config)
        .await
        .map_err(|e| Failure::new("demo-untrue", format!("the peer does not start: {e}")))?;
    let files = std::fs::read_dir(folder.join("peer"))?.count();
    story.check("peer-runs", true, &format!("it runs at {}", peer.address().host))?;
    story.check("peer-is-empty", peer.inspect().is_empty(), "its memory holds nobody")?;
    story.check("peer-disk", files == 1, "its disk holds one file, its key")?;
    Ok(peer)
}

async fn meet_people(
    story: &mut Story,
    folder: &std::path::Path,
    peer: &RunningPeer,
) -> Result<(Person, Person), Failure> {
    story.chapter(
        "Anna and Ben",
        "Each makes an identity: a few keys, on their own disk. What they give to others is an \
         address, peer-host/fingerprint: where to ask, and who must answer.",
    )?;
    let anna = Person::arrive("Anna", ANNA, &folder.join("anna"), peer.address()).await?;
    let ben = Person::arrive("Ben", BEN, &folder.join("ben"), peer.address()).await?;
    for person in [&anna, &ben] {
        story.line(&format!("{:<5} {}", person.name, person.address))?;
    }
    let known: Vec<Fingerprint> = peer.inspect().iter().map(|row| row.fingerprint).collect();
    story.check(
        "both-registered",
        known.len() == 2 && known.contains(&anna.me()) && known.contains(&ben.me()),
        "both are registered at the peer, which knows them by fingerprint",
    )?;
    Ok((anna, ben))
}

async fn become_contacts(
    story: &mut Story,
    peer: &RunningPeer,
    anna: &mut Person,
    ben: &mut Person,
) -> Result<(), Failure> {
    story.chapter(
        "Asking",
        "Anna has nothing but Ben's address. She asks to become a contact, with a line to him. \
         Nobody can write to Ben before he says yes.",
    )?;
    let address: Address = ben.address.parse().map_err(|e| untrue("address", &format!("{e}")))?;
    let contact = anna.node.add_contact(&address, Some("Ben"), REQUEST_NOTE).await?;
    story.said("Anna", REQUEST_NOTE)?;
    let (from, note) = ben
        .hear("request", |kind| match kind {
            EventKind::Request { from, note, .. } => Some((*from, note.clone())),
            _ => None,
        })
        .await?
        .what;
    let right = from == anna.me() && note == REQUEST_NOTE;
    story.check("request-arrives", right, "Ben sees who asks, and her line")?;
    story.check(
        "request-waits",
        contact.state == ContactState::Requested,
        "Anna waits: her request is not accepted yet",
    )?;
    ben.node.accept(&from, Some("Anna")).await?;
    let accepted = |kind: &EventKind| matches!(kind, EventKind::Accepted { .. }).then_some(());
    ben.hear("accepted-by-ben", accepted).await?;
    anna.hear("accepted-at-anna", accepted).await?;
    story.check("contacts", true, "Ben says yes: they are contacts")?;
    let memory = everything(peer);
    let read = [REQUEST_NOTE, ANNA, BEN].iter().any(|text| contains(&memory, text.as_bytes()));
    story.check(
        "peer-reads-nothing",
        !read,
        "the peer carried it, and knows neither the line nor their names",
    )
}

async fn compare_code(
    story: &mut Story,
    anna: &mut Person,
    ben: &mut Person,
) -> Result<(), Failure> {
    story.chapter(
        "Is it really you?",
        "Somebody could have given Anna a false address. So both look at six digits, and each \
         types what the other reads out, on the phone or face to face. Somebody in the middle \
         would have to guess them: one chance in a million.",
    )?;
    let mut at_anna = anna.node.check_safety(&ben.me()).await?;
    ben.hear("check-begins", |kind| matches!(kind, EventKind::Safety { .. }).then_some(())).await?;
    let mut at_ben = ben.node.check_safety(&anna.me()).await?;
    let (hers, his) = (at_anna.code().await?, at_ben.code().await?);
    story.line(&format!("on Anna's screen   {hers}"))?;
    story.line(&format!("on Ben's screen    {his}"))?;
    story.check("codes-are-equal", hers == his, "the two codes are the same")?;
    let typed = |code: &str| {
        TypedCode::parse(code).map_err(|e| untrue("code-is-six-digits", &format!("{e}")))
    };
    at_anna.confirm(&typed(&his)?).await?;
    at_ben.confirm(&typed(&hers)?).await?;
    let (anna_says, ben_says) = (at_anna.done().await?, at_ben.done().await?);
    let checked = anna_says.is_checked() && ben_says.is_checked();
    story.check("both-checked", checked, &format!("each typed the other's: both are {anna_says}"))
}

async fn talk(
    story: &mut Story,
    peer: &RunningPeer,
    anna: &mut Person,
    ben: &mut Person,
) -> Result<(), Failure> {
    story.chapter(
        "Talking directly",
        "The peer has told each where the other is. From here on they talk from machine to \
         machine, encrypted from end to end.",
    )?;
    let begun = Instant::now();
    anna.node.connect(&ben.me()).await?;
    let path = story::within(anna.node.wait_direct(&ben.me())).await;
    let took = begun.elapsed();
    let Some(Ok(Path::Direct { addr, rtt, .. })) = path else {
        return Err(untrue("direct-path", "there is no direct path on one machine"));
    };
    let what = format!("a direct path to Ben at {addr}, round trip {}", human(rtt));
    story.check_with(
        "direct-path",
        true,
        &what,
        [("path_ms", millis(took)), ("rtt_ms", millis(rtt))],
    )?;
    say(story, anna, ben, TO_BEN).await?;
    say(story, ben, anna, TO_ANNA).await?;
    let empty = story::eventually(|| peer.inspect().iter().all(|row| row.envelopes.is_empty()));
    story.check("peer-not-needed", empty.await, "the peer holds no mail: it was not needed")
}

/// One message from one person to the other, directly.
async fn say(
    story: &mut Story,
    from: &mut Person,
    to: &mut Person,
    text: &str,
) -> Result<(), Failure> {
    let sent_ns = halloo::mono_ns();
    let id = from.node.send(&to.me(), text).await?;
    story.said(from.name, text)?;
    let arrived = to.hear("message-arrives", message(id)).await?;
    let delivered = from.hear("message-delivered", delivery(id)).await?;
    let (there, back) = (arrived.after(sent_ns), delivered.after(sent_ns));
    story.check_with(
        "message-direct",
        arrived.what.0 == text && arrived.what.1 == Via::Direct,
        &format!(
            "{} has it {} after {} pressed enter, on the direct path; {} knows after {}",
            to.name,
            human(there),
            from.name,
            from.name,
            human(back)
        ),
        [("arrived_ms", millis(there)), ("delivered_ms", millis(back))],
    )?;
    story.remember(from.name, text, arrived.what.1, &human(there));
    Ok(())
}

/// A message that waits for Ben, and when Anna wrote it.
struct Left {
    id: MessageId,
    ben: Fingerprint,
}

async fn leave_word(
    story: &mut Story,
    peer: &RunningPeer,
    anna: &mut Person,
    ben: Person,
) -> Result<Left, Failure> {
    story.chapter(
        "Ben is away",
        "Ben closes his laptop. Anna writes nevertheless: her message is sealed for Ben and waits \
         at the peer, in memory, until he comes back.",
    )?;
    let ben_id = ben.me();
    ben.node.shutdown().await;
    drop(ben);
    let sent_ns = halloo::mono_ns();
    let id = anna.node.send(&ben_id, WHILE_AWAY).await?;
    story.said("Anna", WHILE_AWAY)?;
    let parked = anna
        .hear("message-at-peer", |kind| match kind {
            EventKind::AtPeer { id: of, .. } if *of == id => Some(()),
            _ => None,
        })
        .await?;
    let took = parked.after(sent_ns);
    let what = format!("it waits at the peer {} later", human(took));
    story.check_with("message-waits", true, &what, [("at_peer_ms", millis(took))])?;
    who_saw_what(story, peer, anna, ben_id, WHILE_AWAY)?;
    Ok(Left { id, ben: ben_id })
}

async fn come_back(
    story: &mut Story,
    folder: &std::path::Path,
    peer: &RunningPeer,
    anna: &mut Person,
    left: Left,
) -> Result<Person, Failure> {
    story.chapter(
        "Ben is back",
        "Ben opens his laptop. His mail comes to him, once, and the peer forgets it.",
    )?;
    let began_ns = halloo::mono_ns();
    let mut ben = Person::arrive("Ben", BEN, &folder.join("ben"), peer.address()).await?;
    let arrived = ben.hear("message-arrives-late", message(left.id)).await?;
    let delivered = anna.hear("message-delivered-late", delivery(left.id)).await?;
    let there = arrived.after(began_ns);
    // Anna's node may notice that he is back, and bring it itself before the peer does.
    let (text, via) = arrived.what;
    story.check_with(
        "message-came",
        text == WHILE_AWAY && ben.me() == left.ben,
        &format!(
            "Ben reads it {} after he came back, {}; Anna knows after {}",
            human(there),
            way(via),
            human(delivered.after(began_ns))
        ),
        [("arrived_ms", millis(there)), ("delivered_ms", millis(delivered.after(began_ns)))],
    )?;
    story.remember("Anna", WHILE_AWAY, via, &format!("{} after he was back", human(there)));
    // An answer that was asked for after the delivery comes after anything that was under way.
    anna.node.ping(&ben.me(), PING).await?;
    let times = ben.count(message(left.id)).await?;
    story.check(
        "exactly-once",
        times == 1,
        &format!(
            "it came {}",
            match times {
                1 => "exactly once".to_owned(),
                n => format!("{n} times"),
            }
        ),
    )?;
    let forgotten = story::eventually(|| peer.inspect().iter().all(|row| row.envelopes.is_empty()));
    story.check("peer-forgets", forgotten.await, "the peer holds no mail any more")?;
    Ok(ben)
}

fn message(id: MessageId) -> impl Fn(&EventKind) -> Option<(String, Via)> {
    move |kind| match kind {
        EventKind::Message { id: of, text, via, .. } if *of == id => Some((text.clone(), *via)),
        _ => None,
    }
}

fn delivery(id: MessageId) -> impl Fn(&EventKind) -> Option<()> {
    move |kind| match kind {
        EventKind::Delivered { id: of, .. } if *of == id => Some(()),
        _ => None,
    }
}

fn untrue(step: &str, what: &str) -> Failure {
    Failure::new("demo-untrue", format!("step {step}: {what}"))
}
