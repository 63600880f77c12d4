//! Sockets that a service manager opens and hands over.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::{Node, PROGRAM, Process, in_home, not_shown, tunnel};
use crate::service::packaging;
use halloo_transport::Show;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};
use serde_json::json;

/// How often something is said until it is answered.
const REPEAT: Duration = Duration::from_millis(50);

/// The program that does what systemd does, if it is here.
fn activator() -> Option<PathBuf> {
    let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join("systemd-socket-activate"));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        not_shown("without systemd-socket-activate, no sockets are handed over");
    }
    found
}

/// Starts the peer with these sockets as soon as something comes to one of them.
fn activated(activator: &Path, home: &Path, args: &[&str], peer: &[&str]) -> Command {
    let mut command = in_home(Command::new(activator), home);
    let data = home.join("data").display().to_string();
    command.args(args).args([PROGRAM, "run", "--json", "--data-dir", &data]);
    // It hands no more of its environment on than what everybody has.
    command.args(["--admin", "127.0.0.1:0", "--drain-timeout", "1s"]).args(peer);
    command
}

/// A port that nobody has at this moment.
fn free_udp() -> String {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn udp_sockets_are_taken_and_what_waited_in_them_is_answered() {
    let Some(activator) = activator() else { return };
    let home = tempfile::tempdir().unwrap();
    let (main, second) = (free_udp(), free_udp());
    let args = ["--datagram", "--listen", &main, "--listen", &second];
    // Where the peer would listen by itself is somewhere else.
    let peer = ["--listen", "127.0.0.1:0", "--websocket", "off"];
    let command = activated(&activator, home.path(), &args, &peer);
    let to: SocketAddr = main.parse().unwrap();
    let asking = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(REPEAT)).unwrap();
        let request = PeerDatagram::EchoRequest { txid: 7, cookie: 0, answer: EchoAnswer::Here };
        let mut buffer = [0; 256];
        loop {
            // Before the port is open, the system says that nobody is there.
            let _ = socket.send_to(&request.encode(), to);
            let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
            assert_eq!(from, to);
            break PeerDatagram::decode(&buffer[..n]).unwrap();
        }
    });
    let peer = Process::spawn(command).await;
    let answer = asking.await.unwrap();
    assert!(matches!(answer, PeerDatagram::EchoReply { txid: 7, .. }), "{answer:?}");
    assert_eq!(peer.ready["listen"], json!(main));
    let port = second.parse::<SocketAddr>().unwrap().port();
    assert_eq!(peer.ready["echo_port"], json!(port));
    assert_eq!(peer.ready["sockets_handed_over"], 2);
    let node = Node::new(&peer);
    let line = node.connect(Show::Nothing).await;
    assert_eq!(line.echo_port, Some(port));
}

#[tokio::test]
async fn a_tcp_socket_is_taken_for_websockets() {
    let Some(activator) = activator() else { return };
    let home = tempfile::tempdir().unwrap();
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = ["--listen", &at.to_string()];
    let command = activated(&activator, home.path(), &args, &["--listen", "127.0.0.1:0"]);
    let knocking = tokio::spawn(async move {
        while tokio::net::TcpStream::connect(at).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    let peer = Process::spawn(command).await;
    knocking.await.unwrap();
    assert_eq!((peer.websocket(), &peer.ready["sockets_handed_over"]), (at, &json!(1)));
    let node = Node::new(&peer);
    let tunnel = tunnel(&node, peer.websocket()).await;
    node.connect_at(tunnel.addr(), Show::Nothing).await;
}

#[test]
fn the_socket_unit_is_in_order() {
    let home = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(packaging("rendezvous-peer.service")).unwrap();
    // Where the program is not installed, something else stands for it.
    let unit = unit.replace("/usr/bin/rendezvous-peer", PROGRAM);
    std::fs::write(home.path().join("rendezvous-peer.service"), unit).unwrap();
    let socket = home.path().join("rendezvous-peer.socket");
    std::fs::copy(packaging("rendezvous-peer.socket"), &socket).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&socket).output() {
        Ok(said) => {
            let words = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.status.success() && !words.contains("rendezvous-peer"), "{words}");
        }
        Err(e) => not_shown(&format!("the unit is not looked at without systemd-analyze: {e}")),
    }
}
