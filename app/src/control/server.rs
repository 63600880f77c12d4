//! The host's side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::protocol::{Answer, AnswerBody, MAX_LINE, Reply, VERSION, decode_ask, encode};
use crate::failure::Failure;
use crate::operate::{LINES_AHEAD, Operator};

/// Connections at a time. A person's scripts need a handful; each costs a task and a file
/// descriptor. Beyond it, connections are told so and closed.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave an answer unread before it is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A listening control socket. Dropping it removes the socket and ends its connections.
pub(crate) struct ControlServer {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket. The caller holds the home's lock, so a socket that is already there was
    /// left by a process that died, and is replaced.
    ///
    /// # Errors
    /// `control-socket` when it cannot be bound.
    pub(crate) fn bind(path: PathBuf, operator: Arc<Operator>) -> Result<Self, Failure> {
        let listener = bind_private(&path).map_err(|e| {
            Failure::new(
                "control-socket",
                format!("cannot open the control socket {}: {e}", path.display()),
            )
        })?;
        let task = tokio::spawn(serve(listener, operator));
        Ok(Self { path, task })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
        // Nothing can be done about a failure, and the next host replaces a left socket.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind_private(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The home directory keeps others out in the moment before.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, operator: Arc<Operator>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(converse(stream, operator.clone()));
                }
                Ok((stream, _)) => refuse(stream),
                Err(e) => {
                    tracing::debug!(error = %e, "Control socket refused a connection");
                    // Out of file descriptors: others must close some first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Tells a client that there are too many, if that takes no waiting.
fn refuse(stream: UnixStream) {
    let why = format!("more than {MAX_CONNECTIONS} commands use the running node at once");
    let body = AnswerBody::Error(Failure::new("control-busy", why));
    let _ = stream.try_write(&encode(&Answer { v: VERSION, body }));
}

async fn converse(stream: UnixStream, operator: Arc<Operator>) {
    let owner = stream.peer_cred().map(|c| c.uid());
    if !owner.is_ok_and(|uid| uid == rustix::process::geteuid().as_raw() || uid == 0) {
        return;
    }
    let (mut reader, mut writer) = stream.into_split();
    let result = match tokio::time::timeout(REQUEST_TIMEOUT, read_line(&mut reader)).await {
        Ok(Ok(line)) => answer(&line, &operator, &mut reader, &mut writer).await,
        Ok(Err(failure)) => Some(Err(failure)),
        Err(_) => Some(Err(Failure::new("control-request", "no request came"))),
    };
    if let Some(result) = result {
        let body = match result {
            Ok(reply) => AnswerBody::Ok(reply),
            Err(failure) => AnswerBody::Error(failure),
        };
        let _ = write(&mut writer, body).await;
    }
}

/// Carries a request out. `None` when the client went away before its end.
async fn answer(
    line: &[u8],
    operator: &Arc<Operator>,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Reply, Failure>> {
    let request = match decode_ask(line) {
        Ok(request) => request,
        Err(failure) => return Some(Err(failure)),
    };
    let (emit, mut lines) = mpsc::channel(LINES_AHEAD);
    let mut work = std::pin::pin!(operator.execute(request, emit));
    let mut rest = [0; 1];
    loop {
        tokio::select! {
            // Lines first, so that the end comes after all of them.
            biased;
            Some(line) = lines.recv() => write(writer, AnswerBody::Line(line)).await.ok()?,
            result = &mut work => {
                while let Ok(line) = lines.try_recv() {
                    write(writer, AnswerBody::Line(line)).await.ok()?;
                }
                return Some(result);
            }
            // A client says nothing after its request: this is its end, or nonsense.
            _ = reader.read(&mut rest) => return None,
        }
    }
}

async fn read_line(reader: &mut OwnedReadHalf) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    BufReader::new(reader.take(MAX_LINE as u64)).read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(Failure::new("control-request", "the request is too long or has no end")),
    }
}

async fn write(writer: &mut OwnedWriteHalf, body: AnswerBody) -> std::io::Result<()> {
    let line = encode(&Answer { v: VERSION, body });
    tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&line)).await?
}
