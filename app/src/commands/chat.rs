//! `chat`: a conversation, line by line.

use std::collections::HashSet;

use super::{Context, GET_ONLINE, LINGER};
use crate::cli::ChatArgs;
use crate::control::protocol::{From, Said};
use crate::fact::{ContactCard, Fact, HostKind, Line, Sent};
use crate::failure::Failure;
use crate::human;
use crate::input::Lines;
use crate::session::Session;
use crate::text::line;

/// Talks with a contact until the input ends.
pub(super) async fn run(cx: &Context, args: ChatArgs) -> Result<(), Failure> {
    cx.with_session(HostKind::Chat, &args.host, async |session| {
        let contact = session.contact(&args.who.who).await?;
        session.online(GET_ONLINE).await?;
        let (_, mut events) = session.events(From::Now).await?;
        show_history(cx, session, &contact, args.history).await?;
        let name = line(&contact.name);
        cx.out.hint(format!("talking with {name} ({}); end with Ctrl-D", contact.verified));
        let mut chat = Chat { cx, contact, open: HashSet::new() };
        let mut input = Lines::stdin();
        loop {
            tokio::select! {
                told = events.next() => match told {
                    Some(told) => chat.hear(told)?,
                    None => return events.end().await.map(|_| ()),
                },
                typed = input.next() => match typed? {
                    Some(text) if text.trim().is_empty() => {}
                    Some(text) => chat.say(session, text).await?,
                    None => break,
                },
            }
        }
        // The last words should arrive before the node ends.
        let rest = async {
            while !chat.open.is_empty() {
                let Some(told) = events.next().await else { break };
                chat.hear(told)?;
            }
            Ok(())
        };
        match tokio::time::timeout(LINGER, rest).await {
            Ok(result) => result,
            Err(_) => {
                cx.out.hint("the last messages wait here; they leave while halloo daemon runs");
                Ok(())
            }
        }
    })
    .await
}

async fn show_history(
    cx: &Context,
    session: &Session,
    contact: &ContactCard,
    limit: u32,
) -> Result<(), Failure> {
    if limit == 0 {
        return Ok(());
    }
    for said in session.history(contact.id()?, limit).await? {
        match said {
            Said::Theirs(message) => cx.out.fact(Fact::Message(message))?,
            Said::Ours { id, text, state } => {
                if cx.out.is_json() {
                    cx.out.fact(Fact::Sent(Sent { to: contact.name.clone(), id, state }))?;
                } else {
                    let p = cx.out.palette();
                    let state = p.dim(&format!("({})", human::state(&state)));
                    cx.out.raw(&format!("you: {}  {state}", crate::text::block(&text)))?;
                }
            }
        }
    }
    Ok(())
}

struct Chat<'a> {
    cx: &'a Context,
    contact: ContactCard,
    /// Our messages of this conversation that are not delivered.
    open: HashSet<String>,
}

impl Chat<'_> {
    async fn say(&mut self, session: &Session, text: String) -> Result<(), Failure> {
        let sent = session.send(self.contact.id()?, text, None, None, None).await?;
        self.open.insert(sent.id.clone());
        // People see what they typed, and the state when it changes.
        if self.cx.out.is_json() {
            self.cx.out.fact(Fact::Sent(sent))?;
        }
        Ok(())
    }

    fn hear(&mut self, told: Line) -> Result<(), Failure> {
        let name = &self.contact.name;
        let ours = match &told.fact {
            Fact::Message(message) => message.fingerprint == self.contact.fingerprint,
            Fact::Delivered { id, .. } | Fact::Failed { id, .. } => self.open.remove(id),
            Fact::AtPeer { id, .. } => self.open.contains(id),
            Fact::Path(path) => path.contact == *name,
            Fact::Safety { contact, .. } | Fact::Accepted { contact, .. } => contact == name,
            Fact::Online { .. } | Fact::Offline { .. } => true,
            _ => false,
        };
        if ours { self.cx.out.line(&told) } else { Ok(()) }
    }
}
