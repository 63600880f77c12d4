//! `send` and `cancel`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, LINGER, key_changed, keys_refused, peer_of};
use crate::cli::{CancelArgs, SendArgs, Until};
use crate::control::protocol::{From, read};
use crate::fact::{ContactCard, Fact, Line, Sent, State};
use crate::failure::Failure;
use crate::human::KEYS_REFUSED;
use crate::input::{self, Lines};
use crate::session::{Call, Session};
use crate::text::{block, line as line_of};
use crate::{duration, human};

/// Sends a text, or each line of one.
pub(super) async fn run(cx: &Context, args: SendArgs) -> Result<(), Failure> {
    let texts = Texts::of(&args)?;
    cx.with_node(async |session| {
        let to = session.contact(&args.who.who).await?;
        let (_, events) = session.events(From::Now).await?;
        let mut sending = Sending {
            cx,
            session,
            args: &args,
            to,
            events,
            open: HashMap::new(),
            counts: Counts::default(),
            hindrance: None,
            alarm: None,
        };
        sending.run(texts).await
    })
    .await
}

/// Takes a message back that has not left.
pub(super) async fn cancel(cx: &Context, args: &CancelArgs) -> Result<(), Failure> {
    cx.with_node(async |session| {
        session.cancel(args.id).await?;
        cx.out.fact(Fact::Cancelled { id: args.id.to_string() })
    })
    .await
}

/// The texts to send, one after the other.
enum Texts {
    One(Option<String>),
    Split(std::vec::IntoIter<String>),
    Stdin(Lines),
}

impl Texts {
    fn of(args: &SendArgs) -> Result<Self, Failure> {
        Ok(match (args.text.as_str(), args.lines) {
            ("-", true) => Self::Stdin(Lines::stdin()),
            ("-", false) => Self::One(Some(input::whole()?)),
            (text, true) => {
                Self::Split(text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter())
            }
            (text, false) => Self::One(Some(text.to_owned())),
        })
    }

    /// Whether nobody knows when the last one comes.
    fn is_endless(&self) -> bool {
        matches!(self, Self::Stdin(_))
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Self::One(text) => Ok(text.take()),
            Self::Split(lines) => Ok(lines.next()),
            Self::Stdin(lines) => lines.next().await,
        }
    }
}

#[derive(Default)]
struct Counts {
    sent: u64,
    /// Why the last one that failed did.
    failed: Option<String>,
}

/// A message under way.
struct Open {
    sent_ns: u64,
    state: State,
}

struct Sending<'a> {
    cx: &'a Context,
    session: &'a Session,
    args: &'a SendArgs,
    to: ContactCard,
    events: Call,
    /// Messages that have not come as far as they should.
    open: HashMap<String, Open>,
    counts: Counts,
    /// What is in the way.
    hindrance: Option<String>,
    /// Somebody does not play fair: why to stop, once what was given is kept.
    alarm: Option<Failure>,
}

