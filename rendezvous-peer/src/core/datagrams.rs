//! What comes beside QUIC: relay frames, and small datagrams for the peer itself.

use std::net::SocketAddr;

use halloo_wire::ChannelId;
use halloo_wire::peer_datagram::PeerDatagram;

use super::Core;
use super::echo::{self, Answer};
use super::origin::canonical;
use super::relay::{RelayDrop, Relayed};
use super::time::Millis;

impl Core {
    /// Says what becomes of a batch of relay frames that came from `source` under the number
    /// `channel`: `frames` of them with `bytes` in all, headers included.
    pub fn relay(
        &self,
        source: SocketAddr,
        channel: ChannelId,
        bytes: usize,
        frames: usize,
        now: Millis,
    ) -> Relayed {
        let relayed = self.relay.forward(canonical(source), channel, bytes, &self.limits(), now);
        let counters = &self.counters;
        match relayed.to {
            Ok(_) => {
                counters.relayed_frames.add(frames);
                counters.relayed_bytes.add(bytes);
            }
            Err(RelayDrop::NoChannel) => counters.relay_without_channel.add(frames),
            Err(RelayDrop::OtherEndSilent) => counters.relay_to_silent.add(frames),
            Err(RelayDrop::OverRate) => counters.relay_over_rate.add(frames),
        }
        counters.relay_challenges.add(usize::from(relayed.reply.is_some()));
        relayed
    }

    /// Takes a datagram for the peer itself that came from `source`, to the second port or the
    /// first, and says what to answer. What cannot be read is not answered.
    pub fn peer_datagram(
        &self,
        source: SocketAddr,
        to_second: bool,
        datagram: &[u8],
        now: Millis,
    ) -> Option<Answer> {
        let Ok(datagram) = PeerDatagram::decode(datagram) else {
            self.counters.datagrams_ignored.add(1);
            return None;
        };
        let counters = &self.counters;
        let source = canonical(source);
        match datagram {
            PeerDatagram::EchoRequest { txid, cookie, answer } => {
                let request = echo::Request { txid, cookie, answer };
                let rate = self.limits().echo_rate;
                let answer = self.echo.answer(source, to_second, request, rate, now).ok();
                let count =
                    if answer.is_some() { &counters.echoes } else { &counters.echoes_refused };
                count.add(1);
                answer
            }
            // The relay is on the first port.
            PeerDatagram::RelayAnswer { channel, cookie } if !to_second => {
                let moved = self.relay.answered(source, channel, cookie, now);
                counters.relay_moves.add(usize::from(moved));
                None
            }
            PeerDatagram::Keep { channel } if !to_second => {
                let challenge = self.relay.keep(source, channel, now)?;
                counters.relay_challenges.add(1);
                Some(Answer { from_second: false, to: source, datagram: challenge })
            }
            _ => {
                counters.datagrams_ignored.add(1);
                None
            }
        }
    }
}
