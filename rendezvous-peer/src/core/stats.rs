//! Counters and gauges. None of them says anything about one person.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::incidents::IncidentKind;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Running counts.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)+
            pub(super) incidents: [Counter; IncidentKind::ALL.len()],
        }

        /// What a peer has done since it started, and what it holds.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
            /// Incidents by kind; kinds that never happened are left out.
            pub incidents: Vec<(IncidentKind, u64)>,
            /// Connections at the moment.
            pub connections: usize,
            /// Devices registered.
            pub registrations: usize,
            /// Invites that somebody has made theirs by using them first.
            pub invites_in_use: usize,
            /// Relay channels at the moment.
            pub channels: usize,
            /// Bytes charged to the memory cap.
            pub memory_used: usize,
            /// The memory cap in bytes.
            pub memory_cap: usize,
            /// Whether the peer is about to stop.
            pub draining: bool,
        }

        impl Counters {
            pub(super) fn stats(&self) -> Stats {
                Stats {
                    $($name: self.$name.value(),)+
                    incidents: IncidentKind::ALL
                        .into_iter()
                        .map(|kind| (kind, self.incidents[kind as usize].value()))
                        .filter(|&(_, n)| n > 0)
                        .collect(),
                    connections: 0,
                    registrations: 0,
                    invites_in_use: 0,
                    channels: 0,
                    memory_used: 0,
                    memory_cap: 0,
                    draining: false,
                }
            }
        }
    };
}

counters! {
    /// Connections welcomed.
    connected,
    /// Connections that have attested another address than their handshake's.
    connections_moved,
    /// Registrations made or renewed.
    registered,
    /// Registrations refused because the peer does not host everybody.
    not_admitted,
    /// Bundles published.
    published,
    /// Look-ups answered with a bundle.
    looked_up,
    /// Envelopes accepted.
    dropped,
    /// Envelopes pushed to connected recipients.
    pushed,
    /// Envelopes acknowledged by their recipients.
    acknowledged,
    /// Envelopes whose time ran out, or that of their recipient's registration.
    expired,
    /// Knocks asked for.
    knocks,
    /// Knocks passed on.
    knocks_forwarded,
    /// Echo requests answered.
    echoes,
    /// Echo requests without an answer: too many from one address, or without a good cookie.
    echoes_refused,
    /// Relay channels leased.
    channels_leased,
    /// Relay channels asked for, for which there was no room.
    channels_refused,
    /// Relay channels that ended because nothing was heard on them.
    channels_silent,
    /// Frames passed on from one node to another.
    relayed_frames,
    /// Bytes of these frames.
    relayed_bytes,
    /// Frames dropped for want of a channel.
    relay_without_channel,
    /// Frames dropped because the other end has not been heard for too long.
    relay_to_silent,
    /// Frames dropped because the channel or the network carries as much as it may.
    relay_over_rate,
    /// Challenges to addresses that claim to be the end of a channel.
    relay_challenges,
    /// Ends of channels that moved to the address from which a challenge came back.
    relay_moves,
    /// Devices that have parked.
    parked,
    /// Keepalives of parked devices.
    keepalives,
    /// Keepalives for a row that is not here: the peer has restarted since, or the device has
    /// registered again.
    parked_unknown,
    /// Challenges to parked devices that seem to be at another address.
    parked_challenges,
    /// Parked devices that have moved to another address.
    parked_moves,
    /// Times that a parked device was rung.
    rings,
    /// Rings repeated because nothing answered.
    rings_repeated,
    /// Datagrams for the peer that it could not read, or that are not for a peer.
    datagrams_ignored,
    /// Registrations forgotten because nobody came back.
    forgotten,
    /// Registrations that their devices gave up.
    left,
    /// Requests refused, for whatever reason.
    refused,
}

/// A number that only rises.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
