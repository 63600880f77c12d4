//! The core as the socket asks it: relay frames and small datagrams, between QUIC's packets.

use std::net::SocketAddr;
use std::sync::Arc;

use halloo_transport::{Forward, Forwarded, Reply};
use halloo_wire::ChannelId;
use halloo_wire::datagram::{Class, classify};

use super::Clock;
use crate::core::Core;

/// Asks the core what becomes of datagrams that are not QUIC.
pub(super) struct Forwarder {
    pub(super) core: Arc<Core>,
    pub(super) clock: Clock,
}

impl Forward for Forwarder {
    fn frame(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        datagrams: usize,
    ) -> Forwarded {
        let relayed = self.core.relay(source, channel, bytes, datagrams, self.clock.now());
        let reply = relayed.reply.map(|challenge| (source, challenge.encode()));
        Forwarded { to: relayed.to.ok(), reply }
    }

    fn peer_datagram(&self, source: SocketAddr, from_second: bool, datagram: &[u8]) -> Vec<Reply> {
        if classify(datagram) == Class::Parked {
            let answer = self.core.parked_datagram(source, datagram, self.clock.now());
            let reply = |datagram| Reply { via_second: false, to: source, datagram };
            return answer.map(reply).into_iter().collect();
        }
        let answer = self.core.peer_datagram(source, from_second, datagram, self.clock.now());
        let reply = answer.map(|answer| Reply {
            via_second: answer.from_second,
            to: answer.to,
            datagram: answer.datagram.encode(),
        });
        reply.into_iter().collect()
    }
}
