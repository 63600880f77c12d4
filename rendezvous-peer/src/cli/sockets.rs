//! Sockets that the service manager has opened and hands over (systemd's socket activation).

use std::io;

use listenfd::ListenFd;
use rendezvous_peer::Sockets;

use super::failure::{Exit, Failure};

/// Takes what was handed over: of UDP first the main socket, then the one for NAT tests; and one of
/// TCP, for WebSockets. To be called before there is a second thread: it takes the variables out of
/// the environment.
pub(super) fn handed_over() -> Result<Sockets, Failure> {
    let mut given = ListenFd::from_env();
    let mut sockets = Sockets::default();
    for n in 0..given.len() {
        let too_many =
            || Err(unusable(&format!("socket {n} of the service manager is one too many")));
        if let Ok(Some(socket)) = given.take_udp_socket(n) {
            socket.set_nonblocking(true).map_err(|e| broken(n, &e))?;
            match (&sockets.udp, &sockets.second) {
                (None, _) => sockets.udp = Some(socket),
                (_, None) => sockets.second = Some(socket),
                _ => return too_many(),
            }
        } else if let Ok(Some(socket)) = given.take_tcp_listener(n) {
            match sockets.tcp {
                None => sockets.tcp = Some(socket),
                Some(_) => return too_many(),
            }
        } else {
            let message = format!(
                "socket {n} of the service manager is neither for UDP nor a listening one for TCP"
            );
            return Err(unusable(&message));
        }
    }
    Ok(sockets)
}

fn broken(n: usize, error: &io::Error) -> Failure {
    unusable(&format!("socket {n} of the service manager cannot be used: {error}"))
}

fn unusable(message: &str) -> Failure {
    Failure::new(Exit::Config, "socket-unusable", message).try_this(
        "a .socket unit with ListenDatagram= for UDP (and another for NAT tests), and ListenStream= \
         for TCP",
    )
}
