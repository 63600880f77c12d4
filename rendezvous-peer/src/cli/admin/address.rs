//! Where the operator looks at a running peer.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// The port that OpenTelemetry has for metrics.
const PORT: u16 = 9464;

/// Where the admin listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(in crate::cli) enum AdminAddr {
    /// Here, on the loopback: nobody asks for a name or a password there.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// Why a text is no place for the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum AdminAddrError {
    /// No address at all.
    #[error("an address of the loopback with a port is expected, or `off`")]
    Address,
    /// An address that others could reach.
    #[error(
        "the admin listener asks nobody for a password and so takes addresses of the loopback \
         only, such as 127.0.0.1:9464; from another machine, `ssh -L 9464:127.0.0.1:9464 HOST` \
         leads to it"
    )]
    NotLoopback,
}

impl Default for AdminAddr {
    fn default() -> Self {
        Self::At(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))
    }
}

impl FromStr for AdminAddr {
    type Err = AdminAddrError;

    fn from_str(text: &str) -> Result<Self, AdminAddrError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address: SocketAddr = text.parse().map_err(|_| AdminAddrError::Address)?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(AdminAddrError::NotLoopback);
        }
        Ok(Self::At(address))
    }
}

impl TryFrom<String> for AdminAddr {
    type Error = AdminAddrError;

    fn try_from(text: String) -> Result<Self, AdminAddrError> {
        text.parse()
    }
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => write!(f, "{address}"),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_a_place() {
        for text in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:0", "off"] {
            assert_eq!(text.parse::<AdminAddr>().unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "[::ffff:10.0.0.1]:9464"] {
            assert_eq!(text.parse::<AdminAddr>(), Err(AdminAddrError::NotLoopback), "{text}");
        }
        assert_eq!("9464".parse::<AdminAddr>(), Err(AdminAddrError::Address));
        assert_eq!(AdminAddr::default().to_string(), "127.0.0.1:9464");
    }
}
