//! A model of a route of the path socket: which datagrams go where, and from where they are taken.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_nat::{DirectPath, SendOn, Traffic};
use halloo_wire::ChannelId;
use halloo_wire::datagram::RelayFrame;
use halloo_wire::path::RelayPath;

/// Datagrams that are kept while there is no way at all; the newest is dropped when it is full.
const MAX_KEPT: usize = 8;
/// Datagrams above carry data; smaller ones only acknowledge or keep alive.
const DATA_BEARING: usize = 100;
/// Channels from which frames are taken: the one in use and the one before it, on which the other
/// side may still send.
const MAX_CHANNELS: usize = 2;
/// How long frames go on the channel before as well, if nothing comes on the newest.
const PROOF_TIME: Duration = Duration::from_secs(3);

/// Where one contact's datagrams go.
#[derive(Debug, Default)]
pub struct Route {
    send: SendOn,
    relays: VecDeque<RelayPath>,
    sources: BTreeSet<DirectPath>,
    kept: VecDeque<Vec<u8>>,
    traffic: Traffic,
    /// Until when the newest channel has to show that the other side knows it; frames go on the
    /// one before as well until then.
    unproven: Option<Instant>,
    /// Since when data has gone out, on whatever path, without anything coming back.
    unanswered: Option<Instant>,
}

/// A datagram on its way out.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A frame to a rendezvous peer, or into the tunnel to it.
    Relay(SocketAddr, Vec<u8>),
    /// To the contact.
    Direct(DirectPath, Vec<u8>),
}

impl Route {
    /// Where a datagram goes; nowhere while there is no way, then it is kept.
    pub fn send(&mut self, datagram: Vec<u8>, now: Instant) -> Vec<Outgoing> {
        let mut out = Vec::with_capacity(2);
        if datagram.len() > DATA_BEARING {
            self.unanswered.get_or_insert(now);
        }
        if let Some(path) = self.send.direct() {
            if datagram.len() > DATA_BEARING {
                self.traffic.sent = Some(now);
            }
            out.push(Outgoing::Direct(path, datagram.clone()));
        }
        if !matches!(self.send, SendOn::Direct(_)) {
            let channels = if self.unproven.is_some_and(|until| now < until) { 2 } else { 1 };
            for relay in self.relays.iter().take(channels) {
                out.push(Outgoing::Relay(relay.via, framed(relay.channel, &datagram)));
            }
        }
        if out.is_empty() && self.kept.len() < MAX_KEPT {
            self.kept.push_back(datagram);
        }
        out
    }

    /// Changes where datagrams go; returns those that were kept.
    pub fn set_send(&mut self, send: SendOn, now: Instant) -> Vec<Outgoing> {
        self.send = send;
        self.flush(now)
    }

    /// Sets the relayed path; returns the datagrams that were kept.
    pub fn set_relay(&mut self, relay: RelayPath, now: Instant) -> Vec<Outgoing> {
        self.relays.retain(|r| r.channel != relay.channel);
        self.relays.push_front(relay);
        self.unproven = Some(now + PROOF_TIME);
        self.relays.truncate(MAX_CHANNELS);
        self.flush(now)
    }

    /// For how long data has gone out without anything coming back.
    pub fn silence(&self, now: Instant) -> Duration {
        self.unanswered.map_or(Duration::ZERO, |since| now - since)
    }

    /// The relayed path.
    pub fn relay(&self) -> Option<RelayPath> {
        self.relays.front().copied()
    }

    /// Datagrams from there are this contact's.
    pub fn add_source(&mut self, path: DirectPath) {
        self.sources.insert(path);
    }

    /// They are not any more.
    pub fn remove_source(&mut self, path: DirectPath) {
        self.sources.remove(&path);
    }

    /// Notes that a datagram came directly. False when its source has not been found to be this
    /// contact's.
    pub fn heard_direct(&mut self, path: DirectPath, now: Instant) -> bool {
        let known = self.sources.contains(&path);
        self.unanswered = None;
        if known {
            self.traffic.heard_direct = Some(now);
        }
        known
    }

    /// Whether a relay frame is this contact's, and note of it.
    pub fn heard_relay(&mut self, channel: ChannelId, now: Instant) -> bool {
        let ours = self.relays.iter().any(|r| r.channel.other() == channel);
        if ours {
            self.unanswered = None;
            self.traffic.heard_relay = Some(now);
        }
        if self.relays.front().is_some_and(|r| r.channel.other() == channel) {
            self.unproven = None;
        }
        ours
    }

    /// Whether we send under this number.
    pub fn is_ours(&self, channel: ChannelId) -> bool {
        self.relays.iter().any(|r| r.channel == channel)
    }

    /// Where datagrams go.
    pub fn send_on(&self) -> SendOn {
        self.send
    }

    /// What an agent wants to know.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Datagrams that are kept.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    fn flush(&mut self, now: Instant) -> Vec<Outgoing> {
        let kept = std::mem::take(&mut self.kept);
        kept.into_iter().flat_map(|d| self.send(d, now)).collect()
    }
}

fn framed(channel: ChannelId, datagram: &[u8]) -> Vec<u8> {
    RelayFrame { channel, datagram }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_wait_for_a_way_and_only_a_few_do() {
        let now = Instant::now();
        let mut route = Route::default();
        for n in 0..20 {
            assert_eq!(route.send(vec![0x40, n], now), vec![]);
        }
        let relay = RelayPath { via: "203.0.113.1:443".parse().unwrap(), channel: ChannelId(0x10) };
        let sent = route.set_relay(relay, now);
        assert_eq!(sent.len(), MAX_KEPT);
        assert_eq!(sent[0], Outgoing::Relay(relay.via, framed(relay.channel, &[0x40, 0])));
    }

    #[test]
    fn both_means_both() {
        let now = Instant::now();
        let mut route = Route::default();
        let channel = ChannelId(0x10);
        let via = "203.0.113.1:443".parse().unwrap();
        route.set_relay(RelayPath { via, channel }, now);
        let path = DirectPath { socket: Default::default(), remote: via };
        route.set_send(SendOn::Both(path), now);
        assert_eq!(route.send(vec![0x40; 200], now).len(), 2);
        route.set_send(SendOn::Direct(path), now);
        assert_eq!(route.send(vec![0x40; 200], now).len(), 1);
        assert_eq!(route.traffic().sent, Some(now));
        assert!(route.heard_relay(channel.other(), now));
        assert!(!route.heard_relay(channel, now));
    }
}
