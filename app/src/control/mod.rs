//! The control socket: how one `halloo` command uses the node that another one hosts.
//!
//! `control.sock` in the home directory, for its owner alone. A connection is one exchange of JSON
//! lines: one [`Request`](protocol::Request), any number of [`Line`](crate::fact::Line)s while it
//! goes on, and one reply or failure at the end. Closing the connection gives the request up.

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;

use std::path::{Path, PathBuf};

/// Where a home's control socket is.
pub(crate) fn socket_path(home: &Path) -> PathBuf {
    home.join("control.sock")
}
