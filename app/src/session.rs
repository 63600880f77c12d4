//! A node in use: our own, or one that another command hosts. Commands are written once against
//! it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halloo::{Fingerprint, Invite, MessageId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::control::client::ControlClient;
use crate::control::protocol::{Direction, From, Id, Reply, Request, Said, Secret, to_ms};
use crate::fact::{Code, ContactCard, Fact, Line, PathTo, Ready, Sent, State, Throughput};
use crate::failure::Failure;
use crate::operate::{LINES_AHEAD, Operator};

/// A node in use.
#[derive(Clone)]
pub(crate) enum Session {
    /// This process runs it.
    Local(Arc<Operator>),
    /// Another process does.
    Remote(ControlClient),
}

/// Takes the one kind of reply that a request has.
macro_rules! ask {
    ($session:ident, $request:expr, $pattern:pat => $value:expr) => {
        match $session.ask($request).await? {
            $pattern => Ok($value),
            other => Err(unexpected(&other)),
        }
    };
}

impl Session {
    /// Whether this process runs the node, so that it stops with the command.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// How the node is.
    pub(crate) async fn status(&self) -> Result<Ready, Failure> {
        ask!(self, Request::Status, Reply::Status(ready) => ready)
    }

    /// Waits until the node is registered with its peer, but not longer than `within`.
    pub(crate) async fn online(&self, within: Duration) -> Result<Ready, Failure> {
        ask!(self, Request::Online { within_ms: to_ms(within) }, Reply::Status(ready) => ready)
    }

    /// Waits until the node has read what waited at its peer, but not longer than `within`.
    pub(crate) async fn caught_up(&self, within: Duration) -> Result<Ready, Failure> {
        ask!(self, Request::CaughtUp { within_ms: to_ms(within) }, Reply::Status(ready) => ready)
    }

    /// All contacts.
    pub(crate) async fn contacts(&self) -> Result<Vec<ContactCard>, Failure> {
        ask!(self, Request::Contacts, Reply::Contacts(contacts) => contacts)
    }

    /// The contact that a name, an address or the beginning of a fingerprint means.
    pub(crate) async fn contact(&self, who: &str) -> Result<ContactCard, Failure> {
        ask!(self, Request::Contact { who: who.to_owned() }, Reply::Contact(contact) => contact)
    }

    /// Asks somebody to become a contact.
    pub(crate) async fn add(
        &self,
        address: &halloo::Address,
        name: Option<String>,
        note: String,
    ) -> Result<ContactCard, Failure> {
        // The URI keeps the peer's key.
        let request = Request::Add { address: address.to_uri(), name, note };
        ask!(self, request, Reply::Contact(contact) => contact)
    }

    /// Accepts who asked.
    pub(crate) async fn accept(
        &self,
        who: Fingerprint,
        name: Option<String>,
    ) -> Result<ContactCard, Failure> {
        ask!(self, Request::Accept { who: Id(who), name }, Reply::Contact(contact) => contact)
    }

    /// Blocks a contact.
    pub(crate) async fn block(&self, who: Fingerprint) -> Result<ContactCard, Failure> {
        ask!(self, Request::Block { who: Id(who) }, Reply::Contact(contact) => contact)
    }

    /// Sends a text; returns when it is on disk. The same `key` again sends nothing.
    pub(crate) async fn send(
        &self,
        to: Fingerprint,
        text: String,
        key: Option<String>,
        parent: Option<MessageId>,
        within: Option<Duration>,
    ) -> Result<Sent, Failure> {
        let (parent, within_ms) = (parent.map(Id), within.map(to_ms));
        let request = Request::Send { to: Id(to), text, key, parent, within_ms };
        ask!(self, request, Reply::Sent(sent) => sent)
    }

    /// Writes a backup to a file, given by its whole path.
    pub(crate) async fn back_up(
        &self,
        file: &Path,
        passphrase: Secret,
        replace: bool,
    ) -> Result<(), Failure> {
        let request = Request::BackUp { file: file.to_owned(), passphrase, replace };
        ask!(self, request, Reply::Done => ())
    }

    /// Gives the node an invite for its rendezvous peer.
    pub(crate) async fn set_invite(&self, invite: &Invite) -> Result<(), Failure> {
        ask!(self, Request::Invite { invite: Id(*invite) }, Reply::Done => ())
    }

    /// Takes a message back that has not left.
    pub(crate) async fn cancel(&self, id: MessageId) -> Result<(), Failure> {
        ask!(self, Request::Cancel { id: Id(id) }, Reply::Done => ())
    }

    /// Waits until everything for somebody has left, but not longer than `within`: whether it has.
    pub(crate) async fn handed_over(
        &self,
        to: Fingerprint,
        within: Duration,
    ) -> Result<bool, Failure> {
        let request = Request::HandedOver { to: Id(to), within_ms: to_ms(within) };
        ask!(self, request, Reply::HandedOver(has) => has)
    }

    /// Where a message stands; `None` when it is unknown.
    pub(crate) async fn delivery(&self, id: MessageId) -> Result<Option<State>, Failure> {
        ask!(self, Request::Delivery { id: Id(id) }, Reply::Delivery(state) => state)
    }

