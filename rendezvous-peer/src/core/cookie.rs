//! Stateless proofs that somebody receives at an address.
//!
//! A cookie is a keyed hash of an address and of the minute. Who sends it back has received what
//! was sent there, and the peer has kept nothing for it. It is good in the minute in which it was
//! made and in the next.

use std::net::{IpAddr, SocketAddr};

use halloo_wire::{ChannelId, RowId};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::origin::canonical;
use super::time::Millis;

/// Milliseconds in which cookies are made alike. A node has at least as long to use one.
const EPOCH_MS: u64 = 60_000;

/// What a cookie is for. One for the one thing is worth nothing for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Shows that a node receives at an address.
    Echo,
    /// Shows that the one who receives at an address sends under this number.
    Relay(ChannelId),
    /// Shows that the one who receives at an address has parked under this number.
    Parked(RowId),
}

/// Makes and checks cookies.
pub(super) struct Cookies {
    key: Zeroizing<[u8; 32]>,
}

impl Cookies {
    /// A maker of cookies whose `key` nobody else knows.
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(key) }
    }

    /// The cookie for `address`; never 0, which stands for none.
    pub(super) fn make(&self, purpose: Purpose, address: SocketAddr, now: Millis) -> u64 {
        self.of_epoch(purpose, address, epoch(now))
    }

    /// Whether `cookie` is one for `address` that is still good. Takes the same time for every
    /// wrong one.
    pub(super) fn is_fresh(
        &self,
        cookie: u64,
        purpose: Purpose,
        address: SocketAddr,
        now: Millis,
    ) -> bool {
        let latest = epoch(now);
        let good = [latest, latest.wrapping_sub(1)]
            .map(|epoch| self.of_epoch(purpose, address, epoch).ct_eq(&cookie));
        (good[0] | good[1]).into()
    }

    fn of_epoch(&self, purpose: Purpose, address: SocketAddr, epoch: u64) -> u64 {
        let (kind, number) = match purpose {
            Purpose::Echo => (1, 0),
            Purpose::Relay(channel) => (2, channel.0),
            Purpose::Parked(row) => (3, row.0),
        };
        let address = canonical(address);
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut input = [0; 35];
        input[0] = kind;
        input[1..9].copy_from_slice(&number.to_be_bytes());
        input[9..25].copy_from_slice(&ip.octets());
        input[25..27].copy_from_slice(&address.port().to_be_bytes());
        input[27..].copy_from_slice(&epoch.to_be_bytes());
        let hash = blake3::keyed_hash(&self.key, &input);
        let (head, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        u64::from_be_bytes(*head).max(1)
    }
}

fn epoch(now: Millis) -> u64 {
    now.0 / EPOCH_MS
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_good_for_one_to_two_minutes() {
        let cookies = Cookies::new([7; 32]);
        let here = at("192.0.2.1:4000");
        let early = cookies.make(Purpose::Echo, here, Millis(0));
        let late = cookies.make(Purpose::Echo, here, Millis(EPOCH_MS - 1));
        assert_eq!(early, late);
        let fresh = |now| cookies.is_fresh(early, Purpose::Echo, here, Millis(now));
        assert!(fresh(0) && fresh(EPOCH_MS) && fresh(2 * EPOCH_MS - 1));
        assert!(!fresh(2 * EPOCH_MS));
    }

    #[test]
    fn an_address_is_the_same_whichever_way_it_is_written() {
        let cookies = Cookies::new([7; 32]);
        let cookie = cookies.make(Purpose::Echo, at("[::ffff:192.0.2.1]:4000"), Millis(0));
        assert!(cookies.is_fresh(cookie, Purpose::Echo, at("192.0.2.1:4000"), Millis(0)));
    }

    #[test]
    fn a_cookie_of_another_run_is_worth_nothing() {
        let here = at("192.0.2.1:4000");
        let cookie = Cookies::new([7; 32]).make(Purpose::Echo, here, Millis(0));
        assert!(!Cookies::new([8; 32]).is_fresh(cookie, Purpose::Echo, here, Millis(0)));
    }

    proptest! {
        #[test]
        fn a_cookie_shows_one_address_for_one_purpose(
            (a, b) in (any::<(u32, u16)>(), any::<(u32, u16)>()),
            channel: u64,
            guess: u64,
        ) {
            let cookies = Cookies::new([7; 32]);
            let of = |(ip, port): (u32, u16)| SocketAddr::new(std::net::Ipv4Addr::from(ip).into(), port);
            let now = Millis(EPOCH_MS * 3);
            let relay = Purpose::Relay(ChannelId(channel));
            let cookie = cookies.make(relay, of(a), now);
            prop_assert!(cookies.is_fresh(cookie, relay, of(a), now));
            prop_assert_eq!(cookies.is_fresh(cookie, relay, of(b), now), a == b);
            prop_assert!(!cookies.is_fresh(cookie, Purpose::Echo, of(a), now));
            prop_assert!(!cookies.is_fresh(cookie, Purpose::Relay(ChannelId(channel ^ 1)), of(a), now));
            prop_assert_eq!(cookies.is_fresh(guess, relay, of(a), now), guess == cookie);
        }
    }
}
