//! `add`, `contacts`, `accept` and `block`.

use std::time::Duration;

use halloo::{Address, Fingerprint};

use super::{Context, LINGER, keys_refused};
use crate::cli::{AcceptArgs, AddArgs};
use crate::control::protocol::From;
use crate::fact::Fact;
use crate::failure::Failure;
use crate::human::{self, KEYS_REFUSED};
use crate::session::{Call, Session};
use crate::text::{self, word};

/// How long `contacts` waits for its peer: who lists what is known does not want to wait longer.
const LOOK: Duration = Duration::from_secs(1);

/// Asks somebody to become a contact.
pub(super) async fn add(cx: &Context, args: AddArgs) -> Result<(), Failure> {
    let address: Address =
        args.address.parse().map_err(|e| Failure::new("address", format!("{e}")))?;
    cx.with_node(async |session| {
        let (_, mut events) = session.events(From::Now).await?;
        let contact = session.add(&address, args.name, args.note).await?;
        let name = word(&contact.name);
        let who = contact.id()?;
        cx.out.fact(Fact::Contact(contact))?;
        hand_over(cx, session, &mut events, who, "the request").await?;
        cx.out.hint(format!("next, when they have accepted: halloo verify {name}"));
        Ok(())
    })
    .await
}

/// Lists contacts.
pub(super) async fn list(cx: &Context) -> Result<(), Failure> {
    cx.with_node(async |session| {
        // A request may wait at the peer.
        session.caught_up(LOOK).await?;
        let contacts = session.contacts().await?;
        if contacts.is_empty() {
            cx.out.hint("no contacts yet; next: halloo add THEIR-ADDRESS --name NAME");
        } else if cx.out.is_json() {
            for contact in contacts {
                cx.out.fact(Fact::Contact(contact))?;
            }
        } else {
            cx.out.raw(&human::contacts(&contacts, cx.out.palette()))?;
        }
        Ok(())
    })
    .await
}

/// Accepts who asked.
pub(super) async fn accept(cx: &Context, args: AcceptArgs) -> Result<(), Failure> {
    cx.with_node(async |session| {
        let who = session.contact(&args.who).await?.id()?;
        let (_, mut events) = session.events(From::Now).await?;
        let contact = session.accept(who, args.name).await?;
        let name = word(&contact.name);
        cx.out.fact(Fact::Contact(contact))?;
        hand_over(cx, session, &mut events, who, "the answer").await?;
        cx.out.hint(format!("next: halloo verify {name}, or: halloo send {name} TEXT"));
        Ok(())
    })
    .await
}

/// Blocks a contact.
pub(super) async fn block(cx: &Context, who: &str) -> Result<(), Failure> {
    cx.with_node(async |session| {
        let who = session.contact(who).await?.id()?;
        cx.out.fact(Fact::Contact(session.block(who).await?))
    })
    .await
}

/// Before a node of ours ends: lets what it has for somebody reach their peer, for a while.
/// `events` began before there was anything.
async fn hand_over(
    cx: &Context,
    session: &Session,
    events: &mut Call,
    who: Fingerprint,
    what: &str,
) -> Result<(), Failure> {
    if !session.is_local() {
        return Ok(());
    }
    let mut hindrance = None;
    let handed_over = session.handed_over(who, LINGER);
    tokio::pin!(handed_over);
    let done = loop {
        tokio::select! {
            done = &mut handed_over => break done?,
            Some(told) = events.next() => {
                // Of others the program hears elsewhere.
                let Fact::Undeliverable { to, code, why } = told.fact else { continue };
                if session.contact(&who.to_string()).await?.name != to {
                    continue;
                }
                if code == KEYS_REFUSED {
                    return Err(keys_refused(&to, &why));
                }
                hindrance = Some(why);
            }
        }
    };
    if !done {
        let why = hindrance.as_deref().unwrap_or("their peer cannot be reached");
        let why = text::block(why);
        cx.out.hint(format!("{what} waits here: {why}; it leaves while halloo daemon runs"));
    }
    Ok(())
}
