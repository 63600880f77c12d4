//! The rendezvous peer: where a node is found, where two nodes are brought together, and where
//! sealed mail waits for one that is away. It keeps everything in memory and knows as little as
//! it can.
//!
//! # What it keeps
//!
//! One table. A row stands for a registered device and is named by fingerprint and device id:
//!
//! | in a row | for | lives |
//! |---|---|---|
//! | session id, counter | telling the device from everybody else, and late packets from new ones | as the row |
//! | observed and attested addresses, connection | pushes and knocks | as the connection |
//! | passport, prekey bundle, one-time keys | whoever looks the fingerprint up | as the row |
//! | reach capabilities: a hash and a sealed card each | saying yes to a knock or to a contact's envelope without learning whose it is | until taken back |
//! | relay channels: two addresses and a number each | datagrams between two nodes that have no direct path | until nothing is heard for two minutes, or the capability is taken back |
//! | mailbox: sealed envelopes in two lanes | the device, when it comes | until acknowledged, 72 h at most |
//!
//! A row is forgotten 14 days after the device's last visit. On disk there is the peer's own key
//! and nothing else ([`keyfile`]). A restart forgets every row; the random
//! [`InstanceId`](halloo_wire::InstanceId) of a run tells nodes that it has, and they come back
//! with what they have kept.
//!
//! # What it does not learn
//!
//! Senders do not register and show no certificate. An envelope is ciphertext of a few fixed
//! sizes. A capability is a hash that its owner hands out; who presents it stays unsaid. To a
//! knock, nobody there, nobody willing and nobody known give the same answer. The crate does not
//! link the one that could open an envelope.
//!
//! # How it is built
//!
//! [`core`] is the table and its rules: no socket, no clock, no task. A call brings a request and
//! the time, and returns an [`Outcome`](core::Outcome): the answer, pushes for other connections,
//! whether to close. Every bound is a field of [`Limits`](core::Limits), and what is beyond one is
//! refused; nothing that was accepted is thrown out before its time.
//!
//! Around it is a thin shell: an endpoint, one task for each connection, one for expiry, one for
//! nodes that come over TCP. Relay frames and echo requests are answered where they arrive,
//! between QUIC's packets.
//! [`start`] runs it, [`RunningPeer::shutdown`] stops it and waits for all of its tasks.
//!
//! ```no_run
//! # async fn example() -> Result<(), rendezvous_peer::StartError> {
//! use rendezvous_peer::{Config, start};
//!
//! let mut config = Config::new("/var/lib/rendezvous-peer");
//! config.listen = "[::]:8443".parse().expect("an address and a port");
//! let peer = start(config).await?;
//! tracing::info!(listen = %peer.local_addr(), "Ready");
//! peer.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Logs hold no address and no fingerprint at any level: what could be either is wrapped in
//! [`Redacted`], and a test searches the log of a full scenario for them.

pub mod certificate;
pub mod core;
pub mod keyfile;
mod redacted;
mod server;

pub use redacted::Redacted;
#[cfg(feature = "acme")]
pub use server::AcmeError;
pub use server::{
    Acme, CertificateEnd, Config, EchoPort, ListenError, Monitor, PublicHost, RunningPeer, Sockets,
    StartError, WebSocketAddr, addresses, is_public, start, start_on,
};