impl Sending<'_> {
    async fn run(&mut self, mut texts: Texts) -> Result<(), Failure> {
        let mut more = true;
        let mut deadline = None;
        while more || !self.open.is_empty() {
            let kept = !more || (texts.is_endless() && self.counts.sent > 0);
            if kept && let Some(alarm) = self.alarm.take() {
                return Err(alarm);
            }
            tokio::select! {
                biased;
                line = self.events.next() => match line {
                    Some(line) => self.hear(line).await?,
                    None => return Err(Failure::new("node-gone", "the node has stopped")),
                },
                text = texts.next(), if more => match text? {
                    Some(text) => self.send(text).await?,
                    None => {
                        more = false;
                        deadline = Some(Instant::now() + self.patience());
                    }
                },
                () = until(deadline) => break,
            }
        }
        match self.alarm.take() {
            // What is on disk may be far from delivered.
            Some(alarm) if self.args.wait == Until::Kept => Err(alarm),
            _ => self.end(),
        }
    }

    /// How far messages should come: a node that ends with this command should at least have
    /// handed them over.
    fn target(&self) -> Until {
        match self.args.wait {
            Until::Kept if self.session.is_local() => Until::Peer,
            wait => wait,
        }
    }

    fn patience(&self) -> Duration {
        if self.args.wait == Until::Kept { LINGER } else { self.args.timeout }
    }

    async fn send(&mut self, text: String) -> Result<(), Failure> {
        let to = self.to.id()?;
        let key = self.args.key.as_ref().map(|key| match self.args.lines {
            true => format!("{key}-{}", self.counts.sent),
            false => key.clone(),
        });
        let sent_ns = halloo::mono_ns();
        let sent = self.session.send(to, text, key, None, self.args.within).await?;
        halloo::crash_point("app-sent-not-told");
        self.counts.sent += 1;
        // People hear how it ended; programs hear each step.
        if self.cx.out.is_json() {
            self.cx.out.fact(Fact::Sent(sent.clone()))?;
        }
        self.open.insert(sent.id.clone(), Open { sent_ns, state: State::Waiting });
        self.reached(&sent.id, sent.state, None)
    }

    async fn hear(&mut self, line: Line) -> Result<(), Failure> {
        let tell = self.cx.out.is_json();
        match &line.fact {
            Fact::Delivered { id, via, .. } if self.open.contains_key(id) => {
                if tell {
                    self.cx.out.line(&line)?;
                }
                self.reached(id, State::Delivered, Some((via, line.mono_ns)))
            }
            Fact::AtPeer { id, until_unix_s, .. } if self.open.contains_key(id) => {
                if tell {
                    self.cx.out.line(&line)?;
                }
                self.reached(id, State::AtPeer { until_unix_s: *until_unix_s }, None)
            }
            Fact::Failed { id, why, .. } if self.open.contains_key(id) => {
                if tell {
                    self.cx.out.line(&line)?;
                }
                self.reached(id, State::Failed { why: why.clone() }, None)
            }
            Fact::PeerKeyChanged { peer, .. } if peer == peer_of(&self.to.address) => {
                self.cx.alarms.hear(&line.fact);
                let name = line_of(&self.to.name);
                let what = format!("what you send to {name} is kept here");
                self.alarm = Some(key_changed(&what));
                Ok(())
            }
            Fact::Undeliverable { to, code, why } if *to == self.to.name => {
                if tell {
                    self.cx.out.line(&line)?;
                }
                match code == KEYS_REFUSED {
                    true => self.alarm = Some(keys_refused(to, why)),
                    false => self.hindrance = Some(why.clone()),
                }
                Ok(())
            }
            // Some of what was dropped may have been about ours.
            Fact::Lagged { .. } => self.look().await,
            _ => Ok(()),
        }
    }

    /// Asks where the open messages stand.
    async fn look(&mut self) -> Result<(), Failure> {
        let ids: Vec<String> = self.open.keys().cloned().collect();
        for id in ids {
            if let Some(state) = self.session.delivery(read(&id)?).await? {
                self.reached(&id, state, None)?;
            }
        }
        Ok(())
    }

    /// Takes a state of an open message, and for a delivery how and when it was known.
    fn reached(
        &mut self,
        id: &str,
        state: State,
        delivery: Option<(&str, u64)>,
    ) -> Result<(), Failure> {
        let far_enough = match (&state, self.target()) {
            (State::Delivered, _) | (_, Until::Kept) | (State::AtPeer { .. }, Until::Peer) => true,
            (State::Failed { why }, _) => {
                self.counts.failed = Some(why.clone());
                true
            }
            _ => false,
        };
        if !far_enough {
            if let Some(open) = self.open.get_mut(id) {
                open.state = state;
            }
            return Ok(());
        }
        let Some(open) = self.open.remove(id) else { return Ok(()) };
        let note = delivery.map(|(via, at_ns)| {
            let took = Duration::from_nanos(at_ns.saturating_sub(open.sent_ns));
            format!(" ({via}, after {})", duration::human(took))
        });
        self.tell_people(id, state, &note.unwrap_or_default())
    }

    /// One message is told of; of many only the number.
    fn tell_people(&self, id: &str, state: State, note: &str) -> Result<(), Failure> {
        if self.cx.out.is_json() || self.args.lines {
            return Ok(());
        }
        let sent = Fact::Sent(Sent { to: self.to.name.clone(), id: id.to_owned(), state });
        let text = human::fact(&sent, self.cx.out.palette()).unwrap_or_default();
        self.cx.out.raw(&format!("{text}{note}"))
    }

    fn end(&mut self) -> Result<(), Failure> {
        let name = line_of(&self.to.name);
        if self.args.lines {
            self.cx.out.say(format!("{} messages to {name}", self.counts.sent));
        }
        if let Some(why) = &self.counts.failed {
            return Err(Failure::new(
                "message-failed",
                format!("the message to {name} failed: {why}"),
            ));
        }
        let open = self.open.len();
        if open == 0 {
            return Ok(());
        }
        if self.args.wait != Until::Kept {
            let what = if open == 1 {
                "the message waits".to_owned()
            } else {
                format!("{open} messages wait")
            };
            let why = format!(
                "{what} for {name}: not {} in time{}",
                match self.args.wait {
                    Until::Delivered => "delivered",
                    _ => "at their peer",
                },
                self.hindrance.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
            );
            return Err(Failure::new("kept-for-later", why));
        }
        for (id, open) in std::mem::take(&mut self.open) {
            self.tell_people(&id, open.state, "")?;
        }
        if let Some(why) = &self.hindrance {
            self.cx.out.hint(block(why));
        }
        self.cx.out.hint("it waits here, and leaves while halloo daemon runs");
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
