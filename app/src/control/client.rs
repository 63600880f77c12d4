//! A command's side of the control socket.

use std::io::ErrorKind;
use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::protocol::{Answer, AnswerBody, Ask, Reply, Request, VERSION, encode};
use crate::fact::Line;
use crate::failure::Failure;

/// Talks to the node that another command hosts. Each request is a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// A client of the socket at `path`, if somebody listens there.
    ///
    /// # Errors
    /// When the socket is there but may not be used. Nobody listening, and a socket that a killed
    /// process left, are `None`.
    pub(crate) async fn connect(path: PathBuf) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(&path).await {
            Ok(_) => Ok(Some(Self { path })),
            Err(e) if nobody_listens(&e) => Ok(None),
            Err(e) => Err(Failure::new(
                "control-socket",
                format!("cannot use the control socket {}: {e}", path.display()),
            )),
        }
    }

    /// Has a request carried out; what is told on the way goes to `emit`. Dropping the future
    /// gives the request up.
    ///
    /// # Errors
    /// What the node answers; `node-gone` when it stops first.
    pub(crate) async fn execute(
        &self,
        request: Request,
        emit: mpsc::Sender<Line>,
    ) -> Result<Reply, Failure> {
        let mut stream = UnixStream::connect(&self.path).await.map_err(|_| node_gone())?;
        let ask = encode(&Ask { v: VERSION, request });
        stream.write_all(&ask).await.map_err(|_| node_gone())?;
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            // No limit: the node belongs to the same user and is this program.
            if reader.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                return Err(node_gone());
            }
            match serde_json::from_slice::<Answer>(&line) {
                Ok(Answer { body: AnswerBody::Line(line), .. }) => {
                    // Nobody wants to hear more: the caller has dropped the other end.
                    let _ = emit.send(line).await;
                }
                Ok(Answer { body: AnswerBody::Ok(reply), .. }) => return Ok(reply),
                Ok(Answer { body: AnswerBody::Error(failure), .. }) => return Err(failure),
                Err(_) if line.last() != Some(&b'\n') => return Err(node_gone()),
                Err(e) => {
                    let why =
                        format!("the running node gave an answer that is not understood: {e}");
                    return Err(Failure::new("control-reply", why));
                }
            }
        }
    }
}

fn nobody_listens(e: &std::io::Error) -> bool {
    // InvalidInput: the path is longer than a socket's can be, so none was ever bound.
    matches!(
        e.kind(),
        ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
    )
}

fn node_gone() -> Failure {
    Failure::new("node-gone", "the node that this command used has stopped")
}
