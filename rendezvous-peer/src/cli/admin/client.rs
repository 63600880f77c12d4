//! Asks a peer that runs on this machine.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;

use super::AdminAddr;
use super::status::{PROGRAM, Status};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::SCHEMA;

/// How long the loopback may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer. A status has some thousand.
const ANSWER_SIZE: u64 = 1 << 20;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum AskError {
    /// Nothing is there.
    #[error("nothing answers at http://{0}/: {1}")]
    Nobody(SocketAddr, #[source] io::Error),
    /// Something else is there.
    #[error("what answers at http://{0}/ is no rendezvous peer")]
    AnotherProgram(SocketAddr),
    /// A peer of another version is there.
    #[error("the peer at http://{0}/ is of another version: its status has the schema {1}")]
    AnotherVersion(SocketAddr, u32),
}

/// Where the settings say that the peer is to be asked.
pub(in crate::cli) fn place(admin: AdminAddr) -> Result<SocketAddr, Failure> {
    match admin {
        AdminAddr::Off => {
            let message = "there is no admin listener to ask: the setting `admin` is off";
            Err(Failure::new(Exit::NotFound, "admin-off", message))
        }
        AdminAddr::At(address) if address.port() == 0 => {
            let message = "the setting `admin` leaves the port to the system";
            Err(Failure::new(Exit::NotFound, "admin-port-unknown", message)
                .try_this("--admin with the address that the peer printed when it started"))
        }
        AdminAddr::At(address) => Ok(address),
    }
}

/// The numbers of the peer whose admin listener is at `address`.
pub(in crate::cli) fn status(address: SocketAddr) -> Result<Status, AskError> {
    /// What all versions have.
    #[derive(Deserialize)]
    struct Any {
        program: String,
        schema: u32,
    }
    let answer = fetch(address).map_err(|e| AskError::Nobody(address, e))?;
    let another = || AskError::AnotherProgram(address);
    let body = body(&answer).ok_or_else(another)?;
    let any: Any = serde_json::from_slice(body).map_err(|_| another())?;
    if any.program != PROGRAM {
        return Err(another());
    }
    match serde_json::from_slice(body) {
        Ok(status) if any.schema == SCHEMA => Ok(status),
        _ => Err(AskError::AnotherVersion(address, any.schema)),
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match &error {
            AskError::Nobody(..) => {
                Failure::new(Exit::Unreachable, "not-running", error.to_string())
                    .try_this("--admin ADDR:PORT, if the peer has another admin address")
                    .try_this("systemctl status rendezvous-peer")
            }
            AskError::AnotherProgram(_) => {
                Failure::new(Exit::Failure, "not-a-peer", error.to_string())
                    .try_this("--admin ADDR:PORT with the address that the peer printed")
            }
            AskError::AnotherVersion(..) => {
                Failure::new(Exit::Failure, "another-version", error.to_string())
                    .try_this("restarting the peer after an upgrade")
            }
        }
    }
}

fn fetch(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_SIZE).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of an answer, if it is a good one. It goes to the end: a peer sends it in one piece
/// and closes.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    match head.parse(answer) {
        Ok(httparse::Status::Complete(end)) if head.code == Some(200) => Some(&answer[end..]),
        _ => None,
    }
}
