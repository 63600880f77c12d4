//! `ping`.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Context, GET_ONLINE};
use crate::cli::PingArgs;
use crate::control::protocol::From;
use crate::duration::millis;
use crate::fact::{Fact, PingSummary, Summary};
use crate::failure::Failure;
use crate::session::Session;
use crate::text::line;

/// Pings that may be under way at a time; with a short interval and a dead path, the next waits.
const MAX_OPEN: usize = 256;
/// The word for a direct path.
const DIRECT: &str = "direct";

/// Measures round trips.
pub(super) async fn run(cx: &Context, args: PingArgs) -> Result<(), Failure> {
    cx.with_node(async |session| {
        let contact = session.contact(&args.who).await?;
        session.online(GET_ONLINE).await?;
        let mut found = Found::new(contact.name.clone());
        let result = measure(cx, session, &args, contact.id()?, &mut found).await;
        let summary = found.summary();
        let received = summary.received;
        cx.out.fact(Fact::Summary(Summary::Ping(summary)))?;
        result?;
        match received {
            0 => {
                let why = format!("no answer from {}", line(&contact.name));
                Err(Failure::new("no-answer", why))
            }
            _ => Ok(()),
        }
    })
    .await
}

async fn measure(
    cx: &Context,
    session: &Session,
    args: &PingArgs,
    who: halloo::Fingerprint,
    found: &mut Found,
) -> Result<(), Failure> {
    let (_, mut events) = session.events(From::Now).await?;
    let mut open: JoinSet<(u32, Result<_, Failure>)> = JoinSet::new();
    // A direct path is looked for at the same time; pings travel on what there is.
    let dial = session.clone();
    let mut dialled = tokio::spawn(async move { dial.connect(who).await });
    let mut dialling = true;
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_micros(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    while next < args.count || !open.is_empty() {
        tokio::select! {
            Some(answer) = open.join_next() => {
                let (seq, answer) = answer.map_err(|e| Failure::new("internal", e.to_string()))?;
                match answer {
                    Ok((rtt, via)) => {
                        cx.out.fact(found.pong(seq, rtt, via))?;
                    }
                    Err(failure) if failure.exit.is_retryable() => {
                        let contact = found.contact.clone();
                        cx.out.fact(Fact::Lost { seq, contact, why: failure.message })?;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            _ = ticks.tick(), if next < args.count && open.len() < MAX_OPEN => {
                next += 1;
                let (seq, session, timeout) = (next, session.clone(), args.timeout);
                found.begin();
                open.spawn(async move { (seq, session.ping(who, timeout).await) });
            }
            Some(event) = events.next() => {
                if let Fact::Path(path) = event.fact && path.contact == found.contact {
                    found.path(&path.via);
                    found.moved(path.via);
                }
            }
            // Without a direct path there is still the mailbox: no reason to end.
            path = &mut dialled, if dialling => {
                dialling = false;
                if let Ok(Ok(path)) = path {
                    found.path(&path.via);
                }
            }
        }
    }
    dialled.abort();
    Ok(())
}

/// What was found so far.
struct Found {
    contact: String,
    sent: u32,
    began: Option<Instant>,
    first_reply: Option<Duration>,
    direct: Option<Duration>,
    path: Option<String>,
    rtts: Vec<Duration>,
}

impl Found {
    fn new(contact: String) -> Self {
        Self {
            contact,
            sent: 0,
            began: None,
            first_reply: None,
            direct: None,
            path: None,
            rtts: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.sent += 1;
        self.began.get_or_insert_with(Instant::now);
    }

    fn since(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn pong(&mut self, seq: u32, rtt: Duration, via: String) -> Fact {
        self.first_reply.get_or_insert(self.since());
        self.rtts.push(rtt);
        self.path(&via);
        self.path = Some(via.clone());
        Fact::Pong { seq, contact: self.contact.clone(), rtt_ms: millis(rtt), via }
    }

    /// The path is another one from here on, which counts when something has answered.
    fn moved(&mut self, via: String) {
        if let Some(path) = &mut self.path {
            *path = via;
        }
    }

    /// A sign of the path that is in use.
    fn path(&mut self, via: &str) {
        if via == DIRECT {
            self.direct.get_or_insert(self.since());
        }
    }

    fn summary(mut self) -> PingSummary {
        self.rtts.sort_unstable();
        PingSummary {
            contact: self.contact,
            sent: self.sent,
            received: u32::try_from(self.rtts.len()).unwrap_or(u32::MAX),
            first_reply_ms: self.first_reply.map(millis),
            direct_ms: self.direct.map(millis),
            path: self.path,
            min_ms: self.rtts.first().copied().map(millis),
            median_ms: self.rtts.get(self.rtts.len() / 2).copied().map(millis),
            max_ms: self.rtts.last().copied().map(millis),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fact::Line;
    use crate::output::json;

    #[test]
    fn the_summary_names_what_scripts_look_for() {
        let mut found = Found::new("ben".into());
        found.begin();
        found.pong(1, Duration::from_micros(2_500), "mailbox".into());
        let line = json(&Line::of(Fact::Summary(Summary::Ping(found.summary()))));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["event"], "summary");
        assert_eq!(value["path"], "mailbox");
        assert_eq!(value["median_ms"], 2.5);
        assert!(value["direct_ms"].is_null());
        assert!(value["first_reply_ms"].is_number());
    }

    #[test]
    fn the_path_at_the_end_is_the_one_to_which_the_connection_moved() {
        let mut found = Found::new("ben".into());
        found.begin();
        found.moved("relay".into());
        assert_eq!(found.path, None, "nothing has answered");
        found.pong(1, Duration::from_millis(2), "relay".into());
        found.path("direct");
        found.moved("direct".into());
        let summary = found.summary();
        assert_eq!(summary.path.as_deref(), Some("direct"));
        assert!(summary.direct_ms >= summary.first_reply_ms);
    }

    #[test]
    fn a_summary_without_answers_is_all_null() {
        let summary = Found::new("ben".into()).summary();
        assert_eq!((summary.received, summary.path, summary.first_reply_ms), (0, None, None));
    }
}
