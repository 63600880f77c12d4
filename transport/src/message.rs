//! One message on one stream: the end of the stream is the end of the message.

use halloo_wire::{DecodeError, peer::Control};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::time::{Instant, timeout_at};

use crate::config::MESSAGE_DEADLINE;
use crate::error::{ConnectionLost, stream_code};

/// Bytes taken from a stream at a time.
const CHUNK: usize = 64 * 1024;

/// Reads one message, never more than its limit and never longer than the deadline.
#[derive(Debug)]
pub(crate) struct MessageReader {
    stream: RecvStream,
    bytes: Vec<u8>,
    limit: usize,
    deadline: Instant,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum ReadFault {
    TooLarge,
    TooSlow,
    /// The other side took it back.
    Reset,
    /// It was early data, and the server did not take early data.
    EarlyRejected,
    Lost(ConnectionLost),
}

impl MessageReader {
    /// Reads a message of type `M` from `stream`.
    pub(crate) fn new<M: Control>(stream: RecvStream) -> Self {
        let deadline = Instant::now() + MESSAGE_DEADLINE;
        Self { stream, bytes: Vec::new(), limit: M::LIMIT, deadline }
    }

    /// Lets the message come until `deadline`.
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
    }

    /// Reads to the end. Cancel safe: what has come stays in the reader.
    pub(crate) async fn read(&mut self) -> Result<Vec<u8>, ReadFault> {
        match timeout_at(self.deadline, self.read_all()).await {
            Ok(Ok(())) => Ok(std::mem::take(&mut self.bytes)),
            Ok(Err(fault)) => Err(fault),
            Err(_) => {
                self.stop(stream_code::TOO_SLOW);
                Err(ReadFault::TooSlow)
            }
        }
    }

    async fn read_all(&mut self) -> Result<(), ReadFault> {
        loop {
            // One byte more than the limit may come, to tell a full message from too much.
            let room = self.limit + 1 - self.bytes.len();
            match self.stream.read_chunk(room.min(CHUNK), true).await? {
                None => return Ok(()),
                Some(chunk) if chunk.bytes.len() < room => {
                    self.bytes.extend_from_slice(&chunk.bytes);
                }
                Some(_) => {
                    self.stop(stream_code::TOO_LARGE);
                    return Err(ReadFault::TooLarge);
                }
            }
        }
    }

    fn stop(&mut self, code: VarInt) {
        // Fails only when the stream has ended by itself.
        let _ = self.stream.stop(code);
    }
}

impl From<ReadError> for ReadFault {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::ConnectionLost(e) => Self::Lost(e.into()),
            ReadError::ZeroRttRejected => Self::EarlyRejected,
            // The reader reads in order and never after the end, so only a reset is left.
            ReadError::Reset(_) | ReadError::ClosedStream | ReadError::IllegalOrderedRead => {
                Self::Reset
            }
        }
    }
}

/// Writes one message. Dropped before the end, it resets the stream, so that half a message is
/// never taken for a whole one.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    stream: Option<SendStream>,
    on_drop: VarInt,
}

/// Why a message was not written.
#[derive(Debug)]
pub(crate) enum WriteFault {
    /// The other side does not want (more of) it.
    Stopped,
    TooSlow,
    EarlyRejected,
    Lost(ConnectionLost),
}

impl MessageWriter {
    /// Writes to `stream`, and resets it with `on_drop` if it never gets to the end.
    pub(crate) fn new(stream: SendStream, on_drop: VarInt) -> Self {
        Self { stream: Some(stream), on_drop }
    }

    /// Writes `message` and ends the stream. Gives the stream back, for its acknowledgement.
    pub(crate) async fn write(mut self, message: &[u8]) -> Result<SendStream, WriteFault> {
        let stream = self.stream.as_mut().expect("a writer is used up by writing");
        let deadline = Instant::now() + MESSAGE_DEADLINE;
        match timeout_at(deadline, stream.write_all(message)).await {
            Ok(written) => written?,
            Err(_) => return Err(WriteFault::TooSlow),
        }
        let mut stream = self.stream.take().expect("a writer is used up by writing");
        match stream.finish() {
            Ok(()) => Ok(stream),
            Err(_) => Err(WriteFault::Stopped),
        }
    }
}

impl Drop for MessageWriter {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.as_mut() {
            // Fails only when the stream has ended by itself.
            let _ = stream.reset(self.on_drop);
        }
    }
}

impl From<WriteError> for WriteFault {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::ConnectionLost(e) => Self::Lost(e.into()),
            WriteError::ZeroRttRejected => Self::EarlyRejected,
            WriteError::Stopped(_) | WriteError::ClosedStream => Self::Stopped,
        }
    }
}

/// The message's bytes, if it is within its limits.
pub(crate) fn encode_within_limits<M: Control>(message: &M) -> Result<Vec<u8>, DecodeError> {
    message.check()?;
    let bytes = message.encode();
    if bytes.len() > M::LIMIT { Err(DecodeError::TooLong) } else { Ok(bytes) }
}