    /// The last messages with somebody, oldest first.
    pub(crate) async fn history(
        &self,
        with: Fingerprint,
        limit: u32,
    ) -> Result<Vec<Said>, Failure> {
        ask!(self, Request::History { with: Id(with), limit }, Reply::History(said) => said)
    }

    /// What happens from `from` on. Nothing that happens after this returned is missed.
    pub(crate) async fn events(&self, from: From) -> Result<(Ready, Call), Failure> {
        let mut call = self.start(Request::Events { from });
        match call.next().await {
            Some(Line { fact: Fact::Ready(ready), .. }) => Ok((ready, call)),
            Some(other) => {
                let why = format!("events began with {other:?}");
                Err(Failure::new("control-reply", why))
            }
            None => Err(call.end().await.err().unwrap_or_else(|| unexpected(&Reply::Done))),
        }
    }

    /// Begins or joins a comparison; returns when both sides can read the code. `None` when the
    /// digits were typed here before.
    pub(crate) async fn safety_code(&self, with: Fingerprint) -> Result<Option<Code>, Failure> {
        ask!(self, Request::SafetyCode { with: Id(with) }, Reply::Code(code) => code)
    }

    /// The person typed these digits.
    pub(crate) async fn safety_confirm(
        &self,
        with: Fingerprint,
        digits: String,
    ) -> Result<(), Failure> {
        ask!(self, Request::SafetyConfirm { with: Id(with), digits }, Reply::Done => ())
    }

    /// Waits for the other side: how the contact stands then, and whether it is checked.
    pub(crate) async fn safety_done(&self, with: Fingerprint) -> Result<(String, bool), Failure> {
        let request = Request::SafetyDone { with: Id(with) };
        ask!(self, request, Reply::Checked { verified, checked } => (verified, checked))
    }

    /// The digits differ.
    pub(crate) async fn safety_mismatch(&self, with: Fingerprint) -> Result<(), Failure> {
        ask!(self, Request::SafetyMismatch { with: Id(with) }, Reply::Done => ())
    }

    /// Not now.
    pub(crate) async fn safety_cancel(&self, with: Fingerprint) -> Result<(), Failure> {
        ask!(self, Request::SafetyCancel { with: Id(with) }, Reply::Done => ())
    }

    /// The long number.
    pub(crate) async fn safety_number(&self, with: Fingerprint) -> Result<String, Failure> {
        ask!(self, Request::SafetyNumber { with: Id(with) }, Reply::Number(number) => number)
    }

    /// One ping: its round trip and how the answer came.
    pub(crate) async fn ping(
        &self,
        to: Fingerprint,
        within: Duration,
    ) -> Result<(Duration, String), Failure> {
        let request = Request::Ping { to: Id(to), within_ms: to_ms(within) };
        ask!(self, request, Reply::Pong { rtt_us, via } => (Duration::from_micros(rtt_us), via))
    }

    /// Gets a connection, direct or relayed.
    pub(crate) async fn connect(&self, to: Fingerprint) -> Result<PathTo, Failure> {
        ask!(self, Request::Connect { to: Id(to) }, Reply::Path(path) => path)
    }

    /// Checks the network, and the path to a contact when one is named; `tell` hears each check.
    pub(crate) async fn doctor(
        &self,
        who: Option<Fingerprint>,
        mut tell: impl FnMut(Line) -> Result<(), Failure>,
    ) -> Result<Ready, Failure> {
        let mut call = self.start(Request::Doctor { who: who.map(Id) });
        while let Some(line) = call.next().await {
            tell(line)?;
        }
        match call.end().await? {
            Reply::Status(ready) => Ok(ready),
            other => Err(unexpected(&other)),
        }
    }

    /// Measures throughput; `progress` hears how it goes on.
    pub(crate) async fn perf(
        &self,
        to: Fingerprint,
        direction: Direction,
        duration_ms: u32,
        mut progress: impl FnMut(Throughput),
    ) -> Result<Throughput, Failure> {
        let mut call = self.start(Request::Perf { to: Id(to), direction, duration_ms });
        while let Some(line) = call.next().await {
            if let Fact::Progress(so_far) = line.fact {
                progress(so_far);
            }
        }
        match call.end().await? {
            Reply::Perf(result) => Ok(result),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Failure> {
        self.start(request).end().await
    }

    fn start(&self, request: Request) -> Call {
        let (emit, lines) = mpsc::channel(LINES_AHEAD);
        let task = match self.clone() {
            Self::Local(operator) => {
                tokio::spawn(async move { operator.execute(request, emit).await })
            }
            Self::Remote(client) => {
                tokio::spawn(async move { client.execute(request, emit).await })
            }
        };
        Call { lines, task }
    }
}

/// A request that is being carried out. Dropping it gives the request up.
pub(crate) struct Call {
    lines: mpsc::Receiver<Line>,
    task: JoinHandle<Result<Reply, Failure>>,
}

impl Call {
    /// The next thing that it tells; `None` at its end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }

    /// Its result. What it still tells is dropped.
    pub(crate) async fn end(mut self) -> Result<Reply, Failure> {
        while self.lines.recv().await.is_some() {}
        match (&mut self.task).await {
            Ok(result) => result,
            Err(e) => Err(Failure::new("internal", format!("a task of this program ended: {e}"))),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new("control-reply", format!("the node answered something else: {reply:?}"))
}
