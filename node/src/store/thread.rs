//! The thread that owns the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use halloo_e2ee::UnixTime;
use halloo_identity::DataKey;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::db::Db;
use super::file::{self, Keyed};
use super::{StoreError, schema};
use crate::clock;
use crate::core::{Context, Messenger, Output};
use crate::crash;

/// Jobs that wait for the thread. A full queue makes callers wait.
const QUEUE: usize = 256;
/// Jobs that share one commit. More would only make the first one wait longer.
const MAX_BATCH: usize = 128;

/// Runs inside of a transaction, or not at all when there is none; what it returns runs after the
/// commit and hands out the reply.
pub(crate) type Job = Box<dyn FnOnce(Option<(&mut Messenger, &mut Context<'_>)>) -> Done + Send>;
pub(crate) type Done = Box<dyn FnOnce(Result<(), CommitFailed>) + Send>;

/// A commit failed: the job's reply is replaced by the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFailed {
    /// There was no room for it.
    DiskFull,
    /// A job of the batch met an error after which SQLite gives up the whole transaction.
    GivenUp,
    /// The disk did not take it. What the operating system has of it is not known any more, so
    /// nothing is tried again: the store has to be opened anew.
    DiskFailed,
}

impl From<CommitFailed> for StoreError {
    fn from(e: CommitFailed) -> Self {
        match e {
            CommitFailed::DiskFull => Self::DiskFull,
            CommitFailed::GivenUp | CommitFailed::DiskFailed => Self::DiskFailed,
        }
    }
}

/// A handle to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Message>,
}

enum Message {
    Job(Job),
    /// Copies the database into this file, under this key.
    Copy(PathBuf, DataKey, oneshot::Sender<Result<(), StoreError>>),
    /// Everything before this is done; nothing after it.
    Close,
}

/// The running thread. It stops after [`Store::close`], or when every [`Store`] is gone.
pub(crate) struct StoreThread {
    thread: JoinHandle<()>,
}

impl StoreThread {
    /// Waits for the thread to end. Blocks: call it where blocking is allowed.
    pub(crate) fn join(self) {
        // A panic in the thread has been reported by the panic hook.
        let _ = self.thread.join();
    }
}

impl Store {
    /// Opens the database at `file` (`None` keeps it in memory) and starts its thread.
    ///
    /// `messenger` builds the core from what the database holds; `outputs` is called with what
    /// happened after each commit and must not block. `lock` is dropped when the database is
    /// closed.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be used.
    pub(crate) fn open(
        file: Option<Keyed<'_>>,
        messenger: impl FnOnce(&mut Context<'_>) -> Result<Messenger, StoreError>,
        outputs: Arc<dyn Fn(Output) + Send + Sync>,
        lock: impl Send + 'static,
    ) -> Result<(Self, StoreThread), StoreError> {
        let connection = match file {
            Some(file) => file::open(file)?,
            None => Connection::open_in_memory()?,
        };
        schema::prepare(&connection)?;
        connection.execute_batch("BEGIN")?;
        let mut cx = Context::new(Db::new(&connection), clock::unix_now());
        let messenger = messenger(&mut cx)?;
        connection.execute_batch("COMMIT")?;

        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("halloo-store".into())
            .spawn(move || {
                serve(&connection, messenger, queue, &*outputs);
                drop(connection);
                drop(lock);
            })
            .map_err(|source| StoreError::File { path: "thread".into(), source })?;
        Ok((Self { jobs }, StoreThread { thread }))
    }

    /// Runs `job` in a transaction and returns its result once that is on disk. A job that fails
    /// changes nothing.
    ///
    /// # Errors
    /// The job's own error, or [`StoreError`] when the commit failed.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub(crate) async fn run<T, E, F>(&self, job: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E> + Send + 'static,
    {
        let (job, answer) = prepare(job);
        self.jobs.send(Message::Job(job)).await.map_err(|_| E::from(StoreError::Stopped))?;
        answer.await.unwrap_or_else(|_| Err(E::from(StoreError::Stopped)))
    }
}

impl Store {
    /// Copies the database as it is now into an empty file, encrypted under a key. Blocks, and what
    /// else is asked waits meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the copy cannot be written.
    pub(crate) fn copy(&self, to: &Path, key: &DataKey) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Copy(to.to_owned(), key.clone(), reply);
        self.jobs.blocking_send(message).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// Ends the thread after what was asked for so far. Later calls fail with
    /// [`StoreError::Stopped`].
    pub(crate) async fn close(&self) {
        // A thread that is gone is closed.
        let _ = self.jobs.send(Message::Close).await;
    }
}

/// Wraps work, so that its result comes when it is on disk.
pub(crate) fn prepare<T, E, F>(work: F) -> (Job, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |inside| {
        let result = inside.map(|(messenger, cx)| {
            let mark = cx.outputs.len();
            let result = run_in_savepoint(messenger, cx, work);
            if result.is_err() {
                cx.outputs.truncate(mark);
                messenger.forget_cached();
            }
            result
        });
        Box::new(move |committed| {
            let result = match (committed, result) {
                (Ok(()), Some(result)) | (Err(CommitFailed::GivenUp), Some(result @ Err(_))) => {
                    result
                }
                (Ok(()), None) => Err(E::from(StoreError::DiskFailed)),
                (Err(e), _) => Err(E::from(e.into())),
            };
            // The caller may have gone: what was done stays done.
            let _ = reply.send(result);
        })
    });
    (job, answer)
}

