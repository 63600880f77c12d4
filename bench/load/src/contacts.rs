//! What contacts of a node notice: how long a message takes through the mailbox of somebody who is
//! connected, from the moment at which it was due until it is there.

use std::time::{Duration, Instant};

use anyhow::Result;
use halloo_transport::PeerConnection;
use halloo_wire::envelope::Lane;
use halloo_wire::peer::{Call, Push, Response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::node::{Node, Registered, drop_for, leave};
use crate::peer::Peer;
use crate::times::Times;

/// How often a message is due.
const EACH: Duration = Duration::from_millis(5);
/// What is not there by then is lost.
const LATE: Duration = Duration::from_secs(5);

/// Two contacts who have connections to their peer.
pub struct Contacts {
    sender: PeerConnection,
    _nodes: [Node; 2],
    recipient: std::sync::Arc<Registered>,
    to: halloo_wire::Fingerprint,
}

/// What was measured.
pub struct Outcome {
    pub times: Times,
    pub sent: usize,
    pub refused: usize,
}

impl Contacts {
    pub async fn meet(peer: &Peer) -> Result<Self> {
        let (anna, ben) = (Node::new()?, Node::new()?);
        let recipient = ben.register(peer.listen, peer.key).await?.into();
        let sender = anna.connect(peer.listen, peer.key).await?;
        let to = ben.fingerprint;
        Ok(Self { sender, _nodes: [anna, ben], recipient, to })
    }

    /// Writes for so long.
    pub async fn talk(&self, time: Duration) -> Result<Outcome> {
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let recipient = self.recipient.clone();
        let reader = tokio::spawn(async move {
            while let Ok(push) = recipient.connection.next_push().await {
                let Push::Envelope(waiting) = push else { continue };
                let _ = arrived.send(Instant::now());
                let recipient = recipient.clone();
                tokio::spawn(async move { recipient.ask(Call::Ack(vec![waiting.id])).await });
            }
        });
        let mut tick = interval(EACH);
        let mut due = Vec::new();
        let mut answers = JoinSet::new();
        let begun = Instant::now();
        while begun.elapsed() < time {
            due.push(tick.tick().await.into_std());
            let (connection, call) = (self.sender.clone(), drop_for(self.to, Lane::Contacts));
            answers.spawn(async move { leave(&connection, call).await });
        }
        let mut refused = 0;
        while let Some(answer) = answers.join_next().await {
            refused += usize::from(!matches!(answer?, Ok(Response::Dropped(_))));
        }
        let mut times = Times::default();
        // They keep their order, since a mailbox does.
        for due in &due[..due.len() - refused] {
            match timeout(LATE, arrivals.recv()).await {
                Ok(Some(at)) => times.add(at.saturating_duration_since(*due)),
                _ => break,
            }
        }
        reader.abort();
        Ok(Outcome { times, sent: due.len(), refused })
    }
}

impl Outcome {
    pub fn print(&mut self, what: &str) {
        println!(
            "  contacts {what}: {} of {} messages, {} refused; half within {:.2} ms, 99 % within {:.2} ms",
            self.times.count(),
            self.sent,
            self.refused,
            self.times.percentile(50),
            self.times.percentile(99)
        );
    }
}
