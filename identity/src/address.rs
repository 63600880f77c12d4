//! Addresses: where to knock and who must answer.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use halloo_wire::content::PeerHint;
use halloo_wire::ids::FingerprintError;
use halloo_wire::limits::MAX_HOST;
use halloo_wire::{Fingerprint, PeerFingerprint};

/// The port of a rendezvous peer when an address names none: UDP for QUIC, TCP for WebSocket.
pub const DEFAULT_PORT: u16 = 443;

/// Scheme of the address of a person or program.
const SCHEME: &str = "halloo";
/// Scheme of the address of a rendezvous peer.
const PEER_SCHEME: &str = "halloo-peer";
/// Longest label of a domain name (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// A rendezvous peer's place: a domain name or IP address, and a port.
///
/// Names are kept in lower case and IPv6 addresses in their short form without brackets, so that
/// two spellings of one place are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerHost {
    host: String,
    port: u16,
}

impl PeerHost {
    /// Makes a place from a host, without brackets, and a port.
    ///
    /// # Errors
    /// [`HostError`] when `host` is neither a domain name nor an IP address, or `port` is 0.
    ///
    /// # Examples
    /// ```
    /// use halloo_identity::PeerHost;
    /// assert_eq!(PeerHost::new("2001:db8::1", 443).unwrap().to_string(), "[2001:db8::1]");
    /// ```
    pub fn new(host: &str, port: u16) -> Result<Self, HostError> {
        if port == 0 {
            return Err(HostError::Port);
        }
        Ok(Self { host: canonical_host(host)?, port })
    }

    /// The domain name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The form in which it travels in profiles, with the peer's key when it is known.
    pub fn to_hint(&self, key: Option<PeerFingerprint>) -> PeerHint {
        PeerHint { host: self.host.clone(), port: self.port, key }
    }
}

impl fmt::Display for PeerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.port == DEFAULT_PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl FromStr for PeerHost {
    type Err = HostError;

    /// Reads `host`, `host:port`, `[v6]`, `[v6]:port` and, forgivingly, a bare IPv6 address.
    fn from_str(text: &str) -> Result<Self, HostError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(HostError::Bracket)?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(HostError::Bracket);
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => DEFAULT_PORT,
                None => return Err(HostError::Bracket),
            };
            return Self::new(host, port);
        }
        match text.rsplit_once(':') {
            Some(_) if text.parse::<Ipv6Addr>().is_ok() => Self::new(text, DEFAULT_PORT),
            Some((host, port)) => Self::new(host, parse_port(port)?),
            None => Self::new(text, DEFAULT_PORT),
        }
    }
}

impl TryFrom<&PeerHint> for PeerHost {
    type Error = HostError;

    fn try_from(hint: &PeerHint) -> Result<Self, HostError> {
        Self::new(&hint.host, hint.port)
    }
}

/// Why a text is not the place of a rendezvous peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing stands where the host should.
    #[error("the host is missing: write the rendezvous peer's domain name or IP address")]
    Empty,
    /// Longer than a domain name can be.
    #[error("the host is longer than the {MAX_HOST} characters of a domain name")]
    TooLong,
    /// A character that no host name has.
    #[error("the character {0:?} cannot stand in a host name")]
    Character(char),
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error(
        "the host is not a domain name: each part between dots has 1 to 63 letters, digits \
             or hyphens, and no hyphen at its ends"
    )]
    Label,
    /// It ends in a number but is not an IPv4 address.
    #[error("the host looks like an IPv4 address but is none")]
    Ipv4,
    /// Brackets that do not enclose an IPv6 address.
    #[error("square brackets enclose an IPv6 address, as in [2001:db8::1]:443")]
    Bracket,
    /// Not a number from 1 to 65535.
    #[error("the port is a number from 1 to 65535")]
    Port,
}

/// Where to reach somebody: a rendezvous peer, and the fingerprint of who must answer there.
///
/// The short form, for people, is `host[:port]/fingerprint`. The URI also carries the peer's key
/// when it is known: `halloo://host[:port]/fingerprint?peer=<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The rendezvous peer.
    pub peer: PeerHost,
    /// The peer's key, when the address carries it. Else it is pinned at first use.
    pub peer_key: Option<PeerFingerprint>,
    /// Who.
    pub fingerprint: Fingerprint,
}

impl Address {
    /// The form for links and QR codes, with the peer's key when it is known.
    pub fn to_uri(&self) -> String {
        match &self.peer_key {
            Some(key) => format!("{SCHEME}://{self}?peer={key}"),
            None => format!("{SCHEME}://{self}"),
        }
    }

