//! A signed list of rendezvous peers.
//!
//! ```text
//! count 1 | each: host (16-bit length) | port 2 | key present 1 | key 30, when present
//! ```

use halloo_wire::limits::{MAX_HOST, MAX_PEERS};
use halloo_wire::{DecodeError, PeerFingerprint, Reader, Writer};

use crate::address::{PeerAddress, PeerHost};

/// Whether a list may be signed: 1 to [`MAX_PEERS`] peers, in order of preference.
pub(crate) fn is_valid(peers: &[PeerAddress]) -> bool {
    (1..=MAX_PEERS).contains(&peers.len())
}

pub(crate) fn write(w: &mut Writer, peers: &[PeerAddress]) {
    w.u8(peers.len() as u8);
    for peer in peers {
        w.bytes16(peer.host.host().as_bytes()).u16(peer.host.port());
        match &peer.key {
            Some(key) => w.u8(1).put(key.as_bytes()),
            None => w.u8(0),
        };
    }
}

pub(crate) fn read(r: &mut Reader<'_>) -> Result<Vec<PeerAddress>, DecodeError> {
    let count = usize::from(r.u8()?);
    if !(1..=MAX_PEERS).contains(&count) {
        return Err(DecodeError::Invalid("list of peers"));
    }
    (0..count)
        .map(|_| {
            let text = r.bytes16(MAX_HOST)?;
            let port = r.u16()?;
            let host = std::str::from_utf8(text)
                .ok()
                .and_then(|text| PeerHost::new(text, port).ok())
                // One encoding for each place.
                .filter(|host| host.host().as_bytes() == text)
                .ok_or(DecodeError::Invalid("host"))?;
            let key = match r.u8()? {
                0 => None,
                1 => Some(PeerFingerprint::from_bytes(r.array()?)),
                _ => return Err(DecodeError::Invalid("flag")),
            };
            Ok(PeerAddress { host, key })
        })
        .collect()
}
