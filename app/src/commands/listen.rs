//! `listen` and `daemon`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Context, GET_ONLINE};
use crate::cli::{HostArgs, ListenArgs, Since};
use crate::control::protocol::{From, read};
use crate::fact::{Fact, HostKind, Message, Ready};
use crate::failure::Failure;
use crate::session::Session;

/// Shows what arrives.
pub(super) async fn listen(cx: &Context, args: ListenArgs) -> Result<(), Failure> {
    cx.with_session(HostKind::Listen, &args.host, async |session| {
        session.online(GET_ONLINE).await?;
        let mut place = Place::open(&cx.home)?;
        let from = match args.since {
            Since::Last => From::After(place.last),
            Since::Now => From::Now,
            Since::Start => From::After(0),
        };
        let (ready, mut events) = session.events(from).await?;
        begin(cx, session, ready)?;
        if args.accept_all {
            accept_waiting(session).await?;
        }
        while let Some(told) = events.next().await {
            // Answers carry a key, so one that is given again after a crash is not sent again.
            match &told.fact {
                Fact::Message(message) if args.echo => echo(session, message).await?,
                Fact::Request { fingerprint, .. } if args.accept_all => {
                    accept(session, fingerprint).await?;
                }
                _ => {}
            }
            cx.out.line(&told)?;
            place.reached(told.cursor)?;
        }
        events.end().await.map(|_| ())
    })
    .await
}

/// Runs the node for other commands.
pub(super) async fn daemon(cx: &Context, args: HostArgs) -> Result<(), Failure> {
    cx.with_session(HostKind::Daemon, &args, async |session| {
        session.online(GET_ONLINE).await?;
        let (ready, mut events) = session.events(From::Now).await?;
        begin(cx, session, ready)?;
        while events.next().await.is_some() {}
        events.end().await.map(|_| ())
    })
    .await
}

fn begin(cx: &Context, session: &Session, ready: Ready) -> Result<(), Failure> {
    let (address, peer) = (&ready.identity.address, &ready.identity.peer);
    if !session.is_local() {
        let (by, pid) = (ready.hosted_by.command(), ready.pid);
        cx.out.hint(format!("reading along with {by} (process {pid})"));
    }
    match ready.online {
        true => cx.out.say(format!("ready at {address}")),
        false => {
            cx.out.say(format!("ready at {address}, but {peer} does not answer yet"));
        }
    }
    if cx.out.is_json() {
        cx.out.fact(Fact::Ready(ready))?;
    }
    Ok(())
}

async fn accept_waiting(session: &Session) -> Result<(), Failure> {
    for contact in session.contacts().await? {
        if contact.state == "incoming" {
            accept(session, &contact.fingerprint).await?;
        }
    }
    Ok(())
}

async fn accept(session: &Session, fingerprint: &str) -> Result<(), Failure> {
    match session.accept(read(fingerprint)?, None).await {
        // Somebody was quicker: accepted, or blocked, in this moment or before the replay.
        Err(failure) if failure.code == "not-asked" => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn echo(session: &Session, message: &Message) -> Result<(), Failure> {
    // An answer is not answered: two echoes would never end.
    if message.parent.is_some() {
        return Ok(());
    }
    let key = format!("echo-{}", message.id);
    let (to, id) = (read(&message.fingerprint)?, read(&message.id)?);
    match session.send(to, message.text.clone(), Some(key), Some(id), None).await {
        // They were blocked since.
        Err(failure) if failure.exit == crate::exit::Exit::Refused => Ok(()),
        result => result.map(|_| ()),
    }
}

/// How far `listen` has come in the node's events, kept across runs: what arrived while another
/// command ran the node is shown by the next one.
struct Place {
    last: u64,
    file: File,
}

impl Place {
    fn open(home: &Path) -> Result<Self, Failure> {
        let path = home.join("listen.cursor");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Failure::new("io", format!("cannot use {}: {e}", path.display())))?;
        let mut text = [0; Self::LEN];
        let last = match file.read_exact_at(&mut text, 0) {
            Ok(()) => std::str::from_utf8(&text).ok().and_then(|t| t.trim().parse().ok()),
            Err(_) => None,
        };
        Ok(Self { last: last.unwrap_or(0), file })
    }

    /// Written after the line was printed and in one piece: a process that is killed between the
    /// two prints one line again, and none is lost. A power loss may repeat more: the page cache
    /// is enough here, because message ids tell repetitions.
    fn reached(&mut self, cursor: Option<u64>) -> Result<(), Failure> {
        if let Some(cursor) = cursor.filter(|c| *c > self.last) {
            let text = format!("{cursor:>width$}\n", width = Self::LEN - 1);
            self.file.write_all_at(text.as_bytes(), 0)?;
            self.last = cursor;
        }
        Ok(())
    }

    /// The digits of the largest cursor and a line feed: always the same length.
    const LEN: usize = 21;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_place_is_kept_and_never_goes_back() {
        let home = tempfile::tempdir().unwrap();
        let mut place = Place::open(home.path()).unwrap();
        assert_eq!(place.last, 0);
        place.reached(Some(7)).unwrap();
        place.reached(None).unwrap();
        place.reached(Some(3)).unwrap();
        assert_eq!(Place::open(home.path()).unwrap().last, 7);
        place.reached(Some(u64::MAX)).unwrap();
        assert_eq!(Place::open(home.path()).unwrap().last, u64::MAX);
    }
}