    /// The peer in the form in which it travels in profiles.
    pub fn peer_hint(&self) -> PeerHint {
        self.peer.to_hint(self.peer_key)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer, self.fingerprint)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads the short form and the URI. Forgives surrounding white space, case, `i l o` for
    /// `1 1 0`, and hyphens in fingerprints. Unknown URI parameters are passed over.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = match split_scheme(text.trim()) {
            (None, rest) => rest,
            (Some(scheme), rest) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            (Some(scheme), _) if scheme.eq_ignore_ascii_case(PEER_SCHEME) => {
                return Err(AddressError::RendezvousPeer);
            }
            _ => return Err(AddressError::Scheme),
        };
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let Some((host, fingerprint)) = place.trim_end_matches('/').split_once('/') else {
            return Err(match place.parse::<Fingerprint>() {
                Ok(_) => AddressError::NoHost,
                Err(_) => AddressError::NoFingerprint,
            });
        };
        let mut peer_key = None;
        for value in query.split('&').filter_map(|p| p.strip_prefix("peer=")) {
            let key = value.parse().map_err(AddressError::PeerKey)?;
            if peer_key.replace(key).is_some() {
                return Err(AddressError::TwoPeerKeys);
            }
        }
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let fingerprint = fingerprint.parse().map_err(AddressError::Fingerprint)?;
        Ok(Self { peer: host.parse()?, peer_key, fingerprint })
    }
}

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No `/`.
    #[error("an address is peer-host/fingerprint: the fingerprint is missing")]
    NoFingerprint,
    /// A fingerprint without the place where to ask for it.
    #[error("an address is peer-host/fingerprint: the host in front of the fingerprint is missing")]
    NoHost,
    /// `halloo-peer://`.
    #[error("this is the address of a rendezvous peer, not of a person")]
    RendezvousPeer,
    /// Some other URI.
    #[error("an address begins with halloo:// or with the peer's host name")]
    Scheme,
    /// The host or port is wrong.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The fingerprint is wrong.
    #[error(transparent)]
    Fingerprint(FingerprintError),
    /// The peer's key is wrong.
    #[error("the key of the rendezvous peer in the address is wrong: {0}")]
    PeerKey(FingerprintError),
    /// Two keys for one peer.
    #[error("the address names two keys for one rendezvous peer")]
    TwoPeerKeys,
}

/// Where a rendezvous peer is and, when known, its key: `halloo-peer://host[:port]/<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The place.
    pub host: PeerHost,
    /// The key; `None` means that it is pinned at first use.
    pub key: Option<PeerFingerprint>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{PEER_SCHEME}://{}/{key}", self.host),
            None => write!(f, "{PEER_SCHEME}://{}", self.host),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    /// Reads the URI, and the same without its scheme: `host`, `host:port`, `host:port/<key>`.
    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let text = match split_scheme(text.trim()) {
            (None, rest) => rest,
            (Some(scheme), rest) if scheme.eq_ignore_ascii_case(PEER_SCHEME) => rest,
            _ => return Err(PeerAddressError::Scheme),
        };
        let (host, key) = match text.trim_end_matches('/').split_once('/') {
            Some((host, key)) => (host, Some(key.parse().map_err(PeerAddressError::Key)?)),
            None => (text.trim_end_matches('/'), None),
        };
        Ok(Self { host: host.parse()?, key })
    }
}

/// Why a text is not a [`PeerAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerAddressError {
    /// Some other URI.
    #[error("a rendezvous peer's address begins with halloo-peer:// or with its host name")]
    Scheme,
    /// The host or port is wrong.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The key is wrong; a person's fingerprint is refused here too.
    #[error("the key of the rendezvous peer is wrong: {0}")]
    Key(FingerprintError),
}

fn split_scheme(text: &str) -> (Option<&str>, &str) {
    match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    }
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    // `u16::from_str` takes a sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    text.parse().ok().filter(|&port| port != 0).ok_or(HostError::Port)
}

fn canonical_host(text: &str) -> Result<String, HostError> {
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return Ok(v6.to_string());
    }
    // The dot that marks a name as absolute changes nothing here.
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > MAX_HOST {
        return Err(HostError::TooLong);
    }
    // Underscores are no host name by RFC 952, but real names have them.
    let stranger = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if let Some(c) = text.chars().find(stranger) {
        return Err(HostError::Character(c));
    }
    let bad =
        |l: &str| l.is_empty() || l.len() > MAX_LABEL || l.starts_with('-') || l.ends_with('-');
    if text.split('.').any(bad) {
        return Err(HostError::Label);
    }
    // No top-level domain is a number, so this can only be an IPv4 address.
    let last = text.rsplit('.').next().unwrap_or(text);
    if last.bytes().all(|b| b.is_ascii_digit()) && text.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Ipv4);
    }
    Ok(text.to_ascii_lowercase())
}
