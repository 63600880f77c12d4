//! A full view of what the table holds, for demonstrations and tests that show what a peer can
//! and cannot know. No command and no log line uses it.

use std::net::SocketAddr;
use std::time::Duration;

use halloo_wire::envelope::Lane;
use halloo_wire::{CapabilityId, DeviceId, EnvelopeId, Fingerprint};

use super::Core;
use super::time::Millis;

/// Everything that the table holds for one device.
#[derive(Clone)]
#[non_exhaustive]
pub struct RowView {
    /// Whose row it is.
    pub fingerprint: Fingerprint,
    /// Which device.
    pub device: DeviceId,
    /// Where the device is, while it is connected over UDP or parked.
    pub observed: Option<SocketAddr>,
    /// Where it has shown that it receives too.
    pub attested: Vec<SocketAddr>,
    /// The published prekey bundle; empty when there is none.
    pub bundle: Vec<u8>,
    /// One-time keys that nobody has been given.
    pub one_time_keys_left: u16,
    /// Reach capabilities: the hash of each and the sealed card for its holder.
    pub capabilities: Vec<(CapabilityId, Vec<u8>)>,
    /// Waiting envelopes, oldest first.
    pub envelopes: Vec<EnvelopeView>,
    /// Bytes charged to the memory cap.
    pub memory: usize,
}

/// One waiting envelope.
#[derive(Clone)]
#[non_exhaustive]
pub struct EnvelopeView {
    /// Its id.
    pub id: EnvelopeId,
    /// Its lane.
    pub lane: Lane,
    /// Its bytes, as they lie in memory.
    pub bytes: Vec<u8>,
    /// How long it will still wait.
    pub time_left: Duration,
}

impl Core {
    /// Everything that the table holds, ordered by fingerprint.
    pub fn inspect(&self, now: Millis) -> Vec<RowView> {
        let mut views = Vec::new();
        self.rows.each(|&(fingerprint, device), row| {
            let envelopes: Vec<_> = row
                .mailbox
                .iter()
                .map(|(id, lane, bytes, expires)| EnvelopeView {
                    id,
                    lane,
                    bytes: bytes.to_vec(),
                    time_left: expires.since(now),
                })
                .collect();
            views.push(RowView {
                fingerprint,
                device,
                observed: row
                    .presence
                    .as_ref()
                    .and_then(|it| it.origin.reflexive())
                    .or_else(|| row.parked.as_ref().map(|it| it.address())),
                attested: row.presence.as_ref().map_or(vec![], |p| p.attested.0.to_vec()),
                bundle: row.bundle().to_vec(),
                one_time_keys_left: row.published().map_or(0, |(_, left)| left),
                capabilities: row.capabilities().map(|(id, c)| (*id, c.to_vec())).collect(),
                memory: row.charged() + row.mailbox.charged() + row.kept_charged(),
                envelopes,
            });
        });
        views.sort_by_key(|v: &RowView| (v.fingerprint, v.device));
        views
    }
}