fn run_in_savepoint<T, E: From<StoreError>>(
    messenger: &mut Messenger,
    cx: &mut Context<'_>,
    job: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let db = cx.db;
    db.step("SAVEPOINT job").map_err(E::from)?;
    match job(messenger, cx) {
        Ok(value) => {
            db.step("RELEASE job").map_err(E::from)?;
            Ok(value)
        }
        Err(e) => {
            // When this fails too, the commit of the batch will.
            let _ = db.execute("ROLLBACK TO job; RELEASE job");
            Err(e)
        }
    }
}

fn serve(
    connection: &Connection,
    mut messenger: Messenger,
    mut queue: mpsc::Receiver<Message>,
    output: &(dyn Fn(Output) + Send + Sync),
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let mut open = true;
    let mut failed = false;
    while open && queue.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
        let (mut jobs, mut copies) = (Vec::with_capacity(batch.len()), Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Job(job) if open => jobs.push(job),
                Message::Copy(to, key, reply) if open => copies.push((to, key, reply)),
                // Dropped: nothing is done after the end.
                Message::Job(_) | Message::Copy(..) => {}
                Message::Close => open = false,
            }
        }
        for (to, key, reply) in copies {
            let _ = reply.send(file::copy_open(connection, (&to, Some(&key))));
        }
        if failed {
            jobs.into_iter().for_each(|job| job(None)(Err(CommitFailed::DiskFailed)));
            continue;
        }
        let ran = run_batch(connection, &mut messenger, jobs, clock::unix_now(), output);
        failed = ran == Err(CommitFailed::DiskFailed);
    }
    // Leaves no WAL behind for the next start.
    let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

/// Runs jobs in one transaction. When it is on disk the outputs leave, and then the replies.
///
/// # Errors
/// [`CommitFailed`] when nothing of it happened. The replies say so too.
pub(crate) fn run_batch(
    connection: &Connection,
    messenger: &mut Messenger,
    jobs: Vec<Job>,
    now: UnixTime,
    output: &dyn Fn(Output),
) -> Result<(), CommitFailed> {
    let mut cx = Context::new(Db::new(connection), now);
    let mut done: Vec<Done> = Vec::with_capacity(jobs.len());
    crash::point("store-before-begin");
    let begun = cx.db.step("BEGIN");
    for job in jobs {
        // SQLite may have given up the transaction: outside of one nothing may run.
        let inside = !connection.is_autocommit();
        done.push(job(inside.then_some((&mut *messenger, &mut cx))));
    }
    if !connection.is_autocommit() {
        encrypt_accepted(messenger, &mut cx);
    }
    crash::point("store-before-commit");
    let committed = match begun {
        Ok(()) if connection.is_autocommit() => Err(CommitFailed::GivenUp),
        begun => begun.and_then(|()| cx.db.step("COMMIT")).map_err(|e| {
            tracing::error!(error = %e, "The store could not commit");
            match e {
                StoreError::DiskFull => CommitFailed::DiskFull,
                _ => CommitFailed::DiskFailed,
            }
        }),
    };
    match committed {
        Ok(()) => {
            crash::point("store-after-commit");
            cx.outputs.drain(..).for_each(output);
            crash::point("store-before-replies");
        }
        Err(_) => {
            // Nothing of the batch is written; the ratchets in memory must not be ahead of it.
            let _ = connection.execute_batch("ROLLBACK");
            messenger.forget_cached();
        }
    }
    done.into_iter().for_each(|done| done(committed));
    committed
}

/// Encrypts what the jobs of a batch have accepted. When that fails, it stays accepted, and is
/// encrypted when it leaves.
fn encrypt_accepted(messenger: &mut Messenger, cx: &mut Context<'_>) {
    let mark = cx.outputs.len();
    let accepted = messenger.take_accepted();
    if accepted.is_empty() {
        return;
    }
    let encrypted = run_in_savepoint(messenger, cx, |messenger, cx| {
        accepted.iter().try_for_each(|contact| messenger.encrypt_early(cx, contact))
    });
    if let Err(e) = encrypted {
        tracing::warn!(error = %e, "Accepted messages are encrypted later");
        cx.outputs.truncate(mark);
        messenger.forget_cached();
    }
}

/// Opens the database at `file`, does one thing in a transaction, and closes it. Blocks.
///
/// # Errors
/// [`StoreError`] when the file cannot be used or the work failed, which then changed nothing.
pub(crate) fn read_once<T>(
    file: Keyed<'_>,
    messenger: impl FnOnce(&mut Context<'_>) -> Result<Messenger, StoreError>,
    work: impl FnOnce(&mut Messenger, &mut Context<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let connection = file::open(file)?;
    schema::prepare(&connection)?;
    // Dropped without a commit, the transaction is rolled back.
    let transaction = connection.unchecked_transaction()?;
    let mut cx = Context::new(Db::new(&transaction), clock::unix_now());
    let mut messenger = messenger(&mut cx)?;
    let value = work(&mut messenger, &mut cx)?;
    transaction.commit()?;
    Ok(value)
}
