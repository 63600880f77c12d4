//! Echo requests: where does the peer see me, and what does my NAT let in?
//!
//! An answer is never larger than what asked for it, goes to the IP address where the question
//! came from and nowhere else, and is limited in number for each address, so that nobody gains
//! from asking in somebody else's name. Other ports than the one that asked hear something only
//! when the question carries a cookie, which nobody has who does not receive at the address.

use std::net::SocketAddr;

use halloo_wire::peer::Attested;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};

use super::cookie::{Cookies, Purpose};
use super::limits::Rate;
use super::origin::canonical;
use super::rate::{Prefix, Sources};
use super::time::Millis;

/// The lowest port to which an answer may be sent that another port has asked for. Those below
/// belong to services, which should not hear from us.
const LOWEST_PORT: u16 = 1024;

/// A datagram that answers one, and how it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether it leaves from the peer's second port.
    pub from_second: bool,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub datagram: PeerDatagram,
}

/// Why an echo request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The source asks too often.
    OverRate,
    /// It needs a cookie and has no good one.
    NoCookie,
    /// Nothing is sent to that port.
    Port,
}

/// Answers echo requests and knows its cookies again.
pub(super) struct Echo {
    cookies: Cookies,
    sources: Sources,
}

impl Echo {
    /// `cookies` and `sources` are keys, drawn at random for each run.
    pub(super) fn new(cookies: [u8; 32], sources: [u8; 32], now: Millis) -> Self {
        Self { cookies: Cookies::new(cookies), sources: Sources::new(sources, now) }
    }

    /// Answers a request that came from `source` to one of the two ports.
    pub(super) fn answer(
        &self,
        source: SocketAddr,
        to_second: bool,
        request: Request,
        rate: Rate,
        now: Millis,
    ) -> Result<Answer, Unanswered> {
        let Request { txid, cookie, answer } = request;
        self.sources
            .take(Prefix::of_host(source), 1, rate, now)
            .map_err(|_| Unanswered::OverRate)?;
        let shown = || match self.cookies.is_fresh(cookie, Purpose::Echo, source, now) {
            true => Ok(()),
            false => Err(Unanswered::NoCookie),
        };
        let (to, from_second) = match answer {
            EchoAnswer::Here => (source, to_second),
            EchoAnswer::FromSecondPort => {
                shown()?;
                (source, !to_second)
            }
            EchoAnswer::ToPort(port) => {
                shown()?;
                if port < LOWEST_PORT {
                    return Err(Unanswered::Port);
                }
                let mut there = source;
                there.set_port(port);
                (there, to_second)
            }
        };
        let observed = canonical(to);
        let cookie = self.cookies.make(Purpose::Echo, observed, now);
        let datagram = PeerDatagram::EchoReply { txid, cookie, from_second, observed };
        Ok(Answer { from_second, to, datagram })
    }

    /// Those of `shown` whose cookies are good, each once.
    pub(super) fn attested(&self, shown: &[Attested], now: Millis) -> Vec<SocketAddr> {
        let mut good = Vec::with_capacity(shown.len());
        for &Attested { addr, cookie } in shown {
            let addr = canonical(addr);
            if !good.contains(&addr) && self.cookies.is_fresh(cookie, Purpose::Echo, addr, now) {
                good.push(addr);
            }
        }
        good
    }

    /// Counts another question of `source`, which is answered by somebody else.
    pub(super) fn take(&self, source: Prefix, rate: Rate, now: Millis) -> Result<(), u32> {
        self.sources.take(source, 1, rate, now)
    }

    /// Whether the key of the table of sources has served its time.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.sources.is_due(now)
    }

    /// Changes the key of the table of sources.
    pub(super) fn rotate(&self, key: [u8; 32], now: Millis) {
        self.sources.rotate(key, now);
    }
}

/// The content of an echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) txid: u64,
    pub(super) cookie: u64,
    pub(super) answer: EchoAnswer,
}
